"""What the tests of the data listener share: sinks, a handler that remembers, a fake transport, a raw client."""

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.gateway.interfaces import IClientRequest
from s3proxy.util.streams import IByteSink
from s3proxy.wire.channel import ClientChannel
from s3proxy.wire.limits import WireLimits
from s3proxy.wire.listen import FileServerPort, adopt_files, bind_socket
from s3proxy.wire.pages import PageCache
from s3proxy.wire.resource import CachingResource
from s3proxy.wire.site import CachingSite


@implementer(IByteSink)
class Collector:
    """A sink that keeps everything; ``on_data`` may act on the source while it is being called."""

    def __init__(self, on_data: Callable[[bytes], None] | None = None) -> None:
        self.pieces: list[bytes] = []
        self.ended = 0
        self.failure: Failure | None = None
        self.on_data = on_data

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def data_received(self, data: bytes) -> None:
        assert data and not self.ended and self.failure is None
        self.pieces.append(data)
        if self.on_data is not None:
            self.on_data(data)

    def stream_ended(self) -> None:
        assert not self.ended and self.failure is None
        self.ended += 1

    def stream_failed(self, reason: Failure) -> None:
        assert not self.ended and self.failure is None
        self.failure = reason


class FakeTransport(StringTransport):
    """Remembers an abort; while it is ``full``, every write pauses the producer."""

    aborted = False
    full = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.full and self.producer is not None:
            self.producer.pauseProducing()

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True


class FileTransport(FakeTransport):
    """Takes pieces of files, too: at once, or, while it ``holds`` them, when :meth:`send` is called.

    :ivar unsent: bytes of files that it was given and has not sent
    """

    page_cache = None
    waits_for_disk = False

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self.unsent = 0
        self.spans: list[tuple[int, int, int, Deferred[None]]] = []

    def answer(self, head: bytes, body: bytes) -> None:
        self.writeSequence((head, body))

    def sendFile(self, fd: int, offset: int, count: int, hot: bool = False) -> "Deferred[None]":
        sent: Deferred[None] = Deferred()
        self.spans.append((fd, offset, count, sent))
        self.unsent += count
        if not self.holds:
            self.send()
        return sent

    def send(self, most: int = 1 << 30) -> None:
        """Send so much of the first span."""
        fd, offset, count, sent = self.spans.pop(0)
        data = os.pread(fd, min(count, most), offset)
        self.io.write(data)
        self.unsent -= len(data)
        if len(data) < count:
            self.spans.insert(0, (fd, offset + len(data), count - len(data), sent))
        else:
            sent.callback(None)

    def fail(self, reason: Exception) -> None:
        """The first span can't be sent."""
        *_, sent = self.spans.pop(0)
        sent.errback(reason)

    def loseWriteConnection(self) -> None:
        self.disconnecting = True

    def acknowledged(self) -> int:
        return len(self.value())

    def hung_up(self) -> bool:
        return False


class Handler:
    """Keeps the requests it gets. ``answer``, if any, is called with each of them at once."""

    def __init__(self, answer: Callable[[Any], Any] | None = None) -> None:
        self.requests: list[Any] = []
        self.answer = answer

    def __call__(self, request: IClientRequest) -> "Deferred[None]":
        self.requests.append(request)
        if self.answer is not None:
            self.answer(request)
        done: Deferred[None] = Deferred()
        return done


def reply(request: Any, body: bytes = b"ok", status: int = 200) -> None:
    """A whole answer."""
    request.start_response(status, b"OK", [(b"X-Target", request.target)], len(body))
    room = request.write(body)
    if room is not None:
        room.addErrback(lambda _: None)
    request.finish()


class Connected:
    """A site on a clock, with one channel on a fake transport."""

    def __init__(
        self, answer: Callable[[Any], Any] | None = None, limits: WireLimits = WireLimits(), listener: str = "http"
    ) -> None:
        self.clock = Clock()
        self.handler = Handler(answer)
        self.site = CachingSite(
            CachingResource(self.handler), self.clock, listener=listener, limits=limits, wall_clock=lambda: 0.0
        )
        self.transport = FakeTransport()
        self.channel: ClientChannel = self.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    @property
    def requests(self) -> list[Any]:
        return self.handler.requests

    @property
    def sent(self) -> bytes:
        """What the client has received."""
        return self.transport.value()

    @property
    def paused(self) -> bool:
        return self.transport.producerState == "paused"

    def receive(self, data: bytes) -> None:
        """The client sends some bytes."""
        self.channel.dataReceived(data)

    def lose(self, clean: bool = True) -> None:
        """The client goes."""
        self.channel.connectionLost(Failure(ConnectionDone() if clean else ConnectionLost()))

    def pass_time(self, seconds: float) -> None:
        """Let the clock run, second by second."""
        for _ in range(int(seconds)):
            self.clock.advance(1)


class Receiver(Protocol):
    """The client's end in tests with real sockets: collects, and can be told to wait for a number of bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.closed: Deferred[None] = Deferred()
        self.reason: Failure | None = None
        self._wanted: tuple[int, Deferred[bytes]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._look()

    def _look(self) -> None:
        if self._wanted is not None and len(self.data) >= self._wanted[0]:
            (count, waiter), self._wanted = self._wanted, None
            waiter.callback(bytes(self.data[:count]))

    def wait_for(self, count: int) -> "Deferred[bytes]":
        """The first ``count`` bytes."""
        waiter: Deferred[bytes] = Deferred()
        self._wanted = (count, waiter)
        self._look()
        return waiter

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:
        self.reason = reason
        self.closed.callback(None)


def small_buffers(sock: socket.socket) -> None:
    """Make the kernel hold little, so that a sender meets a full socket soon."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)


def split_answers(data: bytes) -> list[tuple[bytes, dict[bytes, bytes], bytes]]:
    """Answers framed by Content-Length: status line, fields by lower-case name, body."""
    answers = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        by_name = {name.lower(): value for name, _, value in (field.partition(b": ") for field in fields)}
        length = int(by_name.get(b"content-length", b"0"))
        answers.append((line, by_name, rest[:length]))
        data = rest[length:]
    return answers


def listen_files(
    reactor: Any, factory: IProtocolFactory, interface: str = "127.0.0.1", page_cache: PageCache | None = None
) -> FileServerPort:
    """A port of the system's choice that accepts connections."""
    with bind_socket(0, interface) as sock:
        return adopt_files(reactor, sock, factory, page_cache=page_cache)
