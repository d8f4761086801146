"""The footer of stored bytes. Pure: bytes in, values out.

One record for each block of the body, then 40 bytes: ``S3PR``, encoding u8, log2 of the block u8, u16 0, number
of blocks u32, stored length u64, original length u64, offset in the object u64 (all ones: as the file's name says),
CRC-32 of everything before it in the footer u32. The record of a block is the CRC-32 of its original bytes; where the
encoding is not 0, the length that it has in the file (u32) stands before that. A block whose stored length is its
original one is stored as it is; each of the others is an LZ4 block of its own.
"""

import itertools
import struct
import zlib

import attrs

from s3proxy.storage.codec import decompress
from s3proxy.storage.errors import RecordError

__all__ = [
    "BLOCK",
    "LZ4",
    "PLAIN",
    "PLAIN_BLOCK",
    "TRAILER_SIZE",
    "UNPLACED",
    "BlockChecksums",
    "Footer",
    "body_length",
    "decode_footer",
    "decode_trailer",
    "encode_footer",
    "footer_size",
    "is_known",
    "trailing_footer_size",
]

PLAIN, LZ4 = 0, 1
PLAIN_BLOCK = 20
BLOCK = 1 << PLAIN_BLOCK
SMALLEST_BLOCK, LARGEST_BLOCK = 12, 24
TRAILER_SIZE = 40
UNPLACED = (1 << 64) - 1
"""Instead of the offset in the object: a part of an upload whose place was not known when it was written. The file's
name tells it.
"""
_TRAILER = struct.Struct("<4sBBHIQQQI")


def is_known(encoding: int, block: int) -> bool:
    """Whether bytes can be stored so; ``block`` is the logarithm of the size of a block."""
    if encoding == PLAIN:
        return block == PLAIN_BLOCK
    return encoding == LZ4 and SMALLEST_BLOCK <= block <= LARGEST_BLOCK


def footer_size(length: int, encoding: int = PLAIN, block: int = PLAIN_BLOCK) -> int:
    """The footer's length behind a body of ``length`` original bytes.

    :param block: logarithm of the size of a block
    """
    return -(-length >> block) * (4 if encoding == PLAIN else 8) + TRAILER_SIZE


def body_length(size: int) -> int:
    """The inverse: how many bytes stand before the footer in a file of ``size`` bytes; 0 when there can't be any."""
    blocks = -(-(size - TRAILER_SIZE) // (BLOCK + 4))
    length = size - TRAILER_SIZE - 4 * blocks
    return length if length > 0 and length + footer_size(length) == size else 0


class BlockChecksums:
    """The CRC-32 of each block of 1 MiB of a stream, computed as it passes."""

    def __init__(self) -> None:
        self._finished: list[int] = []
        self._current = 0
        self._filled = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while view:
            piece = view[: BLOCK - self._filled]
            self._current = zlib.crc32(piece, self._current)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == BLOCK:
                self._finished.append(self._current)
                self._current = self._filled = 0

    def result(self) -> tuple[int, ...]:
        """One checksum for each block so far, an unfinished one included."""
        return (*self._finished, self._current) if self._filled else tuple(self._finished)


@attrs.frozen(kw_only=True)
class Footer:
    """What stands behind stored bytes.

    :ivar checksums: the CRC-32 of the original bytes of each block
    :ivar length: how many original bytes there are
    :ivar start: the offset of the first of them in the object, or ``UNPLACED``
    :ivar block: logarithm of the size of a block
    :ivar stored: encoded: the length of each block in the file
    """

    checksums: tuple[int, ...]
    length: int
    start: int
    encoding: int = PLAIN
    block: int = PLAIN_BLOCK
    stored: tuple[int, ...] = ()

    @property
    def stored_length(self) -> int:
        """How many bytes stand before the footer."""
        return self.length if self.encoding == PLAIN else sum(self.stored)

    @property
    def size(self) -> int:
        """The footer's own length."""
        return footer_size(self.length, self.encoding, self.block)

    def block_at(self, offset: int) -> int:
        """The number of the block that has this byte of the body."""
        return offset >> self.block

    def span(self, index: int) -> tuple[int, int]:
        """Where the original bytes of a block are in the body."""
        return index << self.block, min(self.length, index + 1 << self.block)

    def stored_size(self, index: int) -> int:
        """The length of a block in the file."""
        if self.encoding == PLAIN:
            start, stop = self.span(index)
            return stop - start
        return self.stored[index]

    def block_of(self, index: int, data: bytes) -> bytes:
        """The original bytes of a block that is ``data`` in the file.

        :raises RecordError: they are not those that were stored
        """
        start, stop = self.span(index)
        if self.encoding != PLAIN and len(data) != stop - start:
            data = decompress(data, stop - start)
        if len(data) != stop - start or not self.block_is_sound(index, data):
            raise RecordError(f"the checksum of the block at {start} is wrong")
        return data

    def block_is_sound(self, index: int, data: bytes | memoryview) -> bool:
        """Whether ``data``, decoded, is what was stored as block ``index``."""
        return index < len(self.checksums) and zlib.crc32(data) == self.checksums[index]


def encode_footer(footer: Footer) -> bytes:
    """The footer's bytes."""
    count = len(footer.checksums)
    if footer.encoding == PLAIN:
        head = struct.pack(f"<{count}I", *footer.checksums)
    else:
        records = itertools.chain.from_iterable(zip(footer.stored, footer.checksums))
        head = struct.pack(f"<{2 * count}I", *records)
    trailer = _TRAILER.pack(
        b"S3PR", footer.encoding, footer.block, 0, count, footer.stored_length, footer.length, footer.start, 0
    )[:-4]
    return head + trailer + struct.pack("<I", zlib.crc32(trailer, zlib.crc32(head)))


def _trailer(data: bytes) -> tuple[int, int, int, int, int]:
    """Encoding, block, stored length, original length and offset, from the footer's last 40 bytes."""
    if len(data) != TRAILER_SIZE:
        raise RecordError("the footer is cut short")
    magic, encoding, block, zero, count, stored, original, start, _ = _TRAILER.unpack(data)
    if (
        magic != b"S3PR"
        or zero
        or not is_known(encoding, block)
        or (stored != original if encoding == PLAIN else stored > original)
        or count != -(-original >> block)
    ):
        raise RecordError("not a footer of this format")
    return encoding, block, stored, original, start


def decode_trailer(data: bytes) -> tuple[int, int]:
    """The original length and the offset in the object, from the footer's last 40 bytes.

    :raises RecordError: it is not the end of a footer
    """
    _, _, _, original, start = _trailer(data)
    return original, start


def trailing_footer_size(data: bytes) -> int:
    """How long the footer is of which ``data`` is the end, 40 bytes or more.

    :raises RecordError: it is not the end of a footer
    """
    encoding, block, _, original, _ = _trailer(data[-TRAILER_SIZE:])
    return footer_size(original, encoding, block)


def decode_footer(data: bytes) -> Footer:
    """Read a whole footer.

    :raises RecordError: it is damaged or not one
    """
    encoding, block, stored, original, start = _trailer(data[-TRAILER_SIZE:])
    if len(data) != footer_size(original, encoding, block):
        raise RecordError("the footer's length doesn't fit the body's")
    if struct.unpack_from("<I", data, len(data) - 4)[0] != zlib.crc32(data[:-4]):
        raise RecordError("the footer's checksum is wrong")
    words = struct.unpack_from(f"<{(len(data) - TRAILER_SIZE) // 4}I", data)
    if encoding == PLAIN:
        return Footer(checksums=words, length=original, start=start)
    footer = Footer(
        checksums=words[1::2], length=original, start=start, encoding=encoding, block=block, stored=words[::2]
    )
    sizes = [stop - begin for begin, stop in map(footer.span, range(len(footer.stored)))]
    if footer.stored_length != stored or any(not 0 < have <= size for have, size in zip(footer.stored, sizes)):
        raise RecordError("the lengths of the blocks don't fit")
    return footer
