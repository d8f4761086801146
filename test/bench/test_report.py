"""Results, and the report of them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from bench.command import main, parse
from bench.measure import CPU_PER_REQUEST, REQUEST_RATE
from bench.report import between_markers, report, summary
from bench.results import FORMAT, Results, case_of, dump, load, merge

INTERPRETER = {
    "python": "CPython 3.13.0", "compiler": "GCC 12.2.0", "configured": ["--with-lto"], "flags": ["-O3"],
    "loop_ms": 20.0, "twisted": "26.10.0", "s3proxy": "0.1.0",
}  # fmt: skip
ENVIRONMENT: dict[str, Any] = {
    "taken": "2026-11-22 10:00 UTC", "processors": 2, "processor": "a processor", "memory_gib": 8.0,
    "kernel": "Linux 6.1", "file_system": "ext4", "root": True, "nginx": "1.22.1", "varnish": None, "wrk": "4.1.0",
    "interpreters": {"s3proxy": INTERPRETER},
}  # fmt: skip


def sample(rate: float, cpu: float, foreign: float = 0.0) -> dict[str, float]:
    """One measurement."""
    return {"requests_per_s": rate, "cpu_us_per_request": cpu, "foreign_s": foreign, "observed_s": 1.0}


def results(ours: list[float], theirs: list[float], *, foreign: float = 0.0, quick: bool = False) -> Results:
    """One case of the group "ram", with these rates in requests/s in each round."""
    samples = {
        "s3proxy": [sample(rate, 50, foreign) for rate in ours],
        "nginx": [sample(rate, 25, foreign) for rate in theirs],
    }
    case = case_of("1 KiB, 16 connections", (REQUEST_RATE, CPU_PER_REQUEST), samples)
    group = {
        "name": "ram", "title": "Hits from memory", "about": "About.", "resident_mib": {"s3proxy": 90.5, "nginx": 20},
        "cases": [case],
    }  # fmt: skip
    options = {"quick": quick, "rounds": len(ours), "seconds": 3}
    return {"format": FORMAT, "options": options, "environment": ENVIRONMENT, "groups": [group]}


class ReportTests(SynchronousTestCase):
    def test_rows(self) -> None:
        """Medians, their ratio, and the lowest and highest ratio of one round, rounds taken pair by pair."""
        text = report(results([10_000, 30_000, 20_000], [40_000, 40_000, 50_000]))
        row = "| 1 KiB, 16 connections | requests/s | 20,000 | 40,000 | 0.50 (0.25–0.75) |"
        self.assertIn(row, text)
        self.assertIn("|  | CPU µs/request | 50.0 | 25.0 | 2.00 (2.00–2.00) |", text)
        self.assertIn("| most resident memory | MiB | 90.5 | 20.0 |  |", text)

    def test_aims(self) -> None:
        """An aim is reached when its worst case reaches it; groups that were not measured say nothing."""
        reached = "| hits of 1 KiB, requests/s ÷ nginx | ≥ 0.6 | 0.60 | yes | 2.00 |"
        missed = "| hits of 1 KiB, requests/s ÷ nginx | ≥ 0.6 | 0.50 | no | 2.00 |"
        self.assertEqual(summary(results([6], [10])).splitlines()[2:], [reached])
        self.assertEqual(summary(results([5], [10])).splitlines()[2:], [missed])

    def test_the_worst_case_counts(self) -> None:
        """One number of connections for which it holds is not enough."""
        both, other = results([6], [10]), results([5], [10])
        both["groups"][0]["cases"] += other["groups"][0]["cases"]
        self.assertIn("| 0.60, 0.50 | no |", summary(both))

    def test_a_peer_that_is_missing(self) -> None:
        """A case without one of the peers has a dash in its column."""
        several = results([6], [10])
        case = attrs.evolve(REQUEST_RATE, unit="r/s")
        alone = case_of("alone", (case,), {"s3proxy": [sample(7, 1)]})
        several["groups"][0]["cases"].append(alone)
        self.assertIn("| alone | r/s | 7.00 | – | – |", report(several))

    def test_a_disturbed_run_says_so(self) -> None:
        """When others used the processors, nobody should quote the figures; likewise after --quick."""
        self.assertIn("no figures to quote", report(results([5], [10], foreign=0.8)))
        self.assertIn("no figures to quote", report(results([5], [10], quick=True)))
        self.assertNotIn("no figures to quote", report(results([5], [10], foreign=0.1)))

    def test_how_the_interpreter_was_built(self) -> None:
        """It matters more than the version."""
        self.assertIn("CPython 3.13.0 (GCC 12.2.0, -O3, configured with --with-lto; a loop", report(results([5], [10])))

    def test_between_markers(self) -> None:
        """Only what is between them is replaced."""
        document = "before\n<!-- figures:begin -->\nold\n<!-- figures:end -->\nafter\n"
        expected = "before\n<!-- figures:begin -->\nnew\n<!-- figures:end -->\nafter\n"
        self.assertEqual(between_markers(document, "new\n"), expected)
        self.assertRaises(ValueError, between_markers, "<!-- figures:end --> <!-- figures:begin -->", "new")

    def test_the_readmes_have_markers(self) -> None:
        """--readme finds where the figures go."""
        checkout = Path(__file__).resolve().parents[2]
        for name in ("README.md", "bench/README.md"):
            between_markers((checkout / name).read_text(encoding="utf-8"), "")


class ResultsTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """What is written is read again, and is ordinary JSON."""
        path = Path(self.mktemp())
        measured = results([1, 2, 3], [4, 5, 6])
        path.write_text(dump(measured), encoding="utf-8")
        self.assertEqual(load(path), json.loads(json.dumps(measured)))

    def test_other_files(self) -> None:
        """Other JSON is not mistaken for results."""
        path = Path(self.mktemp())
        path.write_text('{"rows": []}')
        self.assertRaises(ValueError, load, path)

    def test_every_figure_is_kept(self) -> None:
        """Also those that no column shows, and those that one round lacks."""
        case = case_of("a case", (), {"nginx": [{"a": 1.0, "b": 5.0}, {"a": 3.0}]})
        self.assertEqual(case["figures"], ["a", "b"])
        self.assertEqual(case["peers"]["nginx"], {"median": [2.0, 5.0], "rounds": [[1.0, 5.0], [3.0, None]]})

    def test_merge(self) -> None:
        """Groups of several runs come together; of one that was measured twice, the later counts."""
        first, second, third = results([1], [10]), results([2], [10]), results([3], [10])
        second["groups"][0]["name"] = "warm"
        merged = merge([first, second, third])
        self.assertEqual([group["name"] for group in merged["groups"]], ["ram", "warm"])
        self.assertEqual(merged["groups"][0], third["groups"][0])


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.printed = io.StringIO()
        quiet = contextlib.ExitStack()
        quiet.enter_context(contextlib.redirect_stdout(self.printed))
        quiet.enter_context(contextlib.redirect_stderr(self.printed))
        self.addCleanup(quiet.close)

    def test_unknown_groups(self) -> None:
        """A word that is no group is a usage error and not an empty report."""
        error = self.assertRaises(SystemExit, parse, ["rma"])
        self.assertEqual(error.code, 2)
        self.assertIn("no such group: rma; there are ram, ", self.printed.getvalue())

    def test_report_measures_nothing(self) -> None:
        """--report prints what was measured before; --json writes what several runs make together."""
        one, both = Path(self.mktemp()), Path(self.mktemp())
        one.write_text(dump(results([5], [10])), encoding="utf-8")
        self.assertEqual(main(["--report", str(one), str(one), "--json", str(both)]), 0)
        self.assertEqual(load(both), load(one))
        self.assertEqual(self.printed.getvalue(), report(load(one)))

    def test_report_of_something_else(self) -> None:
        """A file without results ends with an error."""
        path = Path(self.mktemp())
        path.write_text("{}")
        self.assertEqual(main(["--report", str(path)]), 1)
