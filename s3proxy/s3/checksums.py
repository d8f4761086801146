"""The checksums that S3 knows for an object, computed piece by piece.

Source: "Checking object integrity in Amazon S3". CRC-32C and CRC-64/NVME need the package awscrt; without it they are
not known here.
"""

import base64
import hashlib
import importlib
import zlib
from collections.abc import Callable
from typing import Protocol

__all__ = ["Checksum", "decode_checksum", "is_known", "new_checksum"]


class Checksum(Protocol):
    """One checksum over a body."""

    def update(self, data: bytes) -> None:
        """More of the body."""

    def digest(self) -> bytes:
        """Of all bytes so far."""


class _Crc:
    """A CRC that continues from the value so far, in big-endian order as S3 sends it."""

    def __init__(self, function: Callable[[bytes, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def _native(name: str) -> Callable[[bytes, int], int] | None:
    try:
        module = importlib.import_module("awscrt.checksums")
    except ImportError:
        return None
    function: Callable[[bytes, int], int] | None = getattr(module, name, None)
    return function


def _hash(name: str) -> Callable[[], Checksum]:
    return lambda: hashlib.new(name, usedforsecurity=False)


_SIZES = {b"crc32": 4, b"crc32c": 4, b"crc64nvme": 8, b"md5": 16, b"sha1": 20, b"sha256": 32, b"sha512": 64}


def _find(name: bytes) -> Callable[[], Checksum] | None:
    if name == b"crc32":
        return lambda: _Crc(zlib.crc32, 4)
    if name in (b"crc32c", b"crc64nvme"):
        function = _native(name.decode("ascii"))
        return None if function is None else lambda: _Crc(function, _SIZES[name])
    return _hash(name.decode("ascii")) if name in _SIZES else None


_found: dict[bytes, Callable[[], Checksum] | None] = {}


def _algorithm(name: bytes) -> Callable[[], Checksum] | None:
    if name not in _found:
        _found[name] = _find(name)
    return _found[name]


def is_known(name: bytes) -> bool:
    """Whether :func:`new_checksum` can compute it. ``name`` is that in ``x-amz-checksum-<name>``, or md5."""
    return name in _SIZES and _algorithm(name) is not None


def new_checksum(name: bytes) -> Checksum:
    """Of no bytes yet.

    :raises KeyError: the algorithm is not known
    """
    algorithm = _algorithm(name) if name in _SIZES else None
    if algorithm is None:
        raise KeyError(name)
    return algorithm()


def decode_checksum(name: bytes, value: bytes) -> bytes | None:
    """The bytes of a checksum as header fields carry it; None if it is none of a whole body ("…-2" is not)."""
    try:
        decoded = base64.b64decode(value.strip(), validate=True)
    except ValueError:
        return None
    return decoded if len(decoded) == _SIZES.get(name) else None
