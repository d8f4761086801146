"""SIGHUP."""

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.load import ConfigError, Loaded, Problem
from s3proxy.config.model import Cache, Config, Logging, Server
from s3proxy.config.schema import keys
from s3proxy.services.reload import LIVE, changes, reload


class ReloadTests(SynchronousTestCase):
    """changes and reload."""

    def test_live_keys_exist(self) -> None:
        """Every key that is said to take effect at once is a key."""
        self.assertLessEqual(LIVE, {key.path for key in keys(Config)})

    def test_changes(self) -> None:
        """Keys that need a restart are told apart from those that don't."""
        new = Config(cache=Cache(get_ttl=5.0, max_cache_size=1), server=Server(http_port=8000))
        found = changes(Config(), new)
        self.assertEqual(found.live, ("cache.get_ttl",))
        self.assertEqual(set(found.restart), {"cache.max_cache_size", "server.http_port"})

    def test_wrong_configuration_changes_nothing(self) -> None:
        """A configuration that can't be used is told and left."""

        def load() -> Loaded:
            raise ConfigError((Problem(*[""] * len(attrs.fields(Problem))),))

        self.assertIsNone(reload(Config(), load))
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_new_configuration(self) -> None:
        """The new values are returned."""
        new = Config(cache=Cache(get_ttl=5.0))
        self.assertEqual(reload(Config(), lambda: Loaded(new)), new)

    def test_what_needs_a_restart_stays(self) -> None:
        """What is said to wait for a restart does wait: whoever reads the result finds the old value."""
        old = Config(logging=Logging(access_log_enabled=False), server=Server(drain_timeout=7.0))
        new = Config(
            cache=Cache(get_ttl=5.0, max_cache_size=1), logging=Logging(access_log_enabled=True, log_level="debug")
        )
        result = reload(old, lambda: Loaded(new))
        assert result is not None
        self.assertEqual((result.cache.get_ttl, result.logging.log_level), (5.0, "debug"))
        self.assertEqual(result.cache.max_cache_size, old.cache.max_cache_size)
        self.assertFalse(result.logging.access_log_enabled)
        self.assertEqual(result.server.drain_timeout, 7.0)
