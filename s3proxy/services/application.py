"""The root of the service tree.

===========================  =====================================================================
while there are privileges   directories are made, traffic ports bound
start                        log, cache directory, upstream, health and metrics, traffic listeners
stop                         no more connections, requests end, logs flushed, directory closed
===========================  =====================================================================
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger, globalLogPublisher

from s3proxy import __version__
from s3proxy.admin.board import ComponentStatus, HealthBoard, HealthState
from s3proxy.admin.health import health_resource
from s3proxy.admin.metrics import metrics_resource
from s3proxy.admin.sites import admin_site
from s3proxy.config.features import inactive_features
from s3proxy.config.load import Loaded
from s3proxy.dashboard.documents import Known
from s3proxy.dashboard.requests import LogLines
from s3proxy.dashboard.samples import Sampler
from s3proxy.gateway.lane import Lane
from s3proxy.gateway.pipeline import Accounts, Gateway
from s3proxy.gateway.transaction import Parts
from s3proxy.policy.rules import Rules
from s3proxy.s3.signature import redact_target
from s3proxy.services.cache import CacheService
from s3proxy.services.certificate import CertificateService
from s3proxy.services.dashboard import DashboardService, LineKeeper
from s3proxy.services.directories import NeededDirectory, prepare
from s3proxy.services.errors import StartError
from s3proxy.services.listeners import AdminListener, BoundPort, PassthroughListener, TrafficListener
from s3proxy.services.metering import MeteredUpstream, readings_of
from s3proxy.services.reload import reload
from s3proxy.services.rules_source import RulesSource
from s3proxy.telemetry.access import AccessLog
from s3proxy.telemetry.exit import Exit
from s3proxy.telemetry.lag import LagSampler
from s3proxy.telemetry.logs import ApplicationLog
from s3proxy.telemetry.metrics import Metrics
from s3proxy.tunnel.connect import Connector
from s3proxy.tunnel.limits import TunnelLimits
from s3proxy.tunnel.opener import Opener
from s3proxy.tunnel.passthrough import Passthrough
from s3proxy.tunnel.registry import Tunnels
from s3proxy.upstream.client import Upstream
from s3proxy.upstream.destinations import DestinationPolicy
from s3proxy.util.malloc import keep_freed_memory
from s3proxy.wire.pages import PageCache
from s3proxy.wire.resource import CachingResource
from s3proxy.wire.site import CachingSite

__all__ = ["ProxyService"]


class ProxyService(MultiService):
    """Everything that one proxy process does.

    Whatever keeps it from starting is printed as one line, and the process ends with exit code 1.

    :param load: reads the configuration
    :param owner: user and group to which privileges will be given up; None: they are kept
    """

    log = Logger()

    def __init__(
        self, reactor: Any, load: Callable[[], Loaded], loaded: Loaded, owner: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._load = load
        self._loaded = loaded
        self._config = config = loaded.config
        self._owner = owner
        self._hostname = socket.gethostname()
        self._instance = f"{self._hostname}:{os.getpid()}"
        self._app_log = ApplicationLog(
            config.logging.app_log_dir, self._hostname, level=config.logging.log_level, console=sys.__stdout__
        )
        server = config.server
        ports = {"http": ("server.http_port", server.http_port), "https": ("server.https_port", server.https_port)}
        if server.mode == "proxy_only":
            ports = {"proxy": ("server.proxy_port", server.proxy_port)}
        if server.tls.enabled:
            ports["tls"] = ("server.tls.tls_proxy_port", server.tls.tls_proxy_port)
        self._bound = {name: BoundPort(key, port, server.bind_addresses) for name, (key, port) in ports.items()}
        self._lines = LogLines()
        self._keep_lines = LineKeeper(self._lines, self._app_log)
        self._dashboard: DashboardService | None = None
        self._privileged = False
        self._traffic: list[TrafficListener] = []
        self._passthrough: PassthroughListener | None = None
        self._certificate: CertificateService | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Become part of the application, and its log observer."""
        super().setServiceParent(parent)
        self._app_log.attach(parent)

    def privilegedStartService(self) -> None:
        """What may need privileges."""
        self._or_exit(self._prepare)
        super().privilegedStartService()

    def startService(self) -> None:
        """Everything else."""
        self._or_exit(self._start)

    def _or_exit(self, step: Any) -> None:
        try:
            step()
        except StartError as error:
            # The log may not be open yet, and twistd would print a traceback.
            print(f"s3proxy: {error}", file=sys.__stderr__, flush=True)
            raise SystemExit(1) from None

    def _prepare(self) -> None:
        config = self._config
        for needed in (
            NeededDirectory("cache.cache_dir", config.cache.cache_dir, 0o755),
            NeededDirectory("logging.access_log_dir", config.logging.access_log_dir, 0o755),
            NeededDirectory("logging.app_log_dir", config.logging.app_log_dir, 0o755),
        ):
            prepare(needed, self._owner)
        try:
            for bound in self._bound.values():
                bound.bind()
        except StartError:
            for bound in self._bound.values():
                bound.close()
            raise
        self._privileged = True

    def _admin_listeners(self) -> "list[AdminListener]":
        found = [child for child in self.services if isinstance(child, AdminListener)]
        return found if self._dashboard is None else [*found, self._dashboard.listener]

    def _own_addresses(self) -> frozenset[tuple[str, int]]:
        """Where this process listens."""
        own = [bound.names() for bound in self._bound.values()]
        admin: list[Any] = [
            child.port.getHost() for child in self._admin_listeners() if child.port
        ]
        return frozenset().union(*own, ((host.host, host.port) for host in admin))

    def _start(self) -> None:
        if not self._privileged:
            # Started by a runner that knows no privileged step.
            self._prepare()
        os.umask(0o077)
        config = self._config
        self._open_logs()
        if config.dashboard.enabled:
            globalLogPublisher.addObserver(self._keep_lines)
        self._introduce()

        self._started_at = time.time()
        self._metrics = Metrics(CollectorRegistry())
        self._metrics.identify(__version__, self._instance, self._hostname, config.server.mode, self._started_at)
        self._lag = LagSampler(self._reactor, self._metrics.observe_lag, seconds=time.monotonic)
        self._facts = {
            "version": __version__,
            "instance_id": self._instance,
            "hostname": self._hostname,
            "mode": config.server.mode,
        }
        self._board = HealthBoard(time.time, self._facts)
        self._cache = CacheService(self._reactor, config, self._metrics)
        manager = self._cache.open()
        self._rules = RulesSource(self._reactor, config, self._cache.disk.run, self._use_rules, time.time)
        rules = self._rules.load()
        policy = DestinationPolicy(
            allowlist=config.server.tls.connect_allowlist,
            overrides=config.connection_pool.endpoint_overrides,
            own_resolver=bool(config.connection_pool.dns_servers),
        )
        self._upstream = Upstream(
            self._reactor,
            config.connection_pool,
            own_addresses=self._own_addresses,
            policy=policy,
            head_timeout=config.server.request_timeout,
        )
        self._access_log = AccessLog(
            config.logging.access_log_dir,
            self._hostname,
            self._reactor,
            config.logging.access_log_mode,
            config.logging.access_log_flush_interval,
            config.logging.access_log_buffer_size,
            config.logging.access_log_file_rotation_interval,
            redact=redact_target,
        )
        self._exit = Exit(self._metrics, self._access_log, config.logging.access_log_enabled)
        self._gateway = Gateway(
            self._reactor,
            Parts(
                clock=self._reactor,
                cache=manager,
                upstream=MeteredUpstream(self._upstream, self._metrics),
                now=time.time,
                referer=self._referer(),
            ),
            rules,
            Accounts(started=self._exit.started, finished=self._exit.finished),
            max_requests=config.server.max_concurrent_requests,
            bypass_headers=config.cache.cache_bypass_headers_enabled,
            instance=self._instance,
        )
        self._tunnels = Tunnels(self._reactor, self._exit.tunnel_ended, time.time, instance=self._instance)
        self._opener = Opener(
            reactor=self._reactor,
            policy=policy,
            addresses=self._upstream,
            limits=TunnelLimits(connect_time=config.connection_pool.connection_timeout),
            prepare=self._upstream.socket_options.apply,
        )
        self._lane = Lane(
            manager,
            rules,
            self._exit,
            now=time.time,
            desk=self._gateway,
            instance=self._instance,
        )
        self._add_children()
        self._add_dashboard()
        self._watch()
        super().startService()
        self._upstream.start()
        keep_freed_memory()
        self._lag.start()
        if config.logging.access_log_enabled:
            try:
                self._access_log.start()
            except OSError as error:
                raise StartError(f"logging.access_log_dir: {error}") from None
        self._board.started()
        self._listen_for_hangup()
        # Behind the reactor's own start, which sets handlers for these, too.
        self._reactor.callWhenRunning(self._end_on_signal)
        names = sorted(name for bound in self._bound.values() for name in bound.names())
        self.log.info("ready: {where}", where=", ".join(f"{ip}:{port}" for ip, port in names))

    def _open_logs(self) -> None:
        try:
            self._app_log.start()
        except OSError as error:
            raise StartError(f"logging.app_log_dir: {error}") from None

    def _introduce(self) -> None:
        """The first lines of the log: who this is, and everything that was found while the configuration was read."""
        config = self._config
        self.log.info(
            "S3 Proxy {version}: mode {mode}, {ports}; cache {directory}, {size}, {algorithm}",
            version=__version__,
            mode=config.server.mode,
            ports=", ".join(f"{name} on port {bound.port}" for name, bound in self._bound.items()),
            directory=config.cache.cache_dir,
            size=f"at most {config.cache.max_cache_size} bytes" if config.cache.max_cache_size else "without a limit",
            algorithm=config.cache.eviction_algorithm,
        )
        for notice in self._loaded.notices:
            write = self.log.warn if notice.level == "warn" else self.log.info
            write("{text}", text=notice.text)
        waiting = inactive_features(config)
        if waiting:
            self.log.info("not in this version, although configured: {features}", features=", ".join(waiting))

    def _referer(self) -> bytes | None:
        if not self._config.server.add_referer_header:
            return None
        return f"s3proxy/{__version__} ({self._hostname})".encode("ascii", "replace")

    def _add_children(self) -> None:
        config = self._config
        self._cache.setServiceParent(self)
        self._rules.setServiceParent(self)
        if config.health.enabled:
            site = admin_site(health_resource(self._board, config.health.endpoint), self._reactor)
            AdminListener(
                self._reactor, "health.port", config.health.port, config.health.bind_address, site
            ).setServiceParent(self)
        if config.metrics.enabled:
            resource = metrics_resource(self._metrics, config.metrics.endpoint, config.metrics.format)
            AdminListener(
                self._reactor,
                "metrics.port",
                config.metrics.port,
                config.metrics.bind_address,
                admin_site(resource, self._reactor),
            ).setServiceParent(self)
        self._add_traffic()

    def _add_traffic(self) -> None:
        """The listeners for clients."""
        tls = None
        if "tls" in self._bound:
            files = self._config.server.tls
            self._certificate = CertificateService(
                self._reactor, files.cert_path, files.key_path, self._cache.disk.run
            )
            tls = self._certificate.load()
            self._certificate.setServiceParent(self)
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
            self._traffic.append(traffic)

    def _add_dashboard(self) -> None:
        config = self._config.dashboard
        if not config.enabled:
            return
        assert self._cache.manager is not None and self._cache.store is not None
        sites = [traffic.site for traffic in self._traffic]
        self._dashboard = DashboardService(
            self._reactor,
            known=Known(
                facts=self._facts,
                now=time.time,
                clock=self._reactor.seconds,
                started_at=self._started_at,
                board=self._board,
                traffic=self._exit.traffic,
                manager=self._cache.manager,
                running=lambda: self._gateway.running,
                permits=lambda: self._gateway.max_requests,
                upstream=self._upstream.snapshot,
                rules=lambda: self._rules.rules,
            ),
            sampler=Sampler(
                self._metrics, [readings_of(self._gateway, self._cache, self._upstream, sites)], self._lag.worst
            ),
            metrics=self._metrics,
            exit=self._exit,
            lines=self._lines,
            volume=self._cache.store.volume,
            run=self._cache.disk.run,
            config=self._config,
            hostname=self._hostname,
        )
        self._dashboard.setServiceParent(self)

    def _watch(self) -> None:
        """Who tells health and metrics."""
        self._board.add("cache", self._cache.health)
        self._board.add("rules", self._rules.health)
        self._board.add("upstream", self._upstream_health)
        self._board.add("listeners", self._listener_health)
        if self._certificate is not None:
            self._board.add("certificate", self._certificate.health)
            self._metrics.observe_source(self._certificate.readings)
        self._board.add_liveness(self._too_late)
        for source in (
            self._board.readings,
            self._app_log.readings,
            self._access_log.readings,
            self._rules.readings,
            self._tunnels.readings,
            readings_of(self._gateway, self._cache, self._upstream, [traffic.site for traffic in self._traffic]),
        ):
            self._metrics.observe_source(source)

    def _upstream_health(self) -> ComponentStatus:
        snapshot = self._upstream.snapshot()
        dead = [
            name
            for name, host in snapshot["hosts"].items()
            if host["addresses"] and not (set(host["addresses"]) - set(host["excluded"]))
        ]
        if dead:
            return ComponentStatus(
                "upstream", HealthState.DEGRADED, f"No address answers for {', '.join(sorted(dead))}.", data=snapshot
            )
        excluded = ", ".join(snapshot["excluded"])
        message = f"Left out until they answer a probe: {excluded}." if excluded else ""
        return ComponentStatus("upstream", HealthState.HEALTHY, message, data=snapshot)

    def _listener_health(self) -> ComponentStatus:
        failed = [child.error for child in self._admin_listeners() if child.error]
        data: dict[str, object] = {
            "connections": sum(traffic.site.connections_open for traffic in self._traffic),
            "requests": self._gateway.in_flight,
            "tunnels": len(self._tunnels),
        }
        if failed:
            return ComponentStatus("listeners", HealthState.DEGRADED, " ".join(failed), data=data)
        return ComponentStatus("listeners", HealthState.HEALTHY, data=data)

    def _too_late(self) -> str | None:
        limit = self._config.health.liveness_max_lag
        lag = self._lag.current()
        return f"The event loop is {lag:.1f} s late." if lag > limit else None

    def _listen_for_hangup(self) -> None:
        """SIGUSR1 opens the log files anew; SIGHUP does so, too, and reads the configuration again."""
        signal.signal(signal.SIGUSR1, lambda *_: self._reactor.callFromThread(self._reopen_logs))
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))

    def _end_on_signal(self) -> None:
        """SIGTERM and SIGINT end the process with exit code 0 when everything is stopped.

        The reactor's own handlers would have it die of the signal in the end, which looks like a failure to whoever
        waits for it.
        """
        ending = False

        def end() -> None:
            nonlocal ending
            if not ending:
                ending = True
                self._reactor.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(end))

    def _reopen_logs(self) -> None:
        self._app_log.reopen()
        self._access_log.reopen()
        self.log.info("the log files are opened anew")

    def _reload(self) -> None:
        self._reopen_logs()
        config = reload(self._config, self._load)
        if config is not None:
            self._config = config
            self._exit.logging = config.logging.access_log_enabled
            self._app_log.set_level(config.logging.log_level)
            self._cache.reconfigure(config)
        self._rules.reload(config)
        if self._certificate is not None:
            self._certificate.reload()

    def _use_rules(self, rules: Rules) -> None:
        """Serve under these rules, and what else the configuration says, from now on."""
        self._lane.reconfigure(rules)
        self._gateway.reconfigure(
            rules,
            max_requests=self._config.server.max_concurrent_requests,
            bypass_headers=self._config.cache.cache_bypass_headers_enabled,
        )

    def stopService(self) -> "Deferred[None]":
        """Drain, flush, close: fires when all of it is done."""
        return Deferred.fromCoroutine(self._stop())

    def _endings(self) -> "Iterator[Coroutine[Any, Any, None]]":
        """The ends of all listeners, which take place side by side."""
        limit = self._config.server.drain_timeout
        for listener in self._traffic:
            yield listener.drain(limit)
        yield self._drain_tunnels(limit)

    async def _drain_tunnels(self, limit: float) -> None:
        if self._passthrough is not None:
            await self._passthrough.close()
        left = len(self._tunnels)
        done = self._tunnels.drain()
        cut = self._reactor.callLater(limit, self._tunnels.abort_all)
        await done
        if cut.active():
            cut.cancel()
        elif left:
            self.log.warn("tunnels were still in use after {limit} s and were cut", limit=limit)

    async def _stop(self) -> None:
        self.log.info("stopping: requests under way have {limit} s", limit=self._config.server.drain_timeout)
        self._board.start_draining()
        await DeferredList([Deferred.fromCoroutine(ending) for ending in self._endings()], consumeErrors=False)
        if self._dashboard is not None:
            await self._dashboard.close()
        await self._cache.close()
        await self._upstream.stop()
        self._lag.stop()
        await self._access_log.close()
        await super().stopService()
        if self._config.dashboard.enabled:
            globalLogPublisher.removeObserver(self._keep_lines)
        self.log.info("stopped")
