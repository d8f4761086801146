"""IP addresses, host names and ports as a configuration writes them, brought to one spelling each."""

import ipaddress
import re

__all__ = [
    "host_and_port",
    "host_name",
    "host_pattern",
    "ip_address",
    "ip_and_port",
    "overridden_host",
    "override_target",
]

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


def ip_address(text: str) -> str | None:
    """The usual spelling of an IPv4 or IPv6 address (no brackets, no zone); None when it is none."""
    if "%" in text:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def host_name(text: str) -> str | None:
    """A DNS name in lower case, without a dot at its end; None when it is none. An address is none."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdecimal():
        return None
    return name


def host_pattern(text: str) -> str | None:
    """A DNS name, or ``*.`` and a DNS name, in lower case; None when it is neither."""
    if text.startswith("*."):
        suffix = host_name(text[2:])
        return None if suffix is None else f"*.{suffix}"
    return host_name(text)


def _port(text: str) -> int | None:
    return int(text) if _PORT.fullmatch(text) and 1 <= int(text) <= 65535 else None


def ip_and_port(text: str) -> str | None:
    """``IP:port`` or ``[IPv6]:port`` in its usual spelling; None when it is neither."""
    host, colon, port_text = text.rpartition(":")
    port = _port(port_text)
    if not colon or port is None:
        return None
    if host.startswith("[") and host.endswith("]"):
        address = ip_address(host[1:-1])
        return f"[{address}]:{port}" if address is not None and ":" in address else None
    address = ip_address(host)
    return f"{address}:{port}" if address is not None and ":" not in address else None


def overridden_host(text: str) -> str | None:
    """A host name, ``*.`` and one, or an IP address, also with ``:port``; None when it is none of these."""
    if text.startswith("*."):
        below = host_and_port(text[2:])
        return host_pattern(text) or (None if below is None or ip_and_port(below) else f"*.{below}")
    return ip_address(text) or host_name(text) or host_and_port(text)


def override_target(text: str) -> str | None:
    """Where an overridden host is dialled: an IP address or a host name, also with ``:port``, else None."""
    if text.startswith("[") and text.endswith("]"):
        address = ip_address(text[1:-1])
        return address if address is not None and ":" in address else None
    return ip_address(text) or host_name(text) or host_and_port(text)


def host_and_port(text: str) -> str | None:
    """``host:port`` split at the last colon, host a name or an address (IPv6 in brackets); None when it is not that."""
    known = ip_and_port(text)
    if known is not None:
        return known
    host, colon, port_text = text.rpartition(":")
    port = _port(port_text)
    name = host_name(host) if colon else None
    return f"{name}:{port}" if name is not None and port is not None else None
