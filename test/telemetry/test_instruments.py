"""Counters, gauges, histograms and what is read of them."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry import exposition
from s3proxy.telemetry.instruments import Family, Histogram, Instruments, Reading, Spread

_FAMILIES = (
    Family(name="x_things_total", type="counter", help="Things.", labels=("kind",)),
    Family(name="x_level", type="gauge", help="Level."),
    Family(name="x_wait_seconds", type="histogram", help="Wait.", bounds=(0.1, 1.0)),
)


class HistogramTests(SynchronousTestCase):
    def test_bounds_belong_to_their_bucket(self) -> None:
        """A value equal to a bound counts below that bound; what exceeds all bounds counts below infinity."""
        histogram = Histogram((0.1, 1.0))
        for value in (0.05, 0.1, 0.11, 1.0, 7.0):
            histogram.observe(value)
        self.assertEqual(histogram.counts, [2, 2, 1])
        self.assertEqual(histogram.count, 5)
        self.assertAlmostEqual(histogram.sum, 8.26)

    def test_several_at_once(self) -> None:
        """A value that came several times counts as often."""
        histogram = Histogram((0.1, 1.0))
        histogram.observe(0.5, 3)
        self.assertEqual(histogram.counts, [0, 3, 0])
        self.assertAlmostEqual(histogram.sum, 1.5)


class InstrumentsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.made = Instruments(_FAMILIES)

    def _text(self) -> str:
        self.made.refresh()
        return exposition.text(self.made.describe()).decode("ascii")

    def test_shown(self) -> None:
        """Values appear in the text format under the names that were declared."""
        self.made.counter("x_things_total", "a").inc(3)
        gauge = self.made.gauge("x_level")
        gauge.set(7)
        gauge.inc()
        gauge.dec(3)
        self.made.histogram("x_wait_seconds").observe(0.5)
        text = self._text()
        self.assertIn('\nx_things_total{kind="a"} 3.0\n', text)
        self.assertIn("\nx_level 5.0\n", text)
        self.assertIn('\nx_wait_seconds_bucket{le="0.1"} 0.0\n', text)
        self.assertIn('\nx_wait_seconds_bucket{le="1.0"} 1.0\n', text)
        self.assertIn("\nx_wait_seconds_count 1.0\n", text)
        self.assertIn("# HELP x_things_total Things.\n# TYPE x_things_total counter\n", text)

    def test_children_are_made_once(self) -> None:
        """The same labels lead to the same child, which begins at 0."""
        child = self.made.counter("x_things_total", "a")
        self.assertIs(self.made.counter("x_things_total", "a"), child)
        self.assertEqual(child.value, 0)
        self.assertEqual(list(self.made.children("x_things_total")), [("a",)])

    def test_only_what_is_declared(self) -> None:
        """An unknown name, another type or a wrong number of labels is a programming error."""
        self.assertRaises(KeyError, self.made.counter, "x_nothing_total")
        self.assertRaises(KeyError, self.made.counter, "x_level")
        self.assertRaises(ValueError, self.made.counter, "x_things_total")

    def test_readings_are_taken_when_asked(self) -> None:
        """Sources are asked at scrape time; a reading of a counter is its running total."""
        total = [5.0]
        self.made.add_source(lambda: [Reading("x_things_total", total[0], ("b",)), Reading("x_level", 2.5)])
        self.assertIn('\nx_things_total{kind="b"} 5.0\n', self._text())
        total[0] = 9.0
        self.assertIn('\nx_things_total{kind="b"} 9.0\n', self._text())

    def test_a_failing_source_harms_nobody_else(self) -> None:
        """A source that raises is logged and counted; the others still report."""
        self.made.add_source(lambda: 1 / 0, "bad")  # type: ignore[arg-type, return-value]
        self.made.add_source(lambda: [Reading("x_level", 4)])
        self.assertIn("\nx_level 4.0\n", self._text())
        self.assertEqual(self.made.errors, {"bad": 1, "other": 0})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_histograms_of_others(self) -> None:
        """A histogram that somebody else keeps is shown as it is; one with other bounds is a programming error."""
        histogram = Histogram((0.1, 1.0))
        self.made.add_source(lambda: [Spread("x_wait_seconds", histogram)])
        histogram.observe(0.5)
        self.assertIn("\nx_wait_seconds_count 1.0\n", self._text())
        histogram.observe(0.5)
        self.assertIn("\nx_wait_seconds_count 2.0\n", self._text())
        self.made.add_source(lambda: [Spread("x_wait_seconds", Histogram((5.0,)))], "bad")
        self._text()
        self.assertEqual(self.made.errors["bad"], 1)
        self.flushLoggedErrors(ValueError)

    def test_series_that_are_gone(self) -> None:
        """Of a family that says so, only what was read last is shown."""
        made = Instruments((Family(name="x_up", type="gauge", help="Up.", labels=("ip",), transient=True),))
        known = ["a", "b"]
        made.add_source(lambda: [Reading("x_up", 1, (ip,)) for ip in known])
        made.refresh()
        known.remove("a")
        made.refresh()
        self.assertEqual(list(made.children("x_up")), [("b",)])

    def test_costs(self) -> None:
        """What each collector took is known, sources of one name together."""
        self.made.add_source(lambda: [], "one")
        self.made.add_source(lambda: [], "one")
        self.made.refresh()
        self.assertEqual(list(self.made.costs), ["one"])
        self.assertGreaterEqual(self.made.costs["one"], 0.0)
