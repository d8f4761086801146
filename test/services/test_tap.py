"""The options and the service that twistd gets."""

import io
import os
import sys
import tempfile

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.tap import Options, makeService


class MakeServiceTests(SynchronousTestCase):
    """makeService."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.out, self.err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def options(self, text: str, *arguments: str) -> Options:
        path = os.path.join(self.folder, "config.yaml")
        with open(path, "w") as file:
            file.write(text)
        options = Options()
        options.parseOptions(["--config", path, *arguments])
        return options

    def test_wrong_configuration(self) -> None:
        """Every problem is one line, and the exit code is 1."""
        options = self.options("server:\n  http_port: x\ncache:\n  get_ttl: never\n")
        ended = self.assertRaises(SystemExit, makeService, options)
        self.assertEqual(ended.code, 1)
        lines = self.err.getvalue().splitlines()
        self.assertEqual(len(lines), 2)
        self.assertIn("config.yaml:2: server.http_port", lines[0])
        self.assertIn("config.yaml:4: cache.get_ttl", lines[1])

    def test_check(self) -> None:
        """--check says whether the configuration can be used, and starts nothing."""
        ended = self.assertRaises(SystemExit, makeService, self.options("", "--check"))
        self.assertEqual(ended.code, 0)
        self.assertIn("can be used", self.out.getvalue())

    def test_check_of_rules(self) -> None:
        """--check reads the file of rules, too, and its faults make the exit code 1."""
        text = f"cache:\n  cache_dir: {self.folder}\n"
        path = os.path.join(self.folder, "cache_rules.json")
        for content, code in (('{"rules": [{"pattern": "b/**"}]}', 0), ('{"rules": [{}, {"pattern": "b/**"}, 5]}', 1)):
            with open(path, "w", encoding="ascii") as file:
                file.write(content)
            ended = self.assertRaises(SystemExit, makeService, self.options(text, "--check"))
            self.assertEqual(ended.code, code)
        lines = self.err.getvalue().splitlines()
        self.assertEqual([line.partition(": ")[0] for line in lines], [path, path])
        self.assertIn("rules[0].pattern: the value is missing", lines[0])
        self.assertIn("rules[2]: value 5 is a number", lines[1])

    def test_unknown_option(self) -> None:
        """A wrong command line is a usage error."""
        self.assertRaises(usage.UsageError, self.options, "", "--no-such-option")

    def test_service_opens_nothing(self) -> None:
        """Making the service touches neither directories nor ports."""
        directory = os.path.join(self.folder, "cache")
        service = makeService(self.options(f"cache:\n  cache_dir: {directory}\n"))
        self.assertFalse(os.path.exists(directory))
        self.assertFalse(service.running)
