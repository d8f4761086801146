"""Stored bytes are compared with their checksums, and the accounts with the directory, again and again and slowly."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.config.model import Cache
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.scan import Scan

__all__ = ["Scrubbing", "Upkeep", "Validation"]

BATCH = 4 * 1024 * 1024
"""Bytes that are read in one go; less when the disk is to be read more slowly than that in a second."""
SLOWEST = 8 * 1024 * 1024
"""Bytes per second at least,"""
FASTEST = 64 * 1024 * 1024
"""and at most."""
LONGEST_WAIT = 300.0
"""Seconds until it is looked again whether a pass is due."""
FAILED = 60.0
"""Seconds after an error of the disk."""


class Upkeep:
    """Something that is done in threads, step by step, as long as the service runs."""

    log = Logger()

    def __init__(self, reactor: Any, run: Callable[..., "Deferred[Any]"], failed: Callable[[Failure], Any]) -> None:
        self._reactor = reactor
        self._run = run
        self._failed = failed
        self._working: Deferred[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._working = Deferred.fromCoroutine(self._loop())
        self._working.addErrback(self._ended)

    def stop(self) -> None:
        """End; a step that is under way is not waited for."""
        working, self._working = self._working, None
        if working is not None:
            working.cancel()

    def _ended(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self.log.failure("looking after the cache directory", reason)

    async def _loop(self) -> None:
        while True:
            try:
                pause = await self._step()
            except OSError:
                self._failed(Failure())
                pause = FAILED
            await deferLater(self._reactor, pause)

    async def _step(self) -> float:
        """Do something; seconds until there is more to do."""
        raise AssertionError


class Scrubbing(Upkeep):
    """Compares what is stored with its checksums; a pass every ``cache.scrub_interval``.

    It reads as fast as is necessary for a pass to take half of that time, within limits.

    :ivar scrub: how it goes
    """

    def __init__(
        self,
        reactor: Any,
        run: Callable[..., "Deferred[Any]"],
        failed: Callable[[Failure], Any],
        store: DiskStore,
        config: Cache,
    ) -> None:
        super().__init__(reactor, run, failed)
        self.scrub = store.scrub()
        self._store = store
        self._config = config

    def reconfigure(self, config: Cache) -> None:
        """Another interval from now on."""
        self._config = config

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return min(FASTEST, max(SLOWEST, 2 * self._store.usage() / max(1.0, self._config.scrub_interval)))

    async def _step(self) -> float:
        interval = self._config.scrub_interval
        if interval <= 0:
            return LONGEST_WAIT
        wait = await self._run(self.scrub.wait, interval)
        if wait > 0:
            return min(LONGEST_WAIT, wait)
        done = await self._run(self.scrub.step, BATCH)
        if done is None:
            self._tell()
            return min(LONGEST_WAIT, interval)
        return float(done / self.rate)

    def _tell(self) -> None:
        scrub = self.scrub
        if scrub.files:
            self.log.info(
                "{files} stored files ({read} bytes) were compared with their checksums so far; {damaged} were damaged",
                files=scrub.files,
                read=scrub.read,
                damaged=scrub.damaged,
            )


class Validation(Upkeep):
    """Compares the accounted size with the directory, every ``cache.shared_storage.validation_frequency``.

    :ivar drift: by how many bytes the accounts were wrong the last time, too much if positive; None: not known yet
    """

    def __init__(
        self,
        reactor: Any,
        run: Callable[..., "Deferred[Any]"],
        failed: Callable[[Failure], Any],
        store: DiskStore,
        config: Cache,
    ) -> None:
        super().__init__(reactor, run, failed)
        self.drift: int | None = None
        self._store = store
        self._config = config.shared_storage
        self._due_at = reactor.seconds() + self._frequency
        self._scan: Scan | None = None
        self._until = 0.0

    @property
    def _frequency(self) -> float:
        # In whole hours.
        return max(3600.0, self._config.validation_frequency // 3600 * 3600)

    def reconfigure(self, config: Cache) -> None:
        """Another period, and other thresholds, from now on."""
        self._config = config.shared_storage

    async def _step(self) -> float:
        now = self._reactor.seconds()
        if now < self._due_at:
            return min(LONGEST_WAIT, float(self._due_at - now))
        if self._scan is None:
            if not self._store.volume.ledger.complete:
                # Everything is being counted anyway.
                self._due_at = now + self._frequency
                return LONGEST_WAIT
            self._scan = self._store.scan(again=True, recount=True)
        if not self._until:
            self._until = now + self._config.validation_max_duration
        if await self._run(self._scan.step):
            self._scan, self._until = None, 0.0
            self._due_at = now + self._frequency
            self._judge()
        elif now >= self._until:
            # What is left is done the next time; until then the accounts go on as they are.
            self._until = 0.0
            self._due_at = now + self._frequency
        return 0.01

    def _judge(self) -> None:
        ledger = self._store.volume.ledger
        self.drift = drift = ledger.drift
        percent = 100 * abs(drift) / max(1, ledger.used)
        if percent >= self._config.validation_threshold_error:
            write = self.log.error
        elif percent >= self._config.validation_threshold_warn:
            write = self.log.warn
        else:
            write = self.log.debug
        write(
            "the cache directory holds {used} bytes; the accounts said {drift} bytes more (negative: less), which is "
            "{percent} % of them, and are corrected",
            used=ledger.used,
            drift=drift,
            percent=round(percent, 1),
        )
