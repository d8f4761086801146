"""The command line: which groups, how long, with which interpreters, and where the results go."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from bench.crowds import HERD, SLOW
from bench.environment import describe, file_system
from bench.hits import COLD, HEADS, RAM, WARM
from bench.measure import FULL, QUICK, Case, Group, Scale, Stage, take
from bench.misses import MISSES, PASSING
from bench.peers import varnish_is_installed
from bench.process import ROOT, ServerFailed
from bench.report import between_markers, number, readme_figures, report
from bench.results import FORMAT, Results, case_of, dump, load, median_of, merge
from bench.workers import WORKERS

__all__ = ["GROUPS", "main"]

GROUPS = (RAM, WARM, COLD, HEADS, MISSES, PASSING, HERD, SLOW, WORKERS)
_FREE_BYTES = 40 << 30


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options.

    :raises SystemExit: they are wrong
    """
    groups = "\n".join(f"  {group.name:8} {group.title}" for group in GROUPS)
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description="Measures S3 Proxy, nginx and Varnish in turns and prints a report in Markdown.",
        epilog=f"groups:\n{groups}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="what to measure; default: all groups")
    parser.add_argument("--quick", action="store_true", help="short and once: a smoke test, not figures to quote")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each figure is taken (5)")
    parser.add_argument("--only", metavar="WORD", default="", help="only cases whose name contains WORD")
    parser.add_argument(
        "--python",
        action="append",
        metavar="PATH",
        help="interpreter that runs the proxy; given several times, each becomes a peer (this one)",
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where caches go (directory for temporary files)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--report",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing and report these results of --json; of a group in several, the last",
    )
    parser.add_argument(
        "--readme", action="store_true", help="put the report into bench/README.md and its aims into README.md"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.groups) - {group.name for group in GROUPS}
    if unknown:
        known = ", ".join(group.name for group in GROUPS)
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {known}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def missing_programs() -> list[str]:
    """What must be installed and is not."""
    return [program for program in ("nginx", "wrk") if shutil.which(program) is None]


def run_group(group: Group, stage: Stage, scale: Scale, cases: Sequence[Case]) -> dict[str, Any]:
    """Start the servers of a group and measure these cases."""
    group.start(stage, scale)
    measured = []
    for case in cases:
        samples = take(stage, case, scale.rounds)
        measured.append(case_of(case.name, case.columns, samples))
        _show(group.name, measured[-1])
    resident = {name: round(server.peak_resident_bytes() / (1 << 20), 1) for name, server in stage.peers.items()}
    return {
        "name": group.name, "title": group.title, "about": group.about, "resident_mib": resident, "cases": measured,
    }  # fmt: skip


def _show(group: str, case: dict[str, Any]) -> None:
    """One line of progress: the medians of the case's first figure."""
    figure, unit = case["columns"][0]
    told = ", ".join(f"{peer} {number(median_of(case, peer, figure))}" for peer in case["peers"]) + f" {unit}"
    print(f"{group}: {case['name']}: {told}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> Results:
    """Measure everything that was asked for."""
    scale = QUICK if options.quick else FULL
    if options.rounds is not None:
        scale = attrs.evolve(scale, rounds=options.rounds)
    pythons = options.python or [sys.executable]
    base = options.folder or Path(tempfile.gettempdir())
    names = {"s3proxy" if number == 1 else f"s3proxy@{number}": python for number, python in enumerate(pythons, 1)}
    environment = describe(names, base)
    results: Results = {
        "format": FORMAT,
        "options": {"quick": options.quick, "rounds": scale.rounds, "seconds": scale.seconds},
        "environment": environment,
        "groups": [],
    }
    for group in GROUPS:
        if options.groups and group.name not in options.groups:
            continue
        with tempfile.TemporaryDirectory(prefix="s3proxy-bench-", dir=base) as name:
            folder = Path(name)
            folder.chmod(0o755)
            stage = Stage(folder, pythons)
            cases = [case for case in group.cases(stage, scale) if options.only in case.name]
            if not cases:
                continue
            try:
                results["groups"].append(run_group(group, stage, scale, cases))
            finally:
                stage.stop()
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(dump(results), encoding="utf-8")
    return results


def warn(base: Path) -> None:
    """Say what makes the run worth less."""
    if not varnish_is_installed():
        print("bench: without Varnish, which is not installed (apt-get install varnish)", file=sys.stderr)
    if file_system(base) in ("tmpfs", "ramfs", "overlay"):
        print(f"bench: {file_system(base)} is no disk; --folder names another place for the caches", file=sys.stderr)
    if shutil.disk_usage(base).free < _FREE_BYTES:
        print(f"bench: less than {_FREE_BYTES >> 30} GiB free for the caches", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if options.report:
            results = merge([load(path) for path in options.report])
            order = [group.name for group in GROUPS]
            results["groups"].sort(key=lambda group: order.index(group["name"]))
            if options.json:
                options.json.write_text(dump(results), encoding="utf-8")
        else:
            missing = missing_programs()
            if missing:
                print(f"bench: not installed: {', '.join(missing)} (apt-get install nginx-light wrk)", file=sys.stderr)
                return 1
            warn(options.folder or Path(tempfile.gettempdir()))
            results = run(options)
    except (ServerFailed, ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report(results), end="")
    if options.readme:
        documents = {ROOT / "bench" / "README.md": report(results), ROOT / "README.md": readme_figures(results)}
        for path, figures in documents.items():
            path.write_text(between_markers(path.read_text(encoding="utf-8"), figures), encoding="utf-8")
    return 0
