"""The parts of an object that was uploaded in parts, as S3's answers to ``partNumber`` describe them.

Nothing is concluded: parts may have different sizes, and which bytes a part is only S3 knows. An answer tells it for
one part, with its Content-Range, and how many parts there are, with ``x-amz-mp-parts-count`` (S3 API: GetObject and
HeadObject). An object that was not uploaded in parts is its own part 1, without a count.

A map is as large as the number of different sizes, not of parts: neighbours of one size are kept as one run.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Union

import attrs

from s3proxy.s3.headers import CHECKSUM_FIELDS, Headers
from s3proxy.s3.ranges import From, FromTo, Suffix, resolve
from s3proxy.util.intervals import Interval

__all__ = ["MOST_PARTS", "PartMap", "PartNumber", "Run", "Wanted", "parts_count", "resolve_wanted"]

MOST_PARTS = 10_000
"""No object has more parts, and no part has a higher number."""
MOST_CHECKSUMS = 2500
"""Parts of an object whose checksums are remembered; about others S3 is asked again."""
MOST_CHECKSUM_BYTES = 200
"""What the names and values of one part's checksums may take; S3's take 140."""

Fields = tuple[tuple[bytes, bytes], ...]


@attrs.frozen
class PartNumber:
    """The part that a request asks for, 1 to 10000."""

    number: int


Wanted = Union[FromTo, From, Suffix, PartNumber]


@attrs.frozen
class Run:
    """Neighbouring parts of one size.

    :ivar number: of the first part
    :ivar start: offset of its first byte
    :ivar size: of each part, in bytes
    :ivar count: of parts
    """

    number: int
    start: int
    size: int
    count: int

    @property
    def end(self) -> int:
        """The number behind that of the last part."""
        return self.number + self.count

    @property
    def stop(self) -> int:
        """The offset behind the last byte."""
        return self.start + self.size * self.count

    def interval(self, number: int) -> Interval:
        """The bytes of this part of the run."""
        start = self.start + (number - self.number) * self.size
        return (start, start + self.size)


@attrs.frozen
class PartMap:
    """What is known of the parts of one object version.

    :ivar count: how many parts S3 counts; None: it gives no count
    :ivar runs: the parts whose bytes are known, by number
    :ivar checksums: what S3 answered as checksums of a part, by number; nothing at all is an answer, too. Of parts that
        are not here S3 has not been asked. They are a part's own, never the object's
    """

    count: int | None
    runs: tuple[Run, ...] = ()
    checksums: tuple[tuple[int, Fields], ...] = ()

    @classmethod
    def of_answer(cls, number: int, interval: Interval, headers: Headers, *, checksums_asked: bool) -> "PartMap":
        """What S3's answer about this one part tells."""
        stated = tuple(pair for pair in headers if pair[0].lower() in CHECKSUM_FIELDS)
        known = checksums_asked and sum(len(name) + len(value) for name, value in stated) <= MOST_CHECKSUM_BYTES
        return cls(
            count=parts_count(headers),
            runs=(Run(number, interval[0], interval[1] - interval[0], 1),),
            checksums=((number, stated),) if known else (),
        )

    @classmethod
    def of_upload(cls, parts: Sequence[tuple[int, int]]) -> "PartMap | None":
        """Number and size of each part of a completed upload, in order; None if the numbers have holes: how S3 counts
        then is not documented.
        """
        if [number for number, _ in parts] != list(range(1, len(parts) + 1)) or any(size < 1 for _, size in parts):
            return None
        runs: list[Run] = []
        start = 0
        for number, size in parts:
            last = runs[-1] if runs else None
            if last is not None and last.size == size:
                runs[-1] = Run(last.number, last.start, size, last.count + 1)
            else:
                runs.append(Run(number, start, size, 1))
            start += size
        return cls(count=len(parts), runs=tuple(runs))

    @property
    def weight(self) -> int:
        """How many facts there are to remember."""
        return len(self.runs) + len(self.checksums)

    def interval(self, number: int) -> Interval | None:
        """The bytes of this part; None if they are not known."""
        place = bisect_right(self.runs, number, key=lambda run: run.number) - 1
        return self.runs[place].interval(number) if place >= 0 and number < self.runs[place].end else None

    def checksums_of(self, number: int) -> Fields | None:
        """The fields that S3 sends as this part's checksums, if it is asked for them; None if that is not known."""
        place = bisect_left(self.checksums, number, key=lambda pair: pair[0])
        found = self.checksums[place : place + 1]
        return found[0][1] if found and found[0][0] == number else None

    def merged(self, newer: "PartMap") -> "PartMap":
        """Everything that this map and a later one about the same version know. If they contradict each other the later
        one is right.
        """
        if newer == self:
            return self
        if newer.count != self.count:
            return newer
        # Nearly always one part comes to many: then little has to be looked at.
        runs = _including(self.runs, newer.runs[0]) if len(newer.runs) == 1 else _joined(self.runs, newer.runs)
        if runs is None:
            return newer
        if len(newer.checksums) == 1:
            checksums = _stating(self.checksums, *newer.checksums[0])
        else:
            both = {**dict(self.checksums), **dict(newer.checksums)}
            checksums = tuple(sorted(both.items())[:MOST_CHECKSUMS]) if newer.checksums else self.checksums
        return PartMap(count=self.count, runs=runs, checksums=checksums)

    # The stored form.

    def document(self) -> dict[str, Any]:
        """The map as values that JSON knows.

        ``runs`` has four numbers for each run: by how much its number and its offset differ from what follows the run
        before it, its size, its count. ``names`` has lists of field names; each member of ``checksums`` is a part's
        number, the place of its names in ``names``, and the values.
        """
        flat: list[int] = []
        number, offset = 1, 0
        for run in self.runs:
            flat += (run.number - number, run.start - offset, run.size, run.count)
            number, offset = run.end, run.stop
        names: dict[tuple[str, ...], int] = {}
        rows: list[list[Any]] = []
        for part, fields in self.checksums:
            place = names.setdefault(tuple(name.decode("latin-1") for name, _ in fields), len(names))
            rows.append([part, place, *(value.decode("latin-1") for _, value in fields)])
        document: dict[str, Any] = {"count": self.count, "runs": flat}
        if rows:
            document["names"] = [list(each) for each in names]
            document["checksums"] = rows
        return document

    @classmethod
    def from_document(cls, document: Any) -> "PartMap":
        """Read what :meth:`document` gave.

        :raises ValueError: it is something else; so do KeyError, TypeError, IndexError and AttributeError tell
        """
        count, flat = document["count"], document["runs"]
        if not (count is None or _is_whole(count, 1) and count <= MOST_PARTS) or len(flat) % 4:
            raise ValueError("no map of parts")
        runs: list[Run] = []
        number, offset = 1, 0
        for at in range(0, len(flat), 4):
            skipped, gap, size, parts = flat[at : at + 4]
            if not (_is_whole(skipped, 0) and _is_whole(gap, 0) and _is_whole(size, 1) and _is_whole(parts, 1)):
                raise ValueError("no run of parts")
            run = Run(number + skipped, offset + gap, size, parts)
            if run.end > MOST_PARTS + 1:
                raise ValueError("too many parts")
            runs.append(run)
            number, offset = run.end, run.stop
        rows = document.get("checksums", ())
        names = [tuple(name.encode("latin-1") for name in each) for each in document["names"]] if rows else []
        checksums = []
        for part, place, *values in rows:
            known = _is_whole(part, 1) and part <= MOST_PARTS and _is_whole(place, 0)
            if not known or len(values) != len(names[place]):
                raise ValueError("no checksums of a part")
            checksums.append((part, tuple(zip(names[place], (value.encode("latin-1") for value in values)))))
        return cls(count=count, runs=tuple(runs), checksums=tuple(checksums))


def parts_count(headers: Headers) -> int | None:
    """What ``x-amz-mp-parts-count`` says, 1 to 10000; None for anything else."""
    digits = headers.get(b"x-amz-mp-parts-count") or b""
    if not (digits.isdigit() and len(digits) <= 5):
        return None
    number = int(digits)
    return number if 1 <= number <= MOST_PARTS else None


def resolve_wanted(wanted: Wanted | None, size: int, parts: PartMap | None) -> Interval | None:
    """The bytes of a version that a request asks for: all without a Range or part.

    :return: None when the range can't be satisfied, or the part is not known
    """
    if wanted is None:
        return (0, size)
    if isinstance(wanted, PartNumber):
        return None if parts is None else parts.interval(wanted.number)
    return resolve(wanted, size)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _joined(some: tuple[Run, ...], more: tuple[Run, ...]) -> tuple[Run, ...] | None:
    """Both as one; None if they contradict each other."""
    joined: list[Run] = []
    for run in sorted((*some, *more), key=lambda each: each.number):
        last = joined[-1] if joined else None
        if last is not None and run.number < last.end:
            # Of one size and at one place: then all that both of them know is the same.
            if last.interval(run.number) != run.interval(run.number):
                return None
            if run.end <= last.end:
                continue
            known = last.end - run.number
            run = Run(last.end, run.start + known * run.size, run.size, run.count - known)
        if last is not None and (run.start < last.stop or run.number == last.end and run.start != last.stop):
            return None
        if last is not None and run.number == last.end and run.size == last.size:
            joined[-1] = Run(last.number, last.start, last.size, last.count + run.count)
        else:
            joined.append(run)
    return tuple(joined)


def _including(runs: tuple[Run, ...], run: Run) -> tuple[Run, ...] | None:
    """The same for one run more: only its neighbours matter."""
    first = max(0, bisect_right(runs, run.number, key=lambda each: each.number) - 1)
    behind = bisect_right(runs, run.end, key=lambda each: each.number) + 1
    joined = _joined(runs[first:behind], (run,))
    return None if joined is None else runs[:first] + joined + runs[behind:]


def _stating(checksums: tuple[tuple[int, Fields], ...], number: int, fields: Fields) -> tuple[tuple[int, Fields], ...]:
    """The checksums with those of one part more, or others, if there is room."""
    place = bisect_left(checksums, number, key=lambda pair: pair[0])
    behind = place
    if place < len(checksums) and checksums[place][0] == number:
        behind += 1
    elif len(checksums) >= MOST_CHECKSUMS:
        return checksums
    return checksums[:place] + ((number, fields),) + checksums[behind:]
