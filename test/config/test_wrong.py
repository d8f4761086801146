"""Wrong configurations, one per rule: each is answered with exactly the lines that wrong_configurations.txt says."""

import re
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.load import ConfigError, load_config

TABLE = Path(__file__).with_name("wrong_configurations.txt")


def rows() -> dict[str, tuple[str, list[str]]]:
    """Name of each row, to the file and the expected lines."""
    found: dict[str, tuple[str, list[str]]] = {}
    for part in re.split(r"^== ", TABLE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        lines = body.rstrip("\n").split("\n")
        problems = [line[3:] for line in lines if line.startswith("-> ")]
        assert name not in found, name
        found[name] = "".join(f"{line}\n" for line in lines if not line.startswith("-> ")), problems
    return found


class WrongConfigurations(SynchronousTestCase):
    """One method per row of the table."""


def _method(text: str, expected: list[str]) -> Callable[[WrongConfigurations], None]:
    def test(self: WrongConfigurations) -> None:
        path = self.mktemp()
        Path(path).write_text(text, "utf-8")
        error = self.assertRaises(ConfigError, load_config, path, environ={}, options={})
        self.assertEqual(str(error).split("\n"), [f"{path}:{line}" for line in expected])
        self.assertTrue(expected)

    return test


for _name, (_text, _expected) in rows().items():
    _test = _method(_text, _expected)
    _test.__name__ = f"test_{_name}"
    _test.__doc__ = f"{_name.replace('_', ' ')}: every problem is told in one line that names key, value and limit."
    setattr(WrongConfigurations, _test.__name__, _test)


class Table(SynchronousTestCase):
    """The table itself."""

    def test_every_numbered_rule(self) -> None:
        """Each of the 37 rules that end a start has a row."""
        numbers = {int(match.group(1)) for name in rows() if (match := re.match(r"rule_(\d+)", name))}
        self.assertEqual(numbers, set(range(1, 38)))
