"""Snapshots as OpenTelemetry's SDK wants them."""

from test.support.otlp_collector import Got, series
from test.telemetry.records import a_record
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.access import AccessLog
from s3proxy.telemetry.buckets import BucketSeries
from s3proxy.telemetry.exit import Exit
from s3proxy.telemetry.exposition import text
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.otlp import metrics_data
from s3proxy.telemetry.snapshot import Snapshot

_RESOURCE = {"service.name": "s3-proxy", "service.version": "1.2.3"}


def shown(page: str) -> dict[str, float]:
    """Series and values of the text format, without those that tell who this is."""
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = [f'{key}="{value}"' for key, value in sample.labels.items()]
            around = "{" + ",".join(labels) + "}" if labels else ""
            if not sample.name.endswith("_info"):
                found[sample.name + around] = sample.value
    return found


class ConversionTests(SynchronousTestCase):
    """What arrives is looked at: the messages that the exporter makes."""

    def setUp(self) -> None:
        metrics = Metrics(CollectorRegistry(), Clock().seconds)
        metrics.identify("1.2.3", "i-1", "proxy-1", "standard", 1700000000.0)
        exit = Exit(metrics, AccessLog(self.mktemp(), "h", Clock(), redact=bytes), False, BucketSeries())
        exit.started()
        exit.finished(a_record())
        exit.started()
        exit.finished(a_record(outcome="MISS", total_seconds=0.5))
        self.snapshot: Snapshot = metrics.snapshot()

    def got(self, per_bucket: bool = False) -> Got:
        data = metrics_data(self.snapshot, _RESOURCE, started_at=1700000000.0, now=1700000060.5, per_bucket=per_bucket)
        return Got(path="", headers={}, document=encode_metrics(data))

    def metrics(self, per_bucket: bool = False) -> dict[str, Any]:
        return self.got(per_bucket).metrics()

    def test_the_same_as_the_text(self) -> None:
        """Series, names and values are those of the text format; only what tells who exports is no metric."""
        exported = dict(pair for metric in self.metrics(per_bucket=True).values() for pair in series(metric))
        self.assertEqual(exported, shown(text(self.snapshot).decode()))
        self.assertGreater(len(exported), 100)

    def test_resource(self) -> None:
        """Who exports, and nothing that the environment or the SDK adds."""
        self.assertEqual(self.got().resource(), _RESOURCE)
        scope = self.got().document.resource_metrics[0].scope_metrics[0].scope
        self.assertEqual((scope.name, scope.version), ("s3proxy", "1.2.3"))

    def test_counters(self) -> None:
        """They are monotonic sums since the start."""
        metric = self.metrics()["s3proxy.http.requests"]
        self.assertEqual(metric.sum.aggregation_temporality, AGGREGATION_TEMPORALITY_CUMULATIVE)
        self.assertTrue(metric.sum.is_monotonic)
        points = [point for point in metric.sum.data_points if point.as_int]
        self.assertEqual([point.as_int for point in points], [1, 1])
        self.assertEqual(points[0].start_time_unix_nano, 1700000000000000000)
        self.assertEqual(points[0].time_unix_nano, 1700000060500000000)

    def test_histograms(self) -> None:
        """Buckets have their own counts, not cumulative ones, and one more than bounds."""
        metric = self.metrics()["s3proxy.http.request.duration"]
        self.assertEqual(metric.unit, "s")
        self.assertEqual(metric.histogram.aggregation_temporality, AGGREGATION_TEMPORALITY_CUMULATIVE)
        (point,) = [each for each in metric.histogram.data_points if each.sum == 0.5]
        self.assertEqual((point.count, sum(point.bucket_counts)), (1, 1))
        bounds = self.snapshot["families"]["s3proxy_http_request_duration_seconds"]["bounds"]
        self.assertEqual(list(point.explicit_bounds), bounds)
        self.assertEqual(len(point.bucket_counts), len(bounds) + 1)
        self.assertEqual(point.explicit_bounds[list(point.bucket_counts).index(1)], 0.5)
        self.assertFalse(point.HasField("min") or point.HasField("max"))

    def test_gauges(self) -> None:
        """A ratio is the quotient."""
        metric = self.metrics()["s3proxy.cache.hit.rate"]
        self.assertEqual((metric.WhichOneof("data"), metric.unit), ("gauge", "1"))
        self.assertEqual({point.as_double for point in metric.gauge.data_points}, {0.5})

    def test_buckets(self) -> None:
        """Series of single buckets only if they are wanted: some receivers bill them."""
        self.assertNotIn("s3proxy.bucket.requests", self.metrics())
        self.assertIn("s3proxy.bucket.overflow", self.metrics())
        self.assertIn("s3proxy.bucket.requests", self.metrics(per_bucket=True))
