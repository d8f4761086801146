"""Tests for :mod:`s3proxy.tunnel.client_hello`."""

from test.tunnel.hellos import GREASE, client_hello, extension, number, real_hello, records, server_names, vector

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.tunnel.client_hello import LARGEST_HELLO, ClientHello, ClientHelloReader, HelloError, HelloFault

HOST = b"bucket.s3.us-east-1.amazonaws.com"


def read(data: bytes) -> ClientHello | None:
    """What a reader makes of bytes that come at once."""
    return ClientHelloReader().feed(data)


def fault(data: bytes) -> HelloFault | None:
    """Why it refuses them, if it does."""
    try:
        read(data)
    except HelloError as error:
        return error.fault
    return None


def named(name: bytes) -> bytes:
    """A ClientHello for this name."""
    return records(client_hello(server_names(name)))


class ReadingTests(SynchronousTestCase):
    """ClientHelloReader."""

    def test_what_openssl_sends(self) -> None:
        """A real ClientHello names its server, and is kept as it came."""
        data = real_hello("bucket.s3.us-east-1.amazonaws.com")
        reader = ClientHelloReader()
        hello = reader.feed(data)
        assert hello is not None
        self.assertEqual(hello.server_name, HOST.decode())
        self.assertEqual(hello.random, data[11:43])
        self.assertFalse(hello.encrypted)
        self.assertEqual(bytes(reader.received), data)

    def test_byte_by_byte(self) -> None:
        """It is known with its last byte, and not before."""
        data = named(HOST)
        reader = ClientHelloReader()
        found = [reader.feed(data[at : at + 1]) for at in range(len(data))]
        self.assertEqual(found[:-1], [None] * (len(data) - 1))
        self.assertEqual(found[-1].server_name if found[-1] else None, HOST.decode())

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.integers(1, 200), st.lists(st.integers(0, 900), max_size=12), st.binary(max_size=40))
    def test_any_split(self, record_size: int, cuts: list[int], rest: bytes) -> None:
        """Neither records nor packets matter; what follows the message is kept."""
        hello = client_hello(extension(GREASE, b"\0"), server_names(HOST), extension(16, b"\0\x03\x02h2"))
        data = records(hello, record_size)
        reader = ClientHelloReader()
        edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
        found = None
        for start, stop in zip(edges, edges[1:]):
            self.assertIsNone(found)
            found = reader.feed(data[start:stop] + (rest if stop == len(data) else b""))
        assert found is not None
        self.assertEqual(found.server_name, HOST.decode())
        self.assertEqual(bytes(reader.received), data + rest)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.lists(st.binary(max_size=600), max_size=8))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Whatever comes, there is an answer or a fault, and never anything else."""
        reader = ClientHelloReader()
        try:
            for piece in pieces:
                if reader.feed(piece) is not None:
                    return
        except HelloError as error:
            self.assertIsInstance(error.fault, HelloFault)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.data())
    def test_damaged_bytes(self, data: st.DataObject) -> None:
        """A ClientHello with some bytes changed is read, refused, or waited for."""
        hello = bytearray(records(client_hello(extension(GREASE, b""), server_names(HOST), extension(43, b"\x02\3\4"))))
        for at in data.draw(st.lists(st.integers(0, len(hello) - 1), max_size=4)):
            hello[at] = data.draw(st.integers(0, 255))
        try:
            found = read(bytes(hello))
        except HelloError:
            return
        if found is not None:
            self.assertRegex(found.server_name, r"\A[a-z0-9_.-]{1,253}\Z")

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.binary(max_size=300))
    def test_any_names(self, content: bytes) -> None:
        """Whatever the extension holds, a name that is found is a host name."""
        try:
            found = read(records(client_hello(extension(0, content))))
        except HelloError:
            return
        assert found is not None
        self.assertRegex(found.server_name, r"\A[a-z0-9_.-]{1,253}\Z")

    def test_names_are_brought_to_one_spelling(self) -> None:
        """Upper case and a dot at the end make no difference."""
        for name in (b"S3.Us-East-1.AmazonAWS.com", b"s3.us-east-1.amazonaws.com."):
            found = read(named(name))
            self.assertEqual(found and found.server_name, "s3.us-east-1.amazonaws.com")

    def test_names_of_other_types(self) -> None:
        """Entries that are no host names are left aside."""
        entries = number(7, 1) + vector(b"x", 2) + number(0, 1) + vector(HOST, 2)
        found = read(records(client_hello(extension(0, vector(entries, 2)))))
        self.assertEqual(found and found.server_name, HOST.decode())

    def test_outer_name(self) -> None:
        """With an encrypted ClientHello inside, the outer name counts."""
        found = read(records(client_hello(extension(0xFE0D, b"\0" * 90), server_names(HOST))))
        assert found is not None
        self.assertTrue(found.encrypted)
        self.assertEqual(found.server_name, HOST.decode())

    def test_large_hello(self) -> None:
        """Keys against quantum computers make the message large, and padding larger."""
        for size in (1200, 8000, 15000):
            data = records(client_hello(extension(51, b"k" * size), server_names(HOST)))
            found = read(data)
            self.assertEqual(found and found.server_name, HOST.decode())

    def test_nothing_more_is_kept_than_allowed(self) -> None:
        """A message that goes on and on is given up at 16 KiB."""
        data = records(b"\x01" + number(LARGEST_HELLO - 4, 3) + b"x" * LARGEST_HELLO, 100)
        reader = ClientHelloReader()
        with self.assertRaises(HelloError) as caught:
            for at in range(0, len(data), 1000):
                reader.feed(data[at : at + 1000])
        self.assertEqual(caught.exception.fault, HelloFault.TOO_LONG)
        self.assertLess(len(reader.received), LARGEST_HELLO + 1000)


_FAULTS: dict[str, tuple[HelloFault, bytes]] = {
    "no_extensions": (HelloFault.NO_NAME, records(client_hello())),
    "no_name": (HelloFault.NO_NAME, records(client_hello(extension(GREASE, b"")))),
    "name_of_unknown_type": (HelloFault.NO_NAME, records(client_hello(server_names(HOST, kind=9)))),
    "ech_only": (HelloFault.ENCRYPTED_NAME, records(client_hello(extension(0xFE0D, b"\0" * 90)))),
    "ipv4": (HelloFault.BAD_NAME, named(b"169.254.169.254")),
    "ipv6": (HelloFault.BAD_NAME, named(b"fd00:ec2::254")),
    "bracketed_ipv6": (HelloFault.BAD_NAME, named(b"[::1]")),
    "short_ipv4": (HelloFault.BAD_NAME, named(b"127.1")),
    "decimal_ipv4": (HelloFault.BAD_NAME, named(b"2130706433")),
    "hexadecimal_ipv4": (HelloFault.BAD_NAME, named(b"0x7f.0.0.0x1")),
    "octal_ipv4": (HelloFault.BAD_NAME, named(b"0177.0.0.01")),
    "empty_name": (HelloFault.BAD_NAME, named(b"")),
    "dot": (HelloFault.BAD_NAME, named(b".")),
    "two_dots": (HelloFault.BAD_NAME, named(b"s3..amazonaws.com")),
    "two_dots_at_the_end": (HelloFault.BAD_NAME, named(b"s3.amazonaws.com..")),
    "port": (HelloFault.BAD_NAME, named(b"s3.amazonaws.com:443")),
    "nul": (HelloFault.BAD_NAME, named(b"s3.amazonaws.com\0.example.org")),
    "line_feed": (HelloFault.BAD_NAME, named(b"s3.amazonaws.com\n")),
    "not_ascii": (HelloFault.BAD_NAME, named("bücket.example".encode())),
    "long_label": (HelloFault.BAD_NAME, named(b"a" * 64 + b".example")),
    "long_name": (HelloFault.BAD_NAME, named(b"a.a." * 64)),
    "two_host_names": (HelloFault.MALFORMED, records(client_hello(server_names(HOST, b"other.example")))),
    "two_extensions": (HelloFault.MALFORMED, records(client_hello(server_names(HOST), server_names(HOST)))),
    "empty_list": (HelloFault.MALFORMED, records(client_hello(extension(0, b"\0\0")))),
    "empty_extension": (HelloFault.MALFORMED, records(client_hello(extension(0, b"")))),
    "length_beyond_the_end": (HelloFault.MALFORMED, records(client_hello(extension(0, b"\0\x10\0\0\x0dabc")))),
    "long_session": (HelloFault.MALFORMED, records(client_hello(server_names(HOST), session=b"s" * 33))),
    "http": (HelloFault.HTTP, b"GET / HTTP/1.1\r\nHost: s3.amazonaws.com\r\n\r\n"),
    "http_2": (HelloFault.HTTP, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "connect": (HelloFault.HTTP, b"CONNECT s3.amazonaws.com:443 HTTP/1.1\r\n\r\n"),
    "ssh": (HelloFault.NOT_TLS, b"SSH-2.0-OpenSSH_9.0\r\n"),
    "sslv2": (HelloFault.NOT_TLS, b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10"),
    "alert": (HelloFault.NOT_TLS, b"\x15\x03\x03\x00\x02\x02\x28"),
    "server_hello": (HelloFault.NOT_TLS, records(b"\x02" + vector(b"x" * 40, 3))),
    "tls_4": (HelloFault.NOT_TLS, b"\x16\x04\x00\x00\x10"),
    "empty_record": (HelloFault.NOT_TLS, b"\x16\x03\x01\x00\x00"),
    "endless_record": (HelloFault.NOT_TLS, b"\x16\x03\x01\xff\xff"),
    "other_record_within": (HelloFault.NOT_TLS, records(client_hello(server_names(HOST)), 20)[:25] + b"\x17\x03\x03"),
    "large_message": (HelloFault.TOO_LONG, records(b"\x01\x00\x40\x00" + b"x" * 100)),
    "largest_record": (HelloFault.TOO_LONG, b"\x16\x03\x01\x40\x00"),
}


class FaultTests(SynchronousTestCase):
    """What is no ClientHello with a host name."""


def _add(label: str, expected: HelloFault, data: bytes) -> None:
    def test(self: FaultTests) -> None:
        self.assertEqual(fault(data), expected)

    test.__doc__ = f"{label}: {expected.value}."
    setattr(FaultTests, f"test_{label}", test)


for _label, (_expected, _data) in _FAULTS.items():
    _add(_label, _expected, _data)
