"""Directories that nothing points to any more: renamed away at once, deleted later.

``trash/<shard>.<I>.<random>`` came from that shard, and instance I is going to delete it. Until then it counts for the
shard: renaming it away changes no sum, whoever adds up the shard finds it, and whoever deletes it, be it after a
crash, takes it off.
"""

import os
import re
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

from s3proxy.storage.files import is_unread
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, footprint, instance_text, parse_temp

if TYPE_CHECKING:
    from s3proxy.storage.volume import Volume

__all__ = ["Trash", "parse_trash"]

_NAME = re.compile(r"([0-9a-f]{1,5})\.([0-9a-f]{15})\.[0-9a-f]{15}\Z")
_GRACE = 60.0
"""Seconds in which a living instance deletes what it has renamed away."""


def parse_trash(name: str) -> tuple[int, int] | None:
    """The shard that a directory in ``trash/`` came from, and the instance that put it there; None: it is another."""
    match = _NAME.match(name)
    return None if match is None else (int(match[1], 16), int(match[2], 16))


class Trash:
    """See the module. Thread-safe."""

    def __init__(self, volume: "Volume") -> None:
        self._volume = volume
        self._directory = f"{volume.root}/trash"
        self._waiting: deque[str] = deque()

    def __bool__(self) -> bool:
        """Whether :meth:`empty` has something to do."""
        return bool(self._waiting)

    def put(self, path: str, shard: int) -> bool:
        """Rename a directory away; False when it can't be.

        :param shard: where what is in it is counted
        """
        volume = self._volume
        name = f"{shard:x}.{instance_text(volume.instance.number)}.{volume.random.getrandbits(60):015x}"
        with volume.ledger.changing(shard):
            try:
                volume.calls.rename(path, f"{self._directory}/{name}")
            except OSError:
                return False
            self._waiting.append(name)
        return True

    def of(self, shard: int) -> list[str]:
        """The paths of what counts for a shard, whosever it is, in order.

        :raises OSError: the directory can't be read
        """
        names = self._volume.calls.listdir(self._directory)
        found = (name for name in names if (parsed := parse_trash(name)) is not None and parsed[0] == shard)
        return sorted(f"{self._directory}/{name}" for name in found)

    def empty(self) -> None:
        """Delete what this process has renamed away. May take long. What can't be deleted is left for the next
        :meth:`clear`.
        """
        while True:
            try:
                name = self._waiting.popleft()
            except IndexError:
                return
            self._delete(name)

    def clear(self, is_alive: Callable[[int], bool]) -> int:
        """Delete what the dead have left, and what the living could not delete; returns how many directories that were.

        :raises OSError: the directory can't be read
        """
        volume, waiting = self._volume, set(self._waiting)
        removed = 0
        for name in volume.calls.listdir(self._directory):
            parsed = parse_trash(name)
            if name in waiting:
                continue
            others = parsed is not None and parsed[1] != volume.instance.number and is_alive(parsed[1])
            if others and self._is_fresh(name):
                continue
            self._delete(name)
            removed += 1
        return removed

    def _is_fresh(self, name: str) -> bool:
        try:
            changed = self._volume.calls.stat(f"{self._directory}/{name}").st_ctime
        except FileNotFoundError:
            return True
        return self._volume.now() - changed < _GRACE

    def _delete(self, name: str) -> None:
        parsed = parse_trash(name)
        self.delete_tree(f"{self._directory}/{name}", None if parsed is None else parsed[0])

    def delete_tree(self, path: str, shard: int | None) -> None:
        """Delete a directory, or a file, that nothing points to. What can't be deleted is left for the next scan.

        :param shard: where the files are counted; None when they are not
        """
        calls = self._volume.calls
        try:
            status = calls.stat(path)
            if S_ISDIR(status.st_mode):
                for name in calls.listdir(path):
                    self.delete_tree(f"{path}/{name}", shard)
            with self._changing(shard):
                if S_ISDIR(status.st_mode):
                    calls.rmdir(path)
                    charge, unread = DIRECTORY_FOOTPRINT, 0
                else:
                    calls.unlink(path)
                    charge = 0 if parse_temp(os.path.basename(path)) is not None else footprint(status.st_size)
                    unread = charge if is_unread(status) else 0
                if shard is not None:
                    self._volume.ledger.add(shard, -charge, unread=-unread)
        except OSError:
            return

    def _changing(self, shard: int | None) -> AbstractContextManager[Any]:
        return nullcontext() if shard is None else self._volume.ledger.changing(shard)
