"""Publication: a flight file becomes the entry, in one rename."""

import errno
import zlib
from collections.abc import Sequence
from typing import Protocol

from s3proxy.storage.entry import StoredEntry, stored_entry
from s3proxy.storage.errors import NotNow
from s3proxy.storage.files import write_fully
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, footprint, new_generation
from s3proxy.storage.lease import Lease
from s3proxy.storage.record import (
    HEAD,
    HEADER_SIZE,
    INLINE,
    META_MAX,
    RANGES,
    BlockChecksums,
    Footer,
    Header,
    encode_footer,
    encode_header,
    footer_size,
    nanoseconds,
)
from s3proxy.storage.volume import SMALL_BODY, Volume

__all__ = ["FULL", "Room", "make_header", "promote", "publish_head", "publish_inline", "publish_ranges"]

FULL = (errno.ENOSPC, errno.EDQUOT)
_RENAME_ATTEMPTS = 5


class Room(Protocol):
    """Whoever decides what has to go so that something new can come."""

    def reserve(self, size: int) -> bool:
        """Set room for ``size`` bytes aside, evicting if need be; False when there can't be."""

    def reserve_at_once(self, size: int) -> bool:
        """The same without evicting anything; False also when something had to go first."""

    def release(self, size: int) -> None:
        """Give a reservation back."""

    def exhausted(self, size: int) -> bool:
        """The file system itself had no room for ``size`` bytes: evict; True when a second attempt is worth while."""


def make_header(
    lease: Lease,
    kind: int,
    meta: bytes,
    *,
    object_size: int,
    validated_at: float,
    observed_at: float,
    unconfirmed: bool,
    complete: bool,
    instance: int,
    body_length: int = 0,
    generation: int = 0,
) -> Header:
    """The header of what is published under ``lease``."""
    if len(meta) > META_MAX:
        raise ValueError(f"{len(meta)} bytes of metadata are more than the format allows")
    return Header(
        kind=kind,
        complete=complete,
        unconfirmed=unconfirmed,
        validated_at=nanoseconds(validated_at),
        meta_length=len(meta),
        body_length=body_length,
        object_size=object_size,
        generation=generation,
        observed_at=nanoseconds(observed_at),
        meta_crc=zlib.crc32(meta),
        footer_length=footer_size(body_length) if kind == INLINE else 0,
        nonce=lease.nonce,
        instance=instance,
    )


def promote(
    volume: Volume, lease: Lease, header: Header, meta: bytes, small_body: bytes | None = None
) -> StoredEntry | None:
    """Give the finished flight file the entry's name, whatever has it now, and count it. Ends the lease.

    None: the lease had been revoked, and what was written is gone.
    """
    name = lease.name
    shard = volume.shard_of(name)
    path = volume.entry_path(name)
    with volume.lock(name), volume.ledger.changing(shard):
        old = volume.peek(path)
        try:
            # Between processes the lease may still be revoked after this look; then the rename moves nothing, or what
            # another flight has not finished yet.
            renamed = not lease.revoked() and _rename(volume, volume.flight_path(name), path)
        finally:
            # Before the look at what has the name now: whoever removes that afterwards also stores a newer value than
            # this one.
            epoch = volume.bump(name)
        lease.consume()
        found = volume.peek(path)
        # A rename may have moved another flight's unfinished file, or an older flight may have moved ours here: the
        # nonce tells.
        mine = (
            found is not None
            and found.header is not None
            and found.header.complete
            and found.header.nonce == lease.nonce
        )
        if renamed and old is not None:
            if old.counted:
                volume.ledger.add(shard, -footprint(old.size))
            if old.header is not None and not (mine and old.header.generation == header.generation):
                volume.retire(name, old)
        if found is None or not mine:
            return None
        volume.ledger.add(shard, footprint(header.file_size))
    return stored_entry(name, header, meta, inode=found.inode, epoch=epoch, small_body=small_body)


def _rename(volume: Volume, source: str, target: str) -> bool:
    for attempt in range(_RENAME_ATTEMPTS):
        try:
            volume.calls.rename(source, target)
            return True
        except OSError as problem:
            if problem.errno in (errno.ENOENT, errno.ESTALE):
                return False
            # Another process of this client renames onto the same name at this moment.
            if problem.errno != errno.ETXTBSY or attempt + 1 == _RENAME_ATTEMPTS:
                raise
    return False


def publish_inline(
    volume: Volume,
    room: Room,
    lease: Lease,
    body: Sequence[bytes],
    *,
    meta: bytes,
    object_size: int,
    validated_at: float,
    observed_at: float,
    unconfirmed: bool,
    promptly: bool = False,
) -> StoredEntry | None:
    """Publish a whole body at once. None: revoked, or no room. The lease is over in any case.

    :param promptly: only if nothing has to be evicted for it
    :raises NotNow: something has to; the lease still stands
    """
    length = sum(map(len, body))
    header = make_header(
        lease,
        INLINE,
        meta,
        object_size=object_size,
        validated_at=validated_at,
        observed_at=observed_at,
        unconfirmed=unconfirmed,
        complete=True,
        instance=volume.instance.number,
        body_length=length,
    )
    checksums = BlockChecksums()
    for chunk in body:
        checksums.update(chunk)
    footer = encode_footer(Footer(checksums=checksums.result(), length=length, start=0))
    small = b"".join(body) if length <= SMALL_BODY else None
    publish = _publish_promptly if promptly else _publish
    return publish(volume, room, lease, header, meta, [meta, *body, footer], small)


def publish_head(
    volume: Volume,
    room: Room,
    lease: Lease,
    *,
    meta: bytes,
    object_size: int,
    validated_at: float,
    observed_at: float,
    unconfirmed: bool,
) -> StoredEntry | None:
    """Publish metadata without any body. None: revoked, or no room. The lease is over in any case."""
    header = make_header(
        lease,
        HEAD,
        meta,
        object_size=object_size,
        validated_at=validated_at,
        observed_at=observed_at,
        unconfirmed=unconfirmed,
        complete=True,
        instance=volume.instance.number,
    )
    return _publish(volume, room, lease, header, meta, [meta], None)


def publish_ranges(
    volume: Volume,
    room: Room,
    lease: Lease,
    *,
    meta: bytes,
    object_size: int,
    validated_at: float,
    observed_at: float,
    unconfirmed: bool,
    generation: int | None = None,
) -> StoredEntry | None:
    """Publish an entry whose body comes as ranges. None: revoked, or no room. The lease is over in any case.

    :param generation: the generation whose ranges stay (the object is the same version); None begins a new one
    """
    number = new_generation(volume.random) if generation is None else generation
    header = make_header(
        lease,
        RANGES,
        meta,
        object_size=object_size,
        validated_at=validated_at,
        observed_at=observed_at,
        unconfirmed=unconfirmed,
        complete=True,
        instance=volume.instance.number,
        generation=number,
    )
    if generation is not None:
        return _publish(volume, room, lease, header, meta, [meta], None)
    shard = volume.shard_of(lease.name)
    path = volume.generation_path(lease.name, number)
    entry, reserved = None, 0
    try:
        if room.reserve(DIRECTORY_FOOTPRINT):
            reserved = DIRECTORY_FOOTPRINT
            volume.make_directory(path, shard)
            entry = _publish(volume, room, lease, header, meta, [meta], None)
    finally:
        room.release(reserved)
        if entry is None:
            volume.delete_tree(path, shard)
        lease.release()
    return entry


def _publish(
    volume: Volume,
    room: Room,
    lease: Lease,
    header: Header,
    meta: bytes,
    content: list[bytes],
    small_body: bytes | None,
) -> StoredEntry | None:
    charge, reserved = footprint(header.file_size), 0
    try:
        if not lease.held or not room.reserve(charge):
            return None
        reserved = charge
        try:
            _write(volume, lease, header, content)
        except OSError as problem:
            if problem.errno not in FULL or not room.exhausted(charge):
                raise
            _write(volume, lease, header, content)
        return promote(volume, lease, header, meta, small_body)
    finally:
        room.release(reserved)
        lease.release()


def _publish_promptly(
    volume: Volume,
    room: Room,
    lease: Lease,
    header: Header,
    meta: bytes,
    content: list[bytes],
    small_body: bytes | None,
) -> StoredEntry | None:
    charge = footprint(header.file_size)
    if not lease.held:
        return None
    if not room.reserve_at_once(charge):
        raise NotNow
    over = True
    try:
        try:
            _write(volume, lease, header, content)
        except OSError as problem:
            if problem.errno in FULL:
                over = False
                raise NotNow from problem
            raise
        return promote(volume, lease, header, meta, small_body)
    finally:
        room.release(charge)
        if over:
            lease.release()


def _write(volume: Volume, lease: Lease, header: Header, content: list[bytes]) -> None:
    """The header last: until it is there, nobody takes the file for complete, under whichever name."""
    fd = lease.file.fd
    write_fully(volume.calls, fd, content, HEADER_SIZE)
    write_fully(volume.calls, fd, [encode_header(header)], 0)
