"""Header fields as pairs of bytes, and what S3 and HTTP say about single ones."""

from collections.abc import Iterable, Iterator

__all__ = ["Headers"]


class Headers:
    """An immutable, ordered list of header fields with case-insensitive look-up. Names and values stay as they came."""

    __slots__ = ("pairs", "_index")

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.pairs: tuple[tuple[bytes, bytes], ...] = tuple(pairs)
        index: dict[bytes, list[bytes]] = {}
        for name, value in self.pairs:
            index.setdefault(name.lower(), []).append(value)
        self._index = index

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name, or None."""
        values = self._index.get(name)
        return values[0] if values else None

    def get_all(self, name: bytes) -> tuple[bytes, ...]:
        """All values of the field with this lower-case name, in order."""
        return tuple(self._index.get(name, ()))

    def names(self) -> frozenset[bytes]:
        """The lower-case names that are present."""
        return frozenset(self._index)

    def without(self, names: Iterable[bytes]) -> "Headers":
        """A copy that lacks every field with one of these lower-case names."""
        drop = frozenset(names)
        if drop.isdisjoint(self._index):
            return self
        return Headers(pair for pair in self.pairs if pair[0].lower() not in drop)

    def adding(self, *pairs: tuple[bytes, bytes]) -> "Headers":
        """A copy with these fields after the present ones."""
        return Headers(self.pairs + pairs)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"Headers({list(self.pairs)!r})"
