"""What happened between two documents of the API. Pure."""

from collections.abc import Mapping
from typing import Any

__all__ = ["rates"]

_NAMES = ("requests_total", "reads", "hits", "sent", "received", "from_s3", "to_s3", "saved_bytes", "shed")


def rates(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, float | None]:
    """Per second, of the totals of two summaries; None where that can't be told: of the first, and after a restart.

    :return: with ``hit_rate``, the share of the reads in between that the cache answered
    """
    seconds = 0.0 if before is None else float(now["time"]) - float(before["time"])
    if before is None or seconds <= 0 or any(now[name] < before[name] for name in _NAMES):
        return {**dict.fromkeys(_NAMES), "hit_rate": None}
    grown = {name: now[name] - before[name] for name in _NAMES}
    found: dict[str, float | None] = {name: grown[name] / seconds for name in _NAMES}
    found["hit_rate"] = grown["hits"] / grown["reads"] if grown["reads"] else None
    return found
