"""Finds out whether addresses that were left out answer again, so that no request has to."""

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.upstream.health import Address, AddressHealth
from s3proxy.upstream.interfaces import UpstreamError
from s3proxy.upstream.routing import Route, show_address

__all__ = ["Prober"]


@attrs.define
class _Probe:
    """``route``: as which host, and with which transport, the address failed."""

    route: Route
    timer: IDelayedCall | None = None
    dialling: "Deferred[Any] | None" = None


class Prober:
    """Connects to each excluded address from time to time, TLS handshake included.

    :ivar succeeded: probes that found an address back
    :ivar failed: probes that did not
    :param dial: opens a connection by a route to an IP and port; it is up to *reached* to close or keep it
    :param in_use: whether any name still has this IP; one that no name has is forgotten
    :param reached: called with route, address and connection when an address answers
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        health: AddressHealth,
        dial: "Callable[[Route, str, int], Deferred[Any]]",
        in_use: Callable[[str], bool],
        reached: Callable[[Route, Address, Any], None],
    ) -> None:
        self._clock = clock
        self._health = health
        self._dial = dial
        self._in_use = in_use
        self._reached = reached
        self._probes: dict[Address, _Probe] = {}
        self._stopped = False
        self.succeeded = 0
        self.failed = 0

    def watch(self, address: Address, route: Route, seconds: float) -> None:
        """Probe an address that has just been excluded, first after so many seconds."""
        if self._stopped or address in self._probes:
            return
        probe = self._probes[address] = _Probe(route)
        probe.timer = self._clock.callLater(seconds, self._due, address, probe)

    def forget(self, address: Address) -> None:
        """The address is in use again, or gone."""
        probe = self._probes.pop(address, None)
        if probe is None:
            return
        if probe.timer is not None:
            probe.timer.cancel()
        if probe.dialling is not None:
            probe.dialling.cancel()

    def stop(self) -> None:
        """Probe nothing any more."""
        self._stopped = True
        for address in list(self._probes):
            self.forget(address)

    def _due(self, address: Address, probe: _Probe) -> None:
        probe.timer = None
        if not self._in_use(address[0]):
            del self._probes[address]
            self._health.forget(address)
            return
        try:
            dialling = self._dial(probe.route, *address)
        except UpstreamError:
            self._missed(Failure(), address, probe)
            return
        probe.dialling = dialling
        dialling.addCallbacks(
            self._found, self._missed, callbackArgs=(address, probe), errbackArgs=(address, probe)
        ).addErrback(lambda reason: self.log.failure("probing {address}", reason, address=show_address(*address)))

    def _found(self, connection: Any, address: Address, probe: _Probe) -> None:
        probe.dialling = None
        self._probes.pop(address, None)
        self.succeeded += 1
        self._reached(probe.route, address, connection)

    def _missed(self, reason: Failure, address: Address, probe: _Probe) -> None:
        probe.dialling = None
        if self._probes.get(address) is not probe:
            # Forgotten meanwhile: the probe was cancelled.
            reason.trap(CancelledError, UpstreamError)
            return
        self.failed += 1
        seconds = self._health.probe_failed(address, self._clock.seconds())
        if seconds is None:
            del self._probes[address]
        else:
            probe.timer = self._clock.callLater(seconds, self._due, address, probe)
        reason.trap(UpstreamError)
