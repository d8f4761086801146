"""Finding and opening what is published."""

import errno
import os

from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.errors import RecordError
from s3proxy.storage.files import is_unread
from s3proxy.storage.handles import OpenFile, RangeKey, ReadHandle
from s3proxy.storage.layout import SEGMENT, EntryName, parse_range, range_name
from s3proxy.storage.record import BLOCK, HEADER_SIZE, INLINE, RANGES, decode_footer, decode_header, footer_size
from s3proxy.storage.volume import CorruptEntry, Volume

__all__ = ["is_sound", "load", "open_inline", "open_range", "ranges", "remove_damaged"]

_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


def load(volume: Volume, name: EntryName) -> StoredEntry | None:
    """The entry that is published under ``name`` now. A damaged one is removed.

    :raises OSError: the disk failed
    """
    epoch = volume.generations.get(name.slot)
    path = volume.entry_path(name)
    for _ in range(2):
        try:
            fd = volume.calls.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as problem:
            if problem.errno in (errno.ESTALE, errno.ETXTBSY):
                continue
            if problem.errno != errno.ELOOP:
                raise
            remove_damaged(volume, name, None)
            return None
        try:
            return volume.read_entry(fd, name, epoch)
        except CorruptEntry as problem:
            remove_damaged(volume, name, problem.inode)
            return None
        except OSError as problem:
            if problem.errno != errno.ESTALE:
                raise
        finally:
            volume.calls.close(fd)
    return None


def ranges(volume: Volume, entry: StoredEntry) -> tuple[tuple[int, int], ...]:
    """The published ranges [start, stop) of an entry, sorted. They may overlap."""
    path = volume.generation_path(entry.name, entry.generation)
    if entry.kind != RANGES:
        return ((0, entry.body_len),) if entry.kind == INLINE else ()
    try:
        names = volume.calls.listdir(path)
        if entry.object_size > SEGMENT:
            for segment in [text for text in names if text.isalnum()]:
                names += volume.calls.listdir(f"{path}/{segment}")
    except OSError as problem:
        if problem.errno in _GONE:
            return ()
        raise
    found = sorted(span for text in names if (span := parse_range(text)) is not None)
    if volume.doubt_from is not None:
        found = [
            span
            for span in found
            if not _is_doubtful(volume, f"{volume.range_path(entry, span[0])}/{range_name(*span)}")
        ]
    return tuple(found)


def _is_doubtful(volume: Volume, path: str) -> bool:
    try:
        return volume.is_doubtful(volume.calls.stat(path).st_mtime)
    except FileNotFoundError:
        return True


def open_range(volume: Volume, entry: StoredEntry, start: int, stop: int) -> ReadHandle | None:
    """Open the range file of exactly these bytes; None when there is none. A damaged one is removed."""
    key = RangeKey(entry.name.digest, entry.generation, start, stop)
    file = volume.handles.get(key, volume.now())
    if file is not None:
        return ReadHandle(file, 0, start, stop)
    path = f"{volume.range_path(entry, start)}/{range_name(start, stop)}"
    try:
        fd = volume.calls.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno in _GONE:
            return None
        raise
    file = OpenFile(volume.calls, fd)
    try:
        status = volume.calls.fstat(fd)
        size, length = status.st_size, stop - start
        if volume.is_doubtful(status.st_mtime):
            file.release()
            return None
        if size == length + footer_size(length) and volume.trailer_fits(fd, size, length=length, start=start):
            volume.handles.put(key, file, volume.now())
            return ReadHandle(file, 0, start, stop)
    except OSError:
        file.release()
        raise
    file.release()
    with volume.lock(entry.name):
        try:
            status = volume.calls.stat(path)
            volume.remove_counted(path, volume.shard_of(entry.name), status.st_size, unread=is_unread(status))
        except OSError:
            return None
        finally:
            volume.bump(entry.name)
    return None


def open_inline(volume: Volume, entry: StoredEntry) -> ReadHandle | None:
    """Open the body of an inline entry; None when the entry is no longer this one. A damaged one is removed."""
    try:
        fd = volume.calls.open(volume.entry_path(entry.name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno in _GONE:
            return None
        raise
    file = OpenFile(volume.calls, fd)
    try:
        status = volume.calls.fstat(fd)
        # The inode alone doesn't tell: the number may have been given to another file.
        header = decode_header(volume.calls.pread(fd, HEADER_SIZE, 0))
        current = (
            status.st_ino == entry.inode and header.nonce == entry.nonce and header.complete and header.kind == INLINE
        )
    except ValueError:
        current = False
    except OSError:
        file.release()
        raise
    if not current:
        file.release()
        return None
    if status.st_size != header.file_size or not volume.trailer_fits(
        fd, status.st_size, length=entry.body_len, start=0
    ):
        file.release()
        remove_damaged(volume, entry.name, entry.inode)
        return None
    return ReadHandle(file, entry.body_offset, 0, entry.body_len)


def is_sound(volume: Volume, path: str, *, base: int, length: int) -> bool:
    """Whether the ``length`` bytes at file offset ``base`` are what their footer says. Reads them all."""
    fd = volume.calls.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        footer = decode_footer(volume.calls.pread(fd, footer_size(length), base + length))
        if footer.length != length:
            return False
        for index, offset in enumerate(range(0, length, BLOCK)):
            if not footer.block_is_sound(index, volume.calls.pread(fd, min(BLOCK, length - offset), base + offset)):
                return False
        return True
    except RecordError:
        return False
    finally:
        volume.calls.close(fd)


def remove_damaged(volume: Volume, name: EntryName, inode: int | None) -> None:
    """Remove an entry file that no reader can use. Where that is impossible, it stays what it is: a miss."""
    try:
        volume.remove_entry(name, inode=inode)
    except OSError:
        return
