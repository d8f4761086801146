"""The documents of the API."""

from test.dashboard.stocked import HOST, Stocked
from test.support.gateway import FakeResponse
from test.telemetry.records import a_record
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import ComponentStatus, HealthBoard, HealthState
from s3proxy.dashboard import documents
from s3proxy.dashboard.documents import Known
from s3proxy.dashboard.samples import COLUMNS
from s3proxy.telemetry.traffic import Traffic

RULES = b'{"rules": [{"pattern": "b/**", "get_ttl": "5s", "page_widening": true}, {"pattern": "**", "get_ttl": "1h"}]}'


class DocumentsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stocked = Stocked(RULES)
        self.addCleanup(self.stocked.close)
        self.board = HealthBoard(lambda: 1000.0, max_age=0.0)
        self.traffic = Traffic()
        self.snapshot: dict[str, Any] = {"hosts": {}, "excluded": [], "lookups": 3}
        harness = self.stocked.harness
        self.known = Known(
            facts={"version": "1"}, now=lambda: 1000.0, clock=harness.clock.seconds, started_at=900.0, board=self.board,
            traffic=self.traffic, manager=harness.cache, running=lambda: harness.gateway.running, permits=lambda: 10,
            upstream=lambda: self.snapshot, rules=lambda: self.stocked.rules,
        )  # fmt: skip

    def row(self, **values: float) -> dict[str, float]:
        return dict.fromkeys(COLUMNS, 0.0) | values


class SummaryTests(DocumentsCase):
    def test_rates(self) -> None:
        """Hit rates are of the reads; before the first there is none."""
        row = self.row(reads=4, hits=3, read_bytes=100, cached_bytes=50)
        found = documents.summary(self.known, row, {}, (0.5, 0.25))
        self.assertEqual((found["hit_rate"], found["byte_hit_rate"], found["hit_rate_5m"]), (0.75, 0.5, 0.5))
        self.assertIsNone(documents.summary(self.known, self.row(), {}, (0.0, 0.0))["hit_rate"])

    def test_estimate(self) -> None:
        """Requests saved, at the list price."""
        found = documents.summary(self.known, self.row(saved_get=900_000, saved_head=100_000), {}, (0.0, 0.0))
        self.assertEqual((found["saved_requests"], found["saved_dollars_estimate"]), (1_000_000, 0.4))

    def test_uptime_and_health(self) -> None:
        """Since when it runs, and how it is."""
        self.board.add("x", lambda: ComponentStatus("x", HealthState.DEGRADED, "Look."))
        self.board.start_draining()
        found = documents.summary(self.known, self.row(), {}, (0.0, 0.0))
        self.assertEqual((found["uptime"], found["health"], found["draining"]), (100.0, "degraded", True))


class AttentionTests(DocumentsCase):
    def what(self, row: dict[str, float] | None = None, **rates: float) -> list[str]:
        return [each["what"] for each in documents.attention(self.known, row or self.row(), rates)]

    def test_nothing(self) -> None:
        """A healthy proxy wants no attention."""
        self.board.add("cache", lambda: ComponentStatus("cache", HealthState.HEALTHY))
        self.board.add("off", lambda: ComponentStatus("off", HealthState.DISABLED))
        self.assertEqual(self.what(), [])

    def test_components(self) -> None:
        """What is worst comes first."""
        self.board.add("cache", lambda: ComponentStatus("cache", HealthState.DEGRADED, "Full."))
        self.board.add("x", lambda: ComponentStatus("x", HealthState.UNHEALTHY, "Gone."))
        self.assertEqual(self.what(), ["x", "cache"])

    def test_notes(self) -> None:
        """What is no fault of a component, but worth a look."""
        self.assertEqual(self.what(shed=1.0), ["overload"])
        self.assertEqual(self.what(self.row(lag=0.3)), ["event loop"])
        self.assertEqual(self.what(self.row(disk_limit=86400), evicted_bytes=2.0), ["eviction"])
        self.assertEqual(self.what(self.row(disk_limit=86400), evicted_bytes=0.5), [])
        self.snapshot["excluded"] = ["192.0.2.1:443"]
        self.assertEqual(self.what(), ["upstream"])


class TrafficTests(DocumentsCase):
    def test_buckets_and_prefixes(self) -> None:
        """The busiest first; what is not told apart has a name of its own."""
        self.traffic.count(a_record(bucket=b"small", key=b"k"))
        for key in (b"a/1", b"a/2", b"c/1"):
            self.traffic.count(a_record(bucket=b"large", key=key))
        self.traffic.count(a_record(bucket=b"nothing", key=b"k", status=404, bytes_sent=1, bytes_from_cache=0))
        found = documents.buckets(self.known)
        self.assertEqual([row["bucket"] for row in found], ["large", "small", "(others)"])
        self.assertEqual((found[0]["requests"], found[0]["hit_rate"], found[2]["errors"]), (3, 1.0, 1))
        self.assertEqual([row["prefix"] for row in documents.prefixes(self.known, "large")], ["a/", "c/"])
        self.assertEqual(len(documents.prefixes(self.known, "")), 3)
        self.assertEqual(documents.prefixes(self.known, "none"), [])


class InFlightTests(DocumentsCase):
    def test_progress(self) -> None:
        """A download shows how far it is, where it comes from, and what of it is on its way into the cache."""
        harness = self.stocked.harness
        client = harness.send(b"GET", b"/b/k", {b"Host": HOST})
        answer = FakeResponse(200, {b"ETag": b'"e"', b"Content-Length": b"100"}, None, 100)
        harness.upstream.last.respond(answer)
        harness.clock.advance(2)
        answer.sink.data_received(b"x" * 40)
        harness.clock.advance(0)
        (row,) = documents.in_flight(self.known)["requests"]
        wanted = {"seconds": 2.0, "bucket": "b", "key": "k", "source": "MISS", "status": 200, "expected": 100,
                  "sent": client.body_bytes_sent}  # fmt: skip
        self.assertEqual({name: row[name] for name in wanted}, wanted)
        (fill,) = documents.in_flight(self.known)["fills"]
        self.assertEqual((fill["bucket"], fill["key"], fill["start"], fill["stop"], fill["readers"]),
                         ("b", "k", 0, 100, 1))  # fmt: skip
        client.leave()
        self.assertEqual(documents.in_flight(self.known)["requests"], [])

    def test_no_secrets(self) -> None:
        """What names no object is shown by its target, without what is secret there."""
        self.stocked.harness.send(b"GET", b"/?X-Amz-Signature=5ec2e7", {b"Host": HOST})
        (row,) = documents.in_flight(self.known)["requests"]
        self.assertIn("X-Amz-Signature", row["key"])
        self.assertNotIn("5ec2e7", str(row))

    def test_bounded(self) -> None:
        """Of many, the oldest, and how many more there are."""
        for number in range(5):
            self.stocked.harness.send(b"GET", b"/b/%d" % number, {b"Host": HOST})
        found = documents.in_flight(self.known, 2)
        self.assertEqual(([row["key"] for row in found["requests"]], found["more"]), (["0", "1"], 3))

    def test_ranges(self) -> None:
        """Of a range, its bytes are expected."""
        self.assertEqual(documents._expected(a_record(served_range="bytes=10-19")), 10)
        self.assertEqual(documents._expected(a_record(method=b"HEAD")), None)


class UpstreamTests(DocumentsCase):
    def test_addresses(self) -> None:
        """Addresses with their answers; who answered once and is no longer resolved comes apart."""
        self.snapshot["hosts"] = {
            "s3.example": {"addresses": ["192.0.2.1", "2001:db8::1"], "excluded": ["192.0.2.1"], "idle": 1, "active": 2}
        }
        self.snapshot["recovery"] = {"192.0.2.1:443": {"seconds": 12.0, "next_probe_seconds": 3.0}}
        for address in ("192.0.2.1:443", "[2001:db8::1]:443", "192.0.2.9:443"):
            self.traffic.count(a_record(upstream_address=address, upstream_seconds=0.5))
        found = documents.upstreams(self.known)
        (host,) = found["hosts"]
        rows = [(each["address"], each["state"], each["requests"], each["mean_ms"]) for each in host["addresses"]]
        self.assertEqual(rows, [("192.0.2.1", "excluded", 1, 500.0), ("2001:db8::1", "active", 1, 500.0)])
        self.assertEqual([each.get("next_probe_seconds") for each in host["addresses"]], [3.0, None])
        self.assertEqual([each["address"] for each in found["former"]], ["192.0.2.9:443"])
        self.assertEqual(found["counters"], {"lookups": 3})


class RulesTests(DocumentsCase):
    def test_rules(self) -> None:
        """In order, with what they set."""
        found = documents.rules(self.known)
        self.assertEqual([(rule["pattern"], rule["settings"]) for rule in found["rules"]],
                         [("b/**", {"get_ttl": 5.0, "page_widening": True}), ("**", {"get_ttl": 3600.0})])  # fmt: skip

    def test_problems(self) -> None:
        """What is wrong with the file is told."""
        self.board.add("rules", lambda: ComponentStatus(
            "rules", HealthState.DEGRADED, "Bad.", data={"file": "/x", "problems": ["line 1"]}))  # fmt: skip
        found = documents.rules(self.known)
        self.assertEqual((found["state"], found["message"], found["file"], found["problems"]),
                         ("degraded", "Bad.", "/x", ["line 1"]))  # fmt: skip

    def test_which_applies(self) -> None:
        """The rules that fit, and the settings that come of them."""
        found = documents.rule_for(self.known, b"b", b"k")
        self.assertEqual((found["fitting"], found["first"], found["settings"]["get_ttl"]), ([1, 2], "b/**", 5.0))
        found = documents.rule_for(self.known, b"other", b"k")
        self.assertEqual((found["fitting"], found["settings"]["get_ttl"]), ([2], 3600.0))
