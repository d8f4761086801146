"""Directories that nothing points to any more: renamed away at once, deleted later."""

import stat
from collections import deque
from typing import TYPE_CHECKING

from s3proxy.storage.files import is_unread
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, footprint, parse_temp

if TYPE_CHECKING:
    from s3proxy.storage.volume import Volume

__all__ = ["Trash"]


class Trash:
    """What this process has renamed into ``trash/`` and not deleted yet. Thread-safe."""

    def __init__(self, volume: "Volume") -> None:
        self._volume = volume
        self._waiting: deque[tuple[str, int, bool]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, path: str, shard: int) -> bool:
        """Rename a directory away; False when it can't be.

        :param shard: where what is in it is counted
        """
        volume = self._volume
        target = f"{volume.root}/trash/{volume.random.getrandbits(60):015x}"
        with volume.ledger.changing(shard):
            try:
                volume.calls.rename(path, target)
            except OSError:
                return False
            self._waiting.append((target, shard, volume.ledger.is_walked(shard)))
        return True

    def has(self, name: str) -> bool:
        """Whether a name in ``trash/`` is one that :meth:`empty` will delete."""
        path = f"{self._volume.root}/trash/{name}"
        return any(path == own for own, _, _ in list(self._waiting))

    def uncount(self) -> None:
        """The ledger counts everything anew, and never sees what is here."""
        self._waiting = deque((path, shard, False) for path, shard, _ in self._waiting)

    def empty(self) -> None:
        """Delete what was renamed away. May take long."""
        while True:
            try:
                path, shard, counted = self._waiting.popleft()
            except IndexError:
                return
            self.delete_tree(path, shard, counted=counted)

    def delete_tree(self, path: str, shard: int | None, *, counted: bool = True) -> None:
        """Delete a directory that nothing points to. What can't be deleted is left for the next scan.

        :param shard: where the files are counted; None when they are not
        """
        calls, ledger = self._volume.calls, self._volume.ledger
        try:
            names = calls.listdir(path)
        except OSError:
            return
        for name in names:
            child = f"{path}/{name}"
            try:
                status = calls.stat(child)
                if stat.S_ISDIR(status.st_mode):
                    self.delete_tree(child, shard, counted=counted)
                    continue
                calls.unlink(child)
            except OSError:
                continue
            if shard is not None and parse_temp(name) is None:
                charge = footprint(status.st_size)
                ledger.add(shard, -charge, counted=counted, unread=-charge if is_unread(status) else 0)
        try:
            calls.rmdir(path)
        except OSError:
            return
        if shard is not None:
            ledger.add(shard, -DIRECTORY_FOOTPRINT, counted=counted)
