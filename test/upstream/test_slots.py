"""Tests of s3proxy.upstream.slots."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.interfaces import UpstreamBusy
from s3proxy.upstream.slots import ConnectionSlots


class SlotTests(SynchronousTestCase):
    """Two slots, a queue of four places, ten seconds of patience."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.slots = ConnectionSlots(self.clock, 2, 10.0, 4)
        self.order: list[str] = []

    def fill(self) -> None:
        self.assertEqual([self.slots.take() for _ in range(3)], [True, True, False])

    def wait(self, host: str, name: str = "") -> "Deferred[None]":
        """Wait for a slot, and note the order in which slots are given."""
        ready = self.slots.wait(host)
        ready.addCallback(lambda _: self.order.append(name or host))
        return ready

    def test_limit(self) -> None:
        """No more slots than that; one that is left can be taken again."""
        self.fill()
        self.assertFalse(self.slots.is_free())
        self.slots.leave()
        self.assertEqual((self.slots.take(), self.slots.in_use), (True, 2))

    def test_no_limit(self) -> None:
        """A limit of 0 is none, and slots are counted all the same."""
        slots = ConnectionSlots(self.clock, 0, 10.0, 0)
        self.assertEqual([slots.take() for _ in range(1000)], [True] * 1000)
        self.assertEqual(slots.in_use, 1000)

    def test_in_order(self) -> None:
        """Requests for one host get their slots in the order in which they came; the slot goes from hand to hand."""
        self.fill()
        for name in "abc":
            self.wait("h", name)
        self.assertEqual((self.slots.waiting, self.order), (3, []))
        for _ in range(3):
            self.slots.leave()
        self.assertEqual((self.order, self.slots.in_use, self.slots.waiting), (["a", "b", "c"], 2, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_hosts_in_turn(self) -> None:
        """A host with many requests does not keep those for another one waiting."""
        self.fill()
        for name in ("busy1", "busy2", "busy3"):
            self.wait("busy", name)
        self.wait("quiet")
        for _ in range(4):
            self.slots.leave()
        self.assertEqual(self.order, ["busy1", "quiet", "busy2", "busy3"])

    def test_queue_is_bounded(self) -> None:
        """Whoever comes when all places are taken is turned away at once."""
        self.fill()
        for _ in range(4):
            self.wait("h")
        self.failureResultOf(self.slots.wait("other"), UpstreamBusy)
        self.assertEqual((self.slots.waited, self.slots.refused), (5, 1))

    def test_patience(self) -> None:
        """Whoever has waited for too long is turned away, and gets no slot later."""
        self.fill()
        waiting = self.wait("h")
        self.clock.advance(9.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        self.failureResultOf(waiting, UpstreamBusy)
        self.slots.leave()
        self.assertEqual((self.order, self.slots.in_use, self.slots.waiting, self.slots.refused), ([], 1, 0, 1))

    def test_cancelled(self) -> None:
        """Whoever leaves the queue leaves no gap in it."""
        self.fill()
        first, second = self.wait("h", "first"), self.wait("h", "second")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.slots.leave()
        self.successResultOf(second)
        self.assertEqual((self.order, self.slots.in_use), (["second"], 2))
        self.assertEqual(self.clock.getDelayedCalls(), [])
