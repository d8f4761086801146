"""Faults known from caches of this kind: uploads in parts.

The ids are those of the table in doc/faults.md.
"""

import os
from test.gateway.test_read import error, not_modified, ok
from test.gateway.test_writethrough import MultipartTestCase, completed, created, listing, md5_tag, tag_of, written
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from test.support.streams import ManualThread, RecordingSink

from twisted.python.failure import Failure

from s3proxy.cache.bodycopy import PATIENCE
from s3proxy.gateway.keeping import LIST_LIMIT
from s3proxy.policy import writing
from s3proxy.upstream.interfaces import UpstreamError


class CompletenessTests(MultipartTestCase):
    """Only what was seen here, all of it, and nothing else, is the object."""

    def comes_from_s3(self, body: bytes, etag: bytes) -> None:
        """The first read gets the object, all of it, from S3."""
        client = self.harness.get()
        self.assertIsNone(self.asks(1).header(b"if-none-match"))
        self.upstream.last.respond(ok(body, etag))
        self.served(client, b"MISS", body)
        self.upstream.asked.clear()

    def test_mp01_more_parts_than_were_seen(self) -> None:
        """MP-01: S3's ETag counts one part more than was seen here: the shorter object is not taken for it."""
        self.begin()
        for number in (1, 2, 3):
            self.part(number)
        etag = tag_of(*self.PARTS.values(), b"unseen")
        self.complete(completed(etag), 1, 2, 3)
        self.comes_from_s3(b"".join(self.PARTS.values()) + b"unseen", etag)

    def test_mp02_copied_part(self) -> None:
        """MP-02: a part that S3 copied is not an empty one, also when one of its number was uploaded before."""
        for earlier in (False, True):
            self.begin(b"U%d" % earlier)
            self.part(1)
            if earlier:
                self.part(2)
            copied = b"copied bytes"
            self.harness.send(
                b"PUT", b"/key?partNumber=2&uploadId=" + self.upload_id, {b"x-amz-copy-source": b"/bucket/other"}
            )
            answer = b"<CopyPartResult><ETag>%s</ETag></CopyPartResult>" % md5_tag(copied)
            self.upstream.last.respond(FakeResponse(200, {}, answer))
            etag = tag_of(self.PARTS[1], copied)
            self.complete_with(completed(etag), listing({1: self.PARTS[1], 2: copied}))
            self.comes_from_s3(self.PARTS[1] + copied, etag)

    def test_mp03_same_part_twice_at_once(self) -> None:
        """MP-03: of two bodies for one part, each has its own ETag: the object has the bytes of the one that is listed,
        or comes from S3.
        """
        for number, (first, listed) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            self.begin(b"U%d" % number)
            bodies = (b"one body", b"another body")
            for body in bodies:
                self.send_part(1, body)
            answers = self.upstream.asked[-2:]
            for index in (first, 1 - first):
                answers[index].respond(written(md5_tag(bodies[index])))
            etag = tag_of(bodies[listed])
            self.complete_with(completed(etag), listing({1: bodies[listed]}))
            client = self.harness.get()
            conditional = self.asks(1).header(b"if-none-match")
            self.upstream.last.respond(ok(bodies[listed], etag) if conditional is None else not_modified(etag))
            while client.ended is None:
                self.upstream.last.respond(ok(bodies[listed], etag))
            self.assertEqual(client.answer, bodies[listed])
            self.upstream.asked.clear()

    def test_mp04_two_uploads_of_one_object(self) -> None:
        """MP-04: uploads that are under way for one object share nothing."""
        self.begin(b"first")
        self.begin(b"second")
        for number in (1, 2):
            for upload_id in (b"first", b"second"):
                self.upload_id = upload_id
                self.part(number, upload_id * 100 * number)
        for upload_id in (b"first", b"second"):
            self.upload_id = upload_id
            parts = {number: upload_id * 100 * number for number in (1, 2)}
            etag = tag_of(*parts.values())
            self.complete_with(completed(etag), listing(parts))
            self.completes(b"".join(parts.values()), etag)

    def test_mp05_part_that_looks_chunked(self) -> None:
        """MP-05: a part whose bytes look like chunks is what it is."""
        body = b"a\r\n0123456789\r\n0\r\n\r\n"
        self.begin()
        self.part(1, body)
        self.complete_with(completed(tag_of(body)), listing({1: body}))
        self.completes(body, tag_of(body))

    def test_mp06_forms_of_the_list(self) -> None:
        """MP-06: comments, name spaces, character data sections and blanks in the list of parts are XML."""
        self.begin()
        self.part(1)
        self.part(2)
        tags = [md5_tag(self.PARTS[number]).strip(b'"') for number in (1, 2)]
        document = (
            b'\xef\xbb\xbf<?xml version="1.0" encoding="UTF-8"?>\n<!-- a list -->\n'
            b'<a:CompleteMultipartUpload xmlns:a="http://s3.amazonaws.com/doc/2006-03-01/">\n'
            b"  <a:Part><!-- first --><a:ETag>&quot;%s&#34;</a:ETag>\n<a:PartNumber> 1 </a:PartNumber></a:Part>"
            b"<a:Part><a:PartNumber>2</a:PartNumber><a:ChecksumCRC32>AAAAAA==</a:ChecksumCRC32>"
            b"<a:ETag><![CDATA[%s]]></a:ETag></a:Part>\n</a:CompleteMultipartUpload>\n" % tuple(tags)
        )
        etag = tag_of(self.PARTS[1], self.PARTS[2])
        self.complete_with(completed(etag), document)
        self.completes(self.PARTS[1] + self.PARTS[2], etag)

    def test_mp06_no_list(self) -> None:
        """MP-06: a list that can't be read is not taken for all parts, whether S3 refuses it or not."""
        etag = tag_of(self.PARTS[1])
        for number, document in enumerate((b"garbage", b"<CompleteMultipartUpload>", b"<CompleteMultipartUpload/>")):
            self.begin(b"U%d" % number)
            self.part(1)
            client = self.complete_with(error(400, b"MalformedXML"), document)
            self.assertEqual(client.status, 400)
            self.complete_with(completed(etag), document)
            self.comes_from_s3(self.PARTS[1], etag)

    def test_mp07_error_in_a_200(self) -> None:
        """MP-07: a 200 that is an error after many blanks is passed on as it comes, and makes no object."""
        self.begin()
        self.part(1)
        document = listing({1: self.PARTS[1]})
        client = self.put(document, b"/key?uploadId=U1", b"POST")
        response = self.upstream.last.respond(FakeResponse(200, {}, None))
        for _ in range(20):
            response.sink.data_received(b" " * 500)
        self.assertEqual(client.answer, b" " * 500 * 19)
        response.sink.data_received(b"<Error><Code>InternalError</Code></Error>")
        response.sink.stream_ended()
        self.assertEqual((client.ended, client.answer[-8:]), ("finished", b"</Error>"))
        self.upstream.asked.clear()
        reader = self.harness.get()
        self.asks(1).respond(error(404, b"NoSuchKey"))
        self.assertEqual(reader.status, 404)

    def test_mp08_repeated_and_unlisted_parts(self) -> None:
        """MP-08: the last upload of a part counts; a part that is not listed does not."""
        self.begin()
        self.part(1)
        self.part(2, b"not this one")
        self.part(2)
        self.part(7, b"nor this one")
        self.part(3)
        etag = tag_of(*self.PARTS.values())
        self.complete(completed(etag), 1, 2, 3)
        self.completes(b"".join(self.PARTS.values()), etag)
        self.harness.store.volume.empty_trash()
        self.assertEqual(os.listdir(self.harness.store.volume.uploads), [])

    def test_mp18_part_by_another_way(self) -> None:
        """MP-18: a part that reached S3 by another way is missing here: the client succeeds, and S3 has the object."""
        self.begin()
        self.part(1)
        self.part(3)
        etag = tag_of(*self.PARTS.values())
        client = self.complete(completed(etag), 1, 2, 3)
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.comes_from_s3(b"".join(self.PARTS.values()), etag)

    def test_mp19_any_order(self) -> None:
        """MP-19: parts come in any order, and their numbers may have gaps."""
        bodies = {10: b"ten" * 50, 3: b"three" * 50, 7: b"seven" * 50}
        self.begin()
        for number, body in bodies.items():
            self.part(number, body)
        ordered = dict(sorted(bodies.items()))
        etag = tag_of(*ordered.values())
        self.complete_with(completed(etag), listing(ordered))
        self.completes(b"".join(ordered.values()), etag)

    def test_mp22_presigned_part(self) -> None:
        """MP-22: a part that is uploaded with a presigned URL is sent and kept like any other."""
        self.begin()
        body = self.PARTS[1]
        target = (
            b"/key?partNumber=1&uploadId=U1&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAEXAMPLE%2F20231114"
            b"%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20231114T221320Z&X-Amz-Expires=3600"
            b"&X-Amz-SignedHeaders=host&X-Amz-Signature=" + b"0" * 64
        )
        self.put(body, target)
        self.assertEqual(self.upstream.last.request.target, target)
        self.upstream.last.respond(written(md5_tag(body)))
        self.complete(completed(tag_of(body)), 1)
        self.completes(body, tag_of(body))


class EndTests(MultipartTestCase):
    """How uploads end."""

    def test_mp14_upload_ids_are_no_paths(self) -> None:
        """MP-14: an upload id that looks like a path leads nowhere."""
        before = set(os.listdir(os.path.dirname(self.harness.root)))
        for upload_id in (b"..%2F..%2Fx", b"%2Fetc%2Fx", b".", b"..", b"a%0Ab", b"x" * 5000):
            self.begin(upload_id)
            self.part(1)
            self.assertIn(upload_id, self.upstream.last.request.target)
            self.part(2)
            etag = tag_of(self.PARTS[1])
            self.complete(completed(etag), 1)
            self.completes(self.PARTS[1], etag)
            self.part(1)
            self.abort()
            self.upstream.asked.clear()
        self.assertEqual(set(os.listdir(os.path.dirname(self.harness.root))), before)
        self.harness.store.volume.empty_trash()
        self.assertEqual(os.listdir(self.harness.store.volume.uploads), [])

    def test_mp15_headers_of_the_object(self) -> None:
        """MP-15: what S3's answer to the end of an upload says of itself is not said of the object."""
        self.begin(content_type=b"image/png", cache_control=b"max-age=7")
        self.part(1)
        etag = tag_of(self.PARTS[1])
        answer = completed(etag)
        fields = {b"Content-Type": b"application/xml", b"x-amz-version-id": b"v3", b"ETag": b'"of the document"'}
        self.complete_with(FakeResponse(200, fields, answer.whole), listing({1: self.PARTS[1]}))
        read = self.completes(self.PARTS[1], etag)
        expected = {
            b"content-type": b"image/png",
            b"cache-control": b"max-age=7",
            b"etag": etag,
            b"x-amz-version-id": b"v3",
        }
        self.assertEqual({name: read.header(name) for name in expected}, expected)
        self.assertEqual(read.length, len(self.PARTS[1]))
        head = self.harness.head()
        self.assertEqual((head.status, head.header(b"content-type"), head.length), (200, b"image/png", read.length))

    def test_encryption(self) -> None:
        """How the object is encrypted is told at the beginning of an upload, and perhaps again at its end."""
        for again in (None, b"aws:kms"):
            client = self.harness.send(b"POST", b"/key?uploads")
            answer = created()
            answer.headers = answer.headers.adding((b"x-amz-server-side-encryption", b"AES256"))
            self.upstream.last.respond(answer)
            self.assertEqual(client.ended, "finished")
            self.part(1)
            etag = tag_of(self.PARTS[1])
            end = completed(etag)
            if again is not None:
                end.headers = end.headers.adding((b"x-amz-server-side-encryption", again))
            self.complete(end, 1)
            read = self.completes(self.PARTS[1], etag)
            self.assertEqual(read.answer_headers.get_all(b"x-amz-server-side-encryption"), (again or b"AES256",))

    def test_mp16_part_after_the_end(self) -> None:
        """MP-16: an upload that ends while one of its parts is still on its way disturbs nobody."""
        self.begin()
        self.part(1)
        late = self.send_part(2)
        part = self.upstream.last
        self.complete(completed(tag_of(self.PARTS[1], b"unseen")), 1)
        part.respond(error(404, b"NoSuchUpload"))
        self.assertEqual((late.status, late.ended), (404, "finished"))
        later = self.send_part(3)
        part = self.upstream.last
        self.abort()
        part.respond(written(md5_tag(self.PARTS[3])))
        self.assertEqual((later.status, later.ended), (200, "finished"))
        self.upstream.asked.clear()
        self.assertEqual(self.harness.events.errors, [])
        self.not_kept()

    def test_mp16_part_in_several_files(self) -> None:
        """MP-16: the same in the middle of a part that needs several files: that its directory is gone is no failure of
        the disk.
        """
        self.harness = GatewayHarness(max_size=64 << 20)
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream
        self.patch(self.harness.store.volume.ledger, "unread_limit", 0)
        self.begin()
        piece = bytes(1 << 20)
        count = 2 * self.harness.store.cut // len(piece) + 1
        client = self.harness.send(b"PUT", b"/key?partNumber=1&uploadId=U1", {}, piece * count)
        source = self.upstream.last.request.body
        part = self.upstream.last
        assert source is not None
        source.start(RecordingSink())
        for number in range(count):
            client.body.sink.data_received(piece)
            if number == 1:
                self.abort()
        client.body.sink.stream_ended()
        part.respond(error(404, b"NoSuchUpload"))
        self.assertEqual((client.status, client.ended), (404, "finished"))
        self.upstream.asked.clear()
        self.assertEqual(self.harness.events.errors, [])
        self.assertTrue(self.harness.cache.guard.may_insert)
        self.not_kept()

    def test_mp17_unfinished_uploads_expire(self) -> None:
        """MP-17: what is left of an upload goes a day after its last part, without a restart."""
        store = self.harness.store
        before = store.usage()
        self.begin()
        self.part(1, b"x" * 1_000_000)
        self.assertGreater(store.usage(), before + 1_000_000)
        (staged,) = os.listdir(store.volume.uploads)
        os.utime(os.path.join(store.volume.uploads, staged), (self.harness.now(), self.harness.now()))
        for hour in range(26):
            self.assertEqual(os.listdir(store.volume.uploads), [staged] if hour <= 24 else [])
            self.harness.clock.advance(3600)
            if store.sweeper.due():
                store.sweeper.run()
        store.volume.empty_trash()
        self.assertLessEqual(store.usage(), before + 8192)

    def test_mp20_completed_again(self) -> None:
        """MP-20: the end of an upload that is repeated changes nothing, whatever S3 says to it."""
        self.begin()
        self.part(1)
        etag = tag_of(self.PARTS[1])
        self.complete(completed(etag), 1)
        self.completes(self.PARTS[1], etag)
        for answer in (completed(etag), error(404, b"NoSuchUpload")):
            client = self.complete(answer, 1)
            self.assertEqual((client.status, client.answer), (answer.status, answer.whole))
            self.completes(self.PARTS[1], etag)

    def test_mp21_condition(self) -> None:
        """MP-21: the end of an upload that S3 refuses under a condition changes nothing, and can be tried again."""
        self.cached(b"older", etag=b'"older"')
        self.begin()
        self.part(1)
        for status, code in ((412, b"PreconditionFailed"), (409, b"ConditionalRequestConflict")):
            client = self.complete_with(error(status, code), listing({1: self.PARTS[1]}), If_None_Match=b"*")
            self.assertEqual(client.status, status)
            reader = self.harness.get()
            self.asks(1).respond(not_modified(b'"older"'))
            self.served(reader, b"REVALIDATED", b"older")
            self.upstream.asked.clear()
        etag = tag_of(self.PARTS[1])
        self.complete(completed(etag), 1)
        self.completes(self.PARTS[1], etag)


class TimeTests(MultipartTestCase):
    """A disk that takes its time."""

    def setUp(self) -> None:
        super().setUp()
        self.thread = ManualThread()
        self.harness = GatewayHarness(run=self.thread)
        self.addCleanup(self.harness.close)
        self.upstream = self.harness.upstream

    def begun(self) -> None:
        """An upload begins, on a disk that has time."""
        client = self.harness.send(b"POST", b"/key?uploads")
        body = b"<InitiateMultipartUploadResult><UploadId>U1</UploadId></InitiateMultipartUploadResult>"
        self.upstream.last.respond(FakeResponse(200, {}, body))
        self.thread.finish()
        self.assertEqual(client.ended, "finished")

    def completing(self) -> FakeClient:
        """S3 has put the object together."""
        client = self.put(listing({1: self.PARTS[1]}), b"/key?uploadId=U1", b"POST", 50)
        self.upstream.last.respond(completed(tag_of(self.PARTS[1])))
        return client

    def test_mp09_end_right_behind_the_last_part(self) -> None:
        """MP-09: when a client knows that a part was taken, the part is here: the end may follow at once."""
        self.begun()
        client = self.send_part(1)
        self.upstream.last.respond(written(md5_tag(self.PARTS[1])))
        self.assertIsNone(client.status)
        self.thread.finish()
        self.assertEqual(client.ended, "finished")
        end = self.completing()
        self.thread.finish()
        self.assertEqual(end.ended, "finished")
        self.upstream.asked.clear()
        reader = self.harness.get()
        self.thread.finish()
        self.assertEqual(self.asks(1).header(b"if-none-match"), tag_of(self.PARTS[1]))
        reader.leave()

    def test_mp10_nobody_waits_for_long(self) -> None:
        """MP-10: S3's answer to a part waits for a slow disk for some seconds only; then the part is not kept."""
        self.begun()
        client = self.send_part(1)
        self.upstream.last.respond(written(md5_tag(self.PARTS[1])))
        self.harness.clock.advance(PATIENCE)
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.thread.finish()
        self.completing()
        self.thread.finish()
        self.upstream.asked.clear()
        reader = self.harness.get()
        self.thread.finish()
        self.assertIsNone(self.asks(1).header(b"if-none-match"))
        reader.leave()
        self.harness.store.volume.empty_trash()
        self.assertEqual(self.harness.left_over(), [])


class SizeTests(MultipartTestCase):
    """Only S3's own limits count."""

    def test_mp12_large_parts(self) -> None:
        """MP-12: parts of any size that S3 takes are sent."""
        for size in (200 << 20, 5 << 30):
            client = FakeClient(b"PUT", b"/key?partNumber=1&uploadId=U1", {}, b"")
            client.body_length = size
            self.harness.clients.append(client)
            self.harness.gateway.handle(client)
            self.assertEqual(self.upstream.last.request.body_length, size)
            self.upstream.last.respond(error(403, b"AccessDenied"))
            self.assertEqual(client.status, 403)

    def test_too_large(self) -> None:
        """What S3 does not take in one request is refused before S3 is asked, and before a client that waits to be told
        is told to send it. What is in Amazon's chunks counts without them.
        """
        chunks = {
            b"x-amz-content-sha256": b"STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            b"x-amz-decoded-content-length": b"%d" % ((5 << 30) + 1),
        }
        form = {b"Content-Type": b"multipart/form-data; boundary=x"}
        for method, target, headers, size in (
            (b"PUT", b"/key", {}, (5 << 30) + 1),
            (b"PUT", b"/key?partNumber=1&uploadId=U1", {}, 6 << 30),
            (b"PUT", b"/key", chunks, 6 << 30),
            (b"PUT", b"/key", chunks, None),
            (b"POST", b"/", form, 6 << 30),
        ):
            client = FakeClient(method, target, {**headers, b"Expect": b"100-continue"}, b"")
            client.body_length = size
            self.harness.clients.append(client)
            self.harness.gateway.handle(client)
            self.assertEqual((client.status, client.ended, self.upstream.asked), (413, "finished", []))
            self.assertIn(b"<Code>EntityTooLarge</Code>", client.answer)
            self.assertIn(b"<MaxSizeAllowed>53687", client.answer)
            self.assertEqual(client.body.calls, [])
        chunks[b"x-amz-decoded-content-length"] = b"%d" % (5 << 30)
        client = FakeClient(b"PUT", b"/key", chunks, b"")
        client.body_length = 6 << 30
        self.harness.clients.append(client)
        self.harness.gateway.handle(client)
        self.asks(1)

    def test_too_large_by_and_by(self) -> None:
        """A body that does not say how long it is is cut off when it becomes too long; S3 never gets its end."""
        self.cached()
        self.patch(writing, "LARGEST_UPLOAD", 1000)
        client = FakeClient(b"PUT", b"/key", {b"Transfer-Encoding": b"chunked"}, b"")
        client.body_length = None
        self.harness.clients.append(client)
        self.harness.gateway.handle(client)
        sink = RecordingSink()
        body = self.asks(1).request.body
        assert body is not None
        body.start(sink)
        client.body.sink.data_received(b"x" * 1000)
        self.assertIsNone(sink.ended)
        client.body.sink.data_received(b"x")
        self.assertTrue(client.body.aborted)
        assert isinstance(sink.ended, Failure)
        self.upstream.last.fail(UpstreamError("the body failed", sent=True))
        self.assertEqual((client.status, client.ended), (413, "finished"))
        self.assertIn(b"<Code>EntityTooLarge</Code>", client.answer)
        self.assertEqual(self.harness.left_over(), [])

    def test_mp13_long_lists(self) -> None:
        """MP-13: the list of ten thousand parts is understood; one that is too long to be looked at is sent on, and the
        object is not kept.
        """
        self.begin()
        self.part(1)
        etag = tag_of(self.PARTS[1])
        document = listing({1: self.PARTS[1]}) + b" " * LIST_LIMIT
        client = self.put(document, b"/key?uploadId=U1", b"POST", 1 << 20)
        self.upstream.last.respond(completed(etag))
        self.assertEqual(client.ended, "finished")
        self.upstream.asked.clear()
        self.not_kept()
        bodies = {number: b"%d" % number for number in range(1, 10_001)}
        self.begin(b"U2")
        self.part(1)
        document = listing(bodies)
        client = self.put(document, b"/key?uploadId=U2", b"POST", 1 << 16)
        self.upstream.last.respond(completed(tag_of(*bodies.values())))
        self.assertEqual(client.ended, "finished")
        self.upstream.asked.clear()
        self.not_kept()
