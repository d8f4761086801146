"""A table of counters through which every worker of a host learns at once that an entry changed."""

import itertools
import mmap
import os

__all__ = ["GenerationTable"]

_TAINTED = 1 << 63


class GenerationTable:
    """64-bit values in shared memory, one slot for many entries, in two columns.

    Whoever changes an entry stores a new, never used value in its slot afterwards (:meth:`bump`). Whoever keeps what it
    loaded in memory remembers the value from *before* it loaded, and drops the record when the slot has another one.
    Two entries that share a slot cost each other a reload, nothing else.

    The second column changes only when the *object* changes, or may have changed, at S3 (:meth:`void`): what was asked
    of S3 before that must not be handed to anybody who asks afterwards. A slot may also be tainted: the disk did not
    take an invalidation, and what it holds of the slot's entries is not to be used (:meth:`taint`).

    Reading and storing are single aligned 8-byte accesses: no lock, and no system call.

    :param slots: a power of two
    :param path: a file that several processes map, for instance in /dev/shm; None: memory of this process alone
    :param fd: instead of a path, a file that is open already; stays the caller's
    :param offset: where in that file the table is, in bytes; a multiple of the page size
    """

    def __init__(
        self, slots: int = 1 << 20, path: str | None = None, *, fd: int | None = None, offset: int = 0
    ) -> None:
        if slots <= 0 or slots & (slots - 1):
            raise ValueError(f"slots must be a power of two, not {slots}")
        self._mask = slots - 1
        size = self.size_of(slots)
        if fd is not None:
            self._map = mmap.mmap(fd, size, offset=offset)
        elif path is None:
            self._map = mmap.mmap(-1, size)
        else:
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(opened, size)
                self._map = mmap.mmap(opened, size)
            finally:
                os.close(opened)
        whole = memoryview(self._map)
        self._values = whole[: slots * 8].cast("Q")
        self._objects = whole[slots * 8 : 2 * slots * 8].cast("Q")
        self._flags = whole[2 * slots * 8 :].cast("Q")
        whole.release()
        # 23 bits of chance, which keep the uppermost bit free, and 40 to count with.
        self._base = int.from_bytes(os.urandom(3), "big") >> 1 << 40
        self._serials = itertools.count(1)

    @staticmethod
    def size_of(slots: int) -> int:
        """Bytes of a table of so many slots."""
        return slots * 16 + mmap.PAGESIZE

    def get(self, slot: int) -> int:
        """The slot's present value."""
        return self._values[slot & self._mask]

    def bump(self, slot: int) -> int:
        """Store a value in the slot that no slot ever had, and return it."""
        value = self._base + next(self._serials)
        self._values[slot & self._mask] = value
        return value

    def object_at(self, slot: int) -> int:
        """Changes whenever an object of this slot changes at S3, or may have."""
        return self._objects[slot & self._mask] & ~_TAINTED

    def void(self, slot: int) -> int:
        """An object of this slot changes, or may have: store new values in both columns; returns that of the first."""
        index = slot & self._mask
        self._objects[index] = self._base + next(self._serials) | self._objects[index] & _TAINTED
        return self.bump(slot)

    def taint(self, slot: int, tainted: bool = True) -> None:
        """What the disk holds of this slot's entries is not to be used from now on, or may be again."""
        index = slot & self._mask
        value = self._base + next(self._serials)
        self._objects[index] = value | _TAINTED if tainted else value
        self.bump(slot)

    def is_tainted(self, slot: int) -> bool:
        """Whether what the disk holds of this slot's entries is not to be used."""
        return self._objects[slot & self._mask] >= _TAINTED or self._flags[0] != 0

    def taint_all(self) -> None:
        """What the disk holds is not to be used any more, whatever it is."""
        self._flags[0] = 1

    def close(self) -> None:
        """Unmap the memory."""
        self._values.release()
        self._objects.release()
        self._flags.release()
        self._map.close()
