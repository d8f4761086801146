"""Where a request's body ends: by length, or by chunks (RFC 9112 section 7.1). No input or output here.

Trailer fields behind the last chunk are dropped, as whoever removes the chunks may do (RFC 9112 section 7.1.2): the
body is framed anew on its way to S3. S3's clients send none. Their checksums and signatures behind a body
(``x-amz-checksum-*``, ``x-amz-trailer-signature``) belong to the encoding ``aws-chunked``, which is content here: S3
gets it byte for byte; see :mod:`s3proxy.s3.aws_chunked`.
"""

import re
from typing import Protocol

from s3proxy.s3.errors import invalid_request

__all__ = ["BodyDecoder", "ChunkedDecoder", "LengthDecoder", "body_decoder"]

LINE_LIMIT = 1024
"""Bytes of a chunk's size line, extensions included."""

TRAILER_LIMIT = 16 * 1024
"""Bytes of all trailer fields, which are read and dropped."""

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BodyDecoder(Protocol):
    """Takes bytes as they come from the connection and gives back those of the body.

    :ivar finished: the body is complete
    :ivar rest: what came behind the body, once it is complete
    """

    finished: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes:
        """The body's bytes among these.

        :raises S3Error: when the framing is broken
        """

    def remaining(self) -> int | None:
        """Bytes of the body that are still to come; None when that can't be known."""


class LengthDecoder:
    """A body of a known number of bytes."""

    __slots__ = ("finished", "rest", "_left")

    def __init__(self, length: int) -> None:
        self.finished = length == 0
        self.rest = b""
        self._left = length

    def feed(self, data: bytes) -> bytes:
        """See :class:`BodyDecoder`."""
        if len(data) < self._left:
            self._left -= len(data)
            return data
        body, self.rest = data[: self._left], data[self._left :]
        self._left = 0
        self.finished = True
        return body

    def remaining(self) -> int | None:
        """See :class:`BodyDecoder`."""
        return self._left


class ChunkedDecoder:
    """A body in chunks. Extensions and trailer fields are checked for their bytes and size, and dropped."""

    __slots__ = ("finished", "rest", "_buffer", "_left", "_step", "_trailer")

    def __init__(self) -> None:
        self.finished = False
        self.rest = b""
        self._buffer = b""
        self._left = 0
        self._trailer = 0
        self._step = self._size_line

    def feed(self, data: bytes) -> bytes:
        """See :class:`BodyDecoder`."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pieces: list[bytes] = []
        position = 0
        while not self.finished:
            following = self._step(data, position, pieces)
            if following is None:
                self._buffer = data[position:]
                break
            position = following
        else:
            self.rest = data[position:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def remaining(self) -> int | None:
        """See :class:`BodyDecoder`."""
        return 0 if self.finished else None

    def _size_line(self, data: bytes, position: int, pieces: list[bytes]) -> int | None:
        end = self._line_end(data, position, LINE_LIMIT)
        if end is None:
            return None
        line = _CHUNK_LINE.fullmatch(data, position, end)
        if line is None:
            raise invalid_request("A chunk's size is malformed.")
        self._left = int(line.group(1), 16)
        self._step = self._content if self._left else self._trailer_line
        return end + 2

    def _content(self, data: bytes, position: int, pieces: list[bytes]) -> int | None:
        piece = data[position : position + self._left]
        if piece:
            pieces.append(piece)
            self._left -= len(piece)
            position += len(piece)
        if self._left == 0:
            self._step = self._content_end
        elif position == len(data):
            if piece:
                return position
            return None
        return position

    def _content_end(self, data: bytes, position: int, pieces: list[bytes]) -> int | None:
        mark = data[position : position + 2]
        if mark == b"\r\n":
            self._step = self._size_line
            return position + 2
        if mark not in (b"", b"\r"):
            raise invalid_request("A chunk is longer than its size says.")
        return None

    def _trailer_line(self, data: bytes, position: int, pieces: list[bytes]) -> int | None:
        end = self._line_end(data, position, TRAILER_LIMIT - self._trailer)
        if end is None:
            return None
        if end == position:
            self.finished = True
        elif _TRAILER_LINE.fullmatch(data, position, end) is None:
            raise invalid_request("A trailer field is malformed.")
        self._trailer += end + 2 - position
        return end + 2

    def _line_end(self, data: bytes, position: int, limit: int) -> int | None:
        end = data.find(b"\r\n", position, position + limit + 2)
        if end >= 0:
            return end
        if len(data) - position >= limit + 2:
            raise invalid_request("A line of the chunked body is too long.")
        if b"\n" in data[position:]:
            raise invalid_request("A line of the chunked body does not end in CRLF.")
        return None


def body_decoder(length: int | None) -> BodyDecoder:
    """The decoder for a body of this length, None for a chunked one."""
    return ChunkedDecoder() if length is None else LengthDecoder(length)
