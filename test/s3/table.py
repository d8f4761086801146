"""Table tests: one test method per row, so that a failure names its row."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

__all__ = ["add_rows"]


def add_rows(
    case: type[SynchronousTestCase], prefix: str, rows: Iterable[tuple[Any, ...]], check: Callable[..., None]
) -> None:
    """Give a test case one method per row.

    :param rows: what :param check: is called with, after the test case itself
    """
    for number, row in enumerate(rows, start=1):
        words = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(map(repr, row[:2])))[:60].strip("_")
        name = f"test_{prefix}_{number:03d}_{words}"

        def method(self: SynchronousTestCase, row: tuple[Any, ...] = row) -> None:
            check(self, *row)

        method.__name__ = name
        method.__qualname__ = f"{case.__qualname__}.{name}"
        method.__doc__ = f"{prefix}: {row!r}"
        setattr(case, name, method)
