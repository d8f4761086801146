"""Snapshots as OpenTelemetry's SDK wants them. Needs the extra ``s3proxy[otlp]``.

Names are those of the text format with dots, and without the suffixes that follow from type and unit: Prometheus, when
it receives OTLP, makes the same names of them again.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from s3proxy.telemetry.snapshot import Snapshot, number

__all__ = ["metrics_data"]

_UNITS: Final = (("_seconds", "s"), ("_bytes", "By"), ("_ratio", "1"), ("_dollars", "{USD}"))
_KEPT: Final = frozenset({"_dollars"})
"""Suffixes of units that no receiver adds: part of the name."""


def metrics_data(
    snapshot: Snapshot, resource: Mapping[str, str], *, started_at: float, now: float, per_bucket: bool
) -> MetricsData:
    """Everything that is shown of the snapshot; counters and histograms are cumulative.

    :param resource: attributes of who exports
    :param started_at: Unix time from which on counters count
    :param now: Unix time of the snapshot
    :param per_bucket: whether series of single buckets are part of it
    """
    times = _Times(start=int(started_at * 1e9), end=int(now * 1e9))
    metrics = [
        _metric(name, family, times)
        for name, family in snapshot["families"].items()
        if family["samples"] and not family.get("hidden") and _is_exported(name, per_bucket)
    ]
    scope = InstrumentationScope("s3proxy", resource.get("service.version"))
    return MetricsData(
        [ResourceMetrics(Resource(dict(resource)), [ScopeMetrics(scope, metrics, schema_url="")], schema_url="")]
    )


@attrs.frozen
class _Times:
    """Unix times in nanoseconds."""

    start: int
    end: int


def _is_exported(name: str, per_bucket: bool) -> bool:
    # What tells who this is belongs to the resource.
    return not name.endswith("_info") and (per_bucket or not name.startswith("s3proxy_bucket_") or "overflow" in name)


def _metric(name: str, family: dict[str, Any], times: _Times) -> Metric:
    kind = family["type"]
    base = name.removesuffix("_total") if kind == "counter" else name
    unit = ""
    for suffix, word in _UNITS:
        if base.endswith(suffix):
            unit = word
            base = base if suffix in _KEPT else base.removesuffix(suffix)
            break
    data: Sum | Gauge | Histogram
    if kind == "histogram":
        data = Histogram(_distributions(family, times), AggregationTemporality.CUMULATIVE)
    elif kind == "counter":
        data = Sum(_numbers(family, times), AggregationTemporality.CUMULATIVE, is_monotonic=True)
    else:
        data = Gauge(_numbers(family, times))
    return Metric(base.replace("_", "."), family["help"], unit, data)


def _numbers(family: dict[str, Any], times: _Times) -> list[NumberDataPoint]:
    keys = family["labels"]
    return [
        NumberDataPoint(dict(zip(keys, labels)), times.start, times.end, number(family, value))
        for labels, value in family["samples"]
    ]


def _distributions(family: dict[str, Any], times: _Times) -> list[HistogramDataPoint]:
    keys = family["labels"]
    return [
        HistogramDataPoint(
            attributes=dict(zip(keys, labels)),
            start_time_unix_nano=times.start,
            time_unix_nano=times.end,
            count=sum(value["counts"]),
            sum=value["sum"],
            bucket_counts=value["counts"],
            explicit_bounds=family["bounds"],
            # Nobody has noted them, and the protocol does without.
            min=None,  # type: ignore[arg-type]
            max=None,  # type: ignore[arg-type]
        )
        for labels, value in family["samples"]
    ]
