"""The cache as a service: opens the directory, looks after it, closes it."""

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.manager import CacheManager
from s3proxy.cache.ram import RamTier
from s3proxy.cache.settings import CacheSettings
from s3proxy.config.check import effective_ram_cache_size
from s3proxy.config.model import Config
from s3proxy.policy.rules import Rules
from s3proxy.services.directories import try_to_write
from s3proxy.services.errors import StartError
from s3proxy.services.expiry import Expiry
from s3proxy.services.memory import available_memory
from s3proxy.services.packing import packing_rules
from s3proxy.services.scrubbing import Scrubbing, Validation
from s3proxy.services.storing import disk_readings, store_readings
from s3proxy.storage.disk import DiskStore, open_store
from s3proxy.storage.diskio import DiskBusy, DiskIO
from s3proxy.storage.errors import StoreError
from s3proxy.storage.filesystem import page_cache_suffices
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.hostmemory import HostMemory
from s3proxy.storage.scan import Scan
from s3proxy.storage.volume import Damage
from s3proxy.telemetry.instruments import Reading, Spread
from s3proxy.telemetry.metrics import Metrics
from s3proxy.util.bodymemory import BodyMemory

__all__ = ["CacheService"]

LEASE_PULSE = 5.0
"""Seconds between two signs of life of the leases."""
STORE_PULSE = 1.0
"""Seconds between two signs of life of this instance and of the files that grow."""
SWEEP = 1.0
"""Seconds between two looks at the space."""
DESCRIPTIONS = 32 * 1024 * 1024
"""Bytes for the descriptions of entries where there is no RAM cache, or a smaller one."""
MOST_FILES = 4096
"""Descriptors for copies in memory; never more than an eighth of what the process may have."""
RECENCY = 10.0
"""Seconds between two notes of what was used."""
LAST_WRITES = 5.0
"""Seconds for what is under way to get onto the disk at the end."""
TURN = 0.01
"""Seconds between two looks at that."""
CLEAN_UP = 60.0
"""Seconds after the end of another process until what it may have left behind is looked for."""
SCAN_PAUSE = 1.0
"""Seconds after which the scan tries again when no thread was to be had."""
SCAN_RETRY = 10.0
"""Seconds after which the scan tries again when the disk failed."""
DAMAGE_REPORTS = 10.0
"""Seconds between two log lines about damaged files."""
SETTLED = 5.0
"""Seconds after an error of the disk before it is tried whether it works again."""


class _Counted:
    """The cache's events as metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def entry_stored(self, size: int) -> None:
        """The manager counts it."""

    def entry_declined(self) -> None:
        """The manager counts it."""

    def fill_failed_verification(self) -> None:
        self._metrics.cache_error("checksum")

    def invalidated(self) -> None:
        """Whoever writes counts it, and knows what was written."""

    def disk_failed(self, error: BaseException) -> None:
        code = getattr(error, "errno", None)
        kind = {
            errno.ENOSPC: "disk_full",
            errno.EDQUOT: "disk_full",
            errno.EROFS: "read_only",
            errno.ESTALE: "stale_handle",
        }.get(code or 0, "write")
        self._metrics.cache_error(kind)


class CacheService(Service):
    """:ivar manager: the cache, from the start of the service on

    :param memory: shared with other processes that use the directory; its founder looks after it for all of them
    :param copies: whether what is used most is copied into memory; None: if the file system makes it worth while
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
        *,
        memory: HostMemory | None = None,
        copies: bool | None = None,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._metrics = metrics
        self._now = now
        self._copies = copies
        self._memory = memory
        self._leads = memory is None or memory.founder
        self._cleaning: IDelayedCall | None = None
        self._ram_size = 0
        self.disk = DiskIO(reactor, threads=config.cache.metadata_io_concurrency)
        self.store: DiskStore | None = None
        self.manager: CacheManager | None = None
        self._loops: list[LoopingCall] = []
        self._reviews: tuple[Scrubbing, Validation, Expiry] | tuple[()] = ()
        self._unreported = 0
        self._next_report = float("-inf")
        self._scanning: Deferred[Any] | None = None
        self._scan_is_over = True
        self._recount = False

    def open(self) -> CacheManager:
        """Open the directory; before the service starts, and before anything uses the manager.

        :raises StartError: with the remedy
        """
        cache = self._config.cache
        bodies = BodyMemory(self._config.server.max_inflight_buffer_bytes)
        generations = GenerationTable() if self._memory is None else self._memory.generations
        try:
            self.store = open_store(
                cache.cache_dir,
                max_size=cache.max_cache_size,
                now=self._now,
                generations=generations,
                eviction=cache.eviction_algorithm,
                trigger_percent=cache.eviction_trigger_percent,
                target_percent=cache.eviction_target_percent,
                write_percent=cache.write_cache_percent,
                upload_expiry=cache.incomplete_upload_ttl,
                memory=self._memory,
                eviction_timeout=cache.shared_storage.eviction_lock_timeout,
            )
        except (StoreError, OSError) as error:
            raise StartError(f"cache.cache_dir: {cache.cache_dir}: {error}") from None
        self._compare_with_file_system()
        self._ram_size = self._effective_ram_size()
        ram = self._open_ram()
        descriptions, _ = self._shares(ram is not None and ram.plain)
        self.manager = CacheManager(
            self._reactor,
            self.store,
            generations,
            self.disk.run,
            CacheSettings(
                max_cache_size=cache.max_cache_size,
                small_object_bytes=cache.small_object_bytes,
                keep_ratio=cache.partial_range_commit_ratio,
                max_written_size=cache.write_cache_max_object_size,
                max_entries=cache.metadata_cache.max_entries,
                max_memory=descriptions,
                refresh_interval=cache.metadata_cache.refresh_interval,
                coordination=cache.coordination,
            ),
            now=self._now,
            events=_Counted(self._metrics),
            counts=self._metrics.cache,
            ram=ram,
            bodies=bodies,
        )
        self.store.volume.on_damage = lambda damage: self._reactor.callFromThread(self._damaged, damage)
        upkeep = self._reactor, self.disk.run, self._upkeep_failed, self.store, cache
        self._reviews = Scrubbing(*upkeep), Validation(*upkeep), Expiry(*upkeep)
        return self.manager

    def reconfigure(self, config: Config) -> None:
        """Another size of the RAM cache from now on."""
        before, self._config = self._config, config
        for review in self._reviews:
            review.reconfigure(config.cache)
        if _ram_keys(before) == _ram_keys(config):
            return
        self._ram_size = self._effective_ram_size()
        if self.manager is not None:
            self.manager.resize_memory(*self._shares(self.manager.ram is not None and self.manager.ram.plain))

    def _compare_with_file_system(self) -> None:
        """Say so when the disk will be full before the cache is."""
        cache = self._config.cache
        try:
            space = os.statvfs(cache.cache_dir)
        except OSError:
            return
        whole = space.f_blocks * space.f_frsize
        if 0 < whole < cache.max_cache_size:
            self.log.warn(
                "cache.max_cache_size is {limit}, but the file system of {directory} has {whole} bytes; "
                "set it to at most 90 % of them, {fitting}",
                limit=cache.max_cache_size, directory=cache.cache_dir, whole=whole, fitting=whole * 9 // 10,
            )  # fmt: skip

    def _effective_ram_size(self) -> int:
        size, notice = effective_ram_cache_size(self._config, available_memory())
        if notice is not None:
            self.log.warn("{text}", text=notice.text)
        return size

    def _shares(self, with_copies: bool) -> tuple[int, int]:
        """Bytes for descriptions with small bodies, and for these and copies together.

        Where copies of everything are made, descriptions may have half; copies have whatever these leave. Enough for
        descriptions there is always, and what is less than twice of that is theirs alone.
        """
        if self._ram_size < 2 * DESCRIPTIONS:
            return max(self._ram_size, DESCRIPTIONS), 0
        return self._ram_size // 2 if with_copies else self._ram_size, self._ram_size

    def _open_ram(self) -> RamTier | None:
        """The tier for larger bodies: for encoded ones alone, where the kernel's page cache does as well without it.
        None: the system can't.
        """
        assert self.store is not None
        plain = self._copies
        if plain is None:
            plain = not page_cache_suffices(self.store.root, "FORMAT")
        if not RamTier.is_possible():
            return None
        _, total = self._shares(plain)
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return RamTier(
            self.disk.run,
            self._reactor.seconds,
            total=total,
            files=MOST_FILES if descriptors < 0 else min(MOST_FILES, descriptors // 8),
            algorithm=self._config.cache.eviction_algorithm,
            plain=plain,
        )

    def startService(self) -> None:
        """Start the threads and the upkeep."""
        super().startService()
        assert self.manager is not None
        self.disk.start()
        self._every(LEASE_PULSE, self.manager.pulse)
        self._every(STORE_PULSE, self._pulse)
        self._every(SWEEP, self._sweep)
        self._every(RECENCY, self._flush_recency)
        if self._leads:
            self._begin_scan(again=False)
            for review in self._reviews:
                review.start()

    def use_rules(self, rules: Rules) -> None:
        """Which bodies are stored smaller, and which expire, from now on."""
        if self.manager is not None:
            self.manager.packer.rules = packing_rules(self._config, rules)
        if self._reviews:
            self._reviews[2].rules = rules

    def _damaged(self, damage: Damage) -> None:
        """A stored file was put aside."""
        assert self.manager is not None
        self.manager.counts.drops["corrupt"] += 1
        self._unreported += 1
        now = self._reactor.seconds()
        if now < self._next_report:
            return
        self._next_report = now + DAMAGE_REPORTS
        self.log.warn(
            "{count} stored file(s) turned out to be damaged and will be got from S3 again; the last one was {path} "
            "({reason}), which is now {kept}",
            count=self._unreported,
            path=damage.path,
            reason=damage.reason,
            kept=damage.kept or "deleted",
        )
        self._unreported = 0

    def clean_up_soon(self) -> None:
        """A process that used the directory has died, or may have: what it left behind is looked for in a while."""
        if self.running and self._cleaning is None:
            self._cleaning = self._reactor.callLater(CLEAN_UP, self._clean_up)

    def _lost_a_peer(self) -> None:
        self.log.info("another instance on the cache directory has died; what it left behind is looked for soon")
        self._recount = True
        self.clean_up_soon()

    def _clean_up(self) -> None:
        self._cleaning = None
        if self._scan_is_over:
            recount, self._recount = self._recount, False
            self._begin_scan(again=True, recount=recount)
        else:
            self.clean_up_soon()

    def _begin_scan(self, *, again: bool, recount: bool = False) -> None:
        self._scan_is_over = False
        self._scanning = Deferred.fromCoroutine(self._scan(again, recount))
        self._scanning.addErrback(self._upkeep_failed)

    def _every(self, seconds: float, call: Callable[[], Any]) -> None:
        """Call again and again; a call that takes longer than that delays the next."""
        loop = LoopingCall(call)
        loop.clock = self._reactor
        self._loops.append(loop)
        loop.start(seconds, now=False).addErrback(self._upkeep_failed)

    def _pulse(self) -> "Deferred[Any]":
        """A sign of life, and after an error a look whether the disk works again."""
        assert self.store is not None and self.manager is not None
        store, manager = self.store, self.manager
        now = self._now()
        error = manager.guard.last_error
        try_again = error is not None and now - error[0] >= SETTLED

        def work() -> None:
            store.pulse()
            if self._leads and store.lost_a_peer():
                self._reactor.callFromThread(self._lost_a_peer)
            if try_again:
                try_to_write(store.root)

        def worked(_: None) -> None:
            if try_again and manager.catch_up():
                manager.guard.recovered(now)

        return self.disk.run(work).addCallback(worked).addErrback(self._upkeep_failed)

    def _sweep(self) -> "Deferred[Any] | None":
        """Evict, if it is due. A sweep may take long, and must not hold up the signs of life."""
        assert self.store is not None
        if not self._leads:
            # What this process itself has set aside to be deleted.
            volume = self.store.volume
            return self.disk.run(volume.empty_trash).addErrback(self._upkeep_failed) if volume.has_trash else None
        if not self.store.sweeper.due():
            return None
        return self.disk.run(self.store.sweeper.run).addErrback(self._upkeep_failed)

    def _flush_recency(self) -> "Deferred[Any]":
        assert self.store is not None
        return self.disk.run(self.store.flush_recency).addErrback(self._upkeep_failed)

    async def _scan(self, again: bool, recount: bool) -> None:
        """What an earlier run left behind, or another process that died; in threads, step by step, until the service
        stops. Between two steps others get their turn, be there only one thread.
        """
        assert self.store is not None
        if again:
            # What is being counted anyway need not be counted anew.
            scan = self.store.scan(again=True, recount=recount and self.store.volume.ledger.complete)
        else:
            scan = self.store.scan()
        over = False
        try:
            while self.running and not over:
                try:
                    over = await self.disk.run(lambda: self._scan_step(scan))
                except DiskBusy:
                    await deferLater(self._reactor, SCAN_PAUSE)
                except OSError as problem:
                    # A step may be repeated. Without the scan's end the ledger would stay an estimate.
                    self._upkeep_failed(Failure(problem))
                    await deferLater(self._reactor, SCAN_RETRY)
        finally:
            self._scan_is_over = True

    def _scan_step(self, scan: Scan) -> bool:
        """In a thread. Whether the scan is over."""
        assert self.store is not None
        if not self.running:
            return True
        counts, before = self.store.volume.counts, scan.removed
        with counts.timed("scan"):
            over = scan.step()
        counts.repaired("orphan_file", scan.removed - before)
        return over

    def _upkeep_failed(self, reason: Failure) -> None:
        if reason.check(DiskBusy):
            # Too much to do is no fault of the disk; the next turn comes soon.
            return
        if self.manager is not None and reason.check(OSError):
            self.manager.guard.failed(reason.value)
        else:
            self.log.failure("upkeep of the cache directory", reason)

    async def close(self) -> None:
        """Stop the upkeep and the bodies under way, let writes end, close the directory."""
        super().stopService()
        if self._cleaning is not None:
            self._cleaning.cancel()
            self._cleaning = None
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self.manager is not None:
            self.manager.break_off()
            limit = self._reactor.seconds() + LAST_WRITES
            while self.manager.fills_in_flight and self._reactor.seconds() < limit:
                await deferLater(self._reactor, TURN)
            self.manager.end()
        for review in self._reviews:
            review.stop()
        self.disk.stop()
        if self._reviews:
            self._reviews[0].scrub.close()
        if self.store is not None:
            try:
                self.store.close()
            except OSError as error:
                self.log.warn("closing the cache directory: {error}", error=error)

    def count_instances(self, silence: float) -> int:
        """How many instances use the directory: those of other hosts that showed life within so many seconds. Blocks.

        :raises OSError: that can't be told
        """
        return 1 if self.store is None else self.store.volume.instance.leaders(silence)

    # For operators.

    def readings(self) -> Iterator[Reading | Spread]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        yield from disk_readings(self.disk)
        if self.manager is None or self.store is None:
            return
        yield from store_readings(self.store)
        yield Reading("s3proxy_cache_limit_bytes", self.limit, ("disk",))
        yield Reading("s3proxy_cache_metadata_entries", self.manager.entries_in_memory)
        yield Reading("s3proxy_cache_metadata_entries_limit", self._config.cache.metadata_cache.max_entries)
        yield Reading("s3proxy_cache_size_bytes", self.manager.bytes_in_memory, ("ram",))
        yield Reading("s3proxy_cache_limit_bytes", self.ram_limit, ("ram",))

    @property
    def limit(self) -> int:
        """Bytes that the cache may use on disk."""
        return self._config.cache.max_cache_size

    @property
    def ram_limit(self) -> int:
        """Bytes that it may use in memory."""
        return max(self._ram_size, DESCRIPTIONS)


def _ram_keys(config: Config) -> tuple[bool, int, bool]:
    cache = config.cache
    return cache.ram_cache_enabled, cache.max_ram_cache_size, cache.get_ttl == 0
