"""The export by OTLP: with a clock, and to a collector on loopback."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from test.support.otlp_collector import OtlpCollector
from test.support.waiting import free_ports, wait_until
from typing import Any

from opentelemetry.sdk.metrics.export import MetricsData, NumberDataPoint
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from s3proxy.config.model import Otlp
from s3proxy.services.otlp import LONGEST_END, OtlpExporter
from s3proxy.telemetry.instruments import Family, Instruments
from s3proxy.telemetry.otlp_http import Delivery

_RESOURCE = {"service.name": "s3-proxy", "service.instance.id": "i-1"}
_FAILED = Delivery(problem="the collector answered 503")


class Counting:
    """Something that is counted."""

    def __init__(self) -> None:
        made = Instruments((Family(name="x_things_total", type="counter", help="Things."),))
        self.snapshot = made.describe
        self.things = made.counter("x_things_total")
        self.things.inc(3)


class SlowThread:
    """A thread that does nothing until it is told to."""

    def __init__(self) -> None:
        self.work: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.at_once = True
        self.stopped = False

    def run(self, work: Callable[[], Any]) -> "Deferred[Any]":
        if self.at_once:
            return maybeDeferred(work)
        done: Deferred[Any] = Deferred(lambda _: None)
        self.work.append((work, done))
        return done

    def go_on(self) -> None:
        work, done = self.work.pop(0)
        result = work()
        if not done.called:
            done.callback(result)

    def stop(self) -> None:
        self.stopped = True


class ExporterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.counting = Counting()
        self.thread = SlowThread()
        self.sent: list[tuple[MetricsData, float]] = []
        self.answers: list[Delivery] = []
        self.results: list[str] = []

    def deliver(self, data: MetricsData, timeout: float) -> Delivery:
        self.sent.append((data, timeout))
        return self.answers.pop(0) if self.answers else Delivery()

    def start(self, snapshot: Any = None, **config: Any) -> OtlpExporter:
        exporter = OtlpExporter(
            self.clock,
            Otlp(enabled=True, **{"export_interval": 60.0, "timeout": 10.0, **config}),
            snapshot=snapshot or self.counting.snapshot,
            resource=_RESOURCE,
            exported=self.results.append,
            started_at=0.0,
            now=lambda: 1.0,
            thread=self.thread,
            deliver=self.deliver,
        )
        exporter.startService()
        return exporter

    def value(self, number: int) -> Any:
        """What the batch of this number says of things."""
        data, _ = self.sent[number]
        (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
        (point,) = metric.data.data_points
        assert isinstance(point, NumberDataPoint)
        return point.value

    def test_every_interval(self) -> None:
        """One batch per interval, without anybody scraping; the first after the first interval."""
        self.start()
        self.assertEqual(self.sent, [])
        for _ in range(3):
            self.clock.advance(60)
            self.counting.things.inc(1)
        self.assertEqual(self.results, ["success"] * 3)
        self.assertEqual([self.value(number) for number in range(3)], [3, 4, 5])
        data, timeout = self.sent[0]
        self.assertEqual(data.resource_metrics[0].resource.attributes, _RESOURCE)
        self.assertTrue(5 < timeout <= 10, timeout)

    def test_failures(self) -> None:
        """One that fails is counted, said once, and the next one is exported all the same."""
        self.answers = [_FAILED, _FAILED, Delivery()]
        self.start()
        with capturedLogs() as events:
            self.clock.pump([60.0] * 3)
        self.assertEqual(self.results, ["failure", "failure", "success"])
        told = [formatEvent(event) for event in events]
        self.assertEqual(len(told), 2)
        self.assertIn("exported by OTLP (metrics.otlp.endpoint): the collector answered 503; it is tried", told[0])
        self.assertIn("again", told[1])

    def test_partial_success(self) -> None:
        """The collector takes some of it."""
        self.answers = [Delivery(rejected=2, reason="old")]
        self.start()
        self.clock.advance(60)
        self.assertEqual(self.results, ["partial"])

    def test_silence(self) -> None:
        """An export that takes too long is a failure when its time is over."""
        self.thread.at_once = False
        self.start()
        self.clock.advance(60)
        self.clock.advance(9.9)
        self.assertEqual(self.results, [])
        self.clock.advance(0.2)
        self.assertEqual(self.results, ["failure"])
        self.thread.go_on()
        self.assertEqual(self.results, ["failure"])

    def test_a_thread_that_hangs(self) -> None:
        """It gets no other export until it comes back; each that is left out is counted."""
        self.thread.at_once = False
        self.start()
        self.clock.pump([60.0, 10.0, 50.0, 60.0])
        self.assertEqual((self.results, len(self.thread.work)), (["failure"] * 3, 1))
        self.thread.go_on()
        self.clock.advance(60)
        self.thread.go_on()
        self.assertEqual(self.results[3:], ["success"])

    def test_of_several_processes(self) -> None:
        """The snapshot may have to be collected first."""
        collecting: Deferred[Any] = Deferred()
        self.start(snapshot=lambda: collecting)
        self.clock.advance(60)
        self.assertEqual(self.sent, [])
        collecting.callback(self.counting.snapshot())
        self.assertEqual(self.results, ["success"])

    def test_a_snapshot_that_fails(self) -> None:
        """It is a failed export, and the timer goes on."""
        self.start(snapshot=lambda: 1 / 0)
        self.clock.pump([60.0] * 2)
        self.assertEqual(self.results, ["failure"] * 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_the_last_one(self) -> None:
        """The end exports what was counted until then, once, and nothing afterwards."""
        exporter = self.start()
        self.clock.advance(30)
        exporter.finish()
        self.counting.things.inc(1)
        self.assertEqual(self.value(0), 3)
        self.successResultOf(exporter.stopService())
        self.clock.pump([60.0] * 2)
        self.assertEqual((len(self.sent), self.results), (1, ["success"]))
        self.assertTrue(self.thread.stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_end_does_not_wait_for_long(self) -> None:
        """The last export has its time, and no more than that of the end of the process."""
        self.thread.at_once = False
        for timeout, limit in ((2.0, 2.0), (600.0, LONGEST_END)):
            self.results.clear()
            exporter = self.start(timeout=timeout)
            stopping = exporter.stopService()
            self.clock.advance(limit - 0.1)
            self.assertNoResult(stopping)
            self.clock.advance(0.2)
            self.successResultOf(stopping)
            self.assertEqual(self.results, ["failure"])

    def test_the_end_while_one_is_under_way(self) -> None:
        """The last one comes after it; both are counted."""
        self.thread.at_once = False
        exporter = self.start()
        self.clock.advance(60)
        self.counting.things.inc(1)
        stopping = exporter.stopService()
        self.thread.go_on()
        self.assertNoResult(stopping)
        self.thread.go_on()
        self.successResultOf(stopping)
        self.assertEqual([self.value(0), self.value(1)], [3, 4])
        self.assertEqual(self.results, ["success"] * 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_end_without_a_collector(self) -> None:
        """Where the export before failed, there is none at the end."""
        self.answers = [_FAILED]
        exporter = self.start()
        self.clock.advance(60)
        self.successResultOf(exporter.stopService())
        self.assertEqual((len(self.sent), self.results), (1, ["failure"]))


class SocketTests(TestCase):
    """With the thread, and over real sockets."""

    def setUp(self) -> None:
        self.collector = OtlpCollector()
        self.addCleanup(self.collector.stop)
        self.counting = Counting()
        self.results: list[str] = []

    def start(self, **config: Any) -> OtlpExporter:
        exporter = OtlpExporter(
            reactor,
            Otlp(enabled=True, **{"endpoint": self.collector.url, "export_interval": 0.1, "timeout": 5.0, **config}),
            snapshot=self.counting.snapshot,
            resource=_RESOURCE,
            exported=self.results.append,
            started_at=0.0,
        )
        exporter.startService()
        self.addCleanup(exporter.stopService)
        return exporter

    async def test_delivered(self) -> None:
        """What arrives is what was counted, with everything that the configuration says, and the reactor runs on."""
        self.start(headers={"X-Token": "secret"}, compression="gzip")
        await wait_until(reactor, lambda: self.results)
        self.assertEqual(self.results[0], "success")
        got = self.collector.got[0]
        self.assertEqual(got.path, "/v1/metrics")
        self.assertEqual((got.headers["x-token"], got.headers["content-encoding"]), ("secret", "gzip"))
        self.assertEqual(got.resource(), _RESOURCE)
        self.assertEqual(got.metrics()["x.things"].sum.data_points[0].as_int, 3)

    async def test_the_last_one(self) -> None:
        """It has arrived when the service has stopped."""
        exporter = self.start(export_interval=60.0)
        await exporter.stopService()
        self.assertEqual((len(self.collector.got), self.results), (1, ["success"]))

    async def test_nobody_there(self) -> None:
        """A collector that is not there is a failed export."""
        (port,) = free_ports(1)
        self.start(endpoint=f"http://127.0.0.1:{port}", timeout=0.3)
        await wait_until(reactor, lambda: len(self.results) > 1)
        self.assertEqual(set(self.results), {"failure"})

    async def test_silence(self) -> None:
        """A collector that says nothing holds up no other one than its own; later ones arrive."""
        self.collector.silent.set()
        self.start(timeout=0.3)
        await wait_until(reactor, lambda: len(self.results) > 1)
        self.assertEqual(set(self.results), {"failure"})
        self.collector.silent.clear()
        await wait_until(reactor, lambda: self.results[-1] == "success")

    async def test_an_export_that_does_not_come_back(self) -> None:
        """Its thread gets no others; they are counted as failures, and the end does not wait for it."""
        free = threading.Event()
        self.addCleanup(free.set)
        exporter = self.start(timeout=0.2)
        calls: list[float] = []

        def hang(data: MetricsData, timeout: float) -> Delivery:
            calls.append(timeout)
            free.wait(60)
            return Delivery()

        self.patch(exporter, "_deliver", hang)
        await wait_until(reactor, lambda: len(self.results) > 3)
        self.assertEqual((set(self.results[1:]), len(calls)), ({"failure"}, 1))
        began = time.monotonic()
        await exporter.stopService()
        self.assertLess(time.monotonic() - began, 10)


class NotNeededTests(SynchronousTestCase):
    def test_imports(self) -> None:
        """Without the export nothing of the extra is imported."""
        code = (
            "import sys, s3proxy.services.application\n"
            "print([name for name in sys.modules if name.startswith(('opentelemetry', 'requests', 'google'))])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stdout), (0, "[]\n"))
