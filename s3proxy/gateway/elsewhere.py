"""What other processes that use the cache directory get from S3, for a request that would have to ask for it."""

from s3proxy.cache.following import Found, Sought
from s3proxy.cache.view import View
from s3proxy.gateway.demand import Demand
from s3proxy.gateway.transaction import Parts, Transaction
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.parts import Wanted
from s3proxy.s3.ranges import From, FromTo, Suffix
from s3proxy.storage.lease import WHOLE
from s3proxy.util.intervals import Interval

__all__ = ["Elsewhere", "asked_for", "sought"]

MOST_LOOKS = 8
"""How often one request looks at what others are getting before it asks S3 all the same."""
_SHARED = frozenset((Reason.COLD, Reason.EXPIRED, Reason.INCOMPLETE, Reason.ALWAYS_ASK))
_OUTCOMES = {Found.AWAITED: "served", Found.IN_VAIN: "refused"}


def asked_for(wanted: Wanted | None) -> Interval | None:
    """The bytes that a request asks for, as far as that is known without the object's size; None: it is not."""
    if wanted is None:
        return WHOLE
    if isinstance(wanted, FromTo):
        return wanted.first, wanted.last + 1
    return (wanted.first, WHOLE[1]) if isinstance(wanted, From) else None


def sought(wanted: Wanted | None, interval: Interval | None, *, lacking: bool = True) -> Sought:
    """What to look for.

    :param interval: the bytes that are wanted; None: the object's size is not known
    :param lacking: the cache does not have all of them
    """

    def served_by(asks: Interval) -> bool:
        needed = interval or (WHOLE if isinstance(wanted, Suffix) else asked_for(wanted))
        return needed is not None and asks[0] <= needed[0] and needed[1] <= asks[1]

    return Sought(interval=interval, lacking=lacking, served_by=served_by)


class Elsewhere:
    """The looks of one GET or HEAD of an object.

    :ivar waited: whether one of them was worth waiting for
    """

    def __init__(self, parts: Parts, transaction: Transaction, demand: Demand, *, renew: bool) -> None:
        assert transaction.id is not None
        self.waited = False
        self._parts = parts
        self._transaction = transaction
        self._id = transaction.id
        self._demand = demand
        self._looks = MOST_LOOKS if not parts.coalescing or renew or demand.head or demand.conditional else 0

    def may_wait(self, reason: Reason) -> bool:
        """Whether this request, which has to ask S3 for this reason, may look whether another process does."""
        return self._looks < MOST_LOOKS and reason in _SHARED and reason is not Reason.ALWAYS_ASK

    async def has(self, view: View | None, reason: Reason) -> bool:
        """Whether another process gets what is wanted here, and has begun to: the caller looks at the object again.

        :param view: what is here
        :param reason: why S3 would have to be asked
        """
        demand = self._demand
        if self._looks >= MOST_LOOKS or reason not in _SHARED:
            return False
        if reason is Reason.ALWAYS_ASK and view is not None and demand.lacks(view) is not Reason.INCOMPLETE:
            # S3 has to be asked about this caller, and all the bytes are here, or on their way.
            return False
        self._looks += 1
        interval = None if view is None else demand.interval(view.version)
        lacking = view is None or demand.lacks(view) is Reason.INCOMPLETE
        record, clock, counts = self._transaction.record, self._parts.clock, self._parts.counts
        began = clock.seconds()
        outcome = "left"
        counts.waiting += 1
        try:
            found = await self._parts.cache.seek(self._id, sought(demand.wanted, interval, lacking=lacking))
            outcome = _OUTCOMES.get(found, "")
        finally:
            counts.waiting -= 1
            if outcome:
                seconds = clock.seconds() - began
                counts.waited(outcome, seconds)
                record.wait_seconds = (record.wait_seconds or 0.0) + seconds
        self.waited = self.waited or found is Found.AWAITED
        if found is Found.IN_VAIN:
            self._looks = MOST_LOOKS
        return found in (Found.NEWS, Found.AWAITED)
