"""What many workers amount to, and what each of them gets."""

import json
from test.telemetry.records import a_record
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import ComponentStatus, HealthState
from s3proxy.cache.entry import ObjectId
from s3proxy.config.load import load_config
from s3proxy.config.model import Config
from s3proxy.services.crew import HostMetrics, share_of
from s3proxy.services.facts import Facts, Gathered, merged, worst_of
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.snapshot import empty, merge, remains


def config(**options: object) -> Config:
    """A configuration."""
    return load_config(
        None, environ={}, options={name.replace("__", "."): value for name, value in options.items()}
    ).config


class ShareTests(SynchronousTestCase):
    """The configuration of one of several workers."""

    def test_divided(self) -> None:
        """What is limited for the whole is divided, rounded up."""
        whole = config(server__max_concurrent_requests=100, connection_pool__max_connections=10,
                       cache__metadata_cache__max_entries=1000)  # fmt: skip
        part = share_of(whole, 3, 3000)
        self.assertEqual(part.server.max_concurrent_requests, 34)
        self.assertEqual(part.connection_pool.max_connections, 4)
        self.assertEqual(part.cache.metadata_cache.max_entries, 334)
        self.assertEqual(part.cache.max_ram_cache_size, 1000)

    def test_switched_off(self) -> None:
        """A limit of 0 is none, whatever the number of workers, and no share is less than its key allows."""
        part = share_of(config(), 4, 0)
        self.assertEqual((part.server.max_inflight_buffer_bytes, part.download_bandwidth.max_bytes_per_sec), (0, 0))
        part = share_of(config(server__max_inflight_buffer_bytes=2 << 20, server__max_concurrent_requests=2), 256, 1)
        self.assertEqual((part.server.max_inflight_buffer_bytes, part.server.max_concurrent_requests), (1 << 20, 1))

    def test_the_rest(self) -> None:
        """Everything else is as for the whole."""
        whole = config(cache__get_ttl=5.0)
        self.assertEqual(share_of(whole, 2, 10).cache.get_ttl, 5.0)
        self.assertEqual(share_of(whole, 2, 10).connection_pool.dns_servers, whole.connection_pool.dns_servers)


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

    def test_merged(self) -> None:
        """Numbers add up, lists are united, of words and truths the first counts; what only some have is theirs."""
        one = {"n": 1, "l": [1, 2], "s": "a", "t": True, "d": {"x": 1.5}, "none": None, "only": 1}
        other = {"n": 2, "l": [2, 3], "s": "b", "t": False, "d": {"x": 2, "y": 1}, "none": 5}
        self.assertEqual(
            merged([one, other]),
            {"n": 3, "l": [1, 2, 3], "s": "a", "t": True, "d": {"x": 3.5, "y": 1}, "none": None, "only": 1},
        )


class HostMetricsTests(SynchronousTestCase):
    """The metrics of all processes."""

    def counted(self, times: int) -> Any:
        """What a worker with so many requests has counted."""
        metrics = Metrics(CollectorRegistry(), Clock().seconds)
        for _ in range(times):
            metrics.request_started()
            metrics.request_finished(a_record())
        return json.loads(json.dumps(metrics.snapshot()))

    def total(self, metrics: HostMetrics) -> float:
        """All requests."""
        family = metrics.snapshot()["families"]["s3proxy_http_requests_total"]
        return sum(value for _, value in family["samples"])

    def test_sum(self) -> None:
        """Counters are the sums over the workers that run and those that have ended."""
        past = merge([empty(), remains(self.counted(4))])
        others = [self.counted(2), self.counted(3), past]
        metrics = HostMetrics(CollectorRegistry(), lambda: others)
        self.assertEqual(self.total(metrics), 9)

    def test_recent_rates(self) -> None:
        """The rates of the last minutes are those of all workers."""
        metrics = HostMetrics(CollectorRegistry(), lambda: [self.counted(2)])
        hit_rate, byte_hit_rate = metrics.recent_rates()
        alone = Metrics(CollectorRegistry(), Clock().seconds)
        for _ in range(2):
            alone.request_started()
            alone.request_finished(a_record())
        self.assertEqual((hit_rate, byte_hit_rate), alone.recent_rates())
        self.assertEqual(HostMetrics(CollectorRegistry(), list).recent_rates(), (0.0, 0.0))
