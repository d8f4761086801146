"""The root of the service tree.

===========================  =====================================================================
while there are privileges   directories are made, traffic ports bound
start                        log, cache directory, upstream, health and metrics, traffic listeners
stop                         no more connections, requests end, logs flushed, directory closed
===========================  =====================================================================
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger, globalLogPublisher

from s3proxy import __version__
from s3proxy.admin.board import HealthBoard
from s3proxy.cluster.count import worker_count
from s3proxy.config.load import Loaded
from s3proxy.dashboard.requests import LogLines
from s3proxy.policy.rules import Rules
from s3proxy.services.admin_socket import socket_path
from s3proxy.services.cache import CacheService
from s3proxy.services.checks import Checks
from s3proxy.services.crew import Crew
from s3proxy.services.dashboard import LineKeeper
from s3proxy.services.directories import NeededDirectory, prepare
from s3proxy.services.engine import Engine
from s3proxy.services.errors import StartError
from s3proxy.services.host_metrics import HostMetrics
from s3proxy.services.introduction import introduce
from s3proxy.services.listeners import BoundPort
from s3proxy.services.log_cleanup import LogCleanup
from s3proxy.services.operators import Operators
from s3proxy.services.reload import reload
from s3proxy.services.rules_source import RulesSource
from s3proxy.services.service_manager import ServiceManager, inherited_sockets
from s3proxy.services.signals import listen_for_signals
from s3proxy.services.watching import Liveness, watch
from s3proxy.storage.hostmemory import HostMemory
from s3proxy.telemetry.lag import LagSampler
from s3proxy.telemetry.logs import ApplicationLog
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.retention import Kept

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
        self._socket_path: str | None = None
        self._ending = False
        self._started = False
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
            if self._started:
                # Threads would keep the process.
                self._exit_with(1)
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

    def _own_addresses(self) -> frozenset[tuple[str, int]]:
        """Where this process listens."""
        own = [bound.names() for bound in self._bound.values()]
        admin: list[Any] = [child.port.getHost() for child in self._operators.listeners() if child.port]
        return frozenset().union(*own, ((host.host, host.port) for host in admin))

    def _start(self) -> None:
        if not self._privileged:
            # Started by a runner that knows no privileged step.
            self._prepare()
        os.umask(0o077)
        self._listen_for_signals()
        config = self._config
        self._open_logs()
        if config.dashboard.enabled:
            globalLogPublisher.addObserver(self._keep_lines)
        introduce(self.log, self._loaded, self._bound)

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
        self._liveness = Liveness(self._lag, self._serving, config.health.liveness_max_lag)
        self._operators = self._make_operators()
        self._add_children()
        self._watch()
        self._started = True
        super().startService()
        self._lag.start()
        if self._workers == 1:
            self._ready()

    def _ready(self) -> None:
        """Traffic is welcome."""
        self._board.started()
        names = sorted(name for bound in self._bound.values() for name in bound.names())
        self.log.info("ready: {where}", where=", ".join(f"{ip}:{port}" for ip, port in names))
        self._service_manager.ready("serving", alive=lambda: self._liveness() is None)

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
        if self._ending:
            # Who ended this process may have ended its children, too.
            return
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

    def _add_children(self) -> None:
        config = self._config
        self._cache.setServiceParent(self)
        self._checks = Checks(self._reactor, config, self._cache)
        self._checks.setServiceParent(self)
        self._operators.add_exporter()
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
        self._operators.add_sites()
        self._serving.setServiceParent(self)
        self._operators.add_control(self._socket_path)

    def _make_operators(self) -> Operators:
        """Health, metrics, dashboard, s3proxyctl."""
        return Operators(
            self._reactor,
            self,
            self._config,
            facts=self._facts,
            started_at=self._started_at,
            board=self._board,
            metrics=self._metrics,
            cache=self._cache,
            rules=self._rules,
            serving=self._serving,
            bound=self._bound,
            lines=self._lines,
            end=self._end_soon,
        )

    def _watch(self) -> None:
        """Who tells health and metrics."""
        watch(
            self._board,
            self._serving,
            {**self._checks.components(), "rules": self._rules.health},
            failures=self._operators.failures,
            app_log=self._app_log,
            liveness=self._liveness,
        )
        for source in (
            self._board.readings,
            self._app_log.readings,
            self._cleanup.readings,
            self._rules.readings,
            self._checks.readings,
        ):
            self._metrics.observe_source(source)

    def _listen_for_signals(self) -> None:
        listen_for_signals(
            self._reactor, end=self._end, reopen=self._reopen_logs, reload=self._reload, roll=self._roll
        )  # fmt: skip

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

    def _roll(self) -> None:
        if self._workers == 1:
            self.log.warn("SIGUSR2 replaces workers, and there are none: server.workers is 1")
        else:
            # What goes wrong is in the log.
            self._crew.roll().addErrback(lambda _: None)

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
        await self._operators.close()
        await self._cache.close()
        await self._serving.close()
        self._lag.stop()
        await super().stopService()
        if self._config.dashboard.enabled:
            globalLogPublisher.removeObserver(self._keep_lines)
        self._service_manager.stop()
        self.log.info("stopped")
