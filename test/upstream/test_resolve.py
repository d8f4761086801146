"""Tests of s3proxy.upstream.resolve."""

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import TimeoutError
from twisted.internet.task import Clock, deferLater
from twisted.names import dns, error, server
from twisted.names.common import ResolverBase
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from s3proxy.upstream.interfaces import UpstreamUnreachable
from s3proxy.upstream.resolve import Answer, DNSClient, Resolver, Target, has_route
from test.support import fake_dns as support
from test.support.fake_dns import DNSAnswer


class FakeDNS:
    """Answers look-ups when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting: list[Deferred[Answer]] = []

    def lookup(self, name: str) -> "Deferred[Answer]":
        self.asked.append(name)
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def answer(self, *ips: str, ttl: float = 60.0) -> None:
        self.waiting.pop(0).callback(Answer(ips, ttl))

    def fail(self) -> None:
        self.waiting.pop(0).errback(TimeoutError("nobody there"))


class ResolverTests(SynchronousTestCase):
    """The cache and the overrides."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.dns = FakeDNS()
        self.resolver = self.make({})

    def make(self, overrides: Mapping[str, Sequence[str]], max_ttl: float = 60.0, max_names: int = 100) -> Resolver:
        return Resolver(self.clock, self.dns.lookup, overrides, max_ttl, max_names)

    def ips(self, name: str = "s3.test") -> list[str]:
        """The addresses that are known without waiting."""
        return [target.ip for target in self.successResultOf(self.resolver.resolve(name))]

    def test_cached_for_its_ttl(self) -> None:
        """One query serves until the TTL is over."""
        waiting = self.resolver.resolve("s3.test")
        self.dns.answer("192.0.2.1", "192.0.2.2", ttl=20)
        self.assertEqual(self.successResultOf(waiting), (Target("192.0.2.1"), Target("192.0.2.2")))
        self.clock.advance(19)
        self.ips()
        self.assertEqual(self.dns.asked, ["s3.test"])

    def test_at_hand(self) -> None:
        """What resolve() gives at once; whatever else is right, it must be asked for the rest."""
        self.assertIsNone(self.resolver.at_hand("s3.test"))
        self.resolver.resolve("s3.test")
        self.assertIsNone(self.resolver.at_hand("s3.test"))
        self.dns.answer("192.0.2.1", "192.0.2.2", ttl=20)
        self.assertEqual(self.resolver.at_hand("s3.test"), (Target("192.0.2.1"), Target("192.0.2.2")))
        self.clock.advance(20)
        self.assertIsNone(self.resolver.at_hand("s3.test"))

    def test_overrides_at_hand(self) -> None:
        """Overrides by addresses are; those by names, and names that a suffix may match, are not."""
        self.resolver = self.make({"a.test": ["192.0.2.1:8", "192.0.2.2"], "b.test": ["192.0.2.1", "other.test"]})
        self.assertEqual(self.resolver.at_hand("a.test"), (Target("192.0.2.1", 8), Target("192.0.2.2")))
        self.assertEqual(self.resolver.at_hand("a.test"), self.successResultOf(self.resolver.resolve("a.test")))
        self.assertIsNone(self.resolver.at_hand("b.test"))
        self.resolver = self.make({"*.test": ["192.0.2.1"], "a.test": ["192.0.2.2"]})
        self.assertIsNone(self.resolver.at_hand("c.test"))
        self.assertEqual(self.resolver.at_hand("a.test"), (Target("192.0.2.2"),))

    def test_bounds_of_the_ttl(self) -> None:
        """No answer is used for less than 5 s, nor for more than the refresh interval."""
        for ttl, held in ((0, 5), (86400, 60)):
            self.setUp()
            self.resolver.resolve("s3.test")
            self.dns.answer("192.0.2.1", ttl=ttl)
            self.clock.advance(held - 0.1)
            self.ips()
            self.assertEqual(len(self.dns.asked), 1)
            self.clock.advance(0.2)
            self.ips()
            self.assertEqual(len(self.dns.asked), 2)

    def test_old_answer_while_asking(self) -> None:
        """An answer just past its TTL is given out while the next one is fetched, a much older one is not."""
        self.resolver.resolve("s3.test")
        self.dns.answer("192.0.2.1", ttl=10)
        self.clock.advance(11)
        self.assertEqual(self.ips(), ["192.0.2.1"])
        self.dns.answer("192.0.2.2", ttl=10)
        self.assertEqual(self.ips(), ["192.0.2.2"])
        self.clock.advance(200)
        waiting = self.resolver.resolve("s3.test")
        self.assertNoResult(waiting)
        self.dns.answer("192.0.2.3")
        self.assertEqual(self.successResultOf(waiting), (Target("192.0.2.3"),))

    def test_single_flight(self) -> None:
        """Many waiters share one query, and one that is cancelled leaves the others alone."""
        waiting = [self.resolver.resolve("s3.test") for _ in range(3)]
        self.assertEqual(len(self.dns.asked), 1)
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.dns.answer("192.0.2.1")
        for waiter in waiting[1:]:
            self.assertEqual(self.successResultOf(waiter), (Target("192.0.2.1"),))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_such_name(self) -> None:
        """A name without addresses fails, and fails for 5 s without another query."""
        waiting = self.resolver.resolve("s3.test")
        self.dns.answer()
        self.failureResultOf(waiting, UpstreamUnreachable)
        self.clock.advance(4.9)
        self.failureResultOf(self.resolver.resolve("s3.test"), UpstreamUnreachable)
        self.assertEqual(len(self.dns.asked), 1)
        self.clock.advance(0.1)
        self.resolver.resolve("s3.test")
        self.assertEqual(len(self.dns.asked), 2)

    def test_servers_fail(self) -> None:
        """Without any answer a new name fails, and the message names the key to look at."""
        waiting = self.resolver.resolve("s3.test")
        self.dns.fail()
        failure = self.failureResultOf(waiting, UpstreamUnreachable)
        self.assertIn("connection_pool.dns_servers", failure.getErrorMessage())

    def test_last_good_answer(self) -> None:
        """When the servers fail, the last addresses go on being used, and the servers are asked every 5 s."""
        self.resolver.resolve("s3.test")
        self.dns.answer("192.0.2.1", ttl=10)
        for _ in range(100):
            self.clock.advance(11)
            waiting = self.resolver.resolve("s3.test")
            self.dns.fail()
            self.assertEqual(self.successResultOf(waiting), (Target("192.0.2.1"),))
        self.assertEqual(len(self.dns.asked), 101)

    def test_patience_with_old_addresses(self) -> None:
        """After a long time without requests a new answer is waited for, but only for a second: then the old one has
        to do.
        """
        self.resolver.resolve("s3.test")
        self.dns.answer("192.0.2.1", ttl=20)
        self.clock.advance(10000)
        waiting = self.resolver.resolve("s3.test")
        self.clock.advance(0.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        self.assertEqual(self.successResultOf(waiting), (Target("192.0.2.1"),))
        self.dns.answer("192.0.2.9")
        self.assertEqual(self.ips(), ["192.0.2.9"])

    def test_has_address(self) -> None:
        """The addresses of names that were looked up, and of overrides of both kinds, are known; others are not."""
        self.resolver = self.make({"a.test": ["192.0.2.7:8"], "*.b.test": ["192.0.2.8"]})
        self.resolver.resolve("s3.test")
        self.dns.answer("192.0.2.1")
        known = [ip for ip in ("192.0.2.1", "192.0.2.7", "192.0.2.8", "192.0.2.9") if self.resolver.has_address(ip)]
        self.assertEqual(known, ["192.0.2.1", "192.0.2.7", "192.0.2.8"])

    def test_patience(self) -> None:
        """A waiter is told after 8 s, or given the old addresses; the query goes on for the next one."""
        waiting = self.resolver.resolve("s3.test")
        self.clock.advance(8)
        self.failureResultOf(waiting, UpstreamUnreachable)
        again = self.resolver.resolve("s3.test")
        self.assertEqual(len(self.dns.asked), 1)
        self.dns.answer("192.0.2.1")
        self.successResultOf(again)
        self.clock.advance(1000)
        late = self.resolver.resolve("s3.test")
        self.clock.advance(8)
        self.assertEqual(self.successResultOf(late), (Target("192.0.2.1"),))

    def test_immediate_lookups(self) -> None:
        """A look-up that ends at once, well or badly, is no special case."""
        resolver = Resolver(self.clock, lambda name: succeed(Answer(("192.0.2.1",), 1.0)), {})
        self.assertEqual(self.successResultOf(resolver.resolve("s3.test")), (Target("192.0.2.1"),))
        resolver = Resolver(self.clock, lambda name: fail(TimeoutError()), {})
        self.failureResultOf(resolver.resolve("s3.test"), UpstreamUnreachable)

    def test_literals(self) -> None:
        """Addresses and localhost need no DNS."""
        for host, ip in (("192.0.2.1", "192.0.2.1"), ("2001:db8:0::1", "2001:db8::1"), ("localhost", "127.0.0.1")):
            self.assertEqual(self.ips(host), [ip])
        self.assertEqual(self.ips("bucket.localhost"), ["127.0.0.1"])
        self.assertEqual(self.dns.asked, [])

    def test_no_name(self) -> None:
        """What can't be a host name is refused before any server is asked."""
        for host in ("", ".", "a..b", "a b", "-a.test", "x" * 64, "a." * 130 + "b", "a/b", "é.test", "a\n"):
            self.failureResultOf(self.resolver.resolve(host), UpstreamUnreachable)
        self.assertEqual(self.dns.asked, [])

    def test_overrides(self) -> None:
        """An exact override beats a suffix, a longer suffix a shorter one; a suffix does not match itself."""
        self.resolver = self.make(
            {
                "a.s3.test": ["192.0.2.1", "192.0.2.2:8443"],
                "*.s3.test": ["192.0.2.3"],
                "*.b.s3.test": ["[2001:db8::1]:9443"],
            }
        )
        for host, expected in (
            ("a.s3.test", (Target("192.0.2.1"), Target("192.0.2.2", 8443))),
            ("c.s3.test", (Target("192.0.2.3"),)),
            ("d.c.s3.test", (Target("192.0.2.3"),)),
            ("x.b.s3.test", (Target("2001:db8::1", 9443),)),
        ):
            self.assertEqual(self.successResultOf(self.resolver.resolve(host)), expected)
        self.assertEqual(self.dns.asked, [])
        self.resolver.resolve("s3.test")
        self.assertEqual(self.dns.asked, ["s3.test"])

    def test_overrides_by_name(self) -> None:
        """An override may be a name, which is looked up; if one of several fails the others are used."""
        self.resolver = self.make({"s3.test": ["one.test:8443", "two.test"]})
        waiting = self.resolver.resolve("s3.test")
        self.dns.answer()
        self.dns.answer("192.0.2.1")
        self.assertEqual(self.successResultOf(waiting), (Target("192.0.2.1"),))
        self.clock.advance(5)
        waiting = self.resolver.resolve("s3.test")
        self.dns.answer("192.0.2.2")
        self.assertEqual(self.successResultOf(waiting), (Target("192.0.2.2", 8443), Target("192.0.2.1")))

    def test_bounded(self) -> None:
        """Only so many names are kept; the ones used least recently go."""
        self.resolver = self.make({}, max_names=2)
        for name in ("a.test", "b.test"):
            self.resolver.resolve(name)
            self.dns.answer("192.0.2.1")
        self.ips("a.test")
        self.resolver.resolve("c.test")
        self.dns.answer("192.0.2.1")
        self.assertEqual(set(self.resolver.known()), {"a.test", "c.test"})


class Zone(ResolverBase):
    """Records for a DNS server; counts the questions."""

    def __init__(self, records: Mapping[tuple[str, int], Sequence[Any]]) -> None:
        super().__init__()
        self.records = records
        self.asked: list[tuple[str, int]] = []
        self.broken = False

    def _lookup(self, name: bytes, cls: int, kind: int, timeout: object) -> "Deferred[Any]":
        key = (name.decode().lower(), kind)
        self.asked.append(key)
        if self.broken:
            return fail(Failure(error.ResolverError()))
        found = self.records.get(key)
        if found is None:
            known = key[0] in {name for name, _ in self.records}
            return succeed(((), (), ())) if known else fail(Failure(error.AuthoritativeDomainError(name)))
        headers = [dns.RRHeader(name, record.TYPE, dns.IN, record.ttl, record, auth=True) for record in found]
        return succeed((headers, (), ()))


class DNSClientTests(TestCase):
    """Against a DNS server on the loopback interface."""

    def serve(self, records: Mapping[tuple[str, int], Sequence[Any]]) -> tuple[Zone, str]:
        """A server over UDP and TCP on one port; gives its zone and address."""
        zone = Zone(records)
        factory = server.DNSServerFactory(clients=[zone])
        factory.noisy = False
        loop: Any = reactor
        tcp = loop.listenTCP(0, factory, interface="127.0.0.1")
        port = tcp.getHost().port
        protocol = dns.DNSDatagramProtocol(factory, reactor=loop)
        protocol.noisy = False
        udp = loop.listenUDP(port, protocol, interface="127.0.0.1")
        self.addCleanup(tcp.stopListening)
        self.addCleanup(udp.stopListening)
        return zone, f"127.0.0.1:{port}"

    async def test_addresses(self) -> None:
        """All A records, with the shortest TTL on the way to them."""
        name = "s3.test"
        records = {
            (name, dns.A): [
                dns.Record_CNAME("real.test", ttl=7),
                dns.Record_A("192.0.2.1", ttl=30),
                dns.Record_A("192.0.2.2", ttl=20),
            ]
        }
        zone, address = self.serve(records)
        answer = await DNSClient(reactor, [address]).lookup(name)
        self.assertEqual(answer, Answer(("192.0.2.1", "192.0.2.2"), 7.0))
        self.assertEqual(zone.asked, [(name, dns.A)])

    async def test_ipv6_only(self) -> None:
        """A name without A records is asked for its AAAA records."""
        zone, address = self.serve({("s3.test", dns.AAAA): [dns.Record_AAAA("2001:db8::1", ttl=30)]})
        answer = await DNSClient(reactor, [address]).lookup("s3.test")
        self.assertEqual(answer, Answer(("2001:db8::1",), 30.0))

    async def test_no_such_name(self) -> None:
        """A server that knows that the name does not exist settles the matter."""
        zone, address = self.serve({("s3.test", dns.A): [dns.Record_A("192.0.2.1", ttl=30)]})
        answer = await DNSClient(reactor, [address]).lookup("nothing.test")
        self.assertEqual(answer, Answer((), 0.0))

    async def test_second_server(self) -> None:
        """A server that fails is passed over, and the one that answered is asked first the next time."""
        records = {("s3.test", dns.A): [dns.Record_A("192.0.2.1", ttl=30)]}
        bad, bad_address = self.serve(records)
        good, good_address = self.serve(records)
        bad.broken = True
        asker = DNSClient(reactor, [bad_address, good_address])
        for _ in range(2):
            self.assertEqual((await asker.lookup("s3.test")).ips, ("192.0.2.1",))
        self.assertEqual((len(bad.asked), len(good.asked)), (1, 2))
        self.flushLoggedErrors(error.ResolverError)

    async def test_all_servers_fail(self) -> None:
        """Servers that fail are asked twice around, then the look-up fails."""
        zone, address = self.serve({})
        zone.broken = True
        with self.assertRaises(error.DNSServerError):
            await DNSClient(reactor, [address]).lookup("s3.test")
        self.assertEqual(len(zone.asked), 2)
        self.flushLoggedErrors(error.ResolverError)

    async def test_many_addresses(self) -> None:
        """An answer too long for a datagram is fetched over TCP."""
        addresses = [f"192.0.2.{number}" for number in range(1, 101)]
        records = {("s3.test", dns.A): [dns.Record_A(address, ttl=30) for address in addresses]}
        zone, address = self.serve(records)
        asker = DNSClient(reactor, [address])
        answer = await asker.lookup("s3.test")
        self.assertEqual(len(answer.ips), 100)
        asker.close()


class ServersTests(TestCase):
    """Several servers on the loopback interface, of which some do not do what they should."""

    timeout = 20

    def serve(self, answer: DNSAnswer) -> tuple[support.FakeDNS, str]:
        """A server that knows one name; gives its address, too."""
        fake = support.FakeDNS(reactor)
        fake.set(b"s3.test", answer)
        port = fake.listen()
        self.addCleanup(lambda: Deferred.fromCoroutine(fake.stop()))
        return fake, f"127.0.0.1:{port}"

    async def test_silent_server(self) -> None:
        """A server that is silent costs a third of a second, and is asked last from then on."""
        silent, silent_address = self.serve(DNSAnswer(silent=True))
        good, good_address = self.serve(DNSAnswer(ipv4=("192.0.2.1",)))
        asker = DNSClient(reactor, [silent_address, good_address])
        loop: Any = reactor
        began = loop.seconds()
        self.assertEqual((await asker.lookup("s3.test")).ips, ("192.0.2.1",))
        self.assertLess(loop.seconds() - began, 0.9)
        await asker.lookup("s3.test")
        self.assertEqual((len(silent.queries), len(good.queries)), (1, 2))
        # Twisted's query is not over before its own time.
        await deferLater(loop, 1.0)

    async def test_slow_server(self) -> None:
        """A server that is late is waited for, although the next one has been asked, too."""
        slow, slow_address = self.serve(DNSAnswer(ipv4=("192.0.2.1",), delay=0.6))
        failing, failing_address = self.serve(DNSAnswer(rcode=dns.ESERVER))
        asker = DNSClient(reactor, [slow_address, failing_address])
        self.assertEqual((await asker.lookup("s3.test")).ips, ("192.0.2.1",))
        self.assertTrue(failing.queries)
        await deferLater(reactor, 1.0)  # type: ignore[arg-type]

    async def test_refusing_server(self) -> None:
        """A server that refuses has not answered; one that knows of no address has."""
        for rcode in (dns.EREFUSED, dns.ESERVER, dns.ENOTIMP, dns.EFORMAT):
            refusing, refusing_address = self.serve(DNSAnswer(rcode=rcode))
            good, good_address = self.serve(DNSAnswer(ipv4=("192.0.2.1",)))
            answer = await DNSClient(reactor, [refusing_address, good_address]).lookup("s3.test")
            self.assertEqual(answer.ips, ("192.0.2.1",))
        empty, empty_address = self.serve(DNSAnswer())
        answer = await DNSClient(reactor, [empty_address, good_address]).lookup("s3.test")
        self.assertEqual(answer.ips, ())

    async def test_truncated(self) -> None:
        """What does not fit into a datagram is asked for over TCP."""
        fake, address = self.serve(DNSAnswer(ipv4=("192.0.2.1", "192.0.2.2"), truncated=True, canonical_name=b"r.test"))
        asker = DNSClient(reactor, [address])
        self.assertEqual((await asker.lookup("s3.test")).ips, ("192.0.2.1", "192.0.2.2"))
        self.assertEqual([transport for _, _, transport in fake.queries], ["udp", "tcp"])
        asker.close()

    async def test_both_families(self) -> None:
        """A name with both kinds of addresses is reached by IPv4, unless this machine has IPv6 only."""
        both = DNSAnswer(ipv4=("192.0.2.1",), ipv6=("2001:db8::1",))
        fake, address = self.serve(both)
        for routed, expected in (
            ({"192.0.2.1", "2001:db8::1"}, "192.0.2.1"),
            ({"192.0.2.1"}, "192.0.2.1"),
            ({"2001:db8::1"}, "2001:db8::1"),
            (set(), "192.0.2.1"),
        ):
            answer = await DNSClient(reactor, [address], routed.__contains__).lookup("s3.test")
            self.assertEqual(answer.ips, (expected,))

    def test_routes(self) -> None:
        """There is a route to this machine itself, and none to what is no address."""
        self.assertTrue(has_route("127.0.0.1"))
        self.assertFalse(has_route("nonsense"))

    async def test_nobody_else_is_asked(self) -> None:
        """Names that the system's resolver and the hosts file know are unknown here, and neither is asked."""

        def refuse(*args: object, **names: object) -> None:
            raise AssertionError("the system's resolver was asked")

        fake, address = self.serve(DNSAnswer())
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            self.patch(socket, name, refuse)
        asker = DNSClient(reactor, [address])
        for name in (socket.gethostname(), "ip6-localhost", "localhost.localdomain"):
            self.assertEqual((await asker.lookup(name)).ips, ())
