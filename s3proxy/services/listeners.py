"""Sockets that are bound while there may be privileges, and served when everything behind them is ready."""

import errno
import socket
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
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
    :param slots: how many processes will serve it; each address has a socket for each of them
    :ivar slots: the sockets, by slot
    :ivar slot: which of them are served by this process
    """

    def __init__(self, key: str, port: int, addresses: tuple[str, ...], slots: int = 1) -> None:
        self.key = key
        self.port = port
        self.addresses = addresses or ("",)
        self.slots: list[list[socket.socket]] = [[] for _ in range(slots)]
        self.slot = 0

    @classmethod
    def adopted(cls, key: str, port: int, slots: list[list[socket.socket]], slot: int) -> "BoundPort":
        """A port that another process has bound."""
        bound = cls(key, port, ())
        bound.slots = slots
        bound.slot = slot
        return bound

    @property
    def sockets(self) -> list[socket.socket]:
        """Those that are served by this process."""
        return self.slots[self.slot]

    def bind(self, inherited: "list[socket.socket] | None" = None) -> None:
        """Bind every address, unless a service manager has bound this port already.

        :param inherited: sockets of the service manager; those of this port are taken out, whatever their addresses
        :raises StartError: with the remedy
        """
        given = [each for each in inherited or () if each.getsockname()[1] == self.port]
        if inherited is not None and given:
            inherited[:] = [each for each in inherited if each not in given]
            for sockets in self.slots:
                # Whoever is quicker serves it.
                sockets += given
            return
        for address in self.addresses:
            try:
                # This one tells whether the port is free: of those that share a port, any number can be bound.
                first = bind_socket(self.port, address)
                if len(self.slots) == 1:
                    self.sockets.append(first)
                    continue
                port = first.getsockname()[1]
                first.close()
                for sockets in self.slots:
                    sockets.append(bind_socket(port, address, reuse_port=True))
            except CannotListenError as error:
                self.close()
                raise StartError(_remedy(self.key, self.port, address, error.socketError)) from None

    def close(self) -> None:
        """Give the sockets up."""
        for sockets in self.slots:
            while sockets:
                sockets.pop().close()

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


class _Accepting:
    """The slots of a port from which connections are accepted.

    :param adopt: begins to accept connections on a socket; the port works on a duplicate
    """

    log = Logger()

    def __init__(self, bound: BoundPort, adopt: Callable[[socket.socket], IListeningPort]) -> None:
        self._bound = bound
        self._adopt = adopt
        self._ports: dict[int, list[IListeningPort]] = {}

    def begin(self, slot: int) -> None:
        """Accept what arrives for a slot. :raises StartError: with the remedy"""
        if slot in self._ports:
            return
        ports = self._ports[slot] = []
        for each in self._bound.slots[slot]:
            try:
                ports.append(self._adopt(each))
            except CannotListenError as error:
                raise StartError(_remedy(self._bound.key, self._bound.port, "", error.socketError)) from None

    def stop(self, slot: int) -> None:
        """Accept nothing more of what arrives for a slot: another process does."""
        for port in self._ports.pop(slot, ()):
            maybeDeferred(port.stopListening).addErrback(
                lambda reason: self.log.failure("a listener could not be stopped", reason)
            )

    async def end(self) -> None:
        """Accept nothing more at all."""
        ports = [port for ports in self._ports.values() for port in ports]
        self._ports.clear()
        for port in ports:
            await maybeDeferred(port.stopListening)
        self._bound.close()


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
        self._accepting = _Accepting(bound, self._adopt)

    def _adopt(self, sock: socket.socket) -> IListeningPort:
        return adopt_files(self._reactor, sock, self._factory, page_cache=self._page_cache)

    def startService(self) -> None:
        """Accept connections."""
        super().startService()
        self._accepting.begin(self.bound.slot)

    def take_over(self, slot: int) -> None:
        """Accept what arrives for another slot, too."""
        self._accepting.begin(slot)

    def give_back(self, slot: int) -> None:
        """No longer accept it."""
        self._accepting.stop(slot)

    async def drain(self, limit: float, patience: float = 0.0) -> None:
        """Accept nothing more, let requests end for ``limit`` seconds, then cut what is left.

        :param patience: see :meth:`CachingSite.drain`
        """
        await self._accepting.end()
        left = self.site.connections_open
        done: Deferred[None] = self.site.drain(patience)
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
        self._accepting = _Accepting(bound, self._adopt)
        self.bound = bound

    def _adopt(self, sock: socket.socket) -> IListeningPort:
        return adopt_passthrough(self._reactor, sock, self._passthrough)

    def startService(self) -> None:
        """Accept connections."""
        super().startService()
        self._accepting.begin(self.bound.slot)

    def take_over(self, slot: int) -> None:
        """Accept what arrives for another slot, too."""
        self._accepting.begin(slot)

    def give_back(self, slot: int) -> None:
        """No longer accept it."""
        self._accepting.stop(slot)

    async def close(self, patience: float = 0.0) -> None:
        """Accept nothing more, and close what has no tunnel yet, in so many seconds."""
        await self._accepting.end()
        if patience:
            await deferLater(self._reactor, patience)
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
