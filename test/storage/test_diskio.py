"""Calls on disk threads."""

import threading
from typing import cast

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from s3proxy.storage.diskio import DiskBusy, DiskIO, ImmediateIO, give_back


class Resource:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class DiskIOTests(TestCase):
    """The real pool, with the real reactor."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor = reactor
        self.io = DiskIO(cast(IReactorFromThreads, reactor), threads=2, queue=2)
        self.io.start()
        self.addCleanup(self.io.stop)

    async def test_counts(self) -> None:
        """Threads that work, calls that wait, and for how long they did are known."""
        go = threading.Event()
        calls = [self.io.run(go.wait, 10) for _ in range(4)]
        while self.io.busy < 2:
            await deferLater(self.reactor, 0.01)
        self.assertEqual((self.io.busy, self.io.queued), (2, 2))
        go.set()
        await gatherResults(calls)
        self.assertEqual((self.io.queued, self.io.waits.count), (0, 4))

    def test_result(self) -> "Deferred[None]":
        """A call runs in another thread and its result comes back."""
        main = threading.get_ident()
        done = self.io.run(lambda one, two: (one + two, threading.get_ident()), 1, 2)

        def check(result: tuple[int, int]) -> None:
            self.assertEqual(result[0], 3)
            self.assertNotEqual(result[1], main)
            self.assertEqual(self.io.outstanding, 0)

        return done.addCallback(check)

    def test_failure(self) -> "Deferred[object]":
        """An exception comes back as a failure."""
        return self.assertFailure(self.io.run(int, "x"), ValueError)

    def test_bounded(self) -> "Deferred[object]":
        """Beyond the queue's length, calls are refused at once."""
        gate = threading.Event()
        running = [self.io.run(gate.wait, 10) for _ in range(4)]
        self.failureResultOf(self.io.run(gate.wait, 10), DiskBusy)
        gate.set()
        return gatherResults(running).addCallback(lambda _: self.io.run(gate.wait, 10))

    def test_cancelled(self) -> "Deferred[object]":
        """A cancelled call fails at once, still runs, and what it returns is given back."""
        gate, resource = threading.Event(), Resource()

        def work() -> Resource:
            gate.wait(10)
            return resource

        waiting = self.io.run(work)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        gate.set()
        return self.io.run(resource.closed.wait, 10).addCallback(self.assertTrue)

    def test_cancelled_failure(self) -> "Deferred[object]":
        """The exception of a call that nobody waits for is dropped."""
        gate = threading.Event()
        waiting = self.io.run(lambda: gate.wait(10) and int("x"))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        gate.set()
        return self.io.run(lambda: None)


class ImmediateTests(SynchronousTestCase):
    """The stand-in that has no threads."""

    def test_run(self) -> None:
        """Result or failure are there at once."""
        io = ImmediateIO()
        self.assertEqual(self.successResultOf(io.run(max, 1, 2)), 2)
        self.failureResultOf(io.run(int, "x"), ValueError)

    def test_give_back(self) -> None:
        """Closed is what can be closed, released what can be released; anything else is just forgotten."""
        resource = Resource()
        give_back(resource)
        self.assertTrue(resource.closed.is_set())
        seen: list[str] = []

        class Held:
            def release(self) -> None:
                seen.append("released")

        give_back(Held())
        give_back(None)
        self.assertEqual(seen, ["released"])
