"""From the host and port that a client meant to the way S3 is dialled: TLS or plain, port, trust; and no loops."""

import ipaddress
import socket
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache

import attrs

from s3proxy.upstream.interfaces import UpstreamRefused
from s3proxy.upstream.settings import TransportOverride

__all__ = [
    "LoopGuard",
    "OverrideKeys",
    "Route",
    "Router",
    "TLSPolicy",
    "host_and_port",
    "ip_literal",
    "longest_suffix",
    "show_address",
]

_WILDCARDS = frozenset({"", "0.0.0.0", "::"})


@attrs.frozen
class TLSPolicy:
    """How far a TLS peer is trusted. Connections of different policies are never mixed.

    :ivar verify: check the chain and the name
    :ivar ca_file: PEM file of further trusted authorities
    :ivar tls12_only: offer nothing newer than TLS 1.2
    """

    verify: bool = True
    ca_file: str | None = None
    tls12_only: bool = False


@attrs.frozen
class Route:
    """How to reach a host.

    :ivar host: lower-case name or IP literal without brackets: resolved, sent as SNI, verified
    :ivar port: port to dial, unless the address itself names one
    :ivar tls: None for plain TCP
    :ivar overridden: an entry of ``upstream_overrides`` applies
    :ivar asked: the port that the client named; None: no client did
    """

    host: str
    port: int
    tls: TLSPolicy | None
    overridden: bool = False
    asked: int | None = attrs.field(default=None, eq=False)


@lru_cache(maxsize=1024)
def ip_literal(text: str) -> str | None:
    """The canonical text of an IP address (v4-mapped ones as IPv4), or None when it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def host_and_port(text: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address; lower-case host without brackets.

    :raises ValueError: the port is not a number from 1 to 65535, or the brackets don't match
    """
    text = text.strip().lower()
    if ip_literal(text) is not None:
        return text, None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or rest and not rest.startswith(":"):
            raise ValueError(f"not an address: {text}")
        number = rest[1:] if rest else None
    else:
        host, colon, port = text.rpartition(":")
        host, number = (host, port) if colon else (text, None)
    if not host:
        raise ValueError(f"no host in {text!r}")
    if number is None:
        return host, None
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        raise ValueError(f"not a port: {number!r}")
    return host, int(number)


def show_address(ip: str, port: int) -> str:
    """``IP:port`` for people, IPv6 in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def longest_suffix(host: str, suffixes: Container[str]) -> str | None:
    """The longest of *suffixes* that *host* ends with after a dot; the host itself does not count."""
    at = host.find(".")
    while at >= 0:
        suffix = host[at + 1:]
        if suffix in suffixes:
            return suffix
        at = host.find(".", at + 1)
    return None


class OverrideKeys:
    """The keys of ``endpoint_overrides``: ``host``, ``*.suffix``, and both with ``:port``.

    The exact host goes before the longest suffix, and a key with the port that the client named before one without.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._exact: dict[tuple[str, int | None], str] = {}
        self._below: dict[tuple[str, int | None], str] = {}
        for key in keys:
            table, text = (self._below, key[2:]) if key.startswith("*.") else (self._exact, key)
            host, port = host_and_port(text)
            table[ip_literal(host) or host, port] = key
        self._suffixes = frozenset(host for host, _ in self._below)
        self._hosts = frozenset(host for host, _ in self._exact)

    def find(self, host: str, port: int | None) -> str | None:
        """The key that gives *host* its addresses when a client names it with *port*, or None."""
        if host in self._hosts:
            key = self._exact.get((host, port)) or self._exact.get((host, None))
            if key is not None:
                return key
        if not self._suffixes:
            return None
        suffix = longest_suffix(host, self._suffixes)
        while suffix is not None:
            key = self._below.get((suffix, port)) or self._below.get((suffix, None))
            if key is not None:
                return key
            suffix = longest_suffix(suffix, self._suffixes)
        return None


class Router:
    """Looks routes up.

    An override's key is ``host:port``. It applies to requests for that port on that host and, when the host is a name,
    on every host below it; the exact host goes first, then the longest name. Without an override: verified TLS to port
    443.
    """

    def __init__(
        self, upstream_overrides: Mapping[str, TransportOverride], endpoint_overrides: Mapping[str, object]
    ) -> None:
        self._overrides: dict[int, dict[str, TransportOverride]] = {}
        for key, override in upstream_overrides.items():
            host, port = host_and_port(key)
            if port is None:
                raise ValueError(f"connection_pool.upstream_overrides: {key!r} has no port; write host:port")
            self._overrides.setdefault(port, {})[ip_literal(host) or host] = override
        self._pinned = OverrideKeys(endpoint_overrides)

    def route(self, host: str, port: int) -> Route:
        """The route for requests to *host* (lower case, no brackets) that named *port*, 80 when they named none."""
        host = ip_literal(host) or host
        pinned = self._pinned.find(host, port) is not None
        override = self._override(host, port)
        if override is None:
            return Route(host, 443, TLSPolicy(tls12_only=pinned), asked=port)
        if override.scheme == "http":
            return Route(host, port, None, overridden=True, asked=port)
        tls = TLSPolicy(override.validate_tls, override.ca_file, pinned)
        return Route(host, port, tls, overridden=True, asked=port)

    def _override(self, host: str, port: int) -> TransportOverride | None:
        hosts = self._overrides.get(port)
        if hosts is None:
            return None
        if host in hosts:
            return hosts[host]
        suffix = None if ip_literal(host) else longest_suffix(host, hosts)
        return None if suffix is None else hosts[suffix]


class LoopGuard:
    """Refuses to dial the listening sockets of this very proxy.

    :param own_addresses: (IP, port) of every listening socket; an IP of ``0.0.0.0``, ``::`` or ``""`` stands for all of
        the machine's addresses
    :param is_local: whether an IP belongs to this machine
    """

    def __init__(
        self,
        own_addresses: Callable[[], frozenset[tuple[str, int]]],
        is_local: Callable[[str], bool] | None = None,
    ) -> None:
        self._own_addresses = own_addresses
        self._is_local = is_local or local_address

    def check(self, host: str, ip: str, port: int) -> None:
        """:raises UpstreamRefused: connecting to *ip* and *port* would reach this proxy"""
        address = ip_literal(ip) or ip
        for own_ip, own_port in self._own_addresses():
            if own_port != port:
                continue
            if (
                (ip_literal(own_ip) or own_ip) == address
                # Who connects to the wildcard address reaches the machine itself.
                or address in _WILDCARDS
                or own_ip in _WILDCARDS and self._is_local(address)
            ):
                raise UpstreamRefused(
                    f"{host} resolves to {show_address(ip, port)}, which is this proxy itself; set "
                    "connection_pool.dns_servers to a resolver that knows S3's own addresses"
                )


def local_address(ip: str) -> bool:
    """Whether this machine has the address: only then can a socket be bound to it."""
    if ip in _WILDCARDS:
        return True
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True
