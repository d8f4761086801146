"""Byte ranges."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.ranges import (
    ContentRange,
    From,
    FromTo,
    InvalidRange,
    MultiRange,
    RangeSpec,
    Suffix,
    format_content_range,
    parse_content_range,
    parse_range,
    resolve,
)
from test.s3.table import add_rows

FORTY_DIGITS = b"1" + b"0" * 39


class ParseRangeTests(SynchronousTestCase):
    """Reading the Range field."""

    @given(st.one_of(st.binary(max_size=60), st.from_regex(rb"\Abytes=[0-9, -]{0,40}\Z")))
    def test_takes_anything(self, value: bytes) -> None:
        """Any bytes are some range, and a single one means a part of the object, or nothing."""
        spec = parse_range(value)
        if isinstance(spec, (FromTo, From, Suffix)):
            for size in (0, 1, 1000, 2**62):
                interval = resolve(spec, size)
                if interval is not None:
                    start, stop = interval
                    self.assertTrue(0 <= start < stop <= size)

    @given(st.integers(0, 2**70), st.integers(0, 2**70), st.integers(1, 2**70))
    def test_exact(self, first: int, last: int, size: int) -> None:
        """Numbers of any length give what arithmetic gives."""
        spec = parse_range(b"bytes=%d-%d" % (first, last))
        if first > last:
            self.assertEqual(spec, InvalidRange())
            return
        self.assertIsInstance(spec, FromTo)
        if size < 2**59:
            expected = (first, min(last + 1, size)) if first < size else None
            self.assertEqual(resolve(spec, size), expected)

    def test_hostile_numbers(self) -> None:
        """A megabyte of digits costs no more than reading it."""
        digits = b"9" * 1_000_000
        self.assertEqual(resolve(parse_range(b"bytes=0-" + digits), 10), (0, 10))
        self.assertEqual(resolve(parse_range(b"bytes=" + digits + b"-"), 10), None)
        self.assertEqual(resolve(parse_range(b"bytes=-" + digits), 10), (0, 10))
        self.assertEqual(parse_range(b"bytes=" + digits + b"-5"), InvalidRange())
        self.assertEqual(parse_range(b"bytes=0-0" + b",0-0" * 100_000), MultiRange())


def check_range(case: SynchronousTestCase, value: bytes, spec: RangeSpec) -> None:
    case.assertEqual(parse_range(value), spec)


add_rows(
    ParseRangeTests,
    "range",
    [
        (b"bytes=0-0", FromTo(0, 0)),
        (b"bytes=0-99", FromTo(0, 99)),
        (b"bytes=5-5", FromTo(5, 5)),
        (b"bytes=007-0008", FromTo(7, 8)),
        (b" bytes=0-99\t", FromTo(0, 99)),
        (b"bytes= 0-99 ", FromTo(0, 99)),
        (b"bytes=16777216-", From(16777216)),
        (b"bytes=0-", From(0)),
        (b"bytes=-1", Suffix(1)),
        (b"bytes=-262144", Suffix(262144)),
        (b"bytes=0-18446744073709551615", FromTo(0, 2**63 - 1)),
        (b"bytes=0-" + FORTY_DIGITS, FromTo(0, 2**63 - 1)),
        (b"bytes=-" + FORTY_DIGITS, Suffix(2**63 - 1)),
        (b"bytes=" + FORTY_DIGITS + b"-" + FORTY_DIGITS, FromTo(2**63 - 1, 2**63 - 1)),
        (b"bytes=" + FORTY_DIGITS + b"1-" + FORTY_DIGITS, InvalidRange()),
        (b"bytes=0-9,20-29", MultiRange()),
        (b"bytes=0-9 , -5", MultiRange()),
        (b"bytes=0-9,", InvalidRange()),
        (b"bytes=,0-9", InvalidRange()),
        (b"bytes=0-9,x", InvalidRange()),
        (b"bytes=0-9,9-0", InvalidRange()),
        (b"bytes=5-4", InvalidRange()),
        (b"bytes=-0", InvalidRange()),
        (b"bytes=-000", InvalidRange()),
        (b"bytes=-", InvalidRange()),
        (b"bytes=", InvalidRange()),
        (b"bytes", InvalidRange()),
        (b"", InvalidRange()),
        (b"bytes=5", InvalidRange()),
        (b"bytes=1-2-3", InvalidRange()),
        (b"bytes=0--1", InvalidRange()),
        (b"bytes=--1", InvalidRange()),
        (b"bytes=a-b", InvalidRange()),
        (b"bytes=0x0-0x9", InvalidRange()),
        (b"bytes=+0-9", InvalidRange()),
        (b"bytes=1_0-20", InvalidRange()),
        (b"bytes=0 - 9", InvalidRange()),
        (b"bytes =0-9", InvalidRange()),
        (b"Bytes=0-9", InvalidRange()),
        (b"items=0-9", InvalidRange()),
        (b"bytes=\xd9\xa1-\xd9\xa2", InvalidRange()),
        (b"bytes=0-9\n", InvalidRange()),
    ],
    check_range,
)


class ResolveTests(SynchronousTestCase):
    """What a range means for an object of a known size."""


def check_resolve(case: SynchronousTestCase, value: bytes, size: int, interval: tuple[int, int] | None) -> None:
    case.assertEqual(resolve(parse_range(value), size), interval)


add_rows(
    ResolveTests,
    "resolve",
    [
        (b"bytes=10-20", 1000, (10, 21)),
        (b"bytes=200-399", 1000, (200, 400)),
        (b"bytes=50-249", 1000, (50, 250)),
        (b"bytes=0-499", 1000, (0, 500)),
        (b"bytes=950-", 1000, (950, 1000)),
        (b"bytes=-50", 1000, (950, 1000)),
        (b"bytes=990-2000", 1000, (990, 1000)),
        (b"bytes=1000-1001", 1000, None),
        (b"bytes=999-999", 1000, (999, 1000)),
        (b"bytes=1000-", 1000, None),
        (b"bytes=0-999", 1000, (0, 1000)),
        (b"bytes=0-", 1000, (0, 1000)),
        (b"bytes=-1", 1000, (999, 1000)),
        (b"bytes=-1000", 1000, (0, 1000)),
        (b"bytes=-5000", 1000, (0, 1000)),
        (b"bytes=0-52428799", 10, (0, 10)),
        (b"bytes=0-" + FORTY_DIGITS, 10, (0, 10)),
        (FORTY_DIGITS.join([b"bytes=", b"-"]), 10, None),
        (b"bytes=0-0", 0, None),
        (b"bytes=0-", 0, None),
        (b"bytes=-5", 0, None),
    ],
    check_resolve,
)


class ContentRangeTests(SynchronousTestCase):
    """The Content-Range field."""

    @given(st.integers(0, 2**53), st.integers(1, 2**53), st.one_of(st.none(), st.integers(0, 2**53)))
    def test_round_trip(self, start: int, length: int, rest: int | None) -> None:
        """What is written is read again."""
        stop = start + length
        size = None if rest is None else stop + rest
        self.assertEqual(
            parse_content_range(format_content_range(start, stop, size)), ContentRange(start, stop, size)
        )

    @given(st.one_of(st.binary(max_size=60), st.from_regex(rb"\Abytes [0-9*/-]{0,30}\Z")))
    def test_takes_anything(self, value: bytes) -> None:
        """Any bytes are a range that fits into its object, or none."""
        found = parse_content_range(value)
        if found is not None:
            self.assertLess(found.start, found.stop)
            self.assertTrue(found.size is None or found.stop <= found.size)

    def test_format(self) -> None:
        """The end on the wire is the last byte."""
        self.assertEqual(format_content_range(0, 100, 1000), b"bytes 0-99/1000")
        self.assertEqual(format_content_range(5, 6, None), b"bytes 5-5/*")


def check_content_range(case: SynchronousTestCase, value: bytes, expected: ContentRange | None) -> None:
    case.assertEqual(parse_content_range(value), expected)


add_rows(
    ContentRangeTests,
    "content_range",
    [
        (b"bytes 0-99/1000", ContentRange(0, 100, 1000)),
        (b"bytes 992-999/1000", ContentRange(992, 1000, 1000)),
        (b"bytes 0-0/1", ContentRange(0, 1, 1)),
        (b"bytes 0-99/*", ContentRange(0, 100, None)),
        (b" bytes  0-99/1000 ", ContentRange(0, 100, 1000)),
        (b"bytes */1000", None),
        (b"bytes 0-1000/1000", None),
        (b"bytes 5-4/1000", None),
        (b"bytes 0-99", None),
        (b"bytes 0-99/", None),
        (b"bytes=0-99/1000", None),
        (b"bytes 0-/1000", None),
        (b"bytes -99/1000", None),
        (b"items 0-99/1000", None),
        (b"bytes 0-99/1000, 5", None),
        (b"bytes 0-" + FORTY_DIGITS + b"/*", None),
        (b"", None),
    ],
    check_content_range,
)
