"""The ``aws-chunked`` body encoding, both ways: with signed chunks, with trailing checksums, with both or neither.

Source: "Signature calculations for the authorization header: transferring payload in multiple chunks" and "Trailing
checksums" of the Amazon S3 documentation.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from test.support.sigv4 import chunk_signature, trailer_signature
from test.support.sigv4_verify import SignatureError, Verified

__all__ = ["AwsChunkedReader", "encode_chunks", "encode_signed_chunks"]

LINE_LIMIT = 8192


class Source(Protocol):
    """Where the encoded bytes come from."""

    async def read(self) -> bytes:
        """The next piece, or nothing at the end."""


class AwsChunkedReader:
    """Decodes what ``source`` delivers; ``trailers`` is complete when :meth:`read` has returned nothing.

    :param signed: the verified seed signature, if every chunk has to carry a signature.
    """

    def __init__(self, source: Source, signed: Verified | None = None, signed_trailer: bool = False) -> None:
        self._source = source
        self._signed = signed
        self._signed_trailer = signed_trailer
        self._previous = signed.signature if signed is not None else b""
        self._buffer = b""
        self._left = 0
        self._whole = False
        self.trailers: dict[bytes, bytes] = {}
        self.received = 0
        """Decoded bytes so far."""

    async def _fill(self) -> None:
        data = await self._source.read()
        if not data:
            raise SignatureError(400, "IncompleteBody", "The chunked body ended too early")
        self._buffer += data

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > LINE_LIMIT:
                raise SignatureError(400, "InvalidRequest", "A chunk header is too long")
            await self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def _exactly(self, count: int) -> bytes:
        pieces = []
        while True:
            piece, self._buffer = self._buffer[:count], self._buffer[count:]
            pieces.append(piece)
            count -= len(piece)
            if count == 0:
                return b"".join(pieces)
            await self._fill()

    async def _header(self) -> None:
        size, _, extension = (await self._line()).partition(b";")
        try:
            self._left = int(size, 16)
        except ValueError:
            raise SignatureError(400, "InvalidRequest", f"Not a chunk size: {size!r}") from None
        if self._signed is None:
            return
        # The signature covers the whole chunk, so it has to be held until it is complete: clients use 64 KiB.
        data = await self._exactly(self._left)
        expected = chunk_signature(self._signed.key, self._signed.date, self._signed.scope, self._previous, data)
        if extension != b"chunk-signature=" + expected:
            raise SignatureError(403, "SignatureDoesNotMatch", "The signature of a chunk does not match")
        self._previous = expected
        self._buffer = data + self._buffer

    async def _end(self) -> None:
        lines = []
        while line := await self._line():
            lines.append(line)
        for line in lines:
            name, _, value = line.partition(b":")
            self.trailers[name.strip().lower()] = value.strip()
        if self._signed is not None and self._signed_trailer:
            given = self.trailers.pop(b"x-amz-trailer-signature", b"")
            canonical = b"".join(b"%b:%b\n" % pair for pair in sorted(self.trailers.items()))
            signed = self._signed
            if given != trailer_signature(signed.key, signed.date, signed.scope, self._previous, canonical):
                raise SignatureError(403, "SignatureDoesNotMatch", "The signature of the trailer does not match")
        if self._buffer or await self._source.read():
            raise SignatureError(400, "IncompleteBody", "There are bytes after the end of the chunked body")
        self._whole = True

    async def read(self) -> bytes:
        """The next decoded piece, or nothing at the end.

        :raises SignatureError: if the encoding or a signature is wrong.
        """
        if self._whole:
            return b""
        if self._left == 0:
            await self._header()
            if self._left == 0:
                await self._end()
                return b""
        if not self._buffer:
            await self._fill()
        data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(data)
        self.received += len(data)
        if self._left == 0 and await self._exactly(2) != b"\r\n":
            raise SignatureError(400, "InvalidRequest", "A chunk does not end where it said")
        return data


def encode_chunks(pieces: Iterable[bytes], trailers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """The body of STREAMING-UNSIGNED-PAYLOAD-TRAILER."""
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return coded + b"0\r\n" + b"".join(b"%b:%b\r\n" % pair for pair in trailers) + b"\r\n"


def encode_signed_chunks(pieces: Iterable[bytes], signed: Verified) -> bytes:
    """The body of STREAMING-AWS4-HMAC-SHA256-PAYLOAD; ``signed`` tells key, date, scope and seed signature."""
    previous = signed.signature
    coded = []
    for piece in [*(piece for piece in pieces if piece), b""]:
        previous = chunk_signature(signed.key, signed.date, signed.scope, previous, piece)
        coded.append(b"%x;chunk-signature=%b\r\n%b\r\n" % (len(piece), previous, piece))
    return b"".join(coded)
