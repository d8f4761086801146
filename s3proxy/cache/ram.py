"""Ranges in memory: copies of the most used pieces of stored bodies, sent like files.

A *piece* is what one stored file has of :data:`PIECE` bytes of the object, counted from its beginning. Larger pieces
live in memory files (memfd_create(2)) and leave through the same sendfile(2) as any other file; the few bytes of small
ones are held as they are. Encoded bodies are decoded, and all are compared with their checksums, when the copy is
made. Where the kernel's page cache serves as well, only encoded ones are copied.

A piece belongs to one body as it is stored: its name in the store together with the number that this body got when it
was written. It is found through the description of the version that is about to be served, never by the object's name,
so whatever decides about freshness has decided before; and a body that was replaced is never found again.

Everything here belongs to the reactor's thread but the copying.
"""

import errno
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.memfile import SMALL, InMemory, copy_sealed, copy_to_memory
from s3proxy.cache.spans import FileSpan, MemorySpan
from s3proxy.cache.tinylfu import USE, Cells, FrequencySketch, TinyLFU
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.handles import ReadHandle
from s3proxy.util.intervals import Interval

__all__ = ["PIECE", "SMALL", "Piece", "RamTier", "copy_to_memory"]

PIECE = 4 * 1024 * 1024
"""What is copied, and dropped, as a whole: little enough that a small read does not cost much of the room, much enough
that large bodies need few descriptors."""
USES = 2
"""So many reads out of the store make a piece worth copying."""
COPIES = 2
"""How many copies are made at a time."""
REST = 10.0
"""Seconds without copies after the machine had no memory, or no descriptor, for one."""

_AVERAGE = 256 * 1024
_EXHAUSTED = frozenset((errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE))


class Piece(NamedTuple):
    """Bytes ``[start, stop)`` of a stored body.

    :ivar digest: the entry's name in the store
    :ivar number: which body of that name: the generation of its range files, or who wrote the entry's own file
    """

    digest: bytes
    number: tuple[int, int]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many."""
        return self.stop - self.start


def _number(stored: StoredEntry) -> tuple[int, int]:
    return (stored.kind, stored.generation if stored.has_ranges else stored.nonce)


def _piece(stored: StoredEntry, within: Interval, position: int) -> Piece:
    first = position - position % PIECE
    return Piece(stored.name.digest, _number(stored), max(first, within[0]), min(first + PIECE, within[1]))


class _Copy:
    """A copy to be made, and the hold of the file that it is made from."""

    def __init__(self, handle: ReadHandle, piece: Piece, copy: "Callable[[int, int, int], int | bytes]") -> None:
        self._handle = handle
        self._piece = piece
        self._copy = copy
        self.wanted = True

    def make(self) -> "int | bytes":
        """Make it. Blocks."""
        handle, piece = self._handle, self._piece
        start = piece.start - handle.start
        try:
            if handle.seal is None:
                return self._copy(handle.fd, handle.base + start, piece.size)
            return copy_sealed(handle.seal, handle.fd, start, piece.size)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._handle.close()


class RamTier:
    """See the module.

    Descriptions of entries, with the bodies of small objects, share the room, and go first: pieces have what they leave
    (:meth:`leave`). What is copied just now, and what was dropped but is still being sent, counts.

    :param run: calls a function in a thread for disk work
    :param now: seconds of a clock that never goes back
    :param total: bytes for descriptions and pieces together; 0: no pieces
    :param files: memory files at a time, so many descriptors
    :param algorithm: ``tinylfu``, or ``lru`` to make room by whatever was not used for the longest time
    :param copies: how many are made at a time
    :param copy: see :func:`copy_to_memory`
    :param plain: whether files that could be sent as they are are copied, too
    :ivar descriptions: bytes that descriptions take
    :ivar bytes: bytes that pieces take
    :ivar hits: how often bytes were found here
    :ivar misses: how often they had to come from the store
    :ivar promoted: copies that were made
    :ivar refused: times that something was used often enough, but what is here is worth more, or too much is going on
    :ivar failed: copies that went wrong
    :ivar evicted: pieces that made room for others
    """

    log = Logger()

    def __init__(
        self,
        run: RunInThread,
        now: Callable[[], float],
        *,
        total: int,
        files: int = 256,
        algorithm: str = "tinylfu",
        uses: int = USES,
        copies: int = COPIES,
        seed: int | None = None,
        copy: "Callable[[int, int, int], int | bytes]" = copy_to_memory,
        plain: bool = True,
    ) -> None:
        self.plain = plain
        self.total = total
        self.descriptions = self.bytes = 0
        self.hits = self.misses = self.promoted = self.refused = self.failed = self.evicted = 0
        self._run = run
        self._now = now
        self._files_allowed = files
        self._files = 0
        self._uses = uses
        self._copies = copies
        self._copy = copy
        self._seed = int.from_bytes(os.urandom(7), "big") if seed is None else seed
        self._random = random.Random(self._seed)
        self._sketch = FrequencySketch(_width(total), 1, self._seed)
        self._order: TinyLFU[Piece] = TinyLFU(self._sketch, admits_all=algorithm == "lru")
        self._hot: dict[Piece, InMemory] = {}
        self._under_way: dict[Piece, _Copy] = {}
        self._by_entry: dict[bytes, set[Piece]] = {}
        self._resting_until = float("-inf")
        self._tune()

    def __len__(self) -> int:
        return len(self._hot)

    @staticmethod
    def is_possible() -> bool:
        """Whether this system has memory files."""
        return hasattr(os, "memfd_create")

    # Reading

    def find(
        self, stored: StoredEntry, within: Interval, position: int, stop: int, *, encoded: bool = False
    ) -> "FileSpan | MemorySpan | None":
        """The bytes from ``position`` on, at most up to ``stop``, if they are here. This is what counts as a use.

        :param within: the bytes of the body that are in one file of the store
        :param encoded: that file can't be sent as it is
        """
        if not self.total or not (self.plain or encoded):
            return None
        piece = _piece(stored, within, position)
        stop = min(stop, piece.stop)
        # A piece that is read bit by bit was used once when all of it was read. The remainder is left to chance.
        amount = USE * (stop - position) / piece.size + self._random.random()
        self._sketch.count(self._cells(piece), int(amount))
        hot = self._hot.get(piece)
        if hot is None:
            self.misses += 1
            return None
        self.hits += 1
        self._order.used(piece)
        return hot.span(position - piece.start, stop - position)

    def has(self, stored: StoredEntry, within: Interval, position: int) -> bool:
        """Whether the byte at ``position`` is here. No use."""
        return _piece(stored, within, position) in self._hot

    def promote(self, stored: StoredEntry, handle: ReadHandle, position: int) -> int:
        """The bytes at ``position`` are about to be read from the store: have a copy made if they are worth it.

        :param handle: of the file that has them; it may be closed at once
        :return: up to where this decision counts: the rest of the body is to be looked for again
        """
        if not self.plain and (handle.seal is None or not handle.seal.encoded):
            return handle.stop
        piece = _piece(stored, (handle.start, handle.stop), position)
        cells = self._cells(piece)
        if (
            self._sketch.estimate(cells) >= self._uses * USE
            and piece not in self._under_way
            and piece not in self._hot
            and self._now() >= self._resting_until
            and self.total
        ):
            if len(self._under_way) < self._copies and self._make_room(piece, cells):
                self._begin(piece, cells, handle)
            else:
                self.refused += 1
        return piece.stop

    # Dropping

    def retain(self, digest: bytes, stored: StoredEntry | None) -> None:
        """What is published under this name now: pieces of everything else go. None: all of them."""
        for piece in tuple(self._by_entry.get(digest, ())):
            if stored is None or piece.number != _number(stored):
                self._drop(piece)

    def drop(self, digest: bytes) -> None:
        """The entry is no longer true: all pieces of it go."""
        self.retain(digest, None)

    def leave(self, wanted: int) -> int:
        """Make room for so many bytes of descriptions, as far as pieces are not being sent; returns for how many."""
        if not self.total:
            return wanted
        lacking = wanted + self.bytes - self.total
        if lacking > 0:
            self._evict(self._order.victims(None, lacking, self._is_idle) or [])
        return min(wanted, max(0, self.total - self.bytes))

    def resize(self, total: int) -> None:
        """Another room. What no longer fits goes; pieces that are being sent just now, when they are sent."""
        self.total = total
        excess = self.descriptions + self.bytes - total
        if not total:
            self._evict(list(self._hot))
            for piece in tuple(self._under_way):
                self._drop(piece)
        elif excess > 0:
            idle = self._order.victims(None, excess, self._is_idle) or []
            self._evict(idle)
            excess = self.descriptions + self.bytes - total
            if excess > 0:
                self._evict(self._order.victims(None, excess, lambda piece: True) or [])
        self._tune()

    def close(self) -> None:
        """Let go of everything, and keep nothing from now on."""
        self.total = 0
        for piece in (*self._hot, *self._under_way):
            self._drop(piece)

    # What is behind these

    def _cells(self, piece: Piece) -> Cells:
        # How popular an object is outlives its versions.
        return self._sketch.cells(b"%b%d" % (piece.digest, piece.start // PIECE))

    def _tune(self) -> None:
        """Uses are forgotten after ten times as many as there is room for pieces of the size that is kept now."""
        kept = len(self._order)
        average = self._order.bytes // kept if kept else _AVERAGE
        self._sketch.period = 10 * USE * max(64, self.total // max(1, average))

    def _is_idle(self, piece: Piece) -> bool:
        return not self._hot[piece].users

    def _make_room(self, piece: Piece, cells: Cells) -> bool:
        """Whether there is room for one more piece now, after others made way for it if they are worth less."""
        room = self.total - self.descriptions
        if piece.size > room:
            return False
        going = self._order.victims(cells, self.bytes + piece.size - room, self._is_idle)
        if going is None:
            return False
        files = self._files - sum(self._hot[victim].is_file for victim in going)
        if piece.size > SMALL and files >= self._files_allowed:
            others = self._order.victims(cells, 1, lambda other: self._hot[other].is_file and self._is_idle(other))
            if others is None:
                return False
            going += others
        self._evict(going)
        return True

    def _evict(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._drop(piece)
            self.evicted += 1

    def _begin(self, piece: Piece, cells: Cells, handle: ReadHandle) -> None:
        copying = _Copy(handle.share(), piece, self._copy)
        self._under_way[piece] = copying
        self._by_entry.setdefault(piece.digest, set()).add(piece)
        self.bytes += piece.size
        self._files += piece.size > SMALL

        def made(content: "int | bytes") -> None:
            self._over(piece)
            hot = InMemory(content, piece.size, self._freed)
            if not copying.wanted:
                hot.drop()
                return
            self._by_entry.setdefault(piece.digest, set()).add(piece)
            self._hot[piece] = hot
            self._order.add(piece, piece.size, cells)
            self.promoted += 1
            self._tune()

        def failed(reason: Failure) -> None:
            # The thread may not even have begun.
            copying.close()
            self._over(piece)
            self._freed(piece.size, piece.size > SMALL)
            if reason.check(OSError):
                self._went_wrong(reason.value)
            else:
                self.failed += 1
                self.log.failure("copying a range into memory", reason)

        self._run(copying.make).addCallbacks(made, failed)

    def _over(self, piece: Piece) -> None:
        """The copying has come to an end."""
        del self._under_way[piece]
        self._unlist(piece)

    def _went_wrong(self, error: Any) -> None:
        self.failed += 1
        if not isinstance(error, DiskBusy) and error.errno in _EXHAUSTED:
            self._resting_until = self._now() + REST
            self.log.warn("no range was copied into memory: {error}", error=error)

    def _drop(self, piece: Piece) -> None:
        self._unlist(piece)
        hot = self._hot.pop(piece, None)
        if hot is not None:
            self._order.remove(piece)
            hot.drop()
        elif piece in self._under_way:
            self._under_way[piece].wanted = False

    def _unlist(self, piece: Piece) -> None:
        pieces = self._by_entry.get(piece.digest)
        if pieces is not None:
            pieces.discard(piece)
            if not pieces:
                del self._by_entry[piece.digest]

    def _freed(self, size: int, file: bool) -> None:
        self.bytes -= size
        self._files -= file


def _width(total: int) -> int:
    """Cells per row for that room: four for each piece of the smallest size that is common."""
    return 1 << max(14, min(18, (4 * total // _AVERAGE).bit_length()))
