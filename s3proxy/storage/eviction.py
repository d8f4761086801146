"""Making room: a sample of what is stored, the worst of it removed, again and again until there is enough."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator

from s3proxy.storage.balance import Balance
from s3proxy.storage.evictlease import EvictionLease
from s3proxy.storage.files import is_unread
from s3proxy.storage.handles import RangeKey
from s3proxy.storage.layout import EntryName, footprint, parse_generation, parse_range, parse_temp
from s3proxy.storage.recency import RecencyLog, is_sidecar, read_sidecars
from s3proxy.storage.scoring import Candidate, Score, choose_victims, lru
from s3proxy.storage.volume import Volume

__all__ = ["Evictor", "shard_paths"]

POOL = 1024
UNREAD_POOL = 128
LONGEST_SEARCH = 16 * POOL
"""What is looked at, at most, to find something that nobody has read."""
_STATS_PER_DIRECTORY = 2048
_EMPTY_GRACE = 60.0
_SQUEEZE_SECONDS = 600.0
_LOOK_SECONDS = 1.0
_RESERVE_ATTEMPTS = 8
_FEWEST_FILES = 10_000
_SEARCH_PAUSE = 60.0
_PATIENCE = 1.0
"""Seconds that somebody who needs room waits while another process makes some."""


def _is_short_of_files(space: os.statvfs_result) -> bool:
    """Whether nearly all files are in use that the file system can have; some have no limit, and say 0."""
    return space.f_files > 0 and space.f_favail < min(_FEWEST_FILES, space.f_files // 50)


def shard_paths(volume: Volume) -> list[tuple[int, str]]:
    """Index and path of every shard directory there is."""
    found = []
    for name in volume.calls.listdir(volume.objects):
        try:
            index = int(name, 16)
        except ValueError:
            continue
        if volume.format.shard_bits <= 12:
            if index < volume.format.shards:
                found.append((index, f"{volume.objects}/{name}"))
            continue
        try:
            names = volume.calls.listdir(f"{volume.objects}/{name}")
        except NotADirectoryError:
            continue
        for inner in names:
            try:
                found.append((index << 8 | int(inner, 16), f"{volume.objects}/{name}/{inner}"))
            except ValueError:
                continue
    return found


class Evictor:
    """Grants room in the cache, and takes it back from what is least worth keeping. Thread-safe; one eviction runs at a
    time, of all processes on all hosts that use the directory.

    The cost of an eviction depends on what is evicted, not on the size of the cache: shards are chosen at random, and
    as names are hashes, a shard is a fair sample.
    """

    def __init__(
        self, volume: Volume, log: RecencyLog, balance: Balance, score: Score, lease: EvictionLease
    ) -> None:
        self._lease = lease
        self._volume = volume
        self._log = log
        self._balance = balance
        self._score = score
        self._exclusive = threading.RLock()
        self._looked_at = 0.0
        self._searched_at = float("-inf")
        self.evicted_bytes = 0
        self.evicted_items = 0
        self.oldest_age = 0.0

    # Room

    def reserve(self, size: int) -> bool:
        """Set room for ``size`` bytes aside, evicting if need be; False when there can't be."""
        ledger = self._volume.ledger
        if ledger.squeezed_at:
            self._relax()
        if not ledger.could_fit(size):
            return False
        for _ in range(_RESERVE_ATTEMPTS):
            if ledger.reserve(size):
                try:
                    self._balance.ensure(ledger.committed)
                except OSError:
                    ledger.release(size)
                    raise
                return True
            if not self.make_room(size):
                return False
        return False

    def reserve_at_once(self, size: int) -> bool:
        """Like :meth:`reserve`, but evicts nothing and raises nothing: False also when :meth:`reserve` would."""
        ledger = self._volume.ledger
        if ledger.squeezed_at or not ledger.reserve(size):
            return False
        try:
            self._balance.ensure(ledger.committed)
        except OSError:
            ledger.release(size)
            return False
        return True

    def release(self, size: int) -> None:
        """Give a reservation back."""
        self._volume.ledger.release(size)

    def make_room(self, size: int) -> bool:
        """Evict until ``size`` bytes fit; False when they can't."""
        ledger = self._volume.ledger
        if not ledger.could_fit(size):
            return False
        with self._exclusive:
            if ledger.fits(size):
                return True
            self._volume.empty_trash()
            if not self._lease.take(lambda: ledger.fits(size), _PATIENCE):
                return ledger.fits(size)
            try:
                while not ledger.fits(size):
                    # A little more than is needed, so that the next one need not sample again.
                    if not self._evict(ledger.excess + size + ledger.capacity // 64):
                        return ledger.fits(size)
                    self._volume.empty_trash()
            finally:
                self._lease.release()
        return True

    def make_unread_room(self, size: int) -> bool:
        """Evict what was written through and nobody has read, the oldest first, until the share of that has room for
        ``size`` bytes more; False when it hasn't: then it is full of uploads that are not finished, or of few objects
        among very many.
        """
        volume, ledger = self._volume, self._volume.ledger
        with self._exclusive:
            if ledger.fits_unread(size):
                return True
            volume.empty_trash()
            if not self._lease.take(lambda: ledger.fits_unread(size), _PATIENCE):
                return ledger.fits_unread(size)
            try:
                while not ledger.fits_unread(size):
                    in_vain = 0 <= volume.now() - self._searched_at < _SEARCH_PAUSE
                    if in_vain or ledger.unread <= ledger.staged or ledger.staged + size > ledger.unread_limit:
                        return False
                    if not self._evict(ledger.unread_excess + size + ledger.unread_limit // 64, unread=True):
                        self._searched_at = volume.now()
                    volume.empty_trash()
            finally:
                self._lease.release()
        return True

    def exhausted(self, size: int) -> bool:
        """The file system had no room for ``size`` bytes although the limit has: keep less for some minutes, and evict
        at once.
        """
        volume, ledger = self._volume, self._volume.ledger
        with self._exclusive:
            volume.empty_trash()
            goal = max(size, ledger.used // 16)
            capacity = ledger.used + ledger.reserved - goal
            if capacity <= 0:
                return False
            ledger.squeeze(capacity)
            ledger.squeezed_at = volume.now()
            before = self.evicted_bytes
            # Without room for the lease's file there is nobody to wait for.
            held = self._take_if_possible()
            try:
                while ledger.excess > 0 and self._evict(ledger.excess):
                    volume.empty_trash()
            finally:
                if held:
                    self._lease.release()
            return self.evicted_bytes > before

    def alone(self, work: Callable[[], bool]) -> bool:
        """Remove something for another reason, while nobody evicts. False also when that is not possible now.

        :param work: returns whether it is done
        """
        with self._exclusive:
            if not self._lease.take():
                return False
            try:
                return work()
            finally:
                self._lease.release()

    def clear_up(self) -> None:
        """Remove the right to evict that somebody has left who died.

        :raises OSError: the directory can't be changed
        """
        self._lease.clear()

    def spare_files(self) -> None:
        """Keep less for some minutes if the file system has hardly any room for more files, however many bytes are
        free.

        :raises OSError: the file system does not tell
        """
        volume, ledger = self._volume, self._volume.ledger
        if _is_short_of_files(volume.calls.statvfs(volume.root)):
            ledger.squeeze(max(1, (ledger.used + ledger.reserved) * 15 // 16))
            ledger.squeezed_at = volume.now()

    def _take_if_possible(self) -> bool:
        try:
            return self._lease.take(patience=_PATIENCE)
        except OSError:
            return False

    def _relax(self) -> None:
        """The file system was full; often that was a body under way, which is gone by now: allow what fits there again.

        A sixteenth of the free space is left to others.
        """
        volume, ledger = self._volume, self._volume.ledger
        now = volume.now()
        if 0 <= now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        space = volume.calls.statvfs(volume.root)
        if _is_short_of_files(space):
            return
        free = int(space.f_bavail * space.f_frsize)
        capacity = ledger.used + ledger.reserved + free - free // 16
        if capacity > ledger.capacity:
            ledger.squeeze(capacity)

    def shrink(self, target: int) -> int:
        """Delete the trash, then evict until at most ``target`` bytes are used or reserved; returns how many went."""
        volume, ledger = self._volume, self._volume.ledger
        with self._exclusive:
            volume.empty_trash()
            if ledger.squeezed_at and volume.now() - ledger.squeezed_at > _SQUEEZE_SECONDS:
                ledger.squeezed_at = 0.0
                ledger.squeeze(0)
            before = self.evicted_bytes
            if ledger.used + ledger.reserved <= target or not self._lease.take():
                return 0
            try:
                while ledger.used + ledger.reserved > target:
                    if not self._evict(ledger.used + ledger.reserved - target):
                        break
                    volume.empty_trash()
            finally:
                self._lease.release()
            return self.evicted_bytes - before

    # One batch

    def _evict(self, goal: int, *, unread: bool = False) -> int:
        """Remove the worst of one sample, at most about ``goal`` bytes; returns how many went.

        :param unread: the oldest of what nobody has read
        """
        now = self._volume.now()
        self._lease.keep()
        with self._volume.counts.eviction(now):
            freed = self._evict_at(now, goal, unread)
        self.evicted_bytes += freed
        return freed

    def _evict_at(self, now: float, goal: int, unread: bool) -> int:
        freed = 0
        victims = choose_victims(self.sample_unread() if unread else self.sample(), now, lru if unread else self._score)
        for victim in victims:
            if freed >= goal:
                break
            try:
                removed = self._remove(victim)
            except OSError as problem:
                if problem.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
                continue
            if removed:
                freed += victim.size
                self.evicted_items += 1
                self.oldest_age = now - victim.last_use
        return freed

    def sample(self, wanted: int = POOL) -> list[Candidate]:
        """Everything in randomly chosen shards, until there are ``wanted`` candidates or no more shards."""
        pool: list[Candidate] = []
        for found in self._shards():
            pool.extend(found)
            if len(pool) >= wanted:
                break
        return pool

    def sample_unread(self) -> list[Candidate]:
        """What nobody has read in randomly chosen shards, until there is enough of it or enough was looked at."""
        pool: list[Candidate] = []
        seen = 0
        for found in self._shards():
            pool.extend(candidate for candidate in found if candidate.unread)
            seen += len(found)
            if len(pool) >= UNREAD_POOL or seen >= LONGEST_SEARCH:
                break
        return pool

    def _shards(self) -> Iterator[list[Candidate]]:
        """The candidates of each shard, in random order."""
        shards = shard_paths(self._volume)
        while shards:
            # Swap with the last one, then take that: an even choice without replacement at no cost.
            index = self._volume.random.getrandbits(32) % len(shards)
            shards[index], shards[-1] = shards[-1], shards[index]
            yield self._shard(shards.pop()[1])

    def _shard(self, path: str) -> list[Candidate]:
        try:
            names = self._volume.calls.listdir(path)
        except OSError:
            return []
        found: list[Candidate] = []
        with_ranges = set()
        for text in names:
            parsed = parse_generation(text)
            if parsed is not None:
                with_ranges.add(parsed[0].digest)
                found.extend(self._generation(f"{path}/{text}", path, parsed[0], parsed[1]))
        for text in names:
            name = EntryName.from_text(text)
            if name is not None and name.digest not in with_ranges:
                candidate = self._entry(f"{path}/{text}", name)
                if candidate is not None:
                    found.append(candidate)
        return found

    def _entry(self, path: str, name: EntryName) -> Candidate | None:
        try:
            status = self._volume.calls.stat(path)
        except OSError:
            return None
        used = max(status.st_mtime, self._log.last_use(name.digest, 0))
        return Candidate(
            name=name,
            generation=None,
            start=0,
            stop=0,
            path=path,
            size=footprint(status.st_size),
            inode=status.st_ino,
            last_use=used,
            reused=bool(status.st_mode & stat.S_ISVTX),
            frequency=self._log.frequency(name.digest, 0),
            unread=is_unread(status),
        )

    def _generation(self, path: str, shard_path: str, name: EntryName, generation: int) -> list[Candidate]:
        calls = self._volume.calls
        try:
            names = calls.listdir(path)
            files = [(path, text) for text in names]
            for text in names:
                if text.isalnum():
                    files.extend((f"{path}/{text}", inner) for inner in calls.listdir(f"{path}/{text}"))
            ranges = [(directory, text, span) for directory, text in files if (span := parse_range(text)) is not None]
            if not ranges:
                return self._empty(path, shard_path, name, files)
        except OSError:
            return []
        uses = read_sidecars(self._volume, path, [text for text in names if is_sidecar(text)])
        if len(ranges) > _STATS_PER_DIRECTORY:
            first = self._volume.random.getrandbits(32) % len(ranges)
            ranges = (ranges + ranges)[first : first + _STATS_PER_DIRECTORY]
        found = []
        for directory, text, (start, stop) in ranges:
            try:
                status = calls.stat(f"{directory}/{text}")
            except OSError:
                continue
            minute, count = uses.get(start, (0, 0))
            used = max(status.st_mtime, minute * 60.0, self._log.last_use(name.digest, start))
            found.append(
                Candidate(
                    name=name,
                    generation=generation,
                    start=start,
                    stop=stop,
                    path=f"{directory}/{text}",
                    size=footprint(status.st_size),
                    inode=status.st_ino,
                    last_use=used,
                    reused=count > 0,
                    frequency=self._log.frequency(name.digest, start),
                    siblings=len(ranges),
                    unread=is_unread(status),
                )
            )
        return found

    def _empty(self, path: str, shard_path: str, name: EntryName, files: list[tuple[str, str]]) -> list[Candidate]:
        """An entry that has no range: evicted as a whole, unless one is being written or it is new."""
        if any(parse_temp(text) is not None for _, text in files):
            return []
        changed = self._volume.calls.stat(path).st_mtime
        if self._volume.now() - changed < _EMPTY_GRACE:
            return []
        entry = f"{shard_path}/{name.text}"
        found = self._entry(entry, name)
        return [] if found is None else [found]

    # Removal

    def _remove(self, victim: Candidate) -> bool:
        volume = self._volume
        if victim.generation is None:
            return volume.remove_entry(victim.name, inode=victim.inode)
        with volume.lock(victim.name):
            status = volume.calls.stat(victim.path)
            removed = volume.remove_counted(
                victim.path, volume.shard_of(victim.name), status.st_size, unread=is_unread(status)
            )
            volume.bump(victim.name)
            volume.handles.forget_range(RangeKey(victim.name.digest, victim.generation, victim.start, victim.stop))
            if removed and victim.siblings <= 16:
                self._remove_if_empty(victim.name, victim.generation)
        return removed

    def _remove_if_empty(self, name: EntryName, generation: int) -> None:
        """The last range is gone: so is the entry."""
        volume = self._volume
        path = volume.generation_path(name, generation)
        for text in volume.calls.listdir(path):
            if text.isalnum():
                if volume.calls.listdir(f"{path}/{text}"):
                    return
            elif not is_sidecar(text):
                return
        found = volume.peek(volume.entry_path(name))
        if found is not None and found.header is not None and found.header.generation == generation:
            volume.remove_entry(name, inode=found.inode)
