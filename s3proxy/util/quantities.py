"""Durations and byte counts as people write them, to numbers and back.

A duration is a decimal number and an optional unit::

    30s   1.5h   .5s   250 ms   90        (without a unit: seconds)

    ms millis millisecond milliseconds     s sec secs second seconds     m min mins minute minutes
    h hr hrs hour hours                    d day days

Units are lower case. There are no signs, no compounds (``1h30m``), no weeks and no smaller units.
"""

import math
import re
from decimal import Decimal

__all__ = ["LONGEST", "format_bytes", "format_duration", "parse_duration"]

#: Ten years of 365 days: no duration is longer, so that no timer and no date made from one can overflow.
LONGEST = 315_360_000.0

_DURATION = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-z]*)\s*", re.ASCII)
_UNITS: dict[str, float] = {
    unit: seconds
    for seconds, units in (
        (0.001, "ms millis millisecond milliseconds"),
        (1.0, "s sec secs second seconds"),
        (60.0, "m min mins minute minutes"),
        (3600.0, "h hr hrs hour hours"),
        (86400.0, "d day days"),
    )
    for unit in units.split()
}


def parse_duration(text: str) -> float:
    """Seconds of a duration like ``30s``.

    :raises ValueError: with a few words that complete the sentence "the value …": what is wrong with it
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("is not a duration")
    number, unit = match.groups()
    if unit and unit not in _UNITS:
        raise ValueError(f'has the unknown unit "{unit[:20]}"')
    if unit.startswith("ms") or unit.startswith("milli"):
        seconds = float(number) / 1000  # a division rounds once: 250 ms is 0.25 exactly
    else:
        seconds = float(number) * _UNITS.get(unit, 1.0)
    if not math.isfinite(seconds):
        raise ValueError("is too large")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest spelling that :func:`parse_duration` reads as exactly this many seconds: ``5m``, ``90s``, ``250ms``.

    :param seconds: not negative, finite
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"not a duration: {seconds!r}")
    if seconds == int(seconds):
        whole = int(seconds)
        for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
            if 0 < whole <= LONGEST and whole % size == 0:
                return f"{whole // size}{unit}"
        return f"{whole}s"
    milliseconds = round(seconds * 1000)
    if milliseconds / 1000 == seconds:
        return f"{milliseconds}ms"
    return f"{Decimal(repr(seconds)):f}s"


def format_bytes(count: int) -> str:
    """A byte count for people, exact where a binary unit divides it: ``1 GiB``, ``1.5 GiB``, ``1000 bytes``."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            scaled = f"{count / size:.2f}".rstrip("0").rstrip(".")
            return f"{scaled} {unit}"
    return "1 byte" if count == 1 else f"{count} bytes"
