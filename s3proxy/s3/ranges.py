"""Byte ranges: the Range request field and the Content-Range response field (RFC 9110 sections 14.2 and 14.4).

On the wire both ends of a range are included; everywhere else a range is half-open, ``[start, stop)``.
"""

import re
from typing import Union

import attrs

__all__ = [
    "ContentRange",
    "From",
    "FromTo",
    "InvalidRange",
    "MultiRange",
    "RangeSpec",
    "SingleRange",
    "Suffix",
    "format_content_range",
    "format_range",
    "parse_content_range",
    "parse_range",
    "resolve",
]

# No object reaches this; a longer number means the same, and is not worth arithmetic.
_HUGE = 2**63 - 1
_MOST_DIGITS = 18

_RANGE_SPEC = re.compile(rb"([0-9]*)-([0-9]*)")
_CONTENT_RANGE = re.compile(rb"bytes +([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


@attrs.frozen
class FromTo:
    """``bytes=first-last``, both included, first ≤ last."""

    first: int
    last: int


@attrs.frozen
class From:
    """``bytes=first-``: everything from there on."""

    first: int


@attrs.frozen
class Suffix:
    """``bytes=-length``: the last bytes, length ≥ 1."""

    length: int


@attrs.frozen
class MultiRange:
    """Several valid ranges in one field: S3 decides."""


@attrs.frozen
class InvalidRange:
    """Not a range of bytes, or malformed, or ``-0``: S3 decides."""


SingleRange = Union[FromTo, From, Suffix]
RangeSpec = Union[FromTo, From, Suffix, MultiRange, InvalidRange]


@attrs.frozen
class ContentRange:
    """Which bytes an answer holds.

    :ivar start: the first byte
    :ivar stop: one behind the last byte
    :ivar size: of the whole object; None when the answer does not say
    """

    start: int
    stop: int
    size: int | None


def parse_range(value: bytes) -> RangeSpec:
    """Read a Range field's value. Blanks are allowed around it and around the commas of a list, nowhere else.

    Never stricter or laxer than needed: what is not understood here is forwarded, and S3 decides.
    """
    value = value.strip(b" \t")
    if not value.startswith(b"bytes="):
        return InvalidRange()
    specs = [_parse_spec(piece.strip(b" \t")) for piece in value[6:].split(b",")]
    if any(isinstance(spec, InvalidRange) for spec in specs):
        return InvalidRange()
    return specs[0] if len(specs) == 1 else MultiRange()


def _parse_spec(piece: bytes) -> RangeSpec:
    match = _RANGE_SPEC.fullmatch(piece)
    if match is None:
        return InvalidRange()
    first, last = match[1].lstrip(b"0"), match[2].lstrip(b"0")
    if match[1] and match[2]:
        # Digits without leading zeros compare by length, then as text: no arithmetic on hostile numbers.
        if (len(first), first) > (len(last), last):
            return InvalidRange()
        return FromTo(_number(first), _number(last))
    if match[1]:
        return From(_number(first))
    return Suffix(_number(last)) if last else InvalidRange()


def _number(digits: bytes) -> int:
    return _HUGE if len(digits) > _MOST_DIGITS else int(digits or b"0")


def resolve(spec: SingleRange, size: int) -> tuple[int, int] | None:
    """The half-open interval that a single range means for an object of ``size`` bytes; None when it is unsatisfiable.

    The end is clamped to the object's; a suffix longer than the object is the whole object; nothing is satisfiable in
    an empty object.
    """
    if isinstance(spec, Suffix):
        start, stop = max(0, size - spec.length), size
    elif isinstance(spec, From):
        start, stop = spec.first, size
    else:
        start, stop = spec.first, min(spec.last + 1, size)
    return (start, stop) if start < stop else None


def parse_content_range(value: bytes) -> ContentRange | None:
    """Read ``bytes first-last/size`` or ``bytes first-last/*``; None for anything else, also for one that contradicts
    itself.
    """
    match = _CONTENT_RANGE.fullmatch(value.strip(b" \t"))
    if match is None:
        return None
    start, stop = int(match[1]), int(match[2]) + 1
    size = None if match[3] == b"*" else int(match[3])
    if start >= stop or (size is not None and stop > size):
        return None
    return ContentRange(start, stop, size)


def format_range(spec: SingleRange) -> bytes:
    """The value of a Range field."""
    if isinstance(spec, Suffix):
        return b"bytes=-%d" % spec.length
    if isinstance(spec, From):
        return b"bytes=%d-" % spec.first
    return b"bytes=%d-%d" % (spec.first, spec.last)


def format_content_range(start: int, stop: int, size: int | None) -> bytes:
    """The value of a Content-Range field for the non-empty half-open interval [start, stop)."""
    return b"bytes %d-%d/" % (start, stop - 1) + (b"*" if size is None else b"%d" % size)
