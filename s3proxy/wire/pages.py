"""How the data listener learns whether a piece of a file is in memory, and has it read without stopping the reactor."""

import os
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s3proxy.storage import residency
from s3proxy.storage.diskio import DiskBusy

__all__ = ["PageCache"]

SAMPLE = 256 * 1024
"""Bytes between two looks: what a kernel reads ahead, or a little more."""


def _read_and_close(read_ahead: Callable[[int, int, int], None], fd: int, offset: int, count: int) -> None:
    try:
        read_ahead(fd, offset, count)
    finally:
        os.close(fd)


@attrs.frozen
class PageCache:
    """The kernel's page cache as the listener sees it.

    When no thread takes a read, because too many wait already, it happens at once and holds up everybody: better than
    to break an answer whose head is out.

    :ivar run: calls a function in a thread of a pool made for disk reads
    :ivar resident: whether both ends of ``(fd, offset, count)`` are in memory; None when the file system can't tell
    :ivar read_ahead: brings ``(fd, offset, count)`` into memory; blocks
    """

    run: "Callable[..., Deferred[Any]]"
    resident: Callable[[int, int, int], bool | None] = residency.resident
    read_ahead: Callable[[int, int, int], None] = residency.read_ahead

    def holds(self, fd: int, offset: int, count: int) -> bool:
        """Whether these bytes are in memory, judged by their ends and by samples in between. Never blocks."""
        if not self.resident(fd, offset, count):
            return False
        return all(self.resident(fd, sample, 1) for sample in range(offset + SAMPLE, offset + count, SAMPLE))

    def load(self, fd: int, offset: int, count: int) -> "Deferred[None]":
        """Bring these bytes into memory in a thread. ``fd`` may be closed meanwhile: the thread has a copy."""
        own = os.dup(fd)

        def busy(reason: Failure) -> None:
            reason.trap(DiskBusy)
            _read_and_close(self.read_ahead, own, offset, count)

        try:
            loading = self.run(_read_and_close, self.read_ahead, own, offset, count)
        except BaseException:
            os.close(own)
            raise
        return loading.addErrback(busy)

    def read(self, fd: int, offset: int, count: int) -> "bytes | Deferred[bytes]":
        """At most ``count`` bytes: at once if they are in memory, else from a thread, which needs ``fd`` open."""
        if self.holds(fd, offset, count):
            return os.pread(fd, count, offset)

        def busy(reason: Failure) -> bytes:
            reason.trap(DiskBusy)
            return os.pread(fd, count, offset)

        return self.run(os.pread, fd, count, offset).addErrback(busy)
