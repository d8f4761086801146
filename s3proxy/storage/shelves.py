"""What is in the directory: found, opened, compared, and stored smaller."""

import time

from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.eviction import Evictor
from s3proxy.storage.handles import ReadHandle
from s3proxy.storage.layout import EntryName
from s3proxy.storage.packing import Packed, Packing, pack_entry, pack_range
from s3proxy.storage.reading import listed, load, open_inline, open_range, ranges
from s3proxy.storage.scrub import Scrub
from s3proxy.storage.volume import Volume

__all__ = ["Shelves"]


class Shelves:
    """The part of :class:`~s3proxy.storage.store.DiskStore` that changes nothing of what is stored but its form."""

    def __init__(self, volume: Volume, evictor: Evictor, lease_seconds: float) -> None:
        self.volume = volume
        self.evictor = evictor
        self._lease_seconds = lease_seconds

    def load(self, name: EntryName) -> StoredEntry | None:
        """The entry that is published under ``name`` now. A damaged one is removed.

        :raises OSError: the disk failed
        """
        with self.volume.counts.timed("meta_read"):
            return load(self.volume, name)

    def ranges(self, entry: StoredEntry) -> tuple[tuple[int, int], ...]:
        """The published ranges [start, stop) of an entry, sorted. They may overlap."""
        return ranges(self.volume, entry)

    def listed(self, entry: StoredEntry) -> tuple[tuple[tuple[int, int], ...], frozenset[tuple[int, int]]]:
        """The same, and which of them are encoded."""
        return listed(self.volume, entry)

    def open_range(self, entry: StoredEntry, start: int, stop: int, *, encoded: bool = False) -> ReadHandle | None:
        """Open the range file of exactly these bytes; None when there is none. A damaged one is put aside.

        What of it was not compared with its checksums yet, the handle's seal knows.

        :param encoded: whether it probably is
        """
        return open_range(self.volume, entry, start, stop, encoded=encoded)

    def open_inline(self, entry: StoredEntry, *, sealed: bool = False) -> ReadHandle | None:
        """Open the body of an inline entry; None when the entry is no longer this one. A damaged one is put aside.

        :param sealed: have the handle's seal also when there is nothing left to be compared
        """
        began = time.perf_counter()
        try:
            return open_inline(self.volume, entry, sealed=sealed)
        finally:
            self.volume.counts.took("range_read", time.perf_counter() - began)

    # Making it smaller

    def pack_range(self, entry: StoredEntry, start: int, stop: int, *, block: int) -> Packing:
        """Store a range file of exactly these bytes smaller, if it is worth it. Blocks, for some milliseconds per MiB.

        :param block: logarithm of the size of what is encoded, and has to be decoded, as one
        :raises OSError: the disk failed; what there was is still there
        """
        return self._noted(pack_range(self.volume, self.evictor, entry, start, stop, block=block))

    def pack_entry(self, entry: StoredEntry, *, block: int) -> Packing:
        """The same for the body of an inline entry."""
        return self._noted(pack_entry(self.volume, self.evictor, entry, block=block, lease_seconds=self._lease_seconds))

    def _noted(self, packing: Packing) -> Packing:
        if packing.outcome is Packed.SMALLER:
            self.volume.counts.made_smaller(packing.before, packing.after)
        elif packing.outcome is Packed.NOT_WORTH:
            self.volume.counts.left_as_it_is()
        return packing

    def scrub(self) -> Scrub:
        """Passes over the directory to compare everything with its checksums, to be stepped through as long as the
        process runs.
        """
        return Scrub(self.volume)

    # Room

    def usage(self) -> int:
        """Published bytes, counted as :func:`s3proxy.storage.layout.footprint` says. An upper bound until the scan is
        over.
        """
        return max(0, self.volume.ledger.used)

    def in_flight(self) -> int:
        """Bytes in files that are being written."""
        return self.volume.ledger.in_flight

    def unread(self) -> int:
        """Those of the published bytes that were written through and nobody has read yet, and those of unfinished
        uploads. Too few until the scan is over.
        """
        return self.volume.ledger.unread

    def staged(self) -> int:
        """Those of them that belong to unfinished uploads."""
        return self.volume.ledger.staged

    def make_room(self, size: int) -> bool:
        """Evict until ``size`` bytes could be published; False when they can't. May take long."""
        return self.evictor.make_room(size)
