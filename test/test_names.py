"""What must not stand in the sources: a reactor at import time, and traces of the machine they were written on."""

import ast
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import s3proxy

CHECKOUT = Path(s3proxy.__file__).parents[1]
SOURCES = sorted((CHECKOUT / "s3proxy").rglob("*.py"))
GENERATED = {".git", ".hypothesis", ".mypy_cache", ".tox", ".venv", "__pycache__", "_build", "build", "dist", "tmp"}
TEXTS = {"", ".cfg", ".in", ".ini", ".json", ".jsonl", ".lua", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}

_STATEMENTS_OF_IMPORT_TIME = (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.ClassDef)


def statements_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when the module is imported; those of functions do not."""
    for statement in body:
        yield statement
        if isinstance(statement, _STATEMENTS_OF_IMPORT_TIME):
            for name in ("body", "orelse", "finalbody"):
                yield from statements_at_import(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from statements_at_import(handler.body)


def reactor_imports(source: str) -> list[int]:
    """Lines that import the global reactor at import time. What only a type checker reads does not count."""
    found = []
    for statement in statements_at_import(ast.parse(source).body):
        if isinstance(statement, ast.ImportFrom) and statement.module == "twisted.internet":
            found += [statement.lineno for alias in statement.names if alias.name == "reactor"]
        elif isinstance(statement, ast.Import):
            found += [statement.lineno for alias in statement.names if alias.name == "twisted.internet.reactor"]
        elif isinstance(statement, ast.ImportFrom) and statement.module == "twisted.internet.reactor":
            found.append(statement.lineno)
    return found


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the checkout that is not generated."""
    for parent, folders, names in os.walk(CHECKOUT):
        folders[:] = [name for name in folders if name not in GENERATED and not name.startswith("_trial_temp")
                      and not name.endswith(".egg-info")]
        for name in names:
            path = Path(parent, name)
            if path.suffix in TEXTS and path.is_file():
                yield path.relative_to(CHECKOUT), path.read_text(encoding="utf-8", errors="backslashreplace")


def places() -> set[str]:
    """Directories of this machine that no file has a reason to name: the checkout, the interpreter, the user's home."""
    candidates = {CHECKOUT, CHECKOUT.parent, Path(sys.prefix), Path(sys.prefix).parent, Path.home()}
    common = {Path(name) for name in ("/usr/local", "/usr/src", "/var/lib", "/var/cache", "/var/log", "/tmp/s3proxy")}
    common.add(Path(sysconfig.get_config_var("prefix") or "/usr"))
    return {f"{path}/" for path in candidates - common if len(path.parts) > 2}


class NamesTests(SynchronousTestCase):
    def test_no_module_imports_the_reactor(self) -> None:
        """The reactor and the clock are arguments, so that tests can pass their own and twistd can choose."""
        found = {str(path): lines for path in SOURCES if (lines := reactor_imports(path.read_text()))}
        self.assertEqual(found, {})

    def test_a_reactor_import_is_found(self) -> None:
        """The check sees conditional imports and leaves those inside functions alone."""
        self.assertEqual(reactor_imports("try:\n    from twisted.internet import defer, reactor\nfinally:\n    x"), [2])
        self.assertEqual(reactor_imports("import twisted.internet.reactor"), [1])
        self.assertEqual(reactor_imports("def f():\n    from twisted.internet import reactor"), [])

    def test_the_plugin_and_its_options_install_no_reactor(self) -> None:
        """twistd reads both before it obeys --reactor."""
        program = (
            "import sys, twisted.plugins.s3proxy_plugin, s3proxy.tap; s3proxy.tap.Options().getUsage();"
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr or "the reactor was installed")

    def test_no_file_names_a_place_of_this_machine(self) -> None:
        """Paths in the repository are relative, or those of an ordinary installation."""
        forbidden = places()
        found = [f"{path}: {place}" for path, text in texts() for place in forbidden if place in text]
        self.assertEqual(found, [])
