"""Names in the cache directory, and the rules that decide them. Pure: no file is touched here.

====================================  =========================================================================
``o/<shard>/<K>``                     entry file: a small complete object, the head of one, or a pointer to a generation
``o/<shard>/<K>.f``                   flight: held by whoever may publish ``<K>`` next
``o/<shard>/<K>.<G>/``                generation directory: the ranges of one version of one object
``.../<start>-<length>``              range file, both numbers hexadecimal
``.../<start>-<length>.z``            the same, encoded
``.../t.<start>-<length>.<I>.<n>``    range that instance I is writing
``.../f.<start>-<length>.<I>.<n>``    claim: instance I is getting these bytes, which become one range or several
``.../a.<I>``                         when instance I last used which range
``.../<segment>/``                    one sub-directory for each GiB of offset, when the object is larger than 1 GiB
``up/``                               uploads under way, see :mod:`s3proxy.storage.upload_names`
====================================  =========================================================================

``K`` is BLAKE2b-160 of the entry's identity in base32 (32 characters), ``G`` and ``I`` are 60 random bits in
hexadecimal. Nothing a client sends ever becomes part of a path.
"""

import base64
import functools
import hashlib
import re
from collections.abc import Iterator
from typing import Protocol

import attrs

from s3proxy.storage.errors import StoreError

__all__ = [
    "DEFAULT_CUT",
    "INLINE_MAX",
    "SEGMENT",
    "EntryName",
    "Format",
    "RandomBits",
    "TempName",
    "claim_name",
    "cut_boundaries",
    "cut_for",
    "entry_name",
    "footprint",
    "format_for",
    "generation_name",
    "instance_text",
    "is_encoded",
    "new_generation",
    "parse_format",
    "parse_generation",
    "parse_range",
    "parse_temp",
    "range_directory",
    "range_name",
    "shard_path",
    "temp_name",
    "DIRECTORY_FOOTPRINT",
]

MIB = 1 << 20
DEFAULT_CUT = 64 * MIB
INLINE_MAX = 8 * MIB
SEGMENT = 1 << 30
_BLOCK = 4096
_NAME_SHARE = 128
_TEXT = re.compile(r"[a-z2-7]{32}\Z")
_RANGE = re.compile(r"(0|[1-9a-f][0-9a-f]{0,15})-([1-9a-f][0-9a-f]{0,15})(?:\.z)?\Z")
_ENCODED = ".z"
_TEMP = re.compile(r"([tf])\.(0|[1-9a-f][0-9a-f]{0,15})-([1-9a-f][0-9a-f]{0,15})\.([0-9a-f]{15})\.[0-9a-f]{1,16}\Z")
_GENERATION = re.compile(r"([a-z2-7]{32})\.([0-9a-f]{15})\Z")


class RandomBits(Protocol):
    """The part of :class:`random.Random` that names are drawn from."""

    def getrandbits(self, k: int, /) -> int: ...


@attrs.frozen
class EntryName:
    """The identity of one entry, as a digest: where it is on disk and which slot of the generation table is its own."""

    digest: bytes

    @functools.cached_property
    def text(self) -> str:
        """The entry file's name: 32 characters a-z, 2-7."""
        return base64.b32encode(self.digest).decode("ascii").lower()

    @property
    def slot(self) -> int:
        """The low 20 bits of the digest."""
        return int.from_bytes(self.digest[-3:], "big") & 0xFFFFF

    def shard_index(self, bits: int) -> int:
        """The first ``bits`` bits of the digest."""
        return int.from_bytes(self.digest[:4], "big") >> (32 - bits)

    def shard(self, bits: int) -> str:
        """The path of the entry's directory below ``o/``."""
        return shard_path(self.shard_index(bits), bits)

    @classmethod
    def from_text(cls, text: str) -> "EntryName | None":
        """The name of an entry file found on disk; None when it is not one."""
        if _TEXT.match(text) is None:
            return None
        return cls(base64.b32decode(text.upper()))


@functools.lru_cache(maxsize=1024)
def entry_name(parts: tuple[bytes, ...]) -> EntryName:
    """Name the entry that these parts identify. Parts are length-prefixed: no two different tuples share an input.

    The last names are kept: a miss asks for its own several times.
    """
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return EntryName(digest.digest())


def shard_path(index: int, bits: int) -> str:
    """The directory of shard ``index`` below ``o/``: one level up to 12 bits, two above."""
    if bits <= 12:
        return f"{index:03x}"
    return f"{index >> 8:03x}/{index & 0xFF:02x}"


def new_generation(random: RandomBits) -> int:
    """60 random bits, never 0: names one version of one object, or one running process."""
    while True:
        value = random.getrandbits(60)
        if value:
            return value


def instance_text(instance: int) -> str:
    """An instance or a generation as it appears in names."""
    return f"{instance:015x}"


def generation_name(name: EntryName, generation: int) -> str:
    """The generation directory's name beside the entry file."""
    return f"{name.text}.{generation:015x}"


def parse_generation(text: str) -> tuple[EntryName, int] | None:
    """What a generation directory's name says, or None."""
    match = _GENERATION.match(text)
    if match is None:
        return None
    name = EntryName.from_text(match[1])
    return None if name is None else (name, int(match[2], 16))


def range_name(start: int, stop: int, *, encoded: bool = False) -> str:
    """The file name of the bytes [start, stop) of an object."""
    return f"{start:x}-{stop - start:x}{_ENCODED if encoded else ''}"


def is_encoded(text: str) -> bool:
    """Whether a range file's name says that its bytes have to be decoded."""
    return text.endswith(_ENCODED)


def parse_range(text: str) -> tuple[int, int] | None:
    """[start, stop) of a range file's name, or None when it is not one."""
    match = _RANGE.match(text)
    if match is None:
        return None
    start = int(match[1], 16)
    return start, start + int(match[2], 16)


@attrs.frozen
class TempName:
    """What the name of a range in the making says, or that of a claim."""

    start: int
    stop: int
    instance: int
    claim: bool = False


def temp_name(start: int, stop: int, instance: int, serial: int) -> str:
    """The name of the bytes [start, stop) while ``instance`` writes them. ``serial`` makes it unique within the
    instance.
    """
    return f"t.{start:x}-{stop - start:x}.{instance:015x}.{serial:x}"


def claim_name(start: int, stop: int, instance: int, serial: int) -> str:
    """The name of the claim of ``instance`` to the bytes [start, stop)."""
    return f"f{temp_name(start, stop, instance, serial)[1:]}"


def parse_temp(text: str) -> TempName | None:
    """The inverse of :func:`temp_name` and :func:`claim_name`; None when it is no such name."""
    match = _TEMP.match(text)
    if match is None:
        return None
    start = int(match[2], 16)
    return TempName(
        start=start, stop=start + int(match[3], 16), instance=int(match[4], 16), claim=match[1] == "f"
    )


def range_directory(object_size: int, start: int) -> str:
    """The sub-directory of a generation that holds the range at ``start``; empty for the generation's own."""
    return f"{start // SEGMENT:x}" if object_size > SEGMENT else ""


def cut_boundaries(start: int, stop: int, cut: int) -> Iterator[tuple[int, int]]:
    """Divide [start, stop) into pieces none of which crosses a multiple of ``cut``."""
    while start < stop:
        end = min(stop, (start // cut + 1) * cut)
        yield start, end
        start = end


def footprint(size: int) -> int:
    """The bytes that a file of ``size`` bytes is charged with.

    Whole 4 KiB blocks, one more block from 1 MiB up (a file in many pieces needs one to list them), and a share of its
    directory. It depends on nothing but the size, so that the same number is added when the file appears and taken off
    when it goes, whatever the file system reports in between (delayed allocation, preallocation, compression).
    """
    return -(-size // _BLOCK) * _BLOCK + (_BLOCK if size >= MIB else 0) + _NAME_SHARE


DIRECTORY_FOOTPRINT = _BLOCK + _NAME_SHARE


@attrs.frozen
class Format:
    """What was decided when the directory was first used: the content of its file FORMAT."""

    shard_bits: int
    inline_max: int
    cut: int

    @property
    def shards(self) -> int:
        """How many shard directories there can be."""
        return 1 << self.shard_bits

    def encode(self) -> bytes:
        """The content of the file FORMAT."""
        return f"s3px 1 shard_bits={self.shard_bits} inline_max={self.inline_max} cut={self.cut}\n".encode("ascii")


def cut_for(max_size: int) -> int:
    """No range file crosses a multiple of this: 64 MiB, or for a small cache the power of two that is at most an eighth
    of it.
    """
    if max_size == 0 or max_size >= 8 * DEFAULT_CUT:
        return DEFAULT_CUT
    return max(MIB, 1 << max(0, (max_size // 8).bit_length() - 1))


def format_for(max_size: int) -> Format:
    """The format of a new directory that may grow to ``max_size`` bytes (0: without limit).

    A small cache has fewer shards, so that the shard directories take at most a 64th of it.
    """
    if max_size > 1 << 41:
        bits = 16
    elif max_size == 0:
        bits = 12
    else:
        bits = min(12, max(2, (max_size // (64 * _BLOCK)).bit_length() - 1))
    cut = cut_for(max_size)
    return Format(shard_bits=bits, inline_max=min(INLINE_MAX, cut), cut=cut)


_FORMAT = re.compile(rb"s3px 1 shard_bits=(\d{1,2}) inline_max=(\d{1,12}) cut=(\d{1,12})\n\Z")


def parse_format(data: bytes, path: str) -> Format:
    """Read the content of a FORMAT file.

    :raises StoreError: it is another version's, or damaged
    """
    match = _FORMAT.match(data)
    if match is not None:
        bits, inline_max, cut = int(match[1]), int(match[2]), int(match[3])
        if 2 <= bits <= 16 and cut and cut & (cut - 1) == 0 and MIB <= cut <= SEGMENT and inline_max <= cut:
            return Format(shard_bits=bits, inline_max=inline_max, cut=cut)
    raise StoreError(
        f"{path}: this cache directory was written by another version, or its FORMAT file is damaged (it starts with "
        f"{data[:40]!r}). Empty the directory, or set cache.cache_dir to another one."
    )
