"""An origin with a scripted pace: so long to its first byte, then so many bytes per second, to every request alike.

    python -m bench.paced_origin --port 9000 --size 104857600 --rate 104857600 --delay 0.1

Every path is an object of the same size and of the same bytes, with an ETag of its own that is, like that of an object
that was uploaded in parts, no digest of the bytes. Single ranges are honoured.
``/account`` tells what was sent so far. Plain HTTP, so that the pace costs little processor time.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["ACCOUNT_PATH", "Account", "PacedBody", "PacedOrigin", "Script"]

ACCOUNT_PATH = "/account"
TICK_SECONDS = 0.005
CATCH_UP_SECONDS = 0.1
"""A sender that was late sends at once what was due meanwhile, but not more than what is due in this time: a link that
stood still has saved nothing."""
_RANGE = re.compile(rb"(?i)\r\nrange: *bytes=([0-9]+)-([0-9]*) *\r\n")
_BLOCK = 1 << 20
_LAST_MODIFIED = b"Sun, 22 Nov 2026 10:00:00 GMT"


@attrs.frozen
class Script:
    """What every request gets: ``size`` bytes at ``rate`` bytes per second after ``delay`` seconds."""

    size: int
    rate: float
    delay: float


@attrs.define
class Account:
    """What was sent.

    :ivar requests: answers with a body
    :ivar body_bytes: bytes of bodies
    :ivar late_seconds: by which bodies came later than scripted, because a receiver or this process was slow
    """

    requests: int = 0
    body_bytes: int = 0
    late_seconds: float = 0.0


@implementer(IPushProducer)
class PacedBody:
    """Writes [start, stop) of the object at the pace of the clock: after t seconds, t × rate bytes are written, however
    late the calls of the clock come.

    :param finished: called once, after the last byte
    """

    def __init__(
        self,
        clock: IReactorTime,
        consumer: IConsumer,
        block: bytes,
        interval: tuple[int, int],
        rate: float,
        account: Account,
        finished: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._consumer = consumer
        self._block = block
        self._position, self._stop = interval
        self._rate = rate
        self._account = account
        self._finished = finished
        self._paused = False
        self._call: IDelayedCall | None = None
        self._origin = clock.seconds() - self._position / rate
        """When the byte 0 would have been due."""

    def begin(self) -> None:
        """From now on, bytes are due."""
        self._consumer.registerProducer(self, True)
        self._tick()

    def _tick(self) -> None:
        self._call = None
        if self._paused:
            return
        now = self._clock.seconds()
        due = int((now - self._origin) * self._rate + 0.5)
        behind = due - self._position - int(CATCH_UP_SECONDS * self._rate)
        if behind > 0:
            self._origin += behind / self._rate
            self._account.late_seconds += behind / self._rate
            due -= behind
        due = min(due, self._stop)
        while self._position < due:
            offset = self._position % _BLOCK
            piece = self._block[offset : offset + due - self._position]
            self._position += len(piece)
            self._account.body_bytes += len(piece)
            self._consumer.write(piece)
        if self._position == self._stop:
            self._consumer.unregisterProducer()
            self._finished()
        elif not self._paused:
            self._call = self._clock.callLater(TICK_SECONDS, self._tick)

    def pauseProducing(self) -> None:  # noqa: N802
        """The receiver is slower than the pace."""
        self._paused = True
        self._cancel()

    def resumeProducing(self) -> None:  # noqa: N802
        """Go on; see :data:`CATCH_UP_SECONDS`."""
        self._paused = False
        if self._position < self._stop and self._call is None:
            self._call = self._clock.callLater(0, self._tick)

    def stopProducing(self) -> None:  # noqa: N802
        """The receiver is gone."""
        self._position = self._stop
        self._cancel()

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None


class PacedOrigin(Protocol):
    """One connection; requests without bodies, one after the other."""

    def __init__(self, clock: IReactorTime, script: Script, account: Account, block: bytes) -> None:
        self._clock = clock
        self._script = script
        self._account = account
        self._block = block
        self._received = b""
        self._answering = False
        self._delay: IDelayedCall | None = None

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Collect a head and answer it."""
        self._received += data
        self._next()

    def _next(self) -> None:
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4 or self._answering:
            return
        head, self._received = self._received[:end], self._received[end:]
        method, path, _ = head.split(b"\r\n", 1)[0].split(b" ")
        self._answering = True
        if path == ACCOUNT_PATH.encode():
            document = json.dumps(attrs.asdict(self._account)).encode()
            self._write_head(b"200 OK", [b"Content-Length: %d" % len(document), b"Content-Type: application/json"])
            self._write(document)
            self._done()
            return
        self._delay = self._clock.callLater(self._script.delay, self._answer, method, path, head)

    def _answer(self, method: bytes, path: bytes, head: bytes) -> None:
        self._delay = None
        size = self._script.size
        start, stop, status = 0, size, b"200 OK"
        fields = [b"Accept-Ranges: bytes", b"Last-Modified: " + _LAST_MODIFIED, b"Content-Type: binary/octet-stream"]
        fields.append(b'ETag: "%s-13"' % hashlib.md5(path).hexdigest().encode())
        wanted = _RANGE.search(head)
        if wanted is not None and int(wanted[1]) < size:
            start, stop = int(wanted[1]), min(size, int(wanted[2] or size) + 1)
            status = b"206 Partial Content"
            fields.append(b"Content-Range: bytes %d-%d/%d" % (start, stop - 1, size))
        fields.append(b"Content-Length: %d" % (stop - start))
        self._write_head(status, fields)
        if method == b"HEAD":
            self._done()
            return
        self._account.requests += 1
        consumer = IConsumer(self.transport)
        PacedBody(
            self._clock, consumer, self._block, (start, stop), self._script.rate, self._account, self._done
        ).begin()

    def _write_head(self, status: bytes, fields: list[bytes]) -> None:
        self._write(b"\r\n".join([b"HTTP/1.1 " + status, b"Server: paced", *fields, b"", b""]))

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def _done(self) -> None:
        self._answering = False
        self._next()

    def connectionLost(self, reason: Failure | None = None) -> None:  # noqa: N802
        """Send nothing any more; a body that is on its way is stopped by the transport."""
        if self._delay is not None:
            self._delay.cancel()
            self._delay = None


def main() -> None:
    """Serve until SIGTERM."""
    from twisted.internet import reactor

    parser = argparse.ArgumentParser(description="An origin with a scripted pace.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--size", type=int, required=True, help="bytes of every object")
    parser.add_argument("--rate", type=float, required=True, help="bytes per second of every answer")
    parser.add_argument("--delay", type=float, required=True, help="seconds to the first byte")
    options = parser.parse_args()
    script = Script(options.size, options.rate, options.delay)
    account = Account()
    block = os.urandom(_BLOCK)
    factory = Factory.forProtocol(lambda: PacedOrigin(reactor, script, account, block))  # type: ignore[arg-type]
    factory.noisy = False
    reactor.listenTCP(options.port, factory, 1024, "127.0.0.1")  # type: ignore[arg-type, attr-defined]
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
