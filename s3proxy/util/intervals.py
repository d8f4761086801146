"""Half-open intervals of bytes, ``(start, stop)``: union, coverage, gaps. Pure."""

from collections.abc import Iterable

__all__ = ["Interval", "gaps", "merge", "total"]

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
