"""What the store counts and times, in whatever thread."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from s3proxy.telemetry.families import RUN_BOUNDS, STORAGE_BOUNDS
from s3proxy.telemetry.instruments import Histogram

__all__ = ["OPERATIONS", "StoreCounts"]

OPERATIONS: Final = ("meta_read", "meta_write", "range_read", "range_write", "delete", "scan")
"""What is timed."""


class StoreCounts:
    """Thread-safe to change. Whoever reads may be one step behind.

    :ivar seconds: of calls, by operation
    :ivar evictions: times that room was made, done or failed
    :ivar eviction_seconds: how long that took
    :ivar evicted_at: Unix time of the last one
    :ivar faults: damaged files, by kind: metadata, range or missing
    :ivar repairs: what scans removed, by kind
    :ivar expired_uploads: unfinished uploads that were given up
    :ivar packed: bodies that were made smaller, whose files had
    :ivar packed_before: bytes, and have
    :ivar packed_after: now
    :ivar not_packed: bodies for which it was not worth it
    :ivar broken_leases: rights to publish that were taken from owners without a sign of life
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds = {operation: Histogram(STORAGE_BOUNDS) for operation in OPERATIONS}
        self.evictions: "Counter[str]" = Counter()
        self.eviction_seconds = Histogram(RUN_BOUNDS)
        self.evicted_at = 0.0
        self.faults: "Counter[str]" = Counter()
        self.repairs: "Counter[str]" = Counter()
        self.expired_uploads = 0
        self.broken_leases = 0
        self.packed = self.not_packed = 0
        self.packed_before = self.packed_after = 0

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """Around one of :data:`OPERATIONS`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.took(operation, time.perf_counter() - began)

    def took(self, operation: str, seconds: float) -> None:
        """One of :data:`OPERATIONS` is over."""
        with self._lock:
            self.seconds[operation].observe(seconds)

    @contextmanager
    def eviction(self, now: float) -> Iterator[None]:
        """Around making room."""
        began = time.perf_counter()
        result = "failed"
        try:
            yield
            result = "done"
        finally:
            with self._lock:
                self.evictions[result] += 1
                self.eviction_seconds.observe(time.perf_counter() - began)
                self.evicted_at = now

    def damaged(self, kind: str) -> None:
        """A file is not what was stored: metadata, range or missing (bytes at its end)."""
        with self._lock:
            self.faults[kind] += 1

    def repaired(self, kind: str, count: int = 1) -> None:
        """A scan removed what nobody can use."""
        with self._lock:
            self.repairs[kind] += count

    def upload_expired(self) -> None:
        """An unfinished upload was given up."""
        with self._lock:
            self.expired_uploads += 1

    def made_smaller(self, before: int, after: int) -> None:
        """A body was encoded; its file had so many bytes, and has so many now."""
        with self._lock:
            self.packed += 1
            self.packed_before += before
            self.packed_after += after

    def left_as_it_is(self) -> None:
        """A body was not worth encoding."""
        with self._lock:
            self.not_packed += 1

    def lease_broken(self) -> None:
        """A right to publish was taken from an owner without a sign of life."""
        with self._lock:
            self.broken_leases += 1
