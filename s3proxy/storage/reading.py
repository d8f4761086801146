"""Finding and opening what is published."""

import errno
import os
import stat

from s3proxy.storage.codec import can_decode
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.errors import RecordError
from s3proxy.storage.files import NO_FILE, READING, is_unread
from s3proxy.storage.handles import OpenFile, RangeKey, ReadHandle
from s3proxy.storage.layout import SEGMENT, EntryName, is_encoded, parse_range, range_name
from s3proxy.storage.loading import CorruptEntry, read_entry
from s3proxy.storage.record import HEADER_SIZE, INLINE, RANGES, UNPLACED, Footer, Header, decode_header
from s3proxy.storage.seal import Memory, Seal, identity_of, read_footer
from s3proxy.storage.soundness import Unsound, sound_blocks
from s3proxy.storage.volume import Damage, Volume

__all__ = [
    "condemn_range",
    "is_sound",
    "listed",
    "load",
    "open_inline",
    "open_range",
    "open_unshared",
    "ranges",
    "remove_damaged",
    "seal_range",
]

_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


def load(volume: Volume, name: EntryName) -> StoredEntry | None:
    """The entry that is published under ``name`` now. A damaged one is removed.

    :raises OSError: the disk failed
    """
    epoch = volume.generations.get(name.slot)
    path = volume.entry_path(name)
    for _ in range(2):
        try:
            fd = volume.calls.open(path, READING)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as problem:
            if problem.errno in (errno.ESTALE, errno.ETXTBSY):
                continue
            if problem.errno not in NO_FILE:
                raise
            inode = volume.inode(path)
            if inode is not None:
                remove_damaged(volume, name, CorruptEntry(inode, "not a regular file"))
            return None
        try:
            return read_entry(volume, fd, name, epoch)
        except CorruptEntry as problem:
            remove_damaged(volume, name, problem)
            return None
        except OSError as problem:
            if problem.errno != errno.ESTALE:
                raise
        finally:
            volume.calls.close(fd)
    return None


def ranges(volume: Volume, entry: StoredEntry) -> tuple[tuple[int, int], ...]:
    """The published ranges [start, stop) of an entry, sorted. They may overlap."""
    return listed(volume, entry)[0]


def listed(volume: Volume, entry: StoredEntry) -> tuple[tuple[tuple[int, int], ...], frozenset[tuple[int, int]]]:
    """The same, and which of them have to be decoded."""
    if entry.kind != RANGES:
        whole = ((0, entry.body_len),) if entry.kind == INLINE else ()
        return whole, frozenset(whole if entry.encoded else ())
    path = volume.generation_path(entry.name, entry.generation)
    try:
        names = volume.calls.listdir(path)
        if entry.object_size > SEGMENT:
            for segment in [text for text in names if text.isalnum()]:
                names += volume.calls.listdir(f"{path}/{segment}")
    except OSError as problem:
        if problem.errno in _GONE:
            return (), frozenset()
        raise
    plain: set[tuple[int, int]] = set()
    encoded: set[tuple[int, int]] = set()
    for text in names:
        span = parse_range(text)
        if span is not None:
            (encoded if is_encoded(text) else plain).add(span)
    if not can_decode():
        encoded.clear()
    return tuple(sorted(plain | encoded)), frozenset(encoded - plain)


def open_range(
    volume: Volume, entry: StoredEntry, start: int, stop: int, *, encoded: bool = False
) -> ReadHandle | None:
    """Open the range file of exactly these bytes; None when there is none. A damaged one is put aside.

    :param encoded: look for the encoded form first
    """
    key = RangeKey(entry.name.digest, entry.generation, start, stop)
    now = volume.now()
    file = volume.handles.get(key, now)
    if file is not None:
        if file.seal is None or file.seal.is_current(file.fd, now):
            return ReadHandle(file, 0, start, stop)
        # Removed by another process, or written to.
        file.release()
        volume.handles.forget_range(key)
    with volume.counts.timed("range_read"):
        file = _find(volume, entry, start, stop, encoded)
    if file is None:
        return None
    volume.handles.put(key, file, now)
    return ReadHandle(file, 0, start, stop)


def open_unshared(
    volume: Volume, entry: StoredEntry, start: int, stop: int, *, encoded: bool = False
) -> ReadHandle | None:
    """The same for the caller alone: nobody is likely to read it soon."""
    file = _find(volume, entry, start, stop, encoded)
    return None if file is None else ReadHandle(file, 0, start, stop)


def _find(volume: Volume, entry: StoredEntry, start: int, stop: int, encoded: bool) -> OpenFile | None:
    for form in (encoded, not encoded):
        if form and not can_decode():
            continue
        path = f"{volume.range_path(entry, start)}/{range_name(start, stop, encoded=form)}"
        file = _open(volume, entry, path, start, stop)
        if file is not None:
            return file
    return None


def _open(volume: Volume, entry: StoredEntry, path: str, start: int, stop: int) -> OpenFile | None:
    try:
        fd = volume.calls.open(path, READING)
    except OSError as problem:
        if problem.errno in _GONE:
            return None
        if problem.errno not in NO_FILE:
            raise
        condemn_range(volume, entry.name, path, None, "not a regular file")
        return None
    file = OpenFile(volume.calls, fd)
    kind = "range"
    try:
        status = volume.calls.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RecordError("not a regular file")
        kind = "missing"
        footer = read_footer(volume.calls, fd, status.st_size)
        if status.st_size != footer.stored_length + footer.size or footer.length != stop - start:
            raise RecordError(f"the file has {status.st_size} bytes")
        kind = "range"
        if footer.start not in (start, UNPLACED):
            raise RecordError("the footer is that of another range")
    except RecordError as problem:
        file.release()
        condemn_range(volume, entry.name, path, status.st_ino, str(problem), kind)
        return None
    except OSError:
        file.release()
        raise
    file.seal = seal_range(volume, entry, start, path, footer, status)
    return file


def seal_range(
    volume: Volume, entry: StoredEntry, start: int, path: str, footer: Footer, status: os.stat_result
) -> Seal:
    """What is known of the blocks of a range file.

    :param status: of the file
    """
    identity = (entry.name.digest, entry.generation, start, *identity_of(status))

    def condemn(reason: str) -> None:
        condemn_range(volume, entry.name, path, status.st_ino, reason)

    return Seal(volume.calls, footer, 0, identity, volume.soundness, condemn, looked_at=volume.now())


def condemn_range(volume: Volume, name: EntryName, path: str, inode: object, reason: str, kind: str = "range") -> None:
    """A range file is damaged: put it aside, if it is still that one. Never raises: what can't be moved is looked at
    again at its next use.

    :param inode: None: whatever has that name
    """
    with volume.lock(name):
        try:
            status = volume.calls.stat(path)
            if inode is None or status.st_ino == inode:
                damage = Damage(kind, path, reason, None)
                unread = is_unread(status)
                volume.remove_counted(path, volume.shard_of(name), status.st_size, unread=unread, damage=damage)
        except OSError:
            return
        finally:
            volume.bump(name)
            volume.handles.forget(name.digest)


def open_inline(volume: Volume, entry: StoredEntry, *, sealed: bool = False) -> ReadHandle | None:
    """Open the body of an inline entry; None when the entry is no longer this one. A damaged one is put aside.

    :param sealed: have its seal also when it can be sent as it is, and all of it is known to be sound
    """
    identity = (entry.name.digest, entry.nonce, entry.inode)
    known = not sealed and not entry.encoded and volume.soundness.recall(identity) == Memory.ALL
    try:
        fd = volume.calls.open(volume.entry_path(entry.name), READING)
    except OSError as problem:
        if problem.errno in _GONE:
            return None
        raise
    file = OpenFile(volume.calls, fd)
    try:
        status = volume.calls.fstat(fd)
        header = _header_of(volume, fd)
        # The inode alone doesn't tell: the number may have been given to another file.
        if header is None or status.st_ino != entry.inode or header.nonce != entry.nonce or header.kind != INLINE:
            file.release()
            return None
        footer = None if known else read_footer(volume.calls, fd, status.st_size)
        if status.st_size != header.file_size or not (footer is None or _fits(footer, header)):
            raise RecordError(f"{status.st_size} bytes instead of {header.file_size}, or another footer")
    except RecordError as problem:
        file.release()
        remove_damaged(volume, entry.name, CorruptEntry(entry.inode, str(problem), "missing"))
        return None
    except OSError:
        file.release()
        raise

    def condemn(reason: str) -> None:
        remove_damaged(volume, entry.name, CorruptEntry(entry.inode, reason, "range"))

    base = entry.body_offset
    if footer is not None:
        file.seal = Seal(volume.calls, footer, base, identity, volume.soundness, condemn, looked_at=0.0)
    return ReadHandle(file, base, 0, entry.body_len)


def _header_of(volume: Volume, fd: int) -> Header | None:
    """The header of a finished entry file; None when it is none (any more)."""
    try:
        header = decode_header(volume.calls.pread(fd, HEADER_SIZE, 0))
    except RecordError:
        return None
    return header if header.complete else None


def _fits(footer: Footer, header: Header) -> bool:
    return (footer.encoding, footer.block, footer.length, footer.stored_length) == (
        header.encoding,
        header.block,
        header.original_length,
        header.body_length,
    ) and footer.start in (0, UNPLACED)


def is_sound(volume: Volume, path: str, *, base: int = 0) -> bool:
    """Whether the bytes from file offset ``base`` on are what the footer at the end of the file says; reads them
    all.
    """
    fd = volume.calls.open(path, READING)
    try:
        for _ in sound_blocks(volume.calls, fd, base=base, stop=volume.calls.fstat(fd).st_size):
            pass
        return True
    except Unsound:
        return False
    finally:
        volume.calls.close(fd)


def remove_damaged(volume: Volume, name: EntryName, problem: CorruptEntry) -> None:
    """Put an entry file aside that no reader can use. Where that is impossible, it stays what it is: a miss."""
    damage = Damage(problem.kind, volume.entry_path(name), str(problem), None)
    try:
        volume.remove_entry(name, inode=problem.inode, damage=damage)
    except OSError:
        return
