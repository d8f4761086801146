"""Writing the parts of a multipart upload, and what is known of them."""

import os
from collections.abc import Sequence

from s3proxy.storage.errors import RecordError
from s3proxy.storage.files import UNREAD_MODE, is_unread, write_fully
from s3proxy.storage.layout import EntryName, footprint
from s3proxy.storage.part_record import NOTE_MAX, RECORD_MAX, PartFile, StagedPart, bare_etag, decode_part, encode_part
from s3proxy.storage.pieces import Pieces, create_temp
from s3proxy.storage.record import footer_size
from s3proxy.storage.share import Allowance, WriteShare
from s3proxy.storage.upload_names import data_name, record_name
from s3proxy.storage.volume import Volume
from s3proxy.storage.writer import next_serial

__all__ = ["PartWriter", "read_file", "read_part", "write_record"]


def read_file(volume: Volume, path: str) -> bytes | None:
    """A small file; None when there is none."""
    try:
        fd = volume.calls.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return volume.calls.pread(fd, RECORD_MAX, 0)
    finally:
        volume.calls.close(fd)


def read_part(volume: Volume, directory: str, number: int) -> StagedPart | None:
    """One part; None when it is not completely there, or its record is damaged.

    :raises OSError: the disk failed
    """
    data = read_file(volume, f"{directory}/{record_name(number)}")
    try:
        part = None if data is None else decode_part(data)
    except RecordError:
        return None
    return part if part is not None and part.number == number else None


def write_record(volume: Volume, directory: str, text: str, data: bytes) -> None:
    """Give a small file its name when it is complete, whatever has the name now, and count it.

    :raises OSError: it could not be written, and nothing has changed; FileNotFoundError: the directory is gone
    """
    shard, charge = volume.uploads_shard, footprint(len(data))
    fd, temp = create_temp(volume, directory, 0, len(data))
    try:
        try:
            write_fully(volume.calls, fd, [data], 0)
            volume.calls.chmod(fd, UNREAD_MODE)
        finally:
            volume.calls.close(fd)
        path = f"{directory}/{text}"
        with volume.ledger.changing(shard):
            try:
                status = volume.calls.stat(path)
                old, unread = footprint(status.st_size), is_unread(status)
            except FileNotFoundError:
                old, unread = 0, False
            volume.calls.rename(temp, path)
            volume.ledger.add(shard, charge - old, unread=charge - (old if unread else 0))
    except OSError:
        volume.unlink(temp)
        raise


class PartWriter:
    """One part on its way to disk. Used by one thread at a time; every call blocks. Ends by :meth:`commit` or
    :meth:`discard`.
    """

    def __init__(
        self,
        volume: Volume,
        share: WriteShare,
        allowance: Allowance,
        name: EntryName,
        directory: str,
        number: int,
        size: int,
        cut: int,
    ) -> None:
        self.number = number
        self.size = size
        self._volume = volume
        self._allowance = allowance
        self._directory = directory
        self._pieces = Pieces(volume, share, allowance, name, size, cut, self._place, placed=False, renew=directory)
        self._over = False

    @property
    def written(self) -> int:
        """How many bytes are there."""
        return self._pieces.written

    def append(self, chunks: Sequence[bytes], promptly: bool = False) -> None:
        """Take these bytes behind the last ones.

        :param promptly: only if no file has to be made or finished and nothing evicted for it: this may be called in
            the reactor's thread
        :raises NotNow: promptly, and something has to; nothing has happened
        :raises OSError: the disk failed, or the upload has ended; the part can only be discarded
        :raises ValueError: more than was promised, or after the end
        """
        self._pieces.append(chunks, promptly)

    def commit(self, etag: bytes, note: bytes = b"") -> bool:
        """S3 has taken the part: from now on it is one of the upload's, in the place of an older one of its number.
        False: the upload has ended meanwhile, and nothing is kept.

        :param etag: as S3 answered it
        :param note: up to 64 KiB to be had back with the part
        :raises OSError: the disk failed; nothing is kept
        :raises ValueError: bytes are missing, or it is over
        """
        if self._over or len(note) > NOTE_MAX:
            raise ValueError("the part is over" if self._over else f"a note of {len(note)} bytes")
        done = False
        try:
            self._pieces.finish()
            files = tuple(PartFile(os.path.basename(path), length) for path, length in self._pieces.files)
            part = StagedPart(number=self.number, size=self.size, etag=bare_etag(etag), note=note, files=files)
            self._replace(part)
            done = True
        except FileNotFoundError:
            return False
        finally:
            if done:
                self._end()
            else:
                self.discard()
        return True

    def discard(self) -> None:
        """S3 has not taken the part, or it can't be kept. Idempotent; nothing happens after a commit.

        :raises OSError: a file could not be removed; it goes with the upload
        """
        if self._over:
            return
        try:
            self._pieces.discard()
            for path, length in self._pieces.files:
                size = length + footer_size(length)
                self._volume.remove_counted(path, self._volume.uploads_shard, size, unread=True)
        finally:
            self._end()

    def close(self) -> None:
        """The same as :meth:`discard`."""
        self.discard()

    def _end(self) -> None:
        self._over = True
        self._allowance.close()

    def _place(self, start: int, stop: int) -> str:
        return f"{self._directory}/{data_name(self._volume.instance.number, next_serial())}"

    def _replace(self, part: StagedPart) -> None:
        """Let the record tell of this part, then remove the files of the one before it."""
        volume, shard = self._volume, self._volume.uploads_shard
        with volume.part_lock(part.number):
            before = read_part(volume, self._directory, part.number)
            write_record(volume, self._directory, record_name(part.number), encode_part(part))
        # What can't be removed, or another process replaced at the same moment, stays until the upload ends: no record
        # tells of it any more.
        for file in () if before is None else before.files:
            size = file.length + footer_size(file.length)
            try:
                volume.remove_counted(f"{self._directory}/{file.name}", shard, size, unread=True)
            except OSError:
                return
