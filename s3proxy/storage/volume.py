"""The cache directory: paths, locks, and the primitive steps that keep names and the ledger in step."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import attrs

from s3proxy.storage.counts import StoreCounts
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.errors import RecordError, StoreError
from s3proxy.storage.files import NO_FILE, READING, SystemCalls, is_unread
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.handles import HandleCache
from s3proxy.storage.hostmemory import HostMemory
from s3proxy.storage.instance import Instance
from s3proxy.storage.layout import (
    DIRECTORY_FOOTPRINT,
    EntryName,
    Format,
    RandomBits,
    footprint,
    generation_name,
    range_directory,
)
from s3proxy.storage.ledger import Ledger
from s3proxy.storage.quarantine import Quarantine
from s3proxy.storage.record import HEADER_SIZE, RANGES, Header, decode_header
from s3proxy.storage.seal import Memory
from s3proxy.storage.trash import Trash

__all__ = ["SMALL_BODY", "Damage", "Peek", "Touchable", "Volume"]

SMALL_BODY = 64 << 10
_VANISHED = (errno.ENOENT, errno.ESTALE)
_LOCKS = 64
_FIRST_LOCK = 16


@attrs.frozen
class Peek:
    """An entry file's header (None when it is not a valid one), size and inode, and whether nobody has read it."""

    header: Header | None
    size: int
    inode: int
    unread: bool = False

    @property
    def counted(self) -> bool:
        """Whether the ledger has it: what its owner has not finished yet is not published."""
        return self.header is None or self.header.complete


@attrs.frozen
class Damage:
    """A file that turned out not to be what was stored.

    :ivar kind: ``metadata``: the description of an entry, ``range``: bytes of a body, ``missing``: bytes at the end
    :ivar path: where it was
    :ivar kept: where it is now; None: it was deleted
    """

    kind: str
    path: str
    reason: str
    kept: str | None


class Touchable(Protocol):
    """Something whose owner shows that he lives by renewing a file's time."""

    def touch(self) -> None: ...


class Volume:
    """One cache directory, as one process uses it. Thread-safe; every call may block on the disk.

    An operation that changes names of one entry holds that entry's lock, which makes the operation one step for the
    other threads of this process, and for the processes with which it shares ``memory``. Between others nothing depends
    on it: there the order of the steps is what counts. Nothing waits for room while it holds an entry's lock.
    """

    def __init__(
        self,
        root: str,
        form: Format,
        *,
        calls: SystemCalls,
        now: Callable[[], float],
        random: RandomBits,
        generations: GenerationTable,
        ledger: Ledger,
        instance: Instance,
        handles: HandleCache,
        memory: HostMemory | None = None,
    ) -> None:
        self.root = root
        self.format = form
        self.calls = calls
        self.now = now
        self.random = random
        self.generations = generations
        self.ledger = ledger
        self.instance = instance
        self.handles = handles
        self.objects = f"{root}/o"
        self.uploads = f"{root}/up"
        self.uploads_shard = form.shards
        self._locks: list[AbstractContextManager[Any]] = [threading.RLock() for _ in range(_LOCKS)]
        self._part_locks: list[AbstractContextManager[Any]] = [threading.Lock() for _ in range(_LOCKS)]
        if memory is not None:
            self._locks = [memory.lock(_FIRST_LOCK + number) for number in range(_LOCKS)]
            self._part_locks = [memory.lock(_FIRST_LOCK + _LOCKS + number) for number in range(_LOCKS)]
        self.trash = Trash(self)
        self.quarantine = Quarantine(calls, root, ledger.limit)
        self.soundness = Memory()
        self.counts = StoreCounts()
        self.on_damage: Callable[[Damage], None] = lambda damage: None
        self.doubt_from: float | None = None
        self.live: set[Touchable] = set()
        self._marker = self.calls.stat(f"{root}/FORMAT").st_ino

    # Names

    def lock(self, name: EntryName) -> AbstractContextManager[Any]:
        """The lock that serialises this process's changes of one entry."""
        return self._locks[name.digest[4] % _LOCKS]

    def part_lock(self, number: int) -> AbstractContextManager[Any]:
        """The lock that serialises this process's replacements of one staged part."""
        return self._part_locks[number % _LOCKS]

    def shard_of(self, name: EntryName) -> int:
        """The index of the entry's shard."""
        return name.shard_index(self.format.shard_bits)

    def entry_path(self, name: EntryName) -> str:
        """Where the entry file is."""
        return f"{self.objects}/{name.shard(self.format.shard_bits)}/{name.text}"

    def flight_path(self, name: EntryName) -> str:
        """Where the flight file is."""
        return f"{self.entry_path(name)}.f"

    def generation_path(self, name: EntryName, generation: int) -> str:
        """Where the ranges of one version are."""
        return f"{self.objects}/{name.shard(self.format.shard_bits)}/{generation_name(name, generation)}"

    def range_path(self, entry: StoredEntry, start: int) -> str:
        """The directory that holds the range of ``entry`` at ``start``."""
        path = self.generation_path(entry.name, entry.generation)
        segment = range_directory(entry.object_size, start)
        return f"{path}/{segment}" if segment else path

    def is_doubtful(self, modified: float) -> bool:
        """Whether a file of that time may have lost bytes when the host failed, and has not been examined since."""
        return self.doubt_from is not None and self.doubt_from <= modified < self.instance.started_at

    def bump(self, name: EntryName) -> int:
        """Void what anybody keeps in memory of this entry."""
        return self.generations.bump(name.slot)

    def void(self, name: EntryName) -> int:
        """The same; and the object changes, or may have: void what anybody has asked of S3 about it."""
        return self.generations.void(name.slot)

    # Directories

    def make_shard(self, name: EntryName) -> None:
        """Make the entry's shard directory, for which the ledger has set room aside.

        :raises StoreError: the cache directory itself is gone
        """
        path = f"{self.objects}/{name.shard(self.format.shard_bits)}"
        shard = self.shard_of(name)
        with self.ledger.changing(shard):
            try:
                if self.format.shard_bits > 12:
                    self.make_directory(os.path.dirname(path), shard)
                if self.make_directory(path, shard):
                    self.ledger.use_spare(DIRECTORY_FOOTPRINT)
            except FileNotFoundError as problem:
                self.check()
                raise problem

    def heal_shard(self, path: str) -> None:
        """Something that is no directory has the name of a shard, or of what holds shards: put it aside."""
        for each in (os.path.dirname(path), path):
            if not os.path.isdir(each) and self.inode(each) is not None:
                self._put_aside(each, Damage("metadata", each, "not a directory", None))

    def make_directory(self, path: str, shard: int) -> bool:
        """Make one directory and count it; False when it exists already."""
        try:
            self.calls.mkdir(path, 0o700)
        except FileExistsError:
            return False
        self.ledger.add(shard, DIRECTORY_FOOTPRINT)
        return True

    def check(self) -> None:
        """Make sure that the directory is still the one that was opened.

        :raises StoreError: it was deleted, replaced or unmounted
        """
        path = f"{self.root}/FORMAT"
        try:
            if self.calls.stat(path).st_ino == self._marker:
                return
        except OSError as problem:
            if problem.errno != errno.ENOENT:
                raise
        raise StoreError(
            errno.ENOENT,
            "the cache directory was deleted, replaced or unmounted while it was in use; restore it and restart",
            self.root,
        )

    # Reading entries

    def peek(self, path: str) -> Peek | None:
        """Read only the header of the file at ``path``; None when there is no such file."""
        try:
            fd = self.calls.open(path, READING)
        except OSError as problem:
            if problem.errno in _VANISHED:
                return None
            if problem.errno not in NO_FILE:
                raise
            return Peek(None, 0, self.calls.stat(path).st_ino)
        try:
            status = self.calls.fstat(fd)
            data = self.calls.pread(fd, HEADER_SIZE, 0) if stat.S_ISREG(status.st_mode) else b""
        finally:
            self.calls.close(fd)
        try:
            header = decode_header(data)
        except RecordError:
            header = None
        return Peek(header, status.st_size, status.st_ino, is_unread(status))

    def inode(self, path: str) -> int | None:
        """The inode that has this name now, or None."""
        try:
            return self.calls.stat(path).st_ino
        except OSError as problem:
            if problem.errno in _VANISHED:
                return None
            raise

    # Removing

    def unlink(self, path: str) -> bool:
        """Remove a name that counts nothing; False when there was none."""
        try:
            self.calls.unlink(path)
        except OSError as problem:
            if problem.errno in _VANISHED:
                return False
            raise
        return True

    def remove_flight(self, name: EntryName) -> bool:
        """Remove the flight file, whosever it is; False when there was none."""
        path = self.flight_path(name)
        try:
            return self.unlink(path)
        except IsADirectoryError:
            return self.discard_directory(path, self.shard_of(name))

    def remove_counted(
        self, path: str, shard: int, size: int, *, unread: bool = False, damage: Damage | None = None
    ) -> bool:
        """Remove a published file of ``size`` bytes; False when it was gone already.

        :param unread: it is counted among the unread ones
        :param damage: it is damaged: it goes into quarantine
        """
        with self.ledger.changing(shard):
            try:
                if not (self.unlink(path) if damage is None else self._put_aside(path, damage)):
                    return False
            except IsADirectoryError:
                return self.discard_directory(path, shard)
            charge = footprint(size)
            self.ledger.add(shard, -charge, unread=-charge if unread else 0)
        return True

    def _put_aside(self, path: str, damage: Damage) -> bool:
        label = os.path.relpath(path, self.objects).replace("/", "_")
        try:
            kept = self.quarantine.admit(path, label, self.now())
        except OSError as problem:
            if problem.errno in _VANISHED:
                return False
            raise
        self.counts.damaged(damage.kind)
        self.on_damage(attrs.evolve(damage, kept=kept))
        return True

    def remove_entry(self, name: EntryName, *, inode: int | None = None, damage: Damage | None = None) -> bool:
        """Remove an entry file and what it points to, and void the records of it. False when there was none.

        :param inode: remove only the file that has this inode
        :param damage: see :meth:`remove_counted`
        """
        with self.lock(name):
            path = self.entry_path(name)
            try:
                found = self.peek(path)
                if found is None or (inode is not None and found.inode != inode):
                    return False
                if found.counted:
                    removed = self.remove_counted(
                        path, self.shard_of(name), found.size, unread=found.unread, damage=damage
                    )
                else:
                    removed = self.unlink(path)
                self.retire(name, found)
            finally:
                self.bump(name)
                self.handles.forget(name.digest)
            return removed

    def retire(self, name: EntryName, old: Peek | None) -> None:
        """Dispose of the ranges of an entry file that is gone."""
        if old is not None and old.header is not None and old.header.kind == RANGES:
            self.discard_generation(name, old.header.generation)

    def discard_generation(self, name: EntryName, generation: int) -> None:
        """Rename a generation directory away, to be deleted later. One that can't be renamed is left for the scan."""
        self.handles.forget(name.digest)
        self.discard_directory(self.generation_path(name, generation), self.shard_of(name))

    def discard_directory(self, path: str, shard: int) -> bool:
        """Rename a directory away, to be deleted later; False when it can't be.

        :param shard: where what is in it is counted
        """
        return self.trash.put(path, shard)

    @property
    def has_trash(self) -> bool:
        """Whether something waits for :meth:`empty_trash`."""
        return bool(self.trash)

    def empty_trash(self) -> None:
        """Delete what was renamed away. May take long."""
        self.trash.empty()

    def delete_tree(self, path: str, shard: int | None) -> None:
        """Delete a directory that nothing points to. What can't be deleted is left for the next scan.

        :param shard: where the files are counted; None when they are not
        """
        self.trash.delete_tree(path, shard)
