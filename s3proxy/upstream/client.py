"""The upstream side as one object: resolve, pick an address, connect, ask, and try again where that is safe."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from s3proxy.upstream.addresses import Addresses
from s3proxy.upstream.connection import Connect, Dialer, UpstreamConnection
from s3proxy.upstream.counts import ConnectTimes, EndpointCounts
from s3proxy.upstream.destinations import DestinationPolicy
from s3proxy.upstream.exchange import Exchange, Limits, framing
from s3proxy.upstream.health import Address, AddressHealth
from s3proxy.upstream.hedging import Governor, HedgeCounters, Race
from s3proxy.upstream.interfaces import (
    Hedging,
    IUpstream,
    IUpstreamResponse,
    UpstreamError,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTLSError,
    UpstreamUnreachable,
)
from s3proxy.upstream.nameservers import DEFAULT_SERVERS, DNSClient, Lookup
from s3proxy.upstream.pool import ConnectionPool, PoolKey, PoolLimits
from s3proxy.upstream.resolve import Resolver
from s3proxy.upstream.response import UpstreamResponse
from s3proxy.upstream.retry import Stage, Tries, next_delay
from s3proxy.upstream.routing import LoopGuard, Route, Router, show_address
from s3proxy.upstream.settings import UpstreamSettings
from s3proxy.upstream.slots import ConnectionSlots
from s3proxy.upstream.sockets import SocketOptions
from s3proxy.upstream.tls import ClientContexts

__all__ = ["Upstream", "UpstreamCounters"]


@attrs.define
class UpstreamCounters:
    """Totals since the start.

    :ivar connections_opened: TCP (and TLS) connections that came about
    :ivar connections_reused: requests sent on a kept connection
    :ivar tls_resumed: connections whose TLS handshake took up an earlier session
    :ivar connect_failures: attempts to connect that failed, certificates included
    :ivar attempts: requests sent, repetitions included
    :ivar retries: repetitions
    :ivar failures: requests that ended without an answer
    """

    connections_opened: int = 0
    connections_reused: int = 0
    tls_resumed: int = 0
    connect_failures: int = 0
    attempts: int = 0
    retries: int = 0
    failures: int = 0


def _fires(gone: "Deferred[None]") -> Callable[[object], None]:
    return lambda _: gone.callback(None)


class _AttemptFailed(Exception):
    def __init__(self, stage: Stage, error: UpstreamError) -> None:
        super().__init__(str(error))
        self.stage = stage
        self.error = error


@implementer(IUpstream)
class Upstream:
    """Sends requests to S3.

    When a request fails, or its Deferred is cancelled, its body has been aborted.

    :param settings: section ``connection_pool``
    :param own_addresses: (IP, port) of every listening socket of this proxy, asked before each new connection
    :param policy: where it may connect to; None: anywhere, but to this proxy itself
    :param head_timeout: seconds for the head of an answer: without a body, from the beginning and with all attempts;
        with one, from its end
    :ivar times: seconds of the steps on the way to a connection
    :ivar by_endpoint: what was counted by host
    :param lookup: replaces the DNS client
    :param connect: replaces ``connectTCP``
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: UpstreamSettings,
        *,
        own_addresses: Callable[[], frozenset[tuple[str, int]]],
        policy: DestinationPolicy | None = None,
        head_timeout: float = 30.0,
        lookup: Lookup | None = None,
        connect: Connect | None = None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._limits = Limits(
            first_byte=settings.upstream_first_byte_timeout, head=head_timeout, idle=settings.upstream_idle_timeout
        )
        self._router = Router(settings.upstream_overrides, settings.endpoint_overrides)
        self._dns = DNSClient(reactor, settings.dns_servers or DEFAULT_SERVERS)
        distributed = settings.ip_distribution_enabled
        self._slots = ConnectionSlots(
            reactor, settings.max_connections, settings.connection_timeout, settings.max_connections
        )
        self._pool = ConnectionPool(
            reactor,
            PoolLimits(
                per_key=settings.max_idle_per_ip if distributed else settings.max_idle_per_host,
                per_host=None if distributed else settings.max_idle_per_host,
                idle=settings.idle_timeout,
                lifetime=settings.max_lifetime,
            ),
            self._slots.leave,
        )
        options = SocketOptions(
            settings.keepalive_idle_secs,
            settings.keepalive_interval_secs,
            settings.keepalive_retries,
            settings.tcp_recv_buffer_size,
        )
        self.socket_options = options
        contexts = ClientContexts(settings.system_ca, seconds=reactor.seconds)
        self.times = ConnectTimes()
        self._dialer = Dialer(reactor, contexts, options, settings.connection_timeout, connect, self.times)
        self._addresses = Addresses(
            reactor,
            Resolver(
                reactor,
                lookup or self._dns.lookup,
                settings.endpoint_overrides,
                settings.dns_refresh_interval,
                settings.max_registered_endpoints,
                self.times.dns,
            ),
            AddressHealth(
                settings.ip_failure_threshold,
                settings.health_probe_initial_cooldown,
                settings.health_probe_max_cooldown,
                settings.max_registered_endpoints,
            ),
            LoopGuard(own_addresses),
            policy,
            distributed,
            self._dial,
            self._found_again,
            self._excluded,
        )
        self._governor = Governor(settings.hedged_requests.max_inflight_fraction)
        self._stopped = False
        self.counters = UpstreamCounters()
        self.by_endpoint = EndpointCounts()
        self.hedges = HedgeCounters()

    def unanswered(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See :meth:`~s3proxy.upstream.resolve.Resolver.unanswered`."""
        return self._addresses.resolver.unanswered()

    def lookups(self) -> tuple[int, int]:
        """Names that were looked up so far, and those of them that no server answered about."""
        resolver = self._addresses.resolver
        return resolver.lookups, resolver.failures

    def seconds(self) -> float:
        """The clock that answers are timed with."""
        return float(self._reactor.seconds())

    @property
    def closed(self) -> "Counter[str]":
        """Connections that have ended, by why."""
        return self._pool.closed

    @property
    def resolver(self) -> Resolver:
        """Host names to addresses, for others that dial S3's hosts (the passthrough)."""
        return self._addresses.resolver

    def start(self) -> None:
        """Warn of every override that gives up protection. Opens nothing: connections come with the requests."""
        for key, override in self._settings.upstream_overrides.items():
            if override.scheme == "http":
                self.log.warn("Requests for {key} go to S3 in plain text (connection_pool.upstream_overrides)", key=key)
            elif not override.validate_tls:
                self.log.warn("The certificate of {key} is not checked (connection_pool.upstream_overrides)", key=key)

    def stop(self) -> "Deferred[None]":
        """Close what is idle; requests under way go on, new ones fail. Fires when the idle connections are closed."""
        self._stopped = True
        self._addresses.stop()
        self._dns.close()
        closing: list[Deferred[None]] = []
        for connection in self._pool.close():
            gone: Deferred[None] = Deferred()
            closing.append(gone)
            connection.when_lost(_fires(gone))
            connection.abort()
        return DeferredList(closing).addCallback(lambda _: None)

    def snapshot(self) -> dict[str, Any]:
        """For the health page: counters, and by host its addresses, the excluded ones, connections idle and in use.

        Of an excluded address it says for how many seconds it has been that, and when it is probed next.
        """
        now = self._reactor.seconds()
        excluded = self._addresses.excluded()
        out = {ip for ip, _ in excluded}
        hosts: dict[str, dict[str, Any]] = {}
        for host, targets in self._addresses.resolver.known().items():
            ips = [target.ip for target in targets]
            left_out = [ip for ip in ips if ip in out]
            hosts[host] = {"addresses": ips, "excluded": left_out, "idle": 0, "active": 0}
        for host, (idle, active) in self._pool.counts().items():
            entry = hosts.setdefault(host, {"addresses": [], "excluded": [], "idle": 0, "active": 0})
            entry["idle"], entry["active"] = idle, active
        return {
            "hosts": hosts,
            "excluded": [show_address(*address) for address in excluded],
            "recovery": {
                show_address(*address): {
                    "seconds": round(now - since, 1),
                    "next_probe_seconds": round(max(next_probe - now, 0.0), 1),
                }
                for address, (since, next_probe) in excluded.items()
            },
            "probes": {"succeeded": self._addresses.prober.succeeded, "failed": self._addresses.prober.failed},
            "connections_in_use": self._slots.in_use,
            "connections_limit": self._slots.limit,
            "requests_waiting": self._slots.waiting,
            "requests_waited": self._slots.waited,
            "requests_refused": self._slots.refused,
            "hedges": attrs.asdict(self.hedges),
            "lookups": self._addresses.resolver.lookups,
            "lookup_failures": self._addresses.resolver.failures,
            "exclusions": self._addresses.exclusions,
            **attrs.asdict(self.counters),
        }

    def request(self, request: UpstreamRequest) -> "Deferred[IUpstreamResponse]":
        """See :class:`~s3proxy.upstream.interfaces.IUpstream`."""
        asking: Deferred[IUpstreamResponse] = Deferred.fromCoroutine(self._request(request))
        if request.body is None:

            def too_late(_: object, seconds: float) -> None:
                raise UpstreamTimeout(f"{request.host} did not answer within {seconds:g} s", sent=True)

            asking.addTimeout(self._limits.head, self._reactor, too_late)
        return asking

    def find(self, host: str, port: int) -> "Deferred[list[tuple[str, int]]]":
        """IP and port of the addresses to dial for a connection to *host* and *port* that others make, best first.

        Fails with UpstreamRefused when none may be dialled, with UpstreamUnreachable when there is none.
        """
        return Deferred.fromCoroutine(self._addresses.find(self._router.route(host, port), port))

    def dialled(self, ip: str, port: int, reached: bool) -> None:
        """Others have dialled an address that :meth:`find` gave them."""
        if reached:
            self._addresses.connected((ip, port))
        else:
            # It was permitted for the host that was asked for; its own class says nothing about a probe.
            self._addresses.failed(Route(ip, port, None, overridden=True), (ip, port))

    async def _request(self, request: UpstreamRequest) -> IUpstreamResponse:
        self._governor.fetches += request.repeatable
        try:
            response = await self._repeat(request)
        except BaseException:
            self.counters.failures += 1
            self._governor.fetches -= request.repeatable
            if request.body is not None:
                request.body.abort()
            raise
        if request.repeatable:
            response.when_over(self._fetched)
        return response

    def _fetched(self) -> None:
        self._governor.fetches -= 1

    async def _repeat(self, request: UpstreamRequest) -> UpstreamResponse:
        try:
            framed = framing(request)
        except ValueError as error:
            raise UpstreamError(f"the request can't be sent: {error}") from None
        route = self._router.route(request.host, request.port)
        tries = Tries()
        used: set[Address] = set()
        while True:
            if self._stopped:
                raise UpstreamUnreachable("the proxy is stopping")
            try:
                if request.hedging is None or not request.repeatable:
                    return await self._attempt(request, framed, route, tries, used)
                return await self._race(request, request.hedging, framed, route, tries, used)
            except _AttemptFailed as failed:
                failed_at = failed.stage
                tries = tries.plus(failed.stage)
                delay = next_delay(failed.stage, request.repeatable, tries, self._settings.upstream_idle_retries)
                if delay is None:
                    raise failed.error from None
                self.log.debug("A request to {host} is repeated: {error}", host=request.host, error=failed.error)
            self.counters.retries += 1
            self.by_endpoint.retried[failed_at.name.lower()] += 1
            if delay > 0:
                await deferLater(self._reactor, delay)

    async def _race(
        self,
        request: UpstreamRequest,
        hedging: Hedging,
        framed: tuple[bytes, int | None],
        route: Route,
        tries: Tries,
        used: set[Address],
    ) -> UpstreamResponse:
        async def ask(second: bool) -> UpstreamResponse:
            if second:
                self.log.debug("A request to {host} is late and sent a second time", host=request.host)
            return await self._attempt(request, framed, route, tries, used)

        race = Race(self._reactor, ask, hedging, self._governor, self.hedges, self._slots.is_free)
        return await race.run()

    async def _attempt(
        self, request: UpstreamRequest, framed: tuple[bytes, int | None], route: Route, tries: Tries, used: set[Address]
    ) -> UpstreamResponse:
        try:
            address = await self._addresses.pick(route, used)
        except UpstreamError as error:
            # The resolver has asked every server twice; asking again at once would not help.
            raise _AttemptFailed(Stage.FORBIDDEN, error) from None
        used.add(address)
        ip, port = address
        key = PoolKey(route.host, ip, port, route.tls)
        if not self._slots.take():
            try:
                await self._slots.wait(route.host)
            except UpstreamError as error:
                raise _AttemptFailed(Stage.FORBIDDEN, error) from None
        connection: Any = self._pool.take(key) if not tries.stale else None
        if connection is None:
            try:
                connection = await self._open(key, route)
            except BaseException:
                self._slots.leave()
                raise
        else:
            self.counters.connections_reused += 1
            self._count(self.by_endpoint.reused, route.host)
        self.counters.attempts += 1
        exchange = Exchange(self._reactor, connection, request, framed, self._limits)
        on_idle = self._pool.release if self._settings.keepalive_enabled else None
        try:
            response = await exchange.run(on_idle)
        except UpstreamError as error:
            if exchange.stage in (Stage.UNANSWERED, Stage.SILENT, Stage.BODY_HELD, Stage.ANSWERING):
                self._addresses.failed(route, address)
            raise _AttemptFailed(exchange.stage, error) from None
        self._addresses.answered(address)
        return response

    def _dial(self, route: Route, ip: str, port: int) -> "Deferred[UpstreamConnection]":
        """Connect, if that is allowed.

        :raises UpstreamRefused: it is not
        """
        self._addresses.check(route, (ip, port))
        return self._dialer.dial(route, ip, port)

    async def _open(self, key: PoolKey, route: Route) -> UpstreamConnection:
        if self._slots.limit:
            self._pool.make_room(self._slots.limit)
        try:
            connection = await self._dial(route, key.ip, key.port)
        except (UpstreamRefused, UpstreamTLSError) as error:
            self.counters.connect_failures += 1
            raise _AttemptFailed(Stage.FORBIDDEN, error) from None
        except UpstreamError as error:
            self.counters.connect_failures += 1
            self._addresses.failed(route, (key.ip, key.port))
            raise _AttemptFailed(Stage.CONNECTING, error) from None
        self._opened(connection, route)
        self._pool.opened(key, connection)
        return connection

    def _count(self, counter: "Counter[str]", host: str) -> None:
        counter[self.by_endpoint.endpoints.label(host)] += 1

    def _opened(self, connection: UpstreamConnection, route: Route) -> None:
        self._count(self.by_endpoint.opened, route.host)
        self.counters.connections_opened += 1
        self.counters.tls_resumed += connection.tls is not None and connection.tls.resumed

    def _excluded(self, route: Route) -> None:
        self._count(self.by_endpoint.excluded, route.host)

    def _found_again(self, route: Route, address: Address, connection: UpstreamConnection) -> None:
        """A probe reached an excluded address. Its connection serves the next request, if it is of use to one."""
        ip, port = address
        self._opened(connection, route)
        if self._stopped or route.tls is None and route.host == ip or not self._settings.keepalive_enabled:
            connection.close()
        else:
            self._pool.adopt(PoolKey(route.host, ip, port, route.tls), connection)
