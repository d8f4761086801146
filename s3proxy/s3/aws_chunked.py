"""The body encoding ``aws-chunked``: chunks with a size, optionally signed, and a trailer section.

Source: "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks" and "Including
chunked-encoded trailing headers" of the Amazon S3 API reference. Chunk signatures are S3's to verify.
"""

from s3proxy.s3.headers import Headers

__all__ = ["AwsChunkedDecoder", "AwsChunkedError", "decoded_length", "is_aws_chunked", "plain_content_encoding"]

LINE_LIMIT = 8192
"""Bytes that a chunk's first line, or the trailer section, may have."""

_CHUNKED_HASH = b"STREAMING-"


class AwsChunkedError(ValueError):
    """The body is not aws-chunked, or ends too early."""


def _encodings(headers: Headers) -> list[bytes]:
    values = b",".join(headers.get_all(b"content-encoding"))
    return [token.strip(b" \t") for token in values.split(b",") if token.strip(b" \t")]


def is_aws_chunked(headers: Headers) -> bool | None:
    """Whether a request's body is encoded so; None: its header fields contradict each other. The body's bytes are never
    looked at.

    S3 goes by ``x-amz-content-sha256`` where there is one. Requests that are not signed have none.
    """
    hashes = headers.get_all(b"x-amz-content-sha256")
    if any(value.strip().upper().startswith(_CHUNKED_HASH) for value in hashes):
        return True if len(hashes) == 1 else None
    named = any(token.lower() == b"aws-chunked" for token in _encodings(headers))
    if not named and b"x-amz-decoded-content-length" not in headers:
        return False
    return None if hashes else True


def plain_content_encoding(headers: Headers) -> bytes | None:
    """The Content-Encoding that the object has, as it was sent, or without ``aws-chunked`` if that is in it; None: it
    has none.
    """
    tokens = _encodings(headers)
    rest = [token for token in tokens if token.lower() != b"aws-chunked"]
    values = headers.get_all(b"content-encoding")
    if len(rest) == len(tokens) and len(values) == 1:
        return values[0].strip(b" \t") or None
    return b",".join(rest) or None


def decoded_length(headers: Headers) -> int | None:
    """How many bytes the request says the object has; None if it does not."""
    value = (headers.get(b"x-amz-decoded-content-length") or b"").strip()
    return int(value) if value.isdigit() and len(value) <= 18 else None


class AwsChunkedDecoder:
    """Decodes a body piece by piece, however it is cut.

    :ivar trailers: the trailer section's fields; complete when the body is over
    :ivar complete: whether the end of the body has come
    """

    def __init__(self) -> None:
        self.trailers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self._line = bytearray()
        self._left = 0
        self._state = self._size_line
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The bytes of the object that are in this piece.

        :raises AwsChunkedError: it is no such body
        """
        decoded: list[bytes] = []
        position = 0
        while position < len(data):
            if self.complete:
                raise AwsChunkedError("bytes behind the end")
            if self._left:
                piece = data[position : position + self._left]
                decoded.append(piece)
                self._left -= len(piece)
                position += len(piece)
                if not self._left:
                    self._state = self._end_of_chunk
                continue
            end = data.find(b"\n", position)
            stop = len(data) if end < 0 else end + 1
            self._line += data[position:stop]
            position = stop
            if len(self._line) > LINE_LIMIT:
                raise AwsChunkedError("a line is too long")
            if end >= 0:
                line = bytes(self._line)
                self._line.clear()
                self._state(line)
        return decoded

    def finish(self) -> None:
        """The body is over.

        :raises AwsChunkedError: it has no end
        """
        if not self.complete:
            raise AwsChunkedError("the body ended early")

    def _size_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise AwsChunkedError("a chunk's first line ends without CRLF")
        digits = line[:-2].partition(b";")[0].strip(b" \t")
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            raise AwsChunkedError(f"no size of a chunk: {digits[:20]!r}")
        self._left = int(digits, 16)
        if not self._left:
            self._state = self._trailer_line

    def _end_of_chunk(self, line: bytes) -> None:
        if line != b"\r\n":
            raise AwsChunkedError("a chunk is longer than its size")
        self._state = self._size_line

    def _trailer_line(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > LINE_LIMIT:
            raise AwsChunkedError("the trailer section is too long")
        field = line.rstrip(b"\r\n")
        if not field:
            self.complete = True
            return
        name, colon, value = field.partition(b":")
        if not colon or not name.strip():
            raise AwsChunkedError("a trailer field without a name")
        self.trailers.append((name.strip(b" \t").lower(), value.strip(b" \t")))
