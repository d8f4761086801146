"""The settings in force for one object, resolved once per request."""

import attrs

from s3proxy.config.model import Config
from s3proxy.s3.address import ObjectAddress

__all__ = ["Rules", "Settings"]


@attrs.frozen(kw_only=True)
class Settings:
    """What holds for one object. Durations in seconds."""

    get_ttl: float
    head_ttl: float
    put_ttl: float
    read_cache_enabled: bool
    write_cache_enabled: bool
    evaluate_conditions: bool
    honor_cache_control: bool
    stale_if_error: float


class Rules:
    """Resolves the settings of an object.

    All objects share the values of the configuration file; per-object rules are looked up here, and nowhere else, too.
    """

    def __init__(self, config: Config) -> None:
        cache = config.cache
        self._defaults = Settings(
            get_ttl=cache.get_ttl,
            head_ttl=cache.head_ttl,
            put_ttl=cache.put_ttl,
            read_cache_enabled=cache.read_cache_enabled,
            write_cache_enabled=cache.write_cache_enabled,
            evaluate_conditions=cache.evaluate_conditions_from_cache,
            honor_cache_control=cache.honor_cache_control,
            stale_if_error=cache.stale_if_error,
        )

    def resolve(self, address: ObjectAddress) -> Settings:
        """The settings for this object."""
        return self._defaults
