"""A TCP server transport that can send pieces of files besides bytes, in the order in which both were handed to it.

The kernel copies a span from the page cache to the socket (sendfile(2)); its bytes never enter Python. What is
buffered here is bounded by what callers write() while spans wait, and they are told by the usual means (a streaming
producer is paused).
"""

import errno
import os
import select
import socket
import struct
import termios
from collections import deque
from collections.abc import Iterable
from fcntl import ioctl
from typing import Any

from twisted.internet import main, tcp
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from s3proxy.util.turn import TURN
from s3proxy.wire.outgoing import OutgoingSpan
from s3proxy.wire.pages import PageCache

__all__ = ["FileServer", "FileTruncated", "GATHER"]

HIGH_WATER = 128 * 1024
"""Buffered bytes beyond which a streaming producer is paused."""

GATHER = 8 * 1024
"""Bytes of an answer from which on it is cheaper to have the kernel join head and body."""

_MSG_MORE = getattr(socket, "MSG_MORE", 0)
_WOULD_BLOCK = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS))
_FILE_ERRORS = frozenset(
    (errno.EIO, errno.EINVAL, errno.EBADF, errno.ESTALE, errno.EOVERFLOW, errno.ENOSYS, errno.EISDIR)
)


class FileTruncated(OSError):
    """A file ended before the bytes that were promised from it."""


class FileServer(tcp.Server):
    """One accepted connection.

    Bytes before the first span are in the buffers of :class:`twisted.internet.abstract.FileDescriptor`; ``_queue``
    holds the first span and all that follows it. What is written while data is being received goes out at the end of
    that turn, with one system call and without a detour through the reactor's list of writers.

    :ivar bytes_sent: bytes the kernel has taken so far
    :ivar read_size: bytes that are asked for per read
    :cvar window: bytes of a span whose residency is probed, and that are read ahead, at a time
    :cvar piece: bytes of a file that are given to the kernel at once, and in one turn of the reactor. The pages and
        packets of a piece are still in the processor's cache when the peer takes them: with 16 to 64 connections on
        one machine this moved half as much again as 2 MiB did. Smaller ones cost more calls than they save
    :cvar alone: most bytes a connection sends in one turn while no other has a file to send
    """

    window = 1024 * 1024
    piece = 256 * 1024
    alone = 4 * 1024 * 1024
    read_size = tcp.Server.bufferSize
    reactor: Any
    page_cache: PageCache | None = None

    def __init__(
        self, sock: socket.socket, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any
    ) -> None:
        self.bytes_sent = 0
        self.page_cache = getattr(server, "page_cache", None)
        self._queue: deque[OutgoingSpan | bytes] = deque()
        self._queued_bytes = 0
        self._allowance = self.alone
        self._gathering = False
        self._write_wanted = False
        self._pumping = False
        self._send_flags = 0
        super().__init__(sock, protocol, client, server, sessionno, reactor)

    # What is still to be sent

    @property
    def unsent(self) -> int:
        """Bytes that were accepted here but not by the kernel; a lost connection keeps its last value."""
        return self._buffered() + self._queued_bytes

    @property
    def waits_for_disk(self) -> bool:
        """Whether it is a file, not the client, that holds up the output."""
        if self._buffered() or not self._queue:
            return False
        span = self._queue[0]
        return isinstance(span, OutgoingSpan) and span.loading and span.position >= span.ready

    def acknowledged(self) -> int:
        """Bytes the peer's kernel has confirmed: what is sent without what the socket's send queue still holds."""
        try:
            (outstanding,) = struct.unpack("i", ioctl(self.socket, termios.TIOCOUTQ, b"\0\0\0\0"))
        except OSError:
            return self.bytes_sent
        return self.bytes_sent - int(outstanding)

    def hung_up(self) -> bool:
        """Whether the peer has reset the connection; while reading is paused nothing else would tell."""
        if not self.connected:
            return True
        poll = select.poll()
        poll.register(self.socket, 0)
        return bool(poll.poll(0))

    def _buffered(self) -> int:
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def _isSendBufferFull(self) -> bool:
        return bool(self._queue) or self._buffered() > HIGH_WATER

    # Input for the queue

    def write(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.ITransport`; stays behind spans that were queued before."""
        if self._queue and data and self.connected:
            self._append(data)
            self._maybePauseProducer()
        else:
            super().write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """See :class:`twisted.internet.interfaces.ITransport`; stays behind spans that were queued before."""
        if self._queue and self.connected:
            for data in iovec:
                self._append(data)
            self._maybePauseProducer()
        else:
            super().writeSequence(iovec)

    def _append(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        self._queue.append(data)
        self._queued_bytes += len(data)

    def sendFile(self, fd: int, offset: int, count: int, hot: bool = False) -> "Deferred[None]":
        """Send ``count`` bytes of a file from ``offset``, behind everything that was written before.

        The descriptor must stay open until the Deferred fires, which is when the kernel has taken the last byte.
        Cancelling it aborts the connection: the peer was promised these bytes.

        :param hot: the bytes were just written or read, so they are in memory: don't ask
        :return: fails with the connection's reason when it is lost before, with :class:`FileTruncated` or another
            OSError when the file can't deliver; in that case the connection has been aborted
        """
        if not self.connected or self._aborting or self._writeDisconnected:
            return fail(ConnectionLost())
        if self.TLS:
            raise RuntimeError("sendFile would send plain bytes into a TLS connection")
        if count <= 0:
            return succeed(None)
        done: Deferred[None] = Deferred(self._cancel_span)
        pages = None if hot else self.page_cache
        self._queue.append(OutgoingSpan(fd, offset, offset + count, done, pages, self.window, self.alone))
        self._queued_bytes += count
        _SENDING.add(self)
        if len(self._queue) == 1 and not self._pumping and self._allowance > 0:
            self._push()
        else:
            self.startWriting()
        if self._queue:
            self._maybePauseProducer()
        return done

    def _cancel_span(self, done: "Deferred[None]") -> None:
        for item in self._queue:
            if isinstance(item, OutgoingSpan) and item.done is done:
                self._queue.remove(item)
                break
        self.abortConnection()

    # Output

    def answer(self, head: bytes, body: bytes) -> None:
        """Write a whole answer: as :meth:`write`, and the kernel is given it at once if nothing is before it.

        On the way through the buffers a small answer costs 5 µs more, and one of 64 KiB 20 µs, for it is copied twice.
        """
        if self._queue or self._tempDataBuffer or self.dataBuffer or self.TLS or not self.connected or self._aborting:
            self.writeSequence((head, body))
            return
        size = len(head) + len(body)
        try:
            if size < GATHER:
                sent = self.socket.send(head + body)
            else:
                sent = self.socket.sendmsg((head, body))
        except OSError:
            # Whatever it is, doWrite() will meet it again, and tell it to whom it may concern.
            sent = 0
        self.bytes_sent += sent
        if sent < size:
            self.write((head + body)[sent:])

    def doRead(self) -> Any:
        """Called by the reactor. What the protocol writes meanwhile is sent before this returns."""
        try:
            data = self.socket.recv(self.read_size)
        except OSError as error:
            return None if error.errno in _WOULD_BLOCK else main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        self._allowance = self._turn()
        self._gathering = True
        began = TURN.begin()
        try:
            self.protocol.dataReceived(data)
        finally:
            self._gathering = False
            wanted, self._write_wanted = self._write_wanted, False
            if began:
                TURN.end()
        if wanted and self.connected and not self._aborting:
            if self._pump() is not None or self._has_work():
                # The end of a connection is told by doWrite() only: told from here it would count as the peer's end
                # of sending.
                super().startWriting()
        return None

    def startWriting(self) -> None:
        """Have output attended to: at the end of the current turn of reading, or when the socket has room."""
        if self._gathering:
            self._write_wanted = True
        elif not TURN.gather(self):
            super().startWriting()

    def send_gathered(self) -> None:
        """See :class:`s3proxy.util.turn.Sender`."""
        if self.connected and not self._aborting and not self._pumping:
            self._allowance = self._turn()
            if self._pump() is not None or self._has_work():
                super().startWriting()

    def stopWriting(self) -> None:
        """No output for now."""
        self._write_wanted = False
        super().stopWriting()

    def doWrite(self) -> Any:
        """Called by the reactor when the socket has room."""
        self._allowance = self._turn()
        return self._pump()

    def _turn(self) -> int:
        others = len(_SENDING) - (self in _SENDING)
        return self.piece if others else self.alone

    def _push(self) -> None:
        """Send at once what the socket takes, outside the reactor's call; errors wait until the reactor calls."""
        if self._pump() is not None or self._has_work():
            self.startWriting()

    def _has_work(self) -> bool:
        return bool(self.connected) and not self._aborting and self.unsent > 0 and not self.waits_for_disk

    def _pump(self) -> Any:
        """Send bytes and spans in turn. Returns what doWrite() returns."""
        self._pumping = True
        try:
            while self._queue and self.connected and not self._aborting:
                span = self._queue[0]
                assert isinstance(span, OutgoingSpan)
                try:
                    ready = span.is_ready(self.reactor.seconds(), self._loaded)
                except Exception:
                    return self._break(span, Failure())
                if self._buffered():
                    outcome = self._send_bytes(more=ready)
                    if outcome is not None or self._buffered():
                        return outcome
                if not ready:
                    self.stopWriting()
                    return None
                if self._allowance <= 0:
                    return None
                outcome = self._send_span(span)
                if outcome is not None:
                    return None if outcome is _FULL else outcome
        finally:
            self._pumping = False
        return super().doWrite() if self.connected and not self._aborting else None

    def _send_bytes(self, more: bool) -> Any:
        rest = memoryview(self.dataBuffer)[self.offset :]
        self.dataBuffer = b"".join([rest, *self._tempDataBuffer])
        self.offset = 0
        self._tempDataBuffer = []
        self._tempDataLen = 0
        self._send_flags = _MSG_MORE if more else 0
        try:
            sent = self.writeSomeData(self.dataBuffer)
        finally:
            self._send_flags = 0
        if isinstance(sent, BaseException):
            return sent
        self.offset = sent
        if sent == len(self.dataBuffer):
            self.dataBuffer = b""
            self.offset = 0
        return None

    def writeSomeData(self, data: bytes) -> Any:
        """Give the kernel some bytes; the number it took, or an exception when the connection is lost."""
        if not data:
            return 0
        try:
            sent = self.socket.send(memoryview(data)[: self.SEND_LIMIT], self._send_flags)
        except OSError as error:
            return 0 if error.errno in _WOULD_BLOCK else main.CONNECTION_LOST
        self.bytes_sent += sent
        return sent

    def _send_span(self, span: OutgoingSpan) -> Any:
        """Send some of the span; None to go on, _FULL when the socket took no more, or what doWrite() is to return."""
        count = min(span.ready - span.position, self.piece, self._allowance)
        try:
            sent = os.sendfile(self.socket.fileno(), span.fd, span.position, count)
        except OSError as error:
            if error.errno in _WOULD_BLOCK:
                return _FULL
            if error.errno in _FILE_ERRORS:
                return self._break(span, Failure(error))
            return main.CONNECTION_LOST
        if sent == 0:
            missing = span.stop - span.position
            return self._break(span, Failure(FileTruncated(errno.EIO, f"the file ends {missing} bytes too early")))
        self.bytes_sent += sent
        span.position += sent
        self._queued_bytes -= sent
        self._allowance -= sent
        if span.position == span.stop:
            self._queue.popleft()
            self._bring_up()
            producer: Any = self.producer
            if not self.unsent and self.producerPaused and producer is not None:
                # doWrite() would tell it, too, but only after the callback, which would find that there is no room.
                self.producerPaused = False
                producer.resumeProducing()
            span.done.callback(None)
        return None

    def _bring_up(self) -> None:
        """Move the bytes that are first in the queue now to the buffer for bytes."""
        while self._queue and not isinstance(self._queue[0], OutgoingSpan):
            data = self._queue.popleft()
            assert isinstance(data, bytes)
            self._tempDataBuffer.append(data)
            self._tempDataLen += len(data)
            self._queued_bytes -= len(data)
        if not self._queue:
            _SENDING.discard(self)

    def _break(self, span: OutgoingSpan, reason: Failure) -> None:
        """The file can't deliver what the peer was promised."""
        self._queue.remove(span)
        self.abortConnection()
        span.done.errback(reason)

    # Pages that are not in memory

    def _loaded(self, span: OutgoingSpan, reason: Failure | None) -> None:
        if reason is not None:
            if span in self._queue:
                self._break(span, reason)
            return
        span.seen_at(self.reactor.seconds())
        if span in self._queue and self.connected and not self._aborting and not self._pumping:
            self._allowance = self._turn()
            self._push()

    # The end

    def detach(self) -> socket.socket:
        """Give the connection away: its socket, still open. The protocol hears nothing any more, not even of an end.

        What was written here before and has not gone out is lost: see :attr:`unsent`.

        :raises OSError: there is no descriptor left
        """
        # The descriptor is another one, for this one is known to the reactor.
        given = socket.socket(self.socket.family, self.socket.type, self.socket.proto, os.dup(self.socket.fileno()))
        self.protocol = Protocol()
        self._shouldShutdown = False
        self.connectionLost(Failure(ConnectionDone()))
        return given

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor: fails what was not sent."""
        queue, self._queue = self._queue, deque()
        _SENDING.discard(self)
        super().connectionLost(reason)
        for item in queue:
            # The protocol may have cancelled it a moment ago, when it was told.
            if isinstance(item, OutgoingSpan) and not item.done.called:
                item.done.errback(Failure(reason.value, reason.type))


_FULL = object()

_SENDING: set[FileServer] = set()
"""The connections of this process that have pieces of files to send."""
