"""Curves made of rows."""

from array import array
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard.history import History
from s3proxy.dashboard.samples import COLUMNS
from s3proxy.dashboard.series import MOST_POINTS, NAMES, RANGES, curves, percentile, point

BOUNDS = (1.0, 2.0, 4.0)
BEGAN = 1_800_000_000.0


class PercentileTests(SynchronousTestCase):
    def test_within_a_bucket(self) -> None:
        """Values are taken to be spread evenly between two bounds, as Prometheus does."""
        self.assertEqual(percentile([0, 10, 0, 0], BOUNDS, 0.5), 1.5)
        self.assertEqual(percentile([10, 0, 10, 0], BOUNDS, 0.75), 3.0)

    def test_none(self) -> None:
        """Without a value there is none."""
        self.assertIsNone(percentile([0, 0, 0, 0], BOUNDS, 0.5))

    def test_beyond(self) -> None:
        """Above the last bound nothing is known but that."""
        self.assertEqual(percentile([0, 0, 0, 5], BOUNDS, 0.99), 4.0)

    @given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any), st.floats(0.01, 1), st.floats(0.01, 1))
    def test_order(self, counts: list[int], one: float, other: float) -> None:
        """A larger share never has a smaller value, and all lie within the bounds."""
        low, high = (percentile(counts, BOUNDS, share) for share in sorted((one, other)))
        assert low is not None and high is not None
        self.assertLessEqual(low, high + 1e-9)
        self.assertTrue(0 <= low <= 4.0)


def a_row(at: float, seconds: float = 1.0, **values: float) -> "array[float]":
    return array("d", [at, seconds, *(values.get(name, 0.0) for name in COLUMNS)])


class PointTests(SynchronousTestCase):
    def test_rates_and_ratios(self) -> None:
        """Sums become rates by the time that was really measured; ratios are of the interval alone."""
        row = a_row(BEGAN, 4.0, req_hit=8, sent=400, reads=10, hits=8, read_bytes=100, cached_bytes=25, in_flight=3)
        found = dict(zip(NAMES, point(row)))
        wanted = {"t": BEGAN, "hit": 2.0, "sent": 100.0, "hit_rate": 0.8, "byte_hit_rate": 0.25, "in_flight": 3.0,
                  "first_byte_s3_p99": None}  # fmt: skip
        self.assertEqual({name: found[name] for name in wanted}, wanted)

    def test_nothing_read(self) -> None:
        """Without reads there is no hit rate, rather than one of 0."""
        self.assertIsNone(dict(zip(NAMES, point(a_row(BEGAN))))["hit_rate"])


class CurvesTests(SynchronousTestCase):
    def series(self, history: History, span: float, now: float) -> dict[str, Any]:
        *waits, document = curves(history, span, now)
        self.assertEqual(set(waits), {None} if waits else set())
        assert document is not None
        return {name: column for name, column in zip(document["names"], document["values"])}

    def test_gap(self) -> None:
        """Where nothing was measured there is a point without values."""
        history = History()
        history.rings[0].rows.extend(a_row(BEGAN + at, 5.0, req_hit=5) for at in (0, 5, 100))
        found = self.series(history, 3600, BEGAN + 100)
        self.assertEqual(found["hit"], [1.0, 1.0, None, 1.0])
        self.assertEqual(found["t"][1:3], [BEGAN + 5, BEGAN + 10])

    def test_empty(self) -> None:
        """Before the first row there are columns without points."""
        self.assertEqual(self.series(History(), 3600, BEGAN)["t"], [])

    def test_every_range_has_few_points(self) -> None:
        """However much is kept, a browser gets no more points than it can show; and no traffic is lost in between."""
        history = History()
        for ring in history.rings:
            now = BEGAN + ring.step * ring.capacity
            ring.rows.extend(
                a_row(BEGAN + ring.step * n, ring.step, req_hit=ring.step) for n in range(ring.capacity)
            )  # fmt: skip
            for span in RANGES.values():
                if history.finest(span) is ring:
                    found = self.series(history, span, now)
                    self.assertLessEqual(len(found["t"]), MOST_POINTS + 2)
                    self.assertGreater(len(found["t"]), MOST_POINTS / 3)
                    self.assertEqual(set(found["hit"]), {1.0})

    def test_others_get_their_turn(self) -> None:
        """The long ranges are made in pieces."""
        history = History()
        history.rings[2].rows.extend(a_row(BEGAN + 600 * n) for n in range(4320))
        self.assertGreater(len(list(curves(history, RANGES["30d"], BEGAN + 600 * 4320))), 20)
