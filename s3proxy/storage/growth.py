"""Bytes that another process is writing: how far they have come, and the files to read them from; see
:mod:`s3proxy.storage.claims`.
"""

from abc import ABC, abstractmethod

import attrs

from s3proxy.storage.claims import GONE, PROGRESS_SIZE, READ, ClaimedRange, Flight, decode_progress
from s3proxy.storage.errors import RecordError
from s3proxy.storage.handles import OpenFile, ReadHandle
from s3proxy.storage.layout import parse_range, parse_temp
from s3proxy.storage.record import HEADER_SIZE, Header, decode_header, footer_size
from s3proxy.storage.volume import Volume
from s3proxy.util.intervals import Interval

__all__ = ["Growth", "InlineGrowth", "RangeGrowth"]

_FEW_PARTS = 4
_MOST_PARTS = 16
_TICK = 0.05
"""Seconds in which a directory may change twice and its time only once."""


class Growth(ABC):
    """Bytes [start, stop) of an object that another process is writing. Used by one thread at a time.

    :ivar have: the bytes before this offset are there
    :ivar over: no more of them will come
    :ivar loose: what is written has lost its name: perhaps nobody goes on with it
    :ivar published: the ranges of it that were seen to be in the cache
    """

    def __init__(self, volume: Volume, instance: int, here: bool, start: int, stop: int) -> None:
        self.instance = instance
        self.here = here
        self.start = start
        self.stop = stop
        self.have = start
        self.over = False
        self.loose = False
        self.published: list[Interval] = []
        self._volume = volume
        self._sign: object = None

    @property
    def complete(self) -> bool:
        """Whether all of them are there."""
        return self.have >= self.stop

    @abstractmethod
    def look(self) -> bool:
        """Look again. Whether there was a sign of life: more bytes, or the owner's touch.

        :raises OSError: the disk failed
        """

    @abstractmethod
    def handle(self, position: int) -> ReadHandle | None:
        """The file that has the byte at ``position``, of which those before :attr:`have` may be read."""

    @abstractmethod
    def stands(self) -> bool:
        """Whether somebody who asks now may still be given it: nobody has taken back the right to publish it.

        :raises OSError: the disk failed
        """

    @abstractmethod
    def close(self) -> None:
        """Close all files. Looking again opens them again."""

    def drop_read(self, slowest: int) -> None:
        """Close files that are not needed: every reader has all bytes before this offset."""

    def is_abandoned(self) -> bool:
        """Whether the process that wrote it is known to be dead.

        :raises OSError: the disk failed
        """
        return not self._volume.instance.is_alive(self.instance)

    def _note(self, sign: object) -> bool:
        """Whether this sign of life is another one than the last."""
        known, self._sign = self._sign, sign
        return known != sign


class InlineGrowth(Growth):
    """The body of a flight file."""

    def __init__(self, volume: Volume, flight: Flight) -> None:
        assert flight.entry is not None
        super().__init__(volume, flight.instance, flight.here, 0, flight.entry.body_len)
        self.flight = flight
        self._base = flight.entry.body_offset
        self._footer = footer_size(self.stop)
        self._file: OpenFile | None = None

    def look(self) -> bool:
        """See :meth:`Growth.look`."""
        if self.complete:
            return False
        if self._file is None and not self._open():
            return False
        assert self._file is not None
        status = self._volume.calls.fstat(self._file.fd)
        self.have = max(self.have, min(self.stop, status.st_size - self._base - self._footer))
        self.loose = status.st_nlink == 0
        if self.loose and not self.complete:
            self.over = self._is_given_up(self._file.fd)
        return self._note((status.st_size, status.st_mtime_ns))

    def _is_given_up(self, fd: int) -> bool:
        try:
            return decode_header(self._volume.calls.pread(fd, HEADER_SIZE, 0)).given_up
        except RecordError:
            return False

    def _open(self) -> bool:
        """Open the file, if it may be read; tell if it never will be."""
        volume, name = self._volume, self.flight.name
        for path in (volume.flight_path(name), volume.entry_path(name)):
            try:
                fd = volume.calls.open(path, READ)
            except OSError as problem:
                if problem.errno in GONE:
                    continue
                raise
            file = OpenFile(volume.calls, fd)
            try:
                header = decode_header(volume.calls.pread(fd, HEADER_SIZE, 0))
                if header.nonce == self.flight.nonce:
                    if not self._is_readable(header, path, fd):
                        return False
                    file.acquire()
                    self._file = file
                    return True
            except RecordError:
                continue
            finally:
                file.release()
        self.over = True
        return False

    def _is_readable(self, header: Header, path: str, fd: int) -> bool:
        if self.here or (header.complete and path == self._volume.entry_path(self.flight.name)):
            return True
        status = self._volume.calls.fstat(fd)
        self._note((status.st_size, status.st_mtime_ns))
        return False

    def handle(self, position: int) -> ReadHandle | None:
        """See :meth:`Growth.handle`."""
        if self._file is None or not self._file.acquire():
            return None
        return ReadHandle(self._file, self._base, 0, self.stop)

    def stands(self) -> bool:
        """See :meth:`Growth.stands`."""
        entry, volume = self.flight.entry, self._volume
        assert entry is not None
        return any(
            volume.inode(path) == entry.inode
            for path in (volume.flight_path(entry.name), volume.entry_path(entry.name))
        )

    def close(self) -> None:
        """See :meth:`Growth.close`."""
        file, self._file = self._file, None
        if file is not None:
            file.release()
        self.have = 0


@attrs.frozen
class _Part:
    """A temporary file of the bytes [start, stop)."""

    start: int
    stop: int
    file: OpenFile


class RangeGrowth(Growth):
    """What a claim is for, in one file after the other.

    :ivar sign: the last sign of life of the claim
    """

    def __init__(self, volume: Volume, claim: ClaimedRange) -> None:
        super().__init__(volume, claim.instance, claim.here, claim.start, claim.stop)
        self.claim = claim
        self.sign = claim.sign
        entry = claim.entry
        self._directory = volume.generation_path(entry.name, entry.generation)
        self._parts: list[_Part] = []
        self._safe = 0
        self._seen: object = None

    def look(self) -> bool:
        """See :meth:`Growth.look`."""
        before, before_safe = self.have, self._safe
        # First the claim: when it is gone, all that will ever be published is.
        claimed = self._look_at_claim()
        self.sign = self.sign if claimed is None else claimed
        if not self.here and self._safe != before_safe:
            # What this host has kept of the file may be older.
            self._close_last()
        sign = self._advance()
        if claimed is None and self.have == before:
            self.over = not self.loose
        return self._note((claimed, sign)) or self.have > before

    def _look_at_claim(self) -> int | None:
        """When it was last touched; None: it is gone."""
        volume = self._volume
        try:
            fd = volume.calls.open(f"{self._directory}/{self.claim.text}", READ)
        except OSError as problem:
            if problem.errno in GONE:
                # Gone by itself, or with the generation.
                self.loose = volume.inode(self._directory) is None
                return None
            raise
        try:
            if not self.here:
                self._safe = max(self._safe, decode_progress(volume.calls.pread(fd, PROGRESS_SIZE, 0)))
            return volume.calls.fstat(fd).st_mtime_ns
        finally:
            volume.calls.close(fd)

    def _advance(self) -> object:
        """See how far it has come; a sign of life of the last file."""
        sign: object = None
        while not self.complete:
            part = self._parts[-1] if self._parts else None
            if part is None or not part.start <= self.have < part.stop:
                if not self._find():
                    break
                continue
            status = self._volume.calls.fstat(part.file.fd)
            sign = (status.st_size, status.st_mtime_ns)
            visible = part.start + min(part.stop - part.start, status.st_size - footer_size(part.stop - part.start))
            if not self.here:
                visible = min(visible, self._safe)
            if visible <= self.have:
                # Of another host's file, all can be read once it is a range.
                if self.here or not self._find(parts=False):
                    break
                continue
            self.have = visible
            if visible == part.stop:
                self.published.append((part.start, part.stop))
        return sign

    def _find(self, *, parts: bool = True) -> bool:
        """Look for the file that has the next byte; whether there is one.

        :param parts: it may be one that is being written
        """
        volume = self._volume
        directory = volume.range_path(self.claim.entry, self.have)
        try:
            # There may be many thousands of names in it.
            changed = volume.calls.stat(directory).st_mtime_ns
            sight = (directory, changed, self.have, self._safe, parts)
            if self._seen == sight:
                return False
            self._seen = sight if volume.now() - changed / 1e9 > _TICK else None
            names = volume.calls.listdir(directory)
        except OSError as problem:
            if problem.errno in GONE:
                return False
            raise
        for text in names if parts else ():
            temp = parse_temp(text)
            if (
                temp is None
                or temp.claim
                or temp.instance != self.instance
                or not temp.start <= self.have < temp.stop
                or not (self.here or self.have < self._safe)
            ):
                continue
            try:
                fd = volume.calls.open(f"{directory}/{text}", READ)
            except OSError as problem:
                if problem.errno in GONE:
                    continue
                raise
            self._parts.append(_Part(temp.start, temp.stop, OpenFile(volume.calls, fd)))
            return True
        spans = [span for text in names if (span := parse_range(text)) is not None and span[0] <= self.have < span[1]]
        if not spans:
            return False
        furthest = max(spans, key=lambda span: span[1])
        self.published.append(furthest)
        self.have = min(self.stop, furthest[1])
        return True

    def handle(self, position: int) -> ReadHandle | None:
        """See :meth:`Growth.handle`."""
        for part in self._parts:
            if part.start <= position < min(part.stop, self.have) and part.file.acquire():
                return ReadHandle(part.file, 0, part.start, min(part.stop, self.have))
        return None

    def _close_last(self) -> None:
        if self._parts:
            self._parts.pop().file.release()

    def drop_read(self, slowest: int) -> None:
        """See :meth:`Growth.drop_read`."""
        while len(self._parts) > _FEW_PARTS and (len(self._parts) > _MOST_PARTS or self._parts[0].stop <= slowest):
            self._parts.pop(0).file.release()

    def close(self) -> None:
        """See :meth:`Growth.close`."""
        while self._parts:
            self._close_last()
        self.have = self.start
        self._seen = None

    def stands(self) -> bool:
        """See :meth:`Growth.stands`. It is offered only with the entry that names its generation."""
        return self._volume.inode(f"{self._directory}/{self.claim.text}") is not None
