"""What other instances on the same cache directory add and remove, for this one's ledger.

Each process keeps a file ``inst/<I>.use`` with what it has added to each shard since it started, removals taken off::

    magic, group, beat, number of this state, shards, whether it has ended     48 bytes
    for each shard: bytes, unread bytes                                         two numbers of 8 bytes
    for each shard: how often it has changed something there                    4 bytes

The beat grows about every second, the number when something has changed. Numbers only accumulate, so that it does no
harm to read them twice, late, or never: whoever reads them takes the difference to what it read before. Nobody sets
them back. The processes of one host share a ledger and have the same group; one of them reads for all.

Who has not ended in good order and is dead may have done something that it has not told: then :attr:`Peers.lost` says
that everything should be counted anew.
"""

import os
import struct
import threading
import time
from array import array
from contextlib import AbstractContextManager
from typing import Any, Final

import attrs

from s3proxy.storage.files import SystemCalls
from s3proxy.storage.instance import Instance
from s3proxy.storage.layout import instance_text
from s3proxy.storage.ledger import Ledger

__all__ = ["FORGOTTEN_AFTER", "PATIENCE", "Mark", "Peers", "parse_use"]

FORGOTTEN_AFTER: Final = 600.0
"""Seconds after its last change at which the file of an instance that has ended is removed: by then all have read it.
"""
_LOOK: Final = 5.0
"""Seconds between two looks whether others still live."""
PATIENCE: Final = 10.0
"""Seconds after which it is taken for granted that another instance has told what it did."""
_MAGIC: Final = b"s3pxuse3"
_HEAD: Final = struct.Struct("<8sqqqqq")
_PAGE: Final = 4096
_UNTOUCHED: Final = bytes(20)


def parse_use(name: str) -> int | None:
    """The instance whose file in ``inst/`` has this name; None when it is another file."""
    if not name.endswith(".use"):
        return None
    try:
        return int(name[:-4], 16)
    except ValueError:
        return None


class _State:
    """What was read last of another process's file."""

    __slots__ = ("beat", "number", "ended", "sums", "changes")

    def __init__(self, beat: int, number: int, ended: bool, sums: bytes, changes: bytes) -> None:
        self.beat = beat
        self.number = number
        self.ended = ended
        self.sums = sums
        self.changes = changes

    def of(self, shard: int) -> bytes:
        """What it did to one shard."""
        return self.sums[16 * shard : 16 * shard + 16] + self.changes[4 * shard : 4 * shard + 4]


@attrs.define
class Mark:
    """What was known of the others when a shard was looked at.

    :ivar states: what each had done to the shard, before the look
    :ivar alone: nobody else lives
    :ivar at: the monotonic clock's seconds when the look was over
    :ivar listened: how often this process had begun to listen by then
    :ivar beats: of the others, some time after the look; None: nobody has listened since
    """

    states: dict[int, bytes]
    alone: bool
    at: float = 0.0
    listened: int = 0
    beats: dict[int, int] | None = None


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
        self._changes = array("I", bytes(4 * shards))
        self._changed: set[int] = set()
        self._listened = 0
        self._beat = self._number = 0
        self._listening = threading.Lock()
        self._seen: dict[int, _State] = {}
        self._dead: set[int] = set()
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
                if not self._instance.is_alive(number):
                    # Whatever it did is there.
                    self._mourned.add(number)
            self._find_dead()
        self.tell()
        self._ledger.told = self.note

    def note(self, shard: int, size: int, unread: int) -> None:
        """This process added so much to a shard, or took it away."""
        with self._lock:
            self._sums[2 * shard] += size
            self._sums[2 * shard + 1] += unread
            self._changes[shard] = self._changes[shard] + 1 & 0xFFFFFFFF
            self._changed.add(16 * shard // _PAGE)
            self._changed.add((16 * self._shards + 4 * shard) // _PAGE)

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

    def tell(self, *, ended: bool = False) -> None:
        """Write what has changed, and that this process lives.

        :param ended: it is the last word

        The file is opened and closed each time: on NFS that is what lets other hosts see it, and nothing is open for
        writing that would keep somebody from remounting the directory as read-only.

        :raises OSError: it could not be written; it will be the next time
        """
        with self._lock:
            changed, self._changed = self._changed, set()
            data = self._sums.tobytes() + self._changes.tobytes()
        path = f"{self._directory}/{instance_text(self._instance.number)}.use"
        size = _HEAD.size + len(data)
        try:
            fd = self._calls.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if self._calls.fstat(fd).st_size != size:
                    # New, or somebody removed it.
                    self._calls.ftruncate(fd, size)
                    changed.update(range((len(data) + _PAGE - 1) // _PAGE))
                for page in sorted(changed):
                    self._calls.pwrite(fd, data[page * _PAGE : (page + 1) * _PAGE], _HEAD.size + page * _PAGE)
                self._beat += 1
                self._number += bool(changed)
                head = _HEAD.pack(_MAGIC, self._group, self._beat, self._number, self._shards, ended)
                self._calls.pwrite(fd, head, 0)
            finally:
                self._calls.close(fd)
        except OSError:
            with self._lock:
                self._changed |= changed
            raise

    def listen(self) -> None:
        """Take over what the others have changed since the last time.

        :raises OSError: the directory can't be read
        """
        with self._listening:
            self._listened += 1
            for number in self._numbers():
                found = self._read(number)
                if found is not None:
                    before = self._seen.get(number)
                    self._seen[number] = found
                    self._take(b"" if before is None else before.sums, found.sums)

    def deaf(self) -> AbstractContextManager[Any]:
        """A context manager, in which nothing that others have done reaches the ledger."""
        return self._listening

    def mark(self, shard: int) -> Mark:
        """What is known of the others now: before a shard is looked at."""
        with self._listening:
            states = {number: state.of(shard) for number, state in self._seen.items()}
            alone = all(state.ended or number in self._dead for number, state in self._seen.items())
        return Mark(states, alone)

    def looked(self, mark: Mark) -> None:
        """The look is over."""
        with self._listening:
            mark.listened, mark.at = self._listened, time.monotonic()

    def unchanged_since(self, mark: Mark, shard: int, patience: float) -> bool | None:
        """Whether nobody else changed the shard while it was looked at, and everybody had told by the mark what he had
        changed before. None: that is not known yet.

        :param patience: seconds since the look after which those who have not told are not waited for
        """
        with self._listening:
            if any(state.of(shard) != mark.states.get(number, _UNTOUCHED) for number, state in self._seen.items()):
                return False
            if mark.beats is None:
                if self._listened == mark.listened:
                    return None
                mark.beats = {number: state.beat for number, state in self._seen.items()}
            # What is written with the next beat may have been put together before the look was over; what is written
            # with the one after that was not.
            silent = any(
                self._seen[number].beat < beat + 2 and not self._seen[number].ended and number not in self._dead
                for number, beat in mark.beats.items()
                if number in self._seen
            )
            return None if silent and time.monotonic() - mark.at < patience else True

    def close(self) -> None:
        """The last word. Never raises."""
        try:
            self.tell(ended=True)
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

    def _read(self, number: int) -> _State | None:
        """What another host's process says; None: it is no such file."""
        try:
            fd = self._calls.open(f"{self._directory}/{instance_text(number)}.use", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            head = self._calls.pread(fd, _HEAD.size, 0)
            if len(head) < _HEAD.size:
                return None
            magic, group, beat, state, shards, ended = _HEAD.unpack(head)
            if magic != _MAGIC or group == self._group or shards != self._shards:
                return None
            known = self._seen.get(number)
            if known is not None and known.number == state:
                return _State(beat, state, bool(ended), known.sums, known.changes)
            data = self._calls.pread(fd, 20 * shards, _HEAD.size)
        finally:
            self._calls.close(fd)
        if len(data) < 20 * shards:
            return None
        return _State(beat, state, bool(ended), data[: 16 * shards], data[16 * shards :])

    def _has_ended(self, number: int) -> bool:
        """Whether a process that is dead has told everything."""
        try:
            fd = self._calls.open(f"{self._directory}/{instance_text(number)}.use", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            head = self._calls.pread(fd, _HEAD.size, 0)
        finally:
            self._calls.close(fd)
        return len(head) == _HEAD.size and head.startswith(_MAGIC) and bool(_HEAD.unpack(head)[5])

    def _take(self, before: bytes, after: bytes) -> None:
        if before is after:
            return
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

    def _find_dead(self) -> None:
        known = set(self._instance.others())
        seen = list(self._seen)
        self._dead = {number for number in seen if number not in known or not self._instance.is_alive(number)}

    def _look_after(self, now: float) -> None:
        """Notice who died, and remove what nobody needs any more."""
        self._find_dead()
        with_heartbeat = set(self._instance.others())
        for number in self._numbers():
            if self._instance.is_alive(number):
                continue
            if number not in self._mourned:
                self._mourned.add(number)
                # Its heartbeat may be gone because somebody else has buried it.
                self.lost = self.lost or not self._has_ended(number)
            if number not in with_heartbeat:
                self._forget(number, now)

    def _forget(self, number: int, now: float) -> None:
        path = f"{self._directory}/{instance_text(number)}.use"
        try:
            if now - self._calls.stat(path).st_mtime > FORGOTTEN_AFTER:
                self._calls.unlink(path)
                self._mourned.discard(number)
                with self._listening:
                    self._seen.pop(number, None)
        except FileNotFoundError:
            return
