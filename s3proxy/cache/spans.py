"""Pieces of a body that can be sent as they are: bytes of a file, or bytes in memory."""

from collections.abc import Callable

import attrs

__all__ = ["HOT", "FileSpan", "MemorySpan", "Span"]

HOT = 32 * 1024 * 1024
"""Bytes of a file that were written last and so are still in memory."""


def _nothing() -> None:
    return None


@attrs.frozen
class FileSpan:
    """``count`` bytes of an open file from ``offset``.

    :ivar hot: the bytes were written a moment ago: they are in memory
    :ivar release: to be called once the bytes are sent; until then the descriptor stays open
    """

    fd: int
    offset: int
    count: int
    hot: bool = False
    release: Callable[[], None] = _nothing


@attrs.frozen
class MemorySpan:
    """Bytes that are held in memory."""

    data: bytes | memoryview

    @property
    def count(self) -> int:
        """How many."""
        return len(self.data)


Span = FileSpan | MemorySpan
