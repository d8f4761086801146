"""Bytes on their way in one direction between two sockets, moved by the kernel where it can, copied where not."""

import errno
import os
import select
import socket

from s3proxy.tunnel.pipes import LARGE, Pipe, PipePool

__all__ = ["BROKEN_SOURCE", "BROKEN_TARGET", "Flow", "Mover"]

TURN = 2 * 1024 * 1024
"""Most bytes one direction moves in one turn of the reactor, so that a fast tunnel starves nobody."""

ROOM = 768 * 1024
"""Bytes in a pipe from which on nothing is added before it is empty."""

_ENOUGH = 32 * 1024
"""Bytes that were there at once, above which it is worth looking for more."""
# SPLICE_F_MOVE | SPLICE_F_NONBLOCK
_FLAGS = 3

_NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EPERM)
"""What a kernel, or a filter of system calls, says that does not let us."""

BROKEN_SOURCE = "source"
BROKEN_TARGET = "target"


class Mover:
    """What all directions of one process share: pipes, and a buffer for copying.

    :ivar splice: whether to let the kernel move bytes; False copies them
    :param piece: bytes that are copied at a time
    """

    def __init__(self, splice: bool, piece: int) -> None:
        self.splice = splice
        self.pipes = PipePool()
        self.buffer = memoryview(bytearray(piece))


class Flow:
    """One direction.

    While something waits for the target, the source is read only as far as there is room in a pipe that is in use: so
    both have something to do when the other pauses. Held are at most the bytes of a pipe, or one piece that was copied.

    :ivar total: bytes that the target's kernel has taken
    :ivar ended: the source will send no more
    :ivar shut: the target has been told so
    :ivar blocked: the target has taken less than there is
    :ivar full: there is no room for more
    """

    __slots__ = (
        "total", "ended", "shut", "blocked", "full", "_source", "_target", "_mover", "_pipe", "_in_pipe", "_rest",
    )  # fmt: skip

    def __init__(self, source: socket.socket, target: socket.socket, mover: Mover, first: bytes) -> None:
        self.total = 0
        self.ended = False
        self.shut = False
        self.blocked = False
        self.full = False
        self._source = source
        self._target = target
        self._mover = mover
        self._pipe: Pipe | None = None
        self._in_pipe = 0
        self._rest: bytes | memoryview = first

    @property
    def waiting(self) -> int:
        """Bytes that were read and not yet taken."""
        return self._in_pipe + len(self._rest)

    def pump(self) -> str | None:
        """Move what there is: first what waits, then what the source has. Gives back which side is broken, if any."""
        moved = 0
        while True:
            before = self.total
            if (self._in_pipe or self._rest) and not self._drain():
                return BROKEN_TARGET
            moved += self.total - before
            if self.blocked:
                return None if self.ended or self._top_up() else BROKEN_SOURCE
            if self.ended:
                return self._shut_down()
            if moved >= TURN:
                return None
            size = self._fill()
            if size is None:
                return None
            if size < 0:
                return BROKEN_SOURCE
            if size == 0:
                self.ended = True
            elif size < _ENOUGH:
                # There will hardly be more already; the reactor tells if there is.
                moved = TURN

    def close(self) -> None:
        """Give up what waits."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            self._mover.pipes.give_back(pipe, empty=not self._in_pipe)
        self._in_pipe = 0
        self._rest = b""

    def _shut_down(self) -> str | None:
        if not self.shut:
            self.shut = True
            try:
                self._target.shutdown(socket.SHUT_WR)
            except OSError:
                return BROKEN_TARGET
        return None

    def _fill(self) -> int | None:
        """Read; how many bytes there were, 0 at the end, -1 if the source is broken, None when there is nothing now."""
        if self._mover.splice:
            pipe = self._mover.pipes.take()
            if pipe is not None:
                size = self._fill_pipe(pipe)
                if self._mover.splice:
                    return size
        buffer = self._mover.buffer
        try:
            size = self._source.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError:
            return -1
        # Only what the target does not take at once is copied: see _drain().
        self._rest = buffer[:size]
        return size

    def _fill_pipe(self, pipe: Pipe) -> int | None:
        size: int | None
        try:
            size = os.splice(self._source.fileno(), pipe.writer, LARGE, flags=_FLAGS)
        except BlockingIOError:
            size = None
        except OSError as error:
            size = -1
            if error.errno in _NOT_HERE:
                self._mover.splice = False
        if size is not None and size > 0:
            self._pipe, self._in_pipe = pipe, size
        else:
            self._mover.pipes.give_back(pipe)
        return size

    def _top_up(self) -> bool:
        """Read into the pipe that holds what waits; False if the source is broken."""
        pipe = self._pipe
        self.full = pipe is None or bool(self._rest) or self._in_pipe >= ROOM
        if pipe is None or self.full:
            return True
        try:
            size = os.splice(self._source.fileno(), pipe.writer, LARGE - self._in_pipe, flags=_FLAGS)
        except BlockingIOError:
            # Either the source has nothing, or the pipe no room: it counts pieces, not bytes.
            self.full = self._readable()
            return True
        except OSError:
            return False
        self._in_pipe += size
        self.ended = size == 0
        self.full = self._in_pipe >= ROOM
        return True

    def _readable(self) -> bool:
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        return bool(poll.poll(0))

    def _drain(self) -> bool:
        """Write; False if the target is broken."""
        self.blocked = self.full = False
        try:
            if self._rest:
                self._send_rest()
            while self._in_pipe:
                assert self._pipe is not None
                sent = os.splice(self._pipe.reader, self._target.fileno(), self._in_pipe, flags=_FLAGS)
                self.total += sent
                self._in_pipe -= sent
        except BlockingIOError:
            self.blocked = True
            if isinstance(self._rest, memoryview):
                self._rest = bytes(self._rest)
            return True
        except OSError:
            return False
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            self._mover.pipes.give_back(pipe)
        return True

    def _send_rest(self) -> None:
        rest = memoryview(self._rest)
        while rest:
            try:
                sent = self._target.send(rest)
            except OSError:
                self._rest = rest
                raise
            self.total += sent
            rest = rest[sent:]
        self._rest = b""
