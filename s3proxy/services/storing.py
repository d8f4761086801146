"""What the store and the threads that work for it have counted, as readings for the metrics."""

from collections.abc import Iterator

from s3proxy.storage.disk import DiskStore
from s3proxy.storage.diskio import DiskIO
from s3proxy.storage.scrub import Scrub
from s3proxy.telemetry.counts import totals
from s3proxy.telemetry.instruments import Reading, Spread

__all__ = ["disk_readings", "store_readings", "upkeep_readings"]

_FAULTS = {"metadata": "metadata_corrupt", "range": "range_corrupt", "missing": "range_missing"}
_REPAIRS = ("orphan_file",)


def disk_readings(disk: DiskIO) -> Iterator[Reading | Spread]:
    """Of the threads for blocking calls to the storage."""
    yield Reading("s3proxy_threadpool_threads", disk.busy, ("disk", "busy"))
    yield Reading("s3proxy_threadpool_threads", disk.idle, ("disk", "idle"))
    yield Reading("s3proxy_threadpool_queue_length", disk.queued, ("disk",))
    yield Spread("s3proxy_threadpool_wait_seconds", disk.waits, ("disk",))


def store_readings(store: DiskStore) -> Iterator[Reading | Spread]:
    """Of the cache directory."""
    counts, ledger, evictor = store.volume.counts, store.volume.ledger, store.evictor
    yield Reading("s3proxy_cache_size_bytes", store.usage(), ("disk",))
    yield Reading("s3proxy_cache_size_bytes", store.unread(), ("write",))
    yield Reading("s3proxy_cache_limit_bytes", ledger.unread_limit, ("write",))
    yield Reading("s3proxy_cache_evictions_total", evictor.evicted_items, ("disk", "capacity"))
    yield Reading("s3proxy_cache_evicted_bytes_total", evictor.evicted_bytes, ("disk",))
    yield from totals("s3proxy_eviction_runs_total", counts.evictions, ("done", "failed"))
    yield Spread("s3proxy_eviction_duration_seconds", counts.eviction_seconds)
    yield Reading("s3proxy_eviction_last_run_timestamp_seconds", counts.evicted_at)
    yield Reading("s3proxy_multipart_uploads_evicted_total", counts.expired_uploads)
    yield Reading("s3proxy_lock_stale_total", counts.broken_leases, ("entry", "broken"))
    yield from totals("s3proxy_cache_repairs_total", counts.repairs, _REPAIRS)
    yield Reading("s3proxy_compression_objects_total", counts.packed, ("compressed",))
    yield Reading("s3proxy_compression_objects_total", counts.not_packed, ("stored",))
    yield Reading("s3proxy_compression_bytes_total", counts.packed_before, ("before",))
    yield Reading("s3proxy_compression_bytes_total", counts.packed_after, ("after",))
    for kind, word in _FAULTS.items():
        yield Reading("s3proxy_cache_errors_total", counts.faults[kind], (word,))
    for operation, seconds in counts.seconds.items():
        yield Spread("s3proxy_cache_operation_duration_seconds", seconds, (operation,))


def upkeep_readings(store: DiskStore, scrub: Scrub) -> Iterator[Reading]:
    """Of who looks after the cache directory for all processes."""
    yield Reading("s3proxy_scrub_files_total", scrub.files)
    yield Reading("s3proxy_scrub_bytes_total", scrub.read)
    yield Reading("s3proxy_scrub_damaged_total", scrub.damaged)
    yield Reading("s3proxy_size_drift_bytes", store.volume.ledger.drift)
