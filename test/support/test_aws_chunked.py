"""Tests for the aws-chunked encoding."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from test.support.aws_chunked import AwsChunkedReader, encode_chunks, encode_signed_chunks
from test.support.sigv4 import scope_key
from test.support.sigv4_verify import SignatureError, Verified

SCOPE = b"20130524/us-east-1/s3/aws4_request"
SIGNED = Verified(
    access_key="AK",
    payload=b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    signature=b"0" * 64,
    date=b"20130524T000000Z",
    scope=SCOPE,
    key=scope_key("secret", SCOPE),
)


class Pieces:
    """A source of prepared pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    async def read(self) -> bytes:
        """The next piece."""
        return self._pieces.pop(0) if self._pieces else b""


class DecodingTests(SynchronousTestCase):
    """What was encoded comes back; anything else is refused."""

    def decode(self, pieces: Sequence[bytes], signed: Verified | None = None) -> tuple[bytes, dict[bytes, bytes]]:
        """The decoded bytes and the trailers."""
        reader = AwsChunkedReader(Pieces(pieces), signed)

        async def run() -> bytes:
            found = []
            while piece := await reader.read():
                found.append(piece)
            return b"".join(found)

        result: Any = Deferred.fromCoroutine(run())
        return self.successResultOf(result), reader.trailers

    def refused(self, data: bytes, signed: Verified | None = None) -> str:
        """The code of the error that decoding gives."""
        return self.assertRaises(SignatureError, self._decode_now, data, signed).code

    def _decode_now(self, data: bytes, signed: Verified | None) -> None:
        reader = AwsChunkedReader(Pieces([data]), signed)

        async def run() -> None:
            while await reader.read():
                continue

        failures: list[Any] = []
        result: Any = Deferred.fromCoroutine(run())
        result.addErrback(failures.append)
        for failure in failures:
            failure.raiseException()

    @given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 50))
    def test_unsigned(self, chunks: list[bytes], step: int) -> None:
        """Any chunks come back with their trailer, however the bytes are split on the way."""
        coded = encode_chunks(chunks, [(b"x-amz-checksum-crc32", b"AAAA")])
        split = [coded[start : start + step] for start in range(0, len(coded), step)]
        self.assertEqual(self.decode(split), (b"".join(chunks), {b"x-amz-checksum-crc32": b"AAAA"}))

    @given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 50))
    def test_signed(self, chunks: list[bytes], step: int) -> None:
        """Signed chunks come back when every signature is right."""
        coded = encode_signed_chunks(chunks, SIGNED)
        split = [coded[start : start + step] for start in range(0, len(coded), step)]
        self.assertEqual(self.decode(split, SIGNED), (b"".join(chunks), {}))

    def test_recorded(self) -> None:
        """The body that a real client sent."""
        body = b"400\r\n" + bytes(1024) + b"\r\n0\r\nx-amz-checksum-crc32:zWG/dg==\r\n\r\n"
        self.assertEqual(self.decode([body]), (bytes(1024), {b"x-amz-checksum-crc32": b"zWG/dg=="}))

    def test_changed_chunk(self) -> None:
        """A changed byte, a dropped chunk and a missing signature are noticed."""
        coded = encode_signed_chunks([b"first", b"second"], SIGNED)
        self.assertEqual(self.refused(coded.replace(b"first", b"f1rst"), SIGNED), "SignatureDoesNotMatch")
        dropped = coded[coded.index(b"first\r\n") + 7 :]
        self.assertEqual(self.refused(dropped, SIGNED), "SignatureDoesNotMatch")
        self.assertEqual(self.refused(encode_chunks([b"first"]), SIGNED), "SignatureDoesNotMatch")

    def test_damaged(self) -> None:
        """Early ends, trailing bytes, bad sizes and missing line ends are noticed."""
        coded = encode_chunks([b"data"])
        for data in (coded[:-2], coded[:5], coded + b"x", b"xyz\r\n", coded.replace(b"data\r\n", b"data--")):
            self.assertIn(self.refused(data), ("IncompleteBody", "InvalidRequest"))
