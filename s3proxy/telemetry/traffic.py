"""What was asked of which bucket, and of which part of it: numbers for people, in bounded memory.

A *place* is a bucket and the first component of a key (``logs/`` of ``logs/2026/a``; empty for a key without a slash).
Names are clients' choice, so a place appears only when S3 or the cache gave something there, and there are only so
many: what comes later is counted under the bucket's other prefixes, or under other buckets. Sums over all places are
right whatever happens.
"""

from collections.abc import Iterator
from typing import Final

import attrs

from s3proxy.telemetry.record import RequestRecord

__all__ = ["MOST_ADDRESSES", "MOST_BUCKETS", "MOST_PREFIXES", "OTHER", "Answers", "Place", "Totals", "Traffic"]

MOST_BUCKETS: Final = 200
MOST_PREFIXES: Final = 100
"""Prefixes that are told apart in one bucket."""
MOST_ADDRESSES: Final = 1000
"""Addresses of S3 whose answers are counted; beyond that the one that answered first is forgotten."""
OTHER: Final = b"*"
"""Instead of a name: all that are not told apart. No bucket has that name."""

_LONGEST_PREFIX: Final = 256
_READS: Final = frozenset({"GetObject", "HeadObject", "GetObjectPart", "HeadObjectPart"})
_HITS: Final = frozenset({"HIT", "REVALIDATED", "COALESCED", "STALE"})
_MISSES: Final = frozenset({"MISS", "PARTIAL"})


@attrs.define(kw_only=True)
class Totals:
    """Sums over requests that ended.

    :ivar reads: GETs and HEADs of objects that had a use for the cache: those of the hit rate
    :ivar hits: the reads for which S3 sent no body
    :ivar errors: answers of a status from 400 on, or none at all
    :ivar sent: body bytes to clients, of which
    :ivar cached: S3 did not have to send
    :ivar received: body bytes from clients
    """

    requests: int = 0
    reads: int = 0
    hits: int = 0
    errors: int = 0
    sent: int = 0
    cached: int = 0
    received: int = 0

    def add(self, other: "Totals") -> None:
        """Take another sum in."""
        for field in attrs.fields(Totals):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@attrs.define
class Answers:
    """How one address of S3 answers.

    :ivar seconds: to the heads of all answers together
    :ivar errors: answers of a status from 500 on, and bodies that broke off
    :ivar received: bytes of bodies
    :ivar last: Unix time of the request that was answered last
    """

    requests: int = 0
    seconds: float = 0.0
    errors: int = 0
    received: int = 0
    last: float = 0.0


class Place:
    """The numbers of one place.

    Hits that are answered at once add to two numbers only.

    :ivar quick: such hits
    :ivar quick_bytes: of their bodies
    """

    __slots__ = ("bucket", "prefix", "quick", "quick_bytes", "_others")

    def __init__(self, bucket: bytes, prefix: bytes) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.quick = 0
        self.quick_bytes = 0
        self._others = Totals()

    def count(self, record: RequestRecord) -> None:
        """A request ended."""
        totals = self._others
        totals.requests += 1
        status = record.status
        if 200 <= status < 400:
            if record.operation in _READS and (status < 300 or status == 304):
                if record.outcome in _HITS:
                    totals.hits += 1
                    totals.reads += 1
                elif record.outcome in _MISSES:
                    totals.reads += 1
        else:
            totals.errors += 1
        totals.sent += record.bytes_sent
        totals.cached += record.bytes_from_cache
        totals.received += record.body_bytes_received

    @property
    def totals(self) -> Totals:
        """Everything that was counted here."""
        quick = self.quick
        sums = Totals(
            requests=quick, reads=quick, hits=quick, sent=self.quick_bytes, cached=self.quick_bytes
        )  # fmt: skip
        sums.add(self._others)
        return sums


class Traffic:
    """All places. Belongs to the reactor's thread.

    :ivar addresses: how S3 answers, by ``IP:port``
    """

    def __init__(self, most_buckets: int = MOST_BUCKETS, most_prefixes: int = MOST_PREFIXES) -> None:
        self._most_buckets = most_buckets
        self._most_prefixes = most_prefixes
        self._buckets: dict[bytes, dict[bytes, Place]] = {}
        self._elsewhere = Place(OTHER, OTHER)
        self.addresses: dict[str, Answers] = {}

    def count(self, record: RequestRecord) -> None:
        """A request ended."""
        self.place(record).count(record)
        if record.upstream_address:
            self._count_answer(record)

    def _count_answer(self, record: RequestRecord) -> None:
        answers = self.addresses.get(record.upstream_address)
        if answers is None:
            if len(self.addresses) >= MOST_ADDRESSES:
                del self.addresses[next(iter(self.addresses))]
            answers = self.addresses[record.upstream_address] = Answers()
        answers.requests += 1
        answers.seconds += record.upstream_seconds or 0.0
        answers.errors += record.upstream_aborted or record.status >= 500
        answers.received += record.bytes_from_upstream
        answers.last = record.started_at

    def place(self, record: RequestRecord) -> Place:
        """Where this request belongs."""
        bucket, key = record.bucket, record.key
        places = self._buckets.get(bucket)
        gave = 200 <= record.status < 400
        if places is None:
            if not bucket or not gave or len(self._buckets) >= self._most_buckets:
                return self._elsewhere
            places = self._buckets[bucket] = {}
        at = key.find(b"/", 0, _LONGEST_PREFIX)
        prefix = key[: at + 1]
        place = places.get(prefix)
        if place is None:
            if not gave or len(places) >= self._most_prefixes:
                prefix = OTHER
                place = places.get(prefix)
            if place is None:
                place = places[prefix] = Place(bucket, prefix)
        return place

    def __iter__(self) -> Iterator[Place]:
        for places in self._buckets.values():
            yield from places.values()
        yield self._elsewhere

    def buckets(self) -> dict[bytes, Totals]:
        """The sums of each bucket; those that are not told apart are under :data:`OTHER`."""
        found: dict[bytes, Totals] = {}
        for place in self:
            found.setdefault(place.bucket, Totals()).add(place.totals)
        return found

    def prefixes(self, bucket: bytes) -> dict[bytes, Totals]:
        """The sums of each part of a bucket."""
        return {prefix: place.totals for prefix, place in self._buckets.get(bucket, {}).items()}
