"""Values of the configuration that stand in files: ``file:`` and a path, instead of a secret."""

import os
from pathlib import Path
from typing import Final

__all__ = ["absolute", "file_of", "resolved"]

_PREFIX: Final = "file:"


def file_of(value: str) -> str | None:
    """The path that this value names; None: it is a value itself."""
    return value.removeprefix(_PREFIX) if value.startswith(_PREFIX) else None


def absolute(value: str) -> str:
    """The same value, independent of the current directory."""
    name = file_of(value)
    return _PREFIX + os.path.abspath(name) if name else value


def resolved(value: str) -> str:
    """What it stands for: of a file, its text without white space around it.

    :raises OSError: the file can't be read
    :raises UnicodeDecodeError: it is not UTF-8
    """
    name = file_of(value)
    return value if name is None else Path(name).read_text("utf-8").strip()
