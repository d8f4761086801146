"""How many connections to S3 may be in use at once, and who waits for the next one.

Whoever wants a connection takes a slot first, and leaves it when the connection is idle or gone. When all slots are
taken, requests wait: those for one host in the order in which they came, the hosts in turn, so that a host that is
slow, or asked for very much, does not keep the others waiting.
"""

from collections import OrderedDict, deque

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from s3proxy.upstream.interfaces import UpstreamBusy

__all__ = ["ConnectionSlots"]


@attrs.define(eq=False)
class _Waiter:
    host: str
    ready: "Deferred[None]"
    limit: IDelayedCall | None = None


class ConnectionSlots:
    """Counts them, and keeps the queue.

    :ivar in_use: slots that are taken
    :ivar waiting: requests that wait for one
    :ivar waited: requests that found all slots taken
    :ivar refused: those of them that were turned away at once, because too many wait, or after their time
    :param limit: slots; 0: as many as are asked for
    :param patience: seconds that a request waits at most
    :param max_waiting: requests that may wait; the next one is turned away
    """

    def __init__(self, clock: IReactorTime, limit: int, patience: float, max_waiting: int) -> None:
        self._clock = clock
        self.limit = limit
        self._patience = patience
        self._max_waiting = max_waiting
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self.in_use = 0
        self.waiting = 0
        self.waited = 0
        self.refused = 0

    def is_free(self) -> bool:
        """Whether a slot would be had at once."""
        return not self.limit or self.in_use < self.limit

    def take(self) -> bool:
        """Take a slot if there is a free one."""
        free = self.is_free()
        self.in_use += free
        return free

    def wait(self, host: str) -> "Deferred[None]":
        """There is none: fires when one has been taken. Fails with :class:`UpstreamBusy`. Cancelling it gives the place
        in the queue up.
        """
        ready: Deferred[None] = Deferred(lambda _: self._remove(waiter))
        waiter = _Waiter(host, ready)
        self.waited += 1
        if self.waiting >= self._max_waiting:
            self.refused += 1
            text = f"all {self.limit} connections to S3 are in use, and {self.waiting} requests wait for one"
            ready.errback(UpstreamBusy(text))
            return ready
        waiter.limit = self._clock.callLater(self._patience, self._overdue, waiter)
        self.waiting += 1
        self._queues.setdefault(host, deque()).append(waiter)
        return ready

    def leave(self) -> None:
        """A slot that was taken is free: the next one in the queue has it."""
        if not self._queues:
            self.in_use -= 1
            return
        host, queue = self._queues.popitem(last=False)
        waiter = queue.popleft()
        if queue:
            # It is the other hosts' turn.
            self._queues[host] = queue
        self._gone(waiter)
        waiter.ready.callback(None)

    def _overdue(self, waiter: _Waiter) -> None:
        waiter.limit = None
        self._remove(waiter)
        self.refused += 1
        text = f"all {self.limit} connections to S3 have been in use for {self._patience:g} s"
        waiter.ready.errback(UpstreamBusy(text))

    def _remove(self, waiter: _Waiter) -> None:
        queue = self._queues[waiter.host]
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.host]
        self._gone(waiter)

    def _gone(self, waiter: _Waiter) -> None:
        self.waiting -= 1
        limit, waiter.limit = waiter.limit, None
        if limit is not None:
            limit.cancel()
