"""Which rules an object's settings come from, for people who ask why it is cached as it is. Pure."""

from typing import Any

import attrs

from s3proxy.policy.rules import SETTING_NAMES, Rules
from s3proxy.policy.rules_file import FIELDS
from s3proxy.s3.address import ObjectAddress

__all__ = ["Explained", "Explanation", "explain"]


@attrs.frozen
class Explained:
    """One setting.

    :ivar name: of the field, as in the file of rules
    :ivar value: that is in force; durations in seconds
    :ivar rule: the number of the rule that decided it, from 1 on; None: the configuration did
    :ivar remark: why it is neither what that rule nor what the configuration says
    """

    name: str
    value: Any
    rule: int | None
    remark: str = ""


@attrs.frozen
class Explanation:
    """What holds for an object.

    :ivar fitting: number and pattern of every rule that fits, in order; the first one that says something decides
    """

    fitting: tuple[tuple[int, str], ...]
    settings: tuple[Explained, ...]


def explain(rules: Rules, address: ObjectAddress) -> Explanation:
    """The settings of an object, each with the rule that it comes from."""
    settings = rules.resolve(address)
    name = (address.bucket + b"/" + address.key).decode("utf-8", "surrogateescape")
    fitting = [(number, rule) for number, rule in enumerate(rules.rules, 1) if rule.glob.fits(name)]
    explained = []
    for field in FIELDS:
        value = getattr(settings, SETTING_NAMES.get(field, field))
        said = next(((number, found) for number, rule in fitting if (found := getattr(rule, field)) is not None), None)
        remark = ""
        if field == "ram_cache_eligible" and not value:
            if settings.get_ttl == 0:
                remark = "get_ttl is 0s: S3 is asked at every read"
            elif not settings.read_cache_enabled:
                remark = "read_cache_enabled is false"
        explained.append(Explained(field, value, None if said is None else said[0], remark))
    return Explanation(tuple((number, rule.glob.pattern) for number, rule in fitting), tuple(explained))
