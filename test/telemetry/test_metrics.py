"""What is counted, and how it is shown."""

import json
import re
import shutil
import subprocess
import time
from unittest import SkipTest

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.policy.verdicts import Outcome
from s3proxy.telemetry import exposition
from s3proxy.telemetry.buckets import BucketSeries
from s3proxy.telemetry.metrics import SOURCES, Metrics, Pricing, Reading
from s3proxy.telemetry.snapshot import merge
from test.telemetry.records import a_record


class MetricsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics(CollectorRegistry(), seconds=self.clock.seconds)

    def value(self, name: str, **labels: str) -> float:
        """The value of one series in the rendered text; 0 when it does not exist."""
        for family in text_string_to_metric_families(self.metrics.render_text().decode("utf-8")):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    def finish(self, **changes: object) -> None:
        """One request from start to end."""
        self.metrics.request_started()
        self.metrics.request_finished(a_record(**changes))


class RequestTests(MetricsCase):
    def test_counted_by_operation_code_and_source(self) -> None:
        """One request moves exactly the series of its kind."""
        self.finish(status=206)
        self.finish(operation="PutObject", method=b"PUT", outcome="BYPASS", status=503)
        name = "s3proxy_http_requests_total"
        self.assertEqual(self.value(name, operation="GetObject", source="ram", code="206"), 1)
        self.assertEqual(self.value(name, operation="PutObject", source="write", code="503"), 1)

    def test_sources(self) -> None:
        """Every outcome is a source; hits are told apart by where their bytes were, and bypasses by the method."""
        name = "s3proxy_http_requests_total"
        for outcome in Outcome:
            self.finish(outcome=outcome.value)
        self.finish(from_disk=True)
        self.finish(outcome="BYPASS", method=b"PUT", operation="PutObject")
        found = {
            sample.labels["source"]
            for family in text_string_to_metric_families(self.metrics.render_text().decode("utf-8"))
            for sample in family.samples
            if sample.name == name and sample.value
        }
        self.assertEqual(found, set(SOURCES))

    def test_unknown_words_share_a_label(self) -> None:
        """Words outside the closed sets can't make series of their own."""
        self.finish(operation="EvilObject", outcome="WHAT", status=799)
        name = "s3proxy_http_requests_total"
        self.assertEqual(self.value(name, operation="OTHER", source="other", code="none"), 1)
        self.assertNotIn(b"Evil", self.metrics.render_text())

    def test_unknown_words_do_not_fill_memory(self) -> None:
        """However many words come, what is remembered of them is bounded."""
        for number in range(5000):
            self.finish(operation=f"Evil{number}", reason=f"because-{number}")
        self.assertLessEqual(len(self.metrics._requests.routes), 2048)
        self.assertLess(self.metrics.render_text().count(b"s3proxy_http_request_reasons_total{"), 70)

    def test_many_codes(self) -> None:
        """S3-compatible stores may send any status: when there are very many, they are told apart less exactly."""
        for status in range(200, 600):
            for operation in ("GetObject", "HeadObject", "PutObject", "ListObjectsV2", "CopyObject", "DeleteObject"):
                self.finish(status=status, operation=operation)
        series = self.metrics.render_text().count(b"\ns3proxy_http_requests_total{")
        self.assertLess(series, 2100)

    def test_in_flight(self) -> None:
        """Requests that started and have not ended, and the most there were at once."""
        self.metrics.request_started()
        self.metrics.request_started()
        self.metrics.request_finished(a_record())
        self.assertEqual(self.metrics.in_flight, 1)
        self.assertEqual(self.value("s3proxy_request_permits_held_max"), 2)
        self.assertEqual(self.value("s3proxy_request_permit_hold_seconds_count"), 1)

    def test_bytes(self) -> None:
        """Bytes are those really written, by where they came from."""
        self.finish()
        self.finish(outcome="PARTIAL", bytes_sent=500, bytes_from_cache=200, bytes_from_upstream=300)
        self.finish(operation="PutObject", outcome="BYPASS", bytes_sent=0, bytes_from_cache=0,
                    body_bytes_received=77, upstream_address="192.0.2.1:443")
        sent = "s3proxy_http_response_bytes_total"
        self.assertEqual(self.value(sent, operation_group="get", source="ram"), 1000)
        self.assertEqual(self.value(sent, operation_group="get", source="partial"), 500)
        self.assertEqual(self.value("s3proxy_s3_saved_bytes_total"), 1200)
        self.assertEqual(self.value("s3proxy_upstream_bytes_total", direction="received"), 300)
        self.assertEqual(self.value("s3proxy_upstream_bytes_total", direction="sent"), 77)
        self.assertEqual(self.value("s3proxy_http_request_bytes_total", operation_group="put"), 77)

    def test_latency(self) -> None:
        """Durations and first bytes go into their histograms; unknown ones do not."""
        self.finish(outcome="MISS")
        self.finish(first_byte_seconds=None, aborted=True)
        labels = {"operation_group": "get", "source": "miss"}
        duration = "s3proxy_http_request_duration_seconds"
        self.assertEqual(self.value(f"{duration}_bucket", le="0.025", **labels), 1)
        self.assertEqual(self.value(f"{duration}_bucket", le="0.01", **labels), 0)
        self.assertEqual(self.value("s3proxy_http_first_byte_seconds_bucket", le="0.0025", **labels), 1)
        self.assertEqual(self.value("s3proxy_http_first_byte_seconds_count", operation_group="get", source="ram"), 0)

    def test_aborts(self) -> None:
        """Clients leave before the first byte or after it."""
        self.finish(first_byte_seconds=None, aborted=True)
        self.finish(aborted=True)
        self.finish(aborted=True)
        name = "s3proxy_http_client_aborts_total"
        self.assertEqual(self.value(name, phase="setup", source="ram"), 1)
        self.assertEqual(self.value(name, phase="transfer", source="ram"), 2)

    def test_sizes(self) -> None:
        """Answers by size, in steps of four."""
        self.finish(bytes_sent=1024)
        self.finish(bytes_sent=1025)
        name = "s3proxy_http_response_size_bytes"
        self.assertEqual(self.value(f"{name}_bucket", source="ram", le="1024.0"), 1)
        self.assertEqual(self.value(f"{name}_bucket", source="ram", le="4096.0"), 2)
        self.assertEqual(self.value(f"{name}_sum", source="ram"), 2049)

    def test_reasons(self) -> None:
        """Why S3 was asked is counted by outcome."""
        self.finish(outcome="MISS", reason="cold")
        self.assertEqual(self.value("s3proxy_http_request_reasons_total", source="miss", reason="cold"), 1)

    def test_shed(self) -> None:
        """A request that was refused for want of a permit counts as shed, and as any other request."""
        self.finish(outcome="ERROR", reason="overload", status=503)
        self.assertEqual(self.value("s3proxy_requests_shed_total", reason="concurrency"), 1)
        requests = "s3proxy_http_requests_total"
        self.assertEqual(self.value(requests, operation="GetObject", code="503", source="local"), 1)

    def test_lookups(self) -> None:
        """What the tiers for bodies were asked, and found."""
        for changes in (
            {}, {"from_disk": True}, {"from_disk": True}, {"outcome": "MISS"}, {"outcome": "REVALIDATED"},
            {"operation": "HeadObject", "method": b"HEAD"}, {"status": 304}, {"outcome": "BYPASS"},
        ):  # fmt: skip
            self.finish(**changes)
        name = "s3proxy_cache_lookups_total"
        found = {
            (tier, result): self.value(name, tier=tier, operation_group="get", result=result)
            for tier in ("ram", "disk")
            for result in ("hit", "miss", "stale")
        }
        self.assertEqual(
            found,
            {
                ("ram", "hit"): 1, ("ram", "miss"): 4, ("ram", "stale"): 0,
                ("disk", "hit"): 2, ("disk", "miss"): 1, ("disk", "stale"): 1,
            },
        )  # fmt: skip
        self.assertEqual(self.value("s3proxy_ram_cache_hit_rate_ratio", window="total"), 1 / 5)

    def test_bypasses(self) -> None:
        """Why a read was not for the cache."""
        for reason, operation in (
            ("sse-c", "GetObject"), ("no-store", "GetObject"), ("not-cacheable", "ListObjectsV2"),
            ("not-cacheable", "GetObjectVariant"), ("what", "GetObject"),
        ):  # fmt: skip
            self.finish(outcome="BYPASS", reason=reason, operation=operation)
        for word in ("sse_c", "no_store", "listing", "versioned", "other"):
            self.assertEqual(self.value("s3proxy_cache_bypass_total", reason=word), 1, word)

    def test_denials(self) -> None:
        """What the proxy refuses by itself."""
        self.finish(outcome="ERROR", reason="refused", status=403)
        self.finish(outcome="ERROR", reason="expired-url", status=403)
        self.assertEqual(self.value("s3proxy_requests_denied_total", reason="destination"), 1)
        self.assertEqual(self.value("s3proxy_requests_denied_total", reason="expired_url"), 1)

    def test_parts_and_gaps(self) -> None:
        """Reads of parts, reads that were filled up, and downloads that were shared."""
        self.finish(operation="GetObjectPart", status=206)
        self.finish(operation="GetObjectPart", status=206, outcome="MISS")
        self.finish(outcome="PARTIAL")
        self.finish(outcome="COALESCED")
        self.assertEqual(self.value("s3proxy_cache_parts_total", result="hit"), 1)
        self.assertEqual(self.value("s3proxy_cache_parts_total", result="miss"), 1)
        self.assertEqual(self.value("s3proxy_cache_range_gaps_total"), 1)
        self.assertEqual(self.value("s3proxy_coalesce_saved_fetches_total"), 1)


class HitRateTests(MetricsCase):
    def rate(self, window: str = "total") -> float:
        return self.value("s3proxy_cache_hit_rate_ratio", window=window)

    def test_always_there(self) -> None:
        """Before the first request there is a line with cache_hit_rate in both formats."""
        self.assertIn(b'\ns3proxy_cache_hit_rate_ratio{window="total"} 0.0\n', self.metrics.render_text())
        self.assertIn(b'"cache_hit_rate_percent": 0.0', self.metrics.render_json())

    def test_what_counts(self) -> None:
        """Hits are answers without a body from S3; misses and partial hits are not; all else does not count."""
        for outcome in ("HIT", "REVALIDATED", "COALESCED", "STALE"):
            self.finish(outcome=outcome)
        self.finish(operation="HeadObject", status=304)
        self.finish(outcome="MISS")
        self.finish(outcome="PARTIAL")
        self.finish(outcome="MISS", operation="HeadObject")
        self.finish(operation="GetObjectPart", status=206)
        self.finish(outcome="MISS", operation="HeadObjectPart", status=206)
        for changes in (
            {"outcome": "BYPASS"},
            {"outcome": "ERROR", "status": 503},
            {"outcome": "MISS", "status": 404},
            {"outcome": "BYPASS", "operation": "ListObjectsV2"},
            {"outcome": "HIT", "operation": "GetObjectAcl"},
        ):
            self.finish(**changes)
        self.assertEqual(self.rate(), 6 / 10)
        self.assertEqual(self.metrics.hit_rate(), 6 / 10)

    def test_window(self) -> None:
        """The rate of the last five minutes forgets what is older."""
        self.finish(outcome="MISS")
        self.clock.advance(400)
        self.finish()
        self.clock.advance(20)
        self.assertEqual(self.rate("total"), 0.5)
        self.assertEqual(self.rate("5m"), 1.0)

    def test_byte_hit_rate(self) -> None:
        """Bytes of object reads count, and no others."""
        self.finish(bytes_sent=300, bytes_from_cache=300)
        self.finish(outcome="MISS", bytes_sent=100, bytes_from_cache=0)
        self.finish(operation="ListObjectsV2", outcome="BYPASS", bytes_sent=500, bytes_from_cache=0)
        self.assertEqual(self.value("s3proxy_cache_byte_hit_rate_ratio", window="total"), 0.75)

    def test_saved_requests(self) -> None:
        """A request is saved when S3 was not asked at all."""
        for outcome in ("HIT", "COALESCED", "REVALIDATED", "STALE", "MISS"):
            self.finish(outcome=outcome)
        self.assertEqual(self.value("s3proxy_s3_requests_saved_total", operation="get"), 2)

    def test_dollars(self) -> None:
        """What was saved, at the prices that hold."""
        self.metrics = Metrics(CollectorRegistry(), self.clock.seconds, Pricing(get_per_1000=4, transfer_per_gb=100))
        for _ in range(500):
            self.finish(bytes_from_cache=20_000_000)
        name = "s3proxy_estimated_savings_dollars_total"
        self.assertAlmostEqual(self.value(name, component="requests"), 2)
        self.assertAlmostEqual(self.value(name, component="transfer"), 1000)


class OtherTests(MetricsCase):
    def test_small_methods(self) -> None:
        """Each method moves its series; words that are not known count as other."""
        metrics = self.metrics
        metrics.cache.filled("get", "stored", 4096)
        metrics.cache_invalidated("purge")
        metrics.cache_invalidated("moon")
        metrics.cache_purged("prefix")
        metrics.cache_error("disk_full")
        metrics.exported("failure")
        metrics.upstream_failed("connect")
        metrics.upstream_failed("moon")
        metrics.observe_lag(0.002)
        for expected, name, labels in (
            (1, "cache_fills_total", {"origin": "get", "result": "stored"}),
            (4096, "cache_fill_bytes_total", {"origin": "get"}),
            (1, "cache_invalidations_total", {"reason": "purge"}),
            (1, "cache_invalidations_total", {"reason": "other"}),
            (1, "cache_purges_total", {"scope": "prefix", "result": "done"}),
            (1, "cache_errors_total", {"kind": "disk_full"}),
            (1, "otlp_exports_total", {"result": "failure"}),
            (1, "upstream_errors_total", {"kind": "connect"}),
            (1, "upstream_errors_total", {"kind": "other"}),
            (1, "reactor_lag_seconds_count", {}),
        ):
            self.assertEqual(self.value(f"s3proxy_{name}", **labels), expected, name)

    def test_readings(self) -> None:
        """What others keep is read when metrics are wanted."""
        self.metrics.observe_source(lambda: [Reading("s3proxy_cache_size_bytes", 12, ("disk",))])
        self.assertEqual(self.value("s3proxy_cache_size_bytes", tier="disk"), 12)

    def test_a_failing_source_is_counted(self) -> None:
        """Metrics are shown although a source fails, and say so."""
        self.metrics.observe_source(lambda: [Reading("s3proxy_unheard_of", 1)], "strange")
        self.assertEqual(self.value("s3proxy_scrape_errors_total", collector="strange"), 1)
        self.assertEqual(self.value("s3proxy_scrape_errors_total", collector="requests"), 0)
        self.flushLoggedErrors(KeyError)

    def test_identity(self) -> None:
        """Versions and the start time are shown."""
        self.metrics.identify("1.2.3", "i-1", "proxy-1", "standard", 1700000000.0)
        text = self.metrics.render_text()
        wanted = rb'\ns3proxy_build_info\{version="1.2.3",python="[0-9.]+",twisted="[^"]+",commit="\w+"\} 1.0\n'
        self.assertRegex(text, wanted)
        self.assertIn(b"\ns3proxy_start_time_seconds 1.7e+09\n", text)
        self.assertIn(b"\nprocess_resident_memory_bytes ", text)

    def test_json(self) -> None:
        """The JSON form holds the same values."""
        self.finish()
        document = json.loads(self.metrics.render_json())
        self.assertEqual(document["summary"]["cache_hit_rate_percent"], 100.0)
        self.assertEqual(document["summary"]["requests_total"], 1)
        requests = document["metrics"]["s3proxy_http_requests_total"]
        self.assertIn(
            {"labels": {"operation": "GetObject", "code": "200", "source": "ram"}, "value": 1.0}, requests
        )
        histogram = document["metrics"]["s3proxy_http_first_byte_seconds"]
        hits = next(entry for entry in histogram if entry["labels"] == {"operation_group": "get", "source": "ram"})
        self.assertEqual(hits["value"]["count"], 1)
        self.assertEqual(hits["value"]["buckets"]["0.0025"], 1)

    def test_summary_of_the_last_minutes(self) -> None:
        """Percentiles and the rate of requests are those of the last minutes, by source."""
        for _ in range(30):
            self.finish(total_seconds=4.0, outcome="MISS", first_byte_seconds=2.0)
        self.clock.advance(400)
        for _ in range(60):
            self.finish(total_seconds=0.02, first_byte_seconds=0.0004)
        self.clock.advance(30)
        summary = json.loads(self.metrics.render_json())["summary"]
        self.assertEqual(summary["requests_total"], 90)
        self.assertAlmostEqual(summary["requests_per_second_1m"], 60 / 60, delta=1.1)
        latency = summary["latency"]["total_seconds"]
        self.assertLess(latency["ram"]["p99"], 0.03)
        self.assertEqual(latency["miss"], {"p50": None, "p90": None, "p99": None})
        self.assertLess(summary["latency"]["first_byte_seconds"]["all"]["p99"], 0.001)

    def test_snapshot_is_plain(self) -> None:
        """A snapshot survives JSON as it is, and shows what the process shows."""
        self.finish()
        snapshot = self.metrics.snapshot()
        self.assertEqual(json.loads(json.dumps(snapshot)), snapshot)
        self.assertIn("process_resident_memory_bytes", snapshot["families"])
        merged = exposition.text(merge([snapshot, snapshot])).decode("utf-8")
        self.assertIn('s3proxy_http_requests_total{operation="GetObject",code="200",source="ram"} 2.0\n', merged)
        self.assertIn('s3proxy_cache_hit_rate_ratio{window="total"} 1.0\n', merged)


class LintTests(MetricsCase):
    """What promtool would say about the names."""

    def test_families(self) -> None:
        """Names have the prefix, only counters end in _total, units are base units, help is a sentence."""
        for family in self.metrics.families:
            self.assertRegex(family.name, r"\As3proxy_[a-z][a-z0-9_]*\Z")
            self.assertEqual(family.name.endswith("_total"), family.type == "counter", family.name)
            self.assertNotRegex(family.name, r"_(milliseconds|ms|minutes|kilobytes|kib|mb|percent|count|sum|bucket)\b")
            self.assertNotRegex(family.name, r"counter|gauge|histogram")
            self.assertRegex(family.help, r"\A[A-Z0-9].*\.\Z")
            self.assertEqual(bool(family.bounds), family.type == "histogram", family.name)
            self.assertEqual(list(family.bounds), sorted(set(family.bounds)))
            if family.type == "histogram":
                self.assertTrue(family.name.endswith(("_seconds", "_bytes")), family.name)
            for label in family.labels:
                self.assertRegex(label, r"\A[a-z_]+\Z")
                self.assertNotIn(label, ("le", "quantile", "key", "job", "instance"))

    def test_text_can_be_parsed(self) -> None:
        """The whole text is understood by the library's parser; no series appears twice."""
        self.finish()
        text = self.metrics.render_text().decode("utf-8")
        seen: set[tuple[str, object]] = set()
        for family in text_string_to_metric_families(text):
            self.assertTrue(family.documentation, family.name)
            for sample in family.samples:
                series = (sample.name, tuple(sorted(sample.labels.items())))
                self.assertNotIn(series, seen)
                seen.add(series)
        types = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
        self.assertEqual(len(types), len(set(types)))

    def test_fast(self) -> None:
        """A scrape with series of 100 buckets holds up the event loop for less than 50 ms."""
        series = BucketSeries(100)
        self.metrics.observe_source(series.readings, "buckets")
        for number in range(100):
            for operation in ("GetObject", "HeadObject", "PutObject", "DeleteObject", "ListObjectsV2"):
                for outcome in ("HIT", "MISS", "REVALIDATED", "BYPASS"):
                    self.finish(operation=operation, outcome=outcome)
                    series.count(a_record(operation=operation, outcome=outcome, bucket=b"bucket-%03d" % number))
        took = []
        for _ in range(5):
            began = time.perf_counter()
            text = self.metrics.render_text()
            took.append(time.perf_counter() - began)
        self.assertEqual(text.count(b'bucket="bucket-'), 800)
        self.assertLess(min(took), 0.05)

    def test_promtool(self) -> None:
        """What Prometheus' own tool has to say: nothing."""
        promtool = shutil.which("promtool")
        if promtool is None:
            raise SkipTest("promtool (of the package prometheus) is not installed")
        self.finish()
        self.metrics.identify("1.2.3", "i-1", "proxy-1", "standard", 1700000000.0)
        done = subprocess.run(
            [promtool, "check", "metrics"], input=self.metrics.render_text(), capture_output=True, check=False
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))

    def test_no_client_text_in_labels(self) -> None:
        """Neither key nor address nor user agent of a client appears."""
        self.finish(key=b"secretkey", client_address="203.0.113.99", user_agent=b"secretagent")
        text = self.metrics.render_text() + self.metrics.render_json()
        self.assertNotIn(b"secret", text)
        self.assertNotIn(b"203.0.113.99", text)
