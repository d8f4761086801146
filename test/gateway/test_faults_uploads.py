"""Faults known from caches of this kind: uploads that are kept with more, less or something else than their bytes.

The ids are those of the table in doc/faults.md.
"""

import base64
import hashlib
import zlib
from collections.abc import Sequence
from test.gateway.test_read import error
from test.gateway.test_writethrough import BODY, CRC, ETAG, WriteTestCase, chunked, written
from test.support.gateway import FakeClient
from test.support.streams import RecordingSink

SIGNATURE = b"0" * 64
TRAILER = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
Pair = tuple[bytes, bytes]


def signed_chunks(body: bytes, size: int, trailers: bytes = b"") -> bytes:
    """The same in chunks of this size, each with a signature."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)] + [b""]
    encoded = b"".join(b"%x;chunk-signature=%s\r\n%s\r\n" % (len(piece), SIGNATURE, piece) for piece in pieces)
    return encoded[:-2] + trailers + b"\r\n"


class FramingTests(WriteTestCase):
    """Bodies with chunks of Amazon's own."""

    def upload(self, body: bytes, *fields: Pair, target: bytes = b"/key") -> FakeClient:
        """An upload with these fields, of which some may come twice; S3 gets exactly these bytes, and takes it."""
        client = FakeClient(b"PUT", target, {}, body)
        client.headers = client.headers.adding(*fields)
        self.harness.clients.append(client)
        self.harness.gateway.handle(client)
        self.sink = RecordingSink()
        asked = self.upstream.last
        assert asked.request.body is not None
        asked.request.body.start(self.sink)
        for start in range(0, len(body), 11):
            client.body.sink.data_received(body[start : start + 11])
        client.body.sink.stream_ended()
        self.assertEqual((self.sink.data, self.sink.ended), (body, True))
        for name, _ in fields:
            sent = [value for given, value in fields if given.lower() == name.lower()]
            self.assertEqual(list(asked.request.headers.get_all(name.lower())), sent)
        asked.respond(written())
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.upstream.asked.clear()
        return client

    def fields(self, payload: bytes, *more: Pair, length: int = len(BODY)) -> Sequence[Pair]:
        """What goes with a body that is signed this way."""
        return ((b"x-amz-content-sha256", payload), (b"x-amz-decoded-content-length", b"%d" % length), *more)

    def test_sg07_forms(self) -> None:
        """SG-07, SG-25: S3 gets chunks, signatures, trailers and their header fields as they were sent; the object is
        what is in them, in every form that clients send, with Content-Encoding or without.
        """
        trailer = b"x-amz-checksum-crc32:%s\r\n" % CRC
        named = (b"x-amz-trailer", b"x-amz-checksum-crc32")
        encoding = (b"Content-Encoding", b"aws-chunked")
        signed = b"x-amz-trailer-signature:%s\r\n" % SIGNATURE
        for payload, body, more in (
            (TRAILER, chunked(BODY, trailer), (encoding, named)),
            (TRAILER, chunked(BODY, trailer), (named,)),
            (TRAILER, chunked(BODY, trailer.replace(b":", b" : ")), (encoding, named)),
            (b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", signed_chunks(BODY, 64), (encoding,)),
            (b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", signed_chunks(BODY, 64), ()),
            (b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", signed_chunks(BODY, 99, trailer + signed), (named,)),
            (b"STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", signed_chunks(BODY, 200), (encoding,)),
            (b"STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER", signed_chunks(BODY, 7, trailer), (encoding, named)),
            (b"STREAMING-SOMETHING-NEW", chunked(BODY), ()),
        ):
            self.upload(body, *self.fields(payload, *more))
            client = self.completes()
            self.assertIsNone(client.header(b"content-encoding"))

    def test_sg25_other_encodings(self) -> None:
        """SG-25: Content-Encoding in one line or in several: the object keeps what is not about the chunks."""
        for values in ((b"aws-chunked,gzip",), (b"aws-chunked", b"gzip"), (b"gzip", b"aws-chunked"), (b"gzip",)):
            encodings = tuple((b"Content-Encoding", value) for value in values)
            self.upload(chunked(BODY), *self.fields(TRAILER, *encodings))
            self.assertEqual(self.completes().header(b"content-encoding"), b"gzip")

    def test_sg25_contradictions(self) -> None:
        """SG-25: where header fields contradict each other, nothing is kept."""
        length = (b"x-amz-decoded-content-length", b"%d" % len(BODY))
        for fields in (
            (length, (b"x-amz-content-sha256", hashlib.sha256(BODY).hexdigest().encode())),
            (length, (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")),
            ((b"Content-Encoding", b"aws-chunked"), (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")),
            ((b"x-amz-content-sha256", TRAILER),),
            ((b"x-amz-content-sha256", TRAILER), (b"x-amz-decoded-content-length", b"many")),
        ):
            for body in (BODY, chunked(BODY)):
                self.upload(body, *fields)
                self.not_kept()

    def test_sg08_ends(self) -> None:
        """SG-08: a body that is not, to its last byte, what its header says is sent on and not kept."""
        trailer = b"x-amz-checksum-crc32:%s\r\n" % CRC
        for body, length in (
            (chunked(BODY), len(BODY) - 1),
            (chunked(BODY), len(BODY) + 1),
            (chunked(BODY) + b"x", len(BODY)),
            (chunked(BODY) * 2, len(BODY) * 2),
            (chunked(BODY, trailer)[:-2], len(BODY)),
            (chunked(BODY, b"a: b\r\n" * 2000), len(BODY)),
            (chunked(BODY, b"no field\r\n"), len(BODY)),
            (chunked(BODY, trailer.replace(CRC, b"AAAAAA==")), len(BODY)),
            (BODY, len(BODY)),
        ):
            self.upload(body, *self.fields(TRAILER, length=length))
            self.not_kept()

    def test_sg08_parts(self) -> None:
        """SG-08: parts are decoded in the same way."""
        self.upload(chunked(BODY)[:-2], *self.fields(TRAILER), target=b"/key?partNumber=1&uploadId=U")
        self.harness.store.volume.empty_trash()
        self.assertEqual(self.harness.left_over(), [])

    def test_sg09_wrong_trailer(self) -> None:
        """SG-09: S3's refusal of a checksum is S3's refusal, and what was there before stays."""
        self.cached()
        body = chunked(BODY, b"x-amz-checksum-crc32:AAAAAA==\r\n")
        client = self.put(body, x_amz_content_sha256=TRAILER, x_amz_decoded_content_length=b"%d" % len(BODY))
        answer = error(400, b"BadDigest")
        self.upstream.last.respond(answer)
        self.assertEqual((client.status, client.answer), (400, answer.whole))

    def test_dc35_plain_body_that_looks_chunked(self) -> None:
        """DC-35: a body that looks like chunks, and that no header field calls so, is kept as it is."""
        body = chunked(BODY)
        etag = b'"%s"' % hashlib.md5(body).hexdigest().encode()
        crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big"))
        self.put_and_answered(written(etag, x_amz_checksum_crc32=crc), body=body)
        self.completes(body, etag)

    def test_st05_two_uploads(self) -> None:
        """ST-05: ranges of an object that is overwritten by an upload are the new one's."""
        self.put_and_answered()
        self.completes()
        other = BODY[::-1]
        etag = b'"%s"' % hashlib.md5(other).hexdigest().encode()
        self.put_and_answered(written(etag), body=other)
        self.completes(other, etag)
        client = self.harness.get(range=b"bytes=5-9")
        self.served(client, b"HIT", other[5:10], 206)
        self.assertNotEqual(etag, ETAG)
