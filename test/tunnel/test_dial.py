"""Tests for :mod:`s3proxy.tunnel.dial`, on real sockets."""

import socket
from test.tunnel.stage import descriptors
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from s3proxy.tunnel.dial import Dialled, dial
from s3proxy.upstream.interfaces import UpstreamTimeout, UpstreamUnreachable


class DialTests(TestCase):
    """dial."""

    timeout = 30

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.failures: list[tuple[str, int]] = []
        # What the reactor opens for itself is open from now on.
        await deferLater(self.reactor, 0)

    def listening(self, backlog: int = 5) -> tuple[str, int]:
        server = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.addCleanup(server.close)
        address: tuple[str, int] = server.getsockname()
        return address

    def closed(self) -> tuple[str, int]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address: tuple[str, int] = probe.getsockname()
            return address

    def silent(self) -> tuple[str, int]:
        """A port whose queue of connections is full: it does not answer."""
        address = self.listening(backlog=0)
        for _ in range(4):
            filler = socket.socket()
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect_ex(address)
        return address

    def dial(self, *addresses: tuple[str, int], limit: float = 5.0, stagger: float = 0.1) -> "Deferred[Dialled]":
        return dial(
            self.reactor,
            "s3.test",
            addresses,
            limit=limit,
            stagger=stagger,
            prepare=lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            failed=lambda ip, port: self.failures.append((ip, port)),
        )

    async def test_first_address(self) -> None:
        """The first address is used when it answers; its socket has its options and does not block."""
        first, second = self.listening(), self.listening()
        sock, ip, port = await self.dial(first, second)
        with sock:
            self.assertEqual((ip, port), first)
            self.assertEqual(sock.getpeername(), first)
            self.assertFalse(sock.getblocking())
            self.assertTrue(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        self.assertEqual(self.failures, [])

    async def test_refused(self) -> None:
        """An address that refuses is followed by the next at once, and is reported."""
        refusing, answering = self.closed(), self.listening()
        sock, ip, port = await self.dial(refusing, answering, stagger=60)
        sock.close()
        self.assertEqual((ip, port), answering)
        self.assertEqual(self.failures, [refusing])

    async def test_silent(self) -> None:
        """An address that is silent is followed by the next after a moment, and reported when that one answers."""
        silent, answering = self.silent(), self.listening()
        before = len(descriptors())
        sock, ip, port = await self.dial(silent, answering)
        sock.close()
        self.assertEqual((ip, port), answering)
        self.assertEqual(self.failures, [silent])
        self.assertEqual(len(descriptors()), before)

    async def test_passed_over_too_soon(self) -> None:
        """One that had less time than that when another answered is not reported."""
        silent, refusing, answering = self.silent(), self.closed(), self.listening()
        sock, _, _ = await self.dial(refusing, answering, silent, stagger=60)
        sock.close()
        self.assertEqual(self.failures, [refusing])

    async def test_none_answers(self) -> None:
        """When all refuse, that is told with the last reason."""
        with self.assertRaises(UpstreamUnreachable) as caught:
            await self.dial(self.closed(), self.closed())
        self.assertIn("Connection refused", str(caught.exception))
        self.assertEqual(len(self.failures), 2)

    async def test_no_address(self) -> None:
        """So it is without any address."""
        with self.assertRaises(UpstreamUnreachable):
            await self.dial()

    async def test_too_late(self) -> None:
        """All addresses together have one time limit."""
        silent = self.silent()
        with self.assertRaises(UpstreamTimeout):
            await self.dial(silent, limit=0.3)
        self.assertEqual(self.failures, [silent])

    async def test_cancelled(self) -> None:
        """Nothing stays open when nobody waits any more."""
        silent = self.silent()
        before = len(descriptors())
        dialling = self.dial(silent)
        dialling.cancel()
        with self.assertRaises(CancelledError):
            await dialling
        self.assertEqual(len(descriptors()), before)

    async def test_address_family_that_is_missing(self) -> None:
        """An address that can't be dialled from here is no reason to give up."""
        answering = self.listening()
        sock, ip, _ = await self.dial(("2001:db8::1", 443), answering)
        sock.close()
        self.assertEqual(ip, "127.0.0.1")
