"""AWS Signature Version 4 (and 2): signing requests as clients do. ``sigv4_verify`` is the other end.

The canonical request is made from the raw target and the raw header fields; nothing is normalised that a client has to
spell in canonical form itself. Sources: "Authenticating Requests (AWS Signature Version 4)" and "Signing and
authenticating REST requests (AWS signature version 2)" of the Amazon S3 documentation.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Iterable, Sequence
from urllib.parse import quote_from_bytes, unquote_to_bytes

import attrs

__all__ = [
    "ALGORITHM",
    "Credential",
    "EMPTY_SHA256",
    "Pair",
    "UNSIGNED",
    "amz_date",
    "canonical_request",
    "chunk_signature",
    "first",
    "presign",
    "presign_v2",
    "query_pairs",
    "scope_key",
    "sign_request",
    "sign_request_v2",
    "signature",
    "signature_v2",
    "split_target",
    "trailer_signature",
    "values",
]

Pair = tuple[bytes, bytes]

ALGORITHM = b"AWS4-HMAC-SHA256"
UNSIGNED = b"UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest().encode()
V2_SUBRESOURCES = frozenset(
    b"accelerate acl analytics cors defaultObjectAcl delete inventory lifecycle location logging metrics notification "
    b"object-lock partNumber policy publicAccessBlock replication requestPayment restore retention select tagging "
    b"torrent uploadId uploads versionId versioning versions website response-cache-control "
    b"response-content-disposition response-content-encoding response-content-language response-content-type "
    b"response-expires".split()
)


@attrs.frozen
class Credential:
    """One access key with its secret, and a session token for temporary ones."""

    access_key: str
    secret_key: str = attrs.field(repr=False)
    session_token: str | None = attrs.field(default=None, repr=False)


def amz_date(when: float) -> bytes:
    """``when`` (seconds since 1970) in the form of x-amz-date."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(when)).encode()


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def scope_key(secret: str, scope: bytes) -> bytes:
    """The signing key of ``date/region/service/aws4_request``."""
    key = b"AWS4" + secret.encode()
    for part in scope.split(b"/"):
        key = _mac(key, part)
    return key


def query_pairs(query: bytes) -> list[Pair]:
    """Decoded parameters in order; a name without ``=`` has an empty value."""
    pairs = []
    for item in query.split(b"&") if query else ():
        name, _, value = item.partition(b"=")
        pairs.append((unquote(name), unquote(value)))
    return pairs


def unquote(text: bytes) -> bytes:
    """Percent-decoded, with ``+`` as a space."""
    return unquote_to_bytes(text.replace(b"+", b" "))


def quote(text: bytes) -> bytes:
    """Percent-encoded as canonical queries want it."""
    return quote_from_bytes(text, safe="-_.~").encode()


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Path and query, as spelled."""
    path, _, query = target.partition(b"?")
    return path, query


def values(headers: Sequence[Pair], name: bytes) -> list[bytes]:
    """All values of the field with this lower-case name."""
    return [value for given, value in headers if given.lower() == name]


def first(headers: Sequence[Pair], name: bytes) -> bytes | None:
    """The first value of the field with this lower-case name, or None."""
    return next(iter(values(headers, name)), None)


def canonical_request(
    method: bytes, target: bytes, headers: Sequence[Pair], signed: Sequence[bytes], payload: bytes
) -> bytes:
    """The text whose digest is signed.

    :raises KeyError: if a header that is listed as signed is absent.
    """
    path, query = split_target(target)
    parameters = sorted(
        (quote(name), quote(value)) for name, value in query_pairs(query) if name != b"X-Amz-Signature"
    )
    lines = [method, path, b"&".join(b"%b=%b" % pair for pair in parameters)]
    for name in signed:
        given = values(headers, name)
        if not given:
            raise KeyError(name)
        lines.append(name + b":" + b",".join(b" ".join(value.split()) for value in given))
    return b"\n".join([*lines, b"", b";".join(signed), payload])


def signature(key: bytes, date: bytes, scope: bytes, canonical: bytes) -> bytes:
    """The version 4 signature of a canonical request."""
    digest = hashlib.sha256(canonical).hexdigest().encode()
    return hmac.new(key, b"\n".join([ALGORITHM, date, scope, digest]), hashlib.sha256).hexdigest().encode()


def chunk_signature(key: bytes, date: bytes, scope: bytes, previous: bytes, data: bytes) -> bytes:
    """The signature of one chunk of STREAMING-AWS4-HMAC-SHA256-PAYLOAD."""
    digest = hashlib.sha256(data).hexdigest().encode()
    text = b"\n".join([b"AWS4-HMAC-SHA256-PAYLOAD", date, scope, previous, EMPTY_SHA256, digest])
    return hmac.new(key, text, hashlib.sha256).hexdigest().encode()


def trailer_signature(key: bytes, date: bytes, scope: bytes, previous: bytes, trailer: bytes) -> bytes:
    """The signature over the canonical trailing headers of STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER."""
    digest = hashlib.sha256(trailer).hexdigest().encode()
    text = b"\n".join([b"AWS4-HMAC-SHA256-TRAILER", date, scope, previous, digest])
    return hmac.new(key, text, hashlib.sha256).hexdigest().encode()


def sign_request(
    method: bytes,
    target: bytes,
    headers: Iterable[Pair],
    credential: Credential,
    *,
    when: float,
    region: str = "us-east-1",
    payload: bytes = EMPTY_SHA256,
    signed: Iterable[bytes] | None = None,
) -> list[Pair]:
    """The given header fields, plus x-amz-date, x-amz-content-sha256 and Authorization.

    ``headers`` must contain Host. Signed are Host, Range, Content-MD5, Content-Type, If-Match, If-None-Match and every
    ``x-amz-*`` present, or exactly the lower-case names in ``signed``.
    """
    date = amz_date(when)
    fields = [*headers, (b"x-amz-date", date)]
    if first(fields, b"x-amz-content-sha256") is None:
        fields.append((b"x-amz-content-sha256", payload))
    if credential.session_token is not None:
        fields.append((b"x-amz-security-token", credential.session_token.encode()))
    present = {name.lower() for name, _ in fields}
    if signed is None:
        usual = {b"host", b"range", b"content-md5", b"content-type", b"if-match", b"if-none-match"}
        signed = {name for name in present if name in usual or name.startswith(b"x-amz-")}
    names = sorted(signed)
    scope = b"/".join([date[:8], region.encode(), b"s3", b"aws4_request"])
    hashed = first(fields, b"x-amz-content-sha256") or payload
    canonical = canonical_request(method, target, fields, names, hashed)
    proof = signature(scope_key(credential.secret_key, scope), date, scope, canonical)
    value = b"%b Credential=%b/%b, SignedHeaders=%b, Signature=%b" % (
        ALGORITHM, credential.access_key.encode(), scope, b";".join(names), proof
    )
    return [*fields, (b"Authorization", value)]


def presign(
    method: bytes,
    target: bytes,
    host: bytes,
    credential: Credential,
    *,
    when: float,
    expires: int = 900,
    region: str = "us-east-1",
    headers: Sequence[Pair] = (),
) -> bytes:
    """The target with the parameters of a presigned URL; ``headers`` are signed, so the caller has to send them too."""
    date = amz_date(when)
    scope = b"/".join([date[:8], region.encode(), b"s3", b"aws4_request"])
    fields = [(b"host", host), *((name.lower(), value) for name, value in headers)]
    names = sorted(name for name, _ in fields)
    added = [
        (b"X-Amz-Algorithm", ALGORITHM),
        (b"X-Amz-Credential", credential.access_key.encode() + b"/" + scope),
        (b"X-Amz-Date", date),
        (b"X-Amz-Expires", str(expires).encode()),
        (b"X-Amz-SignedHeaders", b";".join(names)),
    ]
    if credential.session_token is not None:
        added.append((b"X-Amz-Security-Token", credential.session_token.encode()))
    target += b"&" if b"?" in target else b"?"
    target += b"&".join(b"%b=%b" % (name, quote(value)) for name, value in added)
    canonical = canonical_request(method, target, fields, names, UNSIGNED)
    proof = signature(scope_key(credential.secret_key, scope), date, scope, canonical)
    return target + b"&X-Amz-Signature=" + proof


def signature_v2(
    secret: str, method: bytes, target: bytes, headers: Sequence[Pair], date: bytes, bucket_in_host: bytes | None
) -> bytes:
    """The version 2 signature; ``date`` is the Expires of a presigned URL."""
    path, query = split_target(target)
    named = sorted({name.lower() for name, _ in headers if name.lower().startswith(b"x-amz-")})
    lines = [method, first(headers, b"content-md5") or b"", first(headers, b"content-type") or b"", date]
    lines += [name + b":" + b",".join(value.strip() for value in values(headers, name)) for name in named]
    resource = (b"/" + bucket_in_host if bucket_in_host else b"") + path
    listed = []
    for item in query.split(b"&") if query else ():
        name, equals, value = item.partition(b"=")
        if name in V2_SUBRESOURCES:
            listed.append(name + (b"=" + unquote(value) if equals and value else b""))
    if listed:
        resource += b"?" + b"&".join(sorted(listed))
    text = b"\n".join([*lines, resource])
    return base64.b64encode(hmac.new(secret.encode(), text, hashlib.sha1).digest())


def sign_request_v2(
    method: bytes,
    target: bytes,
    headers: Iterable[Pair],
    credential: Credential,
    *,
    when: float,
    bucket_in_host: bytes | None = None,
) -> list[Pair]:
    """The given header fields plus Date and a version 2 Authorization."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(when)).encode()
    fields = [*headers, (b"Date", date)]
    proof = signature_v2(credential.secret_key, method, target, fields, date, bucket_in_host)
    return [*fields, (b"Authorization", b"AWS %b:%b" % (credential.access_key.encode(), proof))]


def presign_v2(
    method: bytes,
    target: bytes,
    credential: Credential,
    *,
    when: float,
    expires: int = 900,
    bucket_in_host: bytes | None = None,
) -> bytes:
    """The target with the parameters of a version 2 presigned URL."""
    until = str(int(when) + expires).encode()
    proof = signature_v2(credential.secret_key, method, target, (), until, bucket_in_host)
    return b"%b%bAWSAccessKeyId=%b&Signature=%b&Expires=%b" % (
        target, b"&" if b"?" in target else b"?", credential.access_key.encode(), quote(proof), until
    )
