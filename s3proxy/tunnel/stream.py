"""A tunnel whose client's side is a transport of Twisted, because its bytes pass through TLS of our own."""

import socket
from collections import deque
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReadDescriptor, IWriteDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.tunnel.registry import Tunnels
from s3proxy.tunnel.relay import close_with_reset
from s3proxy.tunnel.tunnel import Ending, Origin, Tunnel

__all__ = ["StreamTunnel"]

GOODBYE = 5.0
"""Seconds for which the farewell of TLS is waited for."""
PIECE = 64 * 1024
"""Bytes that are read from the far side at a time."""


class _Client(Protocol):
    """Takes the place of the protocol that read the CONNECT request."""

    def __init__(self, tunnel: "StreamTunnel") -> None:
        self._tunnel = tunnel

    def dataReceived(self, data: bytes) -> None:
        self._tunnel.client_sent(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._tunnel.client_lost(reason)


@implementer(IPushProducer, IReadDescriptor, IWriteDescriptor)
class StreamTunnel(Tunnel):
    """Relays between a TLS transport and a connected socket that does not block, and owns both from now on.

    Both directions end together: when either side has finished sending, the other gets what is left for it, and the
    tunnel ends. A client's farewell (close_notify) says in TLS 1.2 that it takes nothing more (RFC 5246 7.2.1), and
    Twisted's TLS layer, which answers it with its own and closes, has no half-open state in any version. What is spoken
    within such a tunnel is TLS again, which does not half-close either.

    Held in memory are one piece for each direction and what the transport buffers.

    :param transport: carries the client's bytes; a :class:`twisted.protocols.tls.TLSMemoryBIOProtocol`
    :param for_upstream: bytes of the client that were read already
    :param for_client: bytes to send to the client before those of the far side
    """

    __slots__ = (
        "_reactor", "_transport", "_socket", "_pending", "_handed", "_taken", "_paused", "_reading",
        "_writing", "_client_gone", "_upstream_ended", "_goodbye",
    )  # fmt: skip

    def __init__(
        self,
        reactor: Any,
        tunnels: Tunnels,
        origin: Origin,
        transport: Any,
        upstream: socket.socket,
        *,
        for_upstream: bytes = b"",
        for_client: bytes = b"",
    ) -> None:
        self._reactor = reactor
        self._transport = transport
        self._socket = upstream
        self._pending: "deque[bytes]" = deque()
        self._handed = 0
        self._taken = 0
        self._paused = False
        self._reading = False
        self._writing = False
        self._client_gone = False
        self._upstream_ended = False
        self._goodbye: IDelayedCall | None = None
        super().__init__(tunnels, origin)
        transport.wrappedProtocol = _Client(self)
        transport.registerProducer(self, True)
        transport.resumeProducing()
        if for_client:
            self._handed += len(for_client)
            transport.write(for_client)
        if for_upstream:
            self.client_sent(for_upstream)
        self._watch()

    @property
    def sent(self) -> int:
        """See :class:`Tunnel`; without what the transport still holds."""
        lower = getattr(self._transport, "transport", None)
        return max(0, self._handed - int(getattr(lower, "unsent", 0)))

    @property
    def received(self) -> int:
        """See :class:`Tunnel`."""
        return self._taken

    # From the client.

    def client_sent(self, data: bytes) -> None:
        """Called with bytes of the client."""
        if not self._open or self._upstream_ended:
            return
        self._pending.append(data)
        self._send()

    def client_lost(self, reason: Failure) -> None:
        """Called when the client's connection has ended, however."""
        self._client_gone = True
        if self._goodbye is not None and self._goodbye.active():
            self._goodbye.cancel()
        if not self._open:
            return
        if self._upstream_ended:
            self.end(Ending.FINISHED if self.sent == self._handed else Ending.CLIENT_RESET, reset=False)
        elif reason.check(ConnectionLost):
            self.end(Ending.CLIENT_RESET)
        elif self._pending:
            self._watch()
        else:
            self._client_finished()

    def _client_finished(self) -> None:
        self.end(Ending.FINISHED, reset=False)

    def _send(self) -> None:
        try:
            while self._pending:
                data = self._pending[0]
                sent = self._socket.send(data)
                self._taken += sent
                if sent < len(data):
                    self._pending[0] = data[sent:]
                else:
                    self._pending.popleft()
        except BlockingIOError:
            if not self._writing and not self._client_gone:
                self._transport.pauseProducing()
        except OSError:
            self.end(Ending.UPSTREAM_RESET)
            return
        self._watch()

    # From the far side.

    def fileno(self) -> int:
        """Called by the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Called by the reactor."""
        return "tunnel"

    def doRead(self) -> None:
        """Called by the reactor when the far side has sent something."""
        if not self._open:
            return
        try:
            data = self._socket.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            self.end(Ending.UPSTREAM_RESET)
            return
        if data:
            self._handed += len(data)
            self._transport.write(data)
            return
        self._upstream_ended = True
        self._pending.clear()
        self._watch()
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def doWrite(self) -> None:
        """Called by the reactor when the far side has room."""
        if not self._open:
            return
        self._send()
        if self._open and not self._pending:
            if self._client_gone:
                self._client_finished()
            else:
                self._transport.resumeProducing()

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor when the far side has reset the connection, and at its own end."""
        self.end(Ending.UPSTREAM_RESET)

    # The transport's view: a producer.

    def pauseProducing(self) -> None:
        """Called by the transport when it holds enough."""
        self._paused = True
        self._watch()

    def resumeProducing(self) -> None:
        """Called by the transport when it has sent everything."""
        self._paused = False
        self._watch()

    def stopProducing(self) -> None:
        """Called by the transport when the connection is lost; the client's protocol is told, too."""

    def _watch(self) -> None:
        reading = self._open and not self._paused and not self._upstream_ended and not self._client_gone
        writing = self._open and bool(self._pending)
        if reading != self._reading:
            self._reading = reading
            (self._reactor.addReader if reading else self._reactor.removeReader)(self)
        if writing != self._writing:
            self._writing = writing
            (self._reactor.addWriter if writing else self._reactor.removeWriter)(self)

    def _blocked(self) -> str | None:
        if self._pending:
            return Ending.UPSTREAM_STALLED
        return Ending.CLIENT_STALLED if self._paused or self._upstream_ended else None

    def _half_closed(self) -> bool:
        return self._upstream_ended or self._client_gone

    def _lost(self) -> str | None:
        lower = getattr(self._transport, "transport", None)
        hung_up = getattr(lower, "hung_up", None)
        return Ending.CLIENT_RESET if hung_up is not None and hung_up() else None

    def _close(self, reset: bool) -> None:
        self._watch()
        self._pending.clear()
        if not self._client_gone:
            self._transport.unregisterProducer()
            if reset:
                self._transport.abortConnection()
            else:
                self._goodbye = self._reactor.callLater(GOODBYE, self._transport.abortConnection)
                self._transport.loseConnection()
        if reset:
            close_with_reset(self._socket)
        else:
            self._socket.close()
