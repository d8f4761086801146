"""Words, options and help of the command."""

import contextlib
import io

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control.command_line import parser
from s3proxy.control.commands import COMMANDS

WORDS = {
    "status": ["status"], "top": ["top"], "stats": ["stats"], "ls": ["ls"], "inspect": ["inspect", "b/k"],
    "purge": ["purge", "b/k"], "verify": ["verify"], "warm": ["warm", "-"], "rules_check": ["rules", "check"],
    "rules_explain": ["rules", "explain", "b/k"], "config_check": ["config", "check"], "drain": ["drain"],
    "roll": ["roll"],
}  # fmt: skip


def ended(*words: str) -> tuple[object, str, str]:
    """Exit code, output and errors of a command line that ends at once."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            parser().parse_args(list(words))
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()
    raise AssertionError("it went on")


class WordsTests(SynchronousTestCase):
    def test_every_command(self) -> None:
        """The words of each command lead to its function, and there is no function without words."""
        self.assertEqual(set(WORDS), set(COMMANDS))
        for name, words in WORDS.items():
            self.assertEqual(parser().parse_args(words).command, name)

    def test_common_options(self) -> None:
        """They may stand on both sides of the command."""
        for words in (["--json", "--socket", "/x", "status"], ["status", "--json", "--socket", "/x"]):
            given = parser().parse_args(words)
            self.assertEqual((given.json, given.socket, given.config), (True, "/x", None))

    def test_wrong_words(self) -> None:
        """Exit code 2, and what would be right."""
        for words in (
            [], ["nonsense"], ["status", "more"], ["ls", "--limit", "-1"], ["ls", "--sort", "colour"], ["inspect"],
            ["top", "--interval", "0s"], ["top", "--interval", "5x"], ["warm", "-", "--parallel", "0"],
            ["warm", "-", "--via", "3128"], ["rules"], ["config"], ["drain", "--delay", "soon"],
            ["roll", "--limit", "0s"], ["roll", "--limit", "2d"],
        ):  # fmt: skip
            code, _, errors = ended(*words)
            self.assertEqual(code, 2, words)
            self.assertTrue(errors)


class HelpTests(SynchronousTestCase):
    def test_main(self) -> None:
        """It names every command, the exit codes, and how the proxy is found."""
        code, text, _ = ended("--help")
        self.assertEqual(code, 0)
        for word in ("status", "top", "stats", "ls", "inspect", "purge", "verify", "warm", "rules", "config", "drain",
                     "roll", "exit codes:", "S3PROXY_SOCKET", "--json"):  # fmt: skip
            self.assertIn(word, text)

    def test_each(self) -> None:
        """What it does, with an example; no line is longer than a terminal of 120 columns."""
        for words in WORDS.values():
            command = [word for word in words if word not in ("b/k", "-")]
            code, text, _ = ended(*command, "--help")
            self.assertEqual(code, 0)
            self.assertIn("  s3proxyctl " + " ".join(command), text)
            self.assertEqual([line for line in text.splitlines() if len(line) > 120], [])

    def test_version(self) -> None:
        """The version, for bug reports."""
        code, text, _ = ended("--version")
        self.assertEqual((code, text.split()[0]), (0, "s3proxyctl"))
