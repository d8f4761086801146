"""Series of single buckets."""

from test.telemetry.records import a_record
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.buckets import BucketSeries


class BucketSeriesTests(SynchronousTestCase):
    def read(self, series: BucketSeries) -> dict[tuple[str, ...], float]:
        return {
            (reading.name.removeprefix("s3proxy_bucket_"), *reading.labels): reading.value
            for reading in series.readings()
        }

    def count(self, series: BucketSeries, bucket: str, key: str = "k", **changes: Any) -> None:
        series.count(a_record(bucket=bucket.encode(), key=key.encode(), **changes))

    def test_what_is_counted(self) -> None:
        """Requests by group of operations; bytes to clients, those saved, and those from clients."""
        series = BucketSeries()
        self.count(series, "b")
        self.count(series, "b", outcome="MISS", bytes_from_cache=0)
        self.count(series, "b", operation="PutObject", bytes_sent=0, bytes_from_cache=0, body_bytes_received=7)
        self.assertEqual(
            self.read(series),
            {
                ("requests_total", "b", "", "get"): 2,
                ("requests_total", "b", "", "put"): 1,
                ("sent_bytes_total", "b", ""): 2000,
                ("saved_bytes_total", "b", ""): 1000,
                ("received_bytes_total", "b", ""): 7,
                ("overflow",): 0,
            },
        )

    def test_hits_that_are_answered_at_once(self) -> None:
        """They count like all others."""
        series = BucketSeries()
        share = series.share(a_record(bucket=b"b"))
        share.quick += 3
        share.quick_bytes += 30
        found = self.read(series)
        self.assertEqual(found["requests_total", "b", "", "get"], 3)
        self.assertEqual((found["sent_bytes_total", "b", ""], found["saved_bytes_total", "b", ""]), (30, 30))

    def test_prefixes(self) -> None:
        """The longest configured prefix that fits counts; buckets without any have one place."""
        series = BucketSeries(10, {"b": ("logs/", "logs/2026/")})
        for key in ("logs/a", "logs/2026/x", "logs/2026/y", "else", "log"):
            self.count(series, "b", key)
        self.count(series, "other", "logs/a")
        found = {key[1:3]: value for key, value in self.read(series).items() if key[0] == "requests_total"}
        self.assertEqual(found, {("b", "logs/"): 1, ("b", "logs/2026/"): 2, ("b", ""): 2, ("other", ""): 1})

    def test_limit(self) -> None:
        """What comes when there are enough is counted together, the operator is told once, and nothing is lost."""
        series = BucketSeries(2)
        for name in ("a", "b", "c", "d", "a"):
            self.count(series, name)
        found = self.read(series)
        self.assertEqual(found["requests_total", "__other__", "", "get"], 2)
        self.assertEqual(found["requests_total", "a", "", "get"], 2)
        self.assertEqual(found["overflow",], 1)
        self.assertEqual(sum(value for key, value in found.items() if key[0] == "requests_total"), 5)

    def test_no_series_at_all(self) -> None:
        """With a limit of 0 everything is counted together."""
        series = BucketSeries(0)
        self.count(series, "a")
        self.assertEqual(self.read(series)["requests_total", "__other__", "", "get"], 1)

    def test_names_that_nobody_has(self) -> None:
        """A bucket that gives nothing takes no place: names in requests are anybody's choice."""
        series = BucketSeries(2)
        for number in range(50):
            self.count(series, f"guess-{number}", status=404, outcome="BYPASS", bytes_from_cache=0)
        self.count(series, "real")
        found = self.read(series)
        self.assertEqual(found["requests_total", "__other__", "", "get"], 50)
        self.assertEqual(found["requests_total", "real", "", "get"], 1)
        self.assertEqual(found["overflow",], 0)

    def test_without_a_bucket(self) -> None:
        """ListBuckets belongs to none."""
        series = BucketSeries()
        self.count(series, "", operation="ListBuckets")
        self.assertEqual(self.read(series), {("overflow",): 0})
