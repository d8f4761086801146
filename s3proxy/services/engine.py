"""What answers clients: listeners, gateway, tunnels, the way to S3, and the log of it all. One per serving process."""

import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from s3proxy import __version__
from s3proxy.admin.board import ComponentStatus, HealthComponent, HealthState
from s3proxy.cache.manager import CacheManager
from s3proxy.config.model import Config
from s3proxy.dashboard.samples import Sampler
from s3proxy.gateway.bodies import CopyBudget
from s3proxy.gateway.interfaces import IClientRequest
from s3proxy.gateway.lane import Lane
from s3proxy.gateway.pipeline import Accounts, Gateway
from s3proxy.gateway.transaction import Parts
from s3proxy.policy.rules import Rules
from s3proxy.policy.sharing import Sharing
from s3proxy.s3.address import is_aws_host
from s3proxy.s3.signature import redact_target
from s3proxy.services.bandwidth import BandwidthService
from s3proxy.services.cache import CacheService
from s3proxy.services.certificate import CertificateService
from s3proxy.services.descriptors import connections_for, raise_limit
from s3proxy.services.errors import StartError
from s3proxy.services.health import CapacityHealth, DnsHealth, ILog, LogHealth, UpstreamHealth, reactor_health
from s3proxy.services.listeners import BoundPort, PassthroughListener, TrafficListener
from s3proxy.services.metering import MeteredUpstream, readings_of
from s3proxy.services.rules_source import RulesSource
from s3proxy.telemetry.access import AccessLog
from s3proxy.telemetry.buckets import BucketSeries
from s3proxy.telemetry.exit import Exit
from s3proxy.telemetry.lag import LagSampler
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.record import RequestRecord
from s3proxy.telemetry.traffic import Traffic
from s3proxy.tunnel.connect import Connector
from s3proxy.tunnel.limits import TunnelLimits
from s3proxy.tunnel.opener import Opener
from s3proxy.tunnel.passthrough import Passthrough
from s3proxy.tunnel.registry import Tunnels
from s3proxy.upstream.admission import AdmittingUpstream
from s3proxy.upstream.client import Upstream
from s3proxy.upstream.destinations import DestinationPolicy
from s3proxy.upstream.pacing import PacedUpstream, Pacer
from s3proxy.upstream.routing import host_and_port, longest_suffix
from s3proxy.util.malloc import keep_freed_memory
from s3proxy.wire.pages import PageCache
from s3proxy.wire.resource import CachingResource
from s3proxy.wire.site import CachingSite

__all__ = ["COMPONENTS", "Engine"]


class Engine(MultiService):
    """See the module. Accepts connections from its start until :meth:`drain`.

    :param bound: the ports of the listeners for clients, by name
    :param cache: is open
    :param rules: are loaded; who made them calls :meth:`use_rules` when they change
    :param own_addresses: where this proxy listens, to which it must not connect
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        *,
        bound: dict[str, BoundPort],
        cache: CacheService,
        rules: RulesSource,
        metrics: Metrics,
        lag: LagSampler,
        own_addresses: Callable[[], frozenset[tuple[str, int]]],
        hostname: str,
        instance: str,
    ) -> None:
        super().__init__()
        assert cache.manager is not None
        self._reactor = reactor
        self._config = config
        self._bound = bound
        self._cache = cache
        self._metrics = metrics
        self._lag = lag
        self._hostname = hostname
        self.manager: CacheManager = cache.manager
        policy = DestinationPolicy(
            allowlist=config.server.tls.connect_allowlist,
            overrides=config.connection_pool.endpoint_overrides,
            own_resolver=bool(config.connection_pool.dns_servers),
        )
        self._upstream = Upstream(
            reactor,
            config.connection_pool,
            own_addresses=own_addresses,
            policy=policy,
            head_timeout=config.server.request_timeout,
        )
        self._access_log = AccessLog(
            config.logging.access_log_dir,
            hostname,
            reactor,
            config.logging.access_log_mode,
            config.logging.access_log_flush_interval,
            config.logging.access_log_buffer_size,
            config.logging.access_log_file_rotation_interval,
            redact=redact_target,
            form=config.logging.access_log_format,
            log_requester=config.logging.access_log_requester,
        )
        self._metered = MeteredUpstream(self._upstream, metrics)
        pacer = Pacer(reactor, most_shares=config.download_bandwidth.max_tracked_classes)
        self._bandwidth = BandwidthService(
            reactor, config.download_bandwidth, pacer, cache.count_instances, cache.disk.run
        )  # fmt: skip
        self._bandwidth.setServiceParent(self)
        self._admitting = AdmittingUpstream(reactor, PacedUpstream(self._metered, pacer), self.manager.bodies)
        metrics.observe_source(pacer.readings)
        self._exit = Exit(
            metrics,
            self._access_log,
            config.logging.access_log_enabled,
            BucketSeries(config.metrics.per_bucket.max_series, config.metrics.per_bucket.bucket_prefixes),
        )
        self._gateway = Gateway(
            reactor,
            Parts(
                clock=reactor,
                cache=self.manager,
                upstream=self._admitting,
                now=time.time,
                referer=self._referer(),
                sharing=Sharing(config.download_bandwidth.caller_id),
                copies=CopyBudget(memory=self.manager.bodies),
                coalescing=config.cache.download_coordination.enabled,
            ),
            rules.rules,
            Accounts(started=self._exit.started, finished=self._exit.finished),
            max_requests=config.server.max_concurrent_requests,
            bypass_headers=config.cache.cache_bypass_headers_enabled,
            instance=instance,
        )
        self._tunnels = Tunnels(
            reactor,
            self._exit.tunnel_ended,
            time.time,
            limits=TunnelLimits(most=config.server.max_concurrent_tunnels),
            instance=instance,
        )
        self._opener = Opener(
            reactor=reactor,
            policy=policy,
            addresses=self._upstream,
            limits=TunnelLimits(connect_time=config.connection_pool.connection_timeout),
            prepare=self._upstream.socket_options.apply,
        )
        self._lane = Lane(
            self.manager,
            rules.rules,
            self._exit,
            now=time.time,
            desk=self._gateway,
            instance=instance,
        )
        cache.use_rules(rules.rules)
        self._traffic: list[TrafficListener] = []
        self._most_connections = connections_for(raise_limit())
        self._passthrough: PassthroughListener | None = None
        self._certificate: CertificateService | None = None
        self._add_listeners()
        self._components = {name: make(self) for name, make in COMPONENTS.items()}
        self._sampler = Sampler(metrics, [self.readings], lag.worst)
        for source in (self._access_log.readings, self._tunnels.readings, self.readings):
            metrics.observe_source(source)

    def _referer(self) -> bytes | None:
        if not self._config.server.add_referer_header:
            return None
        return f"s3proxy/{__version__} ({self._hostname})".encode("ascii", "replace")

    def _add_listeners(self) -> None:
        """The listeners for clients."""
        tls = None
        if "tls" in self._bound:
            files = self._config.server.tls
            self._certificate = CertificateService(
                self._reactor, files.cert_path, files.key_path, self._cache.disk.run
            )
            tls = self._certificate.load()
            self._certificate.setServiceParent(self)
            self._metrics.observe_source(self._certificate.readings)
        connector = Connector(self._reactor, self._tunnels, self._opener)

        def handle(request: Any) -> "Deferred[None]":
            return (connector if request.method == b"CONNECT" else self._gateway).handle(request)

        pages = PageCache(self._cache.disk.run)
        for name, bound in self._bound.items():
            if name == "https":
                self._passthrough = PassthroughListener(
                    self._reactor, bound, Passthrough(self._reactor, self._tunnels, self._opener)
                )
                self._passthrough.setServiceParent(self)
                continue
            resource = CachingResource(self._gateway.handle if name == "http" else handle)
            site = CachingSite(resource, self._reactor, name, lane=self._lane)
            traffic = TrafficListener(self._reactor, bound, site, pages, tls if name == "tls" else None)
            traffic.setServiceParent(self)
            site.crowded = self._is_crowded
            self._traffic.append(traffic)

    def _is_crowded(self) -> bool:
        """Whether another connection of a client could take a descriptor that those that are open need."""
        return sum(traffic.site.connections_open for traffic in self._traffic) >= self._most_connections

    # Life.

    def startService(self) -> None:
        """Accept connections.

        :raises StartError: with the remedy
        """
        super().startService()
        self._upstream.start()
        keep_freed_memory()
        if self._config.logging.access_log_enabled:
            try:
                self._access_log.start()
            except OSError as error:
                raise StartError(f"logging.access_log_dir: {error}") from None

    def take_over(self, slot: int) -> None:
        """Accept what arrives for another slot, too."""
        for listener in self._listeners():
            listener.take_over(slot)

    def give_back(self, slot: int) -> None:
        """No longer accept what arrives for it."""
        for listener in self._listeners():
            listener.give_back(slot)

    def _listeners(self) -> Iterator[TrafficListener | PassthroughListener]:
        yield from self._traffic
        if self._passthrough is not None:
            yield self._passthrough

    def reopen_logs(self) -> None:
        """The files were renamed: begin new ones."""
        self._access_log.reopen()

    def reload(self, config: Config | None) -> None:
        """Read the files again that configuration names; and the configuration itself, unless it is None, has
        changed.
        """
        if config is not None:
            self._config = config
            self._exit.logging = config.logging.access_log_enabled
            self._bandwidth.reconfigure(config.download_bandwidth)
        if self._certificate is not None:
            self._certificate.reload()

    def use_rules(self, rules: Rules) -> None:
        """Serve under these rules, and what else the configuration says, from now on."""
        self._lane.reconfigure(rules)
        self._cache.use_rules(rules)
        self._gateway.reconfigure(
            rules,
            max_requests=self._config.server.max_concurrent_requests,
            bypass_headers=self._config.cache.cache_bypass_headers_enabled,
        )

    async def drain(self, limit: float, patience: float = 0.0) -> None:
        """Accept nothing more, and let what is under way end, for so many seconds.

        :param patience: see :meth:`CachingSite.drain`
        """
        endings = self._endings(limit, min(patience, limit))
        await DeferredList([Deferred.fromCoroutine(ending) for ending in endings], consumeErrors=False)

    def _endings(self, limit: float, patience: float) -> "Iterator[Coroutine[Any, Any, None]]":
        """The ends of all listeners, which take place side by side."""
        for listener in self._traffic:
            yield listener.drain(limit, patience)
        yield self._drain_tunnels(limit, patience)

    async def _drain_tunnels(self, limit: float, patience: float) -> None:
        if self._passthrough is not None:
            await self._passthrough.close(patience)
        left = len(self._tunnels)
        done = self._tunnels.drain()
        cut = self._reactor.callLater(limit, self._tunnels.abort_all)
        await done
        if cut.active():
            cut.cancel()
        elif left:
            self.log.warn("tunnels were still in use after {limit} s and were cut", limit=limit)

    async def close(self) -> None:
        """End the connections to S3, and write what waits for the access log. After the cache has been closed."""
        await self._upstream.stop()
        await self._access_log.close()

    # For people.

    @property
    def traffic(self) -> Traffic:
        """What was asked of which bucket."""
        return self._exit.traffic

    def requests(self) -> Iterable[tuple[IClientRequest, RequestRecord]]:
        """Requests that are being served."""
        return self._gateway.running

    def permits(self) -> int:
        """How many may be."""
        return self._gateway.max_requests

    def upstream(self) -> dict[str, Any]:
        """Hosts and addresses of S3."""
        return self._upstream.snapshot()

    def latest(self) -> Iterator[tuple[float, bytes]]:
        """The requests that ended last; see :meth:`Exit.latest`."""
        return self._exit.latest()

    def read(self) -> dict[str, float]:
        """The numbers of the dashboard; see :class:`Sampler`."""
        return self._sampler.read()

    def readings(self) -> Iterable[Any]:
        """Values that their owners keep, as readings for the metrics."""
        return readings_of(self._gateway, self._cache, self._upstream, [each.site for each in self._traffic])()

    def health(self) -> dict[str, HealthComponent]:
        """The components that this part of the proxy answers for, by name."""
        return self._components

    def _buffers(self) -> tuple[int, int]:
        """Bytes that copies of uploads take, and may take."""
        return self._gateway.copies.taken, self._gateway.copies.size

    def _listener_health(self) -> ComponentStatus:
        data: dict[str, object] = {
            "connections": sum(traffic.site.connections_open for traffic in self._traffic),
            "requests": self._gateway.in_flight,
            "tunnels": len(self._tunnels),
        }
        return ComponentStatus("listeners", HealthState.HEALTHY, data=data)

    def _dns_health(self) -> HealthComponent:
        stores = {host_and_port(key)[0] for key in self._config.connection_pool.upstream_overrides}

        def matters(name: str) -> bool:
            return is_aws_host(name) or name in stores or longest_suffix(name, stores) is not None

        return DnsHealth(self._upstream.unanswered, self._upstream.lookups, self._reactor.seconds, matters)

    def _log_health(self) -> HealthComponent:
        logs: dict[str, ILog] = {"access": self._access_log}
        return LogHealth(lambda: logs, lambda: self._access_log.dropped, self._reactor.seconds)

    def _tls_health(self) -> HealthComponent:
        if self._certificate is not None:
            return self._certificate.health
        return lambda: ComponentStatus("tls", HealthState.DISABLED, "There is no TLS listener.")


COMPONENTS: Final[Mapping[str, Callable[[Engine], HealthComponent]]] = {
    "upstream": lambda engine: UpstreamHealth(engine._upstream.snapshot, engine._metered, engine._reactor.seconds),
    "dns": Engine._dns_health,
    "capacity": lambda engine: CapacityHealth(engine._gateway, engine._buffers, engine._reactor.seconds),
    "reactor": lambda engine: lambda: reactor_health(engine._lag),
    "logs": Engine._log_health,
    "listeners": lambda engine: engine._listener_health,
    "tls": Engine._tls_health,
}
"""The components of health that a process answers for that serves, by name, and how an engine makes them."""
