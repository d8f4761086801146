"""What the store knows about one entry."""

import attrs

from s3proxy.storage.layout import EntryName
from s3proxy.storage.record import HEADER_SIZE, RANGES, Header, seconds

__all__ = ["StoredEntry", "stored_entry"]


@attrs.frozen(kw_only=True)
class StoredEntry:
    """A published entry as it was when it was loaded, renewed or published. Times are seconds since 1970.

    ``epoch`` is the value that the entry's slot of the generation table must still have for this record to be used: any
    other value means that the entry changed, or may have.
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

    @property
    def body_offset(self) -> int:
        """Where the body of an inline entry begins in its file."""
        return HEADER_SIZE + len(self.meta)

    @property
    def has_ranges(self) -> bool:
        """Whether the body is in range files."""
        return self.kind == RANGES


def stored_entry(
    name: EntryName, header: Header, meta: bytes, *, inode: int, epoch: int, small_body: bytes | None = None
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
        body_len=header.body_length,
        inode=inode,
        epoch=epoch,
        small_body=small_body,
    )
