"""Reading an entry file."""

import stat
import zlib

from s3proxy.storage.codec import can_decode
from s3proxy.storage.entry import StoredEntry, stored_entry
from s3proxy.storage.errors import RecordError
from s3proxy.storage.files import is_unread
from s3proxy.storage.layout import EntryName
from s3proxy.storage.record import HEADER_SIZE, INLINE, PLAIN, decode_header
from s3proxy.storage.seal import whole_body
from s3proxy.storage.volume import SMALL_BODY, Volume

__all__ = ["CorruptEntry", "read_entry"]

_WHOLE_READ = SMALL_BODY + (16 << 10)
_FIRST_READ = 16 << 10


class CorruptEntry(RecordError):
    """The file under an entry's name is damaged, or not ours. ``kind``: see :class:`~s3proxy.storage.volume.Damage`."""

    def __init__(self, inode: int, reason: str, kind: str = "metadata") -> None:
        super().__init__(reason)
        self.inode = inode
        self.kind = kind


def read_entry(volume: Volume, fd: int, name: EntryName, epoch: int) -> StoredEntry | None:
    """Read the entry that is open as ``fd``; None when it was unlinked or is not finished.

    :raises CorruptEntry: it is damaged or not ours
    """
    status = volume.calls.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise CorruptEntry(status.st_ino, "not a regular file")
    size = status.st_size
    data = volume.calls.pread(fd, size if size <= _WHOLE_READ else _FIRST_READ, 0)
    if status.st_nlink == 0:
        return None
    try:
        header = decode_header(data)
    except RecordError as problem:
        # A flight file that an older flight's publication moved here, before its owner wrote the header, is empty,
        # not corrupt.
        if not any(data[:HEADER_SIZE]):
            return None
        raise CorruptEntry(status.st_ino, str(problem)) from problem
    if not header.complete or (header.encoding != PLAIN and not can_decode()):
        return None
    body_at = HEADER_SIZE + header.meta_length
    if len(data) < body_at:
        data += volume.calls.pread(fd, body_at - len(data), len(data))
    meta = data[HEADER_SIZE:body_at]
    if size != header.file_size:
        raise CorruptEntry(status.st_ino, f"{size} bytes instead of {header.file_size}", "missing")
    if zlib.crc32(meta) != header.meta_crc:
        raise CorruptEntry(status.st_ino, "the checksum of the metadata is wrong")
    body = None
    if header.kind == INLINE and header.original_length <= SMALL_BODY and len(data) == size:
        try:
            body = whole_body(header, data)
        except RecordError as problem:
            raise CorruptEntry(status.st_ino, str(problem), "range") from problem
    return stored_entry(name, header, meta, inode=status.st_ino, epoch=epoch, small_body=body, unread=is_unread(status))
