"""Tests of s3proxy.upstream.client on the loopback interface, with connection, sockets and tls below it."""

import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from s3proxy.s3.headers import Headers
from s3proxy.upstream.client import Upstream
from s3proxy.upstream.interfaces import (
    IUpstream,
    IUpstreamResponse,
    UpstreamError,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTLSError,
    UpstreamUnreachable,
)
from s3proxy.upstream.nameservers import Answer
from test.upstream.tools import Authority, Override, ScriptedConnection, ScriptedServer, Settings, Sink, Source
from test.upstream.tools import a_get, a_put

loop: Any = reactor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ndenied"
EXPECT = (b"Expect", b"100-continue")
MIB = 1024 * 1024
Script = Callable[[ScriptedConnection], None]


def write(connection: ScriptedConnection, data: bytes) -> None:
    transport: Any = connection.transport
    transport.write(data)


def reset(connection: ScriptedConnection) -> None:
    transport: Any = connection.transport
    transport.abortConnection()


def answering(answer: bytes = OK) -> Script:
    """A server that gives every request this answer."""

    def script(connection: ScriptedConnection) -> None:
        while connection.take_head() is not None:
            write(connection, answer)

    return script


class BigSource(Source):
    """Gives blocks of 64 KiB for as long as anybody takes them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = size

    def _flow(self) -> None:
        while self.left and not self.paused and not self.aborted and self.sink is not None:
            block = min(self.left, 65536)
            self.left -= block
            self.sink.data_received(b"x" * block)
        if not self.left:
            super()._flow()


class ClientTestCase(TestCase):
    """Servers, and clients of them."""

    timeout = 20

    def listen(self, script: Script, tls: Any = None, address: str = "127.0.0.1", port: int = 0) -> ScriptedServer:
        """Start a server; ``server.port`` is where."""
        server = ScriptedServer(script)
        if tls is None:
            listening = loop.listenTCP(port, server, interface=address)
        else:
            listening = loop.listenSSL(port, server, tls, interface=address)
        server.port = int(listening.getHost().port)
        self.addCleanup(self.end, server, listening)
        return server

    def end(self, server: ScriptedServer, listening: Any) -> "Deferred[Any]":
        for connection in server.connections:
            if not connection.lost.called:
                reset(connection)
        return gatherResults([connection.lost for connection in server.connections] + [listening.stopListening()])

    def client(
        self,
        *servers: ScriptedServer,
        ips: tuple[str, ...] = ("127.0.0.1",),
        override: Override | None = Override("http"),
        head_timeout: float = 30.0,
        own: frozenset[tuple[str, int]] = frozenset(),
        lookup: Any = None,
        **settings: Any,
    ) -> Upstream:
        """A client for which ``s3.test`` has these addresses, and each server's port is overridden."""
        if override is not None:
            settings["upstream_overrides"] = {f"s3.test:{server.port}": override for server in servers}
        upstream = Upstream(
            loop,
            Settings(**settings),
            own_addresses=lambda: own,
            head_timeout=head_timeout,
            lookup=lookup or (lambda name: succeed(Answer(ips, 60.0))),
        )
        self.addCleanup(upstream.stop)
        return upstream

    async def body(self, response: Any) -> bytes:
        sink = Sink()
        response.start(sink)
        return await sink.wait()

    async def fetch(self, upstream: Upstream, server: ScriptedServer, **changes: Any) -> bytes:
        return await self.body(await upstream.request(a_get(port=server.port, **changes)))


class ChoiceTests(SynchronousTestCase):
    """Which address a request goes to first, on a clock of the test's own."""

    def dialled(self, requests: int, **settings: Any) -> list[tuple[str, int]]:
        """What each of some requests dials first when no connection comes about."""
        clock = Clock()
        first: list[tuple[str, int]] = []
        seen: list[tuple[str, int]] = []

        def connect(ip: str, port: int, factory: Any, timeout: float) -> Any:
            seen.append((ip, port))
            clock.callLater(0, factory.clientConnectionFailed, None, Failure(ConnectionRefusedError()))

        upstream = Upstream(
            clock,
            Settings(ip_failure_threshold=100, **settings),
            own_addresses=lambda: frozenset(),
            lookup=lambda name: succeed(Answer(("192.0.2.1", "192.0.2.2"), 60.0)),
            connect=connect,
        )
        for _ in range(requests):
            seen.clear()
            waiting = upstream.request(a_get())
            clock.pump([0, 0.1, 0, 0.2, 0])
            self.failureResultOf(waiting, UpstreamUnreachable)
            self.assertEqual(len(seen), 3)
            self.assertNotEqual(seen[0], seen[1], "the second attempt goes elsewhere")
            first.append(seen[0])
        self.assertEqual([call for call in clock.getDelayedCalls() if call.active()], [])
        return first

    def test_in_turn(self) -> None:
        """The addresses of a name are used in turn, at the default port."""
        one, two = ("192.0.2.1", 443), ("192.0.2.2", 443)
        self.assertEqual(self.dialled(4), [one, two, one, two])

    def test_not_distributed(self) -> None:
        """Without ip_distribution_enabled the first address is preferred; an overridden transport changes nothing."""
        self.assertEqual(self.dialled(2, ip_distribution_enabled=False), [("192.0.2.1", 443)] * 2)
        overridden = self.dialled(2, upstream_overrides={"s3.test:80": Override()})
        self.assertEqual(overridden, [("192.0.2.1", 80), ("192.0.2.2", 80)])

    def test_pinned_ports(self) -> None:
        """An endpoint override may name the port to dial."""
        pinned = {"s3.test": ["192.0.2.5:8443", "[2001:db8::5]:9443"]}
        expected = [("192.0.2.5", 8443), ("2001:db8::5", 9443)]
        self.assertEqual(self.dialled(2, endpoint_overrides=pinned), expected)

    def test_pinned_below(self) -> None:
        """The addresses of a suffix are used in turn, too."""
        pinned = {"*.test": ["192.0.2.5", "192.0.2.6", "192.0.2.7"]}
        self.assertEqual([ip for ip, _ in self.dialled(3, endpoint_overrides=pinned)], pinned["*.test"])


class PatienceTests(SynchronousTestCase):
    """How long an answer is waited for in all, on a clock of the test's own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.stopped = 0

    def ask(self, request: UpstreamRequest, **settings: Any) -> "Deferred[IUpstreamResponse]":
        """A client whose connections never come about."""

        def connect(ip: str, port: int, factory: Any, timeout: float) -> Any:
            return self

        upstream = Upstream(
            self.clock,
            Settings(connection_timeout=4.0, ip_failure_threshold=100, **settings),
            own_addresses=lambda: frozenset(),
            head_timeout=7.0,
            lookup=lambda name: succeed(Answer(("192.0.2.1", "192.0.2.2"), 60.0)),
            connect=connect,
        )
        return upstream.request(request)

    def stopConnecting(self) -> None:
        self.stopped += 1

    def test_all_attempts_together(self) -> None:
        """Without a body the limit counts for all attempts, those to connect included, and nothing is left."""
        for request in (a_get(), a_get(method=b"DELETE", repeatable=False)):
            waiting = self.ask(request)
            self.clock.pump([4.0, 0.2])
            self.assertNoResult(waiting)
            self.clock.pump([2.0, 0.9])
            self.failureResultOf(waiting, UpstreamTimeout)
            self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])
        self.assertEqual(self.stopped, 2)

    def test_upload(self) -> None:
        """With a body it does not: an upload may take as long as it moves; here no connection comes about."""
        waiting = self.ask(a_put(Source([b"abc"]), 3))
        self.clock.pump([4.0, 0.2, 4.0, 0.3])
        self.assertNoResult(waiting)
        self.clock.pump([4.0])
        self.failureResultOf(waiting, UpstreamUnreachable)

    def test_cancelled(self) -> None:
        """Whoever cancels hears of that, and the limit is forgotten."""
        waiting = self.ask(a_get())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])


class PlainTests(ClientTestCase):
    """Over TCP."""

    def test_interface(self) -> None:
        """It is an IUpstream."""
        verifyObject(IUpstream, self.client())

    async def test_keep_alive(self) -> None:
        """Requests one after the other share a connection."""
        server = self.listen(answering())
        upstream = self.client(server)
        upstream.start()
        for _ in range(3):
            self.assertEqual(await self.fetch(upstream, server), b"hello")
        self.assertEqual([connection.requests for connection in server.connections], [3])
        state = upstream.snapshot()
        self.assertEqual((state["connections_opened"], state["connections_reused"], state["attempts"]), (1, 2, 3))
        self.assertEqual(state["hosts"]["s3.test"]["idle"], 1)
        await upstream.stop()
        self.assertEqual(upstream.snapshot()["hosts"]["s3.test"]["idle"], 0)

    async def test_no_keep_alive(self) -> None:
        """With keepalive_enabled off each request has its own connection."""
        server = self.listen(answering())
        upstream = self.client(server, keepalive_enabled=False)
        for _ in range(2):
            await self.fetch(upstream, server)
        self.assertEqual([connection.requests for connection in server.connections], [1, 1])

    async def test_options_of_the_socket(self) -> None:
        """TCP_NODELAY and the keep-alive probes are set as configured."""
        server = self.listen(lambda connection: None)
        upstream = self.client(server, keepalive_idle_secs=17, keepalive_interval_secs=7, keepalive_retries=4)
        waiting = upstream.request(a_get(port=server.port))
        await self.until(lambda: bool(server.connections))
        (transport,) = [reader for reader in loop.getReaders() if type(reader).__name__ == "UpstreamSocket"]
        sock = transport.socket
        found = [
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        self.assertEqual(found, [1, 17, 7, 4])
        self.assertTrue(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        waiting.cancel()
        with self.assertRaises(CancelledError):
            await waiting

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await deferLater(loop, 0.005)

    async def test_stale_connection(self) -> None:
        """A GET on a connection that the peer closes without an answer goes out again on a new one."""

        def script(connection: ScriptedConnection) -> None:
            while connection.take_head() is not None:
                if connection.requests == 2:
                    reset(connection)
                else:
                    write(connection, OK)

        server = self.listen(script)
        upstream = self.client(server)
        for _ in range(3):
            self.assertEqual(await self.fetch(upstream, server), b"hello")
        self.assertEqual([connection.requests for connection in server.connections], [2, 2, 1])
        self.assertEqual(upstream.counters.retries, 2)

    async def test_several_stale_connections(self) -> None:
        """After one stale connection the request does not try the next kept one, which is likely as stale."""

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                if connection.requests == 2:
                    reset(connection)
                else:
                    loop.callLater(0.05, write, connection, OK)

        server = self.listen(script)
        upstream = self.client(server)
        await gatherResults([Deferred.fromCoroutine(self.fetch(upstream, server)) for _ in range(3)])
        self.assertEqual(await self.fetch(upstream, server), b"hello")
        self.assertEqual([connection.requests for connection in server.connections], [1, 1, 2, 1])

    async def test_closed_while_idle(self) -> None:
        """A connection that was closed while nobody used it is not tried, so that a PUT is safe."""
        server = self.listen(answering())
        upstream = self.client(server)
        await self.fetch(upstream, server)
        reset(server.connections[0])
        await server.connections[0].lost
        response = await upstream.request(a_put(Source(), 0, port=server.port))
        response.abort()
        self.assertEqual(len(server.connections), 2)

    async def test_closed_a_moment_ago(self) -> None:
        """The same when the reactor has had no chance to notice the end."""
        server = self.listen(answering())
        upstream = self.client(server)
        await self.fetch(upstream, server)
        transport: Any = server.connections[0].transport
        transport.socket.shutdown(socket.SHUT_RDWR)
        response = await upstream.request(a_put(Source(), 0, port=server.port))
        response.abort()
        self.assertEqual(len(server.connections), 2)

    async def test_put_is_not_repeated(self) -> None:
        """A PUT whose connection breaks before the answer fails, and the error says that S3 may have acted."""

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                reset(connection)

        server = self.listen(script)
        upstream = self.client(server)
        source = Source([b"abc"])
        with self.assertRaises(UpstreamUnreachable) as caught:
            await upstream.request(a_put(source, 3, port=server.port))
        self.assertTrue(caught.exception.sent)
        self.assertEqual((len(server.connections), source.aborted), (1, 1))

    async def test_get_is_repeated(self) -> None:
        """A GET is tried three times in all."""

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                reset(connection)

        server = self.listen(script)
        upstream = self.client(server)
        with self.assertRaises(UpstreamUnreachable):
            await self.fetch(upstream, server)
        self.assertEqual(len(server.connections), 3)
        self.assertEqual((upstream.counters.attempts, upstream.counters.failures), (3, 1))

    async def test_other_address(self) -> None:
        """An address that does not answer is replaced by another one, and left out after three failures."""
        server = self.listen(answering(), address="127.0.0.2")
        pinned = {"s3.test": [f"127.0.0.1:{free_port()}", f"127.0.0.2:{server.port}"]}
        upstream = self.client(server, endpoint_overrides=pinned)
        for _ in range(6):
            self.assertEqual(await self.fetch(upstream, server), b"hello")
        self.assertEqual(upstream.snapshot()["exclusions"], 1)
        self.assertEqual(upstream.counters.connect_failures, 3)
        self.assertEqual(upstream.snapshot()["hosts"]["s3.test"]["excluded"], ["127.0.0.1"])

    async def test_silent_address(self) -> None:
        """A peer that takes a GET and says nothing is replaced by another address."""
        silent = self.listen(lambda connection: None)
        server = self.listen(answering(), address="127.0.0.2", port=silent.port)
        upstream = self.client(server, ips=("127.0.0.1", "127.0.0.2"), upstream_first_byte_timeout=0.1)
        self.assertEqual(await self.fetch(upstream, server), b"hello")
        self.assertEqual((len(silent.connections), len(server.connections)), (1, 1))

    async def test_silence(self) -> None:
        """Silence on all attempts is a timeout, after one attempt and upstream_idle_retries more."""
        server = self.listen(lambda connection: None)
        upstream = self.client(server, upstream_first_byte_timeout=0.05, upstream_idle_retries=1)
        with self.assertRaises(UpstreamTimeout):
            await self.fetch(upstream, server)
        self.assertEqual(len(server.connections), 2)

    async def test_refused_connections(self) -> None:
        """Nobody listening: three attempts, for a PUT as well, whose body stays untouched until it is given up."""
        port = free_port()
        upstream = Upstream(
            loop, Settings(upstream_overrides={f"127.0.0.1:{port}": Override()}), own_addresses=lambda: frozenset()
        )
        self.addCleanup(upstream.stop)
        source = Source([b"abc"])
        with self.assertRaises(UpstreamUnreachable) as caught:
            await upstream.request(a_put(source, 3, host="127.0.0.1", port=port))
        self.assertFalse(caught.exception.sent)
        self.assertIn(f"127.0.0.1:{port}", str(caught.exception))
        self.assertEqual((upstream.counters.connect_failures, source.calls), (3, ["abort"]))

    async def test_no_address(self) -> None:
        """A name that can't be resolved is unreachable, and the body is given up."""
        server = self.listen(answering())
        upstream = self.client(server, lookup=lambda name: fail(OSError("no network")))
        source = Source()
        with self.assertRaises(UpstreamUnreachable):
            await upstream.request(a_put(source, 0, port=server.port))
        self.assertEqual(source.aborted, 1)

    async def test_loop(self) -> None:
        """The proxy refuses to dial itself."""
        server = self.listen(answering())
        upstream = self.client(server, own=frozenset({("0.0.0.0", server.port)}))
        with self.assertRaises(UpstreamRefused):
            await self.fetch(upstream, server)
        self.assertEqual(server.connections, [])

    async def test_impossible_request(self) -> None:
        """A request that can't be written down fails before anything is opened."""
        server = self.listen(answering())
        upstream = self.client(server)
        with self.assertRaises(UpstreamError):
            await self.fetch(upstream, server, headers=Headers([(b"A", b"b\r\nC: d")]))
        self.assertEqual(server.connections, [])

    async def test_early_refusal_of_a_big_upload(self) -> None:
        """S3's refusal reaches the caller while most of the body has not been sent, and the rest never is."""
        size = 64 * MIB

        def script(connection: ScriptedConnection) -> None:
            if not connection.requests and connection.take_head() is not None:
                write(connection, REFUSAL)
            connection.received = b""

        server = self.listen(script)
        upstream = self.client(server)
        source = BigSource(size)
        response = await upstream.request(a_put(source, size, port=server.port))
        self.assertEqual((response.status, await self.body(response)), (403, b"denied"))
        self.assertEqual(source.aborted, 1)
        self.assertGreater(source.left, size // 2)
        await server.connections[0].lost

    async def test_refusal_and_reset(self) -> None:
        """A refusal arrives even if the server stops reading, answers and resets the connection at once."""
        for round_ in range(10):
            listener = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listener.close)
            listener.setblocking(False)
            port = listener.getsockname()[1]
            upstream = Upstream(
                loop, Settings(upstream_overrides={f"127.0.0.1:{port}": Override()}), own_addresses=lambda: frozenset()
            )
            source = Source([b"x" * 65536] * 4, end=False)
            waiting = upstream.request(a_put(source, 64 * MIB, host="127.0.0.1", port=port))
            await self.until(lambda: source.sink is not None)
            listener.setblocking(True)
            peer, _ = listener.accept()
            peer.sendall(REFUSAL)
            # Data of ours is unread there: closing sends a reset right behind the answer.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            source.push(b"x" * 65536)
            response = await waiting
            self.assertEqual((response.status, await self.body(response)), (403, b"denied"))

    async def test_back_pressure(self) -> None:
        """While S3 does not read, an upload is paused; what waits here stays small."""
        server = self.listen(lambda connection: connection.transport.pauseProducing())  # type: ignore[union-attr]
        upstream = self.client(server)
        source = BigSource(256 * MIB)
        waiting = upstream.request(a_put(source, source.left, port=server.port))
        await self.until(lambda: source.paused)
        await deferLater(loop, 0.2)
        (transport,) = [writer for writer in loop.getWriters() if type(writer).__name__ == "UpstreamSocket"]
        kept = len(transport.dataBuffer) + transport._tempDataLen
        self.assertLessEqual(kept, 256 * 1024)
        self.assertGreater(source.left, 200 * MIB)
        waiting.cancel()
        with self.assertRaises(CancelledError):
            await waiting
        self.assertTrue(source.aborted)

    async def test_expect(self) -> None:
        """The body waits for 100, is sent after a second of silence, and is never sent after a refusal."""

        def script(connection: ScriptedConnection) -> None:
            head = connection.take_head()
            if head is not None:
                if b"refuse" in head:
                    write(connection, REFUSAL)
                elif b"welcome" in head:
                    write(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
            if connection.received == b"abc":
                write(connection, OK)

        server = self.listen(script)
        upstream = self.client(server)
        for target, status, calls, least in (
            (b"/welcome", 200, ["start"], 0.0),
            (b"/silent", 200, ["start"], 0.9),
            (b"/refuse", 403, ["abort"], 0.0),
        ):
            source = Source([b"abc"])
            begun = loop.seconds()
            response = await upstream.request(a_put(source, 3, EXPECT, port=server.port, target=target))
            await self.body(response)
            self.assertEqual((response.status, source.calls), (status, calls))
            self.assertGreaterEqual(loop.seconds() - begun, least)

    async def test_held_body_moves_on(self) -> None:
        """If the connection breaks while the body is held, another one carries the request and the whole body."""

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                if len(server.connections) == 1:
                    reset(connection)
                else:
                    write(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
            if connection.received == b"abc":
                write(connection, OK)

        server = self.listen(script)
        upstream = self.client(server)
        response = await upstream.request(a_put(Source([b"abc"]), 3, EXPECT, port=server.port))
        self.assertEqual((response.status, len(server.connections)), (200, 2))
        await self.body(response)

    async def test_reset_in_the_body(self) -> None:
        """A body that is cut fails behind the bytes that came, and nothing is repeated."""

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                write(connection, OK[:-2])
                loop.callLater(0.05, reset, connection)

        server = self.listen(script)
        upstream = self.client(server)
        sink = Sink()
        response = await upstream.request(a_get(port=server.port))
        response.start(sink)
        with self.assertRaises(UpstreamError):
            await sink.wait()
        self.assertEqual((sink.data, len(server.connections)), (b"hel", 1))

    async def test_stall_in_the_body(self) -> None:
        """A body that stops fails with a timeout."""
        server = self.listen(answering(OK[:-2]))
        upstream = self.client(server, upstream_idle_timeout=0.1)
        with self.assertRaises(UpstreamTimeout):
            await self.fetch(upstream, server)

    async def test_slow_reader(self) -> None:
        """A body that is paused for longer than the idle limit arrives whole, and S3 is made to wait."""
        size = 32 * MIB
        server = self.listen(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size))
        upstream = self.client(server, upstream_idle_timeout=0.2)
        response = await upstream.request(a_get(port=server.port))
        sink = Sink()
        response.start(sink)
        response.pause()
        await deferLater(loop, 0.5)
        self.assertLess(len(sink.data), MIB)
        response.resume()
        self.assertEqual(len(await sink.wait()), size)

    async def test_cancel_while_connecting(self) -> None:
        """Cancelling a request that has no connection yet stops the attempt."""
        upstream = Upstream(
            loop, Settings(upstream_overrides={"192.0.2.1:9": Override()}), own_addresses=lambda: frozenset()
        )
        source = Source()
        waiting = upstream.request(a_put(source, 0, host="192.0.2.1", port=9))
        waiting.cancel()
        with self.assertRaises(CancelledError):
            await waiting
        self.assertEqual(source.aborted, 1)

    async def test_stopped(self) -> None:
        """A stopped client fails new requests."""
        server = self.listen(answering())
        upstream = self.client(server)
        await upstream.stop()
        with self.assertRaises(UpstreamUnreachable):
            await self.fetch(upstream, server)


class TLSTests(ClientTestCase):
    """Over TLS, with an authority of the test's own."""

    def setUp(self) -> None:
        self.authority = Authority(self.mktemp())
        self.trusting = Override("https", True, self.authority.path)

    async def test_verified(self) -> None:
        """A certificate for the name, from a trusted authority: the connection is used, and used again."""
        server = self.listen(answering(), self.authority.server("s3.test"))
        upstream = self.client(server, override=self.trusting)
        for _ in range(2):
            self.assertEqual(await self.fetch(upstream, server), b"hello")
        self.assertEqual(len(server.connections), 1)

    async def test_sni_and_versions(self) -> None:
        """The original name is sent as SNI, TLS 1.3 is used where offered and 1.2 where not, without ALPN."""
        both: dict[str, bool] = {}
        old, new = {"tls12_only": True}, {"tls13_only": True}
        for options, version in ((both, "TLSv1.3"), (old, "TLSv1.2"), (new, "TLSv1.3")):
            seen: list[Any] = []

            def script(connection: ScriptedConnection) -> None:
                transport: Any = connection.transport
                session = transport.getHandle()
                protocol = transport.negotiatedProtocol
                seen.append((session.get_servername(), session.get_protocol_version_name(), protocol))
                answering()(connection)

            server = self.listen(script, self.authority.server("s3.test", **options))
            await self.fetch(self.client(server, override=self.trusting), server)
            self.assertEqual(seen, [(b"s3.test", version, None)])

    async def test_pinned_host(self) -> None:
        """Hosts of endpoint_overrides use TLS 1.2."""
        versions: list[str] = []

        def script(connection: ScriptedConnection) -> None:
            transport: Any = connection.transport
            versions.append(transport.getHandle().get_protocol_version_name())
            answering()(connection)

        server = self.listen(script, self.authority.server("s3.test"))
        pinned = {"s3.test": ["127.0.0.1"]}
        await self.fetch(self.client(server, override=self.trusting, endpoint_overrides=pinned), server)
        self.assertEqual(versions, ["TLSv1.2"])

    async def test_address(self) -> None:
        """A destination that is an IP address needs a certificate for that address."""
        server = self.listen(answering(), self.authority.server("127.0.0.1"))
        other = self.listen(answering(), self.authority.server("127.0.0.9", "s3.test"))
        overrides = {f"127.0.0.1:{each.port}": self.trusting for each in (server, other)}
        upstream = self.client(override=None, upstream_overrides=overrides)
        self.assertEqual(await self.fetch(upstream, server, host="127.0.0.1"), b"hello")
        with self.assertRaises(UpstreamTLSError):
            await self.fetch(upstream, other, host="127.0.0.1")

    async def refused(self, server: ScriptedServer, override: Override, *words: str) -> None:
        """One attempt is made, it fails with UpstreamTLSError, and no request is sent."""
        upstream = self.client(server, override=override)
        with self.assertRaises(UpstreamTLSError) as caught:
            await self.fetch(upstream, server)
        for word in words:
            self.assertIn(word, str(caught.exception))
        await deferLater(loop, 0.05)
        self.assertEqual([connection.requests for connection in server.connections], [0] * len(server.connections))
        self.assertEqual((upstream.counters.connect_failures, upstream.counters.retries), (1, 0))

    async def test_wrong_name(self) -> None:
        """A certificate for another name is refused."""
        server = self.listen(answering(), self.authority.server("other.test"))
        await self.refused(server, self.trusting, "s3.test", f"127.0.0.1:{server.port}")

    async def test_buckets_with_dots(self) -> None:
        """Before a name of Amazon's a bucket with dots is fine with its wildcard; before any other name it is not."""
        aws, other = "*.s3.us-east-1.amazonaws.com", "*.store.test"
        server = self.listen(answering(), self.authority.server(aws, other))
        overrides = {f"{name[2:]}:{server.port}": self.trusting for name in (aws, other)}
        upstream = self.client(override=None, upstream_overrides=overrides)
        self.assertEqual(await self.fetch(upstream, server, host="my.logs.s3.us-east-1.amazonaws.com"), b"hello")
        with self.assertRaises(UpstreamTLSError):
            await self.fetch(upstream, server, host="my.logs.store.test")

    async def test_unknown_authority(self) -> None:
        """A certificate from an authority that is not trusted is refused."""
        server = self.listen(answering(), Authority(self.mktemp()).server("s3.test"))
        await self.refused(server, self.trusting, "not trusted")

    async def test_system_authorities(self) -> None:
        """Without a ca_file only the system's authorities count, and ours is none of them."""
        server = self.listen(answering(), self.authority.server("s3.test"))
        await self.refused(server, Override("https", True), "not trusted")

    async def test_expired(self) -> None:
        """An expired certificate is refused."""
        server = self.listen(answering(), self.authority.server("s3.test", days=-1))
        await self.refused(server, self.trusting, "has expired")

    async def test_unusable_ca_file(self) -> None:
        """A ca_file without certificates is an error of its own."""
        server = self.listen(answering(), self.authority.server("s3.test"))
        await self.refused(server, Override("https", True, __file__), "ca_file")

    async def test_no_checks(self) -> None:
        """With validate_tls off anything goes: an unknown authority, another name."""
        server = self.listen(answering(), Authority(self.mktemp()).server("other.test", days=-1))
        upstream = self.client(server, override=Override("https", False))
        self.assertEqual(await self.fetch(upstream, server), b"hello")

    async def test_no_tls(self) -> None:
        """A peer that does not speak TLS is unreachable, not untrusted."""
        server = self.listen(lambda connection: write(connection, b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        upstream = self.client(server, override=self.trusting)
        with self.assertRaises(UpstreamUnreachable) as caught:
            await self.fetch(upstream, server)
        self.assertIn("TLS handshake", str(caught.exception))

    async def test_handshake_has_a_limit(self) -> None:
        """A peer that accepts and never shakes hands is given up after connection_timeout."""
        server = self.listen(lambda connection: None)
        upstream = self.client(server, override=self.trusting, connection_timeout=0.1)
        with self.assertRaises(UpstreamUnreachable):
            await self.fetch(upstream, server)
        self.assertEqual(len(server.connections), 3)

    async def test_big_body(self) -> None:
        """Bodies arrive whole, also when they are paused on the way and longer than any buffer."""
        data = bytes(range(256)) * (16 * 4096)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        server = self.listen(answering(answer), self.authority.server("s3.test"))
        upstream = self.client(server, override=self.trusting)
        response = await upstream.request(a_get(port=server.port))
        sink = Sink()
        response.start(sink)
        response.pause()
        await deferLater(loop, 0.1)
        response.resume()
        self.assertEqual(await sink.wait(), data)

    async def test_upload(self) -> None:
        """A big upload arrives whole; an early refusal of another one is delivered."""
        size = 8 * MIB

        def script(connection: ScriptedConnection) -> None:
            if not connection.requests:
                head = connection.take_head()
                if head is not None and b"refuse" in head:
                    write(connection, REFUSAL)
            if len(connection.received) == size:
                write(connection, OK)

        server = self.listen(script, self.authority.server("s3.test"))
        upstream = self.client(server, override=self.trusting)
        response = await upstream.request(a_put(BigSource(size), size, port=server.port))
        self.assertEqual((response.status, await self.body(response)), (200, b"hello"))
        self.assertEqual(server.connections[0].received, b"x" * size)
        source = BigSource(64 * MIB)
        upstream = self.client(server, override=self.trusting)
        response = await upstream.request(a_put(source, source.left, port=server.port, target=b"/refuse"))
        self.assertEqual((response.status, await self.body(response)), (403, b"denied"))
        self.assertEqual(source.aborted, 1)

    async def test_cut_without_goodbye(self) -> None:
        """A body without a length that ends without TLS's goodbye is not complete."""

        def script(connection: ScriptedConnection) -> None:
            if connection.take_head() is not None:
                transport: Any = connection.transport
                transport.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
                if b"polite" in head_of[0]:
                    transport.loseConnection()
                else:
                    loop.callLater(0.05, transport.transport.loseConnection)

        server = self.listen(script, self.authority.server("s3.test"))
        upstream = self.client(server, override=self.trusting)
        head_of = [b"polite"]
        self.assertEqual(await self.fetch(upstream, server), b"hello")
        head_of = [b"rude"]
        with self.assertRaises(UpstreamError):
            await self.fetch(upstream, server)


def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
