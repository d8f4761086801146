"""The row of numbers."""

from test.telemetry.records import a_record

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard.samples import COLUMNS, Sampler
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.metrics import Metrics


class SamplerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics(CollectorRegistry(), Clock().seconds)
        self.readings = [
            Reading("s3proxy_client_connections", 2, ("http",)),
            Reading("s3proxy_client_connections", 3, ("proxy",)),
            Reading("s3proxy_cache_size_bytes", 500, ("disk",)),
            Reading("s3proxy_cache_size_bytes", 70, ("ram",)),
            Reading("s3proxy_cache_evictions_total", 4, ("disk", "capacity")),
            Reading("s3proxy_cache_evictions_total", 9, ("ram", "capacity")),
            Reading("s3proxy_upstream_retries_total", 6, ("silent",)),
            Reading("s3proxy_http_requests_in_flight", 1, ("setup",)),
            Reading("s3proxy_requests_shed_total", 8, ("connections",)),
        ]
        self.sampler = Sampler(self.metrics, [lambda: self.readings], lambda: 0.25)

    def request(self, **changes: object) -> None:
        self.metrics.request_started()
        self.metrics.request_finished(a_record(**changes))

    def test_columns(self) -> None:
        """Every column is there, before the first request too."""
        self.assertEqual(tuple(self.sampler.read()), COLUMNS)

    def test_requests(self) -> None:
        """Sums are those of the metrics."""
        self.request()
        self.request(operation="HeadObject", method=b"HEAD", bytes_sent=0, bytes_from_cache=0)
        self.request(outcome="MISS", bytes_from_cache=0, bytes_from_upstream=1000, first_byte_seconds=0.3)
        self.request(outcome="BYPASS", status=404, bytes_sent=5, bytes_from_cache=0)
        self.request(outcome="ERROR", status=503, bytes_sent=5, bytes_from_cache=0, reason="overload", aborted=True)
        self.metrics.request_started()
        row = self.sampler.read()
        wanted = {
            "req_hit": 2, "req_miss": 1, "req_bypass": 1, "req_error": 1, "reads": 3, "hits": 2, "read_bytes": 2000,
            "cached_bytes": 1000, "sent": 2010, "from_s3": 1000, "saved_get": 1, "saved_head": 1, "saved_bytes": 1000,
            "status_4xx": 1, "status_5xx": 1, "aborts": 1, "shed": 9, "in_flight": 1,
        }  # fmt: skip
        self.assertEqual({name: row[name] for name in wanted}, wanted)
        self.assertEqual(sum(row[name] for name in row if name.startswith("first_byte_cache_")), 2)
        self.assertEqual(sum(row[name] for name in row if name.startswith("first_byte_s3_")), 2)

    def test_a_scrape_changes_nothing(self) -> None:
        """What others keep is counted once, whether or not the metrics have read it, too."""
        self.request(outcome="ERROR", status=503, reason="overload")
        self.metrics.observe_source(lambda: self.readings)
        before = self.sampler.read()
        self.metrics.snapshot()
        self.assertEqual(self.sampler.read(), before)

    def test_tallies(self) -> None:
        """Hits that are not in the instruments yet are part of it."""
        tally = self.metrics.tally(a_record(total_seconds=0.0, first_byte_seconds=0.0))
        tally.requests += 5
        tally.bytes += 5000
        row = self.sampler.read()
        self.assertEqual((row["req_hit"], row["reads"], row["hits"], row["sent"]), (5, 5, 5, 5000))

    def test_readings(self) -> None:
        """What others keep is added up where it belongs together."""
        row = self.sampler.read()
        found = {name: row[name] for name in (
            "connections", "disk_bytes", "ram_bytes", "evictions", "upstream_retries", "lag")}  # fmt: skip
        self.assertEqual(found, {"connections": 5, "disk_bytes": 500, "ram_bytes": 70, "evictions": 4,
                                 "upstream_retries": 6, "lag": 0.25})  # fmt: skip
