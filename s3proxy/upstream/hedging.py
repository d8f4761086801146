"""A request that is late is sent a second time, and the first good answer wins.

::

    first ──────────────(after so many seconds)──► second, on another connection, to another address if there is one
      │                                               │
      └── a status below 500 from either ─────────────┴──► it wins; the other one is aborted, body and all

An answer of 500 and above, and a failure, lose to a request that is still under way. When both have failed, the first
one's failure counts, once.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from s3proxy.upstream.interfaces import Hedging
from s3proxy.upstream.response import UpstreamResponse
from s3proxy.util.deferreds import WakeUps

__all__ = ["Governor", "HedgeCounters", "Race"]


@attrs.define
class HedgeCounters:
    """Totals since the start, of second requests.

    :ivar won: whose answer was taken
    :ivar lost: that were aborted, or answered, for nothing
    :ivar failed: that ended without an answer
    :ivar suppressed: that were due and not sent
    """

    won: int = 0
    lost: int = 0
    failed: int = 0
    suppressed: int = 0


@attrs.define
class Governor:
    """Keeps second requests a small share of all, whatever happens to S3 (pure).

    :ivar fetches: requests under way, second ones not counted
    :ivar hedges: second requests under way
    :param fraction: the largest share; one second request is always allowed
    """

    fraction: float
    fetches: int = 0
    hedges: int = 0

    def admits(self) -> bool:
        """Whether another second request may be sent now."""
        return self.hedges == 0 or (self.hedges + 1) / max(self.fetches, 1) <= self.fraction


@attrs.define(eq=False)
class _Arm:
    """One of the two requests. ``number``: its place in the order of the answers."""

    asking: "Deferred[None] | None" = None
    response: UpstreamResponse | None = None
    failure: Failure | None = None
    number: int = 0

    @property
    def under_way(self) -> bool:
        return self.response is None and self.failure is None


class Race:
    """One request, and perhaps a second one.

    :param ask: sends it; called with whether it is the second one
    :param hedging: of the request
    :param may_open: whether there is room for another connection
    """

    def __init__(
        self,
        clock: IReactorTime,
        ask: Callable[[bool], Coroutine[Any, Any, UpstreamResponse]],
        hedging: Hedging,
        governor: Governor,
        counters: HedgeCounters,
        may_open: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._ask = ask
        self._hedging = hedging
        self._governor = governor
        self._counters = counters
        self._may_open = may_open
        self._arms: list[_Arm] = []
        self._answers = 0
        self._progress = WakeUps()

    async def run(self) -> UpstreamResponse:
        """The answer. Cancelling it aborts both requests.

        :raises Exception: what ``ask`` raised the first time, when nothing came of either request
        """
        winner: _Arm | None = None
        timer: IDelayedCall | None = None
        try:
            self._send(False)
            if self._arms[0].under_way:
                timer = self._clock.callLater(self._hedging.after, self._late)
            while (winner := self._decided()) is None:
                await self._progress.wait()
        finally:
            if timer is not None and timer.active():
                timer.cancel()
            self._settle(winner)
        if winner.response is not None:
            return winner.response
        assert winner.failure is not None
        winner.failure.raiseException()

    def _late(self) -> None:
        """There is no answer yet."""
        if not self._arms[0].under_way:
            return
        if self._hedging.left <= 0 or not self._governor.admits() or not self._may_open():
            self._counters.suppressed += 1
            return
        self._hedging.left -= 1
        self._governor.hedges += 1
        self._send(True)

    def _send(self, second: bool) -> None:
        arm = _Arm()
        self._arms.append(arm)
        arm.asking = Deferred.fromCoroutine(self._ask(second)).addCallbacks(
            self._answered, self._failed, callbackArgs=(arm,), errbackArgs=(arm,)
        )

    def _answered(self, response: UpstreamResponse, arm: _Arm) -> None:
        self._answers += 1
        arm.number = self._answers
        arm.response = response
        self._progress.wake()

    def _failed(self, reason: Failure, arm: _Arm) -> None:
        arm.failure = reason
        self._progress.wake()

    def _decided(self) -> _Arm | None:
        """The arm whose outcome is that of the whole; None: it is too early to tell."""
        answered = sorted((arm for arm in self._arms if arm.response is not None), key=lambda arm: arm.number)
        for arm in answered:
            if arm.response is not None and arm.response.status < 500:
                return arm
        if any(arm.under_way for arm in self._arms):
            return None
        return answered[0] if answered else self._arms[0]

    def _settle(self, winner: _Arm | None) -> None:
        """End what is left of the others."""
        if len(self._arms) == 2:
            second = self._arms[1]
            self._governor.hedges -= 1
            if second is winner:
                self._counters.won += 1
            elif second.failure is not None:
                self._counters.failed += 1
            else:
                self._counters.lost += 1
        for arm in self._arms:
            if arm is winner:
                continue
            if arm.response is not None:
                arm.response.abort()
            elif arm.under_way and arm.asking is not None:
                arm.asking.cancel()
