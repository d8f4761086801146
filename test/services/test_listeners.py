"""Ports and their remedies."""

import errno
import socket
from test.support.streams import run_at_once
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from s3proxy.services.errors import StartError
from s3proxy.services.listeners import AdminListener, BoundPort, PassthroughListener, TrafficListener, _remedy
from s3proxy.telemetry.record import RequestRecord
from s3proxy.tunnel.opener import Opener
from s3proxy.tunnel.passthrough import Passthrough
from s3proxy.tunnel.registry import Tunnels
from s3proxy.upstream.destinations import DestinationPolicy
from s3proxy.wire.pages import PageCache
from s3proxy.wire.resource import CachingResource
from s3proxy.wire.site import CachingSite


class BoundPortTests(SynchronousTestCase):
    """BoundPort."""

    def test_every_address(self) -> None:
        """A port is bound on each address, before anything is accepted."""
        bound = BoundPort("server.http_port", 0, ("127.0.0.1", "127.0.0.2"))
        self.addCleanup(bound.close)
        bound.bind()
        self.assertEqual({address for address, _ in bound.names()}, {"127.0.0.1", "127.0.0.2"})

    def test_taken(self) -> None:
        """A port in use is told with the remedy."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            bound = BoundPort("server.http_port", port, ("127.0.0.1",))
            text = str(self.assertRaises(StartError, bound.bind))
        self.assertIn(f"server.http_port: can't listen on 127.0.0.1 port {port}", text)
        self.assertIn("ss -ltnp", text)
        self.assertEqual(bound.sockets, [])

    def test_bound_by_a_service_manager(self) -> None:
        """Sockets of this port that somebody else has bound are served, those of other ports are left; nothing more is
        bound.
        """
        given = [socket.create_server((address, 0)) for address in ("127.0.0.1", "127.0.0.1")]
        port = given[0].getsockname()[1]
        second = socket.create_server(("127.0.0.2", port))
        for each in (*given, second):
            self.addCleanup(each.close)
        inherited = [given[1], given[0], second]
        bound = BoundPort("server.http_port", port, ("127.0.0.1", "192.0.2.1"))
        self.addCleanup(bound.close)
        bound.bind(inherited)
        self.assertEqual(bound.sockets, [given[0], second])
        self.assertEqual(inherited, [given[1]])

    def test_remedies(self) -> None:
        """Each cause has its own."""
        for code, port, words in (
            (errno.EACCES, 80, "CAP_NET_BIND_SERVICE"),
            (errno.EADDRNOTAVAIL, 8080, "no such address"),
            (errno.EADDRINUSE, 8080, "another program listens there"),
            (errno.EMFILE, 8080, "choose another port"),
        ):
            text = _remedy("server.http_port", port, "192.0.2.1", OSError(code, "text"))
            self.assertIn(words, text)
            self.assertIn("server.http_port", text)


class FullReactor(MemoryReactor):
    """A reactor whose ports are all taken."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        raise CannotListenError(interface, port, OSError(errno.EADDRINUSE, "Address already in use"))


class AdminListenerTests(SynchronousTestCase):
    """AdminListener."""

    def test_listens_where_it_is_told(self) -> None:
        """The site listens on the configured address while the service runs."""
        reactor = MemoryReactor()
        listener = AdminListener(reactor, "health.port", 8080, "127.0.0.1", Site(Resource()))
        listener.startService()
        self.assertEqual([(s[0], s[3]) for s in reactor.tcpServers], [(8080, "127.0.0.1")])
        listener.stopService()
        self.assertIsNone(listener.port)

    def test_side_listener_does_not_stop_the_proxy(self) -> None:
        """A port that is taken is an error in the log and in the health, and nothing else."""
        listener = AdminListener(FullReactor(), "health.port", 8080, "127.0.0.1", Site(Resource()))
        listener.startService()
        self.assertIn("health.port", listener.error or "")
        listener.stopService()


class TrafficListenerTests(TestCase):
    """TrafficListener, on real sockets."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.bound = BoundPort("server.http_port", 0, ("127.0.0.1",))
        self.bound.bind()
        self.site = CachingSite(CachingResource(lambda request: run_at_once(lambda: None)), reactor)
        self.listener = TrafficListener(reactor, self.bound, self.site, PageCache(run_at_once))

    async def test_drain_ends_idle_connections(self) -> None:
        """Draining closes what is idle at once and accepts nothing more."""
        (address,) = self.bound.names()
        self.listener.startService()
        with socket.create_connection(address):
            await self.listener.drain(5)
        self.assertRaises(ConnectionRefusedError, socket.create_connection, address)


class PassthroughListenerTests(TestCase):
    """PassthroughListener, on real sockets."""

    async def test_close(self) -> None:
        """Connections without a tunnel are closed, and no further ones accepted."""
        from twisted.internet import reactor

        bound = BoundPort("server.https_port", 0, ("127.0.0.1",))
        bound.bind()
        (address,) = bound.names()
        records: list[RequestRecord] = []
        tunnels = Tunnels(reactor, records.append, lambda: 0.0)
        opener: Any = Opener(
            reactor=reactor,
            policy=DestinationPolicy(),
            addresses=None,  # type: ignore[arg-type]
            limits=tunnels.limits,
            prepare=lambda sock: None,
        )
        passthrough = Passthrough(reactor, tunnels, opener)
        listener = PassthroughListener(reactor, bound, passthrough)
        listener.startService()
        with socket.create_connection(address):
            while not passthrough.waiting:
                await deferLater(reactor, 0.01)  # type: ignore[arg-type]
            await listener.close()
        self.assertEqual([record.reason for record in records], ["shutdown"])
        self.assertRaises(ConnectionRefusedError, socket.create_connection, address)
