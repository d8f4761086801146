"""How a request is signed, as far as a proxy without keys can tell: who, until when, and which fields must not change.

================  ==========================================================  ==============================
form              recognised by                                               fields covered
================  ==========================================================  ==============================
header v4, v4a    ``Authorization: AWS4-HMAC-SHA256 …``,                      those in SignedHeaders
                  ``AWS4-ECDSA-P256-SHA256 …``
query v4, v4a     ``X-Amz-Algorithm``, ``X-Amz-Credential``, …                those in X-Amz-SignedHeaders
header v2         ``Authorization: AWS KEY:SIGNATURE``                        Content-MD5, Content-Type, Date
                                                                              and every ``x-amz-…``
query v2          ``AWSAccessKeyId``, ``Signature``, ``Expires``              the same
unknown           any other Authorization, a malformed or contradictory one   all
none              no trace of a signature                                     none
================  ==========================================================  ==============================

Signatures are never verified here, and never kept. See "Authenticating Requests" in the Amazon S3 API reference.
"""

import enum
import re
from collections import Counter
from datetime import datetime, timezone
from functools import lru_cache

import attrs

from s3proxy.s3.headers import Headers
from s3proxy.s3.query import percent_decode, query_params

__all__ = [
    "Signature",
    "SignatureForm",
    "read_signature",
    "redact_target",
]

_LONGEST_REMEMBERED = 1024  # bytes of an Authorization field
_LONGEST_VALIDITY = 604800  # seconds: seven days, the most that a v4 presigned request may ask for
_V2_FIELDS = frozenset({b"content-md5", b"content-type", b"date"})
_ALGORITHM_V4 = b"AWS4-HMAC-SHA256"
_ALGORITHM_V4A = b"AWS4-ECDSA-P256-SHA256"
_TIMESTAMP = re.compile(rb"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_TIMESTAMP_LENGTH = 16
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNIX_SECONDS = re.compile(rb"[0-9]{1,11}")
_VALIDITY = re.compile(rb"[0-9]{1,6}")
_QUERY_V4 = (
    b"X-Amz-Algorithm",
    b"X-Amz-Credential",
    b"X-Amz-Date",
    b"X-Amz-Expires",
    b"X-Amz-SignedHeaders",
    b"X-Amz-Signature",
)
_QUERY_V4_SIGNS = frozenset({b"x-amz-algorithm", b"x-amz-credential", b"x-amz-signature"})
_QUERY_V2 = (b"AWSAccessKeyId", b"Expires", b"Signature")
_QUERY_V2_SIGNS = frozenset({b"awsaccesskeyid", b"signature"})


class SignatureForm(enum.Enum):
    """The kinds of signatures that S3 accepts."""

    NONE = "none"
    HEADER_V4 = "header-v4"
    HEADER_V4A = "header-v4a"
    HEADER_V2 = "header-v2"
    QUERY_V4 = "query-v4"
    QUERY_V4A = "query-v4a"
    QUERY_V2 = "query-v2"
    #: Something that looks like credentials but is none of these, or is malformed.
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Signature:
    """What a request's credentials say about themselves.

    :ivar access_key: the access key id; None without one
    :ivar signed_headers: lower-case names that are listed, or (v2) always signed
    :ivar signed_at: when the signature says it was made, in seconds since the epoch; None when it does not say. S3
        refuses header signatures that are off by more than 15 minutes.
    :ivar expires_at: last second at which a presigned request is valid; None for all other requests
    :ivar region: of the credential scope (v4), or the region set (v4a); None otherwise
    """

    form: SignatureForm = SignatureForm.NONE
    access_key: str | None = None
    signed_headers: frozenset[bytes] = frozenset()
    signed_at: float | None = None
    expires_at: float | None = None
    region: str | None = None

    @property
    def understood(self) -> bool:
        """False when there are credentials that only S3 can judge: such a request is forwarded, never answered here."""
        return self.form is not SignatureForm.UNKNOWN

    def covers(self, name: bytes) -> bool:
        """Whether adding, changing or removing the field with this lower-case name could break the signature."""
        if self.form is SignatureForm.UNKNOWN:
            return True
        if self.form in (SignatureForm.HEADER_V2, SignatureForm.QUERY_V2) and name.startswith(b"x-amz-"):
            return True
        return name in self.signed_headers

    def is_expired(self, now: float) -> bool:
        """Whether a presigned request is past its time; at the very second it is still valid. False for all others."""
        return self.expires_at is not None and now > self.expires_at


_UNKNOWN = Signature(form=SignatureForm.UNKNOWN)


def read_signature(headers: Headers, query: bytes | None) -> Signature:
    """Recognise a request's credentials. Never fails: what is not understood has the form ``UNKNOWN``."""
    authorizations = headers.get_all(b"authorization")
    params = query_params(query)
    names = {name.lower() for name, _ in params}
    is_query_v4 = not _QUERY_V4_SIGNS.isdisjoint(names)
    is_query_v2 = not _QUERY_V2_SIGNS.isdisjoint(names)
    if len(authorizations) + is_query_v4 + is_query_v2 > 1:
        return _UNKNOWN
    if authorizations:
        return _read_authorization(authorizations[0], headers)
    if is_query_v4:
        return _read_query_v4(params)
    if is_query_v2:
        return _read_query_v2(params)
    return Signature()


def _read_authorization(value: bytes, headers: Headers) -> Signature:
    scheme, _, rest = value.strip().partition(b" ")
    if scheme == b"AWS":
        access_key, colon, signature = rest.strip().rpartition(b":")
        if not colon or not access_key or not signature:
            return _UNKNOWN
        return Signature(form=SignatureForm.HEADER_V2, access_key=_text(access_key), signed_headers=_V2_FIELDS)
    if scheme not in (_ALGORITHM_V4, _ALGORITHM_V4A):
        return _UNKNOWN
    front, name, digest = rest.rpartition(b"Signature=")
    is_last = bool(name) and b"," not in digest and front.rstrip()[-1:] in (b"", b",")
    if is_last and digest.strip() and len(front) <= _LONGEST_REMEMBERED:
        described = _remembered_description(scheme, front + b"Signature=-")
    else:
        described = _describe(scheme, rest)
    if described is None:
        return _UNKNOWN
    form, access_key_text, signed_headers, region = described
    return Signature(
        form=form,
        access_key=access_key_text,
        signed_headers=signed_headers,
        signed_at=_read_timestamp(headers.get(b"x-amz-date") or b""),
        region=region if scheme == _ALGORITHM_V4 else _optional_text(headers.get(b"x-amz-region-set")),
    )


def _describe(scheme: bytes, rest: bytes) -> tuple[SignatureForm, str, frozenset[bytes], str | None] | None:
    """What the fields of a header signature say; of the digest only that there is one."""
    fields: dict[bytes, bytes] = {}
    for piece in rest.split(b","):
        name, equals, content = piece.strip().partition(b"=")
        if not equals or name in fields:
            return None
        fields[name] = content
    if fields.keys() != {b"Credential", b"SignedHeaders", b"Signature"} or not fields[b"Signature"]:
        return None
    scope = _read_scope(scheme, fields[b"Credential"])
    signed_headers = _read_signed_headers(fields[b"SignedHeaders"])
    if scope is None or signed_headers is None:
        return None
    form = SignatureForm.HEADER_V4 if scheme == _ALGORITHM_V4 else SignatureForm.HEADER_V4A
    return form, scope[0], signed_headers, scope[1]


# All but the digest is the same in many requests of a client on one day.
_remembered_description = lru_cache(maxsize=1024)(_describe)


def _read_query_v4(params: tuple[tuple[bytes, bytes | None], ...]) -> Signature:
    values = _exactly_once(params, _QUERY_V4)
    if values is None:
        return _UNKNOWN
    algorithm = values[b"X-Amz-Algorithm"]
    scope = _read_scope(algorithm, values[b"X-Amz-Credential"])
    signed_headers = _read_signed_headers(values[b"X-Amz-SignedHeaders"])
    signed_at = _read_timestamp(values[b"X-Amz-Date"])
    validity = values[b"X-Amz-Expires"]
    if scope is None or signed_headers is None or signed_at is None or _VALIDITY.fullmatch(validity) is None:
        return _UNKNOWN
    if not 1 <= int(validity) <= _LONGEST_VALIDITY:
        return _UNKNOWN
    access_key, region = scope
    is_v4 = algorithm == _ALGORITHM_V4
    region_set = dict(params).get(b"X-Amz-Region-Set")
    return Signature(
        form=SignatureForm.QUERY_V4 if is_v4 else SignatureForm.QUERY_V4A,
        access_key=access_key,
        signed_headers=signed_headers,
        signed_at=signed_at,
        expires_at=signed_at + int(validity),
        region=region if is_v4 else _optional_text(region_set),
    )


def _read_query_v2(params: tuple[tuple[bytes, bytes | None], ...]) -> Signature:
    values = _exactly_once(params, _QUERY_V2)
    if values is None or _UNIX_SECONDS.fullmatch(values[b"Expires"]) is None:
        return _UNKNOWN
    return Signature(
        form=SignatureForm.QUERY_V2,
        access_key=_text(values[b"AWSAccessKeyId"]),
        signed_headers=_V2_FIELDS,
        expires_at=float(int(values[b"Expires"])),
    )


def _exactly_once(
    params: tuple[tuple[bytes, bytes | None], ...], wanted: tuple[bytes, ...]
) -> dict[bytes, bytes] | None:
    """The values of these parameters, if each is there once, spelled exactly so, and not empty."""
    counts = Counter(name.lower() for name, _ in params)
    found = {name: value for name, value in params if name in wanted and value}
    if len(found) != len(wanted) or any(counts[name.lower()] != 1 for name in wanted):
        return None
    return found


def _read_scope(algorithm: bytes, credential: bytes) -> tuple[str, str | None] | None:
    """Access key and region of ``KEY/date/region/s3/aws4_request``; v4a has no region there."""
    if algorithm == _ALGORITHM_V4:
        pieces = credential.rsplit(b"/", 4)
        if len(pieces) != 5 or not all(pieces) or pieces[4] != b"aws4_request":
            return None
        return _text(pieces[0]), _text(pieces[2])
    if algorithm == _ALGORITHM_V4A:
        pieces = credential.rsplit(b"/", 3)
        if len(pieces) != 4 or not all(pieces) or pieces[3] != b"aws4_request":
            return None
        return _text(pieces[0]), None
    return None


@lru_cache(maxsize=128)
def _read_signed_headers(value: bytes) -> frozenset[bytes] | None:
    names = value.lower().split(b";")
    if not all(_FIELD_NAME.fullmatch(name) for name in names):
        return None
    return frozenset(names)


def _read_timestamp(value: bytes) -> float | None:
    """Seconds since the epoch of ``YYYYMMDDTHHMMSSZ``; None when it is not one, or lies before 1970."""
    return _remembered_timestamp(value) if len(value) == _TIMESTAMP_LENGTH else None


@lru_cache(maxsize=256)
def _remembered_timestamp(value: bytes) -> float | None:
    match = _TIMESTAMP.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(group) for group in match.groups())
    if year < 1970:
        return None
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def _text(data: bytes) -> str:
    return data.decode("ascii", "backslashreplace")


def _optional_text(data: bytes | None) -> str | None:
    return None if data is None else _text(data)


_REDACTED = b"REDACTED"

# Fields whose values must not appear in any log, metric, page or file; a presigned target has them as parameters.
_REDACTED_HEADERS = frozenset(
    {
        b"authorization",
        b"cookie",
        b"proxy-authorization",
        b"set-cookie",
        b"x-amz-copy-source-server-side-encryption-customer-key",
        b"x-amz-copy-source-server-side-encryption-customer-key-md5",
        b"x-amz-s3session-token",
        b"x-amz-security-token",
        b"x-amz-server-side-encryption-customer-key",
        b"x-amz-server-side-encryption-customer-key-md5",
    }
)

_REDACTED_PARAMS = _REDACTED_HEADERS | {
    b"awsaccesskeyid",
    b"signature",
    b"x-amz-credential",
    b"x-amz-signature",
}

_RAW_SEPARATOR = re.compile(rb"([?&])")
# A target is also searched where it was encoded once too often: then "?" is "%3F", and no longer starts a query.
_ENCODED_SEPARATOR = re.compile(rb"(%(?:25)*(?:3[Ff]|26))")
_VALUE_SEPARATOR = re.compile(rb"=|%(?:25)*3[Dd]")
_USER_INFO = re.compile(rb"(?<=://)[^/?#]*@")
_MOST_DECODINGS = 4


def redact_target(target: bytes) -> bytes:
    """A request target or URL for people to see: credentials and signatures replaced by ``REDACTED``, all else as it
    is.

    Parameter names are compared in lower case and after decoding, also when they are encoded repeatedly.
    """
    if b"@" in target:
        target = _USER_INFO.sub(_REDACTED + b"@", target)
    pieces = _RAW_SEPARATOR.split(target)
    for index, piece in enumerate(pieces):
        redacted = _redact_param(piece)
        if redacted is None:
            inner = _ENCODED_SEPARATOR.split(piece)
            redacted = b"".join(_redact_param(part) or part for part in inner)
        pieces[index] = redacted
    return b"".join(pieces)


def _redact_param(piece: bytes) -> bytes | None:
    """The parameter without its value, or None when its name is harmless."""
    separator = _VALUE_SEPARATOR.search(piece)
    if separator is None:
        return None
    name = piece[: separator.start()]
    for _ in range(_MOST_DECODINGS):
        if b"%" not in name:
            break
        name = percent_decode(name)
    if name.strip().lower() not in _REDACTED_PARAMS:
        return None
    return piece[: separator.end()] + _REDACTED
