"""What a worker tells its supervisor about itself, as a value for JSON, and what many of these amount to."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from s3proxy.admin.board import ComponentStatus, HealthComponent, HealthState
from s3proxy.cache.entry import ObjectId
from s3proxy.dashboard.samples import GAUGES, SUMS
from s3proxy.services.engine import Engine
from s3proxy.telemetry.traffic import Answers, Totals

__all__ = ["Facts", "Gathered", "facts_of", "remains_of", "worst_of"]

Facts = dict[str, Any]

MOST_RUNNING: Final = 200
_WORSE: Final = (HealthState.DISABLED, HealthState.HEALTHY, HealthState.DEGRADED, HealthState.UNHEALTHY)
_SHARED: Final = frozenset({"disk_bytes", "disk_limit"})
"""Columns about what all processes have in common."""
_REQUEST: Final = ("received_at", "client_address", "method", "target", "status", "body_bytes_sent")
_RECORD: Final = (
    "operation", "bucket", "key", "served_range", "outcome", "upstream_address", "object_size", "method",
)  # fmt: skip


def _plain(value: Any) -> Any:
    return {"b": value.decode("latin-1")} if isinstance(value, bytes) else value


def _whole(value: Any) -> Any:
    return value["b"].encode("latin-1") if isinstance(value, dict) else value


@attrs.define(slots=False)
class _Seen:
    """Something of another process, of which some attributes are known."""

    @classmethod
    def of(cls, names: Iterable[str], values: Iterable[Any]) -> "Any":
        """Attributes by these names."""
        seen = cls()
        seen.__dict__.update(zip(names, map(_whole, values)))
        return seen


def facts_of(engine: Engine, lag: float) -> Facts:
    """What an engine is doing, and has done.

    :param lag: how late its event loop is, in seconds
    """
    running = sorted(engine.requests(), key=lambda each: each[0].received_at)
    return {
        "row": engine.read(),
        "lag": lag,
        "permits": engine.permits(),
        "running": [
            [
                [_plain(getattr(request, name)) for name in _REQUEST],
                [_plain(getattr(record, name)) for name in _RECORD],
            ]
            for request, record in running[:MOST_RUNNING]
        ],
        "fills": [
            [
                id.store, _plain(id.bucket), _plain(id.key), fill.start, fill.have, fill.stop, fill.readers
            ]
            for id, fill in engine.manager.bodies_under_way()
        ],
        "places": [
            [_plain(place.bucket), _plain(place.prefix), attrs.asdict(place.totals)]
            for place in engine.traffic
        ],
        "addresses": {name: attrs.asdict(answers) for name, answers in engine.traffic.addresses.items()},
        "upstream": engine.upstream(),
        "health": {
            name: [status.state.value, status.message, status.data]
            for name, component in engine.health().items()
            for status in (component(),)
        },
    }  # fmt: skip


def remains_of(facts: Facts) -> Facts:
    """What counts on after a worker has ended."""
    return {
        "row": {name: value for name, value in facts["row"].items() if name in SUMS},
        "places": facts["places"],
        "addresses": facts["addresses"],
    }


class Gathered:
    """The facts of all workers as one engine would tell them.

    :ivar by_worker: the newest facts, by the worker's number in people's eyes and whatever tells workers apart
    """

    def __init__(self) -> None:
        self.by_worker: dict[Any, tuple[int, Facts]] = {}
        self._past: list[Facts] = []

    def tell(self, worker: Any, number: int, facts: Facts) -> None:
        """What a worker says now."""
        self.by_worker[worker] = (number, facts)

    def gone(self, worker: Any) -> None:
        """A worker has ended: what it has counted stays."""
        known = self.by_worker.pop(worker, None)
        if known is not None:
            self._past.append(remains_of(known[1]))
            if len(self._past) > 1:
                self._past = [self._merged_past()]

    def _merged_past(self) -> Facts:
        row: dict[str, float] = {}
        for past in self._past:
            for name, value in past["row"].items():
                row[name] = row.get(name, 0) + value
        places = [
            [_plain(bucket), _plain(prefix), attrs.asdict(totals)]
            for (bucket, prefix), totals in _places(self._past).items()
        ]
        addresses = {name: attrs.asdict(answers) for name, answers in _answers(self._past).items()}
        return {"row": row, "places": places, "addresses": addresses}

    @property
    def _living(self) -> list[Facts]:
        return [facts for _, facts in self.by_worker.values()]

    @property
    def _all(self) -> list[Facts]:
        return [*self._living, *self._past]

    def read(self) -> dict[str, float]:
        """See :meth:`Engine.read`."""
        row: dict[str, float] = dict.fromkeys((*SUMS, *GAUGES), 0.0)
        for facts in self._all:
            for name, value in facts["row"].items():
                if name == "lag" or name in _SHARED:
                    row[name] = max(row[name], value)
                else:
                    row[name] += value
        return row

    def permits(self) -> int:
        """See :meth:`Engine.permits`."""
        return sum(facts["permits"] for facts in self._living)

    def requests(self) -> Iterator[tuple[Any, Any]]:
        """See :meth:`Engine.requests`."""
        found = [
            (_Seen.of(_REQUEST, request), _Seen.of(_RECORD, record))
            for facts in self._living
            for request, record in facts["running"]
        ]
        yield from sorted(found, key=lambda each: each[0].received_at)

    def bodies_under_way(self) -> Iterator[tuple[ObjectId, Any]]:
        """See :meth:`CacheManager.bodies_under_way`."""
        for facts in self._living:
            for store, bucket, key, *rest in facts["fills"]:
                yield (
                    ObjectId(store, _whole(bucket), _whole(key)),
                    _Seen.of(("start", "have", "stop", "readers"), rest),
                )

    def buckets(self) -> dict[bytes, Totals]:
        """See :meth:`Traffic.buckets`."""
        found: dict[bytes, Totals] = {}
        for (bucket, _), totals in _places(self._all).items():
            found.setdefault(bucket, Totals()).add(totals)
        return found

    def prefixes(self, bucket: bytes) -> dict[bytes, Totals]:
        """See :meth:`Traffic.prefixes`."""
        return {prefix: totals for (name, prefix), totals in _places(self._all).items() if name == bucket}

    @property
    def addresses(self) -> dict[str, Answers]:
        """See :class:`Traffic`."""
        return _answers(self._all)

    def upstream(self) -> dict[str, Any]:
        """See :meth:`Engine.upstream`."""
        snapshots = [facts["upstream"] for facts in self._living]
        found = merged(snapshots) if snapshots else {"hosts": {}, "excluded": []}
        for host in found["hosts"].values():
            # Left out is what no worker gets an answer from; others go on trying where one has given up.
            host["excluded"] = [
                ip
                for ip in host["excluded"]
                if all(ip in each["hosts"][name]["excluded"]
                       for each in snapshots for name in each["hosts"] if ip in each["hosts"][name]["addresses"])
            ]  # fmt: skip
        return found

    def latest(self) -> Iterator[tuple[float, bytes]]:
        """See :meth:`Engine.latest`; of the workers that were asked for them."""
        lines = [
            (arrived, line.encode("latin-1")) for facts in self._living for arrived, line in facts.get("latest", ())
        ]
        yield from sorted(lines, key=lambda each: each[0], reverse=True)

    def most_late(self) -> float:
        """How late the event loop of the worker is that is latest, in seconds."""
        return max((float(facts["lag"]) for facts in self._living), default=0.0)

    def health(self, name: str) -> ComponentStatus:
        """What the workers say of a component: the worst, with its worker's number."""
        found = {
            number: ComponentStatus(name, HealthState(said[0]), said[1], data=said[2])
            for number, facts in self.by_worker.values()
            if (said := facts["health"].get(name)) is not None
        }
        return worst_of(name, found)


def worst_of(name: str, statuses: Mapping[int, ComponentStatus]) -> ComponentStatus:
    """Of one component in several workers, by number: the worst state, who says so, and figures of all together."""
    if not statuses:
        return ComponentStatus(name, HealthState.HEALTHY)
    state = max((status.state for status in statuses.values()), key=_WORSE.index)
    said: dict[str, list[int]] = {}
    for number, status in sorted(statuses.items()):
        if status.state is state and status.message:
            said.setdefault(status.message, []).append(number)
    if len(said) == 1 and len(next(iter(said.values()))) == len(statuses):
        message = next(iter(said))
    else:
        message = " ".join(
            f"Worker {', '.join(map(str, numbers))}: {text}" for text, numbers in said.items()
        )  # fmt: skip
    return ComponentStatus(name, state, message, data=merged([status.data for status in statuses.values()]))


_WORST: dict[str, Callable[[Iterable[float]], float]] = {
    "lag_p99_seconds": max, "lag_max_seconds": max, "excluded_for_seconds": max, "seconds": max,
    "expires_at": min, "days_left": min, "next_probe_seconds": min,
}  # fmt: skip
"""Figures that have no sum, and which of several says most."""


def merged(documents: list[Any], name: str = "") -> Any:
    """Several documents of one shape as one: numbers add up, or the worst counts where they have no sum; lists are
    united, of other values the first counts.

    :param name: what the documents are in the document around them
    """
    first = documents[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(key for each in documents for key in each)
        return {key: merged([each[key] for each in documents if key in each], key) for key in keys}
    if isinstance(first, bool) or isinstance(first, str) or first is None:
        return first
    if isinstance(first, (int, float)):
        return _WORST.get(name, sum)(each for each in documents if isinstance(each, (int, float)))
    if isinstance(first, (list, tuple)):
        united: list[Any] = []
        for each in documents:
            united += [item for item in each if item not in united]
        return united
    return first


def _places(all_facts: Iterable[Facts]) -> dict[tuple[bytes, bytes], Totals]:
    found: dict[tuple[bytes, bytes], Totals] = {}
    for facts in all_facts:
        for bucket, prefix, totals in facts["places"]:
            found.setdefault((_whole(bucket), _whole(prefix)), Totals()).add(Totals(**totals))
    return found


def _answers(all_facts: Iterable[Facts]) -> dict[str, Answers]:
    found: dict[str, Answers] = {}
    for facts in all_facts:
        for name, values in facts["addresses"].items():
            given, known = Answers(**values), found.setdefault(name, Answers())
            for field in attrs.fields(Answers):
                mine, other = getattr(known, field.name), getattr(given, field.name)
                setattr(known, field.name, max(mine, other) if field.name == "last" else mine + other)
    return found


def components(gathered: Gathered, names: Iterable[str]) -> dict[str, HealthComponent]:
    """The components that the workers answer for."""

    def ask(name: str) -> HealthComponent:
        return lambda: gathered.health(name)

    return {name: ask(name) for name in names}
