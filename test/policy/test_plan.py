"""Which bytes to ask S3 for."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.policy.plan import at_most, missing_spans
from s3proxy.util.intervals import Interval, merge

MIB = 1 << 20
INTERVALS = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


class MissingSpansTests(SynchronousTestCase):
    """:func:`missing_spans`."""

    def test_near_gaps_are_joined(self) -> None:
        """Missing 10–11, 11.1–12 and 20–21 MiB with a threshold of 1 MiB: two requests."""
        held = ((11 * MIB, 11 * MIB + MIB // 10), (12 * MIB, 20 * MIB))
        self.assertEqual(
            missing_spans((10 * MIB, 21 * MIB), held, MIB), ((10 * MIB, 12 * MIB), (20 * MIB, 21 * MIB))
        )

    def test_threshold_is_included(self) -> None:
        """As many bytes as the threshold are still asked for once more; one more are not. 0 joins nothing."""
        self.assertEqual(missing_spans((0, 30), [(10, 20)], 10), ((0, 30),))
        self.assertEqual(missing_spans((0, 30), [(10, 20)], 9), ((0, 10), (20, 30)))
        self.assertEqual(missing_spans((0, 30), [(10, 11)], 0), ((0, 10), (11, 30)))

    @given(INTERVALS, st.lists(INTERVALS), st.integers(0, 10))
    def test_every_missing_byte_and_no_request_too_many(
        self, wanted: Interval, held: list[Interval], merge_gap: int
    ) -> None:
        """All that is missing is in some span; spans begin and end with a missing byte, are in order and far enough
        apart.
        """
        spans = missing_spans(wanted, held, merge_gap)
        missing = set(range(*wanted)) - {offset for interval in held for offset in range(*interval)}
        asked = {offset for span in spans for offset in range(*span)}
        self.assertLessEqual(missing, asked)
        self.assertLessEqual(asked, set(range(*wanted)))
        for start, stop in spans:
            self.assertLessEqual({start, stop - 1}, missing)
        for (_, stop), (start, _) in zip(spans, spans[1:]):
            self.assertGreater(start - stop, merge_gap)


class AtMostTests(SynchronousTestCase):
    """:func:`at_most`."""

    def test_nearest_become_one(self) -> None:
        """The widest gaps stay, in order; of equally wide ones the first."""
        spans = ((0, 10), (11, 20), (50, 60), (70, 80))
        self.assertEqual(at_most(4, spans), spans)
        self.assertEqual(at_most(3, spans), ((0, 20), (50, 60), (70, 80)))
        self.assertEqual(at_most(2, spans), ((0, 20), (50, 80)))
        self.assertEqual(at_most(1, spans), ((0, 80),))
        self.assertEqual(at_most(2, ((0, 1), (2, 3), (4, 5))), ((0, 1), (2, 5)))

    @given(st.integers(1, 5), st.lists(INTERVALS))
    def test_all_bytes(self, most: int, intervals: list[Interval]) -> None:
        """Few enough, and no byte is lost."""
        spans = merge(intervals)
        fewer = at_most(most, spans)
        self.assertEqual(len(fewer), min(most, len(spans)))
        for start, stop in spans:
            self.assertTrue(any(first <= start and stop <= last for first, last in fewer))
