"""Half-open intervals of bytes, ``(start, stop)``: union, coverage, gaps. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate

__all__ = ["Interval", "IntervalIndex", "gaps", "merge", "total"]

Interval = tuple[int, int]


def merge(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The union as sorted intervals that neither overlap nor touch. Empty ones vanish."""
    merged: list[Interval] = []
    for start, stop in sorted(intervals):
        if start >= stop:
            continue
        if merged and start <= merged[-1][1]:
            if stop > merged[-1][1]:
                merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return tuple(merged)


def gaps(wanted: Interval, held: Iterable[Interval]) -> tuple[Interval, ...]:
    """The parts of ``wanted`` that no interval of ``held`` covers, in order."""
    position, stop = wanted
    missing: list[Interval] = []
    for held_start, held_stop in merge(held):
        if held_stop <= position:
            continue
        if held_start >= stop:
            break
        if held_start > position:
            missing.append((position, held_start))
        position = held_stop
        if position >= stop:
            break
    if position < stop:
        missing.append((position, stop))
    return tuple(missing)


def total(intervals: Iterable[Interval]) -> int:
    """How many bytes the union covers."""
    return sum(stop - start for start, stop in merge(intervals))


def _start(interval: Interval) -> int:
    return interval[0]


def _stop(interval: Interval) -> int:
    return interval[1]


def _further(best: Interval, other: Interval) -> Interval:
    return other if other[1] > best[1] else best


class IntervalIndex:
    """Many intervals, to be asked about a few bytes at a time without looking at all of them."""

    __slots__ = ("_furthest", "_sorted")

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._sorted = sorted(intervals)
        # Up to each of them, the one that reaches furthest: their ends are sorted, too.
        self._furthest = list(accumulate(self._sorted, _further))

    @property
    def all(self) -> tuple[Interval, ...]:
        """All of them, sorted."""
        return tuple(self._sorted)

    def add(self, interval: Interval) -> None:
        """One more; nothing happens if it is there."""
        place = bisect_left(self._sorted, interval)
        if self._sorted[place : place + 1] == [interval]:
            return
        self._sorted.insert(place, interval)
        best = _further(self._furthest[place - 1], interval) if place else interval
        self._furthest.insert(place, best)
        for behind in range(place + 1, len(self._furthest)):
            if self._furthest[behind][1] >= best[1]:
                break
            self._furthest[behind] = best

    def at(self, position: int) -> Interval | None:
        """Of those that have this byte, the one that reaches furthest."""
        place = bisect_right(self._sorted, position, key=_start)
        best = self._furthest[place - 1] if place else None
        return None if best is None or best[1] <= position else best

    def within(self, wanted: Interval) -> tuple[Interval, ...]:
        """Those that have some of these bytes, sorted."""
        first = bisect_right(self._furthest, wanted[0], key=_stop)
        behind = bisect_left(self._sorted, wanted[1], key=_start)
        return tuple(each for each in self._sorted[first:behind] if each[1] > wanted[0])
