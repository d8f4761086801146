"""What the parts of the proxy tell the metrics: by events while they happen, by readings when somebody looks."""

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.cache.ram import RamTier
from s3proxy.gateway.pipeline import Gateway
from s3proxy.services.cache import CacheService
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.metrics import Metrics
from s3proxy.upstream.client import Upstream
from s3proxy.upstream.interfaces import (
    IUpstream,
    IUpstreamResponse,
    UpstreamBusy,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTLSError,
)
from s3proxy.wire.site import CachingSite

__all__ = ["MeteredUpstream", "readings_of"]


@implementer(IUpstream)
class MeteredUpstream:
    """Counts how S3 answers another :class:`IUpstream`."""

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._upstream = upstream
        self._metrics = metrics

    def request(self, request: UpstreamRequest) -> "Deferred[IUpstreamResponse]":
        """See :class:`IUpstream`."""
        return self._upstream.request(request).addCallbacks(self._answered, self._failed)

    def _answered(self, response: IUpstreamResponse) -> IUpstreamResponse:
        self._metrics.upstream_answered(response.status)
        return response

    def _failed(self, reason: Failure) -> Failure:
        if not reason.check(CancelledError):
            self._metrics.upstream_failed(_kind_of(reason))
        return reason


def _kind_of(reason: Failure) -> str:
    if reason.check(UpstreamBusy):
        return "busy"
    if reason.check(UpstreamTLSError):
        return "tls"
    if reason.check(UpstreamTimeout):
        return "head_timeout"
    if reason.check(UpstreamRefused):
        return "refused"
    return "reset" if getattr(reason.value, "sent", False) else "connect"


def readings_of(
    gateway: Gateway, cache: CacheService, upstream: Upstream, sites: Iterable[CachingSite]
) -> Callable[[], Iterable[Reading]]:
    """Values that their owners keep, as readings for the metrics."""

    def read() -> Iterable[Reading]:
        yield Reading("s3proxy_request_permits_held", gateway.in_flight)
        yield Reading("s3proxy_request_permits_limit", gateway.max_requests)
        yield from _upstream_readings(upstream)
        for site in sites:
            yield Reading("s3proxy_client_connections", site.connections_open, (site.listener,))
            yield Reading("s3proxy_client_connections_opened_total", site.counters.connections, (site.listener,))
            if site.listener == "tls":
                yield Reading("s3proxy_tls_handshake_failures_total", site.counters.failed_handshakes, ("tls",))
        stalls = sum(site.counters.aborted["slow_reader"] for site in sites)
        yield Reading("s3proxy_stalls_total", stalls, ("client",))
        if cache.manager is not None and cache.store is not None:
            evictor = cache.store.evictor
            yield Reading("s3proxy_cache_evictions_total", evictor.evicted_items, ("disk", "capacity"))
            yield Reading("s3proxy_cache_evicted_bytes_total", evictor.evicted_bytes, ("disk",))
            yield Reading("s3proxy_cache_size_bytes", cache.store.usage(), ("disk",))
            yield Reading("s3proxy_cache_limit_bytes", cache.limit, ("disk",))
            yield Reading("s3proxy_cache_entries", cache.manager.entries_in_memory, ("memory",))
            yield Reading("s3proxy_cache_size_bytes", cache.manager.bytes_in_memory, ("ram",))
            yield Reading("s3proxy_cache_limit_bytes", cache.ram_limit, ("ram",))
            if cache.manager.ram is not None:
                yield from _ram_readings(cache.manager.ram)

    return read


def _upstream_readings(upstream: Upstream) -> Iterable[Reading]:
    counters = upstream.counters
    yield Reading("s3proxy_upstream_connections_opened_total", counters.connections_opened)
    yield Reading("s3proxy_upstream_connections_reused_total", counters.connections_reused)
    yield Reading("s3proxy_upstream_tls_resumptions_total", counters.tls_resumed)
    yield Reading("s3proxy_upstream_retries_total", counters.retries)
    snapshot = upstream.snapshot()
    hosts: list[dict[str, Any]] = list(snapshot["hosts"].values())
    for state in ("idle", "active"):
        yield Reading("s3proxy_upstream_connections", sum(host[state] for host in hosts), (state,))
    yield Reading("s3proxy_upstream_connections_limit", snapshot["connections_limit"])
    yield Reading("s3proxy_upstream_requests_waiting", snapshot["requests_waiting"])
    yield Reading("s3proxy_upstream_waits_total", snapshot["requests_waited"])
    yield Reading("s3proxy_upstream_waits_refused_total", snapshot["requests_refused"])
    known = {ip for host in hosts for ip in host["addresses"]}
    excluded = {ip for host in hosts for ip in host["excluded"]}
    yield Reading("s3proxy_upstream_ips", len(known - excluded), ("active",))
    yield Reading("s3proxy_upstream_ips", len(excluded), ("excluded",))
    yield Reading("s3proxy_upstream_ip_exclusions_total", snapshot["exclusions"])
    for result, count in snapshot["probes"].items():
        yield Reading("s3proxy_upstream_ip_probes_total", count, (result,))
    for outcome, count in snapshot["hedges"].items():
        yield Reading("s3proxy_hedges_total", count, (outcome,))
    yield Reading("s3proxy_dns_lookups_total", snapshot["lookups"] - snapshot["lookup_failures"], ("answered",))
    yield Reading("s3proxy_dns_lookups_total", snapshot["lookup_failures"], ("failed",))


def _ram_readings(ram: RamTier) -> Iterable[Reading]:
    yield Reading("s3proxy_cache_entries", len(ram), ("ram",))
    yield Reading("s3proxy_cache_lookups_total", ram.hits, ("ram", "hit"))
    yield Reading("s3proxy_cache_lookups_total", ram.misses, ("ram", "miss"))
    yield Reading("s3proxy_cache_promotions_total", ram.promoted, ("promoted",))
    yield Reading("s3proxy_cache_promotions_total", ram.refused, ("refused",))
    yield Reading("s3proxy_cache_promotions_total", ram.failed, ("failed",))
    yield Reading("s3proxy_cache_evictions_total", ram.evicted, ("ram", "capacity"))
