"""Stored bodies are made smaller after they were published: a second file, with the same bytes in encoded blocks, takes
the place of the first one, which readers who have it keep.

Nothing is encoded unless its first block shrinks by a fifth, and in the end what the file is charged with does.
"""

import stat
import zlib
from collections.abc import Iterator
from enum import Enum

import attrs

from s3proxy.storage.codec import can_decode, compress
from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.files import is_unread, write_fully
from s3proxy.storage.footer import LZ4, Footer, encode_footer
from s3proxy.storage.handles import OpenFile, RangeKey, ReadHandle
from s3proxy.storage.layout import footprint, range_name
from s3proxy.storage.lease import Lease, take_lease
from s3proxy.storage.pieces import create_temp
from s3proxy.storage.publish import Room, publish_stored
from s3proxy.storage.reading import load, open_inline, open_range, seal_range
from s3proxy.storage.record import HEADER_SIZE, INLINE
from s3proxy.storage.volume import Volume

__all__ = ["Packed", "Packing", "pack_entry", "pack_range", "republish"]

_WORTH = 0.8


class Packed(Enum):
    """What became of it."""

    SMALLER = "smaller"
    NOT_WORTH = "not worth it"
    NOT_NOW = "not now"
    """It is gone or encoded already, somebody else is at work on it, or there is no room for both files."""


@attrs.frozen
class Packing:
    """:ivar before: what the body was charged with, and
    :ivar after: what it is charged with now; both 0 unless it is smaller
    """

    outcome: Packed
    before: int = 0
    after: int = 0


class _Body:
    """Encodes what a handle has, and collects what the footer has to say.

    :param block: logarithm of the size of a block
    """

    def __init__(self, handle: ReadHandle, start: int, block: int) -> None:
        assert handle.seal is not None
        self.length = handle.stop - handle.start
        self._seal = handle.seal
        self._fd = handle.fd
        self._start = start
        self._block = block
        self._checksums: list[int] = []
        self._stored: list[int] = []

    def is_promising(self) -> bool:
        """Whether the first block shrinks."""
        first = self._read(0)
        return len(compress(first)) <= _WORTH * len(first)

    def _read(self, start: int) -> bytes:
        return b"".join(self._seal.read(self._fd, start, min(self.length, start + (1 << self._block))))

    def blocks(self) -> Iterator[bytes]:
        """All of them, in order, to be asked for once. One that does not shrink stays as it is."""
        for start in range(0, self.length, 1 << self._block):
            data = self._read(start)
            packed = compress(data)
            if len(packed) > _WORTH * len(data):
                packed = data
            self._checksums.append(zlib.crc32(data))
            self._stored.append(len(packed))
            yield packed

    @property
    def footer(self) -> Footer:
        """Of the blocks so far."""
        return Footer(
            checksums=tuple(self._checksums),
            length=self.length,
            start=self._start,
            encoding=LZ4,
            block=self._block,
            stored=tuple(self._stored),
        )


def pack_range(volume: Volume, room: Room, entry: StoredEntry, start: int, stop: int, *, block: int) -> Packing:
    """See :meth:`DiskStore.pack_range`."""
    handle = open_range(volume, entry, start, stop) if can_decode() else None
    if handle is None:
        return Packing(Packed.NOT_NOW)
    try:
        if handle.seal is None or handle.seal.encoded:
            return Packing(Packed.NOT_NOW)
        body = _Body(handle, start, block)
        return _pack(volume, room, entry, handle, body) if body.is_promising() else Packing(Packed.NOT_WORTH)
    except FileNotFoundError:
        return Packing(Packed.NOT_NOW)
    finally:
        handle.close()


def _pack(volume: Volume, room: Room, entry: StoredEntry, handle: ReadHandle, body: _Body) -> Packing:
    before = footprint(volume.calls.fstat(handle.fd).st_size)
    directory = volume.range_path(entry, handle.start)
    fd, temp = create_temp(volume, directory, handle.start, handle.stop)
    file = OpenFile(volume.calls, fd)
    swapped = False
    volume.ledger.grow(before)
    try:
        size = 0
        for data in body.blocks():
            size += write_fully(volume.calls, fd, [data], size)
        footer = body.footer
        size += write_fully(volume.calls, fd, [encode_footer(footer)], size)
        charge = footprint(size)
        if charge > _WORTH * before:
            return Packing(Packed.NOT_WORTH)
        if not room.reserve(charge):
            return Packing(Packed.NOT_NOW)
        try:
            swapped = _swap(volume, entry, handle, file, temp, footer, charge)
        finally:
            room.release(charge)
        return Packing(Packed.SMALLER, before, charge) if swapped else Packing(Packed.NOT_NOW)
    finally:
        volume.ledger.grow(-before)
        try:
            if not swapped:
                volume.unlink(temp)
        finally:
            file.release()


def _swap(
    volume: Volume, entry: StoredEntry, handle: ReadHandle, file: OpenFile, temp: str, footer: Footer, charge: int
) -> bool:
    """Let the encoded file take the place of the plain one; False when that is no longer there."""
    calls, name = volume.calls, entry.name
    shard = volume.shard_of(name)
    directory = volume.range_path(entry, handle.start)
    plain = f"{directory}/{range_name(handle.start, handle.stop)}"
    target = f"{directory}/{range_name(handle.start, handle.stop, encoded=True)}"
    with volume.lock(name), volume.ledger.changing(shard):
        status = calls.stat(plain)
        if status.st_ino != calls.fstat(handle.fd).st_ino:
            return False
        # When it was stored, and whether anybody has read it, are no different.
        calls.chmod(file.fd, stat.S_IMODE(status.st_mode))
        calls.utime(file.fd, (status.st_mtime, status.st_mtime))
        unread = is_unread(status)
        seal = seal_range(volume, entry, handle.start, target, footer, calls.fstat(file.fd))
        try:
            calls.rename_new(temp, target)
        except FileExistsError:
            return False
        volume.ledger.add(shard, charge, unread=charge if unread else 0)
        seal.vouch()
        file.seal = seal
        key = RangeKey(name.digest, entry.generation, handle.start, handle.stop)
        volume.handles.forget_range(key)
        volume.handles.put(key, file, volume.now())
        try:
            volume.remove_counted(plain, shard, status.st_size, unread=unread)
        finally:
            volume.bump(name)
    return True


def pack_entry(volume: Volume, room: Room, entry: StoredEntry, *, block: int, lease_seconds: float) -> Packing:
    """See :meth:`DiskStore.pack_entry`."""
    with volume.lock(entry.name):
        lease = take_lease(volume, entry.name, lease_seconds) if can_decode() else None
    if lease is None:
        return Packing(Packed.NOT_NOW)
    handle = None
    try:
        # As it is while nobody else can publish or confirm it: what was known before may be out of date.
        current = load(volume, entry.name)
        if current is None or current.nonce != entry.nonce or current.kind != INLINE or current.encoded:
            return Packing(Packed.NOT_NOW)
        handle = open_inline(volume, current, sealed=True)
        return Packing(Packed.NOT_NOW) if handle is None else _pack_inline(volume, room, lease, current, handle, block)
    except FileNotFoundError:
        return Packing(Packed.NOT_NOW)
    finally:
        if handle is not None:
            handle.close()
        lease.release()


def _pack_inline(
    volume: Volume, room: Room, lease: Lease, entry: StoredEntry, handle: ReadHandle, block: int
) -> Packing:
    body = _Body(handle, 0, block)
    if not body.is_promising():
        return Packing(Packed.NOT_WORTH)
    blocks = list(body.blocks())
    footer = body.footer
    path = volume.entry_path(entry.name)
    status = volume.calls.stat(path)
    before = footprint(status.st_size)
    after = footprint(HEADER_SIZE + len(entry.meta) + footer.stored_length + footer.size)
    if after > _WORTH * before:
        return Packing(Packed.NOT_WORTH)
    facts = EntryFacts(
        meta=entry.meta,
        object_size=entry.object_size,
        validated_at=entry.validated_at,
        observed_at=entry.observed_at,
        unconfirmed=entry.unconfirmed,
        unread=entry.unread,
    )
    if publish_stored(volume, room, lease, footer, facts, lambda: blocks, entry.small_body) is None:
        return Packing(Packed.NOT_NOW)
    # When it was used last is no different.
    if status.st_mode & stat.S_ISVTX:
        volume.calls.chmod(path, stat.S_IMODE(status.st_mode))
    volume.calls.utime(path, (status.st_mtime, status.st_mtime))
    return Packing(Packed.SMALLER, before, after)


def republish(volume: Volume, room: Room, lease: Lease, entry: StoredEntry, facts: EntryFacts) -> StoredEntry | None:
    """Publish an inline entry again, with other facts about the same body. None: it is gone or damaged, the lease was
    revoked, or there is no room. The lease is over in any case.

    :raises OSError: the disk failed
    """
    handle = None
    try:
        handle = open_inline(volume, entry, sealed=True)
        if handle is None or handle.seal is None:
            return None
        seal, fd = handle.seal, handle.fd
        return publish_stored(volume, room, lease, seal.footer, facts, lambda: seal.stored(fd), entry.small_body)
    finally:
        if handle is not None:
            handle.close()
        lease.release()
