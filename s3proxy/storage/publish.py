"""Publication: a flight file becomes the entry, in one rename."""

import errno
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from s3proxy.storage.entry import EntryFacts, StoredEntry, stored_entry
from s3proxy.storage.errors import NotNow
from s3proxy.storage.files import UNREAD_MODE, write_fully
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, footprint, new_generation
from s3proxy.storage.lease import Lease
from s3proxy.storage.record import (
    HEAD,
    HEADER_SIZE,
    INLINE,
    META_MAX,
    PLAIN,
    PLAIN_BLOCK,
    RANGES,
    BlockChecksums,
    Footer,
    Header,
    encode_footer,
    encode_header,
    footer_size,
    nanoseconds,
)
from s3proxy.storage.seal import Memory
from s3proxy.storage.volume import SMALL_BODY, Volume

__all__ = [
    "FULL",
    "Room",
    "make_header",
    "promote",
    "publish_copy",
    "publish_head",
    "publish_inline",
    "publish_ranges",
    "publish_stored",
]

FULL = (errno.ENOSPC, errno.EDQUOT)
_RENAME_ATTEMPTS = 5
_COPY_BYTES = 1 << 20

Content = Callable[[], Iterable[Sequence[bytes]]]
"""Gives what stands behind the header, in pieces that are written at once; again, when it is called again."""


class Room(Protocol):
    """Whoever decides what has to go so that something new can come."""

    def reserve(self, size: int) -> bool:
        """Set room for ``size`` bytes aside, evicting if need be; False when there can't be."""

    def reserve_at_once(self, size: int) -> bool:
        """The same without evicting anything; False also when :meth:`reserve` would evict or raise."""

    def release(self, size: int) -> None:
        """Give a reservation back."""

    def exhausted(self, size: int) -> bool:
        """The file system itself had no room for ``size`` bytes: evict; True when a second attempt is worth while."""


def make_header(
    volume: Volume,
    lease: Lease,
    kind: int,
    facts: EntryFacts,
    *,
    body_length: int = 0,
    generation: int = 0,
    footer: Footer | None = None,
) -> Header:
    """The header of what is published under ``lease``.

    :param footer: of the body, if that is encoded
    """
    if len(facts.meta) > META_MAX:
        raise ValueError(f"{len(facts.meta)} bytes of metadata are more than the format allows")
    return Header(
        kind=kind,
        complete=True,
        unconfirmed=facts.unconfirmed,
        validated_at=nanoseconds(facts.validated_at),
        meta_length=len(facts.meta),
        body_length=body_length,
        object_size=facts.object_size,
        generation=generation,
        observed_at=nanoseconds(facts.observed_at),
        meta_crc=zlib.crc32(facts.meta),
        footer_length=(footer_size(body_length) if footer is None else footer.size) if kind == INLINE else 0,
        nonce=lease.nonce,
        instance=volume.instance.number,
        encoding=PLAIN if footer is None else footer.encoding,
        block=PLAIN_BLOCK if footer is None else footer.block,
    )


def promote(
    volume: Volume, lease: Lease, header: Header, facts: EntryFacts, small_body: bytes | None = None
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
        found, problem = None, None
        try:
            found = volume.peek(path)
        except OSError as error:
            problem = error
        # A rename may have moved another flight's unfinished file, or an older flight may have moved ours here: the
        # nonce tells.
        mine = (
            found is not None
            and found.header is not None
            and found.header.complete
            and found.header.nonce == lease.nonce
        ) or (problem is not None and renamed)
        if renamed and old is not None:
            if old.counted:
                charge = footprint(old.size)
                volume.ledger.add(shard, -charge, unread=-charge if old.unread else 0)
            if old.header is not None and not (mine and old.header.generation == header.generation):
                volume.retire(name, old)
        if mine:
            charge = footprint(header.file_size)
            volume.ledger.add(shard, charge, unread=charge if facts.unread else 0)
        if problem is not None:
            # It can't be told what has the name now; most likely it is what was just published.
            raise problem
        if found is None or not mine:
            return None
        if header.kind == INLINE:
            # What has just been written need not be compared before it is read.
            volume.soundness.note((name.digest, header.nonce, found.inode), Memory.ALL)
    return stored_entry(
        name, header, facts.meta, inode=found.inode, epoch=epoch, small_body=small_body, unread=facts.unread
    )


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
    facts: EntryFacts,
    *,
    checksums: tuple[int, ...] | None = None,
    promptly: bool = False,
) -> StoredEntry | None:
    """Publish a whole body at once. None: revoked, or no room. The lease is over in any case.

    :param checksums: the CRC-32 of each of its blocks, if they are known
    :param promptly: only if nothing has to be evicted for it
    :raises NotNow: something has to; the lease still stands
    """
    length = sum(map(len, body))
    header = make_header(volume, lease, INLINE, facts, body_length=length)
    if checksums is None:
        computed = BlockChecksums()
        for chunk in body:
            computed.update(chunk)
        checksums = computed.result()
    footer = encode_footer(Footer(checksums=checksums, length=length, start=0))
    small = b"".join(body) if length <= SMALL_BODY else None
    publish = _publish_promptly if promptly else _publish
    return publish(volume, room, lease, header, facts, lambda: ((facts.meta, *body, footer),), small)


def publish_copy(
    volume: Volume, room: Room, lease: Lease, source: int, checksums: tuple[int, ...], facts: EntryFacts
) -> StoredEntry | None:
    """Publish a whole body that is in a file already. None: revoked, or no room. The lease is over in any case.

    :param source: descriptor of the file, of which the first ``facts.object_size`` bytes are the body
    :param checksums: the CRC-32 of each of its blocks
    """
    length = facts.object_size
    header = make_header(volume, lease, INLINE, facts, body_length=length)
    footer = encode_footer(Footer(checksums=checksums, length=length, start=0))

    def content() -> Iterator[Sequence[bytes]]:
        yield (facts.meta,)
        position = 0
        while position < length:
            data = volume.calls.pread(source, min(_COPY_BYTES, length - position), position)
            if not data:
                raise OSError(errno.EIO, "the file is too short")
            position += len(data)
            yield (data,)
        yield (footer,)

    return _publish(volume, room, lease, header, facts, content, None)


def publish_stored(
    volume: Volume,
    room: Room,
    lease: Lease,
    footer: Footer,
    facts: EntryFacts,
    stored: Callable[[], Iterable[bytes]],
    small_body: bytes | None,
) -> StoredEntry | None:
    """Publish a body as it is stored elsewhere. None: revoked, or no room. The lease is over in any case.

    :param stored: gives its bytes; again, when it is called again
    :param small_body: what they are when they are decoded, if that is to be kept in memory
    """
    header = make_header(volume, lease, INLINE, facts, body_length=footer.stored_length, footer=footer)

    def content() -> Iterator[Sequence[bytes]]:
        yield (facts.meta,)
        for data in stored():
            yield (data,)
        yield (encode_footer(footer),)

    return _publish(volume, room, lease, header, facts, content, small_body)


def publish_head(volume: Volume, room: Room, lease: Lease, facts: EntryFacts) -> StoredEntry | None:
    """Publish metadata without any body. None: revoked, or no room. The lease is over in any case."""
    return _publish(volume, room, lease, make_header(volume, lease, HEAD, facts), facts, lambda: ((facts.meta,),), None)


def publish_ranges(
    volume: Volume,
    room: Room,
    lease: Lease,
    facts: EntryFacts,
    *,
    generation: int | None = None,
    prepare: Callable[[int], None] | None = None,
) -> StoredEntry | None:
    """Publish an entry whose body comes as ranges. None: revoked, or no room. The lease is over in any case.

    :param generation: the generation whose ranges stay (the object is the same version); None begins a new one
    :param prepare: called with the number of a new generation when its directory is there, before anybody sees it
    """
    number = new_generation(volume.random) if generation is None else generation
    header = make_header(volume, lease, RANGES, facts, generation=number)
    if generation is not None:
        return _publish(volume, room, lease, header, facts, lambda: ((facts.meta,),), None)
    shard = volume.shard_of(lease.name)
    path = volume.generation_path(lease.name, number)
    entry, reserved = None, 0
    try:
        if room.reserve(DIRECTORY_FOOTPRINT):
            reserved = DIRECTORY_FOOTPRINT
            volume.make_directory(path, shard)
            if prepare is not None:
                prepare(number)
            entry = _publish(volume, room, lease, header, facts, lambda: ((facts.meta,),), None)
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
    facts: EntryFacts,
    content: Content,
    small_body: bytes | None,
) -> StoredEntry | None:
    charge, reserved = footprint(header.file_size), 0
    try:
        if not lease.held or not room.reserve(charge):
            return None
        reserved = charge
        try:
            _write(volume, lease, header, facts, content)
        except OSError as problem:
            if problem.errno not in FULL or not room.exhausted(charge):
                raise
            _write(volume, lease, header, facts, content)
        return promote(volume, lease, header, facts, small_body)
    finally:
        room.release(reserved)
        lease.release()


def _publish_promptly(
    volume: Volume,
    room: Room,
    lease: Lease,
    header: Header,
    facts: EntryFacts,
    content: Content,
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
            _write(volume, lease, header, facts, content)
        except OSError as problem:
            if problem.errno in FULL:
                over = False
                raise NotNow from problem
            raise
        return promote(volume, lease, header, facts, small_body)
    finally:
        room.release(charge)
        if over:
            lease.release()


def _write(volume: Volume, lease: Lease, header: Header, facts: EntryFacts, content: Content) -> None:
    """The header last: until it is there, nobody takes the file for complete, under whichever name."""
    fd, position = lease.file.fd, HEADER_SIZE
    for chunks in content():
        position += write_fully(volume.calls, fd, chunks, position)
    if facts.unread:
        volume.calls.chmod(fd, UNREAD_MODE)
    write_fully(volume.calls, fd, [encode_header(header)], 0)
