"""Where this proxy connects to, and where it does not, whatever a client asks and whatever DNS answers.

A client that names a host makes the proxy open a connection from where the proxy stands: to the machine itself, to the
instance metadata service, to hosts of the private network. Nothing of that is what a proxy for S3 is for. Looked at are
the name that was asked for, and then the very address that is dialled, so that nothing DNS says in between matters.
(That the proxy does not connect to itself is another matter: :class:`~s3proxy.upstream.routing.LoopGuard`.)

========================  ==============================================  ==============================
class of addresses        which                                           allowed
========================  ==============================================  ==============================
public                    all others                                      to everybody
private                   RFC 1918, RFC 6598, fc00::/7, site-local        where an operator vouches
loopback                  127.0.0.0/8, ::1                                where an operator names the host
forbidden                 link-local, metadata services, unspecified,     where ``endpoint_overrides``
                          multicast, reserved, tunnels to nowhere         lists the very address
========================  ==============================================  ==============================

An operator vouches for a host by ``endpoint_overrides`` or ``upstream_overrides``, and, for names that are Amazon's, by
``dns_servers``: how a resolver in a VPC leads to a private endpoint. An IPv6 address that holds an IPv4 address
(mapped, compatible, translated, NAT64, 6to4, ISATAP) is of that one's class.
"""

import enum
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from s3proxy.upstream.interfaces import UpstreamRefused
from s3proxy.upstream.routing import OverrideKeys, host_and_port, ip_literal, longest_suffix, show_address

__all__ = ["AddressClass", "DestinationPolicy", "address_class", "is_aws_name"]

_V4 = ipaddress.IPv4Network
_V6 = ipaddress.IPv6Network


class AddressClass(enum.Enum):
    """What kind of destination an address is; the value is how messages call it."""

    PUBLIC = "a public address"
    PRIVATE = "a private address"
    LOOPBACK = "this machine's loopback address"
    FORBIDDEN = "an address that is no host's on the Internet"


# The first network that holds an address decides.
_V4_CLASSES: tuple[tuple[_V4, AddressClass], ...] = (
    # Metadata and credential services that are not link-local: Azure, Alibaba Cloud, Oracle Cloud.
    (_V4("168.63.129.16/32"), AddressClass.FORBIDDEN),
    (_V4("100.100.100.200/32"), AddressClass.FORBIDDEN),
    (_V4("192.0.0.0/24"), AddressClass.FORBIDDEN),
    (_V4("0.0.0.0/8"), AddressClass.FORBIDDEN),
    (_V4("10.0.0.0/8"), AddressClass.PRIVATE),
    (_V4("100.64.0.0/10"), AddressClass.PRIVATE),
    (_V4("127.0.0.0/8"), AddressClass.LOOPBACK),
    (_V4("169.254.0.0/16"), AddressClass.FORBIDDEN),
    (_V4("172.16.0.0/12"), AddressClass.PRIVATE),
    (_V4("192.0.2.0/24"), AddressClass.FORBIDDEN),
    (_V4("192.88.99.0/24"), AddressClass.FORBIDDEN),
    (_V4("192.168.0.0/16"), AddressClass.PRIVATE),
    (_V4("198.18.0.0/15"), AddressClass.FORBIDDEN),
    (_V4("198.51.100.0/24"), AddressClass.FORBIDDEN),
    (_V4("203.0.113.0/24"), AddressClass.FORBIDDEN),
    (_V4("224.0.0.0/3"), AddressClass.FORBIDDEN),
)
_V6_CLASSES: tuple[tuple[_V6, AddressClass], ...] = (
    (_V6("::1/128"), AddressClass.LOOPBACK),
    # Amazon's metadata service, name server and clock.
    (_V6("fd00:ec2::/32"), AddressClass.FORBIDDEN),
    # Google Cloud's.
    (_V6("fd20:ce::/32"), AddressClass.FORBIDDEN),
    (_V6("64:ff9b:1::/48"), AddressClass.PRIVATE),
    (_V6("fc00::/7"), AddressClass.PRIVATE),
    (_V6("fec0::/10"), AddressClass.PRIVATE),
    (_V6("2001::/23"), AddressClass.FORBIDDEN),
    (_V6("2001:db8::/32"), AddressClass.FORBIDDEN),
    (_V6("3fff::/20"), AddressClass.FORBIDDEN),
    (_V6("2000::/3"), AddressClass.PUBLIC),
)
# Networks whose addresses hold an IPv4 address, and how far from the right end that ends.
_HOLDERS: tuple[tuple[_V6, int], ...] = (
    (_V6("::ffff:0:0/96"), 0),
    (_V6("::ffff:0:0:0/96"), 0),
    (_V6("64:ff9b::/96"), 0),
    (_V6("2002::/16"), 80),
)
_COMPATIBLE = _V6("::/96")
_ISATAP = (0x5EFE, 0x02005EFE)

_NUMBER_AT_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
_AWS_SUFFIXES = (
    "amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "c2s.ic.gov", "sc2s.sgov.gov", "cloud.adc-e.uk",
    "csp.hci.ic.gov", "api.aws", "api.amazonwebservices.com.cn", "api.amazonwebservices.eu",
)  # fmt: skip
_S3_LABEL = re.compile(r"s3(?:-[a-z0-9-]+)?|accesspoint")


#: IP addresses, each with the port on which it is listed, or None for all ports.
_Listed = frozenset[tuple[str, int | None]]


@lru_cache(maxsize=4096)
def address_class(ip: str) -> AddressClass:
    """The class of an IP address in any spelling that Python reads; FORBIDDEN if it is none, or has a zone."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return AddressClass.FORBIDDEN
    if isinstance(address, ipaddress.IPv4Address):
        return next((kind for network, kind in _V4_CLASSES if address in network), AddressClass.PUBLIC)
    if address.scope_id is not None:
        return AddressClass.FORBIDDEN
    held = _held(address)
    if held is not None:
        return address_class(str(held))
    return next((kind for network, kind in _V6_CLASSES if address in network), AddressClass.FORBIDDEN)


def _held(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end at."""
    number = int(address)
    for network, shift in _HOLDERS:
        if address in network:
            return ipaddress.IPv4Address((number >> shift) & 0xFFFFFFFF)
    if address in _COMPATIBLE and number > 1 or ((number >> 32) & 0xFFFFFFFF) in _ISATAP:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return None


@lru_cache(maxsize=1024)
def is_aws_name(host: str) -> bool:
    """Whether a name is one of S3's own: below a suffix of AWS, with a label of S3 before it.

    Only Amazon can make such names resolve. Names of instances, which in a VPC lead to private addresses, are none.
    """
    for suffix in _AWS_SUFFIXES:
        if host.endswith("." + suffix):
            labels = host.removesuffix("." + suffix).split(".")
            return any(_S3_LABEL.fullmatch(label) for label in labels[-5:])
    return False


@lru_cache(maxsize=4096)
def _is_odd(host: str) -> bool:
    """Whether some resolver or library might read it as an address, and another not: 127.1, 0x7f000001, 0177.0.0.1."""
    if "%" in host:
        return True
    return ip_literal(host) is None and (":" in host or _NUMBER_AT_END.fullmatch(host) is not None)


class DestinationPolicy:
    """The rules of one configuration.

    :param allowlist: hosts and ``*.suffix`` patterns that clients may reach, all others being refused; None: no list
    :param overrides: ``connection_pool.endpoint_overrides``
    :param own_resolver: whether ``connection_pool.dns_servers`` names servers
    """

    def __init__(
        self,
        *,
        allowlist: Sequence[str] | None = None,
        overrides: Mapping[str, Sequence[str]] | None = None,
        own_resolver: bool = False,
    ) -> None:
        self._names: frozenset[str] | None = None
        self._suffixes: frozenset[str] = frozenset()
        if allowlist is not None:
            entries = [entry.lower() for entry in allowlist]
            self._names = frozenset(entry.removeprefix("*.") for entry in entries)
            self._suffixes = frozenset(entry[2:] for entry in entries if entry.startswith("*."))
        self._own_resolver = own_resolver
        self._keys = OverrideKeys(overrides or {})
        self._overrides: dict[str, _Listed] = {}
        for key, values in (overrides or {}).items():
            targets = (host_and_port(value) for value in values)
            self._overrides[key] = frozenset((ip, port) for host, port in targets if (ip := ip_literal(host)))
        self._listed: _Listed = frozenset().union(*self._overrides.values())

    def check_host(self, host: str) -> None:
        """Look at the name that a client gave, lower case and without brackets.

        :raises UpstreamRefused: clients may not reach it
        """
        if _is_odd(host):
            raise UpstreamRefused(f"{host} is neither a host name nor an IP address in its usual spelling")
        if self._names is None:
            return
        if host not in self._names and longest_suffix(host, self._suffixes) is None:
            raise UpstreamRefused(f"{host} is not in server.tls.connect_allowlist")

    def check_tunnel_port(self, host: str, port: int) -> None:
        """Look at the port that a client asks to be connected to without a request for S3 in between.

        :raises UpstreamRefused: it is not that of HTTPS
        """
        if port != 443:
            raise UpstreamRefused(f"{host}:{port}: tunnels lead to port 443 only")

    def permitted(
        self, host: str, addresses: Iterable[tuple[str, int]], vouched: bool = False, asked: int | None = None
    ) -> list[tuple[str, int]]:
        """Those of the addresses (IP and port) that may be dialled for this host.

        :param vouched: ``connection_pool.upstream_overrides`` has an entry for the host and port that were asked for
        :param asked: that port
        :raises UpstreamRefused: when none is left; says why the first may not
        """
        permitted: list[tuple[str, int]] = []
        refusal: UpstreamRefused | None = None
        for ip, port in addresses:
            try:
                self.check_address(host, ip, port, vouched, asked)
            except UpstreamRefused as error:
                refusal = refusal or error
            else:
                permitted.append((ip, port))
        if not permitted and refusal is not None:
            raise refusal
        return permitted

    def check_address(self, host: str, ip: str, port: int, vouched: bool = False, asked: int | None = None) -> None:
        """Look at one address that is about to be dialled for a host.

        :raises UpstreamRefused: it may not be
        """
        kind = address_class(ip)
        if kind is AddressClass.PUBLIC:
            return
        listed = self._override(host, asked)
        if self._lists(listed, host, ip, port):
            return
        if kind is AddressClass.FORBIDDEN:
            remedy = "connection_pool.endpoint_overrides would have to list it"
        else:
            pinned = listed is not None
            resolver = kind is AddressClass.PRIVATE and self._own_resolver and is_aws_name(host)
            if pinned or vouched or resolver:
                return
            remedy = "name it in connection_pool.endpoint_overrides or upstream_overrides if it is meant"
        raise UpstreamRefused(f"{host} leads to {show_address(ip, port)}, which is {kind.value}; {remedy}")

    def _override(self, host: str, asked: int | None) -> "_Listed | None":
        key = self._keys.find(host, asked)
        return None if key is None else self._overrides[key]

    def _lists(self, listed: "_Listed | None", host: str, ip: str, port: int) -> bool:
        """Whether the very address is listed: for this host, or, for a client that names it itself, for any.

        One that is listed with a port is listed on that port only.
        """
        address = ip_literal(ip) or ip
        if listed is None:
            listed = self._listed if ip_literal(host) == address else frozenset()
        return (address, None) in listed or (address, port) in listed
