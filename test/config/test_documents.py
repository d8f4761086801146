"""The model, etc/s3proxy.example.yaml, etc/quickstart.yaml and doc/configuration.md say the same."""

import html
import re
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.command_line import FLAGS, VALUES
from s3proxy.config.environment import VARIABLES
from s3proxy.config.features import DEPRECATED, RETIRED, feature_of, is_not_needed
from s3proxy.config.load import load_config
from s3proxy.config.model import Config, UpstreamOverride
from s3proxy.config.schema import Key, keys

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "etc" / "s3proxy.example.yaml"
QUICKSTART = ROOT / "etc" / "quickstart.yaml"
REFERENCE = ROOT / "doc" / "configuration.md"

KEYS: dict[str, Key] = {key.path: key for key in keys(Config)}

#: Where the example differs from the defaults on purpose.
DIFFERENT = {
    "cache.cache_dir": "./tmp/cache",
    "cache.max_cache_size": "524288000",
    "logging.access_log_dir": "./tmp/logs/access",
    "logging.app_log_dir": "./tmp/logs/app",
}
#: What the example shows as a comment only, besides deprecated keys.
COMMENTED = {"dashboard.port"}


def reference() -> dict[str, list[str]]:
    """The tables of the reference: key to its other cells."""
    rows = {}
    for line in REFERENCE.read_text("utf-8").split("\n"):
        match = re.match(r"\| `([a-z_.]+\.[a-z_.]+)` \| (.*) \|$", line)
        if match:
            rows[match.group(1)] = [html.unescape(cell.strip()) for cell in match.group(2).split(" | ")]
    return rows


def example() -> list[tuple[str, bool, str, str]]:
    """The keys of the example in order: dotted path, whether it is a comment, value, and the text above it."""
    found = []
    above: list[str] = []
    text = ""
    for line in EXAMPLE.read_text("utf-8").split("\n"):
        match = re.match(r"( *)(#?)([a-z_]+):(?: (.*))?$", line)
        if match is None:
            text = f"{text} {line.strip().removeprefix('#').strip()}" if line.strip().startswith("#") else ""
            continue
        indent, comment, name, value = match.groups()
        above[len(indent) // 2:] = [name]
        if value is not None:
            found.append((".".join(above), bool(comment), value, text))
        text = ""
    return found


class Reference(SynchronousTestCase):
    """doc/configuration.md"""

    def test_keys(self) -> None:
        """It has exactly the keys of the model, in the same order."""
        self.assertEqual(list(reference()), list(KEYS))

    def test_cells(self) -> None:
        """Defaults, bounds, variables and options are the real ones."""
        variables = {path: f"`{name}`" for name, path in VARIABLES.items()}
        for path, (default, allowed, variable, option, meaning) in reference().items():
            options = [f"`--{name}`" for name, each, *_ in (*VALUES, *FLAGS) if each == path]
            with self.subTest(key=path):
                self.assertEqual(default, f"`{KEYS[path].kind.show(KEYS[path].default)}`")
                self.assertEqual(allowed, KEYS[path].kind.allowed)
                self.assertEqual(variable, variables.get(path, ""))
                self.assertEqual(option, ", ".join(options))
                self.assertGreater(len(meaning), 10)

    def test_marks(self) -> None:
        """Keys without effect are marked as such, and no others are."""
        for path, cells in reference().items():
            mark = re.match(r"\*\*(.*?)\.\*\* ", cells[-1])
            if path in DEPRECATED:
                expected = "Deprecated"
            elif is_not_needed(path):
                expected = "Accepted, not needed here"
            else:
                expected = "No effect yet" if feature_of(path) else ""
            with self.subTest(key=path):
                self.assertEqual(mark.group(1) if mark else "", expected)

    def test_entries_and_retired_keys(self) -> None:
        """The keys of upstream overrides and the keys of the past are there."""
        text = REFERENCE.read_text("utf-8")
        for field in attrs.fields(UpstreamOverride):
            self.assertIn(f"| `{field.name}` |", text)
        for path in RETIRED:
            self.assertIn(f"`{path}`", text)

    def test_anchors(self) -> None:
        """Headings that others refer to."""
        text = REFERENCE.read_text("utf-8")
        self.assertIn("### Multi-instance coordination\n", text)
        self.assertIn("### S3 PrivateLink (interface VPC endpoints)\n", text)

    def test_messages(self) -> None:
        """The messages that it shows are real."""
        text = REFERENCE.read_text("utf-8")
        wrong = (Path(__file__).with_name("wrong_configurations.txt")).read_text("utf-8")
        shown = re.findall(r"^/etc/s3proxy.yaml:\d+: (.*)$", text, re.MULTILINE)
        self.assertEqual(len(shown), 2)
        for message in shown:
            self.assertIn(f": {message}\n", wrong)


class Example(SynchronousTestCase):
    """etc/s3proxy.example.yaml"""

    def test_keys(self) -> None:
        """It has exactly the keys of the model, in the same order; deprecated ones as comments."""
        self.assertEqual([path for path, *_ in example()], list(KEYS))
        self.assertEqual({path for path, comment, *_ in example() if comment}, {*DEPRECATED, *COMMENTED})

    def test_values(self) -> None:
        """Values are the defaults, but for a few."""
        for path, _, value, _ in example():
            with self.subTest(key=path):
                self.assertEqual(value, DIFFERENT.get(path, KEYS[path].kind.show(KEYS[path].default)))

    def test_explanations(self) -> None:
        """Above each key stands what it does, and its default."""
        for path, _, _, text in example():
            with self.subTest(key=path):
                self.assertRegex(text, r"\w{3}.*\.( For example: .*| .*)? ?\[default: .*\]$")
                self.assertTrue(text.endswith(f"[default: {KEYS[path].kind.show(KEYS[path].default)}]"))

    def test_loads(self) -> None:
        """It loads without a word, and as what it says."""
        loaded = load_config(str(EXAMPLE), environ={}, options={})
        self.assertEqual(loaded.notices, ())
        given = {path for path, comment, *_ in example() if not comment}
        self.assertEqual(set(loaded.origins), given)
        self.assertEqual(loaded.config.cache.max_cache_size, 524288000)
        self.assertEqual((loaded.config.server.http_port, loaded.config.server.https_port), (80, 443))

    def test_other_ports(self) -> None:
        """8081 may be taken from the dashboard in it: the dashboard gives way."""
        path = self.mktemp()
        text = EXAMPLE.read_text("utf-8").replace("http_port: 80\n", "http_port: 8081\n")
        Path(path).write_text(text.replace("https_port: 443\n", "https_port: 8443\n"), "utf-8")
        config = load_config(path, environ={}, options={}).config
        self.assertEqual((config.server.http_port, config.dashboard.port), (8081, 8082))


class Quickstart(SynchronousTestCase):
    """etc/quickstart.yaml"""

    def test_loads(self) -> None:
        """It loads without a word and needs no root: loopback, high ports, everything below ./tmp."""
        loaded = load_config(str(QUICKSTART), environ={}, options={})
        config = loaded.config
        self.assertEqual(loaded.notices, ())
        self.assertEqual((config.server.mode, config.server.proxy_port), ("proxy_only", 3128))
        self.assertEqual(config.server.bind_addresses, ("127.0.0.1",))
        for side in (config.health, config.metrics, config.dashboard):
            self.assertEqual(side.bind_address, "127.0.0.1")
            self.assertGreaterEqual(side.port, 1024)
        here = str(Path.cwd())
        self.assertEqual(config.cache.cache_dir, f"{here}/tmp/cache")
        self.assertEqual(config.logging.access_log_dir, f"{here}/tmp/logs/access")
        self.assertEqual(config.logging.app_log_dir, f"{here}/tmp/logs/app")
