"""The settings in force for one object, resolved once per request.

Each setting is that of the first rule, from top to bottom, whose pattern fits the object's name ``bucket/key`` and that
says something about it; failing that, the configuration's. So an object may have its TTL from one rule and its page
size from another.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import attrs

from s3proxy.config.model import Config
from s3proxy.policy.rules_file import FIELDS, Rule
from s3proxy.s3.address import ObjectAddress

__all__ = ["SETTING_NAMES", "Rules", "Settings"]

MOST_OBJECTS = 4096
"""Objects whose settings are remembered."""
MOST_BUCKETS = 1024
"""Buckets of which is remembered what rules have to do with them."""
MOST_COMBINATIONS = 1024
"""Combinations of rules whose settings are remembered."""
LONGEST_NAME = 1100
"""Longer names are never remembered; no object of S3 has one."""

K = TypeVar("K")
V = TypeVar("V")

SETTING_NAMES = {"evaluate_conditions_from_cache": "evaluate_conditions", "compression_enabled": "compression"}
"""Fields of a rule whose setting has another name."""


@attrs.frozen(kw_only=True)
class Settings:
    """What holds for one object. Durations in seconds.

    :ivar range_merge_gap: missing spans with at most so many bytes between them are asked for as one
    :ivar ram_cache_eligible: its data may be copied into memory; never where S3 is always asked or nothing is kept
    :ivar compression: None: as ``compression.enabled`` says, for kinds of files that are worth it
    :ivar page_widening: small unsigned ranges are read from S3 in whole pages
    :ivar page_size: bytes of a page, 1 or more
    :ivar hedge_trigger_after: how late S3's answer is when it is asked a second time
    :ivar hedge_max_per_request: how many such requests one request of a client may cause
    :ivar source: the pattern of the first rule that fits; empty without one
    """

    get_ttl: float
    head_ttl: float
    put_ttl: float
    read_cache_enabled: bool
    write_cache_enabled: bool
    evaluate_conditions: bool
    honor_cache_control: bool
    stale_if_error: float
    range_merge_gap: int = 1 << 20
    ram_cache_eligible: bool = True
    compression: bool | None = None
    page_widening: bool = False
    page_size: int = 16 << 20
    hedging_enabled: bool = False
    hedge_trigger_after: float = 0.25
    hedge_max_per_request: int = 1
    source: str = ""


def _defaults(config: Config) -> Settings:
    cache = config.cache
    return Settings(
        get_ttl=cache.get_ttl,
        head_ttl=cache.head_ttl,
        put_ttl=cache.put_ttl,
        read_cache_enabled=cache.read_cache_enabled,
        write_cache_enabled=cache.write_cache_enabled,
        evaluate_conditions=cache.evaluate_conditions_from_cache,
        honor_cache_control=cache.honor_cache_control,
        stale_if_error=cache.stale_if_error,
        range_merge_gap=cache.range_merge_gap_threshold,
        ram_cache_eligible=cache.ram_cache_enabled,
    )


def _consistent(settings: Settings) -> Settings:
    """Nothing stays in memory that has to be asked for anyway."""
    if settings.get_ttl == 0 or not settings.read_cache_enabled:
        return attrs.evolve(settings, ram_cache_eligible=False)
    return settings


def _text(name: bytes) -> str:
    """Names are UTF-8 by S3's rules; a byte that is not counts as a character."""
    return name.decode("utf-8", "surrogateescape")


@attrs.frozen
class _Bucket:
    """What the rules have to do with one bucket.

    :ivar concerning: the numbers of those that may fit a name in it, in order
    :ivar settings: when they are the same for all of the bucket; else None
    """

    concerning: tuple[int, ...]
    settings: Settings | None


class Rules:
    """Resolves the settings of an object: the one place where they come from.

    What was found is remembered, for so many buckets and objects that memory stays small.

    :ivar rules: in order
    """

    def __init__(self, config: Config, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._defaults = _defaults(config)
        self._only = None if self.rules else _consistent(self._defaults)
        self._buckets: dict[bytes, _Bucket] = {}
        self._objects: dict[tuple[bytes, bytes], Settings] = {}
        self._combined: dict[tuple[int, ...], Settings] = {}
        # Of two rules with one pattern, the first one fits first.
        self._numbers = {rule.glob.pattern: len(self.rules) - n for n, rule in enumerate(reversed(self.rules), 1)}

    def number_of(self, settings: Settings) -> int:
        """The place, from 0, of the first rule that fitted when these settings were found; -1 without one."""
        return self._numbers.get(settings.source, -1) if settings.source else -1

    def resolve(self, address: ObjectAddress) -> Settings:
        """The settings for this object.

        The store does not matter: buckets of one name in two stores share their rules.
        """
        if self._only is not None:
            return self._only
        bucket = self._buckets.get(address.bucket)
        if bucket is None:
            bucket = self._look_at(address.bucket)
        if bucket.settings is not None:
            return bucket.settings
        known = address.bucket, address.key
        settings = self._objects.get(known)
        if settings is None:
            name = _text(address.bucket + b"/" + address.key)
            settings = self._combine(tuple(n for n in bucket.concerning if self.rules[n].glob.fits(name)))
            if len(name) <= LONGEST_NAME:
                _remember(self._objects, known, settings, MOST_OBJECTS)
        return settings

    def _look_at(self, name: bytes) -> _Bucket:
        text = _text(name)
        begin = text + "/"
        concerning = tuple(n for n, rule in enumerate(self.rules) if rule.concerns(text))
        globs = [self.rules[n].glob for n in concerning]
        # What fits a beginning, and ends with stars that take any rest, fits all that begins so.
        same = all(glob.pattern.endswith("**") and glob.fits(begin) for glob in globs)
        bucket = _Bucket(concerning, self._combine(concerning) if same else None)
        if len(text) <= LONGEST_NAME:
            _remember(self._buckets, name, bucket, MOST_BUCKETS)
        return bucket

    def _combine(self, fitting: tuple[int, ...]) -> Settings:
        """The settings under these rules, all of which fit."""
        settings = self._combined.get(fitting)
        if settings is None:
            rules = [self.rules[n] for n in fitting]
            said: dict[str, Any] = {}
            for field in FIELDS:
                value = next((each for rule in rules if (each := getattr(rule, field)) is not None), None)
                if value is not None:
                    said[SETTING_NAMES.get(field, field)] = value
            source = rules[0].glob.pattern if rules else ""
            settings = _consistent(attrs.evolve(self._defaults, source=source, **said))
            _remember(self._combined, fitting, settings, MOST_COMBINATIONS)
        return settings


def _remember(memory: dict[K, V], key: K, value: V, most: int) -> None:
    if len(memory) >= most:
        memory.clear()
    memory[key] = value
