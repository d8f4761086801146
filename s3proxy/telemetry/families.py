"""Every metric of the proxy: name, type, meaning and labels, in the order of the documentation.

Names follow Prometheus' conventions: prefix, base units (seconds, bytes, ratios from 0 to 1), ``_total`` for
counters. The values of labels come from closed sets; buckets, keys and client addresses are never labels.
"""

from typing import Final

from s3proxy.telemetry.instruments import Family

__all__ = ["FAMILIES", "FIRST_BYTE_BOUNDS", "REQUEST_BOUNDS"]

REQUEST_BOUNDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
"""Seconds; large objects take minutes."""

FIRST_BYTE_BOUNDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds; a hit takes less than one millisecond, S3 some 20 to 200."""

_LAG_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name=f"s3proxy_{name}_total", type="counter", help=text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(name=f"s3proxy_{name}", type="gauge", help=text, labels=labels)


def _histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Family:
    return Family(name=f"s3proxy_{name}", type="histogram", help=text, labels=labels, bounds=bounds)


FAMILIES: Final[tuple[Family, ...]] = (
    # What the cache is worth.
    _gauge("cache_hit_rate_ratio", "Object reads answered without a body from S3, of all object reads.", "window"),
    _gauge("cache_byte_hit_rate_ratio", "Body bytes of object reads that did not come from S3, of all sent.", "window"),
    _counter("s3_requests_saved", "Requests that S3 was not asked for.", "operation"),
    _counter("s3_saved_bytes", "Body bytes delivered to clients that S3 did not have to send."),
    # Identity and health.
    _gauge("build_info", "Versions of the program and of what runs it; always 1.", "version", "python", "twisted"),
    _gauge("instance_info", "Which instance this is; always 1.", "instance_id", "hostname", "mode"),
    _gauge("start_time_seconds", "Unix time of the start of this instance."),
    _gauge("health_status", "1 for the present state of the whole, 0 for the other states.", "status"),
    _gauge("health_component_status", "1 healthy, 0.5 degraded, 0 unhealthy.", "component"),
    _gauge("ready", "1 while traffic is welcome."),
    # Clients.
    _counter("http_requests", "Client requests that ended.", "operation", "source", "status"),
    _counter("http_responses", "Client requests that ended, by exact status code.", "code"),
    _counter("http_request_reasons", "Why S3 had to be asked or an answer was not kept.", "source", "reason"),
    _histogram(
        "http_request_duration_seconds", "From a request's head to the last byte of its answer.", REQUEST_BOUNDS,
        "operation_group", "source",
    ),
    _histogram(
        "http_first_byte_seconds", "From a request's head to the first byte of its answer.", FIRST_BYTE_BOUNDS,
        "operation_group", "source",
    ),
    _counter("http_response_bytes", "Body bytes written to clients.", "operation_group", "source"),
    _counter("http_request_bytes", "Body bytes read from clients.", "operation_group"),
    _gauge("http_requests_in_flight", "Client requests being answered."),
    _counter("http_client_aborts", "Answers that clients did not wait for.", "source"),
    _counter("stalls", "Transfers ended because the other side made no progress.", "side"),
    _counter("requests_shed", "Requests refused with 503 SlowDown.", "reason"),
    _gauge("request_permits_held", "Requests that hold one of the permits."),
    _gauge("request_permits_limit", "How many permits there are."),
    _gauge("client_connections", "Open client connections.", "listener"),
    _counter("client_connections_opened", "Client connections accepted.", "listener"),
    _counter("tls_handshake_failures", "Client connections that ended before TLS was agreed upon.", "listener"),
    _gauge("tls_certificate_expiry_timestamp_seconds", "Unix time at which the TLS listener's certificate expires."),
    # Tunnels: TLS that is passed through, and CONNECT.
    _gauge("tunnels", "Open tunnels.", "listener"),
    _counter("tunnels_opened", "Tunnels that were opened.", "listener"),
    _counter("tunnels_ended", "Tunnels, and attempts to get one, that ended.", "listener", "reason"),
    _counter(
        "tunnel_bytes", "Bytes that tunnels have carried to clients (sent) and from them.", "listener", "direction",
    ),
    # Cache.
    _gauge("cache_size_bytes", "Bytes in use.", "tier"),
    _gauge("cache_limit_bytes", "Bytes allowed.", "tier"),
    _gauge("cache_entries", "Descriptions of objects (memory), and copies of ranges (ram), that are at hand.", "tier"),
    _counter("cache_evictions", "Entries dropped.", "tier", "reason"),
    _counter("cache_evicted_bytes", "Bytes freed by dropping entries.", "tier"),
    _counter("cache_lookups", "Looks for bytes of an object that are in the cache.", "tier", "result"),
    _counter("cache_promotions", "Ranges that were used often enough to be copied into memory.", "result"),
    _counter("cache_fills", "Attempts to keep what S3 sent, by their end.", "result"),
    _counter("cache_fill_bytes", "Bytes kept."),
    _counter("cache_invalidations", "Entries made invalid.", "reason"),
    _counter("cache_verification_failures", "Stored data that turned out to be damaged or missing.", "kind"),
    _counter("cache_errors", "Faults of the cache's storage; the requests were served without it.", "kind"),
    _gauge("rules_loaded", "Cache rules in force."),
    _gauge("rules_on_fallback", "1 while the file of cache rules can't be used and the rules before it are in force."),
    _counter("rules_reloads", "Versions of the file of cache rules that were read.", "result"),
    _gauge("rules_last_success_timestamp_seconds", "Unix time at which the rules in force were read."),
    # Upstream.
    _counter("upstream_requests", "Requests that S3 answered.", "status"),
    _counter("upstream_errors", "Requests that S3 did not answer.", "kind"),
    _counter("upstream_retries", "Requests sent to S3 again."),
    _histogram(
        "upstream_first_byte_seconds", "From a request to S3 to the head of its answer.", FIRST_BYTE_BOUNDS,
        "operation_group",
    ),
    _counter("upstream_bytes", "Body bytes from and to S3.", "direction"),
    _gauge("upstream_connections", "Open connections to S3.", "state"),
    _counter("upstream_connections_opened", "Connections to S3 that were made."),
    _counter("upstream_connections_reused", "Requests that found an idle connection."),
    _counter("upstream_tls_resumptions", "Connections to S3 whose TLS handshake took up an earlier session."),
    _gauge("upstream_connections_limit", "Connections to S3 that may be open at once; 0 is no limit."),
    _gauge("upstream_requests_waiting", "Requests that wait for a connection to S3."),
    _counter("upstream_waits", "Requests that found all connections to S3 in use."),
    _counter("upstream_waits_refused", "Those of them that got no connection."),
    _gauge("upstream_ips", "Addresses of S3 that are known.", "state"),
    _counter("upstream_ip_exclusions", "Addresses left out because they kept failing."),
    _counter("upstream_ip_probes", "Connections made to find out whether an excluded address answers.", "result"),
    _counter("hedges", "Second requests for answers that were late, by what became of them.", "outcome"),
    _counter("dns_lookups", "Names that were looked up.", "result"),
    # The process.
    _histogram("reactor_lag_seconds", "How late the event loop runs a timer.", _LAG_BOUNDS),
    _counter("log_messages", "Lines of the application log.", "level"),
    _counter("access_log_records", "Lines of the access log.", "result"),
    _gauge("access_log_buffer_records", "Lines of the access log that are not yet written."),
    _gauge("scrape_duration_seconds", "Time that the previous rendering of these metrics took."),
    _counter("scrape_errors", "Sources of metrics that failed when asked."),
)
"""In the order in which they are shown."""
