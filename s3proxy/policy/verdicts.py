"""The words for what became of a request and why: the same in logs, metrics, headers and documentation."""

from enum import Enum

__all__ = ["Outcome", "Reason"]


class Outcome(Enum):
    """Where an answer came from."""

    HIT = "HIT"
    """Every byte, or the verdict, came from the cache; S3 was not asked."""
    MISS = "MISS"
    """Fetched from S3 and offered to the cache."""
    REVALIDATED = "REVALIDATED"
    """S3 confirmed with a bodiless 304 what the cache holds."""
    PARTIAL = "PARTIAL"
    """Some bytes came from the cache, others from S3."""
    COALESCED = "COALESCED"
    """Bytes of another client's fetch that was under way."""
    BYPASS = "BYPASS"
    """Passed through; the cache had no part in it."""
    STALE = "STALE"
    """S3 did not answer and the operator allows older bytes for that case."""
    ERROR = "ERROR"
    """The proxy answered with an error of its own, or the answer broke off."""


class Reason(Enum):
    """Why S3 had to be asked, or why an answer was not kept."""

    NONE = ""
    COLD = "cold"
    EXPIRED = "expired"
    ALWAYS_ASK = "always-ask"
    INCOMPLETE = "incomplete"
    UNCONFIRMED = "unconfirmed"
    CLIENT_CONDITION = "client-condition"
    NO_CHECKSUMS = "no-checksums"
    CREDENTIALS = "credentials"
    NOT_CACHEABLE = "not-cacheable"
    NO_ADDRESS = "no-address"
    WRITE = "write"
    SSE_C = "sse-c"
    READ_CACHE_OFF = "read-cache-off"
    NO_CACHE = "no-cache"
    NO_STORE = "no-store"
    RANGE_FORM = "range-form"
    PART_NUMBER = "part-number"
    NO_ETAG = "no-etag"
    NO_LENGTH = "no-length"
    BAD_CONTENT_RANGE = "bad-content-range"
    ENCODED_TRANSFER = "unexpected-answer"
    TOO_LARGE = "too-large"
    STORE_UNAVAILABLE = "store-unavailable"
    OVERTAKEN = "overtaken"
    CHANGED = "changed"
    EXPIRED_URL = "expired-url"
    REFUSED = "refused"
    OVERLOAD = "overload"
    UPSTREAM_ERROR = "upstream-error"
    UPSTREAM_TIMEOUT = "upstream-timeout"
