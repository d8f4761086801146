"""The configuration as values: one frozen class per section, with every key, its bounds and its default.

Defaults stand here and nowhere else; ``Config()`` is all of them. Durations are floats in seconds, sizes are bytes,
lists are tuples, mappings cannot be changed. Values are checked when an object is made; rules that join several keys
are in :mod:`s3proxy.config.check`. What each key does is said in doc/configuration.md.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

import attrs

from s3proxy.config.addresses import (
    host_and_port,
    host_pattern,
    ip_address,
    ip_and_port,
    overridden_host,
    override_target,
)
from s3proxy.config.collection_kinds import EntryMap, Listing, ListMap, TextMap
from s3proxy.config.kinds import Duration, Flag, Integer, Kind, Nullable, Number, Workers
from s3proxy.config.schema import read_entry, section, setting
from s3proxy.config.text_kinds import Checked, Choice, Path, Pattern

__all__ = [
    "Admin", "Cache", "CallerId", "Compression", "Config", "ConnectionPool", "Dashboard", "DownloadBandwidth",
    "DownloadCoordination", "Fleet", "Health", "HedgedRequests", "Initialization", "Logging", "MetadataCache",
    "Metrics", "Otlp", "PerBucket", "Server", "SharedStorage", "Tls", "UpstreamOverride",
]

_KIB = 1024
_MIB = 1024 * _KIB
_GIB = 1024 * _MIB

_FLAG = Flag()
_BYTES = Integer()
_COUNT = Integer()
_TTL = Duration()
_TIMEOUT = Duration(positive=True)
_PORT = Integer(0, 65535, ceiling=65535)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


def _server_address(text: str) -> str | None:
    return ip_address(text) or ip_and_port(text)


def _url_path(text: str) -> str | None:
    return text if re.fullmatch(r"/[!-~]*", text) and not set("?#") & set(text) else None


def _http_url(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return text if usable and re.fullmatch(r"[!-~]+", text) else None


def _header_name(text: str) -> str | None:
    return text if _TOKEN.fullmatch(text) else None


def _bucket(text: str) -> str | None:
    return text if text and "/" not in text else None


def _not_empty(text: str) -> str | None:
    return text or None


_IP: Kind = Checked(ip_address, "an IP address", "is not an IP address")
_ENDPOINT: Kind = Checked(_url_path, "a path that begins with /", "is not a path of a URL")


@attrs.frozen(kw_only=True)
class Tls:
    """server.tls: the caching listener that terminates TLS."""

    enabled: bool = setting(_FLAG, False)
    tls_proxy_port: int = setting(Integer(1, 65535, ceiling=65535), 3129)
    cert_path: str = setting(Path(empty=True), "")
    key_path: str = setting(Path(empty=True), "")
    #: None: no list is in force.
    connect_allowlist: tuple[str, ...] | None = setting(
        Nullable(Listing(host_pattern, "a host name or *. and a host name")), None)


@attrs.frozen(kw_only=True)
class Server:
    """server: listeners for traffic, and limits on requests."""

    mode: str = setting(Choice(("standard", "proxy_only")), "standard")
    http_port: int = setting(_PORT, 80)
    https_port: int = setting(_PORT, 443)
    proxy_port: int = setting(_PORT, 3128)
    #: Empty: all addresses of the host, IPv6 and IPv4.
    bind_addresses: tuple[str, ...] = setting(Listing(ip_address, "an IP address"), ())
    workers: int | Literal["auto"] = setting(Workers(), "auto")
    max_concurrent_requests: int = setting(Integer(1), 1000)
    #: 0: no limit.
    max_concurrent_tunnels: int = setting(_COUNT, 10000)
    request_timeout: float = setting(_TIMEOUT, "30s")
    drain_timeout: float = setting(Duration("0s", "1h"), "30s")
    add_referer_header: bool = setting(_FLAG, True)
    max_buffered_request_body_bytes: int = setting(_BYTES, 5 * _GIB)
    write_cache_tee_channel_depth: int = setting(Integer(1), 5)
    max_inflight_buffer_bytes: int = setting(Integer(_MIB, zero=True), 0)
    tls: Tls = section(Tls)


@attrs.frozen(kw_only=True)
class SharedStorage:
    """cache.shared_storage: what instances on one cache directory agree on."""

    lock_timeout: float = setting(Duration("10s", "300s"), "60s")
    lock_refresh_interval: float = setting(Duration("5s", "120s"), "30s")
    lock_max_retries: int = setting(Integer(1, 20), 5)
    #: Milliseconds, as the name says.
    metadata_lock_timeout_ms: int = setting(_COUNT, 30000)
    eviction_lock_timeout: float = setting(Duration("30s", "3600s"), "60s")
    consolidation_interval: float = setting(Duration("1s", "60s"), "5s")
    consolidation_size_threshold: int = setting(Integer(102400, 10485760), 1048576)
    consolidation_cycle_timeout: float = setting(_TTL, "30s")
    validation_frequency: float = setting(Duration("1h", "168h", grain=3600), "23h")
    validation_max_duration: float = setting(Duration("600s", "82800s"), "4h")
    validation_threshold_warn: float = setting(Number(0, 100), 5.0)
    validation_threshold_error: float = setting(Number(0, 100), 20.0)
    recovery_max_concurrent: int = setting(Integer(1, 16), 4)
    orphan_recovery_enabled: bool = setting(_FLAG, True)
    orphan_recovery_interval: float = setting(Duration("60s", "3600s"), "300s")
    orphan_scan_timeout: float = setting(Duration("5s", "300s"), "30s")
    orphan_max_per_cycle: int = setting(Integer(10, 1000), 100)


@attrs.frozen(kw_only=True)
class DownloadCoordination:
    """cache.download_coordination: one download for concurrent misses."""

    enabled: bool = setting(_FLAG, True)
    #: Seconds.
    wait_timeout_secs: int = setting(Integer(5, 120, outside="clamp"), 30)
    max_waiter_resubscriptions: int = setting(_COUNT, 3)


@attrs.frozen(kw_only=True)
class Initialization:
    """cache.initialization: the walk over the cache directory at start."""

    parallel_scan: bool = setting(_FLAG, True)
    scan_timeout: float = setting(Duration("5s", "300s"), "30s")
    progress_logging: bool = setting(_FLAG, True)


@attrs.frozen(kw_only=True)
class MetadataCache:
    """cache.metadata_cache: entries held in memory."""

    enabled: bool = setting(_FLAG, True)
    refresh_interval: float = setting(Duration("1s", "300s"), "5s")
    max_entries: int = setting(Integer(100, 1000000), 100000)
    stale_handle_max_retries: int = setting(Integer(1, 10), 3)


@attrs.frozen(kw_only=True)
class Cache:
    """cache: what is kept, how long, in how much space."""

    cache_dir: str = setting(Path(home=True), "/cache")
    max_cache_size: int = setting(_BYTES, 10 * _GIB)
    ram_cache_enabled: bool = setting(_FLAG, True)
    #: As configured; see :func:`s3proxy.config.check.effective_ram_cache_size`.
    max_ram_cache_size: int = setting(_BYTES, _GIB)
    ram_cache_shard_count: int = setting(Integer(1, 256), 8)
    ram_cache_flush_interval: float = setting(Duration(soft=("10s", "600s")), "10s")
    ram_cache_flush_threshold: int = setting(Integer(10, 10000, outside="default"), 100)
    ram_cache_flush_on_eviction: bool = setting(_FLAG, False)
    ram_cache_verification_interval: float = setting(Duration(soft=("1s", "60s")), "1s")
    small_object_bytes: int = setting(Integer(0, 16 * _MIB), 64 * _KIB)
    eviction_algorithm: str = setting(Choice(("lru", "tinylfu")), "tinylfu")
    #: Percent of max_cache_size at which eviction begins, and to which it goes down.
    eviction_trigger_percent: int = setting(Integer(50, 100, outside="clamp", ceiling=255), 95)
    eviction_target_percent: int = setting(Integer(50, 99, outside="clamp", ceiling=255), 80)
    eviction_buffer_percent: int = setting(Integer(0, 255, ceiling=255), 5)
    read_cache_enabled: bool = setting(_FLAG, True)
    write_cache_enabled: bool = setting(_FLAG, True)
    write_cache_percent: float = setting(Number(1, 50), 10.0)
    write_cache_max_object_size: int = setting(_BYTES, 256 * _MIB)
    put_ttl: float = setting(_TTL, "3600s")
    get_ttl: float = setting(_TTL, "60s")
    head_ttl: float = setting(_TTL, "60s")
    honor_cache_control: bool = setting(_FLAG, False)
    stale_if_error: float = setting(_TTL, "0s")
    incomplete_upload_ttl: float = setting(Duration(soft=("1h", "7d")), "1d")
    actively_remove_cached_data: bool = setting(_FLAG, False)
    max_complete_body_bytes: int = setting(_BYTES, 10 * _MIB)
    cache_bypass_headers_enabled: bool = setting(_FLAG, True)
    evaluate_conditions_from_cache: bool = setting(_FLAG, True)
    bucket_settings_staleness_threshold: float = setting(_TTL, "60s")
    range_merge_gap_threshold: int = setting(_BYTES, _MIB)
    full_object_check_threshold: int = setting(_BYTES, 64 * _MIB)
    disk_streaming_threshold: int = setting(_BYTES, _MIB)
    compression_batch_size: int = setting(Integer(64 * _KIB, 16 * _MIB), _MIB)
    #: Fraction of a range that must have arrived for its beginning to be kept.
    partial_range_commit_ratio: float = setting(Number(0, 1), 0.5)
    max_metadata_file_bytes: int = setting(_BYTES, 4 * _MIB)
    metadata_io_concurrency: int = setting(Integer(1), 32)
    #: 0: no scrubbing.
    scrub_interval: float = setting(_TTL, "24h")
    coordination: str = setting(Choice(("host", "cluster", "off")), "cluster")
    shared_storage: SharedStorage = section(SharedStorage)
    download_coordination: DownloadCoordination = section(DownloadCoordination)
    initialization: Initialization = section(Initialization)
    metadata_cache: MetadataCache = section(MetadataCache)


@attrs.frozen(kw_only=True)
class Logging:
    """logging: access log and application log."""

    access_log_dir: str = setting(Path(home=True), "/logs/access")
    app_log_dir: str = setting(Path(home=True), "/logs/app")
    access_log_enabled: bool = setting(_FLAG, True)
    access_log_mode: str = setting(Choice(("all", "cached_only")), "all")
    log_level: str = setting(Choice(("error", "warn", "info", "debug", "trace"), any_case=True), "info")
    access_log_flush_interval: float = setting(Duration("1s", "60s"), "5s")
    access_log_buffer_size: int = setting(Integer(100, 100000), 1000)
    access_log_retention_days: int = setting(Integer(1, 365), 30)
    app_log_retention_days: int = setting(Integer(1, 365), 30)
    log_cleanup_interval: float = setting(Duration("3600s", "604800s"), "24h")
    access_log_file_rotation_interval: float = setting(Duration("60s", "3600s"), "5m")
    access_log_format: str = setting(Choice(("s3", "s3-strict", "json")), "s3")
    access_log_requester: bool = setting(_FLAG, False)
    app_log_format: str = setting(Choice(("text", "json")), "text")


@attrs.frozen(kw_only=True)
class HedgedRequests:
    """connection_pool.hedged_requests: the budget of second requests."""

    max_inflight_fraction: float = setting(Number(0, 1), 0.1)


@attrs.frozen(kw_only=True)
class UpstreamOverride:
    """One entry of connection_pool.upstream_overrides: how this ``host:port`` is spoken to."""

    scheme: str = setting(Choice(("http", "https")))
    validate_tls: bool = setting(_FLAG, True)
    ca_file: str | None = setting(Nullable(Path()), None)


@attrs.frozen(kw_only=True)
class ConnectionPool:
    """connection_pool: names, addresses and connections on the way to S3."""

    #: IP addresses, or ``IP:port``; empty: public resolvers.
    dns_servers: tuple[str, ...] = setting(
        Listing(_server_address, "an IP address or IP:port", skip=True, needed=True), ())
    #: Lower-case host or ``*.suffix``, also with ``:port``, to IP addresses (IPv6 with a port in brackets) and host
    #: names, also with ``:port``.
    endpoint_overrides: Mapping[str, tuple[str, ...]] = setting(ListMap(
        overridden_host, "a host name, *. and a host name, or an IP address, also with a port",
        Listing(override_target, "an IP address, IP:port, host name or name:port", skip=True)), {})
    #: ``host:port``, lower case, IPv6 in brackets, to transport.
    upstream_overrides: Mapping[str, UpstreamOverride] = setting(EntryMap(
        host_and_port, "host:port", partial(read_entry, UpstreamOverride), UpstreamOverride), {})
    system_ca: bool = setting(_FLAG, True)
    dns_refresh_interval: float = setting(_TIMEOUT, "60s")
    pool_check_interval: float = setting(Duration("1s", "60s"), "10s")
    connection_timeout: float = setting(_TIMEOUT, "10s")
    idle_timeout: float = setting(Duration("10s", "300s"), "55s")
    keepalive_enabled: bool = setting(_FLAG, True)
    max_idle_per_host: int = setting(Integer(1, 500), 100)
    ip_distribution_enabled: bool = setting(_FLAG, True)
    max_idle_per_ip: int = setting(Integer(1, 100), 10)
    max_lifetime: float = setting(Duration("60s", "3600s"), "300s")
    #: Seconds.
    keepalive_idle_secs: int = setting(Integer(1, 32767), 15)
    #: Seconds.
    keepalive_interval_secs: int = setting(Integer(1, 32767), 5)
    keepalive_retries: int = setting(Integer(1, 127), 3)
    #: None: left to the kernel.
    tcp_recv_buffer_size: int | None = setting(Nullable(Integer(1, 2**31 - 1)), None)
    ip_failure_threshold: int = setting(Integer(1), 3)
    health_probe_initial_cooldown: float = setting(_TIMEOUT, "5s")
    health_probe_max_cooldown: float = setting(_TIMEOUT, "300s")
    max_registered_endpoints: int = setting(Integer(1), 10000)
    upstream_first_byte_timeout: float = setting(_TIMEOUT, "5s")
    upstream_idle_retries: int = setting(_COUNT, 2)
    upstream_idle_timeout: float = setting(_TIMEOUT, "5s")
    max_connections_per_ip: int = setting(_COUNT, 10)
    #: 0: no limit.
    max_connections: int = setting(_COUNT, 1024)
    hedged_requests: HedgedRequests = section(HedgedRequests)


@attrs.frozen(kw_only=True)
class Compression:
    """compression: of what is kept on disk."""

    enabled: bool = setting(_FLAG, True)
    threshold: int = setting(_BYTES, 1024)
    preferred_algorithm: str = setting(Choice(("lz4", "none")), "lz4")


@attrs.frozen(kw_only=True)
class Health:
    """health: the health listener."""

    enabled: bool = setting(_FLAG, True)
    endpoint: str = setting(_ENDPOINT, "/health")
    port: int = setting(_PORT, 8080)
    bind_address: str = setting(_IP, "0.0.0.0")
    check_interval: float = setting(_TTL, "30s")
    liveness_max_lag: float = setting(Duration("1s", "300s"), "10s")


@attrs.frozen(kw_only=True)
class Otlp:
    """metrics.otlp: export of metrics by OTLP over HTTP."""

    enabled: bool = setting(_FLAG, False)
    endpoint: str = setting(
        Checked(_http_url, "a URL with http or https", "is not a URL with http or https", empty=True, hides=True),
        "http://localhost:4318")
    export_interval: float = setting(_TIMEOUT, "60s")
    timeout: float = setting(_TIMEOUT, "10s")
    compression: str = setting(Choice(("none", "gzip")), "none")
    headers: Mapping[str, str] = setting(TextMap(_header_name, "a header name", hides=True), {})
    ca_file: str | None = setting(Nullable(Path()), None)
    per_bucket_enabled: bool = setting(_FLAG, False)


@attrs.frozen(kw_only=True)
class PerBucket:
    """metrics.per_bucket: series of single buckets and prefixes."""

    max_series: int = setting(_COUNT, 100)
    bucket_prefixes: Mapping[str, tuple[str, ...]] = setting(ListMap(
        _bucket, "a bucket name", Listing(_not_empty, "a prefix of at least one character", skip=True),
        keep_empty=True), {})


@attrs.frozen(kw_only=True)
class Metrics:
    """metrics: the metrics listener."""

    enabled: bool = setting(_FLAG, True)
    endpoint: str = setting(_ENDPOINT, "/metrics")
    port: int = setting(_PORT, 9090)
    bind_address: str = setting(_IP, "0.0.0.0")
    format: str = setting(Choice(("prometheus", "json")), "prometheus")
    collection_interval: float = setting(_TTL, "60s")
    include_cache_stats: bool = setting(_FLAG, True)
    include_compression_stats: bool = setting(_FLAG, True)
    include_connection_stats: bool = setting(_FLAG, True)
    otlp: Otlp = section(Otlp)
    per_bucket: PerBucket = section(PerBucket)


@attrs.frozen(kw_only=True)
class Dashboard:
    """dashboard: the dashboard's listener."""

    enabled: bool = setting(_FLAG, True)
    port: int = setting(Integer(1024, 65535, ceiling=65535), 8081)
    bind_address: str = setting(_IP, "127.0.0.1")
    cache_stats_refresh_interval: float = setting(Duration("1s", "300s"), "5s")
    logs_refresh_interval: float = setting(Duration("1s", "300s"), "10s")
    max_log_entries: int = setting(Integer(10, 10000), 100)
    allow_purge: bool = setting(_FLAG, False)


@attrs.frozen(kw_only=True)
class Admin:
    """admin: the socket that s3proxyctl speaks to."""

    enabled: bool = setting(_FLAG, True)
    #: Empty: see :func:`s3proxy.config.places.socket_directories`.
    socket: str = setting(Path(empty=True), "")


@attrs.frozen(kw_only=True)
class CallerId:
    """download_bandwidth.caller_id: who shares the bandwidth with whom."""

    enabled: bool = setting(_FLAG, False)
    validation_regex: str | None = setting(Nullable(Pattern()), None)
    max_len: int = setting(Integer(1), 64)


@attrs.frozen(kw_only=True)
class Fleet:
    """download_bandwidth.fleet: the instances among which the ceiling is divided."""

    fallback_instance_count: int = setting(Integer(1), 1)
    instance_staleness: float = setting(_TIMEOUT, "30s")
    refresh_interval: float = setting(Duration("10s"), "30s")


@attrs.frozen(kw_only=True)
class DownloadBandwidth:
    """download_bandwidth: a ceiling on what cache misses download."""

    #: Bytes per second of all instances together; 0: no ceiling.
    max_bytes_per_sec: int = setting(_BYTES, 0)
    max_tracked_classes: int = setting(_COUNT, 1024)
    caller_id: CallerId = section(CallerId)
    fleet: Fleet = section(Fleet)


@attrs.frozen(kw_only=True)
class Config:
    """The whole configuration."""

    server: Server = section(Server)
    cache: Cache = section(Cache)
    logging: Logging = section(Logging)
    connection_pool: ConnectionPool = section(ConnectionPool)
    compression: Compression = section(Compression)
    health: Health = section(Health)
    metrics: Metrics = section(Metrics)
    dashboard: Dashboard = section(Dashboard)
    admin: Admin = section(Admin)
    download_bandwidth: DownloadBandwidth = section(DownloadBandwidth)
