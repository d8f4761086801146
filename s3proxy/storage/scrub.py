"""Reading everything that is stored again, slowly, to see whether it still is what was stored."""

import json
import os
from collections.abc import Iterator

from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.errors import Damaged
from s3proxy.storage.eviction import shard_paths
from s3proxy.storage.files import write_fully
from s3proxy.storage.handles import ReadHandle
from s3proxy.storage.layout import EntryName
from s3proxy.storage.reading import listed, load, open_inline, open_unshared
from s3proxy.storage.record import INLINE, RANGES
from s3proxy.storage.residency import resident
from s3proxy.storage.volume import Volume

__all__ = ["Scrub"]

_SAVE_SECONDS = 10.0
_LARGEST = 4096


class Scrub:
    """Passes over the directory, shard by shard. Where a pass is, is noted in ``ctl/scrub.json``, so that the next
    process goes on there; and who makes it in ``ctl/scrub.lease``, so that only one does.

    Used by one thread at a time; every call blocks.

    :ivar files: that were read,
    :ivar read: bytes of them, and
    :ivar damaged: how many of them were put aside, by this process
    """

    def __init__(self, volume: Volume) -> None:
        self.files = self.read = self.damaged = 0
        self._volume = volume
        self._path = f"{volume.root}/ctl/scrub.json"
        self._lease = f"{volume.root}/ctl/scrub.lease"
        self._work: Iterator[int] | None = None
        self._leads = False
        self._began = self._ended = 0.0
        self._next = 0
        self._interval = 0.0
        self._saved_at = float("-inf")
        self._known = False

    def wait(self, interval: float) -> float:
        """Seconds until the next pass is due, or the present one should go on: 0 when it is time.

        :param interval: from the beginning of one pass to that of the next
        :raises OSError: the directory can't be read
        """
        now = self._volume.now()
        self._interval = interval
        if not self._known:
            self._load(now)
        if self._under_way or not 0 <= now - self._began < interval:
            return 0.0
        return interval - (now - self._began)

    @property
    def _under_way(self) -> bool:
        return self._next > 0 or self._ended < self._began

    def step(self, budget: int) -> int | None:
        """When it is time: read on, about ``budget`` bytes. How many it were; None: the pass is over, or another
        process makes it or has made it.

        :raises OSError: the directory can't be read or written to
        """
        if not self._leads and not self._take_lease():
            self._known = False
            return None
        if self._work is None:
            if self.wait(self._interval) > 0:
                self._release()
                return None
            if not self._under_way:
                self._began = self._volume.now()
            self._work = self._pass()
        done = 0
        for size in self._work:
            done += size
            if done >= budget:
                return done
        self._work = None
        self._next, self._ended = 0, self._volume.now()
        self._save()
        self._release()
        self._volume.quarantine.tidy(self._ended)
        return None

    def close(self) -> None:
        """Note where the pass is, and let others go on. Never raises."""
        work, self._work = self._work, None
        if work is not None:
            work.close()  # type: ignore[attr-defined]
        if self._leads:
            try:
                self._save()
            except OSError:
                pass
            self._release()

    # The pass

    def _pass(self) -> Iterator[int]:
        for index, path in sorted(shard_paths(self._volume)):
            if index < self._next:
                continue
            self._next = index
            if self._volume.now() - self._saved_at >= _SAVE_SECONDS:
                self._save()
            try:
                names = self._volume.calls.listdir(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for text in names:
                name = EntryName.from_text(text)
                if name is not None:
                    yield from self._entry(name)
            # A shard with nothing in it costs something, too.
            yield _LARGEST

    def _entry(self, name: EntryName) -> Iterator[int]:
        """What is published under one name; whatever is wrong with the entry itself is found by reading it."""
        volume = self._volume
        faults = volume.counts.faults.total()
        entry = load(volume, name)
        if entry is not None and entry.kind == INLINE:
            yield from self._file(entry, open_inline(volume, entry, sealed=True))
        elif entry is not None and entry.kind == RANGES:
            spans, encoded = listed(volume, entry)
            for span in spans:
                yield from self._file(entry, open_unshared(volume, entry, *span, encoded=span in encoded))
        self.damaged += volume.counts.faults.total() - faults
        yield _LARGEST

    def _file(self, entry: StoredEntry, handle: ReadHandle | None) -> Iterator[int]:
        if handle is None or handle.seal is None:
            return
        self.files += 1
        try:
            keep = resident(handle.fd, handle.base, 1) is not False
            for data in handle.seal.stored(handle.fd):
                self.read += len(data)
                yield len(data)
            if not keep:
                # Nobody reads it: it must not take the place of what is read.
                os.posix_fadvise(handle.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except Damaged:
            return
        finally:
            handle.close()

    # Position and lease

    def _load(self, now: float) -> None:
        self._known = True
        self._next, self._began, self._ended = 0, now, now
        try:
            fd = self._volume.calls.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # The first pass over a new directory comes after one interval.
            self._save()
            return
        try:
            record = json.loads(self._volume.calls.pread(fd, _LARGEST, 0))
            found = int(record["next"]), float(record["began"]), float(record["ended"])
        except (ValueError, KeyError, TypeError):
            return
        finally:
            self._volume.calls.close(fd)
        if found[1] <= now and found[0] >= 0:
            self._next, self._began, self._ended = found

    def _save(self) -> None:
        volume = self._volume
        draft = f"{volume.root}/ctl/scrub.{volume.instance.number:015x}.tmp"
        record = {"next": self._next, "began": self._began, "ended": self._ended}
        fd = volume.calls.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_fully(volume.calls, fd, [json.dumps(record).encode("ascii")], 0)
        finally:
            volume.calls.close(fd)
        volume.calls.rename(draft, self._path)
        self._saved_at = volume.now()

    def _take_lease(self) -> bool:
        """Whether this process makes the pass: nobody does who lives."""
        volume = self._volume
        for _ in range(2):
            try:
                fd = volume.calls.open(self._lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                if self._is_held():
                    return False
                volume.unlink(self._lease)
                continue
            try:
                write_fully(volume.calls, fd, [f"{volume.instance.number:015x}".encode("ascii")], 0)
            finally:
                volume.calls.close(fd)
            self._leads = True
            # Another one may have come further.
            self._load(volume.now())
            return True
        return False

    def _is_held(self) -> bool:
        calls = self._volume.calls
        try:
            fd = calls.open(self._lease, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            number = int(calls.pread(fd, 32, 0), 16)
        except ValueError:
            # Its owner writes his name at this moment, or died before he had.
            return self._volume.now() - calls.fstat(fd).st_mtime < _SAVE_SECONDS
        finally:
            calls.close(fd)
        return number != self._volume.instance.number and self._volume.instance.is_alive(number)

    def _release(self) -> None:
        self._leads = False
        try:
            self._volume.unlink(self._lease)
        except OSError:
            return
