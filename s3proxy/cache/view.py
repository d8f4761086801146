"""One object version as it can be read now: finished files and bodies under way, behind one interface."""

from enum import Enum

import attrs
from twisted.internet.defer import Deferred

from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.fill import Fill
from s3proxy.cache.index import Record
from s3proxy.cache.spans import FileSpan, MemorySpan, Span
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.record import HEAD, INLINE
from s3proxy.util.intervals import Interval, gaps, total

__all__ = ["BodyReader", "Coverage", "View"]


class Coverage(Enum):
    """How an interval can be read."""

    CACHED = "cached"
    """Every byte is in the cache."""
    GROWING = "growing"
    """Every byte is in the cache or on its way into it."""
    MISSING = "missing"
    """S3 must be asked for some of it."""


@attrs.frozen(kw_only=True)
class View:
    """:ivar validated_at: unix seconds at which the request was sent that confirmed this version; 0 = not to be trusted
    :ivar unconfirmed: written through the proxy, and S3 has not described it yet
    :ivar record: the entry on disk, if it holds this version
    :ivar fills: bodies of this version under way
    """

    version: ObjectVersion
    validated_at: float
    unconfirmed: bool = False
    record: Record | None
    fills: tuple[Fill, ...]
    store: DiskStore | None

    def held(self) -> tuple[Interval, ...]:
        """The intervals that are in the cache."""
        if self.record is None or self.store is None or self.record.stored.kind == HEAD:
            return ()
        if self.record.stored.kind == INLINE:
            return ((0, self.version.size),)
        try:
            return self.record.ranges(self.store)
        except OSError:
            return ()

    def coverage(self, wanted: Interval) -> Coverage:
        """How ``wanted`` can be read."""
        held = self.held()
        if not gaps(wanted, held):
            return Coverage.CACHED if self.record is not None else Coverage.GROWING
        growing = tuple((fill.start, fill.stop) for fill in self.fills if fill.joinable)
        return Coverage.MISSING if gaps(wanted, held + growing) else Coverage.GROWING

    def missing_bytes(self, wanted: Interval) -> int:
        """How many bytes of ``wanted`` are not in the cache."""
        return total(gaps(wanted, self.held()))

    def reader(self, wanted: Interval) -> "BodyReader":
        """A reader for these bytes. It must be closed."""
        return BodyReader(self, wanted)


class BodyReader:
    """Gives the bytes ``[start, stop)`` of one version span by span, wherever each of them is.

    :ivar version: whose bytes they are
    :ivar position: the offset of the next byte
    :ivar from_cache: bytes so far that were finished files or memory, not a body under way
    """

    def __init__(self, view: View, wanted: Interval) -> None:
        self.version = view.version
        self.position, self.stop = wanted
        self.from_cache = 0
        self._record = view.record
        self._store = view.store
        self._fills: list[Fill] = []
        for fill in view.fills:
            if fill.joinable and fill.start < self.stop and fill.stop > self.position:
                self.join(fill)

    def join(self, fill: Fill) -> None:
        """Read from this body, too."""
        fill.attach(self, max(self.position, fill.start))
        self._fills.append(fill)

    def use(self, view: View) -> None:
        """Go on with a newer view of the same version."""
        self._record = view.record
        for fill in view.fills:
            if fill not in self._fills and fill.joinable and fill.start < self.stop and fill.stop > self.position:
                self.join(fill)

    @property
    def condemned(self) -> bool:
        """Whether the bytes under way turned out not to be what S3 says they are."""
        return any(fill.condemned and fill.failure is not None for fill in self._fills)

    def next(self) -> "Span | Deferred[None] | None":
        """What comes next.

        A span: send it, then :meth:`advance`. A Deferred: wait, then ask again. None: nobody has the byte at
        ``position``.
        """
        span = self._cached()
        if span is not None:
            self.from_cache += span.count
            return span
        waiting = None
        for fill in self._fills:
            if not fill.start <= self.position < fill.stop:
                continue
            span = fill.span(self.position, self.stop)
            if span is not None:
                return span
            if fill.failure is None and waiting is None:
                waiting = fill
        return None if waiting is None else waiting.wait()

    def _cached(self) -> "Span | None":
        record = self._record
        if record is None or self._store is None or record.stored.kind == HEAD:
            return None
        stored = record.stored
        try:
            if stored.kind == INLINE:
                if stored.small_body is not None:
                    return MemorySpan(memoryview(stored.small_body)[self.position : self.stop])
                handle = self._store.open_inline(stored)
            else:
                handle = None
                best = self.position
                for start, stop in record.ranges(self._store):
                    if start > self.position:
                        break
                    if stop > best:
                        best, chosen = stop, (start, stop)
                if best > self.position:
                    handle = self._store.open_range(stored, *chosen)
                    if handle is None:
                        record.forget_ranges()
        except OSError:
            return None
        if handle is None:
            if stored.kind == INLINE:
                self._record = None
            return None
        count = min(handle.stop, self.stop) - self.position
        return FileSpan(handle.fd, handle.base + self.position - handle.start, count, False, handle.close)

    def advance(self, count: int) -> None:
        """So many bytes are with the client."""
        self.position += count
        for fill in self._fills:
            if self.position > fill.start:
                fill.moved(self, self.position)

    def close(self) -> None:
        """Leave. Idempotent."""
        fills, self._fills = self._fills, []
        for fill in fills:
            fill.detach(self)
