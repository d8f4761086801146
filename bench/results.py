"""Results of a run as JSON: every figure of every round, and the medians."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measure import Column, Sample

__all__ = ["FORMAT", "Results", "case_of", "dump", "load", "median_of", "merge", "samples_of"]

FORMAT = 1
Results = dict[str, Any]
"""``{"format", "options", "environment", "groups": [{"name", "title", "about", "resident_mib", "cases": […]}]}``. A
case is ``{"name", "columns": [[figure, unit], …], "figures": […], "peers": {peer: {"median": […], "rounds": […]}}}``;
the median and each round are lists of numbers in the order of its figures."""


def case_of(name: str, columns: Sequence[Column], samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """One case, from the samples of every peer's rounds."""
    figures = sorted({figure for rounds in samples.values() for sample in rounds for figure in sample})
    peers = {}
    for peer, rounds in samples.items():
        table = [[sample.get(figure) for figure in figures] for sample in rounds]
        peers[peer] = {"median": [_median(column) for column in zip(*table)], "rounds": table}
    shown = [[column.figure, column.unit] for column in columns]
    return {"name": name, "columns": shown, "figures": figures, "peers": peers}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{statistics.median(known):.5g}") if known else None


def median_of(case: Mapping[str, Any], peer: str, figure: str) -> float | None:
    """A peer's median; None if it has none."""
    if peer not in case["peers"] or figure not in case["figures"]:
        return None
    found: float | None = case["peers"][peer]["median"][case["figures"].index(figure)]
    return found


def samples_of(case: Mapping[str, Any], peer: str, figure: str) -> list[float | None]:
    """A figure of a peer in every round."""
    position = case["figures"].index(figure)
    return [sample[position] for sample in case["peers"][peer]["rounds"]]


def dump(results: Results) -> str:
    """As text with a line for every peer of every case, so that two runs can be compared by lines."""
    lines = ["{"]
    lines += [f"{_text(key)}: {_text(value)}," for key, value in results.items() if key != "groups"]
    groups = []
    for group in results["groups"]:
        cases = []
        for case in group["cases"]:
            peers = ",\n".join(f"  {_text(name)}: {_text(figures)}" for name, figures in case["peers"].items())
            cases.append(f' {_open(case, "peers")}, "peers": {{\n{peers}\n }}}}')
        groups.append(f'{_open(group, "cases")}, "cases": [\n' + ",\n".join(cases) + "\n]}")
    lines += ['"groups": [', ",\n".join(groups), "]", "}", ""]
    return "\n".join(lines)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _open(value: Mapping[str, Any], without: str) -> str:
    """An object without one of its members and without its end."""
    return _text({name: member for name, member in value.items() if name != without})[:-1]


def load(path: Path) -> Results:
    """What :func:`dump` wrote.

    :raises ValueError: it is something else
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} has no results of this benchmark")
    return found


def merge(several: Sequence[Results]) -> Results:
    """One result of several runs on one machine: a group that occurs twice is that of the later run."""
    groups: dict[str, Any] = {}
    for results in several:
        for group in results["groups"]:
            groups[group["name"]] = group
    return {**several[-1], "groups": list(groups.values())}
