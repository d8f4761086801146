"""Everything that one process has counted, at one instant, as a plain value: the seam between counting and showing.

A process takes a snapshot (:meth:`s3proxy.telemetry.metrics.Metrics.snapshot`), sends it wherever it likes (it consists
of dicts, lists, strings and finite numbers only, so :func:`json.dumps` and :func:`json.loads` give an equal one), and
whoever shows metrics renders one (:mod:`s3proxy.telemetry.exposition`). With several processes the one that answers
scrapes asks all of them, merges what they say (:func:`merge`) and renders the result; it needs to know nothing of the
metrics themselves, since a snapshot describes its families.

::

    {"schema": 1,
     "families": {
       "s3proxy_http_requests_total": {
         "type": "counter", "help": "…", "labels": ["operation", "code", "source"], "merge": "sum",
         "samples": [[["GetObject", "200", "ram"], 17]]},
       "s3proxy_cache_size_bytes": {
         "type": "gauge", "help": "…", "labels": ["tier"], "merge": "max",
         "samples": [[["disk"], 4096]]},
       "s3proxy_cache_hit_rate_ratio": {
         "type": "gauge", "help": "…", "labels": ["window"], "merge": "ratio",
         "samples": [[["total"], [15, 17]]]},
       "s3proxy_reactor_lag_seconds": {
         "type": "histogram", "help": "…", "labels": [], "merge": "sum", "bounds": [0.001, 0.005],
         "samples": [[[], {"counts": [20, 3, 0], "sum": 0.01}]]}}}

A family may be ``"hidden": true``: it is merged like the others, and serves the JSON summary, but is not shown. It may
have ``"except": {"ram": "sum"}``: series whose first label has that value are merged by another rule.
"""

from collections.abc import Iterable
from typing import Any, Final

__all__ = ["MERGES", "Snapshot", "empty", "merge", "number", "remains"]

Snapshot = dict[str, Any]
"""See the module; made by :func:`empty`, :func:`merge` and ``Metrics.snapshot``."""

MERGES: Final = ("sum", "max", "min", "ratio")
"""How the values of one series in several processes become one.

* ``sum``: counters, histograms (bucket by bucket), and gauges of which every process has its own part (connections).
* ``max``, ``min``: gauges that describe something the processes share (bytes in the cache directory), or of which the
  worst counts (health).
* ``ratio``: a gauge whose value is a pair, part and whole; both are added, and the quotient is shown.
"""

SCHEMA: Final = 1


def empty() -> Snapshot:
    """A snapshot of nothing: what :func:`merge` gives for no snapshots."""
    return {"schema": SCHEMA, "families": {}}


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot that says what all processes together have counted. The arguments are left as they are.

    Families and series appear in the order in which they are met. A series that only some have is that of those. The
    result does not depend on the order of the snapshots otherwise, and ``merge([a, merge([b, c])])`` is
    ``merge([a, b, c])``.

    :raises ValueError: when two snapshots describe a family differently: they are of different versions
    """
    families: dict[str, dict[str, Any]] = {}
    series: dict[str, dict[tuple[str, ...], Any]] = {}
    for snapshot in snapshots:
        if snapshot["schema"] != SCHEMA:
            raise ValueError(f"a snapshot of schema {snapshot['schema']}, not {SCHEMA}")
        for name, family in snapshot["families"].items():
            known = families.get(name)
            if known is None:
                families[name] = {key: value for key, value in family.items() if key != "samples"}
                series[name] = {}
            elif any(known.get(key) != family.get(key) for key in ("type", "labels", "merge", "bounds", "except")):
                raise ValueError(f"{name} is not the same in all snapshots")
            _add(series[name], family)
    for name, family in families.items():
        family["samples"] = [[list(labels), value] for labels, value in series[name].items()]
    return {"schema": SCHEMA, "families": families}


def remains(snapshot: Snapshot) -> Snapshot:
    """What counts on after a process has ended: its counters and histograms, without the gauges.

    Whoever restarts processes merges the remains of those that ended with the snapshots of those that run, so that no
    total goes down. Merged remains are remains.
    """
    kept = {name: family for name, family in snapshot["families"].items() if family["type"] != "gauge"}
    return {"schema": SCHEMA, "families": kept}


def number(family: dict[str, Any], value: Any) -> float:
    """The number that is shown for a value of a counter or gauge: that of a ratio of nothing is 0."""
    if family["merge"] != "ratio":
        return value  # type: ignore[no-any-return]
    part, whole = value
    return part / whole if whole else 0.0


def _add(known: dict[tuple[str, ...], Any], family: dict[str, Any]) -> None:
    usual, is_histogram = family["merge"], family["type"] == "histogram"
    exceptions = family.get("except")
    for labels, value in family["samples"]:
        key = tuple(labels)
        rule = exceptions.get(labels[0], usual) if exceptions else usual
        before = known.get(key)
        if is_histogram:
            if before is None:
                known[key] = {"counts": list(value["counts"]), "sum": value["sum"]}
            else:
                before["counts"] = [one + other for one, other in zip(before["counts"], value["counts"])]
                before["sum"] += value["sum"]
        elif rule == "ratio":
            known[key] = list(value) if before is None else [before[0] + value[0], before[1] + value[1]]
        elif before is None:
            known[key] = value
        elif rule == "sum":
            known[key] = before + value
        else:
            known[key] = max(before, value) if rule == "max" else min(before, value)
