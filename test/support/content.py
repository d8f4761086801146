"""Deterministic object contents of any size, and the checksums that S3 knows."""

import base64
import functools
import hashlib
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

__all__ = [
    "CHECKSUM_ALGORITHMS",
    "Checksum",
    "checksum_text",
    "content",
    "content_digest",
    "content_pieces",
    "new_checksum",
]

BLOCK = 1 << 20
STRIDE = 40507


@functools.lru_cache(maxsize=8)
def _base(seed: int) -> bytes:
    return random.Random(seed).randbytes(2 * BLOCK)


def content(seed: int, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of the endless content with this seed.

    Random-looking, so that a wrong offset, a swapped block or a foreign object shows; made by copying slices of one
    base block, so that a fake can serve gigabytes per second. Block number i is the base shifted by i * STRIDE bytes.
    """
    base = _base(seed)
    pieces = []
    while start < stop:
        number, inside = divmod(start, BLOCK)
        count = min(stop - start, BLOCK - inside)
        shift = number * STRIDE % BLOCK + inside
        pieces.append(base[shift : shift + count])
        start += count
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def content_pieces(seed: int, start: int, stop: int, size: int = BLOCK) -> Iterator[bytes]:
    """The same bytes in pieces of at most ``size``."""
    while start < stop:
        end = min(start + size, stop)
        yield content(seed, start, end)
        start = end


def content_digest(seed: int, size: int, algorithm: str = "sha256") -> str:
    """The hex digest of the first ``size`` bytes."""
    digest = hashlib.new(algorithm)
    for piece in content_pieces(seed, 0, size):
        digest.update(piece)
    return digest.hexdigest()


class Checksum(Protocol):
    """What all algorithms have in common."""

    def update(self, data: bytes, /) -> object:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """The checksum of all bytes so far, big-endian for the CRCs."""


class _Crc:
    def __init__(self, function: Callable[[bytes, int], int], width: int) -> None:
        self._function = function
        self._width = width
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._width, "big")


def _algorithms() -> dict[str, Callable[[], Checksum]]:
    known: dict[str, Callable[[], Checksum]] = {
        "crc32": lambda: _Crc(zlib.crc32, 4),
        "sha1": hashlib.sha1,
        "sha256": hashlib.sha256,
    }
    try:
        from awscrt import checksums  # type: ignore[import-untyped]
    except ImportError:
        return known
    known["crc32c"] = lambda: _Crc(checksums.crc32c, 4)
    known["crc64nvme"] = lambda: _Crc(checksums.crc64nvme, 8)
    return known


CHECKSUM_ALGORITHMS = _algorithms()
"""Constructors by lower-case name; crc32c and crc64nvme only where awscrt is installed."""


def new_checksum(name: str) -> Checksum:
    """A fresh computation of this algorithm.

    :raises KeyError: if the algorithm is unknown on this machine.
    """
    return CHECKSUM_ALGORITHMS[name]()


def checksum_text(name: str, pieces: Iterable[bytes]) -> bytes:
    """The value of ``x-amz-checksum-<name>`` for these bytes."""
    computation = new_checksum(name)
    for piece in pieces:
        computation.update(piece)
    return base64.b64encode(computation.digest())
