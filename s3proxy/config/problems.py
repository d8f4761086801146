"""What loading a configuration has to say: problems that end it, notices that are logged once logging is up."""

import json

import attrs

__all__ = ["ConfigError", "Notice", "Problem", "Report", "quoted"]


_LONGEST_PATH = 400


def quoted(text: str, limit: int = 60) -> str:
    """The text in double quotes, on one line, shortened to about ``limit`` characters."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    rendered = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in rendered)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@attrs.frozen
class Problem:
    """One thing that is wrong with the configuration; ``str()`` gives its one line.

    :ivar origin: where it was said: ``FILE:LINE``, ``environment variable NAME``, ``option --name``
    :ivar path: dotted path of the key; empty when the source as a whole is meant
    :ivar text: what is wrong and what is allowed
    """

    origin: str
    path: str
    text: str

    def __str__(self) -> str:
        path = self.path if len(self.path) <= _LONGEST_PATH else self.path[:_LONGEST_PATH - 1] + "…"
        return _one_line(": ".join(part for part in (self.origin, path, self.text) if part))


@attrs.frozen
class Notice:
    """Something to log when logging is up. :ivar level: ``warn`` or ``info``"""

    level: str
    text: str


class ConfigError(Exception):
    """The configuration cannot be used. :ivar problems: everything that is wrong with it"""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@attrs.define
class Report:
    """Collects problems and notices while a configuration is read."""

    problems: list[Problem] = attrs.Factory(list)
    notices: list[Notice] = attrs.Factory(list)

    def problem(self, origin: str, path: str, text: str) -> None:
        """Remember a problem; saying the same twice is saying it once."""
        problem = Problem(origin, path, text)
        if problem not in self.problems:
            self.problems.append(problem)

    def warn(self, origin: str, path: str, text: str) -> None:
        """Remember a warning about a key."""
        self.notices.append(Notice("warn", str(Problem(origin, path, text))))

    def info(self, text: str) -> None:
        """Remember a remark."""
        self.notices.append(Notice("info", _one_line(text)))

    def failed(self, path: str) -> bool:
        """Whether a problem was found in this key or in a part of it."""
        return any(
            problem.path == path or problem.path.startswith((f"{path}.", f"{path}[")) for problem in self.problems
        )
