"""The ledger of a cache directory that several processes of a host use: one ledger, of which each process writes a row.

What is added up can be added to without a lock, in the row of the process. A lock that all processes know is taken to
set room aside, so that together they grant no more than there is, and as long as shards are still being summed up.
"""

import threading
from typing import Any

from s3proxy.storage.balance import Balance
from s3proxy.storage.files import SystemCalls
from s3proxy.storage.hostmemory import MOST_SEATS, HostLock, HostMemory
from s3proxy.storage.ledger import ASSUMED, FIXED_OVERHEAD, KNOWN, Ledger

__all__ = ["LEDGER_LOCK", "HostBalance", "HostLedger"]

LEDGER_LOCK, BALANCE_LOCK = 0, 1

# Totals.
_UNWALKED, _SQUEEZE, _SQUEEZED_AT, _DECLARED, _SEATS, _FIRST_VERSION = range(6)
# Columns of each seat's row. What a process had set aside or under way ends with it; the rest counts on.
_ESTIMATE, _EXACT, _UNREAD, _STAGED, _SPARE, _RESERVED, _UNREAD_RESERVED, _IN_FLIGHT = range(8)
_OF_THE_LIVING = (_RESERVED, _UNREAD_RESERVED, _IN_FLIGHT)


class HostLedger(Ledger):
    """See :class:`Ledger` and the module.

    :param memory: where the numbers are; its founder's arguments count, the others find what is there
    """

    def __init__(
        self,
        memory: HostMemory,
        limit: int,
        shards: int,
        *,
        declared: int,
        walked: bool,
        spare: int = 0,
        unread_limit: int = 0,
    ) -> None:
        self._lock = threading.Lock()
        self._host_lock: HostLock = memory.lock(LEDGER_LOCK)
        self._memory = memory
        self._seat = memory.seat
        self._totals = memory.totals
        self._columns = [memory.column(number) for number in range(_IN_FLIGHT + 1)]
        self._walked: Any
        per_shard: Any = memory.per_shard(shards)
        self._walked, self._versions, self._active, self._believed_sums = per_shard
        self.limit = limit
        self.unread_limit = unread_limit
        self.drift = 0
        with self._host_lock:
            if memory.founder:
                self._columns[_ESTIMATE][self._seat] = declared + (FIXED_OVERHEAD if walked else 0)
                self._columns[_EXACT][self._seat] = FIXED_OVERHEAD
                self._columns[_SPARE][self._seat] = min(spare, limit // 16)
                self._totals[_UNWALKED] = 0 if walked else shards
                if walked:
                    self._walked[:] = b"\1" * shards
            self._totals[_SEATS] = max(self._totals[_SEATS], self._seat + 1)
            self._vacate(self._seat)

    def vacate(self, seat: int) -> None:
        """The process that had this seat is gone: so is what it had set aside, and what it was changing."""
        with self._host_lock:
            self._vacate(seat)
            # Whose changes these were is not known. Those of the living count as over, too: one that ends now is
            # noticed by the version, and one that ends later makes the sum of one shard wrong by one file.
            for shard, count in enumerate(self._active):
                if count:
                    self._active[shard] = 0
                    self._versions[shard] = self._versions[shard] + 1 & 0xFFFFFFFF

    def _vacate(self, seat: int) -> None:
        for column in _OF_THE_LIVING:
            self._columns[column][seat] = 0

    def _sum(self, column: int) -> int:
        return sum(self._columns[column][: min(self._totals[_SEATS], MOST_SEATS)])

    # The numbers, in the words of the base class.

    @property
    def _unwalked(self) -> int:  # type: ignore[override]
        return self._totals[_UNWALKED]

    @_unwalked.setter
    def _unwalked(self, value: int) -> None:
        self._totals[_UNWALKED] = value

    @property
    def _first_version(self) -> int:  # type: ignore[override]
        return self._totals[_FIRST_VERSION]

    @property
    def _squeeze(self) -> int:  # type: ignore[override]
        return self._totals[_SQUEEZE]

    @property
    def _exact(self) -> int:  # type: ignore[override]
        return self._sum(_EXACT)

    @property
    def _estimate(self) -> int:  # type: ignore[override]
        return self._sum(_ESTIMATE)

    @_estimate.setter
    def _estimate(self, value: int) -> None:
        self._columns[_ESTIMATE][self._seat] += value - self._sum(_ESTIMATE)

    @property
    def _reserved(self) -> int:  # type: ignore[override]
        return self._sum(_RESERVED)

    @property
    def _unread_reserved(self) -> int:  # type: ignore[override]
        return self._sum(_UNREAD_RESERVED)

    @property
    def _in_flight(self) -> int:  # type: ignore[override]
        return self._sum(_IN_FLIGHT)

    @property
    def _unread(self) -> int:  # type: ignore[override]
        return self._sum(_UNREAD)

    @property
    def _staged(self) -> int:  # type: ignore[override]
        return self._sum(_STAGED)

    @property
    def _spare(self) -> int:  # type: ignore[override]
        return max(0, self._sum(_SPARE))

    @property
    def squeezed_at(self) -> float:  # type: ignore[override]
        """See :class:`Ledger`."""
        return self._totals[_SQUEEZED_AT] / 1000

    @squeezed_at.setter
    def squeezed_at(self, moment: float) -> None:
        self._totals[_SQUEEZED_AT] = int(moment * 1000)

    def _change(self, column: int, amount: int) -> None:
        with self._lock:
            self._columns[column][self._seat] += amount

    # What changes them.

    def squeeze(self, capacity: int) -> None:
        """See :class:`Ledger`."""
        self._totals[_SQUEEZE] = max(0, capacity)

    def reserve(self, size: int) -> bool:
        """See :class:`Ledger`."""
        with self._host_lock:
            if not self.fits(size):
                return False
            self._change(_RESERVED, size)
            return True

    def release(self, size: int) -> None:
        """See :class:`Ledger`."""
        self._change(_RESERVED, -size)

    def reserve_unread(self, size: int) -> bool:
        """See :class:`Ledger`."""
        with self._host_lock:
            if not self.fits_unread(size):
                return False
            self._change(_UNREAD_RESERVED, size)
            return True

    def release_unread(self, size: int) -> None:
        """See :class:`Ledger`."""
        self._change(_UNREAD_RESERVED, -size)

    def use_spare(self, size: int) -> None:
        """See :class:`Ledger`."""
        self._change(_SPARE, -size)

    def grow(self, size: int) -> None:
        """See :class:`Ledger`."""
        self._change(_IN_FLIGHT, size)

    def hear(self, shard: int, size: int, unread: int) -> None:
        """See :class:`Ledger`."""
        if self._walked[shard] == KNOWN and self.complete:
            self._hear(shard, size, unread)
        else:
            with self._host_lock:
                self._hear(shard, size, unread)

    def _hear(self, shard: int, size: int, unread: int) -> None:
        with self._lock:
            self._columns[_ESTIMATE][self._seat] += size
            if self._walked[shard]:
                self._count(shard, size, unread)

    def _count(self, shard: int, size: int, unread: int) -> None:
        self._columns[_EXACT][self._seat] += size
        self._add_unread(shard, unread)
        if self._walked[shard] == ASSUMED:
            self._believe(shard, size, unread)

    def _add_unread(self, shard: int, size: int) -> None:
        self._columns[_UNREAD][self._seat] += size
        if shard == len(self._walked) - 1:
            self._columns[_STAGED][self._seat] += size

    # The walk, which one process does at a time. Who is changing a shard whose sum is known, nobody needs to know.

    def enter(self, shard: int) -> None:
        """See :class:`Ledger`."""
        if self._walked[shard] != KNOWN or not self.complete:
            with self._host_lock:
                self._active[shard] += 1
                self._versions[shard] = self._versions[shard] + 1 & 0xFFFFFFFF

    def leave(self, shard: int) -> None:
        """See :class:`Ledger`."""
        if self._walked[shard] != KNOWN or not self.complete:
            with self._host_lock:
                # It may have begun before anybody counted, or while a process died that was counted.
                self._active[shard] = max(0, self._active[shard] - 1)
                self._versions[shard] = self._versions[shard] + 1 & 0xFFFFFFFF

    def begin_walk(self, shard: int) -> int | None:
        """See :class:`Ledger`."""
        with self._host_lock:
            return super().begin_walk(shard)

    def end_walk(self, shard: int, token: int, total: int, unread: int = 0) -> bool:
        """See :class:`Ledger`."""
        with self._host_lock:
            return super().end_walk(shard, token, total, unread)

    def assume(self, shard: int, total: int, unread: int = 0) -> None:
        """See :class:`Ledger`."""
        with self._host_lock:
            super().assume(shard, total, unread)

    def finish_untouched(self, present: set[int]) -> None:
        """See :class:`Ledger`."""
        with self._host_lock:
            super().finish_untouched(present)

    def _believe(self, shard: int, size: int, unread: int) -> None:
        self._believed_sums[2 * shard] += size
        self._believed_sums[2 * shard + 1] += unread

    def _disbelieve(self, shard: int) -> tuple[int, int]:
        found = self._believed_sums[2 * shard], self._believed_sums[2 * shard + 1]
        self._believed_sums[2 * shard] = self._believed_sums[2 * shard + 1] = 0
        return found

    def recount(self) -> None:
        """See :class:`Ledger`."""
        with self._host_lock, self._lock:
            mine = self._seat
            self._columns[_ESTIMATE][mine] += self._exact - self._estimate
            self._columns[_EXACT][mine] += FIXED_OVERHEAD - self._exact
            self._columns[_UNREAD][mine] -= self._unread
            self._columns[_STAGED][mine] -= self._staged
            shards = len(self._walked)
            self._walked[:] = bytes(shards)
            first = self._totals[_FIRST_VERSION] = max(self._versions) + 1 & 0x7FFFFFFF
            for shard in range(shards):
                self._versions[shard], self._active[shard] = first, 0
                self._disbelieve(shard)
            self._totals[_UNWALKED] = shards


class HostBalance(Balance):
    """See :class:`Balance`: what one process declares, the others know."""

    def __init__(self, memory: HostMemory, calls: SystemCalls, directory: str, instance: int, limit: int) -> None:
        self._totals = memory.totals
        super().__init__(calls, directory, instance, limit)
        self._lock = memory.lock(BALANCE_LOCK)  # type: ignore[assignment]

    @property
    def _declared(self) -> int:  # type: ignore[override]
        return self._totals[_DECLARED]

    @_declared.setter
    def _declared(self, value: int) -> None:
        # What the base class begins with, nobody has declared.
        if value >= 0:
            self._totals[_DECLARED] = value
