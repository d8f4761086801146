"""Header fields: which go to S3, which come back, which are kept, and what the client's directives ask."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.headers import (
    CHECKSUM_FIELDS,
    CONDITIONAL_FIELDS,
    Bypass,
    Headers,
    bypass_mode,
    connection_options,
    forwardable_request,
    is_sse_c,
    relayable_response,
    storable_response,
    wants_checksums,
)
from s3proxy.s3.signature import Signature, SignatureForm
from test.s3.table import add_rows

FIELDS = st.lists(st.tuples(st.binary(min_size=1, max_size=12), st.binary(max_size=20)), max_size=8)


def signing(*names: bytes) -> Signature:
    """A version 4 signature that covers exactly these fields."""
    return Signature(form=SignatureForm.HEADER_V4, access_key="AK", signed_headers=frozenset(names))


class HeadersTests(SynchronousTestCase):
    """The ordered list of fields."""

    def test_lookup(self) -> None:
        """Look-up ignores case; spelling, order and repeated fields stay."""
        headers = Headers([(b"X-A", b"1"), (b"Host", b"h"), (b"x-a", b"2")])
        self.assertEqual(headers.get(b"x-a"), b"1")
        self.assertEqual(headers.get_all(b"x-a"), (b"1", b"2"))
        self.assertEqual(headers.get(b"x-b"), None)
        self.assertEqual(headers.get_all(b"x-b"), ())
        self.assertEqual(headers.names(), {b"x-a", b"host"})
        self.assertEqual(list(headers), [(b"X-A", b"1"), (b"Host", b"h"), (b"x-a", b"2")])
        self.assertEqual(len(headers), 3)
        self.assertIn(b"host", headers)

    def test_changes_are_copies(self) -> None:
        """Adding and removing leave the original alone."""
        headers = Headers([(b"A", b"1"), (b"B", b"2")])
        self.assertEqual(list(headers.adding((b"C", b"3"))), [(b"A", b"1"), (b"B", b"2"), (b"C", b"3")])
        self.assertEqual(list(headers.without([b"a"])), [(b"B", b"2")])
        self.assertIs(headers.without([b"c"]), headers)
        self.assertEqual(headers, Headers([(b"A", b"1"), (b"B", b"2")]))
        self.assertEqual(hash(headers), hash(Headers([(b"A", b"1"), (b"B", b"2")])))


class ForwardableRequestTests(SynchronousTestCase):
    """What S3 gets of a client's fields."""

    def test_hop_by_hop(self) -> None:
        """The connection's own fields and those that Connection names go; all else stays, in order and spelling."""
        headers = Headers(
            [
                (b"HOST", b"b.s3.amazonaws.com"),
                (b"Connection", b"keep-alive, X-Drop ,"),
                (b"X-Drop", b"1"),
                (b"x-keep", b"a  b"),
                (b"Keep-Alive", b"timeout=5"),
                (b"Proxy-Connection", b"X-Also"),
                (b"x-also", b"1"),
                (b"Proxy-Authorization", b"Basic eA=="),
                (b"TE", b"trailers"),
                (b"Trailer", b"x-sum"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Upgrade", b"h2c"),
                (b"x-amz-trailer", b"x-amz-checksum-crc32"),
                (b"Expect", b"100-continue"),
                (b"Content-Length", b"0"),
                (b"x-keep", b"\xc3\xa9"),
            ]
        )
        self.assertEqual(
            list(forwardable_request(headers, Signature())),
            [
                (b"HOST", b"b.s3.amazonaws.com"),
                (b"x-keep", b"a  b"),
                (b"x-amz-trailer", b"x-amz-checksum-crc32"),
                (b"Expect", b"100-continue"),
                (b"Content-Length", b"0"),
                (b"x-keep", b"\xc3\xa9"),
            ],
        )

    def test_signed_fields_stay(self) -> None:
        """A field that is signed stays, even one of the connection's; only the framing does not."""
        headers = Headers(
            [(b"Connection", b"X-Mine"), (b"X-Mine", b"1"), (b"TE", b"x"), (b"Transfer-Encoding", b"chunked")]
        )
        signature = signing(b"connection", b"x-mine", b"te", b"transfer-encoding")
        self.assertEqual(forwardable_request(headers, signature).names(), {b"connection", b"x-mine", b"te"})

    def test_unknown_signature(self) -> None:
        """Beside credentials of an unknown kind, what Connection names stays; the connection's own fields go."""
        headers = Headers([(b"Connection", b"X-Mine"), (b"X-Mine", b"1"), (b"Keep-Alive", b"x")])
        signature = Signature(form=SignatureForm.UNKNOWN)
        self.assertEqual(forwardable_request(headers, signature).names(), {b"x-mine"})

    def test_connection_names_essentials(self) -> None:
        """Connection can't remove what gives the request its meaning."""
        names = [b"host", b"authorization", b"range", b"content-length", b"x-amz-date", *CONDITIONAL_FIELDS]
        headers = Headers([(b"Connection", b", ".join(names)), *((name, b"v") for name in names)])
        self.assertEqual(forwardable_request(headers, Signature()).names(), set(names))

    @given(FIELDS, st.booleans())
    def test_signed_names_survive(self, fields: list[tuple[bytes, bytes]], first_signed: bool) -> None:
        """Whatever is signed arrives with all its values, whatever Connection says."""
        names = {name.lower() for name, _ in fields} - {b"transfer-encoding"}
        signed = sorted(names)[::2] if first_signed else sorted(names)[1::2]
        headers = Headers([(b"Connection", b",".join(names)), *fields])
        forwarded = forwardable_request(headers, signing(*signed))
        for name in signed:
            self.assertEqual(forwarded.get_all(name), headers.get_all(name))


class ResponseFieldsTests(SynchronousTestCase):
    """What the client and the cache get of S3's fields."""

    ANSWER = Headers(
        [
            (b"x-amz-id-2", b"abc"),
            (b"x-amz-request-id", b"123"),
            (b"Date", b"Wed, 01 Jan 2025 00:00:00 GMT"),
            (b"Last-Modified", b"Wed, 01 Jan 2025 00:00:00 GMT"),
            (b"ETag", b'"abc"'),
            (b"x-amz-meta-Foo", b"bar"),
            (b"x-amz-meta-foo", b"baz"),
            (b"x-amz-brand-new", b"1"),
            (b"x-amz-checksum-crc32", b"AAAAAA=="),
            (b"Cache-Control", b"private"),
            (b"Content-Encoding", b"gzip"),
            (b"Accept-Ranges", b"bytes"),
            (b"Content-Type", b"text/plain"),
            (b"Content-Length", b"5"),
            (b"Content-Range", b"bytes 0-4/10"),
            (b"x-amz-mp-parts-count", b"2"),
            (b"Server", b"AmazonS3"),
            (b"Access-Control-Allow-Origin", b"https://a.example"),
            (b"Vary", b"Origin"),
            (b"Connection", b"close, x-hop"),
            (b"X-Hop", b"1"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Age", b"5"),
            (b"Via", b"1.1 x"),
            (b"X-Cache", b"HIT"),
            (b"Cache-Status", b"x; hit"),
            (b"Set-Cookie", b"a=b"),
            (b"x-amz-request-charged", b"requester"),
        ]
    )

    def test_storable(self) -> None:
        """Everything that describes the object is kept, known or not; what belongs to one answer or caller is not."""
        self.assertEqual(
            list(storable_response(self.ANSWER)),
            [
                (b"Last-Modified", b"Wed, 01 Jan 2025 00:00:00 GMT"),
                (b"ETag", b'"abc"'),
                (b"x-amz-meta-Foo", b"bar"),
                (b"x-amz-meta-foo", b"baz"),
                (b"x-amz-brand-new", b"1"),
                (b"x-amz-checksum-crc32", b"AAAAAA=="),
                (b"Cache-Control", b"private"),
                (b"Content-Encoding", b"gzip"),
                (b"Content-Type", b"text/plain"),
            ],
        )

    def test_relayable(self) -> None:
        """Of S3's own answer only the connection's fields and the framing are left out."""
        dropped = {b"connection", b"x-hop", b"transfer-encoding", b"content-length"}
        self.assertEqual(
            list(relayable_response(self.ANSWER)), [pair for pair in self.ANSWER if pair[0].lower() not in dropped]
        )

    @given(FIELDS)
    def test_storing_twice(self, fields: list[tuple[bytes, bytes]]) -> None:
        """What is kept once is kept again: nothing wears off."""
        once = storable_response(Headers(fields))
        self.assertEqual(storable_response(once), once)


class FieldClassTests(SynchronousTestCase):
    """Questions about single fields."""

    def test_connection_options(self) -> None:
        """All Connection fields count, in lower case, without blanks and empty members."""
        headers = Headers([(b"Connection", b"Close, X-A"), (b"connection", b" ,x-b"), (b"Proxy-Connection", b"x-c")])
        self.assertEqual(connection_options(headers), {b"close", b"x-a", b"x-b", b"x-c"})

    def test_sse_c(self) -> None:
        """Any one of the three fields counts, whatever it says; fields with similar names do not."""
        for suffix in (b"algorithm", b"key", b"key-MD5"):
            self.assertTrue(is_sse_c(Headers([(b"X-Amz-Server-Side-Encryption-Customer-" + suffix, b"")])))
        for name in (b"x-amz-server-side-encryption", b"x-amz-server-side-encryption-aws-kms-key-id"):
            self.assertFalse(is_sse_c(Headers([(name, b"aws:kms")])))

    def test_wants_checksums(self) -> None:
        """The mode counts in any case, as a field or a parameter."""
        for value in (b"ENABLED", b"enabled", b" Enabled "):
            self.assertTrue(wants_checksums(Headers([(b"X-Amz-Checksum-Mode", value)]), None))
        self.assertTrue(wants_checksums(Headers(), b"x-id=GetObject&x-amz-checksum-mode=ENABLED"))
        self.assertTrue(wants_checksums(Headers(), b"X-Amz-Checksum-Mode=enabled"))
        self.assertFalse(wants_checksums(Headers([(b"x-amz-checksum-mode", b"off")]), b"x-amz-checksum-mode"))
        self.assertFalse(wants_checksums(Headers(), None))

    def test_checksum_fields(self) -> None:
        """All the algorithms that S3 has, their type, and Content-MD5."""
        for name in (b"crc32", b"crc32c", b"crc64nvme", b"sha1", b"sha256", b"type"):
            self.assertIn(b"x-amz-checksum-" + name, CHECKSUM_FIELDS)
        self.assertIn(b"content-md5", CHECKSUM_FIELDS)
        self.assertNotIn(b"x-amz-checksum-mode", CHECKSUM_FIELDS)


class BypassModeTests(SynchronousTestCase):
    """The client's own cache directives."""


def check_bypass(case: SynchronousTestCase, fields: list[tuple[bytes, bytes]], mode: Bypass) -> None:
    case.assertIs(bypass_mode(Headers(fields)), mode)


CC, PRAGMA = b"Cache-Control", b"Pragma"
# The vectors of doc/faults.md.
add_rows(
    BypassModeTests,
    "V2",
    [
        ([(CC, b"no-cache")], Bypass.NO_CACHE),
        ([(CC, b"NO-CACHE")], Bypass.NO_CACHE),
        ([(CC, b" max-age=0 , no-cache ")], Bypass.NO_CACHE),
        ([(CC, b"no-cache, no-store")], Bypass.NO_STORE),
        ([(CC, b'no-cache="set-cookie"')], Bypass.NO_CACHE),
        ([(CC, b"max-age=0")], Bypass.NONE),
        ([(CC, b"max-age=60"), (PRAGMA, b"no-cache")], Bypass.NO_CACHE),
        ([(CC, b"no-store"), (PRAGMA, b"no-cache")], Bypass.NO_STORE),
        ([(PRAGMA, b"foo")], Bypass.NONE),
    ],
    check_bypass,
)
add_rows(
    BypassModeTests,
    "bypass",
    [
        ([(CC, b"no-store, no-cache")], Bypass.NO_STORE),
        ([(CC, b"no-cache"), (CC, b"no-store")], Bypass.NO_STORE),
        ([(CC, b"no-cache = x")], Bypass.NO_CACHE),
        ([(CC, b"no-cache"), (PRAGMA, b"foo")], Bypass.NO_CACHE),
        ([(PRAGMA, b" No-Cache ")], Bypass.NO_CACHE),
        ([(PRAGMA, b"no-cache, x")], Bypass.NONE),
        ([(PRAGMA, b"no-store")], Bypass.NONE),
        ([(CC, b"no-cached")], Bypass.NONE),
        ([(CC, b"private, only-if-cached")], Bypass.NONE),
        ([(CC, b"")], Bypass.NONE),
        ([], Bypass.NONE),
    ],
    check_bypass,
)
