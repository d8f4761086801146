"""Calls to a disk that may fail: a failure is counted and told once, and never reaches the request."""

from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

__all__ = ["CacheEvents", "DiskGuard"]

QUIET_AFTER_ERROR = 10.0
"""Seconds without inserts after the disk refused something."""


class CacheEvents(Protocol):
    """What the cache reports, for counters."""

    def entry_stored(self, size: int) -> None:
        """An answer, or a range of one, was published."""

    def entry_declined(self) -> None:
        """A whole body arrived, and the store had no room for it or did not want it any more."""

    def fill_failed_verification(self) -> None:
        """A body did not match S3's own checksum."""

    def invalidated(self) -> None:
        """An entry was made invalid by a write."""

    def disk_failed(self, error: BaseException) -> None:
        """The disk refused something."""


class DiskGuard:
    """Makes calls to the store, and remembers how that went.

    :ivar failures: how often the disk failed
    :ivar last_error: when the disk last failed (unix seconds), and how; None: it works, as far as is known
    """

    log = Logger()

    def __init__(self, now: Callable[[], float], events: CacheEvents) -> None:
        self.last_error: tuple[float, str] | None = None
        self.failures = 0
        self._now = now
        self._events = events
        self._no_inserts_until = 0.0

    @property
    def may_insert(self) -> bool:
        """Whether it is worth trying to write."""
        return self._now() >= self._no_inserts_until

    def stop_inserts(self) -> None:
        """Nothing is written any more."""
        self._no_inserts_until = float("inf")

    def done(self, call: Callable[..., Any], *args: Any) -> bool:
        """Whether the disk did what the call asks."""
        try:
            call(*args)
        except OSError as error:
            self.failed(error)
            return False
        return True

    def attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The call's result; None if the disk refused."""
        try:
            return call(*args, **kwargs)
        except OSError as error:
            self.failed(error)
            return None

    def recovered(self, since: float) -> None:
        """The disk took a write that began at this time (unix seconds)."""
        if self.last_error is None or self.last_error[0] >= since:
            return
        self.last_error = None
        if self._no_inserts_until != float("inf"):
            self._no_inserts_until = 0.0
        self.log.info("the cache directory can be used again")

    def failed(self, error: BaseException) -> None:
        """The disk refused something: no inserts for a while, and the operator is told."""
        now = self._now()
        self.failures += 1
        self._no_inserts_until = max(self._no_inserts_until, now + QUIET_AFTER_ERROR)
        news = self.last_error is None or now - self.last_error[0] > QUIET_AFTER_ERROR
        self.last_error = (now, str(error) or type(error).__name__)
        self._events.disk_failed(error)
        if news:
            self.log.warn("the cache directory failed: {error}; answers come from S3", error=str(error))
