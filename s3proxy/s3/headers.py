"""Header fields as pairs of bytes, and what S3 and HTTP say about single ones.

============================  ==========================================================================
:func:`forwardable_request`   a client's fields as S3 gets them: hop-by-hop fields removed, signed ones kept
:func:`relayable_response`    S3's fields as the client gets them on a miss, a bypass or an error
:func:`storable_response`     S3's fields as they are kept with a cached object and replayed on every hit
:func:`bypass_mode`           what the client's own cache directives ask of this cache
============================  ==========================================================================
"""

import enum
from collections.abc import Iterable, Iterator
from typing import Protocol

from s3proxy.s3.query import query_params

__all__ = [
    "Bypass",
    "CHECKSUM_FIELDS",
    "CONDITIONAL_FIELDS",
    "HOP_BY_HOP",
    "Headers",
    "JUDGED_BY_S3_FIELDS",
    "SSE_C_FIELDS",
    "bypass_mode",
    "connection_options",
    "forwardable_request",
    "is_sse_c",
    "relayable_response",
    "storable_response",
    "wants_checksums",
]


class Headers:
    """An immutable, ordered list of header fields with case-insensitive look-up. Names and values stay as they came."""

    __slots__ = ("pairs", "_index")

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.pairs: tuple[tuple[bytes, bytes], ...] = tuple(pairs)
        index: dict[bytes, list[bytes]] = {}
        for name, value in self.pairs:
            index.setdefault(name.lower(), []).append(value)
        self._index = index

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name, or None."""
        values = self._index.get(name)
        return values[0] if values else None

    def get_all(self, name: bytes) -> tuple[bytes, ...]:
        """All values of the field with this lower-case name, in order."""
        return tuple(self._index.get(name, ()))

    def names(self) -> frozenset[bytes]:
        """The lower-case names that are present."""
        return frozenset(self._index)

    def has_any(self, names: frozenset[bytes]) -> bool:
        """Whether any field with one of these lower-case names is present."""
        return not names.isdisjoint(self._index)

    def without(self, names: Iterable[bytes]) -> "Headers":
        """A copy that lacks every field with one of these lower-case names."""
        drop = frozenset(names)
        if drop.isdisjoint(self._index):
            return self
        return Headers(pair for pair in self.pairs if pair[0].lower() not in drop)

    def adding(self, *pairs: tuple[bytes, bytes]) -> "Headers":
        """A copy with these fields after the present ones."""
        return Headers(self.pairs + pairs)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"Headers({list(self.pairs)!r})"


class _SignedNames(Protocol):
    """What :func:`forwardable_request` needs to know of a :class:`s3proxy.s3.signature.Signature`."""

    @property
    def signed_headers(self) -> frozenset[bytes]: ...

    def covers(self, name: bytes) -> bool: ...


#: Fields that concern one connection only (RFC 9110 section 7.6.1, RFC 9112 section 9.6, and the customary Proxy ones).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: Whole-object checksums, and what kind they are: sent only together with the whole object.
CHECKSUM_FIELDS = frozenset(
    {
        b"content-md5",
        b"x-amz-checksum-crc32",
        b"x-amz-checksum-crc32c",
        b"x-amz-checksum-crc64nvme",
        b"x-amz-checksum-md5",
        b"x-amz-checksum-sha1",
        b"x-amz-checksum-sha256",
        b"x-amz-checksum-sha512",
        b"x-amz-checksum-type",
        b"x-amz-checksum-xxhash128",
        b"x-amz-checksum-xxhash3",
        b"x-amz-checksum-xxhash64",
    }
)

#: The preconditions of RFC 9110 section 13.1.
CONDITIONAL_FIELDS = frozenset(
    {b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range"}
)

#: Any one of these makes a request one with a customer-provided key (SSE-C).
SSE_C_FIELDS = frozenset(
    {
        b"x-amz-server-side-encryption-customer-algorithm",
        b"x-amz-server-side-encryption-customer-key",
        b"x-amz-server-side-encryption-customer-key-md5",
    }
)

#: Request fields whose truth only S3 can tell: an answer from the cache would ignore them.
JUDGED_BY_S3_FIELDS = frozenset({b"x-amz-expected-bucket-owner", b"x-amz-request-payer"})

# A Connection field may not remove these (RFC 9110 section 7.6.1 forbids to name fields meant for all recipients):
# without them the request would mean something else than what was looked up in the cache.
_NEVER_CONNECTION_SPECIFIC = CONDITIONAL_FIELDS | {
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-md5",
    b"content-type",
    b"date",
    b"expect",
    b"host",
    b"range",
}

_NOT_STORED = HOP_BY_HOP | {
    b"accept-ranges",
    b"age",
    b"alt-svc",
    b"cache-status",
    b"content-length",
    b"content-range",
    b"date",
    b"server",
    b"set-cookie",
    b"vary",
    b"via",
    b"x-amz-id-2",
    b"x-amz-mp-parts-count",
    b"x-amz-request-charged",
    b"x-amz-request-id",
    b"x-cache",
}

_FRAMING = HOP_BY_HOP | {b"content-length"}


_DIRECTIVE_FIELDS = frozenset({b"cache-control", b"pragma"})


def connection_options(headers: Headers) -> frozenset[bytes]:
    """The lower-case names and options that the Connection (and Proxy-Connection) fields list (RFC 9110 section
    7.6.1).
    """
    listed = headers.get_all(b"connection") + headers.get_all(b"proxy-connection")
    return frozenset(option for value in listed for option in value.lower().replace(b" ", b"").split(b",") if option)


def _connection_specific(headers: Headers) -> frozenset[bytes]:
    if b"connection" not in headers and b"proxy-connection" not in headers:
        return frozenset()
    named = connection_options(headers) - _NEVER_CONNECTION_SPECIFIC
    return frozenset(name for name in named if not name.startswith(b"x-amz-"))


def forwardable_request(headers: Headers, signature: _SignedNames) -> Headers:
    """The client's fields as they go to S3, in their order, spelling and values.

    Hop-by-hop fields and those that Connection names are left out, except what the signature covers.
    Transfer-Encoding is always left out: whoever sends the request adds the framing. Content-Length (also ``0``
    without a body), Expect and Host stay.

    :param signature: the request's :class:`~s3proxy.s3.signature.Signature`
    """
    drop = {name for name in HOP_BY_HOP if name in headers and name not in signature.signed_headers}
    drop.update(name for name in _connection_specific(headers) if not signature.covers(name))
    if b"transfer-encoding" in headers:
        drop.add(b"transfer-encoding")
    return headers.without(drop) if drop else headers


def relayable_response(headers: Headers) -> Headers:
    """S3's fields for the client that is answered with S3's own answer: all but hop-by-hop fields and framing.

    Content-Length is framing: the listener adds it from the length it is told.
    """
    return headers.without(_FRAMING | _connection_specific(headers))


def storable_response(headers: Headers) -> Headers:
    """S3's fields that are kept with a cached object, known and unknown ones alike, in S3's order and spelling.

    Left out is what belongs to one answer, one connection or one caller: Date, Server, request ids, hop-by-hop
    fields, CORS fields and Vary, cookies, who is charged, what caches on the way said (Age, Via, X-Cache,
    Cache-Status, Alt-Svc); and what is computed for every answer: Content-Length, Content-Range, Accept-Ranges,
    x-amz-mp-parts-count.
    """
    drop = _NOT_STORED | _connection_specific(headers)
    drop |= {name for name in headers.names() if name.startswith(b"access-control-")}
    return headers.without(drop)


def is_sse_c(headers: Headers) -> bool:
    """Whether the request or answer concerns an object encrypted with a customer-provided key. Values do not matter."""
    return headers.has_any(SSE_C_FIELDS)


def wants_checksums(headers: Headers, query: bytes | None) -> bool:
    """Whether the request has ``x-amz-checksum-mode: enabled`` (any case), as a field or as a presigned parameter."""
    if any(value.strip().lower() == b"enabled" for value in headers.get_all(b"x-amz-checksum-mode")):
        return True
    return bool(query) and any(
        name.lower() == b"x-amz-checksum-mode" and (value or b"").lower() == b"enabled"
        for name, value in query_params(query)
    )


class Bypass(enum.Enum):
    """How far the client's own directives lead past the cache."""

    NONE = "none"
    #: Do not answer from the cache, but keep what S3 answers.
    NO_CACHE = "no-cache"
    #: Neither answer from the cache nor keep the answer.
    NO_STORE = "no-store"


def bypass_mode(headers: Headers) -> Bypass:
    """What ``Cache-Control`` and ``Pragma`` of the request ask for (RFC 9111 sections 5.2.1 and 5.4).

    ``no-store`` beats ``no-cache``, Cache-Control beats Pragma, a directive's argument does not matter, everything else
    (``max-age=0`` too) asks for nothing. A Pragma counts only when it is exactly ``no-cache``.
    """
    if not headers.has_any(_DIRECTIVE_FIELDS):
        return Bypass.NONE
    directives = {
        directive.partition(b"=")[0].strip().lower()
        for value in headers.get_all(b"cache-control")
        for directive in value.split(b",")
    }
    if b"no-store" in directives:
        return Bypass.NO_STORE
    if b"no-cache" in directives:
        return Bypass.NO_CACHE
    if any(value.strip().lower() == b"no-cache" for value in headers.get_all(b"pragma")):
        return Bypass.NO_CACHE
    return Bypass.NONE
