"""Which of many things of different sizes are worth a limited room: TinyLFU.

How often everything is used, what is not kept included, is estimated by a count-min sketch whose counts are halved from
time to time (Einziger, Friedman, Manes: TinyLFU, ACM Transactions on Storage 13/4, 2017). Room is made only by what is
used less than what wants to come in, beginning with what was not used for the longest time: things that are used once
never displace those that are used often.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Generic, NamedTuple, TypeVar

__all__ = ["USE", "Cells", "FrequencySketch", "TinyLFU"]

USE = 16
"""What one whole use counts; a use of half of something counts half as much."""
PASSED_OVER = 16
"""How many that are used more than the newcomer are passed over before it is refused."""
LOOKED_AT = 256
"""How many are looked at before a newcomer is refused: a refusal must not hold anybody up."""

_HIGHEST = 255
_HALVES = bytes(value >> 1 for value in range(256))
_UNPACK = struct.Struct("<4I").unpack

K = TypeVar("K", bound=Hashable)

Cells = tuple[int, int, int, int]
"""Where the counts of one thing are."""


class FrequencySketch:
    """Estimates, never too low but for ageing, of how often each of very many things was used lately, at most
    ``255 / USE`` times.

    :param width: cells in each of the four rows, a power of two; several times the number of things that are kept
    :param period: when so much was counted, all counts are halved
    :param seed: the same seed, the same cells
    """

    def __init__(self, width: int, period: int, seed: int) -> None:
        if width <= 0 or width & (width - 1):
            raise ValueError(f"width must be a power of two, not {width}")
        self.period = period
        self._mask = width - 1
        self._rows = bytearray(4 * width)
        self._counted = 0
        self._key = seed.to_bytes(8, "big")

    def cells(self, name: bytes) -> Cells:
        """Where the counts for ``name`` are."""
        first, second, third, fourth = _UNPACK(blake2b(name, digest_size=16, key=self._key).digest())
        mask = self._mask
        width = mask + 1
        return (first & mask, width + (second & mask), 2 * width + (third & mask), 3 * width + (fourth & mask))

    def count(self, cells: Cells, amount: int = USE) -> None:
        """A use. Only the lowest counts rise: the others belong to something else, too."""
        if amount <= 0:
            return
        rows = self._rows
        raised = min(self.estimate(cells) + amount, _HIGHEST)
        for cell in cells:
            if rows[cell] < raised:
                rows[cell] = raised
        self._counted += amount
        if self._counted >= self.period:
            self._rows = rows.translate(_HALVES)
            self._counted //= 2

    def estimate(self, cells: Cells) -> int:
        """How much was counted, in parts of :data:`USE`."""
        first, second, third, fourth = cells
        rows = self._rows
        return min(rows[first], rows[second], rows[third], rows[fourth])


class _Kept(NamedTuple):
    size: int
    cells: Cells


class TinyLFU(Generic[K]):
    """What is kept, in the order of its last use.

    :param admits_all: room is made by whatever was not used for the longest time, however often it was used before
    :ivar bytes: the sizes of all that is kept
    """

    def __init__(self, sketch: FrequencySketch, *, admits_all: bool = False) -> None:
        self.bytes = 0
        self._sketch = sketch
        self._admits_all = admits_all
        self._kept: OrderedDict[K, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, key: K, size: int, cells: Cells) -> None:
        """Keep something new."""
        self._kept[key] = _Kept(size, cells)
        self.bytes += size

    def used(self, key: K) -> None:
        """Something that is kept was used just now."""
        self._kept.move_to_end(key)

    def remove(self, key: K) -> None:
        """It is no longer kept."""
        self.bytes -= self._kept.pop(key).size

    def victims(self, newcomer: Cells | None, needed: int, movable: Callable[[K], bool]) -> list[K] | None:
        """What has to go, by :meth:`remove`, so that ``needed`` bytes become free; None: what is kept is worth more.

        The newcomer's latest use does not count: of two that are used alike, the one that is here stays. Those that are
        passed over because they are used more count as used just now, so that the next newcomer is measured against
        others.

        :param newcomer: whom the room is for; None: for something that is worth more than anything here, and all that
            can go counts, even if it is not enough
        :param movable: whether this one can go at all
        """
        worth = _HIGHEST + USE + 1 if newcomer is None or self._admits_all else self._sketch.estimate(newcomer)
        found: list[K] = []
        passed: list[K] = []
        for looked, (key, kept) in enumerate(self._kept.items()):
            if needed <= 0 or (newcomer is not None and looked >= LOOKED_AT):
                break
            if not movable(key):
                continue
            if self._sketch.estimate(kept.cells) + USE < worth:
                found.append(key)
                needed -= kept.size
            else:
                passed.append(key)
                if len(passed) >= PASSED_OVER:
                    break
        for key in passed:
            self._kept.move_to_end(key)
        return found if needed <= 0 or newcomer is None else None
