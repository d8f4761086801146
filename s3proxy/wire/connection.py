"""One connection of a client: how it begins, whether it is read, whether it takes output, and how it ends."""

import socket
from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.interfaces import IHandshakeListener, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from s3proxy.wire.room import OutputRoom
from s3proxy.wire.stalls import ReaderProgress
from s3proxy.wire.transport import FileServer

if TYPE_CHECKING:
    from s3proxy.wire.site import CachingSite

__all__ = ["ClientConnection", "HandedOver", "Step"]

CLOSE_TIME = 15.0
"""Seconds a client has to take part in the end of a connection whose last byte was sent."""


@attrs.frozen
class HandedOver:
    """A connection that a channel gave away.

    :ivar sock: of a plain connection; it does not block
    :ivar transport: of one under TLS, with a ``wrappedProtocol`` to be replaced and no producer
    :ivar received: bytes of the client that nobody has looked at
    """

    sock: socket.socket | None
    transport: Any
    received: bytes


class Step(Enum):
    """What the next bytes from the client are.

    HEAD: of a request's head. BODY: of the current request's body. NEXT: of a later request, kept until the current
    one is answered. DRAIN: the rest of a body that was answered before it ended, after which the connection is used
    again. LINGER: of no interest, the connection ends as soon as the client has had time to read its answer. CLOSED:
    none will come.
    """

    HEAD = "head"
    BODY = "body"
    NEXT = "next"
    DRAIN = "drain"
    LINGER = "linger"
    CLOSED = "closed"


@implementer(IHandshakeListener)
class ClientConnection(http.HTTPChannel):
    """A connection. What is said on it is the business of its subclass, :class:`s3proxy.wire.channel.ClientChannel`.

    :ivar file_server: the socket's transport, under TLS if need be; None for one that knows no files
    :ivar sends_files: whether file spans may be given to it
    :ivar room: the back-pressure of the transport
    """

    transport: Any

    def __init__(self, site: "CachingSite") -> None:
        super().__init__()
        self.site = site
        self.factory = site
        self.client_address = ""
        self.file_server: FileServer | None = None
        self.sends_files = False
        self.room = OutputRoom()
        self._limits = site.limits
        self._input = bytearray()
        self._step = Step.HEAD
        self._since = 0.0
        self._linger_since = 0.0
        self._reading = True
        self._reader = ReaderProgress()
        self._cut = False
        self._peer: Any = None
        self._host: Any = None
        self._tls = ("", "")

    # How it begins, and whose it is

    def handshakeCompleted(self) -> None:
        """Called by Twisted's TLS layer, once, when application data may flow."""
        self.site.counters.handshakes += 1
        self._tls = self.tls_words()

    def connectionMade(self) -> None:
        """Called by the transport."""
        transport = self.transport
        lower = transport if isinstance(transport, FileServer) else getattr(transport, "transport", None)
        if isinstance(lower, FileServer):
            self.file_server = lower
            self.sends_files = lower is transport
        elif ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        self._peer = transport.getPeer()
        self.client_address = getattr(self._peer, "host", "").removeprefix("::ffff:")
        self._since = self.site.reactor.seconds()
        transport.registerProducer(self, True)
        self.site.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Called by the transport."""
        self._step = Step.CLOSED
        self._cut = True
        self._input.clear()
        self._lose_request(reason)
        self.site.closed(self)

    def _lose_request(self, reason: Failure) -> None:
        """What is being answered can't be answered any more."""
        self.room.fail(str(reason.value))

    def getPeer(self) -> Any:
        """The client's address."""
        return self._peer

    def getHost(self) -> Any:
        """The address at which the client reached the listener."""
        if self._host is None:
            self._host = self.transport.getHost()
        return self._host

    def tls_words(self) -> tuple[str, str]:
        """Protocol version and cipher suite of the connection; empty ones without TLS."""
        if self.sends_files or not hasattr(self.transport, "getHandle"):
            return "", ""
        session = self.transport.getHandle()
        name = getattr(session, "get_cipher_name", lambda: None)()
        return (session.get_protocol_version_name(), name) if name else ("", "")

    # Input

    def _wants_input(self) -> bool:
        """Whether more from the client is to be read."""
        return True

    def _update_reading(self) -> None:
        """Read from the client or not: the one place that decides it."""
        if self._step is Step.CLOSED:
            return
        wanted = self._wants_input()
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # Output

    @property
    def output_pending(self) -> bool:
        """Whether the kernel has not taken all that was written; under TLS, nobody can tell, and order is kept."""
        return self.sends_files and self.file_server is not None and self.file_server.unsent > 0

    def pauseProducing(self) -> None:
        """Called by the transport when it holds enough."""
        if not self.room.full:
            self.room.full = True
            self._reader.started(self.site.reactor.seconds())
            self._update_reading()

    def resumeProducing(self) -> None:
        """Called by the transport when it has sent everything."""
        self.room.full = False
        self.room.release()
        self._go_on()

    def _go_on(self) -> None:
        """There is room for output again."""
        self._update_reading()

    def stopProducing(self) -> None:
        """Called by the transport when the connection is lost; connectionLost() follows."""

    # How it ends

    def abort(self, reason: str) -> None:
        """Cut the connection; what was not sent is dropped.

        :param reason: a short word for the statistics
        """
        self._step = Step.CLOSED
        if not self._cut:
            self._cut = True
            self.site.counters.aborted[reason] += 1
            self.transport.abortConnection()

    def loseConnection(self) -> None:
        """End the connection after everything that was written."""
        if self._step is not Step.CLOSED:
            self._close()

    def close_if_idle(self, quiet: float = 0.0) -> bool:
        """Close the connection if it waits for a request that has not begun; whether it did.

        :param quiet: and has waited for so many seconds
        """
        if self._step is Step.HEAD and not self._input and self.site.reactor.seconds() - self._since >= quiet:
            self._close()
            return True
        return False

    def _close(self) -> None:
        self._step = Step.CLOSED
        self._since = self.site.reactor.seconds()
        self._unregister()
        self.transport.loseConnection()

    def _unregister(self) -> None:
        # A transport with a producer would wait for it before it closes.
        self.transport.unregisterProducer()
        self.room.full = False

    def _linger(self) -> None:
        """End the connection such that the client can read its answer first.

        Closing a socket that has unread input resets the connection, and a reset can overtake the answer. So only the
        sending half is closed, and what the client still sends is read and dropped, until it closes or time is up.
        """
        self._step = Step.LINGER
        self._linger_since = self._since = self.site.reactor.seconds()
        self._input.clear()
        self._unregister()
        if self.sends_files:
            self.transport.loseWriteConnection()
        self._update_reading()

    # Time

    def check(self, now: float) -> None:
        """Called by the site once a second: end what takes too long."""
        if self._reader_stalls(now):
            self.abort("slow_reader")
            return
        self._check_step(now, now - self._since)
        if not self._reading and self.file_server is not None and self.file_server.hung_up():
            self.abort("client")

    def _check_step(self, now: float, waited: float) -> None:
        """The same for what the connection is at.

        :param waited: seconds without progress
        """
        step = self._step
        if step is Step.LINGER:
            if self.file_server is not None and self.file_server.unsent:
                self._linger_since = self._since = now
            elif waited > self._limits.drain_time or now - self._linger_since > self._limits.linger_time:
                self._step = Step.CLOSED
                self._since = now
                self.transport.loseConnection()
        elif step is Step.CLOSED and waited > CLOSE_TIME and not (self.file_server and self.file_server.unsent):
            # TLS waits for the client's part of the farewell.
            self.abort("close")

    def _reader_stalls(self, now: float) -> bool:
        server = self.file_server
        if server is None:
            return self.room.full and self._reader.stalls(now, 0, self._limits.stall_timeout)
        if server.unsent == 0 or server.waits_for_disk:
            self._reader.started(now)
            return False
        return self._reader.stalls(now, server.acknowledged(), self._limits.stall_timeout)
