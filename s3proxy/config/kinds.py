"""What a key may hold: how a value is read from YAML and from text, its bounds, how it is written.

A kind is the single place where the limits of a key stand: the loader, the classes of :mod:`s3proxy.config.model`, the
messages and the documentation all ask it. Faults are a few words that complete the sentence "the value …".
"""

import math
import re
import attrs

from s3proxy.config.problems import Report
from s3proxy.config.yaml_source import ListNode, MapNode, Node, ScalarNode
from s3proxy.util.quantities import LONGEST, format_duration, parse_duration

__all__ = [
    "Duration", "Flag", "Integer", "Kind", "LARGEST", "Nullable", "Number", "REJECTED", "Source", "Workers", "mismatch",
]

#: The largest whole number a key takes (file sizes are signed 64-bit numbers).
LARGEST = 2**63 - 1

#: What reading gives for a value that was reported as a problem.
REJECTED = object()

_DIGITS = re.compile(r"\+?[0-9]{1,30}", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)


@attrs.frozen
class Source:
    """The file being read, and where its problems go."""

    name: str
    report: Report

    def origin(self, line: int) -> str:
        """``FILE:LINE``"""
        return f"{self.name}:{line}"

    def problem(self, line: int, path: str, text: str) -> None:
        """Report a problem of this line."""
        self.report.problem(self.origin(line), path, text)

    def warn(self, line: int, path: str, text: str) -> None:
        """Report a warning about this line."""
        self.report.warn(self.origin(line), path, text)


def mismatch(node: Node) -> str:
    """The words for a value of the wrong type."""
    if isinstance(node, ListNode):
        return "value is a list"
    if isinstance(node, MapNode):
        return "value is a mapping"
    if node.value is None:
        return "the value is missing"
    if isinstance(node.value, str):
        return f"value {node.shown} is text"
    if isinstance(node.value, bool):
        return f"value {node.shown} is a boolean"
    return f"value {node.shown} is a number"


class Kind:
    """What one key may hold. :ivar allowed: completes "allowed …". :ivar hides: values are not for logs"""

    allowed = ""
    hides = False

    def read(self, node: Node, path: str, source: Source) -> object:
        """The value of a YAML node; REJECTED, and a problem reported, for a wrong type. Bounds are not checked here."""
        if not isinstance(node, ScalarNode) or node.value is None or type(node.value) not in self._types():
            if not (isinstance(node, ScalarNode) and node.broken):
                source.problem(node.line, path, f"{mismatch(node)}; allowed {self.allowed}{self._hint(node)}")
            return REJECTED
        try:
            return self.accept(node.value)
        except ValueError as error:
            shown = "(hidden)" if self.hides else node.shown
            source.problem(node.line, path, f"value {shown} {error}; allowed {self.allowed}")
            return REJECTED

    def _types(self) -> tuple[type, ...]:
        raise TypeError(type(self))

    def _hint(self, node: Node) -> str:
        """What to do about a value of the wrong type."""
        return ""

    def accept(self, value: object) -> object:
        """The value as the model holds it, from the scalar that YAML gave.

        :raises ValueError: with the fault
        """
        return value

    def parse(self, text: str) -> object:
        """The value as the model holds it, from a word of the environment or the command line.

        :raises ValueError: with the fault
        """
        raise TypeError(f"{type(self).__name__} has no textual form")

    def convert(self, value: object) -> object:
        """The value as the model holds it, from what code passes to a class of the model."""
        return value

    def adjust(self, value: object, default: object) -> tuple[object, str | None]:
        """The value brought into bounds that are not worth failing for, and what to say about it."""
        return value, None

    def fault(self, value: object) -> str | None:
        """What is wrong with a value of the model, None when nothing is."""
        raise TypeError(type(self))

    def show(self, value: object) -> str:
        """The value as YAML would have it."""
        return str(value)


class Flag(Kind):
    """true or false."""

    allowed = "true or false"

    def _types(self) -> tuple[type, ...]:
        return (bool,)

    def _hint(self, node: Node) -> str:
        return ", written without quotes" if isinstance(node, ScalarNode) and isinstance(node.value, str) else ""

    def parse(self, text: str) -> bool:
        return text.lower() == "true"

    def fault(self, value: object) -> str | None:
        return None if isinstance(value, bool) else "is not true or false"

    def show(self, value: object) -> str:
        return "true" if value else "false"


@attrs.frozen
class Integer(Kind):
    """A whole number.

    :ivar low: smallest value allowed
    :ivar high: largest value allowed
    :ivar zero: 0 is allowed too, below ``low``
    :ivar outside: what happens to a value out of bounds: ``error``, ``clamp`` or ``default``
    :ivar ceiling: largest value that is a number of this type at all, also where bounds are soft
    """

    low: int = 0
    high: int = LARGEST
    zero: bool = False
    outside: str = "error"
    ceiling: int = LARGEST

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        if self.high == LARGEST:
            words = f"a whole number, {self.low} or more"
        else:
            words = f"a whole number from {self.low} to {self.high}"
        return f"0, or {words}" if self.zero else words

    def _types(self) -> tuple[type, ...]:
        return (int, float)

    def _hint(self, node: Node) -> str:
        return _digits_hint(node)

    def accept(self, value: object) -> int:
        if not isinstance(value, int):
            raise ValueError("is not a whole number")
        return self._in_type(value)

    def parse(self, text: str) -> int:
        if not _DIGITS.fullmatch(text):
            raise ValueError("is not a whole number")
        return self._in_type(int(text))

    def _in_type(self, value: int) -> int:
        if value < 0:
            raise ValueError("is negative")
        if value > self.ceiling:
            raise ValueError("is too large" if self.ceiling < LARGEST else "needs more than 63 bits")
        return value

    def adjust(self, value: object, default: object) -> tuple[object, str | None]:
        if self.outside == "error" or type(value) is not int or self.low <= value <= self.high:
            return value, None
        if self.outside == "clamp":
            default = min(max(value, self.low), self.high)
        return default, f"is outside of {self.low} to {self.high}; using {default}"

    def fault(self, value: object) -> str | None:
        if type(value) is not int:
            return "is not a whole number"
        if self.zero and value == 0:
            return None
        if value < self.low:
            return "is too small"
        return "is too large" if value > self.high else None


@attrs.frozen
class Workers(Kind):
    """``auto`` or a number of processes."""

    high: int = 256
    allowed = "auto, or a whole number from 1 to 256"

    def _types(self) -> tuple[type, ...]:
        return (int, str)

    def accept(self, value: object) -> object:
        if value == "auto":
            return value
        if isinstance(value, str):
            raise ValueError("is not a number of processes")
        return value

    def parse(self, text: str) -> object:
        return text if text == "auto" else Integer(1, self.high).parse(text)

    def fault(self, value: object) -> str | None:
        return None if value == "auto" else Integer(1, self.high).fault(value)


@attrs.frozen
class Number(Kind):
    """A number that may have a fraction."""

    low: float
    high: float

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        return f"a number from {self.low:g} to {self.high:g}"

    def _types(self) -> tuple[type, ...]:
        return (int, float)

    def _hint(self, node: Node) -> str:
        return _digits_hint(node)

    def accept(self, value: object) -> float:
        assert isinstance(value, (int, float))
        return float(value)

    def parse(self, text: str) -> float:
        if not _DECIMAL.fullmatch(text):
            raise ValueError("is not a number")
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("is too large")
        return value

    def convert(self, value: object) -> object:
        return float(value) if type(value) is int else value

    def fault(self, value: object) -> str | None:
        if not isinstance(value, float) or math.isnan(value):
            return "is not a number"
        if value < self.low:
            return "is too small"
        return "is too large" if value > self.high else None


@attrs.frozen
class Duration(Kind):
    """A duration; seconds as a float in the model.

    :ivar least: smallest duration allowed, as text
    :ivar most: largest, as text
    :ivar grain: seconds of the whole units in which bounds are compared: ``300.9s`` is not above ``300s``
    :ivar positive: nothing but 0 is too small, and 0 is
    :ivar soft: a stricter range; a value outside of it is replaced by the default
    """

    least: str = "0s"
    most: str = "3650d"
    grain: int = 1
    positive: bool = False
    soft: tuple[str, str] | None = None

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        if self.positive:
            return f"a duration above 0s, at most {self.most}"
        least, most = self.soft or (self.least, self.most)
        return f"a duration from {least} to {most}"

    def _types(self) -> tuple[type, ...]:
        return (str, int, float)

    def accept(self, value: object) -> float:
        if isinstance(value, str):
            return parse_duration(value)
        assert isinstance(value, (int, float))
        if value < 0:
            raise ValueError("is negative")
        if not value <= 100 * LONGEST:
            raise ValueError("is not a duration" if math.isnan(value) else "is too large")
        return float(value)

    def parse(self, text: str) -> float:
        """Whole seconds, or hours where the bounds are compared in hours."""
        if not _DIGITS.fullmatch(text):
            raise ValueError(f"is not a whole number of {'hours' if self.grain == 3600 else 'seconds'}")
        return float(int(text) * self.grain)

    def convert(self, value: object) -> object:
        return float(value) if type(value) is int else value

    def adjust(self, value: object, default: object) -> tuple[object, str | None]:
        if self.soft is None or type(value) is not float or value > LONGEST or self._within(value, *self.soft):
            return value, None
        assert isinstance(default, float)
        return default, f"is outside of {self.soft[0]} to {self.soft[1]}; using {format_duration(default)}"

    def _within(self, value: float, least: str, most: str) -> bool:
        whole = value // self.grain
        return parse_duration(least) // self.grain <= whole <= parse_duration(most) // self.grain

    def fault(self, value: object) -> str | None:
        if not isinstance(value, float) or math.isnan(value):
            return "is not a duration"
        if value == math.inf or value // self.grain > parse_duration(self.most) // self.grain:
            return "is too large"
        if self.positive:
            return None if value > 0 else "is too small"
        return "is too small" if value // self.grain < parse_duration(self.least) // self.grain else None

    def show(self, value: object) -> str:
        assert isinstance(value, float)
        return format_duration(value)


@attrs.frozen
class Nullable(Kind):
    """Another kind, or nothing: ``null`` in YAML, None in the model."""

    kind: Kind

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        words = self.kind.allowed
        return words if words.endswith("null") else f"{words}, or null"

    def read(self, node: Node, path: str, source: Source) -> object:
        if isinstance(node, ScalarNode) and node.value is None:
            return None
        return self.kind.read(node, path, source)

    def convert(self, value: object) -> object:
        return None if value is None else self.kind.convert(value)

    def fault(self, value: object) -> str | None:
        return None if value is None else self.kind.fault(value)

    def show(self, value: object) -> str:
        return "null" if value is None else self.kind.show(value)


def _digits_hint(node: Node) -> str:
    if isinstance(node, ScalarNode) and isinstance(node.value, str):
        return ", written in plain digits without quotes"
    return ""
