"""Snapshots as OTLP wants them: an ExportMetricsServiceRequest in its JSON encoding (opentelemetry-proto 1.x).

Names are those of the text format with dots, and without the suffixes that follow from type and unit: Prometheus, when
it receives OTLP, makes the same names of them again.
"""

from collections.abc import Mapping
from typing import Any, Final

from s3proxy.telemetry.snapshot import Snapshot, number

__all__ = ["METRICS_PATH", "document", "endpoint_url", "rejected"]

METRICS_PATH: Final = "/v1/metrics"

_CUMULATIVE: Final = 2
_UNITS: Final = (("_seconds", "s"), ("_bytes", "By"), ("_ratio", "1"), ("_dollars", "{USD}"))
_KEPT: Final = frozenset({"_dollars"})
"""Suffixes of units that no receiver adds: part of the name."""


def endpoint_url(endpoint: str) -> str:
    """The URL to post to: that of the collector, with the path of metrics if it has none."""
    scheme, _, rest = endpoint.partition("://")
    host, slash, path = rest.partition("/")
    return endpoint if path else f"{scheme}://{host}{METRICS_PATH}"


def document(
    snapshot: Snapshot, resource: Mapping[str, str], *, started_at: float, now: float, per_bucket: bool
) -> dict[str, Any]:
    """The request.

    :param resource: attributes of who exports
    :param started_at: Unix time from which on counters count
    :param now: Unix time of the snapshot
    :param per_bucket: whether series of single buckets are part of it
    """
    times = {"startTimeUnixNano": _nano(started_at), "timeUnixNano": _nano(now)}
    metrics = [
        _metric(name, family, times)
        for name, family in snapshot["families"].items()
        if family["samples"] and not family.get("hidden") and _is_exported(name, per_bucket)
    ]
    scope = {"name": "s3proxy", "version": resource.get("service.version", "")}
    return {
        "resourceMetrics": [
            {"resource": {"attributes": _attributes(resource)}, "scopeMetrics": [{"scope": scope, "metrics": metrics}]}
        ]
    }


def rejected(answer: Any) -> tuple[int, str]:
    """How many data points a collector did not take although it answered 200, and why."""
    partial = answer.get("partialSuccess") if isinstance(answer, dict) else None
    if not isinstance(partial, dict):
        return 0, ""
    try:
        count = int(partial.get("rejectedDataPoints") or 0)
    except (TypeError, ValueError):
        count = 0
    return count, str(partial.get("errorMessage") or "")


def _is_exported(name: str, per_bucket: bool) -> bool:
    # What tells who this is belongs to the resource.
    return not name.endswith("_info") and (per_bucket or not name.startswith("s3proxy_bucket_") or "overflow" in name)


def _metric(name: str, family: dict[str, Any], times: dict[str, str]) -> dict[str, Any]:
    kind = family["type"]
    base = name.removesuffix("_total") if kind == "counter" else name
    unit = ""
    for suffix, word in _UNITS:
        if base.endswith(suffix):
            unit = word
            base = base if suffix in _KEPT else base.removesuffix(suffix)
            break
    metric: dict[str, Any] = {"name": base.replace("_", "."), "description": family["help"], "unit": unit}
    keys = family["labels"]
    points: list[dict[str, Any]] = []
    for labels, value in family["samples"]:
        point: dict[str, Any] = {"attributes": _attributes(dict(zip(keys, labels))), **times}
        if kind == "histogram":
            point["count"] = str(sum(value["counts"]))
            point["sum"] = value["sum"]
            point["bucketCounts"] = [str(count) for count in value["counts"]]
            point["explicitBounds"] = family["bounds"]
        else:
            shown = number(family, value)
            if isinstance(shown, int):
                point["asInt"] = str(shown)
            else:
                point["asDouble"] = shown
        points.append(point)
    if kind == "counter":
        metric["sum"] = {"dataPoints": points, "aggregationTemporality": _CUMULATIVE, "isMonotonic": True}
    elif kind == "histogram":
        metric["histogram"] = {"dataPoints": points, "aggregationTemporality": _CUMULATIVE}
    else:
        metric["gauge"] = {"dataPoints": points}
    return metric


def _attributes(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]


def _nano(at: float) -> str:
    """64-bit integers are strings in JSON."""
    return str(int(at * 1e9))
