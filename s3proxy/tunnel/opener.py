"""From a name to a connection: policy, addresses, dialling; and the word for what went wrong."""

import socket
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from s3proxy.tunnel.dial import dial
from s3proxy.tunnel.limits import TunnelLimits
from s3proxy.tunnel.tunnel import Ending, Origin
from s3proxy.upstream.destinations import DestinationPolicy
from s3proxy.upstream.interfaces import UpstreamError, UpstreamRefused, UpstreamTimeout
from s3proxy.upstream.routing import show_address

__all__ = ["IAddressBook", "NotOpened", "Opener"]


class IAddressBook(Protocol):
    """Who knows the addresses of hosts, and whether they can be reached: :class:`s3proxy.upstream.client.Upstream`."""

    def find(self, host: str, port: int) -> "Deferred[list[tuple[str, int]]]":
        """The addresses that may be dialled, best first; fails with an UpstreamError."""

    def dialled(self, ip: str, port: int, reached: bool) -> None:
        """One of them was dialled."""


class NotOpened(Exception):
    """There is no connection. The text says why.

    :ivar reason: refused, unreachable or timeout
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@attrs.frozen(kw_only=True)
class Opener:
    """Opens connections for tunnels.

    :ivar prepare: sets the options of a socket
    """

    reactor: Any
    policy: DestinationPolicy
    addresses: IAddressBook
    limits: TunnelLimits
    prepare: Callable[[socket.socket], None]

    log = Logger()

    def open(self, origin: Origin) -> "Deferred[socket.socket]":
        """Connect to the host and port of *origin*, and note there where that led. Cancelling stops it.

        Fails with NotOpened.
        """
        return Deferred.fromCoroutine(self._open(origin))

    def _find(self, host: str, port: int) -> "Deferred[list[tuple[str, int]]]":
        def too_late(_: object, seconds: float) -> list[tuple[str, int]]:
            raise UpstreamTimeout(f"no address of {host} within {seconds:g} s")

        return self.addresses.find(host, port).addTimeout(self.limits.connect_time, self.reactor, too_late)

    async def _open(self, origin: Origin) -> socket.socket:
        host = origin.host
        until = self.reactor.seconds() + self.limits.connect_time
        try:
            self.policy.check_host(host)
            self.policy.check_tunnel_port(host, origin.port)
            addresses = await self._find(host, origin.port)
            sock, ip, port = await dial(
                self.reactor,
                host,
                addresses,
                limit=max(0.0, until - self.reactor.seconds()),
                stagger=self.limits.stagger,
                prepare=self.prepare,
                failed=lambda ip, port: self.addresses.dialled(ip, port, False),
            )
        except UpstreamRefused as error:
            self.log.warn("no tunnel for {client}: {error}", client=origin.client_address, error=error)
            raise NotOpened(Ending.REFUSED, str(error)) from None
        except UpstreamTimeout as error:
            raise NotOpened(Ending.TIMEOUT, str(error)) from None
        except UpstreamError as error:
            raise NotOpened(Ending.UNREACHABLE, str(error)) from None
        self.addresses.dialled(ip, port, True)
        origin.upstream_address = show_address(ip, port)
        origin.connected = self.reactor.seconds()
        return sock
