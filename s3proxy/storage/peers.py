"""What other instances on the same cache directory add and remove, for this one's ledger.

Each process keeps a file ``inst/<I>.use`` with what it has added to each shard since it started, removals taken off::

    magic, group, number of this state, shards     32 bytes
    then for each shard: bytes, unread bytes       two numbers of 8 bytes

Numbers only accumulate, so that it does no harm to read them twice, late, or never: whoever reads them takes the
difference to what it read before. Nobody sets them back. The processes of one host share a ledger and have the same
group; one of them reads for all.
"""

import os
import struct
import threading
from array import array
from typing import Final

from s3proxy.storage.files import SystemCalls
from s3proxy.storage.instance import Instance
from s3proxy.storage.layout import instance_text
from s3proxy.storage.ledger import Ledger

__all__ = ["FORGOTTEN_AFTER", "Peers", "parse_use"]

FORGOTTEN_AFTER: Final = 600.0
"""Seconds after its last change at which the file of an instance that has ended is removed: by then all have read it.
"""
_LOOK: Final = 5.0
"""Seconds between two looks whether others still live."""
_MAGIC: Final = b"s3pxuse1"
_HEAD: Final = struct.Struct("<8sqqq")
_PAGE: Final = 4096


def parse_use(name: str) -> int | None:
    """The instance whose file in ``inst/`` has this name; None when it is another file."""
    if not name.endswith(".use"):
        return None
    try:
        return int(name[:-4], 16)
    except ValueError:
        return None


class Peers:
    """See the module. :meth:`note` is thread-safe and costs next to nothing; the rest blocks, and is called by one
    thread at a time.

    :param group: what the processes of this host have in common
    :param listens: this process reads for its host
    """

    def __init__(
        self,
        calls: SystemCalls,
        directory: str,
        instance: Instance,
        ledger: Ledger,
        shards: int,
        *,
        group: int,
        listens: bool,
    ) -> None:
        self._calls = calls
        self._directory = directory
        self._instance = instance
        self._ledger = ledger
        self._shards = shards
        self._group = group
        self._listens = listens
        self._lock = threading.Lock()
        self._sums = array("q", bytes(16 * shards))
        self._changed: set[int] = set()
        self._number = 0
        self._fd = -1
        self._seen: dict[int, tuple[int, bytes]] = {}
        self._mourned: set[int] = set()
        self._looked_at = instance.started_at
        self.lost = False
        """Another instance died, and what it did last is not known: the ledger should be counted anew."""

    def start(self) -> None:
        """What others have done up to now is going to be counted by the walk through the directory.

        :raises OSError: the directory can't be read
        """
        if self._listens:
            self._forget_all_if_alone()
            for number in self._numbers():
                found = self._read(number)
                if found is not None:
                    self._seen[number] = found
        self._ledger.told = self.note

    def note(self, shard: int, size: int, unread: int) -> None:
        """This process added so much to a shard, or took it away."""
        with self._lock:
            self._sums[2 * shard] += size
            self._sums[2 * shard + 1] += unread
            self._changed.add(16 * shard // _PAGE)

    def exchange(self, now: float) -> None:
        """Tell the others, and hear from them.

        :raises OSError: the directory can't be read or written
        """
        self.tell()
        if self._listens:
            self.listen()
            if not 0 <= now - self._looked_at < _LOOK:
                self._looked_at = now
                self._look_after(now)

    def tell(self) -> None:
        """Write what has changed.

        :raises OSError: it could not be written; it will be the next time
        """
        with self._lock:
            changed, self._changed = self._changed, set()
            data = self._sums.tobytes() if changed else b""
        if not changed:
            return
        try:
            if self._fd < 0:
                path = f"{self._directory}/{instance_text(self._instance.number)}.use"
                self._fd = self._calls.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._calls.ftruncate(self._fd, _HEAD.size + len(data))
            for page in changed:
                self._calls.pwrite(self._fd, data[page * _PAGE : (page + 1) * _PAGE], _HEAD.size + page * _PAGE)
            self._number += 1
            self._calls.pwrite(self._fd, _HEAD.pack(_MAGIC, self._group, self._number, self._shards), 0)
        except OSError:
            with self._lock:
                self._changed |= changed
            raise

    def listen(self) -> None:
        """Take over what the others have changed since the last time.

        :raises OSError: the directory can't be read
        """
        for number in self._numbers():
            found = self._read(number)
            if found is None:
                continue
            before = self._seen.get(number, (0, b""))
            self._seen[number] = found
            self._take(before[1], found[1])

    def close(self) -> None:
        """The last word. Never raises."""
        try:
            self.tell()
            if self._fd >= 0:
                self._calls.close(self._fd)
                self._fd = -1
                if self._listens:
                    self._forget_all_if_alone(own=True)
        except OSError:
            return

    def _forget_all_if_alone(self, own: bool = False) -> None:
        """With nobody there to read them, the files of those who have ended are of no use."""
        if any(self._instance.is_alive(number) for number in self._instance.others()):
            return
        mine = [self._instance.number] if own else []
        for number in [*self._numbers(), *mine]:
            try:
                self._calls.unlink(f"{self._directory}/{instance_text(number)}.use")
            except FileNotFoundError:
                continue

    def _numbers(self) -> list[int]:
        found = (parse_use(name) for name in self._calls.listdir(self._directory))
        return [number for number in found if number is not None and number != self._instance.number]

    def _read(self, number: int) -> tuple[int, bytes] | None:
        """The number of the state and all sums; None: nothing new, or none of another host's."""
        try:
            fd = self._calls.open(f"{self._directory}/{instance_text(number)}.use", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            head = self._calls.pread(fd, _HEAD.size, 0)
            if len(head) < _HEAD.size:
                return None
            magic, group, state, shards = _HEAD.unpack(head)
            if magic != _MAGIC or group == self._group or shards != self._shards:
                return None
            if number in self._seen and self._seen[number][0] == state:
                return None
            data = self._calls.pread(fd, 16 * shards, _HEAD.size)
        finally:
            self._calls.close(fd)
        return (state, data) if len(data) == 16 * shards else None

    def _take(self, before: bytes, after: bytes) -> None:
        before = before or bytes(len(after))
        for at in range(0, len(after), _PAGE):
            old, new = before[at : at + _PAGE], after[at : at + _PAGE]
            if old == new:
                continue
            was, now = array("q", old), array("q", new)
            for index in range(0, len(now), 2):
                if now[index] != was[index] or now[index + 1] != was[index + 1]:
                    self._ledger.hear(
                        at // 16 + index // 2, now[index] - was[index], now[index + 1] - was[index + 1]
                    )  # fmt: skip

    def _look_after(self, now: float) -> None:
        """Notice who died, and remove what nobody needs any more."""
        living = set(self._instance.others())
        for number in self._numbers():
            if number in living:
                if number not in self._mourned and not self._instance.is_alive(number):
                    self._mourned.add(number)
                    self.lost = True
            elif number not in living:
                path = f"{self._directory}/{instance_text(number)}.use"
                try:
                    if now - self._calls.stat(path).st_mtime > FORGOTTEN_AFTER:
                        self._calls.unlink(path)
                        self._seen.pop(number, None)
                except FileNotFoundError:
                    continue
