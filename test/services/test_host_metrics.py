"""The metrics of all processes."""

import json
from test.telemetry.records import a_record
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.services.host_metrics import HostMetrics
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.snapshot import empty, merge, remains


class HostMetricsTests(SynchronousTestCase):
    """The metrics of all processes."""

    def counted(self, times: int) -> Any:
        """What a worker with so many requests has counted."""
        metrics = Metrics(CollectorRegistry(), Clock().seconds)
        for _ in range(times):
            metrics.request_started()
            metrics.request_finished(a_record())
        return json.loads(json.dumps(metrics.snapshot()))

    def total(self, metrics: HostMetrics) -> float:
        """All requests."""
        family = metrics.snapshot()["families"]["s3proxy_http_requests_total"]
        return sum(value for _, value in family["samples"])

    def test_sum(self) -> None:
        """Counters are the sums over the workers that run and those that have ended."""
        past = merge([empty(), remains(self.counted(4))])
        others = [self.counted(2), self.counted(3), past]
        metrics = HostMetrics(CollectorRegistry(), lambda: others)
        self.assertEqual(self.total(metrics), 9)

    def test_recent_rates(self) -> None:
        """The rates of the last minutes are those of all workers."""
        metrics = HostMetrics(CollectorRegistry(), lambda: [self.counted(2)])
        hit_rate, byte_hit_rate = metrics.recent_rates()
        alone = Metrics(CollectorRegistry(), Clock().seconds)
        for _ in range(2):
            alone.request_started()
            alone.request_finished(a_record())
        self.assertEqual((hit_rate, byte_hit_rate), alone.recent_rates())
        self.assertEqual(HostMetrics(CollectorRegistry(), list).recent_rates(), (0.0, 0.0))
