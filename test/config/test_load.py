"""Tests for :mod:`s3proxy.config.load`: layers, files, paths."""

import os

from s3proxy.config.load import ConfigError, Loaded, load_config
from s3proxy.config.model import Config
from test.config.loading import Loading


class Layers(Loading):
    """Defaults, file, environment, options: the later wins."""

    def test_nothing(self) -> None:
        """Without any source, with an empty file and with empty sections there are the defaults, and nothing to say."""
        for text in (None, "", "# nothing\n", "server:\ncache:\n  shared_storage:\nmetrics: null\n", "{}"):
            with self.subTest(text=text):
                self.assertEqual(self.load(text), Loaded(Config()))

    def test_each_wins_over_the_one_before(self) -> None:
        """The file wins over defaults, the environment over the file, the command line over the environment."""
        text = "server: {http_port: 1001, https_port: 1002, max_concurrent_requests: 3}\n"
        environ = {"HTTPS_PORT": "2002", "MAX_CONCURRENT_REQUESTS": "4"}
        loaded = self.load(text, environ, {"server.max_concurrent_requests": 5})
        server = loaded.config.server
        self.assertEqual((server.http_port, server.https_port, server.max_concurrent_requests), (1001, 2002, 5))
        self.assertEqual(server.proxy_port, 3128)
        self.assertEqual(loaded.origins, {
            "server.http_port": f"{self.path}:1",
            "server.https_port": "environment variable HTTPS_PORT",
            "server.max_concurrent_requests": "option --max-concurrent-requests",
        })

    def test_what_is_overridden_need_not_be_in_bounds(self) -> None:
        """Only the value that counts is judged."""
        loaded = self.load("dashboard: {port: 80}\n", {}, {"dashboard.port": 8082})
        self.assertEqual(loaded.config.dashboard.port, 8082)

    def test_partial_sections(self) -> None:
        """A section with one key has the defaults for all others."""
        config = self.load("metrics:\n  otlp:\n    timeout: 3s\n").config
        self.assertEqual(config.metrics.otlp.timeout, 3.0)
        self.assertEqual(config.metrics.otlp.endpoint, "http://localhost:4318")
        self.assertEqual(config.health, Config().health)

    def test_durations(self) -> None:
        """Durations may have units, be quoted, or be numbers of seconds."""
        cache = self.load("cache: {get_ttl: 1.5h, head_ttl: 90, put_ttl: \"30\", stale_if_error: 0.5}\n").config.cache
        self.assertEqual((cache.get_ttl, cache.head_ttl), (5400.0, 90.0))
        self.assertEqual((cache.put_ttl, cache.stale_if_error), (30.0, 0.5))

    def test_bounds_compare_whole_units(self) -> None:
        """A fraction above a limit passes, as does a fraction of an hour where hours are compared."""
        config = self.load("cache: {shared_storage: {lock_timeout: 300.9s, validation_frequency: 168.5h}}\n").config
        self.assertEqual(config.cache.shared_storage.lock_timeout, 300.9)

    def test_null_is_unset(self) -> None:
        """null takes the place of what may be missing, and of lists and mappings."""
        text = (
            "server: {bind_addresses: null, tls: null}\nmetrics: {otlp: {headers: }}\n"
            "connection_pool:\n  dns_servers:\n  endpoint_overrides: ~\n  upstream_overrides: null\n"
            "  tcp_recv_buffer_size: null\n"
            "download_bandwidth: {caller_id: {validation_regex: null}}\n"
        )
        self.assertEqual(self.load(text).config, Config())

    def test_aliases(self) -> None:
        """An aliased section counts in both places."""
        config = self.load("health: &h {bind_address: 127.0.0.1, enabled: false}\nmetrics: *h\n").config
        self.assertEqual((config.health.bind_address, config.metrics.bind_address), ("127.0.0.1", "127.0.0.1"))
        self.assertFalse(config.metrics.enabled)


class Files(Loading):
    """What can be wrong with the file as such."""

    def test_missing(self) -> None:
        """A file that cannot be read is named with the reason."""
        path = self.mktemp()
        error = self.assertRaises(ConfigError, load_config, path, environ={}, options={})
        self.assertEqual(str(error), f"{path}: the file cannot be read: No such file or directory")

    def test_directory(self) -> None:
        """So is a directory."""
        path = self.mktemp()
        os.mkdir(path)
        error = self.assertRaises(ConfigError, load_config, path, environ={}, options={})
        self.assertEqual(str(error), f"{path}: the file cannot be read: Is a directory")

    def test_endless(self) -> None:
        """A device is not read to its end."""
        error = self.assertRaises(ConfigError, load_config, "/dev/zero", environ={}, options={})
        self.assertIn("is larger than", str(error))

    def test_thousands_of_digits(self) -> None:
        """Numbers beyond all limits are too large, and messages stay short."""
        for key, text in (("max_cache_size", "9" * 5000), ("get_ttl", "9" * 400 + "d"), ("get_ttl", "1e999")):
            with self.subTest(key=key):
                (problem,) = self.problems(f"cache:\n  {key}: {text}\n")
                self.assertLess(len(problem), 200)


class Paths(Loading):
    """Paths become absolute."""

    def test_relative(self) -> None:
        """Relative paths start at the current directory, wherever they come from."""
        text = (
            "cache: {cache_dir: ./a/../b}\nlogging: {app_log_dir: x}\nserver: {tls: {cert_path: c.pem}}\n"
            "connection_pool: {upstream_overrides: {'s.lan:1': {scheme: https, ca_file: ca.pem}}}\n"
            "metrics: {otlp: {ca_file: d.pem, headers: {a: 'file:k', b: file, c: 'file:', d: 'file:/k'}}}\n"
        )
        config = self.load(text, {"ACCESS_LOG_DIR": "y"}, {"logging.app_log_dir": "z"}).config
        here = os.getcwd()
        self.assertEqual(config.cache.cache_dir, f"{here}/b")
        self.assertEqual(config.logging.app_log_dir, f"{here}/z")
        self.assertEqual(config.logging.access_log_dir, f"{here}/y")
        self.assertEqual(config.server.tls.cert_path, f"{here}/c.pem")
        self.assertEqual(config.server.tls.key_path, "")
        self.assertEqual(config.connection_pool.upstream_overrides["s.lan:1"].ca_file, f"{here}/ca.pem")
        otlp = config.metrics.otlp
        self.assertEqual(otlp.ca_file, f"{here}/d.pem")
        self.assertEqual(otlp.headers, {"a": f"file:{here}/k", "b": "file", "c": "file:", "d": "file:/k"})

    def test_home(self) -> None:
        """~/ is the home directory in files, for the three directories, if HOME is set; nowhere else."""
        text = "cache: {cache_dir: ~/c}\nlogging: {app_log_dir: ~user/l}\nserver: {tls: {cert_path: ~/x}}\n"
        here = os.getcwd()
        config = self.load(text, {"HOME": "/home/me", "ACCESS_LOG_DIR": "~/a"}).config
        self.assertEqual(config.cache.cache_dir, "/home/me/c")
        self.assertEqual(config.logging.app_log_dir, f"{here}/~user/l")
        self.assertEqual(config.logging.access_log_dir, f"{here}/~/a")
        self.assertEqual(config.server.tls.cert_path, f"{here}/~/x")
        self.assertEqual(self.load("cache: {cache_dir: ~/c}\n").config.cache.cache_dir, f"{here}/~/c")
