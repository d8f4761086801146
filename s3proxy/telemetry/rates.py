"""Ratios, rates and distributions over the whole life and over the last minutes, at the price of a few additions."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

__all__ = ["RecentCounts", "WindowedRatio"]


_QUIET = 2.0
"""Seconds without a sample after which a window may begin in between."""


class WindowedRatio:
    """*part* of *whole*, in total and over a sliding window that moves in small steps.

    Whoever counts adds to :attr:`part` and :attr:`whole` directly, having called :meth:`roll` if :attr:`next_roll` is
    past.

    :param window: seconds
    :param step: seconds between two samples; the window is exact to one step
    """

    __slots__ = ("part", "whole", "_window", "_step", "_samples", "next_roll")

    def __init__(self, now: float, window: float = 300.0, step: float = 10.0) -> None:
        self.part: float = 0
        self.whole: float = 0
        self._window = window
        self._step = step
        self._samples: deque[tuple[float, float, float]] = deque([(now, 0, 0)])
        self.next_roll = now + step

    def roll(self, now: float) -> None:
        """Take a sample if one is due, and forget samples that no window needs."""
        if now >= self.next_roll:
            # Nothing was added since the sample was due: whoever adds rolls first.
            self._samples.append((self.next_roll, self.part, self.whole))
            self.next_roll = now + self._step
        while len(self._samples) > 1 and self._samples[1][0] <= now - self._window:
            self._samples.popleft()

    def total(self) -> float:
        """Since the beginning; 0 before the first event."""
        return self.part / self.whole if self.whole else 0.0

    def recent_counts(self, now: float) -> tuple[float, float]:
        """Part and whole over the window that ends now."""
        self.roll(now)
        _, part, whole = self._samples[0]
        return self.part - part, self.whole - whole

    def recent(self, now: float) -> float:
        """Over the window that ends now; 0 without an event in it."""
        part, whole = self.recent_counts(now)
        return part / whole if whole > 0 else 0.0


class RecentCounts:
    """Lists of numbers that only grow, and by how much they grew during the last seconds.

    :param now: the present on a clock that never goes back
    :param read: gives the numbers as they are, by name; it is called when a sample is due
    :param window: seconds
    """

    def __init__(
        self, now: float, read: Callable[[], Mapping[str, Sequence[float]]], window: float = 300.0
    ) -> None:  # fmt: skip
        self._read = read
        self._window = window
        self._samples: deque[tuple[float, Mapping[str, Sequence[float]]]] = deque([(now, read())])

    def roll(self, at: float, now: float) -> None:
        """Take a sample of what was at this time and still is, and forget samples that no window needs."""
        numbers = self._read()
        self._samples.append((at, numbers))
        if now - at > _QUIET:
            self._samples.append((now, numbers))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while len(self._samples) > 1 and self._samples[1][0] <= now - self._window:
            self._samples.popleft()

    def recent(self, now: float) -> tuple[float, dict[str, list[float]]]:
        """The seconds that the window has, and by how much each number grew in them."""
        self._forget(now)
        since, before = self._samples[0]
        if len(self._samples) > 1 and self._samples[1][1] is before:
            # Nothing happened in between.
            since = max(since, min(now - self._window, self._samples[1][0]))
        grown: dict[str, list[float]] = {}
        for name, numbers in self._read().items():
            earlier = before.get(name)
            grown[name] = list(numbers if earlier is None else (a - b for a, b in zip(numbers, earlier)))
        return now - since, grown
