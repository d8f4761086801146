"""Exports over real sockets, to a collector on loopback."""

import os
import tempfile
import time
from pathlib import Path
from test.support.certificates import CertificateAuthority
from test.support.otlp_collector import OtlpCollector, Reply, rejecting
from test.support.waiting import free_ports
from typing import Any

from opentelemetry.sdk.metrics.export import MetricsData
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.instruments import Family, Instruments
from s3proxy.telemetry.otlp import metrics_data
from s3proxy.telemetry.otlp_http import LONGEST_ANSWER, Collector, Delivery, endpoint_url

_TAKEN = Delivery()


def some_data() -> MetricsData:
    made = Instruments((Family(name="x_things_total", type="counter", help="Things."),))
    made.counter("x_things_total").inc(3)
    return metrics_data(made.describe(), {"service.name": "s3-proxy"}, started_at=0.0, now=1.0, per_bucket=False)


class CollectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.collector = OtlpCollector()
        self.addCleanup(self.collector.stop)

    def export(self, timeout: float = 20.0, **options: Any) -> Delivery:
        endpoint = options.pop("endpoint", self.collector.url)
        return Collector(endpoint=endpoint, **options).export(some_data(), timeout)

    def test_delivered(self) -> None:
        """What arrives is what was counted, as protobuf, at the path of metrics."""
        self.assertEqual(self.export(), _TAKEN)
        (got,) = self.collector.got
        self.assertEqual((got.path, got.headers["content-type"]), ("/v1/metrics", "application/x-protobuf"))
        self.assertNotIn("content-encoding", got.headers)
        self.assertEqual(got.resource(), {"service.name": "s3-proxy"})
        metric = got.metrics()["x.things"]
        self.assertEqual([point.as_int for point in metric.sum.data_points], [3])

    def test_path(self) -> None:
        """A path that the endpoint has stays."""
        self.assertEqual(self.export(endpoint=f"{self.collector.url}/api/otlp?a=b"), _TAKEN)
        self.assertEqual(self.collector.got[0].path, "/api/otlp?a=b")

    def test_gzip(self) -> None:
        """What is exported can be compressed."""
        self.assertEqual(self.export(compression="gzip"), _TAKEN)
        (got,) = self.collector.got
        self.assertEqual(got.headers["content-encoding"], "gzip")
        self.assertIn("x.things", got.metrics())

    def test_headers(self) -> None:
        """Fields for authorization are sent, as UTF-8; those in files are read each time."""
        path = Path(self.mktemp())
        path.write_text("first\n")
        headers = {"Authorization": "Bearer x", "X-Team": "b\u00fccher", "X-Key": f"file:{path}"}
        self.assertEqual(self.export(headers=headers), _TAKEN)
        path.write_text("second\n")
        self.assertEqual(self.export(headers=headers), _TAKEN)
        first, second = (got.headers for got in self.collector.got)
        self.assertEqual((first["authorization"], first["x-key"], second["x-key"]), ("Bearer x", "first", "second"))
        self.assertEqual(first["x-team"].encode("latin-1").decode("utf-8"), "b\u00fccher")

    def test_headers_that_cannot_be_sent(self) -> None:
        """A file that is not there, or a value that is none, is a failure without a request, and the value a secret."""
        missing = self.export(headers={"X-Key": "file:/nonexistent"})
        self.assertIn("X-Key", missing.problem or "")
        self.assertIn("/nonexistent", missing.problem or "")
        broken = self.export(headers={"X-Key": "hunter2\nX-Other: b"})
        self.assertIn("X-Key", broken.problem or "")
        self.assertNotIn("hunter2", broken.problem or "")
        self.assertEqual(self.collector.got, [])

    def test_tried_again(self) -> None:
        """A collector that is busy gets the same once more, within the time."""
        self.collector.replies = [Reply(status=503)]
        self.assertEqual(self.export(), _TAKEN)
        first, second = self.collector.got
        self.assertEqual(first.document, second.document)

    def test_given_up(self) -> None:
        """But not for longer."""
        self.collector.replies = [Reply(status=503)] * 20
        began = time.monotonic()
        self.assertEqual(self.export(timeout=0.5).problem, "the collector answered 503")
        self.assertLess(time.monotonic() - began, 10)
        self.assertLess(len(self.collector.got), 20)

    def test_refused(self) -> None:
        """What can't be cured by trying again is not tried again."""
        self.collector.replies = [Reply(status=401, body=b"who?")]
        self.assertEqual(self.export().problem, "the collector answered 401")
        self.assertEqual(len(self.collector.got), 1)

    def test_partial_success(self) -> None:
        """The collector takes some of it, and says why not all."""
        self.collector.replies = [rejecting(2, "too old")]
        self.assertEqual(self.export(), Delivery(rejected=2, reason="too old"))

    def test_answers_of_another_kind(self) -> None:
        """What says yes with a text or a page is taken at its word."""
        self.collector.replies = [Reply(body=b"{}"), Reply(body=b"<html>" + b"x" * 5 * LONGEST_ANSWER)]
        self.assertEqual([self.export(), self.export()], [_TAKEN, _TAKEN])

    def test_redirection(self) -> None:
        """Nobody else gets what is for the collector."""
        other = OtlpCollector()
        self.addCleanup(other.stop)
        for status in (301, 302, 307, 308):
            self.collector.replies = [Reply(status=status, headers=(("Location", f"{other.url}/v1/metrics"),))]
            self.assertEqual(self.export().problem, f"the collector answered {status}")
        self.assertEqual(other.got, [])

    def test_nobody_there(self) -> None:
        """The reason does not say where; the URL may hold a password."""
        (port,) = free_ports(1)
        problem = self.export(timeout=0.5, endpoint=f"http://u:hunter2@127.0.0.1:{port}/secret").problem
        self.assertIn("Connection refused", problem or "")
        self.assertNotRegex(problem or "", "hunter2|secret")

    def test_silence(self) -> None:
        """A collector that does not answer is given so many seconds."""
        self.collector.silent.set()
        began = time.monotonic()
        self.assertEqual(self.export(timeout=0.5).problem, "timed out")
        self.assertLess(time.monotonic() - began, 10)

    def test_an_answer_without_end(self) -> None:
        """Nor is one given more that answers a byte at a time."""
        self.collector.replies = [Reply(drip=0.02)]
        began = time.monotonic()
        self.assertEqual(self.export(timeout=0.5), _TAKEN)
        self.assertLess(time.monotonic() - began, 10)

    def test_no_proxy(self) -> None:
        """Proxies of the environment are not for it: one of them may be this process."""
        (port,) = free_ports(1)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            self.patch(os, "environ", {**os.environ, name: f"http://127.0.0.1:{port}"})
        self.assertEqual(self.export(), _TAKEN)


class TlsTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="s3proxy-")
        self.addCleanup(folder.cleanup)
        self.authority = CertificateAuthority(Path(folder.name))
        self.collector = OtlpCollector(self.authority.issue(["127.0.0.1"]))
        self.addCleanup(self.collector.stop)

    def export(self, **options: Any) -> Delivery:
        return Collector(endpoint=self.collector.url, **options).export(some_data(), 1.0)

    def test_authorities(self) -> None:
        """Those of the file are trusted."""
        self.assertEqual(self.export(ca_file=str(self.authority.ca_file)), _TAKEN)
        self.assertEqual(len(self.collector.got), 1)

    def test_authorities_of_the_system(self) -> None:
        """Without one, those that OpenSSL finds; SSL_CERT_FILE says where."""
        self.assertIn("certificate verify failed", self.export().problem or "")
        self.assertEqual(self.collector.got, [])
        self.patch(os, "environ", {**os.environ, "SSL_CERT_FILE": str(self.authority.ca_file)})
        self.assertEqual(self.export(), _TAKEN)


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
