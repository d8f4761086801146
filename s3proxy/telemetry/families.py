"""Every metric of the proxy: name, type, meaning and labels, in the order of the documentation.

Names follow Prometheus' conventions: prefix, base units (seconds, bytes, ratios from 0 to 1), ``_total`` for counters.
The values of labels come from closed sets, or there is a limit to their number; keys and addresses of clients are never
labels.
"""

from typing import Final

import attrs

from s3proxy.telemetry.instruments import Family

__all__ = [
    "CONNECT_BOUNDS", "FAMILIES", "FIRST_BYTE_BOUNDS", "LAG_BOUNDS", "REQUEST_BOUNDS", "RUN_BOUNDS", "SIZE_BOUNDS",
    "STORAGE_BOUNDS", "WAIT_BOUNDS",
]  # fmt: skip

REQUEST_BOUNDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
"""Seconds; large objects take minutes."""

FIRST_BYTE_BOUNDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds; a hit takes less than one millisecond, S3 some 20 to 200."""

CONNECT_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0)
"""Seconds of a step on the way to a connection."""

STORAGE_BOUNDS: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Seconds of a call to the storage."""

WAIT_BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds of waiting for somebody else."""

RUN_BOUNDS: Final = (0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds of upkeep."""

LAG_BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Seconds by which something runs late."""

SIZE_BOUNDS: Final = (*(1024.0 * 4**step for step in range(12)), 5.0 * 1024**3)
"""Bytes: from 1 KiB in steps of four to 4 GiB, and the largest single upload."""


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name=f"s3proxy_{name}_total", type="counter", help=text, labels=labels)


def _gauge(name: str, text: str, *labels: str, merge: str = "sum", transient: bool = False) -> Family:
    return Family(
        name=f"s3proxy_{name}", type="gauge", help=text, labels=labels, merge=merge, transient=transient
    )  # fmt: skip


def _histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str, hidden: bool = False) -> Family:
    return Family(name=f"s3proxy_{name}", type="histogram", help=text, labels=labels, bounds=bounds, hidden=hidden)


FAMILIES: Final[tuple[Family, ...]] = (
    # What the cache is worth.
    _gauge(
        "cache_hit_rate_ratio", "Object reads answered without a body from S3, of all object reads.", "window",
        merge="ratio",
    ),
    _gauge(
        "cache_byte_hit_rate_ratio", "Body bytes of object reads that did not come from S3, of all sent.", "window",
        merge="ratio",
    ),
    _gauge(
        "ram_cache_hit_rate_ratio", "Looks for a body in memory that found it, of all such looks.", "window",
        merge="ratio",
    ),
    _counter("s3_requests_saved", "Requests that S3 was not asked for.", "operation"),
    _counter("s3_saved_bytes", "Body bytes delivered to clients that S3 did not have to send."),
    _counter(
        "estimated_savings_dollars", "Estimate of what requests and bytes that were saved would have cost.",
        "component",
    ),
    # Identity and health.
    _gauge(
        "build_info", "Versions of the program and of what runs it; always 1.", "version", "python", "twisted",
        "commit", merge="max",
    ),
    _gauge(
        "instance_info", "Which instance this is; always 1.", "instance_id", "hostname", "mode", merge="max",
    ),
    _gauge("start_time_seconds", "Unix time of the start of this instance.", merge="min"),
    _gauge("health_status", "1 for the present state of the whole, 0 for the other states.", "status", merge="max"),
    _gauge("health_component_status", "1 healthy, 0.5 degraded, 0 unhealthy.", "component", merge="min"),
    _gauge("ready", "1 while traffic is welcome.", merge="min"),
    # Clients.
    _counter("http_requests", "Client requests that ended.", "operation", "code", "source"),
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
    _histogram("http_response_size_bytes", "Body bytes of an answer, as far as they were sent.", SIZE_BOUNDS, "source"),
    _gauge("http_requests_in_flight", "Client requests being answered, before and behind the first byte.", "phase"),
    _counter("http_client_aborts", "Answers that clients did not wait for.", "phase", "source"),
    _counter("stalls", "Transfers ended because the other side made no progress.", "side"),
    _counter("requests_shed", "Requests answered 503 SlowDown, and connections closed as too many.", "reason"),
    _counter("requests_denied", "Requests refused because of what they are or where they lead.", "reason"),
    _gauge("client_connections", "Open client connections.", "listener"),
    _counter("client_connections_opened", "Client connections accepted.", "listener"),
    _counter("tls_handshakes", "TLS handshakes with clients that ended.", "listener", "result"),
    _gauge(
        "tls_certificate_not_after_timestamp_seconds", "Unix time at which the listener's certificate expires.",
        "listener", merge="min",
    ),
    _gauge("request_permits_held", "Requests that hold one of the permits."),
    _gauge("request_permits_limit", "How many permits there are."),
    _gauge("request_permits_held_max", "Most permits that were held at once since the start."),
    _histogram("request_permit_hold_seconds", "How long a request keeps its permit.", REQUEST_BOUNDS),
    _gauge("buffer_reserved_bytes", "Memory that bodies take on their way to the disk and to slow readers."),
    _gauge("buffer_limit_bytes", "How much they may take; 0 is no limit."),
    _gauge("buffer_reserved_max_bytes", "Most that they took at once since the start."),
    _gauge("buffer_waiting", "Downloads that wait until there is memory for their bodies."),
    _counter("buffer_aborts", "Bodies for which there was no room."),
    # Tunnels: TLS that is passed through, and CONNECT.
    _counter("passthrough_connections", "Connections to the passthrough, by how they ended.", "result"),
    _counter(
        "passthrough_bytes", "Bytes that the passthrough has carried to clients (sent) and from them.", "direction",
    ),
    _gauge("tunnels", "Open tunnels.", "listener"),
    _counter("tunnels_opened", "Tunnels that were opened.", "listener"),
    _counter("tunnels_ended", "Tunnels, and attempts to get one, that ended.", "listener", "reason"),
    _counter(
        "tunnel_bytes", "Bytes that tunnels have carried to clients (sent) and from them.", "listener", "direction",
    ),
    # Cache.
    _counter(
        "cache_lookups", "Looks at a tier: for bodies, and for the descriptions of objects (meta).", "tier",
        "operation_group", "result",
    ),
    # The directory is shared, memory is not.
    attrs.evolve(
        _gauge("cache_size_bytes", "Bytes in use; write is a part of disk.", "tier", merge="max"),
        exceptions={"ram": "sum"},
    ),
    attrs.evolve(_gauge("cache_limit_bytes", "Bytes allowed.", "tier", merge="max"), exceptions={"ram": "sum"}),
    _gauge("cache_objects", "Objects in the cache directory, as of the last count.", merge="max"),
    _gauge("cache_ranges", "Files with bodies or parts of them, as of the last count.", merge="max"),
    _gauge("cache_metadata_entries", "Descriptions of objects in memory."),
    _gauge("cache_metadata_entries_limit", "How many there may be."),
    _gauge("ram_cache_pieces", "Copies of ranges in memory."),
    _gauge("volume_free_bytes", "Bytes that are free in the file system.", "volume", merge="min"),
    _gauge("volume_size_bytes", "Bytes of the file system.", "volume", merge="max"),
    _gauge("volume_free_inodes", "Files that can still be made in the file system.", "volume", merge="min"),
    _counter("cache_evictions", "Entries dropped.", "tier", "reason"),
    _counter("cache_evicted_bytes", "Bytes freed by dropping entries.", "tier"),
    _counter("cache_fills", "Attempts to keep a body, by their end.", "origin", "result"),
    _counter("cache_fill_bytes", "Bytes kept.", "origin"),
    _counter("cache_bypass", "Object reads and listings in which the cache had no part.", "reason"),
    _counter("cache_revalidations", "Questions to S3 whether an entry is current.", "trigger", "result"),
    _counter("cache_invalidations", "Entries made invalid.", "reason"),
    _counter("cache_range_gaps", "Reads for which some bytes were in the cache and others had to come from S3."),
    _counter("cache_errors", "Faults of what is stored and of the storage; requests were served without it.", "kind"),
    _counter("cache_repairs", "Faults of the cache directory that were repaired.", "kind"),
    _counter("cache_parts", "Reads of single parts of an object.", "result"),
    _histogram("cache_operation_duration_seconds", "Calls to the storage.", STORAGE_BOUNDS, "op"),
    _histogram("cache_metadata_file_bytes", "Stored descriptions that were read.", SIZE_BOUNDS),
    _counter("cache_purges", "Orders of operators to remove what is cached.", "scope", "result"),
    # Writes.
    _counter("write_cache_puts", "Uploads of objects and parts, by whether they were kept.", "result"),
    _histogram("write_cache_put_size_bytes", "Uploads that were kept.", SIZE_BOUNDS),
    _histogram("write_cache_put_duration_seconds", "How long they took.", REQUEST_BOUNDS),
    _counter("write_cache_hits", "Reads of objects that were kept when they were written and that nobody had read."),
    _gauge("multipart_uploads_in_progress", "Multipart uploads that began here and have not ended."),
    _counter("multipart_uploads_evicted", "Unfinished multipart uploads that were given up."),
    # Sharing one download.
    _counter("coalesce_waits", "Requests that waited for another one's answer, by what came of it.", "outcome"),
    _histogram("coalesce_wait_seconds", "How long they waited.", WAIT_BOUNDS, "outcome"),
    _counter("coalesce_fetches", "Requests to S3 that others may wait for.", "result"),
    _counter("coalesce_saved_fetches", "Answers that took their bytes from another client's fetch."),
    _gauge("coalesce_in_flight", "Requests at S3 that others may wait for (leader), and requests that wait.", "role"),
    _counter("hedges", "Second requests for answers that were late, by what became of them.", "outcome"),
    # Pages.
    _counter("page_requests", "Reads of objects that are to be read in pages.", "outcome"),
    _counter("page_bytes", "Bytes that such reads asked for, and that were fetched beyond them.", "kind"),
    _counter("page_promotions", "Ranges that were used often enough to be copied into memory.", "result"),
    _counter("compression_objects", "Stored bodies that were made smaller, or left as they are.", "result"),
    _counter("compression_bytes", "What the files of those that were made smaller took before, and after.", "stage"),
    # Rules and buckets.
    _gauge("rules_loaded", "Cache rules in force.", merge="max"),
    _gauge(
        "rules_on_fallback", "1 while the file of cache rules can't be used and the rules before it are in force.",
        merge="max",
    ),
    _counter("rules_reloads", "Versions of the file of cache rules that were read.", "result"),
    _gauge("rules_last_success_timestamp_seconds", "Unix time at which the rules in force were read.", merge="min"),
    _counter(
        "rule_requests", "Requests by the first rule that fits (its number, from 0), the first 100 rules.", "rule",
        "operation_group", "result",
    ),
    _counter("bucket_requests", "Requests, by bucket and configured prefix.", "bucket", "prefix", "operation"),
    _counter("bucket_sent_bytes", "Body bytes sent to clients.", "bucket", "prefix"),
    _counter("bucket_saved_bytes", "Those of them that S3 did not have to send.", "bucket", "prefix"),
    _counter("bucket_received_bytes", "Body bytes received from clients.", "bucket", "prefix"),
    _gauge("bucket_overflow", "1 once there are more buckets than have series of their own.", merge="max"),
    # Upstream.
    _counter("upstream_requests", "Requests that S3 answered.", "operation_group", "code"),
    _histogram(
        "upstream_first_byte_seconds", "From a request to S3 to the head of its answer.", FIRST_BYTE_BOUNDS,
        "operation_group",
    ),
    _histogram(
        "upstream_request_duration_seconds", "From a request to S3 to the end of its answer.", REQUEST_BOUNDS,
        "operation_group",
    ),
    _histogram("upstream_connect_seconds", "Steps on the way to a connection to S3.", CONNECT_BOUNDS, "phase"),
    _counter("upstream_bytes", "Body bytes from and to S3.", "direction"),
    _counter("upstream_errors", "Requests that S3 did not answer, or not to the end.", "kind"),
    _counter("upstream_retries", "Requests sent to S3 again, by how far the attempt before had come.", "reason"),
    _gauge("upstream_in_flight", "Requests at S3."),
    _gauge("upstream_connections", "Open connections to S3.", "endpoint", "state", transient=True),
    _counter("upstream_connections_opened", "Connections to S3 that were made.", "endpoint"),
    _counter("upstream_connections_reused", "Requests that found an idle connection.", "endpoint"),
    _counter("upstream_connections_closed", "Connections to S3 that ended.", "reason"),
    _counter("upstream_tls_resumptions", "Connections to S3 whose TLS handshake took up an earlier session."),
    _gauge("upstream_connections_limit", "Connections to S3 that may be open at once; 0 is no limit."),
    _gauge("upstream_requests_waiting", "Requests that wait for a connection to S3."),
    _counter("upstream_waits", "Requests that found all connections to S3 in use."),
    _counter("upstream_waits_refused", "Those of them that got no connection."),
    _gauge("upstream_ips", "Addresses of S3 that are known.", "endpoint", "state", merge="max", transient=True),
    _gauge("upstream_ip_up", "1 while the address is in use, 0 while it is left out.", "endpoint", "ip", merge="min",
           transient=True),
    _counter("upstream_ip_exclusions", "Addresses left out because they kept failing.", "endpoint"),
    _counter("upstream_ip_probes", "Connections made to find out whether an excluded address answers.", "result"),
    _counter("dns_refreshes", "Names that were looked up.", "result"),
    # Coordination and upkeep.
    _counter("lock_acquisitions", "Rights to store an object's next version that were asked for.", "lock", "result"),
    _counter("lock_stale", "Such rights whose owner showed no sign of life.", "lock", "action"),
    _counter("eviction_runs", "Times that room was made in the cache directory.", "result"),
    _histogram("eviction_duration_seconds", "How long that took.", RUN_BOUNDS),
    _gauge("eviction_last_run_timestamp_seconds", "Unix time of the last one; 0 before the first.", merge="max"),
    _counter("scrub_files", "Stored files that were compared with their checksums because it was time to."),
    _counter("scrub_bytes", "Bytes of them."),
    _counter("scrub_damaged", "Stored files that this found damaged and put aside."),
    _gauge(
        "size_drift_bytes",
        "By how much the accounts of the cache directory were over what the last count found; negative: under it.",
    ),
    _gauge("cluster_instances", "Instances on this cache directory.", "state", merge="max"),
    # The limit on downloads.
    _gauge("qos_enabled", "1 while downloads from S3 have a common limit.", merge="max"),
    _gauge("qos_limit_bytes_per_second", "Bytes per second that this instance may download; 0 is no limit."),
    _gauge("qos_waiting", "Downloads that wait for their turn."),
    _counter("qos_class_bytes", "Bytes of downloads under the limit, by whose they are.", "class"),
    _counter("qos_failopen", "Turns that were given early.", "reason"),
    _histogram("qos_wait_seconds", "How long downloads waited for a turn.", WAIT_BOUNDS),
    # The process.
    _counter("log_messages", "Lines of the application log.", "level"),
    _counter("log_messages_lost", "Lines of the application log that could not be written."),
    _counter("access_log_records", "Lines of the access log.", "result"),
    _gauge("access_log_buffer_records", "Lines of the access log that are not yet written."),
    _counter("log_write_errors", "Attempts to write a log that failed.", "log"),
    _counter("log_files_deleted", "Log files removed because their time was over.", "kind", "owner"),
    _histogram("reactor_lag_seconds", "How late the event loop runs a timer.", LAG_BOUNDS),
    _gauge("threadpool_threads", "Threads for blocking work.", "pool", "state"),
    _gauge("threadpool_queue_length", "Calls that wait for a thread.", "pool"),
    _histogram("threadpool_wait_seconds", "How long calls wait for a thread.", LAG_BOUNDS, "pool"),
    _gauge("scrape_duration_seconds", "Time that the last reading took.", "collector", merge="max"),
    _counter("scrape_errors", "Readings that failed.", "collector"),
    _counter("otlp_exports", "Exports by OTLP.", "result"),
    _gauge("dashboard_clients", "Open event streams of the dashboard."),
    # For the summary of the JSON document.
    Family(
        name="s3proxy_recent_requests_per_second", type="gauge", help="Over the last minute.", hidden=True,
    ),
    _histogram("recent_first_byte_seconds", "Of the last five minutes.", FIRST_BYTE_BOUNDS, "source", hidden=True),
    _histogram("recent_request_duration_seconds", "Of the last five minutes.", REQUEST_BOUNDS, "source", hidden=True),
)
"""In the order in which they are shown."""
