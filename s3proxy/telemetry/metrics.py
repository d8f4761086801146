"""What the proxy counts.

Requests are counted once, when they end, by :meth:`Metrics.request_finished`, or, where many end alike, by a
:class:`Tally`. Everything else has a small method here, or is kept by its owner and read when somebody wants to know
(:meth:`Metrics.observe_source`). All methods belong to the reactor's thread. What comes out is a snapshot
(:mod:`s3proxy.telemetry.snapshot`).
"""

import importlib.metadata
import json
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

import twisted
from s3proxy.telemetry import exposition, operations
from s3proxy.telemetry.counts import DROPS, CacheCounts
from s3proxy.telemetry.families import FAMILIES, SIZE_BOUNDS
from s3proxy.telemetry.instruments import Counter, Family, Histogram, Instruments, Reading, Spread
from s3proxy.telemetry.rates import RecentCounts, WindowedRatio
from s3proxy.telemetry.record import RequestRecord
from s3proxy.telemetry.snapshot import Snapshot

__all__ = ["HIT_SOURCES", "Metrics", "Pricing", "Reading", "SOURCES", "Spread", "Tally"]

SOURCES: Final = (
    "ram", "disk", "coalesced", "revalidated", "stale", "partial", "miss", "bypass", "write", "local",
)  # fmt: skip
"""Where answers come from."""

HIT_SOURCES: Final = frozenset({"ram", "disk", "coalesced", "revalidated", "stale"})
"""Those that need no body from S3."""

_MISSES: Final = frozenset({"partial", "miss"})
_UNASKED: Final = frozenset({"ram", "disk", "coalesced"})
_READS: Final = {"GetObject": "get", "HeadObject": "head", "GetObjectPart": "get", "HeadObjectPart": "head"}
_PARTS: Final = frozenset({"GetObjectPart", "HeadObjectPart"})
_READ_METHODS: Final = frozenset({b"GET", b"HEAD"})
_MOST_REASONS: Final = 64
_MOST_ROUTES: Final = 2048
_MINUTE: Final = 60.0

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

_BYPASSES: Final = {
    "sse-c": "sse_c", "no-cache": "no_cache", "no-store": "no_store", "read-cache-off": "rule",
    "part-number": "part_scoped", "client-condition": "conditional", "credentials": "credentials",
    "range-form": "range_form",
}  # fmt: skip
_DENIALS: Final = {"refused": "destination", "expired-url": "expired_url"}

# The words that the small methods take. Whatever else they are given is counted as "other".
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "s3proxy_cache_errors_total": (
        "disk_full", "read_only", "stale_handle", "read", "write", "cleanup", "checksum",
    ),
    "s3proxy_upstream_errors_total": (
        "dns", "connect", "tls", "first_byte_timeout", "idle_timeout", "reset", "protocol", "refused", "busy",
    ),
    "s3proxy_requests_denied_total": tuple(_DENIALS.values()),
    "s3proxy_cache_bypass_total": ("listing", "versioned", "write_variant", *_BYPASSES.values()),
    "s3proxy_otlp_exports_total": ("success", "partial", "failure"),
}  # fmt: skip

_PURGE_SCOPES: Final = ("object", "prefix", "bucket")

# How what the library says of the process and of Python becomes one value for several processes.
_LIBRARY_MERGES: Final = {"process_start_time_seconds": "min", "python_info": "max"}


class _Words(dict[str, Counter]):
    """One counter per word of a closed set; every other word leads to that of "other"."""

    def __missing__(self, word: str) -> Counter:
        return self["other"]


@attrs.frozen(kw_only=True)
class Pricing:
    """Dollars that S3 and the network take, for an estimate of what is saved.

    :ivar get_per_1000: of a thousand GETs or HEADs; the default is the list price of many regions
    :ivar transfer_per_gb: of 10^9 bytes from S3; nothing within a region
    """

    get_per_1000: float = 0.0004
    transfer_per_gb: float = 0.0


@attrs.frozen(kw_only=True)
class _Route:
    """The instruments that one kind of request changes."""

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
    counts_as: int  # 0 neither, 1 miss, 2 hit
    in_ram: int | None  # 1 the body was there, 0 it was not, None: nobody looked
    source: str


class Tally:
    """Hits of one kind that are not in the instruments yet: whoever answers one adds to both numbers.

    Two additions instead of the dozen of :meth:`Metrics.request_finished`, which they amount to.

    :ivar requests: that began and ended since the last take-over
    :ivar bytes: of their bodies, all from the cache
    """

    __slots__ = ("requests", "bytes", "route", "_cache", "_group", "_seconds", "_first_byte", "_size")

    def __init__(self, route: _Route, record: RequestRecord, cache: CacheCounts) -> None:
        self.requests = 0
        self.bytes = 0
        self.route = route
        self._cache = cache
        self._group = operations.group_of(record.operation)
        self._seconds = record.total_seconds
        self._first_byte = record.first_byte_seconds or 0.0
        self._size = _size_class(record.bytes_sent)

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


def _size_class(size: int) -> int:
    return bisect_left(SIZE_BOUNDS, size)


class Metrics:
    """Every metric of one instance.

    :param registry: becomes the home of metrics about process, Python and garbage collection
    :param seconds: a clock that never goes back, for rates over the last minutes
    :param pricing: for the estimate of what is saved
    :ivar cache: what the cache counts
    """

    def __init__(
        self, registry: CollectorRegistry, seconds: Callable[[], float] = time.monotonic, pricing: Pricing = Pricing()
    ) -> None:
        self.registry = registry
        self._seconds = seconds
        self._pricing = pricing
        self.instruments = Instruments(FAMILIES)
        made = self.instruments
        now = seconds()
        self._hit_rate = WindowedRatio(now)
        self._byte_hit_rate = WindowedRatio(now)
        self._ram_rate = WindowedRatio(now)
        self._first_bytes = RecentCounts(now, lambda: self._by_source("s3proxy_http_first_byte_seconds"))
        self._durations = RecentCounts(now, lambda: self._by_source("s3proxy_http_request_duration_seconds"))
        self._ended = RecentCounts(now, self._count_requests, _MINUTE)
        self._next_roll = self._hit_rate.next_roll
        self._routes: dict[tuple[str, str, int, bool, bool], _Route] = {}
        self._reasons: dict[tuple[str, str], Counter] = {}
        self._tallies: dict[tuple[str, int, int], Tally] = {}
        self.cache = CacheCounts()
        self._started = self._finished = 0
        self.most_in_flight = 0
        self._saved_bytes = made.counter("s3proxy_s3_saved_bytes_total")
        self._from_upstream = made.counter("s3proxy_upstream_bytes_total", "received")
        self._to_upstream = made.counter("s3proxy_upstream_bytes_total", "sent")
        self._shed = made.counter("s3proxy_requests_shed_total", "concurrency")
        self._hold = made.histogram("s3proxy_request_permit_hold_seconds")
        self._lag = made.histogram("s3proxy_reactor_lag_seconds")
        self._words = {
            name: _Words({word: made.counter(name, word) for word in (*words, "other")})
            for name, words in _WORDS.items()
        }
        for scope in _PURGE_SCOPES:
            for result in ("done", "failed"):
                made.counter("s3proxy_cache_purges_total", scope, result)
        for name in ("s3proxy_cache_range_gaps_total", "s3proxy_coalesce_saved_fetches_total"):
            made.counter(name)
        for operation, group in _READS.items():
            for outcome, disk in (("HIT", False), ("HIT", True), ("MISS", False)):
                self._bind(operation, outcome, 200, disk, b"GET" if group == "get" else b"HEAD")
        made.add_source(self._own_readings, "requests")
        made.add_source(self.cache.readings, "cache")
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

    # Requests of clients

    def request_started(self) -> None:
        """A request is being served; :meth:`request_finished` follows exactly once."""
        self._started += 1
        if self._started - self._finished > self.most_in_flight:
            self.most_in_flight = self._started - self._finished

    @property
    def in_flight(self) -> int:
        """Requests that have started and not finished."""
        return self._started - self._finished

    def request_finished(self, record: RequestRecord) -> None:
        """Count one request that ended, whatever became of it."""
        kind = record.operation, record.outcome, record.status, record.from_disk, record.method in _READ_METHODS
        route = self._routes.get(kind)
        if route is None:
            route = self._bind(record.operation, record.outcome, record.status, record.from_disk, record.method)
        if route.counts_as and self._seconds() >= self._next_roll:
            self.take_tallies()
        self._finished += 1
        route.requests.value += 1
        route.duration.observe(record.total_seconds)
        if record.first_byte_seconds is not None:
            route.first_byte.observe(record.first_byte_seconds)
        sent = record.bytes_sent
        cached = record.bytes_from_cache
        route.sent.value += sent
        route.size.observe(sent)
        self._saved_bytes.value += cached
        self._from_upstream.value += record.bytes_from_upstream
        if record.body_bytes_received:
            route.received.value += record.body_bytes_received
            if record.upstream_address:
                self._to_upstream.value += record.body_bytes_received
        if record.aborted:
            route.aborts[record.first_byte_seconds is not None].value += 1
        for counter in route.lookups:
            counter.value += 1
        for counter in route.others:
            counter.value += 1
        reason = record.reason
        if reason:
            self._reason(route.source, reason).value += 1
        if reason == "overload":
            self._shed.value += 1
        else:
            self._hold.observe(record.total_seconds)
        if route.source == "bypass":
            self._words["s3proxy_cache_bypass_total"][self._why_bypassed(record)].value += 1
        elif route.source == "local" and reason in _DENIALS:
            self._words["s3proxy_requests_denied_total"][_DENIALS[reason]].value += 1
        if route.counts_as:
            self._hit_rate.whole += 1
            if route.counts_as == 2:
                self._hit_rate.part += 1
                if route.saved is not None:
                    route.saved.value += 1
            self._byte_hit_rate.whole += sent
            self._byte_hit_rate.part += cached
        if route.in_ram is not None:
            self._ram_rate.whole += 1
            self._ram_rate.part += route.in_ram

    def tally(self, record: RequestRecord) -> Tally:
        """What counts requests like this one, a hit that took no time to speak of; their number of bytes may differ a
        little.

        Neither :meth:`request_started` nor :meth:`request_finished` is called for them.
        """
        kind = record.operation, record.status, _size_class(record.bytes_sent)
        tally = self._tallies.get(kind)
        if tally is None:
            route = self._bind(record.operation, record.outcome, record.status, False, record.method)
            tally = self._tallies[kind] = Tally(route, record, self.cache)
        return tally

    def take_tallies(self) -> None:
        """Take over what the tallies hold. Whoever adds to them calls this once a second meanwhile, so that the rates
        over the last minutes are exact to that second.
        """
        for tally in self._tallies.values():
            if tally.requests:
                requests, sent = tally.take()
                self._saved_bytes.value += sent
                self._hit_rate.whole += requests
                self._hit_rate.part += requests
                self._byte_hit_rate.whole += sent
                self._byte_hit_rate.part += sent
                if tally.route.in_ram is not None:
                    self._ram_rate.whole += requests
                    self._ram_rate.part += requests * tally.route.in_ram
        if self._seconds() >= self._next_roll:
            self._roll()

    # Cache

    def cache_invalidated(self, reason: str) -> None:
        """An entry was made invalid: etag_mismatch (S3 has another version), put, delete, gone (404), rule_disabled,
        purge or corrupt.
        """
        self.cache.drops[reason if reason in DROPS else "other"] += 1

    def cache_error(self, kind: str) -> None:
        """A body was not what S3 says it is (checksum), or the storage failed (disk_full, read_only, stale_handle,
        read, write, cleanup). What is stored and damaged, the store counts.
        """
        self._words["s3proxy_cache_errors_total"][kind].inc()

    def cache_purged(self, scope: str, result: str = "done") -> None:
        """An operator ordered to remove an object, what is below a prefix, or a bucket: done or failed."""
        self.instruments.counter("s3proxy_cache_purges_total", scope, result).inc()

    # Upstream

    def upstream_failed(self, kind: str) -> None:
        """S3 did not answer, or not to the end: dns, connect, tls, first_byte_timeout, idle_timeout, reset, protocol,
        refused or busy.
        """
        self._words["s3proxy_upstream_errors_total"][kind].inc()

    # The process

    def observe_lag(self, seconds: float) -> None:
        """A timer of the event loop was late by this much."""
        self._lag.observe(seconds)

    def exported(self, result: str) -> None:
        """An export by OTLP ended: success, partial or failure."""
        self._words["s3proxy_otlp_exports_total"][result].inc()

    def identify(self, version: str, instance: str, hostname: str, mode: str, started_at: float) -> None:
        """Say once who this is; *started_at* is Unix time."""
        made = self.instruments
        made.gauge(
            "s3proxy_build_info", version, platform.python_version(), twisted.__version__, _installed_commit()
        ).set(1)
        made.gauge("s3proxy_instance_info", instance, hostname, mode).set(1)
        made.gauge("s3proxy_start_time_seconds").set(started_at)

    def observe_source(self, source: Callable[[], Iterable[Reading | Spread]], collector: str = "other") -> None:
        """Ask *source* for values of declared metrics whenever they are wanted.

        It has to answer at once, from memory. One that raises is logged and counted; the others still report.

        :param collector: a word for what it reads, where its costs are shown
        """
        self.instruments.add_source(source, collector)

    # Showing

    @property
    def families(self) -> tuple[Family, ...]:
        """Every metric that is declared here."""
        return self.instruments.families

    def hit_rate(self) -> float:
        """Share of object reads answered without a body from S3, since the start; from 0 to 1."""
        self.take_tallies()
        return self._hit_rate.total()

    def reads(self) -> tuple[float, float, float, float]:
        """Object reads since the start, as the hit rates count them: how many, how many of them were hits, the bytes
        sent for them, and how many of those did not come from S3.
        """
        self.take_tallies()
        return self._hit_rate.whole, self._hit_rate.part, self._byte_hit_rate.whole, self._byte_hit_rate.part

    def recent_rates(self) -> tuple[float, float]:
        """Hit rate and byte hit rate of the last five minutes, from 0 to 1."""
        self.take_tallies()
        now = self._seconds()
        return self._hit_rate.recent(now), self._byte_hit_rate.recent(now)

    def snapshot(self) -> Snapshot:
        """Everything that this process has counted, and what is known of the process; see the module of that name."""
        made = self.instruments
        made.refresh()
        began = time.perf_counter()
        library = dict(map(_from_library, self.registry.collect()))
        costs = {**made.costs, "process": time.perf_counter() - began}
        for collector, seconds in costs.items():
            made.gauge("s3proxy_scrape_duration_seconds", collector).value = seconds
            made.counter("s3proxy_scrape_errors_total", collector).value = made.errors.get(collector, 0)
        snapshot = made.describe()
        snapshot["families"].update(library)
        return snapshot

    def render_text(self) -> bytes:
        """This process's metrics in Prometheus' text format 0.0.4."""
        return exposition.text(self.snapshot())

    def render_json(self) -> bytes:
        """This process's metrics as one JSON document."""
        return exposition.json_document(self.snapshot())

    def _own_readings(self) -> Iterable[Reading | Spread]:
        self.take_tallies()
        now = self._seconds()
        for name, rate in (
            ("s3proxy_cache_hit_rate_ratio", self._hit_rate),
            ("s3proxy_cache_byte_hit_rate_ratio", self._byte_hit_rate),
            ("s3proxy_ram_cache_hit_rate_ratio", self._ram_rate),
        ):
            yield Reading(name, rate.part, ("total",), rate.whole)
            part, whole = rate.recent_counts(now)
            yield Reading(name, part, ("5m",), whole)
        saved = sum(child.value for child in self._counters("s3proxy_s3_requests_saved_total").values())
        dollars = "s3proxy_estimated_savings_dollars_total"
        yield Reading(dollars, saved * self._pricing.get_per_1000 / 1000, ("requests",))
        yield Reading(dollars, self._saved_bytes.value * self._pricing.transfer_per_gb / 1e9, ("transfer",))
        yield Reading("s3proxy_request_permits_held_max", self.most_in_flight)
        span, ended = self._ended.recent(now)
        yield Reading("s3proxy_recent_requests_per_second", ended["all"][0] / span if span > 0 else 0.0)
        for name, recent in (
            ("s3proxy_recent_first_byte_seconds", self._first_bytes),
            ("s3proxy_recent_request_duration_seconds", self._durations),
        ):
            bounds = next(family.bounds for family in FAMILIES if family.name == name)
            for source, counts in recent.recent(now)[1].items():
                histogram = Histogram(bounds)
                histogram.counts = [int(count) for count in counts]
                yield Spread(name, histogram, (source,))

    def _counters(self, name: str) -> Mapping[tuple[str, ...], Any]:
        return self.instruments.children(name)

    def _count_requests(self) -> dict[str, Sequence[float]]:
        return {"all": [sum(child.value for child in self._counters("s3proxy_http_requests_total").values())]}

    def _by_source(self, name: str) -> dict[str, Sequence[float]]:
        """How the requests of each source are spread, whatever was asked."""
        found: dict[str, Sequence[float]] = {}
        for (_, source), child in self._counters(name).items():
            known = found.get(source)
            found[source] = child.counts[:] if known is None else [a + b for a, b in zip(known, child.counts)]
        return found

    def _roll(self) -> None:
        now = self._seconds()
        at = self._next_roll
        self._hit_rate.roll(now)
        self._byte_hit_rate.roll(now)
        self._ram_rate.roll(now)
        for recent in (self._first_bytes, self._durations, self._ended):
            recent.roll(at, now)
        self._next_roll = self._hit_rate.next_roll

    def _why_bypassed(self, record: RequestRecord) -> str:
        group = operations.group_of(record.operation)
        if group == "list":
            return "listing"
        if record.reason == "not-cacheable" and record.operation.startswith(("GetObjectV", "HeadObjectV")):
            return "versioned"
        return _BYPASSES.get(record.reason, "other")

    def _reason(self, source: str, reason: str) -> Counter:
        counter = self._reasons.get((source, reason))
        if counter is None:
            if len(self._reasons) >= _MOST_REASONS:
                reason = "other"
            counter = self.instruments.counter("s3proxy_http_request_reasons_total", source, reason)
            if reason != "other":
                self._reasons[(source, reason)] = counter
        return counter

    def _bind(self, operation: str, outcome: str, status: int, disk: bool, method: bytes) -> _Route:
        """The instruments for requests like this one, kept for the next one unless there are too many kinds already."""
        reads = method in _READ_METHODS
        known = self._routes.get((operation, outcome, status, disk, reads))
        if known is not None:
            return known
        label = operations.metric_name(operation)
        group = operations.group_of(operation)
        source = _source(outcome, disk, reads)
        room = len(self._routes) < _MOST_ROUTES
        made = self.instruments
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
        route = _Route(
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
            self._routes[operation, outcome, status, disk, reads] = route
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


def _installed_commit() -> str:
    """Of the repository that the program was installed from, as pip notes it (PEP 610); unknown otherwise."""
    try:
        noted = importlib.metadata.distribution("s3proxy").read_text("direct_url.json")
        return str(json.loads(noted or "{}")["vcs_info"]["commit_id"])
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _from_library(metric: Any) -> tuple[str, dict[str, Any]]:
    """A family of the library's collectors as a part of a snapshot."""
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    keys = list(metric.samples[0].labels) if metric.samples else []
    return name, {
        "type": "counter" if metric.type == "counter" else "gauge",
        "help": metric.documentation.rstrip(".") + ".",
        "labels": keys,
        "merge": _LIBRARY_MERGES.get(name, "sum"),
        "samples": [[list(sample.labels.values()), sample.value] for sample in metric.samples if sample.name == name],
    }
