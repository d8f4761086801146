"""What the store knows about one entry."""

import attrs

from s3proxy.storage.layout import EntryName
from s3proxy.storage.record import HEADER_SIZE, PLAIN, RANGES, Header, seconds

__all__ = ["EntryFacts", "StoredEntry", "stored_entry"]


@attrs.frozen(kw_only=True)
class EntryFacts:
    """What is published besides the body. Times are seconds since 1970.

    :ivar meta: what the caller wants to have back with the entry
    :ivar object_size: of the whole object, in bytes
    :ivar validated_at: when the request was sent whose answer confirmed it; 0: it must be confirmed
    :ivar observed_at: when the request was sent whose answer described it
    :ivar unconfirmed: written through, and not described by S3 yet
    :ivar unread: written through, and not read by anybody yet: counts against the share of what is written
    """

    meta: bytes
    object_size: int
    validated_at: float
    observed_at: float
    unconfirmed: bool = False
    unread: bool = False


@attrs.frozen(kw_only=True)
class StoredEntry:
    """A published entry as it was when it was loaded, renewed or published. Times are seconds since 1970.

    ``epoch`` is the value that the entry's slot of the generation table must still have for this record to be used: any
    other value means that the entry changed, or may have. ``unread``: written through, and not read by anybody yet.
    ``encoded``: the body of an inline entry has to be decoded; ``body_len`` is its length then.
    """

    name: EntryName
    kind: int
    unconfirmed: bool
    validated_at: float
    observed_at: float
    object_size: int
    generation: int
    nonce: int
    meta: bytes
    body_len: int
    inode: int
    epoch: int
    small_body: bytes | None = None
    unread: bool = False
    encoded: bool = False

    @property
    def body_offset(self) -> int:
        """Where the body of an inline entry begins in its file."""
        return HEADER_SIZE + len(self.meta)

    @property
    def has_ranges(self) -> bool:
        """Whether the body is in range files."""
        return self.kind == RANGES


def stored_entry(
    name: EntryName,
    header: Header,
    meta: bytes,
    *,
    inode: int,
    epoch: int,
    small_body: bytes | None = None,
    unread: bool = False,
) -> StoredEntry:
    """The entry that a complete header and its metadata describe."""
    return StoredEntry(
        name=name,
        kind=header.kind,
        unconfirmed=header.unconfirmed,
        validated_at=seconds(header.validated_at),
        observed_at=seconds(header.observed_at),
        object_size=header.object_size,
        generation=header.generation,
        nonce=header.nonce,
        meta=meta,
        body_len=header.original_length,
        inode=inode,
        epoch=epoch,
        small_body=small_body,
        unread=unread,
        encoded=header.encoding != PLAIN,
    )
