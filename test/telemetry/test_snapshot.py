"""Snapshots of several processes, merged."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.instruments import Family, Instruments
from s3proxy.telemetry.snapshot import Snapshot, empty, merge, number, remains

_FAMILIES = (
    Family(name="x_things_total", type="counter", help="Things.", labels=("kind",)),
    Family(name="x_open", type="gauge", help="Open."),
    Family(name="x_size", type="gauge", help="Size.", merge="max"),
    Family(name="x_health", type="gauge", help="Health.", merge="min"),
    Family(name="x_rate_ratio", type="gauge", help="Rate.", merge="ratio"),
    Family(name="x_wait_seconds", type="histogram", help="Wait.", bounds=(0.1, 1.0)),
)


def a_snapshot(
    things: "dict[str, int] | None" = None,
    open: float = 0,
    size: float = 0,
    health: float = 1,
    rate: "tuple[float, float]" = (0, 0),
    waits: "tuple[float, ...]" = (),
) -> Snapshot:
    made = Instruments(_FAMILIES)
    for kind, count in (things or {}).items():
        made.counter("x_things_total", kind).inc(count)
    made.gauge("x_open").set(open)
    made.gauge("x_size").set(size)
    made.gauge("x_health").set(health)
    made.gauge("x_rate_ratio").value, made.gauge("x_rate_ratio").whole = rate
    for seconds in waits:
        made.histogram("x_wait_seconds").observe(seconds)
    return made.describe()


def values(snapshot: Snapshot, name: str) -> dict[tuple[str, ...], Any]:
    return {tuple(labels): value for labels, value in snapshot["families"][name]["samples"]}


_SNAPSHOTS = st.builds(
    a_snapshot,
    things=st.dictionaries(st.sampled_from("abc"), st.integers(0, 1 << 60)),
    open=st.integers(0, 1000),
    size=st.integers(0, 1 << 50),
    health=st.sampled_from([0, 0.5, 1]),
    rate=st.tuples(st.integers(0, 50), st.integers(0, 100)),
    waits=st.lists(st.sampled_from([0.0625, 0.5, 8.0]), max_size=5).map(tuple),
)


class MergeTests(SynchronousTestCase):
    def test_rules(self) -> None:
        """Counters, histograms and own parts add up; of shared things there is one; the worst health counts."""
        merged = merge(
            [
                a_snapshot({"a": 3, "b": 1}, open=2, size=100, health=1, rate=(1, 2), waits=(0.05, 0.5)),
                a_snapshot({"a": 4, "c": 5}, open=7, size=90, health=0.5, rate=(8, 8), waits=(9.0,)),
            ]
        )
        self.assertEqual(values(merged, "x_things_total"), {("a",): 7, ("b",): 1, ("c",): 5})
        self.assertEqual(values(merged, "x_open"), {(): 9})
        self.assertEqual(values(merged, "x_size"), {(): 100})
        self.assertEqual(values(merged, "x_health"), {(): 0.5})
        self.assertEqual(values(merged, "x_rate_ratio"), {(): [9, 10]})
        self.assertEqual(number(merged["families"]["x_rate_ratio"], [9, 10]), 0.9)
        waits = values(merged, "x_wait_seconds")[()]
        self.assertEqual(waits["counts"], [1, 1, 1])
        self.assertAlmostEqual(waits["sum"], 9.55)

    def test_of_nothing(self) -> None:
        """No snapshots are an empty one; the ratio of nothing is 0."""
        self.assertEqual(merge([]), empty())
        self.assertEqual(number({"merge": "ratio"}, [0, 0]), 0.0)

    def test_arguments_stay_as_they_are(self) -> None:
        """Merging changes none of the snapshots, however often they are merged."""
        one = a_snapshot({"a": 1}, rate=(1, 1), waits=(0.5,))
        before = json.dumps(one)
        first, second = merge([one, one]), merge([one, one])
        self.assertEqual(json.dumps(one), before)
        self.assertEqual(first, second)

    def test_a_family_that_one_lacks(self) -> None:
        """What only one process has is part of the result."""
        one = a_snapshot({"a": 1})
        del one["families"]["x_things_total"]
        self.assertEqual(values(merge([one, a_snapshot({"a": 1})]), "x_things_total"), {("a",): 1})

    def test_versions_that_do_not_fit(self) -> None:
        """Families with other bounds, and other schemas, are refused."""
        other = a_snapshot()
        other["families"]["x_wait_seconds"]["bounds"] = [1.0]
        self.assertRaises(ValueError, merge, [a_snapshot(), other])
        self.assertRaises(ValueError, merge, [{**a_snapshot(), "schema": 2}])

    @given(st.lists(_SNAPSHOTS, max_size=4), st.randoms(use_true_random=False))
    def test_order_and_grouping_do_not_matter(self, snapshots: list[Snapshot], random: Any) -> None:
        """Whoever merges what first gets the same numbers, and plain values survive JSON."""
        whole = merge(snapshots)
        shuffled = list(snapshots)
        random.shuffle(shuffled)
        at = random.randint(0, len(shuffled))
        parts = merge([merge(shuffled[:at]), merge(shuffled[at:])])
        for name in whole["families"]:
            self.assertEqual(values(parts, name), values(whole, name))
        self.assertEqual(json.loads(json.dumps(whole)), whole)

    def test_exceptions(self) -> None:
        """Some series of a family may be merged by another rule than the others."""
        made = Instruments(
            (Family(name="x_bytes", type="gauge", help="X.", labels=("tier",), merge="max", exceptions={"ram": "sum"}),)
        )
        for tier, value in (("ram", 3), ("disk", 10)):
            made.gauge("x_bytes", tier).set(value)
        snapshot = made.describe()
        self.assertEqual(values(merge([snapshot, snapshot]), "x_bytes"), {("ram",): 6, ("disk",): 10})


class RemainsTests(SynchronousTestCase):
    def test_what_counts_on(self) -> None:
        """Totals of a process that ended are kept, what it held is not."""
        left = remains(a_snapshot({"a": 3}, open=5, size=9, waits=(0.5,)))
        self.assertEqual(list(left["families"]), ["x_things_total", "x_wait_seconds"])
        merged = merge([left, a_snapshot({"a": 1}, open=2)])
        self.assertEqual(values(merged, "x_things_total"), {("a",): 4})
        self.assertEqual(values(merged, "x_open"), {(): 2})
        self.assertEqual(remains(left), left)
