"""Listening sockets"""

import errno
import os
import socket
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from s3proxy.wire.listen import adopt_files, bind_socket
from s3proxy.wire.pages import PageCache
from s3proxy.wire.transport import FileServer
from test.wire.harness import listen_files

reactor: Any = _reactor


class Greeter(Protocol):
    """Fires its factory's Deferred with itself."""

    def connectionMade(self) -> None:
        assert self.factory is not None
        self.factory.connected.callback(self)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class ListenTests(TestCase):
    """bind_socket() and adopt_files()"""

    timeout = 10

    def factory(self) -> Any:
        factory: Any = Factory.forProtocol(Greeter)
        factory.noisy = False
        factory.connected = Deferred()
        return factory

    def greet(self, factory: Any, address: tuple[str, int]) -> "Deferred[Any]":
        client = socket.create_connection(address, 5)
        self.addCleanup(client.close)

        def close(protocol: Any) -> Any:
            self.assertIsInstance(protocol.transport, FileServer)
            self.nodelay = protocol.transport.getTcpNoDelay()
            self.keepalive = protocol.transport.getTcpKeepAlive()
            self.pages = protocol.transport.page_cache
            protocol.transport.abortConnection()
            return protocol

        connected: Deferred[Any] = factory.connected
        return connected.addCallback(close)

    def test_accepted_sockets(self) -> "Deferred[None]":
        """Accepted connections can send files, don't delay small segments, and look for dead peers."""
        factory = self.factory()
        pages = PageCache(lambda *call: Deferred())
        port = listen_files(reactor, factory, page_cache=pages)
        self.addCleanup(port.stopListening)

        def check(_: object) -> None:
            self.assertTrue(self.nodelay)
            self.assertTrue(self.keepalive)
            self.assertIs(self.pages, pages)

        return self.greet(factory, ("127.0.0.1", port.getHost().port)).addCallback(check)

    def test_dual_stack(self) -> "Deferred[Any]":
        """Without an address both families are served."""
        factory = self.factory()
        port = listen_files(reactor, factory, interface="")
        self.addCleanup(port.stopListening)
        number = port.getHost().port
        greeted = self.greet(factory, ("127.0.0.1", number))

        def again(_: object) -> Any:
            factory.connected = Deferred()
            return self.greet(factory, ("::1", number)) if has_ipv6() else None

        return greeted.addCallback(again)

    def test_ipv6_alone(self) -> None:
        """An IPv6 address is bound for IPv6 only."""
        if not has_ipv6():
            self.skipTest("no IPv6 here")
        with bind_socket(0, "::1") as sock:
            self.assertEqual(sock.family, socket.AF_INET6)
            self.assertTrue(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))

    def test_adopted(self) -> "Deferred[Any]":
        """A socket that was bound earlier serves after the caller's own copy is closed."""
        sock = bind_socket(0, "127.0.0.1")
        factory = self.factory()
        port = adopt_files(reactor, sock, factory)
        self.addCleanup(port.stopListening)
        sock.close()
        return self.greet(factory, ("127.0.0.1", port.getHost().port))

    def test_busy(self) -> None:
        """A port that is taken is told as CannotListenError with the cause, and no descriptor is left."""
        for interface in ("127.0.0.1", ""):
            with bind_socket(0, interface) as first:
                first.listen()
                before = len(os.listdir("/proc/self/fd"))
                error = self.assertRaises(CannotListenError, bind_socket, first.getsockname()[1], interface)
                self.assertEqual(error.socketError.errno, errno.EADDRINUSE)
                self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_busy_later(self) -> None:
        """A port that was taken between binding and listening is told in the same way."""
        with bind_socket(0, "127.0.0.1") as first:
            with bind_socket(first.getsockname()[1], "127.0.0.1") as second:
                second.listen()
                error = self.assertRaises(CannotListenError, adopt_files, reactor, first, self.factory())
                self.assertEqual(error.port, first.getsockname()[1])

    def test_forbidden(self) -> None:
        """A port that needs privileges is told as CannotListenError."""
        if os.geteuid() == 0:
            self.skipTest("the superuser may bind every port")
        self.assertRaises(CannotListenError, bind_socket, 1, "127.0.0.1")

    def test_foreign_address(self) -> None:
        """So is an address that is not this machine's."""
        error = self.assertRaises(CannotListenError, bind_socket, 0, "192.0.2.1")
        self.assertEqual((error.interface, error.port), ("192.0.2.1", 0))

    def test_shared_port(self) -> None:
        """With reuse_port several sockets share a port."""
        with bind_socket(0, "127.0.0.1", reuse_port=True) as first:
            first.listen()
            with bind_socket(first.getsockname()[1], "127.0.0.1", reuse_port=True) as second:
                second.listen()
