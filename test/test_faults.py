"""Every line of doc/faults.md has a test, and no test names an id that is not there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import s3proxy

CHECKOUT = Path(s3proxy.__file__).parents[1]
LINE = re.compile(r"^\| ((?:DC|ST|RG|MP|SG|CN|X)-\d\d|V\d+) \|", re.MULTILINE)
ID = re.compile(r"\b(?:DC|ST|RG|MP|SG|CN|X)-\d\d\b|\bV\d{1,2}(?=[:,.]| with )")


def ids_of(tree: ast.Module) -> Iterator[str]:
    """The ids in the docstrings of tests, and of the tables of rows that become tests."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield from ID.findall(ast.get_docstring(node) or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "add_rows":
            prefix = node.args[1]
            if isinstance(prefix, ast.Constant) and re.fullmatch(r"V\d+(_bad)?", str(prefix.value)):
                yield str(prefix.value).partition("_")[0]


class FaultTests(SynchronousTestCase):
    """The table and the tests."""

    def setUp(self) -> None:
        text = (CHECKOUT / "doc" / "faults.md").read_text()
        self.lines = LINE.findall(text)
        self.named = {
            found: path
            for path in sorted((CHECKOUT / "test").rglob("test_*.py"))
            for found in ids_of(ast.parse(path.read_text()))
        }

    def test_table(self) -> None:
        """Every id is listed once."""
        self.assertGreater(len(self.lines), 120)
        self.assertEqual(len(self.lines), len(set(self.lines)))

    def test_every_line_has_a_test(self) -> None:
        """Nothing is only promised."""
        self.assertEqual([line for line in self.lines if line not in self.named], [])

    def test_every_id_is_explained(self) -> None:
        """Nobody has to guess what an id in a test means."""
        self.assertEqual({name: path for name, path in self.named.items() if name not in self.lines}, {})
