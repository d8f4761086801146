"""What s3proxyctl asks of one process: answers from a real cache, in steps of a clock."""

import os
from collections.abc import Callable, Coroutine
from test.dashboard.stocked import Stocked, an_id
from test.services.test_rolling import FakeCrew
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, execute
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.answers import Refused
from s3proxy.admin.api import IDENTITY
from s3proxy.admin.board import HealthBoard
from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.dashboard.browse import reference
from s3proxy.dashboard.documents import Known
from s3proxy.dashboard.samples import Sampler
from s3proxy.s3.headers import Headers
from s3proxy.services.control import LocalOperations
from s3proxy.storage.layout import entry_name
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.traffic import Traffic

RULES = b'{"rules": [{"pattern": "b/short/**", "get_ttl": "5s"}]}'


class ControlCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stocked = Stocked(RULES)
        self.addCleanup(self.stocked.close)
        harness = self.stocked.harness
        self.metrics = Metrics(CollectorRegistry(), self.stocked.clock.seconds)
        self.ends: list[float] = []
        self.told: list[tuple[str, Any]] = []
        known = Known(
            facts={"version": "1", "instance_id": "proxy-1:1"},
            now=harness.now,
            clock=self.stocked.clock.seconds,
            started_at=harness.now(),
            board=HealthBoard(harness.now),
            traffic=Traffic(),
            manager=harness.cache,
            running=lambda: harness.gateway.running,
            permits=lambda: 10,
            upstream=lambda: {"hosts": {}, "excluded": []},
            rules=lambda: self.stocked.rules,
        )
        self.operations = LocalOperations(
            self.stocked.clock,
            known=known,
            sampler=Sampler(self.metrics, [], lambda: 0.0),
            metrics=self.metrics,
            browser=self.stocked.browser,
            volume=harness.store.volume,
            run=self.run_call,
            listeners=lambda: [("http", "127.0.0.1", 80)],
            end=self.end,
        )

    def run_call(self, work: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        return execute(work, *args)

    def end(self, delay: float) -> float:
        self.ends.append(delay)
        return 30.0

    def await_(self, coroutine: "Coroutine[Any, Any, Any]") -> Any:
        done = Deferred.fromCoroutine(coroutine)
        for _ in range(10_000):
            if done.called:
                break
            self.stocked.clock.advance(0.02)
        return self.successResultOf(done)

    def order(self, name: str, /, **order: Any) -> Any:
        self.told = []
        return self.await_(
            getattr(self.operations, name)(order, "somebody", lambda kind, value: self.told.append((kind, value)))
        )

    def refusal(self, name: str, /, **order: Any) -> int:
        done = Deferred.fromCoroutine(getattr(self.operations, name)(order, "somebody", lambda kind, value: None))
        for _ in range(100):
            self.stocked.clock.advance(0.02)
        return self.failureResultOf(done, Refused).value.status

    def get(self, name: str, /, **query: str) -> Any:
        return self.await_(getattr(self.operations, name)(query))

    def store_elsewhere(self, name: bytes) -> ObjectId:
        """An object of another store, as it lies in the directory."""
        store = self.stocked.harness.store
        id = ObjectId("localhost:9000", *name.split(b"/", 1))
        version = ObjectVersion(id=id, etag=b'"x"', last_modified=None, size=1, headers=Headers(()))
        lease = store.lease(entry_name(id.parts))
        assert lease is not None
        now = self.stocked.harness.now()
        facts = {"meta": encode_version(version), "object_size": 1, "validated_at": now, "observed_at": now}
        assert store.publish_inline(lease, **facts, body=[b"x"]) is not None
        return id

    def is_hit(self, name: bytes) -> bool:
        return self.stocked.read(name).header(b"x-cache") == b"HIT"


class DocumentTests(ControlCase):
    def test_status_and_top(self) -> None:
        """Who it is, how it is, what it did; where it listens, for those who want to use it."""
        found = self.get("status")
        self.assertEqual((found["version"], found["health"]["status"]), ("1", "healthy"))
        self.assertEqual(found["listeners"], [{"name": "http", "address": "127.0.0.1", "port": 80}])
        self.assertIn("requests_total", found["summary"])
        self.assertLess(set(found), set(self.get("top")))

    def test_stats(self) -> None:
        """The metrics, as others read them."""
        self.assertIn("s3proxy_http_requests_in_flight", self.get("stats")["metrics"])

    def test_objects(self) -> None:
        """What is cached, and the time to judge its freshness by."""
        self.stocked.read(b"b/x/1")
        self.order("refresh")
        found = self.get("objects", prefix="b/x/", limit="5")
        self.assertEqual([row["key"] for row in found["objects"]], ["x/1"])
        self.assertGreater(found["now"], 0)
        done = Deferred.fromCoroutine(self.operations.objects({"limit": "x"}))
        self.assertEqual(self.failureResultOf(done, Refused).value.status, 400)

    def test_inspect(self) -> None:
        """By its name, or exactly; 404 when nothing of it is there, 400 when nothing is named."""
        self.stocked.read(b"b/short/k")
        self.assertEqual(self.get("inspect", name="b/short/k")["rule"], "b/short/**")
        self.assertEqual(self.get("inspect", **{IDENTITY: reference(an_id(b"b/short/k"))})["get_ttl"], 5.0)
        for query, status in (({"name": "b/none"}, 404), ({"name": "b"}, 400), ({}, 400)):
            done = Deferred.fromCoroutine(self.operations.inspect(query))
            for _ in range(100):
                self.stocked.clock.advance(0.02)
            self.assertEqual(self.failureResultOf(done, Refused).value.status, status, query)

    def test_explain(self) -> None:
        """Which rule decides what."""
        found = self.get("explain", **{IDENTITY: reference(an_id(b"b/short/k"))})
        self.assertEqual([tuple(each) for each in found["fitting"]], [(1, "b/short/**")])
        ttl = next(each for each in found["settings"] if each["name"] == "get_ttl")
        self.assertEqual((ttl["value"], ttl["rule"]), (5.0, 1))


class PurgeTests(ControlCase):
    def test_one(self) -> None:
        """By name or exactly; the next read of it goes to S3, and the log says who wanted it."""
        self.stocked.read(b"b/1")
        self.stocked.read(b"b/2")
        with capturedLogs() as events:
            self.assertEqual(self.order("purge", name="b/1"), {"objects": 1, "purged": 1, "dry_run": False})
        self.assertIn("somebody removed 1 object(s) from the cache: b/1", [formatEvent(each) for each in events])
        self.assertFalse(self.is_hit(b"b/1"))
        self.assertTrue(self.is_hit(b"b/2"))
        self.assertEqual(self.order("purge", ref=reference(an_id(b"b/2")))["purged"], 1)
        self.assertFalse(self.is_hit(b"b/2"))

    def test_what_is_not_there(self) -> None:
        """Nothing is removed then, and that is no error."""
        self.assertEqual(self.order("purge", name="b/none"), {"objects": 0, "purged": 0, "dry_run": False})

    def test_another_store(self) -> None:
        """A name is looked for in all stores when that of AWS does not have it."""
        self.stocked.read(b"b/1")
        self.assertEqual(self.await_(self.stocked.browser.named("b/1")), [an_id(b"b/1")])
        self.assertEqual(self.await_(self.stocked.browser.named("b/")), [])
        other = self.store_elsewhere(b"b/2")
        self.assertEqual(self.get("inspect", name="b/2")["store"], other.store)
        self.assertEqual(self.order("purge", name="b/2")["purged"], 1)
        self.assertEqual(self.await_(self.stocked.browser.named("b/2")), [])

    def test_many(self) -> None:
        """A dry run counts; then all that fit go, whatever pages they come in, and nothing else."""
        for number in range(25):
            self.stocked.read(b"b/x/%d" % number)
        self.stocked.read(b"b/y")
        self.assertEqual(
            self.order("purge", prefix="b/x/", dry_run=True), {"objects": 25, "purged": 0, "dry_run": True}
        )
        self.assertTrue(self.is_hit(b"b/x/3"))
        self.assertEqual(self.order("purge", glob="b/x/*")["purged"], 25)
        self.assertEqual({kind for kind, _ in self.told}, {"progress"})
        self.assertTrue(self.is_hit(b"b/y"))
        self.assertFalse(self.is_hit(b"b/x/24"))

    def test_careless(self) -> None:
        """An order that is not exact removes nothing."""
        self.stocked.read(b"b/k")
        orders: list[dict[str, Any]] = [
            {}, {"prefix": "b"}, {"prefix": "b/", "glob": "b/*"}, {"glob": "b/k"}, {"glob": "*"}, {"name": "b"},
            {"name": "/k"}, {"ref": "x"}, {"prefix": 5},
        ]  # fmt: skip
        for order in orders:
            self.assertEqual(self.refusal("purge", **order), 400, order)
        self.assertTrue(self.is_hit(b"b/k"))


class VerifyTests(ControlCase):
    def setUp(self) -> None:
        super().setUp()
        for name in (b"b/1", b"b/2", b"c/1"):
            self.stocked.read(name, name * 1000)

    def damage(self, name: bytes) -> None:
        path = self.stocked.harness.store.volume.entry_path(entry_name(an_id(name).parts))
        with open(path, "r+b") as file:
            file.seek(-500, os.SEEK_END)
            byte = file.read(1)
            file.seek(-500, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))

    def test_sound(self) -> None:
        """Everything, or a part of it; or one object."""
        found = self.order("verify")
        self.assertEqual((found["objects"], found["sound"], found["bad"], found["read"]), (3, 3, 0, 9000))
        self.assertEqual(self.order("verify", prefix="b/")["objects"], 2)
        self.assertEqual(self.order("verify", name="b/1")["objects"], 1)
        self.assertEqual(self.order("verify", name="b/none")["gone"], 1)

    def test_bad(self) -> None:
        """It is told which; without repair it stays, with repair it goes."""
        self.damage(b"b/2")
        found = self.order("verify")
        self.assertEqual((found["corrupt"], found["bad"], found["removed"]), (1, 1, 0))
        ((_, finding),) = [each for each in self.told if each[0] == "found"]
        self.assertEqual((finding["name"], finding["verdict"], finding["removed"]), ("b/2", "corrupt", False))
        self.assertEqual(self.order("verify", repair=True)["removed"], 1)
        self.assertFalse(self.is_hit(b"b/2"))
        self.assertTrue(self.is_hit(b"b/1"))
        self.assertEqual(self.order("verify")["bad"], 0)


class DrainTests(ControlCase):
    def test_begin(self) -> None:
        """The process is told when to end; how long requests may take then is the answer."""
        self.assertEqual(self.order("drain", delay=5), {"delay": 5, "drain_timeout": 30.0})
        self.assertEqual(self.ends, [5.0])

    def test_senseless(self) -> None:
        """A delay is a number of seconds."""
        for delay in (-1, "5s", True, 1e9, None):
            self.assertEqual(self.refusal("drain", delay=delay), 400, delay)
        self.assertEqual(self.ends, [])


class RollTests(ControlCase):
    def test_one_process(self) -> None:
        """Without workers there is nothing to replace."""
        self.assertEqual(self.refusal("roll"), 409)

    def test_replaced(self) -> None:
        """With workers all are replaced."""
        self.operations._crew = FakeCrew()
        self.operations._crew.replacing.callback(None)
        self.assertEqual(self.order("roll", limit=60)["leaving"], 2)

    def test_draining(self) -> None:
        """Not on the way out."""
        self.operations._crew = FakeCrew()
        self.operations._known.board.start_draining()
        self.assertEqual(self.refusal("roll"), 409)

    def test_senseless(self) -> None:
        """A limit is a number of seconds."""
        for limit in (0, -1, "5s", True, 1e9, None):
            self.assertEqual(self.refusal("roll", limit=limit), 400, limit)
