"""Sockets that are bound while there may be privileges, and served when everything behind them is ready."""

import errno
import socket
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.web.server import Site

from s3proxy.services.errors import StartError
from s3proxy.tunnel.passthrough import Passthrough, adopt_passthrough
from s3proxy.wire.listen import adopt_files, bind_socket
from s3proxy.wire.pages import PageCache
from s3proxy.wire.site import CachingSite
from s3proxy.wire.tls import ServerTLS, tls_factory

__all__ = ["AdminListener", "BoundPort", "PassthroughListener", "TrafficListener"]

_UNPRIVILEGED = 1024


class BoundPort:
    """One configured port on all its addresses.

    :param key: the configuration key that names the port, for messages
    """

    def __init__(self, key: str, port: int, addresses: tuple[str, ...]) -> None:
        self.key = key
        self.port = port
        self.addresses = addresses or ("",)
        self.sockets: list[socket.socket] = []

    def bind(self) -> None:
        """Bind every address.

        :raises StartError: with the remedy
        """
        for address in self.addresses:
            try:
                self.sockets.append(bind_socket(self.port, address))
            except CannotListenError as error:
                self.close()
                raise StartError(_remedy(self.key, self.port, address, error.socketError)) from None

    def close(self) -> None:
        """Give the sockets up."""
        sockets, self.sockets = self.sockets, []
        for each in sockets:
            each.close()

    def names(self) -> frozenset[tuple[str, int]]:
        """The addresses and ports as the kernel knows them."""
        return frozenset((each.getsockname()[0], each.getsockname()[1]) for each in self.sockets)


def _remedy(key: str, port: int, address: str, error: BaseException) -> str:
    where = f"{address or 'all addresses'} port {port}"
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        remedy = (
            f"another program listens there (see: ss -ltnp 'sport = :{port}'); stop it or set {key} to another port"
        )
    elif code in (errno.EACCES, errno.EPERM) and port < _UNPRIVILEGED:
        remedy = (
            "ports below 1024 need a privilege: start as root with --uid and --gid, or grant CAP_NET_BIND_SERVICE, "
            f"or set {key} to a port from {_UNPRIVILEGED} on"
        )
    elif code == errno.EADDRNOTAVAIL:
        remedy = "the machine has no such address; correct the bind address"
    else:
        remedy = f"choose another port for {key}"
    text = getattr(error, "strerror", None) or str(error)
    return f"{key}: can't listen on {where}: {text}; {remedy}"


class TrafficListener(Service):
    """A data listener: accepts from when it starts until it is told to drain.

    :param tls: terminate TLS, with its certificate
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        bound: BoundPort,
        site: CachingSite,
        page_cache: PageCache,
        tls: ServerTLS | None = None,
    ) -> None:
        self._reactor = reactor
        self.bound = bound
        self.site = site
        self._factory: Any = site if tls is None else tls_factory(reactor, tls, site)
        self._page_cache = page_cache
        self._ports: list[IListeningPort] = []

    def startService(self) -> None:
        """Accept connections."""
        super().startService()
        for each in self.bound.sockets:
            try:
                self._ports.append(adopt_files(self._reactor, each, self._factory, page_cache=self._page_cache))
            except CannotListenError as error:
                raise StartError(_remedy(self.bound.key, self.bound.port, "", error.socketError)) from None

    async def drain(self, limit: float) -> None:
        """Accept nothing more, let requests end for ``limit`` seconds, then cut what is left."""
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        self._ports.clear()
        self.bound.close()
        left = self.site.connections_open
        done: Deferred[None] = self.site.drain()
        cut = self._reactor.callLater(limit, self.site.abort_all)
        await done
        if cut.active():
            cut.cancel()
        elif left:
            self.log.warn("requests were still running after {limit} s and were cut", limit=limit)


class PassthroughListener(Service):
    """The listener of the passthrough: accepts from when it starts until it is told to stop."""

    def __init__(self, reactor: Any, bound: BoundPort, passthrough: Passthrough) -> None:
        self._reactor = reactor
        self._passthrough = passthrough
        self._ports: list[IListeningPort] = []
        self.bound = bound

    def startService(self) -> None:
        """Accept connections."""
        super().startService()
        for each in self.bound.sockets:
            try:
                self._ports.append(adopt_passthrough(self._reactor, each, self._passthrough))
            except CannotListenError as error:
                raise StartError(_remedy(self.bound.key, self.bound.port, "", error.socketError)) from None

    async def close(self) -> None:
        """Accept nothing more, and close what has no tunnel yet."""
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        self._ports.clear()
        self.bound.close()
        self._passthrough.abort_waiting()


class AdminListener(Service):
    """A site for operators. One that can't listen is an error in the log, and the proxy goes on without it."""

    log = Logger()

    def __init__(self, reactor: Any, key: str, port: int, address: str, site: Site) -> None:
        self._reactor = reactor
        self._key = key
        self._number = port
        self._address = address
        self._site = site
        self.error: str | None = None
        self.port: IListeningPort | None = None

    def startService(self) -> None:
        """Listen."""
        super().startService()
        try:
            self.port = self._reactor.listenTCP(self._number, self._site, interface=self._address)
        except CannotListenError as error:
            self.error = _remedy(self._key, self._number, self._address, error.socketError)
            self.log.error("{text}", text=self.error)

    def stopService(self) -> "Deferred[None] | None":
        """Stop listening."""
        super().stopService()
        port, self.port = self.port, None
        if port is None:
            return None
        stopped = port.stopListening()
        return stopped if isinstance(stopped, Deferred) else None
