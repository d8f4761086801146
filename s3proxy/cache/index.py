"""What this process knows of the entries on disk, so that a hit needs no file system at all.

A record is void as soon as the key's slot in the generation table has another value than before the record was
loaded: whoever invalidates an entry, in whatever process of the host, changes the slot first. Records are also read
again after ``refresh_interval``, because other hosts and people with ``rm`` don't know the table.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable

from s3proxy.cache.entry import ObjectId, ObjectVersion, decode_version
from s3proxy.cache.ram import RamTier
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import EntryName, entry_name
from s3proxy.storage.record import RANGES
from s3proxy.telemetry.counts import CacheCounts
from s3proxy.util.intervals import Interval, IntervalIndex

__all__ = ["EntryIndex", "Record"]

_RECORD_WEIGHT = 2048


_serials = itertools.count(1)


class Record:
    """One entry as it was found on disk.

    :ivar list_again_at: when the directory may be listed again for what others have put there (the reactor's seconds)
    :ivar encoded: those of its range files whose bytes can't be sent as they are, as far as they were looked for
    :ivar serial: no other record of this process has it: what was derived from this one can be told to be stale by it,
        without keeping the record in memory
    """

    __slots__ = ("checked_at", "encoded", "epoch", "list_again_at", "name", "serial", "stored", "version", "_ranges")

    def __init__(
        self, name: EntryName, epoch: int, checked_at: float, stored: StoredEntry, version: ObjectVersion
    ) -> None:
        self.name = name
        self.serial = next(_serials)
        self.epoch = epoch
        self.checked_at = checked_at
        self.stored = stored
        self.version = version
        self.encoded: frozenset[Interval] = frozenset()
        self.list_again_at = 0.0
        self._ranges: IntervalIndex | None = None

    @property
    def weight(self) -> int:
        """Bytes in memory, about: the description is there in its stored and in its decoded form."""
        return _RECORD_WEIGHT + 4 * len(self.stored.meta) + len(self.stored.small_body or b"")

    def ranges(self, store: DiskStore) -> tuple[Interval, ...]:
        """The finished range files, sorted; read from the directory once."""
        return self.range_index(store).all

    def range_index(self, store: DiskStore) -> IntervalIndex:
        """The same, to look only at some: there may be many thousands."""
        if self._ranges is None:
            found, self.encoded = store.listed(self.stored)
            self._ranges = IntervalIndex(found)
        return self._ranges

    def renewed(self, stored: StoredEntry) -> "Record":
        """The record of the same entry after it was confirmed. When it was read from disk stays as it is."""
        record = Record(self.name, stored.epoch, self.checked_at, stored, self.version)
        record._ranges, record.encoded = self._ranges, self.encoded
        return record

    def add_ranges(self, ranges: Iterable[Interval]) -> None:
        """These files are there now, too."""
        if self._ranges is not None:
            for each in ranges:
                self._ranges.add(each)

    def forget_ranges(self) -> None:
        """The directory has changed."""
        self._ranges = None


class EntryIndex:
    """The records of at most ``max_entries`` objects, least recently used ones leaving first.

    :param max_bytes: what the records may take in memory, small bodies included
    :param ram: copies of larger bodies, with which the memory is shared
    :param counts: where look-ups are counted
    """

    def __init__(
        self,
        store: DiskStore,
        generations: GenerationTable,
        now: Callable[[], float],
        *,
        max_entries: int,
        max_bytes: int,
        refresh_interval: float,
        ram: RamTier | None = None,
        counts: CacheCounts | None = None,
    ) -> None:
        self._store = store
        self._generations = generations
        self._now = now
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._refresh_interval = refresh_interval
        self._ram = ram
        self._records: OrderedDict[ObjectId, Record] = OrderedDict()
        self._counts = counts or CacheCounts()

    def __contains__(self, id: ObjectId) -> bool:
        return id in self._records

    def __len__(self) -> int:
        return len(self._records)

    @property
    def bytes(self) -> int:
        """What the records take in memory, about."""
        return self._bytes

    def get(self, id: ObjectId, group: str | None = None) -> Record | None:
        """The current record of an object, read from disk if need be.

        :param group: of operations, for the counts; None: this look does not count
        :raises OSError: when the disk can't be read
        """
        record = self._records.get(id)
        now = self._now()
        if (
            record is not None
            and record.epoch == self._generations.get(record.name.slot)
            and 0 <= now - record.checked_at < self._refresh_interval
        ):
            self._records.move_to_end(id)
            self._counts.looked(group, "hit")
            return record
        memory = "miss" if record is None else "stale"
        name = record.name if record is not None else entry_name(id.parts)
        # The slot's value must be older than what is loaded: an invalidation in between voids the record at once.
        epoch = self._generations.get(name.slot)
        stored = None if self._generations.is_tainted(name.slot) else self._store.load(name)
        version = None if stored is None else decode_version(stored.meta)
        if stored is None or version is None or version.id != id:
            self._counts.looked(group, memory, "miss")
            self.forget(id)
            if self._ram is not None:
                self._ram.drop(name.digest)
            return None
        self.forget(id)
        if self._ram is not None:
            self._ram.retain(name.digest, stored)
        self._counts.looked(group, memory, "hit")
        self._counts.descriptions.observe(len(stored.meta))
        record = Record(name, epoch, now, stored, version)
        self._add(id, record)
        return record

    def _add(self, id: ObjectId, record: Record) -> None:
        self._records[id] = record
        self._bytes += record.weight
        self._make_room()

    def hot(self, id: ObjectId) -> Record | None:
        """The record of an object if it is in memory and need not be read again."""
        record = self._records.get(id)
        if (
            record is not None
            and record.epoch == self._generations.get(record.name.slot)
            and 0 <= self._now() - record.checked_at < self._refresh_interval
        ):
            return record
        return None

    def forget(self, id: ObjectId) -> None:
        """Read it from disk the next time."""
        record = self._records.pop(id, None)
        if record is not None:
            self._bytes -= record.weight
            if self._ram is not None:
                self._ram.descriptions = self._bytes

    def renew(self, id: ObjectId, confirm: Callable[[], StoredEntry | None]) -> None:
        """Have the entry of an object confirmed, and go on with its record if nothing else about it has changed.

        :param confirm: does it; None: it could not
        """
        record = self.hot(id)
        stored = confirm()
        self.forget(id)
        if record is not None and stored is not None and stored.kind == RANGES:
            known, now = record.stored, stored
            if (known.kind, known.generation, known.meta) == (now.kind, now.generation, now.meta):
                self._add(id, record.renewed(stored))

    def published(self, id: ObjectId, entry: StoredEntry, ranges: Iterable[Interval]) -> None:
        """This process has published range files of an entry: they are known without reading a directory that may hold
        many thousands.
        """
        record = self._records.get(id)
        if record is None or (record.stored.kind, record.stored.generation) != (entry.kind, entry.generation):
            self.forget(id)
        else:
            record.add_ranges(ranges)

    def resize(self, max_bytes: int) -> None:
        """The records may take so much from now on."""
        self._max_bytes = max_bytes
        self._make_room()

    def _make_room(self) -> None:
        limit = self._max_bytes
        if self._ram is not None:
            limit = self._ram.leave(min(self._bytes, limit))
        while len(self._records) > 1 and (len(self._records) > self._max_entries or self._bytes > limit):
            _, old = self._records.popitem(last=False)
            self._bytes -= old.weight
            self._counts.descriptions_evicted += 1
        if self._ram is not None:
            self._ram.descriptions = self._bytes
