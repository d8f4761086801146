"""How the running process starts, is asked how it is, turns requests away, and ends."""

import http.client
import json
import os
import signal
import time
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from test.support.content import content
from test.support.fake_script import Action, Match
from test.support.raw_client import ConnectionEnded, RawClient
from test.support.waiting import poll
from test.system.stage import MIB, Stage, at_once, unfinished_files

SIZE = 4 * MIB


class LifecycleTestCase(SynchronousTestCase):
    """One proxy, and an object whose second half S3 can hold back."""

    config: "dict[str, dict[str, object]]" = {}

    def setUp(self) -> None:
        """Start the proxy."""
        self.stage = Stage(self.config)
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy
        self.stage.put(b"held", 1, SIZE)
        self.stage.put(b"small", 2, 1000)
        self.script = self.stage.fake.script(Match(key=b"held"), Action(stall_after=SIZE // 2), times=None)

    def begin(self) -> RawClient:
        """A client in the middle of the body that S3 holds back."""
        client = self.stage.connect()
        self.addCleanup(client.close)
        client.send(self.stage.request(b"GET", b"held"))
        self.assertEqual(client.read_head().status, 200)
        self.assertEqual(client.read_exactly(SIZE // 2), content(1, 0, SIZE // 2))
        return client

    def ask_health(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """Status and body of an answer of the health listener."""
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.config["health"]["port"], timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class EndTests(LifecycleTestCase):
    """SIGTERM."""

    def test_running_download_completes(self) -> None:
        """The download that is under way ends as if nothing had happened; meanwhile new connections are refused, health
        says so, and the process ends with exit code 0.
        """
        client = self.begin()
        idle = self.stage.connect()
        self.addCleanup(idle.close)
        self.proxy.signal(signal.SIGTERM)
        poll(lambda: self.ask_health("/readyz")[0] == 503, 5, "readyz to say that no traffic is wanted")
        self.assertEqual(self.ask_health("/livez")[0], 200)
        self.assertEqual(self.ask_health("/readyz", "HEAD"), (503, b""))
        self.assertTrue(self.proxy.health()["draining"])
        self.assertRaises(ConnectionRefusedError, self.stage.connect)
        self.assertEqual(idle.read_to_end(), b"", "an idle connection was kept")
        self.script.release()
        self.assertEqual(client.read_exactly(SIZE // 2), content(1, SIZE // 2, SIZE))
        self.assertEqual(client.read_to_end(), b"")
        self.assertEqual(self.proxy.wait(10), 0)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_kept_connection_ends_after_its_request(self) -> None:
        """A request that is under way on a kept connection is answered, and told that it was the last."""
        with self.stage.connect() as client:
            client.send(self.stage.request(b"GET", b"small"))
            self.assertEqual(client.read_response().status, 200)
            held = self.stage.fake.script(Match(key=b"small", operation="HeadObject"), Action(hold=True))
            client.send(self.stage.request(b"HEAD", b"small?versionId=null"))
            poll(lambda: held.held == 1, 5, "S3 to be asked")
            self.proxy.signal(signal.SIGTERM)
            poll(lambda: self.ask_health("/readyz")[0] == 503, 5, "the drain")
            held.release()
            answer = client.read_response(b"HEAD")
            self.assertEqual((answer.status, answer.header(b"connection")), (200, b"close"))
        self.assertEqual(self.proxy.wait(10), 0)

    def test_interrupt(self) -> None:
        """Ctrl-C does the same."""
        self.proxy.signal(signal.SIGINT)
        self.assertEqual(self.proxy.wait(10), 0)

    def test_twice(self) -> None:
        """A second SIGTERM changes nothing."""
        client = self.begin()
        self.proxy.signal(signal.SIGTERM)
        poll(lambda: self.ask_health("/readyz")[0] == 503, 5, "the drain")
        self.proxy.signal(signal.SIGTERM)
        self.script.release()
        client.read_exactly(SIZE // 2)
        self.assertEqual(self.proxy.wait(10), 0)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_start_after_stop(self) -> None:
        """What was cached before a stop is a hit after the start."""
        self.assertTrue(self.stage.read(b"small", 2, 1000).exact)
        self.proxy.restart()
        reading = self.stage.read(b"small", 2, 1000)
        self.assertEqual((reading.exact, reading.x_cache), (True, b"HIT"))


class ShortDrainTests(LifecycleTestCase):
    """SIGTERM, and a request that does not end in time."""

    config = {"server": {"drain_timeout": "1s"}}

    def test_cut(self) -> None:
        """After drain_timeout the connection is cut, never ended as if it were complete, and the process ends with exit
        code 0.
        """
        client = self.begin()
        began = time.monotonic()
        self.proxy.signal(signal.SIGTERM)
        self.assertRaises(ConnectionEnded, client.read_exactly, SIZE // 2)
        self.assertGreater(time.monotonic() - began, 0.9)
        self.assertEqual(self.proxy.wait(10), 0)
        self.assertLess(time.monotonic() - began, 4, "the fetch from S3 held up the end")
        self.assertIn("were cut", self.proxy.app_log())
        self.assertEqual(self.stage.tracebacks(), [])
        lines = [line for line in self.proxy.access_log().splitlines() if "/held" in line]
        self.assertEqual(len(lines), 1, "the request that was cut is not in the access log")
        self.assertEqual(unfinished_files(self.proxy.cache_dir), [], "the cut fetch left files behind")


class AccessLogTests(LifecycleTestCase):
    """One line for each request, whatever happens."""

    config = {"logging": {"access_log_flush_interval": "60s"}}

    def lines(self, text: str) -> list[str]:
        """Lines of the access log with this text."""
        return [line for line in self.proxy.access_log().splitlines() if text in line]

    def test_complete(self) -> None:
        """After many requests at once, of which some ended a moment ago and one is under way at SIGTERM, each has its
        line.
        """

        def many(number: int) -> None:
            with self.stage.connect() as client:
                for turn in range(25):
                    client.send(self.stage.request(b"GET", b"small?x-id=GetObject&n=%d-%d" % (number, turn)))
                    client.read_response()

        at_once([partial(many, number) for number in range(8)])
        client = self.begin()
        self.proxy.signal(signal.SIGTERM)
        poll(lambda: self.ask_health("/readyz")[0] == 503, 5, "the drain")
        self.script.release()
        client.read_exactly(SIZE // 2)
        self.assertEqual(self.proxy.wait(10), 0)
        found = self.lines("/small?")
        self.assertEqual(len(found), 200)
        for number in range(8):
            for turn in range(25):
                self.assertEqual(sum(f"n={number}-{turn} " in line for line in found), 1)
        self.assertEqual(len(self.lines("/held")), 1)

    def test_hangup_opens_the_logs_anew(self) -> None:
        """After a rotation by renaming and SIGHUP, lines go into a new file, and none is lost."""
        self.stage.ask(b"GET", b"small?before")
        logs = self.proxy.folder / "logs"
        renamed = []
        for path in [*(logs / "access").rglob("*.log"), *(logs / "app").rglob("*.log")]:
            moved = path.with_suffix(".old")
            os.rename(path, moved)
            renamed.append((path, moved))
        self.assertEqual(len(renamed), 2)
        self.proxy.signal(signal.SIGHUP)
        poll(lambda: all(path.exists() for path, _ in renamed), 5, "new log files")
        self.stage.ask(b"GET", b"small?after")
        self.assertEqual(self.proxy.terminate(10), 0)
        self.assertEqual(len(self.lines("small?before")), 1)
        self.assertEqual(len(self.lines("small?after")), 1)
        self.assertIn("small?after", renamed[0][0].read_text())
        self.assertEqual(self.stage.tracebacks(), [])


class PermitTests(LifecycleTestCase):
    """server.max_concurrent_requests."""

    config = {"server": {"max_concurrent_requests": 2}}

    def test_third_request_is_turned_away(self) -> None:
        """A permit is held to the last byte; who finds none gets 503 SlowDown with Retry-After at once, and is served
        when one is free again.
        """
        clients = [self.begin(), self.begin()]
        for _ in range(3):
            answer = self.stage.ask(b"GET", b"small", timeout=5)
            self.assertEqual(answer.status, 503)
            self.assertIn(b"<Code>SlowDown</Code>", answer.body)
            self.assertGreaterEqual(int(answer.header(b"retry-after") or 0), 1)
        self.assertEqual(self.proxy.metric("s3proxy_requests_shed_total"), 3)
        self.assertEqual(self.ask_health("/readyz")[0], 200, "being busy is no reason to be taken out of service")
        self.script.release()
        for client in clients:
            self.assertEqual(client.read_exactly(SIZE // 2), content(1, SIZE // 2, SIZE))
        poll(lambda: self.proxy.metric("s3proxy_request_permits_held") == 0, 5, "the permits to be given back")
        self.assertEqual(self.stage.ask(b"GET", b"small").status, 200)


class ObservationTests(LifecycleTestCase):
    """Health and metrics of a running process."""

    def test_health(self) -> None:
        """GET and HEAD are answered alike; each component says how it is."""
        for path in ("/health", "/livez", "/readyz"):
            self.assertEqual(self.ask_health(path)[0], 200)
            self.assertEqual(self.ask_health(path, "HEAD"), (200, b""))
        document = json.loads(self.ask_health("/health")[1])
        self.assertEqual(document["status"], "healthy")
        components = {part["name"]: part["status"] for part in document["components"]}
        self.assertEqual(components.pop("tls"), "disabled")
        self.assertEqual(set(components.values()), {"healthy"})
        self.assertLessEqual({"storage", "upstream", "dns", "listeners", "rules", "capacity"}, set(components))

    def test_metrics(self) -> None:
        """The text has a hit rate from the start, and it moves with the requests."""
        self.assertIn("cache_hit_rate", self.proxy.metrics_text())
        self.assertEqual(self.proxy.metric("s3proxy_cache_hit_rate_ratio", window="total"), 0)
        for _ in range(4):
            self.assertEqual(self.stage.ask(b"GET", b"small").status, 200)
        self.assertEqual(self.proxy.metric("s3proxy_cache_hit_rate_ratio", window="total"), 0.75)
        # Who comes while the first answer is still being committed is not counted as a hit, but coalesced.
        hits = [
            self.proxy.metric("s3proxy_http_requests_total", source=source, code="200")
            for source in ("ram", "disk", "coalesced")
        ]
        self.assertEqual(sum(hits), 3)
        self.assertEqual(self.proxy.metric("s3proxy_http_requests_total", source="miss", code="200"), 1)
