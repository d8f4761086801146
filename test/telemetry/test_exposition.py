"""Snapshots as text, OpenMetrics and JSON."""

import json
import math
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry import exposition
from s3proxy.telemetry.instruments import Family, Instruments

_FAMILIES = (
    Family(name="x_things_total", type="counter", help='Things \\ of "kinds".', labels=("kind", "of")),
    Family(name="x_level", type="gauge", help="Level."),
    Family(name="x_rate_ratio", type="gauge", help="Rate.", labels=("window",), merge="ratio"),
    Family(name="x_wait_seconds", type="histogram", help="Wait.", labels=("pool",), bounds=(0.1, 1.0)),
    Family(name="x_secret", type="gauge", help="Hidden.", hidden=True),
)
_AWKWARD = 'a"b\\c\nd é'


def samples(parsed: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parsed
        for sample in family.samples
    }


class ExpositionCase(SynchronousTestCase):
    def setUp(self) -> None:
        made = Instruments(_FAMILIES)
        made.counter("x_things_total", _AWKWARD, "y").inc(3)
        made.gauge("x_level").set(2.5)
        made.gauge("x_rate_ratio", "total").value, made.gauge("x_rate_ratio", "total").whole = 3, 4
        made.gauge("x_rate_ratio", "5m")
        for seconds in (0.05, 0.1, 0.5, 7.0):
            made.histogram("x_wait_seconds", "disk").observe(seconds)
        made.gauge("x_secret").set(1)
        self.snapshot = made.describe()
        self.expected = {
            ("x_things_total", (("kind", _AWKWARD), ("of", "y"))): 3.0,
            ("x_level", ()): 2.5,
            ("x_rate_ratio", (("window", "total"),)): 0.75,
            ("x_rate_ratio", (("window", "5m"),)): 0.0,
            ("x_wait_seconds_bucket", (("le", "0.1"), ("pool", "disk"))): 2.0,
            ("x_wait_seconds_bucket", (("le", "1.0"), ("pool", "disk"))): 3.0,
            ("x_wait_seconds_bucket", (("le", "+Inf"), ("pool", "disk"))): 4.0,
            ("x_wait_seconds_count", (("pool", "disk"),)): 4.0,
            ("x_wait_seconds_sum", (("pool", "disk"),)): 7.65,
        }


class TextTests(ExpositionCase):
    def test_what_the_library_reads(self) -> None:
        """The library's own parser of the text format finds every value, and labels as they were."""
        text = exposition.text(self.snapshot).decode("utf-8")
        self.assertEqual(samples(parse_text(text)), self.expected)
        self.assertIn('# HELP x_things_total Things \\\\ of "kinds".\n# TYPE x_things_total counter\n', text)

    def test_openmetrics(self) -> None:
        """So does that of OpenMetrics, which is strict."""
        text = exposition.openmetrics(self.snapshot).decode("utf-8")
        self.assertEqual(samples(parse_openmetrics(text)), self.expected)
        self.assertTrue(text.endswith("# EOF\n"))
        self.assertIn("# TYPE x_things counter\n", text)

    def test_large_and_odd_numbers(self) -> None:
        """Numbers keep their value."""
        made = Instruments(_FAMILIES)
        for value in (1 << 53, 1e300, 0.1, math.inf):
            made.gauge("x_level").set(value)
            text = exposition.text(made.describe()).decode("ascii")
            self.assertEqual(samples(parse_text(text))["x_level", ()], value)

    def test_only_what_is_asked_for(self) -> None:
        """Families can be chosen by their name or that of a series."""
        for name, prefix in (
            ("x_level", "x_level"), ("x_things_total", "x_things"), ("x_things", "x_things"),
            ("x_wait_seconds_bucket", "x_wait"), ("x_wait_seconds", "x_wait"),
        ):  # fmt: skip
            found = samples(parse_text(exposition.text(self.snapshot, {name}).decode("utf-8")))
            self.assertEqual(found, {key: value for key, value in self.expected.items() if key[0].startswith(prefix)})
        self.assertEqual(exposition.text(self.snapshot, {"x_secret", "nothing"}), b"")
        self.assertEqual(exposition.openmetrics(self.snapshot, {"nothing"}), b"# EOF\n")

    def test_hidden(self) -> None:
        """What only serves the summary is not shown."""
        self.assertNotIn(b"x_secret", exposition.text(self.snapshot) + exposition.json_document(self.snapshot))


class JsonTests(ExpositionCase):
    def test_values(self) -> None:
        """Every series with its labels; histograms with count, sum and cumulative buckets."""
        metrics = json.loads(exposition.json_document(self.snapshot))["metrics"]
        self.assertEqual(metrics["x_things_total"], [{"labels": {"kind": _AWKWARD, "of": "y"}, "value": 3}])
        self.assertEqual(metrics["x_rate_ratio"][0], {"labels": {"window": "total"}, "value": 0.75})
        self.assertEqual(
            metrics["x_wait_seconds"],
            [
                {
                    "labels": {"pool": "disk"},
                    "value": {"count": 4, "sum": 7.65, "buckets": {"0.1": 2, "1.0": 3, "+Inf": 4}},
                }
            ],
        )

    def test_summary_of_nothing(self) -> None:
        """A snapshot without any of the proxy's metrics has a summary of zeros."""
        summary = json.loads(exposition.json_document(self.snapshot))["summary"]
        self.assertEqual(summary["cache_hit_rate_percent"], 0.0)
        self.assertEqual(summary["latency"], {"first_byte_seconds": {}, "total_seconds": {}})


class PercentileTests(SynchronousTestCase):
    def test_estimates(self) -> None:
        """Values are spread evenly within their bucket, as Prometheus assumes."""
        bounds = [0.1, 1.0, 10.0]
        self.assertEqual(exposition.percentile([10, 0, 0, 0], bounds, 0.5), 0.05)
        self.assertEqual(exposition.percentile([5, 5, 0, 0], bounds, 0.75), 0.1 + 0.9 / 2)
        self.assertEqual(exposition.percentile([0, 0, 0, 3], bounds, 0.5), 10.0)
        self.assertIsNone(exposition.percentile([0, 0, 0, 0], bounds, 0.5))
