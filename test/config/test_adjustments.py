"""What loading brings into order, with a notice, instead of failing."""

from test.config.loading import Loading


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
            '3: metrics.per_bucket.bucket_prefixes."b"[1]: '
            'value "" is not a prefix of at least one character; left out',
            self.notices(loaded))

    def test_rule_45_resolvers_and_overrides(self) -> None:
        """What is of no use in lists of addresses and of overrides is left out with a warning."""
        loaded = self.load(
            "connection_pool:\n"
            "  dns_servers: [10.0.0.2, nonsense, \"[::1]:5353\", \"::1\", 10.0.0.2]\n"
            "  endpoint_overrides:\n"
            "    S3.us-west-2.amazonaws.com.: "
            "[10.0.0.1, 10.0.0.300, \"10.0.0.2:8443\", vpce-1.s3.example, \"[::1]:5\"]\n"
            "    \"*.s3.example\": [\"::1\"]\n"
            "    \"*\": [10.0.0.1]\n"
            "    \"x.example:0\": [10.0.0.1]\n"
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
        loaded = self.load(
            "server:\n  http_port: 8081\n  https_port: 8082\nhealth: {port: 8083}\nmetrics: {port: 8084}\n")
        self.assertEqual(loaded.config.dashboard.port, 8085)

    def test_dashboard_need_not_give_way(self) -> None:
        """A dashboard that is off, or a listener that is off, is in nobody's way."""
        for text in (
            "server: {http_port: 8081}\ndashboard: {enabled: false}\n", "health: {port: 8081, enabled: false}\n",
        ):
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
