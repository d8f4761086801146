"""``ctl/evict.lease``: who makes room in the cache directory now. All others leave that to it, on every host."""

import os
import time
from collections.abc import Callable
from typing import Final

from s3proxy.storage.files import SystemCalls
from s3proxy.storage.instance import Instance
from s3proxy.storage.layout import instance_text

__all__ = ["EvictionLease"]

_POLL: Final = 0.01
_TOUCH: Final = 5.0


class EvictionLease:
    """A file that exists while somebody evicts, with the name of its owner.

    It is taken over when the owner has died, or has not touched it for *timeout* seconds. Should two evict at once all
    the same, they evict a little too much; nothing else goes wrong.

    :param timeout: seconds
    :ivar broken: how often it was taken over
    """

    def __init__(
        self, calls: SystemCalls, path: str, instance: Instance, now: Callable[[], float], timeout: float = 60.0
    ) -> None:
        self._calls = calls
        self._path = path
        self._instance = instance
        self._now = now
        self._timeout = timeout
        self._touched_at = 0.0
        self._held = False
        self.broken = 0

    def take(self, enough: Callable[[], bool] = lambda: True, patience: float = 0.0) -> bool:
        """Whether this process evicts now. Blocks for at most *patience* seconds while somebody else does.

        :param enough: whether there is nothing left to do, because the other one has made room enough
        :raises OSError: the directory can't be changed
        """
        until = time.monotonic() + patience
        while not self._try():
            if time.monotonic() >= until or enough():
                return False
            time.sleep(_POLL)
        self._held = True
        self._touched_at = self._now()
        return True

    def keep(self) -> None:
        """It still goes on."""
        now = self._now()
        if self._held and not 0 <= now - self._touched_at < _TOUCH:
            self._touched_at = now
            try:
                self._calls.utime(self._path)
            except OSError:
                return

    def release(self) -> None:
        """It is over. Never raises."""
        self._held = False
        try:
            if self._owner() == self._instance.number:
                self._calls.unlink(self._path)
        except OSError:
            return

    def clear(self) -> None:
        """Remove what somebody has left who died.

        :raises OSError: the directory can't be changed
        """
        if not self._held and self._is_stale():
            self._break()

    def _try(self) -> bool:
        if self._create():
            return True
        return self._is_stale() and self._break() and self._create()

    def _break(self) -> bool:
        # Whoever takes it away first may have it.
        aside = f"{self._path[:-6]}.{instance_text(self._instance.number)}.tmp"
        try:
            self._calls.rename(self._path, aside)
            self._calls.unlink(aside)
        except FileNotFoundError:
            return False
        self.broken += 1
        return True

    def _create(self) -> bool:
        try:
            fd = self._calls.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return False
        try:
            self._calls.pwrite(fd, instance_text(self._instance.number).encode("ascii"), 0)
        except OSError:
            self._calls.unlink(self._path)
            raise
        finally:
            self._calls.close(fd)
        return True

    def _owner(self) -> int | None:
        try:
            fd = self._calls.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return int(self._calls.pread(fd, 64, 0), 16)
        except ValueError:
            return None
        finally:
            self._calls.close(fd)

    def _is_stale(self) -> bool:
        try:
            touched = self._calls.stat(self._path).st_mtime
        except FileNotFoundError:
            return False
        if self._now() - touched > self._timeout:
            return True
        owner = self._owner()
        if owner is None:
            # It is being written, or its owner died before that.
            return self._now() - touched > 1.0
        return owner == self._instance.number or not self._instance.is_alive(owner)
