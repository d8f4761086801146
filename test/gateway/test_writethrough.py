"""Uploads that are kept on their way to S3, and read from the cache afterwards."""

import base64
import hashlib
import os
import zlib
from collections.abc import Callable
from test.gateway.test_read import ReadTestCase, error, not_modified, ok
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from test.support.streams import ManualThread, RecordingSink
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred

from s3proxy.gateway.forward import MOST_CONCLUDING
from s3proxy.storage.upload import Upload
from s3proxy.storage.volume import Volume
from s3proxy.upstream.interfaces import UpstreamError

BODY = b"0123456789" * 20
ETAG = b'"%s"' % hashlib.md5(BODY).hexdigest().encode()
CRC = base64.b64encode(zlib.crc32(BODY).to_bytes(4, "big"))
MODIFIED = b"Tue, 14 Nov 2023 22:13:20 GMT"


def written(etag: bytes = ETAG, **headers: bytes) -> FakeResponse:
    """S3 has taken an object or a part."""
    return FakeResponse(200, {b"ETag": etag, **{k.replace("_", "-").encode(): v for k, v in headers.items()}})


def unchanged(etag: bytes = ETAG, modified: bytes = MODIFIED) -> FakeResponse:
    """S3's 304 about an object that was written."""
    return FakeResponse(304, {b"ETag": etag, b"Last-Modified": modified}, b"")


def chunked(body: bytes, trailers: bytes = b"") -> bytes:
    """A body in the encoding aws-chunked."""
    return b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, trailers)


class WriteTestCase(ReadTestCase):
    """A client that uploads."""

    def put(
        self, body: bytes = BODY, target: bytes = b"/key", method: bytes = b"PUT", pieces: int = 7, **headers: bytes
    ) -> FakeClient:
        """An upload, all of which has reached S3."""
        fields = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        client = self.harness.send(method, target, fields, body)
        self.sink = RecordingSink()
        source = self.upstream.last.request.body
        assert source is not None
        source.start(self.sink)
        for start in range(0, len(body), pieces):
            client.body.sink.data_received(body[start : start + pieces])
        client.body.sink.stream_ended()
        self.assertEqual(self.sink.data, body)
        return client

    def put_and_answered(self, answer: FakeResponse | None = None, **arguments: object) -> FakeClient:
        """An upload that S3 has taken."""
        client = self.put(**arguments)  # type: ignore[arg-type]
        self.upstream.last.respond(answer or written())
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.upstream.asked.clear()
        return client

    def completes(self, body: bytes = BODY, etag: bytes = ETAG) -> FakeClient:
        """The first read asks S3 without a body; the next one does not ask."""
        client = self.harness.get()
        self.assertEqual(self.asks(1).header(b"if-none-match"), etag)
        self.upstream.last.respond(unchanged(etag))
        self.served(client, b"REVALIDATED", body)
        again = self.harness.get()
        self.asks(1)
        self.served(again, b"HIT", body)
        self.assertEqual(client.header(b"last-modified"), MODIFIED)
        self.assertEqual(again.header(b"last-modified"), MODIFIED)
        self.upstream.asked.clear()
        return again

    def not_kept(self) -> None:
        """Nothing of the object is in the cache."""
        client = self.harness.get()
        self.assertIsNone(self.asks(1).header(b"if-none-match"))
        client.leave()
        self.upstream.asked.clear()
        self.harness.store.volume.empty_trash()
        self.assertEqual(self.harness.left_over(), [])


class ObjectTests(WriteTestCase):
    """PutObject."""

    def test_read_back(self) -> None:
        """The object is read back without its body coming from S3."""
        self.put_and_answered()
        self.completes()

    def test_headers(self) -> None:
        """A read has the header fields that S3 would send."""
        self.put_and_answered(
            written(x_amz_version_id=b"v7", x_amz_server_side_encryption=b"AES256", x_amz_checksum_crc32=CRC),
            content_type=b"text/x-special",
            cache_control=b"max-age=5",
            content_encoding=b"gzip",
            x_amz_meta_Colour=b"green",
            x_amz_storage_class=b"STANDARD_IA",
            x_amz_tagging=b"a=1&b=2",
            x_amz_acl=b"private",
        )
        client = self.completes()
        expected = {
            b"etag": ETAG,
            b"content-type": b"text/x-special",
            b"cache-control": b"max-age=5",
            b"content-encoding": b"gzip",
            b"x-amz-meta-colour": b"green",
            b"x-amz-storage-class": b"STANDARD_IA",
            b"x-amz-tagging-count": b"2",
            b"x-amz-version-id": b"v7",
            b"x-amz-server-side-encryption": b"AES256",
            b"x-amz-acl": None,
            b"x-amz-tagging": None,
        }
        self.assertEqual({name: client.header(name) for name in expected}, expected)
        checked = self.harness.get(x_amz_checksum_mode=b"ENABLED")
        self.assertEqual(self.upstream.asked, [])
        self.assertEqual(checked.header(b"x-amz-checksum-crc32"), CRC)

    def test_default_type(self) -> None:
        """S3's own type for those that state none."""
        self.put_and_answered()
        self.assertEqual(self.completes().header(b"content-type"), b"binary/octet-stream")

    def test_head_completes(self) -> None:
        """A HEAD of what was written goes to S3 and describes the entry."""
        self.put_and_answered()
        client = self.harness.head()
        self.assertIsNone(self.asks(1).header(b"if-none-match"))
        answer = FakeResponse(
            200, {b"ETag": ETAG, b"Last-Modified": MODIFIED, b"Content-Type": b"x/y"}, b"", 0, claimed=len(BODY)
        )
        self.asks(1).respond(answer)
        self.assertEqual(client.status, 200)
        read = self.harness.get()
        self.asks(1)
        self.served(read, b"HIT", BODY)
        self.assertEqual((read.header(b"last-modified"), read.header(b"content-type")), (MODIFIED, b"x/y"))

    def test_store_that_does_not_tell_when(self) -> None:
        """A 304 without Last-Modified can't complete the entry: the object is fetched."""
        self.put_and_answered()
        client = self.harness.get()
        self.asks(1).respond(FakeResponse(304, {b"ETag": ETAG}, b""))
        self.assertIsNone(self.asks(2).header(b"if-none-match"))
        self.upstream.last.respond(ok(BODY, ETAG))
        self.served(client, b"MISS", BODY)
        self.served(self.harness.get(), b"HIT", BODY)

    def test_written_again_behind(self) -> None:
        """The same bytes were written past the proxy after they were written through it, perhaps under other metadata:
        the object is fetched. The clocks of S3 may differ by a second.
        """
        for written_at, same in (
            (b"Tue, 14 Nov 2023 22:13:18 GMT", False),
            (b"Tue, 14 Nov 2023 22:13:19 GMT", True),
            (b"Tue, 14 Nov 2023 22:13:20 GMT", True),
            (b"Tue, 14 Nov 2023 23:13:20 GMT", True),
            (b"today", True),
        ):
            self.put_and_answered(written(Date=written_at), x_amz_meta_colour=b"green")
            if same:
                self.assertEqual(self.completes().header(b"x-amz-meta-colour"), b"green")
                continue
            client = self.harness.get()
            self.assertEqual(self.asks(1).header(b"if-none-match"), ETAG)
            self.upstream.last.respond(unchanged())
            self.assertIsNone(self.asks(2).header(b"if-none-match"))
            self.upstream.last.respond(ok(BODY, ETAG, x_amz_meta_colour=b"red"))
            self.served(client, b"MISS", BODY)
            self.assertEqual(client.header(b"x-amz-meta-colour"), b"red")
            self.upstream.asked.clear()

    def test_archived(self) -> None:
        """What S3 would not give back is not kept."""
        self.put_and_answered(x_amz_storage_class=b"DEEP_ARCHIVE")
        self.not_kept()

    def test_empty(self) -> None:
        """An empty object is kept like any other."""
        etag = b'"d41d8cd98f00b204e9800998ecf8427e"'
        client = self.harness.send(b"PUT", b"/key", {b"Content-Length": b"0"})
        self.asks(1).respond(written(etag))
        self.assertEqual(client.status, 200)
        self.upstream.asked.clear()
        reader = self.harness.get()
        self.assertEqual(self.asks(1).header(b"if-none-match"), etag)
        self.upstream.last.respond(unchanged(etag))
        self.served(reader, b"REVALIDATED", b"")

    def test_larger_than_memory(self) -> None:
        """Bodies of every size class."""
        for size in (65_536, 65_537, 3_000_000, 9_000_000):
            body = (b"%015d\n" % size) * (size // 16 + 1)
            body = body[:size]
            etag = b'"%s"' % hashlib.md5(body).hexdigest().encode()
            self.put_and_answered(written(etag), body=body, pieces=300_000)
            self.completes(body, etag)

    def test_described_while_it_is_read(self) -> None:
        """The entry is replaced by the same bytes under a newer description, and who reads it does not know yet,
        because the thread that does it has not come to telling: he finds the new one.
        """
        late: list[tuple[Deferred[Any], Any]] = []

        def run(function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
            done: Deferred[Any] = Deferred()
            late.append((done, function(*args)))
            return done

        def deliver() -> None:
            while late:
                done, result = late.pop(0)
                done.callback(result)

        self.harness = GatewayHarness(run=run)
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream
        body = b"0123456789" * 20_000
        client = self.put(body, pieces=100_000)
        deliver()
        self.upstream.last.respond(written(md5_tag(body)))
        deliver()
        self.assertEqual(client.ended, "finished")
        reader = self.harness.get()
        untold = self.patch(Volume, "bump", lambda volume, name: volume.generations.get(name.slot))
        self.upstream.last.respond(unchanged(md5_tag(body)))
        untold.restore()
        self.assertEqual(len(late), 1)
        self.served(reader, b"REVALIDATED", body)
        deliver()

    def test_replaces(self) -> None:
        """What was cached before is gone, whatever it was."""
        self.cached()
        self.put_and_answered()
        self.completes()
        other = b"other"
        etag = b'"%s"' % hashlib.md5(other).hexdigest().encode()
        self.put_and_answered(written(etag), body=other)
        self.completes(other, etag)

    def test_refused(self) -> None:
        """What S3 does not take is not kept."""
        for answer in (error(403, b"AccessDenied"), error(412, b"PreconditionFailed"), error(500, b"InternalError")):
            client = self.put()
            self.upstream.last.respond(answer)
            self.assertEqual(client.status, answer.status)
            self.upstream.asked.clear()
            self.not_kept()

    def test_no_answer(self) -> None:
        """If S3's answer is lost, nothing is kept."""
        client = self.put()
        self.upstream.last.fail(UpstreamError("reset", sent=True))
        self.assertEqual(client.status, 502)
        self.upstream.asked.clear()
        self.not_kept()

    def test_client_leaves(self) -> None:
        """A client that leaves in the middle leaves nothing."""
        client = self.harness.send(b"PUT", b"/key", {}, BODY)
        source = self.upstream.last.request.body
        assert source is not None
        source.start(RecordingSink())
        client.body.sink.data_received(BODY[:50])
        client.leave()
        self.upstream.asked.clear()
        self.not_kept()

    def test_overtaken(self) -> None:
        """Of two uploads at the same time neither is kept: only S3 knows which came last."""
        first, second = self.put(), self.put(b"x" * 200)
        answers = self.upstream.asked[:]
        answers[0].respond(written())
        answers[1].respond(written(b'"%s"' % hashlib.md5(b"x" * 200).hexdigest().encode()))
        self.assertEqual((first.status, second.status), (200, 200))
        self.upstream.asked.clear()
        reader = self.harness.get()
        asked = self.asks(1)
        if asked.header(b"if-none-match") is not None:
            self.assertEqual(asked.header(b"if-none-match"), b'"%s"' % hashlib.md5(b"x" * 200).hexdigest().encode())
        reader.leave()

    def test_read_that_began_before(self) -> None:
        """A read that began before the upload can't put the older object over the newer one."""
        reader = self.harness.get()
        early = self.upstream.last
        self.put_and_answered()
        early.respond(ok(b"older", b'"v0"'))
        self.assertEqual(reader.answer, b"older")
        self.upstream.asked.clear()
        self.completes()

    def test_changed_again_behind(self) -> None:
        """Somebody else wrote the object before the first read: S3's 200 replaces what was kept."""
        self.put_and_answered()
        client = self.harness.get()
        self.asks(1).respond(ok(b"newer", b'"v9"'))
        self.served(client, b"MISS", b"newer")
        self.served(self.harness.get(), b"HIT", b"newer")

    def test_refused_reader(self) -> None:
        """Who may not read what somebody else wrote gets nothing of it."""
        self.put_and_answered()
        client = self.harness.get()
        self.asks(1).respond(error(403, b"AccessDenied"))
        self.assertEqual(client.status, 403)
        self.assertNotIn(BODY[:10], client.answer)

    def test_rejected_headers(self) -> None:
        """What S3 would send back in another form is not kept."""
        self.put_and_answered(x_amz_meta_name="grün".encode())
        self.not_kept()

    def test_not_eligible(self) -> None:
        """SSE-C, unknown parameters and copies are not kept."""
        for target, headers in (
            (b"/key", {"x_amz_server_side_encryption_customer_algorithm": b"AES256"}),
            (b"/key?x-unknown=1", {}),
            (b"/key", {"x_amz_write_offset_bytes": b"10"}),
            (b"/key", {"x_amz_copy_source": b"/bucket/other"}),
        ):
            self.put_and_answered(target=target, **headers)
            self.not_kept()

    def test_wrong_etag(self) -> None:
        """S3's ETag is the MD5 of something else: not kept."""
        self.put_and_answered(written(b'"%s"' % (b"0" * 32)))
        self.not_kept()

    def test_encrypted(self) -> None:
        """With KMS the ETag is no MD5."""
        etag = b'"%s"' % (b"0" * 32)
        self.put_and_answered(written(etag, x_amz_server_side_encryption=b"aws:kms"))
        self.completes(etag=etag)

    def test_switched_off(self) -> None:
        """``write_cache_enabled: false``: the older object goes, the newer one is not kept."""
        self.harness = type(self.harness)(write_cache_enabled=False)
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream
        self.cached()
        self.put_and_answered()
        self.not_kept()


class ChecksumTests(WriteTestCase):
    """What clients state about their bodies."""

    def test_stated(self) -> None:
        """A checksum that does not fit the copy: S3 has something else."""
        for name, right in (
            ("x_amz_checksum_crc32", CRC),
            ("x_amz_checksum_sha256", base64.b64encode(hashlib.sha256(BODY).digest())),
            ("x_amz_checksum_sha1", base64.b64encode(hashlib.sha1(BODY).digest())),
            ("content_md5", base64.b64encode(hashlib.md5(BODY).digest())),
        ):
            self.put_and_answered(**{name: right})  # type: ignore[arg-type]
            self.completes()
            wrong = base64.b64encode(bytes(len(base64.b64decode(right))))
            self.put_and_answered(**{name: wrong})  # type: ignore[arg-type]
            self.not_kept()

    def test_answered(self) -> None:
        """The same for the checksum in S3's answer."""
        self.put_and_answered(written(x_amz_checksum_crc32=b"AAAAAA=="), x_amz_checksum_crc32=CRC)
        self.not_kept()


class ChunkedTests(WriteTestCase):
    """Bodies in the encoding aws-chunked."""

    def upload(self, body: bytes, **headers: bytes) -> None:
        """S3 takes it."""
        fields = {"content_encoding": b"aws-chunked", "x_amz_decoded_content_length": b"%d" % len(BODY), **headers}
        self.put_and_answered(body=body, **fields)  # type: ignore[arg-type]

    def test_kept(self) -> None:
        """S3 gets the encoded body, the cache the object."""
        trailer = b"x-amz-checksum-crc32:%s\r\n" % CRC
        self.upload(chunked(BODY, trailer), x_amz_trailer=b"x-amz-checksum-crc32")
        client = self.completes()
        self.assertIsNone(client.header(b"content-encoding"))
        self.upload(chunked(BODY), content_encoding=b"aws-chunked,gzip")
        self.assertEqual(self.completes().header(b"content-encoding"), b"gzip")

    def test_not_kept(self) -> None:
        """Wrong lengths, encodings and trailers."""
        self.upload(chunked(BODY), x_amz_decoded_content_length=b"201")
        self.not_kept()
        self.upload(chunked(BODY), x_amz_decoded_content_length=b"199")
        self.not_kept()
        self.upload(b"zz\r\n" + BODY)
        self.not_kept()
        self.upload(chunked(BODY)[:-2])
        self.not_kept()
        self.upload(chunked(BODY, b"x-amz-checksum-crc32:AAAAAA==\r\n"), x_amz_trailer=b"x-amz-checksum-crc32")
        self.not_kept()
        self.put_and_answered(body=chunked(BODY), content_encoding=b"aws-chunked")
        self.not_kept()


def created(upload_id: bytes = b"U1", **headers: bytes) -> FakeResponse:
    """S3's answer to CreateMultipartUpload."""
    body = b"<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>" % upload_id
    return FakeResponse(200, {name.encode(): value for name, value in headers.items()}, body)


def tag_of(*bodies: bytes) -> bytes:
    """The ETag of an object of these parts."""
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    return b'"%s-%d"' % (hashlib.md5(digests).hexdigest().encode(), len(bodies))


def completed(etag: bytes, **headers: bytes) -> FakeResponse:
    """S3's answer to CompleteMultipartUpload."""
    body = (
        b'<?xml version="1.0"?>\n \n<CompleteMultipartUploadResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Bucket>bucket</Bucket><Key>key</Key><ETag>%s</ETag></CompleteMultipartUploadResult>" % etag
    )
    return FakeResponse(200, {name.encode(): value for name, value in headers.items()}, body)


def md5_tag(body: bytes) -> bytes:
    """The ETag of a body that came in one piece."""
    return b'"%s"' % hashlib.md5(body).hexdigest().encode()


def listing(parts: dict[int, bytes]) -> bytes:
    """The document that completes an upload of these parts."""
    listed = (
        b"<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>" % (number, md5_tag(body))
        for number, body in parts.items()
    )
    return b"<CompleteMultipartUpload>%s</CompleteMultipartUpload>" % b"".join(listed)


class MultipartTestCase(WriteTestCase):
    """A client that uploads in parts.

    :ivar upload_id: as it stands in targets
    """

    PARTS = {1: b"a" * 300, 2: b"b" * 300, 3: b"c" * 50}
    upload_id = b"U1"

    def begin(self, upload_id: bytes = b"U1", answer: FakeResponse | None = None, **headers: bytes) -> None:
        """An upload begins."""
        self.upload_id = upload_id
        fields = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        client = self.harness.send(b"POST", b"/key?uploads", fields)
        self.upstream.last.respond(answer or created(unquote_to_bytes(upload_id)))
        self.assertEqual((client.status, client.ended), (200, "finished"))

    def send_part(self, number: int, body: bytes | None = None) -> FakeClient:
        """A part is on its way: S3 has it, and has not answered."""
        body = self.PARTS[number] if body is None else body
        return self.put(body, b"/key?partNumber=%d&uploadId=%s" % (number, self.upload_id))

    def part(self, number: int, body: bytes | None = None, answer: FakeResponse | None = None) -> None:
        """A part is uploaded."""
        body = self.PARTS[number] if body is None else body
        self.send_part(number, body)
        self.upstream.last.respond(answer or written(md5_tag(body)))

    def complete(self, answer: FakeResponse, *numbers: int) -> FakeClient:
        """The upload is completed."""
        return self.complete_with(answer, listing({number: self.PARTS[number] for number in numbers}))

    def complete_with(self, answer: FakeResponse, document: bytes, **headers: bytes) -> FakeClient:
        """The upload is completed with this document."""
        client = self.put(document, b"/key?uploadId=" + self.upload_id, b"POST", 50, **headers)
        self.upstream.last.respond(answer)
        self.upstream.asked.clear()
        return client

    def abort(self) -> FakeClient:
        """The upload is given up."""
        client = self.harness.send(b"DELETE", b"/key?uploadId=" + self.upload_id)
        self.upstream.last.respond(FakeResponse(204))
        return client


class MultipartTests(MultipartTestCase):
    """Uploads in parts."""

    def test_read_back(self) -> None:
        """Parts in any order, one of them twice."""
        self.begin(content_type=b"text/x", x_amz_meta_a=b"1")
        for number in (2, 3, 1):
            self.part(number)
        self.part(2, b"other")
        self.part(2)
        etag = tag_of(*self.PARTS.values())
        client = self.complete(completed(etag), 1, 2, 3)
        self.assertEqual((client.status, client.ended), (200, "finished"))
        read = self.completes(b"".join(self.PARTS.values()), etag)
        self.assertEqual((read.header(b"content-type"), read.header(b"x-amz-meta-a")), (b"text/x", b"1"))
        second = self.harness.get(b"/key?partNumber=2")
        self.assertEqual(self.upstream.asked, [])
        self.served(second, b"HIT", self.PARTS[2], 206)
        self.assertEqual(second.header(b"x-amz-mp-parts-count"), b"3")

    def test_written_behind_a_lost_answer(self) -> None:
        """S3's answer to the end of the upload is lost, the same bytes are written past the proxy under other metadata,
        and only then the end is repeated, to which S3 says the same as it would have before. The object is fetched if
        S3 dates it neither as the beginning of the upload, as Amazon does, nor as the request that was answered.
        """
        etag = tag_of(self.PARTS[1])
        for number, (seconds, modified, same) in enumerate(
            (
                (0.01, b"21:59:59", True),
                (0.01, b"22:00:00", True),
                (0.01, b"22:00:01", True),
                (0.01, b"22:00:02", False),
                (0.01, b"22:13:17", False),
                (0.01, b"22:13:18", True),
                (0.01, b"22:13:21", True),
                (0.01, b"22:13:22", False),
                (60.0, b"22:12:17", False),
                (60.0, b"22:12:18", True),
            )
        ):
            begun = created(b"U%d" % number, Date=b"Tue, 14 Nov 2023 22:00:00 GMT")
            self.begin(b"U%d" % number, begun, x_amz_meta_a=b"1")
            self.part(1)
            client = self.put(listing({1: self.PARTS[1]}), b"/key?uploadId=" + self.upload_id, b"POST")
            self.upstream.last.fail(UpstreamError("reset", sent=True))
            self.assertEqual(client.status, 502)
            answer = completed(etag, Date=b"Tue, 14 Nov 2023 22:13:20 GMT")
            answer.head_at = answer.sent_at + seconds
            self.assertEqual(self.complete(answer, 1).status, 200)
            reader = self.harness.get()
            self.assertEqual(self.asks(1).header(b"if-none-match"), etag)
            self.upstream.last.respond(unchanged(etag, b"Tue, 14 Nov 2023 %s GMT" % modified))
            if same:
                self.served(reader, b"REVALIDATED", self.PARTS[1])
            else:
                self.assertIsNone(self.asks(2).header(b"if-none-match"), modified)
                self.upstream.last.respond(ok(self.PARTS[1], etag, x_amz_meta_a=b"2"))
                self.served(reader, b"MISS", self.PARTS[1])
            self.assertEqual(reader.header(b"x-amz-meta-a"), b"1" if same else b"2", modified)
            self.upstream.asked.clear()

    def test_encrypted_by_the_client(self) -> None:
        """Parts that are encrypted with the client's key are not kept, wherever the request has that."""
        field = b"x-amz-server-side-encryption-customer-algorithm"
        self.begin()
        staged = os.listdir(self.harness.store.volume.uploads)
        (folder,) = [os.path.join(self.harness.store.volume.uploads, name) for name in staged]
        before = os.listdir(folder)
        self.put(self.PARTS[1], b"/key?partNumber=1&uploadId=U1&X-Amz-" + field[6:] + b"=AES256")
        self.put(self.PARTS[1], b"/key?partNumber=2&uploadId=U1", x_amz_server_side_encryption_customer_key=b"k")
        for asked in self.upstream.asked[-2:]:
            asked.respond(written(md5_tag(self.PARTS[1])))
        self.assertEqual(os.listdir(folder), before)

    def test_elsewhere(self) -> None:
        """Objects whose reads never come from the cache are not kept."""
        for host in (b"bucket.s3-website-us-east-1.amazonaws.com", b"l-123.s3-object-lambda.us-east-1.amazonaws.com"):
            self.put_and_answered(Host=host)
            files = [name for _, _, names in os.walk(os.path.join(self.harness.root, "o")) for name in names]
            self.assertEqual(files, [])

    def test_some_of_the_parts(self) -> None:
        """Parts that are not listed do not belong to the object."""
        self.begin()
        for number in (1, 2, 3):
            self.part(number)
        etag = tag_of(self.PARTS[1], self.PARTS[3])
        self.complete(completed(etag), 1, 3)
        self.completes(self.PARTS[1] + self.PARTS[3], etag)

    def test_older_object_stays_until_the_end(self) -> None:
        """Uploading parts changes nothing; the end does."""
        self.cached(b"older")
        self.begin()
        self.part(1)
        self.served(self.harness.get(), b"HIT", b"older")
        etag = tag_of(self.PARTS[1])
        self.complete(completed(etag), 1)
        self.completes(self.PARTS[1], etag)

    def test_error_in_a_200(self) -> None:
        """A 200 that turns out an error changes nothing, and the upload can be completed again."""
        self.cached(b"older")
        self.begin()
        self.part(1)
        failure = FakeResponse(200, {}, b"   <Error><Code>InternalError</Code></Error>")
        self.complete(failure, 1)
        client = self.harness.get()
        if self.upstream.asked:
            self.upstream.last.respond(not_modified())
        self.assertEqual(client.answer, b"older")
        etag = tag_of(self.PARTS[1])
        self.complete(completed(etag), 1)
        self.completes(self.PARTS[1], etag)

    def test_dropped(self) -> None:
        """Whatever is not known for sure is not kept; the older object is gone all the same."""
        etag = tag_of(self.PARTS[1], self.PARTS[2])
        for case in ("missing", "tag", "count", "refused", "copied", "undescribed", "aborted"):
            self.cached(b"older", etag=b'"old"')
            if case != "undescribed":
                self.begin()
            self.part(1)
            if case == "refused":
                self.part(2, answer=error(500, b"InternalError"))
            elif case != "missing":
                self.part(2)
            if case == "copied":
                client = self.harness.send(
                    b"PUT", b"/key?partNumber=3&uploadId=U1", {b"x-amz-copy-source": b"/bucket/other"}
                )
                self.upstream.last.respond(FakeResponse(200, {}, b"<CopyPartResult></CopyPartResult>"))
                self.assertEqual(client.status, 200)
            if case == "aborted":
                self.abort()
            answer = {"tag": b'"%s-2"' % (b"0" * 32), "count": tag_of(self.PARTS[1])}.get(case, etag)
            client = self.complete(completed(answer), 1, 2)
            self.assertEqual((client.status, client.ended), (200, "finished"), case)
            self.not_kept()
            self.abort()
            self.upstream.asked.clear()

    def test_switched_off(self) -> None:
        """Where uploads are not kept, or what is kept is not read, nothing of them is written anywhere."""
        for setting in ("write_cache_enabled", "read_cache_enabled"):
            self.harness = GatewayHarness(**{setting: False})
            self.addCleanup(self.harness.close)
            self.upstream = self.harness.upstream
            if setting == "write_cache_enabled":
                self.begin()
            self.part(1)
            self.put_and_answered()
            self.assertEqual(os.listdir(self.harness.store.volume.uploads), [])
            files = [name for _, _, names in os.walk(os.path.join(self.harness.root, "o")) for name in names]
            self.assertEqual(files, [])

    def test_after_a_restart(self) -> None:
        """Parts and description outlive the process."""
        self.begin(content_type=b"text/x")
        self.part(1)
        self.harness.store.close()
        self.harness.open()
        self.part(2)
        etag = tag_of(self.PARTS[1], self.PARTS[2])
        self.complete(completed(etag), 1, 2)
        self.assertEqual(self.completes(self.PARTS[1] + self.PARTS[2], etag).header(b"content-type"), b"text/x")


class DescribedLateTests(WriteTestCase):
    """What S3 said about an entry is being written down in a thread."""

    def test_conditional_read_behind_a_head(self) -> None:
        """A client that asks for the head and then, at once, for the body of that very version, gets it from the cache:
        it does not matter whether the thread was quick.
        """
        thread = ManualThread()
        self.harness = GatewayHarness(run=thread)
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream
        self.put_and_answered()
        self.harness.head()
        answer = FakeResponse(200, {b"ETag": ETAG, b"Last-Modified": MODIFIED}, b"", 0, claimed=len(BODY))
        self.asks(1).respond(answer)
        client = self.harness.get(if_match=ETAG)
        self.asks(1)
        thread.finish()
        self.served(client, b"HIT", BODY)
        self.asks(1)


class DiskTroubleTests(MultipartTestCase):
    """The disk, or the code, does not do what it should at the end of an upload."""

    def test_read_that_waits_when_the_answer_waited_too_long(self) -> None:
        """A read that begins after the acknowledgement does not share what was asked before S3 acted, although the
        disk has not come to removing the older object.
        """
        self.cached(b"older", etag=b'"old"')
        self.harness.clock.advance(61)
        thread = ManualThread()
        self.harness.cache.writes._run = thread
        client = self.put(listing({1: self.PARTS[1]}), b"/key?uploadId=U1", b"POST")
        write = self.upstream.last
        self.harness.get()
        self.assertEqual(self.upstream.last.header(b"if-none-match"), b'"old"')
        write.respond(completed(tag_of(self.PARTS[1])))
        self.harness.clock.advance(MOST_CONCLUDING)
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.assertGreater(thread.waiting, 0)
        before = len(self.upstream.asked)
        self.harness.get()
        self.assertEqual(len(self.upstream.asked), before + 1)
        thread.finish()

    def test_hanging_disk(self) -> None:
        """S3's answer waits for the cache only so long; meanwhile and afterwards nobody gets the older object."""
        thread = ManualThread()
        self.harness = GatewayHarness(run=thread)
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream
        self.harness.get()
        self.upstream.last.respond(ok(b"older", b'"old"'))
        thread.finish()
        body = BODY * 1000
        client = self.put(body, pieces=50_000)
        thread.finish()
        self.upstream.last.respond(written(md5_tag(body)))
        self.assertIsNone(client.status)
        self.harness.clock.advance(MOST_CONCLUDING)
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.upstream.asked.clear()
        reader = self.harness.get()
        self.asks(1).respond(ok(body, md5_tag(body)))
        self.assertEqual(reader.answer, body)
        thread.finish()
        self.upstream.asked.clear()
        self.assertEqual(self.harness.clock.getDelayedCalls(), [])

    def test_fault_in_the_code(self) -> None:
        """Whatever goes wrong when the object is published: the older one is gone, and the client has S3's answer."""
        self.cached(b"older", etag=b'"old"')
        self.patch(Upload, "commit", lambda *args: {}["nothing"])
        client = self.put_and_answered()
        self.assertEqual(client.ended, "finished")
        self.not_kept()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
