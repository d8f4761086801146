"""What loading says about keys that nobody knows, and about keys that do nothing."""

from s3proxy.config.load import Notice
from s3proxy.config.model import Config
from test.config.loading import Loading


class Notices(Loading):
    """Keys that nobody knows, and keys that do nothing."""

    def test_unknown_keys(self) -> None:
        """Each unknown key is named with its line and what was probably meant; its value does not matter."""
        loaded = self.load(
            "server:\n  htpp_port: {a: [1]}\n  get_ttl: 5s\n  zzz: 1\nsever: {}\n"
            "connection_pool:\n  upstream_overrides:\n    s.lan:1: {scheme: https, validate_tsl: false}\n"
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
            "info", "accepted, not needed here: "
            "cache.ram_cache_shard_count, cache.shared_storage.consolidation_interval"),))

    def test_options_of_nobody(self) -> None:
        """A path that does not exist is a problem of the caller."""
        self.assertEqual(self.problems(None, {}, {"server.port": 1}), ["option server.port: server.port: unknown key"])

    def test_options_out_of_bounds(self) -> None:
        """The option is named."""
        self.assertEqual(self.problems(None, {}, {"dashboard.port": 80}), [
            "option --dashboard-port: dashboard.port: value 80 is too small; "
            "allowed a whole number from 1024 to 65535"])

    def test_secrets_stay_out(self) -> None:
        """Headers and the endpoint of the export appear in no message and no representation."""
        text = (
            "metrics:\n  otlp:\n    enabled: true\n    endpoint: http://u:hunter2@c\n"
            "    headers: {authorization: hunter2}\n")
        loaded = self.load(text)
        self.assertEqual(loaded.config.metrics.otlp.headers, {"authorization": "hunter2"})
        self.assertNotIn("hunter2", repr(loaded))

    def test_order(self) -> None:
        """Problems of the file come in the order of its lines, then those of other layers."""
        text = "dashboard: {port: 80}\ncache: {get_ttl: x}\nserver: {workers: 0, mode: x}\n"
        where = [line.partition(": ")[0] for line in self.problems(text, {"LOCK_MAX_RETRIES": "0"})]
        self.assertEqual(where, ["1", "2", "3", "3", "environment variable LOCK_MAX_RETRIES"])
