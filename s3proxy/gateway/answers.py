"""The heads of answers: those made from an entry, and S3's own with our marks."""

import itertools
import os
from email.utils import formatdate
from functools import lru_cache

from s3proxy.cache.entry import ObjectVersion
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.headers import CHECKSUM_FIELDS, Headers, relayable_response
from s3proxy.s3.ranges import format_content_range
from s3proxy.util.intervals import Interval

__all__ = ["entry_headers", "http_date", "marks", "new_request_id", "relayed_headers"]

HeaderList = list[tuple[bytes, bytes]]

_FORWARDED = {
    Reason.COLD: b"uri-miss",
    Reason.EXPIRED: b"stale",
    Reason.ALWAYS_ASK: b"request",
    Reason.UNCONFIRMED: b"stale",
    Reason.INCOMPLETE: b"partial",
    Reason.CLIENT_CONDITION: b"request",
    Reason.NO_CACHE: b"request",
}


# The numbers from a random one on, times an odd constant: none comes twice in 2**64, neighbours look unlike, and no
# request pays for a system call (os.urandom cost a hit 1.5 µs of 38).
_serials = itertools.count(int.from_bytes(os.urandom(8), "big"))
_ODD = 0x9E3779B97F4A7C15


@lru_cache(maxsize=4)
def http_date(second: int) -> bytes:
    """The HTTP date of a second since 1970: one for all answers that are made in it."""
    return formatdate(second, usegmt=True).encode("ascii")


def new_request_id() -> str:
    """16 upper-case hexadecimal digits, as S3's are. Identifies, proves nothing."""
    return "%016X" % (next(_serials) * _ODD & 0xFFFFFFFFFFFFFFFF)


def marks(outcome: Outcome, reason: Reason = Reason.NONE) -> HeaderList:
    """``X-Cache`` and ``Cache-Status`` (RFC 9211) for an answer."""
    if outcome is Outcome.HIT:
        status = b"s3proxy; hit"
    elif outcome is Outcome.STALE:
        status = b"s3proxy; fwd=stale; detail=stale-if-error"
    elif outcome is Outcome.REVALIDATED:
        status = b"s3proxy; fwd=stale; fwd-status=304"
    elif outcome is Outcome.COALESCED:
        status = b"s3proxy; fwd=uri-miss; collapsed"
    elif outcome is Outcome.BYPASS:
        status = b"s3proxy; fwd=bypass"
    else:
        status = b"s3proxy; fwd=" + _FORWARDED.get(reason, b"miss")
    if reason is not Reason.NONE and outcome in (Outcome.MISS, Outcome.PARTIAL, Outcome.BYPASS):
        status += b"; detail=" + reason.value.encode("ascii")
    return [(b"X-Cache", outcome.value.encode("ascii")), (b"Cache-Status", status)]


def relayed_headers(headers: Headers, outcome: Outcome, reason: Reason) -> HeaderList:
    """S3's headers as they came, with our marks."""
    return list(relayable_response(headers)) + marks(outcome, reason)


def entry_headers(
    version: ObjectVersion,
    *,
    request_id: str,
    outcome: Outcome,
    reason: Reason,
    now: float,
    validated_at: float,
    partial: Interval | None,
    with_checksums: bool,
) -> HeaderList:
    """The headers of an answer that is made from an entry: S3's, and what belongs to this answer alone.

    :param partial: the interval of a 206; None for a whole object
    :param with_checksums: the client asked for them; they are only ever sent with a whole object
    """
    headers: HeaderList = [
        (b"x-amz-request-id", request_id.encode("ascii")),
        (b"Date", http_date(int(now))),
    ]
    hide = partial is not None or not with_checksums
    for name, value in version.headers:
        if not (hide and name.lower() in CHECKSUM_FIELDS):
            headers.append((name, value))
    headers.append((b"Accept-Ranges", b"bytes"))
    if partial is not None:
        headers.append((b"Content-Range", format_content_range(partial[0], partial[1], version.size)))
    if validated_at > 0:
        headers.append((b"Age", b"%d" % max(0, int(now - validated_at))))
    return headers + marks(outcome, reason)
