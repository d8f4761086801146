"""Which keys do nothing, and why: features that come later, mechanisms that do not exist, keys of the past.

A feature leaves FEATURES when it runs; nothing else has to change.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import attrs

from s3proxy.config.model import Config
from s3proxy.config.schema import Given, keys

__all__ = [
    "DEPRECATED", "FEATURES", "Feature", "NOT_NEEDED", "RETIRED", "feature_of", "inactive_features", "is_not_needed",
    "remarks", "rule_remarks",
]

_STORAGE = "cache.shared_storage"


@attrs.frozen
class Feature:
    """Something that does not run yet.

    :ivar name: for people
    :ivar keys: dotted paths of keys and of whole sections that have no effect without it
    :ivar wanted: whether a configuration asks for it; None when nothing but rules or tuning does
    :ivar rule_fields: what rules may set that has no effect without it
    """

    name: str
    keys: tuple[str, ...]
    wanted: Callable[[Config], bool] | None = None
    rule_fields: tuple[str, ...] = ()


#: Empty when everything runs.
FEATURES: tuple[Feature, ...] = ()

#: Keys whose mechanism does not exist here: there are no locks to tune, no journals, no shards, no polling.
NOT_NEEDED: tuple[str, ...] = (
    "server.write_cache_tee_channel_depth",
    "cache.max_complete_body_bytes",
    "cache.ram_cache_shard_count",
    "cache.ram_cache_flush_interval",
    "cache.ram_cache_flush_threshold",
    "cache.ram_cache_flush_on_eviction",
    "cache.ram_cache_verification_interval",
    "cache.full_object_check_threshold",
    "cache.disk_streaming_threshold",
    "cache.max_metadata_file_bytes",
    f"{_STORAGE}.lock_timeout",
    f"{_STORAGE}.lock_refresh_interval",
    f"{_STORAGE}.lock_max_retries",
    f"{_STORAGE}.metadata_lock_timeout_ms",
    f"{_STORAGE}.consolidation_interval",
    f"{_STORAGE}.consolidation_size_threshold",
    f"{_STORAGE}.consolidation_cycle_timeout",
    f"{_STORAGE}.recovery_max_concurrent",
    f"{_STORAGE}.orphan_recovery_enabled",
    f"{_STORAGE}.orphan_recovery_interval",
    f"{_STORAGE}.orphan_scan_timeout",
    f"{_STORAGE}.orphan_max_per_cycle",
    "cache.download_coordination.wait_timeout_secs",
    "cache.download_coordination.max_waiter_resubscriptions",
    "cache.initialization",
    "cache.metadata_cache.enabled",
    "cache.metadata_cache.stale_handle_max_retries",
    "connection_pool.pool_check_interval",
    "metrics.collection_interval",
)

#: Keys that still load, do nothing, and should be removed from files.
DEPRECATED: tuple[str, ...] = (
    "server.max_buffered_request_body_bytes",
    "cache.eviction_buffer_percent",
    "connection_pool.max_connections_per_ip",
    "metrics.include_cache_stats",
    "metrics.include_compression_stats",
    "metrics.include_connection_stats",
    "dashboard.max_log_entries",
)

#: Keys that are no longer part of the model: what to say when a file has them. Their values do not matter.
RETIRED: dict[str, str] = {
    "server.https_mode": "ignored: port 443 is always passed through",
    "compression.content_aware": "ignored: what does not compress is always recognised",
    f"{_STORAGE}.enabled": "ignored: the cache directory can always be shared",
    f"{_STORAGE}.size_tracking_flush_interval": "ignored: the key has no meaning any more",
    f"{_STORAGE}.size_tracking_buffer_size": "ignored: the key has no meaning any more",
}


def _covers(prefixes: Iterable[str], path: str) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def feature_of(path: str) -> Feature | None:
    """The feature without which this key has no effect, if it does not run yet."""
    return next((feature for feature in FEATURES if _covers(feature.keys, path)), None)


def rule_remarks(fields: Collection[str]) -> Iterator[str]:
    """What is to be said about fields that rules set, and that do nothing yet."""
    for feature in FEATURES:
        idle = [field for field in feature.rule_fields if field in fields]
        if idle:
            yield f"no effect yet, {feature.name} comes with a later release: {', '.join(idle)}"


def is_not_needed(path: str) -> bool:
    """Whether the key is accepted and never has an effect."""
    return _covers(NOT_NEEDED, path)


def inactive_features(config: Config) -> tuple[str, ...]:
    """The names of what the configuration asks for, by its defaults too, and what does not run yet."""
    return tuple(feature.name for feature in FEATURES if feature.wanted is not None and feature.wanted(config))


def remarks(config: Config, given: Mapping[str, Given]) -> Iterator[tuple[str, str]]:
    """Level and text of what is to be said, once, about keys that were set away from their defaults and do nothing."""
    changed = [key.path for key in keys(Config) if key.path in given and given[key.path].value != key.default]
    for path in changed:
        if path in DEPRECATED:
            yield "warn", f"{given[path].origin}: {path}: deprecated and without effect; remove the key"
    for feature in FEATURES:
        idle = [path for path in changed if _covers(feature.keys, path) and path not in DEPRECATED]
        if idle and (feature.wanted is None or feature.wanted(config)):
            yield "warn", f"no effect yet, {feature.name} comes with a later release: {', '.join(idle)}"
    unneeded = [path for path in changed if is_not_needed(path)]
    if unneeded:
        yield "info", f"accepted, not needed here: {', '.join(unneeded)}"
