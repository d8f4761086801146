"""What the footer of a stored file says about its blocks, and which of them were found to be as it says.

A file that this process has not written itself is compared with its footer before its bytes are sent: block by block,
each when it is asked for the first time, and in a thread. What was found sound is remembered (:class:`Memory`), also
when the file is closed meanwhile; from then on it costs the look at one attribute.
"""

import errno
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from s3proxy.storage.codec import can_decode
from s3proxy.storage.errors import Damaged, RecordError
from s3proxy.storage.files import SystemCalls
from s3proxy.storage.footer import BLOCK, PLAIN, TRAILER_SIZE, Footer, decode_footer, trailing_footer_size
from s3proxy.storage.record import HEADER_SIZE, Header

__all__ = ["Memory", "Seal", "decode_blocks", "identity_of", "read_footer", "whole_body"]

_TAIL = 512
_REMEMBERED = 131_072
_LOOK_SECONDS = 1.0


def read_footer(calls: SystemCalls, fd: int, end: int) -> Footer:
    """The footer that ends at file offset ``end``.

    :raises RecordError: there is none, or it is damaged
    :raises OSError: it can't be read
    """
    if end < TRAILER_SIZE:
        raise RecordError("the file is too short for a footer")
    data = calls.pread(fd, min(_TAIL, end), end - min(_TAIL, end))
    size = trailing_footer_size(data)
    if size > end:
        raise RecordError("the file is too short for its footer")
    if size > len(data):
        data = calls.pread(fd, size, end - size)
    return decode_footer(data[-size:])


def decode_blocks(
    calls: SystemCalls, fd: int, base: int, footer: Footer, first: int = 0, last: int | None = None
) -> Iterator[bytes]:
    """The original bytes of the blocks [first, last), each compared with its checksum.

    :param base: the file offset of the first block of all
    :raises RecordError: a block is damaged
    :raises OSError: it can't be read
    """
    offset = base + sum(map(footer.stored_size, range(first)))
    for index in range(first, len(footer.checksums) if last is None else last):
        size = footer.stored_size(index)
        yield footer.block_of(index, _read(calls, fd, size, offset))
        offset += size


def whole_body(header: Header, data: bytes) -> bytes:
    """The original bytes of an inline entry's body, compared with its checksums.

    :param data: the whole entry file
    :raises RecordError: they are damaged
    """
    start = HEADER_SIZE + header.meta_length
    stop = start + header.body_length
    if header.encoding == PLAIN and header.body_length <= BLOCK:
        body = data[start:stop]
        if body and zlib.crc32(body) != int.from_bytes(data[stop : stop + 4], "little"):
            raise RecordError("the checksum of the body is wrong")
        return body
    footer = decode_footer(data[stop:])
    if (footer.encoding, footer.block, footer.length) != (header.encoding, header.block, header.original_length):
        raise RecordError("the footer doesn't fit the header")
    blocks, at = [], start
    for index in range(len(footer.checksums)):
        blocks.append(footer.block_of(index, data[at : at + footer.stored_size(index)]))
        at += footer.stored_size(index)
    return b"".join(blocks)


def _read(calls: SystemCalls, fd: int, count: int, offset: int) -> bytes:
    data = calls.pread(fd, count, offset)
    while len(data) < count:
        more = calls.pread(fd, count - len(data), offset + len(data))
        if not more:
            raise RecordError(f"the file ends {count - len(data)} bytes too early")
        data += more
    return data


class Memory:
    """Which blocks of which files were found sound by this process. Thread-safe, and bounded: the oldest go first, and
    are looked at again.

    A file is known by what tells it from every other one, be it of the same name.
    """

    ALL = -1

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._known: dict[int, int] = {}

    def recall(self, identity: tuple[object, ...]) -> int:
        """A bit for each block; ALL, or 0."""
        return self._known.get(hash(identity), 0)

    def note(self, identity: tuple[object, ...], blocks: int) -> None:
        """These are sound."""
        key = hash(identity)
        if key not in self._known and len(self._known) >= self._limit:
            try:
                del self._known[next(iter(self._known))]
            except (KeyError, RuntimeError, StopIteration):
                # Another thread was quicker.
                pass
        self._known[key] = blocks


class Seal:
    """See the module. Of one file, open or not; thread-safe.

    :param base: the file offset of the first stored byte
    :ivar identity: what tells the file from others
    :param memory: where to note what is sound
    :param condemn: called, in whatever thread, with the reason when the file turns out to be damaged
    """

    __slots__ = (
        "_base", "_calls", "_condemn", "_lock", "_looked_at", "_mask", "_memory", "footer", "identity", "sound",
    )  # fmt: skip

    def __init__(
        self,
        calls: SystemCalls,
        footer: Footer,
        base: int,
        identity: tuple[object, ...],
        memory: Memory,
        condemn: Callable[[str], None],
        *,
        looked_at: float,
    ) -> None:
        self.footer = footer
        self._calls = calls
        self._base = base
        self.identity = identity
        self._memory = memory
        self._condemn = condemn
        self._lock = threading.Lock()
        self._looked_at = looked_at
        self._mask = memory.recall(identity)
        self.sound = footer.encoding == PLAIN and self._mask == Memory.ALL

    @property
    def encoded(self) -> bool:
        """Whether the bytes have to be decoded: then the file can't be sent as it is."""
        return self.footer.encoding != PLAIN

    def vouch(self) -> None:
        """All blocks are sound: this process has just written them, or compared them."""
        with self._lock:
            self._mask = Memory.ALL
            self.sound = not self.encoded
        self._memory.note(self.identity, Memory.ALL)

    def is_current(self, fd: int, now: float) -> bool:
        """Whether the open file is still the one that was looked at, and has a name; asked of the system once a
        second.
        """
        if 0 <= now - self._looked_at < _LOOK_SECONDS:
            return True
        self._looked_at = now
        try:
            status = self._calls.fstat(fd)
        except OSError:
            return False
        return status.st_nlink > 0 and self.identity[-3:] == identity_of(status)

    # The bytes are counted from the first one of the file's body.

    def sound_until(self, start: int, stop: int) -> int:
        """Up to where the bytes from ``start`` on may be sent as they are, at most up to ``stop``."""
        if self.sound:
            return stop
        if self.encoded:
            return start
        mask, block = self._mask, start >> self.footer.block
        while block << self.footer.block < stop and mask >> block & 1:
            block += 1
        return max(start, min(stop, block << self.footer.block))

    def check(self, fd: int, start: int, stop: int) -> None:
        """Compare the blocks that have some of these bytes. Blocks.

        :raises Damaged: one of them is not what was stored; the file has been condemned
        :raises OSError: they can't be read
        """
        if self.sound:
            return
        first, last = self._blocks(start, stop)
        for block in range(first, last):
            if not self._mask >> block & 1:
                for _ in self._decoded(fd, block, block + 1):
                    self._mark(block)

    def read(self, fd: int, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """These bytes, decoded, each block compared with its checksum whether or not that was done before. Blocks.

        :raises Damaged: see :meth:`check`
        :raises OSError: they can't be read
        """
        first, last = self._blocks(start, stop)
        for block, data in zip(range(first, last), self._decoded(fd, first, last)):
            self._mark(block)
            begin, end = self.footer.span(block)
            if begin < start or end > stop:
                yield memoryview(data)[max(0, start - begin) : stop - begin]
            else:
                yield data

    def stored(self, fd: int) -> Iterator[bytes]:
        """All blocks as they are in the file, each compared with its checksum. Blocks.

        :raises Damaged: see :meth:`check`
        :raises OSError: they can't be read
        """
        footer, offset = self.footer, self._base
        for index in range(len(footer.checksums)):
            data = b""
            with self._condemning():
                data = _read(self._calls, fd, footer.stored_size(index), offset)
                footer.block_of(index, data)
            offset += len(data)
            yield data

    def _blocks(self, start: int, stop: int) -> tuple[int, int]:
        block = self.footer.block
        return start >> block, -(-stop >> block)

    def _decoded(self, fd: int, first: int, last: int) -> Iterator[bytes]:
        with self._condemning():
            yield from decode_blocks(self._calls, fd, self._base, self.footer, first, last)

    @contextmanager
    def _condemning(self) -> Iterator[None]:
        """What can't be decoded, or read, is put aside."""
        try:
            yield
        except RecordError as error:
            if self.encoded and not can_decode():
                raise OSError(errno.ENOTSUP, str(error)) from None
            reason = str(error)
        except OSError as error:
            if error.errno != errno.EIO or isinstance(error, Damaged):
                raise
            # A sector that can't be read: the rest of the disk may be well.
            reason = str(error)
        else:
            return
        self._condemn(reason)
        raise Damaged(errno.EIO, reason)

    def _mark(self, block: int) -> None:
        with self._lock:
            if self._mask == Memory.ALL:
                return
            self._mask |= 1 << block
            if self._mask == (1 << len(self.footer.checksums)) - 1:
                self._mask = Memory.ALL
                self.sound = not self.encoded
            mask = self._mask
        self._memory.note(self.identity, mask)


def identity_of(status: os.stat_result) -> tuple[int, int, int]:
    """What tells a range file from every other one, and from itself if it was written to: nobody ever does."""
    return status.st_ino, status.st_mtime_ns, status.st_size
