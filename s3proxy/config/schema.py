"""How the classes of the model declare their keys, and how others find them."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from s3proxy.config.kinds import REJECTED, Kind, Source
from s3proxy.config.problems import quoted
from s3proxy.config.yaml_source import MapNode

__all__ = ["Key", "keys", "nearest", "read_entry", "section", "sections", "setting", "unknown_key", "value_of"]

_KIND = "s3proxy.kind"
_SECTION = "s3proxy.section"


@attrs.frozen
class Key:
    """One key of the configuration. :ivar path: dotted; :ivar default: as the model holds it"""

    path: str
    kind: Kind
    default: Any


def _validate(instance: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    kind: Kind = attribute.metadata[_KIND]
    fault = kind.fault(value)
    if fault is not None:
        shown = "(hidden)" if kind.hides else repr(value)
        raise ValueError(f"{type(instance).__name__}.{attribute.name}: value {shown} {fault}; allowed {kind.allowed}")


def setting(kind: Kind, default: Any = attrs.NOTHING) -> Any:
    """A key: a field that converts and checks what it is given as its kind says.

    :param default: as the kind converts it; a text for a duration
    """
    if isinstance(default, str) and default:
        default = kind.accept(default)
    if default is not attrs.NOTHING:
        default = kind.convert(default)
    return attrs.field(
        default=default, converter=kind.convert, validator=_validate, metadata={_KIND: kind}, repr=not kind.hides,
    )


def section(cls: type) -> Any:
    """A section below a section, with its own defaults."""
    return attrs.field(factory=cls, validator=attrs.validators.instance_of(cls), metadata={_SECTION: cls})


def keys(cls: type, prefix: str = "") -> Iterator[Key]:
    """All keys of a section and of the sections below it, in the order of the model."""
    for field in attrs.fields(cls):
        path = f"{prefix}{field.name}"
        if _SECTION in field.metadata:
            yield from keys(field.metadata[_SECTION], f"{path}.")
        else:
            yield Key(path, field.metadata[_KIND], field.default)


def value_of(config: object, path: str) -> Any:
    """The value of a key, by its dotted path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def sections(cls: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The sections below a section, parents first: dotted path and class."""
    for field in attrs.fields(cls):
        if _SECTION in field.metadata:
            path = f"{prefix}{field.name}"
            yield path, field.metadata[_SECTION]
            yield from sections(field.metadata[_SECTION], f"{path}.")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    found = difflib.get_close_matches(word.lower()[:60], list(known), n=1, cutoff=0.75)
    return found[0] if found else None


def unknown_key(path: str, known: Iterable[str]) -> str:
    """What to say about a key that nobody knows.

    :param path: its dotted path
    :param known: dotted paths of all that exist; those in the same section are preferred
    """
    parent, _, name = path.rpartition(".")
    leaves: dict[str, list[str]] = {}
    siblings = []
    for candidate in known:
        above, _, leaf = candidate.rpartition(".")
        leaves.setdefault(leaf, []).append(candidate)
        if above == parent:
            siblings.append(leaf)
    here = nearest(name, siblings)
    elsewhere = nearest(name, leaves)
    if here is not None:
        hint = f"; did you mean {parent}.{here}?" if parent else f"; did you mean {here}?"
    elif elsewhere is not None:
        hint = f"; did you mean {leaves[elsewhere][0]}?"
    else:
        hint = ""
    return f"unknown key, ignored{hint}"


def read_entry(cls: type, node: MapNode, path: str, source: Source) -> object:
    """An instance of a class of settings from one mapping; REJECTED, and problems reported, when it cannot be made."""
    fields = {field.name: field for field in attrs.fields(cls)}
    values: dict[str, object] = {}
    rejected = False
    for entry in node.entries:
        below = f"{path}.{entry.key}"
        field = fields.get(entry.key)
        if field is None:
            source.warn(entry.line, below, unknown_key(below, [f"{path}.{name}" for name in fields]))
            continue
        kind: Kind = field.metadata[_KIND]
        value = kind.read(entry.node, below, source)
        fault = None if value is REJECTED else kind.fault(value)
        if fault is not None:
            source.problem(entry.line, below, f"value {quoted(str(value))} {fault}; allowed {kind.allowed}")
        if value is REJECTED or fault is not None:
            rejected = True
        else:
            values[entry.key] = value
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in values and not rejected:
            kind = field.metadata[_KIND]
            source.problem(node.line, f"{path}.{name}", f"the value is missing; allowed {kind.allowed}")
            rejected = True
    return REJECTED if rejected else cls(**values)


@attrs.frozen
class Given:
    """A value that somebody gave for a key. :ivar shown: as written; :ivar origin: where; see :class:`Problem`"""

    value: Any
    shown: str
    origin: str
