"""The thread of a log."""

import threading
from functools import partial

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from s3proxy.telemetry.thread import SerialThread


class SerialThreadTests(TestCase):
    timeout = 10

    def setUp(self) -> None:
        self.thread = SerialThread(reactor, "test-log")  # type: ignore[arg-type]
        self.addCleanup(self.thread.stop)

    def test_in_order_in_one_other_thread(self) -> Deferred[None]:
        """Work is done in order in one thread; results arrive in the reactor's."""
        here = threading.get_ident()
        order: list[int] = []
        idents: set[int] = set()

        def work(number: int) -> int:
            order.append(number)
            idents.add(threading.get_ident())
            return number

        def check(results: list[int]) -> None:
            self.assertEqual(threading.get_ident(), here)
            self.assertEqual((results, order), ([0, 1, 2], [0, 1, 2]))
            self.assertEqual(len(idents), 1)
            self.assertNotIn(here, idents)

        return gatherResults([self.thread.run(partial(work, number)) for number in range(3)]).addCallback(check)

    def test_failures(self) -> Deferred[None]:
        """What raises fails its Deferred, and the thread goes on."""
        failed = self.assertFailure(self.thread.run(lambda: 1 / 0), ZeroDivisionError)
        failed.addCallback(lambda _: self.thread.run(lambda: 5))
        return failed.addCallback(self.assertEqual, 5)

    def test_cancelled(self) -> Deferred[None]:
        """Cancelling one wait does no harm to the next."""
        go = threading.Event()
        first = self.assertFailure(self.thread.run(lambda: go.wait(5)), Exception)
        first.cancel()
        go.set()
        return first.addCallback(lambda _: self.thread.run(lambda: None))

    def test_stop_after_the_work(self) -> Deferred[None]:
        """The thread ends once it has done what it was given."""
        ran = self.thread.run(threading.current_thread)
        self.thread.stop()

        def ended(thread: threading.Thread) -> None:
            thread.join(5)
            self.assertFalse(thread.is_alive())

        return ran.addCallback(ended)
