"""How often each cache rule, the first one that fits, decided what became of a read."""

from collections.abc import Iterator
from typing import Final

from s3proxy.telemetry import operations
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.record import RequestRecord

__all__ = ["MOST_RULES", "RuleCount", "RuleCounts"]

MOST_RULES: Final = 100
"""Rules that are told apart: the first ones."""

_RESULTS: Final = {
    "HIT": "hit", "REVALIDATED": "hit", "COALESCED": "hit", "STALE": "hit", "MISS": "miss", "PARTIAL": "miss",
}  # fmt: skip


class RuleCount:
    """:ivar requests: of one kind under one rule"""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = 0


class RuleCounts:
    """Belongs to the reactor's thread. Counts go on when the file of rules changes: numbers are places in the file."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], RuleCount] = {}
        self._none = RuleCount()

    def of(self, record: RequestRecord) -> RuleCount:
        """Where this request is counted; without a rule, nowhere that is shown."""
        if not 0 <= record.rule < MOST_RULES:
            return self._none
        kind = str(record.rule), operations.group_of(record.operation), _RESULTS.get(record.outcome, "other")
        count = self._counts.get(kind)
        if count is None:
            count = self._counts[kind] = RuleCount()
        return count

    def readings(self) -> Iterator[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        for kind, count in self._counts.items():
            yield Reading("s3proxy_rule_requests_total", count.requests, kind)
