"""Heads of requests: what is read out of them, and what is refused."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.errors import S3Error
from s3proxy.wire.head import RequestHead, check_partial_head, parse_head
from s3proxy.wire.limits import WireLimits

LIMITS = WireLimits()


def parse(text: bytes) -> RequestHead:
    return parse_head(text, LIMITS)


class ParseHeadTests(SynchronousTestCase):
    """parse_head()"""

    def test_everything_as_received(self) -> None:
        """Method, target, version and fields keep their spelling and order; only outer blanks of values go."""
        head = parse(b"GET /b/k%2F?x-id=GetObject HTTP/1.1\r\nhOsT:  h:80 \t\r\nX-A: 1  2\r\nx-a:\r\n")
        self.assertEqual(
            (head.method, head.target, head.version), (b"GET", b"/b/k%2F?x-id=GetObject", b"HTTP/1.1")
        )
        self.assertEqual(head.headers.pairs, ((b"hOsT", b"h:80"), (b"X-A", b"1  2"), (b"x-a", b"")))
        self.assertEqual(head.body_length, 0)
        self.assertTrue(head.keep_alive)
        self.assertFalse(head.expects_continue)

    def test_absolute_form(self) -> None:
        """An absolute-form target stays as it is."""
        self.assertEqual(parse(b"GET http://s3.test:80/b/k HTTP/1.1\r\n").target, b"http://s3.test:80/b/k")

    def test_body_length(self) -> None:
        """Content-Length gives the length, chunked gives None."""
        self.assertEqual(parse(b"PUT / HTTP/1.1\r\nContent-Length: 12\r\n").body_length, 12)
        self.assertEqual(parse(b"GET / HTTP/1.1\r\nContent-Length: 0\r\n").body_length, 0)
        self.assertIsNone(parse(b"PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n").body_length)

    def test_keep_alive(self) -> None:
        """HTTP/1.1 keeps the connection unless told otherwise, HTTP/1.0 does not unless asked to."""
        self.assertFalse(parse(b"GET / HTTP/1.1\r\nConnection: foo, Close\r\n").keep_alive)
        self.assertFalse(parse(b"GET / HTTP/1.1\r\nConnection: foo\r\nConnection: close\r\n").keep_alive)
        self.assertFalse(parse(b"GET / HTTP/1.0\r\n").keep_alive)
        self.assertTrue(parse(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n").keep_alive)

    def test_expect(self) -> None:
        """Only HTTP/1.1 clients wait for 100 Continue."""
        self.assertTrue(parse(b"PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n").expects_continue)
        self.assertFalse(parse(b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n").expects_continue)

    def test_blanks_take_linear_time(self) -> None:
        """A field of 60,000 blanks is no way to keep the parser busy."""
        self.assertEqual(parse(b"GET / HTTP/1.1\r\na: b" + b" " * 60000 + b"c\r\n").headers.get(b"a")[-1:], b"c")

    @settings(deadline=None, max_examples=200, derandomize=True)
    @given(st.binary(max_size=200))
    def test_garbage(self, data: bytes) -> None:
        """Whatever the bytes are, the outcome is a value or an S3Error."""
        for text in (data, b"GET / HTTP/1.1\r\n" + data, b"GET / HTTP/1.1\r\na:" + data + b"\r\n"):
            try:
                parse(text)
            except S3Error as error:
                self.assertIn(error.status, (400, 414, 431, 501, 505))

    @settings(deadline=None, max_examples=200, derandomize=True)
    @given(st.binary(max_size=200))
    def test_partial_garbage(self, data: bytes) -> None:
        """The look at an incomplete head knows no other outcome either."""
        try:
            check_partial_head(data, LIMITS)
        except S3Error:
            pass


REFUSED = [
    ("no_version", b"GET /\r\n", "InvalidRequest"),
    ("http_0_9", b"GET / HTTP/0.9\r\n", "HTTPVersionNotSupported"),
    ("http_2_preface", b"PRI * HTTP/2.0\r\n", "HTTPVersionNotSupported"),
    ("lower_case_version", b"GET / http/1.1\r\n", "InvalidRequest"),
    ("two_blanks", b"GET  / HTTP/1.1\r\n", "InvalidRequest"),
    ("tab_for_blank", b"GET\t/ HTTP/1.1\r\n", "InvalidRequest"),
    ("leading_blank", b" GET / HTTP/1.1\r\n", "InvalidRequest"),
    ("method_not_token", b"G@T / HTTP/1.1\r\n", "InvalidRequest"),
    ("long_method", b"G" * 65 + b" / HTTP/1.1\r\n", "InvalidRequest"),
    ("target_not_ascii", b"GET /caf\xc3\xa9 HTTP/1.1\r\n", "InvalidURI"),
    ("target_control", b"GET /a\x01b HTTP/1.1\r\n", "InvalidURI"),
    ("target_too_long", b"GET /" + b"a" * 16384 + b" HTTP/1.1\r\n", "RequestURITooLong"),
    ("bare_lf_in_line", b"GET / HTTP/1.1\nHost: a\r\n", "InvalidRequest"),
    ("bare_lf_in_field", b"GET / HTTP/1.1\r\nA: b\nC: d\r\n", "InvalidRequest"),
    ("bare_cr_in_field", b"GET / HTTP/1.1\r\nA: b\rC: d\r\n", "InvalidRequest"),
    ("nul_in_field", b"GET / HTTP/1.1\r\nA: b\0\r\n", "InvalidRequest"),
    ("control_in_field", b"GET / HTTP/1.1\r\nA: b\x1b\r\n", "InvalidRequest"),
    ("blank_before_colon", b"GET / HTTP/1.1\r\nA : b\r\n", "InvalidRequest"),
    ("folded", b"GET / HTTP/1.1\r\nA: b\r\n c\r\n", "InvalidRequest"),
    ("folded_first", b"GET / HTTP/1.1\r\n A: b\r\n", "InvalidRequest"),
    ("no_colon", b"GET / HTTP/1.1\r\nA\r\n", "InvalidRequest"),
    ("no_name", b"GET / HTTP/1.1\r\n: b\r\n", "InvalidRequest"),
    ("name_not_token", b"GET / HTTP/1.1\r\nA[]: b\r\n", "InvalidRequest"),
    ("two_hosts", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n", "InvalidRequest"),
    ("two_lengths", b"PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n", "InvalidRequest"),
    ("length_list", b"PUT / HTTP/1.1\r\nContent-Length: 5, 5\r\n", "InvalidRequest"),
    ("length_signed", b"PUT / HTTP/1.1\r\nContent-Length: +5\r\n", "InvalidRequest"),
    ("length_negative", b"PUT / HTTP/1.1\r\nContent-Length: -5\r\n", "InvalidRequest"),
    ("length_hex", b"PUT / HTTP/1.1\r\nContent-Length: 0x5\r\n", "InvalidRequest"),
    ("length_empty", b"PUT / HTTP/1.1\r\nContent-Length:\r\n", "InvalidRequest"),
    ("length_huge", b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n", "InvalidRequest"),
    ("length_unicode_digit", b"PUT / HTTP/1.1\r\nContent-Length: \xd9\xa1\r\n", "InvalidRequest"),
    ("both", b"PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", "InvalidRequest"),
    ("both_zero", b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n", "InvalidRequest"),
    ("coding_unknown", b"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", "NotImplemented"),
    ("coding_identity", b"PUT / HTTP/1.1\r\nTransfer-Encoding: identity\r\n", "NotImplemented"),
    ("coding_obfuscated", b"PUT / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n", "NotImplemented"),
    ("coding_quoted", b"PUT / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n", "NotImplemented"),
    ("coding_vtab", b"PUT / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n", "InvalidRequest"),
    ("coding_twice", b"PUT / HTTP/1.1\r\n" + b"Transfer-Encoding: chunked\r\n" * 2, "InvalidRequest"),
    ("coding_in_1_0", b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", "InvalidRequest"),
    ("too_many_fields", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 201, "InvalidRequest"),
    ("head_too_large", b"GET / HTTP/1.1\r\na: " + b"b" * 65536 + b"\r\n", "RequestHeaderSectionTooLarge"),
]


class RefusedHeadTests(SynchronousTestCase):
    """What parse_head() refuses, and with which code."""


def _refused(text: bytes, code: str) -> "object":
    def test(self: SynchronousTestCase) -> None:
        self.assertEqual(self.assertRaises(S3Error, parse, text).code, code)

    test.__doc__ = f"{text[:60]!r} is refused with {code}."
    return test


for _name, _text, _code in REFUSED:
    setattr(RefusedHeadTests, f"test_{_name}", _refused(_text, _code))


PARTIAL = [
    ("start", b"G", None),
    ("method", b"GET", None),
    ("target", b"GET /abc", None),
    ("cr", b"GET / HTTP/1.1\r", None),
    ("field", b"GET / HTTP/1.1\r\nHost: x\r\n", None),
    ("tls", b"\x16\x03\x01\x02\x00\x01", "InvalidRequest"),
    ("no_method", b" /", "InvalidRequest"),
    ("bare_lf", b"GET / HTTP/1.1\nHost: x\n\n", "InvalidRequest"),
    ("endless_method", b"A" * 65, "InvalidRequest"),
    ("endless_target", b"GET /" + b"a" * 20000, "RequestURITooLong"),
    ("endless_head", b"GET / HTTP/1.1\r\na: " + b"b" * 65536, "RequestHeaderSectionTooLarge"),
]


class PartialHeadTests(SynchronousTestCase):
    """check_partial_head(): hopeless beginnings are told before their end comes."""


def _partial(text: bytes, code: str | None) -> "object":
    def test(self: SynchronousTestCase) -> None:
        if code is None:
            self.assertIsNone(check_partial_head(text, LIMITS))
        else:
            self.assertEqual(self.assertRaises(S3Error, check_partial_head, text, LIMITS).code, code)

    test.__doc__ = f"{text[:40]!r} is {'fine so far' if code is None else 'refused with ' + code}."
    return test


for _name, _text, _outcome in PARTIAL:
    setattr(PartialHeadTests, f"test_{_name}", _partial(_text, _outcome))
