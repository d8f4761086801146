"""What is measured once a second: a row of numbers, read from the instruments that /metrics shows."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from s3proxy.telemetry.families import FIRST_BYTE_BOUNDS, REQUEST_BOUNDS
from s3proxy.telemetry.instruments import Counter, Gauge, Histogram, Instruments, Reading, Spread
from s3proxy.telemetry.metrics import Metrics

__all__ = ["COLUMNS", "GAUGES", "OUTCOMES", "SUMS", "Sampler"]

OUTCOMES: Final = ("hit", "miss", "revalidated", "partial", "coalesced", "bypass", "stale", "error")
"""What became of requests, as people see it: the words of X-Cache in lower case."""

_OUTCOME_OF: Final = {"ram": "hit", "disk": "hit", "write": "bypass"}
"""Of the sources of the metrics, those with another name; what is no outcome is an error."""

_FROM_CACHE: Final = frozenset({"ram", "disk", "stale"})
_WITHOUT_S3: Final = frozenset({"local"})


def _spread(name: str, bounds: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{name}_{number}" for number in range(len(bounds) + 1))


SUMS: Final = (
    *(f"req_{outcome}" for outcome in OUTCOMES),
    "reads", "hits", "read_bytes", "cached_bytes", "sent", "received", "from_s3", "to_s3",
    "saved_get", "saved_head", "saved_bytes", "status_4xx", "status_5xx", "aborts", "shed",
    "upstream_requests", "upstream_errors", "upstream_retries", "fills", "fill_bytes", "evictions", "evicted_bytes",
    *_spread("first_byte_cache", FIRST_BYTE_BOUNDS),
    *_spread("first_byte_s3", FIRST_BYTE_BOUNDS),
    *_spread("total", REQUEST_BOUNDS),
)  # fmt: skip
"""Columns that only grow; rows keep by how much."""

GAUGES: Final = (
    "in_flight", "connections", "disk_bytes", "disk_limit", "ram_bytes", "ram_limit", "entries", "lag",
)  # fmt: skip
"""Columns that go up and down; rows keep the last value."""

COLUMNS: Final = (*SUMS, *GAUGES)


class Sampler:
    """Reads all columns. Costs some 100 µs, whatever the traffic.

    :param sources: who keeps values that the instruments don't have
    :param lag: the longest recent delay of the event loop, in seconds
    """

    def __init__(
        self, metrics: Metrics, sources: Iterable[Callable[[], Iterable[Reading | Spread]]], lag: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._sources = tuple(sources)
        self._lag = lag

    def read(self) -> dict[str, float]:
        """Every column by its name; sums since the start."""
        made = self._metrics.instruments
        reads, hits, read_bytes, cached_bytes = self._metrics.reads()
        row = dict.fromkeys(COLUMNS, 0.0)
        row.update(reads=reads, hits=hits, read_bytes=read_bytes, cached_bytes=cached_bytes)
        for (_, code, source), child in made.children("s3proxy_http_requests_total").items():
            outcome = _OUTCOME_OF.get(source, source)
            count = _value(child)
            row[f"req_{outcome if outcome in OUTCOMES else 'error'}"] += count
            if code[0] in "45":
                row[f"status_{code[0]}xx"] += count
        for name, column, labels in _TOTALS:
            row[column] += _total(made, name, labels)
        for labels, child in made.children("s3proxy_http_first_byte_seconds").items():
            group, source = labels
            if group in ("get", "head") and source not in _WITHOUT_S3:
                _add_spread(row, "first_byte_cache" if source in _FROM_CACHE else "first_byte_s3", child)
        for labels, child in made.children("s3proxy_http_request_duration_seconds").items():
            if labels[0] in ("get", "head"):
                _add_spread(row, "total", child)
        for source_of in (*self._sources, self._metrics.cache.readings):
            for reading in source_of():
                if isinstance(reading, Spread):
                    continue
                place = _READINGS.get((reading.name, reading.labels)) or _READINGS.get((reading.name, None))
                if place is not None:
                    row[place] += reading.value
        row["lag"] = self._lag()
        return row


#: Family, column, and which labels the children must have, if not all count.
_TOTALS: Final[tuple[tuple[str, str, tuple[str, ...] | None], ...]] = (
    ("s3proxy_http_response_bytes_total", "sent", None),
    ("s3proxy_http_request_bytes_total", "received", None),
    ("s3proxy_upstream_bytes_total", "from_s3", ("received",)),
    ("s3proxy_upstream_bytes_total", "to_s3", ("sent",)),
    ("s3proxy_s3_requests_saved_total", "saved_get", ("get",)),
    ("s3proxy_s3_requests_saved_total", "saved_head", ("head",)),
    ("s3proxy_s3_saved_bytes_total", "saved_bytes", None),
    ("s3proxy_http_client_aborts_total", "aborts", None),
    ("s3proxy_requests_shed_total", "shed", ("concurrency",)),
    ("s3proxy_upstream_requests_total", "upstream_requests", None),
    ("s3proxy_upstream_errors_total", "upstream_errors", None),
)

_READINGS: Final[dict[tuple[str, tuple[str, ...] | None], str]] = {
    ("s3proxy_upstream_retries_total", None): "upstream_retries",
    ("s3proxy_client_connections", None): "connections",
    ("s3proxy_cache_evictions_total", ("disk", "capacity")): "evictions",
    ("s3proxy_cache_evicted_bytes_total", ("disk",)): "evicted_bytes",
    ("s3proxy_cache_size_bytes", ("disk",)): "disk_bytes",
    ("s3proxy_cache_size_bytes", ("ram",)): "ram_bytes",
    ("s3proxy_cache_limit_bytes", ("disk",)): "disk_limit",
    ("s3proxy_cache_limit_bytes", ("ram",)): "ram_limit",
    ("s3proxy_cache_metadata_entries", None): "entries",
    ("s3proxy_cache_fills_total", ("get", "stored")): "fills",
    ("s3proxy_cache_fills_total", ("get", "partial")): "fills",
    ("s3proxy_cache_fills_total", ("prefetch", "stored")): "fills",
    ("s3proxy_cache_fill_bytes_total", None): "fill_bytes",
    ("s3proxy_http_requests_in_flight", None): "in_flight",
    ("s3proxy_requests_shed_total", ("connections",)): "shed",
}


def _value(child: Counter | Gauge | Histogram) -> float:
    return 0.0 if isinstance(child, Histogram) else child.value


def _total(made: Instruments, name: str, labels: tuple[str, ...] | None) -> float:
    children = made.children(name)
    if labels is None:
        return sum(_value(child) for child in children.values())
    child = children.get(labels)
    return 0.0 if child is None else _value(child)


def _add_spread(row: dict[str, float], name: str, child: Counter | Gauge | Histogram) -> None:
    if isinstance(child, Histogram):
        for number, count in enumerate(child.counts):
            if count:
                row[f"{name}_{number}"] += count
