"""What the parts of the proxy tell the metrics: by events while they happen, by readings when somebody looks."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.cache.ram import RamTier
from s3proxy.gateway.pipeline import Gateway
from s3proxy.services.cache import CacheService
from s3proxy.telemetry.counts import totals
from s3proxy.telemetry.families import FIRST_BYTE_BOUNDS, REQUEST_BOUNDS
from s3proxy.telemetry.instruments import Counter, Histogram, Reading, Spread
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.operations import GROUPS
from s3proxy.upstream.client import Upstream
from s3proxy.upstream.interfaces import (
    IUpstream,
    IUpstreamResponse,
    UpstreamBusy,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTLSError,
    UpstreamUnresolved,
)
from s3proxy.wire.site import CachingSite

__all__ = ["MeteredUpstream", "readings_of"]

MOST_IPS = 200
"""Addresses that have series of their own."""
MOST_CODES = 100
"""Status codes of one group of operations that are told apart."""

_CLOSED = ("idle", "lifetime", "limit", "peer", "error", "stop")
_RETRIED = ("connecting", "stale", "body_held", "unanswered", "silent")


@implementer(IUpstream)
class MeteredUpstream:
    """Counts and times how S3 answers another :class:`IUpstream`.

    :ivar answered: requests so far that S3 answered
    :ivar failed: requests that it did not, or not to the end
    """

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._seconds: Callable[[], float] = upstream.seconds
        self._in_flight = 0
        self.answered = self.failed = 0
        self._answers: dict[tuple[str, int], Counter] = {}
        self._first_byte = {group: Histogram(FIRST_BYTE_BOUNDS) for group in GROUPS}
        self._whole = {group: Histogram(REQUEST_BOUNDS) for group in GROUPS}
        metrics.observe_source(self.readings, "upstream")

    def request(self, request: UpstreamRequest) -> "Deferred[IUpstreamResponse]":
        """See :class:`IUpstream`."""
        self._in_flight += 1
        group = request.group
        return self._upstream.request(request).addCallbacks(self._answered, self._failed, callbackArgs=(group,))

    def _answered(self, response: Any, group: str) -> IUpstreamResponse:
        self.answered += 1
        self._count(group, response.status)
        self._first_byte[group].observe(response.head_at - response.sent_at)

        def over() -> None:
            self._in_flight -= 1
            self._whole[group].observe(max(0.0, self._seconds() - response.sent_at))
            if response.fault is not None:
                self.failed += 1
                self._metrics.upstream_failed(_kind_of(response.fault, amid=True))

        response.when_over(over)
        return response  # type: ignore[no-any-return]

    def _failed(self, reason: Failure) -> Failure:
        self._in_flight -= 1
        if not reason.check(CancelledError):
            # Where it may not go to, or can't get in, is not S3's fault.
            self.failed += reason.check(UpstreamBusy, UpstreamRefused) is None
            self._metrics.upstream_failed(_kind_of(reason))
        return reason

    def _count(self, group: str, status: int) -> None:
        answers = self._answers.get((group, status))
        if answers is None:
            room = len(self._answers) < MOST_CODES * len(GROUPS)
            code = str(status) if room and 100 <= status <= 599 else f"{status // 100}xx"
            answers = self._metrics.instruments.counter("s3proxy_upstream_requests_total", group, code)
            if room:
                self._answers[group, status] = answers
        answers.value += 1

    def readings(self) -> Iterator[Reading | Spread]:
        """For :meth:`Metrics.observe_source`."""
        yield Reading("s3proxy_upstream_in_flight", self._in_flight)
        for group in GROUPS:
            if self._first_byte[group].count:
                yield Spread("s3proxy_upstream_first_byte_seconds", self._first_byte[group], (group,))
                yield Spread("s3proxy_upstream_request_duration_seconds", self._whole[group], (group,))


def _kind_of(reason: Failure, amid: bool = False) -> str:
    """The word for a failure.

    :param amid: the head of an answer had come
    """
    if reason.check(UpstreamBusy):
        return "busy"
    if reason.check(UpstreamTLSError):
        return "tls"
    if reason.check(UpstreamTimeout):
        return "idle_timeout" if amid else "first_byte_timeout"
    if reason.check(UpstreamRefused):
        return "refused"
    if reason.check(UpstreamUnresolved):
        return "dns"
    if reason.check(UpstreamProtocolError):
        return "protocol"
    return "reset" if getattr(reason.value, "sent", False) else "connect"


def readings_of(
    gateway: Gateway, cache: CacheService, upstream: Upstream, sites: Iterable[CachingSite]
) -> Callable[[], Iterable[Reading | Spread]]:
    """Values that their owners keep, as readings for the metrics."""
    listeners = tuple(sites)

    def read() -> Iterator[Reading | Spread]:
        yield from _gateway_readings(gateway)
        yield from _upstream_readings(upstream)
        yield from _site_readings(listeners)
        yield from cache.readings()
        if cache.manager is not None:
            bodies = cache.manager.bodies
            yield Reading("s3proxy_buffer_reserved_bytes", bodies.held)
            yield Reading("s3proxy_buffer_limit_bytes", bodies.limit)
            yield Reading("s3proxy_buffer_reserved_max_bytes", bodies.most)
            yield Reading("s3proxy_buffer_waiting", bodies.waiting)
            yield Reading("s3proxy_coalesce_in_flight", cache.manager.fetches_in_flight, ("leader",))
            yield Reading("s3proxy_multipart_uploads_in_progress", cache.manager.writes.uploads_in_progress)
            if cache.manager.ram is not None:
                yield from _ram_readings(cache.manager.ram)

    return read


def _gateway_readings(gateway: Gateway) -> Iterator[Reading | Spread]:
    transfers = sum(request.first_byte_at is not None for request, _ in gateway.running)
    yield Reading("s3proxy_http_requests_in_flight", gateway.in_flight - transfers, ("setup",))
    yield Reading("s3proxy_http_requests_in_flight", transfers, ("transfer",))
    yield Reading("s3proxy_request_permits_held", gateway.in_flight)
    yield Reading("s3proxy_request_permits_limit", gateway.max_requests)
    yield Reading("s3proxy_buffer_aborts_total", gateway.copies.refused)
    yield from gateway.counts.readings()


def _site_readings(sites: Iterable[CachingSite]) -> Iterator[Reading]:
    stalls = refused = 0
    for site in sites:
        counters, listener = site.counters, (site.listener,)
        yield Reading("s3proxy_client_connections", site.connections_open, listener)
        yield Reading("s3proxy_client_connections_opened_total", counters.connections, listener)
        if site.listener == "tls":
            handshakes = "s3proxy_tls_handshakes_total"
            yield Reading(handshakes, counters.handshakes, ("tls", "success"))
            yield Reading(handshakes, counters.failed_handshakes, ("tls", "failure"))
        stalls += counters.aborted["slow_reader"]
        refused += counters.refused
    yield Reading("s3proxy_stalls_total", stalls, ("client",))
    yield Reading("s3proxy_requests_shed_total", refused, ("connections",))
    rejected: dict[str, int] = {}
    for site in sites:
        for code, count in site.counters.rejected.items():
            rejected[code] = rejected.get(code, 0) + count
    for code, count in rejected.items():
        yield Reading("s3proxy_requests_denied_total", count, (f"malformed_{_snake(code)}",))


def _snake(code: str) -> str:
    """S3's word for an error as a label's value: InvalidRequest, invalid_request."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in code).lstrip("_")


def _upstream_readings(upstream: Upstream) -> Iterator[Reading | Spread]:
    counters, counts = upstream.counters, upstream.by_endpoint
    label = counts.endpoints.label
    yield from totals("s3proxy_upstream_connections_opened_total", counts.opened, ())
    yield from totals("s3proxy_upstream_connections_reused_total", counts.reused, ())
    yield from totals("s3proxy_upstream_connections_closed_total", upstream.closed, _CLOSED)
    yield from totals("s3proxy_upstream_ip_exclusions_total", counts.excluded, ())
    yield from totals("s3proxy_upstream_retries_total", counts.retried, _RETRIED)
    yield Reading("s3proxy_upstream_tls_resumptions_total", counters.tls_resumed)
    for phase in ("dns", "tcp", "tls"):
        yield Spread("s3proxy_upstream_connect_seconds", getattr(upstream.times, phase), (phase,))
    snapshot = upstream.snapshot()
    hosts: dict[str, dict[str, Any]] = snapshot["hosts"]
    states: dict[tuple[str, str, str], int] = {}
    shown = 0
    for host, found in hosts.items():
        endpoint = label(host)
        excluded = set(found["excluded"])
        for family, state, value in (
            ("s3proxy_upstream_connections", "idle", found["idle"]),
            ("s3proxy_upstream_connections", "active", found["active"]),
            ("s3proxy_upstream_ips", "active", len(set(found["addresses"]) - excluded)),
            ("s3proxy_upstream_ips", "excluded", len(excluded)),
        ):
            states[family, endpoint, state] = states.get((family, endpoint, state), 0) + value
        for ip in found["addresses"]:
            if shown < MOST_IPS and endpoint == host:
                shown += 1
                yield Reading("s3proxy_upstream_ip_up", float(ip not in excluded), (endpoint, ip))
    for (family, endpoint, state), value in states.items():
        yield Reading(family, value, (endpoint, state))
    yield Reading("s3proxy_upstream_connections_limit", snapshot["connections_limit"])
    yield Reading("s3proxy_upstream_requests_waiting", snapshot["requests_waiting"])
    yield Reading("s3proxy_upstream_waits_total", snapshot["requests_waited"])
    yield Reading("s3proxy_upstream_waits_refused_total", snapshot["requests_refused"])
    for result, count in snapshot["probes"].items():
        yield Reading("s3proxy_upstream_ip_probes_total", count, (result,))
    for outcome, count in snapshot["hedges"].items():
        yield Reading("s3proxy_hedges_total", count, (outcome,))
    yield Reading("s3proxy_dns_refreshes_total", snapshot["lookups"] - snapshot["lookup_failures"], ("success",))
    yield Reading("s3proxy_dns_refreshes_total", snapshot["lookup_failures"], ("failure",))


def _ram_readings(ram: RamTier) -> Iterator[Reading]:
    yield Reading("s3proxy_ram_cache_pieces", len(ram))
    yield Reading("s3proxy_page_promotions_total", ram.promoted, ("promoted",))
    yield Reading("s3proxy_page_promotions_total", ram.refused, ("skipped",))
    yield Reading("s3proxy_page_promotions_total", ram.failed, ("failed",))
    yield Reading("s3proxy_cache_evictions_total", ram.evicted, ("ram", "capacity"))
