"""The sampler of the reactor's lag."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.lag import LagSampler


class LagSamplerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.seen: list[float] = []
        self.sampler = LagSampler(self.clock, self.seen.append, interval=0.25, keep=4)
        self.sampler.start()

    def test_punctual(self) -> None:
        """Timers that go off in time have no lag."""
        self.clock.pump([0.25] * 3)
        self.assertEqual(self.seen, [0.0, 0.0, 0.0])
        self.assertEqual(self.sampler.worst(), 0.0)

    def test_blocked(self) -> None:
        """A loop that was busy for two seconds is late by two seconds less the interval."""
        self.clock.advance(2.0)
        self.assertEqual(self.seen, [1.75])
        self.assertEqual(self.sampler.worst(), 1.75)
        self.assertEqual(self.sampler.current(), 1.75)

    def test_current_counts_a_timer_that_is_overdue(self) -> None:
        """What is late at this moment counts although its timer has not run yet."""
        self.clock.rightNow += 5.25
        self.assertEqual(self.sampler.current(), 5.0)

    def test_only_recent_measurements_count(self) -> None:
        """An old hiccup is forgotten."""
        self.clock.advance(2.0)
        self.clock.pump([0.25] * 4)
        self.assertEqual(self.sampler.worst(), 0.0)

    def test_percentile(self) -> None:
        """The percentile is one of the measurements."""
        self.assertEqual(LagSampler(self.clock, self.seen.append).percentile(0.99), 0.0)
        self.clock.pump([0.25, 1.25, 0.25, 0.25])
        self.assertEqual(self.sampler.percentile(0.5), 0.0)
        self.assertEqual(self.sampler.percentile(0.99), 1.0)

    def test_stop(self) -> None:
        """A stopped sampler leaves no timer; starting and stopping twice does no harm."""
        self.sampler.start()
        self.sampler.stop()
        self.sampler.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_observer_that_fails_does_not_end_it(self) -> None:
        """The next timer is set before the observer is told."""
        sampler = LagSampler(self.clock, lambda lag: 1 / 0, interval=1.0)
        self.sampler.stop()
        sampler.start()
        self.assertRaises(ZeroDivisionError, self.clock.advance, 1.0)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
