"""Tests for :mod:`s3proxy.tunnel.connect` and :mod:`s3proxy.tunnel.stream`, with the listeners before them."""

import os
import random
import shutil
import socket
import ssl
import tempfile
from pathlib import Path
from test.support.certificates import CertificateAuthority
from test.tunnel.stage import LARGE_TESTS, SECONDS, RelayCase, descriptors, disturb, read_all, reset, send_all
from test.tunnel.test_passthrough import NEVER, Book
from test.wire.harness import reply
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import deferLater

from s3proxy.tunnel import stream
from s3proxy.tunnel.connect import ESTABLISHED, Connector
from s3proxy.tunnel.limits import TunnelLimits
from s3proxy.tunnel.opener import Opener
from s3proxy.upstream.destinations import DestinationPolicy
from s3proxy.upstream.interfaces import UpstreamRefused
from s3proxy.wire.listen import adopt_files
from s3proxy.wire.resource import CachingResource
from s3proxy.wire.site import CachingSite
from s3proxy.wire.tls import ServerTLS, read_certificate, tls_factory

HOST = "s3.us-east-1.amazonaws.com"
CONNECT = b"CONNECT %b:443 HTTP/1.1\r\nHost: %b:443\r\nUser-Agent: test/1\r\n\r\n" % (HOST.encode(), HOST.encode())
MIB = 1 << 20


class ConnectCase(RelayCase):
    """A listener whose GET requests are answered, and whose CONNECT requests lead to ``server``."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.book = Book()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(SECONDS)
        self.addCleanup(self.server.close)
        self.book.addresses[HOST] = [self.server.getsockname()]
        self.listen()

    def listen(self, **limits: Any) -> None:
        self.tunnels = self.make_tunnels(**limits)
        opener = Opener(
            reactor=self.reactor,
            policy=DestinationPolicy(),
            addresses=self.book,
            limits=TunnelLimits(**limits),
            prepare=lambda sock: None,
        )
        connector = Connector(self.reactor, self.tunnels, opener)

        def handle(request: Any) -> "Deferred[None]":
            if request.method == b"CONNECT":
                return connector.handle(request)
            reply(request, b"x" * MIB)
            return Deferred()

        self.site = CachingSite(CachingResource(handle), self.reactor, self.listener)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.address = sock.getsockname()
            port = adopt_files(self.reactor, sock, self.factory())
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        self.addCleanup(self.site.abort_all)

    listener = "proxy"

    def factory(self) -> Any:
        """What accepts connections."""
        return self.site

    def connect(self) -> socket.socket:
        """A client's connection; blocks."""
        client = socket.create_connection(self.address, SECONDS)
        self.addCleanup(client.close)
        return client

    def accept(self) -> socket.socket:
        upstream, _ = self.server.accept()
        upstream.settimeout(SECONDS)
        self.addCleanup(upstream.close)
        return upstream

    async def open_tunnel(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of an open tunnel."""
        client = await self.work(self.connect)
        await self.work(send_all, client, CONNECT)
        upstream = await self.work(self.accept)
        self.assertEqual(await self.work(read_all, client, len(ESTABLISHED)), ESTABLISHED)
        return client, upstream

    async def refused(self, request: bytes, status: bytes, reason: str) -> bytes:
        """The answer to a CONNECT request that leads nowhere."""
        client = await self.work(self.connect)
        await self.work(send_all, client, request)
        answer = bytearray()
        while b"</Error>" not in answer:
            answer += await self.work(client.recv, 65536)
        self.assertEqual(answer.split(b" ")[1], status)
        self.assertEqual(self.reasons(), [reason])
        self.assertEqual(self.records[0].status, int(status))
        # The connection may be used again.
        await self.work(send_all, client, CONNECT)
        await self.work(self.accept)
        self.assertEqual(await self.work(read_all, client, len(ESTABLISHED)), ESTABLISHED)
        return bytes(answer)


class _Connecting:
    """What holds for plain connections and for those under TLS."""

    async def test_both_directions(self: Any) -> None:
        """Every byte arrives; the line of the access log has all that is known."""
        client, upstream = await self.open_tunnel()
        self.assertEqual(len(self.tunnels), 1)
        self.assertEqual(self.site.requests_in_flight, 0)
        self.assertEqual(self.site.connections_open, 0)
        up, down = os.urandom(3 * MIB), os.urandom(5 * MIB)

        def send_and_read() -> bytes:
            # One thread: two must not use the same TLS connection at the same time.
            send_all(client, up)
            read: bytes = read_all(client, len(down))
            return read

        got_down, _, got_up = await gatherResults(
            [self.work(send_and_read), self.work(send_all, upstream, down), self.work(read_all, upstream, len(up))]
        )
        self.assertTrue(got_up == up)
        self.assertTrue(got_down == down)
        upstream.close()
        self.assertEqual(await self.work(read_all, client), b"")
        client.close()
        await self.until(lambda: self.records)
        (record,) = self.records
        self.assertEqual((record.method, record.target, record.status), (b"CONNECT", HOST.encode() + b":443", 200))
        self.assertEqual((record.listener, record.user_agent, record.reason), (self.listener, b"test/1", "finished"))
        self.assertEqual(record.bytes_sent, len(down) + len(ESTABLISHED))
        self.assertEqual(record.body_bytes_received, len(up))
        self.assertEqual(bool(record.tls), self.listener == "tls")

    async def test_eager_client(self: Any) -> None:
        """What a client sends before it has its answer is not lost."""
        client = await self.work(self.connect)
        await self.work(send_all, client, CONNECT + b"hello" * 100)
        upstream = await self.work(self.accept)
        self.assertEqual(await self.work(read_all, upstream, 500), b"hello" * 100)

    async def test_answer_before(self: Any) -> None:
        """A CONNECT that follows another request waits until that one's answer has gone out."""
        client = await self.work(self.connect)
        await self.work(send_all, client, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n" + CONNECT)
        upstream = await self.work(self.accept)
        await self.work(send_all, upstream, b"tunnel")
        head = b""
        while b"\r\n\r\n" not in head:
            head += await self.work(read_all, client, 1)
        self.assertEqual(await self.work(read_all, client, MIB), b"x" * MIB)
        self.assertEqual(await self.work(read_all, client, len(ESTABLISHED) + 6), ESTABLISHED + b"tunnel")

    async def test_refused_address(self: Any) -> None:
        """403, and why."""
        self.book.addresses["other.test"] = UpstreamRefused("other.test leads to 10.0.0.1")
        answer = await self.refused(b"CONNECT other.test:443 HTTP/1.1\r\nHost: other.test\r\n\r\n", b"403", "refused")
        self.assertIn(b"leads to 10.0.0.1", answer)

    async def test_other_port(self: Any) -> None:
        """Tunnels lead to port 443."""
        await self.refused(b"CONNECT %b:22 HTTP/1.1\r\nHost: x\r\n\r\n" % HOST.encode(), b"403", "refused")
        self.assertEqual(len(self.book.asked), 1)

    async def test_unknown_host(self: Any) -> None:
        """502."""
        await self.refused(b"CONNECT other.test:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"502", "unreachable")

    async def test_slow_look_up(self: Any) -> None:
        """504."""
        self.listen(connect_time=0.2)
        self.book.addresses["other.test"] = Deferred()
        await self.refused(b"CONNECT other.test:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"504", "timeout")

    async def test_malformed(self: Any) -> None:
        """400."""
        await self.refused(b"CONNECT other.test HTTP/1.1\r\nHost: x\r\n\r\n", b"400", "malformed")

    async def test_too_many(self: Any) -> None:
        """503 SlowDown beyond the limit; an attempt counts until it is over."""
        self.listen(most=1)
        self.book.addresses["other.test"] = Deferred()
        first = await self.work(self.connect)
        await self.work(send_all, first, b"CONNECT other.test:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        await self.until(lambda: self.book.asked)
        late = await self.work(self.connect)
        await self.work(send_all, late, CONNECT)
        answer = bytearray()
        while b"</Error>" not in answer:
            answer += await self.work(late.recv, 65536)
        self.assertTrue(answer.startswith(b"HTTP/1.1 503 "), answer)
        self.assertIn(b"<Code>SlowDown</Code>", answer)
        self.assertIn(b"\r\nRetry-After: ", answer)
        self.assertEqual(self.reasons(), ["overload"])
        first.close()
        await self.until(lambda: len(self.records) == 2)
        self.assertEqual(self.tunnels.attempts, 0)
        await self.work(send_all, late, CONNECT)
        await self.work(self.accept)
        self.assertEqual(await self.work(read_all, late, len(ESTABLISHED)), ESTABLISHED)
        self.assertEqual(self.tunnels.attempts, 0)

    async def test_client_that_leaves(self: Any) -> None:
        """The attempt is given up with the client."""
        cancelled: list[object] = []
        self.book.addresses["other.test"] = Deferred(cancelled.append)
        client = await self.work(self.connect)
        await self.work(send_all, client, b"CONNECT other.test:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        await self.until(lambda: self.book.asked)
        client.close()
        await self.until(lambda: cancelled)
        self.assertEqual(self.reasons(), ["client_left"])

    async def test_reset_by_the_far_side(self: Any) -> None:
        """The client's connection is cut, too."""
        client, upstream = await self.open_tunnel()
        reset(upstream)
        with self.assertRaises((ConnectionResetError, ssl.SSLError)):
            if not await self.work(read_all, client):
                raise ConnectionResetError
        self.assertEqual(self.reasons(), ["upstream_reset"])

    async def test_reset_by_the_client(self: Any) -> None:
        """The far side's connection is cut, too."""
        client, upstream = await self.open_tunnel()
        reset(client)
        try:
            await self.work(read_all, upstream)
        except ConnectionResetError:
            pass
        await self.until(lambda: not len(self.tunnels))
        self.assertIn(self.reasons()[0], ("client_reset", "finished"))

    async def test_stalled_client(self: Any) -> None:
        """A client that does not read holds up the far side; what is held in between is bounded."""
        client, upstream = await self.open_tunnel()
        data = os.urandom(MIB) * 40
        upstream.setblocking(False)
        sent = 0
        for _ in range(100):
            try:
                while True:
                    sent += upstream.send(data[sent : sent + 65536])
            except BlockingIOError:
                await self.work(lambda: None)
        self.assertLess(sent, 32 * MIB)
        upstream.setblocking(True)
        _, got = await gatherResults(
            [self.work(send_all, upstream, data[sent:], True), self.work(read_all, client, len(data))]
        )
        self.assertTrue(got == data)

    async def test_stalled_far_side(self: Any) -> None:
        """The same the other way round."""
        client, upstream = await self.open_tunnel()
        data = os.urandom(MIB) * 40
        sending = self.work(send_all, client, data)
        for _ in range(100):
            await self.work(lambda: None)
        (tunnel,) = self.tunnels._open.values()
        self.assertLess(self.tunnels.mover.pipes.lent, 2)
        self.assertLess(tunnel.received, 32 * MIB)
        got, _ = await gatherResults([self.work(read_all, upstream, len(data)), sending])
        self.assertTrue(got == data)

    async def test_silence(self: Any) -> None:
        """An idle tunnel ends in good order."""
        self.listen(idle_time=0.3)
        client, upstream = await self.open_tunnel()
        self.assertEqual(await self.work(read_all, client), b"")
        self.assertEqual(await self.work(read_all, upstream), b"")
        self.assertEqual(self.reasons(), ["idle"])

    async def test_random_sessions(self: Any) -> None:
        """Whatever clients and far sides do, before and after the tunnel is open: nothing stays. 60 sessions, or five
        thousand.
        """
        self.patch(stream, "GOODBYE", 0.2)
        self.listen(connect_time=0.2, stall_time=0.3, half_closed_time=0.3)
        self.book.addresses["never.test"] = NEVER
        self.server.setblocking(False)
        chance = random.Random(11)
        before = len(descriptors())
        for _ in range(1000 if LARGE_TESTS else 12):
            ends = []
            for _ in range(5):
                host = chance.choice((HOST, HOST, HOST, "other.test", "never.test"))
                request = b"CONNECT %b:443 HTTP/1.1\r\nHost: x\r\n\r\n" % host.encode()
                client = await self.work(self.connect)
                ends.append(client)
                await self.work(send_all, client, request[: chance.choice((10, len(request), len(request)))])
            for _ in range(chance.randrange(30)):
                await self.work(lambda: None)
                try:
                    ends.append(self.server.accept()[0])
                except BlockingIOError:
                    pass
                disturb(chance.choice(ends), chance)
            if chance.random() < 0.2:
                await deferLater(self.reactor, 0.5)
            for end in ends:
                if end.fileno() >= 0:
                    (reset if chance.random() < 0.5 else socket.socket.close)(end)
            await self.until(lambda: not (len(self.tunnels) or self.tunnels.attempts or self.site.connections_open))
            while True:
                try:
                    self.server.accept()[0].close()
                except BlockingIOError:
                    break
        self.tunnels.mover.pipes.close()
        await self.until(lambda: len(descriptors()) == before)
        await self.until(lambda: not self.timers())
        self.assertEqual(len(self.records), sum(self.tunnels.endings.values()))

    test_random_sessions.timeout = 1800  # type: ignore[attr-defined]

    async def test_nothing_stays_open(self: Any) -> None:
        """After any end."""
        before = len(descriptors())
        for number in range(12):
            client, upstream = await self.open_tunnel()
            ends = [client, upstream] if number % 2 else [upstream, client]
            for end in ends:
                (reset if number % 3 == 0 else socket.socket.close)(end)
            await self.until(lambda: not len(self.tunnels))
        self.tunnels.mover.pipes.close()
        await self.until(lambda: len(descriptors()) == before)


class PlainTests(_Connecting, ConnectCase):
    """CONNECT on the forward proxy's listener."""

    async def test_half_closed(self) -> None:
        """A client that has finished sending still gets its answer."""
        client, upstream = await self.open_tunnel()
        await self.work(send_all, client, b"question", True)
        self.assertEqual(await self.work(read_all, upstream), b"question")
        await self.work(send_all, upstream, b"answer", True)
        self.assertEqual(await self.work(read_all, client), b"answer")


class TLSTests(_Connecting, ConnectCase):
    """CONNECT on the TLS listener."""

    listener = "tls"

    async def test_client_that_does_not_say_goodbye(self) -> None:
        """A client that leaves TLS's farewell unanswered is not waited for, however the tunnel has ended."""
        self.patch(stream, "GOODBYE", 0.3)
        for limits in ({"idle_time": 0.2}, {"stall_time": 0.2}):
            self.listen(**limits)
            before = len(descriptors())
            client, upstream = await self.open_tunnel()
            if "stall_time" in limits:
                upstream.shutdown(socket.SHUT_WR)
            await self.until(lambda: not len(self.tunnels))
            upstream.close()
            # The client's own is left.
            await self.until(lambda: len(descriptors()) == before + 1)
            client.close()
            self.records.clear()

    def factory(self) -> Any:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        authority = CertificateAuthority(folder)
        made = authority.issue(["localhost"])
        self.context = ssl.create_default_context(cafile=str(authority.ca_file))
        certificate = read_certificate(str(made.certificate), str(made.key))
        assert certificate is not None
        return tls_factory(self.reactor, ServerTLS(certificate), self.site)

    def connect(self) -> socket.socket:
        client = self.context.wrap_socket(super().connect(), server_hostname="localhost")
        self.addCleanup(client.close)
        return client
