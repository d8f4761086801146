"""The header of an entry file. Pure: bytes in, values out.

Entry file, little endian: 128 bytes of header, the metadata, then (kind INLINE) the body and its footer.

======  =========  ==========================================================================
offset  type       content
======  =========  ==========================================================================
0       4 bytes    ``S3PE``
4       u8         version of the format, 1
5       u8         kind: 0 flight, 1 inline, 2 ranges, 3 head
6       u8         state: 0 incomplete, 1 complete
7       u8         flags: 1 = unconfirmed; of an incomplete body: given up
8       u64        validated_at, nanoseconds since 1970
16      u32        CRC-32 of bytes 8 to 15
20      u32        length of the metadata
24      u64        length of the body as it is stored
32      u64        size of the object
40      u64        generation
                   (of a flight: the bytes that are asked for, from generation up to the size of the object)
48      u64        observed_at, nanoseconds since 1970
56      u32        CRC-32 of the metadata
60      u8, u8     encoding of the body (0 = as it is, 1 = LZ4), log2 of the block (20 when as it is)
62      18 bytes   reserved, 0
80      u32        length of the footer
84      u32        CRC-32 of the header without bytes 6 to 19 and without itself
88      u64        nonce of the publication
96      u64        instance that wrote it
104     24 bytes   reserved, 0
======  =========  ==========================================================================

Bytes 6 to 19 are the only ones that ever change in place.
"""

import struct
import zlib

import attrs

from s3proxy.storage.errors import RecordError
from s3proxy.storage.footer import (
    BLOCK,
    LZ4,
    PLAIN,
    PLAIN_BLOCK,
    TRAILER_SIZE,
    UNPLACED,
    BlockChecksums,
    Footer,
    body_length,
    decode_footer,
    decode_trailer,
    encode_footer,
    footer_size,
    is_known,
)

__all__ = [
    "BLOCK",
    "FLIGHT",
    "HEAD",
    "HEADER_SIZE",
    "INLINE",
    "META_MAX",
    "RANGES",
    "STAMP_OFFSET",
    "TRAILER_SIZE",
    "UNPLACED",
    "LZ4",
    "PLAIN",
    "PLAIN_BLOCK",
    "BlockChecksums",
    "Footer",
    "Header",
    "body_length",
    "decode_footer",
    "decode_header",
    "decode_trailer",
    "encode_footer",
    "encode_given_up",
    "encode_header",
    "encode_stamp",
    "footer_size",
    "nanoseconds",
    "seconds",
]

FLIGHT, INLINE, RANGES, HEAD = 0, 1, 2, 3
HEADER_SIZE = 128
META_MAX = 1 << 20
STAMP_OFFSET = 6
_VERSION = 1
_UNCONFIRMED = 1
_HEADER = struct.Struct("<4sBBBBQIIQQQQIBB18xIIQQ24x")
_STAMP = struct.Struct("<BBQI")
_U64 = struct.Struct("<Q")


@attrs.frozen(kw_only=True)
class Header:
    """The first 128 bytes of an entry file. Times are nanoseconds since 1970; ``block`` is the logarithm of the block's
    size.
    """

    kind: int
    complete: bool
    unconfirmed: bool
    validated_at: int
    meta_length: int
    body_length: int
    object_size: int
    generation: int
    observed_at: int
    meta_crc: int
    footer_length: int
    nonce: int
    instance: int
    encoding: int = PLAIN
    block: int = PLAIN_BLOCK

    @property
    def given_up(self) -> bool:
        """Whether the body was growing, and does not any more."""
        return not self.complete and self.unconfirmed

    @property
    def original_length(self) -> int:
        """How many bytes the body has when it is decoded."""
        return self.body_length if self.encoding == PLAIN else self.object_size

    @property
    def file_size(self) -> int:
        """The size that a complete entry file with this header has."""
        return HEADER_SIZE + self.meta_length + self.body_length + self.footer_length


def nanoseconds(moment: float) -> int:
    """Seconds since 1970 as the stored unit. What can't be stored (before 1970, after 2500) is stored as 0."""
    value = int(moment * 1_000_000) * 1000
    return value if 0 <= value < 1 << 64 else 0


def seconds(value: int) -> float:
    """The inverse of :func:`nanoseconds`, to the microsecond."""
    return value / 1e9


def _header_crc(data: bytes | bytearray) -> int:
    return zlib.crc32(data[88:128], zlib.crc32(data[20:84], zlib.crc32(data[0:6])))


def encode_stamp(*, complete: bool, unconfirmed: bool, validated_at: int) -> bytes:
    """The changeable bytes of a header, to be written at :data:`STAMP_OFFSET`."""
    crc = zlib.crc32(_U64.pack(validated_at))
    return _STAMP.pack(1 if complete else 0, _UNCONFIRMED if unconfirmed else 0, validated_at, crc)


def encode_given_up() -> bytes:
    """The changeable bytes of the header of a body that was growing, and does not any more."""
    return encode_stamp(complete=False, unconfirmed=True, validated_at=0)


def encode_header(header: Header) -> bytes:
    """The 128 bytes of a header."""
    data = bytearray(
        _HEADER.pack(
            b"S3PE",
            _VERSION,
            header.kind,
            1 if header.complete else 0,
            _UNCONFIRMED if header.unconfirmed else 0,
            header.validated_at,
            zlib.crc32(_U64.pack(header.validated_at)),
            header.meta_length,
            header.body_length,
            header.object_size,
            header.generation,
            header.observed_at,
            header.meta_crc,
            header.encoding,
            header.block,
            header.footer_length,
            0,
            header.nonce,
            header.instance,
        )
    )
    struct.pack_into("<I", data, 84, _header_crc(data))
    return bytes(data)


def decode_header(data: bytes) -> Header:
    """Read a header from the first 128 bytes of ``data``. A torn stamp reads as "never validated".

    :raises RecordError: too short, another version, or damaged
    """
    if len(data) < HEADER_SIZE:
        raise RecordError(f"{len(data)} bytes are too few for a header")
    (
        magic,
        version,
        kind,
        state,
        flags,
        validated_at,
        stamp_crc,
        meta_length,
        body_length,
        object_size,
        generation,
        observed_at,
        meta_crc,
        encoding,
        block,
        footer_length,
        header_crc,
        nonce,
        instance,
    ) = _HEADER.unpack_from(data)
    if magic != b"S3PE" or version != _VERSION:
        raise RecordError("not an entry of this format")
    if header_crc != _header_crc(data):
        raise RecordError("the header's checksum is wrong")
    if (
        kind > HEAD
        or state > 1
        or not is_known(encoding, block)
        or meta_length > META_MAX
        or (state and kind == FLIGHT)
    ):
        raise RecordError("the header has a value that this version doesn't know")
    if kind == INLINE:
        if footer_length != footer_size(body_length if encoding == PLAIN else object_size, encoding, block):
            raise RecordError("the footer's length doesn't fit the body's")
    elif body_length or footer_length or encoding != PLAIN:
        raise RecordError("a body where none can be")
    if stamp_crc != zlib.crc32(data[8:16]):
        validated_at = 0
    return Header(
        kind=kind,
        complete=state == 1,
        unconfirmed=bool(flags & _UNCONFIRMED),
        validated_at=validated_at,
        meta_length=meta_length,
        body_length=body_length,
        object_size=object_size,
        generation=generation,
        observed_at=observed_at,
        meta_crc=meta_crc,
        footer_length=footer_length,
        nonce=nonce,
        instance=instance,
        encoding=encoding,
        block=block,
    )
