"""Supervisor and worker talk, over a socket that is none."""

import json
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cluster.commands import Drain, GiveBack, Reload, Reopen, Report, TakeOver
from s3proxy.cluster.member import Membership
from s3proxy.cluster.process import DEAF, Hearing, _Channel


class FakeWorker:
    """As the supervisor sees it."""

    number = 3

    def __init__(self) -> None:
        self.ready = 0

        self.left = 0

    def is_ready(self) -> None:
        """Once more."""
        self.ready += 1

    def is_leaving(self) -> None:
        """Once more."""
        self.left += 1


class Listener(Hearing):
    """Remembers what workers say."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def used(self, worker: Any, data: bytes) -> None:
        """See :class:`Hearing`."""
        self.heard.append(("used", data))

    def logged(self, worker: Any, lines: list[Any]) -> None:
        """See :class:`Hearing`."""
        self.heard.append(("logged", lines))

    def farewell(self, worker: Any, counted: dict[str, Any]) -> None:
        """See :class:`Hearing`."""
        if counted.get("wrong"):
            raise ValueError("this can't be used")
        self.heard.append(("farewell", counted))


class FakeMember:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.answer: Any = {}

    def report(self, wanted: str) -> dict[str, Any]:
        """What the test wants."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"wanted": wanted, **self.answer}

    def take_over(self, slot: int) -> None:
        """Remember it."""
        self.told.append(("take over", slot))

    def give_back(self, slot: int) -> None:
        """Remember it."""
        self.told.append(("give back", slot))

    def drain(self, limit: float, patience: float) -> None:
        """Remember it."""
        self.told.append(("drain", limit, patience))

    def reload(self, data: bytes) -> None:
        """Remember it, unless it is nothing."""
        if not data:
            raise ValueError("no configuration")
        self.told.append(("reload", data))

    def reopen(self) -> None:
        """Remember it."""
        self.told.append("reopen")

    def orphaned(self) -> None:
        """Remember it."""
        self.told.append("orphaned")


class ChannelTests(SynchronousTestCase):
    """Both ends."""

    def setUp(self) -> None:
        """Connect them."""
        self.worker, self.hearing, self.member = FakeWorker(), Listener(), FakeMember()
        self.clock = Clock()
        self.supervisor = _Channel(self.clock, self.worker, self.hearing)  # type: ignore[arg-type]
        self.membership = Membership(self.member)
        self.ends = [(self.supervisor, StringTransport()), (self.membership, StringTransport())]
        for end, transport in self.ends:
            end._protocol.makeConnection(transport)

    def exchange(self) -> None:
        """Carry over what was sent, in small pieces, until nobody says anything more."""
        moved = True
        while moved:
            moved = False
            for (_, transport), (other, _) in (self.ends, self.ends[::-1]):
                data = transport.value()
                transport.clear()
                for start in range(0, len(data), 10_007):
                    other._protocol.dataReceived(data[start : start + 10_007])
                    moved = True

    def test_orders(self) -> None:
        """Each order reaches the worker, and is answered."""
        answers = [
            self.supervisor.tell(TakeOver, slot=2),
            self.supervisor.tell(GiveBack, slot=2),
            self.supervisor.tell(Reload, data=b"config"),
            self.supervisor.tell(Reopen),
            self.supervisor.tell(Drain, limit=2.5, patience=0.5),
        ]
        self.exchange()
        self.assertEqual([self.successResultOf(answer) for answer in answers], [{}] * 5)
        self.assertEqual(
            self.member.told, [("take over", 2), ("give back", 2), ("reload", b"config"), "reopen", ("drain", 2.5, 0.5)]
        )

    def test_words_of_the_worker(self) -> None:
        """Each reaches the supervisor."""
        self.membership.ready(17)
        self.membership.uses(b"\0\1")
        self.membership.lines([[1.5, "info", "somebody", "text"]])
        self.membership.leaving()
        told = self.membership.farewell({"counted": 3})
        self.exchange()
        self.successResultOf(told)
        self.assertEqual((self.worker.ready, self.worker.left), (1, 1))
        self.assertEqual(
            self.hearing.heard,
            [("used", b"\0\1"), ("logged", [[1.5, "info", "somebody", "text"]]), ("farewell", {"counted": 3})],
        )

    def test_long_report(self) -> None:
        """Answers and words of any length come through, whatever AMP's limit of a value."""
        for size in (0, 1, 65_535, 65_536, 1_000_000):
            self.member.answer = {"text": "x" * size}
            answer = self.supervisor.tell(Report, wanted="facts")
            self.membership.uses(b"y" * size)
            self.exchange()
            found = json.loads(self.successResultOf(answer)["data"])
            self.assertEqual(found, {"wanted": "facts", "text": "x" * size})
            self.assertEqual(self.hearing.heard.pop(), ("used", b"y" * size))

    def test_report_fails(self) -> None:
        """A report that can't be made is an empty one, in the log, and the channel stays."""
        self.member.answer = ZeroDivisionError("oops")
        answer = self.supervisor.tell(Report, wanted="facts")
        self.exchange()
        self.assertEqual(self.successResultOf(answer), {"data": b"{}"})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertNotIn("orphaned", self.member.told)

    def test_order_fails(self) -> None:
        """So does an order that can't be followed."""
        answer = self.supervisor.tell(Reload, data=b"")
        self.exchange()
        self.successResultOf(answer)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.member.told, [])

    def test_nonsense(self) -> None:
        """Words that the supervisor can't use are logged, and the channel stays."""
        told = self.membership.farewell({"wrong": True})
        self.exchange()
        self.successResultOf(told)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_supervisor_is_gone(self) -> None:
        """The worker notices, and what it says afterwards is no error."""
        self.membership._protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.member.told, ["orphaned"])
        self.successResultOf(self.membership.farewell({}))

    def test_worker_is_gone(self) -> None:
        """Orders that wait fail, and so do later ones."""
        waiting = self.supervisor.tell(Reopen)
        self.supervisor._protocol.connectionLost(Failure(ConnectionDone()))
        self.failureResultOf(waiting, ConnectionDone)
        self.failureResultOf(self.supervisor.tell(Reopen), ConnectionError)

    def test_connection_ends_alone(self) -> None:
        """A worker that lives, without a connection, takes no more clients: another one shall."""
        self.supervisor._protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.worker.left, 0)
        self.clock.advance(DEAF)
        self.assertEqual(self.worker.left, 1)

    def test_supervisor_does_not_listen(self) -> None:
        """A worker keeps nothing in its memory that a supervisor which stands still can do without."""
        _, transport = self.ends[1]
        transport.producer.pauseProducing()
        self.membership.uses(b"y" * 100_000)
        self.membership.lines([[1.5, "info", "somebody", "text"]])
        self.assertEqual(transport.value(), b"")
        self.membership.farewell({"counted": 3})
        self.assertNotEqual(transport.value(), b"")
        transport.producer.resumeProducing()
        transport.clear()
        self.membership.lines([[1.5, "info", "somebody", "text"]])
        self.assertNotEqual(transport.value(), b"")

    def test_before_the_connection(self) -> None:
        """So do those before there is a connection."""
        self.failureResultOf(Membership(self.member).tell(Reopen), ConnectionError)
