"""One connection to S3, from dialling to its end: idle, or lent to the exchange that uses it."""

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from s3proxy.upstream import sockets
from s3proxy.upstream.counts import ConnectTimes
from s3proxy.upstream.interfaces import UpstreamError, UpstreamUnreachable
from s3proxy.upstream.routing import Route, show_address
from s3proxy.upstream.tls import ClientContexts, ConnectionCreator, UpstreamTLS, check_name, handshake_error

__all__ = ["Connect", "Dialer", "IConnectionUser", "UpstreamConnection"]

#: Seconds that an idle connection has to close in good order.
_GOODBYE = 5.0


class IConnectionUser(Interface):
    """What uses a connection at present."""

    def data_received(data: bytes) -> None:
        """Bytes from the peer."""

    def connection_lost(reason: Failure) -> None:
        """The connection is gone; it must not be finished any more."""


@implementer(IHandshakeListener)
class UpstreamConnection(Protocol):
    """A connection in the pool or in use.

    :ivar address: ``IP:port`` of the peer
    :ivar opened_at: the clock's seconds when it could be used first
    :ivar idle_since: the clock's seconds since when nobody uses it
    :ivar requests: exchanges it has begun
    :ivar usable: a request can be sent on it
    :ivar broken: it ended in the middle of something
    :ivar tls: what made its TLS side; None without TLS
    """

    tls: ConnectionCreator | None = None

    def __init__(
        self, clock: IReactorTime, route: Route, ip: str, port: int, times: ConnectTimes | None = None
    ) -> None:
        self._clock = clock
        self._times = times
        self._step = clock.seconds()
        self._route = route
        self._user: Any = None
        self._socket: Any = None
        self._goodbye: IDelayedCall | None = None
        self._ready: Deferred[UpstreamConnection] | None = None
        self._on_lost: list[Callable[[UpstreamConnection], None]] = []
        self._on_idle: Callable[[UpstreamConnection], None] | None = None
        self.address = show_address(ip, port)
        self.opened_at = self.idle_since = clock.seconds()
        self.requests = 0
        self.usable = False
        self.broken = False

    # Dialling.

    def when_ready(self, ready: "Deferred[UpstreamConnection] | None") -> None:
        """Fire *ready* once a request can be sent, or fail it with an UpstreamError. None: nobody waits any more."""
        self._ready = ready

    def connectionMade(self) -> None:
        transport: Any = self.transport
        layered = isinstance(transport, UpstreamTLS)
        if self._times is not None:
            self._times.tcp.observe(self._since())
        self._socket = transport.transport if layered else transport
        if not layered:
            self._opened()

    def handshakeCompleted(self) -> None:
        """Twisted's TLS layer calls this once, when application data may flow."""
        if self._times is not None:
            self._times.tls.observe(self._since())
        policy = self._route.tls
        layer: Any = self.transport
        session: SSL.Connection = layer.getHandle()
        if policy is not None and policy.verify:
            try:
                check_name(session, self._route.host, self._peer)
            except UpstreamError as error:
                self._not_ready(error)
                self.abort()
                return
        if self.tls is not None:
            self.tls.shaken(session)
        self._opened()

    def _since(self) -> float:
        """Seconds that the step that ends now has taken."""
        before, self._step = self._step, self._clock.seconds()
        return self._step - before

    def dial_failed(self, reason: Failure) -> None:
        """No TCP connection came about."""
        if reason.check(TimeoutError):
            detail = "no answer to the attempt to connect"
        else:
            detail = reason.getErrorMessage().rstrip(".")
        self._not_ready(UpstreamUnreachable(f"cannot connect to {self._peer}: {detail}"))

    def dial_timed_out(self, seconds: float) -> None:
        """The handshake takes too long."""
        self._not_ready(UpstreamUnreachable(f"no connection to {self._peer} within {seconds:g} s"))
        self.abort()

    @property
    def _peer(self) -> str:
        return f"{self._route.host} at {self.address}"

    def _opened(self) -> None:
        self.usable = True
        self.opened_at = self.idle_since = self._clock.seconds()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(self)

    def _not_ready(self, error: UpstreamError) -> None:
        if self.tls is not None:
            self.tls.failed()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.errback(error)

    # Use.

    def lend(self, user: Any, on_idle: "Callable[[UpstreamConnection], None] | None") -> None:
        """Give it to an :class:`IConnectionUser`.

        :param on_idle: called when the user has finished and the connection can be used again; None: then it is closed
        """
        if self._user is not None:
            raise RuntimeError("this connection is in use")
        self._user = user
        self._on_idle = on_idle
        self.requests += 1

    def give_back(self, user: Any, reusable: bool) -> None:
        """The user has finished with it in good order. Closes it unless it is *reusable*."""
        if self._user is not user:
            return
        self._user = None
        on_idle, self._on_idle = self._on_idle, None
        if not (reusable and self.usable and on_idle is not None):
            self.close()
            return
        self.idle_since = self._clock.seconds()
        transport: Any = self.transport
        if self.tls is not None and self.requests == 1:
            self.tls.answered(transport.getHandle())
        # An idle connection reads, or its end would go unnoticed.
        transport.resumeProducing()
        on_idle(self)

    def when_lost(self, callback: "Callable[[UpstreamConnection], None]") -> None:
        """Call *callback* with this connection when it has ended, at once when it already has."""
        if self._socket is not None and self.transport is None:
            callback(self)
        else:
            self._on_lost.append(callback)

    def unsent(self) -> int:
        """Bytes of ours that the peer has not acknowledged yet."""
        return int(self._socket.unsent()) if hasattr(self._socket, "unsent") else 0

    def still_open(self) -> bool:
        """Whether an idle connection looks as if the peer would take another request."""
        return self.usable and not (hasattr(self._socket, "readable") and self._socket.readable())

    def close(self) -> None:
        """End an idle connection in good order, or after five seconds in any."""
        transport: Any = self.transport
        self.usable = False
        if transport is None or self._goodbye is not None:
            return
        self._goodbye = self._clock.callLater(_GOODBYE, self._abort_now)
        transport.loseConnection()

    def abort(self) -> None:
        """End it at once, whatever is under way."""
        self.usable = False
        self.broken = True
        self._abort_now()

    def _abort_now(self) -> None:
        self._goodbye_over()
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _goodbye_over(self) -> None:
        call, self._goodbye = self._goodbye, None
        if call is not None and call.active():
            call.cancel()

    # From the transport.

    def dataReceived(self, data: bytes) -> None:
        if self._user is not None:
            self._user.data_received(data)
        else:
            # Nobody asked: an answer without a request can only be a misunderstanding.
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.usable = False
        self._goodbye_over()
        layer: Any = self.transport
        self.transport = None
        if self._ready is not None:
            if isinstance(layer, UpstreamTLS):
                self._not_ready(handshake_error(layer, reason, self._peer))
            else:
                self.dial_failed(reason)
        user, self._user = self._user, None
        if user is not None:
            user.connection_lost(reason)
        callbacks, self._on_lost = self._on_lost, []
        for callback in callbacks:
            callback(self)


class _OneConnection(ClientFactory):
    noisy = False

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: object) -> UpstreamConnection:
        return self._connection

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self._connection.dial_failed(reason)


#: Arguments: IP, port, factory, seconds. Gives an IConnector.
Connect = Callable[[str, int, Any, float], Any]


class Dialer:
    """Opens connections.

    :param timeout: seconds for TCP and TLS handshake together
    :param connect: replaces the real ``connectTCP``
    :param times: gets the seconds that each step takes
    """

    def __init__(
        self,
        reactor: Any,
        contexts: ClientContexts,
        options: sockets.SocketOptions,
        timeout: float,
        connect: Connect | None = None,
        times: ConnectTimes | None = None,
    ) -> None:
        self._times = times
        self._reactor = reactor
        self._contexts = contexts
        self._timeout = timeout
        self._connect: Connect = connect or (
            lambda ip, port, factory, seconds: sockets.connect(reactor, ip, port, factory, seconds, options)
        )

    def dial(self, route: Route, ip: str, port: int) -> "Deferred[UpstreamConnection]":
        """Connect to *ip* and *port*, as TLS client if the route says so. Cancelling stops it.

        Fails with UpstreamUnreachable, or UpstreamTLSError when the certificate does not hold.
        """
        connection = UpstreamConnection(self._reactor, route, ip, port, self._times)
        factory: Any = _OneConnection(connection)
        if route.tls is not None:
            try:
                creator = self._contexts.creator(route.tls, route.host)
            except UpstreamError:
                failed: Deferred[UpstreamConnection] = Deferred()
                failed.errback(Failure())
                return failed
            connection.tls = creator
            factory = TLSMemoryBIOFactory(creator, True, factory, clock=self._reactor)
            factory.protocol = UpstreamTLS

        def give_up(_: object) -> None:
            connection.when_ready(None)
            if connection.transport is not None:
                connection.abort()
            else:
                connector.stopConnecting()

        ready: Deferred[UpstreamConnection] = Deferred(give_up)
        connection.when_ready(ready)
        limit = self._reactor.callLater(self._timeout, connection.dial_timed_out, self._timeout)

        def settled(result: Any) -> Any:
            if limit.active():
                limit.cancel()
            return result

        connector: Any = self._connect(ip, port, factory, self._timeout)
        return ready.addBoth(settled)
