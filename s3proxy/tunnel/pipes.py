"""Pipes in which the kernel keeps bytes on their way from one socket to another; they are lent while there are any.

A pair of idle sockets has no pipe: thousands of idle tunnels cost no descriptor and no memory of pipes.
"""

import fcntl
import os
from collections import deque

__all__ = ["CAN_SPLICE", "Pipe", "PipePool"]

CAN_SPLICE = hasattr(os, "splice") and hasattr(os, "pipe2")
"""Whether this Python on this system can move bytes from socket to socket without seeing them (Linux, 3.10)."""

LARGE = 1024 * 1024
"""Bytes of a large pipe; what /proc/sys/fs/pipe-max-size allows everybody by default."""
MOST_LARGE = 32
"""Large pipes that are lent at once; the others are as large as the kernel makes them (64 KiB)."""
MOST_LENT = 1024
"""Pipes that are lent at once. The kernel's default limit for all pipes of a user is 64 MiB."""
MOST_IDLE = 8
"""Pipes kept for the next use."""

_SET_PIPE_SIZE = 1031


class Pipe:
    """Both ends, and whether it is a large one."""

    __slots__ = ("reader", "writer", "large")

    def __init__(self, reader: int, writer: int, large: bool) -> None:
        self.reader = reader
        self.writer = writer
        self.large = large

    def close(self) -> None:
        """Give up both ends and what is in between."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """:ivar lent: pipes in use"""

    def __init__(self) -> None:
        self.lent = 0
        self._large = 0
        self._idle: "deque[Pipe]" = deque()

    def take(self) -> Pipe | None:
        """An empty pipe; None when there are none, and other means must do."""
        if self._idle:
            self.lent += 1
            return self._idle.pop()
        if self.lent >= MOST_LENT:
            return None
        try:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        large = False
        if self._large < MOST_LARGE:
            try:
                large = fcntl.fcntl(writer, _SET_PIPE_SIZE, LARGE) >= LARGE
            except OSError:
                # Too much for a user without privileges; a small one does, too.
                large = False
        self._large += large
        self.lent += 1
        return Pipe(reader, writer, large)

    def give_back(self, pipe: Pipe, empty: bool = True) -> None:
        """The pipe is not needed any more. One that still holds bytes is closed."""
        self.lent -= 1
        if empty and len(self._idle) < MOST_IDLE:
            self._idle.append(pipe)
        else:
            self._large -= pipe.large
            pipe.close()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            pipe = self._idle.pop()
            self._large -= pipe.large
            pipe.close()
