"""The metrics site."""

import gzip
import json

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.metrics import metrics_resource
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.snapshot import Snapshot
from test.admin.exchange import ask
from test.telemetry.records import a_record

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


class MetricsSiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics(CollectorRegistry(), Clock().seconds)
        self.metrics.request_started()
        self.metrics.request_finished(a_record())
        self.resource = metrics_resource(self.metrics.snapshot)

    def assertText(self, **headers: str) -> None:
        answer = ask(self.resource, "/metrics", **headers)
        self.assertEqual(answer.headers[b"content-type"], b"text/plain; version=0.0.4; charset=utf-8")
        self.assertIn(b'\ns3proxy_cache_hit_rate_ratio{window="total"} 1.0\n', answer.body)

    def test_text_is_the_default(self) -> None:
        """curl, a browser and other programs get the text format, which can be parsed."""
        for headers in ({}, {"Accept": "*/*"}, {"Accept": BROWSER}, {"Accept": "text/plain"}):
            self.assertText(**headers)
        text = ask(self.resource, "/metrics").body.decode()
        self.assertGreater(len(list(text_string_to_metric_families(text))), 50)

    def test_openmetrics(self) -> None:
        """Prometheus gets what it prefers."""
        answer = ask(self.resource, "/metrics", Accept=PROMETHEUS)
        self.assertEqual(
            answer.headers[b"content-type"], b"application/openmetrics-text; version=1.0.0; charset=utf-8"
        )  # fmt: skip
        self.assertGreater(len(list(parse_openmetrics(answer.body.decode()))), 50)
        self.assertEqual(ask(self.resource, "/metrics?format=openmetrics").body[-6:], b"# EOF\n")

    def test_names(self) -> None:
        """Only some, if only these are asked for."""
        answer = ask(self.resource, "/metrics?name[]=s3proxy_ready&name%5B%5D=s3proxy_cache_hit_rate_ratio")
        self.assertEqual(answer.body.count(b"# TYPE"), 2)
        answer = ask(self.resource, "/metrics?format=json&name[]=s3proxy_ready")
        self.assertEqual(list(json.loads(answer.body)["metrics"]), ["s3proxy_ready"])

    def test_compressed(self) -> None:
        """For who takes gzip."""
        answer = ask(self.resource, "/metrics", Accept_Encoding="gzip, deflate")
        self.assertEqual(answer.headers[b"content-encoding"], b"gzip")
        self.assertIn(b"# TYPE s3proxy_ready gauge", gzip.decompress(answer.body))
        for refused in ("identity", "gzip;q=0", "br"):
            self.assertNotIn(b"content-encoding", ask(self.resource, "/metrics", Accept_Encoding=refused).headers)

    def test_of_several_processes(self) -> None:
        """What is shown may have to be collected first; when that fails, the answer says so."""
        waiting: list[Deferred[Snapshot]] = []

        def collect() -> "Deferred[Snapshot]":
            waiting.append(Deferred())
            return waiting[-1]

        resource = metrics_resource(collect)
        answer = ask(resource, "/metrics", wait=lambda: waiting[-1].callback(self.metrics.snapshot()))
        self.assertIn(b"# TYPE s3proxy_ready gauge", answer.body)
        answer = ask(resource, "/metrics", wait=lambda: waiting[-1].errback(OSError("gone")))
        self.assertEqual(answer.status, 503)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_json_by_accept(self) -> None:
        """Who prefers JSON gets JSON."""
        for accept in ("application/json", "application/json, text/plain;q=0.5, */*;q=0.1", "*/*, application/json"):
            answer = ask(self.resource, "/metrics", Accept=accept)
            self.assertEqual(answer.headers[b"content-type"], b"application/json", accept)
            self.assertEqual(json.loads(answer.body)["summary"]["cache_hit_rate_percent"], 100.0)
            self.assertEqual(answer.headers[b"vary"], b"Accept, Accept-Encoding")

    def test_json_that_is_not_preferred(self) -> None:
        """JSON as the last resort, or excluded, isn't sent."""
        for accept in ("application/json;q=0.1, text/plain", "application/json;q=0", "application/json;q=x"):
            self.assertText(Accept=accept)

    def test_format_parameter(self) -> None:
        """The query decides before Accept does."""
        answer = ask(self.resource, "/metrics?format=json", Accept="text/plain")
        self.assertIn("metrics", json.loads(answer.body))
        answer = ask(self.resource, "/metrics?format=prometheus", Accept="application/json")
        self.assertIn(b"# TYPE", answer.body)
        self.assertEqual(ask(self.resource, "/metrics?format=xml").status, 400)
        self.assertEqual(ask(self.resource, "/metrics?format=%ff").status, 400)

    def test_configured_format(self) -> None:
        """The default can be JSON; Prometheus still gets what it asks for."""
        resource = metrics_resource(self.metrics.snapshot, default_format="json")
        self.assertEqual(ask(resource, "/metrics").headers[b"content-type"], b"application/json")
        self.assertEqual(ask(resource, "/metrics", Accept="*/*").headers[b"content-type"], b"application/json")
        self.assertIn(b"text/plain", ask(resource, "/metrics", Accept="text/plain").headers[b"content-type"])
        self.assertRaises(ValueError, metrics_resource, self.metrics.snapshot, default_format="xml")

    def test_head(self) -> None:
        """HEAD is answered like GET, without the body."""
        answer = ask(self.resource, "/metrics", "HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertGreater(int(answer.headers[b"content-length"]), 1000)

    def test_other_methods_and_paths(self) -> None:
        """405 with Allow, and 404."""
        answer = ask(self.resource, "/metrics", "POST", Content_Length="0")
        self.assertEqual((answer.status, answer.headers[b"allow"]), (405, b"GET, HEAD"))
        for path in ("/", "/metrics/", "/metrics/x", "/Metrics"):
            self.assertEqual(ask(self.resource, path).status, 404)
        self.assertEqual(ask(metrics_resource(self.metrics.snapshot, "/x/y"), "/x/y").status, 200)
