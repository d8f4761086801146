"""Removes old logs, at the start and then now and again, in a thread that nobody else waits for."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.telemetry.access import IWriterThread
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.retention import Kept, Sweep
from s3proxy.telemetry.thread import SerialThread

__all__ = ["LogCleanup"]


class LogCleanup(Service):
    """Works whether logs are being written or not.

    :param interval: seconds from the end of one walk to the next
    :param now: tells Unix time
    :param thread: does the walking; by default one of our own
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        kept: Kept,
        interval: float,
        now: Callable[[], float],
        thread: IWriterThread | None = None,
    ) -> None:
        self._reactor = reactor
        self._kept = kept
        self._interval = interval
        self._now = now
        self._thread: IWriterThread = thread or SerialThread(reactor, "log-cleanup")
        self._timer: IDelayedCall | None = None
        self._removed: Counter[tuple[str, str]] = Counter()

    def startService(self) -> None:
        """Begin with a first walk."""
        super().startService()
        self._sweep()

    def stopService(self) -> None:
        """No more walks; one under way ends by itself, or with the process."""
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._thread.stop()

    def readings(self) -> Iterable[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        for log in ("access", "app"):
            for owner in ("own", "foreign"):
                yield Reading("s3proxy_log_files_deleted_total", self._removed[log, owner], (log, owner))

    def _sweep(self) -> None:
        self._timer = None
        sweep = Sweep(self._kept, self._now())
        done: Deferred[Sweep] = self._thread.run(sweep.run)
        done.addCallbacks(self._swept, self._failed)
        done.addBoth(self._again)

    def _swept(self, sweep: Sweep) -> None:
        self._removed.update(sweep.removed)
        total = sum(sweep.removed.values())
        if total:
            self.log.info("{total} old log files were removed", total=total)
        if sweep.problem:
            self.log.warn("not all old logs could be removed: {problem}", problem=sweep.problem)

    def _failed(self, failure: Failure) -> None:
        self.log.failure("old logs could not be removed", failure)

    def _again(self, _: object) -> None:
        if self.running:
            self._timer = self._reactor.callLater(self._interval, self._sweep)
