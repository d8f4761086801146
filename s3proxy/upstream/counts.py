"""What the upstream side counts and times, for :mod:`s3proxy.services.metering`."""

from collections import Counter
from typing import Final

import attrs

from s3proxy.telemetry.families import CONNECT_BOUNDS
from s3proxy.telemetry.instruments import Histogram

__all__ = ["MOST_ENDPOINTS", "OTHER", "EndpointCounts", "Endpoints", "ConnectTimes"]

MOST_ENDPOINTS: Final = 100
"""Hosts that are told apart: those that were asked for first."""
OTHER: Final = "__other__"
"""Instead of a host's name: all that are not told apart."""


class Endpoints:
    """Which hosts are told apart."""

    def __init__(self, most: int = MOST_ENDPOINTS) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, host: str) -> str:
        """The host, or :data:`OTHER`."""
        if host not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(host)
        return host


@attrs.define
class EndpointCounts:
    """:ivar endpoints: which hosts are told apart
    :ivar opened: connections made, by host
    :ivar reused: requests sent on a kept connection, by host
    :ivar excluded: exclusions of addresses, by host
    :ivar retried: repetitions, by how far the attempt before had come
    """

    endpoints: Endpoints = attrs.field(factory=Endpoints)
    opened: "Counter[str]" = attrs.field(factory=Counter)
    reused: "Counter[str]" = attrs.field(factory=Counter)
    excluded: "Counter[str]" = attrs.field(factory=Counter)
    retried: "Counter[str]" = attrs.field(factory=Counter)


@attrs.frozen
class ConnectTimes:
    """Seconds of the steps on the way to a connection: asking for the address, TCP's handshake, TLS's."""

    dns: Histogram = attrs.field(factory=lambda: Histogram(CONNECT_BOUNDS))
    tcp: Histogram = attrs.field(factory=lambda: Histogram(CONNECT_BOUNDS))
    tls: Histogram = attrs.field(factory=lambda: Histogram(CONNECT_BOUNDS))
