"""Glob patterns over object names, matched in time proportional to the name, whatever the pattern.

======  =======================================================
``*``   any run of characters without ``/``, also an empty one
``**``  any run of characters, also an empty one
``?``   exactly one character other than ``/``
======  =======================================================

Everything else means itself: dots, brackets, braces and backslashes too. A pattern has to fit the whole name, and
capitals matter. More than two stars in a row are as many ``**`` as there are, and perhaps a ``*``.

No regular expression is made of a pattern: one with several stars would try every way of sharing a name among them.
Here a pattern is cut at its ``**`` into blocks, and a block at its ``*`` into pieces of fixed length:

* What stands behind ``**`` fits best where it ends first, because the next ``**`` takes any rest. So each block is
  looked for once, from where the one before it ended; the first is bound to the beginning of the name, and the last to
  its end.
* Within a block, each piece is taken where it is found first. A later place in the same segment leaves less to what
  follows, and the gap before a piece must not contain ``/``.
"""

import re
from collections.abc import Sequence

import attrs

__all__ = ["Glob"]

_NOWHERE = -1
_WILD = re.compile(r"[*?]")


class _Literal:
    """A piece without wildcards."""

    __slots__ = ("_text", "length")

    def __init__(self, text: str) -> None:
        self._text = text
        self.length = len(text)

    def at(self, name: str, position: int) -> bool:
        """Whether it stands there."""
        return name.startswith(self._text, position)

    def find(self, name: str, start: int, last: int) -> int:
        """Where it stands first, beginning between these two positions, both included."""
        return name.find(self._text, start, last + self.length)


class _Masked:
    """A piece with ``?``: each is a character other than a slash, so the piece fits only what is as long as itself."""

    __slots__ = ("_expression", "length")

    def __init__(self, text: str) -> None:
        self._expression = re.compile("".join("[^/]" if each == "?" else re.escape(each) for each in text))
        self.length = len(text)

    def at(self, name: str, position: int) -> bool:
        """See :class:`_Literal`."""
        return self._expression.match(name, position) is not None

    def find(self, name: str, start: int, last: int) -> int:
        """See :class:`_Literal`."""
        found = self._expression.search(name, start, last + self.length)
        return _NOWHERE if found is None else found.start()


_Piece = _Literal | _Masked
_Block = tuple[_Piece, ...]


def _block(text: str) -> _Block:
    return tuple(_Masked(piece) if "?" in piece else _Literal(piece) for piece in text.split("*"))


def _place(name: str, block: Sequence[_Piece], position: int) -> int:
    """Where the rest of a block ends whose first piece ended at ``position``; nowhere: not from there."""
    for piece in block[1:]:
        slash = name.find("/", position)
        found = piece.find(name, position, len(name) if slash < 0 else slash)
        if found < 0:
            return _NOWHERE
        position = found + piece.length
    return position


def _fixed(name: str, block: _Block) -> int:
    """Where a block ends that stands at the beginning of the name."""
    first = block[0]
    return _place(name, block, first.length) if first.at(name, 0) else _NOWHERE


def _search(name: str, block: _Block, position: int) -> int:
    """Where a block ends first that begins at this position or behind it."""
    first = block[0]
    while True:
        begin = first.find(name, position, len(name))
        if begin < 0:
            return _NOWHERE
        end = _place(name, block, begin + first.length)
        if end >= 0:
            return end
        # Some gap would have to leave its segment. From any other place in the segment in which the block began, the
        # same gap would, too: the block has to begin in another one.
        slash = name.find("/", begin)
        if slash < 0:
            return _NOWHERE
        position = slash + 1


def _fits_both_ends(name: str, block: _Block) -> bool:
    """Whether a block fits the whole name."""
    last = block[-1]
    if len(block) == 1:
        return len(name) == last.length and last.at(name, 0)
    begin = len(name) - last.length
    end = _fixed(name, block[:-1])
    return 0 <= end <= begin and last.at(name, begin) and name.find("/", end, begin) < 0


@attrs.frozen
class Glob:
    """One pattern; see the module.

    :ivar head: what every name that fits begins with: the pattern up to its first wildcard
    """

    pattern: str
    head: str = attrs.field(init=False, eq=False, repr=False)
    _blocks: tuple[_Block, ...] = attrs.field(init=False, eq=False, repr=False)
    #: The last block read backwards, because it is bound to the end of the name; empty when it is the first, too.
    _last: _Block = attrs.field(init=False, eq=False, repr=False)

    @head.default
    def _find_head(self) -> str:
        return _WILD.split(self.pattern, maxsplit=1)[0]

    @_blocks.default
    def _cut(self) -> tuple[_Block, ...]:
        first, *others = self.pattern.split("**")
        return _block(first), *(_block(each) for each in others[:-1] if each)

    @_last.default
    def _turn(self) -> _Block:
        _, *others = self.pattern.split("**")
        return _block(others[-1][::-1]) if others else ()

    def fits(self, name: str) -> bool:
        """Whether the pattern fits the whole name."""
        if not name.startswith(self.head):
            return False
        first, *others = self._blocks
        if not self._last:
            return _fits_both_ends(name, first)
        position = _fixed(name, first)
        for block in others:
            if position < 0:
                return False
            position = _search(name, block, position)
        if position < 0:
            return False
        if len(self._last) == 1 and not self._last[0].length:
            return True
        taken = _fixed(name[::-1], self._last)
        return 0 <= taken <= len(name) - position
