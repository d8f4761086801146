"""How full the directory was, for the next start: ``ctl/base.json``."""

import json
import os
import re
import threading

from s3proxy.storage.files import SystemCalls, write_fully
from s3proxy.storage.layout import instance_text

__all__ = ["Balance", "parse_draft"]

_STEP_MIN = 1 << 20
_STEP_SHARE = 32
_DRAFT = re.compile(r"(?:base|scrub|evict)\.([0-9a-f]{15})\.tmp\Z")


class Balance:
    """A number on disk that is never below what the directory holds, so that a restart after a crash can rely on it.

    It is declared ahead in steps, so that it is seldom written.

    :param limit: the store's limit, 0 for none
    """

    def __init__(self, calls: SystemCalls, directory: str, instance: int, limit: int) -> None:
        self._calls = calls
        self._path = f"{directory}/base.json"
        self._draft = f"{directory}/base.{instance_text(instance)}.tmp"
        self._limit = limit
        self._lock = threading.Lock()
        self._declared = -1

    def read(self) -> tuple[int | None, bool]:
        """What was declared (None when nothing valid is there), and whether the last stop was a clean one."""
        try:
            fd = self._calls.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None, False
        try:
            data = self._calls.pread(fd, 4096, 0)
        finally:
            self._calls.close(fd)
        try:
            record = json.loads(data)
            declared, clean = int(record["declared"]), record["clean"] is True
        except (ValueError, KeyError, TypeError):
            return None, False
        return max(0, declared), clean

    def start(self, declared: int) -> None:
        """Go on with what was declared before; from now on a stop is not a clean one until :meth:`close`.

        :raises OSError: it could not be written
        """
        with self._lock:
            self._write(declared, clean=False)

    def ensure(self, used: int) -> None:
        """Declare at least ``used`` before it becomes true.

        :raises OSError: it could not be written; nothing may be added then
        """
        if used <= self._declared:
            return
        with self._lock:
            if used > self._declared:
                self._write(self._ahead(used), clean=False)

    def lower(self, used: int) -> None:
        """Declare less, after the directory turned out to hold much less than was declared.

        :raises OSError: it could not be written
        """
        with self._lock:
            ahead = self._ahead(used)
            if self._declared > 2 * ahead - used:
                self._write(ahead, clean=False)

    def _ahead(self, used: int) -> int:
        ahead = used + max(_STEP_MIN, (self._limit or used) // _STEP_SHARE)
        return max(used, min(ahead, self._limit)) if self._limit else ahead

    def close(self, used: int) -> None:
        """A clean stop: the exact number. Never raises."""
        with self._lock:
            try:
                self._write(used, clean=True)
            except OSError:
                return

    def _write(self, declared: int, *, clean: bool) -> None:
        data = json.dumps({"declared": declared, "clean": clean}).encode("ascii")
        fd = self._calls.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_fully(self._calls, fd, [data], 0)
        finally:
            self._calls.close(fd)
        self._calls.rename(self._draft, self._path)
        self._declared = declared


def parse_draft(name: str) -> int | None:
    """The instance that is writing, or died writing, this file in ``ctl/``; None when it is another file."""
    match = _DRAFT.match(name)
    return None if match is None else int(match[1], 16)
