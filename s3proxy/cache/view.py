"""One object version as it can be read now: finished files and bodies under way, behind one interface."""

from enum import Enum

import attrs
from twisted.internet.defer import Deferred, execute

from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.fill import Fill
from s3proxy.cache.followed import Followed
from s3proxy.cache.index import Record
from s3proxy.cache.inspection import AHEAD, DecodedWindow, Inspector, Look
from s3proxy.cache.ram import RamTier
from s3proxy.cache.spans import FileSpan, MemorySpan, Span
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.handles import ReadHandle
from s3proxy.storage.record import HEAD, INLINE, RANGES
from s3proxy.util.intervals import Interval, gaps

__all__ = ["BodyReader", "BodyUnderWay", "Coverage", "View"]

BodyUnderWay = Fill | Followed
"""Got by this process, or by another one."""


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
    :ivar ram: copies in memory of what is in the cache
    :ivar inspector: has stored bytes compared and decoded in threads; None: that is done at once, which takes its time
    """

    version: ObjectVersion
    validated_at: float
    unconfirmed: bool = False
    record: Record | None
    fills: tuple[BodyUnderWay, ...]
    store: DiskStore | None
    ram: RamTier | None = None
    inspector: Inspector | None = None

    def held(self, wanted: Interval | None = None) -> tuple[Interval, ...]:
        """The intervals that are in the cache.

        :param wanted: only those that have some of these bytes
        """
        if self.record is None or self.store is None or self.record.stored.kind == HEAD:
            return ()
        if self.record.stored.kind == INLINE:
            return ((0, self.version.size),)
        try:
            ranges = self.record.range_index(self.store)
            return ranges.all if wanted is None else ranges.within(wanted)
        except OSError:
            return ()

    def coverage(self, wanted: Interval) -> Coverage:
        """How ``wanted`` can be read."""
        held = self.held(wanted)
        if not gaps(wanted, held):
            return Coverage.CACHED if self.record is not None else Coverage.GROWING
        return Coverage.MISSING if gaps(wanted, self.available(wanted)) else Coverage.GROWING

    def available(self, wanted: Interval | None = None) -> tuple[Interval, ...]:
        """The intervals that are in the cache, see :meth:`held`, or on their way into it."""
        return self.held(wanted) + tuple((fill.first, fill.stop) for fill in self.fills if fill.joinable)

    def reader(
        self, wanted: Interval, own: Fill | None = None, *, ram: bool = True, prompt: bool = False
    ) -> "BodyReader":
        """A reader for these bytes. It must be closed.

        :param own: the fill that this reader's request brought about
        :param ram: whether copies in memory may be used and made
        :param prompt: it is asked only once: nothing is begun that takes its time
        """
        return BodyReader(self, wanted, own, ram=ram, prompt=prompt)


class BodyReader:
    """Gives the bytes ``[start, stop)`` of one version span by span, wherever each of them is.

    :ivar version: whose bytes they are
    :ivar position: the offset of the next byte
    :ivar from_upstream: bytes so far that S3 sent because of this reader's own requests
    :ivar from_cache: all others: out of the cache, or out of a body that another request brought about
    :ivar from_disk: some of these were in files of the cache directory
    :ivar unreadable: the disk failed when the cache was read
    """

    def __init__(
        self, view: View, wanted: Interval, own: Fill | None = None, *, ram: bool = True, prompt: bool = False
    ) -> None:
        self.version = view.version
        self.position, self.stop = wanted
        self.from_upstream = 0
        self.from_cache = 0
        self.from_disk = False
        self.unreadable = False
        self._record = view.record
        self._store = view.store
        self._may_use_ram = ram
        self._ram = view.ram if ram else None
        self._inspector = view.inspector
        self._prompt = prompt
        self._window: DecodedWindow | None = None
        self._damaged_at = -1
        self._closed = False
        self._fills: list[BodyUnderWay] = []
        self._own: list[BodyUnderWay] = [] if own is None else [own]
        self._origin: BodyUnderWay | None = None
        self._join_all(view)

    def join(self, fill: BodyUnderWay, *, own: bool = False) -> None:
        """Read from this body, too.

        :param own: this reader's request brought it about
        """
        if fill not in self._fills and not fill.settled:
            fill.attach(self, max(self.position, fill.start))
            self._fills.append(fill)
        if own:
            self._own.append(fill)

    def use(self, view: View) -> None:
        """Go on with a newer view of the same version."""
        self._record = view.record
        self._ram = view.ram if self._may_use_ram else None
        self._inspector = view.inspector
        self._join_all(view)

    def _join_all(self, view: View) -> None:
        for fill in view.fills:
            if fill not in self._fills and fill.joinable and fill.first < self.stop and fill.stop > self.position:
                self.join(fill)

    @property
    def condemned(self) -> bool:
        """Whether the bytes under way turned out not to be what S3 says they are."""
        return any(fill.condemned and fill.failure is not None for fill in self._fills)

    @property
    def expects(self) -> bool:
        """Whether a body that is read has the byte at ``position``, or is to bring it."""
        return any(self._covers(fill) and (fill.failure is None or self.position < fill.have) for fill in self._fills)

    def next(self) -> "Span | Deferred[None] | None":
        """What comes next.

        A span: send it, call its ``release`` if it is one of a file, then :meth:`advance`. A Deferred: wait, then ask
        again. None: nobody has the byte at ``position``.
        """
        self._origin = None
        # What was asked for because of this reader first, even if the cache has it by now: it was got from S3.
        found = self._arrived(self._own) or self._cached() or self._arrived(self._fills)
        if found is None and self._learns():
            found = self._cached()
        if found is not None:
            return found
        for fill in self._fills:
            if self._covers(fill) and fill.failure is None and fill.have <= self.position:
                return fill.wait()
        return None

    def _learns(self) -> bool:
        """Whether a body under way knows of a file in the cache that has the byte at ``position``."""
        record = self._record
        if record is None or record.stored.kind != RANGES:
            return False
        at = self.position
        found = [span for fill in self._fills for span in fill.published if span[0] <= at < span[1]]
        record.add_ranges(found)
        return bool(found)

    def _covers(self, fill: BodyUnderWay) -> bool:
        # Older files of a long fill are closed; what was in them is found by name, if at all.
        return fill.first <= self.position < fill.stop

    def _arrived(self, fills: list[BodyUnderWay]) -> Span | None:
        """What a body under way has of the bytes at ``position``."""
        for fill in fills:
            if fill in self._fills and self._covers(fill):
                span = fill.span(self.position, self.stop)
                if span is not None:
                    self._origin = fill
                    return span
        return None

    def _cached(self) -> "Span | Deferred[None] | None":
        if self._window is not None:
            span = self._window.span(self.position, self.stop)
            if span is not None:
                return span
            self._drop_window()
        record = self._record
        if record is None or self._store is None or record.stored.kind == HEAD:
            return None
        try:
            handle = self._open(record, self._store)
        except OSError:
            self.unreadable = True
            self._record = None
            return None
        if handle is None:
            return None
        if not isinstance(handle, ReadHandle):
            return handle
        self.from_disk = True
        seal, stop = handle.seal, min(handle.stop, self.stop)
        if seal is not None and not seal.sound:
            stop = handle.start + seal.sound_until(self.position - handle.start, stop - handle.start)
            if stop <= self.position:
                return self._inspect(record.stored, handle)
            if stop < min(handle.stop, self.stop):
                self._look_ahead(handle, stop)
        if self._ram is not None:
            stop = min(stop, self._ram.promote(record.stored, handle, self.position))
        return FileSpan(
            handle.fd, handle.base + self.position - handle.start, stop - self.position, False, handle.close
        )

    def _look_ahead(self, handle: ReadHandle, position: int) -> None:
        """Have the next bytes compared while those before ``position`` are sent."""
        inspector = self._inspector
        if inspector is not None and not self._prompt and not inspector.is_comparing(handle, position):
            inspector.compare(handle, position, min(position + AHEAD, handle.stop, self.stop))

    def _inspect(self, stored: StoredEntry, handle: ReadHandle) -> "Span | Deferred[None] | None":
        """The byte at ``position`` can't be sent as it is. The handle is closed."""
        seal = handle.seal
        assert seal is not None
        stop = min(handle.stop, self.stop)
        try:
            if self._prompt:
                return None
            inspector = self._inspector or Inspector(execute)
            if not seal.encoded:
                block = handle.start + seal.footer.span(seal.footer.block_at(self.position - handle.start))[1]
                return inspector.compare(handle, self.position, min(stop, block)).addCallback(self._inspected)
            if self._ram is not None:
                self._ram.promote(stored, handle, self.position)
            return inspector.decode(handle, self.position, stop).addCallback(self._inspected)
        finally:
            handle.close()

    def _inspected(self, result: "DecodedWindow | Look") -> None:
        if isinstance(result, DecodedWindow):
            self._drop_window()
            self._window = result
            if self._closed:
                self._drop_window()
        elif result is Look.FAILED or (result is Look.DAMAGED and self._damaged_at == self.position):
            # Or the file could not be put aside, and is found again and again.
            self.unreadable = True
            self._record = None
        elif result is Look.DAMAGED:
            self._damaged_at = self.position

    def _drop_window(self) -> None:
        window, self._window = self._window, None
        if window is not None:
            window.close()

    def _open(self, record: Record, store: DiskStore) -> "ReadHandle | Span | None":
        """The published bytes at ``position``, if there are any."""
        stored = record.stored
        if stored.kind == INLINE:
            if stored.small_body is not None:
                return MemorySpan(memoryview(stored.small_body)[self.position : self.stop])
            hot = self._in_memory(stored, (0, stored.body_len), stored.encoded)
            if hot is not None:
                return hot
            handle = store.open_inline(stored, sealed=self._ram is not None and self._ram.plain)
            if handle is None:
                self._record = None
            return handle
        best = record.range_index(store).at(self.position)
        if best is None:
            return None
        encoded = best in record.encoded
        hot = self._in_memory(stored, best, encoded)
        if hot is not None:
            return hot
        handle = store.open_range(stored, *best, encoded=encoded)
        if handle is None:
            record.forget_ranges()
        return handle

    def _in_memory(self, stored: StoredEntry, within: Interval, encoded: bool) -> "Span | None":
        if self._ram is None or not (encoded or self._ram.plain):
            return None
        if self._prompt and not self._ram.has(stored, within, self.position):
            # Whoever takes its time asks again, and that counts.
            return None
        return self._ram.find(stored, within, self.position, self.stop, encoded=encoded)

    def advance(self, count: int) -> None:
        """So many bytes are with the client."""
        self.position += count
        if self._origin is not None and self._origin in self._own:
            self.from_upstream += count
        else:
            self.from_cache += count
        for fill in tuple(self._fills):
            if fill.ended and self.position >= fill.stop:
                # Otherwise it would keep its files open, or its bytes, until the last of many bodies has been read.
                self._leave(fill)
            elif self.position > fill.start:
                fill.moved(self, self.position)

    def _leave(self, fill: BodyUnderWay) -> None:
        self._fills.remove(fill)
        if fill in self._own:
            self._own.remove(fill)
        fill.detach(self)

    def close(self) -> None:
        """Leave. Idempotent."""
        self._closed = True
        self._drop_window()
        while self._fills:
            self._leave(self._fills[0])
