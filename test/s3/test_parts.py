"""What S3's answers tell about the parts of objects."""

import json
import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.headers import Headers
from s3proxy.s3.parts import (
    MOST_CHECKSUM_BYTES,
    MOST_CHECKSUMS,
    MOST_PARTS,
    PartMap,
    PartNumber,
    Run,
    parts_count,
    resolve_wanted,
)
from s3proxy.s3.ranges import From, FromTo, Suffix
from s3proxy.util.intervals import Interval

CRC = (b"x-amz-checksum-crc32", b"AAAAAA==")
TYPE = (b"x-amz-checksum-type", b"COMPOSITE")


def fact(number: int, start: int, stop: int, count: int | None = 3, *checksums: tuple[bytes, bytes]) -> PartMap:
    """What one answer tells."""
    fields = [(b"ETag", b'"e-3"'), *checksums]
    if count is not None:
        fields.append((b"X-Amz-Mp-Parts-Count", b"%d" % count))
    return PartMap.of_answer(number, (start, stop), Headers(fields), checksums_asked=bool(checksums))


def layout(sizes: list[int], numbers: list[int] | None = None) -> dict[int, Interval]:
    """Where parts of these sizes are; numbers that are left out leave no gap."""
    found, offset = {}, 0
    for number, size in zip(numbers or range(1, len(sizes) + 1), sizes):
        found[number] = (offset, offset + size)
        offset += size
    return found


def learned(parts: dict[int, Interval], order: list[int]) -> PartMap:
    """A map that came about in this order."""
    known = None
    for number in order:
        one = fact(number, *parts[number], len(parts))
        known = one if known is None else known.merged(one)
    assert known is not None
    return known


sizes = st.lists(st.sampled_from([1, 5, 5, 5, 7, 1 << 40]), min_size=1, max_size=30)


class MapTests(SynchronousTestCase):
    """Which bytes a part is."""

    def test_rg21_parts_of_different_sizes(self) -> None:
        """Parts of 5, 7 and 1 MiB are where S3 said they are, and what is not known is not guessed."""
        mib = 1 << 20
        known = fact(1, 0, 5 * mib).merged(fact(3, 12 * mib, 13 * mib))
        self.assertEqual(known.interval(1), (0, 5 * mib))
        self.assertIsNone(known.interval(2))
        self.assertEqual(known.interval(3), (12 * mib, 13 * mib))
        self.assertEqual(known.merged(fact(2, 5 * mib, 12 * mib)).interval(2), (5 * mib, 12 * mib))
        for number in (0, 4, MOST_PARTS):
            self.assertIsNone(known.interval(number))

    @given(sizes, st.randoms(use_true_random=False), st.integers(0, 30))
    def test_any_order(self, sizes: list[int], order: random.Random, left_out: int) -> None:
        """In whatever order the parts become known, those that are known are exact and all others unknown."""
        parts = layout(sizes)
        numbers = list(parts)
        order.shuffle(numbers)
        asked = numbers[: max(1, len(numbers) - left_out)]
        known = learned(parts, asked)
        for number in range(len(sizes) + 2):
            self.assertEqual(known.interval(number), parts[number] if number in asked else None)

    @given(sizes, st.randoms(use_true_random=False))
    def test_two_maps(self, sizes: list[int], order: random.Random) -> None:
        """Two maps of one version become one that knows what either knows, whichever is the newer one."""
        parts = layout(sizes)
        numbers = list(parts)
        some = [number for number in numbers if order.random() < 0.5] or numbers[:1]
        more = [number for number in numbers if order.random() < 0.5] or numbers[-1:]
        one, other = learned(parts, some), learned(parts, more)
        both = one.merged(other)
        self.assertEqual(both, other.merged(one))
        for number in numbers:
            expected = parts[number] if number in some or number in more else None
            self.assertEqual(both.interval(number), expected)

    @given(st.integers(1, 500), st.randoms(use_true_random=False))
    def test_parts_of_one_size_are_two_runs(self, count: int, order: random.Random) -> None:
        """The map of an ordinary upload stays small: the last part alone may have another size."""
        parts = layout([8] * count + [3])
        numbers = list(parts)
        order.shuffle(numbers)
        self.assertEqual(learned(parts, numbers).runs, (Run(1, 0, 8, count), Run(count + 1, 8 * count, 3, 1)))

    def test_numbers_with_gaps(self) -> None:
        """Numbers need not follow each other; those between are simply not known."""
        parts = layout([5, 6, 5], [2, 7, 10_000])
        known = learned(parts, [10_000, 2, 7])
        self.assertEqual([known.interval(number) for number in (2, 7, 10_000)], list(parts.values()))
        self.assertEqual([known.interval(number) for number in (1, 3, 9_999)], [None] * 3)

    def test_contradictions(self) -> None:
        """An answer that does not fit to what was known counts alone."""
        known = fact(1, 0, 5).merged(fact(2, 5, 10)).merged(fact(5, 20, 25))
        for newer in (
            fact(1, 0, 6),  # another size
            fact(2, 6, 11),  # another place
            fact(3, 11, 16),  # a gap between neighbours
            fact(3, 9, 14),  # over another part
            fact(4, 19, 25),  # over a later one
            fact(6, 26, 30),  # a gap again
            fact(7, 24, 30),
            fact(3, 10, 15, 4),  # another count
            fact(3, 10, 15, None),
        ):
            self.assertEqual(known.merged(newer), newer)

    def test_known_already(self) -> None:
        """The same answer once more changes nothing."""
        known = fact(1, 0, 5, 3, CRC).merged(fact(2, 5, 10, 3, CRC))
        self.assertEqual(known.merged(fact(2, 5, 10, 3)), known)
        self.assertEqual(known.merged(fact(2, 5, 10, 3, CRC)), known)
        self.assertEqual(known.merged(known), known)


class ChecksumTests(SynchronousTestCase):
    """Checksums of parts."""

    def test_only_of_parts_that_were_asked_about(self) -> None:
        """A part whose checksums were not asked for is not one without checksums."""
        asked = PartMap.of_answer(2, (5, 10), Headers([(b"ETag", b'"e"')]), checksums_asked=True)
        known = fact(1, 0, 5, None, CRC, TYPE).merged(asked).merged(fact(3, 10, 15, None))
        self.assertEqual(known.checksums_of(1), (CRC, TYPE))
        self.assertEqual(known.checksums_of(2), ())
        self.assertIsNone(known.checksums_of(3))
        self.assertIsNone(known.checksums_of(4))

    def test_unasked_ones_are_not_kept(self) -> None:
        """A store that sends checksums to those who do not ask tells nothing about those who do."""
        told = PartMap.of_answer(1, (0, 5), Headers([CRC]), checksums_asked=False)
        self.assertIsNone(told.checksums_of(1))

    def test_newer_ones_replace(self) -> None:
        """The latest answer about a part counts."""
        known = fact(1, 0, 5, 3, CRC).merged(fact(1, 0, 5, 3, TYPE))
        self.assertEqual(known.checksums_of(1), (TYPE,))

    def test_bounded(self) -> None:
        """However many parts there are, and however long what S3 states, the map stays small."""
        long = (b"x-amz-checksum-sha512", b"A" * 88)
        known = PartMap(count=None)
        for number in range(MOST_CHECKSUMS + 10, 0, -1):
            known = known.merged(fact(number, number * 8, number * 8 + 8, None, long, TYPE))
        self.assertEqual(known.checksums_of(MOST_CHECKSUMS), (long, TYPE))
        self.assertIsNone(known.checksums_of(10))
        self.assertEqual(known.interval(10), (80, 88))
        self.assertEqual(known.merged(fact(11, 88, 96, None, CRC)).checksums_of(11), (CRC,))
        self.assertLess(len(json.dumps(known.document())), 500 * 1024)
        self.assertEqual(fact(1, 0, 8, None, (b"x-amz-checksum-sha512", b"A" * MOST_CHECKSUM_BYTES)).checksums, ())


class DocumentTests(SynchronousTestCase):
    """The stored form."""

    @given(sizes, st.randoms(use_true_random=False), st.booleans())
    def test_nothing_is_lost(self, sizes: list[int], order: random.Random, counted: bool) -> None:
        """What was written is read again."""
        known = PartMap(count=len(sizes) if counted else None)
        for number, interval in layout(sizes).items():
            stated = order.choice([(), (CRC,), (CRC, TYPE), (TYPE, CRC)])
            if order.random() < 0.7:
                known = known.merged(fact(number, *interval, known.count, *stated))
        self.assertEqual(PartMap.from_document(json.loads(json.dumps(known.document()))), known)

    def test_most_parts(self) -> None:
        """The most parts that there can be, no two neighbours of one size, take 200 KiB."""
        parts = layout([5 * (1 << 20) + number % 2 for number in range(MOST_PARTS)])
        known = PartMap(
            count=MOST_PARTS, runs=tuple(Run(number, start, stop - start, 1) for number, (start, stop) in parts.items())
        )
        text = json.dumps(known.document(), separators=(",", ":"))
        self.assertLess(len(text), 200 * 1024)
        self.assertEqual(PartMap.from_document(json.loads(text)), known)

    def test_damaged(self) -> None:
        """What is no map of parts is refused."""
        good = fact(1, 0, 5, 3, CRC).merged(fact(2, 5, 11)).document()
        PartMap.from_document(good)
        for name, value in (
            ("count", 0),
            ("count", "3"),
            ("count", True),
            ("count", MOST_PARTS + 1),
            ("runs", None),
            ("runs", [0, 0, 5]),
            ("runs", [0, 0, 5, 0]),
            ("runs", [0, 0, 0, 1]),
            ("runs", [0, 0, -5, 1]),
            ("runs", [-1, 0, 5, 1]),
            ("runs", [0, -1, 5, 1]),
            ("runs", [0, 0, 5, MOST_PARTS + 1]),
            ("runs", [0.5, 0, 5, 1]),
            ("runs", "abcd"),
            ("names", []),
            ("names", [["a", "b"]]),
            ("names", [[1]]),
            ("names", None),
            ("checksums", [[1, 1, "x"]]),
            ("checksums", [[0, 0, "x"]]),
            ("checksums", [[1, -1, "x"]]),
            ("checksums", [[MOST_PARTS + 1, 0, "x"]]),
            ("checksums", [[1, 0, 5]]),
            ("checksums", [[1]]),
            ("checksums", [[1, 0, "\u20ac"]]),
        ):
            with self.assertRaises((ValueError, TypeError, LookupError, AttributeError), msg=(name, value)):
                PartMap.from_document({**good, name: value})
        for other in (None, [], 5, {}, {"count": None}):
            with self.assertRaises((ValueError, TypeError, LookupError, AttributeError)):
                PartMap.from_document(other)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-2, 12) | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["count", "runs", "names", "checksums"]), inner),
            max_leaves=20,
        )
    )
    def test_any_document(self, document: object) -> None:
        """A map, or one of the errors that are announced."""
        try:
            self.assertIsInstance(PartMap.from_document(document), PartMap)
        except (ValueError, TypeError, LookupError, AttributeError):
            pass


class CountTests(SynchronousTestCase):
    """x-amz-mp-parts-count."""

    def test_values(self) -> None:
        """A count is a number of parts; anything else is none."""
        for value, expected in (
            (b"1", 1),
            (b"10000", 10_000),
            (b"0", None),
            (b"10001", None),
            (b"-1", None),
            (b"", None),
            (b"x", None),
            (b"\xb2", None),
            (b"9" * 5000, None),
        ):
            self.assertEqual(parts_count(Headers([(b"x-amz-mp-parts-count", value)])), expected, value)
        self.assertIsNone(parts_count(Headers()))


class WantedTests(SynchronousTestCase):
    """Which bytes a request asks for."""

    def test_wanted(self) -> None:
        """All, a range, or a part that is known."""
        parts = fact(2, 5, 9)
        for wanted, expected in (
            (None, (0, 10)),
            (FromTo(2, 3), (2, 4)),
            (From(7), (7, 10)),
            (Suffix(3), (7, 10)),
            (From(10), None),
            (PartNumber(2), (5, 9)),
            (PartNumber(1), None),
        ):
            self.assertEqual(resolve_wanted(wanted, 10, parts), expected)
        self.assertIsNone(resolve_wanted(PartNumber(2), 10, None))
