"""Tests of s3proxy.upstream.nameservers, against servers on the loopback interface."""

import random
import socket
from collections.abc import Callable, Mapping, Sequence
from test.support import fake_dns as support
from test.support.fake_dns import DNSAnswer
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.names import dns, error, server
from twisted.names.common import ResolverBase
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from s3proxy.upstream.nameservers import Answer, DNSClient, has_route


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


class Forger(DatagramProtocol):
    """A server that answers each query with these datagrams, and notes where the queries come from."""

    noisy = False

    def __init__(self, answers: Callable[[dns.Message], Sequence[bytes]]) -> None:
        self._answers = answers
        self.ports: list[int] = []
        self.numbers: list[int] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        query = dns.Message()
        query.fromStr(datagram)
        self.ports.append(addr[1])
        self.numbers.append(query.id)
        transport: Any = self.transport
        for answer in self._answers(query):
            transport.write(answer, addr)


def answer_to(query: dns.Message, *records: tuple[bytes, Any], question: bytes | None = None, number: int = 0) -> bytes:
    """An answer with these records and their owners, perhaps to another question or query."""
    message = dns.Message(id=(query.id + number) & 0xFFFF, answer=1, recDes=1, recAv=1)
    message.queries = query.queries if question is None else [dns.Query(question, dns.A, dns.IN)]
    message.answers = [dns.RRHeader(owner, record.TYPE, dns.IN, record.ttl, record) for owner, record in records]
    return message.toStr()


def address(ip: str, ttl: int = 30) -> Any:
    """A record."""
    return dns.Record_A(ip, ttl)


class ForgedTests(TestCase):
    """Answers that are none, or not what they should be."""

    timeout = 30

    def serve(
        self, answers: Callable[[dns.Message], Sequence[bytes]], interface: str = "127.0.0.1"
    ) -> tuple[Forger, str]:
        """A server that gives such answers, and its address."""
        forger = Forger(answers)
        loop: Any = reactor
        port = loop.listenUDP(0, forger, interface=interface)
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        number = port.getHost().port
        return forger, f"[{interface}]:{number}" if ":" in interface else f"{interface}:{number}"

    async def look_up(self, answers: Callable[[dns.Message], Sequence[bytes]]) -> tuple[str, ...]:
        """What becomes of such answers."""
        _, server = self.serve(answers)
        return (await DNSClient(reactor, [server], lambda ip: True).lookup("s3.test")).ips

    async def test_other_question(self) -> None:
        """An answer to another question, or to another query, is not taken, and the right one is waited for."""
        found = await self.look_up(
            lambda query: [
                answer_to(query, (b"s3.test", address("192.0.2.66")), question=b"evil.test"),
                answer_to(query, (b"s3.test", address("192.0.2.67")), number=1),
                query.toStr(),
                b"",
                b"\x00" * 5,
                answer_to(query, (b"S3.Test", address("192.0.2.1")), question=b"S3.TEST"),
            ]
        )
        self.assertEqual(found, ("192.0.2.1",))

    async def test_from_elsewhere(self) -> None:
        """Nor is one that comes from another address than that of the server, be it right in all else."""
        spoofer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(spoofer.close)
        loop: Any = reactor
        forger: Forger

        def answers(query: dns.Message) -> Sequence[bytes]:
            forged = answer_to(query, (b"s3.test", address("192.0.2.66")))
            spoofer.sendto(forged, ("127.0.0.1", forger.ports[-1]))
            right = answer_to(query, (b"s3.test", address("192.0.2.1")))
            transport: Any = forger.transport
            loop.callLater(0.1, transport.write, right, ("127.0.0.1", forger.ports[-1]))
            return ()

        forger, server = self.serve(answers)
        answer = await DNSClient(reactor, [server], lambda ip: True).lookup("s3.test")
        self.assertEqual(answer.ips, ("192.0.2.1",))

    async def test_ports_and_numbers(self) -> None:
        """Each query has a port and a number of its own, which nobody could tell from those before."""
        forger, server = self.serve(lambda query: [answer_to(query, (b"s3.test", address("192.0.2.1")))])
        asker = DNSClient(reactor, [server], lambda ip: True)
        for _ in range(60):
            await asker.lookup("s3.test")
        for found in (forger.ports, forger.numbers):
            self.assertGreater(len(set(found)), 50)
            steps = [after - before for before, after in zip(found, found[1:])]
            self.assertGreater(len(set(steps)), 40)

    async def test_other_names(self) -> None:
        """Addresses of names that were not asked for are left aside, with their TTLs."""
        _, server = self.serve(
            lambda query: [
                answer_to(query, (b"evil.test", address("192.0.2.66", 1)), (b"s3.test", address("192.0.2.1", 30)))
            ]
        )
        answer = await DNSClient(reactor, [server], lambda ip: True).lookup("s3.test")
        self.assertEqual(answer, Answer(("192.0.2.1",), 30.0))

    async def test_aliases(self) -> None:
        """A chain of aliases leads to the addresses, and the shortest TTL holds for all."""
        _, server = self.serve(
            lambda query: [
                answer_to(
                    query,
                    (b"two.test", address("192.0.2.1", 50)),
                    (b"one.test", dns.Record_CNAME("TWO.test", ttl=9)),
                    (b"s3.test", dns.Record_CNAME("one.test", ttl=40)),
                )
            ]
        )
        answer = await DNSClient(reactor, [server], lambda ip: True).lookup("s3.test")
        self.assertEqual(answer, Answer(("192.0.2.1",), 9.0))

    async def test_alias_alone(self) -> None:
        """An alias without addresses is asked for."""
        asked: list[bytes] = []

        def answers(query: dns.Message) -> Sequence[bytes]:
            name = query.queries[0].name.name
            asked.append(name)
            if name == b"s3.test":
                return [answer_to(query, (b"s3.test", dns.Record_CNAME("real.test", ttl=7)))]
            return [answer_to(query, (b"real.test", address("192.0.2.1", 30)))]

        _, server = self.serve(answers)
        answer = await DNSClient(reactor, [server], lambda ip: True).lookup("s3.test")
        self.assertEqual(answer, Answer(("192.0.2.1",), 7.0))
        self.assertEqual(asked, [b"s3.test", b"real.test"])

    async def test_aliases_in_circles(self) -> None:
        """Names that stand for each other, or for themselves, in one answer or in several, have no address."""
        count = 0

        def at_once(query: dns.Message) -> Sequence[bytes]:
            pairs = [(b"s3.test", "one.test"), (b"one.test", "two.test"), (b"two.test", "one.test")]
            return [answer_to(query, *((owner, dns.Record_CNAME(name, ttl=9)) for owner, name in pairs))]

        def itself(query: dns.Message) -> Sequence[bytes]:
            return [answer_to(query, (b"s3.test", dns.Record_CNAME("S3.test", ttl=9)))]

        def turns(query: dns.Message) -> Sequence[bytes]:
            name = query.queries[0].name.name
            other = "s3.test" if name == b"one.test" else "one.test"
            return [answer_to(query, (name, dns.Record_CNAME(other, ttl=9)))]

        def endless(query: dns.Message) -> Sequence[bytes]:
            nonlocal count
            count += 1
            return [answer_to(query, (query.queries[0].name.name, dns.Record_CNAME(f"n{count}.test", ttl=9)))]

        for answers in (at_once, itself, turns, endless):
            self.assertEqual(await self.look_up(answers), (), answers.__name__)
        self.assertLess(count, 30)

    async def test_any_bytes(self) -> None:
        """Whatever follows the question, nothing but an answer or a failure comes of it, and nothing is logged."""
        chance = random.Random(5)

        def answers(query: dns.Message) -> Sequence[bytes]:
            good = bytearray(
                answer_to(query, (b"s3.test", dns.Record_CNAME("a.test", ttl=9)), (b"a.test", address("192.0.2.1")))
            )
            end = 12 + len(query.toStr()[12:])
            for _ in range(chance.randrange(1, 6)):
                good[chance.randrange(end, len(good))] = chance.randrange(256)
            good[6:12] = bytes(chance.choice((0, 0, 1, 2, 255)) for _ in range(6))
            return [bytes(good[: chance.randrange(end, len(good) + 1)])]

        _, server = self.serve(answers)
        asker = DNSClient(reactor, [server], lambda ip: True)
        for _ in range(20):
            try:
                await asker.lookup("s3.test")
            except Exception:
                continue

    async def test_nobody_at_the_port(self) -> None:
        """A server whose host says that nobody listens costs no time."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            closed = f"127.0.0.1:{probe.getsockname()[1]}"
        _, server = self.serve(lambda query: [answer_to(query, (b"s3.test", address("192.0.2.1")))])
        loop: Any = reactor
        began = loop.seconds()
        answer = await DNSClient(reactor, [closed, server], lambda ip: True).lookup("s3.test")
        self.assertEqual(answer.ips, ("192.0.2.1",))
        self.assertLess(loop.seconds() - began, 0.25)
        with self.assertRaises(ConnectionRefusedError):
            await DNSClient(reactor, [closed]).lookup("s3.test")

    async def test_ipv6_server(self) -> None:
        """A server may have an IPv6 address, in any spelling."""
        try:
            forger, server = self.serve(lambda query: [answer_to(query, (b"s3.test", address("192.0.2.1")))], "::1")
        except OSError:
            self.skipTest("this machine has no IPv6")
        port = server.rpartition(":")[2]
        for spelling in ("::1", "0:0:0:0:0:0:0:1", "0000::0001"):
            answer = await DNSClient(reactor, [f"[{spelling}]:{port}"], lambda ip: True).lookup("s3.test")
            self.assertEqual(answer.ips, ("192.0.2.1",))

    async def test_server_out_of_reach(self) -> None:
        """A server to which there is no route is passed over."""
        _, server = self.serve(lambda query: [answer_to(query, (b"s3.test", address("192.0.2.1")))])
        answer = await DNSClient(reactor, ["255.255.255.255", server], lambda ip: True).lookup("s3.test")
        self.assertEqual(answer.ips, ("192.0.2.1",))
