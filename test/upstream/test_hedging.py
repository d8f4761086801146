"""Tests of s3proxy.upstream.hedging."""

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.hedging import Governor, HedgeCounters, Race
from s3proxy.upstream.interfaces import Hedging


class GovernorTests(SynchronousTestCase):
    """The share of second requests, at most a tenth."""

    def admits(self, fetches: int, hedges: int, fraction: float = 0.1) -> bool:
        return Governor(fraction, fetches, hedges).admits()

    def test_V9_one_fetch_no_hedge(self) -> None:
        """The first second request is always admitted."""
        self.assertTrue(self.admits(1, 0))

    def test_V9_ten_fetches_one_hedge(self) -> None:
        """Two of ten are too many."""
        self.assertFalse(self.admits(10, 1))

    def test_V9_twenty_fetches_one_hedge(self) -> None:
        """Two of twenty are a tenth, which is allowed."""
        self.assertTrue(self.admits(20, 1))

    def test_V9_nineteen_fetches_one_hedge(self) -> None:
        """Two of nineteen are more than a tenth."""
        self.assertFalse(self.admits(19, 1))

    def test_V9_fraction_of_zero(self) -> None:
        """A share of 0 is not off: there may be one at a time."""
        for fetches in (0, 1, 1000):
            self.assertTrue(self.admits(fetches, 0, 0.0))
            self.assertFalse(self.admits(fetches, 1, 0.0))

    def test_exact_shares(self) -> None:
        """A share that is reached exactly is allowed, whatever binary fractions make of it."""
        for hundredth in range(1, 101):
            self.assertTrue(self.admits(100, hundredth - 1, float(f"0.{hundredth:02}") if hundredth < 100 else 1.0))

    def test_no_fetch(self) -> None:
        """Nothing is divided by zero."""
        self.assertTrue(self.admits(0, 1, 2.0))


class Answer:
    """An answer as far as a race looks at it."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.aborted = 0

    def abort(self) -> None:
        self.aborted += 1


class RaceTests(SynchronousTestCase):
    """A request, which is late after a quarter of a second."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[Deferred[Answer]] = []
        self.cancelled: list[int] = []
        self.seconds: list[bool] = []
        self.governor = Governor(0.1, fetches=1)
        self.counters = HedgeCounters()
        self.hedging = Hedging(0.25, 1)
        self.room = True

    async def ask(self, second: bool) -> Any:
        number = len(self.asked)
        asking: Deferred[Answer] = Deferred(lambda _: self.cancelled.append(number))
        self.asked.append(asking)
        self.seconds.append(second)
        return await asking

    def race(self, ask: "Callable[[bool], Coroutine[Any, Any, Any]] | None" = None) -> "Deferred[Any]":
        race = Race(self.clock, ask or self.ask, self.hedging, self.governor, self.counters, lambda: self.room)
        return Deferred.fromCoroutine(race.run())

    def counts(self) -> tuple[int, int, int, int]:
        """Won, lost, failed, suppressed. Nothing is left behind."""
        self.assertEqual((self.governor.hedges, self.clock.getDelayedCalls()), (0, []))
        counters = self.counters
        return counters.won, counters.lost, counters.failed, counters.suppressed

    def late(self) -> "Deferred[Any]":
        """A race in which both requests are under way."""
        waiting = self.race()
        self.clock.advance(0.25)
        self.assertEqual((self.seconds, self.governor.hedges), ([False, True], 1))
        return waiting

    def test_in_time(self) -> None:
        """An answer that is not late is the only one that is asked for."""
        waiting = self.race()
        self.clock.advance(0.24)
        answer = Answer(200)
        self.asked[0].callback(answer)
        self.assertIs(self.successResultOf(waiting), answer)
        self.assertEqual((len(self.asked), self.counts()), (1, (0, 0, 0, 0)))

    def test_second_wins(self) -> None:
        """The first request is aborted when the second is answered, whatever the status below 500."""
        for status in (200, 206, 304, 403, 404, 416):
            self.setUp()
            waiting = self.late()
            answer = Answer(status)
            self.asked[1].callback(answer)
            self.assertIs(self.successResultOf(waiting), answer)
            self.assertEqual((self.cancelled, answer.aborted), ([0], 0))
            self.assertEqual(self.counts(), (1, 0, 0, 0))

    def test_first_wins(self) -> None:
        """The second request is aborted when the first is answered."""
        waiting = self.late()
        answer = Answer(200)
        self.asked[0].callback(answer)
        self.assertIs(self.successResultOf(waiting), answer)
        self.assertEqual((self.cancelled, self.counts()), ([1], (0, 1, 0, 0)))

    def test_server_error_loses(self) -> None:
        """An answer of 500 and above waits for the other request, and is aborted for a better one."""
        for number in (0, 1):
            self.setUp()
            waiting = self.late()
            bad, good = Answer(503), Answer(200)
            self.asked[number].callback(bad)
            self.assertNoResult(waiting)
            self.asked[1 - number].callback(good)
            self.assertIs(self.successResultOf(waiting), good)
            self.assertEqual((bad.aborted, good.aborted), (1, 0))
            self.assertEqual(self.counts()[:2], (1, 0) if number == 0 else (0, 1))

    def test_server_error_is_better_than_none(self) -> None:
        """Of two such answers the earlier counts; and one counts if the other request fails."""
        waiting = self.late()
        first, second = Answer(500), Answer(503)
        self.asked[1].callback(second)
        self.asked[0].callback(first)
        self.assertIs(self.successResultOf(waiting), second)
        self.assertEqual((first.aborted, self.counts()), (1, (1, 0, 0, 0)))
        self.setUp()
        waiting = self.late()
        self.asked[0].callback(first)
        self.asked[1].errback(ValueError())
        self.assertIs(self.successResultOf(waiting), first)
        self.assertEqual(self.counts(), (0, 0, 1, 0))

    def test_server_error_in_time(self) -> None:
        """An answer that is not late is taken as it is: nobody else has been asked."""
        waiting = self.race()
        answer = Answer(503)
        self.asked[0].callback(answer)
        self.assertIs(self.successResultOf(waiting), answer)
        self.assertEqual(self.counts(), (0, 0, 0, 0))

    def test_one_fails(self) -> None:
        """A failure waits for the other request."""
        for number in (0, 1):
            self.setUp()
            waiting = self.late()
            self.asked[number].errback(ValueError())
            self.assertNoResult(waiting)
            answer = Answer(200)
            self.asked[1 - number].callback(answer)
            self.assertIs(self.successResultOf(waiting), answer)
            self.assertEqual(self.counts(), (1, 0, 0, 0) if number == 0 else (0, 0, 1, 0))

    def test_both_fail(self) -> None:
        """Two failures are one: the first request's."""
        waiting = self.late()
        self.asked[1].errback(KeyError("second"))
        self.asked[0].errback(ValueError("first"))
        self.failureResultOf(waiting, ValueError)
        self.assertEqual(self.counts(), (0, 0, 1, 0))

    def test_fails_in_time(self) -> None:
        """A request that fails before it is late is not sent a second time here."""
        waiting = self.race()
        self.asked[0].errback(ValueError())
        self.failureResultOf(waiting, ValueError)
        self.assertEqual((len(self.asked), self.counts()), (1, (0, 0, 0, 0)))

    def test_suppressed(self) -> None:
        """Without a budget, room for a connection, or the governor's consent, the first request goes on alone."""
        for changes in ({"hedging": Hedging(0.25, 0)}, {"room": False}, {"governor": Governor(0.1, 10, 1)}):
            self.setUp()
            vars(self).update(changes)
            waiting = self.race()
            self.clock.advance(1)
            self.assertEqual(len(self.asked), 1)
            answer = Answer(200)
            self.asked[0].callback(answer)
            self.assertIs(self.successResultOf(waiting), answer)
            self.assertEqual(self.counters, HedgeCounters(suppressed=1))

    def test_budget(self) -> None:
        """Requests that share a budget use it up together."""
        self.governor.fraction = 1.0
        self.governor.fetches = 10
        self.hedging.left = 2
        races = [self.race() for _ in range(3)]
        self.clock.advance(0.25)
        self.assertEqual((self.seconds.count(True), self.hedging.left), (2, 0))
        for asking in self.asked[:3]:
            asking.callback(Answer(200))
        for each in races:
            self.successResultOf(each)
        self.assertEqual(self.counts(), (0, 2, 0, 1))

    def test_cancelled(self) -> None:
        """Whoever does not want the answer any more ends both requests, and a bad answer that is held."""
        waiting = self.late()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual((self.cancelled, self.counts()), ([0, 1], (0, 1, 0, 0)))
        self.setUp()
        waiting = self.late()
        bad = Answer(500)
        self.asked[0].callback(bad)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual((bad.aborted, self.cancelled), (1, [1]))

    def test_at_once(self) -> None:
        """A request that is answered while it is sent leaves no timer."""

        async def ask(second: bool) -> Any:
            return Answer(200)

        self.assertEqual(self.successResultOf(self.race(ask)).status, 200)
        self.assertEqual(self.counts(), (0, 0, 0, 0))
