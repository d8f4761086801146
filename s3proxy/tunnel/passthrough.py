"""The listener for TLS that is not ours: by the name in the ClientHello the connection is passed on as it is."""

import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.tunnel.client_hello import ClientHello, ClientHelloReader, HelloError, HelloFault
from s3proxy.tunnel.opener import NotOpened, Opener
from s3proxy.tunnel.registry import Tunnels
from s3proxy.tunnel.relay import SocketTunnel
from s3proxy.tunnel.tunnel import Ending, Origin

__all__ = ["Passthrough", "adopt_passthrough"]

LISTENER = "https"
PIECE = 16 * 1024

# Descriptions of TLS alerts (RFC 8446 6, RFC 6066 3).
_ALERTS = {
    HelloFault.NO_NAME: 112,
    HelloFault.ENCRYPTED_NAME: 112,
    HelloFault.BAD_NAME: 112,
    HelloFault.MALFORMED: 50,
    HelloFault.TOO_LONG: 50,
    Ending.LOOP: 80,
    Ending.OVERLOAD: 80,
    Ending.REFUSED: 49,
    Ending.UNREACHABLE: 80,
    Ending.TIMEOUT: 80,
}


class Passthrough(Factory):
    """Accepts connections and opens their tunnels.

    :ivar waiting: connections whose far side is not reached yet
    :ivar accepted: connections so far
    """

    noisy = False

    def __init__(self, reactor: Any, tunnels: Tunnels, opener: Opener) -> None:
        self.reactor = reactor
        self.tunnels = tunnels
        self.opener = opener
        self.waiting: set[_Newcomer] = set()
        self.accepted = 0

    def buildProtocol(self, addr: Any) -> Any:
        """Called by the port for a new connection."""
        self.accepted += 1
        return _Newcomer(self, getattr(addr, "host", "").removeprefix("::ffff:"))

    def abort_waiting(self) -> None:
        """Close the connections that have no tunnel yet."""
        for newcomer in list(self.waiting):
            newcomer.end(Ending.SHUTDOWN)


def _as_it_is(sock: socket.socket, *_: Any) -> Any:
    return sock


class _Port(tcp.Port):
    """A port that hands over its sockets as they are."""

    transport = staticmethod(_as_it_is)  # type: ignore[assignment]


def adopt_passthrough(reactor: Any, sock: socket.socket, factory: Passthrough, backlog: int = 1024) -> tcp.Port:
    """Accept connections on a bound socket. The port works on a duplicate.

    :raises CannotListenError: when another socket listens there
    """
    # Accepted sockets inherit these.
    factory.opener.prepare(sock)
    sock.setblocking(False)
    try:
        sock.listen(backlog)
    except OSError as error:
        interface, number = sock.getsockname()[:2]
        raise CannotListenError(interface, number, error) from error
    port: tcp.Port = _Port._fromListeningDescriptor(reactor, sock.fileno(), sock.family, factory)
    port.startListening()
    return port


@implementer(IReadDescriptor)
class _Newcomer:
    """A connection from its acceptance to its tunnel."""

    log = Logger()

    def __init__(self, factory: Passthrough, client_address: str) -> None:
        self._factory = factory
        self._socket: socket.socket | None = None
        self._hello: ClientHelloReader = ClientHelloReader()
        self._limit: IDelayedCall | None = None
        self._opening: Deferred[Any] | None = None
        self._admitted = False
        self._origin = Origin(
            listener=LISTENER,
            client_address=client_address,
            started_at=factory.tunnels.now(),
            started=factory.tunnels.seconds(),
        )

    def makeConnection(self, sock: socket.socket) -> None:
        """Called by the port."""
        factory = self._factory
        sock.setblocking(False)
        self._socket = sock
        self._admitted = factory.tunnels.admit()
        if not self._admitted:
            self.end(Ending.OVERLOAD)
            return
        factory.waiting.add(self)
        limit = factory.tunnels.limits.hello_time
        self._limit = factory.reactor.callLater(limit, self.end, Ending.HELLO_TIMEOUT)
        factory.reactor.addReader(self)

    def fileno(self) -> int:
        """Called by the reactor."""
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        """Called by the reactor."""
        return "passthrough"

    def doRead(self) -> None:
        """Called by the reactor."""
        if self._socket is None:
            return
        try:
            data = self._socket.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            self.end(Ending.CLIENT_RESET)
            return
        if not data:
            self.end(Ending.CLIENT_LEFT)
        elif self._opening is None:
            self._read_hello(data)
        else:
            # What is sent behind the ClientHello waits for the far side; so much of it, and no more.
            self._hello.received += data
            if len(self._hello.received) >= 2 * PIECE:
                self._factory.reactor.removeReader(self)

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor when the connection was reset, and at its own end."""
        self.end(Ending.CLIENT_RESET)

    def _read_hello(self, data: bytes) -> None:
        try:
            hello = self._hello.feed(data)
        except HelloError as error:
            self.log.debug("passthrough of {client}: {error}", client=self._origin.client_address, error=error)
            self.end(error.fault)
            return
        if hello is not None:
            self._stop_waiting()
            self._open(hello)

    def _open(self, hello: ClientHello) -> None:
        origin = self._origin
        origin.host = hello.server_name
        origin.random = hello.random
        if self._factory.tunnels.is_loop(origin):
            self.log.warn(
                "{host} leads back to this proxy; set connection_pool.dns_servers to a resolver that knows S3's own "
                "addresses",
                host=origin.host,
            )
            self.end(Ending.LOOP)
            return
        self._opening = self._factory.opener.open(origin)
        self._opening.addCallbacks(self._opened, self._not_opened).addErrback(self._failed)

    def _opened(self, upstream: socket.socket) -> None:
        client = self._let_go()
        if client is None:
            upstream.close()
            return
        SocketTunnel(
            self._factory.reactor,
            self._factory.tunnels,
            self._origin,
            client,
            upstream,
            for_upstream=bytes(self._hello.received),
        )

    def _not_opened(self, reason: Failure) -> None:
        reason.trap(NotOpened, CancelledError)
        if isinstance(reason.value, NotOpened):
            self.log.debug("passthrough of {host}: {error}", host=self._origin.host, error=reason.value)
            self.end(reason.value.reason)

    def _failed(self, reason: Failure) -> None:
        self.log.failure("opening a tunnel to {host}", reason, host=self._origin.host)
        self.end(Ending.ERROR)

    def _stop_waiting(self) -> None:
        limit, self._limit = self._limit, None
        if limit is not None and limit.active():
            limit.cancel()

    def _let_go(self) -> socket.socket | None:
        """Have nothing to do with the socket any more."""
        sock = self._socket
        if sock is not None:
            self._stop_waiting()
            self._factory.waiting.discard(self)
            self._factory.reactor.removeReader(self)
            self._socket = None
            if self._admitted:
                self._factory.tunnels.attempt_over()
        return sock

    def end(self, reason: str) -> None:
        """There will be no tunnel: tell a client that speaks TLS, close, and account for it."""
        sock = self._let_go()
        if sock is None:
            return
        alert = _ALERTS.get(reason)
        if alert is not None:
            try:
                sock.send(b"\x15\x03\x03\x00\x02\x02%c" % alert)
            except OSError:
                # The client has gone, too.
                pass
        sock.close()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        self._factory.tunnels.forget(self._origin)
        self._factory.tunnels.ended(self._origin, getattr(reason, "value", reason))
