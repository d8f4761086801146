"""The client's body on its way to S3, counted, and where needed with a hand on its last piece.

S3 can't act on a request before it has its last byte. Whatever must be true before S3 acts is done while that byte
is still here.
"""

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.s3.errors import S3Error, entity_too_large, slow_down
from s3proxy.util.bodymemory import BodyMemory
from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["CopyBudget", "HoldBack", "IBeside", "IReader"]

MOST_COPIED = 64 * 1024 * 1024
"""Bytes of all requests' bodies together that are read at one time: what is read of them is kept till their ends."""


class IBeside(Protocol):
    """Gets a copy of a body that passes by."""

    def data_received(self, data: bytes) -> None:
        """A piece."""

    def ended(self) -> None:
        """The body is complete."""

    def behind(self) -> "Deferred[None] | None":
        """Fires when the body need not wait for the copy any more; None: it need not wait now."""


class IReader(Protocol):
    """Reads a body that passes by, because it has to be understood.

    :ivar most: how many bytes it takes
    """

    most: int

    def feed(self, data: bytes) -> None:
        """A piece, of the first ``most`` bytes."""


class CopyBudget:
    """Room for what is read of all bodies together.

    :param memory: where it is accounted together with all other bodies
    :ivar size: bytes that there are
    :ivar most: of them, so many were taken at once so far
    :ivar refused: how often there was no room
    """

    def __init__(self, size: int = MOST_COPIED, memory: BodyMemory | None = None) -> None:
        self.memory = BodyMemory() if memory is None else memory
        self.size = self._left = min(size, self.memory.limit or size)
        self.most = 0
        self.refused = 0

    @property
    def taken(self) -> int:
        """Bytes that are taken now."""
        return self.size - self._left

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes more."""
        if size > self._left:
            self.refused += 1
            return False
        self._left -= size
        self.memory.hold(size)
        self.most = max(self.most, self.taken)
        return True

    def give_back(self, size: int) -> None:
        """So many bytes are gone."""
        self._left += size
        self.memory.let_go(size)


@implementer(IByteSource, IByteSink)
class HoldBack:
    """A source that passes another one on, one piece behind if there is something to be done ``before_end``.

    Largest buffer: one piece as the connection delivered it, and what the reader keeps.

    :param before_end: called when the last piece is here; that piece is sent when the Deferred fires, and the body
        fails if it fails; None: nothing is held back
    :param reader: gets the beginning of the body
    :param budget: where room for it is taken from
    :param must_be_read: without room for it the body fails; otherwise the reader is :attr:`unread` then
    :param beside: told of every piece, and of the end when all of them are here
    :param limit: with more bytes than this the body fails
    :ivar received: bytes of the body so far
    :ivar refusal: why it failed here; None: it did not
    :ivar unread: there was no room for the reader: it has not got all that it takes
    """

    def __init__(
        self,
        source: IByteSource,
        before_end: "Callable[[], Deferred[None]] | None",
        *,
        reader: IReader | None = None,
        budget: CopyBudget | None = None,
        must_be_read: bool = True,
        beside: "IBeside | None" = None,
        limit: int | None = None,
    ) -> None:
        self.received = 0
        self.refusal: S3Error | None = None
        self._limit = limit
        self._source = source
        self._before_end = before_end
        self.unread = False
        self._reader = reader
        self._budget = CopyBudget() if budget is None else budget
        self._must_be_read = must_be_read
        self._beside = beside
        self._paused = False
        self._waiting = False
        self._read = 0
        self._held: bytes | None = None
        self._sink: IByteSink | None = None
        self._over = False

    def start(self, sink: IByteSink) -> None:
        """See :class:`IByteSource`."""
        self._sink = sink
        self._source.start(self)

    def pause(self) -> None:
        """See :class:`IByteSource`."""
        self._paused = True
        self._source.pause()

    def resume(self) -> None:
        """See :class:`IByteSource`."""
        self._paused = False
        if not self._waiting:
            self._source.resume()

    def _wait_for_copy(self) -> None:
        behind = None if self._beside is None or self._waiting else self._beside.behind()
        if behind is not None:
            self._waiting = True
            self._source.pause()
            behind.addCallback(self._caught_up)

    def _caught_up(self, _: None) -> None:
        self._waiting = False
        if not self._paused and not self._over:
            self._source.resume()

    def abort(self) -> None:
        """See :class:`IByteSource`."""
        self._end()
        self._source.abort()

    def _end(self) -> None:
        self._over = True
        held, self._held = self._held, None
        if held is not None:
            self._budget.memory.let_go(len(held))
        self._stop_reading()

    def _stop_reading(self) -> None:
        self._reader = None
        read, self._read = self._read, 0
        self._budget.give_back(read)

    def _fail(self, refusal: S3Error) -> None:
        """The client is answered here; S3 gets no more."""
        self.refusal = refusal
        self._source.abort()
        self.stream_failed(Failure(refusal))

    def data_received(self, data: bytes) -> None:
        """See :class:`IByteSink`."""
        if self._over or self._sink is None:
            return
        self.received += len(data)
        if self._limit is not None and self.received > self._limit:
            self._fail(entity_too_large(self._limit))
            return
        if self._beside is not None:
            self._beside.data_received(data)
            self._wait_for_copy()
        if self._reader is not None and not self._let_read(self._reader, data):
            self._fail(slow_down())
            return
        if self._before_end is None:
            self._sink.data_received(data)
            return
        held, self._held = self._held, data
        self._budget.memory.hold(len(data))
        if held is not None:
            self._budget.memory.let_go(len(held))
            self._sink.data_received(held)

    def _let_read(self, reader: IReader, data: bytes) -> bool:
        """False: there is no room for what must be read."""
        piece = data[: reader.most - self._read]
        if not piece:
            return True
        if self._budget.take(len(piece)):
            self._read += len(piece)
            reader.feed(piece)
        elif self._must_be_read:
            return False
        else:
            self.unread = True
            self._stop_reading()
        return True

    def stream_ended(self) -> None:
        """See :class:`IByteSink`."""
        if self._over:
            return
        if self._beside is not None:
            self._beside.ended()
        if self._before_end is None:
            self._let_through(None)
            return
        self._before_end().addCallbacks(self._let_through, self._refused)

    def _refused(self, reason: Failure) -> None:
        if isinstance(reason.value, S3Error):
            self.refusal = reason.value
        self.stream_failed(reason)

    def _let_through(self, _: None) -> None:
        if self._over or self._sink is None:
            return
        held = self._held
        self._end()
        if held is not None:
            self._sink.data_received(held)
        self._sink.stream_ended()

    def stream_failed(self, reason: Failure) -> None:
        """See :class:`IByteSink`."""
        if self._over or self._sink is None:
            return
        self._end()
        self._sink.stream_failed(reason)
