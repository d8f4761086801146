"""HTTP/1.1 on the client's side, without I/O: the bytes of a request, and an incremental parser of answers.

Nothing is normalised: header names, their order and their values stay as the other side spelled them. The parser keeps
to RFC 9112; where that document leaves a choice:

===============================================  ======================================================================
line ends of a head                              CRLF or a bare LF (2.2); a CR anywhere else is an error
line ends of chunked framing                     CRLF only
blanks between a field's name and the colon      removed (5.1)
obs-fold                                         one space in place of each fold (5.2)
Content-Length together with Transfer-Encoding   error (6.3)
several Content-Length values                    accepted when all are equal, else an error (6.3)
Transfer-Encoding                                ``chunked`` alone, ``identity`` is ignored, all else is an error
101 Switching Protocols                          error: no upgrade is ever asked for
===============================================  ======================================================================
"""

import re
from collections.abc import Callable, Iterator

import attrs

from s3proxy.s3.headers import Headers

__all__ = [
    "END",
    "End",
    "Event",
    "Informational",
    "LAST_CHUNK",
    "MAX_FIELDS",
    "MAX_HEAD",
    "ParseError",
    "ResponseHead",
    "ResponseParser",
    "chunk",
    "content_length",
    "request_head",
]

#: Longest head (status line and fields) and longest trailer section, in bytes.
MAX_HEAD = 65536
#: Most fields in one head.
MAX_FIELDS = 500
#: Most 1xx answers before a final one.
MAX_INFORMATIONAL = 32
#: Longest chunk-size line with its extensions.
MAX_CHUNK_LINE = 4096
LAST_CHUNK = b"0\r\n\r\n"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_token = re.compile(_TOKEN).fullmatch
_target = re.compile(rb"[^\x00-\x20\x7f]+").fullmatch
_status_line = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: ([^\x00\r]*))?").fullmatch
_field = re.compile(rb"(" + _TOKEN + rb")[ \t]*:[ \t]*([^\x00\r]*)").fullmatch
_end_of_head = re.compile(rb"\n\r?\n").search
_chunk_size = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\r\n]*)?").fullmatch


class ParseError(Exception):
    """The peer does not speak HTTP/1.1 as RFC 9112 has it; the connection can't be used any more."""


@attrs.frozen
class Informational:
    """A 1xx answer."""

    status: int
    reason: bytes
    headers: Headers


@attrs.frozen
class ResponseHead:
    """The head of the final answer.

    :ivar length: bytes of the body that will come; None when chunked or ended by the connection's end
    :ivar claimed_length: value of Content-Length, also where no body comes (HEAD, 304); None without one
    :ivar keep_alive: the connection can carry another request after this answer
    """

    status: int
    reason: bytes
    headers: Headers
    length: int | None
    claimed_length: int | None
    keep_alive: bool


class End:
    """The answer is complete. There is one instance, :data:`END`."""

    def __repr__(self) -> str:
        return "END"


END = End()
Event = Informational | ResponseHead | bytes | End


def content_length(headers: Headers) -> int | None:
    """The one value that all Content-Length fields give, or None without such a field.

    :raises ParseError: not a number, or several numbers
    """
    values = headers.get_all(b"content-length")
    if not values:
        return None
    numbers = {part.strip(b" \t") for value in values for part in value.split(b",")}
    number = numbers.pop()
    if numbers or not number.isdigit() or len(number) > 18:
        raise ParseError("Content-Length is not one number")
    return int(number)


def request_head(method: bytes, target: bytes, headers: Headers) -> bytes:
    """The head of a request with exactly these bytes: nothing is added, joined or re-spelled.

    :raises ValueError: a byte in it would change where a line or the target ends
    """
    if _token(method) is None or _target(target) is None:
        raise ValueError("method or target can't be part of a request line")
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    lines += [b"%b: %b\r\n" % pair for pair in headers.pairs]
    lines.append(b"\r\n")
    head = b"".join(lines)
    if not head.count(b"\r") == head.count(b"\n") == len(lines) or b"\0" in head:
        raise ValueError("a header field contains CR, LF or NUL")
    return head


def chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """One chunk (RFC 9112 7.1) as pieces, so that the data need not be copied here. *data* must not be empty."""
    return b"%x\r\n" % len(data), data, b"\r\n"


def _fields(lines: list[bytes]) -> Headers:
    """Header or trailer fields; each line comes without its line end."""
    pairs: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if not pairs or b"\0" in line or b"\r" in line:
                raise ParseError("a folded line that continues nothing")
            name, value = pairs[-1]
            pairs[-1] = name, (value + b" " + line.strip(b" \t")).strip(b" \t")
            continue
        match = _field(line)
        if match is None:
            raise ParseError("a line of the head is not a header field")
        if len(pairs) == MAX_FIELDS:
            raise ParseError(f"more than {MAX_FIELDS} header fields")
        pairs.append((match[1], match[2].rstrip(b" \t")))
    return Headers(pairs)


def _lines(section: bytes) -> list[bytes]:
    """The lines of a head that ends with its last field line's LF."""
    lines = section.split(b"\n")
    lines.pop()
    return [line[:-1] if line.endswith(b"\r") else line for line in lines]


def _tokens(headers: Headers, name: bytes) -> list[bytes]:
    return [part.strip(b" \t").lower() for value in headers.get_all(name) for part in value.split(b",")]


class ResponseParser:
    """The answer to one request, from bytes in pieces of any size to events that do not depend on the pieces.

    Body bytes are given on as the very object that came in whenever that object contains nothing else.

    :ivar began: whether a byte of an answer has come
    :ivar done: whether the final answer is complete
    :ivar surplus: whether bytes came after the end of the answer
    :ivar trailers: the fields after the last chunk
    """

    def __init__(self, method: bytes) -> None:
        self.began = False
        self.done = False
        self.surplus = False
        self.trailers = Headers()
        self._method = method
        self._buffer = bytearray()
        self._informational = 0
        # Bytes left of the body (or of the present chunk); -1: until the connection ends.
        self._left = 0
        self._step: Callable[[bytes], tuple[Event | None, bytes]] = self._head_step

    def take_body(self, data: bytes) -> bool:
        """Whether all of *data* is body and more will come; the caller then has it delivered, and does not feed it."""
        left = self._left
        if left > len(data) and self._step == self._length_step:
            self._left = left - len(data)
            return True
        return False

    def receive(self, data: bytes) -> Iterator[Event]:
        """The events that *data* completes. Consume the iterator before feeding more.

        :raises ParseError: while iterating, after the events that were sound
        """
        if not data:
            return
        self.began = True
        rest: bytes = data
        while rest:
            if self.done:
                self.surplus = True
                return
            event, rest = self._step(rest)
            if event is not None:
                yield event
            while self._ready():
                event, _ = self._step(b"")
                if event is not None:
                    yield event

    def receive_end(self) -> Iterator[Event]:
        """The connection has ended in an orderly way: END if that completes the answer.

        :raises ParseError: the answer is incomplete
        """
        if self.done:
            return
        if self._step == self._close_step:
            self.done = True
            yield END
            return
        raise ParseError("the connection ended in the middle of the answer" if self.began else "no answer")

    # One step takes some bytes and gives at most one event and the bytes it left over.

    def _ready(self) -> bool:
        """Whether the next step needs no input: a body of no bytes is complete at once."""
        return self._step == self._length_step and self._left == 0 and not self.done

    def _head_step(self, data: bytes) -> tuple[Event | None, bytes]:
        section, rest = self._section(data)
        if section is None:
            return None, rest
        lines = _lines(section)
        match = _status_line(lines[0])
        if match is None:
            raise ParseError("not an HTTP/1.1 status line")
        status, reason = int(match[2]), match[3] or b""
        headers = _fields(lines[1:])
        if status < 200:
            self._informational += 1
            if status == 101 or self._informational > MAX_INFORMATIONAL:
                raise ParseError("an upgrade nobody asked for, or too many interim answers")
            return Informational(status, reason, headers), rest
        return self._final(match[1] != b"0", status, reason, headers), rest

    def _final(self, http11: bool, status: int, reason: bytes, headers: Headers) -> ResponseHead:
        claimed = content_length(headers)
        codings = [coding for coding in _tokens(headers, b"transfer-encoding") if coding not in (b"", b"identity")]
        connection = _tokens(headers, b"connection")
        keep_alive = b"close" not in connection and (http11 or b"keep-alive" in connection)
        length: int | None = claimed
        if self._method == b"HEAD" or status in (204, 304):
            length = 0
        elif codings:
            if codings != [b"chunked"]:
                raise ParseError("a transfer coding other than chunked")
            if claimed is not None:
                raise ParseError("both Content-Length and Transfer-Encoding")
            length = None
        if length is not None:
            self._left, self._step = length, self._length_step
        elif codings:
            self._step = self._chunk_line_step
            # RFC 9112 6.1: chunked from HTTP/1.0 hints at a confused intermediary.
            keep_alive = keep_alive and http11
        else:
            self._left, self._step = -1, self._close_step
            keep_alive = False
        return ResponseHead(status, reason, headers, length, claimed, keep_alive)

    def _section(self, data: bytes) -> tuple[bytes | None, bytes]:
        """A head up to its empty line as soon as it is all there, and what follows it."""
        buffer = self._buffer
        searched = max(len(buffer) - 2, 0)
        buffer += data
        match = _end_of_head(buffer, searched)
        end = match.end() if match is not None else len(buffer)
        if end > MAX_HEAD:
            raise ParseError(f"a head longer than {MAX_HEAD} bytes")
        if match is None:
            return None, b""
        section = bytes(buffer[: match.start() + 1])
        rest = bytes(buffer[end:])
        buffer.clear()
        return section, rest

    def _length_step(self, data: bytes) -> tuple[Event | None, bytes]:
        if self._left == 0:
            self.done = True
            return END, data
        if len(data) <= self._left:
            self._left -= len(data)
            return data, b""
        piece, rest = data[: self._left], data[self._left:]
        self._left = 0
        return piece, rest

    def _close_step(self, data: bytes) -> tuple[Event | None, bytes]:
        return data, b""

    def _line(self, data: bytes) -> tuple[bytes | None, bytes]:
        """A line of chunked framing without its CRLF as soon as it is all there, and what follows it."""
        buffer = self._buffer
        end = data.find(b"\n")
        piece = data if end < 0 else data[: end + 1]
        if len(buffer) + len(piece) > MAX_CHUNK_LINE:
            raise ParseError(f"a line of chunked framing longer than {MAX_CHUNK_LINE} bytes")
        buffer += piece
        if end < 0:
            return None, b""
        line = bytes(buffer)
        buffer.clear()
        if not line.endswith(b"\r\n"):
            raise ParseError("a line of chunked framing without CRLF")
        return line[:-2], data[end + 1:]

    def _chunk_line_step(self, data: bytes) -> tuple[Event | None, bytes]:
        line, rest = self._line(data)
        if line is not None:
            match = _chunk_size(line)
            if match is None:
                raise ParseError("not a chunk size")
            self._left = int(match[1], 16)
            self._step = self._chunk_data_step if self._left else self._trailer_step
        return None, rest

    def _chunk_data_step(self, data: bytes) -> tuple[Event | None, bytes]:
        if len(data) < self._left:
            self._left -= len(data)
            return data, b""
        piece, rest = data[: self._left], data[self._left:]
        self._left = 0
        self._step = self._chunk_end_step
        return piece, rest

    def _chunk_end_step(self, data: bytes) -> tuple[Event | None, bytes]:
        line, rest = self._line(data)
        if line is not None:
            if line:
                raise ParseError("a chunk longer than its size")
            self._step = self._chunk_line_step
        return None, rest

    def _trailer_step(self, data: bytes) -> tuple[Event | None, bytes]:
        # The trailer section may be empty: then its first line is the empty one that ends a section.
        if not self._buffer:
            self._buffer += b"\n"
        section, rest = self._section(data)
        if section is None:
            return None, rest
        self.trailers = _fields(_lines(section)[1:])
        self.done = True
        return END, rest
