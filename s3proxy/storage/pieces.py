"""Bytes on their way into files that no reader knows yet."""

import os
from collections import deque
from collections.abc import Callable, Sequence

from s3proxy.storage.errors import NotNow
from s3proxy.storage.files import UNREAD_MODE
from s3proxy.storage.handles import OpenFile
from s3proxy.storage.layout import EntryName, footprint, temp_name
from s3proxy.storage.publish import Room
from s3proxy.storage.record import UNPLACED, footer_size
from s3proxy.storage.share import Allowance
from s3proxy.storage.volume import Volume
from s3proxy.storage.writer import Writer, next_serial

__all__ = ["PieceWriter", "Pieces", "ScratchWriter", "create_temp", "piece_charges"]

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def create_temp(volume: Volume, directory: str, start: int, stop: int) -> tuple[int, str]:
    """Create a file that is named for being written; returns its descriptor and path.

    :raises FileNotFoundError: there is no such directory
    """
    path = f"{directory}/{temp_name(start, stop, volume.instance.number, next_serial())}"
    return volume.calls.open(path, _FLAGS, 0o600), path


class ScratchWriter(Writer):
    """A file without a name: it goes with its descriptor, whatever happens to the process."""

    def __init__(self, volume: Volume, room: Room, name: EntryName, length: int) -> None:
        fd, path = create_temp(volume, volume.uploads, 0, max(1, length))
        file = OpenFile(volume.calls, fd)
        try:
            volume.unlink(path)
        except OSError:
            file.release()
            raise
        super().__init__(volume, room, file, name=name, base=0, start=0, length=length)

    @property
    def checksums(self) -> tuple[int, ...]:
        """The CRC-32 of each block that was written."""
        return self._checksums.result()


class PieceWriter(Writer):
    """One file of a body: it gets its name, and is counted, when it is complete.

    :param path: its final name
    :param start: the offset of its bytes in the object, or ``UNPLACED``
    :param renew: the directory whose time shows that somebody is at work on it; None: no matter
    """

    def __init__(
        self, volume: Volume, room: Room, name: EntryName, path: str, *, start: int, length: int, renew: str | None
    ) -> None:
        first = 0 if start == UNPLACED else start
        fd, self._temp = create_temp(volume, os.path.dirname(path), first, first + length)
        self.path = path
        self._renew = renew
        super().__init__(volume, room, OpenFile(volume.calls, fd), name=name, base=0, start=start, length=length)

    def touch(self) -> None:
        """See :class:`Writer`."""
        super().touch()
        if self._renew is not None:
            try:
                self._volume.calls.utime(self._renew)
            except OSError:
                return

    def publish(self) -> int:
        """Give the complete file its name; returns what it is charged with.

        :raises OSError: it could not be finished; it is discarded. FileNotFoundError: its directory is gone
        """
        self._require_complete()
        volume, shard = self._volume, self._volume.uploads_shard
        charge = footprint(self.length + footer_size(self.length))
        try:
            self._write_footer(self.length)
            volume.calls.chmod(self._fd, UNREAD_MODE)
            with volume.ledger.changing(shard):
                volume.calls.rename_new(self._temp, self.path)
                volume.ledger.add(shard, charge, unread=charge)
        except OSError:
            self._remove()
            raise
        finally:
            self._finish()
        return charge

    def _remove(self) -> None:
        self._volume.unlink(self._temp)


def piece_charges(size: int, cut: int) -> int:
    """What the files of a body of ``size`` bytes are charged with together."""
    whole, rest = divmod(size, cut)
    lengths = [(whole, cut), (1, rest)] if rest else [(whole, cut)]
    return sum(count * footprint(length + footer_size(length)) for count, length in lengths)


class Pieces:
    """A body that is written into files of ``cut`` bytes, the last one of fewer, one after another.

    Used by one thread at a time. After an error it can only be discarded.

    :param allowance: the room for all of it, see :func:`piece_charges`
    :param place: gives the path of the file for an interval of the body; its directory exists then
    :param placed: whether the body is the object; otherwise its place in that is not known yet
    :param renew: see :class:`PieceWriter`
    :ivar files: path and length of each file that is complete
    :ivar charge: what they are charged with
    """

    def __init__(
        self,
        volume: Volume,
        room: Room,
        allowance: Allowance,
        name: EntryName,
        size: int,
        cut: int,
        place: Callable[[int, int], str],
        *,
        placed: bool,
        renew: str | None = None,
    ) -> None:
        self.size = size
        self.written = 0
        self.files: list[tuple[str, int]] = []
        self.charge = 0
        self._volume = volume
        self._room = room
        self._allowance = allowance
        self._name = name
        self._cut = cut
        self._place = place
        self._placed = placed
        self._renew = renew
        self._writer: PieceWriter | None = None
        self._over = False

    def append(self, chunks: Sequence[bytes], promptly: bool = False) -> None:
        """Write all of it behind what was written before.

        :param promptly: only if it goes into the file that is open
        :raises NotNow: promptly, and it doesn't; nothing has happened
        :raises OSError: the disk failed
        :raises ValueError: more than was promised, or after the end
        """
        size = sum(map(len, chunks))
        if self._over or self.written + size > self.size:
            raise ValueError(
                f"{size} bytes after {self.written} of {self.size}{', and finished' if self._over else ''}"
            )
        if promptly and (self._writer is None or size > self._writer.length - self._writer.written):
            raise NotNow
        pending = deque(chunk for chunk in chunks if chunk)
        while pending:
            writer = self._open()
            room = writer.length - writer.written
            batch: list[bytes] = []
            while pending and room:
                chunk = pending.popleft()
                if len(chunk) > room:
                    pending.appendleft(chunk[room:])
                    chunk = chunk[:room]
                batch.append(chunk)
                room -= len(chunk)
            writer.append(batch, promptly)
            self.written += sum(map(len, batch))

    def finish(self) -> None:
        """Everything has been written: complete the last file.

        :raises OSError: the disk failed
        :raises ValueError: bytes are missing, or it was finished before
        """
        if self._over or self.written != self.size:
            raise ValueError(f"{self.written} of {self.size} bytes{', and finished' if self._over else ''}")
        self._complete()
        self._over = True

    def discard(self) -> None:
        """Remove the file that is being written, if there is one; the others are their directory's. Idempotent."""
        self._over = True
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _open(self) -> PieceWriter:
        if self._writer is None or self._writer.written == self._writer.length:
            self._complete()
            stop = min(self.size, (self.written // self._cut + 1) * self._cut)
            self._writer = PieceWriter(
                self._volume,
                self._room,
                self._name,
                self._place(self.written, stop),
                start=self.written if self._placed else UNPLACED,
                length=stop - self.written,
                renew=self._renew,
            )
        return self._writer

    def _complete(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                charge = writer.publish()
                self.files.append((writer.path, writer.length))
                self.charge += charge
                self._allowance.use(charge)
            finally:
                writer.close()
