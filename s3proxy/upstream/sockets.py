"""The TCP socket below a connection to S3: options, read size, and the last bytes of a connection that breaks."""

import fcntl
import socket
import struct
import termios
from typing import Any

import attrs
from twisted.internet import error, tcp
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from s3proxy.util.turn import TURN

__all__ = ["SocketOptions", "UpstreamSocket", "connect"]

#: Bytes asked for per read, and so the most that is read beyond a pause. Measured on loopback, reads of 64 KiB cost
#: half as much CPU time again on plain connections and a fifth on TLS; twice as much saved nothing.
RECV_SIZE = 256 * 1024
#: Bytes read at most from a connection that broke while we were writing.
_LAST_BYTES = 1024 * 1024
#: From this size on, what is written is sent at once, before anything else is done.
_LARGE = 32 * 1024
#: Where all connections receive: TLS copies what it is given anyway, and so none of it is allocated.
_RECEIVED = memoryview(bytearray(RECV_SIZE))


@attrs.frozen
class SocketOptions:
    """:ivar recv_buffer: SO_RCVBUF in bytes, None for the kernel's own tuning. The others: seconds, seconds, count."""

    keepalive_idle: int = 15
    keepalive_interval: int = 5
    keepalive_retries: int = 3
    recv_buffer: int | None = None

    def apply(self, sock: socket.socket) -> None:
        """Set them, before the socket is connected (the window scale is fixed then)."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", self.keepalive_idle),
            ("TCP_KEEPINTVL", self.keepalive_interval),
            ("TCP_KEEPCNT", self.keepalive_retries),
        ):
            if hasattr(socket, option) and value > 0:
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), min(value, 32767))
        if self.recv_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.recv_buffer)


class UpstreamSocket(tcp.Client):
    """The transport."""

    _draining = False

    def createInternetSocket(self) -> socket.socket:
        sock: socket.socket = super().createInternetSocket()
        try:
            connector: Any = self.connector
            connector.options.apply(sock)
        except OSError:
            sock.close()
            raise
        return sock

    def doRead(self) -> Any:
        try:
            count = self.socket.recv_into(_RECEIVED)
        except BlockingIOError:
            return None
        except OSError:
            return error.ConnectionLost()
        data: Any = _RECEIVED[:count]
        if not isinstance(self.protocol, TLSMemoryBIOProtocol):
            data = bytes(data)
        began = TURN.begin()
        try:
            return self._dataReceived(data)
        finally:
            if began:
                TURN.end()

    def write(self, data: bytes) -> None:
        if len(data) < _LARGE:
            super().write(data)
        else:
            self.write_through(data)

    def write_through(self, data: "bytes | memoryview") -> None:
        """As ``write``, but only what the kernel does not take at once is copied, and counts for the producer's pause.

        :param data: may change as soon as this returns
        """
        rest = data[self._send(data) :]
        if rest:
            super().write(bytes(rest))

    def _send(self, data: "bytes | memoryview") -> int:
        """How much of it the kernel has taken. Nothing, if something is before it; errors are left to the reactor."""
        if not self.connected or self.disconnecting or self._aborting or self.dataBuffer:
            return 0
        if self._tempDataLen and (self.doWrite() is not None or self._waiting):
            return 0
        try:
            return self.socket.send(data)
        except OSError:
            return 0

    def startWriting(self) -> None:
        # While a connection comes about, this is how the reactor is asked to tell.
        if not (self.connected and TURN.gather(self)):
            super().startWriting()

    def send_gathered(self) -> None:
        """See :class:`s3proxy.util.turn.Sender`."""
        if self.connected and (self.disconnecting or self.doWrite() is not None or self._waiting):
            super().startWriting()

    @property
    def _waiting(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def readable(self) -> bool:
        """Whether bytes, an end or an error wait to be read: an idle connection is then of no more use."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def unsent(self) -> int:
        """Bytes written that the peer has not acknowledged, in our buffers and in the kernel's."""
        try:
            (queued,) = struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0\0\0\0"))
        except OSError:
            queued = 0
        return self._waiting + int(queued)

    def connectionLost(self, reason: Failure) -> None:
        # A server that refuses an upload answers and closes; the next write of ours then fails, while its answer still
        # waits in the kernel. Twisted would close the socket without having read it.
        if self.connected and not self._draining and reason.check(error.ConnectionLost, error.ConnectionDone):
            self._draining = True
            self._read_last_bytes()
        super().connectionLost(reason)

    def _read_last_bytes(self) -> None:
        left = _LAST_BYTES
        while left > 0 and hasattr(self, "socket") and not self._aborting:
            try:
                data = self.socket.recv(RECV_SIZE)
            except OSError:
                return
            if not data:
                return
            left -= len(data)
            self.protocol.dataReceived(data)


class _Connector(tcp.Connector):
    options = SocketOptions()

    def _makeTransport(self) -> UpstreamSocket:
        return UpstreamSocket(self.host, self.port, self.bindAddress, self, self.reactor)


def connect(reactor: Any, ip: str, port: int, factory: Any, timeout: float, options: SocketOptions) -> Any:
    """Like ``IReactorTCP.connectTCP``, with an :class:`UpstreamSocket` as transport."""
    connector = _Connector(ip, port, factory, timeout, None, reactor)
    connector.options = options
    connector.connect()
    return connector
