"""What is counted of clients' requests, once, when they end; and the rates that come of it.

Requests that were served with some effort come one by one (:meth:`RequestCounts.finished`), many hits that are alike by
a :class:`~s3proxy.telemetry.routes.Tally`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from s3proxy.telemetry import operations
from s3proxy.telemetry.counts import CacheCounts
from s3proxy.telemetry.families import FAMILIES
from s3proxy.telemetry.instruments import Counter, Histogram, Instruments, Reading, Spread
from s3proxy.telemetry.rates import RecentCounts, WindowedRatio
from s3proxy.telemetry.record import RequestRecord
from s3proxy.telemetry.routes import Routes, Tally, size_class
from s3proxy.telemetry.words import Words

__all__ = ["Pricing", "RequestCounts"]

_MOST_REASONS: Final = 64
_MINUTE: Final = 60.0

_BYPASSES: Final = {
    "sse-c": "sse_c", "no-cache": "no_cache", "no-store": "no_store", "read-cache-off": "rule",
    "part-number": "part_scoped", "client-condition": "conditional", "credentials": "credentials",
    "range-form": "range_form",
}  # fmt: skip
_DENIALS: Final = {"refused": "destination", "expired-url": "expired_url"}


@attrs.frozen(kw_only=True)
class Pricing:
    """Dollars that S3 and the network take, for an estimate of what is saved.

    :ivar get_per_1000: of a thousand GETs or HEADs; the default is the list price of many regions
    :ivar transfer_per_gb: of 10^9 bytes from S3; nothing within a region
    """

    get_per_1000: float = 0.0004
    transfer_per_gb: float = 0.0


class RequestCounts:
    """Belongs to the reactor's thread.

    :param seconds: a clock that never goes back
    :param cache: gets the looks at descriptions that hits amount to
    :ivar most_in_flight: requests that were under way at once
    """

    def __init__(
        self, instruments: Instruments, seconds: Callable[[], float], pricing: Pricing, cache: CacheCounts
    ) -> None:
        self._instruments = made = instruments
        self._seconds = seconds
        self._pricing = pricing
        self._cache = cache
        now = seconds()
        self._hit_rate = WindowedRatio(now)
        self._byte_hit_rate = WindowedRatio(now)
        self._ram_rate = WindowedRatio(now)
        self._first_bytes = RecentCounts(now, lambda: self._by_source("s3proxy_http_first_byte_seconds"))
        self._durations = RecentCounts(now, lambda: self._by_source("s3proxy_http_request_duration_seconds"))
        self._ended = RecentCounts(now, self._count_requests, _MINUTE)
        self._next_roll = self._hit_rate.next_roll
        self._reasons: dict[tuple[str, str], Counter] = {}
        self._tallies: dict[tuple[str, int, int], Tally] = {}
        self._started = self._finished = 0
        self.most_in_flight = 0
        self._saved_bytes = made.counter("s3proxy_s3_saved_bytes_total")
        self._from_upstream = made.counter("s3proxy_upstream_bytes_total", "received")
        self._to_upstream = made.counter("s3proxy_upstream_bytes_total", "sent")
        self._shed = made.counter("s3proxy_requests_shed_total", "concurrency")
        self._hold = made.histogram("s3proxy_request_permit_hold_seconds")
        self._denied = Words(made, "s3proxy_requests_denied_total", _DENIALS.values())
        self._bypassed = Words(
            made, "s3proxy_cache_bypass_total", ("listing", "versioned", "write_variant", *_BYPASSES.values())
        )
        for name in ("s3proxy_cache_range_gaps_total", "s3proxy_coalesce_saved_fetches_total"):
            made.counter(name)
        self.routes = Routes(made)

    def started(self) -> None:
        """A request is being served; :meth:`finished` follows exactly once."""
        self._started += 1
        if self._started - self._finished > self.most_in_flight:
            self.most_in_flight = self._started - self._finished

    @property
    def in_flight(self) -> int:
        """Requests that have started and not finished."""
        return self._started - self._finished

    def finished(self, record: RequestRecord) -> None:
        """Count one request that ended, whatever became of it."""
        route = self.routes.of(record)
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
            self._bypassed[_why_bypassed(record)].value += 1
        elif route.source == "local" and reason in _DENIALS:
            self._denied[_DENIALS[reason]].value += 1
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

        Neither :meth:`started` nor :meth:`finished` is called for them.
        """
        kind = record.operation, record.status, size_class(record.bytes_sent)
        tally = self._tallies.get(kind)
        if tally is None:
            route = self.routes.bind(record.operation, record.outcome, record.status, False, record.method)
            tally = self._tallies[kind] = Tally(route, record, self._cache)
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

    # Showing

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

    def readings(self) -> Iterator[Reading | Spread]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
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
        return self._instruments.children(name)

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

    def _reason(self, source: str, reason: str) -> Counter:
        counter = self._reasons.get((source, reason))
        if counter is None:
            if len(self._reasons) >= _MOST_REASONS:
                reason = "other"
            counter = self._instruments.counter("s3proxy_http_request_reasons_total", source, reason)
            if reason != "other":
                self._reasons[(source, reason)] = counter
        return counter


def _why_bypassed(record: RequestRecord) -> str:
    if operations.group_of(record.operation) == "list":
        return "listing"
    if record.reason == "not-cacheable" and record.operation.startswith(("GetObjectV", "HeadObjectV")):
        return "versioned"
    return _BYPASSES.get(record.reason, "other")
