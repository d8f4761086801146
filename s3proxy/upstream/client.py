"""The upstream side as one object: resolve, pick an address, connect, ask, and try again where that is safe."""

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from s3proxy.upstream.connection import Connect, Dialer, UpstreamConnection
from s3proxy.upstream.exchange import Exchange, Limits, framing
from s3proxy.upstream.health import AddressHealth
from s3proxy.upstream.interfaces import (
    IUpstream,
    IUpstreamResponse,
    UpstreamError,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTLSError,
    UpstreamUnreachable,
)
from s3proxy.upstream.pool import ConnectionPool, PoolKey, PoolLimits
from s3proxy.upstream.resolve import DEFAULT_SERVERS, DNSClient, Lookup, Resolver
from s3proxy.upstream.response import UpstreamResponse
from s3proxy.upstream.retry import Stage, Tries, next_delay
from s3proxy.upstream.routing import LoopGuard, Route, Router, show_address
from s3proxy.upstream.settings import UpstreamSettings
from s3proxy.upstream.sockets import SocketOptions
from s3proxy.upstream.tls import ClientContexts

__all__ = ["CheckAddress", "Upstream", "UpstreamCounters"]

#: Called with host, IP and port before a connection is opened; may raise UpstreamRefused.
CheckAddress = Callable[[str, str, int], None]


@attrs.define
class UpstreamCounters:
    """Totals since the start.

    :ivar connections_opened: TCP (and TLS) connections that came about
    :ivar connections_reused: requests sent on a kept connection
    :ivar connect_failures: attempts to connect that failed, certificates included
    :ivar attempts: requests sent, repetitions included
    :ivar retries: repetitions
    :ivar failures: requests that ended without an answer
    :ivar exclusions: addresses taken out of use because they kept failing
    """

    connections_opened: int = 0
    connections_reused: int = 0
    connect_failures: int = 0
    attempts: int = 0
    retries: int = 0
    failures: int = 0
    exclusions: int = 0


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
    :param check_address: refuses destinations beyond that
    :param head_timeout: seconds for the head of an answer: without a body, from the beginning and with all attempts;
        with one, from its end
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
        check_address: CheckAddress | None = None,
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
        self._resolver = Resolver(
            reactor,
            lookup or self._dns.lookup,
            settings.endpoint_overrides,
            settings.dns_refresh_interval,
            settings.max_registered_endpoints,
        )
        self._health = AddressHealth(
            settings.ip_failure_threshold,
            settings.health_probe_initial_cooldown,
            settings.health_probe_max_cooldown,
            settings.max_registered_endpoints,
        )
        distributed = settings.ip_distribution_enabled
        self._pool = ConnectionPool(
            reactor,
            PoolLimits(
                per_key=settings.max_idle_per_ip if distributed else settings.max_idle_per_host,
                per_host=None if distributed else settings.max_idle_per_host,
                idle=settings.idle_timeout,
                lifetime=settings.max_lifetime,
            ),
        )
        options = SocketOptions(
            settings.keepalive_idle_secs,
            settings.keepalive_interval_secs,
            settings.keepalive_retries,
            settings.tcp_recv_buffer_size,
        )
        contexts = ClientContexts(settings.system_ca)
        self._dialer = Dialer(reactor, contexts, options, settings.connection_timeout, connect)
        self._guard = LoopGuard(own_addresses)
        self._check_address = check_address
        self._stopped = False
        self.counters = UpstreamCounters()

    @property
    def resolver(self) -> Resolver:
        """Host names to addresses, for others that dial S3's hosts (the passthrough)."""
        return self._resolver

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
        self._dns.close()
        closing: list[Deferred[None]] = []
        for connection in self._pool.close():
            gone: Deferred[None] = Deferred()
            closing.append(gone)
            connection.when_lost(_fires(gone))
            connection.abort()
        return DeferredList(closing).addCallback(lambda _: None)

    def snapshot(self) -> dict[str, Any]:
        """For the health page: counters, and by host its addresses, the excluded ones, connections idle and in use."""
        excluded = self._health.all_excluded(self._reactor.seconds())
        out = {ip for ip, _ in excluded}
        hosts: dict[str, dict[str, Any]] = {}
        for host, targets in self._resolver.known().items():
            ips = [target.ip for target in targets]
            left_out = [ip for ip in ips if ip in out]
            hosts[host] = {"addresses": ips, "excluded": left_out, "idle": 0, "active": 0}
        for host, (idle, active) in self._pool.counts().items():
            entry = hosts.setdefault(host, {"addresses": [], "excluded": [], "idle": 0, "active": 0})
            entry["idle"], entry["active"] = idle, active
        return {
            "hosts": hosts,
            "excluded": [show_address(*address) for address in excluded],
            "lookups": self._resolver.lookups,
            "lookup_failures": self._resolver.failures,
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

    async def _request(self, request: UpstreamRequest) -> IUpstreamResponse:
        try:
            return await self._repeat(request)
        except BaseException:
            self.counters.failures += 1
            if request.body is not None:
                request.body.abort()
            raise

    async def _repeat(self, request: UpstreamRequest) -> IUpstreamResponse:
        try:
            framed = framing(request)
        except ValueError as error:
            raise UpstreamError(f"the request can't be sent: {error}") from None
        route = self._router.route(request.host, request.port)
        tries = Tries()
        used: set[tuple[str, int]] = set()
        while True:
            if self._stopped:
                raise UpstreamUnreachable("the proxy is stopping")
            try:
                return await self._attempt(request, framed, route, tries, used)
            except _AttemptFailed as failed:
                tries = tries.plus(failed.stage)
                delay = next_delay(failed.stage, request.repeatable, tries, self._settings.upstream_idle_retries)
                if delay is None:
                    raise failed.error from None
                self.log.debug("A request to {host} is repeated: {error}", host=request.host, error=failed.error)
            self.counters.retries += 1
            if delay > 0:
                await deferLater(self._reactor, delay)

    async def _attempt(
        self,
        request: UpstreamRequest,
        framed: tuple[bytes, int | None],
        route: Route,
        tries: Tries,
        used: set[tuple[str, int]],
    ) -> UpstreamResponse:
        ip, port = await self._pick(route, used)
        key = PoolKey(route.host, ip, port, route.tls)
        connection: Any = self._pool.take(key) if not tries.stale else None
        if connection is None:
            connection = await self._open(key, route)
        else:
            self.counters.connections_reused += 1
        self.counters.attempts += 1
        exchange = Exchange(self._reactor, connection, request, framed, self._limits)
        on_idle = self._pool.release if self._settings.keepalive_enabled else None
        try:
            response = await exchange.run(on_idle)
        except UpstreamError as error:
            if exchange.stage in (Stage.UNANSWERED, Stage.SILENT, Stage.BODY_HELD, Stage.ANSWERING):
                self._failed(ip, port)
            raise _AttemptFailed(exchange.stage, error) from None
        self._answered(ip, port)
        return response

    async def _pick(self, route: Route, used: set[tuple[str, int]]) -> tuple[str, int]:
        """The next address to try: one that this request has not failed on, if there is one."""
        targets = self._resolver.at_hand(route.host)
        if targets is None:
            try:
                targets = await self._resolver.resolve(route.host)
            except UpstreamError as error:
                # The resolver has asked every server twice; asking again at once would not help.
                raise _AttemptFailed(Stage.FORBIDDEN, error) from None
        addresses = [(target.ip, target.port or route.port) for target in targets]
        rotate = self._settings.ip_distribution_enabled and not route.overridden
        ordered = self._health.in_order(route.host, addresses, self._reactor.seconds(), rotate)
        chosen = next((address for address in ordered if address not in used), ordered[0])
        used.add(chosen)
        return chosen

    async def _open(self, key: PoolKey, route: Route) -> UpstreamConnection:
        try:
            self._guard.check(route.host, key.ip, key.port)
            if self._check_address is not None:
                self._check_address(route.host, key.ip, key.port)
            connection = await self._dialer.dial(route, key.ip, key.port)
        except (UpstreamRefused, UpstreamTLSError) as error:
            self.counters.connect_failures += 1
            raise _AttemptFailed(Stage.FORBIDDEN, error) from None
        except UpstreamError as error:
            self.counters.connect_failures += 1
            self._failed(key.ip, key.port)
            raise _AttemptFailed(Stage.CONNECTING, error) from None
        self.counters.connections_opened += 1
        self._pool.opened(key, connection)
        return connection

    def _failed(self, ip: str, port: int) -> None:
        if self._health.failed((ip, port), self._reactor.seconds()):
            self.counters.exclusions += 1
            self.log.warn("{address} keeps failing and is left out for a while", address=show_address(ip, port))

    def _answered(self, ip: str, port: int) -> None:
        if self._health.succeeded((ip, port)):
            self.log.info("{address} answers again", address=show_address(ip, port))
