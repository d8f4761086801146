"""Snapshots as people and programs want to read them: Prometheus' text format, OpenMetrics, and JSON.

:func:`prometheus_client.generate_latest` does the same for a registry, ten times slower; a scrape holds up the reactor.
"""

import json
import math
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from itertools import accumulate
from typing import Any, Final

from prometheus_client.utils import floatToGoString

from s3proxy.telemetry.snapshot import Snapshot, number

__all__ = ["OPENMETRICS_CONTENT_TYPE", "TEXT_CONTENT_TYPE", "json_document", "openmetrics", "percentile", "text"]

TEXT_CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
"""The media type of :func:`text`."""

OPENMETRICS_CONTENT_TYPE: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
"""The media type of :func:`openmetrics`."""

_PERCENTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


def text(snapshot: Snapshot, names: Collection[str] = ()) -> bytes:
    """Prometheus' text format 0.0.4.

    :param names: only these families or series (``name``, ``name_bucket``…); none: all of them
    """
    return "".join(_lines(snapshot, names, openmetrics=False)).encode("utf-8")


def openmetrics(snapshot: Snapshot, names: Collection[str] = ()) -> bytes:
    """OpenMetrics 1.0: the same values; the families of counters are named without ``_total``."""
    return "".join((*_lines(snapshot, names, openmetrics=True), "# EOF\n")).encode("utf-8")


def json_document(snapshot: Snapshot, names: Collection[str] = ()) -> bytes:
    """One JSON document: a summary for people, and each metric's values. ``instance`` names who is in the snapshot."""
    families = snapshot["families"]
    document = {
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "instance": [labels[0] for labels, _ in _samples(families, "s3proxy_instance_info")],
        "summary": summary(snapshot),
        "metrics": {name: _json_values(family) for name, family in families.items() if _is_wanted(name, family, names)},
    }
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


def percentile(counts: "list[float]", bounds: "list[float]", share: float) -> float | None:
    """The value that this share of all does not exceed, as Prometheus' ``histogram_quantile`` estimates it.

    :param counts: one for each bound, and one for what is above the last
    :return: None without any; the last bound for what is above it
    """
    wanted = share * sum(counts)
    if wanted <= 0:
        return None
    below, lower = 0.0, 0.0
    for count, bound in zip(counts, bounds):
        if below + count >= wanted:
            return lower + (bound - lower) * ((wanted - below) / count)
        below += count
        lower = bound
    return bounds[-1]


def summary(snapshot: Snapshot) -> dict[str, Any]:
    """What people look for first. Latencies are those of the last minutes, in seconds; None without a request."""
    families = snapshot["families"]

    def total(name: str, *wanted: str) -> float:
        return sum(value for labels, value in _samples(families, name) if not wanted or tuple(labels) == wanted)

    def ratio(name: str, window: str) -> float:
        family = families.get(name)
        values = [value for labels, value in _samples(families, name) if labels == [window]]
        return round(100 * number(family, values[0]), 3) if family is not None and values else 0.0

    return {
        "cache_hit_rate_percent": ratio("s3proxy_cache_hit_rate_ratio", "total"),
        "cache_hit_rate_5m_percent": ratio("s3proxy_cache_hit_rate_ratio", "5m"),
        "cache_byte_hit_rate_percent": ratio("s3proxy_cache_byte_hit_rate_ratio", "total"),
        "ram_cache_hit_rate_percent": ratio("s3proxy_ram_cache_hit_rate_ratio", "total"),
        "requests_total": total("s3proxy_http_requests_total"),
        "requests_per_second_1m": round(total("s3proxy_recent_requests_per_second"), 3),
        "requests_in_flight": total("s3proxy_http_requests_in_flight"),
        "s3_requests_saved": total("s3proxy_s3_requests_saved_total"),
        "s3_bytes_saved": total("s3proxy_s3_saved_bytes_total"),
        "estimated_savings_dollars": round(total("s3proxy_estimated_savings_dollars_total"), 6),
        "cache_size_bytes": total("s3proxy_cache_size_bytes", "disk"),
        "cache_limit_bytes": total("s3proxy_cache_limit_bytes", "disk"),
        "latency": {
            "first_byte_seconds": _latencies(families, "s3proxy_recent_first_byte_seconds"),
            "total_seconds": _latencies(families, "s3proxy_recent_request_duration_seconds"),
        },
    }


def _samples(families: dict[str, Any], name: str) -> list[Any]:
    family = families.get(name)
    return [] if family is None else family["samples"]  # type: ignore[no-any-return]


def _latencies(families: dict[str, Any], name: str) -> dict[str, Any]:
    """Percentiles by source, and of all together."""
    family = families.get(name)
    if family is None:
        return {}
    found = {"all": [0.0] * (len(family["bounds"]) + 1)}
    for (source,), value in family["samples"]:
        found[source] = value["counts"]
        found["all"] = [one + other for one, other in zip(found["all"], value["counts"])]
    return {
        source: {
            word: None if (at := percentile(counts, family["bounds"], share)) is None else round(at, 6)
            for word, share in _PERCENTILES
        }
        for source, counts in found.items()
    }


# The text formats.


def _is_wanted(name: str, family: dict[str, Any], names: Collection[str]) -> bool:
    if family.get("hidden"):
        return False
    if not names or name in names:
        return True
    if family["type"] == "counter":
        return name.removesuffix("_total") in names
    return family["type"] == "histogram" and any(f"{name}{part}" in names for part in ("_bucket", "_count", "_sum"))


def _lines(snapshot: Snapshot, names: Collection[str], *, openmetrics: bool) -> Iterator[str]:
    for name, family in snapshot["families"].items():
        if not _is_wanted(name, family, names):
            continue
        kind = family["type"]
        shown = name.removesuffix("_total") if openmetrics and kind == "counter" else name
        help = family["help"].replace("\\", r"\\").replace("\n", r"\n")
        if openmetrics:
            help = help.replace('"', r"\"")
        yield f"# HELP {shown} {help}\n# TYPE {shown} {kind}\n"
        if kind == "histogram":
            yield from _histogram(name, family)
            continue
        keys = family["labels"]
        for labels, value in family["samples"]:
            yield f"{name}{_labels(keys, labels)} {_number(number(family, value))}\n"


def _histogram(name: str, family: dict[str, Any]) -> Iterator[str]:
    keys = family["labels"]
    bounds = [floatToGoString(bound) for bound in (*family["bounds"], math.inf)]
    for labels, value in family["samples"]:
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in zip(keys, labels))
        start = name + "_bucket{" + inner + ("," if inner else "") + 'le="'
        counts = list(accumulate(value["counts"]))
        for bound, count in zip(bounds, counts):
            yield f'{start}{bound}"}} {count}.0\n'
        around = f"{{{inner}}}" if inner else ""
        yield f"{name}_count{around} {counts[-1]}.0\n{name}_sum{around} {_number(value['sum'])}\n"


def _labels(keys: list[str], labels: list[str]) -> str:
    if not keys:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(label)}"' for key, label in zip(keys, labels)) + "}"


def _escaped(label: str) -> str:
    if "\\" in label or "\n" in label or '"' in label:
        return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return label


def _number(value: float) -> str:
    return floatToGoString(value)  # type: ignore[no-any-return, no-untyped-call]


# JSON.


def _json_values(family: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for labels, value in family["samples"]:
        if family["type"] == "histogram":
            counts = list(accumulate(value["counts"]))
            bounds = [floatToGoString(bound) for bound in (*family["bounds"], math.inf)]
            shown: Any = {"count": counts[-1], "sum": value["sum"], "buckets": dict(zip(bounds, counts))}
        else:
            shown = number(family, value)
        found.append({"labels": dict(zip(family["labels"], labels)), "value": shown})
    return found
