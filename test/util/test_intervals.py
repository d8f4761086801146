"""Intervals of bytes."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.util.intervals import Interval, IntervalIndex, gaps, merge, total

INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def _bytes(intervals: "list[Interval] | tuple[Interval, ...]") -> set[int]:
    return {offset for start, stop in intervals for offset in range(start, stop)}


class IntervalTests(SynchronousTestCase):
    """Compared with sets of offsets."""

    @given(INTERVALS)
    def test_merge(self, intervals: list[Interval]) -> None:
        """The same bytes, in order, apart from each other, and none of them empty."""
        merged = merge(intervals)
        self.assertEqual(_bytes(merged), _bytes(intervals))
        self.assertTrue(all(start < stop for start, stop in merged))
        self.assertTrue(all(first[1] < second[0] for first, second in zip(merged, merged[1:])))

    @given(st.tuples(st.integers(0, 30), st.integers(0, 30)), INTERVALS)
    def test_gaps(self, wanted: Interval, held: list[Interval]) -> None:
        """Exactly the bytes that are wanted and not held."""
        missing = gaps(wanted, held)
        self.assertEqual(_bytes(missing), _bytes([wanted]) - _bytes(held))
        self.assertTrue(all(start < stop for start, stop in missing))
        self.assertEqual(missing, merge(missing))

    @given(INTERVALS)
    def test_total(self, intervals: list[Interval]) -> None:
        """Each byte once."""
        self.assertEqual(total(intervals), len(_bytes(intervals)))

    def test_examples(self) -> None:
        """What touches is joined; what is contained vanishes."""
        self.assertEqual(merge([(5, 9), (0, 5), (1, 2), (12, 12)]), ((0, 9),))
        self.assertEqual(gaps((0, 10), [(2, 4), (6, 20)]), ((0, 2), (4, 6)))
        self.assertEqual(gaps((5, 5), []), ())
        self.assertEqual(gaps((0, 10), []), ((0, 10),))


NOT_EMPTY = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=8
)


class IndexTests(SynchronousTestCase):
    """IntervalIndex, compared with looking at all of them."""

    @given(NOT_EMPTY, NOT_EMPTY, st.integers(0, 40), st.integers(0, 9))
    def test_answers(self, first: list[Interval], more: list[Interval], position: int, length: int) -> None:
        """Built at once or one by one, it finds the same as a search through all of them."""
        index = IntervalIndex(set(first))
        for each in more:
            index.add(each)
        everything = sorted({*first, *more})
        self.assertEqual(index.all, tuple(everything))
        reach = [stop for start, stop in everything if start <= position < stop]
        found = index.at(position)
        self.assertEqual(None if found is None else found[1], max(reach, default=None))
        self.assertTrue(found is None or found in everything)
        wanted = (position, position + length)
        among = tuple(each for each in everything if each[0] < wanted[1] and each[1] > wanted[0])
        self.assertEqual(index.within(wanted), among)

    def test_nothing(self) -> None:
        """An empty one."""
        index = IntervalIndex()
        self.assertEqual((index.all, index.at(0), index.within((0, 9))), ((), None, ()))
