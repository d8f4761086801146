"""Tests for :mod:`s3proxy.config.load`: layers, adjustments, notices."""

import os
from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.environment import VARIABLES
from s3proxy.config.load import ConfigError, Loaded, Notice, load_config
from s3proxy.config.model import Config


class Loading(SynchronousTestCase):
    """What the tests share."""

    def load(
        self, text: str | None = None, environ: Mapping[str, str] = {}, options: Mapping[str, object] = {},
    ) -> Loaded:
        """Load a file with this text; None for no file."""
        self.path = self.mktemp()
        if text is not None:
            Path(self.path).write_text(text, "utf-8")
        return load_config(None if text is None else self.path, environ=environ, options=options)

    def notices(self, loaded: Loaded, level: str = "warn") -> list[str]:
        """The notices of one level, without the name of the file."""
        return [each.text.removeprefix(f"{self.path}:") for each in loaded.notices if each.level == level]

    def problems(
        self, text: str | None = None, environ: Mapping[str, str] = {}, options: Mapping[str, object] = {},
    ) -> list[str]:
        """The problems, without the name of the file."""
        error = self.assertRaises(ConfigError, self.load, text, environ, options)
        return [str(problem).removeprefix(f"{self.path}:") for problem in error.problems]


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
        loaded = self.load(text, {"HTTPS_PORT": "2002", "MAX_CONCURRENT_REQUESTS": "4"}, {"server.max_concurrent_requests": 5})
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
        self.assertEqual((cache.get_ttl, cache.head_ttl, cache.put_ttl, cache.stale_if_error), (5400.0, 90.0, 30.0, 0.5))

    def test_bounds_compare_whole_units(self) -> None:
        """A fraction above a limit passes, as does a fraction of an hour where hours are compared."""
        config = self.load("cache: {shared_storage: {lock_timeout: 300.9s, validation_frequency: 168.5h}}\n").config
        self.assertEqual(config.cache.shared_storage.lock_timeout, 300.9)

    def test_null_is_unset(self) -> None:
        """null takes the place of what may be missing, and of lists and mappings."""
        text = (
            "server: {bind_addresses: null, tls: null}\nmetrics: {otlp: {headers: }}\n"
            "connection_pool: {dns_servers: , endpoint_overrides: ~, upstream_overrides: null, tcp_recv_buffer_size: null}\n"
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
        )
        config = self.load(text, {"ACCESS_LOG_DIR": "y"}, {"logging.app_log_dir": "z"}).config
        here = os.getcwd()
        self.assertEqual(config.cache.cache_dir, f"{here}/b")
        self.assertEqual(config.logging.app_log_dir, f"{here}/z")
        self.assertEqual(config.logging.access_log_dir, f"{here}/y")
        self.assertEqual(config.server.tls.cert_path, f"{here}/c.pem")
        self.assertEqual(config.server.tls.key_path, "")
        self.assertEqual(config.connection_pool.upstream_overrides["s.lan:1"].ca_file, f"{here}/ca.pem")

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


class Environment(Loading):
    """Variables."""

    def test_count(self) -> None:
        """There are 33."""
        self.assertEqual(len(VARIABLES), 33)

    def test_every_variable(self) -> None:
        """Each of them sets its key."""
        words = {
            "CACHE_DIR": "/c", "ACCESS_LOG_DIR": "/a", "APP_LOG_DIR": "/b", "LOG_LEVEL": "DEBUG",
            "OTLP_ENDPOINT": "http://collector:4318/x", "DASHBOARD_BIND_ADDRESS": "::1", "HTTP_PORT": "8000",
            "HTTPS_PORT": "8443", "DASHBOARD_PORT": "8082", "CONSOLIDATION_SIZE_THRESHOLD": "200000",
            "VALIDATION_FREQUENCY": "24", "VALIDATION_THRESHOLD_WARN": "6.5", "VALIDATION_THRESHOLD_ERROR": "21",
            "LOCK_TIMEOUT": "70", "DASHBOARD_MAX_LOG_ENTRIES": "50", "EVICTION_LOCK_TIMEOUT": "31",
        }
        environ = {
            name: words.get(name, "False" if name.endswith(("ENABLED", "SCAN", "LOGGING")) else "13") for name in VARIABLES
        }
        loaded = self.load(None, environ)
        config = loaded.config
        self.assertEqual(set(loaded.origins), {*VARIABLES.values(), "metrics.otlp.enabled"})
        storage = config.cache.shared_storage
        self.assertEqual(
            (config.server.http_port, config.server.https_port, config.server.max_concurrent_requests), (8000, 8443, 13))
        self.assertEqual(
            (config.cache.cache_dir, config.logging.access_log_dir, config.logging.app_log_dir), ("/c", "/a", "/b"))
        self.assertEqual((storage.validation_frequency, storage.lock_timeout, storage.lock_refresh_interval), (86400.0, 70.0, 13.0))
        self.assertEqual((storage.validation_threshold_warn, storage.validation_threshold_error), (6.5, 21.0))
        self.assertEqual(config.logging.log_level, "debug")
        self.assertEqual((config.metrics.otlp.enabled, config.metrics.otlp.endpoint), (True, "http://collector:4318/x"))
        self.assertFalse(
            config.cache.ram_cache_enabled or config.cache.write_cache_enabled or config.compression.enabled
            or config.health.enabled or config.metrics.enabled or config.dashboard.enabled
            or config.cache.initialization.parallel_scan or config.cache.initialization.progress_logging)

    def test_unreadable_is_ignored(self) -> None:
        """What cannot be read is ignored with a warning: other programs use these names, too."""
        environ = {
            "HTTP_PORT": "tcp://10.0.0.1:80", "HTTPS_PORT": "70000", "LOCK_TIMEOUT": "60s", "SCAN_TIMEOUT": "1.5",
            "LOG_LEVEL": "NOTICE", "CACHE_DIR": "", "MAX_CONCURRENT_REQUESTS": "-1", "VALIDATION_THRESHOLD_WARN": "inf",
            "OTLP_ENDPOINT": "", "DASHBOARD_BIND_ADDRESS": "localhost",
        }
        loaded = self.load("logging: {log_level: debug}\n", environ)
        self.assertEqual(loaded.config.logging.log_level, "debug")
        self.assertEqual(loaded.config.server, Config().server)
        self.assertEqual(loaded.config.cache, Config().cache)
        warnings = self.notices(loaded)
        self.assertEqual(len(warnings), len(environ))
        self.assertIn(
            "environment variable HTTP_PORT: server.http_port: value \"tcp://10.0.0.1:80\" is not a whole number; "
            "ignored; allowed a whole number from 0 to 65535", warnings)
        self.assertIn(
            "environment variable LOCK_TIMEOUT: cache.shared_storage.lock_timeout: value \"60s\" is not a whole number of "
            "seconds; ignored; allowed a duration from 10s to 300s", warnings)

    def test_empty_export_endpoint(self) -> None:
        """An empty endpoint switches the export off, with a warning."""
        loaded = self.load(None, {"OTLP_ENDPOINT": ""})
        self.assertFalse(loaded.config.metrics.otlp.enabled)
        self.assertEqual(self.notices(loaded), [
            "environment variable OTLP_ENDPOINT: metrics.otlp.endpoint: the value is empty; the OTLP export is switched off"])

    def test_readable_but_out_of_bounds(self) -> None:
        """A number that is one, but not allowed, ends the start."""
        self.assertEqual(self.problems(None, {"DASHBOARD_PORT": "80"}), [
            "environment variable DASHBOARD_PORT: dashboard.port: value \"80\" is too small; "
            "allowed a whole number from 1024 to 65535"])

    def test_booleans(self) -> None:
        """true, in any case, is true; all else is false, and said to be so."""
        loaded = self.load("health: {enabled: false}\n", {"HEALTH_ENABLED": "TRUE", "METRICS_ENABLED": "1"})
        self.assertTrue(loaded.config.health.enabled)
        self.assertFalse(loaded.config.metrics.enabled)
        self.assertEqual(self.notices(loaded), [
            "environment variable METRICS_ENABLED: metrics.enabled: value \"1\" is not true and so means false"])

    def test_credentials_do_not_matter(self) -> None:
        """Variables of AWS and of proxies have no influence."""
        environ = {"AWS_ACCESS_KEY_ID": "x", "HTTP_PROXY": "http://x", "https_proxy": "http://x"}
        self.assertEqual(self.load(None, environ), Loaded(Config()))


class Adjustments(Loading):
    """What is brought into order, with a notice, instead of failing."""

    def test_rule_38_privileged_proxy_port(self) -> None:
        """A privileged port in mode proxy_only is worth a warning."""
        loaded = self.load("server: {mode: proxy_only, proxy_port: 1023}\n")
        self.assertEqual(self.notices(loaded), [
            "1: server.proxy_port: value 1023 is a privileged port; the start needs root or CAP_NET_BIND_SERVICE"])
        self.assertEqual(self.load("server: {mode: proxy_only, proxy_port: 1024}\n").notices, ())

    def test_rule_39_wait_timeout(self) -> None:
        """The wait for another's download is brought to the nearer bound."""
        for given, used in ((4, 5), (5, 5), (120, 120), (121, 120)):
            loaded = self.load(f"cache: {{download_coordination: {{wait_timeout_secs: {given}}}}}\n")
            self.assertEqual(loaded.config.cache.download_coordination.wait_timeout_secs, used)
            self.assertEqual(len(self.notices(loaded)), int(given != used))
        self.assertEqual(self.notices(loaded), [
            "1: cache.download_coordination.wait_timeout_secs: value 121 is outside of 5 to 120; using 120"])

    def test_rule_40_nothing_is_fresh(self) -> None:
        """get_ttl 0 switches the RAM cache off, whoever sets it."""
        loaded = self.load("cache: {get_ttl: 0s}\n")
        self.assertFalse(loaded.config.cache.ram_cache_enabled)
        self.assertEqual(self.notices(loaded, "info"), [
            "cache.get_ttl is 0s, every read is checked with S3: the RAM cache is switched off"])
        self.assertEqual(self.load("cache: {get_ttl: 0, ram_cache_enabled: false}\n").notices, ())
        loaded = self.load("cache: {get_ttl: 0, actively_remove_cached_data: true}\n")
        self.assertTrue(any("removes every object" in text for text in self.notices(loaded)))

    def test_rule_41_back_to_defaults(self) -> None:
        """Out of bounds: the default takes the value's place. At the bounds: the value stays."""
        bounds = {
            "ram_cache_flush_interval": (9.9, 10.0, 600.0, 601.0, 10.0),
            "ram_cache_verification_interval": (0.5, 1.0, 60.0, 61.0, 1.0),
            "incomplete_upload_ttl": (3599.0, 3600.0, 604800.0, 604801.0, 86400.0),
            "ram_cache_flush_threshold": (9, 10, 10000, 10001, 100),
        }
        for key, (below, least, most, above, default) in bounds.items():
            for given, used in ((below, default), (least, least), (most, most), (above, default)):
                with self.subTest(key=key, given=given):
                    loaded = self.load(f"cache: {{{key}: {given}}}\n")
                    self.assertEqual(getattr(loaded.config.cache, key), used)
                    warned = [text for text in self.notices(loaded) if "is outside of" in text]
                    self.assertEqual(len(warned), int(given not in (least, most)))
        self.assertEqual(self.notices(self.load("cache:\n  incomplete_upload_ttl: 8d\n")), [
            "2: cache.incomplete_upload_ttl: value \"8d\" is outside of 1h to 7d; using 1d"])

    def test_rule_42_eviction(self) -> None:
        """Both percentages are clamped; a target that is not below the trigger is lowered."""
        for trigger, target, used in (
            (95, 80, (95, 80)), (49, 50, (50, 50)), (101, 49, (100, 50)), (100, 100, (100, 99)), (80, 80, (80, 70)),
            (80, 90, (80, 70)), (55, 60, (55, 50)), (50, 50, (50, 50)),
        ):
            with self.subTest(trigger=trigger, target=target):
                loaded = self.load(
                    f"cache:\n  eviction_trigger_percent: {trigger}\n  eviction_target_percent: {target}\n")
                cache = loaded.config.cache
                self.assertEqual((cache.eviction_trigger_percent, cache.eviction_target_percent), used)
                self.assertEqual(bool(loaded.notices), (trigger, target) != used)
        loaded = self.load("cache:\n  eviction_trigger_percent: 75\n")
        self.assertEqual(self.notices(loaded), [
            "2: cache.eviction_target_percent: value 80 is not below cache.eviction_trigger_percent (75); using 65"])

    def test_rule_43_empty_prefixes(self) -> None:
        """Empty prefixes are left out; a bucket without any stays."""
        loaded = self.load("metrics:\n  per_bucket:\n    bucket_prefixes: {b: [logs/, \"\"], c: []}\n")
        self.assertEqual(loaded.config.metrics.per_bucket.bucket_prefixes, {"b": ("logs/",), "c": ()})
        self.assertIn(
            '3: metrics.per_bucket.bucket_prefixes."b"[1]: value "" is not a prefix of at least one character; left out',
            self.notices(loaded))

    def test_rule_45_resolvers_and_overrides(self) -> None:
        """What is of no use in lists of addresses and of overrides is left out with a warning."""
        loaded = self.load(
            "connection_pool:\n"
            "  dns_servers: [10.0.0.2, nonsense, \"[::1]:5353\", \"::1\", 10.0.0.2]\n"
            "  endpoint_overrides:\n"
            "    S3.us-west-2.amazonaws.com.: [10.0.0.1, 10.0.0.300, \"10.0.0.2:8443\", vpce-1.s3.example, \"[::1]:5\"]\n"
            "    \"*.s3.example\": [\"::1\"]\n"
            "    \"*\": [10.0.0.1]\n"
            "    \"x.example:443\": [10.0.0.1]\n"
            "    y.example: [not/a/name]\n"
            "  upstream_overrides:\n"
            "    \"Store.lan:443\": {scheme: https}\n"
            "    \"[::1]:9000\": {scheme: https}\n"
            "    store.lan: {scheme: https}\n"
            "    \"store.lan:0\": {scheme: https}\n"
            "    \"store.lan:65536\": {scheme: https}\n"
            "    \":443\": {scheme: https}\n"
            "    \"*:443\": {scheme: https}\n"
        )
        pool = loaded.config.connection_pool
        self.assertEqual(pool.dns_servers, ("10.0.0.2", "[::1]:5353", "::1"))
        self.assertEqual(pool.endpoint_overrides, {
            "s3.us-west-2.amazonaws.com": ("10.0.0.1", "10.0.0.2:8443", "vpce-1.s3.example", "[::1]:5"),
            "*.s3.example": ("::1",),
        })
        self.assertEqual(list(pool.upstream_overrides), ["store.lan:443", "[::1]:9000"])
        where = [text.partition(":")[0] for text in self.notices(loaded)]
        self.assertEqual(where, ["2", "2", "4", "6", "7", "8", "8", "12", "13", "14", "15", "16"])
        self.assertIn("2: connection_pool.dns_servers[1]: value \"nonsense\" is not an IP address or IP:port; left out",
                      self.notices(loaded))

    def test_rule_46_waived_protection(self) -> None:
        """Each override that gives up protection says what, and for whom."""
        loaded = self.load(
            "connection_pool:\n  upstream_overrides:\n"
            "    a.lan:9000: {scheme: http}\n    b.lan:443: {scheme: https, validate_tls: false}\n"
            "    c.lan:443: {scheme: https}\n    d.lan:80: {scheme: http, ca_file: /x}\n"
        )
        texts = self.notices(loaded)
        self.assertEqual(len(texts), 4)
        self.assertIn("a.lan:9000 travel without TLS", texts[0])
        self.assertIn("certificate of b.lan:443 is not checked", texts[1])
        self.assertIn("ca_file: without effect", texts[3])

    def test_dashboard_gives_way(self) -> None:
        """A dashboard port that nobody set moves to the next free number; with a warning."""
        loaded = self.load("server:\n  http_port: 8081\n  https_port: 8443\n")
        self.assertEqual(loaded.config.dashboard.port, 8082)
        self.assertEqual(self.notices(loaded)[0],
                         "dashboard.port: the default 8081 is the port of another listener; using 8082")
        loaded = self.load("server:\n  http_port: 8081\n  https_port: 8082\nhealth: {port: 8083}\nmetrics: {port: 8084}\n")
        self.assertEqual(loaded.config.dashboard.port, 8085)

    def test_dashboard_need_not_give_way(self) -> None:
        """A dashboard that is off, or a listener that is off, is in nobody's way."""
        for text in ("server: {http_port: 8081}\ndashboard: {enabled: false}\n", "health: {port: 8081, enabled: false}\n"):
            loaded = self.load(text)
            self.assertEqual((loaded.config.dashboard.port, loaded.notices), (8081, ()))

    def test_port_zero(self) -> None:
        """Ports that the kernel chooses do not clash."""
        config = self.load("server: {http_port: 0, https_port: 0}\nhealth: {port: 0}\nmetrics: {port: 0}\n").config
        self.assertEqual((config.server.http_port, config.health.port), (0, 0))

    def test_listeners_of_the_other_mode(self) -> None:
        """A port that is not listened on is free."""
        for text in ("server: {mode: proxy_only, http_port: 9090}\n", "server: {proxy_port: 8080}\n"):
            self.assertEqual(self.load(text).notices, ())


class Notices(Loading):
    """Keys that nobody knows, and keys that do nothing."""

    def test_unknown_keys(self) -> None:
        """Each unknown key is named with its line and what was probably meant; its value does not matter."""
        loaded = self.load(
            "server:\n  htpp_port: {a: [1]}\n  get_ttl: 5s\n  zzz: 1\nsever: {}\nconnection_pool:\n  upstream_overrides:\n"
            "    s.lan:1: {scheme: https, validate_tsl: false}\n"
        )
        self.assertEqual(loaded.config.server, Config().server)
        self.assertEqual(self.notices(loaded), [
            "2: server.htpp_port: unknown key, ignored; did you mean server.http_port?",
            "3: server.get_ttl: unknown key, ignored; did you mean cache.get_ttl?",
            "4: server.zzz: unknown key, ignored",
            "5: sever: unknown key, ignored; did you mean server?",
            '8: connection_pool.upstream_overrides."s.lan:1".validate_tsl: unknown key, ignored; '
            'did you mean connection_pool.upstream_overrides."s.lan:1".validate_tls?',
        ])

    def test_retired_keys(self) -> None:
        """Keys of the past load, whatever they hold."""
        loaded = self.load(
            "server: {https_mode: passthrough}\ncompression: {content_aware: maybe}\n"
            "cache: {shared_storage: {enabled: 1, size_tracking_flush_interval: [], size_tracking_buffer_size: x}}\n",
            {}, {"server.https_mode": "x"})
        self.assertEqual(loaded.config, Config())
        texts = self.notices(loaded)
        self.assertEqual(len(texts), 6)
        self.assertTrue(all(": ignored: " in text for text in texts), texts)

    def test_rule_44_deprecated_keys(self) -> None:
        """Deprecated keys warn when they differ from their defaults, and only then."""
        default = (
            "server: {max_buffered_request_body_bytes: 5368709120}\ncache: {eviction_buffer_percent: 5}\n"
            "connection_pool: {max_connections_per_ip: 10}\ndashboard: {max_log_entries: 100}\n"
            "metrics: {include_cache_stats: true, include_compression_stats: true, include_connection_stats: true}\n"
        )
        self.assertEqual(self.load(default).notices, ())
        changed = default.replace("5368709120", "1").replace("percent: 5", "percent: 6").replace("10}", "11}")
        loaded = self.load(changed.replace("100}", "101}").replace("true", "false"))
        texts = self.notices(loaded)
        self.assertEqual(len(texts), 7)
        self.assertIn("2: cache.eviction_buffer_percent: deprecated and without effect; remove the key", texts)

    def test_not_needed(self) -> None:
        """Keys whose mechanism does not exist here are named once, in one line."""
        loaded = self.load("cache:\n  ram_cache_shard_count: 4\n  shared_storage: {consolidation_interval: 7s}\n")
        self.assertEqual(loaded.notices, (Notice(
            "info", "accepted, not needed here: cache.ram_cache_shard_count, cache.shared_storage.consolidation_interval"),))

    def test_options_of_nobody(self) -> None:
        """A path that does not exist is a problem of the caller."""
        self.assertEqual(self.problems(None, {}, {"server.port": 1}), ["option server.port: server.port: unknown key"])

    def test_options_out_of_bounds(self) -> None:
        """The option is named."""
        self.assertEqual(self.problems(None, {}, {"dashboard.port": 80}), [
            "option --dashboard-port: dashboard.port: value 80 is too small; allowed a whole number from 1024 to 65535"])

    def test_secrets_stay_out(self) -> None:
        """Headers and the endpoint of the export appear in no message and no representation."""
        text = (
            "metrics:\n  otlp:\n    enabled: true\n    endpoint: http://u:hunter2@c\n    headers: {authorization: hunter2}\n")
        loaded = self.load(text)
        self.assertEqual(loaded.config.metrics.otlp.headers, {"authorization": "hunter2"})
        self.assertNotIn("hunter2", repr(loaded))

    def test_order(self) -> None:
        """Problems of the file come in the order of its lines, then those of other layers."""
        text = "dashboard: {port: 80}\ncache: {get_ttl: x}\nserver: {workers: 0, mode: x}\n"
        where = [line.partition(": ")[0] for line in self.problems(text, {"LOCK_MAX_RETRIES": "0"})]
        self.assertEqual(where, ["1", "2", "3", "3", "environment variable LOCK_MAX_RETRIES"])
