"""Whether the reactor may write itself."""

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.background import LONGEST_PAUSE, MEMORY, PAUSE, SLOW, Promptness, thread_waits, write_small_range
from s3proxy.storage.errors import NotNow


class PromptnessTests(SynchronousTestCase):
    """A disk that takes as long as the test wants."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.waits = 0
        self.promptness = Promptness(self.clock.seconds, lambda: self.waits)

    def write(self, seconds: float, waits: int = 1) -> Callable[[], str]:
        def call() -> str:
            self.clock.advance(seconds)
            self.waits += waits
            return "written"

        return call

    def pause(self) -> float:
        """Let the disk be slow; how long nothing is tried then."""
        self.promptness.attempt(self.write(2 * SLOW * MEMORY))
        began = self.clock.seconds()
        while not self.promptness.now:
            self.clock.advance(PAUSE / 4)
        return self.clock.seconds() - began

    def test_prompt(self) -> None:
        """Short waits are none, however many there are."""
        for _ in range(1000):
            self.assertEqual(self.promptness.attempt(self.write(SLOW / 2)), "written")

    def test_slow(self) -> None:
        """After one very long wait nothing is tried for a while."""
        self.promptness.attempt(self.write(2 * SLOW * MEMORY))
        self.assertFalse(self.promptness.now)
        self.assertRaises(NotNow, self.promptness.attempt, self.fail)
        self.clock.advance(PAUSE)
        self.assertEqual(self.promptness.attempt(self.write(0)), "written")

    def test_slow_on_average(self) -> None:
        """Nor after some that are too long each."""
        tried = 0
        while self.promptness.now:
            self.promptness.attempt(self.write(2 * SLOW))
            tried += 1
        self.assertTrue(1 < tried <= MEMORY, tried)

    def test_slow_again(self) -> None:
        """Each time it happens again soon the pause is twice as long, up to a limit; long after it, it is short."""
        pauses = [self.pause() for _ in range(10)]
        self.assertEqual(pauses[:4], [PAUSE, 2 * PAUSE, 4 * PAUSE, 8 * PAUSE])
        self.assertEqual(pauses[-1], LONGEST_PAUSE)
        self.clock.advance(LONGEST_PAUSE + 1)
        self.assertEqual(self.pause(), PAUSE)

    def test_other_programs(self) -> None:
        """Time in which the thread did not wait, but had no processor, says nothing about the disk."""
        for _ in range(10):
            self.promptness.attempt(self.write(10 * SLOW * MEMORY, waits=0))
        self.assertTrue(self.promptness.now)

    def test_failure(self) -> None:
        """A write that fails after a long time was slow, too."""

        def fail() -> None:
            self.write(2 * SLOW * MEMORY)()
            raise OSError("no")

        self.assertRaises(OSError, self.promptness.attempt, fail)
        self.assertFalse(self.promptness.now)

    def test_watch(self) -> None:
        """What has to be written at once is, and tells about the disk all the same."""
        self.promptness.watch(self.write(2 * SLOW * MEMORY))
        self.assertEqual(self.promptness.watch(self.write(0)), "written")
        self.assertFalse(self.promptness.now)

    def test_thread_waits(self) -> None:
        """The system's count never goes back."""
        first = thread_waits()
        self.assertGreaterEqual(thread_waits(), first)


class SmallRangeTests(SynchronousTestCase):
    """write_small_range()"""

    def test_promptly(self) -> None:
        """A range is written by a thread."""
        self.assertRaises(NotNow, write_small_range, self.fail, 0, [b"x"], True, [])
