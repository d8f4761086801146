"""One result for many waiters."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.util.deferreds import SharedResult, WakeUps


class SharedResultTests(SynchronousTestCase):
    """A result that is set once."""

    def test_everybody_gets_it(self) -> None:
        """Waiters from before and after, in the order in which they came."""
        shared: SharedResult[int] = SharedResult()
        order: list[int] = []
        waiters = [shared.wait() for _ in range(3)]
        for number, waiter in enumerate(waiters):
            waiter.addCallback(lambda result, number=number: order.append(number) or result)
        self.assertEqual((shared.fired, shared.waiting), (False, 3))
        shared.fire(7)
        self.assertEqual((shared.fired, shared.waiting, order), (True, 0, [0, 1, 2]))
        for waiter in (*waiters, shared.wait()):
            self.assertEqual(self.successResultOf(waiter), 7)

    def test_failure(self) -> None:
        """Each waiter has a failure of its own: one that handles it takes it from nobody."""
        shared: SharedResult[int] = SharedResult()
        first, second = shared.wait(), shared.wait()
        shared.fire(Failure(ValueError("no")))
        failures = [self.failureResultOf(waiter, ValueError) for waiter in (first, second, shared.wait())]
        self.assertEqual(len({id(failure) for failure in failures}), 3)
        self.assertEqual(len({id(failure.value) for failure in failures}), 1)

    def test_one_sends_another_away(self) -> None:
        """What one waiter does with the result may cancel another one; the rest still get it."""
        deserted: list[None] = []
        shared: SharedResult[int] = SharedResult(lambda: deserted.append(None))
        first, second, third = (shared.wait() for _ in range(3))
        first.addCallback(lambda result: second.cancel() or result)
        third.addCallback(lambda result: result + 1)
        shared.fire(7)
        self.failureResultOf(second, CancelledError)
        self.assertEqual((self.successResultOf(third), deserted), (8, []))

    def test_one_leaves(self) -> None:
        """The others don't notice."""
        deserted: list[None] = []
        shared: SharedResult[int] = SharedResult(lambda: deserted.append(None))
        first, second = shared.wait(), shared.wait()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual((shared.waiting, deserted), (1, []))
        shared.fire(7)
        self.assertEqual(self.successResultOf(second), 7)

    def test_everybody_leaves(self) -> None:
        """The last one to leave is told of, once; a result may still come, for those who ask later."""
        deserted: list[None] = []
        shared: SharedResult[int] = SharedResult(lambda: deserted.append(None))
        for waiter in [shared.wait(), shared.wait()]:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        self.assertEqual(deserted, [None])
        shared.fire(7)
        self.assertEqual(self.successResultOf(shared.wait()), 7)

    def test_leaving_afterwards(self) -> None:
        """Nobody deserts a result that is there."""
        deserted: list[None] = []
        shared: SharedResult[int] = SharedResult(lambda: deserted.append(None))
        waiter = shared.wait()
        shared.fire(7)
        waiter.cancel()
        self.assertEqual(deserted, [])
        self.assertEqual(self.successResultOf(waiter), 7)

    def test_without_an_owner(self) -> None:
        """Nobody needs to be told."""
        shared: SharedResult[int] = SharedResult()
        waiter = shared.wait()
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)

    def test_waiter_that_comes_meanwhile(self) -> None:
        """Who asks from within another's callback gets the result at once."""
        shared: SharedResult[int] = SharedResult()
        late: list[Deferred[int]] = []
        shared.wait().addCallback(lambda _: late.append(shared.wait()))
        shared.fire(7)
        self.assertEqual(self.successResultOf(late[0]), 7)


class WakeUpTests(SynchronousTestCase):
    """Look again."""

    def test_wake(self) -> None:
        """Everybody who waits is woken once."""
        wake_ups = WakeUps()
        first, second = wake_ups.wait(), wake_ups.wait()
        self.assertNoResult(first)
        wake_ups.wake()
        self.successResultOf(first)
        self.successResultOf(second)
        third = wake_ups.wait()
        self.assertNoResult(third)
        wake_ups.wake()
        wake_ups.wake()
        self.successResultOf(third)

    def test_waiting_again(self) -> None:
        """Who waits again from within a wake-up is woken by the next one only."""
        wake_ups = WakeUps()
        again: list[Deferred[None]] = []
        wake_ups.wait().addCallback(lambda _: again.append(wake_ups.wait()))
        wake_ups.wake()
        self.assertNoResult(again[0])
        wake_ups.wake()
        self.successResultOf(again[0])

    def test_leaving(self) -> None:
        """The others are woken all the same."""
        wake_ups = WakeUps()
        first, second = wake_ups.wait(), wake_ups.wait()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        wake_ups.wake()
        self.successResultOf(second)
