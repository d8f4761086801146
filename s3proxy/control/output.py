"""Where answers go: tables for people, one JSON document for programs, progress for those who wait.

rich is imported when something is to be shown with it, and never for JSON.
"""

import json
from typing import Any, TextIO

from s3proxy.control.words import printable

__all__ = ["Output", "ProgressBar"]

_WIDE = 4000
"""Columns where nobody looks at a terminal: nothing is cut, and whoever reads it cuts it as he likes."""


class ProgressBar:
    """How far something is. Shown on a terminal only, and gone when it is over.

    :param stderr: where it is shown; None: nowhere
    """

    def __init__(self, stderr: TextIO | None) -> None:
        self._progress: Any = None
        self._task: Any = None
        self._what = ""
        if stderr is not None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                MofNCompleteColumn(),
                TextColumn("{task.fields[remark]}"),
                TimeElapsedColumn(),
                console=Console(file=stderr),
                transient=True,
            )

    def __enter__(self) -> "ProgressBar":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, what: str, done: float, total: float | None, remark: str = "") -> None:
        """It is that far. :param total: None, or 0: unknown"""
        if self._progress is None:
            return
        if self._task is None or what != self._what:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._what = what
            self._task = self._progress.add_task(what, total=total or None, remark=remark)
        self._progress.update(self._task, completed=done, total=total or None, remark=remark)


class Output:
    """What a command says.

    :param as_json: one JSON document on *stdout*, and nothing else
    """

    def __init__(self, stdout: TextIO, stderr: TextIO, *, as_json: bool = False) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self.as_json = as_json
        self._console: Any = None

    @property
    def console(self) -> Any:
        """rich's, for people."""
        if self._console is None:
            from rich.console import Console

            width = None if self._stdout.isatty() else _WIDE
            self._console = Console(file=self._stdout, width=width, highlight=False, soft_wrap=False)
        return self._console

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at what is shown."""
        return not self.as_json and self._stdout.isatty()

    def show(self, view: str, document: Any) -> None:
        """The document, as JSON or as :mod:`s3proxy.control.tables` shows it.

        :param view: the name of the function there
        """
        if self.as_json:
            self.write_json(document)
        else:
            from s3proxy.control import tables

            self.console.print(getattr(tables, view)(document))

    def write_json(self, document: Any) -> None:
        """The document, and a line feed."""
        json.dump(document, self._stdout, indent=2, ensure_ascii=True)
        self._stdout.write("\n")
        self._stdout.flush()

    def say(self, text: str) -> None:
        """A remark for people, beside the answer."""
        if not self.as_json:
            self._stderr.write(f"{_lines(text)}\n")
            self._stderr.flush()

    def fail(self, text: str, code: int) -> None:
        """Why there is no answer: for people, or as a JSON document with the exit code."""
        if self.as_json:
            self.write_json({"error": text, "code": code})
        else:
            self._stderr.write(f"s3proxyctl: {_lines(text)}\n")

    def progress(self) -> ProgressBar:
        """A bar for who waits."""
        shown = not self.as_json and self._stderr.isatty()
        return ProgressBar(self._stderr if shown else None)


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))
