"""What was measured before, in rings of fixed size: the last hour finely, the last 30 days coarsely.

A row holds when its interval began, how many seconds of it were measured, and a value per column: by how much a sum
grew, or the last value of a gauge. Rows are made of samples that come about once a second; an interval in which nothing
was measured has no row.

The saved form is one line of JSON that names the columns and counts the rows, a line feed, and the rows of all rings as
little-endian 64-bit floating point numbers, compressed with zlib.
"""

import json
import sys
import zlib
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from s3proxy.dashboard.samples import COLUMNS, SUMS

__all__ = ["History", "HistoryError", "RINGS", "Ring", "decode", "encode"]

RINGS: Final = ((5.0, 720), (60.0, 1440), (600.0, 4320))
"""Seconds of a row's interval, and how many rows are kept: one hour, one day, 30 days."""

_FORMAT: Final = "s3proxy dashboard history 1"
_LONGEST: Final = 64 << 20
_SUMS: Final = len(SUMS)


class HistoryError(Exception):
    """What was saved can't be read."""


@attrs.define
class Ring:
    """Rows of equal intervals, the oldest leaving first.

    :ivar step: seconds of an interval; they begin at multiples of it
    """

    step: float
    capacity: int
    rows: "deque[array[float]]" = attrs.field(init=False)
    _open: "array[float] | None" = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.rows = deque(maxlen=self.capacity)

    def add(self, at: float, seconds: float, values: Sequence[float]) -> "array[float] | None":
        """Put a sample in; gives back the row that it completed, if it did."""
        began = at - at % self.step
        row, done = self._open, None
        if row is not None and row[0] != began:
            done, row = row, None
            self.rows.append(done)
        if row is None:
            self._open = array("d", [began, seconds, *values])
        else:
            row[1] += seconds
            for number in range(2, 2 + _SUMS):
                row[number] += values[number - 2]
            row[2 + _SUMS :] = array("d", values[_SUMS:])
        return done

    def since(self, start: float) -> "list[array[float]]":
        """The rows from then on, oldest first, the one that is not complete included."""
        found = [row for row in self.rows if row[0] >= start]
        if self._open is not None and self._open[0] >= start:
            found.append(self._open)
        return found

    def restore(self, rows: "Sequence[array[float]]", now: float) -> None:
        """Begin with rows of an earlier run; what is too old, or not past, is left out."""
        span = self.step * self.capacity
        self.rows.extend(row for row in rows if now - span <= row[0] < now)


class History:
    """All rings. Belongs to the reactor's thread."""

    def __init__(self, rings: Sequence[tuple[float, int]] = RINGS) -> None:
        self.rings = tuple(Ring(step, capacity) for step, capacity in rings)
        self._last: dict[str, float] | None = None
        self._last_at = 0.0

    def take(self, at: float, elapsed: float, row: Mapping[str, float]) -> "array[float] | None":
        """Take a sample in; gives back the row of the finest ring that it completed, if it did.

        The first sample only tells where sums begin.

        :param at: Unix time
        :param elapsed: seconds since the sample before, by a clock that is never set
        """
        last, self._last = self._last, dict(row)
        if last is None:
            return None
        values = [max(0.0, row[name] - last[name]) for name in SUMS]
        values += [row[name] for name in COLUMNS[_SUMS:]]
        done = None
        for number, ring in enumerate(self.rings):
            completed = ring.add(at, elapsed, values)
            if number == 0:
                done = completed
        return done

    def finest(self, span: float) -> Ring:
        """The finest ring that holds so many seconds, or else the longest."""
        return next((ring for ring in self.rings if ring.step * ring.capacity >= span), self.rings[-1])

    def snapshot(self) -> "list[tuple[float, list[array[float]]]]":
        """Step and rows of every ring, for :func:`encode`, which may take longer and belongs in a thread."""
        return [(ring.step, [array("d", row) for row in ring.since(0.0)]) for ring in self.rings]

    def restore(self, data: bytes, now: float) -> None:
        """Begin with what an earlier run saved.

        :raises HistoryError: it can't be read; nothing was changed
        """
        saved = decode(data)
        for ring in self.rings:
            ring.restore(saved.get(ring.step, []), now)


def encode(rings: "Sequence[tuple[float, Sequence[array[float]]]]") -> bytes:
    """The saved form."""
    head = {"format": _FORMAT, "columns": COLUMNS, "rings": [{"step": step, "rows": len(rows)} for step, rows in rings]}
    whole = array("d")
    for _, rows in rings:
        for row in rows:
            whole.extend(row)
    if sys.byteorder == "big":
        whole.byteswap()
    return json.dumps(head).encode("ascii") + b"\n" + zlib.compress(whole.tobytes(), 1)


def decode(data: bytes) -> "dict[float, list[array[float]]]":
    """The rows of each ring by its step. Columns that were not saved are 0, saved ones that are no more are left out.

    :raises HistoryError: it is not the saved form
    """
    first, _, rest = data.partition(b"\n")
    try:
        head = json.loads(first)
        if head["format"] != _FORMAT:
            raise HistoryError("it is of another format")
        columns = [str(name) for name in head["columns"]]
        shapes = [(float(ring["step"]), int(ring["rows"])) for ring in head["rings"]]
        unpacker = zlib.decompressobj()
        whole = array("d")
        whole.frombytes(unpacker.decompress(rest, _LONGEST))
    except (ValueError, KeyError, TypeError, zlib.error, RecursionError) as error:
        raise HistoryError(f"it is damaged: {error}") from None
    if sys.byteorder == "big":
        whole.byteswap()
    width = 2 + len(columns)
    if not unpacker.eof or len(whole) != width * sum(count for _, count in shapes):
        raise HistoryError("it is damaged: some of it is missing")
    places = {name: number for number, name in enumerate(columns, 2)}
    picks = [0, 1, *(places.get(name, -1) for name in COLUMNS)]
    found: dict[float, list[array[float]]] = {}
    at = 0
    for step, count in shapes:
        rows = []
        for _ in range(count):
            row = whole[at : at + width]
            at += width
            rows.append(row if columns == list(COLUMNS) else array("d", [row[p] if p >= 0 else 0.0 for p in picks]))
        found[step] = rows
    return found
