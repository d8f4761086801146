"""The body encoding aws-chunked, whatever way it is cut."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.aws_chunked import (
    LINE_LIMIT,
    AwsChunkedDecoder,
    AwsChunkedError,
    decoded_length,
    is_aws_chunked,
    plain_content_encoding,
)
from s3proxy.s3.headers import Headers

SIGNATURE = b";chunk-signature=" + b"0" * 64


def decode(*pieces: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The object and the trailers of a body that comes in these pieces."""
    decoder = AwsChunkedDecoder()
    body = b"".join(part for piece in pieces for part in decoder.feed(piece))
    decoder.finish()
    return body, decoder.trailers


def encode(chunks: list[bytes], extension: bytes, trailers: list[tuple[bytes, bytes]]) -> bytes:
    """A body of these chunks."""
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks if chunk)
    return body + b"0%s\r\n" % extension + b"".join(b"%s:%s\r\n" % pair for pair in trailers) + b"\r\n"


class DecoderTests(SynchronousTestCase):
    """:class:`AwsChunkedDecoder`."""

    def test_signed_chunks(self) -> None:
        """Signatures are skipped."""
        body = b"5%s\r\nhello\r\n0%s\r\n\r\n" % (SIGNATURE, SIGNATURE)
        self.assertEqual(decode(body), (b"hello", []))

    def test_trailer(self) -> None:
        """The checksum behind an unsigned body, and the signature behind that."""
        body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n"
        self.assertEqual(decode(body), (b"hello", [(b"x-amz-checksum-crc32", b"AAAA")]))
        signed = b"0%s\r\nX-Amz-Checksum-CRC32C: AAAA\n\r\nx-amz-trailer-signature:0f\r\n\r\n" % SIGNATURE
        with self.assertRaises(AwsChunkedError):
            decode(signed)
        signed = b"0%s\r\nX-Amz-Checksum-CRC32C: AAAA\r\nx-amz-trailer-signature:0f\r\n\r\n" % SIGNATURE
        expected = [(b"x-amz-checksum-crc32c", b"AAAA"), (b"x-amz-trailer-signature", b"0f")]
        self.assertEqual(decode(signed), (b"", expected))

    def test_empty(self) -> None:
        """An empty object."""
        self.assertEqual(decode(b"0\r\n\r\n"), (b"", []))

    def test_wrong(self) -> None:
        """What is no such body."""
        for body in (
            b"zz\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello!\r\n0\r\n\r\n",
            b"5\r\nhello\r\n",
            b"5\r\nhel",
            b"",
            b"5\r\nhello\r\n0\r\n",
            b"0\r\n\r\n0\r\n\r\n",
            b"0\r\n\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"5" + b";" * LINE_LIMIT + b"\r\nhello\r\n0\r\n\r\n",
            b"0\r\n" + b"a:" + b"b" * 9000 + b"\r\n\r\n",
            b"0\r\n" + b"a:b\r\n" * 2000 + b"\r\n",
            b"0\r\nno name\r\n\r\n",
            b"0\r\n: nothing\r\n\r\n",
        ):
            with self.assertRaises(AwsChunkedError, msg=body[:40]):
                decode(body)

    @given(
        st.lists(st.binary(min_size=1, max_size=40), max_size=6),
        st.sampled_from([b"", SIGNATURE]),
        st.lists(st.tuples(st.just(b"x-amz-checksum-sha1"), st.sampled_from([b"", b"a:b", b"YQ=="])), max_size=2),
        st.lists(st.integers(1, 30)),
    )
    def test_any_cut(
        self, chunks: list[bytes], extension: bytes, trailers: list[tuple[bytes, bytes]], cuts: list[int]
    ) -> None:
        """However the body arrives, the object is the same."""
        body = encode(chunks, extension, trailers)
        pieces, position = [], 0
        for cut in cuts:
            pieces.append(body[position : position + cut])
            position += cut
        pieces.append(body[position:])
        self.assertEqual(decode(*pieces), (b"".join(chunks), trailers))
        self.assertEqual(decode(*(bytes([octet]) for octet in body)), (b"".join(chunks), trailers))

    @given(st.lists(st.binary(max_size=30), max_size=8))
    def test_garbage(self, pieces: list[bytes]) -> None:
        """Any bytes are decoded or refused."""
        try:
            decode(*pieces)
        except AwsChunkedError:
            pass


class HeaderTests(SynchronousTestCase):
    """What a request says about its body."""

    def test_recognised(self) -> None:
        """By Content-Encoding, in any company and case, or by the way the payload is signed."""
        for fields, expected in (
            ({b"Content-Encoding": b"aws-chunked"}, True),
            ({b"Content-Encoding": b"AWS-Chunked, gzip"}, True),
            ({b"Content-Encoding": b"gzip,aws-chunked"}, True),
            ({b"x-amz-content-sha256": b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, True),
            ({b"x-amz-content-sha256": b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, True),
            ({b"x-amz-content-sha256": b"STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER"}, True),
            ({b"x-amz-content-sha256": b"UNSIGNED-PAYLOAD", b"Content-Encoding": b"gzip"}, False),
            ({b"Content-Encoding": b"x-aws-chunked"}, False),
            ({}, False),
            ({b"x-amz-decoded-content-length": b"5"}, True),
            ({b"x-amz-decoded-content-length": b"5", b"x-amz-content-sha256": b"UNSIGNED-PAYLOAD"}, None),
            ({b"Content-Encoding": b"aws-chunked", b"x-amz-content-sha256": b"0" * 64}, None),
        ):
            self.assertIs(is_aws_chunked(Headers(fields.items())), expected, fields)

    def test_two_hashes(self) -> None:
        """A payload can't be signed in two ways."""
        values = (b"STREAMING-UNSIGNED-PAYLOAD-TRAILER", b"UNSIGNED-PAYLOAD")
        self.assertIsNone(is_aws_chunked(Headers([(b"x-amz-content-sha256", value) for value in values])))

    def test_encoding_of_the_object(self) -> None:
        """The object keeps its other encodings, spelt as they were if aws-chunked was not among them."""
        for value, expected in (
            (b"aws-chunked", None),
            (b"aws-chunked,gzip", b"gzip"),
            (b"gzip, aws-chunked, br", b"gzip,br"),
            (b"gzip", b"gzip"),
            (b"gzip, br", b"gzip, br"),
            (b"", None),
        ):
            self.assertEqual(plain_content_encoding(Headers([(b"Content-Encoding", value)])), expected)
        self.assertIsNone(plain_content_encoding(Headers([])))

    def test_length(self) -> None:
        """Digits, and not too many."""
        for value, expected in ((b"12", 12), (b" 0 ", 0), (b"-1", None), (b"1e3", None), (b"9" * 19, None)):
            self.assertEqual(decoded_length(Headers([(b"x-amz-decoded-content-length", value)])), expected)
        self.assertIsNone(decoded_length(Headers([])))
