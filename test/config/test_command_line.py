"""Tests for :mod:`s3proxy.config.command_line`."""

import os

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from s3proxy import __version__
from s3proxy.config.command_line import FLAGS, OPTION_NAMES, VALUES, Options
from s3proxy.config.load import load_config
from s3proxy.config.model import Config
from s3proxy.config.schema import keys

NAMES = """
    http-port https-port https-mode cache-dir max-concurrent-requests ram-cache-enabled health-enabled metrics-enabled
    otlp-endpoint otlp-export-interval write-cache-enabled parallel-scan no-parallel-scan scan-timeout progress-logging
    no-progress-logging dashboard-enabled dashboard-disabled dashboard-port dashboard-bind-address lock-timeout
    lock-refresh-interval validation-threshold-warn validation-threshold-error recovery-max-concurrent
    consolidation-interval consolidation-size-threshold lock-max-retries validation-frequency eviction-lock-timeout
    log-level config check
"""


class CommandLine(SynchronousTestCase):
    """Options of ``twistd s3proxy``."""

    def parse(self, *words: str) -> Options:
        """The options after parsing these words."""
        options = Options()
        options.parseOptions(list(words))
        return options

    def refused(self, *words: str) -> str:
        """The text of the usage error that these words cause."""
        return str(self.assertRaises(usage.UsageError, self.parse, *words))

    def test_nothing(self) -> None:
        """No option sets nothing."""
        options = self.parse()
        self.assertEqual((options["config"], options["check"], options.overrides()), (None, 0, {}))

    def test_every_option(self) -> None:
        """All options exist, and all of them belong to keys that exist."""
        known = self.parse()
        self.assertEqual(set(known), set(NAMES.split()))
        paths = {key.path for key in keys(Config)}
        self.assertLessEqual({path for _, path, _ in VALUES} | {path for _, path, _, _ in FLAGS}, paths)
        self.assertLessEqual({path for _, path, _ in VALUES} | {path for _, path, _, _ in FLAGS}, set(OPTION_NAMES))

    def test_config_is_absolute(self) -> None:
        """The file is found after a change of directory, too."""
        for words in (("--config", "a/b.yaml"), ("-c", "a/b.yaml"), ("--config=a/b.yaml",)):
            self.assertEqual(self.parse(*words)["config"], os.path.join(os.getcwd(), "a/b.yaml"))

    def test_values(self) -> None:
        """Values are read as their keys need them: seconds, hours, numbers, text."""
        overrides = self.parse(
            "--http-port", "8000", "--lock-timeout=70", "--validation-frequency", "24",
            "--validation-threshold-warn", "6.5", "--cache-dir", "~/x", "--log-level", "Debug",
            "--dashboard-bind-address", "::1",
        ).overrides()
        self.assertEqual(overrides, {
            "server.http_port": 8000,
            "cache.shared_storage.lock_timeout": 70.0,
            "cache.shared_storage.validation_frequency": 86400.0,
            "cache.shared_storage.validation_threshold_warn": 6.5,
            "cache.cache_dir": "~/x",
            "logging.log_level": "debug",
            "dashboard.bind_address": "::1",
        })

    def test_flags(self) -> None:
        """Flags switch on or off; off wins, in any order."""
        self.assertEqual(self.parse("--ram-cache-enabled", "--no-parallel-scan").overrides(), {
            "cache.ram_cache_enabled": True, "cache.initialization.parallel_scan": False})
        for words in (("--dashboard-enabled", "--dashboard-disabled"), ("--dashboard-disabled", "--dashboard-enabled")):
            self.assertEqual(self.parse(*words).overrides(), {"dashboard.enabled": False})

    def test_otlp_endpoint_switches_on(self) -> None:
        """An endpoint for the export switches the export on."""
        overrides = self.parse("--otlp-endpoint", "http://collector:4318").overrides()
        config = load_config(None, environ={}, options=overrides).config
        self.assertTrue(config.metrics.otlp.enabled)
        self.assertEqual(config.metrics.otlp.endpoint, "http://collector:4318")

    def test_https_mode(self) -> None:
        """--https-mode is accepted and has no effect."""
        loaded = load_config(None, environ={}, options=self.parse("--https-mode", "passthrough").overrides())
        self.assertEqual(loaded.config, Config())
        self.assertEqual([notice.text for notice in loaded.notices], [
            "option --https-mode: server.https_mode: ignored: port 443 is always passed through"])

    def test_unreadable(self) -> None:
        """A value that cannot be read is a usage error that names option, value and what is allowed."""
        for words, text in (
            (("--http-port", "x"), '--http-port: value "x" is not a whole number; '
                                   "allowed a whole number from 0 to 65535"),
            (("--http-port", "65536"), '--http-port: value "65536" is too large; '
                                       "allowed a whole number from 0 to 65535"),
            (("--lock-timeout", "60s"), '--lock-timeout: value "60s" is not a whole number of seconds; '
                                        "allowed a duration from 10s to 300s"),
            (("--cache-dir", ""), '--cache-dir: value "" is empty; allowed a path'),
            (("--log-level", "loud"), '--log-level: value "loud" is unknown; '
                                      "allowed error, warn, info, debug or trace"),
            (("--validation-threshold-warn", "nan"), '--validation-threshold-warn: value "nan" is not a number; '
                                                     "allowed a number from 0 to 100"),
        ):
            with self.subTest(words=words):
                self.assertIn(text, self.refused(*words))
        self.assertNotIn("secret", self.refused("--otlp-endpoint", "ftp://secret@x"))

    def test_unknown(self) -> None:
        """Unknown options, and arguments, are usage errors."""
        self.refused("--nonsense")
        self.refused("--http-port")
        self.assertIn('"config.yaml"', self.refused("config.yaml"))

    def test_version(self) -> None:
        """--version is ours, not Twisted's."""
        lines: list[str] = []
        self.patch(__import__("builtins"), "print", lines.append)
        stop = self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual((stop.code, lines), (0, [f"S3 Proxy {__version__}"]))

    def test_help(self) -> None:
        """The help names every option."""
        text = Options().getUsage(width=200)
        self.assertTrue(all(f"--{name}" in text for name in NAMES.split()))
