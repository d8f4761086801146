"""Clients that read whole answers over many connections at once, in one thread.

Bodies are discarded in the kernel (``MSG_TRUNC``), as if the client's processor were on another machine: the limit is
the server and not the copy for a client that shares the processors with it. :func:`fetch` reads a body for its bytes.
"""

import re
import select
import socket
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping

import attrs

from bench.process import ServerFailed

__all__ = ["Load", "drive", "fetch"]

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_PIECE = 4 << 20
_HEAD_PIECE = 64 << 10
SILENCE_SECONDS = 60
"""When no byte arrives at any connection for so long, the measurement has failed."""


@attrs.frozen
class Load:
    """What a load was served.

    :ivar requests: complete answers
    :ivar body_bytes: bytes of bodies, those of unfinished answers included
    :ivar seconds: from the first request to the last byte
    :ivar extras: further figures of the answers, by name
    """

    requests: int
    body_bytes: int
    seconds: float
    extras: Mapping[str, float] = attrs.field(factory=dict)


class _Connection:
    """One connection and the answer that it waits for."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.head = b""
        self.left: int | None = None
        self.began = 0.0
        self.first = 0.0
        self.bodiless = False

    def send(self, request: bytes) -> None:
        self.head, self.left, self.first = b"", None, 0.0
        self.bodiless = request.startswith(b"HEAD ")
        self.began = time.perf_counter()
        if self.sock.send(request) != len(request):
            raise ServerFailed("the server does not read")

    def receive(self, buffer: bytearray, flags: int, status: bytes) -> int:
        """Take what is there; returns how many bytes of the body that was."""
        if self.left is None:
            return self._receive_head(status)
        count = self.sock.recv_into(buffer, min(self.left, _PIECE), flags)
        if not count:
            raise ServerFailed(f"the connection was closed {self.left} bytes before the end of the body")
        if not self.first:
            self.first = time.perf_counter()
        self.left -= count
        return count

    def _receive_head(self, status: bytes) -> int:
        piece = self.sock.recv(_HEAD_PIECE)
        if not piece:
            raise ServerFailed(f"the connection was closed before the answer: {self.head!r}")
        self.head += piece
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if self.head[9:12] != status:
            raise ServerFailed(f"not the status {status.decode()}: {self.head[:2000]!r}")
        length = 0
        if not self.bodiless and status not in (b"204", b"304"):
            match = _LENGTH.search(self.head, 0, end + 2)
            if match is None:
                raise ServerFailed(f"an answer without a length: {self.head[:2000]!r}")
            length = int(match[1])
        count = len(self.head) - end - 4
        self.left = length - count
        if self.left < 0:
            raise ServerFailed(f"{-self.left} bytes behind the answer")
        if count or not length:
            self.first = time.perf_counter()
        return count


def _reads_body(connection: _Connection) -> bool:
    return connection.left is not None


def drive(
    port: int,
    requests: Iterable[bytes],
    connections: int,
    *,
    seconds: float | None = None,
    status: int = 200,
    discard: bool = True,
) -> Load:
    """Send these requests over so many connections, each as soon as one is free, and read the answers.

    All connections are made before the first request is sent. The extras are the medians of the times to the first and
    to the last byte of an answer's body: ``first_byte_ms``, ``total_ms``.

    :param seconds: stop after this time, in the middle of answers; by default, when all requests are answered
    :raises ServerFailed: for another status, a body of another length than promised, or 60 silent seconds
    """
    upcoming = iter(requests)
    poller = select.epoll()
    buffer = bytearray(_PIECE)
    flags = socket.MSG_TRUNC if discard else 0
    wanted = str(status).encode()
    everyone = [_Connection(port) for _ in range(connections)]
    firsts: list[float] = []
    totals: list[float] = []
    received = 0
    try:
        waiting: dict[int, _Connection] = {}
        start = time.perf_counter()
        deadline = None if seconds is None else start + seconds
        for connection in everyone:
            request = next(upcoming, None)
            if request is None:
                break
            waiting[connection.sock.fileno()] = connection
            poller.register(connection.sock.fileno(), select.EPOLLIN)
            connection.send(request)
        while waiting and (deadline is None or time.perf_counter() < deadline):
            events = poller.poll(SILENCE_SECONDS if deadline is None else max(0.0, deadline - time.perf_counter()))
            if not events and deadline is None:
                raise ServerFailed(f"no byte within {SILENCE_SECONDS} seconds")
            # Heads first: the time to the first byte must not be that of reading other bodies.
            ready = sorted((waiting[descriptor] for descriptor, _ in events), key=_reads_body)
            for connection in ready:
                received += connection.receive(buffer, flags, wanted)
                if connection.left != 0:
                    continue
                firsts.append(connection.first - connection.began)
                totals.append(time.perf_counter() - connection.began)
                request = next(upcoming, None)
                if request is None:
                    descriptor = connection.sock.fileno()
                    poller.unregister(descriptor)
                    del waiting[descriptor]
                else:
                    connection.send(request)
        took = time.perf_counter() - start
    finally:
        poller.close()
        for connection in everyone:
            connection.sock.close()
    if not totals and not received:
        raise ServerFailed("nothing was answered")
    extras = {}
    if totals:
        extras = {"first_byte_ms": statistics.median(firsts) * 1e3, "total_ms": statistics.median(totals) * 1e3}
    return Load(len(totals), received, took, extras)


def fetch(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to a GET.

    :raises ServerFailed: the connection ends before the body does
    """
    data = b"".join(_pieces(port, request))
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _pieces(port: int, request: bytes) -> Iterator[bytes]:
    with socket.create_connection(("127.0.0.1", port), SILENCE_SECONDS) as sock:
        sock.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = sock.recv(_HEAD_PIECE)
            if not piece:
                raise ServerFailed(f"the connection was closed before the answer: {head!r}")
            head += piece
        yield head
        end = head.index(b"\r\n\r\n") + 2
        match = _LENGTH.search(head, 0, end)
        bodiless = head[9:12] in (b"204", b"304")
        left = 0 if match is None or bodiless else int(match[1]) - (len(head) - end - 2)
        while left > 0:
            piece = sock.recv(min(left, _PIECE))
            if not piece:
                raise ServerFailed(f"the connection was closed {left} bytes before the end of the body")
            left -= len(piece)
            yield piece
