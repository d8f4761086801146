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
from collections.abc import Callable
from typing import Any

import attrs
from prometheus_client import CollectorRegistry
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger, globalLogPublisher
from twisted.web.resource import IResource

from s3proxy import __version__
from s3proxy.admin.api import control_resource
from s3proxy.admin.board import ComponentStatus, HealthBoard, HealthState
from s3proxy.admin.health import health_resource
from s3proxy.admin.metrics import metrics_resource
from s3proxy.admin.refreshing import RefreshingResource
from s3proxy.admin.sites import admin_site
from s3proxy.cluster.count import worker_count
from s3proxy.config.features import inactive_features
from s3proxy.config.load import Loaded
from s3proxy.config.model import Config
from s3proxy.config.schema import keys, value_of
from s3proxy.dashboard.browse import Browser
from s3proxy.dashboard.catalog import Catalog
from s3proxy.dashboard.documents import Known
from s3proxy.dashboard.requests import LogLines
from s3proxy.policy.rules import Rules
from s3proxy.services.admin_socket import AdminSocket, socket_path
from s3proxy.services.cache import CacheService
from s3proxy.services.checks import Checks
from s3proxy.services.control import LocalOperations
from s3proxy.services.crew import Crew, HostMetrics
from s3proxy.services.dashboard import DashboardService, LineKeeper
from s3proxy.services.directories import NeededDirectory, prepare
from s3proxy.services.engine import Engine
from s3proxy.services.errors import StartError
from s3proxy.services.health import upstream_documents
from s3proxy.services.listeners import AdminListener, BoundPort
from s3proxy.services.log_cleanup import LogCleanup
from s3proxy.services.otlp import OtlpExporter
from s3proxy.services.reload import reload
from s3proxy.services.rules_source import RulesSource
from s3proxy.services.service_manager import ServiceManager, inherited_sockets
from s3proxy.storage.hostmemory import HostMemory
from s3proxy.telemetry.lag import LagSampler
from s3proxy.telemetry.logs import ApplicationLog
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.retention import Kept
from s3proxy.telemetry.snapshot import Snapshot
from s3proxy.telemetry.thread import SerialThread

__all__ = ["ProxyService"]

_GATES = frozenset({"listeners", "upstream", "capacity", "checks", "workers"})
"""Components of which an unhealthy one means that no traffic is wanted: with the others in trouble, requests are still
answered.
"""


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
            config.logging.app_log_dir,
            self._hostname,
            level=config.logging.log_level,
            console=sys.__stdout__,
            style=config.logging.app_log_format,
            background=True,
        )
        self._service_manager = ServiceManager(reactor, os.environ)
        server = config.server
        ports = {"http": ("server.http_port", server.http_port), "https": ("server.https_port", server.https_port)}
        if server.mode == "proxy_only":
            ports = {"proxy": ("server.proxy_port", server.proxy_port)}
        if server.tls.enabled:
            ports["tls"] = ("server.tls.tls_proxy_port", server.tls.tls_proxy_port)
        self._workers = worker_count(server.workers)
        self._bound = {
            name: BoundPort(key, port, server.bind_addresses, self._workers) for name, (key, port) in ports.items()
        }
        self._lines = LogLines()
        self._keep_lines = LineKeeper(self._lines, self._app_log)
        self._dashboard: DashboardService | None = None
        self._admin_socket: AdminSocket | None = None
        self._socket_path: str | None = None
        self._ending = False
        self._privileged = False
        self._memory: int | None = None

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
        inherited = inherited_sockets(os.environ)
        try:
            for bound in self._bound.values():
                bound.bind(inherited)
        except StartError:
            for bound in self._bound.values():
                bound.close()
            raise
        for each in inherited:
            self.log.warn("a socket of the service manager is for no listener: {name}", name=each.getsockname())
            each.close()
        self._socket_path = socket_path(config, os.environ, self._owner)
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
        self._metrics = (
            Metrics(CollectorRegistry())
            if self._workers == 1
            else HostMetrics(CollectorRegistry(), lambda: self._crew.snapshots())
        )
        self._metrics.identify(__version__, self._instance, self._hostname, config.server.mode, self._started_at)
        self._lag = LagSampler(self._reactor, self._metrics.observe_lag, seconds=time.monotonic)
        self._facts = {
            "version": __version__,
            "instance_id": self._instance,
            "hostname": self._hostname,
            "mode": config.server.mode,
        }
        self._board = HealthBoard(time.time, self._facts)
        self._cache = CacheService(self._reactor, config, self._metrics, memory=self._share_memory())
        self._cache.open()
        self._rules = RulesSource(self._reactor, config, self._cache.disk.run, self._use_rules, time.time)
        self._rules.load()
        self._cache.use_rules(self._rules.rules)
        self._serving: Engine | Crew = self._engine() if self._workers == 1 else self._make_crew()
        self._add_children()
        self._add_operators()
        self._watch()
        super().startService()
        self._lag.start()
        self._listen_for_hangup()
        # Behind the reactor's own start, which sets handlers for these, too.
        self._reactor.callWhenRunning(self._end_on_signal)
        if self._workers == 1:
            self._ready()

    def _ready(self) -> None:
        """Traffic is welcome."""
        self._board.started()
        names = sorted(name for bound in self._bound.values() for name in bound.names())
        self.log.info("ready: {where}", where=", ".join(f"{ip}:{port}" for ip, port in names))
        self._service_manager.ready("serving", alive=lambda: self._too_late() is None)

    def _engine(self) -> Engine:
        """The one that serves, in this process."""
        return Engine(
            self._reactor,
            self._config,
            bound=self._bound,
            cache=self._cache,
            rules=self._rules,
            metrics=self._metrics,
            lag=self._lag,
            own_addresses=self._own_addresses,
            hostname=self._hostname,
            instance=self._instance,
        )

    def _share_memory(self) -> HostMemory | None:
        """What the workers will share with this process; None: there are none."""
        if self._workers == 1:
            return None
        try:
            self._memory = HostMemory.make()
            return HostMemory(self._memory, 0, founder=True)
        except OSError as error:
            raise StartError(f"server.workers: no memory to share: {error}; set it to 1") from None

    def _make_crew(self) -> Crew:
        """Several processes that serve."""
        assert self._memory is not None
        self._crew = Crew(
            self._reactor,
            self._config,
            workers=self._workers,
            bound=self._bound,
            memory=self._memory,
            cache=self._cache,
            own_addresses=self._own_addresses,
            hostname=self._hostname,
            lines=self._lines,
            ready=self._ready,
            failed=self._not_ready,
        )
        return self._crew

    def _not_ready(self, why: str) -> None:
        """A worker can't start: then none of them would, now or later."""
        print(f"s3proxy: {why}", file=sys.__stderr__, flush=True)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._exit_with, 1)
        self._end()

    def _exit_with(self, code: int) -> None:
        self._app_log.flush()
        os._exit(code)

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
        for key in keys(Config):
            value = "(hidden)" if key.kind.hides else key.kind.show(value_of(config, key.path))
            self.log.debug("{path}: {value}", path=key.path, value=value)

    def _add_children(self) -> None:
        config = self._config
        self._cache.setServiceParent(self)
        self._checks = Checks(self._reactor, config, self._cache)
        self._checks.setServiceParent(self)
        if config.metrics.otlp.enabled:
            self._exporter().setServiceParent(self)
        self._rules.setServiceParent(self)
        logs = config.logging
        self._cleanup = LogCleanup(
            self._reactor,
            Kept(
                access_dir=logs.access_log_dir,
                access_days=logs.access_log_retention_days,
                app_dir=logs.app_log_dir,
                app_days=logs.app_log_retention_days,
                hostname=self._hostname,
            ),
            logs.log_cleanup_interval,
            time.time,
        )
        self._cleanup.setServiceParent(self)
        if config.health.enabled:
            site = admin_site(self._fresh(health_resource(self._board, config.health.endpoint)), self._reactor)
            AdminListener(
                self._reactor, "health.port", config.health.port, config.health.bind_address, site
            ).setServiceParent(self)
        if config.metrics.enabled:
            resource = metrics_resource(self._metrics.snapshot, config.metrics.endpoint, config.metrics.format)
            AdminListener(
                self._reactor,
                "metrics.port",
                config.metrics.port,
                config.metrics.bind_address,
                admin_site(self._fresh(resource, "snapshot"), self._reactor),
            ).setServiceParent(self)
        self._serving.setServiceParent(self)

    def _fresh(self, resource: IResource, wanted: str = "facts") -> IResource:
        """A resource whose answers are made of what the workers say, if there are any; they are asked first."""
        if self._workers == 1:
            return resource

        def refresh(request: Any) -> "Deferred[None]":
            latest = wanted == "facts" and request.path.endswith(b"/requests")
            return self._crew.refresh(f"{wanted},latest" if latest else wanted)

        return RefreshingResource(resource, refresh)

    def _exporter(self) -> OtlpExporter:
        """Of metrics, to an OTLP collector."""

        def collect() -> "Snapshot | Deferred[Snapshot]":
            if self._workers == 1:
                return self._metrics.snapshot()
            return self._crew.refresh("snapshot").addCallback(lambda _: self._metrics.snapshot())

        resource = {
            "service.name": "s3-proxy",
            "service.version": __version__,
            "service.instance.id": self._instance,
            "host.name": self._hostname,
        }
        return OtlpExporter(
            self._reactor,
            self._config.metrics.otlp,
            snapshot=collect,
            resource=resource,
            exported=self._metrics.exported,
            started_at=self._started_at,
        )

    def _add_operators(self) -> None:
        """What people look with: the dashboard, and the socket of s3proxyctl."""
        assert self._cache.manager is not None and self._cache.store is not None
        manager, volume, run = self._cache.manager, self._cache.store.volume, self._cache.disk.run
        known = Known(
            facts=self._facts,
            now=time.time,
            clock=self._reactor.seconds,
            started_at=self._started_at,
            board=self._board,
            traffic=self._serving.traffic,
            manager=self._serving.manager,
            running=self._serving.requests,
            permits=self._serving.permits,
            upstream=self._serving.upstream,
            rules=lambda: self._rules.rules,
        )
        catalog = Catalog(self._reactor, SerialThread(self._reactor, "catalog"), volume)
        self._browser = Browser(
            self._reactor, manager, volume, catalog, run, known.rules, known.now, self._note_purged
        )
        self._browser.ordered = self._metrics.cache_purged
        if self._config.dashboard.enabled:
            self._dashboard = DashboardService(
                self._reactor,
                known=known,
                sampler=self._serving,
                metrics=self._metrics,
                exit=self._serving,
                lines=self._lines,
                browser=self._browser,
                volume=volume,
                run=run,
                config=self._config,
                hostname=self._hostname,
                fresh=self._fresh,
            )
            self._dashboard.setServiceParent(self)
        if self._socket_path is not None:
            operations = LocalOperations(
                self._reactor,
                known=known,
                sampler=self._serving,
                metrics=self._metrics,
                browser=self._browser,
                volume=volume,
                run=run,
                listeners=self._client_listeners,
                end=self._end_soon,
            )
            site = admin_site(self._fresh(control_resource(operations)), self._reactor)
            self._admin_socket = AdminSocket(self._reactor, self._socket_path, site)
            self._admin_socket.setServiceParent(self)

    def _note_purged(self, count: int) -> None:
        for _ in range(count):
            self._metrics.cache_invalidated("purge")

    def _client_listeners(self) -> list[tuple[str, str, int]]:
        return [(name, ip, port) for name, bound in self._bound.items() for ip, port in sorted(bound.names())]

    def _watch(self) -> None:
        """Who tells health and metrics."""
        own = {"listeners": self._listener_health, "logs": self._log_health}
        components = {**self._checks.components(), "rules": self._rules.health, **self._serving.health(), **own}
        for name, component in components.items():
            self._board.add(name, component, gates=name in _GATES)
        self._board.show_upstreams(lambda: upstream_documents(self._serving.upstream()))
        self._board.add_liveness(self._too_late)
        for source in (
            self._board.readings,
            self._app_log.readings,
            self._cleanup.readings,
            self._rules.readings,
            self._checks.readings,
        ):
            self._metrics.observe_source(source)

    def _listener_health(self) -> ComponentStatus:
        failed = [child.error for child in self._admin_listeners() if child.error]
        if self._admin_socket is not None and self._admin_socket.error:
            failed.append(self._admin_socket.error)
        status = self._serving.health()["listeners"]()
        if failed:
            text = " ".join((*failed, status.message)).strip()
            return attrs.evolve(status, state=HealthState.DEGRADED, message=text)
        return status

    def _log_health(self) -> ComponentStatus:
        status = self._serving.health()["logs"]()
        if self._app_log.failure:
            text = f"The application log can't be written: {self._app_log.failure}. {status.message}".strip()
            return attrs.evolve(status, state=HealthState.DEGRADED, message=text)
        return status

    def _too_late(self) -> str | None:
        limit = self._config.health.liveness_max_lag
        lag = self._lag.current()
        if lag > limit:
            return f"The event loop is {lag:.1f} s late."
        return self._crew.too_late(limit) if self._workers > 1 else None

    def _listen_for_hangup(self) -> None:
        """SIGUSR1 opens the log files anew; SIGHUP does so, too, and reads the configuration again; SIGUSR2 replaces
        the workers.
        """
        signal.signal(signal.SIGUSR1, lambda *_: self._reactor.callFromThread(self._reopen_logs))
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))
        if self._workers > 1:
            signal.signal(signal.SIGUSR2, lambda *_: self._reactor.callFromThread(self._crew.roll))

    def _end_on_signal(self) -> None:
        """SIGTERM and SIGINT end the process with exit code 0 when everything is stopped.

        The reactor's own handlers would have it die of the signal in the end, which looks like a failure to whoever
        waits for it.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._end))

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            self._reactor.stop()

    def _end_soon(self, delay: float) -> float:
        """Say from now on that no traffic is wanted, and end in ``delay`` seconds as a signal would have it; gives back
        how many seconds requests have from then on.
        """
        self._board.start_draining()
        # Whoever asked for it is answered first.
        self._reactor.callLater(max(0.1, delay), self._end)
        return self._config.server.drain_timeout

    def _reopen_logs(self) -> None:
        self._app_log.reopen()
        self._serving.reopen_logs()
        self.log.info("the log files are opened anew")

    def _reload(self) -> None:
        self._service_manager.reloading()
        self._reopen_logs()
        config = reload(self._config, self._load)
        if config is not None:
            self._config = config
            self._app_log.set_level(config.logging.log_level)
            self._cache.reconfigure(config)
        self._serving.reload(config)
        self._rules.reload(config)
        self._service_manager.ready()

    def _use_rules(self, rules: Rules) -> None:
        """Serve under these rules, and what else the configuration says, from now on."""
        self._serving.use_rules(rules)

    def stopService(self) -> "Deferred[None]":
        """Drain, flush, close: fires when all of it is done."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.log.info("stopping: requests under way have {limit} s", limit=self._config.server.drain_timeout)
        self._service_manager.stopping("requests under way end")
        self._board.start_draining()
        await self._serving.drain(self._config.server.drain_timeout)
        if self._dashboard is not None:
            await self._dashboard.close()
        self._browser.close()
        await self._cache.close()
        await self._serving.close()
        self._lag.stop()
        await super().stopService()
        if self._config.dashboard.enabled:
            globalLogPublisher.removeObserver(self._keep_lines)
        self._service_manager.stop()
        self.log.info("stopped")
