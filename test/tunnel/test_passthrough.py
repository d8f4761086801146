"""Tests for :mod:`s3proxy.tunnel.passthrough`, on real sockets."""

import os
import random
import socket
from test.tunnel.hellos import client_hello, real_hello, records, server_names
from test.tunnel.stage import LARGE_TESTS, SECONDS, RelayCase, descriptors, disturb, read_all, reset, send_all
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import deferLater

from s3proxy.tunnel.limits import TunnelLimits
from s3proxy.tunnel.opener import Opener
from s3proxy.tunnel.passthrough import Passthrough, adopt_passthrough
from s3proxy.upstream.destinations import DestinationPolicy
from s3proxy.upstream.interfaces import UpstreamRefused, UpstreamUnreachable

HOST = "bucket.s3.us-east-1.amazonaws.com"


NEVER = object()


class Book:
    """Addresses by host name; a host without any is refused, does not exist, or is being looked up for ever."""

    def __init__(self) -> None:
        self.addresses: dict[str, Any] = {}
        self.asked: list[tuple[str, int]] = []
        self.reports: list[tuple[str, int, bool]] = []

    def find(self, host: str, port: int) -> "Deferred[list[tuple[str, int]]]":
        self.asked.append((host, port))
        found = self.addresses.get(host, UpstreamUnreachable(f"{host} does not exist"))
        if found is NEVER:
            return Deferred()
        if isinstance(found, Deferred):
            return found
        return fail(found) if isinstance(found, Exception) else succeed(found)

    def dialled(self, ip: str, port: int, reached: bool) -> None:
        self.reports.append((ip, port, reached))


def send_some(sock: socket.socket, data: bytes) -> None:
    """Send; the proxy may have had enough before."""
    try:
        sock.sendall(data)
    except OSError:
        return


class PassthroughTests(RelayCase):
    """The listener, from the first byte to the tunnel."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.book = Book()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(SECONDS)
        self.addCleanup(self.server.close)
        self.book.addresses[HOST] = [self.server.getsockname()]
        self.listen()

    def listen(self, policy: DestinationPolicy = DestinationPolicy(), **limits: Any) -> None:
        """A listener with these limits."""
        self.tunnels = self.make_tunnels(**limits)
        opener = Opener(
            reactor=self.reactor,
            policy=policy,
            addresses=self.book,
            limits=TunnelLimits(**limits),
            prepare=lambda sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        )
        self.passthrough = Passthrough(self.reactor, self.tunnels, opener)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.address = sock.getsockname()
            port = adopt_passthrough(self.reactor, sock, self.passthrough)
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        self.addCleanup(self.passthrough.abort_waiting)

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address, SECONDS)
        self.addCleanup(client.close)
        return client

    def accept(self) -> socket.socket:
        upstream, _ = self.server.accept()
        upstream.settimeout(SECONDS)
        self.addCleanup(upstream.close)
        return upstream

    async def test_tunnel(self) -> None:
        """The far side gets every byte from the first on, and so does the client."""
        hello = real_hello(HOST)
        client = self.connect()
        await self.work(send_all, client, hello)
        upstream = await self.work(self.accept)
        self.assertEqual(await self.work(read_all, upstream, len(hello)), hello)
        await self.work(send_all, upstream, b"server hello", True)
        self.assertEqual(await self.work(read_all, client), b"server hello")
        client.close()
        await self.until(lambda: self.records)
        (record,) = self.records
        self.assertEqual(
            (record.operation, record.host, record.target), ("Tunnel", HOST.encode(), f"{HOST}:443".encode())
        )
        self.assertEqual((record.status, record.outcome, record.ending), (0, "BYPASS", "ok"))
        self.assertEqual((record.bytes_sent, record.body_bytes_received), (12, len(hello)))
        self.assertEqual(record.upstream_address, "127.0.0.1:%d" % self.server.getsockname()[1])
        self.assertEqual(self.book.asked, [(HOST, 443)])
        self.assertEqual([reached for *_, reached in self.book.reports], [True])

    async def test_hello_in_pieces(self) -> None:
        """The ClientHello may come byte by byte, in many records, and with more behind it."""
        hello = records(client_hello(server_names(HOST.upper().encode())), 7)
        client = self.connect()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(hello), 9):
            await self.work(send_all, client, hello[at : at + 9])
        await self.work(send_all, client, b"early data", True)
        upstream = await self.work(self.accept)
        self.assertEqual(await self.work(read_all, upstream), hello + b"early data")

    async def test_more_before_the_far_side_is_reached(self) -> None:
        """What comes while the address is being looked up waits, but not more than so much."""
        addresses: Deferred[list[tuple[str, int]]] = Deferred()
        self.book.addresses[HOST] = addresses
        client = self.connect()
        data = real_hello(HOST) + b"x" * (8 << 20)
        sending = self.work(send_all, client, data, True)
        await self.until(lambda: self.book.asked)
        for _ in range(30):
            await self.work(lambda: None)
        (newcomer,) = self.passthrough.waiting
        self.assertLess(len(newcomer._hello.received), 100_000)
        addresses.callback([self.server.getsockname()])
        upstream = await self.work(self.accept)
        got = await self.work(read_all, upstream)
        await sending
        self.assertTrue(got == data)

    async def refused(self, data: bytes, reason: str, answer: bytes, end: bool = False) -> None:
        """What these bytes lead to."""
        before = len(descriptors())
        client = self.connect()
        await self.work(send_all, client, data, end)
        got = await self.work(read_all, client)
        self.assertEqual(got, answer)
        client.close()
        await self.until(lambda: self.reasons())
        self.assertEqual(self.reasons(), [reason])
        self.assertEqual(self.records[0].outcome, "ERROR")
        self.assertEqual(self.tunnels.endings, {("https", reason): 1})
        self.assertFalse(self.passthrough.waiting)
        self.assertEqual(len(descriptors()), before)

    async def test_no_name(self) -> None:
        """Without a name there is nowhere to go; the client is told in the words of TLS."""
        await self.refused(records(client_hello()), "no_sni", b"\x15\x03\x03\x00\x02\x02\x70")

    async def test_encrypted_name(self) -> None:
        """A name that only an encrypted ClientHello holds can't be read."""
        hello = records(client_hello(b"\xfe\x0d\x00\x04test"))
        await self.refused(hello, "ech", b"\x15\x03\x03\x00\x02\x02\x70")

    async def test_address_for_name(self) -> None:
        """An address is no name, whosever it is."""
        await self.refused(
            records(client_hello(server_names(b"169.254.169.254"))), "bad_sni", b"\x15\x03\x03\x00\x02\x02\x70"
        )

    async def test_http(self) -> None:
        """Plain HTTP is closed without an answer, and counted as what it is."""
        await self.refused(b"GET / HTTP/1.1\r\nHost: s3.test\r\n\r\n", "http", b"")

    async def test_garbage(self) -> None:
        """So is everything else."""
        await self.refused(b"SSH-2.0-x\r\n", "not_tls", b"")

    async def test_client_that_leaves(self) -> None:
        """A client may change its mind."""
        await self.refused(real_hello(HOST)[:20], "client_left", b"", end=True)

    async def test_client_that_resets(self) -> None:
        """However it does so."""
        client = self.connect()
        await self.work(send_all, client, b"\x16\x03\x01")
        await self.until(lambda: self.passthrough.waiting)
        reset(client)
        await self.until(lambda: self.reasons() == ["client_reset"])

    async def test_slow_hello(self) -> None:
        """A client that does not finish its ClientHello in time is closed."""
        self.listen(hello_time=0.3)
        await self.refused(real_hello(HOST)[:-1], "hello_timeout", b"")

    async def test_unknown_host(self) -> None:
        """A name without an address leads nowhere."""
        await self.refused(real_hello("other.test"), "unreachable", b"\x15\x03\x03\x00\x02\x02\x50")

    async def test_refused_address(self) -> None:
        """A destination that nobody may reach is refused."""
        self.book.addresses["other.test"] = UpstreamRefused("other.test leads to 10.0.0.1")
        await self.refused(real_hello("other.test"), "refused", b"\x15\x03\x03\x00\x02\x02\x31")

    async def test_list(self) -> None:
        """A name that is not in the list is not even looked up."""
        self.listen(policy=DestinationPolicy(allowlist=["*.amazonaws.com"]))
        await self.refused(real_hello("other.test"), "refused", b"\x15\x03\x03\x00\x02\x02\x31")
        self.assertEqual(self.book.asked, [])

    async def test_far_side_that_refuses(self) -> None:
        """A far side that can't be reached is reported to who knows the addresses."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        self.book.addresses[HOST] = [address]
        await self.refused(real_hello(HOST), "unreachable", b"\x15\x03\x03\x00\x02\x02\x50")
        self.assertEqual(self.book.reports, [(*address, False)])

    async def test_slow_look_up(self) -> None:
        """Finding and connecting have a time limit, and leave nothing behind."""
        self.listen(connect_time=0.3)
        self.book.addresses[HOST] = Deferred()
        await self.refused(real_hello(HOST), "timeout", b"\x15\x03\x03\x00\x02\x02\x50")

    async def test_silent_far_side(self) -> None:
        """An address that does not answer until time is up is reported, so that it can be left out."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
            address = server.getsockname()
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                self.addCleanup(filler.close)
                filler.setblocking(False)
                filler.connect_ex(address)
            self.listen(connect_time=0.5)
            self.book.addresses[HOST] = [address]
            await self.refused(real_hello(HOST), "timeout", b"\x15\x03\x03\x00\x02\x02\x50")
        self.assertEqual(self.book.reports, [(*address, False)])

    async def test_too_many(self) -> None:
        """Beyond the limit a connection is closed at once, counted, and told once a minute; one that ends makes room,
        whether it has become a tunnel or not.
        """
        self.listen(most=2)
        waiting, hello = self.connect(), real_hello(HOST)
        await self.until(lambda: self.passthrough.waiting)
        client = self.connect()
        await self.work(send_all, client, hello)
        await self.work(self.accept)
        await self.until(lambda: len(self.tunnels) == 1)
        for _ in range(3):
            late = self.connect()
            self.assertEqual(await self.work(read_all, late), b"\x15\x03\x03\x00\x02\x02\x50")
        self.assertEqual(self.tunnels.endings, {("https", "overload"): 3})
        waiting.close()
        await self.until(lambda: not self.passthrough.waiting)
        self.assertEqual(self.tunnels.attempts, 0)
        again = self.connect()
        await self.work(send_all, again, real_hello(HOST))
        await self.work(self.accept)
        await self.until(lambda: len(self.tunnels) == 2)

    async def test_client_that_leaves_while_the_far_side_is_dialled(self) -> None:
        """The attempt is given up, too."""
        cancelled: list[object] = []
        self.book.addresses[HOST] = Deferred(cancelled.append)
        client = self.connect()
        await self.work(send_all, client, real_hello(HOST))
        await self.until(lambda: self.book.asked)
        reset(client)
        await self.until(lambda: cancelled)
        self.assertEqual(self.reasons(), ["client_reset"])

    async def test_loop(self) -> None:
        """A ClientHello that comes back, by whatever detour, ends there, and so do the tunnels that brought it."""
        self.book.addresses[HOST] = [self.address]
        client = self.connect()
        await self.work(send_all, client, real_hello(HOST))
        self.assertEqual(await self.work(read_all, client), b"\x15\x03\x03\x00\x02\x02\x50")
        client.close()
        await self.until(lambda: len(self.records) == 2)
        self.assertEqual(self.reasons(), ["loop", "finished"])
        self.assertEqual(self.passthrough.accepted, 2)

    async def test_same_hello_later(self) -> None:
        """The same ClientHello is no loop when the tunnel for it has ended."""
        hello = real_hello(HOST)
        for _ in range(2):
            client = self.connect()
            await self.work(send_all, client, hello)
            upstream = await self.work(self.accept)
            self.assertEqual(await self.work(read_all, upstream, len(hello)), hello)
            client.close()
            upstream.close()
            await self.until(lambda: not len(self.tunnels))
        self.assertEqual(self.reasons(), ["finished"] * 2)

    async def test_random_sessions(self) -> None:
        """Whatever clients and far sides do, from the first byte on: nothing stays. 100 sessions, or ten thousand."""
        self.listen(connect_time=0.2, hello_time=0.2, stall_time=0.3, half_closed_time=0.3)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.book.addresses["closed.test"] = [probe.getsockname()]
        self.book.addresses["never.test"] = NEVER
        self.server.setblocking(False)
        chance = random.Random(13)
        before = len(descriptors())
        for _ in range(1000 if LARGE_TESTS else 10):
            ends = []
            for _ in range(10):
                name = chance.choice((HOST, HOST, HOST, HOST, "closed.test", "never.test", "other.test"))
                data = real_hello(name) + bytes(chance.choice((0, 0, 100, 20000)))
                if chance.random() < 0.2:
                    half = data[: chance.randrange(300)]
                    data = chance.choice((b"", b"GET / HTTP/1.1\r\n\r\n", half, os.urandom(50)))
                client = await self.work(self.connect)
                ends.append(client)
                await self.work(send_some, client, data)
            for _ in range(chance.randrange(50)):
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
            await self.until(lambda: not (len(self.tunnels) or self.tunnels.attempts or self.passthrough.waiting))
            while True:
                try:
                    self.server.accept()[0].close()
                except BlockingIOError:
                    break
        self.tunnels.mover.pipes.close()
        await self.until(lambda: len(descriptors()) == before)
        self.assertEqual(self.timers(), [])
        self.assertEqual(len(self.records), self.passthrough.accepted)
        self.assertEqual(sum(self.tunnels.endings.values()), self.passthrough.accepted)
        self.assertFalse(self.tunnels._randoms)

    test_random_sessions.timeout = 1800  # type: ignore[attr-defined]

    async def test_stop(self) -> None:
        """Connections without a tunnel are closed when the proxy stops."""
        client = self.connect()
        await self.work(send_all, client, b"\x16\x03\x01")
        await self.until(lambda: self.passthrough.waiting)
        self.passthrough.abort_waiting()
        self.assertEqual(self.reasons(), ["shutdown"])
