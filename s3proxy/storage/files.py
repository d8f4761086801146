"""The system calls that the store makes, in one replaceable place."""

import ctypes
import errno
import os
import stat
from collections.abc import Sequence

__all__ = ["NO_FILE", "READING", "UNREAD_BIT", "UNREAD_MODE", "SystemCalls", "is_unread", "write_fully"]

_IOV_MAX = 1024
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""How stored files are opened. O_NONBLOCK means nothing for files; a named pipe that somebody put there must not block.
"""
NO_FILE = (errno.ELOOP, errno.ENXIO)
"""What that fails with when the name is that of a symbolic link, or of a socket."""
UNREAD_BIT = stat.S_IXGRP
"""In the mode of a file: it was written through, and nobody has read it yet. The bit means nothing else here, and every
walk sees it without opening the file.
"""
UNREAD_MODE = 0o600 | UNREAD_BIT


class SystemCalls:
    """What the store asks of the operating system. Tests pass a subclass that fails, pauses or dies where they want it
    to.
    """

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    fstat = staticmethod(os.fstat)
    stat = staticmethod(os.lstat)
    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)
    pwritev = staticmethod(os.pwritev)
    ftruncate = staticmethod(os.ftruncate)
    rename = staticmethod(os.rename)
    link = staticmethod(os.link)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    listdir = staticmethod(os.listdir)
    utime = staticmethod(os.utime)
    chmod = staticmethod(os.chmod)
    statvfs = staticmethod(os.statvfs)

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._renameat2 = getattr(libc, "renameat2", None)

    def rename_new(self, source: str, target: str) -> None:
        """Give ``source`` the name ``target``, which must not exist: what has it already is never replaced.

        One call where the kernel and the file system can do it, otherwise link and unlink.

        :raises FileExistsError: ``target`` exists; ``source`` is left alone
        """
        if self._renameat2 is not None:
            if self._renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise OSError(code, os.strerror(code), source, None, target)
            self._renameat2 = None
        self.link(source, target)
        self.unlink(source)


def write_fully(calls: SystemCalls, fd: int, chunks: Sequence[bytes], offset: int) -> int:
    """Write every byte of ``chunks`` at ``offset`` and return how many there were.

    :raises OSError: not everything could be written
    """
    views = [memoryview(chunk) for chunk in chunks if chunk]
    total = 0
    while views:
        written = calls.pwritev(fd, views[:_IOV_MAX], offset + total)
        if written <= 0:
            raise OSError(errno.EIO, "write returned 0")
        total += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
    return total


def is_unread(status: os.stat_result) -> bool:
    """Whether a file has the :data:`UNREAD_BIT`."""
    return bool(status.st_mode & UNREAD_BIT)
