"""Files that grow while others read them, and become part of the cache when they are complete."""

import itertools
import os
from collections.abc import Sequence

import attrs

from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.errors import NotNow
from s3proxy.storage.files import UNREAD_MODE, write_fully
from s3proxy.storage.handles import OpenFile, RangeKey, ReadHandle
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, EntryName, footprint, range_name, temp_name
from s3proxy.storage.lease import Lease
from s3proxy.storage.publish import FULL, Room, promote
from s3proxy.storage.reading import seal_range
from s3proxy.storage.record import (
    HEADER_SIZE,
    STAMP_OFFSET,
    BlockChecksums,
    Footer,
    Header,
    encode_footer,
    encode_given_up,
    encode_header,
    footer_size,
)
from s3proxy.storage.volume import Volume

__all__ = ["InlineWriter", "RangeWriter", "Writer", "next_serial"]

_READ_BYTES = 1 << 20
_serials = itertools.count()


def next_serial() -> int:
    """A number for a file's name that this process has not used yet."""
    return next(_serials)


class Writer:
    """One growing file: bytes [start, start + length) of an object, of which :attr:`written` are there.

    Used by one thread at a time; ``written`` and :meth:`handle` may be used by any. The file is readable from the first
    byte on: the object's byte at ``start`` is at file offset ``base``. It ends by a commit or by :meth:`discard`, after
    which its descriptor stays open until :meth:`close` and until every handle is closed.
    """

    def __init__(
        self, volume: Volume, room: Room, file: OpenFile, *, name: EntryName, base: int, start: int, length: int
    ) -> None:
        self.name = name
        self.base = base
        self.start = start
        self.length = length
        self.written = 0
        self._volume = volume
        self._room = room
        self._file: OpenFile | None = file
        self._fd = file.fd
        self._checksums = BlockChecksums()
        self._finished = False
        self._charged = footprint(base)
        volume.ledger.grow(self._charged)
        volume.live.add(self)

    @property
    def fd(self) -> int:
        """The descriptor, open until :meth:`close`."""
        return self._fd

    def handle(self) -> ReadHandle:
        """A reader's own hold of the file, for all the bytes that are promised.

        :raises ValueError: the writer is closed
        """
        if self._file is None or not self._file.acquire():
            raise ValueError("the writer is closed")
        return ReadHandle(self._file, self.base, self.start, self.start + self.length)

    def append(self, chunks: Sequence[bytes], promptly: bool = False) -> None:
        """Write all of these bytes behind the last ones.

        :param promptly: only if nothing has to be evicted for it
        :raises OSError: they could not all be written; ``written`` has not changed, and the call may be repeated
        :raises NotNow: promptly, and something has to be evicted first; the same
        :raises ValueError: more than was promised, or after the end
        """
        size = sum(map(len, chunks))
        if self._finished or self.written + size > self.length:
            raise ValueError(
                f"{size} bytes after {self.written} of {self.length}{', and finished' if self._finished else ''}"
            )
        try:
            with self._volume.counts.timed("range_write"):
                write_fully(self._volume.calls, self._fd, chunks, self.base + self.written)
        except OSError as problem:
            if problem.errno not in FULL:
                raise
            if promptly:
                raise NotNow from problem
            if not self._room.exhausted(size):
                raise
            write_fully(self._volume.calls, self._fd, chunks, self.base + self.written)
        for chunk in chunks:
            self._checksums.update(chunk)
        charge = footprint(self.base + self.written + size)
        self._volume.ledger.grow(charge - self._charged)
        self._charged = charge
        self.written += size

    def touch(self) -> None:
        """Show readers on other hosts that the writer lives. A touch that fails is none."""
        try:
            self._volume.calls.utime(self._fd)
        except OSError:
            return

    def commit(self, promptly: bool = False) -> StoredEntry | int | None:
        """Publish the complete file. None: it can't be, and is discarded.

        :param promptly: only if nothing has to be evicted for it
        :raises OSError: the file could not be finished; it is discarded
        :raises NotNow: promptly, and something has to be evicted first; nothing has happened
        :raises ValueError: bytes are missing, or it was finished before
        """
        raise ValueError("a plain file has nothing to become")

    def discard(self) -> None:
        """Give up what was written. Idempotent; nothing happens after a commit.

        :raises OSError: the file's name could not be removed; the next scan does it
        """
        if not self._finished:
            try:
                self._remove()
            finally:
                self._finish()

    def close(self) -> None:
        """Discard what was not committed, and let go of the descriptor. Idempotent."""
        try:
            self.discard()
        finally:
            file, self._file = self._file, None
            if file is not None:
                file.release()

    def _remove(self) -> None:
        """Remove the file's name."""

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._volume.live.discard(self)
            self._volume.ledger.grow(-self._charged)

    def _require_complete(self) -> None:
        if self._finished or self.written != self.length:
            raise ValueError(f"{self.written} of {self.length} bytes{', and finished' if self._finished else ''}")

    def _write_footer(self, length: int) -> Footer:
        footer = Footer(checksums=self._checksums.result(), length=length, start=self.start)
        write_fully(self._volume.calls, self._fd, [encode_footer(footer)], self.base + length)
        return footer


class RangeWriter(Writer):
    """A range of an entry of kind RANGES."""

    def __init__(
        self, volume: Volume, room: Room, file: OpenFile, path: str, entry: StoredEntry, start: int, length: int
    ) -> None:
        super().__init__(volume, room, file, name=entry.name, base=0, start=start, length=length)
        self._path = path
        self._entry = entry

    @classmethod
    def start_range(cls, volume: Volume, room: Room, entry: StoredEntry, start: int, length: int) -> "RangeWriter":
        """Create the temporary file. See :meth:`DiskStore.start_range`."""
        directory = volume.range_path(entry, start)
        path = f"{directory}/{temp_name(start, start + length, volume.instance.number, next_serial())}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = volume.calls.open(path, flags, 0o600)
        except FileNotFoundError:
            if directory == volume.generation_path(entry.name, entry.generation) or not room.reserve(
                DIRECTORY_FOOTPRINT
            ):
                raise
            shard = volume.shard_of(entry.name)
            try:
                with volume.ledger.changing(shard):
                    volume.make_directory(directory, shard)
            finally:
                room.release(DIRECTORY_FOOTPRINT)
            fd = volume.calls.open(path, flags, 0o600)
        return cls(volume, room, OpenFile(volume.calls, fd), path, entry, start, length)

    def take_over(self) -> None:
        """Go on behind what another process, which has died, has written into the file.

        :raises OSError: it can't be read
        """
        calls = self._volume.calls
        # It may have died while it wrote a footer.
        written = min(self.length, calls.fstat(self._fd).st_size - footer_size(self.length))
        position = 0
        while position < written:
            data = calls.pread(self._fd, min(_READ_BYTES, written - position), position)
            if not data:
                break
            self._checksums.update(data)
            position += len(data)
        calls.ftruncate(self._fd, position)
        charge = footprint(position)
        self._volume.ledger.grow(charge - self._charged)
        self._charged = charge
        self.written = position

    def commit(self, promptly: bool = False) -> int | None:
        """Publish the range; returns its length. None: the entry is gone, or there is no room."""
        self._require_complete()
        return self._publish(promptly)

    def commit_prefix(self, min_bytes: int) -> int | None:
        """Publish what was written so far as a shorter range, if that is at least ``min_bytes``; returns its length."""
        if self._finished:
            raise ValueError("finished before")
        if self.written < max(1, min_bytes):
            self.discard()
            return None
        return self._publish()

    def _publish(self, promptly: bool = False) -> int | None:
        volume, length = self._volume, self.written
        charge = footprint(length + footer_size(length))
        if promptly and not self._room.reserve_at_once(charge):
            raise NotNow
        try:
            if not promptly and not self._room.reserve(charge):
                self._remove()
                return None
            try:
                return self._link(length, charge)
            finally:
                self._room.release(charge)
        except OSError:
            volume.unlink(self._path)
            raise
        finally:
            self._finish()

    def _link(self, length: int, charge: int) -> int | None:
        volume = self._volume
        footer = self._write_footer(length)
        status = volume.calls.fstat(self._fd)
        stop = self.start + length
        shard = volume.shard_of(self.name)
        directory = volume.range_path(self._entry, self.start)
        path = f"{directory}/{range_name(self.start, stop)}"
        with volume.ledger.changing(shard):
            try:
                if volume.inode(f"{directory}/{range_name(self.start, stop, encoded=True)}") is not None:
                    raise FileExistsError
                volume.calls.rename_new(self._path, path)
            except FileExistsError:
                self._remove()
                return length
            except FileNotFoundError:
                return None
            volume.ledger.add(shard, charge)
        if self._file is not None:
            seal = seal_range(volume, self._entry, self.start, path, footer, status)
            seal.vouch()
            self._file.seal = seal
            volume.handles.put(
                RangeKey(self.name.digest, self._entry.generation, self.start, stop), self._file, volume.now()
            )
        return length

    def _remove(self) -> None:
        self._volume.unlink(self._path)


class InlineWriter(Writer):
    """The body of an inline entry, growing in the flight file."""

    def __init__(self, volume: Volume, room: Room, lease: Lease, header: Header, facts: EntryFacts) -> None:
        first = [encode_header(attrs.evolve(header, complete=False, unconfirmed=False)), facts.meta]
        write_fully(volume.calls, lease.file.fd, first, 0)
        lease.file.acquire()
        base = HEADER_SIZE + len(facts.meta)
        super().__init__(volume, room, lease.file, name=lease.name, base=base, start=0, length=header.body_length)
        self._lease = lease
        self._header = header
        self._facts = facts

    def commit(self, promptly: bool = False) -> StoredEntry | None:
        """Publish the entry. None: the lease was revoked, or there is no room."""
        self._require_complete()
        header = self._header
        charge = footprint(header.file_size)
        if promptly and not self._room.reserve_at_once(charge):
            raise NotNow
        try:
            if not promptly and not self._room.reserve(charge):
                self._remove()
                return None
            try:
                self._write_footer(self.length)
                if self._facts.unread:
                    self._volume.calls.chmod(self._fd, UNREAD_MODE)
                write_fully(self._volume.calls, self._fd, [encode_header(header)], 0)
                return promote(self._volume, self._lease, header, self._facts)
            finally:
                self._room.release(charge)
        finally:
            self._finish()
            self._lease.release()

    def commit_prefix(self, min_bytes: int) -> None:
        """Discard it: an inline entry has its whole body or is none."""
        if self._finished:
            raise ValueError("finished before")
        self.discard()

    def _remove(self) -> None:
        try:
            # For those who follow: it is not only the name that is gone.
            write_fully(self._volume.calls, self._fd, [encode_given_up()], STAMP_OFFSET)
        finally:
            self._lease.release()
