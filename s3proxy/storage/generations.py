"""A table of counters through which every worker of a host learns at once that an entry changed."""

import itertools
import mmap
import os

__all__ = ["GenerationTable"]


class GenerationTable:
    """64-bit values in shared memory, one slot for many entries.

    Whoever changes an entry stores a new, never used value in its slot afterwards. Whoever keeps what it loaded in
    memory remembers the value from *before* it loaded, and drops the record when the slot has another one. Two entries
    that share a slot cost each other a reload, nothing else. Reading and storing are single aligned 8-byte accesses: no
    lock, and no system call.

    :param slots: a power of two
    :param path: a file that several processes map, for instance in /dev/shm; None: memory of this process alone
    """

    def __init__(self, slots: int = 1 << 20, path: str | None = None) -> None:
        if slots <= 0 or slots & (slots - 1):
            raise ValueError(f"slots must be a power of two, not {slots}")
        self._mask = slots - 1
        if path is None:
            self._map = mmap.mmap(-1, slots * 8)
        else:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, slots * 8)
                self._map = mmap.mmap(fd, slots * 8)
            finally:
                os.close(fd)
        self._values = memoryview(self._map).cast("Q")
        self._base = int.from_bytes(os.urandom(3), "big") << 40
        self._serials = itertools.count(1)

    def get(self, slot: int) -> int:
        """The slot's present value."""
        return self._values[slot & self._mask]

    def bump(self, slot: int) -> int:
        """Store a value in the slot that no slot ever had, and return it."""
        value = self._base + next(self._serials)
        self._values[slot & self._mask] = value
        return value

    def close(self) -> None:
        """Unmap the memory."""
        self._values.release()
        self._map.close()
