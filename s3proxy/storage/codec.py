"""How a block of a stored body is made smaller: as one LZ4 block without a frame.

The package ``lz4`` does it, outside the interpreter's lock. Without it everything is stored as it is, and what another
process stored otherwise can't be read here.
"""

from types import ModuleType

from s3proxy.storage.errors import RecordError

try:
    import lz4.block
except ImportError:
    _lz4: ModuleType | None = None
else:
    _lz4 = lz4.block

__all__ = ["can_decode", "compress", "decompress"]


def can_decode() -> bool:
    """Whether the package is there."""
    return _lz4 is not None


def compress(data: bytes | memoryview) -> bytes:
    """One LZ4 block.

    :raises RuntimeError: the package is not there
    """
    if _lz4 is None:
        raise RuntimeError("the package lz4 is not installed")
    packed: bytes = _lz4.compress(data, store_size=False)
    return packed


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """What :func:`compress` was given, ``size`` bytes.

    :raises RecordError: it is not that, or the package is not there
    """
    if _lz4 is None:
        raise RecordError("the package lz4 is not installed")
    try:
        plain: bytes = _lz4.decompress(data, uncompressed_size=size)
    except (_lz4.LZ4BlockError, ValueError, MemoryError) as error:
        raise RecordError(f"a block can't be decoded: {error}") from None
    if len(plain) != size:
        raise RecordError(f"a block decodes to {len(plain)} bytes instead of {size}")
    return plain
