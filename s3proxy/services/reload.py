"""What SIGHUP changes: keys that can take effect while requests are served, and the names of those that can't."""

from collections.abc import Callable

import attrs
from twisted.logger import Logger

from s3proxy.config.load import ConfigError, Loaded
from s3proxy.config.model import Config
from s3proxy.config.schema import keys, value_of

__all__ = ["LIVE", "Changes", "changes", "reload"]

LIVE = frozenset(
    {
        "cache.bucket_settings_staleness_threshold",
        "cache.cache_bypass_headers_enabled",
        "cache.evaluate_conditions_from_cache",
        "cache.get_ttl",
        "cache.head_ttl",
        "cache.honor_cache_control",
        "cache.max_ram_cache_size",
        "cache.put_ttl",
        "cache.ram_cache_enabled",
        "cache.read_cache_enabled",
        "cache.stale_if_error",
        "download_bandwidth.max_bytes_per_sec",
        "logging.log_level",
        "server.max_concurrent_requests",
    }
)
"""Dotted paths of the keys that take effect at once."""

_PATHS = tuple(key.path for key in keys(Config))
_log = Logger()


@attrs.frozen
class Changes:
    """Dotted paths of keys whose values differ: those that are :data:`LIVE`, and the others."""

    live: tuple[str, ...]
    restart: tuple[str, ...]


def changes(old: Config, new: Config) -> Changes:
    """What differs between two configurations."""
    differing = [path for path in _PATHS if value_of(old, path) != value_of(new, path)]
    return Changes(
        tuple(path for path in differing if path in LIVE), tuple(path for path in differing if path not in LIVE)
    )


def _with_live(old: Config, new: Config) -> Config:
    """The old configuration with the new values of the keys that are :data:`LIVE`."""
    sections: dict[str, dict[str, object]] = {}
    for path in LIVE:
        section, _, name = path.partition(".")
        sections.setdefault(section, {})[name] = value_of(new, path)
    return attrs.evolve(
        old, **{section: attrs.evolve(getattr(old, section), **values) for section, values in sections.items()}
    )


def reload(old: Config, load: Callable[[], Loaded]) -> Config | None:
    """Read the configuration again and say what that changes; None: it can't be used, and everything stays.

    :return: what is in effect now: of keys that need a restart, the old values
    """
    try:
        new = load().config
    except ConfigError as error:
        for problem in error.problems:
            _log.error("the configuration was not reloaded: {problem}", problem=str(problem))
        return None
    found = changes(old, new)
    if found.live:
        _log.info("in effect now: {paths}", paths=", ".join(found.live))
    if found.restart:
        _log.warn("in effect after a restart only: {paths}", paths=", ".join(found.restart))
    if not found.live and not found.restart:
        _log.info("the configuration is unchanged")
    return _with_live(old, new)
