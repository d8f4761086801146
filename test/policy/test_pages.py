"""Reading in whole pages."""

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import Config
from s3proxy.policy.pages import AsItIs, Widened, client_interval, pages_of, widen
from s3proxy.policy.rules import Rules
from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.ranges import ContentRange, From, FromTo, SingleRange, Suffix, resolve
from s3proxy.util.intervals import Interval
from test.s3.table import add_rows

MIB = 1 << 20
P = 16 * MIB
SIZE = 100 * MIB
OFF = Rules(Config()).resolve(ObjectAddress(store="aws", bucket=b"b", key=b"k"))
ON = attrs.evolve(OFF, page_widening=True, page_size=P)

RANGES: st.SearchStrategy[SingleRange] = st.one_of(
    st.tuples(st.integers(0, 120), st.integers(0, 120)).map(lambda two: FromTo(min(two), max(two))),
    st.integers(0, 120).map(From),
    st.integers(1, 120).map(Suffix),
)


def ask(pages: tuple[Interval, ...]) -> FromTo:
    """The range that these pages are."""
    return FromTo(pages[0][0], pages[-1][1] - 1)


class WidenTests(SynchronousTestCase):
    """What is read instead of a range."""

    def pages(self, wanted: SingleRange, size: int | None, *pages: Interval) -> None:
        """One row: the pages of a range, and that S3 is asked for them."""
        self.assertEqual(widen(ON, wanted, size, range_signed=False), Widened(ask(pages), pages))

    def as_it_is(self, wanted: SingleRange | None, size: int | None, signed: bool, why: AsItIs) -> None:
        """One row: a range that is not widened."""
        self.assertEqual(widen(ON, wanted, size, range_signed=signed), why)
        self.assertEqual(widen(OFF, wanted, size, range_signed=signed), AsItIs.OFF)

    def test_suffix_of_unknown_size(self) -> None:
        """S3 is asked for the last bytes, as many as a page has, and tells where they lie."""
        self.assertEqual(widen(ON, Suffix(100), None, range_signed=False), Widened(Suffix(P)))

    def test_size_of_pages(self) -> None:
        """It is the rule's."""
        settings = attrs.evolve(ON, page_size=1000)
        self.assertEqual(
            widen(settings, FromTo(1999, 2000), SIZE, range_signed=False),
            Widened(FromTo(1000, 2999), ((1000, 2000), (2000, 3000))),
        )

    @given(RANGES, st.integers(1, 30), st.integers(1, 100))
    def test_the_range_is_in_its_pages(self, wanted: SingleRange, page_size: int, size: int) -> None:
        """They hold every byte of it, lie side by side on the grid, within the object, and none of them is needless."""
        widened = widen(attrs.evolve(ON, page_size=page_size), wanted, size, range_signed=False)
        interval = resolve(wanted, size)
        if interval is None or interval[1] - interval[0] >= page_size:
            self.assertIsInstance(widened, AsItIs)
            return
        assert isinstance(widened, Widened)
        self.assertEqual(widened.ask, ask(widened.pages))
        self.assertLessEqual(len(widened.pages), 2)
        for number, (start, stop) in enumerate(widened.pages, start=widened.pages[0][0] // page_size):
            self.assertEqual((start, stop), (number * page_size, min((number + 1) * page_size, size)))
            self.assertTrue(start < interval[1] and interval[0] < stop)
        self.assertTrue(widened.pages[0][0] <= interval[0] and interval[1] <= widened.pages[-1][1])


add_rows(
    WidenTests,
    "V5",
    (
        (FromTo(0, 0), SIZE, (0, P)),
        (FromTo(P - 10, P + 10), SIZE, (0, P), (P, 2 * P)),
        (FromTo(P, P + 9), SIZE, (P, 2 * P)),
        (FromTo(SIZE - 1, SIZE - 1), SIZE, (6 * P, SIZE)),
        (Suffix(5 * MIB), SIZE, (5 * P, 6 * P), (6 * P, SIZE)),
        (FromTo(0, 0), 1024, (0, 1024)),
        (FromTo(1000, 2000), 1024, (0, 1024)),
        (From(17), 1024, (0, 1024)),
        (Suffix(1), 1024, (0, 1024)),
        (Suffix(5000), 1024, (0, 1024)),
    ),
    WidenTests.pages,
)
add_rows(
    WidenTests,
    "widened",
    (
        (FromTo(0, 0), None, (0, P)),
        (FromTo(SIZE - 1, SIZE - 1), None, (6 * P, 7 * P)),
        (FromTo(P - 1, P), None, (0, P), (P, 2 * P)),
        (FromTo(1, P - 1), SIZE, (0, P)),
        (FromTo(2, P), SIZE, (0, P), (P, 2 * P)),
        (From(SIZE - 10), SIZE, (6 * P, SIZE)),
        (FromTo(SIZE - 10, SIZE + P), SIZE, (6 * P, SIZE)),
        (Suffix(4 * MIB), SIZE, (6 * P, SIZE)),
        (FromTo(P, P), 2 * P, (P, 2 * P)),
    ),
    WidenTests.pages,
)
add_rows(
    WidenTests,
    "as_it_is",
    (
        (None, SIZE, False, AsItIs.NOT_SMALL),
        (FromTo(0, P - 1), SIZE, False, AsItIs.NOT_SMALL),
        (FromTo(0, P - 1), None, False, AsItIs.NOT_SMALL),
        (Suffix(P), SIZE, False, AsItIs.NOT_SMALL),
        (Suffix(P), None, False, AsItIs.NOT_SMALL),
        (From(0), SIZE, False, AsItIs.NOT_SMALL),
        (From(SIZE - 1), None, False, AsItIs.UNKNOWN),
        (FromTo(SIZE, SIZE), SIZE, False, AsItIs.UNKNOWN),
        (FromTo(0, 0), 0, False, AsItIs.UNKNOWN),
        (FromTo(0, 0), SIZE, True, AsItIs.SIGNED),
        (Suffix(1), None, True, AsItIs.SIGNED),
        (FromTo(0, P - 1), SIZE, True, AsItIs.NOT_SMALL),
        (From(0), None, True, AsItIs.UNKNOWN),
    ),
    WidenTests.as_it_is,
)


class ClientIntervalTests(SynchronousTestCase):
    """What a client gets of the answer to a widened range."""

    def check(self, wanted: SingleRange, answered: ContentRange, expected: Interval | None) -> None:
        """One row."""
        self.assertEqual(client_interval(wanted, answered), expected)

    @given(RANGES, st.integers(1, 30), st.integers(1, 100))
    def test_its_own_bytes(self, wanted: SingleRange, page_size: int, size: int) -> None:
        """An honest answer to a widened range holds what the client's own range means, whether or not the size was
        known when S3 was asked.
        """
        for known in (size, None):
            widened = widen(attrs.evolve(ON, page_size=page_size), wanted, known, range_signed=False)
            if not isinstance(widened, Widened):
                continue
            answered = resolve(widened.ask, size)
            if answered is not None:
                self.assertEqual(client_interval(wanted, ContentRange(*answered, size)), resolve(wanted, size))

    def test_pages_of(self) -> None:
        """The grid begins with the object."""
        self.assertEqual(pages_of((0, 1), 10, None), ((0, 10),))
        self.assertEqual(pages_of((9, 31), 10, 35), ((0, 10), (10, 20), (20, 30), (30, 35)))


add_rows(
    ClientIntervalTests,
    "of",
    (
        (FromTo(5, 9), ContentRange(0, 100, 1000), (5, 10)),
        (FromTo(5, 2000), ContentRange(0, 1000, 1000), (5, 1000)),
        (FromTo(5, 9), ContentRange(0, 100, None), (5, 10)),
        (FromTo(95, 104), ContentRange(0, 100, 1000), None),
        (FromTo(95, 104), ContentRange(0, 100, None), None),
        (FromTo(5, 9), ContentRange(6, 100, 1000), None),
        (Suffix(10), ContentRange(900, 1000, 1000), (990, 1000)),
        (Suffix(200), ContentRange(900, 1000, 1000), None),
        (Suffix(10), ContentRange(900, 1000, None), None),
        (From(990), ContentRange(900, 1000, 1000), (990, 1000)),
        (FromTo(1000, 1001), ContentRange(900, 1000, 1000), None),
    ),
    ClientIntervalTests.check,
)
