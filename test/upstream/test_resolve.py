"""Tests of s3proxy.upstream.resolve."""

from collections.abc import Mapping, Sequence

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import TimeoutError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.interfaces import UpstreamBusy, UpstreamUnreachable
from s3proxy.upstream.nameservers import Answer
from s3proxy.upstream.resolve import MOST_LOOKUPS, Resolver, Target


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
        """Overrides by addresses are; those by names are not."""
        self.resolver = self.make({"a.test": ["192.0.2.1:8", "192.0.2.2"], "b.test": ["192.0.2.1", "other.test"]})
        self.assertEqual(self.resolver.at_hand("a.test"), (Target("192.0.2.1", 8), Target("192.0.2.2")))
        self.assertEqual(self.resolver.at_hand("a.test"), self.successResultOf(self.resolver.resolve("a.test")))
        self.assertIsNone(self.resolver.at_hand("b.test"))
        self.resolver = self.make({"*.test": ["192.0.2.1"], "a.test": ["192.0.2.2"]})
        self.assertEqual(self.resolver.at_hand("c.test"), (Target("192.0.2.1"),))
        self.assertIsNone(self.resolver.at_hand("test"))
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

    def test_unanswered(self) -> None:
        """Names about which no server answers are known, with and without former addresses, until one does."""
        self.resolver.resolve("s3.test")
        self.dns.answer("192.0.2.1", ttl=10)
        self.assertEqual(self.resolver.unanswered(), ((), ()))
        self.clock.advance(11)
        self.ips()
        self.dns.fail()
        self.assertEqual(self.resolver.unanswered(), (("s3.test",), ()))
        self.resolver.resolve("other.test").addErrback(lambda _: None)
        self.dns.fail()
        self.assertEqual(self.resolver.unanswered(), (("s3.test",), ("other.test",)))
        self.clock.advance(6)
        self.ips()
        self.dns.answer("192.0.2.1", ttl=10)
        self.assertEqual(self.resolver.unanswered(), ((), ("other.test",)))
        self.clock.advance(301)
        self.assertEqual(self.resolver.unanswered(), ((), ()))

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

    def test_overrides_for_a_port(self) -> None:
        """A key may name the port that clients ask for: it goes before the same key without, and holds for no other."""
        self.resolver = self.make(
            {
                "a.test:9000": ["192.0.2.1"],
                "a.test": ["192.0.2.2"],
                "b.test:9000": ["192.0.2.3"],
                "*.test:9000": ["192.0.2.4"],
                "*.test": ["192.0.2.5"],
                "*.c.test:443": ["192.0.2.6"],
                "[2001:db8:0::1]:80": ["192.0.2.7"],
            }
        )
        for host, port, ip in (
            ("a.test", 9000, "192.0.2.1"),
            ("a.test", 80, "192.0.2.2"),
            ("a.test", None, "192.0.2.2"),
            ("b.test", 9000, "192.0.2.3"),
            ("b.test", 80, "192.0.2.5"),
            ("x.test", 9000, "192.0.2.4"),
            ("x.c.test", 443, "192.0.2.6"),
            ("x.c.test", 9000, "192.0.2.4"),
            ("x.c.test", 80, "192.0.2.5"),
            ("2001:db8::1", 80, "192.0.2.7"),
            ("2001:db8::1", 81, "2001:db8::1"),
        ):
            self.assertEqual(self.successResultOf(self.resolver.resolve(host, port)), (Target(ip),), (host, port))
        self.assertEqual(self.dns.asked, [])

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

    def test_many_at_once(self) -> None:
        """Only so many names are looked up at the same time: for one more there is no room, and a name whose former
        addresses are known has those.
        """
        self.resolver = self.make({}, max_names=1000)
        self.resolver.resolve("old.test")
        self.dns.answer("192.0.2.1", ttl=10)
        for number in range(MOST_LOOKUPS):
            self.resolver.resolve(f"n{number}.test").addErrback(lambda _: None)
        self.failureResultOf(self.resolver.resolve("more.test"), UpstreamBusy)
        self.clock.advance(2000)
        self.assertEqual(self.ips("old.test"), ["192.0.2.1"])
        self.assertEqual(len(self.dns.asked), 1 + MOST_LOOKUPS)
        self.dns.answer()
        waiting = self.resolver.resolve("more.test")
        self.dns.waiting[-1].callback(Answer(("192.0.2.2",), 10.0))
        self.assertEqual(self.successResultOf(waiting), (Target("192.0.2.2"),))
