"""Curves: what people want to see of the rows of :mod:`s3proxy.dashboard.history`."""

import math
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final

from s3proxy.dashboard.history import History
from s3proxy.dashboard.samples import COLUMNS, GAUGES, OUTCOMES, SUMS
from s3proxy.telemetry.families import FIRST_BYTE_BOUNDS, REQUEST_BOUNDS

__all__ = ["MOST_POINTS", "NAMES", "RANGES", "curves", "percentile", "point"]

RANGES: Final = {"1h": 3600.0, "6h": 21600.0, "24h": 86400.0, "7d": 604800.0, "30d": 2592000.0}
MOST_POINTS: Final = 720

_IN_ONE_GO: Final = 20
"""Rows between two turns of others."""
_QUANTILES: Final = ((50, 0.5), (90, 0.9), (99, 0.99))
_AT: Final = {name: number for number, name in enumerate(COLUMNS, 2)}
_RATES: Final = {
    **{source: f"req_{source}" for source in OUTCOMES},
    "sent": "sent", "received": "received", "from_s3": "from_s3", "to_s3": "to_s3", "saved": "saved_bytes",
    "status_4xx": "status_4xx", "status_5xx": "status_5xx", "aborts": "aborts", "shed": "shed",
    "upstream_errors": "upstream_errors", "evicted": "evicted_bytes", "filled": "fill_bytes",
}  # fmt: skip
_SPREADS: Final = {"first_byte_cache": FIRST_BYTE_BOUNDS, "first_byte_s3": FIRST_BYTE_BOUNDS, "total": REQUEST_BOUNDS}

NAMES: Final = (
    "t", *_RATES, "hit_rate", "byte_hit_rate",
    *(f"{spread}_p{number}" for spread in _SPREADS for number, _ in _QUANTILES), *GAUGES,
)  # fmt: skip
"""Of a point: the time, then rates per second, ratios, seconds, and gauges."""


def percentile(counts: Sequence[float], bounds: Sequence[float], share: float) -> float | None:
    """The value that this share of all does not exceed, as Prometheus' histogram_quantile estimates it.

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


def point(row: "array[float]") -> list[float | None]:
    """The values of NAMES for one row."""
    seconds = row[1] or 1.0
    values: list[float | None] = [row[0]]
    values += [round(row[_AT[column]] / seconds, 3) for column in _RATES.values()]
    for part, whole in (("hits", "reads"), ("cached_bytes", "read_bytes")):
        total = row[_AT[whole]]
        values.append(round(row[_AT[part]] / total, 5) if total else None)
    for spread, bounds in _SPREADS.items():
        first = _AT[f"{spread}_0"]
        counts = row[first : first + len(bounds) + 1]
        for _, share in _QUANTILES:
            found = percentile(counts, bounds, share)
            values.append(None if found is None else round(found, 6))
    values += [row[_AT[name]] for name in GAUGES]
    return values


def curves(history: History, span: float, now: float) -> Iterator[dict[str, Any] | None]:
    """The document of a range: yields None from time to time, so that others get their turn, and the document last.

    Where nothing was measured there is a point without values: curves are not drawn across.
    """
    ring = history.finest(span)
    rows = ring.since(now - span - ring.step)
    together = max(1, math.ceil(span / ring.step / MOST_POINTS))
    width = ring.step * together
    columns: list[list[float | None]] = [[] for _ in NAMES]
    last: float | None = None
    merged: list[array[float]] = []

    def close() -> None:
        nonlocal last
        values = point(_merged(merged))
        if last is not None and merged[0][0] - last > 2 * width:
            for column in columns:
                column.append(None)
            columns[0][-1] = last + width
        last = merged[0][0]
        for column, value in zip(columns, values):
            column.append(value)
        merged.clear()

    for number, row in enumerate(rows):
        if merged and row[0] // width != merged[0][0] // width:
            close()
        merged.append(row)
        if number % _IN_ONE_GO == 0:
            yield None
    if merged:
        close()
    yield {"step": width, "names": NAMES, "values": columns}


def _merged(rows: "Sequence[array[float]]") -> "array[float]":
    if len(rows) == 1:
        return rows[0]
    whole = array("d", rows[-1])
    whole[0] = rows[0][0]
    for number in range(1, 2 + len(SUMS)):
        whole[number] = sum(row[number] for row in rows)
    return whole
