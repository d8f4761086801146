"""A YAML file as nodes that know their line.

Only the core schema of YAML 1.2 is known: ``true`` and ``false`` are the only booleans (``yes`` and ``on`` are text),
whole numbers are decimal, ``0x…`` or ``0o…`` (``010``, ``1_000`` and ``1:30`` are text). A key given twice, a merge key
and a tag of any application are problems. Aliases work and are never expanded, so that a nest of them costs nothing.
"""

import re
from collections.abc import Iterator
from typing import Union

import attrs
import yaml

from s3proxy.config.problems import Report, quoted

__all__ = ["LARGEST_FILE", "Entry", "ListNode", "MapNode", "Node", "ScalarNode", "read_yaml"]

#: A configuration larger than this is a mistake (a log file, a device); it is not read.
LARGEST_FILE = 1 << 20

_DEEPEST = 32
_MANY = 10**30  # stands for every whole number with more digits: it is beyond all limits

_PREFIX = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    re.ASCII,
)
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")
_SURROGATE = re.compile("[\ud800-\udfff]")


@attrs.frozen(eq=False)
class ScalarNode:
    """One value.

    :ivar value: None, bool, int, float or str
    :ivar text: as written, without quotes
    :ivar broken: a problem was reported already; the value means nothing
    """

    value: None | bool | int | float | str
    text: str
    line: int
    broken: bool = False

    @property
    def shown(self) -> str:
        """The value as a message shows it: text in quotes, everything else as it was written."""
        if isinstance(self.value, str):
            return quoted(self.text)
        return quoted(self.text)[1:-1] or "null"


@attrs.frozen(eq=False)
class ListNode:
    """A sequence of values."""

    items: tuple["Node", ...]
    line: int
    shown = "[…]"


@attrs.frozen(eq=False)
class Entry:
    """One key of a mapping, its line and its value."""

    key: str
    line: int
    node: "Node"


@attrs.frozen(eq=False)
class MapNode:
    """A mapping; its keys are different texts."""

    entries: tuple[Entry, ...]
    line: int
    shown = "{…}"


Node = Union[ScalarNode, ListNode, MapNode]


class _TooDeep(yaml.MarkedYAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Composes nodes with the tags of the core schema; constructs nothing."""

    yaml_implicit_resolvers: dict = {}  # type: ignore[type-arg]
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.depth >= _DEEPEST:
            mark = self.peek_event().start_mark
            raise _TooDeep(problem="is nested too deeply", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)  # type: ignore[arg-type]
        finally:
            self.depth -= 1


for _tag, _pattern in (("null", _NULL), ("bool", _BOOLEAN), ("int", _INTEGER), ("float", _FLOAT)):
    _Loader.add_implicit_resolver(_PREFIX + _tag, re.compile(f"(?:{_pattern.pattern})\\Z", re.ASCII), None)


def read_yaml(data: bytes, name: str, report: Report) -> MapNode | None:
    """The top-level mapping of a YAML document; None when the file says nothing.

    What is wrong goes to ``report``, with ``name`` and a line; nothing is raised for any input. After a problem the
    result holds what could be understood.
    """
    if len(data) > LARGEST_FILE:
        report.problem(name, "", f"is larger than {LARGEST_FILE} bytes and so no configuration file")
        return None
    text = _decode(data, name, report)
    if text is None:
        return None
    loader = None
    try:
        loader = _Loader(text)
        document = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        report.problem(f"{name}:{line}", "", f"the character {character} is not allowed in YAML")
        return None
    except yaml.MarkedYAMLError as error:
        report.problem(*_syntax_problem(error, text, name))
        return None
    except (ValueError, OverflowError, RecursionError):  # an escape beyond Unicode, for instance
        line = loader.line + 1 if loader is not None else 1
        report.problem(f"{name}:{line}", "", "is not valid YAML: what stands here cannot be understood")
        return None
    finally:
        if loader is not None:
            loader.dispose()
    if document is None:
        return None
    node = _Converter(name, report).convert(document)
    if isinstance(node, MapNode):
        return node
    if not (isinstance(node, ScalarNode) and (node.broken or node.value is None)):
        what = "a list" if isinstance(node, ListNode) else "one value"
        report.problem(f"{name}:{document.start_mark.line + 1}", "",
                       f"the file holds {what}; allowed sections with keys and values")
    return None


def _decode(data: bytes, name: str, report: Report) -> str | None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        report.problem(f"{name}:1", "", "the file is UTF-16; save it as UTF-8")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = f"0x{error.object[error.start]:02X}"
        report.problem(f"{name}:{line}", "", f"the byte {byte} is not UTF-8; save the file as UTF-8")
        return None
    return text.replace("\r\n", "\n")


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, name: str) -> tuple[str, str, str]:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 1
    what = error.problem or error.context or "cannot be parsed"
    if isinstance(error, _TooDeep):
        return f"{name}:{line}", "", what
    if "expected a single document" in (error.context or ""):
        return f"{name}:{line}", "", "the file holds more than one document; allowed one (remove the line ---)"
    lines = text.split("\n")
    if "\\t" in what or any("\t" in row[: len(row) - len(row.lstrip())] for row in lines[max(line - 2, 0):line]):
        return f"{name}:{line}", "", "is not valid YAML: a tab where blanks are needed; indent with spaces"
    return f"{name}:{line}", "", f"is not valid YAML: {what}"


class _Converter:
    """From PyYAML's nodes to ours; a node that is reached by several aliases is converted once."""

    def __init__(self, name: str, report: Report) -> None:
        self._name = name
        self._report = report
        self._done: dict[int, Node] = {}
        self._open: set[int] = set()

    def convert(self, node: yaml.Node, path: str = "") -> Node:
        known = self._done.get(id(node))
        if known is not None:
            return known
        line = node.start_mark.line + 1
        if id(node) in self._open:
            self._report.problem(f"{self._name}:{line}", path, "an alias stands inside of what it refers to")
            return ScalarNode(None, "", line, broken=True)
        self._open.add(id(node))
        try:
            result = self._converted(node, path, line)
        finally:
            self._open.discard(id(node))
        self._done[id(node)] = result
        return result

    def _converted(self, node: yaml.Node, path: str, line: int) -> Node:
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return MapNode(tuple(self._entries(node, path)), line)
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            return ListNode(tuple(self.convert(item, f"{path}[{n}]") for n, item in enumerate(node.value)), line)
        if isinstance(node, yaml.ScalarNode):
            try:
                return ScalarNode(_scalar(node.tag, node.value), node.value, line)
            except ValueError as error:
                self._report.problem(f"{self._name}:{line}", path, f"value {quoted(node.value)} {error}")
        else:
            self._report.problem(f"{self._name}:{line}", path, f"the tag {quoted(node.tag)} is not allowed; remove it")
        return ScalarNode(None, "", line, broken=True)

    def _entries(self, node: yaml.MappingNode, path: str) -> Iterator[Entry]:
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            origin = f"{self._name}:{line}"
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value or _SURROGATE.search(key_node.value):
                self._report.problem(origin, path, "a key is not a name; allowed one word before the colon")
                continue
            key = key_node.value
            below = f"{path}.{key}" if path else key
            if key == "<<" and key_node.style is None:
                self._report.problem(origin, path, "merge keys (<<) are not allowed; write the keys out")
            elif key in lines:
                self._report.problem(origin, below, f"the key is given twice, first in line {lines[key]}; remove one")
            else:
                lines[key] = line
                yield Entry(key, line, self.convert(value_node, below))


def _scalar(tag: str, text: str) -> None | bool | int | float | str:
    if _SURROGATE.search(text):
        raise ValueError("contains half a character (a surrogate)")
    if tag == _PREFIX + "str":
        return text
    if tag == _PREFIX + "null":
        return None
    if tag == _PREFIX + "bool" and _BOOLEAN.fullmatch(text):
        return text.lower() == "true"
    if tag == _PREFIX + "int" and _INTEGER.fullmatch(text):
        if len(text) > 30:
            return -_MANY if text.startswith("-") else _MANY
        return int(text, 0) if text[1:2] in ("x", "o") else int(text)
    if tag == _PREFIX + "float" and (_FLOAT.fullmatch(text) or _INTEGER.fullmatch(text)):
        word = text.lower()
        return float(word.replace(".inf", "inf").replace(".nan", "nan")) if "n" in word else float(text)
    raise ValueError(f"has a tag that does not fit ({tag.removeprefix(_PREFIX)}); remove the tag")
