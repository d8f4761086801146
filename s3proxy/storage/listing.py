"""Looking through the cache directory without touching anything: for people who want to see what is in it."""

import stat
import zlib
from collections.abc import Iterator

import attrs

from s3proxy.storage.errors import RecordError
from s3proxy.storage.eviction import shard_paths
from s3proxy.storage.files import READING
from s3proxy.storage.layout import EntryName, parse_range
from s3proxy.storage.record import HEADER_SIZE, INLINE, RANGES, Header, decode_header, seconds
from s3proxy.storage.volume import Volume

__all__ = ["Listed", "Named", "describe", "named_in", "shards_of"]


@attrs.frozen
class Named:
    """An entry file as its directory shows it; another version of the entry is another inode or another time."""

    name: EntryName
    path: str
    inode: int
    modified: int


@attrs.frozen(kw_only=True)
class Listed:
    """A published entry. Times are seconds since 1970.

    :ivar held: the bytes of the object that are there, as sorted intervals [start, stop); they may overlap
    :ivar written_at: when each was stored
    """

    name: EntryName
    meta: bytes
    object_size: int
    validated_at: float
    observed_at: float
    unconfirmed: bool
    inline: bool
    held: tuple[tuple[int, int], ...] = ()
    written_at: tuple[float, ...] = ()

    @property
    def held_bytes(self) -> int:
        """How many different bytes are there."""
        total, end = 0, 0
        for start, stop in self.held:
            total += max(0, stop - max(start, end))
            end = max(end, stop)
        return total


def shards_of(volume: Volume) -> list[tuple[int, str, int]]:
    """Number, path and time of the last change (nanoseconds) of every shard directory there is.

    :raises OSError: the directory can't be read
    """
    found = []
    for index, path in shard_paths(volume):
        try:
            found.append((index, path, volume.calls.stat(path).st_mtime_ns))
        except FileNotFoundError:
            continue
    return found


def named_in(volume: Volume, shard: str) -> Iterator[Named]:
    """The entry files of a shard, unread.

    :raises OSError: the directory can't be read
    """
    try:
        names = volume.calls.listdir(shard)
    except (FileNotFoundError, NotADirectoryError):
        return
    for text in names:
        name = EntryName.from_text(text)
        if name is None:
            continue
        path = f"{shard}/{text}"
        try:
            status = volume.calls.stat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield Named(name, path, status.st_ino, status.st_mtime_ns)


def describe(volume: Volume, name: EntryName, *, ranges: bool = True) -> Listed | None:
    """What is published under a name; None when nothing is, or nothing that could be used. Removes nothing.

    :param ranges: whether to look for the bytes that are held
    :raises OSError: the disk failed
    """
    try:
        fd = volume.calls.open(volume.entry_path(name), READING)
    except FileNotFoundError:
        return None
    try:
        status = volume.calls.fstat(fd)
        data = volume.calls.pread(fd, 4096, 0)
        try:
            header = decode_header(data)
        except RecordError:
            return None
        end = HEADER_SIZE + header.meta_length
        if len(data) < end:
            data += volume.calls.pread(fd, end - len(data), len(data))
    finally:
        volume.calls.close(fd)
    meta = data[HEADER_SIZE:end]
    if not header.complete or zlib.crc32(meta) != header.meta_crc:
        return None
    held: list[tuple[int, int, float]] = []
    if header.kind == INLINE:
        held.append((0, header.original_length, status.st_mtime))
    elif header.kind == RANGES and ranges:
        held.extend(_ranges(volume, name, header))
    held.sort()
    return Listed(
        name=name,
        meta=meta,
        object_size=header.object_size,
        validated_at=seconds(header.validated_at),
        observed_at=seconds(header.observed_at),
        unconfirmed=header.unconfirmed,
        inline=header.kind == INLINE,
        held=tuple((start, stop) for start, stop, _ in held),
        written_at=tuple(written for _, _, written in held),
    )


def _ranges(volume: Volume, name: EntryName, header: Header) -> Iterator[tuple[int, int, float]]:
    root = volume.generation_path(name, header.generation)
    folders = [root]
    try:
        folders += [f"{root}/{text}" for text in volume.calls.listdir(root) if text.isalnum()]
    except FileNotFoundError:
        return
    for folder in folders:
        try:
            for text in volume.calls.listdir(folder):
                span = parse_range(text)
                if span is not None:
                    yield (*span, volume.calls.stat(f"{folder}/{text}").st_mtime)
        except FileNotFoundError:
            continue
