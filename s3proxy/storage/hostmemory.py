"""What the processes of one host share that use a cache directory together: a memory file, mapped by each of them.

::

    page 0      magic, layout, and the bytes that locks are taken on
    then        the generation table
    then        totals, one row of numbers per seat, and arrays with numbers of each shard: the ledger's

Every process has a *seat*, a number that no other living process has. It writes no other row than its own, so that
numbers need no lock to be added to; and when it dies, what it had set aside is known.

Nothing in here outlives the processes: the file has no name.
"""

import fcntl
import mmap
import os
import struct
import tempfile
import threading
from types import TracebackType

from s3proxy.storage.generations import GenerationTable

__all__ = ["MOST_SEATS", "HostLock", "HostMemory"]

MOST_SEATS = 1024
SLOTS = 1 << 20
MOST_SHARDS = (1 << 16) + 1

_MAGIC = b"s3proxy host 2\n\0"
_TOTALS = 64
_GROUP = _TOTALS - 1
_COLUMNS = 16
_FLOCK = struct.Struct("hhqqi4x")
_LOCK_BYTES = 1024


def _page(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


_LEDGER_AT = _page(mmap.PAGESIZE + GenerationTable.size_of(SLOTS))
_ROWS_AT = _TOTALS * 8
_WALKED_AT = _ROWS_AT + MOST_SEATS * _COLUMNS * 8
_VERSIONS_AT = _WALKED_AT + (MOST_SHARDS + 7) // 8 * 8
_ACTIVE_AT = _VERSIONS_AT + 4 * (MOST_SHARDS + 1)
_BELIEVED_AT = (_ACTIVE_AT + 4 * (MOST_SHARDS + 1) + 7) // 8 * 8
_LEDGER_SIZE = _page(_BELIEVED_AT + 16 * MOST_SHARDS)
_SIZE = _LEDGER_AT + _LEDGER_SIZE


class HostLock:
    """Excludes the other threads of this process and all other processes of the host; re-entrant. A process that dies
    holds none.

    An open file description lock on one byte (fcntl(2)). The kernel looks for no deadlocks among these, and must not:
    it would mistake two threads of one process for one.
    """

    def __init__(self, fd: int, byte: int) -> None:
        self._fd = fd
        self._threads = threading.RLock()
        self._depth = 0
        self._take = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        self._give = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)

    def __enter__(self) -> None:
        self._threads.acquire()
        if self._depth == 0:
            try:
                fcntl.fcntl(self._fd, _SET_AND_WAIT, self._take)
            except BaseException:
                self._threads.release()
                raise
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        try:
            if self._depth == 0:
                fcntl.fcntl(self._fd, _SET_AND_WAIT, self._give)
        finally:
            self._threads.release()


#: F_OFD_SETLKW; locks of processes where the system has no others.
_SET_AND_WAIT = getattr(fcntl, "F_OFD_SETLKW", fcntl.F_SETLKW)


class HostMemory:
    """See the module.

    :param fd: the memory file, which stays the caller's
    :param seat: this process's
    :param founder: this process made the file, and puts things in order for the others
    :ivar generations: who learns of changes
    """

    def __init__(self, fd: int, seat: int, *, founder: bool = False) -> None:
        if not 0 <= seat < MOST_SEATS:
            raise ValueError(f"there is no seat {seat}")
        if not founder and os.pread(fd, len(_MAGIC), 0) != _MAGIC:
            raise ValueError("the processes of this host are of different versions; restart all of them")
        self.seat = seat
        self.founder = founder
        # Locks belong to an open file: what is inherited would be the others' locks, too.
        self._locks_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self.generations = GenerationTable(SLOTS, fd=fd, offset=mmap.PAGESIZE)
        self._map = mmap.mmap(fd, _LEDGER_SIZE, offset=_LEDGER_AT)
        self._view = memoryview(self._map)
        self.totals = self._view[:_ROWS_AT].cast("q")
        self._rows = self._view[_ROWS_AT:_WALKED_AT].cast("q")

    @property
    def group(self) -> int:
        """A number that all processes know that share this."""
        return self.totals[_GROUP]

    @group.setter
    def group(self, number: int) -> None:
        self.totals[_GROUP] = number

    @staticmethod
    def make() -> int:
        """A new memory file; the caller closes it, and may have children inherit it."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("s3proxy-host", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, _SIZE)
        os.pwrite(fd, _MAGIC, 0)
        return fd

    def lock(self, number: int) -> HostLock:
        """A lock that all processes know by this number."""
        if not 0 <= number < _LOCK_BYTES:
            raise ValueError(f"there is no lock {number}")
        return HostLock(self._locks_fd, len(_MAGIC) + number)

    def column(self, number: int) -> memoryview:
        """A number of every seat."""
        return self._rows[number * MOST_SEATS : (number + 1) * MOST_SEATS]

    def per_shard(self, shards: int) -> tuple[memoryview, memoryview, memoryview, memoryview]:
        """Numbers of every shard: a byte, two of four bytes each, and, one after the other, two of eight bytes."""
        view = self._view
        return (
            view[_WALKED_AT : _WALKED_AT + shards],
            view[_VERSIONS_AT : _VERSIONS_AT + 4 * shards].cast("I"),
            view[_ACTIVE_AT : _ACTIVE_AT + 4 * shards].cast("I"),
            view[_BELIEVED_AT : _BELIEVED_AT + 16 * shards].cast("q"),
        )
