"""Request targets and Host fields."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import Headers
from s3proxy.s3.target import RequestTarget, parse_target, query_params, refuse_connect
from test.s3.table import add_rows


def parse(target: bytes, *hosts: bytes) -> RequestTarget:
    return parse_target(target, Headers([(b"Host", host) for host in hosts]))


class HostTests(SynchronousTestCase):
    """Which Host fields name a host and a port, and which get 400."""


def check_host(case: SynchronousTestCase, value: bytes, host: str, port: int) -> None:
    target = parse(b"/b/k", value)
    case.assertEqual((target.host, target.port), (host, port))
    case.assertEqual((target.named_host, target.named_port), (host, port))


def check_bad_host(case: SynchronousTestCase, value: bytes) -> None:
    for target in (b"/b/k", b"http://good.example/b/k"):
        error = case.assertRaises(S3Error, parse, target, value)
        case.assertEqual((error.status, error.code), (400, "InvalidRequest"))
    error = case.assertRaises(S3Error, parse, b"http://" + value + b"/b/k", b"good.example")
    case.assertEqual(error.status, 400)


# The vectors of doc/faults.md.
add_rows(
    HostTests,
    "V3",
    [
        (b"example.com", "example.com", 80),
        (b"example.com:8080", "example.com", 8080),
        (b"127.0.0.1:80", "127.0.0.1", 80),
        (b"[::1]", "::1", 80),
        (b"[::1]:8081", "::1", 8081),
        (b"[2001:db8::1]:443", "2001:db8::1", 443),
    ],
    check_host,
)
add_rows(
    HostTests,
    "V3_bad",
    [(value,) for value in (b"", b"[::1", b"::1", b"a]b", b"host:", b"host:99999", b"host:http", b"[]")],
    check_bad_host,
)
add_rows(
    HostTests,
    "host",
    [
        (b"[2001:DB8:0:0:0:0:0:1]:443", "2001:db8::1", 443),
        (b"EXAMPLE.com", "example.com", 80),
        (b"example.com.", "example.com", 80),
        (b"example.com.:8080", "example.com", 8080),
        (b"localhost", "localhost", 80),
        (b"my_bucket.s3.amazonaws.com", "my_bucket.s3.amazonaws.com", 80),
        (b"a.b-c.example:1", "a.b-c.example", 1),
        (b"example.com:65535", "example.com", 65535),
        (b"example.com:00080", "example.com", 80),
    ],
    check_host,
)
add_rows(
    HostTests,
    "bad_host",
    [
        (value,)
        for value in (
            b"a:b:c",
            b"[::1]x",
            b"[::1]:",
            b"[::1]:x",
            b"[fe80::1%25eth0]",
            b"[fe80::1%eth0]",
            b"[v1.x]",
            b"[127.0.0.1]",
            b"host:0",
            b"host:65536",
            b"host:+1",
            b"host:-1",
            b"host:1_0",
            b"host:000080",
            b".",
            b"..",
            b"a..b",
            b".a",
            b"a..",
            b"user@host",
            b"user:pw@host",
            b"ho st",
            b"h\xc3\xb6st",
            b"ho%73t",
            b"a,b",
            b"*",
            b"host\\",
            b"a" * 254,
        )
    ],
    check_bad_host,
)


class OriginFormTests(SynchronousTestCase):
    """The bytes that go upstream are the bytes that came."""

    def test_missing_host(self) -> None:
        """Without a Host field nobody knows where to go, whatever the form."""
        for target in (b"/", b"*", b"http://a.example/"):
            error = self.assertRaises(S3Error, parse, target)
            self.assertEqual((error.status, error.code), (400, "MissingHostHeader"))

    def test_two_hosts(self) -> None:
        """Two Host fields are refused, even equal ones."""
        for second in (b"a.example", b"b.example"):
            error = self.assertRaises(S3Error, parse, b"/", b"a.example", second)
            self.assertEqual((error.status, error.code), (400, "InvalidRequest"))

    def test_query_params_is_here_too(self) -> None:
        """Who reads a target reads its query with the same import."""
        self.assertEqual(query_params(parse(b"/?a=1", b"h").query), ((b"a", b"1"),))

    def test_consistent(self) -> None:
        """Authority and Host field agree when they name one endpoint, however they spell it."""
        for authority, host, expected in (
            (b"a.example", b"a.example", True),
            (b"a.example:80", b"a.example", True),
            (b"A.example.", b"a.example:80", True),
            (b"a.example", b"b.example", False),
            (b"a.example:8080", b"a.example", False),
            (b"a.example:8080", b"a.example:8080", True),
            (b"a.example", b"a.example:8080", False),
        ):
            target = parse(b"http://" + authority + b"/k", host)
            self.assertIs(target.consistent, expected, (authority, host))
        self.assertTrue(parse(b"https://a.example/k", b"a.example").consistent)
        self.assertTrue(parse(b"/k", b"a.example:99").consistent)

    def test_authority_routes(self) -> None:
        """The authority says where to connect; what the Host field says is kept beside it."""
        target = parse(b"http://a.example:81/k", b"b.example:82")
        self.assertEqual((target.host, target.port), ("a.example", 81))
        self.assertEqual((target.named_host, target.named_port), ("b.example", 82))

    @given(st.binary(max_size=60), st.lists(st.binary(max_size=30), max_size=2))
    def test_never_fails_otherwise(self, raw: bytes, hosts: list[bytes]) -> None:
        """Any bytes give a target or an error of S3's kind."""
        try:
            target = parse(raw, *hosts)
        except S3Error as error:
            self.assertEqual(error.status, 400)
        else:
            self.assertIsInstance(target, RequestTarget)

    @given(
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60),
        st.sampled_from(["", "http://a.example", "HTTP://a.example:80", "https://a.example"]),
    )
    def test_bytes_stay(self, rest: str, front: str) -> None:
        """Nothing is decoded, merged, re-ordered or dropped, an empty query included."""
        path = b"/" + rest.encode("ascii")
        target = parse(front.encode("ascii") + path, b"a.example")
        self.assertEqual(target.origin_form, path)
        again = target.path if target.query is None else target.path + b"?" + target.query
        self.assertEqual(again, path)


def check_target(
    case: SynchronousTestCase,
    raw: bytes,
    host: str,
    port: int,
    path: bytes,
    query: bytes | None,
    origin_form: bytes,
    absolute: bool,
) -> None:
    target = parse(raw, b"h.example:8080")
    case.assertEqual((target.host, target.port), (host, port))
    case.assertEqual((target.path, target.query), (path, query))
    case.assertEqual(target.origin_form, origin_form)
    case.assertIs(target.absolute, absolute)


def check_bad_target(case: SynchronousTestCase, raw: bytes) -> None:
    error = case.assertRaises(S3Error, parse, raw, b"h.example")
    case.assertEqual(error.status, 400)


H, P = "h.example", 8080
add_rows(
    OriginFormTests,
    "target",
    [
        (b"/", H, P, b"/", None, b"/", False),
        (b"/?", H, P, b"/", b"", b"/?", False),
        (b"/b/k", H, P, b"/b/k", None, b"/b/k", False),
        (b"/b//k/../x/./", H, P, b"/b//k/../x/./", None, b"/b//k/../x/./", False),
        (b"//b", H, P, b"//b", None, b"//b", False),
        (b"/b/k?uploads", H, P, b"/b/k", b"uploads", b"/b/k?uploads", False),
        (b"/b/k?uploads=", H, P, b"/b/k", b"uploads=", b"/b/k?uploads=", False),
        (b"/b/k?a?b", H, P, b"/b/k", b"a?b", b"/b/k?a?b", False),
        (b"/b/%zz", H, P, b"/b/%zz", None, b"/b/%zz", False),
        (b"/b/k;x", H, P, b"/b/k;x", None, b"/b/k;x", False),
        (b"/http://x/", H, P, b"/http://x/", None, b"/http://x/", False),
        (b"*", H, P, b"*", None, b"*", False),
        (b"http://A.example/b/k?x", "a.example", 80, b"/b/k", b"x", b"/b/k?x", True),
        (b"HTTP://a.example:80/b/k", "a.example", 80, b"/b/k", None, b"/b/k", True),
        (b"https://a.example/b/k", "a.example", 443, b"/b/k", None, b"/b/k", True),
        (b"https://a.example:8443/b", "a.example", 8443, b"/b", None, b"/b", True),
        (b"http://a.example", "a.example", 80, b"/", None, b"/", True),
        (b"http://a.example/", "a.example", 80, b"/", None, b"/", True),
        (b"http://a.example?x", "a.example", 80, b"/", b"x", b"/?x", True),
        (b"http://a.example?", "a.example", 80, b"/", b"", b"/?", True),
        (b"http://a.example?x/y", "a.example", 80, b"/", b"x/y", b"/?x/y", True),
        (b"http://a.example//k", "a.example", 80, b"//k", None, b"//k", True),
        (b"http://[::1]:81/k", "::1", 81, b"/k", None, b"/k", True),
        (b"http://a.example/http://b/", "a.example", 80, b"/http://b/", None, b"/http://b/", True),
    ],
    check_target,
)
add_rows(
    OriginFormTests,
    "bad_target",
    [
        (raw,)
        for raw in (
            b"",
            b"b/k",
            b"?x",
            b"**",
            b"a.example:443",
            b"http:/a.example/",
            b"http:///k",
            b"http://",
            b"http://?x",
            b"http://:80/k",
            b"http://u:p@a.example/k",
            b"ftp://a.example/k",
            b"httpx://a.example/k",
            b"/a b",
            b"/a\x00",
            b"/a\r\nX: y",
            b"/\xc3\xa9",
            b"/\x7f",
            b"/a\t",
            b" /a",
        )
    ],
    check_bad_target,
)


class ConnectTests(SynchronousTestCase):
    """CONNECT is not served."""

    def test_refused(self) -> None:
        """A proper request gets 405, a malformed one 400."""
        for target, status in (
            (b"a.example:443", 405),
            (b"[::1]:443", 405),
            (b"a.example", 400),
            (b"a.example:x", 400),
            (b"/b/k", 400),
            (b"a b:443", 400),
            (b"", 400),
        ):
            self.assertEqual(self.assertRaises(S3Error, refuse_connect, target).status, status, target)
