"""Counters, gauges and histograms that cost next to nothing to change.

The value classes of prometheus_client take a lock on every change, which is dear beside a request of a few
microseconds. Instruments are plain objects instead. **They are changed by the reactor's thread only**; what other
threads count is read from them when a snapshot is taken (:class:`Reading`), and a histogram that somebody else keeps is
shown as it is (:class:`Spread`).

A family is declared once (:class:`Family`): full name, help, label names and, for a histogram, bounds. A child (one
set of label values) is made by :meth:`Instruments.counter` and the like, is kept by whoever changes it, and starts at
0.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import attrs
from twisted.logger import Logger

from s3proxy.telemetry.snapshot import MERGES, SCHEMA, Snapshot

__all__ = ["Counter", "Family", "Gauge", "Histogram", "Instruments", "Reading", "Spread"]

_TYPES: Final = ("counter", "gauge", "histogram")


@attrs.frozen(kw_only=True)
class Family:
    """One metric: its full name (counters with ``_total``), type, help and label names.

    :ivar bounds: upper bounds of a histogram's buckets, ascending, without infinity
    :ivar merge: how the values of several processes become one (:data:`s3proxy.telemetry.snapshot.MERGES`)
    :ivar exceptions: other rules for series whose first label has these values
    :ivar hidden: part of snapshots, but not shown
    :ivar transient: series that no source reads any more are gone, as those of addresses that DNS has dropped
    """

    name: str
    type: str = attrs.field(validator=attrs.validators.in_(_TYPES))
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    merge: str = attrs.field(default="sum", validator=attrs.validators.in_(MERGES))
    exceptions: Mapping[str, str] = attrs.field(factory=dict)
    hidden: bool = False
    transient: bool = False


@attrs.frozen
class Reading:
    """A value that somebody else keeps: of a gauge, or the running total of a counter.

    :ivar whole: of a gauge that is a ratio, what ``value`` is a part of
    """

    name: str
    value: float
    labels: tuple[str, ...] = ()
    whole: float = 0.0


@attrs.frozen
class Spread:
    """A histogram that somebody else keeps, with the bounds that its family declares."""

    name: str
    histogram: "Histogram"
    labels: tuple[str, ...] = ()


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add *amount*, which is not negative."""
        self.value += amount


class Gauge:
    """A number that goes up and down.

    :ivar whole: what it is a part of, if it is a ratio
    """

    __slots__ = ("value", "whole")

    def __init__(self) -> None:
        self.value: float = 0
        self.whole: float = 0

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value

    def inc(self, amount: float = 1) -> None:
        """Add *amount*."""
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        """Take *amount* away."""
        self.value -= amount


class Histogram:
    """How often values fell below each of some bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float, times: int = 1) -> None:
        """Count one value: in the first bucket whose bound is not below it.

        :param times: how often it came
        """
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)


_Child = TypeVar("_Child", Counter, Gauge, Histogram)


class Instruments:
    """The children of declared families."""

    _log = Logger()

    def __init__(self, families: Iterable[Family]) -> None:
        self._families: dict[str, Family] = {family.name: family for family in families}
        self._children: dict[str, dict[tuple[str, ...], Counter | Gauge | Histogram]] = {n: {} for n in self._families}
        self._sources: list[tuple[str, Callable[[], Iterable[Reading | Spread]]]] = []
        self._seconds: dict[str, float] = {}
        self._errors: dict[str, int] = {}

    @property
    def families(self) -> tuple[Family, ...]:
        """Everything that was declared, in order."""
        return tuple(self._families.values())

    def counter(self, name: str, *labels: str) -> Counter:
        """The counter of this family with these label values; made at first use.

        :raises KeyError: when no such counter is declared, :raises ValueError: when the number of labels is wrong.
        """
        return self._child(name, "counter", labels, Counter)

    def gauge(self, name: str, *labels: str) -> Gauge:
        """The gauge of this family with these label values; errors as :meth:`counter`."""
        return self._child(name, "gauge", labels, Gauge)

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The histogram of this family with these label values; errors as :meth:`counter`."""
        return self._child(name, "histogram", labels, lambda: Histogram(self._families[name].bounds))

    def add_source(self, source: Callable[[], Iterable[Reading | Spread]], collector: str = "other") -> None:
        """Ask *source* whenever metrics are wanted. One that raises is logged and counted, no more.

        :param collector: what it is called where its costs and failures are shown; several sources may share a name
        """
        self._sources.append((collector, source))
        self._seconds.setdefault(collector, 0.0)
        self._errors.setdefault(collector, 0)

    @property
    def costs(self) -> Mapping[str, float]:
        """By collector: seconds that it took the last time."""
        return self._seconds

    @property
    def errors(self) -> Mapping[str, int]:
        """By collector: how often it failed."""
        return self._errors

    def children(self, name: str) -> Mapping[tuple[str, ...], Counter | Gauge | Histogram]:
        """The children of a family that exist, by their label values."""
        return self._children[name]

    def describe(self) -> Snapshot:
        """Every declared family with its present values."""
        return {"schema": SCHEMA, "families": {name: self._describe(family) for name, family in self._families.items()}}

    def refresh(self) -> None:
        """Take over what the sources read now."""
        for family in self._families.values():
            if family.transient:
                self._children[family.name].clear()
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        for collector, source in self._sources:
            began = time.perf_counter()
            try:
                for reading in source():
                    self._take(reading)
            except Exception:
                self._errors[collector] += 1
                self._log.failure("A source of metrics failed: {source}", source=source)
            self._seconds[collector] += time.perf_counter() - began

    def _take(self, reading: Reading | Spread) -> None:
        if isinstance(reading, Spread):
            family = self._families[reading.name]
            if family.type != "histogram" or family.bounds != reading.histogram.bounds:
                raise ValueError(f"{reading.name} has other bounds")
            self._children[reading.name][reading.labels] = reading.histogram
        elif self._families[reading.name].type == "counter":
            self.counter(reading.name, *reading.labels).value = reading.value
        else:
            gauge = self.gauge(reading.name, *reading.labels)
            gauge.value, gauge.whole = reading.value, reading.whole

    def _child(self, name: str, kind: str, labels: tuple[str, ...], make: Callable[[], _Child]) -> _Child:
        family = self._families[name]
        if family.type != kind:
            raise KeyError(f"{name} is a {family.type}, not a {kind}")
        if len(labels) != len(family.labels):
            raise ValueError(f"{name} has the labels {family.labels}, not {labels}")
        child: _Child = self._children[name].get(labels)  # type: ignore[assignment]
        if child is None:
            child = make()
            self._children[name][labels] = child
        return child

    def _describe(self, family: Family) -> dict[str, Any]:
        described: dict[str, Any] = {
            "type": family.type,
            "help": family.help,
            "labels": list(family.labels),
            "merge": family.merge,
        }
        if family.bounds:
            described["bounds"] = list(family.bounds)
        if family.exceptions:
            described["except"] = dict(family.exceptions)
        if family.hidden:
            described["hidden"] = True
        ratio = family.merge == "ratio"
        described["samples"] = [
            [list(labels), _value(child, ratio)] for labels, child in list(self._children[family.name].items())
        ]
        return described


def _value(child: Counter | Gauge | Histogram, ratio: bool) -> Any:
    if isinstance(child, Histogram):
        return {"counts": list(child.counts), "sum": child.sum}
    if ratio and isinstance(child, Gauge):
        return [child.value, child.whole]
    return child.value
