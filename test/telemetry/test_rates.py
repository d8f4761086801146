"""Ratios over a window."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.rates import RecentCounts, WindowedRatio


class WindowedRatioTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ratio = WindowedRatio(0.0, window=60.0, step=10.0)

    def _events(self, now: float, part: int, whole: int) -> None:
        self.ratio.roll(now)
        self.ratio.part += part
        self.ratio.whole += whole

    def test_before_the_first_event(self) -> None:
        """Without events both ratios are 0."""
        self.assertEqual((self.ratio.total(), self.ratio.recent(5.0)), (0.0, 0.0))

    def test_old_events_leave_the_window(self) -> None:
        """The recent ratio forgets what is older than the window; the total does not."""
        self._events(1.0, 0, 100)
        self._events(70.0, 50, 100)
        self.assertEqual(self.ratio.total(), 0.25)
        self.assertEqual(self.ratio.recent(71.0), 0.5)

    def test_an_idle_window(self) -> None:
        """A window without an event is 0."""
        self._events(1.0, 1, 1)
        self.ratio.roll(15.0)
        self.assertEqual(self.ratio.recent(200.0), 0.0)

    def test_memory_is_bounded(self) -> None:
        """However often it rolls, it keeps no more samples than the window has steps."""
        for second in range(10_000):
            self._events(float(second), 1, 2)
        self.assertLess(len(self.ratio._samples), 9)
        self.assertEqual(self.ratio.recent(10_000.0), 0.5)


class RecentCountsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.numbers = {"a": [0.0, 0.0]}
        self.recent = RecentCounts(0.0, lambda: {name: list(each) for name, each in self.numbers.items()}, window=60.0)

    def test_growth(self) -> None:
        """Only what came within the window counts; names may appear later."""
        self.numbers["a"] = [5.0, 1.0]
        self.recent.roll(10.0, 10.0)
        self.numbers["a"] = [7.0, 1.0]
        self.numbers["b"] = [3.0]
        self.assertEqual(self.recent.recent(20.0), (20.0, {"a": [7.0, 1.0], "b": [3.0]}))
        self.assertEqual(self.recent.recent(75.0), (65.0, {"a": [2.0, 0.0], "b": [3.0]}))

    def test_after_a_quiet_time(self) -> None:
        """A sample that was due long ago holds for all of the time since: the window is no longer than it should be."""
        self.numbers["a"] = [5.0, 0.0]
        self.recent.roll(10.0, 400.0)
        self.numbers["a"] = [65.0, 0.0]
        self.assertEqual(self.recent.recent(430.0), (60.0, {"a": [60.0, 0.0]}))
        self.assertEqual(self.recent.recent(460.0), (60.0, {"a": [60.0, 0.0]}))
