"""Who may download next when downloads have a common limit: a token bucket, shared by deficit round robin.

The bucket fills at the limit's rate and holds what comes in :data:`BURST` seconds. Who downloads pays afterwards: a
flow may read while it has credit, and what it received is taken off, so that credit may become debt by as much as one
read of the socket brings. A flow without credit asks for more and waits its turn (Shreedhar and Varghese, "Efficient
Fair Queuing using Deficit Round Robin", 1995): the shares take turns, each gets a quantum per turn, and gives it to
its flows in the order in which they asked. So shares that want more than there is get the same number of bytes,
however many flows they have, and whatever the size of these. A share that comes back has, up to a bound, the turns that
it missed: with its only flow reading what it was given, it was not there for a moment, and lost nothing by that.

No clock and no input or output here: time is an argument, in seconds.
"""

from collections import deque
from typing import Final

__all__ = ["BURST", "Flow", "MOST_WAIT", "Scheduler", "TICK"]

BURST: Final = 0.2
"""Seconds of the limit that may be used at once after a pause."""
TICK: Final = 0.02
"""Least seconds between two looks at those who wait: the timers of all downloads together."""
MOST_WAIT: Final = 10.0
"""Seconds after which a flow gets its quantum, although it is not its turn: clients and S3 give up at some time."""
_MISSED: Final = 0.1
"""Seconds for which a share that left is not forgotten, and of the limit that its missed turns are worth at most."""
_SMALLEST_QUANTUM: Final = 16 * 1024
_LARGEST_QUANTUM: Final = 256 * 1024


class Flow:
    """One download.

    :ivar share: in whose name
    :ivar credit: bytes that it may still receive; below zero, what it received too much
    :ivar left: bytes that are to come; None: nobody knows
    :ivar waiting_since: when it asked for credit that it has not got; None: it does not wait
    """

    __slots__ = ("closed", "credit", "left", "share", "waiting_since")

    def __init__(self, share: str, left: int | None) -> None:
        self.share = share
        self.credit = 0
        self.left = left
        self.waiting_since: float | None = None
        self.closed = False


class _Share:
    """Those of one share who wait."""

    __slots__ = ("deficit", "flows", "has_turn", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.deficit = 0
        self.has_turn = False
        self.flows: deque[Flow] = deque()


class Scheduler:
    """See the module.

    :param rate: bytes per second; 0: no limit
    :param most_shares: how many shares have their bytes counted; those of all others are ``residual``
    :ivar bytes: of each share
    :ivar failed_open: how often somebody had waited too long
    """

    def __init__(self, rate: float, now: float, most_shares: int = 1024) -> None:
        self._rate = rate
        self._at = now
        self._tokens = rate * BURST
        self._most_shares = max(1, most_shares)
        self._turns: deque[_Share] = deque()
        self._shares: dict[str, _Share] = {}
        self._open: dict[str, int] = {}
        self._served = 0.0
        self._left: dict[str, tuple[float, float]] = {}
        self.bytes: dict[str, int] = {}
        self.residual = 0
        self.failed_open = 0

    @property
    def rate(self) -> float:
        """Bytes per second; 0: no limit."""
        return self._rate

    @property
    def waiting(self) -> int:
        """Flows that wait for credit."""
        return sum(len(share.flows) for share in self._turns)

    @property
    def _quantum(self) -> int:
        return int(min(max(self._rate * TICK / 4, _SMALLEST_QUANTUM), _LARGEST_QUANTUM))

    def set_rate(self, rate: float, now: float) -> None:
        """Another limit from now on."""
        self._refill(now)
        if not self._rate:
            self._tokens = rate * BURST
        self._rate = rate
        self._tokens = min(self._tokens, rate * BURST)

    def open(self, share: str, length: int | None) -> Flow:
        """A download begins, without credit.

        :param length: its bytes, if known
        """
        self._open[share] = self._open.get(share, 0) + 1
        return Flow(share, length)

    def received(self, flow: Flow, size: int) -> None:
        """So many bytes came."""
        if self._rate:
            flow.credit -= size
        if flow.left is not None:
            flow.left = max(0, flow.left - size)
        if flow.share in self.bytes:
            self.bytes[flow.share] += size
        elif len(self.bytes) < self._most_shares:
            self.bytes[flow.share] = size
        else:
            self.residual += size

    def ask(self, flow: Flow, now: float) -> bool:
        """Whether the flow may receive more; if not, :meth:`grant` will name it."""
        if not self._rate or flow.credit > 0:
            return True
        if flow.waiting_since is not None:
            return False
        flow.waiting_since = now
        share = self._shares.get(flow.share)
        if share is None:
            share = self._shares[flow.share] = _Share(flow.share)
            share.deficit = self._missed(flow.share, now)
            if share.deficit > self._quantum:
                self._turns.appendleft(share)
            else:
                self._turns.append(share)
        share.flows.append(flow)
        if len(self._turns) == 1 and len(share.flows) == 1:
            # Nobody else waits.
            return flow in self.grant(now)
        return False

    def close(self, flow: Flow, now: float) -> None:
        """A download is over: what it was given and has not received goes back, what it owes is paid."""
        if flow.closed:
            return
        flow.closed = True
        self._open[flow.share] -= 1
        if not self._open[flow.share]:
            del self._open[flow.share]
        self._refill(now)
        self._tokens += flow.credit
        if flow.waiting_since is not None:
            share = self._shares[flow.share]
            share.flows.remove(flow)
            flow.waiting_since = None
            if not share.flows:
                self._forget(share)

    def grant(self, now: float) -> list[Flow]:
        """Those who waited and may receive again."""
        self._refill(now)
        granted: list[Flow] = []
        if not self._rate:
            for share in self._turns:
                granted.extend(share.flows)
            self._turns.clear()
            self._shares.clear()
        while self._turns and self._tokens > 0:
            share = self._turns[0]
            if not share.has_turn:
                share.has_turn = True
                share.deficit += self._quantum
            flow = share.flows[0]
            given = self._pay(flow, share.deficit)
            share.deficit -= given
            self._served += given / len(self._turns)
            if flow.credit > 0:
                granted.append(share.flows.popleft())
            if not share.flows:
                self._forget(share)
                self._left[share.name] = self._served - share.deficit, now
            elif share.deficit <= 0:
                share.has_turn = False
                self._turns.rotate(-1)
        if self._turns:
            granted.extend(self._overdue(now))
        for flow in granted:
            flow.waiting_since = None
        return granted

    def due(self, now: float) -> float | None:
        """Seconds until :meth:`grant` is worth a call; None: nobody waits."""
        if not self._turns:
            return None
        if not self._rate:
            return 0.0
        oldest = min(share.flows[0].waiting_since or now for share in self._turns)
        return max(TICK, min(-self._tokens / self._rate, oldest + MOST_WAIT - now))

    def _pay(self, flow: Flow, most: int) -> int:
        """Give credit, at most so much, to a flow. How much it was."""
        # A download that has no companions takes all that is its share's.
        wanted = max(self._quantum, most // self._open.get(flow.share, 1))
        if flow.left is not None:
            wanted = min(wanted, max(flow.left, 1))
        given = min(most, wanted - flow.credit)
        flow.credit += given
        self._tokens -= given
        return given

    def _overdue(self, now: float) -> list[Flow]:
        """Those who have waited too long get something all the same, as far as the bucket's debt stays bearable."""
        found: list[Flow] = []
        for share in list(self._turns):
            while share.flows and now - (share.flows[0].waiting_since or now) >= MOST_WAIT:
                flow = share.flows.popleft()
                self._pay(flow, self._quantum - min(flow.credit, 0))
                found.append(flow)
                self.failed_open += 1
            if not share.flows:
                self._forget(share)
        self._tokens = max(self._tokens, -max(self._rate, self._quantum))
        return found

    def _missed(self, name: str, now: float) -> int:
        """What a share that comes, or comes back, would have been given meanwhile."""
        if len(self._left) > self._most_shares:
            self._left = {key: left for key, left in self._left.items() if now - left[1] < _MISSED}
        served, at = self._left.pop(name, (0.0, -_MISSED))
        return int(min(self._served - served, self._rate * _MISSED)) if now - at < _MISSED else 0

    def _forget(self, share: _Share) -> None:
        """A share for which nobody waits has no turn, and keeps nothing of one."""
        del self._shares[share.name]
        self._turns.remove(share)

    def _refill(self, now: float) -> None:
        self._tokens = min(self._rate * BURST, self._tokens + self._rate * max(0.0, now - self._at))
        self._at = now
