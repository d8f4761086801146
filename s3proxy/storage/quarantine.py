"""Damaged files are put aside, so that somebody may find out why they are: below ``quarantine/``, few and not for long.

A file there is called after the second in which it was put there, sixteen hexadecimal digits, and what it was.
"""

import os
import stat

from s3proxy.storage.files import SystemCalls

__all__ = ["Quarantine"]

MOST_FILES = 64
MOST_BYTES = 256 << 20
LONGEST = 7 * 86400.0
"""Seconds."""
_SHARE = 64


class Quarantine:
    """Called by one thread at a time for one file; several for several files do no harm.

    :param limit: bytes that the cache may have; a 64th of it may be kept here, 0: no limit
    """

    def __init__(self, calls: SystemCalls, root: str, limit: int) -> None:
        self.path = f"{root}/quarantine"
        self._calls = calls
        self._most = min(MOST_BYTES, limit // _SHARE) if limit else MOST_BYTES

    def admit(self, path: str, label: str, now: float) -> str | None:
        """Move a file here. What it is called now; None: it is not worth its size, and was deleted.

        :raises FileNotFoundError: there is no such file
        :raises OSError: it could neither be moved nor deleted
        """
        status = self._calls.stat(path)
        if status.st_size > self._most or stat.S_ISDIR(status.st_mode):
            self._calls.unlink(path)
            return None
        target = f"{self.path}/{max(0, int(now)):016x}.{label}"
        try:
            try:
                self._calls.rename(path, target)
            except FileNotFoundError:
                self._calls.mkdir(self.path, 0o700)
                self._calls.rename(path, target)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._calls.stat(self.path):
                raise
            self._calls.unlink(path)
            return None
        self.tidy(now)
        return target

    def tidy(self, now: float) -> None:
        """Delete what is too old, or too much: the oldest first. Never raises."""
        try:
            names = sorted(self._calls.listdir(self.path), reverse=True)
        except OSError:
            return
        oldest = f"{max(0, int(now - LONGEST)):016x}"
        total = count = 0
        for name in names:
            path = f"{self.path}/{name}"
            try:
                size = self._calls.stat(path).st_size
                if name < oldest or count >= MOST_FILES or total + size > self._most:
                    self._calls.unlink(path)
                else:
                    total += size
                    count += 1
            except OSError:
                continue

    def names(self) -> list[str]:
        """What is here."""
        try:
            return sorted(os.path.join(self.path, name) for name in self._calls.listdir(self.path))
        except OSError:
            return []
