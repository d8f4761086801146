"""Percent-decoding and query strings."""

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.query import percent_decode, percent_decode_strictly, query_params
from test.s3.table import add_rows


class PercentDecodeTests(SynchronousTestCase):
    """Decoding happens exactly once."""

    @given(st.binary(max_size=60))
    def test_undoes_any_encoding(self, data: bytes) -> None:
        """Whatever is encoded, wholly or as far as needed, decodes to itself: two keys never share an encoded form."""
        for encoded in (quote(data, safe="/"), quote(data, safe=""), "".join(f"%{byte:02x}" for byte in data)):
            self.assertEqual(percent_decode_strictly(encoded.encode("ascii")), data)

    @given(st.binary(max_size=60))
    def test_strict_agrees(self, data: bytes) -> None:
        """The strict form gives the same or nothing, and nothing only for a stray percent sign."""
        strict = percent_decode_strictly(data)
        if strict is None:
            self.assertIn(b"%", data)
        else:
            self.assertEqual(strict, percent_decode(data))


def check_decoding(case: SynchronousTestCase, data: bytes, loose: bytes, strict: bytes | None) -> None:
    case.assertEqual(percent_decode(data), loose)
    case.assertEqual(percent_decode_strictly(data), strict)


add_rows(
    PercentDecodeTests,
    "decoding",
    [
        (b"", b"", b""),
        (b"a+b", b"a+b", b"a+b"),
        (b"a%2Bb", b"a+b", b"a+b"),
        (b"a%2bb", b"a+b", b"a+b"),
        (b"%252B", b"%2B", b"%2B"),
        (b"%00", b"\x00", b"\x00"),
        (b"%c3%A9", b"\xc3\xa9", b"\xc3\xa9"),
        (b"%", b"%", None),
        (b"%2", b"%2", None),
        (b"%zz", b"%zz", None),
        (b"%2G%20", b"%2G ", None),
        (b"%%20", b"% ", None),
        (b"a%u0020", b"a%u0020", None),
    ],
    check_decoding,
)


class QueryParamsTests(SynchronousTestCase):
    """Splitting a query string."""

    @given(st.binary(max_size=200))
    def test_takes_anything(self, query: bytes) -> None:
        """Any bytes are some query string."""
        for name, value in query_params(query):
            self.assertIsInstance(name, bytes)
            self.assertTrue(value is None or isinstance(value, bytes))


def check_query(case: SynchronousTestCase, query: bytes | None, params: tuple[tuple[bytes, bytes | None], ...]) -> None:
    case.assertEqual(query_params(query), params)


add_rows(
    QueryParamsTests,
    "params",
    [
        (None, ()),
        (b"", ()),
        (b"&&", ()),
        (b"uploads", ((b"uploads", None),)),
        (b"uploads=", ((b"uploads", b""),)),
        (b"a=1&&b=2&", ((b"a", b"1"), (b"b", b"2"))),
        (b"b=2&a=1&b=3", ((b"b", b"2"), (b"a", b"1"), (b"b", b"3"))),
        (b"%70artNumber=%32", ((b"partNumber", b"2"),)),
        (b"a=b=c", ((b"a", b"b=c"),)),
        (b"=x", ((b"", b"x"),)),
        (b"a%26b=c%3Dd", ((b"a&b", b"c=d"),)),
        (b"a;b=1", ((b"a;b", b"1"),)),
        (b"a+b=c+d", ((b"a+b", b"c+d"),)),
        (b"a?b", ((b"a?b", None),)),
    ],
    check_query,
)
