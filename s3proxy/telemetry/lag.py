"""How late the event loop is: the time by which a timer that does nothing is late."""

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["LagSampler"]


class LagSampler:
    """Sets a timer again and again and measures when it goes off.

    :param clock: runs the timer
    :param observe: is given every measurement, in seconds; for example :meth:`Metrics.observe_lag`
    :param interval: seconds between two timers
    :param seconds: what to measure with; by default the clock, which steps when the machine's time is set
    :param keep: how many measurements :meth:`worst` and :meth:`percentile` look at
    """

    def __init__(
        self,
        clock: IReactorTime,
        observe: Callable[[float], object],
        interval: float = 0.25,
        seconds: Callable[[], float] | None = None,
        keep: int = 240,
    ) -> None:
        self._clock = clock
        self._observe = observe
        self._interval = interval
        self._seconds = seconds or clock.seconds
        self._recent: deque[float] = deque(maxlen=keep)
        self._due = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Begin; does nothing when it has begun."""
        if self._timer is None:
            self._schedule()

    def stop(self) -> None:
        """End; does nothing when it has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def current(self) -> float:
        """By how much the last timer was late, or the next one is already; seconds."""
        waiting = self._seconds() - self._due if self._timer is not None else 0.0
        return max(waiting, self._recent[-1] if self._recent else 0.0, 0.0)

    def worst(self) -> float:
        """The longest of the recent measurements; 0 without any."""
        return max(self._recent, default=0.0)

    def percentile(self, share: float) -> float:
        """The recent measurement that this share (0 to 1) of all does not exceed; 0 without any."""
        if not self._recent:
            return 0.0
        ordered = sorted(self._recent)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def _schedule(self) -> None:
        self._due = self._seconds() + self._interval
        self._timer = self._clock.callLater(self._interval, self._tick)

    def _tick(self) -> None:
        lag = max(0.0, self._seconds() - self._due)
        self._recent.append(lag)
        self._schedule()
        self._observe(lag)
