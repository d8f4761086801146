"""All tunnels of a process: which are open, what they have carried, and how they ended."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.record import RequestRecord
from s3proxy.tunnel.flow import Mover
from s3proxy.tunnel.limits import TunnelLimits
from s3proxy.tunnel.pipes import CAN_SPLICE
from s3proxy.tunnel.tunnel import Ending, Origin, Tunnel

__all__ = ["Tunnels"]

TICK = 2.0
"""Seconds between two looks at all tunnels; one second while the proxy is stopping."""
LISTENERS = ("https", "proxy", "tls")
WARNING_INTERVAL = 60.0
"""Seconds between two log lines about connections that were turned away."""

_UPSTREAM_ENDED = frozenset((Ending.UPSTREAM_RESET, Ending.UPSTREAM_STALLED, Ending.UNREACHABLE, Ending.TIMEOUT))
_CLIENT_ENDED = frozenset((Ending.CLIENT_RESET, Ending.CLIENT_STALLED, Ending.CLIENT_LEFT, Ending.HELLO_TIMEOUT))


class Tunnels:
    """One timer looks after all tunnels while there are any.

    :param account: called with the closed record of each tunnel, and of each attempt to get one
    :param now: Unix seconds
    :param splice: False: bytes are copied even where the kernel could move them
    :ivar mover: what the tunnels move bytes with
    :ivar attempts: connections that were admitted, and do not know yet whether they become tunnels
    :ivar counts: tunnels opened, by listener
    :ivar endings: tunnels and attempts that ended, by listener and reason
    :ivar draining: silent tunnels are closed
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        account: Callable[[RequestRecord], None],
        now: Callable[[], float],
        *,
        limits: TunnelLimits = TunnelLimits(),
        instance: str = "",
        splice: bool = CAN_SPLICE,
    ) -> None:
        self.limits = limits
        self.seconds: Callable[[], float] = reactor.seconds
        self.now = now
        self.mover = Mover(splice, limits.piece)
        self.attempts = 0
        self.counts: "Counter[str]" = Counter()
        self.endings: "Counter[tuple[str, str]]" = Counter()
        self.draining = False
        self._reactor = reactor
        self._account = account
        self._instance = instance
        self._open: dict[int, Tunnel] = {}
        self._randoms: set[bytes] = set()
        self._numbers = itertools.count(1)
        self._bytes: "Counter[tuple[str, str]]" = Counter()
        self._ticking: IDelayedCall | None = None
        self._waiting: "list[Deferred[None]]" = []
        self._turned_away = 0
        self._warned: float | None = None

    def __len__(self) -> int:
        return len(self._open)

    # For those who want one.

    def admit(self) -> bool:
        """Whether there is room for one more. Who was admitted calls :meth:`attempt_over`, tunnel or not."""
        most = self.limits.most
        if most and len(self._open) + self.attempts >= most:
            self._turn_away(most)
            return False
        self.attempts += 1
        return True

    def attempt_over(self) -> None:
        """An attempt has led to a tunnel, or to none."""
        self.attempts -= 1

    def _turn_away(self, most: int) -> None:
        self._turned_away += 1
        now = self.seconds()
        if self._warned is None or now - self._warned >= WARNING_INTERVAL:
            self.log.warn(
                "{count} connection(s) got no tunnel: server.max_concurrent_tunnels is {most}",
                count=self._turned_away,
                most=most,
            )
            self._warned = now
            self._turned_away = 0

    # For tunnels.

    def opened(self, tunnel: Tunnel) -> int:
        """A tunnel has come about; gives it its number."""
        number = next(self._numbers)
        self._open[number] = tunnel
        self.counts[tunnel.origin.listener] += 1
        if self._ticking is None:
            self._ticking = self._reactor.callLater(self._tick_time(), self._tick)
        return number

    def closed(self, tunnel: Tunnel, reason: str) -> None:
        """A tunnel has ended."""
        del self._open[tunnel.number]
        origin = tunnel.origin
        self._bytes[origin.listener, "sent"] += tunnel.sent
        self._bytes[origin.listener, "received"] += tunnel.received
        self.forget(origin)
        self.ended(origin, reason, tunnel.sent, tunnel.received)
        if not self._open:
            if self._ticking is not None:
                self._ticking.cancel()
                self._ticking = None
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.callback(None)

    def ended(self, origin: Origin, reason: str, sent: int = 0, received: int = 0) -> None:
        """A tunnel, or the attempt to get one, is over: count it and write it down."""
        self.endings[origin.listener, reason] += 1
        target = origin.target
        if not target and origin.host:
            target = f"{origin.host}:{origin.port}".encode("ascii", "replace")
        record = RequestRecord(
            started_at=origin.started_at,
            started_monotonic=origin.started,
            client_address=origin.client_address,
            listener=origin.listener,
            method=origin.method,
            target=target,
            http_version=origin.http_version,
            host=origin.host.encode("ascii", "replace"),
            operation="Tunnel",
            status=origin.status,
            error_code=origin.error_code,
            bytes_sent=sent,
            upstream_seconds=origin.connected - origin.started if origin.connected else None,
            user_agent=origin.user_agent,
            tls=origin.tls,
            cipher_suite=origin.cipher_suite,
            request_id=origin.request_id,
            outcome="BYPASS" if origin.upstream_address else "ERROR",
            reason=reason,
            bytes_from_upstream=sent,
            upstream_address=origin.upstream_address,
            body_bytes_received=received,
            aborted=reason in _CLIENT_ENDED,
            upstream_aborted=reason in _UPSTREAM_ENDED,
            instance=self._instance,
        )
        record.close(self.seconds())
        self._account(record)

    def is_loop(self, origin: Origin) -> bool:
        """Whether a tunnel for the very same ClientHello exists: it has come back to where it came from.

        Addresses can't tell that where a balancer or a translation of addresses lies in between. Otherwise the
        ClientHello is known from now on, until :meth:`forget`.
        """
        if origin.random in self._randoms:
            # Not this attempt's to forget.
            origin.random = b""
            return True
        self._randoms.add(origin.random)
        return False

    def forget(self, origin: Origin) -> None:
        """The attempt for this ClientHello is over."""
        self._randoms.discard(origin.random)

    # Time.

    def _tick_time(self) -> float:
        return 1.0 if self.draining else TICK

    def _tick(self) -> None:
        self._ticking = self._reactor.callLater(self._tick_time(), self._tick)
        now = self.seconds()
        for tunnel in list(self._open.values()):
            tunnel.check(now, self.draining)

    # The end.

    def drain(self) -> "Deferred[None]":
        """Close tunnels that are silent; fires when none is left. Without a time limit: see :meth:`abort_all`."""
        self.draining = True
        if not self._open:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._waiter_left)
        self._waiting.append(waiter)
        return waiter

    def _waiter_left(self, waiter: "Deferred[None]") -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def abort_all(self) -> None:
        """Cut every tunnel."""
        for tunnel in list(self._open.values()):
            tunnel.end(Ending.SHUTDOWN)

    # For operators.

    def snapshot(self, most: int = 1000) -> list[dict[str, Any]]:
        """The open tunnels, youngest first, but not more than so many."""
        now = self.seconds()
        numbers = sorted(self._open, reverse=True)[:most]
        return [self._open[number].describe(now) for number in numbers]

    def readings(self) -> Iterable[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        active: "Counter[str]" = Counter()
        carried = self._bytes.copy()
        for tunnel in self._open.values():
            listener = tunnel.origin.listener
            active[listener] += 1
            carried[listener, "sent"] += tunnel.sent
            carried[listener, "received"] += tunnel.received
        for listener in LISTENERS:
            yield Reading("s3proxy_tunnels", active[listener], (listener,))
            yield Reading("s3proxy_tunnels_opened_total", self.counts[listener], (listener,))
            for direction in ("sent", "received"):
                yield Reading("s3proxy_tunnel_bytes_total", carried[listener, direction], (listener, direction))
        for (listener, reason), count in self.endings.items():
            yield Reading("s3proxy_tunnels_ended_total", count, (listener, reason))
            if listener == "https":
                yield Reading("s3proxy_passthrough_connections_total", count, (reason,))
        for direction in ("sent", "received"):
            yield Reading("s3proxy_passthrough_bytes_total", carried["https", direction], (direction,))
