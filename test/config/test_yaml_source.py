"""Tests for :mod:`s3proxy.config.yaml_source`."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.problems import Report
from s3proxy.config.yaml_source import LARGEST_FILE, ListNode, MapNode, Node, ScalarNode, read_yaml


def plain(node: Node) -> object:
    """The node as Python's own values."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return {entry.key: plain(entry.node) for entry in node.entries}


class ReadYaml(SynchronousTestCase):
    """From bytes to nodes."""

    def read(self, data: bytes | str) -> tuple[MapNode | None, list[str]]:
        """The result, and the problems as text."""
        report = Report()
        node = read_yaml(data.encode() if isinstance(data, str) else data, "f", report)
        return node, [str(problem) for problem in report.problems]

    def values(self, text: str) -> object:
        """The values of a file without problems."""
        node, problems = self.read(text)
        self.assertEqual(problems, [])
        assert node is not None
        return plain(node)

    def test_core_schema(self) -> None:
        """Only the scalars of YAML 1.2's core schema have a type; what YAML 1.1 adds is text."""
        wanted: dict[str, object] = {
            "true": True, "False": False, "null": None, "~": None, "": None, "5": 5, "-5": -5, "+5": 5, "0": 0,
            "0x10": 16, "0o17": 15, "1.5": 1.5, ".5": 0.5, "1e3": 1000.0, "5.": 5.0, "-.inf": float("-inf"),
            "yes": "yes", "No": "No", "on": "on", "OFF": "OFF", "y": "y", "010": "010", "1_000": "1_000",
            "1:30": "1:30",
            "0b11": "0b11", "1.2.3": "1.2.3", "2024-01-01": "2024-01-01", "=": "=", "'5'": "5", '"true"': "true",
            "!!str 5": "5", "!!int 5": 5, "!!float 5": 5.0, "!!bool true": True,
        }
        text = "".join(f"k{number}: {scalar}\n" for number, scalar in enumerate(wanted))
        values = self.values(text)
        assert isinstance(values, dict)
        for value, (scalar, expected) in zip(values.values(), wanted.items()):
            with self.subTest(scalar=scalar):
                self.assertEqual((type(value), value), (type(expected), expected))

    def test_nan(self) -> None:
        """.nan is a number that is none."""
        values = self.values("a: .nan")
        assert isinstance(values, dict)
        self.assertNotEqual(values["a"], values["a"])

    def test_lines(self) -> None:
        """Keys and values know their lines."""
        node, _ = self.read("a:\n\n  b: 1\n  c:\n    - x\n    - y\n")
        assert node is not None and isinstance(node.entries[0].node, MapNode)
        b, c = node.entries[0].node.entries
        assert isinstance(c.node, ListNode)
        self.assertEqual((b.line, c.line, [item.line for item in c.node.items]), (3, 4, [5, 6]))

    def test_nothing(self) -> None:
        """An empty file, comments only, and null say nothing, without a problem."""
        for text in ("", "# only a comment\n", "---\n", "null\n", "\ufeff"):
            with self.subTest(text=text):
                self.assertEqual(self.read(text), (None, []))

    def test_byte_order_mark(self) -> None:
        """A UTF-8 mark at the beginning is skipped, lines may end in CR LF."""
        self.assertEqual(self.values("\ufeffa: 1\r\nb:\r\n  c: 2\r\n"), {"a": 1, "b": {"c": 2}})

    def test_utf_16(self) -> None:
        """UTF-16 is named, not guessed."""
        self.assertEqual(self.read("a: 1".encode("utf-16"))[1], ["f:1: the file is UTF-16; save it as UTF-8"])

    def test_bad_utf_8(self) -> None:
        """A byte that is not UTF-8 is reported with its line."""
        self.assertEqual(self.read(b"a: 1\nb: \xff\n")[1], ["f:2: the byte 0xFF is not UTF-8; save the file as UTF-8"])

    def test_control_character(self) -> None:
        """A control character is reported with its line."""
        self.assertEqual(self.read(b"a: 1\n\nb: \x00\n")[1], ["f:3: the character U+0000 is not allowed in YAML"])

    def test_aliases(self) -> None:
        """An alias is what it refers to."""
        self.assertEqual(self.values("a: &x [1, 2]\nb: *x\n"), {"a": [1, 2], "b": [1, 2]})

    def test_nest_of_aliases(self) -> None:
        """A nest of aliases that would expand to 10**30 items is read at once."""
        text = "a0: &a0 [x]\n" + "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 31))
        node, problems = self.read(text)
        self.assertEqual(problems, [])
        assert node is not None
        self.assertEqual(len(node.entries), 31)

    def test_nested_too_deeply(self) -> None:
        """Deep nesting is refused, however it is written, before it exhausts the stack."""
        for text in ("[" * 100000, "{a: " * 100000, "- " * 5000 + "x", "? " * 5000):
            _, problems = self.read(text)
            self.assertEqual(problems, ["f:1: is nested too deeply"])

    def test_large(self) -> None:
        """More than a megabyte is not parsed."""
        _, problems = self.read(b"#" * (LARGEST_FILE + 1))
        self.assertEqual(problems, ["f: is larger than 1048576 bytes and so no configuration file"])

    def test_broken_escape(self) -> None:
        """Escapes that make no character are problems like any other."""
        _, problems = self.read('a: 1\nb: "\\UFFFFFFFF"')
        self.assertEqual(problems, ["f:2: is not valid YAML: what stands here cannot be understood"])
        _, problems = self.read('a: "\\uD800"')
        self.assertEqual(problems, ['f:1: a: value "\\ud800" contains half a character (a surrogate)'])

    def test_shown(self) -> None:
        """Messages show values on one line and not at full length."""
        node, _ = self.read('a: "x\\ny"\nb: ' + "z" * 500 + "\nc: ~\nd: 1.50\n")
        assert node is not None
        shown = [entry.node.shown for entry in node.entries]
        self.assertEqual(shown, ['"x\\ny"', '"' + "z" * 59 + '…"', "~", "1.50"])
