"""The pieces of one body that are in memory, and read from there."""

from collections import deque

from s3proxy.cache.spans import MemorySpan

__all__ = ["BodyChunks"]


class BodyChunks:
    """Consecutive pieces; readers who have an older one make room for the next."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, bytes]] = deque()

    @property
    def first(self) -> int | None:
        """Offset of the first byte that is here; None: there is none."""
        return self._chunks[0][0] if self._chunks else None

    def append(self, offset: int, data: bytes) -> None:
        """The next piece, behind the one before it; ``offset`` is that of its first byte."""
        self._chunks.append((offset, data))

    def span(self, position: int, stop: int) -> MemorySpan | None:
        """The bytes from ``position`` on that are in one piece, at most up to ``stop``."""
        for offset, chunk in self._chunks:
            if offset <= position < offset + len(chunk):
                return MemorySpan(memoryview(chunk)[position - offset : stop - offset])
        return None

    def all(self) -> list[bytes]:
        """Every piece."""
        return [chunk for _, chunk in self._chunks]

    def drop_read(self, slowest: int) -> int:
        """Let go of what nobody needs; returns how many bytes that was.

        :param slowest: every reader has all bytes before this offset
        """
        dropped = 0
        while self._chunks and self._chunks[0][0] + len(self._chunks[0][1]) <= slowest:
            dropped += len(self._chunks.popleft()[1])
        return dropped

    def clear(self) -> None:
        """Let go of everything."""
        self._chunks.clear()
