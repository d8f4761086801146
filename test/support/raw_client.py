"""A blocking HTTP client on a bare socket: sends exactly what it is given and shows exactly what comes back.

For tests that drive another process, or that run in a thread of the trial process.
"""

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from test.support.sigv4 import EMPTY_SHA256, Credential, Pair, sign_request

__all__ = ["ConnectionEnded", "RawClient", "RawResponse", "request_bytes", "signed_get", "signed_request_bytes"]


class ConnectionEnded(Exception):
    """The server closed or reset before the answer was complete; ``received`` is what came of it."""

    def __init__(self, message: str, received: bytes) -> None:
        super().__init__(message)
        self.received = received


@attrs.frozen(kw_only=True)
class RawResponse:
    """One answer."""

    version: bytes
    status: int
    reason: bytes
    headers: tuple[Pair, ...]
    body: bytes = b""
    interim: tuple[int, ...] = ()
    """Statuses of the interim responses that came before it."""

    def values(self, name: bytes) -> list[bytes]:
        """All values of the field with this lower-case name."""
        return [value for given, value in self.headers if given.lower() == name]

    def header(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name, or None."""
        return next(iter(self.values(name)), None)


class RawClient:
    """One connection.

    :param ca_file: speak TLS and trust this authority.
    :param receive_buffer: bytes that the kernel may hold for us; small ones make a slow reader felt soon.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout: float = 20,
        ca_file: Path | None = None,
        server_name: str | None = None,
        receive_buffer: int = 0,
    ) -> None:
        self._socket = socket.socket()
        self._socket.settimeout(timeout)
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ca_file is not None:
            context = ssl.create_default_context(cafile=str(ca_file))
            self._socket = context.wrap_socket(self._socket, server_hostname=server_name or host)
        self._buffer = b""

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send all of these bytes."""
        self._socket.sendall(data)

    def send_slowly(self, data: bytes, size: int = 1, pause: float = 0) -> None:
        """Send in pieces of this size."""
        for start in range(0, len(data), size):
            self._socket.sendall(data[start : start + size])
            if pause:
                time.sleep(pause)

    def end_sending(self) -> None:
        """Send FIN, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in order."""
        self._socket.close()

    def abort(self) -> None:
        """Send RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _receive(self, limit: int = 1 << 18) -> bytes:
        try:
            return self._socket.recv(limit)
        except (ConnectionResetError, ssl.SSLEOFError) as problem:
            raise ConnectionEnded(f"reset: {problem}", self._buffer) from problem

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            data = self._receive()
            if not data:
                raise ConnectionEnded("closed", self._buffer)
            self._buffer += data
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def read_some(self, limit: int = 1 << 18) -> bytes:
        """Whatever is there next, at most so many bytes; nothing at the end."""
        if self._buffer:
            data, self._buffer = self._buffer[:limit], self._buffer[limit:]
            return data
        return self._receive(limit)

    def read_exactly(self, count: int, rate: float = 0) -> bytes:
        """So many bytes, not faster than ``rate`` bytes per second if that is given.

        :raises ConnectionEnded: if fewer come.
        """
        pieces: list[bytes] = []
        left = count
        began = time.monotonic()
        while left:
            data = self.read_some(min(left, max(1, int(rate / 20)) if rate else 1 << 18))
            if not data:
                raise ConnectionEnded(f"closed {left} bytes too early", b"".join(pieces))
            pieces.append(data)
            left -= len(data)
            if rate:
                time.sleep(max(0.0, (count - left) / rate - (time.monotonic() - began)))
        return b"".join(pieces)

    def read_to_end(self) -> bytes:
        """Everything until the server closes."""
        pieces = []
        while data := self.read_some():
            pieces.append(data)
        return b"".join(pieces)

    def read_head(self) -> RawResponse:
        """The next final answer's head; interim ones are counted."""
        interim: list[int] = []
        while True:
            line, *fields = self._read_until(b"\r\n\r\n").split(b"\r\n")
            version, status, *reason = line.split(b" ", 2)
            if not status.startswith(b"1"):
                break
            interim.append(int(status))
        headers = []
        for field in fields:
            name, _, value = field.partition(b":")
            headers.append((name, value.strip()))
        return RawResponse(
            version=version,
            status=int(status),
            reason=reason[0] if reason else b"",
            headers=tuple(headers),
            interim=tuple(interim),
        )

    def read_continue(self) -> int:
        """The status of the next head, without looking further: 100, or that of a final answer."""
        while b"\r\n\r\n" not in self._buffer:
            data = self._receive()
            if not data:
                raise ConnectionEnded("closed", self._buffer)
            self._buffer += data
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status == 100:
            self._buffer = rest
        return status

    def read_response(self, method: bytes = b"GET", rate: float = 0) -> RawResponse:
        """The next final answer with its body.

        :raises ConnectionEnded: if the connection ends before the body is complete.
        """
        head = self.read_head()
        if method == b"HEAD" or head.status in (204, 304):
            return head
        if (head.header(b"transfer-encoding") or b"").lower() == b"chunked":
            body = self._read_chunks(rate)
        elif head.header(b"content-length") is not None:
            body = self.read_exactly(int(head.header(b"content-length") or 0), rate)
        else:
            body = self.read_to_end()
        return attrs.evolve(head, body=body)

    def _read_chunks(self, rate: float) -> bytes:
        pieces: list[bytes] = []
        while True:
            size = int(self._read_until(b"\r\n").partition(b";")[0], 16)
            if size == 0:
                while self._read_until(b"\r\n"):
                    continue
                return b"".join(pieces)
            pieces.append(self.read_exactly(size, rate))
            if self.read_exactly(2) != b"\r\n":
                raise ConnectionEnded("a chunk does not end where it said", b"".join(pieces))


def request_bytes(method: bytes, target: bytes, headers: Sequence[Pair], body: bytes = b"") -> bytes:
    """A request on the wire."""
    head = b"%b %b HTTP/1.1\r\n" % (method, target) + b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return head + b"\r\n" + body


def signed_request_bytes(
    method: bytes,
    target: bytes,
    host: bytes,
    credential: Credential,
    *,
    headers: Sequence[Pair] = (),
    unsigned: Sequence[Pair] = (),
    body: bytes = b"",
    payload: bytes = EMPTY_SHA256,
    authority: bytes | None = None,
    signed: Sequence[bytes] | None = None,
) -> bytes:
    """A signed request on the wire.

    :param unsigned: fields that are added after signing.
    :param authority: send the target in absolute-form for this authority, as to a forward proxy.
    :param signed: exactly these lower-case names are signed; by default all that usually are.
    """
    fields = sign_request(
        method, target, [(b"Host", host), *headers], credential, when=time.time(), payload=payload, signed=signed
    )
    line_target = target if authority is None else b"http://" + authority + target
    return request_bytes(method, line_target, [*fields, *unsigned], body)


def signed_get(
    address: tuple[str, int],
    target: bytes,
    host: bytes,
    credential: Credential,
    *,
    method: bytes = b"GET",
    headers: Sequence[Pair] = (),
    unsigned: Sequence[Pair] = (),
    authority: bytes | None = None,
    signed: Sequence[bytes] | None = None,
    timeout: float = 20,
    rate: float = 0,
) -> RawResponse:
    """One signed GET (or HEAD, DELETE) over a connection of its own."""
    with RawClient(*address, timeout=timeout) as client:
        client.send(
            signed_request_bytes(
                method, target, host, credential, headers=headers, unsigned=unsigned, authority=authority, signed=signed
            )
        )
        return client.read_response(method, rate)
