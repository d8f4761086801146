"""``cache_rules.json``: settings for the objects whose names fit a pattern. Pure: bytes in, rules out.

The file is a JSON object with a list ``rules``. Each rule is an object: ``pattern`` (see :mod:`s3proxy.policy.globs`)
and any of these, where ``null`` is the same as leaving it out:

==================================  ==================================================================
``get_ttl`` ``head_ttl``            durations, from 0s to 3650d
``put_ttl`` ``stale_if_error``
``read_cache_enabled``              true or false
``write_cache_enabled``
``compression_enabled``
``ram_cache_eligible``
``evaluate_conditions_from_cache``
``honor_cache_control``
``page_widening``                   true or false
``page_size``                       bytes, 1 to 67108864
``hedging_enabled``                 true or false
``hedge_trigger_after``             duration above 0s, below the wait for S3's first byte
``hedge_max_per_request``           a whole number
==================================  ==================================================================

``page_size`` and ``hedge_trigger_after`` out of bounds are problems only in a rule that switches on what they are for;
elsewhere they count as left out. What is not known is left out, too, with a remark.
"""

import difflib
import json
from collections.abc import Callable
from typing import Any, NoReturn

import attrs

from s3proxy.policy.globs import Glob
from s3proxy.util.quantities import LONGEST, format_duration, parse_duration

__all__ = [
    "FIELDS",
    "FILE_NAME",
    "LARGEST_PAGE",
    "LONGEST_FILE",
    "MOST_RULES",
    "Rule",
    "RulesError",
    "RulesFile",
    "read_rules",
]

FILE_NAME = "cache_rules.json"
"""In the cache directory."""
LONGEST_FILE = 4 << 20
"""Bytes; what is longer is no file of rules."""
MOST_RULES = 1024
LARGEST_PAGE = 64 << 20
"""Bytes."""

_MOST_REPORTED = 50
_MANY = 10**30  # stands for every whole number with more digits: it is beyond all limits
_EXAMPLE = 'a glob over bucket/key, such as "my-bucket/logs/**"'


@attrs.frozen(kw_only=True)
class Rule:
    """What one rule says; None where it says nothing. Durations in seconds, sizes in bytes."""

    glob: Glob
    _bucket: Glob | None = attrs.field(init=False, eq=False, repr=False)
    get_ttl: float | None = None
    head_ttl: float | None = None
    put_ttl: float | None = None
    stale_if_error: float | None = None
    read_cache_enabled: bool | None = None
    write_cache_enabled: bool | None = None
    compression_enabled: bool | None = None
    ram_cache_eligible: bool | None = None
    evaluate_conditions_from_cache: bool | None = None
    honor_cache_control: bool | None = None
    page_widening: bool | None = None
    page_size: int | None = None
    hedging_enabled: bool | None = None
    hedge_trigger_after: float | None = None
    hedge_max_per_request: int | None = None

    @_bucket.default
    def _find_bucket(self) -> Glob | None:
        bucket, slash, _ = self.glob.pattern.partition("/")
        return Glob(bucket) if slash and "**" not in bucket else None

    def concerns(self, bucket: str) -> bool:
        """Whether it may fit a name in this bucket."""
        if self._bucket is None:
            return "**" in self.glob.pattern
        return self._bucket.fits(bucket)

    def given(self) -> tuple[str, ...]:
        """The names of what it sets."""
        return tuple(name for name in FIELDS if getattr(self, name) is not None)


@attrs.frozen
class RulesFile:
    """A file of rules that can be used.

    :ivar rules: in the order of the file
    :ivar remarks: what is worth a word, one line each
    """

    rules: tuple[Rule, ...]
    remarks: tuple[str, ...] = ()


class RulesError(Exception):
    """The file can't be used. :ivar problems: everything that is wrong with it, one line each"""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _words(value: object) -> str:
    """A value as a message shows it, with its type, when that is the fault."""
    if value is None:
        return "the value is missing"
    if isinstance(value, list):
        return "value is a list"
    if isinstance(value, dict):
        return "value is an object"
    kind = "text" if isinstance(value, str) else "a boolean" if isinstance(value, bool) else "a number"
    return f"value {_shown(value)} is {kind}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > 60:
        text = f'{text[:58]}…"' if isinstance(value, str) else f"{text[:59]}…"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


class _WrongType(ValueError):
    """:ivar hint: what to do about it"""

    def __init__(self, hint: str = "") -> None:
        super().__init__()
        self.hint = hint


def _duration(value: object) -> float:
    if isinstance(value, str):
        seconds = parse_duration(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise _WrongType()
    if seconds < 0:
        raise ValueError("is negative")
    if seconds > LONGEST:
        raise ValueError("is too large")
    return seconds


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongType(", written without quotes" if isinstance(value, str) else "")
    return value


def _whole(value: object) -> int:
    if isinstance(value, float):
        raise ValueError("is not a whole number")
    if not isinstance(value, int) or isinstance(value, bool):
        raise _WrongType(", written in plain digits without quotes" if isinstance(value, str) else "")
    if value < 0:
        raise ValueError("is negative")
    if value >= 1 << 63:
        raise ValueError("needs more than 63 bits")
    return value


@attrs.frozen
class _Kind:
    """How a field is read. :ivar read: raises ValueError with words that complete the sentence "the value …" """

    read: Callable[[object], object]
    allowed: str


_TTL = _Kind(_duration, f"a duration from 0s to {format_duration(LONGEST)}")
_SWITCH = _Kind(_flag, "true or false")

FIELDS: dict[str, _Kind] = {
    "get_ttl": _TTL,
    "head_ttl": _TTL,
    "put_ttl": _TTL,
    "stale_if_error": _TTL,
    "read_cache_enabled": _SWITCH,
    "write_cache_enabled": _SWITCH,
    "compression_enabled": _SWITCH,
    "ram_cache_eligible": _SWITCH,
    "evaluate_conditions_from_cache": _SWITCH,
    "honor_cache_control": _SWITCH,
    "page_widening": _SWITCH,
    "page_size": _Kind(_whole, f"a whole number from 1 to {LARGEST_PAGE}"),
    "hedging_enabled": _SWITCH,
    "hedge_trigger_after": _Kind(_duration, "a duration above 0s"),
    "hedge_max_per_request": _Kind(_whole, "a whole number, 0 or more"),
}
"""What a rule may set, in the order of the documentation."""


class _Object(dict[str, Any]):
    """A JSON object. :ivar repeated: names that it has more than once"""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = sorted({name for name in names if names.count(name) > 1}) if len(self) < len(names) else []


def _parse(data: bytes) -> object:
    """The JSON value.

    :raises RulesError: it is none
    """
    if len(data) > LONGEST_FILE:
        raise RulesError(f"the file is larger than {LONGEST_FILE} bytes and so no file of rules")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RulesError(f"line {line}: the byte 0x{data[error.start]:02X} is not UTF-8; save it as UTF-8") from None

    def constant(name: str) -> NoReturn:
        raise RulesError(f"{name} is not JSON; allowed numbers in plain digits")

    try:
        return json.loads(
            text,
            object_pairs_hook=_Object,
            parse_int=lambda digits: int(digits) if len(digits) <= 30 else -_MANY if digits[0] == "-" else _MANY,
            parse_constant=constant,
        )
    except json.JSONDecodeError as error:
        raise RulesError(f"line {error.lineno}, column {error.colno}: this is not JSON: {error.msg}") from None
    except RecursionError:
        raise RulesError('the file is nested too deeply; allowed an object with a list "rules"') from None


class _Reader:
    """Reads one document, and collects what there is to say."""

    def __init__(self, first_byte_timeout: float) -> None:
        self._first_byte_timeout = first_byte_timeout
        self.problems: list[str] = []
        self.remarks: list[str] = []

    def document(self, value: object) -> tuple[Rule, ...]:
        """The rules. Those with problems are missing."""
        if not isinstance(value, _Object):
            self.problems.append(f'{_words(value)}; allowed an object with a list "rules"')
            return ()
        self._names(value, "", ("rules", "$schema"))
        rules = value.get("rules")
        if rules is None:
            return ()
        if not isinstance(rules, list):
            self.problems.append(f"rules: {_words(rules)}; allowed a list of rules")
            return ()
        if len(rules) > MOST_RULES:
            self.problems.append(f"rules: {len(rules)} rules are too many; allowed at most {MOST_RULES}")
            return ()
        read = [self._rule(f"rules[{index}]", each) for index, each in enumerate(rules)]
        return tuple(rule for rule in read if rule is not None)

    def _names(self, value: _Object, where: str, known: tuple[str, ...]) -> None:
        self.problems += [f"{where}{_name(name)}: given more than once; leave one" for name in value.repeated]
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(name[:60].lower(), known, n=1, cutoff=0.75)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.remarks.append(f"{where}{_name(name)}: unknown field, ignored{hint}")

    def _rule(self, where: str, value: object) -> Rule | None:
        if not isinstance(value, _Object):
            self.problems.append(f"{where}: {_words(value)}; allowed an object with a pattern and settings")
            return None
        self._names(value, f"{where}.", ("pattern", *FIELDS))
        pattern = self._pattern(f"{where}.pattern", value.get("pattern"))
        read: dict[str, Any] = {}
        for name, kind in FIELDS.items():
            if value.get(name) is None:
                continue
            try:
                read[name] = kind.read(value[name])
            except _WrongType as error:
                self.problems.append(f"{where}.{name}: {_words(value[name])}; allowed {kind.allowed}{error.hint}")
            except ValueError as error:
                self.problems.append(f"{where}.{name}: value {_shown(value[name])} {error}; allowed {kind.allowed}")
        self._bound(where, value, read, "page_size", "page_widening", self._page_size_fault)
        self._bound(where, value, read, "hedge_trigger_after", "hedging_enabled", self._trigger_fault)
        return None if pattern is None else Rule(glob=Glob(pattern), **read)

    def _pattern(self, where: str, value: object) -> str | None:
        if not isinstance(value, str):
            self.problems.append(f"{where}: {_words(value)}; allowed {_EXAMPLE}")
            return None
        if not value.strip():
            self.problems.append(f"{where}: value {_shown(value)} is blank; allowed {_EXAMPLE}")
            return None
        if value.startswith("/"):
            self.remarks.append(
                f"{where}: value {_shown(value)} fits no object, because names begin with the bucket; remove the slash"
            )
        elif "/" not in value and "**" not in value:
            self.remarks.append(
                f"{where}: value {_shown(value)} fits no object, because names are bucket/key; "
                f"for all of the bucket write {_shown(value + '/**')}"
            )
        return value

    def _bound(
        self,
        where: str,
        value: _Object,
        read: dict[str, Any],
        name: str,
        switch: str,
        fault: Callable[[Any], str | None],
    ) -> None:
        """A value out of bounds is a problem where it would be used, and is left out where it would not."""
        found = fault(read[name]) if name in read else None
        if found is None:
            return
        text = f"{where}.{name}: value {_shown(value[name])} {found}"
        if read.get(switch):
            self.problems.append(text)
        else:
            self.remarks.append(f"{text}; ignored, because the rule does not set {switch}")
            del read[name]

    def _page_size_fault(self, size: int) -> str | None:
        if 1 <= size <= LARGEST_PAGE:
            return None
        return f"is too {'large' if size else 'small'}; allowed {FIELDS['page_size'].allowed}"

    def _trigger_fault(self, seconds: float) -> str | None:
        limit = format_duration(self._first_byte_timeout)
        allowed = f"allowed a duration above 0s and below {limit}, which is connection_pool.upstream_first_byte_timeout"
        if seconds <= 0:
            return f"is too small; {allowed}"
        return None if seconds < self._first_byte_timeout else f"is too large; {allowed}"


def _name(name: str) -> str:
    return name if name.isidentifier() and name.isascii() and len(name) <= 60 else _shown(name)


def read_rules(data: bytes, first_byte_timeout: float) -> RulesFile:
    """The rules that a file holds.

    :param first_byte_timeout: seconds after which a request to S3 is repeated; a second request must be due before
    :raises RulesError: one fault is enough, and all are told
    """
    reader = _Reader(first_byte_timeout)
    rules = reader.document(_parse(data))
    if reader.problems:
        raise RulesError(*_first_of(reader.problems))
    return RulesFile(rules, _first_of(reader.remarks))


def _first_of(lines: list[str]) -> tuple[str, ...]:
    if len(lines) <= _MOST_REPORTED:
        return tuple(lines)
    return (*lines[:_MOST_REPORTED], f"and {len(lines) - _MOST_REPORTED} more of this kind")
