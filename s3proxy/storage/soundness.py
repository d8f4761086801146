"""Reading stored bytes again to see whether they are still those that were written. Changes nothing."""

import errno
import os
import zlib
from collections.abc import Iterator

import attrs

from s3proxy.storage.codec import can_decode
from s3proxy.storage.errors import RecordError
from s3proxy.storage.files import SystemCalls
from s3proxy.storage.footer import PLAIN, UNPLACED
from s3proxy.storage.layout import EntryName, parse_range
from s3proxy.storage.record import HEADER_SIZE, INLINE, RANGES, Header, decode_header
from s3proxy.storage.seal import decode_blocks, read_footer
from s3proxy.storage.volume import Volume

__all__ = ["Stored", "StoredSpan", "Unsound", "open_stored", "sound_blocks"]

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unsound(Exception):
    """Stored bytes are not those that were written; the text says which."""


def sound_blocks(
    calls: SystemCalls, fd: int, *, base: int, stop: int, length: int | None = None, start: int | None = None
) -> Iterator[bytes]:
    """The bytes that are stored from file offset ``base`` to the end of their footer at ``stop``, decoded, in blocks,
    each compared with its checksum.

    :param length: how many there are when they are decoded; None: whatever the footer says
    :param start: where in the object they begin, to be compared with the footer; None: whatever it says
    :raises Unsound: at the first block that is wrong, or if the footer is
    :raises OSError: they can't be read
    """
    try:
        footer = read_footer(calls, fd, stop)
    except RecordError as error:
        raise Unsound(f"the footer: {error}") from None
    if base + footer.stored_length + footer.size != stop:
        raise Unsound(f"the footer is that of {footer.stored_length} bytes, and there are {stop - base - footer.size}")
    if length is not None and footer.length != length:
        raise Unsound(f"the footer is that of {footer.length} bytes instead of {length}")
    if start is not None and footer.start not in (start, UNPLACED):
        raise Unsound(f"the footer is that of bytes from {footer.start} on, and not from {start}")
    if footer.encoding != PLAIN and not can_decode():
        raise OSError(errno.ENOTSUP, "it is compressed, and the package lz4 is not installed")
    try:
        yield from decode_blocks(calls, fd, base, footer)
    except RecordError as error:
        raise Unsound(f"{error}" if start is None else f"bytes from {start} on: {error}") from None


@attrs.frozen
class StoredSpan:
    """Stored bytes [start, stop) of an object. :ivar path: of their file; None: they are in the entry file"""

    start: int
    stop: int
    path: str | None


class Stored:
    """An entry that is open: even if it is replaced, this one can be read to the end.

    :ivar meta: as it was published with
    :ivar spans: sorted; they may overlap
    """

    def __init__(self, calls: SystemCalls, fd: int, header: Header, meta: bytes, spans: tuple[StoredSpan, ...]) -> None:
        self._calls = calls
        self._fd = fd
        self._base = HEADER_SIZE + header.meta_length
        self.meta = meta
        self.object_size = header.object_size
        self.spans = spans

    def blocks(self, span: StoredSpan) -> Iterator[bytes]:
        """The bytes of a span.

        :raises Unsound: they are wrong
        :raises FileNotFoundError: they were evicted, or belong to an entry that was replaced
        :raises OSError: they can't be read
        """
        calls, length = self._calls, span.stop - span.start
        fd, base = (self._fd, self._base) if span.path is None else (calls.open(span.path, _FLAGS), 0)
        try:
            size = calls.fstat(fd).st_size
            yield from sound_blocks(calls, fd, base=base, stop=size, length=length, start=span.start)
        finally:
            if span.path is not None:
                calls.close(fd)

    def close(self) -> None:
        """Let go of the entry file."""
        self._calls.close(self._fd)


def open_stored(volume: Volume, name: EntryName) -> Stored | None:
    """What is published under a name; None when nothing is. To be closed.

    :raises Unsound: it is damaged
    :raises OSError: it can't be read
    """
    calls = volume.calls
    try:
        fd = calls.open(volume.entry_path(name), _FLAGS)
    except FileNotFoundError:
        return None
    try:
        found = _read(volume, name, fd)
    except BaseException:
        calls.close(fd)
        raise
    if found is None:
        calls.close(fd)
    return found


def _read(volume: Volume, name: EntryName, fd: int) -> Stored | None:
    calls = volume.calls
    size = calls.fstat(fd).st_size
    data = calls.pread(fd, 4096, 0)
    if not any(data[:HEADER_SIZE]):
        # Its owner has not written anything yet.
        return None
    try:
        header = decode_header(data)
    except RecordError as error:
        raise Unsound(str(error)) from None
    if not header.complete:
        return None
    end = HEADER_SIZE + header.meta_length
    if len(data) < end:
        data += calls.pread(fd, end - len(data), len(data))
    meta = data[HEADER_SIZE:end]
    if size != header.file_size:
        raise Unsound(f"the entry file has {size} bytes instead of {header.file_size}")
    if zlib.crc32(meta) != header.meta_crc:
        raise Unsound("the checksum of the description is wrong")
    spans: list[StoredSpan] = []
    if header.kind == INLINE:
        spans.append(StoredSpan(0, header.original_length, None))
    elif header.kind == RANGES:
        spans += _ranges(volume, volume.generation_path(name, header.generation))
    return Stored(calls, fd, header, meta, tuple(sorted(spans, key=lambda span: (span.start, span.stop))))


def _ranges(volume: Volume, root: str) -> Iterator[StoredSpan]:
    try:
        names = volume.calls.listdir(root)
    except FileNotFoundError:
        return
    for folder in (root, *(f"{root}/{text}" for text in names if text.isalnum())):
        try:
            inside = names if folder == root else volume.calls.listdir(folder)
        except FileNotFoundError:
            continue
        for text in inside:
            span = parse_range(text)
            if span is not None:
                yield StoredSpan(*span, f"{folder}/{text}")
