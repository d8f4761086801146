"""Tests for :mod:`s3proxy.util.bodymemory`."""

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.util.bodymemory import BodyMemory


class BodyMemoryTests(SynchronousTestCase):
    """BodyMemory."""

    def test_account(self) -> None:
        """What is held, the most of it, and when it is too much; without a limit it never is."""
        memory, free = BodyMemory(100), BodyMemory()
        for each in (memory, free):
            each.hold(60)
            self.assertFalse(each.full)
            each.hold(60)
            each.let_go(20)
        self.assertTrue(memory.full)
        self.assertFalse(free.full)
        self.assertEqual((memory.held, memory.most), (100, 120))

    def test_wait(self) -> None:
        """Those who wait go on one by one while there is little room, all when there is much."""
        memory = BodyMemory(100)
        memory.hold(130)
        waiting = [memory.wait() for _ in range(5)]
        memory.let_go(20)
        self.assertFalse(any(each.called for each in waiting))
        memory.let_go(20)
        self.assertEqual([each.called for each in waiting], [True, False, False, False, False])
        waiting[1].cancel()
        self.failureResultOf(waiting[1], CancelledError)
        self.assertEqual(memory.waiting, 3)
        memory.let_go(90)
        self.assertEqual((memory.waiting, [each.called for each in waiting]), (0, [True] * 5))
