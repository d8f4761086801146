"""What is looked at on a timer, in a thread of its own, because it may hang: the directories, and who shares them.

=============  ===============================  =================================  ====================================
component      healthy                          degraded                           unhealthy
=============  ===============================  =================================  ====================================
storage        a file can be made, written,     that takes a second and more,      never: requests are answered from S3
               synchronised and removed         or is impossible
disk_space     there is room                    less than a tenth of the bytes,    nearly none for five minutes, in
                                                or a twentieth of the files, is    which nothing could be evicted
                                                left
cache_usage    up to the mark from which on     above it for more than two looks   above 110 % of the limit
               room is made
coordination   the directory's clock is ours,   the clocks differ by more than     never
               and our sign of life is seen     30 s, or no sign of life can be
                                                given
checks         the timer runs                   –                                  nothing was looked at for three
                                                                                   intervals
=============  ===============================  =================================  ====================================
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.admin.board import ComponentStatus, HealthComponent, HealthState
from s3proxy.config.model import Config
from s3proxy.services.cache import CacheService
from s3proxy.services.storing import upkeep_readings
from s3proxy.storage.census import Census
from s3proxy.storage.disk import DiskStore
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.thread import SerialThread

__all__ = ["Checks", "Found", "Space"]

PATIENCE: Final = 2.0
"""Seconds after which a look that is not over counts as a failure."""
LEAST_INTERVAL: Final = 1.0
"""Seconds between two looks, at least."""
SLOW: Final = 1.0
"""Seconds of a look at a directory that is slow."""
COUNTING: Final = 0.25
"""Seconds of each look that are spent on counting what is stored."""
FULL_FOR: Final = 300.0
"""Seconds with nearly no room after which something must be done."""
MOST_SKEW: Final = 30.0
"""Seconds by which the clock of the directory's file system may differ from ours."""

_FEW_BYTES: Final = 0.10
_FEW_FILES: Final = 0.05
_NEARLY_NONE: Final = 0.01
_DATA: Final = b"s3proxy" * 64


@attrs.frozen
class Space:
    """What a file system has, in bytes, and how many files it can take; 0 files: it does not say."""

    free: int
    size: int
    free_files: int
    files: int

    @classmethod
    def of(cls, path: str) -> "Space":
        """Of the file system of this directory. Blocks.

        :raises OSError: it does not answer
        """
        found = os.statvfs(path)
        unit = found.f_frsize
        return cls(found.f_bavail * unit, found.f_blocks * unit, found.f_favail, found.f_files)


@attrs.frozen(kw_only=True)
class Found:
    """What a look found.

    :ivar error: why the cache directory could not be written to; empty when it could
    :ivar seconds: that this took
    :ivar skew: seconds by which the file system's clock is before ours (negative: behind)
    :ivar space: by volume: cache, logs
    :ivar live: instances on the cache directory with a sign of life, and
    :ivar stale: without one
    """

    error: str = ""
    seconds: float = 0.0
    skew: float = 0.0
    space: dict[str, Space] = attrs.field(factory=dict)
    live: int = 0
    stale: int = 0


class Checks(Service):
    """See the module.

    :param now: unix seconds
    """

    log = Logger()

    def __init__(
        self, reactor: Any, config: Config, cache: CacheService, now: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self._reactor = reactor
        self._config = config
        self._cache = cache
        self._now = now
        self._interval = max(LEAST_INTERVAL, config.health.check_interval)
        self._thread = SerialThread(reactor, "health")
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._began: float | None = None
        self._ended = reactor.seconds()
        self._checked_at = 0.0
        self._above = 0
        self._full_since: float | None = None
        self._evicted = 0
        self._census: Census | None = None
        self.found = Found()

    def startService(self) -> None:
        """Look now, and again and again."""
        super().startService()
        self._ended = self._reactor.seconds()
        self._loop.start(self._interval).addErrback(self._failed)

    def stopService(self) -> None:
        """Look no more. A look under way ends unheard."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        self._thread.stop()

    def _failed(self, reason: Failure) -> None:
        self.log.failure("looking at the directories", reason)

    # Looking.

    def _look(self) -> None:
        """One look at a time: a directory that hangs holds up one thread."""
        if self._began is None:
            self._began = self._reactor.seconds()
            self._thread.run(self._examine).addCallbacks(self._take, self._took_nothing).addErrback(self._failed)
        self._note_usage()

    def _examine(self) -> Found:
        """In the thread."""
        cache, logs = self._config.cache.cache_dir, self._config.logging
        space: dict[str, Space] = {}
        error, seconds, skew = "", 0.0, 0.0
        live = stale = 0
        began = time.perf_counter()
        try:
            skew = _write(cache) - self._now()
            seconds = time.perf_counter() - began
            live, stale = self._instances()
            self._count()
        except OSError as problem:
            error = problem.strerror or str(problem)
            seconds = time.perf_counter() - began
        for volume, path in (("cache", cache), ("logs", logs.access_log_dir)):
            try:
                space[volume] = Space.of(path)
            except OSError:
                # What is wrong with the directory is said elsewhere.
                continue
        return Found(error=error, seconds=seconds, skew=skew, space=space, live=live, stale=stale)

    def _count(self) -> None:
        store = self._cache.store
        if store is not None:
            if self._census is None:
                self._census = Census(store.volume)
            self._census.step(COUNTING)

    def _instances(self) -> tuple[int, int]:
        store = self._cache.store
        if store is None:
            return 1, 0
        others = [store.volume.instance.is_alive(number) for number in store.volume.instance.others()]
        return 1 + sum(others), len(others) - sum(others)

    def _take(self, found: Found) -> None:
        self._over()
        self.found = found

    def _took_nothing(self, reason: Failure) -> None:
        self._over()
        self.log.failure("looking at the directories", reason)

    def _over(self) -> None:
        self._began = None
        self._ended = self._reactor.seconds()
        self._checked_at = self._now()

    def _note_usage(self) -> None:
        store = self._cache.store
        if store is not None:
            above = self._usage(store) > self._config.cache.eviction_trigger_percent / 100
            self._above = self._above + 1 if above else 0

    def _usage(self, store: DiskStore) -> float:
        limit = self._config.cache.max_cache_size
        return store.usage() / limit if limit else 0.0

    # Telling.

    def components(self) -> dict[str, HealthComponent]:
        """By name."""
        return {
            "storage": self._storage,
            "disk_space": self._disk_space,
            "cache_usage": self._cache_usage,
            "coordination": self._coordination,
            "checks": self._checks,
        }

    def _said(
        self, name: str, state: HealthState, text: str, data: "dict[str, object] | None" = None
    ) -> ComponentStatus:
        return ComponentStatus(
            name, state, text, data=data or {}, checked_at=self._checked_at, seconds=self.found.seconds
        )  # fmt: skip

    def _storage(self) -> ComponentStatus:
        found, manager, store = self.found, self._cache.manager, self._cache.store
        path = self._config.cache.cache_dir
        if manager is None or store is None:
            return self._said("storage", HealthState.DEGRADED, "The cache directory is not open.")
        data: dict[str, object] = {
            "directory": path,
            "seconds": round(found.seconds, 4),
            "damaged_files": sum(store.volume.counts.faults.values()),
        }
        error = manager.guard.last_error
        hanging = 0.0 if self._began is None else self._reactor.seconds() - self._began
        text = ""
        if hanging > PATIENCE:
            text = f"The cache directory {path} has not answered for {hanging:.0f} s"
        elif found.error:
            text = f"The cache directory {path} can't be written to: {found.error}"
        elif error is not None:
            text = f"The cache directory {path} failed: {error[1]}"
        if text:
            return self._said("storage", HealthState.DEGRADED, f"{text}; requests are answered from S3.", data)
        if found.seconds >= SLOW:
            text = f"The cache directory {path} is slow: a small file took {found.seconds:.1f} s."
            return self._said("storage", HealthState.DEGRADED, text, data)
        return self._said("storage", HealthState.HEALTHY, "", data)

    def _disk_space(self) -> ComponentStatus:
        space, store = self.found.space.get("cache"), self._cache.store
        path = self._config.cache.cache_dir
        if space is None or not space.size or store is None:
            return self._said("disk_space", HealthState.HEALTHY, "The file system does not say how much it has.")
        data: dict[str, object] = attrs.asdict(space)
        left, files = space.free / space.size, space.free_files / space.files if space.files else 1.0
        now, evicted = self._reactor.seconds(), store.evictor.evicted_bytes
        if left >= _NEARLY_NONE or evicted != self._evicted:
            self._full_since, self._evicted = None, evicted
        elif self._full_since is None:
            self._full_since = now
        remedy = "make room, or lower cache.max_cache_size"
        if self._full_since is not None and now - self._full_since >= FULL_FOR:
            text = f"The file system of {path} has been full for {(now - self._full_since) / 60:.0f} minutes; {remedy}."
            return self._said("disk_space", HealthState.UNHEALTHY, text, data)
        if left < _FEW_BYTES:
            text = f"{100 * left:.1f} % of the file system of {path} are free; {remedy}."
            return self._said("disk_space", HealthState.DEGRADED, text, data)
        if files < _FEW_FILES:
            text = f"The file system of {path} has room for {space.free_files} more files, {100 * files:.1f} % of all."
            return self._said("disk_space", HealthState.DEGRADED, text, data)
        return self._said("disk_space", HealthState.HEALTHY, "", data)

    def _cache_usage(self) -> ComponentStatus:
        store, limit = self._cache.store, self._config.cache.max_cache_size
        if store is None or not limit:
            return self._said("cache_usage", HealthState.DISABLED, "There is no limit.")
        used, share = store.usage(), self._usage(store)
        data: dict[str, object] = {"usage_bytes": used, "limit_bytes": limit}
        text = f"The cache takes {used} bytes, {100 * share:.0f} % of its limit: less is removed than comes in."
        if share > 1.1:
            return self._said("cache_usage", HealthState.UNHEALTHY, text, data)
        if self._above > 2:
            return self._said("cache_usage", HealthState.DEGRADED, text, data)
        return self._said("cache_usage", HealthState.HEALTHY, "", data)

    def _coordination(self) -> ComponentStatus:
        found = self.found
        skew = round(found.skew, 2)
        data: dict[str, object] = {"live": found.live, "stale": found.stale, "clock_skew_seconds": skew}
        if self._config.cache.coordination == "off":
            return self._said("coordination", HealthState.DISABLED, "", data)
        if found.error:
            text = f"No sign of life can be given: {found.error}."
            return self._said("coordination", HealthState.DEGRADED, text, data)
        if abs(found.skew) > MOST_SKEW:
            text = (
                f"The clock of the cache directory's file system is {abs(found.skew):.0f} s "
                f"{'before' if found.skew > 0 else 'behind'} this host's; synchronise them."
            )
            return self._said("coordination", HealthState.DEGRADED, text, data)
        return self._said("coordination", HealthState.HEALTHY, "", data)

    def _checks(self) -> ComponentStatus:
        """Whether anybody looks: a look that hangs is the directory's fault, not the timer's."""
        now = self._reactor.seconds()
        since = now - (self._ended if self._began is None else max(self._ended, self._began))
        if self.running and since > 3 * self._interval and not self._hangs:
            text = f"Nothing was looked at for {since:.0f} s: the process does not get on."
            return self._said("checks", HealthState.UNHEALTHY, text)
        return self._said("checks", HealthState.HEALTHY, "")

    @property
    def _hangs(self) -> bool:
        return self._began is not None and self._reactor.seconds() - self._began > PATIENCE

    def readings(self) -> Iterator[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        for volume, space in self.found.space.items():
            yield Reading("s3proxy_volume_free_bytes", space.free, (volume,))
            yield Reading("s3proxy_volume_size_bytes", space.size, (volume,))
            yield Reading("s3proxy_volume_free_inodes", space.free_files, (volume,))
        if self._census is not None and self._census.rounds:
            yield Reading("s3proxy_cache_objects", self._census.objects)
            yield Reading("s3proxy_cache_ranges", self._census.ranges)
        store, reviews = self._cache.store, self._cache._reviews
        if store is not None and reviews:
            yield from upkeep_readings(store, reviews[0].scrub)
        yield Reading("s3proxy_cluster_instances", self.found.live, ("live",))
        yield Reading("s3proxy_cluster_instances", self.found.stale, ("stale",))


def _write(directory: str) -> float:
    """Make a file, write it, read it and remove it; when it was written by the file system's clock. Blocks.

    :raises OSError: that did not work
    """
    # In containers many processes have the same number, hardly ever on hosts of the same name.
    path = os.path.join(directory, f".health-{socket.gethostname()}-{os.getpid()}")
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, _DATA)
        os.fsync(fd)
        if os.pread(fd, len(_DATA), 0) != _DATA:
            raise OSError("what was written does not come back")
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
