"""Exports metrics to a collector by OTLP over HTTP, on a timer of its own. Needs the extra ``s3proxy[otlp]``.

There is never more than one batch: one that could not be delivered within its time is given up, the next one has the
sums. The exporter blocks, so it has a thread; one that hangs delays nothing but exports. The end of the process is one
more export, and waits for it, but not long.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.config.model import Otlp
from s3proxy.telemetry.access import IWriterThread
from s3proxy.telemetry.otlp import metrics_data
from s3proxy.telemetry.otlp_http import Collector, Delivery
from s3proxy.telemetry.snapshot import Snapshot
from s3proxy.telemetry.thread import SerialThread

__all__ = ["OtlpExporter"]

LONGEST_END: Final = 10.0
"""Seconds that the end of the process waits for the last export, if ``metrics.otlp.timeout`` is more."""


class OtlpExporter(Service):
    """See the module.

    :param snapshot: gives what is to be exported: of this process, or of several
    :param resource: attributes of who exports (``service.name``…)
    :param exported: told how each export ended: success, partial or failure
    :param started_at: Unix time from which on counters count
    :param now: Unix time
    :param thread: does the exporting; by default one of our own
    :param deliver: exports this in so many seconds; by default over HTTP
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Otlp,
        *,
        snapshot: "Callable[[], Snapshot | Deferred[Snapshot]]",
        resource: Mapping[str, str],
        exported: Callable[[str], None],
        started_at: float,
        now: Callable[[], float] = time.time,
        thread: IWriterThread | None = None,
        deliver: Callable[[Any, float], Delivery] | None = None,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._take: Callable[[], Any] = snapshot
        self._resource = dict(resource)
        self._exported = exported
        self._started_at = started_at
        self._now = now
        self._thread: IWriterThread = thread or SerialThread(reactor, "otlp")
        self._deliver = deliver or Collector(
            endpoint=config.endpoint,
            headers=config.headers,
            ca_file=config.ca_file,
            compression=config.compression,
        ).export  # fmt: skip
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._under_way: Deferred[None] | None = None
        self._last: Deferred[None] | None = None
        self._at_work = False
        self._failing = False

    def startService(self) -> None:
        """Export after each interval."""
        super().startService()
        self._loop.start(self._config.export_interval, now=False).addErrback(self._broken)

    def finish(self) -> None:
        """Begin the last export, of what was counted until now; there are no others afterwards.

        A collector that did not take the export before this one is not tried once more.
        """
        if self._last is None:
            if self._loop.running:
                self._loop.stop()
            ending = self._export(min(self._config.timeout, LONGEST_END)) if not self._failing else _nothing()
            self._last = Deferred.fromCoroutine(ending).addErrback(self._ended)

    def stopService(self) -> "Deferred[None]":
        """Fires when the last export has ended, or has had its time."""
        super().stopService()
        self.finish()
        assert self._last is not None
        return self._last.addCallback(self._stop)

    def _stop(self, _: None) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.cancel()
        self._thread.stop()

    def _broken(self, reason: Failure) -> None:
        self.log.failure("the OTLP export", reason)

    def _tick(self) -> "Deferred[None]":
        exporting = self._under_way = Deferred.fromCoroutine(self._export_when_due())
        return exporting.addErrback(self._ended)

    def _ended(self, reason: Failure) -> None:
        """Nothing that goes wrong ends the timer."""
        if not reason.check(CancelledError):
            self._broken(reason)
            self._exported("failure")

    async def _export_when_due(self) -> None:
        if self._at_work:
            # It has had its time, and what it waits for does not end.
            self._gave_up("the export before this one has not come back")
        else:
            await self._export(self._config.timeout)

    async def _export(self, limit: float) -> None:
        """One batch, which has so many seconds."""
        snapshot = await maybeDeferred(self._take)
        data = (snapshot, self._now(), time.monotonic() + limit)
        self._at_work = True
        working = self._thread.run(lambda: self._work(*data))
        working.addTimeout(limit, self._reactor)
        try:
            delivery = await working
        except TimeoutError:
            delivery = Delivery(problem=f"it took more than {limit:g} s")
        if delivery.problem is None:
            self._delivered(delivery)
        else:
            self._gave_up(delivery.problem)

    def _work(self, snapshot: Snapshot, now: float, deadline: float) -> Delivery:
        """In the thread."""
        try:
            data = metrics_data(
                snapshot,
                self._resource,
                started_at=self._started_at,
                now=now,
                per_bucket=self._config.per_bucket_enabled,
            )
            left = deadline - time.monotonic()
            return self._deliver(data, left) if left > 0 else Delivery(problem="there was no time left")
        finally:
            self._at_work = False

    def _delivered(self, delivery: Delivery) -> None:
        self._exported("partial" if delivery.rejected else "success")
        if delivery.rejected:
            self.log.warn(
                "the OTLP collector did not take {count} data points: {text}",
                count=delivery.rejected,
                text=delivery.reason,
            )
        if self._failing:
            self._failing = False
            self.log.info("metrics are exported by OTLP again")

    def _gave_up(self, problem: str) -> None:
        self._exported("failure")
        if not self._failing:
            self._failing = True
            # Once, until it works again.
            self.log.warn(
                "metrics could not be exported by OTLP (metrics.otlp.endpoint): {problem}; it is tried again every "
                "{interval:g} s",
                problem=problem,
                interval=self._config.export_interval,
            )


async def _nothing() -> None:
    """The export of who does not export."""
