"""Snapshots as OTLP."""

import json
from test.telemetry.records import a_record
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.access import AccessLog
from s3proxy.telemetry.buckets import BucketSeries
from s3proxy.telemetry.exit import Exit
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.otlp import document, endpoint_url, rejected
from s3proxy.telemetry.snapshot import Snapshot


def translated(metric: dict[str, Any]) -> str:
    """The name that Prometheus gives a metric that it gets by OTLP: dots become underscores, unit and type suffixes."""
    name = str(metric["name"]).replace(".", "_")
    unit = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}.get(metric["unit"], "")
    return name + unit + ("_total" if "sum" in metric else "")


class DocumentTests(SynchronousTestCase):
    def setUp(self) -> None:
        metrics = Metrics(CollectorRegistry(), Clock().seconds)
        metrics.identify("1.2.3", "i-1", "proxy-1", "standard", 1700000000.0)
        exit = Exit(metrics, AccessLog(self.mktemp(), "h", Clock(), redact=bytes), False, BucketSeries())
        exit.started()
        exit.finished(a_record())
        exit.started()
        exit.finished(a_record(outcome="MISS", total_seconds=0.5))
        self.snapshot: Snapshot = metrics.snapshot()

    def document(self, per_bucket: bool = False) -> dict[str, Any]:
        return document(
            self.snapshot,
            {"service.name": "s3-proxy", "service.version": "1.2.3"},
            started_at=1700000000.0,
            now=1700000060.5,
            per_bucket=per_bucket,
        )

    def metrics(self, per_bucket: bool = False) -> dict[str, dict[str, Any]]:
        (resource,) = self.document(per_bucket)["resourceMetrics"]
        (scope,) = resource["scopeMetrics"]
        return {metric["name"]: metric for metric in scope["metrics"]}

    def test_names(self) -> None:
        """Prometheus makes the names of the text format of them again; what tells who exports is no metric."""
        names = {translated(metric) for metric in self.metrics(per_bucket=True).values()}
        wanted = {
            name
            for name, family in self.snapshot["families"].items()
            if family["samples"] and not family.get("hidden") and not name.endswith("_info")
        }
        self.assertEqual(names, wanted)

    def test_resource(self) -> None:
        """Who exports."""
        (resource,) = self.document()["resourceMetrics"]
        attributes = {each["key"]: each["value"]["stringValue"] for each in resource["resource"]["attributes"]}
        self.assertEqual(attributes, {"service.name": "s3-proxy", "service.version": "1.2.3"})

    def test_counters(self) -> None:
        """They are monotonic sums since the start; 64-bit integers are strings."""
        metric = self.metrics()["s3proxy.http.requests"]
        self.assertEqual((metric["sum"]["aggregationTemporality"], metric["sum"]["isMonotonic"]), (2, True))
        point = next(
            point
            for point in metric["sum"]["dataPoints"]
            if {"key": "source", "value": {"stringValue": "ram"}} in point["attributes"] and point["asInt"] != "0"
        )
        self.assertEqual(point["asInt"], "1")
        self.assertEqual(point["startTimeUnixNano"], "1700000000000000000")
        self.assertEqual(point["timeUnixNano"], "1700000060500000000")

    def test_histograms(self) -> None:
        """Buckets have their own counts, not cumulative ones, and one more than bounds."""
        metric = self.metrics()["s3proxy.http.request.duration"]
        self.assertEqual((metric["unit"], metric["histogram"]["aggregationTemporality"]), ("s", 2))
        point = next(
            point
            for point in metric["histogram"]["dataPoints"]
            if {"key": "source", "value": {"stringValue": "miss"}} in point["attributes"] and point["count"] != "0"
        )
        self.assertEqual((point["count"], point["sum"]), ("1", 0.5))
        self.assertEqual(len(point["bucketCounts"]), len(point["explicitBounds"]) + 1)
        self.assertEqual([count for count in point["bucketCounts"] if count != "0"], ["1"])
        self.assertEqual(point["explicitBounds"][point["bucketCounts"].index("1")], 0.5)

    def test_gauges(self) -> None:
        """A ratio is the quotient."""
        points = self.metrics()["s3proxy.cache.hit.rate"]["gauge"]["dataPoints"]
        self.assertEqual({point["asDouble"] for point in points}, {0.5})

    def test_buckets(self) -> None:
        """Series of single buckets only if they are wanted: some receivers bill them."""
        self.assertNotIn("s3proxy.bucket.requests", self.metrics())
        self.assertIn("s3proxy.bucket.overflow", self.metrics())
        self.assertIn("s3proxy.bucket.requests", self.metrics(per_bucket=True))

    def test_json(self) -> None:
        """It is JSON without anything that JSON does not have."""
        json.loads(json.dumps(self.document(True), allow_nan=False))


class EndpointTests(SynchronousTestCase):
    def test_path(self) -> None:
        """The path of metrics is added where there is none."""
        for given, wanted in (
            ("http://localhost:4318", "http://localhost:4318/v1/metrics"),
            ("http://localhost:4318/", "http://localhost:4318/v1/metrics"),
            ("https://x.example/v1/metrics", "https://x.example/v1/metrics"),
            ("https://x.example/api/v1/otlp/v1/metrics", "https://x.example/api/v1/otlp/v1/metrics"),
        ):
            self.assertEqual(endpoint_url(given), wanted)


class RejectedTests(SynchronousTestCase):
    def test_answers(self) -> None:
        """What the collector did not take; nothing where the answer makes no sense."""
        self.assertEqual(
            rejected({"partialSuccess": {"rejectedDataPoints": "3", "errorMessage": "too old"}}), (3, "too old")
        )  # fmt: skip
        for answer in ({}, [], None, {"partialSuccess": {}}, {"partialSuccess": 3}, {"partialSuccess": {
                "rejectedDataPoints": "many"}}):  # fmt: skip
            self.assertEqual(rejected(answer), (0, ""), answer)
