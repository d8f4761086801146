"""A ratio over the whole life and over the last minutes, at the price of two additions per event."""

from collections import deque

__all__ = ["WindowedRatio"]


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

    def recent(self, now: float) -> float:
        """Over the window that ends now; 0 without an event in it."""
        self.roll(now)
        _, part, whole = self._samples[0]
        return (self.part - part) / (self.whole - whole) if self.whole > whole else 0.0
