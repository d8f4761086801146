"""Bytes of a stored file in memory: as they are if they are few, else in a memory file (memfd_create(2)), which leaves
through sendfile(2) like any other.
"""

import errno
import os
from collections.abc import Callable, Iterable

from s3proxy.cache.spans import FileSpan, MemorySpan
from s3proxy.storage.seal import Seal

__all__ = ["SMALL", "InMemory", "copy_sealed", "copy_to_memory"]

SMALL = 64 * 1024
"""Up to so many bytes need no descriptor."""

_BLOCK = 1024 * 1024


def copy_to_memory(fd: int, offset: int, count: int) -> "int | bytes":
    """``count`` bytes of a file from ``offset``: as they are if they are few, else a new memory file with them.

    Blocks: call it in a thread.

    :raises OSError: the file can't be read, or is too short, or there is no memory or descriptor
    """

    def read() -> Iterable[memoryview]:
        buffer = memoryview(bytearray(min(count, _BLOCK)))
        done = 0
        while done < count:
            got = os.preadv(fd, [buffer[: count - done]], offset + done)
            if got == 0:
                return
            done += got
            yield buffer[:got]

    return _keep(read(), count)


def copy_sealed(seal: Seal, fd: int, start: int, count: int) -> "int | bytes":
    """The same for ``count`` bytes of a body from its byte ``start`` on: decoded, and each of its blocks compared with
    its checksum.

    :raises Damaged: a block is not what was stored
    """
    return _keep(seal.read(fd, start, start + count), count)


def _keep(pieces: "Iterable[bytes | memoryview]", count: int) -> "int | bytes":
    if count <= SMALL:
        data = b"".join(pieces)
        if len(data) != count:
            raise OSError(errno.EIO, f"the file ends {count - len(data)} bytes too early")
        return data
    memory = os.memfd_create("s3proxy-range", os.MFD_CLOEXEC)
    try:
        done = 0
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                written = os.pwrite(memory, rest, done)
                done += written
                rest = rest[written:]
        if done != count:
            raise OSError(errno.EIO, f"the file ends {count - done} bytes too early")
    except BaseException:
        os.close(memory)
        raise
    return memory


class InMemory:
    """What these functions return. Born without users; a memory file is closed when it was dropped and nobody uses it.

    :param freed: called then, with how many bytes these were and whether there was a descriptor
    """

    __slots__ = ("_content", "_dropped", "_freed", "_size", "users")

    def __init__(self, content: "int | bytes", size: int, freed: Callable[[int, bool], None]) -> None:
        self.users = 0
        self._content = content
        self._size = size
        self._freed = freed
        self._dropped = False

    @property
    def is_file(self) -> bool:
        """Whether it holds a descriptor."""
        return isinstance(self._content, int)

    def span(self, offset: int, count: int) -> FileSpan | MemorySpan:
        """These bytes of it."""
        if isinstance(self._content, bytes):
            return MemorySpan(memoryview(self._content)[offset : offset + count])
        self.users += 1
        released = False

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                self.users -= 1
                self._close_if_unused()

        return FileSpan(self._content, offset, count, True, release)

    def drop(self) -> None:
        """Nobody will ask for it any more. Idempotent."""
        if not self._dropped:
            self._dropped = True
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._dropped and not self.users:
            if isinstance(self._content, int):
                os.close(self._content)
            self._freed(self._size, self.is_file)
