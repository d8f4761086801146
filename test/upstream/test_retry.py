"""Tests of s3proxy.upstream.retry."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.retry import Stage, Tries, next_delay


class RetryTests(SynchronousTestCase):
    """Which failures are followed by another attempt, and after how long."""

    def delays(self, *stages: Stage, repeatable: bool = True, idle_retries: int = 2) -> list[float | None]:
        """What is decided after each of these failures in a row."""
        tries = Tries()
        found = []
        for stage in stages:
            tries = tries.plus(stage)
            found.append(next_delay(stage, repeatable, tries, idle_retries))
        return found

    def test_connecting(self) -> None:
        """Three attempts to connect, 0.1 and 0.2 s apart, for every request: nothing has been sent."""
        for repeatable in (True, False):
            self.assertEqual(self.delays(*[Stage.CONNECTING] * 3, repeatable=repeatable), [0.1, 0.2, None])

    def test_unanswered(self) -> None:
        """A request that S3 may have acted on is repeated only if it may be."""
        self.assertEqual(self.delays(*[Stage.UNANSWERED] * 3), [0.1, 0.2, None])
        self.assertEqual(self.delays(Stage.UNANSWERED, repeatable=False), [None])

    def test_body_held(self) -> None:
        """A body that was never started can be sent elsewhere."""
        self.assertEqual(self.delays(*[Stage.BODY_HELD] * 3, repeatable=False), [0.1, 0.2, None])

    def test_stale(self) -> None:
        """A stale connection is replaced at once, and costs no attempt; but only for requests that may be repeated."""
        stages = [Stage.STALE, *[Stage.UNANSWERED] * 3]
        self.assertEqual(self.delays(*stages), [0.0, 0.1, 0.2, None])
        self.assertEqual(self.delays(Stage.STALE, repeatable=False), [None])

    def test_silent(self) -> None:
        """A silent peer is replaced at once, as often as the configuration says."""
        for retries in (0, 1, 2):
            expected = [0.0] * retries + [None]
            self.assertEqual(self.delays(*[Stage.SILENT] * (retries + 1), idle_retries=retries), expected)
        self.assertEqual(self.delays(Stage.SILENT, repeatable=False), [None])

    def test_final(self) -> None:
        """Nothing is repeated after the first byte of an answer, nor when another attempt can't change anything."""
        for stage in (Stage.ANSWERING, Stage.FORBIDDEN):
            for repeatable in (True, False):
                self.assertEqual(self.delays(stage, repeatable=repeatable), [None])
