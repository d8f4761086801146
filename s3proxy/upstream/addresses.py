"""Which address a request goes to: what DNS or the configuration gives, what may be dialled, and what answers."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from s3proxy.upstream.destinations import DestinationPolicy
from s3proxy.upstream.health import Address, AddressHealth
from s3proxy.upstream.interfaces import UpstreamRefused
from s3proxy.upstream.prober import Prober
from s3proxy.upstream.resolve import Resolver, Target
from s3proxy.upstream.routing import LoopGuard, Route, show_address

__all__ = ["Addresses"]


class Addresses:
    """The addresses of all hosts.

    Looked at are the name first, then the very address that is dialled, by requests and by probes alike.

    :ivar exclusions: addresses that were left out because they kept failing
    :param distributed: use the addresses of a host in turn; otherwise the first one that answers
    :param policy: where connections may lead; None: anywhere, but to this proxy itself
    :param dial: opens a connection by a route to an IP and port, for a probe
    :param excluded: called with the route by which an address failed that is left out now
    :param reached: called with route, address and connection when a probe finds an address back
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        resolver: Resolver,
        health: AddressHealth,
        guard: LoopGuard,
        policy: DestinationPolicy | None,
        distributed: bool,
        dial: "Callable[[Route, str, int], Deferred[Any]]",
        reached: Callable[[Route, Address, Any], None],
        excluded: Callable[[Route], None] = lambda route: None,
    ) -> None:
        self._clock = clock
        self.resolver = resolver
        self._health = health
        self._guard = guard
        self._policy = policy
        self._distributed = distributed
        self._reached = reached
        self._told = excluded
        self.prober = Prober(clock, health, dial, resolver.has_address, self._found_again)
        self.exclusions = 0

    def stop(self) -> None:
        """Probe nothing any more."""
        self.prober.stop()

    async def pick(self, route: Route, used: Collection[Address]) -> Address:
        """The next address for a request: one that is not in *used* if there is one that is not excluded.

        :raises UpstreamUnreachable: there is none
        :raises UpstreamRefused: there is none that may be dialled
        """
        targets = self.resolver.at_hand(route.host, route.asked)
        if targets is None:
            if self._policy is not None:
                self._policy.check_host(route.host)
            targets = await self.resolver.resolve(route.host, route.asked)
        ordered = self._in_order(route, route.port, targets, bool(used))
        usable = [address for address in ordered if not self._health.excluded(address)] or ordered
        return next((address for address in usable if address not in used), usable[0])

    async def find(self, route: Route, port: int) -> list[Address]:
        """The addresses to dial for a connection to *port* that others make, best first.

        :raises UpstreamUnreachable: there is none
        :raises UpstreamRefused: there is none that may be dialled
        """
        targets = await self.resolver.resolve(route.host, route.asked)
        addresses = self._in_order(route, port, targets)
        found = []
        loop: UpstreamRefused | None = None
        for ip, number in addresses:
            try:
                self._guard.check(route.host, ip, number)
            except UpstreamRefused as error:
                loop = error
            else:
                found.append((ip, number))
        if loop is not None and not found:
            raise loop
        return found

    def check(self, route: Route, address: Address) -> None:
        """Look at an address that is about to be dialled.

        :raises UpstreamRefused: it may not be
        """
        self._guard.check(route.host, *address)
        if self._policy is not None:
            self._policy.check_address(route.host, *address, route.overridden, route.asked)

    def failed(self, route: Route, address: Address) -> None:
        """Note a failure to connect, to shake hands or to answer."""
        cooldown = self._health.failed(address, self._clock.seconds())
        if cooldown is None:
            return
        self.exclusions += 1
        self._told(route)
        self.prober.watch(address, route, cooldown)
        self.log.warn(
            "{address} keeps failing and is left out; it is probed in {seconds:g} s",
            address=show_address(*address),
            seconds=cooldown,
        )

    def answered(self, address: Address) -> None:
        """Note an answer."""
        if self._health.succeeded(address):
            self.prober.forget(address)
            self.log.info("{address} answers again", address=show_address(*address))

    def connected(self, address: Address) -> None:
        """Note that others have connected to it; whether it answers they can't tell.

        So if it was excluded, it stays that until a probe has been answered.
        """
        if not self._health.excluded(address):
            self._health.succeeded(address)

    def excluded(self) -> dict[Address, tuple[float, float]]:
        """The addresses left out at present, with the times since when, and of the next probe."""
        return self._health.all_excluded()

    def _in_order(self, route: Route, port: int, targets: Sequence[Target], again: bool = False) -> list[Address]:
        """The addresses that may be dialled, best first.

        :param port: to dial where the address names none
        :param again: the request has been sent to one before
        :raises UpstreamRefused: there is none
        """
        addresses = [(target.ip, target.port or port) for target in targets]
        if self._policy is not None:
            self._policy.check_host(route.host)
            addresses = self._policy.permitted(route.host, addresses, route.overridden, route.asked)
        return self._health.in_order(route.host, addresses, self._distributed, again)

    def _found_again(self, route: Route, address: Address, connection: Any) -> None:
        self.answered(address)
        self._reached(route, address, connection)
