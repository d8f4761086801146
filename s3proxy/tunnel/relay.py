"""A tunnel between two sockets."""

import select
import socket
import struct
from typing import Any

from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.tunnel.flow import BROKEN_SOURCE, Flow
from s3proxy.tunnel.registry import Tunnels
from s3proxy.tunnel.tunnel import Ending, Origin, Tunnel

__all__ = ["SocketTunnel", "close_with_reset"]

_RESET = struct.pack("ii", 1, 0)


def close_with_reset(sock: socket.socket) -> None:
    """Close a connection such that the peer can't take it for a proper end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        # The peer has reset it before.
        pass
    sock.close()


@implementer(IReadDescriptor, IWriteDescriptor)
class _Side:
    """One of the two sockets, as the reactor knows it.

    :ivar outgoing: the direction whose source it is
    """

    __slots__ = ("sock", "outgoing", "_tunnel", "_reading", "_writing", "__weakref__")

    def __init__(self, sock: socket.socket, tunnel: "SocketTunnel") -> None:
        self.sock = sock
        self.outgoing: Flow
        self._tunnel = tunnel
        self._reading = False
        self._writing = False

    def fileno(self) -> int:
        """Called by the reactor."""
        return self.sock.fileno()

    def logPrefix(self) -> str:
        """Called by the reactor."""
        return "tunnel"

    def doRead(self) -> None:
        """Called by the reactor when there is something to read."""
        self._tunnel.pump(self)

    def doWrite(self) -> None:
        """Called by the reactor when there is room."""
        self._tunnel.pump(self._tunnel.other(self))

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor when the connection was reset, and at its own end."""
        self._tunnel.lost(self)

    def watch(self, reactor: Any, reading: bool, writing: bool) -> None:
        """Be told of these, and of nothing else."""
        if reading != self._reading:
            self._reading = reading
            (reactor.addReader if reading else reactor.removeReader)(self)
        if writing != self._writing:
            self._writing = writing
            (reactor.addWriter if writing else reactor.removeWriter)(self)

    def hung_up(self) -> bool:
        """Whether the peer has reset the connection; while it is neither read nor written nothing else would tell."""
        poll = select.poll()
        poll.register(self.sock, 0)
        # POLLHUP also means that both sides have finished, though bytes may still wait.
        return any(events & select.POLLERR for _, events in poll.poll(0))


class SocketTunnel(Tunnel):
    """Relays between two connected sockets that do not block, and owns them from now on.

    The end of one direction is passed on, and the other goes on. What waits in each direction is bounded: see
    :class:`Flow`.

    :param for_upstream: bytes of the client that were read already
    :param for_client: bytes to send to the client before those of the far side
    """

    __slots__ = ("_reactor", "_client", "_upstream")

    def __init__(
        self,
        reactor: Any,
        tunnels: Tunnels,
        origin: Origin,
        client: socket.socket,
        upstream: socket.socket,
        *,
        for_upstream: bytes = b"",
        for_client: bytes = b"",
    ) -> None:
        self._reactor = reactor
        self._client = _Side(client, self)
        self._upstream = _Side(upstream, self)
        self._client.outgoing = Flow(client, upstream, tunnels.mover, for_upstream)
        self._upstream.outgoing = Flow(upstream, client, tunnels.mover, for_client)
        super().__init__(tunnels, origin)
        self.pump(self._client)
        if self._open:
            self.pump(self._upstream)

    @property
    def sent(self) -> int:
        """See :class:`Tunnel`."""
        return self._upstream.outgoing.total

    @property
    def received(self) -> int:
        """See :class:`Tunnel`."""
        return self._client.outgoing.total

    def other(self, side: _Side) -> _Side:
        """The far side as seen from this one."""
        return self._upstream if side is self._client else self._client

    def pump(self, side: _Side) -> None:
        """Move what this side sends."""
        if not self._open:
            return
        broken = side.outgoing.pump()
        if broken is not None:
            self.lost(side if broken is BROKEN_SOURCE else self.other(side))
            return
        other = self.other(side)
        if side.outgoing.shut and other.outgoing.shut:
            self.end(Ending.FINISHED, reset=False)
            return
        self._watch(side, other)
        self._watch(other, side)

    def _watch(self, side: _Side, other: _Side) -> None:
        outgoing = side.outgoing
        side.watch(self._reactor, not outgoing.full and not outgoing.ended, other.outgoing.blocked)

    def lost(self, side: _Side) -> None:
        """A connection is gone."""
        self.end(Ending.CLIENT_RESET if side is self._client else Ending.UPSTREAM_RESET)

    def _blocked(self) -> str | None:
        if self._client.outgoing.blocked:
            return Ending.UPSTREAM_STALLED
        return Ending.CLIENT_STALLED if self._upstream.outgoing.blocked else None

    def _half_closed(self) -> bool:
        return self._client.outgoing.ended or self._upstream.outgoing.ended

    def _lost(self) -> str | None:
        if self._client.hung_up():
            return Ending.CLIENT_RESET
        return Ending.UPSTREAM_RESET if self._upstream.hung_up() else None

    def _close(self, reset: bool) -> None:
        for side in (self._client, self._upstream):
            side.watch(self._reactor, False, False)
            side.outgoing.close()
        for side in (self._client, self._upstream):
            if reset:
                close_with_reset(side.sock)
            else:
                side.sock.close()
