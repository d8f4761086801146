"""The server's end of one HTTP/1.1 connection, for servers that have to be able to misbehave.

One coroutine serves each connection: it reads a head, reads as much of the body as it likes, and writes whatever it
likes. Largest buffers: 512 KiB of what the peer sent, 256 KiB plus one write of what it was sent.
"""

from collections.abc import Awaitable, Callable

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["BadRequest", "BodyReader", "ConnectionFactory", "HTTPConnection", "RequestHead", "sleep"]

Pair = tuple[bytes, bytes]

READ_LIMIT = 512 << 10
HEAD_LIMIT = 64 << 10


class BadRequest(Exception):
    """The peer doesn't speak HTTP/1.1."""


def sleep(reactor: IReactorTime, seconds: float) -> "Deferred[None]":
    """Fires after so many seconds; can be cancelled."""
    done: Deferred[None] = Deferred(lambda _: call.cancel())
    call = reactor.callLater(seconds, done.callback, None)
    return done


@attrs.frozen(kw_only=True)
class RequestHead:
    """A request's line and header fields, every byte as received."""

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[Pair, ...]

    def values(self, name: bytes) -> list[bytes]:
        """All values of the field with this lower-case name."""
        return [value for given, value in self.headers if given.lower() == name]

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name, or None."""
        return next(iter(self.values(name)), None)


@implementer(IPushProducer)
class HTTPConnection(Protocol):
    """One accepted connection: buffered reading and writing with back-pressure, for one coroutine.

    Every wait ends with ``ConnectionLost`` when the peer goes away.
    """

    def __init__(self, number: int, serve: Callable[["HTTPConnection"], Awaitable[None]]) -> None:
        self.number = number
        self.idle = True
        self.lost = False
        self.done: Deferred[None] = Deferred()
        self._serve = serve
        self._buffer = bytearray()
        self._reading_paused = False
        self._writing_paused = False
        self._arrival: Deferred[None] | None = None
        self._room: Deferred[None] | None = None
        self._waits: set[Deferred[None]] = set()

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)  # type: ignore[union-attr]
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]
        serving = Deferred.fromCoroutine(self._run())
        serving.addBoth(self._served)

    async def _run(self) -> None:
        try:
            await self._serve(self)
        except ConnectionLost:
            return

    def _served(self, result: object) -> object:
        if not self.lost:
            self.close()
        return result

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= READ_LIMIT and not self._reading_paused:
            self._reading_paused = True
            self.transport.pauseProducing()  # type: ignore[union-attr]
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._wake()
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)
        for wait in list(self._waits):
            wait.cancel()
        self.done.callback(None)

    def _wake(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.callback(None)

    def pauseProducing(self) -> None:
        self._writing_paused = True

    def resumeProducing(self) -> None:
        self._writing_paused = False
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def stopProducing(self) -> None:
        self._writing_paused = False

    async def _arrived(self) -> None:
        """Wait until more bytes are in the buffer."""
        if self.lost:
            raise ConnectionLost()
        self._arrival = Deferred()
        await self._arrival
        self._check_alive()

    def _check_alive(self) -> None:
        if self.lost and not self._buffer:
            raise ConnectionLost()

    async def wait(self, event: "Deferred[None]") -> None:
        """Wait for the event, at most as long as the connection lives; a wait that ends early cancels it."""
        if self.lost:
            event.cancel()
        else:
            self._waits.add(event)
        try:
            await event
        except BaseException:
            if self.lost:
                raise ConnectionLost() from None
            raise
        finally:
            self._waits.discard(event)

    async def read(self, limit: int = 256 << 10) -> bytes:
        """At least one and at most ``limit`` bytes."""
        while not self._buffer:
            await self._arrived()
        return self._take(min(limit, len(self._buffer)))

    async def read_line(self, limit: int = HEAD_LIMIT) -> bytes:
        """The bytes before the next CRLF, which is consumed too."""
        return (await self._read_until(b"\r\n", limit))[:-2]

    async def _read_until(self, end: bytes, limit: int) -> bytes:
        searched = 0
        while True:
            at = self._buffer.find(end, searched)
            if at >= 0:
                return self._take(at + len(end))
            if len(self._buffer) > limit:
                raise BadRequest(f"no end within {limit} bytes")
            searched = max(0, len(self._buffer) - len(end) + 1)
            await self._arrived()

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        if self._reading_paused and len(self._buffer) < READ_LIMIT // 2 and not self.lost:
            self._reading_paused = False
            self.transport.resumeProducing()  # type: ignore[union-attr]
        return data

    async def read_head(self) -> RequestHead:
        """The next request's head.

        :raises BadRequest: if it is none.
        """
        self.idle = not self._buffer
        while self._buffer[:2] == b"\r\n":
            self._take(2)
        while not self._buffer:
            await self._arrived()
        self.idle = False
        line, *fields = (await self._read_until(b"\r\n\r\n", HEAD_LIMIT))[:-4].split(b"\r\n")
        parts = line.split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            raise BadRequest(f"not a request line: {line!r}")
        headers = []
        for field in fields:
            name, colon, value = field.partition(b":")
            if not colon or not name or name != name.strip():
                raise BadRequest(f"not a header field: {field!r}")
            headers.append((name, value.strip(b" \t")))
        return RequestHead(method=parts[0], target=parts[1], version=parts[2], headers=tuple(headers))

    def write(self, data: bytes) -> None:
        """Send these bytes, in order."""
        self.transport.write(data)  # type: ignore[union-attr]

    def drained(self) -> "Deferred[None]":
        """Fires when more may be written."""
        if self.lost:
            raise ConnectionLost()
        if not self._writing_paused:
            return succeed(None)
        self._room = Deferred()
        return self._room

    async def write_all(self, data: bytes) -> None:
        """Send these bytes, waiting while the peer is slow."""
        await self.drained()
        if self.lost:
            raise ConnectionLost()
        self.write(data)

    def close(self) -> None:
        """Send what was written, then FIN."""
        self.transport.unregisterProducer()  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]

    def reset(self) -> None:
        """Drop what was not sent yet, and send RST."""
        self.transport.unregisterProducer()  # type: ignore[union-attr]
        self.transport.abortConnection()  # type: ignore[union-attr]


class ConnectionFactory(ServerFactory):
    """Makes its protocols by calling ``accept``."""

    noisy = False

    def __init__(self, accept: Callable[[], HTTPConnection]) -> None:
        self._accept = accept

    def buildProtocol(self, addr: IAddress | None) -> HTTPConnection:
        return self._accept()


class BodyReader:
    """The body of one request as a sequence of pieces, whichever way it is framed.

    ``before_first`` is awaited once before the first byte is read: the place for ``100 Continue``.
    """

    def __init__(
        self, connection: HTTPConnection, head: RequestHead, before_first: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._connection = connection
        self._before_first = before_first
        lengths = head.values(b"content-length")
        self.chunked = any(value.lower() == b"chunked" for value in head.values(b"transfer-encoding"))
        if lengths and (self.chunked or len(lengths) > 1 or not lengths[0].isdigit()):
            raise BadRequest("ambiguous length")
        self.length: int | None = None if self.chunked else int(lengths[0]) if lengths else 0
        """Bytes promised by Content-Length, 0 without a body, None if chunked."""
        self.received = 0
        """Bytes of the body read so far, without the framing."""
        self._chunk_left = 0
        self.finished = self.length == 0

    async def read(self) -> bytes:
        """The next piece, or nothing at the end.

        :raises BadRequest: if the chunk framing is wrong.
        """
        if self.finished:
            return b""
        before, self._before_first = self._before_first, None
        if before is not None:
            await before()
        if self.length is not None:
            data = await self._connection.read(min(256 << 10, self.length - self.received))
            self.received += len(data)
            self.finished = self.received == self.length
            return data
        if self._chunk_left == 0:
            size = (await self._connection.read_line(1024)).partition(b";")[0]
            try:
                self._chunk_left = int(size, 16)
            except ValueError:
                raise BadRequest(f"bad chunk size {size!r}") from None
            if self._chunk_left == 0:
                while await self._connection.read_line():
                    continue
                self.finished = True
                return b""
        data = await self._connection.read(min(256 << 10, self._chunk_left))
        self.received += len(data)
        self._chunk_left -= len(data)
        if self._chunk_left == 0 and await self._connection.read_line(2):
            raise BadRequest("bytes after the end of a chunk")
        return data

    async def read_all(self, limit: int) -> bytes:
        """The rest as one string.

        :raises BadRequest: if it is longer than ``limit``.
        """
        pieces = []
        total = 0
        while piece := await self.read():
            total += len(piece)
            if total > limit:
                raise BadRequest(f"body of more than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)
