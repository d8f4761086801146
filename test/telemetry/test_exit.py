"""The two doors of the exit lead to the same place."""

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.access import AccessLog
from s3proxy.telemetry.exit import Exit
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.record import RequestRecord
from test.telemetry.records import a_record

ID = b"0A1B2C3D4E5F6071"


def a_hit(**changes: object) -> RequestRecord:
    """A hit that was answered at once."""
    return a_record(**{"total_seconds": 0.0, "first_byte_seconds": 0.0, **changes})


class ExitCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lines: list[bytes] = []
        self.metrics, self.exit = self.an_exit()

    def an_exit(self) -> tuple[Metrics, Exit]:
        metrics = Metrics(CollectorRegistry(), self.clock.seconds)
        log = AccessLog(self.mktemp(), "host", self.clock, redact=lambda target: target)
        self.patch(log, "append", self.lines.append)
        return metrics, Exit(metrics, log)

    def hit(self, record: RequestRecord, times: int = 1) -> None:
        """Account hits like this one by the second door."""
        kind, caller = self.exit.kind(record), self.exit.caller(record)
        for _ in range(times):
            self.exit.hit(kind, caller, record.started_at, ID)

    def text(self, metrics: Metrics) -> list[str]:
        return [line for line in metrics.render_text().decode().splitlines() if line.startswith("s3proxy_http")]


class DoorTests(ExitCase):
    def test_same_account(self) -> None:
        """Lines and metrics of hits are those of requests with a record of their own."""
        records = [
            a_hit(),
            a_hit(method=b"HEAD", operation="HeadObject", bytes_sent=0, bytes_from_cache=0),
            a_hit(status=206, bytes_sent=10, bytes_from_cache=10, served_range="bytes=0-9"),
            a_hit(referer=b"http://x/", user_agent=b"", access_key="", signature_version="", version_id=b"v1"),
        ]
        metrics, other = self.an_exit()
        for record in records:
            self.hit(record, 3)
        mine, self.lines[:] = list(self.lines), []
        for record in records:
            for _ in range(3):
                other.started()
                other.finished(record)
        self.assertEqual(mine, self.lines)
        self.assertEqual(self.text(self.metrics), self.text(metrics))
        self.assertEqual(self.metrics.hit_rate(), 1.0)

    def test_nothing_is_written_when_the_log_is_off(self) -> None:
        """But everything is counted."""
        self.exit.logging = False
        self.hit(a_hit())
        self.exit.started()
        self.exit.finished(a_hit())
        self.assertEqual(self.lines, [])
        self.assertIn(
            's3proxy_http_requests_total{operation="GetObject",code="200",source="ram"} 2.0', self.text(self.metrics)
        )


class TallyTests(ExitCase):
    def test_counted_once(self) -> None:
        """What was taken over is not taken over again."""
        self.hit(a_hit(), 5)
        first = self.text(self.metrics)
        self.assertIn('s3proxy_http_requests_total{operation="GetObject",code="200",source="ram"} 5.0', first)
        self.assertEqual(self.text(self.metrics), first)
        self.hit(a_hit())
        line = 's3proxy_http_requests_total{operation="GetObject",code="200",source="ram"} 6.0'
        self.assertIn(line, self.text(self.metrics))

    def test_rates_over_the_last_minutes(self) -> None:
        """Hits count for the time in which they were, also if nobody looked at the metrics then."""
        self.hit(a_hit(), 10)
        self.clock.advance(400)
        self.exit.second()
        self.exit.started()
        self.exit.finished(a_record(outcome="MISS", bytes_from_cache=0))
        text = self.metrics.render_text().decode()
        self.assertIn('s3proxy_cache_hit_rate_ratio{window="5m"} 0.0', text)
        self.assertIn('s3proxy_cache_byte_hit_rate_ratio{window="5m"} 0.0', text)
        self.assertIn('s3proxy_cache_hit_rate_ratio{window="total"} 0.9', text)

    def test_before_a_miss(self) -> None:
        """A request with a record of its own that is the first in a new span of time does not take them with it."""
        self.hit(a_hit(), 10)
        self.clock.advance(11)
        self.exit.started()
        self.exit.finished(a_record(outcome="MISS", bytes_from_cache=0))
        self.clock.advance(300)
        self.assertIn('s3proxy_cache_hit_rate_ratio{window="5m"} 0.0', self.metrics.render_text().decode())


class LatestTests(ExitCase):
    """What is kept of the last requests."""

    def test_both_doors(self) -> None:
        """Requests of both doors, newest first, as lines of the access log, whether that is written or not."""
        self.exit.logging = False
        for at, key in ((1.0, b"early"), (3.0, b"late")):
            self.exit.started()
            self.exit.finished(a_record(started_at=at, key=key, total_seconds=0.5))
        self.hit(a_hit(started_at=2.0, key=b"between"))
        self.assertEqual(self.lines, [])
        found = list(self.exit.latest())
        self.assertEqual([arrived for arrived, _ in found], [3.0, 2.0, 1.0])
        for (_, line), key in zip(found, (b"late", b"between", b"early")):
            self.assertIn(b" REST.GET.OBJECT %b " % key, line)

    def test_misses_stay(self) -> None:
        """A flood of hits does not wash them away, and memory stays bounded."""
        self.exit.started()
        self.exit.finished(a_record(outcome="MISS", reason="cold", started_at=0.0))
        self.hit(a_hit(), 5000)
        found = [line for _, line in self.exit.latest()]
        self.assertLess(len(found), 1500)
        self.assertIn(b" MISS ", found[-1])

    def test_traffic(self) -> None:
        """Both doors count by bucket."""
        self.exit.started()
        self.exit.finished(a_record(outcome="MISS", bytes_from_cache=0))
        self.hit(a_hit(), 2)
        totals = self.exit.traffic.buckets()[b"photos"]
        self.assertEqual((totals.requests, totals.reads, totals.hits), (3, 3, 2))
        self.assertEqual((totals.sent, totals.cached), (3000, 2000))
