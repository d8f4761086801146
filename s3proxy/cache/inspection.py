"""Stored bytes that can't be sent as they are: not compared with their checksums yet, or encoded.

Both is done in threads, for the bytes that are about to be sent and a little ahead of them; who wants the same blocks
compared meanwhile waits for the same work. Everything here belongs to the reactor's thread but the work itself.
"""

from enum import Enum

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.memfile import SMALL, InMemory, copy_sealed
from s3proxy.cache.spans import FileSpan, MemorySpan
from s3proxy.storage.errors import Damaged
from s3proxy.storage.handles import ReadHandle
from s3proxy.util.deferreds import SharedResult

__all__ = ["AHEAD", "DecodedWindow", "Inspector", "Look"]

AHEAD = 4 * 1024 * 1024
"""Bytes that are compared while others are being sent."""
WINDOW = 1024 * 1024
"""Bytes that are decoded at a time for one reader."""
MOST_DECODED = 64 * 1024 * 1024
"""Bytes of such windows of all readers together; above it, windows have ``SMALL`` bytes."""


class Look(Enum):
    """What came of it."""

    SOUND = "sound"
    DAMAGED = "damaged"
    """They are not what was stored; their file should be gone by now."""
    FAILED = "failed"
    """They can't be read."""


def _look(reason: Failure) -> Look:
    return Look.DAMAGED if reason.check(Damaged) else Look.FAILED


class DecodedWindow:
    """Bytes ``[start, stop)`` of an object, decoded for one reader."""

    def __init__(self, content: InMemory, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self._content = content

    def span(self, position: int, stop: int) -> FileSpan | MemorySpan | None:
        """Those from ``position`` on, at most up to ``stop``; None: it has not got that one."""
        if not self.start <= position < self.stop:
            return None
        return self._content.span(position - self.start, min(stop, self.stop) - position)

    def close(self) -> None:
        """They are not needed any more. Idempotent."""
        self._content.drop()


class Inspector:
    """See the module.

    :param run: calls a function in a thread for disk work
    :ivar decoded: bytes in windows
    """

    log = Logger()

    def __init__(self, run: RunInThread) -> None:
        self.decoded = 0
        self._run = run
        self._comparing: dict[tuple[tuple[object, ...], int], SharedResult[Look]] = {}

    def compare(self, handle: ReadHandle, position: int, stop: int) -> "Deferred[Look]":
        """Compare the blocks with these bytes of the object with their checksums.

        :param handle: of a file that is sealed; it may be closed at once
        """
        seal = handle.seal
        assert seal is not None
        start = position - handle.start
        place = seal.identity, seal.footer.block_at(start)
        known = self._comparing.get(place)
        if known is None:
            known = self._comparing[place] = SharedResult()
            held = handle.share()

            def over(result: object) -> None:
                held.close()
                del self._comparing[place]
                if isinstance(result, Failure) and not result.check(OSError):
                    self.log.failure("comparing stored bytes with their checksums", result)
                known.fire(_look(result) if isinstance(result, Failure) else Look.SOUND)

            self._run(seal.check, held.fd, start, stop - handle.start).addBoth(over)
        return known.wait()

    def is_comparing(self, handle: ReadHandle, position: int) -> bool:
        """Whether the block with this byte of the object is being looked at."""
        seal = handle.seal
        assert seal is not None
        return (seal.identity, seal.footer.block_at(position - handle.start)) in self._comparing

    def decode(self, handle: ReadHandle, position: int, stop: int) -> "Deferred[DecodedWindow | Look]":
        """Decode bytes from ``position`` on: to the end of their block, or of some small ones, at most up to ``stop``.

        :param handle: of a file that is sealed; it may be closed at once
        :return: the bytes, or why there are none
        """
        seal = handle.seal
        assert seal is not None
        footer, start = seal.footer, position - handle.start
        last = max(footer.block_at(start), footer.block_at(start + WINDOW) - 1)
        count = min(stop - position, footer.span(last)[1] - start)
        if self.decoded + count > MOST_DECODED:
            count = min(count, SMALL)
        held = handle.share()
        self.decoded += count
        result: SharedResult[DecodedWindow | Look] = SharedResult()

        def decoded(content: "int | bytes") -> None:
            held.close()
            window = DecodedWindow(InMemory(content, count, self._freed), position, position + count)
            if not result.waiting:
                window.close()
            result.fire(window)

        def failed(reason: Failure) -> None:
            held.close()
            self.decoded -= count
            if not reason.check(OSError):
                self.log.failure("decoding stored bytes", reason)
            result.fire(_look(reason))

        # Whoever asks waits before anything can have come.
        waiter = result.wait()
        self._run(copy_sealed, seal, held.fd, start, count).addCallbacks(decoded, failed)
        return waiter

    def _freed(self, size: int, file: bool) -> None:
        self.decoded -= size
