"""The dashboard as a service: samples, streams, the file of the history, orders."""

import json
import os
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, execute
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, LogLevel, LogPublisher, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import HealthBoard
from s3proxy.config.model import Cache, Config, Dashboard
from s3proxy.dashboard.browse import Browser
from s3proxy.dashboard.catalog import Catalog
from s3proxy.dashboard.documents import Known
from s3proxy.dashboard.requests import LogLines
from s3proxy.dashboard.samples import Sampler
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import read_rules
from s3proxy.services.dashboard import SAVE, TICK, DashboardService, LineKeeper
from s3proxy.telemetry.access import AccessLog
from s3proxy.telemetry.exit import Exit
from s3proxy.telemetry.logs import ApplicationLog
from s3proxy.telemetry.metrics import Metrics
from test.admin.exchange import Answer, Exchange
from test.dashboard.stocked import ImmediateThread, Stocked
from test.telemetry.records import a_record


class DashboardCase(SynchronousTestCase):
    allow_purge = True

    def setUp(self) -> None:
        self.stocked = Stocked()
        self.addCleanup(self.stocked.harness.close)
        self.reactor = MemoryReactorClock()
        self.metrics = Metrics(CollectorRegistry(), self.reactor.seconds)
        log = AccessLog(self.mktemp(), "host", self.reactor, redact=lambda target: target)
        self.exit = Exit(self.metrics, log, logging=False)
        self.lines = LogLines()
        self.service = self.start()
        self.addCleanup(lambda: self.stop())

    def start(self) -> DashboardService:
        harness = self.stocked.harness
        known = Known(
            facts={"version": "1", "hostname": "proxy-1"},
            now=self.now,
            clock=self.reactor.seconds,
            started_at=self.now(),
            board=HealthBoard(self.now),
            traffic=self.exit.traffic,
            manager=harness.cache,
            running=lambda: harness.gateway.running,
            permits=lambda: 10,
            upstream=lambda: {"hosts": {}, "excluded": []},
            rules=lambda: self.stocked.rules,
        )
        catalog = Catalog(self.reactor, ImmediateThread(), harness.store.volume)
        browser = Browser(
            self.reactor,
            harness.cache,
            harness.store.volume,
            catalog,
            self.run_call,
            known.rules,
            known.now,
            self.purged,
        )
        service = DashboardService(
            self.reactor,
            known=known,
            sampler=Sampler(self.metrics, [], lambda: 0.0),
            metrics=self.metrics,
            exit=self.exit,
            lines=self.lines,
            browser=browser,
            volume=harness.store.volume,
            run=self.run_call,
            config=self.config(),
            hostname="proxy-1",
        )
        service.startService()
        return service

    def config(self) -> Config:
        return Config(
            cache=Cache(cache_dir=self.stocked.harness.root), dashboard=Dashboard(allow_purge=self.allow_purge)
        )

    def stop(self) -> None:
        done = Deferred.fromCoroutine(self.service.close())
        self.successResultOf(done)
        self.service.stopService()

    def run_call(self, work: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        return execute(work, *args)

    def purged(self, count: int) -> None:
        for _ in range(count):
            self.metrics.cache_invalidated("purge")

    def now(self) -> float:
        return 1_800_000_000.0 + self.reactor.seconds()

    def request(self, **changes: object) -> None:
        self.exit.started()
        self.exit.finished(a_record(**changes))

    def exchange(self) -> Exchange:
        (_, site, *_), *_ = self.reactor.tcpServers
        found = Exchange.__new__(Exchange)
        Exchange.__init__(found, site.resource)
        return found

    def ask(self, path: str) -> Any:
        answer = Answer(self.exchange().send(f"GET /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()))
        self.assertEqual(answer.status, 200, answer.body)
        return json.loads(answer.body)["data"]

    def order(self, order: object) -> Answer:
        body = json.dumps(order).encode()
        exchange = self.exchange()
        raw = exchange.send(
            b"POST /api/v1/cache/purge HTTP/1.1\r\nHost: localhost\r\nX-S3Proxy: 1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        for _ in range(1000):
            if raw:
                break
            self.reactor.advance(0.02)
            raw = bytes(exchange.transport.value())
        return Answer(raw)


class NumbersTests(DashboardCase):
    def test_summary_is_of_now(self) -> None:
        """What ended a moment ago is part of it."""
        self.request()
        found = self.ask("summary")
        self.assertEqual((found["requests_total"], found["hits"], found["sent"]), (1, 1, 1000))

    def test_rates(self) -> None:
        """Of the last seconds, and 0 when nothing happens any more."""
        for _ in range(5):
            self.request()
            self.reactor.advance(TICK)
        self.assertEqual(self.ask("summary")["rates"]["requests"], 1.0)
        for _ in range(6):
            self.reactor.advance(TICK)
        self.assertEqual(self.ask("summary")["rates"]["requests"], 0.0)

    def test_series(self) -> None:
        """Curves of each range; others get their turn while they are made."""
        for _ in range(12):
            self.request()
            self.reactor.advance(TICK)
        exchange = self.exchange()
        exchange.send(b"GET /api/v1/series?range=1h HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(50):
            self.reactor.advance(0)
        found = json.loads(Answer(bytes(exchange.transport.value())).body)["data"]
        hits = found["values"][found["names"].index("hit")]
        self.assertEqual((found["step"], hits[0], len(found["values"])), (5.0, 1.0, len(found["names"])))

    def test_bad_questions(self) -> None:
        """What there is not is 400, with what there is."""
        for path in ("series?range=2y", "logs?level=loud", "cache/objects?sort=x", "cache/objects?offset=x",
                     "requests?limit=x", "cache/object?bucket=b", "requests?limit=1e3",
                     "cache/objects?offset=" + "9" * 5000):  # fmt: skip
            raw = self.exchange().send(f"GET /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            self.assertEqual(Answer(raw).status, 400, path)

    def test_odd_questions(self) -> None:
        """What is far away, or no text, is merely not found."""
        self.stocked.read(b"b/k")
        self.ask("cache/objects")
        for path in ("cache/objects?offset=" + "9" * 30, "cache/objects?q=%00&prefix=%ff",
                     "requests?q=%ff%00&outcome=%ff", "logs?q=%ed%a0%80", "rules/match?name=%ff/%00",
                     "prefixes?bucket=%ff"):  # fmt: skip
            self.ask(path)

    def test_text(self) -> None:
        """The summary is there for people without a browser."""
        raw = self.exchange().send(b"GET /api/v1/summary?format=text HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertIn(b"\nrequests_total 0\n", Answer(raw).body)

    def test_rules(self) -> None:
        """How often each rule was the first that fits, and how many of these reads were hits."""
        text = b'{"rules": [{"pattern": "a/**", "get_ttl": "1h"}, {"pattern": "**", "get_ttl": "1m"}]}'
        self.stocked.rules = Rules(self.stocked.harness.config, read_rules(text, 30.0).rules)
        for changes in ({}, {"outcome": "MISS"}, {"outcome": "BYPASS"}, {"operation": "HeadObject", "method": b"HEAD"}):
            self.request(rule=1, **changes)
        self.request(rule=-1)
        rules = self.ask("rules")["rules"]
        self.assertEqual([(rule["requests"], rule["hit_rate"]) for rule in rules], [(0, None), (4, 0.666667)])

    def test_many_rules(self) -> None:
        """Only the first ones are counted."""
        text = json.dumps({"rules": [{"pattern": f"b{number}/**", "get_ttl": "1h"} for number in range(102)]})
        self.stocked.rules = Rules(self.stocked.harness.config, read_rules(text.encode(), 30.0).rules)
        self.assertEqual([rule["requests"] for rule in self.ask("rules")["rules"]], [0] * 100 + [None] * 2)

    def test_requests(self) -> None:
        """The last requests, with the reason of a miss."""
        self.request(outcome="MISS", reason="cold")
        self.request(key=b"other", target=b"/photos/other")
        self.assertEqual([row["reason"] for row in self.ask("requests")["requests"]], ["", "cold"])
        self.assertEqual(len(self.ask("requests?outcome=MISS")["requests"]), 1)
        self.assertEqual(len(self.ask("requests?q=other&limit=5")["requests"]), 1)


class StreamTests(DashboardCase):
    def test_ticks(self) -> None:
        """Who listens is told at once, and then every second; a row of the curves when it is complete; new lines."""
        exchange = self.exchange()
        first = exchange.send(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual((first.count(b"event: hello"), first.count(b"event: tick")), (1, 1))
        self.request()
        self.lines.add(self.now(), "info", "x", "something happened")
        exchange.transport.clear()
        self.reactor.advance(TICK)
        told = bytes(exchange.transport.value())
        self.assertIn(b'"requests_total":1,', told)
        self.assertIn(b"something happened", told)
        exchange.transport.clear()
        for _ in range(5):
            self.reactor.advance(TICK)
        told = bytes(exchange.transport.value())
        self.assertEqual((told.count(b"event: tick"), told.count(b"event: row")), (5, 1))
        self.assertNotIn(b"something happened", told)

    def test_lines_before_somebody_listened(self) -> None:
        """They are asked for, not sent."""
        self.lines.add(self.now(), "info", "x", "before")
        self.reactor.advance(TICK)
        exchange = self.exchange()
        exchange.send(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        exchange.transport.clear()
        self.reactor.advance(TICK)
        self.assertNotIn(b"before", bytes(exchange.transport.value()))
        self.assertEqual([line["text"] for line in self.ask("logs")["lines"]], ["before"])


class FileTests(DashboardCase):
    @property
    def path(self) -> str:
        return os.path.join(self.stocked.harness.root, "dashboard", "proxy-1-80.history")

    def points(self) -> int:
        return len(self.service._history.rings[0].rows)

    def test_kept(self) -> None:
        """Saved each minute and at the end, readable for the proxy alone, and read at the next start."""
        for _ in range(int(SAVE / TICK)):
            self.reactor.advance(TICK)
        self.assertTrue(os.path.exists(self.path))
        for _ in range(6):
            self.reactor.advance(TICK)
        before = self.points()
        self.stop()
        self.service = self.start()
        self.assertGreaterEqual(self.points(), before)

    def test_damaged(self) -> None:
        """A file that can't be read is no reason not to start; it is said once and written anew."""
        self.stop()
        with open(self.path, "wb") as file:
            file.write(b"junk")
        with capturedLogs() as events:
            self.service = self.start()
        warnings = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(warnings), 1)
        self.assertIn(self.path, warnings[0])
        self.assertEqual(self.points(), 0)

    def test_the_disk_fails(self) -> None:
        """What can't be saved is said, and the dashboard goes on."""
        self.patch(self, "run_call", lambda *args: execute(os.listdir, "/none/at/all"))
        self.service._run = self.run_call
        self.reactor.advance(SAVE)
        self.assertTrue(self.flushLoggedErrors(OSError))
        self.assertEqual(self.ask("summary")["requests_total"], 0)
        self.service._run = lambda work, *args: execute(work, *args)


class OrderTests(DashboardCase):
    def test_one_object(self) -> None:
        """It is removed, counted and noted, with who ordered it."""
        self.stocked.read(b"b/k")
        with capturedLogs() as events:
            answer = self.order({"ref": "bucket=b&key=k"})
        self.assertEqual(json.loads(answer.body), {"data": {"objects": 1, "purged": 1}})
        self.assertEqual(self.stocked.read(b"b/k").header(b"x-cache"), b"MISS")
        self.assertIn("removed 1 object(s) from the cache: b/k", " ".join(map(str, map(formatEvent, events))))
        self.assertIn(b's3proxy_cache_invalidations_total{reason="purge"} 1.0', self.metrics.render_text())

    def test_prefix(self) -> None:
        """A dry run counts; the order itself removes what begins so, and nothing else."""
        for name in (b"b/x/1", b"b/x/2", b"b/y"):
            self.stocked.read(name)
        dry = self.order({"prefix": "b/x/", "dry_run": True})
        self.assertEqual(json.loads(dry.body)["data"], {"objects": 2, "purged": 0})
        self.assertEqual(self.stocked.read(b"b/x/1").header(b"x-cache"), b"HIT")
        done = self.order({"prefix": "b/x/"})
        self.assertEqual(json.loads(done.body)["data"], {"objects": 2, "purged": 2})
        self.assertEqual(self.stocked.read(b"b/y").header(b"x-cache"), b"HIT")
        self.assertEqual(self.stocked.read(b"b/x/1").header(b"x-cache"), b"MISS")

    def test_glob(self) -> None:
        """Stars stand for any text."""
        for name in (b"b/x/1.tmp", b"b/1.tmp", b"b/1.dat"):
            self.stocked.read(name)
        done = self.order({"glob": "b/*.tmp"})
        self.assertEqual(json.loads(done.body)["data"]["purged"], 2)

    def test_careless_orders(self) -> None:
        """Nothing is removed by an order that is not exact."""
        self.stocked.read(b"b/k")
        orders: list[dict[str, object]] = [
            {}, {"ref": ""}, {"ref": "x"}, {"ref": ["bucket=b&key=k"]}, {"prefix": "b"}, {"prefix": 1},
            {"prefix": "", "glob": ""}, {"glob": "b/k"}, {"glob": "*"}, {"prefix": "b/", "glob": "b/*"},
            {"ref": "bucket=b&key=\u20ac"}, {"prefix": "b/\ud800"}, {"glob": "b/*\ud800"},
            {"prefix": ["b/"], "glob": "b/*"}, {"ref": 5, "prefix": "b/"}, {"prefix": "b/", "dry_run": "yes"},
        ]  # fmt: skip
        for order in orders:
            self.assertEqual(self.order(order).status, 400, order)
        self.assertEqual(self.stocked.read(b"b/k").header(b"x-cache"), b"HIT")


class NoOrderTests(DashboardCase):
    allow_purge = False

    def test_switched_off(self) -> None:
        """By default the dashboard only looks."""
        self.stocked.read(b"b/k")
        answer = self.order({"ref": "bucket=b&key=k"})
        self.assertEqual(answer.status, 403)
        self.assertIn(b"dashboard.allow_purge", answer.body)
        self.assertEqual(self.stocked.read(b"b/k").header(b"x-cache"), b"HIT")


class WarningTests(DashboardCase):
    def config(self) -> Config:
        return Config(
            cache=Cache(cache_dir=self.stocked.harness.root),
            dashboard=Dashboard(allow_purge=True, bind_address="0.0.0.0"),
        )

    def test_open_to_all(self) -> None:
        """Who lets everybody remove objects is told so."""
        self.stop()
        with capturedLogs() as events:
            self.service = self.start()
        texts = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(texts), 1)
        self.assertIn("dashboard.allow_purge", texts[0])


class LineKeeperTests(SynchronousTestCase):
    def test_what_the_log_writes(self) -> None:
        """Lines of the level that is written, with tracebacks, without secrets."""
        lines = LogLines()
        keeper = LineKeeper(lines, ApplicationLog(self.mktemp(), "host", level="info", console=None))
        log = Logger(namespace="s3proxy.x", observer=LogPublisher(keeper))
        log.debug("not written")
        log.info("a: b {x}", x="Signature=5ec2e7")
        try:
            raise ValueError("bad")
        except ValueError:
            log.failure("it broke")
        newest, oldest = lines.latest()
        found = oldest["level"], oldest["source"], oldest["text"]
        self.assertEqual(found, ("info", "s3proxy.x", "a: b Signature=REDACTED"))
        self.assertIn("ValueError: bad", newest["text"])
        self.assertEqual(newest["level"], "critical")
