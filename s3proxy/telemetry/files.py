"""Files that are only appended to, possibly by several processes, and put aside under another name now and then."""

import errno
import os
import stat
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from typing import Final

__all__ = ["AppendFile", "DIRECTORY_MODE", "FILE_MODE", "PartlyWritten", "make_directories"]

DIRECTORY_MODE: Final = 0o755
FILE_MODE: Final = 0o644
"""Logs may be read by everybody on the machine, whatever the umask: they hold no secrets."""

_MOST_NAMES: Final = 1000
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


class PartlyWritten(OSError):
    """Writing failed after some of the bytes were written.

    :ivar written: how many
    """

    def __init__(self, cause: OSError, written: int) -> None:
        super().__init__(cause.errno, cause.strerror, cause.filename)
        self.written = written


def make_directories(path: str) -> None:
    """Make this directory and what is missing above it, readable by everybody. Existing ones stay as they are.

    :raises OSError: when one cannot be made
    """
    if os.path.isdir(path):
        return
    parent = os.path.dirname(os.path.abspath(path))
    if parent != path:
        make_directories(parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    else:
        os.chmod(path, DIRECTORY_MODE)


class AppendFile:
    """One log file. Not safe for several threads; safe for several processes, because every write appends.

    A file that vanished or was replaced under our hands (by another process, by an operator) is noticed by
    :meth:`replaced`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    @property
    def is_open(self) -> bool:
        """Whether there is a file to write to."""
        return self._fd >= 0

    def open(self) -> None:
        """Open the file, making it and its directory if need be. Does nothing when it is open.

        :raises OSError: when that fails
        """
        if self._fd >= 0:
            return
        make_directories(os.path.dirname(self.path))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, FILE_MODE)
        except FileExistsError:
            fd = os.open(self.path, flags | os.O_CREAT, FILE_MODE)
        else:
            os.fchmod(fd, FILE_MODE)
        self._fd = fd

    def write(self, data: bytes) -> None:
        """Append all of *data*.

        :raises PartlyWritten: with the number of bytes that were appended before the fault
        """
        written = 0
        try:
            self.open()
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:] if written else data)
        except OSError as error:
            self.close()
            raise PartlyWritten(error, written) from error

    def replaced(self) -> bool:
        """Whether the path no longer leads to the file that is open."""
        if self._fd < 0:
            return False
        try:
            there = os.stat(self.path)
        except OSError:
            return True
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def last_written(self) -> float | None:
        """Unix time of the last write to the open file by anybody; None when it is empty or no ordinary file."""
        if self._fd < 0:
            return None
        status = os.fstat(self._fd)
        return status.st_mtime if status.st_size and stat.S_ISREG(status.st_mode) else None

    def put_aside(self, target: str) -> str | None:
        """Give the open file another name and close it; the next write begins a new file.

        Nothing is overwritten: a number is added to a name that is taken. A file that is not an ordinary one stays.
        Another process that does the same at this moment, or did it a moment earlier, wins: who renames a file has a
        lock on it, or else what one of them has just begun would be taken away by the other.

        :param target: the name wanted, on the same file system
        :returns: the name given, or None when the file was not renamed by us
        :raises OSError: when renaming fails; the file is still open then
        """
        if self._fd < 0 or not stat.S_ISREG(os.fstat(self._fd).st_mode):
            return None
        locked = self._fd
        try:
            flock(locked, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:
            # A file system without locks.
            pass
        try:
            return self._rename(target)
        finally:
            if self._fd == locked:
                _unlock(locked)

    def _rename(self, target: str) -> str | None:
        if self.replaced():
            self.close()
            return None
        make_directories(os.path.dirname(target))
        for number in range(_MOST_NAMES):
            name = _numbered(target, number)
            try:
                _move(self.path, name)
            except FileExistsError:
                continue
            except FileNotFoundError:
                self.close()
                return None
            self.close()
            return name
        raise FileExistsError(f"{target}: {_MOST_NAMES} files of that name exist")

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.close(fd)
            except OSError:
                pass


def _unlock(fd: int) -> None:
    try:
        flock(fd, LOCK_UN)
    except OSError:
        # As above; and it ends with the descriptor.
        pass


def _numbered(name: str, number: int) -> str:
    """``x.log``, ``x-1.log``, ``x-2.log`` …"""
    if not number:
        return name
    stem = name.removesuffix(".log")
    return f"{stem}-{number}{name[len(stem):]}"


def _move(path: str, target: str) -> None:
    """Rename without overwriting. :raises FileExistsError: when *target* exists."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(path, target)
    else:
        os.unlink(path)
