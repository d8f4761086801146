"""The body of an object that is being uploaded: kept where nobody reads it, until S3 has said that it is the object.

Three forms, by size: up to 64 KiB, and up to 1 MiB as long as all of those together are not too much, in memory; what
fits into an entry file in a file without a name, which is copied into the flight file in the end, when the metadata
that stands before the body is known; anything larger in the range files of a generation that is not published yet.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Protocol

import attrs

from s3proxy.storage.draft import Draft, directory_charges
from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.errors import NotNow
from s3proxy.storage.invalidation import Arm
from s3proxy.storage.layout import EntryName, footprint
from s3proxy.storage.lease import Lease
from s3proxy.storage.pieces import Pieces, ScratchWriter, piece_charges
from s3proxy.storage.publish import publish_copy, publish_inline
from s3proxy.storage.record import BlockChecksums
from s3proxy.storage.share import Allowance, WriteShare
from s3proxy.storage.volume import Volume

__all__ = ["HeldBytes", "Upload", "start_upload"]

HELD_MAX = 1 << 20
"""Bytes of the largest body that stays in memory until it is written once, to its place."""
MOST_HELD = 16 << 20
"""Bytes of all such bodies together."""


class HeldBytes:
    """Room in memory for the bodies between 64 KiB and ``HELD_MAX``; may be used by any thread."""

    def __init__(self, size: int = MOST_HELD) -> None:
        self._left = size
        self._lock = Lock()

    def take(self, size: int) -> bool:
        """Whether there was room for so many bytes more."""
        with self._lock:
            if size > min(self._left, HELD_MAX):
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """So many bytes are gone."""
        with self._lock:
            self._left += size


class _Form(Protocol):
    """Where the bytes are meanwhile."""

    def append(self, chunks: Sequence[bytes], promptly: bool) -> None: ...

    def publish(self, lease: Lease, facts: EntryFacts, promptly: bool) -> StoredEntry | None: ...

    def discard(self) -> None: ...


class Upload:
    """A whole body of ``size`` bytes, of which ``written`` are there. Used by one thread at a time.

    Ends by :meth:`commit` or :meth:`discard`. A process that dies leaves nothing that anybody could take for the entry.

    :ivar in_memory: it touches no file before the commit, and is small: neither takes time anywhere
    """

    def __init__(self, name: EntryName, size: int, form: _Form, in_memory: bool) -> None:
        self.name = name
        self.size = size
        self.written = 0
        self.in_memory = in_memory
        self._form = form
        self._over = False

    def append(self, chunks: Sequence[bytes], promptly: bool = False) -> None:
        """Take these bytes behind the last ones. Blocks, unless it is prompt or :attr:`in_memory`.

        :param promptly: only if no file has to be made or finished and nothing evicted for it
        :raises NotNow: promptly, and something has to; nothing has happened
        :raises OSError: the disk failed; the upload can only be discarded
        :raises ValueError: more than was promised, or after the end
        """
        size = sum(map(len, chunks))
        if self._over or self.written + size > self.size:
            raise ValueError(f"{size} bytes after {self.written} of {self.size}{', and over' if self._over else ''}")
        self._form.append(chunks, promptly)
        self.written += size

    def commit(self, arm: Arm, facts: EntryFacts, promptly: bool = False) -> StoredEntry | None:
        """Publish the body as the entry, under the lease of ``arm``, which was taken before S3 had the last byte.

        None: somebody else wrote or invalidated the object meanwhile, or there is no room; nothing is stored, and the
        arm has to be invalidated. An entry: the arm is over. The entry is one that nobody has read, whatever the facts
        say.

        :param promptly: only if it is in memory and nothing has to be evicted: some microseconds then
        :raises NotNow: promptly, and it can't be; nothing has happened
        :raises OSError: the disk failed; nothing is stored, and the arm has to be invalidated
        :raises ValueError: bytes are missing, or the facts tell another size, or it is over
        """
        if self._over or self.written != self.size or facts.object_size != self.size:
            raise ValueError(f"{self.written} of {self.size} bytes, {facts.object_size} by the facts")
        if arm.name != self.name:
            raise ValueError("the arm is of another entry")
        if promptly and not self.in_memory:
            raise NotNow
        entry = None
        try:
            if arm.lease is not None and arm.lease.held:
                entry = self._form.publish(arm.lease, attrs.evolve(facts, unread=True), promptly)
        except NotNow:
            raise
        except BaseException:
            self.discard()
            raise
        self.discard()
        return entry

    def discard(self) -> None:
        """Give it up. Idempotent; nothing happens after a commit. Takes some microseconds.

        :raises OSError: a file could not be removed; the sweeper finds it
        """
        if not self._over:
            self._over = True
            self._form.discard()

    def close(self) -> None:
        """The same as :meth:`discard`."""
        self.discard()


def start_upload(
    volume: Volume,
    share: WriteShare,
    name: EntryName,
    size: int,
    *,
    memory_max: int,
    inline_max: int,
    cut: int,
    held: HeldBytes,
) -> Upload | None:
    """Begin to keep a body; None when it can't fit. See :meth:`DiskStore.start_upload`."""
    if size < 0:
        raise ValueError(f"an object of {size} bytes")
    if not share.could_fit(footprint(size)):
        return None
    if size <= min(memory_max, inline_max):
        return Upload(name, size, _InMemory(volume, share), True)
    if size <= inline_max and held.take(size):
        return Upload(name, size, _Held(volume, share, held, size), False)
    if size <= inline_max:
        return Upload(name, size, _InFile(volume, share, name, size), False)
    allowance = Allowance.grant(share, piece_charges(size, cut) + directory_charges(size))
    return (
        None if allowance is None else Upload(name, size, _InRanges(volume, share, allowance, name, size, cut), False)
    )


class _InMemory:
    def __init__(self, volume: Volume, share: WriteShare) -> None:
        self._volume = volume
        self._share = share
        self._chunks: list[bytes] = []

    def append(self, chunks: Sequence[bytes], promptly: bool) -> None:
        self._chunks.extend(chunks)

    def publish(self, lease: Lease, facts: EntryFacts, promptly: bool) -> StoredEntry | None:
        return publish_inline(self._volume, self._share, lease, self._chunks, facts, promptly=promptly)

    def discard(self) -> None:
        self._chunks.clear()


class _Held(_InMemory):
    """Larger: its checksums are computed as it comes."""

    def __init__(self, volume: Volume, share: WriteShare, held: HeldBytes, size: int) -> None:
        super().__init__(volume, share)
        self._held = held
        self._size = size
        self._checksums = BlockChecksums()

    def append(self, chunks: Sequence[bytes], promptly: bool) -> None:
        super().append(chunks, promptly)
        for chunk in chunks:
            self._checksums.update(chunk)

    def publish(self, lease: Lease, facts: EntryFacts, promptly: bool) -> StoredEntry | None:
        checksums = self._checksums.result()
        return publish_inline(self._volume, self._share, lease, self._chunks, facts, checksums=checksums)

    def discard(self) -> None:
        super().discard()
        self._held.give_back(self._size)


class _InFile:
    def __init__(self, volume: Volume, share: WriteShare, name: EntryName, size: int) -> None:
        self._volume = volume
        self._share = share
        self._writer = ScratchWriter(volume, share, name, size)

    def append(self, chunks: Sequence[bytes], promptly: bool) -> None:
        self._writer.append(chunks, promptly)

    def publish(self, lease: Lease, facts: EntryFacts, promptly: bool) -> StoredEntry | None:
        return publish_copy(self._volume, self._share, lease, self._writer.fd, self._writer.checksums, facts)

    def discard(self) -> None:
        self._writer.close()


class _InRanges:
    def __init__(
        self, volume: Volume, share: WriteShare, allowance: Allowance, name: EntryName, size: int, cut: int
    ) -> None:
        self._allowance = allowance
        self._draft = Draft(volume, share, allowance, name, size)
        self._pieces = Pieces(volume, share, allowance, name, size, cut, self._draft.place, placed=True)

    def append(self, chunks: Sequence[bytes], promptly: bool) -> None:
        self._pieces.append(chunks, promptly)

    def publish(self, lease: Lease, facts: EntryFacts, promptly: bool) -> StoredEntry | None:
        self._pieces.finish()
        return self._draft.publish(lease, facts, self._pieces.charge)

    def discard(self) -> None:
        try:
            self._pieces.discard()
        finally:
            self._draft.discard()
            self._allowance.close()
