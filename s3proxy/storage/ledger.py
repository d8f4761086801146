"""How many bytes the cache directory holds, and who may add some."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

__all__ = ["ASSUMED", "FIXED_OVERHEAD", "KNOWN", "Ledger"]

FIXED_OVERHEAD = 12 * 4096
KNOWN: Final = 1
ASSUMED: Final = 2
"""Of a shard's sum, beside 0: unknown."""


class Ledger:
    """Counts published bytes, reservations and bytes in flight. Thread-safe.

    Every number is a footprint (:func:`s3proxy.storage.layout.footprint`). A byte is counted when its name appears and
    taken off when its name goes, by whoever did it.

    **After a restart** nobody knows what the directory holds until every shard has been walked. Until then the ledger
    goes by the number that was declared on disk before, which is never below the truth, plus what changed since. Each
    shard that was walked contributes its true sum; when all have, the true sum counts. To sum up a shard that changes
    meanwhile, the walk brackets it (:meth:`begin_walk`, :meth:`end_walk`) and repeats when there was a change in
    between. The sum of a shard that never rests is **assumed** (:meth:`assume`): what is known to be added and removed
    from then on counts, and a later walk that nobody disturbs puts it right.

    **Unread** bytes, those of entries that were written through and that nobody has read yet and those of uploads that
    are not finished, are counted among the published ones and once more by themselves: they have a limit of their own.
    Before every shard has been walked, only what is known of them counts.

    :param limit: the most that may be published, 0 for no limit
    :param shards: number of shards; the last one is that of unfinished uploads
    :param declared: what the directory may already hold
    :param walked: True for a new directory
    :param spare: room that only shard directories, which are made as they are needed, may take
    :param unread_limit: the most that may be unread, 0 for no limit
    :ivar drift: by how much the number that counted until the last walk was over exceeded the truth
    :ivar squeezed_at: since when the capacity has been lowered; 0: it is not
    :ivar told: gets what is added by this process: shard, bytes and unread bytes
    """

    told: Callable[[int, int, int], None] | None = None

    def __init__(
        self, limit: int, shards: int, *, declared: int, walked: bool, spare: int = 0, unread_limit: int = 0
    ) -> None:
        self._lock = threading.Lock()
        self.limit = limit
        self._estimate = declared + (FIXED_OVERHEAD if walked else 0)
        self._exact = FIXED_OVERHEAD
        self._walked: Any = bytearray(b"\1" * shards if walked else shards)
        self._believed: dict[int, list[int]] = {}
        self._unwalked = 0 if walked else shards
        self._versions = [0] * shards
        self._first_version = 0
        self._active = [0] * shards
        self._reserved = 0
        self._in_flight = 0
        self._squeeze = 0
        self.squeezed_at = 0.0
        self.unread_limit = unread_limit
        self._unread = 0
        self._unread_reserved = 0
        self._staged = 0
        self.drift = 0
        self._spare = min(spare, limit // 16)

    @property
    def complete(self) -> bool:
        """Whether :attr:`used` is the truth, not an upper bound."""
        return self._unwalked == 0

    @property
    def used(self) -> int:
        """Published bytes; negative only when other processes removed what this one counted."""
        return self._exact if self._unwalked == 0 else self._estimate

    @property
    def reserved(self) -> int:
        """Bytes that are about to be published."""
        return self._reserved

    @property
    def committed(self) -> int:
        """What the directory may hold before anybody asks for room again: published, reserved and set aside."""
        return max(0, self.used) + self._reserved + self._spare

    @property
    def in_flight(self) -> int:
        """Bytes in files that have no final name yet."""
        return self._in_flight

    @property
    def capacity(self) -> int:
        """What may be published at present: the limit, or less while the file system itself is full. 0: anything."""
        if self._squeeze:
            return min(self.limit, self._squeeze) if self.limit else self._squeeze
        return self.limit

    def squeeze(self, capacity: int) -> None:
        """Lower the capacity for a while, because the file system has no more room; 0 lifts it again."""
        self._squeeze = max(0, capacity)

    def fits(self, size: int) -> bool:
        """Whether ``size`` more bytes may be published."""
        capacity = self.capacity
        return capacity == 0 or self.used + self._reserved + self._spare + size <= capacity

    def could_fit(self, size: int) -> bool:
        """Whether ``size`` bytes would fit into the directory if everything else were evicted."""
        capacity = self.capacity
        return capacity == 0 or FIXED_OVERHEAD + self._spare + size <= capacity

    def reserve(self, size: int) -> bool:
        """Set ``size`` bytes aside for a publication; False, and nothing is set aside, when they don't fit."""
        with self._lock:
            if not self.fits(size):
                return False
            self._reserved += size
            return True

    def release(self, size: int) -> None:
        """Give a reservation back, because it was used or is not needed."""
        with self._lock:
            self._reserved -= size

    @property
    def unread(self) -> int:
        """Published bytes that were written through, or staged, and that nobody has read; see the class."""
        return max(0, self._unread)

    @property
    def staged(self) -> int:
        """Those of them that belong to unfinished uploads."""
        return max(0, self._staged)

    def fits_unread(self, size: int) -> bool:
        """Whether ``size`` more unread bytes may be published."""
        return self.unread_limit == 0 or self._unread + self._unread_reserved + size <= self.unread_limit

    @property
    def unread_excess(self) -> int:
        """How much more is unread, or set aside for that, than may be. Negative: how much still may. 0 without a
        limit.
        """
        return self._unread + self._unread_reserved - self.unread_limit if self.unread_limit else 0

    def reserve_unread(self, size: int) -> bool:
        """Set ``size`` bytes of the unread ones' share aside; False, and nothing is set aside, when they don't fit."""
        with self._lock:
            if not self.fits_unread(size):
                return False
            self._unread_reserved += size
            return True

    def release_unread(self, size: int) -> None:
        """Give a reservation of the unread ones' share back."""
        with self._lock:
            self._unread_reserved -= size

    def use_spare(self, size: int) -> None:
        """A shard directory was made (and counted)."""
        with self._lock:
            self._spare = max(0, self._spare - size)

    @property
    def excess(self) -> int:
        """How much more is published, reserved or set aside than fits. Negative: how much still fits. 0 without a
        limit.
        """
        capacity = self.capacity
        return self.used + self._reserved + self._spare - capacity if capacity else 0

    def grow(self, size: int) -> None:
        """Bytes in flight appeared (or, negative, went)."""
        with self._lock:
            self._in_flight += size

    def add(self, shard: int, size: int, *, unread: int = 0) -> None:
        """Published bytes appeared (or, negative, went).

        :param unread: how many unread ones appeared (or, negative, went, or were read)
        """
        self.hear(shard, size, unread)
        if self.told is not None:
            self.told(shard, size, unread)

    def hear(self, shard: int, size: int, unread: int) -> None:
        """A process on another host, or one that shares nothing with this one but the directory, did :meth:`add`."""
        with self._lock:
            self._estimate += size
            if self._walked[shard]:
                self._count(shard, size, unread)

    def _count(self, shard: int, size: int, unread: int) -> None:
        self._exact += size
        self._add_unread(shard, unread)
        if self._walked[shard] == ASSUMED:
            self._believe(shard, size, unread)

    def is_walked(self, shard: int) -> bool:
        """Whether the shard's sum is known, or assumed."""
        return self._walked[shard] != 0

    @property
    def assumed(self) -> list[int]:
        """The shards whose sums are assumed."""
        states = bytes(self._walked)
        return [shard for shard, state in enumerate(states) if state == ASSUMED] if ASSUMED in states else []

    def changing(self, shard: int) -> "Change":
        """A context manager around each step that changes names in a shard and what is counted for it."""
        return Change(self, shard)

    def enter(self, shard: int) -> None:
        """A change begins."""
        with self._lock:
            self._active[shard] += 1
            self._versions[shard] += 1

    def leave(self, shard: int) -> None:
        """A change ended."""
        with self._lock:
            self._active[shard] -= 1
            self._versions[shard] += 1

    def begin_walk(self, shard: int) -> int | None:
        """A token to pass to :meth:`end_walk`; None while the shard is being changed."""
        with self._lock:
            return None if self._active[shard] else self._versions[shard]

    def end_walk(self, shard: int, token: int, total: int, unread: int = 0) -> bool:
        """Take the sum of a shard's files; False when the shard changed since ``token`` and must be walked again.

        :param unread: how many of these bytes are unread
        """
        with self._lock:
            if self._active[shard] or self._versions[shard] != token:
                return False
            self._settle(shard, total, unread)
            return True

    def assume(self, shard: int, total: int, unread: int = 0) -> None:
        """Take the sum of a shard although others were changing it. Nothing happens when one has been taken."""
        with self._lock:
            if not self._walked[shard]:
                self._settle(shard, total, unread)
                self._walked[shard] = ASSUMED
                self._believe(shard, total, unread)

    def _settle(self, shard: int, total: int, unread: int = 0) -> None:
        """The shard holds so much."""
        state = self._walked[shard]
        if state == KNOWN:
            return
        self._walked[shard] = KNOWN
        if state == ASSUMED:
            size, of_these = self._disbelieve(shard)
            self._count(shard, total - size, unread - of_these)
            self._estimate += total - size
            return
        self._count(shard, total, unread)
        self._unwalked -= 1
        if self._unwalked == 0:
            self.drift = self._estimate - self._exact
            self._estimate -= self.drift

    def _believe(self, shard: int, size: int, unread: int) -> None:
        believed = self._believed.setdefault(shard, [0, 0])
        believed[0] += size
        believed[1] += unread

    def _disbelieve(self, shard: int) -> tuple[int, int]:
        """What was believed to be in a shard, which is forgotten."""
        size, unread = self._believed.pop(shard)
        return size, unread

    def recount(self) -> None:
        """Take every shard's sum anew; until all are known, what is believed now counts, and what changes."""
        with self._lock:
            self._estimate = self._exact
            self._exact = FIXED_OVERHEAD
            self._unread = self._staged = 0
            self._walked = bytearray(len(self._walked))
            self._believed = {}
            # Whoever looked at a shard before is not to think that it has not changed since.
            self._first_version = max(self._versions) + 1
            self._versions = [self._first_version] * len(self._walked)
            self._unwalked = len(self._walked)

    def _add_unread(self, shard: int, size: int) -> None:
        self._unread += size
        if shard == len(self._walked) - 1:
            self._staged += size

    def finish_untouched(self, present: set[int]) -> None:
        """Every shard that has no directory holds nothing; ``present`` are those that have one."""
        with self._lock:
            for shard in range(len(self._walked)):
                if shard not in present and not self._active[shard]:
                    if self._versions[shard] == self._first_version:
                        self._settle(shard, 0)


class Change:
    """See :meth:`Ledger.changing`."""

    __slots__ = ("_ledger", "_shard")

    def __init__(self, ledger: Ledger, shard: int) -> None:
        self._ledger = ledger
        self._shard = shard

    def __enter__(self) -> None:
        self._ledger.enter(self._shard)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.leave(self._shard)
