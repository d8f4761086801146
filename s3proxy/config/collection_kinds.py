"""Kinds of keys that hold lists and mappings. ``null``, and nothing at all after the colon, is an empty collection."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import attrs

from s3proxy.config.kinds import REJECTED, Kind, Source, mismatch
from s3proxy.config.problems import quoted
from s3proxy.config.yaml_source import Entry, ListNode, MapNode, Node, ScalarNode

__all__ = ["EntryMap", "ListMap", "Listing", "TextMap", "frozen"]

Check = Callable[[str], "str | None"]


def frozen(items: Mapping[str, object]) -> Mapping[str, object]:
    """A mapping nobody can change."""
    return MappingProxyType(dict(items))


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and (node.value is None or node.broken)


@attrs.frozen
class Listing(Kind):
    """A list of texts; a tuple in the model.

    :ivar check: brings an item to its usual spelling, or rejects it with None
    :ivar item: what an item may be
    :ivar skip: an item that is rejected is left out with a warning, and is no problem
    :ivar needed: a list of which nothing is left is a problem
    """

    check: Check
    item: str
    skip: bool = False
    needed: bool = False

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        return f"a list, each item {self.item}"

    def read(self, node: Node, path: str, source: Source) -> object:
        if _is_null(node):
            return ()
        if not isinstance(node, ListNode):
            source.problem(node.line, path, f"{mismatch(node)}; allowed {self.allowed}")
            return REJECTED
        items: list[str] = []
        rejected = False
        for number, item_node in enumerate(node.items):
            item = self._item(item_node, f"{path}[{number}]", source)
            if item is None:
                rejected = True
            elif item in items:
                source.warn(item_node.line, f"{path}[{number}]", f"value {quoted(item)} is listed twice")
            else:
                items.append(item)
        if self.needed and rejected and not items:
            source.problem(node.line, path, f"no item of the list is of use; allowed {self.allowed}")
        return REJECTED if rejected and not self.skip else tuple(items)

    def _item(self, node: Node, path: str, source: Source) -> str | None:
        if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
            if not (isinstance(node, ScalarNode) and node.broken):
                source.problem(node.line, path, f"{mismatch(node)}; allowed {self.item}, written in quotes")
            return None
        item = self.check(node.value)
        if item is None and self.skip:
            source.warn(node.line, path, f"value {node.shown} is not {self.item}; left out")
        elif item is None:
            source.problem(node.line, path, f"value {node.shown} is not {self.item}")
        return item

    def convert(self, value: object) -> object:
        if isinstance(value, (list, tuple)):
            return tuple((self.check(item) or item) if isinstance(item, str) else item for item in value)
        return value

    def fault(self, value: object) -> str | None:
        if not isinstance(value, tuple):
            return "is not a list"
        bad = [item for item in value if not isinstance(item, str) or self.check(item) is None]
        return f"has an item that is not {self.item}" if bad else None

    def show(self, value: object) -> str:
        assert isinstance(value, tuple)
        return "[" + ", ".join(quoted(str(item), 1000) for item in value) + "]"


class _Map(Kind):
    """What mappings have in common."""

    hides = False

    def _entries(self, node: Node, path: str, source: Source) -> Iterator[Entry]:
        if isinstance(node, MapNode):
            yield from node.entries
        elif not _is_null(node):
            source.problem(node.line, path, f"{mismatch(node)}; allowed {self.allowed}")

    def convert(self, value: object) -> object:
        return frozen(value) if isinstance(value, Mapping) else value

    def fault(self, value: object) -> str | None:
        if not isinstance(value, Mapping):
            return "is not a mapping"
        for key, item in value.items():
            fault = self._entry_fault(key, item) if isinstance(key, str) else "is not text"
            if fault is not None:
                return f"has the entry {quoted(str(key))}, which {fault}"
        return None

    def _entry_fault(self, key: str, item: object) -> str | None:
        raise TypeError(type(self))

    def show(self, value: object) -> str:
        assert isinstance(value, Mapping)
        if not value or self.hides:
            return "{}" if not value else "(hidden)"
        return "{" + ", ".join(f"{quoted(key, 1000)}: {self._show_item(item)}" for key, item in value.items()) + "}"

    def _show_item(self, item: object) -> str:
        return quoted(str(item), 1000)


@attrs.frozen
class ListMap(_Map):
    """A mapping from names to lists of texts.

    :ivar check_key: brings a name to its usual spelling; an entry whose name it rejects is left out with a warning
    :ivar key: what a name may be
    :ivar values: the kind of its lists
    :ivar keep_empty: an entry whose list has nothing left stays
    """

    check_key: Check
    key: str
    values: Listing
    keep_empty: bool = False

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        return f"a mapping from {self.key} to {self.values.allowed}"

    def read(self, node: Node, path: str, source: Source) -> object:
        result: dict[str, object] = {}
        for entry in self._entries(node, path, source):
            below = f'{path}."{entry.key}"'
            name = self.check_key(entry.key)
            items = self.values.read(entry.node, below, source)
            if name is None:
                source.warn(entry.line, below, f"the name is not {self.key}; the entry is left out")
            elif items is REJECTED:
                continue
            elif name in result:
                source.problem(entry.line, below, f"the name is given twice, also as {quoted(name)}; remove one")
            elif not items and not self.keep_empty:
                source.warn(entry.line, below, "no item of the list is of use; the entry is left out")
            else:
                result[name] = items
        return frozen(result)

    def convert(self, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return frozen({self.check_key(key) or key: self.values.convert(items) for key, items in value.items()})

    def _entry_fault(self, key: str, item: object) -> str | None:
        return f"is not {self.key}" if self.check_key(key) is None else self.values.fault(item)

    def _show_item(self, item: object) -> str:
        return self.values.show(item)


@attrs.frozen
class TextMap(_Map):
    """A mapping from names to texts. :ivar check_key: as in :class:`ListMap`, but a bad name is a problem"""

    check_key: Check
    key: str
    hides: bool = False

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        return f"a mapping from {self.key} to text"

    def read(self, node: Node, path: str, source: Source) -> object:
        result: dict[str, object] = {}
        for entry in self._entries(node, path, source):
            below = f'{path}."{entry.key}"'
            if self.check_key(entry.key) is None:
                source.problem(entry.line, below, f"the name is not {self.key}")
            elif isinstance(entry.node, ScalarNode) and isinstance(entry.node.value, str):
                if any(c in entry.node.value for c in "\r\n\0"):
                    source.problem(entry.line, below, "the value spans lines; allowed one line of text")
                result[entry.key] = entry.node.value
            elif not (isinstance(entry.node, ScalarNode) and entry.node.broken):
                source.problem(entry.line, below, "the value is not text; allowed text, written in quotes")
        return frozen(result)

    def _entry_fault(self, key: str, item: object) -> str | None:
        if self.check_key(key) is None:
            return f"is not {self.key}"
        return None if isinstance(item, str) else "is not text"


@attrs.frozen
class EntryMap(_Map):
    """A mapping from names to sections of their own.

    :ivar check_key: as in :class:`ListMap`
    :ivar read_entry: makes an entry of a node, or REJECTED
    :ivar entry: the class of the entries
    """

    check_key: Check
    key: str
    read_entry: Callable[[MapNode, str, Source], object]
    entry: type

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        return f"a mapping from {self.key} to a section"

    def read(self, node: Node, path: str, source: Source) -> object:
        result: dict[str, object] = {}
        for entry in self._entries(node, path, source):
            below = f'{path}."{entry.key}"'
            name = self.check_key(entry.key)
            if name is None:
                source.warn(entry.line, below, f"the name is not {self.key}; the entry is left out")
                continue
            if not isinstance(entry.node, MapNode):
                if not (isinstance(entry.node, ScalarNode) and entry.node.broken):
                    text = f"{mismatch(entry.node)}; allowed a section with keys and values"
                    source.problem(entry.node.line, below, text)
                continue
            value = self.read_entry(entry.node, below, source)
            if name in result:
                source.problem(entry.line, below, f"the name is given twice, also as {quoted(name)}; remove one")
            elif value is not REJECTED:
                result[name] = value
        return frozen(result)

    def convert(self, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return frozen({self.check_key(key) or key: item for key, item in value.items()})

    def _entry_fault(self, key: str, item: object) -> str | None:
        if self.check_key(key) is None:
            return f"is not {self.key}"
        return None if isinstance(item, self.entry) else f"is no {self.entry.__name__}"

    def _show_item(self, item: object) -> str:
        return str(item)
