"""Tests of s3proxy.upstream on the loopback interface: second requests, the limit of connections, addresses that die
and come back."""

from random import Random
from test.upstream.test_client import ClientTestCase, Script, answering, loop, reset, write
from test.upstream.tools import (
    Authority,
    HedgeLimits,
    Override,
    ScriptedConnection,
    ScriptedServer,
    Source,
    a_get,
    a_put,
)
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from s3proxy.upstream.client import Upstream
from s3proxy.upstream.hedging import HedgeCounters
from s3proxy.upstream.interfaces import Hedging, UpstreamBusy, UpstreamTimeout, UpstreamUnreachable

SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"
ERROR = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\n\r\nslow"
TWO = ("127.0.0.1", "127.0.0.2")


def silent(connection: ScriptedConnection) -> None:
    """Take the request, and do not answer."""
    connection.take_head()


class HedgingTests(ClientTestCase):
    """A name with two addresses; requests are late after a tenth of a second."""

    def two(self, first: Script, second: Script) -> tuple[ScriptedServer, ScriptedServer]:
        one = self.listen(first, address=TWO[0])
        return one, self.listen(second, address=TWO[1], port=one.port)

    def hedged(self, server: ScriptedServer, ips: tuple[str, ...] = TWO, **settings: Any) -> Upstream:
        return self.client(server, ips=ips, **settings)

    async def ask(self, upstream: Upstream, server: ScriptedServer, **changes: Any) -> bytes:
        return await self.fetch(upstream, server, hedging=Hedging(0.1, 1), **changes)

    async def gone(self, server: ScriptedServer) -> None:
        """The server's connections end."""
        await gatherResults([connection.lost for connection in server.connections])

    async def test_other_address(self) -> None:
        """The second request goes to the other address; the first one's connection is closed."""
        slow, fast = self.two(silent, answering())
        upstream = self.hedged(slow)
        began = loop.seconds()
        self.assertEqual(await self.ask(upstream, slow), b"hello")
        self.assertLess(loop.seconds() - began, 2.0)
        await self.gone(slow)
        self.assertEqual((slow.answers(), fast.answers()), (1, 1))
        self.assertEqual(upstream.hedges, HedgeCounters(won=1))
        self.assertEqual((upstream.counters.attempts, upstream.counters.retries), (2, 0))

    async def test_bodies_are_not_mixed(self) -> None:
        """Both answer at nearly the same time: the client gets one body, whole."""
        late: list[ScriptedConnection] = []

        def first(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                late.append(connection)

        def second(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                write(late[0], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfi")
                write(connection, SECOND[:-3])
                loop.callLater(0.05, write, connection, SECOND[-3:])
                loop.callLater(0.05, write, late[0], b"rst")

        slow, fast = self.two(first, second)
        upstream = self.hedged(slow)
        body = await self.ask(upstream, slow)
        self.assertIn(body, (b"first", b"second"))
        await self.gone(slow if body == b"second" else fast)
        self.assertEqual(upstream.hedges.won + upstream.hedges.lost, 1)

    async def test_server_error_loses(self) -> None:
        """A 503 to the second request does not count while the first is under way."""

        def late(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                loop.callLater(0.3, write, connection, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")

        slow, fast = self.two(late, answering(ERROR))
        upstream = self.hedged(slow)
        self.assertEqual(await self.ask(upstream, slow), b"first")
        self.assertEqual(fast.answers(), 1)
        self.assertEqual(upstream.hedges, HedgeCounters(lost=1))

    async def test_same_address(self) -> None:
        """With one address the second request goes over another connection."""
        asked: list[ScriptedConnection] = []

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                asked.append(connection)
                if len(asked) == 2:
                    write(connection, SECOND)

        server = self.listen(script)
        self.assertEqual(await self.ask(self.hedged(server, TWO[:1]), server), b"second")
        self.assertEqual(len(server.connections), 2)

    async def test_not_to_an_excluded_address(self) -> None:
        """An address that is left out gets no second request either."""
        slow, fast = self.two(silent, answering())
        upstream = self.hedged(slow, ip_failure_threshold=2, upstream_first_byte_timeout=0.3, upstream_idle_retries=0)
        for _ in range(2):
            upstream.dialled(TWO[1], slow.port, False)
        with self.assertRaises(UpstreamTimeout):
            await upstream.request(a_get(port=slow.port, hedging=Hedging(0.1, 1)))
        self.assertEqual(fast.connections, [])

    async def test_once_per_budget(self) -> None:
        """The budget is that of all attempts: a request that is repeated has no second second request."""
        first, second = self.two(silent, silent)
        upstream = self.hedged(first, upstream_first_byte_timeout=0.3, upstream_idle_retries=1, ip_failure_threshold=9)
        with self.assertRaises(UpstreamTimeout):
            await self.ask(upstream, first)
        self.assertEqual(first.answers() + second.answers(), 3)
        self.assertEqual(upstream.hedges, HedgeCounters(failed=1, suppressed=1))

    async def test_in_time(self) -> None:
        """A request that is answered in time is sent once, however long its body takes."""

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                write(connection, SECOND[:-3])
                loop.callLater(0.4, write, connection, SECOND[-3:])

        first, second = self.two(script, script)
        upstream = self.hedged(first)
        self.assertEqual(await self.ask(upstream, first), b"second")
        self.assertEqual((first.answers() + second.answers(), upstream.hedges), (1, HedgeCounters()))

    async def test_uploads(self) -> None:
        """A request with a body, and one that must not be repeated, is sent once, whatever is asked for."""

        def late(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                loop.callLater(0.3, write, connection, SECOND)

        first, second = self.two(late, late)
        upstream = self.hedged(first)
        await self.body(await upstream.request(a_put(Source([b"abc"]), 3, port=first.port, hedging=Hedging(0.1, 1))))
        await self.ask(upstream, first, method=b"DELETE", repeatable=False)
        self.assertEqual((first.answers() + second.answers(), upstream.hedges), (2, HedgeCounters()))

    async def test_no_room(self) -> None:
        """A second request does not wait for a connection: where there is none it is not sent."""

        def late(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                loop.callLater(0.3, write, connection, SECOND)

        first, second = self.two(late, late)
        upstream = self.hedged(first, max_connections=1)
        self.assertEqual(await self.ask(upstream, first), b"second")
        self.assertEqual((second.answers(), upstream.hedges), (0, HedgeCounters(suppressed=1)))

    async def test_given_up(self) -> None:
        """Whoever does not want the answer any more ends both requests."""
        first, second = self.two(silent, silent)
        upstream = self.hedged(first)
        waiting = upstream.request(a_get(port=first.port, hedging=Hedging(0.1, 1)))
        waiting.addErrback(lambda reason: reason.trap(CancelledError))
        await deferLater(loop, 0.2)
        self.assertEqual(first.answers() + second.answers(), 2)
        waiting.cancel()
        await self.gone(first)
        await self.gone(second)
        self.assertEqual((upstream.snapshot()["connections_in_use"], upstream._governor.hedges), (0, 0))

    async def test_fetches_are_counted(self) -> None:
        """A request counts as under way until its body has come, for the share of second requests."""
        server = self.listen(answering())
        upstream = self.hedged(server, TWO[:1])
        self.assertEqual(await self.fetch(upstream, server), b"hello")
        self.assertEqual(upstream._governor.fetches, 0)
        part = self.listen(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"))
        upstream = self.hedged(part, TWO[:1])
        response: Any = await upstream.request(a_get(port=part.port))
        self.assertEqual(upstream._governor.fetches, 1)
        response.abort()
        self.assertEqual(upstream._governor.fetches, 0)
        upstream = self.client(part, ips=())
        with self.assertRaises(UpstreamUnreachable):
            await upstream.request(a_get(port=part.port))
        self.assertEqual(upstream._governor.fetches, 0)


class LimitTests(ClientTestCase):
    """connection_pool.max_connections."""

    async def test_queue(self) -> None:
        """More requests than connections: they are served one after the other, over the same connections."""
        busy: list[int] = []

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                busy.append(sum(not each.lost.called for each in server.connections))
                loop.callLater(0.05, write, connection, SECOND)

        server = self.listen(script)
        upstream = self.client(server, max_connections=2)
        bodies = await gatherResults([Deferred.fromCoroutine(self.fetch(upstream, server)) for _ in range(4)])
        self.assertEqual(bodies, [b"second"] * 4)
        self.assertEqual((len(server.connections), max(busy)), (2, 2))
        snapshot = upstream.snapshot()
        shown = ("connections_in_use", "connections_limit", "requests_waiting", "requests_waited", "requests_refused")
        self.assertEqual([snapshot[name] for name in shown], [0, 2, 0, 2, 0])

    async def test_turned_away(self) -> None:
        """When as many wait as there may be connections, the next one is turned away; so is one that waits too long."""
        server = self.listen(silent)
        upstream = self.client(server, max_connections=1, connection_timeout=0.2)
        first = Deferred.fromCoroutine(self.fetch(upstream, server))
        second = Deferred.fromCoroutine(self.fetch(upstream, server))
        with self.assertRaises(UpstreamBusy):
            await self.fetch(upstream, server)
        with self.assertRaises(UpstreamBusy):
            await second
        first.addErrback(lambda reason: reason.trap(CancelledError)).cancel()
        self.assertEqual(server.answers(), 1)

    async def test_idle_connections_make_room(self) -> None:
        """Connections that wait for nothing do not keep a request for another host from having one."""
        one, two = self.listen(answering()), self.listen(answering())
        upstream = self.client(one, two, max_connections=1)
        for server in (one, two, one):
            self.assertEqual(await self.fetch(upstream, server), b"hello")
        self.assertEqual((len(one.connections), len(two.connections)), (2, 1))

    async def test_nothing_leaks(self) -> None:
        """Slots come back however a request ends."""
        fates = iter(range(60))

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is None:
                return
            fate = next(fates) % 4
            if fate == 0:
                reset(connection)
            elif fate == 1:
                write(connection, b"nonsense\r\n\r\n")
            elif fate == 2:
                write(connection, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
            else:
                write(connection, SECOND)

        server = self.listen(script)
        upstream = self.client(server, max_connections=2, ip_failure_threshold=1000)
        for _ in range(20):
            asking = Deferred.fromCoroutine(self.fetch(upstream, server, repeatable=False))
            await asking.addErrback(lambda reason: None)
        cancelled = upstream.request(a_get(port=server.port))
        cancelled.addErrback(lambda reason: None)
        cancelled.cancel()
        await deferLater(loop, 0.1)
        self.assertEqual(upstream.snapshot()["connections_in_use"], 0)


class DisorderTests(ClientTestCase):
    """Everything at once."""

    timeout = 60

    async def test_nothing_is_left(self) -> None:
        """Many requests, hedged, queued and given up, at servers that do as they please: every body that comes is one
        server's, whole, and in the end nothing is in use and nobody waits.
        """
        random = Random(5)

        def server_at(address: str, body: bytes, port: int = 0) -> ScriptedServer:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

            def script(connection: ScriptedConnection) -> None:
                if connection.take_head() is None:
                    return
                fate, delay = random.random(), random.choice((0, 0.005, 0.02, 0.05))
                if fate < 0.1:
                    loop.callLater(delay, reset, connection)
                elif fate < 0.2:
                    loop.callLater(delay, write, connection, ERROR)
                elif fate < 0.3:
                    write(connection, answer[:-7])
                    loop.callLater(delay, write, connection, answer[-7:])
                elif fate < 0.9:
                    loop.callLater(delay, write, connection, answer)

            return self.listen(script, address=address, port=port)

        bodies = [bytes([65 + number]) * 50 for number in range(3)]
        first = server_at("127.0.0.1", bodies[0])
        others = [server_at(f"127.0.0.{number + 1}", bodies[number], first.port) for number in (1, 2)]
        upstream = self.client(
            first,
            ips=("127.0.0.1", "127.0.0.2", "127.0.0.3"),
            max_connections=6,
            ip_failure_threshold=4,
            health_probe_initial_cooldown=0.05,
            health_probe_max_cooldown=0.1,
            upstream_first_byte_timeout=0.1,
            hedged_requests=HedgeLimits(0.5),
            connection_timeout=1.0,
        )
        outcomes: list[object] = []

        async def one() -> None:
            hedging = Hedging(random.choice((0.001, 0.01, 0.03)), 1)
            asking = Deferred.fromCoroutine(self.fetch(upstream, first, hedging=hedging))
            if random.random() < 0.2:
                loop.callLater(random.random() / 20, asking.cancel)
            try:
                outcomes.append(await asking)
            except Exception as problem:
                outcomes.append(type(problem))

        for _ in range(15):
            await gatherResults([Deferred.fromCoroutine(one()) for _ in range(20)])
        await deferLater(loop, 0.3)
        came = [each for each in outcomes if isinstance(each, bytes)]
        self.assertLessEqual(set(came), {*bodies, b"slow"})
        self.assertGreater(len(came), 100)
        self.assertGreater(upstream.hedges.won, 0)
        shown = upstream.snapshot()
        self.assertEqual((shown["connections_in_use"], shown["requests_waiting"]), (0, 0))
        self.assertEqual((upstream._governor.fetches, upstream._governor.hedges), (0, 0))
        used = sum(host["active"] for host in shown["hosts"].values())
        self.assertEqual(used, 0)
        self.assertTrue(all(server.connections for server in (first, *others)))


class RecoveryTests(ClientTestCase):
    """An address that dies, and comes back."""

    def setUp(self) -> None:
        self.authority = Authority(self.mktemp())

    async def until(self, condition: Any) -> None:
        """Wait for it, up to five seconds."""
        for _ in range(500):
            if condition():
                return
            await deferLater(loop, 0.01)
        self.fail("it did not come about")

    async def test_probe(self) -> None:
        """A dead address is left out without any request finding out again, and comes back without one; what the probe
        opened serves a request.
        """
        certificate = self.authority.server("s3.test")
        good = self.listen(answering(), certificate, address=TWO[0])
        upstream = self.client(
            good,
            ips=TWO,
            override=Override("https", True, self.authority.path),
            ip_failure_threshold=1,
            health_probe_initial_cooldown=0.05,
            health_probe_max_cooldown=0.1,
        )
        for _ in range(6):
            self.assertEqual(await self.fetch(upstream, good), b"hello")
        self.assertEqual(upstream.counters.connect_failures, 1)
        shown = upstream.snapshot()
        self.assertEqual(shown["excluded"], [f"{TWO[1]}:{good.port}"])
        self.assertIn("next_probe_seconds", shown["recovery"][f"{TWO[1]}:{good.port}"])
        await self.until(lambda: upstream.snapshot()["probes"]["failed"] >= 2)
        self.assertEqual(upstream.counters.connect_failures, 1)
        back = self.listen(answering(), certificate, address=TWO[1], port=good.port)
        await self.until(lambda: not upstream.snapshot()["excluded"])
        self.assertEqual([connection.requests for connection in back.connections], [0])
        opened = upstream.counters.connections_opened
        for _ in range(4):
            self.assertEqual(await self.fetch(upstream, good), b"hello")
        self.assertEqual(([connection.requests for connection in back.connections]), [2])
        self.assertEqual(upstream.counters.connections_opened, opened)

    async def test_probe_needs_tls(self) -> None:
        """An address that takes connections, but has a bad certificate, or none, stays out."""
        good = self.listen(answering(), self.authority.server("s3.test"), address=TWO[0])
        upstream = self.client(
            good,
            ips=TWO,
            override=Override("https", True, self.authority.path),
            ip_failure_threshold=1,
            health_probe_initial_cooldown=0.05,
            health_probe_max_cooldown=0.05,
        )
        for _ in range(2):
            await self.fetch(upstream, good)
        self.listen(answering(), self.authority.server("other.test"), address=TWO[1], port=good.port)
        failed = upstream.snapshot()["probes"]["failed"]
        await self.until(lambda: upstream.snapshot()["probes"]["failed"] >= failed + 2)
        self.assertEqual(len(upstream.snapshot()["excluded"]), 1)

    async def test_all_out(self) -> None:
        """When no address is left they are used all the same, and one that answers is back at once."""
        spare = self.listen(answering())
        port = spare.port
        upstream = self.client(spare, ips=("127.0.0.3",), ip_failure_threshold=1, health_probe_initial_cooldown=60)
        with self.assertRaises(UpstreamUnreachable):
            await self.fetch(upstream, spare)
        self.assertEqual(len(upstream.snapshot()["excluded"]), 1)
        self.listen(answering(), address="127.0.0.3", port=port)
        self.assertEqual(await self.fetch(upstream, spare), b"hello")
        self.assertEqual(upstream.snapshot()["excluded"], [])

    async def test_tunnels(self) -> None:
        """What others say of an address counts; that it takes connections again is left to a probe to find out."""
        server = self.listen(answering())
        upstream = self.client(server, ip_failure_threshold=2, health_probe_initial_cooldown=0.1)
        await upstream.resolver.resolve("s3.test")
        upstream.dialled("127.0.0.1", server.port, False)
        upstream.dialled("127.0.0.1", server.port, True)
        upstream.dialled("127.0.0.1", server.port, False)
        self.assertEqual(upstream.snapshot()["excluded"], [])
        upstream.dialled("127.0.0.1", server.port, False)
        upstream.dialled("127.0.0.1", server.port, True)
        self.assertEqual(len(upstream.snapshot()["excluded"]), 1)
        await self.until(lambda: not upstream.snapshot()["excluded"])
