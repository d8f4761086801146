"""The one gate in front of everything that is served from the cache: may this entry be used now, without asking S3?

Pure: time is an argument. Every tier and every path asks here.
"""

from enum import Enum

import attrs

from s3proxy.policy.rules import Settings
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.headers import Headers
from s3proxy.s3.validators import parse_http_date

__all__ = ["Gate", "freshness_lifetime", "may_serve", "may_serve_stale"]


class Verdict(Enum):
    """FRESH: serve. ASK: S3 must be asked first, by this caller's own request."""

    FRESH = "fresh"
    ASK = "ask"


@attrs.frozen
class Gate:
    """What the gate says.

    :ivar reason: why S3 must be asked; NONE when it need not be
    :ivar until: unix seconds up to which, that moment included, FRESH stays the answer for the same entry under the
        same settings; whoever keeps it need not ask the gate for every request
    """

    verdict: Verdict
    reason: Reason = Reason.NONE
    until: float = 0.0

    @property
    def fresh(self) -> bool:
        """Whether the entry may be served as it is."""
        return self.verdict is Verdict.FRESH


def freshness_lifetime(
    settings: Settings, headers: Headers, validated_at: float, *, head: bool, unconfirmed: bool
) -> float:
    """Seconds for which an answer is trusted after S3 confirmed it at ``validated_at``.

    The object's own ``Cache-Control: max-age`` (``s-maxage`` first, RFC 9111 4.2.1) and ``Expires`` can only shorten
    it, and only where the settings honour them.
    """
    if head:
        lifetime = settings.head_ttl
    elif unconfirmed:
        lifetime = settings.put_ttl
    else:
        lifetime = settings.get_ttl
    if settings.honor_cache_control:
        own = _own_lifetime(headers, validated_at)
        if own is not None:
            lifetime = min(lifetime, own)
    return lifetime


def may_serve(
    settings: Settings,
    headers: Headers,
    validated_at: float,
    now: float,
    *,
    head: bool = False,
    unconfirmed: bool = False,
    must_ask: bool = False,
) -> Gate:
    """The gate.

    :param validated_at: unix seconds at which the request was sent whose answer confirmed the entry; 0 = must be
        asked again
    :param head: the request is a HEAD: ``head_ttl`` counts
    :param unconfirmed: the entry was written through the proxy and S3 has not described it since
    :param must_ask: this request asks something only S3 can answer
    """
    if must_ask:
        return Gate(Verdict.ASK, Reason.ALWAYS_ASK)
    lifetime = freshness_lifetime(settings, headers, validated_at, head=head, unconfirmed=unconfirmed)
    if lifetime <= 0:
        return Gate(Verdict.ASK, Reason.ALWAYS_ASK)
    if unconfirmed:
        return Gate(Verdict.ASK, Reason.UNCONFIRMED)
    if validated_at <= 0:
        return Gate(Verdict.ASK, Reason.EXPIRED)
    # A time of confirmation in the future (another clock, or ours was set back) is not past its end either.
    until = validated_at + lifetime
    if now > until:
        return Gate(Verdict.ASK, Reason.EXPIRED)
    return Gate(Verdict.FRESH, until=until)


def may_serve_stale(
    settings: Settings, headers: Headers, validated_at: float, now: float, *, head: bool = False
) -> bool:
    """Whether an expired entry may be served because S3 failed to answer (RFC 5861 4); never where S3 is always
    asked.
    """
    if settings.stale_if_error <= 0 or validated_at <= 0:
        return False
    lifetime = freshness_lifetime(settings, headers, validated_at, head=head, unconfirmed=False)
    if lifetime <= 0:
        return False
    return now - validated_at <= lifetime + settings.stale_if_error


def _own_lifetime(headers: Headers, validated_at: float) -> float | None:
    directives: dict[bytes, bytes] = {}
    for value in headers.get_all(b"cache-control"):
        for item in value.split(b","):
            name, _, argument = item.strip().partition(b"=")
            directives.setdefault(name.strip().lower(), argument.strip(b' "'))
    if not directives.keys().isdisjoint((b"no-store", b"no-cache", b"private")):
        return 0.0
    for name in (b"s-maxage", b"max-age"):
        if directives.get(name, b"").isdigit():
            return float(int(directives[name][:10]))
    expires = headers.get(b"expires")
    if expires is None:
        return None
    then = parse_http_date(expires)
    # An invalid date, especially "0", means already expired (RFC 9111 5.3).
    return 0.0 if then is None else max(0.0, then - validated_at)
