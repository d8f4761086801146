"""The factory of a data listener: its connections, its limits, its counters, and how it ends."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.web.resource import IResource
from twisted.web.server import Site

from s3proxy.gateway.lane import Lane
from s3proxy.wire.channel import ClientChannel
from s3proxy.wire.connection import ClientConnection
from s3proxy.wire.glance import Glancer
from s3proxy.wire.limits import WireLimits

__all__ = ["CachingSite", "WireCounters"]

TICK = 1.0
"""Seconds between two looks at the progress of all connections."""


@attrs.define
class WireCounters:
    """What a data listener has seen since it started.

    :ivar connections: accepted connections
    :ivar requests: requests handed to the gateway
    :ivar refused: connections that were closed at once because there were too many
    :ivar failed_handshakes: connections that ended before TLS was agreed upon
    :ivar handshakes: connections that agreed upon TLS
    :ivar rejected: answers the listener gave itself, by S3 error code
    :ivar aborted: connections cut by us, by reason: slow_reader, client (found reset), proxy (an answer that could
        not be completed), close (no end of TLS), shutdown, or the error code of a request body that broke when its
        answer had begun
    """

    connections: int = 0
    requests: int = 0
    refused: int = 0
    failed_handshakes: int = 0
    handshakes: int = 0
    rejected: "Counter[str]" = attrs.field(factory=Counter)
    aborted: "Counter[str]" = attrs.field(factory=Counter)


class CachingSite(Site):
    """Builds a :class:`ClientChannel` for each connection of a data listener.

    One timer looks after all connections while there are any; there is none when there are none.

    :param resource: renders every request
    :param listener: the listener's name: http, proxy or tls
    :param wall_clock: seconds since the epoch
    :param lane: answers what it can before the requests are parsed
    :ivar crowded: tells whether no connection more may be open; one that comes is closed
    :ivar draining: no connection is kept after its current answer
    :ivar requests_in_flight: requests that were begun and whose answer has not ended
    """

    def __init__(
        self,
        resource: IResource,
        reactor: Any,
        listener: str = "http",
        limits: WireLimits = WireLimits(),
        wall_clock: Callable[[], float] = time.time,
        lane: Lane | None = None,
    ) -> None:
        super().__init__(resource, reactor=reactor)
        self.listener = listener
        self.limits = limits
        self.wall_clock = wall_clock
        self.lane = lane
        self.glancer = Glancer()
        self.counters = WireCounters()
        self.crowded: Callable[[], bool] = lambda: False
        self.draining = False
        self._patience = 0.0
        self.requests_in_flight = 0
        self._channels: set[ClientConnection] = set()
        self._ticking: IDelayedCall | None = None
        self._drained: list[Deferred[None]] = []

    @property
    def connections_open(self) -> int:
        """Connections that are open now."""
        return len(self._channels)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A channel for a new connection; None, which closes it, while draining and when there are too many."""
        if self.crowded():
            self.counters.refused += 1
            return None
        return None if self.draining else ClientChannel(self)

    def startFactory(self) -> None:
        """Called when a port begins to listen. The base class would open an access log here and keep a clock for it."""

    def stopFactory(self) -> None:
        """Called when the last port has stopped."""

    def log(self, request: Any) -> None:
        """The access log is the gateway's."""

    # For the channels

    def opened(self, channel: ClientConnection) -> None:
        """A connection was accepted."""
        self.counters.connections += 1
        self._channels.add(channel)
        if self._ticking is None:
            self._ticking = self.reactor.callLater(TICK, self._tick)

    def closed(self, channel: ClientConnection) -> None:
        """A connection has ended."""
        self._channels.discard(channel)
        if not self._channels:
            if self._ticking is not None:
                self._ticking.cancel()
                self._ticking = None
            waiters, self._drained = self._drained, []
            for waiter in waiters:
                waiter.callback(None)

    def request_begun(self) -> None:
        """A request is handed to the gateway."""
        self.counters.requests += 1
        self.requests_in_flight += 1

    def request_ended(self) -> None:
        """A request's answer has ended, or its client has gone."""
        self.requests_in_flight -= 1

    def _tick(self) -> None:
        self._ticking = self.reactor.callLater(TICK, self._tick)
        now = self.reactor.seconds()
        for channel in list(self._channels):
            channel.check(now)
        if self.draining:
            self._close_quiet_soon()

    # The end

    def drain(self, patience: float = 0.0) -> "Deferred[None]":
        """Let every request that has begun be answered, and close each connection as soon as it has nothing to do.

        :param patience: seconds without a request for which a connection may yet stay: its next request may be on its
            way, and is answered as the last one
        :return: fires when no connection is left; the caller's own, and without a time limit: see :meth:`abort_all`
        """
        self.draining = True
        self._patience = patience
        if patience:
            self._close_quiet_soon()
        else:
            self._close_quiet()
        if not self._channels:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._drain_waiter_left)
        self._drained.append(waiter)
        return waiter

    def _close_quiet_soon(self) -> None:
        """What has come meanwhile is read first: the event loop may be late."""
        self.reactor.callLater(0, self._close_quiet)

    def _close_quiet(self) -> None:
        for channel in list(self._channels):
            channel.close_if_idle(self._patience)

    def _drain_waiter_left(self, waiter: "Deferred[None]") -> None:
        if waiter in self._drained:
            self._drained.remove(waiter)

    def abort_all(self) -> None:
        """Cut every connection."""
        for channel in list(self._channels):
            channel.abort("shutdown")
