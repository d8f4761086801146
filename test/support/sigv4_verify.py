"""Verifies request signatures as strictly as S3 does, from the raw target and header fields as received."""

import calendar
import hmac
import re
import time
from collections.abc import Callable, Sequence

import attrs

from test.support.sigv4 import (
    ALGORITHM,
    UNSIGNED,
    Credential,
    Pair,
    canonical_request,
    first,
    query_pairs,
    scope_key,
    signature,
    signature_v2,
    split_target,
    values,
)
from test.support.sigv4a import ALGORITHM_4A, holds

__all__ = ["SignatureError", "Verified", "verify"]

MAX_SKEW = 900
MAX_EXPIRES = 604800

Lookup = Callable[[str], Credential | None]


class SignatureError(Exception):
    """The request is refused, with the status, code and message that S3 would give."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


@attrs.frozen(kw_only=True)
class Verified:
    """What a good signature proves, and what the check of signed chunks needs."""

    access_key: str
    payload: bytes
    """The value of x-amz-content-sha256, or UNSIGNED-PAYLOAD where none is signed."""
    signature: bytes = b""
    date: bytes = b""
    scope: bytes = b""
    key: bytes = attrs.field(default=b"", repr=False)


def verify(
    method: bytes,
    target: bytes,
    headers: Sequence[Pair],
    lookup: Lookup,
    *,
    now: float,
    region: str | None = "us-east-1",
    bucket_in_host: bytes | None = None,
) -> Verified | None:
    """Check the signature of a request as received; None if it carries none at all.

    Accepts header and query signatures of version 4 and 2, and header signatures of version 4A.
    ``region`` None accepts every region.

    :raises SignatureError: with S3's answer, if the request must be refused.
    """
    check = _Check(method, target, headers, lookup, now, region, bucket_in_host)
    authorizations = values(headers, b"authorization")
    in_query = b"X-Amz-Algorithm" in check.query or b"X-Amz-Signature" in check.query
    in_query_v2 = b"AWSAccessKeyId" in check.query or b"Signature" in check.query
    if len(values(headers, b"host")) != 1:
        raise SignatureError(400, "InvalidRequest", "Exactly one Host header is required")
    if len(authorizations) + in_query + in_query_v2 > 1:
        raise SignatureError(400, "InvalidArgument", "Only one auth mechanism allowed")
    if in_query:
        return check.query_v4()
    if in_query_v2:
        return check.query_v2()
    if not authorizations:
        return None
    if authorizations[0].startswith(b"AWS "):
        return check.header_v2(authorizations[0])
    if authorizations[0].startswith(ALGORITHM_4A):
        return check.header_v4a(authorizations[0])
    return check.header_v4(authorizations[0])


def _mismatch() -> SignatureError:
    return SignatureError(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your key.",
    )


def _parse_date(text: bytes) -> float:
    if not re.fullmatch(rb"\d{8}T\d{6}Z", text):
        raise ValueError(text)
    return calendar.timegm(time.strptime(text.decode(), "%Y%m%dT%H%M%SZ"))


class _Check:
    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[Pair],
        lookup: Lookup,
        now: float,
        region: str | None,
        bucket: bytes | None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.lookup = lookup
        self.now = now
        self.region = region
        self.bucket = bucket
        self.parameters = query_pairs(split_target(target)[1])
        self.query = dict(self.parameters)

    def header_v4(self, authorization: bytes) -> Verified:
        match = re.fullmatch(
            rb"AWS4-HMAC-SHA256 +Credential=([^/, ]+)/([^, ]+) *, *SignedHeaders=([^, ]+) *, *Signature=([0-9a-f]{64})",
            authorization,
        )
        malformed = "AuthorizationHeaderMalformed"
        if match is None:
            raise SignatureError(400, malformed, "The authorization header that you provided is not valid.")
        access_key, scope, names, given = match.groups()
        credential = self._find(access_key, first(self.headers, b"x-amz-security-token"))
        date = first(self.headers, b"x-amz-date") or b""
        try:
            when = _parse_date(date)
        except ValueError:
            raise self._no_date() from None
        self._check_skew(when)
        self._check_scope(scope, date, malformed)
        payload = first(self.headers, b"x-amz-content-sha256")
        if payload is None:
            message = "Missing required header for this request: x-amz-content-sha256"
            raise SignatureError(400, "InvalidRequest", message)
        return self._compare_v4(credential, date, scope, names.split(b";"), payload, given)

    def header_v4a(self, authorization: bytes) -> Verified:
        match = re.fullmatch(
            ALGORITHM_4A + rb" +Credential=([^/, ]+)/([^, ]+) *, *SignedHeaders=([^, ]+) *, *Signature=([0-9a-f]+)",
            authorization,
        )
        malformed = "AuthorizationHeaderMalformed"
        date = first(self.headers, b"x-amz-date") or b""
        if match is None or match[2] != b"/".join([date[:8], b"s3", b"aws4_request"]):
            raise SignatureError(400, malformed, "The authorization header that you provided is not valid.")
        access_key, scope, names, given = match.groups()
        credential = self._find(access_key, first(self.headers, b"x-amz-security-token"))
        try:
            self._check_skew(_parse_date(date))
        except ValueError:
            raise self._no_date() from None
        signed = names.split(b";")
        if not {b"host", b"x-amz-region-set"} <= set(signed):
            raise SignatureError(403, "AccessDenied", "Host and x-amz-region-set must be signed")
        payload = first(self.headers, b"x-amz-content-sha256") or UNSIGNED
        try:
            canonical = canonical_request(self.method, self.target, self.headers, signed, payload)
        except KeyError:
            raise _mismatch() from None
        if not holds(credential, date, scope, canonical, given):
            raise _mismatch()
        return Verified(access_key=credential.access_key, payload=payload)

    def query_v4(self) -> Verified:
        malformed = "AuthorizationQueryParametersError"
        needed = (b"Algorithm", b"Credential", b"Date", b"Expires", b"SignedHeaders", b"Signature")
        counts = [sum(given == b"X-Amz-" + name for given, _ in self.parameters) for name in needed]
        if counts != [1] * len(needed) or self.query[b"X-Amz-Algorithm"] != ALGORITHM:
            raise SignatureError(400, malformed, "Version 4 needs each of the X-Amz-* parameters, once.")
        access_key, _, scope = self.query[b"X-Amz-Credential"].partition(b"/")
        date = self.query[b"X-Amz-Date"]
        try:
            when = _parse_date(date)
            expires = int(self.query[b"X-Amz-Expires"])
        except ValueError:
            raise SignatureError(400, malformed, "X-Amz-Date or X-Amz-Expires is malformed") from None
        if not 0 < expires <= MAX_EXPIRES:
            raise SignatureError(400, malformed, "X-Amz-Expires must be between 1 and 604800 seconds")
        credential = self._find(access_key, self.query.get(b"X-Amz-Security-Token"))
        if self.now > when + expires:
            raise SignatureError(403, "AccessDenied", "Request has expired")
        if self.now < when - MAX_SKEW:
            raise SignatureError(403, "AccessDenied", "Request is not valid yet")
        self._check_scope(scope, date, malformed)
        in_header = first(self.headers, b"x-amz-content-sha256")
        payload = self.query.get(b"X-Amz-Content-Sha256") or in_header or UNSIGNED
        names = self.query[b"X-Amz-SignedHeaders"].split(b";")
        return self._compare_v4(credential, date, scope, names, payload, self.query[b"X-Amz-Signature"])

    def header_v2(self, authorization: bytes) -> Verified:
        access_key, _, given = authorization[4:].partition(b":")
        credential = self._find(access_key, first(self.headers, b"x-amz-security-token"))
        in_amz = first(self.headers, b"x-amz-date")
        date = in_amz or first(self.headers, b"date") or b""
        try:
            when = calendar.timegm(time.strptime(date.decode(), "%a, %d %b %Y %H:%M:%S %Z"))
        except ValueError:
            raise self._no_date() from None
        self._check_skew(when)
        payload = first(self.headers, b"x-amz-content-sha256") or UNSIGNED
        return self._compare_v2(credential, b"" if in_amz else date, given, payload)

    def query_v2(self) -> Verified:
        try:
            access_key, given, until = (self.query[name] for name in (b"AWSAccessKeyId", b"Signature", b"Expires"))
            expires = int(until)
        except (KeyError, ValueError):
            raise SignatureError(403, "AccessDenied", "Query-string authentication is incomplete") from None
        credential = self._find(access_key, first(self.headers, b"x-amz-security-token"))
        if self.now > expires:
            raise SignatureError(403, "AccessDenied", "Request has expired")
        return self._compare_v2(credential, until, given, UNSIGNED)

    def _find(self, access_key: bytes, token: bytes | None) -> Credential:
        credential = self.lookup(access_key.decode("latin-1"))
        if credential is None:
            message = "The AWS Access Key Id you provided does not exist in our records."
            raise SignatureError(403, "InvalidAccessKeyId", message)
        if (credential.session_token or "").encode() != (token or b""):
            raise SignatureError(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
        return credential

    def _no_date(self) -> SignatureError:
        return SignatureError(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")

    def _check_skew(self, when: float) -> None:
        if abs(when - self.now) > MAX_SKEW:
            message = "The difference between the request time and the current time is too large."
            raise SignatureError(403, "RequestTimeTooSkewed", message)

    def _check_scope(self, scope: bytes, date: bytes, code: str) -> None:
        parts = scope.split(b"/")
        if len(parts) != 4 or parts[2:] != [b"s3", b"aws4_request"] or parts[0] != date[:8]:
            raise SignatureError(400, code, "The credential scope is malformed.")
        if self.region is not None and parts[1] != self.region.encode():
            given = parts[1].decode("latin-1")
            raise SignatureError(400, code, f"the region '{given}' is wrong; expecting '{self.region}'")

    def _compare_v4(
        self, credential: Credential, date: bytes, scope: bytes, names: Sequence[bytes], payload: bytes, given: bytes
    ) -> Verified:
        amz = {name.lower() for name, _ in self.headers if name.lower().startswith(b"x-amz-")}
        unsigned = b", ".join(sorted(amz.difference(names))).decode("latin-1")
        if unsigned:
            message = f"There were headers present in the request which were not signed: {unsigned}"
            raise SignatureError(403, "AccessDenied", message)
        key = scope_key(credential.secret_key, scope)
        try:
            canonical = canonical_request(self.method, self.target, self.headers, names, payload)
        except KeyError:
            raise _mismatch() from None
        if b"host" not in names or not hmac.compare_digest(signature(key, date, scope, canonical), given):
            raise _mismatch()
        return Verified(
            access_key=credential.access_key, payload=payload, signature=given, date=date, scope=scope, key=key
        )

    def _compare_v2(self, credential: Credential, date: bytes, given: bytes, payload: bytes) -> Verified:
        expected = signature_v2(
            credential.secret_key, self.method, self.target, self.headers, date, self.bucket
        )
        if not hmac.compare_digest(expected, given):
            raise _mismatch()
        return Verified(access_key=credential.access_key, payload=payload)
