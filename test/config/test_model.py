"""Tests for :mod:`s3proxy.config.model` and the kinds behind it."""

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import (
    Cache, CallerId, Config, ConnectionPool, Health, Logging, Metrics, Otlp, PerBucket, Server, Tls, UpstreamOverride,
)
from s3proxy.config.schema import keys, sections


class Values(SynchronousTestCase):
    """Objects of the model, as code makes them."""

    def test_defaults_that_matter(self) -> None:
        """Defaults that were decided on."""
        config = Config()
        cache = config.cache
        self.assertEqual((cache.get_ttl, cache.head_ttl, cache.put_ttl), (60.0, 60.0, 3600.0))
        self.assertEqual((cache.ram_cache_enabled, cache.max_ram_cache_size), (True, 1 << 30))
        self.assertEqual((cache.eviction_algorithm, cache.coordination), ("tinylfu", "cluster"))
        self.assertEqual((cache.small_object_bytes, cache.scrub_interval), (65536, 86400.0))
        self.assertEqual((cache.honor_cache_control, cache.stale_if_error), (False, 0.0))
        self.assertEqual((config.server.workers, config.server.bind_addresses), ("auto", ()))
        self.assertEqual((config.server.drain_timeout, config.health.liveness_max_lag), (30.0, 10.0))
        self.assertEqual((config.metrics.format, config.dashboard.allow_purge), ("prometheus", False))
        self.assertTrue(config.connection_pool.system_ca)
        ports = (
            config.server.http_port, config.server.https_port, config.server.proxy_port,
            config.server.tls.tls_proxy_port, config.health.port, config.dashboard.port, config.metrics.port)
        self.assertEqual(ports, (80, 443, 3128, 3129, 8080, 8081, 9090))
        self.assertEqual(cache.shared_storage.recovery_max_concurrent, 4)

    def test_every_default_is_allowed(self) -> None:
        """The default of each key passes its own check, and is what converting it gives."""
        for key in keys(Config):
            with self.subTest(key=key.path):
                self.assertIsNone(key.kind.fault(key.default))
                self.assertEqual(key.kind.convert(key.default), key.default)
                self.assertTrue(key.kind.allowed)

    def test_sections(self) -> None:
        """The sections have the names of the file."""
        self.assertEqual([path for path, _ in sections(Config)], [
            "server", "server.tls", "cache", "cache.shared_storage", "cache.download_coordination",
            "cache.initialization", "cache.metadata_cache", "logging", "connection_pool",
            "connection_pool.hedged_requests", "compression",
            "health", "metrics", "metrics.otlp", "metrics.per_bucket", "dashboard", "admin", "download_bandwidth",
            "download_bandwidth.caller_id", "download_bandwidth.fleet"])

    def test_frozen(self) -> None:
        """Nothing can be changed, in mappings neither; attrs.evolve makes changed copies."""
        config = Config(server=Server(http_port=8000))
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            config.server.http_port = 1  # type: ignore[misc]
        pool = ConnectionPool(endpoint_overrides={"S3.example": ["10.0.0.1"]})  # type: ignore[dict-item]
        with self.assertRaises(TypeError):
            pool.endpoint_overrides["x"] = ()  # type: ignore[index]
        self.assertEqual(attrs.evolve(config, server=attrs.evolve(config.server, http_port=80)), Config())

    def test_conversion(self) -> None:
        """Numbers become durations, lists tuples, names their usual spelling."""
        pool = ConnectionPool(
            dns_servers=["10.0.0.1", "::0001"], idle_timeout=20,  # type: ignore[arg-type]
            endpoint_overrides={"S3.Example.": ["10.0.0.1:443", "Name."]},  # type: ignore[dict-item]
            upstream_overrides={"Store:9000": UpstreamOverride(scheme="http")})
        self.assertEqual(pool.dns_servers, ("10.0.0.1", "::1"))
        self.assertIsInstance(pool.idle_timeout, float)
        self.assertEqual(pool.endpoint_overrides, {"s3.example": ("10.0.0.1:443", "name")})
        self.assertEqual(pool.upstream_overrides, {"store:9000": UpstreamOverride(scheme="http", validate_tls=True)})

    def test_checks(self) -> None:
        """Values out of bounds or of the wrong type are refused where the object is made, with class and key."""
        makers = {
            "Server.http_port": lambda: Server(http_port=65536),
            "Server.workers": lambda: Server(workers=0),
            "Server.bind_addresses": lambda: Server(bind_addresses=("localhost",)),
            "Server.max_concurrent_requests": lambda: Server(max_concurrent_requests=True),
            "Tls.connect_allowlist": lambda: Tls(connect_allowlist=("a b",)),
            "Cache.get_ttl": lambda: Cache(get_ttl=float("nan")),
            "Cache.put_ttl": lambda: Cache(put_ttl=float("inf")),
            "Cache.head_ttl": lambda: Cache(head_ttl="60s"),  # type: ignore[arg-type]
            "Cache.cache_dir": lambda: Cache(cache_dir=""),
            "Cache.write_cache_percent": lambda: Cache(write_cache_percent=51),
            "Cache.ram_cache_enabled": lambda: Cache(ram_cache_enabled=1),  # type: ignore[arg-type]
            "Logging.log_level": lambda: Logging(log_level="DEBUG"),
            "Health.endpoint": lambda: Health(endpoint="/a?b"),
            "CallerId.validation_regex": lambda: CallerId(validation_regex="("),
            "ConnectionPool.endpoint_overrides": lambda: ConnectionPool(endpoint_overrides={"*": ("10.0.0.1",)}),
            "ConnectionPool.upstream_overrides": lambda: ConnectionPool(upstream_overrides={"a": 1}),  # type: ignore
            "PerBucket.bucket_prefixes": lambda: PerBucket(bucket_prefixes={"b": ("",)}),
            "Otlp.headers": lambda: Otlp(headers={"a": 5}),  # type: ignore[dict-item]
            "UpstreamOverride.scheme": lambda: UpstreamOverride(scheme="ftp"),
            "Metrics.bind_address": lambda: Metrics(bind_address="localhost"),
        }
        for name, maker in makers.items():
            with self.subTest(name=name):
                self.assertIn(f"{name}: value ", str(self.assertRaises(ValueError, maker)))

    def test_hidden(self) -> None:
        """What is refused is not shown where it may be secret."""
        error = self.assertRaises(ValueError, lambda: Otlp(endpoint="ftp://secret@x"))
        self.assertNotIn("secret", str(error))

    def test_shown_values_can_be_read(self) -> None:
        """Every default, written as YAML, reads as itself."""
        from s3proxy.config.load import load_config

        lines: list[str] = []
        opened: set[str] = set()
        for key in keys(Config):
            *above, name = key.path.split(".")
            for depth in range(len(above)):
                if ".".join(above[:depth + 1]) not in opened:
                    opened.add(".".join(above[:depth + 1]))
                    lines.append(f"{'  ' * depth}{above[depth]}:")
            lines.append(f"{'  ' * len(above)}{name}: {key.kind.show(key.default)}")
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))
        loaded = load_config(path, environ={}, options={})
        self.assertEqual((loaded.config, loaded.notices), (Config(), ()))
        self.assertEqual(len(loaded.origins), len(list(keys(Config))))
