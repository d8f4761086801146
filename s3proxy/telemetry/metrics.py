"""What the proxy counts, and how it is shown.

Requests are counted once, when they end, by :meth:`Metrics.request_finished`, or, where many end alike, by a
:class:`Tally`. Everything else has a small method here, or is kept by its owner and read at scrape time
(:meth:`Metrics.observe_source`). All methods belong to the reactor's thread.
"""

import json
import math
import platform
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any, Final

import attrs
import twisted
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import Metric

from s3proxy.telemetry import operations
from s3proxy.telemetry.families import FAMILIES
from s3proxy.telemetry.instruments import Counter, Family, Histogram, Instruments, Reading
from s3proxy.telemetry.rates import WindowedRatio
from s3proxy.telemetry.record import RequestRecord

__all__ = ["Metrics", "Reading", "TEXT_CONTENT_TYPE", "Tally"]

TEXT_CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
"""The media type of :meth:`Metrics.render_text`."""

SOURCES: Final = ("hit", "miss", "revalidated", "partial", "coalesced", "bypass", "stale", "error")
"""Where answers come from: the outcomes of requests, in lower case."""

_HITS: Final = frozenset({"hit", "revalidated", "coalesced", "stale"})
_MISSES: Final = frozenset({"miss", "partial"})
_UNASKED: Final = frozenset({"hit", "coalesced"})
_READS: Final = {"GetObject": "get", "HeadObject": "head", "GetObjectPart": "get", "HeadObjectPart": "head"}
_STATUSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
_MOST_REASONS: Final = 64
_MOST_ROUTES: Final = 2048

# The words that the small methods take. Whatever else they are given is counted as "other".
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "s3proxy_cache_fills_total": ("stored", "partial", "declined", "failed"),
    "s3proxy_cache_invalidations_total": ("write", "changed", "gone", "purge", "corrupt"),
    "s3proxy_cache_verification_failures_total": ("metadata", "range", "missing"),
    "s3proxy_cache_errors_total": ("read", "write", "disk_full", "read_only", "stale_handle", "cleanup"),
    "s3proxy_upstream_errors_total": (
        "dns", "connect", "tls", "head_timeout", "idle_timeout", "reset", "protocol", "refused",
        "busy",
    ),
}  # fmt: skip


class _Words(dict[str, Counter]):
    """One counter per word of a closed set; every other word leads to that of "other"."""

    def __missing__(self, word: str) -> Counter:
        return self["other"]


@attrs.frozen(kw_only=True)
class _Route:
    """The instruments that one kind of request changes."""

    requests: Counter
    responses: Counter
    duration: Histogram
    first_byte: Histogram
    upstream_first_byte: Histogram
    sent: Counter
    received: Counter
    aborts: Counter
    saved: Counter | None
    counts_as: int  # 0 neither, 1 miss, 2 hit
    source: str


class Tally:
    """Hits of one kind that are not in the instruments yet: whoever answers one adds to both numbers.

    Two additions instead of the ten of :meth:`Metrics.request_finished`, which they amount to: 0.1 µs instead of 1 µs.

    :ivar requests: that began and ended since the last take-over
    :ivar bytes: of their bodies, all from the cache
    """

    __slots__ = ("requests", "bytes", "_route", "_seconds", "_first_byte")

    def __init__(self, route: _Route, seconds: float, first_byte: float) -> None:
        self.requests = 0
        self.bytes = 0
        self._route = route
        self._seconds = seconds
        self._first_byte = first_byte

    def take(self) -> tuple[int, int]:
        """Put the requests in the instruments of their kind; returns the numbers, which are 0 afterwards."""
        requests, sent = self.requests, self.bytes
        self.requests = self.bytes = 0
        route = self._route
        route.requests.value += requests
        route.responses.value += requests
        route.duration.observe(self._seconds, requests)
        route.first_byte.observe(self._first_byte, requests)
        route.sent.value += sent
        if route.saved is not None:
            route.saved.value += requests
        return requests, sent


class Metrics:
    """Every metric of one instance, on a registry of its own.

    :param registry: becomes the home of the proxy's metrics and of those about process, Python and garbage collection
    :param seconds: a clock that never goes back, for rates over the last minutes
    """

    def __init__(self, registry: CollectorRegistry, seconds: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry
        self._seconds = seconds
        self.instruments = Instruments(FAMILIES)
        made = self.instruments
        now = seconds()
        self._hit_rate = WindowedRatio(now)
        self._byte_hit_rate = WindowedRatio(now)
        self._next_roll = self._hit_rate.next_roll
        self._routes: dict[tuple[str, str, int], _Route] = {}
        self._reasons: dict[tuple[str, str], Counter] = {}
        self._tallies: dict[tuple[str, int], Tally] = {}
        self._in_flight = made.gauge("s3proxy_http_requests_in_flight")
        self._saved_bytes = made.counter("s3proxy_s3_saved_bytes_total")
        self._from_upstream = made.counter("s3proxy_upstream_bytes_total", "received")
        self._to_upstream = made.counter("s3proxy_upstream_bytes_total", "sent")
        self._shed = made.counter("s3proxy_requests_shed_total", "concurrency")
        self._lag = made.histogram("s3proxy_reactor_lag_seconds")
        self._fill_bytes = made.counter("s3proxy_cache_fill_bytes_total")
        self._duration = made.gauge("s3proxy_scrape_duration_seconds")
        self._upstream_statuses = {
            status: made.counter("s3proxy_upstream_requests_total", status) for status in (*_STATUSES, "none")
        }
        self._words = {
            name: _Words({word: made.counter(name, word) for word in (*words, "other")})
            for name, words in _WORDS.items()
        }
        for operation in _READS:
            for outcome in ("HIT", "MISS"):
                self._bind(operation, outcome, 200)
        made.add_source(self._own_readings)
        registry.register(made)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

    # Requests of clients

    def request_started(self) -> None:
        """A request is being served; :meth:`request_finished` follows exactly once."""
        self._in_flight.value += 1

    def request_finished(self, record: RequestRecord) -> None:
        """Count one request that ended, whatever became of it."""
        route = self._route(record)
        self._in_flight.value -= 1
        route.requests.value += 1
        route.responses.value += 1
        route.duration.observe(record.total_seconds)
        if record.first_byte_seconds is not None:
            route.first_byte.observe(record.first_byte_seconds)
        if record.upstream_seconds is not None:
            route.upstream_first_byte.observe(record.upstream_seconds)
        sent = record.bytes_sent
        cached = record.bytes_from_cache
        route.sent.value += sent
        self._saved_bytes.value += cached
        self._from_upstream.value += record.bytes_from_upstream
        if record.body_bytes_received:
            route.received.value += record.body_bytes_received
            if record.upstream_address:
                self._to_upstream.value += record.body_bytes_received
        if record.aborted:
            route.aborts.value += 1
        if record.reason:
            self._reason(route.source, record.reason).value += 1
            if record.reason == "overload":
                self._shed.value += 1
        if route.counts_as:
            if self._seconds() >= self._next_roll:
                self.take_tallies()
            self._hit_rate.whole += 1
            if route.counts_as == 2:
                self._hit_rate.part += 1
                if route.saved is not None:
                    route.saved.value += 1
            self._byte_hit_rate.whole += sent
            self._byte_hit_rate.part += cached

    def tally(self, record: RequestRecord) -> Tally:
        """What counts requests like this one, a hit that took no time to speak of; their number of bytes may differ.

        Neither :meth:`request_started` nor :meth:`request_finished` is called for them.
        """
        kind = record.operation, record.status
        tally = self._tallies.get(kind)
        if tally is None:
            tally = Tally(self._route(record), record.total_seconds, record.first_byte_seconds or 0.0)
            self._tallies[kind] = tally
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
        if self._seconds() >= self._next_roll:
            self._roll()

    # Cache

    def cache_filled(self, result: str, stored: int = 0) -> None:
        """An attempt to keep an answer ended: stored, partial, declined or failed, with this many bytes kept."""
        self._words["s3proxy_cache_fills_total"][result].inc()
        self._fill_bytes.inc(stored)

    def cache_invalidated(self, reason: str) -> None:
        """An entry was made invalid by: write, changed (another ETag), gone (404), purge or corrupt."""
        self._words["s3proxy_cache_invalidations_total"][reason].inc()

    def cache_verification_failed(self, kind: str) -> None:
        """Stored data was damaged or absent: metadata, range or missing."""
        self._words["s3proxy_cache_verification_failures_total"][kind].inc()

    def cache_error(self, kind: str) -> None:
        """The storage failed: read, write, disk_full, read_only, stale_handle or cleanup."""
        self._words["s3proxy_cache_errors_total"][kind].inc()

    # Upstream

    def upstream_answered(self, status: int) -> None:
        """S3 answered a request."""
        self._upstream_statuses[_status_class(status)].inc()

    def upstream_failed(self, kind: str) -> None:
        """S3 did not answer: dns, connect, tls, head_timeout, idle_timeout, reset, protocol or refused."""
        self._words["s3proxy_upstream_errors_total"][kind].inc()

    # The process

    def observe_lag(self, seconds: float) -> None:
        """A timer of the event loop was late by this much."""
        self._lag.observe(seconds)

    def identify(self, version: str, instance: str, hostname: str, mode: str, started_at: float) -> None:
        """Say once who this is; *started_at* is Unix time."""
        made = self.instruments
        made.gauge("s3proxy_build_info", version, platform.python_version(), twisted.__version__).set(1)
        made.gauge("s3proxy_instance_info", instance, hostname, mode).set(1)
        made.gauge("s3proxy_start_time_seconds").set(started_at)

    def observe_source(self, source: Callable[[], Iterable[Reading]]) -> None:
        """Ask *source* for values of declared gauges and counters whenever metrics are wanted.

        It has to answer at once, from memory. One that raises is logged and counted; the others still report.
        """
        self.instruments.add_source(source)

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

    def render_text(self) -> bytes:
        """Everything in Prometheus' text format 0.0.4."""
        before = time.perf_counter()
        text = generate_latest(self.registry)
        self._duration.set(time.perf_counter() - before)
        return text

    def render_json(self) -> bytes:
        """Everything as one JSON document: a summary for people, and each metric's values."""
        before = time.perf_counter()
        metrics = {_json_name(metric): _json_values(metric) for metric in self.registry.collect()}
        document = {
            "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "summary": self._summary(),
            "metrics": metrics,
        }
        text = json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False).encode("ascii")
        self._duration.set(time.perf_counter() - before)
        return text + b"\n"

    def _summary(self) -> dict[str, float]:
        now = self._seconds()
        sizes = self.instruments.children("s3proxy_cache_size_bytes").items()
        saved = self.instruments.children("s3proxy_s3_requests_saved_total").values()
        requests = self.instruments.children("s3proxy_http_requests_total").values()
        return {
            "cache_hit_rate_percent": round(100 * self._hit_rate.total(), 3),
            "cache_hit_rate_5m_percent": round(100 * self._hit_rate.recent(now), 3),
            "cache_byte_hit_rate_percent": round(100 * self._byte_hit_rate.total(), 3),
            "requests_total": sum(child.value for child in requests if isinstance(child, Counter)),
            "requests_in_flight": self._in_flight.value,
            "s3_requests_saved": sum(child.value for child in saved if isinstance(child, Counter)),
            "s3_bytes_saved": self._saved_bytes.value,
            "cache_size_bytes": sum(
                child.value for labels, child in sizes if labels == ("disk",) and not isinstance(child, Histogram)
            ),
        }

    def _own_readings(self) -> Iterable[Reading]:
        self.take_tallies()
        now = self._seconds()
        yield Reading("s3proxy_cache_hit_rate_ratio", self._hit_rate.total(), ("total",))
        yield Reading("s3proxy_cache_hit_rate_ratio", self._hit_rate.recent(now), ("5m",))
        yield Reading("s3proxy_cache_byte_hit_rate_ratio", self._byte_hit_rate.total(), ("total",))
        yield Reading("s3proxy_cache_byte_hit_rate_ratio", self._byte_hit_rate.recent(now), ("5m",))
        yield Reading("s3proxy_scrape_errors_total", self.instruments.source_errors)

    def _roll(self) -> None:
        now = self._seconds()
        self._hit_rate.roll(now)
        self._byte_hit_rate.roll(now)
        self._next_roll = self._hit_rate.next_roll

    def _reason(self, source: str, reason: str) -> Counter:
        counter = self._reasons.get((source, reason))
        if counter is None:
            if len(self._reasons) >= _MOST_REASONS:
                reason = "other"
            counter = self.instruments.counter("s3proxy_http_request_reasons_total", source, reason)
            if reason != "other":
                self._reasons[(source, reason)] = counter
        return counter

    def _route(self, record: RequestRecord) -> _Route:
        route = self._routes.get((record.operation, record.outcome, record.status))
        return self._bind(record.operation, record.outcome, record.status) if route is None else route

    def _bind(self, operation: str, outcome: str, status: int) -> _Route:
        """The instruments for requests like this one, kept for the next one unless there are too many kinds already."""
        label = operations.metric_name(operation)
        group = operations.group_of(operation)
        source = outcome.lower()
        if source not in SOURCES:
            source = "other"
        code = str(status) if 100 <= status <= 599 else "none"
        made = self.instruments
        counts_as = 0
        if operation in _READS and (200 <= status < 300 or status == 304):
            counts_as = 2 if source in _HITS else 1 if source in _MISSES else 0
        saved = None
        if counts_as == 2 and source in _UNASKED:
            saved = made.counter("s3proxy_s3_requests_saved_total", _READS[operation])
        route = _Route(
            requests=made.counter("s3proxy_http_requests_total", label, source, _status_class(status)),
            responses=made.counter("s3proxy_http_responses_total", code),
            duration=made.histogram("s3proxy_http_request_duration_seconds", group, source),
            first_byte=made.histogram("s3proxy_http_first_byte_seconds", group, source),
            upstream_first_byte=made.histogram("s3proxy_upstream_first_byte_seconds", group),
            sent=made.counter("s3proxy_http_response_bytes_total", group, source),
            received=made.counter("s3proxy_http_request_bytes_total", group),
            aborts=made.counter("s3proxy_http_client_aborts_total", source),
            saved=saved,
            counts_as=counts_as,
            source=source,
        )
        if len(self._routes) < _MOST_ROUTES:
            self._routes[(operation, outcome, status)] = route
        return route


def _status_class(status: int) -> str:
    """2xx and the like; none when nobody was told anything."""
    return f"{status // 100}xx" if 100 <= status <= 599 else "none"


def _json_name(metric: Metric) -> str:
    """The name as the text format shows it: the library takes ``_total`` off the names of counters."""
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def _json_values(metric: Metric) -> list[dict[str, Any]]:
    if metric.type != "histogram":
        return [
            {"labels": sample.labels, "value": sample.value if math.isfinite(sample.value) else None}
            for sample in metric.samples
        ]
    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in metric.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        entry = series.setdefault(
            tuple(labels.items()), {"labels": labels, "value": {"count": 0, "sum": 0.0, "buckets": {}}}
        )
        if sample.name.endswith("_bucket"):
            entry["value"]["buckets"][sample.labels["le"]] = sample.value
        elif sample.name.endswith("_count"):
            entry["value"]["count"] = sample.value
        elif sample.name.endswith("_sum"):
            entry["value"]["sum"] = sample.value
    return list(series.values())
