"""What the proxy counts.

Requests are counted once, when they end (:mod:`s3proxy.telemetry.requests`). Everything else has a small method here,
or is kept by its owner and read when somebody wants to know (:meth:`Metrics.observe_source`). All methods belong to the
reactor's thread. What comes out is a snapshot (:mod:`s3proxy.telemetry.snapshot`).
"""

import platform
import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry

import twisted
from s3proxy.telemetry import exposition, process
from s3proxy.telemetry.counts import DROPS, CacheCounts
from s3proxy.telemetry.families import FAMILIES
from s3proxy.telemetry.instruments import Family, Instruments, Reading, Spread
from s3proxy.telemetry.record import RequestRecord
from s3proxy.telemetry.requests import Pricing, RequestCounts
from s3proxy.telemetry.routes import HIT_SOURCES, SOURCES, Tally
from s3proxy.telemetry.snapshot import Snapshot
from s3proxy.telemetry.words import Words

__all__ = ["HIT_SOURCES", "Metrics", "Pricing", "Reading", "SOURCES", "Spread", "Tally"]

# The words that the small methods take. Whatever else they are given is counted as "other".
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "s3proxy_cache_errors_total": (
        "disk_full", "read_only", "stale_handle", "read", "write", "cleanup", "checksum",
    ),
    "s3proxy_upstream_errors_total": (
        "dns", "connect", "tls", "first_byte_timeout", "idle_timeout", "reset", "protocol", "refused", "busy",
    ),
    "s3proxy_otlp_exports_total": ("success", "partial", "failure"),
}  # fmt: skip

_PURGE_SCOPES: Final = ("object", "prefix", "bucket")


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
        self.instruments = Instruments(FAMILIES)
        made = self.instruments
        self.cache = CacheCounts()
        self._requests = RequestCounts(made, seconds, pricing, self.cache)
        self._lag = made.histogram("s3proxy_reactor_lag_seconds")
        self._words = {name: Words(made, name, words) for name, words in _WORDS.items()}
        for scope in _PURGE_SCOPES:
            for result in ("done", "failed"):
                made.counter("s3proxy_cache_purges_total", scope, result)
        made.add_source(self._requests.readings, "requests")
        made.add_source(self.cache.readings, "cache")
        process.register(registry)

    # Requests of clients

    def request_started(self) -> None:
        """A request is being served; :meth:`request_finished` follows exactly once."""
        self._requests.started()

    @property
    def in_flight(self) -> int:
        """Requests that have started and not finished."""
        return self._requests.in_flight

    @property
    def most_in_flight(self) -> int:
        """The most that there were at once."""
        return self._requests.most_in_flight

    def request_finished(self, record: RequestRecord) -> None:
        """Count one request that ended, whatever became of it."""
        self._requests.finished(record)

    def tally(self, record: RequestRecord) -> Tally:
        """See :meth:`RequestCounts.tally`."""
        return self._requests.tally(record)

    def take_tallies(self) -> None:
        """See :meth:`RequestCounts.take_tallies`."""
        self._requests.take_tallies()

    def hit_rate(self) -> float:
        """See :meth:`RequestCounts.hit_rate`."""
        return self._requests.hit_rate()

    def reads(self) -> tuple[float, float, float, float]:
        """See :meth:`RequestCounts.reads`."""
        return self._requests.reads()

    def recent_rates(self) -> tuple[float, float]:
        """See :meth:`RequestCounts.recent_rates`."""
        return self._requests.recent_rates()

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
            "s3proxy_build_info", version, platform.python_version(), twisted.__version__, process.installed_commit()
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

    def snapshot(self) -> Snapshot:
        """Everything that this process has counted, and what is known of the process; see the module of that name."""
        made = self.instruments
        made.refresh()
        began = time.perf_counter()
        library = dict(process.collect(self.registry))
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
