"""Packages import in one direction only.

    tap, worker -> services -> cluster
    tap, worker -> services -> cluster
                                              -> upstream
                    -> tunnel -> upstream
    control (another process) -> policy, config
    everybody -> s3, config.model, telemetry, util
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import s3proxy

PACKAGE = Path(s3proxy.__file__).parent
PLUGIN = PACKAGE.parent / "twisted" / "plugins" / "s3proxy_plugin.py"

FOUNDATIONS = ("s3", "config.model", "telemetry", "util")
READING = ("policy", "cache", "storage", "upstream")

#: Part of the program to what it may import besides itself; "a.b" allows that module and what is below it.
ARROWS: dict[str, tuple[str, ...]] = {
    "control": ("policy", "config", *FOUNDATIONS),
    "tap": ("services", "config", *FOUNDATIONS),
    "worker": ("services", "cluster", "config", *FOUNDATIONS),
    "services": ("cluster", "wire", "dashboard", "admin", "tunnel", "gateway", *READING, "config", *FOUNDATIONS),
    "cluster": FOUNDATIONS,
    "wire": ("gateway", *READING, *FOUNDATIONS),
    "dashboard": ("admin", "gateway", *READING, *FOUNDATIONS),
    "admin": ("gateway", *READING, *FOUNDATIONS),
    "gateway": (*READING, *FOUNDATIONS),
    "tunnel": ("upstream", *FOUNDATIONS),
    "policy": ("cache.entry", "cache.keys", *FOUNDATIONS),
    "cache": ("storage", *FOUNDATIONS),
    "storage": FOUNDATIONS,
    "upstream": FOUNDATIONS,
    "s3": ("util",),
    "config": ("util",),
    "telemetry": ("util",),
    "util": (),
}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name, without the leading ``s3proxy.``, of everything of ours that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "(a relative import)"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("s3proxy."):
                yield node.lineno, name.removeprefix("s3proxy.")


def part_of(path: Path) -> str:
    """The package, or top-level module, that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def violations(part: str, source: str) -> list[str]:
    """What a module of this part imports against the arrows, one line of text each."""
    allowed = (part, "__version__", *ARROWS[part])
    return [
        f"line {line}: {part} imports {name}"
        for line, name in imports(source)
        if not any(name == target or name.startswith(target + ".") for target in allowed)
    ]


class LayersTests(SynchronousTestCase):
    def test_every_part_has_its_arrows(self) -> None:
        """A new package or top-level module needs a place in the picture first."""
        parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
        self.assertEqual(parts - ARROWS.keys(), set())

    def test_the_arrows_form_no_cycle(self) -> None:
        """Whatever a part may import stands below it in the table."""
        order = list(ARROWS)
        for part, targets in ARROWS.items():
            for target in targets:
                if not (part in FOUNDATIONS or target in FOUNDATIONS or target == "config"):
                    self.assertLess(order.index(part), order.index(target.partition(".")[0]))

    def test_an_import_against_the_arrows_is_found(self) -> None:
        """The check sees all forms of imports, also inside functions."""
        self.assertEqual(len(violations("storage", "def f():\n    import s3proxy.cache.index")), 1)
        self.assertEqual(len(violations("storage", "from s3proxy import cache")), 1)
        self.assertEqual(len(violations("policy", "from s3proxy.cache.manager import CacheManager")), 1)
        self.assertEqual(len(violations("cache", "from s3proxy.config.load import load")), 1)
        self.assertEqual(violations("cache", "from s3proxy.storage.layout import Layout\nimport os"), [])

    def test_the_plugin_imports_nothing_of_ours(self) -> None:
        """twistd imports every plugin at every start, whatever it is asked to run."""
        self.assertEqual(list(imports(PLUGIN.read_text())), [])


def _add(path: Path) -> None:
    name = path.relative_to(PACKAGE).with_suffix("")

    def test(self: LayersTests) -> None:
        self.assertEqual(violations(part_of(path), path.read_text()), [])

    test.__doc__ = f"{name} imports along the arrows only."
    setattr(LayersTests, "test_module_" + "_".join(name.parts), test)


for _path in sorted(PACKAGE.rglob("*.py")):
    if _path != PACKAGE / "__init__.py":
        _add(_path)
