"""Sums by bucket and prefix."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.traffic import MOST_ADDRESSES, OTHER, Totals, Traffic
from test.telemetry.records import a_record


class TrafficTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.traffic = Traffic(most_buckets=2, most_prefixes=2)

    def count(self, bucket: bytes, key: bytes, **changes: object) -> None:
        self.traffic.count(a_record(bucket=bucket, key=key, **changes))

    def test_sums(self) -> None:
        """Hits, misses, uploads and errors are told apart; bypassed reads are no part of the hit rate."""
        self.count(b"b", b"k")
        self.count(b"b", b"k", outcome="MISS", bytes_from_cache=0)
        self.count(b"b", b"k", outcome="BYPASS", bytes_from_cache=0)
        self.count(b"b", b"k", operation="PutObject", outcome="BYPASS", bytes_sent=0, bytes_from_cache=0,
                   body_bytes_received=7)  # fmt: skip
        self.count(b"b", b"k", status=404, outcome="BYPASS", bytes_sent=9, bytes_from_cache=0)
        self.count(b"b", b"k", status=0, outcome="MISS", bytes_sent=0, bytes_from_cache=0)
        self.assertEqual(
            self.traffic.buckets()[b"b"],
            Totals(requests=6, reads=2, hits=1, errors=2, sent=3009, cached=1000, received=7),
        )

    def test_quick_hits(self) -> None:
        """Hits that were only added up count like others."""
        place = self.traffic.place(a_record(bucket=b"b", key=b"x/k"))
        place.quick += 3
        place.quick_bytes += 300
        self.assertEqual(
            self.traffic.prefixes(b"b"), {b"x/": Totals(requests=3, reads=3, hits=3, sent=300, cached=300)}
        )

    def test_prefixes(self) -> None:
        """The first component of a key, with its slash; without one there is none."""
        for key in (b"a/b/c", b"a/d", b"e"):
            self.count(b"b", key)
        found = {prefix: totals.requests for prefix, totals in self.traffic.prefixes(b"b").items()}
        self.assertEqual(found, {b"a/": 2, b"": 1})

    def test_names_are_bounded(self) -> None:
        """What comes when the table is full counts as others, and nothing gets lost."""
        for bucket in (b"b1", b"b2", b"b3", b"b4"):
            for key in (b"1/k", b"2/k", b"3/k", b"4/k"):
                self.count(bucket, key)
        self.assertEqual({name: each.requests for name, each in self.traffic.buckets().items()},
                         {b"b1": 4, b"b2": 4, OTHER: 8})  # fmt: skip
        self.assertEqual({name: each.requests for name, each in self.traffic.prefixes(b"b1").items()},
                         {b"1/": 1, b"2/": 1, OTHER: 2})  # fmt: skip

    def test_errors_invent_no_names(self) -> None:
        """Whoever asks for buckets and keys that do not exist fills no table."""
        for number in range(10):
            self.count(b"none%d" % number, b"k", status=404, outcome="BYPASS")
        self.count(b"b", b"k")
        self.count(b"b", b"nothing/here", status=404, outcome="BYPASS")
        self.assertEqual({name: each.requests for name, each in self.traffic.buckets().items()}, {b"b": 2, OTHER: 10})
        self.assertEqual(set(self.traffic.prefixes(b"b")), {b"", OTHER})

    def test_addresses(self) -> None:
        """How S3 answers is counted for each of its addresses; the oldest go when there are too many."""
        for at, status in ((1.0, 200), (2.0, 503)):
            self.count(b"b", b"k", upstream_address="192.0.2.1:443", upstream_seconds=0.5, bytes_from_upstream=10,
                       started_at=at, status=status)  # fmt: skip
        answers = self.traffic.addresses["192.0.2.1:443"]
        self.assertEqual(
            (answers.requests, answers.seconds, answers.errors, answers.received, answers.last), (2, 1.0, 1, 20, 2.0)
        )
        for number in range(MOST_ADDRESSES):
            self.count(b"b", b"k", upstream_address=f"[2001:db8::{number:x}]:443")
        self.assertEqual(len(self.traffic.addresses), MOST_ADDRESSES)
        self.assertNotIn("192.0.2.1:443", self.traffic.addresses)
