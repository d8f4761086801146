"""Which bytes to ask S3 for, when some of those that a client wants are at hand. Pure."""

from collections.abc import Iterable

from s3proxy.util.intervals import Interval, gaps

__all__ = ["missing_spans"]


def missing_spans(wanted: Interval, available: Iterable[Interval], merge_gap: int) -> tuple[Interval, ...]:
    """The spans to ask for, in order: every byte of ``wanted`` that is not ``available`` is in one of them.

    :param available: what is in the cache or on its way into it
    :param merge_gap: spans with at most so many bytes between them become one: those bytes once more cost less than a
        request
    """
    spans: list[Interval] = []
    for start, stop in gaps(wanted, available):
        if spans and start - spans[-1][1] <= merge_gap:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return tuple(spans)
