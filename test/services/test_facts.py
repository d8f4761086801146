"""What many workers amount to."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import ComponentStatus, HealthState
from s3proxy.cache.entry import ObjectId
from s3proxy.services.facts import Facts, Gathered, merged, worst_of


def facts(**changes: Any) -> Facts:
    """What a worker says; it has gone through JSON."""
    values: Facts = {
        "row": {"reads": 10.0, "hits": 5.0, "in_flight": 2.0, "lag": 0.1, "disk_bytes": 100.0, "ram_bytes": 7.0},
        "lag": 0.1,
        "permits": 50,
        "running": [],
        "fills": [],
        "places": [],
        "addresses": {},
        "upstream": {"hosts": {}, "excluded": [], "requests_waiting": 1},
        "health": {"upstream": ["healthy", "", {"a": 1}]},
        **changes,
    }
    found: Facts = json.loads(json.dumps(values))
    return found


class GatheredTests(SynchronousTestCase):
    """Two workers as one."""

    def setUp(self) -> None:
        """Nobody has said anything."""
        self.gathered = Gathered()

    def tell(self, **changes: Any) -> None:
        """One more worker."""
        number = len(self.gathered.by_worker) + 1
        self.gathered.tell(f"worker {number}", number, facts(**changes))

    def test_nobody(self) -> None:
        """Before anybody has said anything, there is nothing, and that is no fault."""
        self.assertEqual(sum(self.gathered.read().values()), 0)
        self.assertEqual((list(self.gathered.requests()), list(self.gathered.bodies_under_way())), ([], []))
        self.assertEqual(self.gathered.upstream(), {"hosts": {}, "excluded": []})
        self.assertEqual(self.gathered.health("upstream").state, HealthState.HEALTHY)
        self.assertEqual((self.gathered.permits(), self.gathered.most_late()), (0, 0.0))

    def test_row(self) -> None:
        """Numbers add up, but for what they have in common, and the worst lag counts."""
        self.tell()
        self.tell(row={"reads": 1.0, "lag": 3.0, "disk_bytes": 90.0, "ram_bytes": 1.0})
        row = self.gathered.read()
        self.assertEqual([row[name] for name in ("reads", "hits", "in_flight", "lag", "disk_bytes", "ram_bytes")],
                         [11, 5, 2, 3.0, 100, 8])  # fmt: skip

    def test_gone(self) -> None:
        """What a worker has counted stays when it is gone; what it was doing does not."""
        totals = {"requests": 3, "reads": 2, "hits": 1, "errors": 0, "sent": 10, "cached": 5, "received": 0}
        for _ in range(3):
            self.tell(places=[[{"b": "bucket"}, {"b": "a/"}, totals]])
            self.gathered.gone(next(iter(self.gathered.by_worker)))
        self.gathered.gone("a stranger")
        row = self.gathered.read()
        self.assertEqual((row["reads"], row["in_flight"], row["ram_bytes"]), (30, 0, 0))
        self.assertEqual(self.gathered.buckets()[b"bucket"].requests, 9)
        self.assertEqual(self.gathered.prefixes(b"bucket")[b"a/"].sent, 30)
        self.assertEqual(self.gathered.permits(), 0)

    def test_requests(self) -> None:
        """Requests under way, oldest first; bytes are what they were."""
        record = ["GetObject", {"b": "bucket"}, {"b": "k\xff"}, "", "MISS", "", 7, {"b": "GET"}]
        for at in (5.0, 3.0):
            self.tell(running=[[[at, "10.0.0.1", {"b": "GET"}, {"b": "/k"}, 200, 9], record]])
        found = list(self.gathered.requests())
        self.assertEqual([request.received_at for request, _ in found], [3.0, 5.0])
        self.assertEqual((found[0][0].method, found[0][1].key, found[0][1].object_size), (b"GET", b"k\xff", 7))

    def test_fills(self) -> None:
        """Bodies under way of all."""
        self.tell(fills=[["aws", {"b": "bucket"}, {"b": "k"}, 0, 5, 9, 2]])
        self.tell(fills=[["aws", {"b": "bucket"}, {"b": "l"}, 1, 2, 3, 1]])
        found = [(id, fill.start, fill.have, fill.stop, fill.readers)
                 for id, fill in self.gathered.bodies_under_way()]  # fmt: skip
        self.assertEqual(
            found, [(ObjectId("aws", b"bucket", b"k"), 0, 5, 9, 2), (ObjectId("aws", b"bucket", b"l"), 1, 2, 3, 1)]
        )

    def test_upstream(self) -> None:
        """Connections add up; an address is left out when no worker that knows it uses it."""
        one = {"idle": 1, "active": 2, "addresses": ["1.1.1.1", "2.2.2.2"], "excluded": ["1.1.1.1", "2.2.2.2"]}
        other = {"idle": 3, "active": 0, "addresses": ["2.2.2.2", "3.3.3.3"], "excluded": []}
        self.tell(upstream={"hosts": {"s3": one}, "excluded": [], "requests_waiting": 1})
        self.tell(upstream={"hosts": {"s3": other}, "excluded": [], "requests_waiting": 4})
        found = self.gathered.upstream()
        self.assertEqual(found["requests_waiting"], 5)
        self.assertEqual(
            found["hosts"]["s3"],
            {"idle": 4, "active": 2, "addresses": ["1.1.1.1", "2.2.2.2", "3.3.3.3"], "excluded": ["1.1.1.1"]},
        )

    def test_addresses(self) -> None:
        """How addresses answer, all together."""
        for last in (3.0, 5.0):
            self.tell(
                addresses={"1.1.1.1:443": {"requests": 2, "seconds": 0.5, "errors": 1, "received": 9, "last": last}}
            )
        found = self.gathered.addresses["1.1.1.1:443"]
        self.assertEqual(
            (found.requests, found.seconds, found.errors, found.received, found.last), (4, 1.0, 2, 18, 5.0)
        )

    def test_latest(self) -> None:
        """The last requests of those that were asked for them, newest first."""
        self.tell(latest=[[5.0, "a\xff"], [1.0, "b"]])
        self.tell(latest=[[3.0, "c"]])
        self.tell()
        self.assertEqual(list(self.gathered.latest()), [(5.0, b"a\xff"), (3.0, b"c"), (1.0, b"b")])

    def test_health(self) -> None:
        """The worst state, and who says so."""
        self.tell()
        self.tell(health={"upstream": ["degraded", "No address answers.", {"a": 2}]})
        found = self.gathered.health("upstream")
        self.assertEqual((found.state, found.message), (HealthState.DEGRADED, "Worker 2: No address answers."))
        self.assertEqual(found.data, {"a": 3})


class WorstTests(SynchronousTestCase):
    """One component in several workers."""

    def test_all_say_the_same(self) -> None:
        """Then nobody is named."""
        status = ComponentStatus("upstream", HealthState.DEGRADED, "No address answers.")
        self.assertEqual(worst_of("upstream", {1: status, 2: status}).message, "No address answers.")

    def test_some_say_the_same(self) -> None:
        """Those who do are named together."""
        status = ComponentStatus("upstream", HealthState.UNHEALTHY, "No address answers.")
        fine = ComponentStatus("upstream", HealthState.HEALTHY, "All is well.")
        self.assertEqual(
            worst_of("upstream", {1: status, 2: fine, 3: status}).message, "Worker 1, 3: No address answers."
        )


class MergedTests(SynchronousTestCase):
    """Documents of one shape."""

    def test_no_sum(self) -> None:
        """A certificate does not live twice as long with two workers; of delays the worst counts."""
        found = merged([{"days_left": 10.5, "lag_max_seconds": 0.1}, {"days_left": 10.4, "lag_max_seconds": 0.3}])
        self.assertEqual(found, {"days_left": 10.4, "lag_max_seconds": 0.3})

    def test_merged(self) -> None:
        """Numbers add up, lists are united, of words and truths the first counts; what only some have is theirs."""
        one = {"n": 1, "l": [1, 2], "s": "a", "t": True, "d": {"x": 1.5}, "none": None, "only": 1}
        other = {"n": 2, "l": [2, 3], "s": "b", "t": False, "d": {"x": 2, "y": 1}, "none": 5}
        self.assertEqual(
            merged([one, other]),
            {"n": 3, "l": [1, 2, 3], "s": "a", "t": True, "d": {"x": 3.5, "y": 1}, "none": None, "only": 1},
        )
