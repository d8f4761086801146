"""Tests for :mod:`s3proxy.upstream.destinations`: attacks on it, and what it must let through."""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from test.upstream.tools import Override, Settings
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.client import Upstream
from s3proxy.upstream.destinations import AddressClass, DestinationPolicy, address_class, is_aws_name
from s3proxy.upstream.interfaces import UpstreamRefused
from s3proxy.upstream.nameservers import Answer

S3 = "s3.us-east-1.amazonaws.com"
EVIL = "evil.example"

#: IPv4 addresses that nobody may reach unless an operator says so.
INNER = (
    "0.0.0.0", "0.0.0.1", "0.255.255.255", "10.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200",
    "100.127.255.255", "127.0.0.1", "127.0.0.53", "127.1.2.3", "127.255.255.255", "168.63.129.16", "169.254.0.1",
    "169.254.169.123", "169.254.169.253", "169.254.169.254", "169.254.170.2", "169.254.170.23", "172.16.0.1",
    "172.31.255.255", "192.0.0.192", "192.168.0.0", "192.168.255.255", "198.18.0.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255",
)  # fmt: skip
#: IPv6 addresses of the same kind.
INNER6 = (
    "::", "::1", "fe80::1", "febf::1", "fec0::1", "fc00::1", "fdff::1", "fd00:ec2::254", "fd00:ec2::253",
    "fd20:ce::254", "ff02::1", "ff05::2", "64:ff9b:1::7f00:1", "2001::1", "2001:10::1", "2001:db8::1", "100::1",
    "5f00::1", "4000::1",
)  # fmt: skip


def wrappings(ip: str) -> dict[str, str]:
    """IPv6 addresses whose packets end at this IPv4 address, by how they hold it."""
    number = int(ipaddress.IPv4Address(ip))
    high, low = number >> 16, number & 0xFFFF
    return {
        "mapped": f"::ffff:{ip}",
        "mapped_hexadecimal": f"::ffff:{high:x}:{low:x}",
        "mapped_in_full": f"0000:0000:0000:0000:0000:FFFF:{high:04X}:{low:04X}",
        "translated": f"::ffff:0:{ip}",
        "nat64": f"64:ff9b::{ip}",
        "six_to_four": f"2002:{high:x}:{low:x}::1",
        "isatap": f"2600::5efe:{ip}",
        "compatible": f"::{ip}",
    }


class ClassTests(SynchronousTestCase):
    """address_class."""

    def test_public(self) -> None:
        """Addresses of S3 and of others on the Internet, and what holds these."""
        for ip in ("52.216.1.2", "3.5.0.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "11.0.0.1", "223.255.255.255"):
            self.assertIs(address_class(ip), AddressClass.PUBLIC, ip)
            for name, wrapped in wrappings(ip).items():
                self.assertIs(address_class(wrapped), AddressClass.PUBLIC, name)
        for ip in ("2600:1fa0:80c4::1", "2a05:d050:8020::1"):
            self.assertIs(address_class(ip), AddressClass.PUBLIC, ip)

    def test_no_address(self) -> None:
        """What is no address is forbidden."""
        for text in ("", "localhost", "127.1", "0177.0.0.1", "1.2.3.4.5", "fe80::1%eth0", "2600::1%1", "[::1]"):
            self.assertIs(address_class(text), AddressClass.FORBIDDEN, text)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.ip_addresses())
    def test_no_global_address_is_only_so_here(self, address: Any) -> None:
        """Whatever Python's registry calls not global is not public here either."""
        if address_class(str(address)) is AddressClass.PUBLIC and getattr(address, "sixtofour", None) is None:
            held = getattr(address, "ipv4_mapped", None) or address
            inside = wrapped_v4(str(held))
            self.assertTrue(held.is_global or inside, str(address))


def wrapped_v4(ip: str) -> bool:
    """Whether an address holds a public IPv4 address in a way that Python's registry does not look into."""
    number = int(ipaddress.ip_address(ip))
    return ":" in ip and address_class(str(ipaddress.IPv4Address(number & 0xFFFFFFFF))) is AddressClass.PUBLIC


class AttackTests(SynchronousTestCase):
    """Addresses that DNS gives for a name, or that a client names itself: all are refused, in every spelling."""


def _add_attack(label: str, ip: str) -> None:
    def test(self: AttackTests) -> None:
        for policy in (DestinationPolicy(), DestinationPolicy(allowlist=["*.example"], own_resolver=True)):
            self.assertRaises(UpstreamRefused, policy.check_address, EVIL, ip, 443)
            self.assertRaises(UpstreamRefused, policy.check_address, ip, ip, 443)
            self.assertRaises(UpstreamRefused, policy.permitted, EVIL, [(ip, 443), (ip, 80)])
            self.assertEqual(policy.permitted(EVIL, [(ip, 443), ("8.8.8.8", 443)]), [("8.8.8.8", 443)])

    test.__doc__ = f"{ip} is refused."
    setattr(AttackTests, f"test_{label}", test)


for _ip in INNER:
    _add_attack(_ip.replace(".", "_"), _ip)
    for _name, _wrapped in wrappings(_ip).items():
        _add_attack(f"{_ip.replace('.', '_')}_{_name}", _wrapped)
for _ip in INNER6:
    _add_attack(_ip.replace(":", "_"), _ip)
    _add_attack(_ip.replace(":", "_") + "_in_full", ipaddress.IPv6Address(_ip).exploded.upper())


class NameTests(SynchronousTestCase):
    """check_host."""

    def test_odd_spellings(self) -> None:
        """Numbers that some library takes for an address are no host names."""
        odd = (
            "2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "127.0.0.0x1",
            "0x7f.0x0.0x0.0x1", "00000177.0.0.1", "127.00.0.01", "169.254.43518", "0xa9fea9fe", "2852039166",
            "0251.0376.0251.0376", "1.2.3.4.5", "foo.0", "fe80::1%eth0", "fe80::1%25eth0", "0x", "1", "256.256.256.256",
        )  # fmt: skip
        for host in odd:
            self.assertRaises(UpstreamRefused, DestinationPolicy().check_host, host)

    def test_usual_spellings(self) -> None:
        """Names and addresses in their usual spelling pass."""
        for host in (S3, "3scale.example", "0x.example", "1.example", "8.8.8.8", "2600::1", "localhost", "a_b.example"):
            DestinationPolicy().check_host(host)

    def test_list(self) -> None:
        """With a list in force, names and what is below the suffixes pass, and nothing else."""
        policy = DestinationPolicy(allowlist=["*.amazonaws.com", "Store.lan"])
        for host in ("amazonaws.com", S3, "a.b.c.amazonaws.com", "store.lan"):
            policy.check_host(host)
        for host in (
            "xamazonaws.com",
            "amazonaws.com.evil.example",
            "a.store.lan",
            "store.lan.evil.example",
            "8.8.8.8",
        ):
            self.assertRaises(UpstreamRefused, policy.check_host, host)

    def test_empty_list(self) -> None:
        """An empty list permits nothing."""
        self.assertRaises(UpstreamRefused, DestinationPolicy(allowlist=[]).check_host, S3)

    def test_tunnel_port(self) -> None:
        """Tunnels lead to port 443."""
        DestinationPolicy().check_tunnel_port(S3, 443)
        for port in (22, 25, 80, 6379, 8443):
            self.assertRaises(UpstreamRefused, DestinationPolicy().check_tunnel_port, S3, port)

    def test_names_of_aws(self) -> None:
        """S3's own names are told from those that people give to instances."""
        for host in (
            "s3.amazonaws.com", S3, f"my.bucket.{S3}", "b.s3.dualstack.eu-west-1.amazonaws.com",
            "s3-us-west-2.amazonaws.com",
            "b.s3-accelerate.amazonaws.com", "ap-123456789012.s3-accesspoint.us-east-1.amazonaws.com",
            "x.accesspoint.s3-global.amazonaws.com", "bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com",
            "b.s3.cn-north-1.amazonaws.com.cn",
        ):  # fmt: skip
            self.assertTrue(is_aws_name(host), host)
        for host in (
            "ec2-1-2-3-4.compute-1.amazonaws.com", "ip-10-0-0-1.ec2.internal", "s3.evil.example", "amazonaws.com",
            "s3.us-east-1.amazonaws.com.evil.example", "x.elb.us-east-1.amazonaws.com",
            "s3.internal.big.deep.name.ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
        ):  # fmt: skip
            self.assertFalse(is_aws_name(host), host)


class VouchedTests(SynchronousTestCase):
    """What operators say in their configuration."""

    def permits(self, policy: DestinationPolicy, host: str, ip: str, vouched: bool = False, port: int = 443) -> bool:
        try:
            policy.check_address(host, ip, port, vouched)
        except UpstreamRefused:
            return False
        return True

    def test_listed_address(self) -> None:
        """An address that is listed for a host is permitted for that host, whatever it is, and for no other."""
        listed = ["10.0.1.100", "169.254.1.2:8443", "[fd00::1]:443", "169.254.1.1"]
        policy = DestinationPolicy(overrides={S3: listed, "*.store.lan": ["192.168.1.1"]})
        self.assertTrue(self.permits(policy, S3, "169.254.1.2", port=8443))
        self.assertFalse(self.permits(policy, S3, "169.254.1.2"))
        for ip in ("10.0.1.100", "fd00::1", "169.254.1.1", "::ffff:10.0.1.100"):
            self.assertTrue(self.permits(policy, S3, ip), ip)
            self.assertFalse(self.permits(policy, EVIL, ip), ip)
        self.assertTrue(self.permits(policy, "a.store.lan", "192.168.1.1"))
        self.assertFalse(self.permits(policy, S3, "169.254.169.254"))

    def test_address_for_a_port(self) -> None:
        """What is listed for a host on the port that clients name is permitted for those clients alone."""
        policy = DestinationPolicy(overrides={"store.lan:9000": ["10.0.1.100"]})
        policy.check_address("store.lan", "10.0.1.100", 443, asked=9000)
        for asked in (80, 443, None):
            self.assertRaises(UpstreamRefused, policy.check_address, "store.lan", "10.0.1.100", 443, asked=asked)

    def test_client_that_names_a_listed_address(self) -> None:
        """A client may name an address that is listed for some host."""
        policy = DestinationPolicy(overrides={S3: ["10.0.1.100", "10.0.1.102:8443"]})
        self.assertTrue(self.permits(policy, "10.0.1.100", "10.0.1.100"))
        self.assertTrue(self.permits(policy, "10.0.1.102", "10.0.1.102", port=8443))
        self.assertFalse(self.permits(policy, "10.0.1.102", "10.0.1.102"))
        self.assertFalse(self.permits(policy, "10.0.1.101", "10.0.1.101"))

    def test_host_with_a_name_for_target(self) -> None:
        """Where a name stands for the address, private addresses and loopback are meant; metadata services are not."""
        policy = DestinationPolicy(overrides={S3: ["vpce-1.s3.us-east-1.vpce.amazonaws.com"]})
        self.assertTrue(self.permits(policy, S3, "10.0.1.100"))
        self.assertTrue(self.permits(policy, S3, "127.0.0.1"))
        self.assertFalse(self.permits(policy, S3, "169.254.169.254"))

    def test_store_with_an_entry(self) -> None:
        """The same holds for what upstream_overrides names."""
        policy = DestinationPolicy()
        self.assertTrue(self.permits(policy, "minio.lan", "192.168.1.5", vouched=True))
        self.assertTrue(self.permits(policy, "localhost", "127.0.0.1", vouched=True))
        self.assertFalse(self.permits(policy, "minio.lan", "169.254.169.254", vouched=True))

    def test_resolver_in_a_vpc(self) -> None:
        """An operator's own resolver may lead S3's names, and no others, to private addresses, but not to loopback."""
        policy = DestinationPolicy(own_resolver=True)
        self.assertTrue(self.permits(policy, S3, "10.0.1.100"))
        self.assertTrue(self.permits(policy, f"bucket.{S3}", "fd12::1"))
        self.assertFalse(self.permits(DestinationPolicy(), S3, "10.0.1.100"))
        for host, ip in (
            (EVIL, "10.0.1.100"),
            ("ec2-1-2-3-4.compute-1.amazonaws.com", "10.0.1.100"),
            (S3, "127.0.0.1"),
            (S3, "169.254.169.254"),
            (S3, "fd00:ec2::254"),
        ):
            self.assertFalse(self.permits(policy, host, ip), (host, ip))


class Connector:
    """A connection that never comes about."""

    def stopConnecting(self) -> None:
        """Called by who has waited long enough."""


class RebindingTests(SynchronousTestCase):
    """The address that is looked at is the one that is dialled, however often DNS changes its mind."""

    def upstream(
        self,
        answers: Callable[[], Sequence[str]],
        dialled: list[tuple[str, int]],
        own: frozenset[tuple[str, int]] = frozenset(),
        overrides: Mapping[str, Override] | None = None,
        policy: DestinationPolicy = DestinationPolicy(),
    ) -> Upstream:
        def connect(ip: str, port: int, factory: Any, seconds: float) -> Any:
            dialled.append((ip, port))
            return Connector()

        def lookup(name: str) -> "Deferred[Answer]":
            return succeed(Answer(tuple(answers()), 0.0))

        self.clock = Clock()
        return Upstream(
            self.clock,
            Settings(upstream_overrides=overrides or {}),
            own_addresses=lambda: own,
            policy=policy,
            lookup=lookup,
            connect=connect,
        )

    def test_found_addresses_are_permitted_ones(self) -> None:
        """A name that resolves to anything forbidden leads nowhere, or to what is left."""
        upstream = self.upstream(lambda: ["169.254.169.254", "8.8.8.8", "10.0.0.1", "127.0.0.1"], [])
        self.assertEqual(self.successResultOf(upstream.find(EVIL, 443)), [("8.8.8.8", 443)])

    def test_answer_that_changes(self) -> None:
        """A public address first and a private one later: the later one is refused, too."""
        answers = [["8.8.8.8"], ["127.0.0.1"]]
        upstream = self.upstream(lambda: answers.pop(0), [])
        self.assertEqual(self.successResultOf(upstream.find(EVIL, 443)), [("8.8.8.8", 443)])
        self.clock.advance(200)
        self.failureResultOf(upstream.find(EVIL, 443), UpstreamRefused)

    def test_probe_of_a_private_endpoint(self) -> None:
        """An address that was permitted for a host, and at which tunnels found nobody, is probed, although by itself
        nobody might reach it.
        """
        dialled: list[tuple[str, int]] = []
        upstream = self.upstream(lambda: ["10.0.1.100"], dialled, policy=DestinationPolicy(own_resolver=True))
        (address,) = self.successResultOf(upstream.find(S3, 443))
        for _ in range(3):
            upstream.dialled(*address, False)
        self.assertEqual(upstream.snapshot()["excluded"], ["10.0.1.100:443"])
        self.clock.advance(5)
        self.assertEqual(dialled, [("10.0.1.100", 443)])
        upstream.stop()

    def test_own_address(self) -> None:
        """The proxy itself is not found, also by a public address that is this machine's."""
        upstream = self.upstream(lambda: ["8.8.8.8"], [], own=frozenset({("8.8.8.8", 443)}))
        self.failureResultOf(upstream.find(S3, 443), UpstreamRefused)

    def test_name_below_a_trusted_store(self) -> None:
        """Trust in a store on one port is no trust in the same host on others."""
        upstream = self.upstream(lambda: ["192.168.1.5"], [], overrides={"minio.lan:9000": Override()})
        self.failureResultOf(upstream.find("minio.lan", 443), UpstreamRefused)
        self.assertEqual(self.successResultOf(upstream.find("minio.lan", 9000)), [("192.168.1.5", 9000)])
