"""Entity tags, HTTP dates and preconditions."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.headers import Headers
from s3proxy.s3.validators import (
    Conditions,
    Verdict,
    evaluate,
    if_range_matches,
    parse_http_date,
    read_conditions,
    strong_match,
    weak_match,
)
from test.s3.table import add_rows

DATE = b"Wed, 01 Jan 2025 00:00:00 GMT"
BEFORE = b"Tue, 31 Dec 2024 23:59:59 GMT"
AFTER = b"Wed, 01 Jan 2025 00:00:01 GMT"
TAG = b'"abc"'


class TagMatchTests(SynchronousTestCase):
    """Comparing a field's value with the stored tag."""

    @given(st.binary(max_size=60), st.binary(max_size=20))
    def test_takes_anything(self, value: bytes, etag: bytes) -> None:
        """Any bytes match or do not; what matches strongly matches weakly too."""
        if strong_match(value, etag):
            self.assertTrue(weak_match(value, etag))
        if if_range_matches(value, etag, None):
            self.assertTrue(strong_match(value, etag))

    def test_hostile_value(self) -> None:
        """A long value takes no longer than its length warrants."""
        for value in (b" " * 100_000 + b'"', b'"' * 100_001, b"," * 100_000, b'W/"' * 50_000, b", " * 50_000 + b'"'):
            self.assertFalse(strong_match(value, TAG))
            self.assertFalse(if_range_matches(value, TAG, DATE))

    def test_sides(self) -> None:
        """Quotes are optional on either side."""
        for value in (b'"abc"', b"abc"):
            for stored in (b'"abc"', b"abc"):
                self.assertTrue(strong_match(value, stored))
                self.assertTrue(weak_match(value, stored))


def check_tag(case: SynchronousTestCase, value: bytes, stored: bytes, strong: bool, weak: bool, if_range: bool) -> None:
    case.assertIs(strong_match(value, stored), strong)
    case.assertIs(weak_match(value, stored), weak)
    case.assertIs(if_range_matches(value, stored, BEFORE), if_range)


# The vectors of doc/faults.md, and CN-04, CN-05 and CN-06: lists, tags without quotes, weak tags.
add_rows(
    TagMatchTests,
    "V1",
    [
        (b'"abc"', TAG, True, True, True),
        (b"abc", TAG, True, True, False),
        (b'W/"abc"', TAG, False, True, False),
        (b"*", TAG, True, True, False),
        (b'"x", "abc"', TAG, True, True, False),
        (b'"a,b", "abc"', TAG, True, True, False),
        (b'"abc', TAG, False, False, False),
        (DATE, TAG, False, False, False),
        (b'"abc"', b'W/"abc"', False, True, False),
    ],
    check_tag,
)
add_rows(
    TagMatchTests,
    "tag",
    [
        (b" * ", TAG, True, True, False),
        (b'W/"abc"', b'W/"abc"', False, True, False),
        (b"*", b'W/"abc"', True, True, False),
        (b' "abc" ', TAG, True, True, True),
        (b'"ABC"', TAG, False, False, False),
        (b'""', TAG, False, False, False),
        (b'""', b'""', True, True, True),
        (b"", TAG, False, False, False),
        (b",", TAG, False, False, False),
        (b'"x","abc"', TAG, True, True, False),
        (b'"abc","x"', TAG, True, True, False),
        (b"x,abc", TAG, True, True, False),
        (b'"x" "abc"', TAG, False, False, False),
        (b'"abc"x', TAG, False, False, False),
        (b'x"abc"', TAG, False, False, False),
        (b'"abc, "abc"', TAG, False, False, False),
        (b'w/"abc"', TAG, False, False, False),
        (b'"a,b"', b'"a,b"', True, True, True),
        (b'"d41d8cd98f00b204e9800998ecf8427e-3"', b'"d41d8cd98f00b204e9800998ecf8427e-3"', True, True, True),
    ],
    check_tag,
)


class IfRangeDateTests(SynchronousTestCase):
    """If-Range with a date."""

    def test_exact(self) -> None:
        """Only the very Last-Modified matches, in whatever form it is written."""
        self.assertTrue(if_range_matches(DATE, TAG, DATE))
        self.assertTrue(if_range_matches(b"Wed Jan  1 00:00:00 2025", TAG, DATE))
        for last_modified in (BEFORE, AFTER, None, b"garbage"):
            self.assertFalse(if_range_matches(DATE, TAG, last_modified))
        self.assertFalse(if_range_matches(b"garbage", TAG, b"garbage"))


class HTTPDateTests(SynchronousTestCase):
    """The three forms of a date."""

    @given(st.binary(max_size=40))
    def test_takes_anything(self, value: bytes) -> None:
        """Any bytes are a date or none."""
        date = parse_http_date(value)
        self.assertTrue(date is None or isinstance(date, int))


def check_date(case: SynchronousTestCase, value: bytes, seconds: int | None) -> None:
    case.assertEqual(parse_http_date(value), seconds)


add_rows(
    HTTPDateTests,
    "date",
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b"Sun Nov 16 08:49:37 1994", 784975777),
        (b" Sun, 06 Nov 1994 08:49:37 GMT ", 784111777),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Wednesday, 31-Dec-69 23:59:59 GMT", 3155759999),
        (b"Thursday, 01-Jan-70 00:00:00 GMT", 0),
        (b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        (b"Thu, 29 Feb 2024 00:00:00 GMT", 1709164800),
        (b"Wed, 29 Feb 2023 00:00:00 GMT", None),
        (b"Sun, 31 Apr 2024 00:00:00 GMT", None),
        (b"Sun, 00 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Foo 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 24:00:00 GMT", None),
        (b"Sun, 06 Nov 1994 08:60:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:61 GMT", None),
        (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
        (b"Sun, 6 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:37", None),
        (b"Sun, 06 Nov 1994 08:49:37 UTC", None),
        (b"Sun, 06 Nov 1994 08:49:37 +0000", None),
        (b"1994-11-06T08:49:37Z", None),
        (b"784111777", None),
        (b"0", None),
        (b"", None),
    ],
    check_date,
)


class ReadConditionsTests(SynchronousTestCase):
    """Which conditions a request has."""

    def test_none(self) -> None:
        """Without any of the four fields there are none; If-Range is not one of them."""
        self.assertIsNone(read_conditions(Headers([(b"If-Range", TAG), (b"Range", b"bytes=0-1")])))

    def test_all(self) -> None:
        """Each is kept as it came; repeated fields are one list."""
        headers = Headers(
            [
                (b"IF-Match", b'"a"'),
                (b"if-match", b'"b"'),
                (b"If-None-Match", b""),
                (b"If-Modified-Since", DATE),
                (b"If-Unmodified-Since", AFTER),
            ]
        )
        self.assertEqual(
            read_conditions(headers),
            Conditions(
                if_match=b'"a", "b"', if_none_match=b"", if_modified_since=DATE, if_unmodified_since=AFTER
            ),
        )

    def test_judgeable(self) -> None:
        """Only a date that is malformed, or that counts while Last-Modified is unknown, must be left to S3."""
        for conditions, last_modified, expected in (
            (Conditions(if_match=TAG, if_none_match=b"x"), None, True),
            (Conditions(if_modified_since=DATE), DATE, True),
            (Conditions(if_modified_since=DATE), None, False),
            (Conditions(if_modified_since=DATE), b"garbage", False),
            (Conditions(if_modified_since=b"garbage"), DATE, False),
            (Conditions(if_unmodified_since=DATE), None, False),
            (Conditions(if_unmodified_since=b"garbage", if_match=TAG), DATE, False),
            (Conditions(if_modified_since=DATE, if_none_match=TAG), None, True),
            (Conditions(if_unmodified_since=DATE, if_match=TAG), None, True),
            (Conditions(if_unmodified_since=DATE, if_none_match=TAG), None, False),
        ):
            self.assertIs(conditions.judgeable(last_modified), expected, (conditions, last_modified))


class EvaluateTests(SynchronousTestCase):
    """Judging conditions in the order of RFC 9110."""

    @given(
        st.lists(
            st.one_of(st.none(), st.binary(max_size=30), st.sampled_from([DATE, TAG, b"*"])), min_size=5, max_size=5
        )
    )
    def test_takes_anything(self, values: list[bytes | None]) -> None:
        """Any values give some verdict."""
        conditions = Conditions(
            if_match=values[0], if_none_match=values[1], if_modified_since=values[2], if_unmodified_since=values[3]
        )
        self.assertIsInstance(evaluate(conditions, TAG, values[4], b"GET"), Verdict)


def check_verdict(
    case: SynchronousTestCase,
    conditions: Conditions,
    verdict: Verdict,
    method: bytes = b"GET",
    last_modified: bytes | None = DATE,
) -> None:
    case.assertIs(evaluate(conditions, TAG, last_modified, method), verdict)


OK, SAME, FAILED = Verdict.PROCEED, Verdict.NOT_MODIFIED, Verdict.PRECONDITION_FAILED
add_rows(
    EvaluateTests,
    "verdict",
    [
        (Conditions(), OK),
        (Conditions(if_match=TAG), OK),
        (Conditions(if_match=b"abc"), OK),
        (Conditions(if_match=b"*"), OK),
        (Conditions(if_match=b'"x"'), FAILED),
        (Conditions(if_match=b'W/"abc"'), FAILED),
        (Conditions(if_match=b""), FAILED),
        (Conditions(if_none_match=TAG), SAME),
        (Conditions(if_none_match=TAG), SAME, b"HEAD"),
        (Conditions(if_none_match=TAG), FAILED, b"PUT"),
        (Conditions(if_none_match=b"*"), SAME),
        (Conditions(if_none_match=b'W/"abc"'), SAME),
        (Conditions(if_none_match=b'"x"'), OK),
        (Conditions(if_modified_since=DATE), SAME),
        (Conditions(if_modified_since=AFTER), SAME),
        (Conditions(if_modified_since=BEFORE), OK),
        (Conditions(if_modified_since=DATE), OK, b"PUT"),
        (Conditions(if_modified_since=DATE), OK, b"GET", None),
        (Conditions(if_modified_since=b"garbage"), OK),
        (Conditions(if_unmodified_since=DATE), OK),
        (Conditions(if_unmodified_since=AFTER), OK),
        (Conditions(if_unmodified_since=BEFORE), FAILED),
        (Conditions(if_unmodified_since=BEFORE), FAILED, b"PUT"),
        (Conditions(if_unmodified_since=BEFORE), OK, b"GET", None),
        (Conditions(if_unmodified_since=b"garbage"), OK),
        # If-Match overrules If-Unmodified-Since, If-None-Match overrules If-Modified-Since.
        (Conditions(if_match=TAG, if_unmodified_since=BEFORE), OK),
        (Conditions(if_match=b'"x"', if_unmodified_since=AFTER), FAILED),
        (Conditions(if_none_match=b'"x"', if_modified_since=AFTER), OK),
        (Conditions(if_none_match=TAG, if_modified_since=BEFORE), SAME),
        # A failed precondition beats "not modified".
        (Conditions(if_match=b'"x"', if_none_match=TAG), FAILED),
        (Conditions(if_match=TAG, if_none_match=TAG), SAME),
        (Conditions(if_match=TAG, if_none_match=b'"x"'), OK),
        (Conditions(if_match=TAG, if_modified_since=DATE), SAME),
        (Conditions(if_unmodified_since=BEFORE, if_none_match=TAG), FAILED),
        (Conditions(if_unmodified_since=AFTER, if_modified_since=DATE), SAME),
        (Conditions(if_match=TAG, if_unmodified_since=BEFORE, if_none_match=b'"x"', if_modified_since=DATE), OK),
    ],
    check_verdict,
)
