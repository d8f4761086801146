"""Counters, gauges and histograms that cost next to nothing to change, and one collector that shows them to a registry.

prometheus_client renders and parses; its own value classes take a lock on every change, which is dear beside a request
of a few microseconds. Instruments are plain objects instead. **They are changed by the reactor's thread only**; what
other threads count is read from them at scrape time (:class:`Reading`).

A family is declared once (:class:`Family`): full name, help, label names and, for a histogram, bounds. A child (one
set of label values) is made by :meth:`Instruments.counter` and the like, is kept by whoever changes it, and starts at
0.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString
from twisted.logger import Logger

__all__ = ["Counter", "Family", "Gauge", "Histogram", "Instruments", "Reading"]

_TYPES: Final = ("counter", "gauge", "histogram")


@attrs.frozen(kw_only=True)
class Family:
    """One metric: its full name (counters with ``_total``), type, help and label names.

    :ivar bounds: upper bounds of a histogram's buckets, ascending, without infinity
    """

    name: str
    type: str = attrs.field(validator=attrs.validators.in_(_TYPES))
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


@attrs.frozen
class Reading:
    """A value that somebody else keeps: of a gauge, or the running total of a counter."""

    name: str
    value: float
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
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

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

    def cumulative(self) -> list[tuple[str, int]]:
        """The buckets as exposition formats want them: (bound as text, values up to it)."""
        total = 0
        result = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts):
            total += count
            result.append((floatToGoString(bound), total))
        return result


_Child = TypeVar("_Child", Counter, Gauge, Histogram)


class Instruments:
    """The children of declared families; a collector for prometheus_client's registry."""

    _log = Logger()

    def __init__(self, families: Iterable[Family]) -> None:
        self._families: dict[str, Family] = {family.name: family for family in families}
        self._children: dict[str, dict[tuple[str, ...], Counter | Gauge | Histogram]] = {n: {} for n in self._families}
        self._sources: list[Callable[[], Iterable[Reading]]] = []
        self.source_errors = 0

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

    def add_source(self, source: Callable[[], Iterable[Reading]]) -> None:
        """Ask *source* for readings whenever metrics are wanted. One that raises is logged and counted, no more."""
        self._sources.append(source)

    def children(self, name: str) -> Mapping[tuple[str, ...], Counter | Gauge | Histogram]:
        """The children of a family that exist, by their label values."""
        return self._children[name]

    def describe(self) -> Iterator[Metric]:
        """What a registry wants to know at registration; names only, no source is asked."""
        for family in self._families.values():
            yield _empty(family)

    def collect(self) -> Iterator[Metric]:
        """Every declared family with its present values, first asking every source."""
        self.refresh()
        for family in self._families.values():
            metric = _empty(family)
            for labels, child in list(self._children[family.name].items()):
                if isinstance(metric, HistogramMetricFamily) and isinstance(child, Histogram):
                    metric.add_metric(labels, child.cumulative(), child.sum)
                elif isinstance(metric, (CounterMetricFamily, GaugeMetricFamily)) and not isinstance(child, Histogram):
                    metric.add_metric(labels, child.value)
            yield metric

    def refresh(self) -> None:
        """Take over what the sources read now."""
        for source in self._sources:
            try:
                for reading in source():
                    self._take(reading)
            except Exception:
                self.source_errors += 1
                self._log.failure("A source of metrics failed: {source}", source=source)

    def _take(self, reading: Reading) -> None:
        if self._families[reading.name].type == "counter":
            self.counter(reading.name, *reading.labels).value = reading.value
        else:
            self.gauge(reading.name, *reading.labels).value = reading.value

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


def _empty(family: Family) -> Metric:
    if family.type == "counter":
        return CounterMetricFamily(family.name, family.help, labels=family.labels)
    if family.type == "gauge":
        return GaugeMetricFamily(family.name, family.help, labels=family.labels)
    return HistogramMetricFamily(family.name, family.help, labels=family.labels)
