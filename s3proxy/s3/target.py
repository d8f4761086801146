"""The request target and the Host field: where a request is meant to go, and the exact bytes that go there.

=================  ===========================================  ===========================
form               example                                      host and port come from
=================  ===========================================  ===========================
origin-form        ``/bucket/key?x``                            the Host field
absolute-form      ``http://s3.example:80/bucket/key?x``        the target's authority
asterisk-form      ``*``                                        the Host field
authority-form     ``s3.example:443`` (CONNECT)                 the target
=================  ===========================================  ===========================

See RFC 9112 section 3.2. The target's bytes are never rewritten: only scheme and authority of an absolute-form are
cut off.
"""

import ipaddress
import re
from functools import lru_cache
from typing import NoReturn

import attrs

from s3proxy.s3.errors import invalid_request, invalid_uri, method_not_allowed, missing_host
from s3proxy.s3.headers import Headers
from s3proxy.s3.query import query_params

__all__ = ["RequestTarget", "parse_connect", "parse_target", "query_params", "refuse_connect"]

_VISIBLE = re.compile(rb"[\x21-\x7e]+")
_SCHEME = re.compile(rb"(?i:(https?))://")
_REG_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_PORT = re.compile(r"[0-9]{1,5}")
_AUTHORITY_END = re.compile(rb":[0-9]+\Z")
_DEFAULT_PORTS = {b"http": 80, b"https": 443}
_LONGEST_NAME = 253


@attrs.frozen(kw_only=True)
class RequestTarget:
    """Where one request goes.

    :ivar host: lower case, without port, brackets or a trailing dot: to be resolved and connected to
    :ivar port: as given, else 80, or 443 for an ``https:`` absolute-form
    :ivar path: raw, as received; ``*`` for the asterisk-form
    :ivar query: raw, without the ``?``; None when there is no ``?``
    :ivar origin_form: what goes upstream: path and query, byte for byte
    :ivar absolute: whether the target came in absolute-form
    :ivar named_host: like ``host``, but what the Host field says, which is what S3 itself goes by
    :ivar named_port: the port of the Host field, with the same default
    """

    host: str
    port: int
    path: bytes
    query: bytes | None
    origin_form: bytes
    absolute: bool
    named_host: str
    named_port: int

    @property
    def consistent(self) -> bool:
        """Whether authority and Host field name the same endpoint. If not, the answer must not be cached."""
        return self.host == self.named_host and self.port == self.named_port


def parse_target(target: bytes, headers: Headers) -> RequestTarget:
    """Read a request's target and Host field.

    :raises S3Error: ``MissingHostHeader`` without a Host field; ``InvalidRequest`` for two of them or one that names no
        host, or for an authority that is none; ``InvalidURI`` for a target with other bytes than visible ASCII
    """
    hosts = headers.get_all(b"host")
    if not hosts:
        raise missing_host()
    if len(hosts) > 1:
        raise invalid_request("The request has more than one Host header.")
    if _VISIBLE.fullmatch(target) is None:
        raise invalid_uri("The request target holds bytes that must be percent-encoded.")

    scheme = _SCHEME.match(target)
    if scheme is not None:
        default_port = _DEFAULT_PORTS[scheme[1].lower()]
        authority, origin_form = _split_authority(target[scheme.end() :])
        host, port = _parse_authority(authority, default_port)
    elif target.startswith(b"/") or target == b"*":
        default_port = 80
        origin_form = target
    else:
        raise invalid_uri("The request target must start with '/' or 'http://'.")

    named_host, named_port = _parse_authority(hosts[0], default_port)
    if scheme is None:
        host, port = named_host, named_port
    path, question_mark, query = origin_form.partition(b"?")
    return RequestTarget(
        host=host,
        port=port,
        path=path,
        query=query if question_mark else None,
        origin_form=origin_form,
        absolute=scheme is not None,
        named_host=named_host,
        named_port=named_port,
    )


def parse_connect(target: bytes) -> tuple[str, int]:
    """Host and port of a CONNECT request's target, ``host:port``; host as :attr:`RequestTarget.host`.

    :raises S3Error: ``InvalidRequest`` for anything else
    """
    if _VISIBLE.fullmatch(target) is None or _AUTHORITY_END.search(target) is None:
        raise invalid_request("CONNECT needs a target of the form host:port.")
    return _parse_authority(target, 443)


def refuse_connect(target: bytes) -> NoReturn:
    """Refuse a CONNECT request, whose target is ``host:port``.

    :raises S3Error: ``MethodNotAllowed``, or ``InvalidRequest`` when the target is not even that
    """
    parse_connect(target)
    raise method_not_allowed(b"CONNECT")


def _split_authority(rest: bytes) -> tuple[bytes, bytes]:
    """Cut what follows ``http://`` into authority and origin-form; an empty path becomes ``/``."""
    end = min((position for position in (rest.find(b"/"), rest.find(b"?")) if position >= 0), default=len(rest))
    authority, origin_form = rest[:end], rest[end:]
    return authority, origin_form if origin_form.startswith(b"/") else b"/" + origin_form


@lru_cache(maxsize=1024)
def _parse_authority(authority: bytes, default_port: int) -> tuple[str, int]:
    """Host and port of ``host[:port]`` (RFC 3986 section 3.2, without user information)."""
    try:
        text = authority.decode("ascii")
    except UnicodeDecodeError:
        raise invalid_request("The Host header is not ASCII.") from None
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise invalid_request("The Host header has an unclosed '['.")
        host = _ipv6(literal)
    else:
        host, colon, port_text = text.partition(":")
        rest = colon + port_text
        host = _registered_name(host)
    if not rest:
        return host, default_port
    if not rest.startswith(":") or _PORT.fullmatch(rest[1:]) is None or not 0 < int(rest[1:]) < 65536:
        raise invalid_request("The Host header has a port that is no number from 1 to 65535.")
    return host, int(rest[1:])


def _ipv6(literal: str) -> str:
    """The shortest spelling, so that all spellings of an address are one endpoint."""
    try:
        if "%" in literal:
            raise ValueError("zone")
        return str(ipaddress.IPv6Address(literal))
    except ValueError:
        raise invalid_request("The Host header has no IPv6 address between its brackets.") from None


def _registered_name(name: str) -> str:
    if name.endswith("."):
        name = name[:-1]
    if len(name) > _LONGEST_NAME or _REG_NAME.fullmatch(name) is None:
        raise invalid_request("The Host header does not name a host.")
    return name.lower()
