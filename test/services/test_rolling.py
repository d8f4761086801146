"""The replacement of all workers as somebody orders it who waits for it."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.answers import Refused
from s3proxy.cluster.workers import Replaced, Rolling, WorkerFailed
from s3proxy.services.rolling import TELL, roll_workers


class FakeCrew:
    """Three workers."""

    size = 3

    def __init__(self) -> None:
        self.rolling = Rolling(3)
        self.replacing: Deferred[None] = Deferred()

    def roll(self, rolling: Rolling) -> "Deferred[None]":
        self.rolling = rolling
        rolling.current = 1
        return self.replacing

    def leaving(self) -> int:
        return 2


class RollTests(SynchronousTestCase):
    """roll_workers."""

    def setUp(self) -> None:
        """It has been ordered."""
        self.clock = Clock()
        self.crew = FakeCrew()
        self.told: list[dict[str, Any]] = []
        self.done = Deferred.fromCoroutine(
            roll_workers(self.clock, self.crew, 60.0, lambda kind, value: self.told.append({kind: dict(value)}))
        )
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def replace(self, number: int) -> None:
        """One is new."""
        self.crew.rolling.replaced.append(Replaced(number, 10 + number, 20 + number, 1.5))
        self.crew.rolling.current = number + 1

    def test_progress(self) -> None:
        """While it lasts, whoever waits hears something every moment: whose turn it is, and who is new."""
        self.clock.advance(TELL)
        self.replace(1)
        self.clock.advance(TELL)
        first, second = (each["progress"] for each in self.told)
        self.assertEqual((first["done"], first["total"], first["worker"], first["workers"]), (0, 3, 1, []))
        self.assertEqual((second["done"], second["worker"]), (1, 2))
        self.assertEqual(second["workers"], [{"number": 1, "before": 11, "pid": 21, "seconds": 1.5}])
        self.crew.replacing.callback(None)
        self.successResultOf(self.done)

    def test_done(self) -> None:
        """In the end: who is new, who was not there, and how many former ones are still at work."""
        self.replace(1)
        self.replace(3)
        self.crew.rolling.skipped.append(2)
        self.crew.rolling.current = 0
        self.clock.advance(0.25)
        self.crew.replacing.callback(None)
        found = self.successResultOf(self.done)
        self.assertEqual([each["number"] for each in found["workers"]], [1, 3])
        self.assertEqual((found["done"], found["worker"], found["skipped"], found["leaving"], found["seconds"]),
                         (3, None, [2], 2, 0.25))  # fmt: skip

    def refusal(self) -> Refused:
        """Why it is not done."""
        found = self.failureResultOf(self.done, Refused).value
        assert isinstance(found, Refused)
        return found

    def test_fails(self) -> None:
        """A successor that can't serve: which, and who is new already."""
        self.replace(1)
        self.crew.replacing.errback(WorkerFailed("worker 2 ended with exit code 1"))
        refusal = self.refusal()
        self.assertEqual(refusal.status, 409)
        self.assertEqual(
            str(refusal),
            "Not all workers are replaced: worker 2 ended with exit code 1. New: 1; as before: 2, 3. "
            "The application log says more.",
        )

    def test_too_late(self) -> None:
        """It takes longer than it may: no more are replaced."""
        self.clock.pump([1.0] * 60)
        refusal = self.refusal()
        self.assertEqual(refusal.status, 504)
        self.assertIn("Not all workers are replaced after 60 s. New: none; as before: 1, 2, 3.", str(refusal))

    def test_nobody_waits(self) -> None:
        """Who ordered it has gone: no more are replaced."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assertTrue(self.crew.replacing.called)
