"""The service of a worker: the engine, its view of the cache directory, and the channel to the supervisor."""

import os
import pickle
import signal
import sys
import time
from typing import Any, Final

from prometheus_client import CollectorRegistry
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogBeginner, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy import __version__
from s3proxy.cluster.handover import HOST_MEMORY, Handover
from s3proxy.cluster.member import Membership, join
from s3proxy.cluster.supervisor import END_GRACE, PATIENCE
from s3proxy.config.model import Config
from s3proxy.policy.rules import Rules
from s3proxy.services.cache import CacheService
from s3proxy.services.engine import Engine
from s3proxy.services.errors import StartError
from s3proxy.services.facts import facts_of
from s3proxy.services.listeners import BoundPort
from s3proxy.services.rules_source import RulesSource
from s3proxy.services.worker_settings import USE, WorkerSettings
from s3proxy.storage.hostmemory import HostMemory
from s3proxy.storage.recency import Use
from s3proxy.telemetry.lag import LagSampler
from s3proxy.telemetry.logs import ApplicationLog, format_line
from s3proxy.telemetry.metrics import Metrics

__all__ = ["WorkerService", "end_at_last"]

TELL_LINES: Final = 0.5
"""Seconds between two deliveries of log lines to the supervisor."""
MOST_LINES: Final = 500
"""Lines of one delivery; of more, the last."""
FAREWELL: Final = 2.0
"""Seconds for the last word."""


def end_at_last(seconds: float) -> None:
    """Have the kernel end this process in so many seconds, whatever it does then, or hangs in: nobody else will."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


@implementer(ILogObserver)
class _Numbered:
    """Hands events on with the number of the worker before the logger's name, and keeps their lines."""

    def __init__(self, log: ApplicationLog, number: int) -> None:
        self._log = log
        self._prefix = f"worker-{number} "
        self.lines: list[tuple[float, str, str, str]] | None = None

    def __call__(self, event: LogEvent) -> None:
        if not self._log.wants(event):
            return
        numbered = {**event, "log_namespace": f"{self._prefix}{event.get('log_namespace') or '-'}"}
        self._log(numbered)
        lines = self.lines
        if lines is not None:
            level = event.get("log_level")
            lines.append(
                (
                    float(event.get("log_time") or 0.0),
                    "info" if level is None else level.name,
                    str(numbered["log_namespace"]),
                    format_line(event).partition(": ")[2].rstrip("\n"),
                )
            )
            del lines[:-MOST_LINES]


class WorkerService(MultiService):
    """See the module. Is told what to do by its supervisor (:class:`~s3proxy.cluster.member.IMember`); ends by itself
    when that is gone.

    :ivar code: the exit code of the process
    """

    log = Logger()

    def __init__(self, reactor: Any, handover: Handover) -> None:
        super().__init__()
        settings: WorkerSettings = handover.settings
        self.code = 0
        self._reactor = reactor
        self._handover = handover
        self._config = config = settings.config
        self._hostname = settings.hostname
        self._own_addresses = settings.own_addresses
        self._told_lines = settings.told_lines
        self._instance = f"{self._hostname}:{os.getpid()}"
        self._app_log = ApplicationLog(
            config.logging.app_log_dir,
            self._hostname,
            level=config.logging.log_level,
            console=sys.__stdout__,
            style=config.logging.app_log_format,
            background=True,
        )
        self._observer = _Numbered(self._app_log, handover.number)
        self._telling = LoopingCall(self._tell_lines)
        self._telling.clock = reactor
        self._ending = False
        self._is_logging = False
        self._membership: Membership | None = None

    def startService(self) -> None:
        """Serve.

        :raises StartError: with the remedy
        """
        os.umask(0o077)
        config = self._config
        try:
            self._app_log.start()
        except OSError as error:
            raise StartError(f"logging.app_log_dir: {error}") from None
        globalLogBeginner.beginLoggingTo([self._observer], redirectStandardIO=False)
        self._is_logging = True
        try:
            memory = HostMemory(HOST_MEMORY, self._handover.seat)
        except (OSError, ValueError) as error:
            raise StartError(f"server.workers: {error}") from None
        self._metrics = Metrics(CollectorRegistry())
        self._metrics.identify(__version__, self._instance, self._hostname, config.server.mode, time.time())
        self._lag = LagSampler(self._reactor, self._metrics.observe_lag, seconds=time.monotonic)
        self._cache = CacheService(self._reactor, config, self._metrics, memory=memory)
        self._cache.open()
        self._rules = RulesSource(self._reactor, config, self._cache.disk.run, self._use_rules, time.time)
        self._rules.load()
        self._engine = Engine(
            self._reactor,
            config,
            bound=self._ports(),
            cache=self._cache,
            rules=self._rules,
            metrics=self._metrics,
            lag=self._lag,
            own_addresses=lambda: self._own_addresses,
            hostname=self._hostname,
            instance=self._instance,
        )
        self._metrics.observe_source(self._app_log.readings)
        for child in (self._cache, self._rules, self._engine):
            child.setServiceParent(self)
        super().startService()
        self._lag.start()
        self._membership = join(self._reactor, self)
        assert self._cache.store is not None
        self._cache.store.tell_uses(lambda uses: self._reactor.callFromThread(self._tell_uses, uses))
        if self._told_lines:
            self._observer.lines = []
            self._telling.start(TELL_LINES, now=False).addErrback(self._broken)
        self._membership.ready(os.getpid())
        self.log.info("serving, process {pid}", pid=os.getpid())

    def give_up(self, why: str) -> None:
        """It can't serve: say why in the application log, if that is open."""
        if self._is_logging:
            self.log.error("can't serve: {why}", why=why)
            self._app_log.flush()

    def _ports(self) -> dict[str, BoundPort]:
        server = self._config.server
        ports = {
            "http": ("server.http_port", server.http_port),
            "https": ("server.https_port", server.https_port),
            "proxy": ("server.proxy_port", server.proxy_port),
            "tls": ("server.tls.tls_proxy_port", server.tls.tls_proxy_port),
        }
        return {
            name: BoundPort.adopted(*ports[name], slots, self._handover.slot)
            for name, slots in self._handover.open_sockets().items()
        }

    def _use_rules(self, rules: Rules) -> None:
        self._engine.use_rules(rules)

    def listen_for_signals(self) -> None:
        """SIGTERM ends this worker as its supervisor's order would. What a terminal sends to all processes at once is
        for the supervisor.
        """
        limit = self._config.server.drain_timeout
        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self._leave, limit))
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    # What the supervisor says.

    def report(self, wanted: str) -> dict[str, Any]:
        """See :class:`IMember`."""
        names = wanted.split(",")
        found: dict[str, Any] = {}
        if "facts" in names:
            found["facts"] = facts_of(self._engine, self._lag.current())
            if "latest" in names:
                found["facts"]["latest"] = [
                    (arrived, line.decode("latin-1")) for arrived, line in self._engine.latest()
                ]  # fmt: skip
        if "snapshot" in names:
            found["snapshot"] = self._metrics.snapshot()
        return found

    def take_over(self, slot: int) -> None:
        """See :class:`IMember`."""
        self.log.info("standing in for worker {number}", number=slot + 1)
        self._engine.take_over(slot)

    def give_back(self, slot: int) -> None:
        """See :class:`IMember`."""
        self._engine.give_back(slot)

    def reopen(self) -> None:
        """See :class:`IMember`."""
        self._app_log.reopen()
        self._engine.reopen_logs()

    def reload(self, data: bytes) -> None:
        """See :class:`IMember`."""
        config: Config = pickle.loads(data)
        self._config = config
        self._app_log.set_level(config.logging.log_level)
        self._engine.reload(config)
        self._cache.reconfigure(config)
        self._rules.reload(config)

    def _leave(self, limit: float) -> None:
        if not self._ending and self._membership is not None:
            self._membership.leaving()
        self.drain(limit, PATIENCE)

    def drain(self, limit: float, patience: float) -> None:
        """See :class:`IMember`."""
        if not self._ending:
            self._ending = True
            ending = Deferred.fromCoroutine(self._end(limit, patience)).addErrback(self._broken)
            ending.addBoth(lambda _: self._reactor.stop())

    def orphaned(self) -> None:
        """See :class:`IMember`."""
        self._membership = None
        limit = self._config.server.drain_timeout
        end_at_last(limit + END_GRACE)
        if not self._ending:
            self.log.error("the supervisor is gone; this worker ends, too")
            self.drain(limit, 0.0)

    # The end.

    async def _end(self, limit: float, patience: float) -> None:
        await self._engine.drain(limit, patience)
        await self._cache.close()
        await self._engine.close()
        self._lag.stop()
        if self._telling.running:
            self._telling.stop()
            self._tell_lines()
        if self._membership is not None:
            told = self._membership.farewell(self.report("facts,snapshot"))
            limited = self._reactor.callLater(FAREWELL, told.cancel)
            try:
                await told
            finally:
                if limited.active():
                    limited.cancel()
        await super().stopService()
        globalLogPublisher.removeObserver(self._observer)
        self._app_log.close()

    def _broken(self, reason: Failure) -> None:
        self.code = 1
        self.log.failure("the worker", reason)

    # What it is told.

    def _tell_uses(self, uses: list[Use]) -> None:
        if self._membership is not None and uses:
            self._membership.uses(b"".join(USE.pack(use.digest, use.start, use.count, use.last) for use in uses))

    def _tell_lines(self) -> None:
        lines = self._observer.lines
        if self._membership is not None and lines:
            self._observer.lines = []
            self._membership.lines(lines)
