"""Whether bytes of a file are in memory already, and getting them there."""

import errno
import os

__all__ = ["read_ahead", "resident"]

_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_BUFFER = 256 << 10


def resident(fd: int, offset: int, count: int) -> bool | None:
    """Whether the first and the last byte of a window can be read without waiting for the disk; None where that can't
    be known.

    Costs two system calls of about a microsecond, and never blocks. Bytes in between are taken on trust: a window
    should not be larger than what the kernel reads ahead.
    """
    buffer = bytearray(1)
    for position in (offset, offset + count - 1) if count > 1 else (offset,):
        try:
            os.preadv(fd, [buffer], position, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as problem:
            if problem.errno in _UNSUPPORTED:
                return None
            raise
    return True


def read_ahead(fd: int, offset: int, count: int) -> None:
    """Read a window into the page cache. Blocks: call it in a thread. Ends early at the end of the file.

    :raises OSError: the disk failed
    """
    os.posix_fadvise(fd, offset, count, os.POSIX_FADV_WILLNEED)
    buffer = bytearray(min(count, _BUFFER))
    end = offset + count
    while offset < end:
        got = os.preadv(fd, [memoryview(buffer)[: end - offset]], offset)
        if got == 0:
            return
        offset += got
