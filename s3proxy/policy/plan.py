"""Which bytes to ask S3 for, when some of those that a client wants are at hand. Pure."""

from collections.abc import Iterable, Sequence

from s3proxy.util.intervals import Interval, gaps

__all__ = ["at_most", "missing_spans"]


def missing_spans(wanted: Interval, available: Iterable[Interval], merge_gap: int) -> tuple[Interval, ...]:
    """The spans to ask for, in order: every byte of ``wanted`` that is not ``available`` is in one of them.

    :param available: what is in the cache or on its way into it
    :param merge_gap: spans with at most so many bytes between them become one: those bytes once more cost less than a
        request
    """
    joined: list[Interval] = []
    for start, stop in gaps(wanted, available):
        if joined and start - joined[-1][1] <= merge_gap:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


def at_most(most: int, spans: Sequence[Interval]) -> tuple[Interval, ...]:
    """At most so many spans, 1 or more, that hold the bytes of these and as few others as possible: the nearest ones
    become one.
    """
    if len(spans) <= most:
        return tuple(spans)
    # The widest gaps stay; of equally wide ones the first.
    widths = [start - stop for (_, stop), (start, _) in zip(spans, spans[1:])]
    kept = sorted(sorted(range(len(widths)), key=lambda number: -widths[number])[: most - 1])
    firsts = [0, *(number + 1 for number in kept)]
    lasts = [*kept, len(spans) - 1]
    return tuple((spans[first][0], spans[last][1]) for first, last in zip(firsts, lasts))
