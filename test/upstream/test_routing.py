"""Tests of s3proxy.upstream.routing."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.interfaces import UpstreamRefused
from s3proxy.upstream.routing import LoopGuard, Route, Router, TLSPolicy, host_and_port, ip_literal, local_address
from test.upstream.tools import Override


class AddressTests(SynchronousTestCase):
    """Addresses as text."""

    def test_host_and_port(self) -> None:
        """Names, IPv4 and IPv6 addresses, with and without ports."""
        for text, expected in (
            ("S3.test", ("s3.test", None)),
            ("s3.test:9000", ("s3.test", 9000)),
            ("192.0.2.1", ("192.0.2.1", None)),
            ("192.0.2.1:53", ("192.0.2.1", 53)),
            ("2001:DB8::1", ("2001:db8::1", None)),
            ("[2001:db8::1]", ("2001:db8::1", None)),
            ("[2001:db8::1]:53", ("2001:db8::1", 53)),
        ):
            self.assertEqual(host_and_port(text), expected)
        for text in ("", ":80", "a:", "a:x", "a:0", "a:65536", "a:٥", "[::1", "[::1]x"):
            self.assertRaises(ValueError, host_and_port, text)

    def test_ip_literal(self) -> None:
        """Addresses in one spelling; an IPv4 address in IPv6's clothes is the IPv4 address."""
        for text, expected in (
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("s3.test", None),
            ("192.0.2", None),
            ("0192.0.2.1", None),
        ):
            self.assertEqual(ip_literal(text), expected)


class RouterTests(SynchronousTestCase):
    """Overrides of the transport."""

    def setUp(self) -> None:
        self.overrides = {
            "Store.test:9000": Override("http"),
            "deep.store.test:9000": Override("https", validate_tls=False),
            "secure.test:9443": Override("https", ca_file="/ca.pem"),
            "192.0.2.1:9000": Override("http"),
            "[2001:db8::1]:9000": Override("http"),
        }
        self.router = Router(self.overrides, {"pinned.test": ["192.0.2.9"], "*.vpce.test": ["192.0.2.8"]})

    def test_default(self) -> None:
        """Without an override: verified TLS to port 443, whatever port was named."""
        for port in (80, 443, 8080):
            self.assertEqual(self.router.route("s3.amazonaws.com", port), Route("s3.amazonaws.com", 443, TLSPolicy()))

    def test_exact(self) -> None:
        """An override gives scheme, port, verification and authorities."""
        self.assertEqual(self.router.route("store.test", 9000), Route("store.test", 9000, None, True))
        expected = TLSPolicy(True, "/ca.pem")
        self.assertEqual(self.router.route("secure.test", 9443), Route("secure.test", 9443, expected, True))

    def test_below(self) -> None:
        """An override of a name holds for every name below it; the longest name wins."""
        self.assertIsNone(self.router.route("a.b.store.test", 9000).tls)
        self.assertEqual(self.router.route("b.deep.store.test", 9000).tls, TLSPolicy(verify=False))

    def test_not_at_a_label(self) -> None:
        """Names that merely end with the same letters, and other ports, are not meant."""
        for host, port in (("mystore.test", 9000), ("store.test", 9001), ("store.test", 80), ("test", 9000)):
            self.assertEqual(self.router.route(host, port).port, 443)

    def test_ip_literals(self) -> None:
        """Addresses match in every spelling, but only as a whole."""
        self.assertIsNone(self.router.route("192.0.2.1", 9000).tls)
        self.assertIsNone(self.router.route("2001:db8:0::1", 9000).tls)
        router = Router({"2.1:9000": Override("http")}, {})
        self.assertEqual(router.route("192.0.2.1", 9000).port, 443)

    def test_pinned_hosts(self) -> None:
        """Hosts of endpoint_overrides are offered nothing newer than TLS 1.2."""
        for host in ("pinned.test", "a.vpce.test", "b.a.vpce.test"):
            self.assertEqual(self.router.route(host, 80).tls, TLSPolicy(tls12_only=True), host)
        for host in ("x.pinned.test", "vpce.test", "avpce.test"):
            self.assertEqual(self.router.route(host, 80).tls, TLSPolicy(), host)

    def test_key_without_port(self) -> None:
        """A key that names no port is an error."""
        self.assertRaises(ValueError, Router, {"store.test": Override()}, {})


class LoopTests(SynchronousTestCase):
    """The proxy never dials itself."""

    def guard(self, *own: tuple[str, int]) -> LoopGuard:
        return LoopGuard(lambda: frozenset(own), lambda ip: ip in ("127.0.0.1", "192.0.2.7"))

    def test_own_address(self) -> None:
        """The very address and port of a listener are refused, others are not."""
        guard = self.guard(("192.0.2.7", 80), ("::ffff:192.0.2.8", 80))
        for ip in ("192.0.2.7", "192.0.2.8"):
            error = self.assertRaises(UpstreamRefused, guard.check, "s3.test", ip, 80)
            self.assertIn("dns_servers", str(error))
        guard.check("s3.test", "192.0.2.7", 443)
        guard.check("s3.test", "127.0.0.1", 80)

    def test_other_spellings(self) -> None:
        """DNS may name one of our addresses so that it looks like another: IPv4 within IPv6, or no address at all,
        which the kernel takes for the machine itself.
        """
        guard = self.guard(("127.0.0.1", 443))
        for ip in ("::ffff:127.0.0.1", "0.0.0.0", "::"):
            self.assertRaises(UpstreamRefused, guard.check, "s3.test", ip, 443)
        self.assertRaises(UpstreamRefused, self.guard(("0.0.0.0", 443)).check, "s3.test", "::ffff:192.0.2.7", 443)
        self.assertRaises(UpstreamRefused, self.guard(("::1", 443)).check, "s3.test", "::", 443)

    def test_wildcard(self) -> None:
        """A listener on all addresses makes every address of the machine ours, at its port."""
        for wildcard in ("0.0.0.0", "::", ""):
            guard = self.guard((wildcard, 443))
            self.assertRaises(UpstreamRefused, guard.check, "s3.test", "127.0.0.1", 443)
            guard.check("s3.test", "192.0.2.99", 443)
            guard.check("s3.test", "127.0.0.1", 9443)

    def test_local_addresses(self) -> None:
        """The machine's own addresses are recognised."""
        self.assertTrue(local_address("127.0.0.1"))
        self.assertTrue(local_address("0.0.0.0"))
        self.assertFalse(local_address("192.0.2.1"))
