"""Where a request is counted: the instruments of each kind of request, bound once, and the words of their labels."""

from bisect import bisect_left
from typing import Final

import attrs

from s3proxy.telemetry import operations
from s3proxy.telemetry.counts import CacheCounts
from s3proxy.telemetry.families import SIZE_BOUNDS
from s3proxy.telemetry.instruments import Counter, Histogram, Instruments
from s3proxy.telemetry.record import RequestRecord

__all__ = ["HIT_SOURCES", "READ_METHODS", "SOURCES", "Route", "Routes", "Tally", "size_class"]

SOURCES: Final = (
    "ram", "disk", "coalesced", "revalidated", "stale", "partial", "miss", "bypass", "write", "local",
)  # fmt: skip
"""Where answers come from."""

HIT_SOURCES: Final = frozenset({"ram", "disk", "coalesced", "revalidated", "stale"})
"""Those that need no body from S3."""

READ_METHODS: Final = frozenset({b"GET", b"HEAD"})

_MISSES: Final = frozenset({"partial", "miss"})
_UNASKED: Final = frozenset({"ram", "disk", "coalesced"})
_READS: Final = {"GetObject": "get", "HeadObject": "head", "GetObjectPart": "get", "HeadObjectPart": "head"}
_PARTS: Final = frozenset({"GetObjectPart", "HeadObjectPart"})
_MOST_ROUTES: Final = 2048

_LOOKUPS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    # By source: what the tiers for bodies were asked, and what they said.
    "ram": (("ram", "hit"),),
    "disk": (("ram", "miss"), ("disk", "hit")),
    "revalidated": (("ram", "miss"), ("disk", "stale")),
    "stale": (("ram", "miss"), ("disk", "stale")),
    "coalesced": (("ram", "miss"), ("disk", "miss")),
    "partial": (("ram", "miss"), ("disk", "hit")),
    "miss": (("ram", "miss"), ("disk", "miss")),
}


@attrs.frozen(kw_only=True)
class Route:
    """The instruments that one kind of request changes.

    :ivar counts_as: for the hit rates: 0 neither, 1 a miss, 2 a hit
    :ivar in_ram: 1 the body was there, 0 it was not, None: nobody looked
    """

    requests: Counter
    duration: Histogram
    first_byte: Histogram
    sent: Counter
    size: Histogram
    received: Counter
    aborts: tuple[Counter, Counter]
    saved: Counter | None
    lookups: tuple[Counter, ...]
    others: tuple[Counter, ...]
    counts_as: int
    in_ram: int | None
    source: str


class Tally:
    """Hits of one kind that are not in the instruments yet: whoever answers one adds to both numbers.

    Two additions instead of the dozen of :meth:`RequestCounts.finished`, which they amount to.

    :ivar requests: that began and ended since the last take-over
    :ivar bytes: of their bodies, all from the cache
    """

    __slots__ = ("requests", "bytes", "route", "_cache", "_group", "_seconds", "_first_byte", "_size")

    def __init__(self, route: Route, record: RequestRecord, cache: CacheCounts) -> None:
        self.requests = 0
        self.bytes = 0
        self.route = route
        self._cache = cache
        self._group = operations.group_of(record.operation)
        self._seconds = record.total_seconds
        self._first_byte = record.first_byte_seconds or 0.0
        self._size = size_class(record.bytes_sent)

    def take(self) -> tuple[int, int]:
        """Put the requests in the instruments of their kind; returns the numbers, which are 0 afterwards."""
        requests, sent = self.requests, self.bytes
        self.requests = self.bytes = 0
        route = self.route
        route.requests.value += requests
        route.duration.observe(self._seconds, requests)
        route.first_byte.observe(self._first_byte, requests)
        route.sent.value += sent
        route.size.counts[self._size] += requests
        route.size.sum += sent
        if route.saved is not None:
            route.saved.value += requests
        for counter in (*route.lookups, *route.others):
            counter.value += requests
        self._cache.lookups["meta_ram", self._group, "hit"] += requests
        return requests, sent


def size_class(size: int) -> int:
    """The bucket of the histogram of sizes that this size is in."""
    return bisect_left(SIZE_BOUNDS, size)


class Routes:
    """The routes of all kinds of requests that there were, as long as there are not too many kinds."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._known: dict[tuple[str, str, int, bool, bool], Route] = {}
        for operation, group in _READS.items():
            for outcome, disk in (("HIT", False), ("HIT", True), ("MISS", False)):
                self.bind(operation, outcome, 200, disk, b"GET" if group == "get" else b"HEAD")

    def __len__(self) -> int:
        return len(self._known)

    def of(self, record: RequestRecord) -> Route:
        """The route of requests like this one."""
        kind = record.operation, record.outcome, record.status, record.from_disk, record.method in READ_METHODS
        route = self._known.get(kind)
        if route is None:
            route = self.bind(record.operation, record.outcome, record.status, record.from_disk, record.method)
        return route

    def bind(self, operation: str, outcome: str, status: int, disk: bool, method: bytes) -> Route:
        """The instruments for requests like this one, kept for the next one unless there are too many kinds already."""
        reads = method in READ_METHODS
        known = self._known.get((operation, outcome, status, disk, reads))
        if known is not None:
            return known
        label = operations.metric_name(operation)
        group = operations.group_of(operation)
        source = _source(outcome, disk, reads)
        room = len(self._known) < _MOST_ROUTES
        made = self._instruments
        successful = 200 <= status < 300 or status == 304
        counts_as = 0
        if operation in _READS and successful:
            counts_as = 2 if source in HIT_SOURCES else 1 if source in _MISSES else 0
        saved = None
        if counts_as == 2 and source in _UNASKED:
            saved = made.counter("s3proxy_s3_requests_saved_total", _READS[operation])
        lookups: tuple[Counter, ...] = ()
        in_ram = None
        if counts_as and group == "get" and status != 304:
            looked = _LOOKUPS.get(source, ())
            lookups = tuple(made.counter("s3proxy_cache_lookups_total", tier, group, found) for tier, found in looked)
            in_ram = int(source == "ram") if looked else None
        others = []
        if counts_as and source == "partial":
            others.append(made.counter("s3proxy_cache_range_gaps_total"))
        if counts_as and source == "coalesced":
            others.append(made.counter("s3proxy_coalesce_saved_fetches_total"))
        if counts_as and operation in _PARTS:
            others.append(made.counter("s3proxy_cache_parts_total", "hit" if counts_as == 2 else "miss"))
        route = Route(
            requests=made.counter("s3proxy_http_requests_total", label, _code(status, room), source),
            duration=made.histogram("s3proxy_http_request_duration_seconds", group, source),
            first_byte=made.histogram("s3proxy_http_first_byte_seconds", group, source),
            sent=made.counter("s3proxy_http_response_bytes_total", group, source),
            size=made.histogram("s3proxy_http_response_size_bytes", source),
            received=made.counter("s3proxy_http_request_bytes_total", group),
            aborts=(
                made.counter("s3proxy_http_client_aborts_total", "setup", source),
                made.counter("s3proxy_http_client_aborts_total", "transfer", source),
            ),
            saved=saved,
            lookups=lookups,
            others=tuple(others),
            counts_as=counts_as,
            in_ram=in_ram,
            source=source,
        )
        if room:
            self._known[operation, outcome, status, disk, reads] = route
        return route


def _source(outcome: str, disk: bool, reads: bool) -> str:
    """One of :data:`SOURCES`, or other."""
    if outcome == "HIT":
        return "disk" if disk else "ram"
    if outcome == "BYPASS":
        return "bypass" if reads else "write"
    if outcome == "ERROR":
        return "local"
    word = outcome.lower()
    return word if word in SOURCES else "other"


def _code(status: int, room: bool) -> str:
    """The status as a label: none when nobody was told anything, and less exact when there are very many."""
    if not 100 <= status <= 599:
        return "none"
    return str(status) if room else f"{status // 100}xx"
