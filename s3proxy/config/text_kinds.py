"""Kinds of keys that hold one text."""

import re
from collections.abc import Callable

import attrs

from s3proxy.config.kinds import Kind
from s3proxy.config.yaml_source import Node, ScalarNode

__all__ = ["Checked", "Choice", "Path", "Pattern", "Text"]


@attrs.frozen
class Text(Kind):
    """Any text. :ivar empty: whether it may be empty"""

    allowed: str = "text"
    empty: bool = True

    def _types(self) -> tuple[type, ...]:
        return (str,)

    def _hint(self, node: Node) -> str:
        numeric = isinstance(node, ScalarNode) and node.value is not None
        return ", written in quotes" if numeric else ""

    def parse(self, text: str) -> object:
        if not text and not self.empty:
            raise ValueError("is empty")
        return text

    def fault(self, value: object) -> str | None:
        if not isinstance(value, str):
            return "is not text"
        if not self.empty and not value:
            return "is empty"
        return "contains a NUL" if "\0" in value else None

    def show(self, value: object) -> str:
        return f'"{value}"'


@attrs.frozen
class Path(Text):
    """The path of a file or directory; made absolute when a configuration is loaded.

    :ivar home: ``~/`` at the beginning, in a file, stands for ``$HOME``
    """

    allowed: str = "a path"
    empty: bool = False
    home: bool = False

    def show(self, value: object) -> str:
        return str(value) if value else '""'


@attrs.frozen
class Choice(Kind):
    """One of a few words. :ivar any_case: capitals mean the same"""

    words: tuple[str, ...]
    any_case: bool = False

    @property
    def allowed(self) -> str:  # type: ignore[override]
        """See :class:`Kind`."""
        return ", ".join(self.words[:-1]) + f" or {self.words[-1]}"

    def _types(self) -> tuple[type, ...]:
        return (str,)

    def accept(self, value: object) -> str:
        assert isinstance(value, str)
        word = value.lower() if self.any_case else value
        if word not in self.words:
            raise ValueError("is unknown")
        return word

    def parse(self, text: str) -> str:
        return self.accept(text)

    def fault(self, value: object) -> str | None:
        return None if value in self.words else "is unknown"


@attrs.frozen
class Checked(Kind):
    """Text that a function brings to its usual spelling, or rejects with None."""

    check: Callable[[str], str | None]
    allowed: str
    fault_words: str
    empty: bool = False
    hides: bool = False

    def _types(self) -> tuple[type, ...]:
        return (str,)

    def accept(self, value: object) -> str:
        assert isinstance(value, str)
        if not value:
            if self.empty:
                return ""
            raise ValueError("is empty")
        checked = self.check(value)
        if checked is None:
            raise ValueError(self.fault_words)
        return checked

    def parse(self, text: str) -> str:
        return self.accept(text)

    def fault(self, value: object) -> str | None:
        if not isinstance(value, str):
            return "is not text"
        try:
            self.accept(value)
        except ValueError as error:
            return str(error)
        return None

    def show(self, value: object) -> str:
        return f'"{value}"' if not value or ":" in str(value) else str(value)


class Pattern(Kind):
    """A regular expression, or nothing."""

    allowed = "a regular expression or null"

    def _types(self) -> tuple[type, ...]:
        return (str,)

    def fault(self, value: object) -> str | None:
        if not isinstance(value, str):
            return "is not text"
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            return f"is not a regular expression ({error})"
        return None
