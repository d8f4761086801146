"""Tests for :mod:`s3proxy.config.environment`."""

from s3proxy.config.environment import VARIABLES
from s3proxy.config.load import Loaded
from s3proxy.config.model import Config
from test.config.loading import Loading


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
            name: words.get(name, "False" if name.endswith(("ENABLED", "SCAN", "LOGGING")) else "13")
            for name in VARIABLES
        }
        loaded = self.load(None, environ)
        config = loaded.config
        self.assertEqual(set(loaded.origins), {*VARIABLES.values(), "metrics.otlp.enabled"})
        storage = config.cache.shared_storage
        self.assertEqual(
            (config.server.http_port, config.server.https_port, config.server.max_concurrent_requests),
            (8000, 8443, 13))
        self.assertEqual(
            (config.cache.cache_dir, config.logging.access_log_dir, config.logging.app_log_dir), ("/c", "/a", "/b"))
        self.assertEqual((storage.lock_timeout, storage.lock_refresh_interval), (70.0, 13.0))
        self.assertEqual((storage.validation_frequency, storage.eviction_lock_timeout), (86400.0, 31.0))
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
            "environment variable LOCK_TIMEOUT: cache.shared_storage.lock_timeout: value \"60s\" is not a whole number "
            "of seconds; ignored; allowed a duration from 10s to 300s", warnings)

    def test_empty_export_endpoint(self) -> None:
        """An empty endpoint switches the export off, with a warning."""
        loaded = self.load(None, {"OTLP_ENDPOINT": ""})
        self.assertFalse(loaded.config.metrics.otlp.enabled)
        self.assertEqual(self.notices(loaded), [
            "environment variable OTLP_ENDPOINT: metrics.otlp.endpoint: the value is empty; "
            "the OTLP export is switched off"])

    def test_secrets_stay_out(self) -> None:
        """A URL that is refused is not shown: it may hold a password."""
        (warning,) = self.notices(self.load(None, {"OTLP_ENDPOINT": "ftp://user:hunter2@collector"}))
        self.assertIn("value (hidden) is not a URL", warning)

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
