"""Removes log files whose time is over: in the directories of all hosts, by their names, whoever wrote them.

Only names that this program gives are touched::

    <access log directory>/YYYY/MM/DD/YYYY-MM-DD-HH-MM-SS-<hostname>.log
    <application log directory>/<hostname>/s3proxy.log.YYYY-MM-DD

perhaps with a number behind, and the active files of hosts that write no more. Age is told by the date in the name; by
the last change of the file where there is none. Files of other hosts get a day longer, so that each host has the time
to remove its own. Directories that become empty go, too. Symbolic links are neither followed nor removed.
"""

import os
import re
from calendar import timegm
from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

__all__ = ["Kept", "Sweep"]

_DAY: Final = 86400.0
_SEGMENT: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(.+)\.log")
_ACTIVE: Final = re.compile(r"access-(.+)\.log")
_PAST: Final = re.compile(r"s3proxy\.log\.(\d{4})-(\d\d)-(\d\d)(?:-\d+)?")
_PARTS: Final = (re.compile(r"\d{4}"), re.compile(r"\d\d"), re.compile(r"\d\d"))


@attrs.frozen(kw_only=True)
class Kept:
    """Where logs are, and how many days they are kept."""

    access_dir: str
    access_days: int
    app_dir: str
    app_days: int
    hostname: str


class Sweep:
    """One walk through both directories. Slow on network file systems: for a thread.

    :param now: Unix time
    :ivar removed: how many files were, by log (``access`` or ``app``) and owner (``own`` or ``foreign``)
    :ivar problem: what could not be done, the first of it; empty when nothing went wrong
    """

    def __init__(self, kept: Kept, now: float) -> None:
        self._kept = kept
        self._now = now
        self.removed: Counter[tuple[str, str]] = Counter()
        self.problem = ""

    def run(self) -> "Sweep":
        """Do it. What is not there, or can't be read or removed, is left, and the rest is done. :returns: self"""
        self._access_logs()
        self._app_logs()
        return self

    def _access_logs(self) -> None:
        kept = self._kept
        for year in self._directories(kept.access_dir, _PARTS[0]):
            for month in self._directories(year.path, _PARTS[1]):
                for day in self._directories(month.path, _PARTS[2]):
                    self._segments(day.path, f"{year.name}-{month.name}-{day.name}")
        for entry in self._files(kept.access_dir):
            found = _ACTIVE.fullmatch(entry.name)
            # Who still writes sets the file aside within the hour; an empty one is a promise that there will be lines.
            if found is not None and self._size(entry):
                self._remove_if_old(entry, "access", found[1], None)

    def _segments(self, directory: str, date: str) -> None:
        for entry in self._files(directory):
            found = _SEGMENT.fullmatch(entry.name)
            if found is not None and entry.name.startswith(date):
                self._remove_if_old(entry, "access", found[7], _instant(*map(int, found.groups()[:6])))
        ended = _instant(*map(int, date.split("-")))
        if ended is not None and self._now > ended + (self._kept.access_days + 1) * _DAY:
            self._remove_empty(directory, levels=3)

    def _app_logs(self) -> None:
        kept = self._kept
        for host in self._directories(kept.app_dir, re.compile(r".+")):
            ours = 0
            for entry in self._files(host.path):
                found = _PAST.fullmatch(entry.name)
                if found is not None:
                    began = _instant(*map(int, found.groups()))
                    ended = None if began is None else began + _DAY
                elif entry.name == "s3proxy.log" and host.name != kept.hostname:
                    ended = None
                else:
                    continue
                ours += self._remove_if_old(entry, "app", host.name, ended)
            if ours and host.name != kept.hostname:
                self._remove_empty(host.path, levels=1)

    def _remove_if_old(self, entry: "os.DirEntry[str]", log: str, owner: str, at: float | None) -> bool:
        """Remove a file if it is from before what is kept. :param at: when it ended; None: when it was changed last"""
        kept = self._kept
        own = re.fullmatch(rf"{re.escape(kept.hostname)}(?:-\d+)?", owner) is not None
        days = (kept.access_days if log == "access" else kept.app_days) + (not own)
        try:
            if at is None:
                at = entry.stat(follow_symlinks=False).st_mtime
            if self._now - at <= days * _DAY:
                return False
            os.unlink(entry.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._note(error)
            return False
        self.removed[log, "own" if own else "foreign"] += 1
        return True

    def _remove_empty(self, directory: str, levels: int) -> None:
        """Remove this directory if it is empty, and the ones above it, as many levels in all."""
        for _ in range(levels):
            try:
                os.rmdir(directory)
            except OSError:
                return
            directory = os.path.dirname(directory)

    def _directories(self, path: str, names: "re.Pattern[str]") -> "Iterator[os.DirEntry[str]]":
        for entry in self._entries(path):
            if names.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield entry

    def _files(self, path: str) -> "Iterator[os.DirEntry[str]]":
        for entry in self._entries(path):
            if entry.is_file(follow_symlinks=False):
                yield entry

    def _entries(self, path: str) -> "list[os.DirEntry[str]]":
        try:
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._note(error)
            return []

    @staticmethod
    def _size(entry: "os.DirEntry[str]") -> int:
        try:
            return entry.stat(follow_symlinks=False).st_size
        except OSError:
            return 0

    def _note(self, error: OSError) -> None:
        self.problem = self.problem or str(error)


def _instant(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> float | None:
    """Unix time of this moment of UTC; None when there is no such moment."""
    if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    return float(timegm((year, month, day, hour, minute, second)))
