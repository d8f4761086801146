"""The logs of a running process: complete, well-formed, without secrets, and no burden for those who are served."""

import http.client
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from twisted.trial.unittest import SynchronousTestCase

from test.support.proxy_process import ProxyProcess
from test.support.raw_client import ConnectionEnded, RawClient
from test.support.waiting import poll
from test.system.careless_store import CarelessStore
from test.system.mounts import SmallVolume
from test.system.secret_requests import HOST, MARK, SecretRequest, read_captures, secrets_in
from test.system.stage import Stage, at_once

UNIVERSAL_FIELDS = ("time", "operation", "request_uri", "http_status", "outcome", "ending", "proxy_request_id")


def get(port: int, path: str, accept: str = "*/*") -> "tuple[int, bytes]":
    """Status and body of an answer of one of the listeners for operators."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class SecretsTests(SynchronousTestCase):
    """The requests of every recorded client, with secrets in all the places where clients put them."""

    def start(self, logging: "dict[str, object]") -> None:
        """A store, and the proxy in front of it, with all its logs as talkative as can be."""
        self.store = CarelessStore()
        self.addCleanup(self.store.stop)
        self.proxy = ProxyProcess(
            {
                "server": {"mode": "standard"},
                "cache": {"get_ttl": "1h", "head_ttl": "1h"},
                "logging": {"log_level": "trace", **logging},
                "connection_pool": {
                    "endpoint_overrides": {
                        name: [f"127.0.0.1:{self.store.port}"] for name in (HOST, f"*.{HOST}")
                    },
                    "upstream_overrides": {f"{HOST}:80": {"scheme": "http"}},
                    "max_retries": 1,
                },
            }
        )
        self.addCleanup(self.proxy.stop)
        self.proxy.start()
        self.requests = list(read_captures())
        self.signatures = frozenset().union(*(request.signatures for request in self.requests))

    def send(self, request: SecretRequest) -> int:
        """The status of the answer; 0 when there is none."""
        with RawClient("127.0.0.1", self.proxy.port, timeout=20) as client:
            client.send(request.wire)
            try:
                return client.read_response(request.method).status
            except ConnectionEnded:
                return 0

    def operators(self) -> "Iterator[tuple[str, str]]":
        """Everything that operators can look at over HTTP: where, and what is there."""
        config = self.proxy.config
        for accept in ("*/*", "application/json", "application/openmetrics-text; version=1.0.0"):
            yield f"metrics as {accept}", get(config["metrics"]["port"], "/metrics", accept)[1].decode()
        for path in ("/health", "/readyz?verbose", "/livez?verbose"):
            yield path, get(config["health"]["port"], path)[1].decode()
        port = config["dashboard"]["port"]
        yield "page", get(port, "/")[1].decode()
        listing = json.loads(get(port, "/api/v1/none")[1])
        paths = [path for path in json.dumps(listing).split('"') if path.startswith("/api/v1/")]
        self.assertGreater(len(paths), 5)
        for path in paths:
            yield path, get(port, path)[1].decode()
        yield "requests", get(port, "/api/v1/requests?limit=1000")[1].decode()
        yield "events", self.events(port)

    @staticmethod
    def events(port: int) -> str:
        """The beginning of the stream of events."""
        with RawClient("127.0.0.1", port) as client:
            client.send(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.read_head()
            return client.read_some().decode()

    def assert_no_secrets(self, where: str, text: str) -> None:
        """Neither as it was sent, nor percent-encoded once or twice."""
        for spelling in {text, unquote(text), unquote(unquote(text))}:
            found = secrets_in(spelling, self.signatures)
            self.assertEqual(found[:3], [], f"{len(found)} in {where}")

    def run_all(self) -> int:
        """Send everything, and look at everything while it happens. :returns: how many requests were sent"""
        with ThreadPoolExecutor(8) as pool:
            return self._run_all(pool)

    def _run_all(self, pool: ThreadPoolExecutor) -> int:
        statuses = Counter(pool.map(self.send, self.requests))
        self.assertGreater(statuses[200] + statuses[204], 700, statuses)
        some = self.requests[::7]
        for mood in ("kind", "deny", "garbage", "cut"):
            self.store.be(mood)
            list(pool.map(self.send, some))
        self.store.be("hold")
        held = [
            threading.Thread(target=self.send, args=(request,), daemon=True)
            for request in self.requests
            if request.method == b"DELETE"
        ][:8]
        for thread in held:
            thread.start()
        poll(lambda: self.proxy.metric("s3proxy_request_permits_held") >= len(held), 10, "requests to be in flight")
        for where, text in self.operators():
            self.assert_no_secrets(f"{where} (requests in flight)", text)
        self.store.be("kind")
        for thread in held:
            thread.join(20)
        for where, text in self.operators():
            self.assert_no_secrets(where, text)
        return len(self.requests) + 4 * len(some) + len(held)

    def check_files(self, sent: int) -> "list[str]":
        """End the proxy and look at what it wrote. :returns: the lines of the access log"""
        self.assertEqual(self.proxy.terminate(), 0)
        self.assert_no_secrets("the access log", self.proxy.access_log())
        self.assert_no_secrets("the application log", self.proxy.app_log())
        self.assert_no_secrets("the output", self.proxy.output())
        lines = self.proxy.access_log().splitlines()
        self.assertEqual(len(lines), sent)
        return lines

    def test_the_look_finds_secrets(self) -> None:
        """What is looked for is in what is sent: nearly every request has a signature, and all have other secrets."""
        requests = list(read_captures())
        self.assertGreater(len(requests), 800)
        self.assertGreater(sum(bool(request.signatures) for request in requests), 800)
        for request in requests:
            text = request.wire.decode("utf-8")
            self.assertIn(MARK, text)
            self.assertGreaterEqual(len(secrets_in(text, request.signatures)), 5 + len(request.signatures))

    def test_text(self) -> None:
        """Lines for people."""
        self.start({})
        lines = self.check_files(self.run_all())
        text = "\n".join(lines)
        self.assertIn("X-Amz-Signature=REDACTED", text)
        self.assertIn("x%2Damz-%53ecurity-token=REDACTED", text)
        self.assertIn(" AuthHeader ", text)
        self.assertIn(" QueryString ", text)

    def test_json(self) -> None:
        """Objects, with masked access keys."""
        self.start({"access_log_format": "json", "app_log_format": "json", "access_log_requester": True})
        lines = [json.loads(line) for line in self.check_files(self.run_all())]
        for name in UNIVERSAL_FIELDS:
            self.assertEqual([line for line in lines if name not in line][:1], [], name)
        self.assertIn("AKIA...WXYZ", {line.get("requester") for line in lines})
        # Twisted writes to standard output as the process ends.
        for line in self.proxy.app_log().splitlines():
            self.assertEqual(set(json.loads(line)) - {"traceback"}, {"time", "level", "logger", "message"})


class CompletenessTests(SynchronousTestCase):
    """Each request has its line, whatever happens to the process and to its files."""

    config: "dict[str, object]" = {"access_log_flush_interval": "60s", "access_log_buffer_size": 100000}
    workers = 1

    def setUp(self) -> None:
        self.stage = Stage(
            {"logging": self.config, "server": {"max_concurrent_requests": 4000, "workers": self.workers}}
        )  # fmt: skip
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy
        self.stage.put(b"small", 2, 1000)

    def ask_many(self, names: range) -> None:
        """So many requests on one connection, each with a name of its own."""
        with self.stage.connect() as client:
            for number in names:
                client.send(self.stage.request(b"GET", b"small?x-id=GetObject&n=%d" % number))
                self.assertEqual(client.read_response().status, 200)

    def numbers(self, text: str) -> "Counter[int]":
        """Which of these requests have lines, and how many."""
        return Counter(
            int(line.partition("&n=")[2].partition(" ")[0]) for line in text.splitlines() if "&n=" in line
        )

    def test_a_thousand_at_once(self) -> None:
        """A thousand requests that are under way together, a SIGTERM right behind: a thousand lines, each once."""
        clients = []
        for _ in range(1000):
            client = self.stage.connect()
            self.addCleanup(client.close)
            clients.append(client)
        for number, client in enumerate(clients):
            client.send(self.stage.request(b"GET", b"small?x-id=GetObject&n=%d" % number))
        for client in clients:
            self.assertEqual(client.read_response().status, 200)
        self.assertEqual(self.numbers(self.proxy.access_log()), Counter(), "they were in memory until the end")
        self.assertEqual(self.proxy.terminate(), 0)
        self.assertEqual(self.numbers(self.proxy.access_log()), Counter(range(1000)))

    def test_moved_under_load(self) -> None:
        """Files that are renamed again and again while requests are served, with either signal: no line is lost, and
        none is in two files.
        """
        logs = self.proxy.folder / "logs"
        files = [*(logs / "access").glob("*.log"), *(logs / "app").rglob("*.log")]
        self.assertEqual(len(files), 2)
        done = threading.Event()

        def rotate() -> None:
            turn = 0
            while not done.wait(0.05) or turn < 4:
                for path in files:
                    path.rename(path.with_suffix(f".{turn}"))
                self.proxy.signal(signal.SIGUSR1 if turn % 2 else signal.SIGHUP)
                poll(lambda: all(path.exists() for path in files), 10, "new log files")
                turn += 1

        def serve() -> None:
            at_once([partial(self.ask_many, range(start, start + 250)) for start in range(0, 1000, 250)])
            done.set()

        at_once([rotate, serve])
        self.assertEqual(self.proxy.terminate(), 0)
        self.assertEqual(self.numbers(self.proxy.access_log()), Counter(range(1000)))
        app_log = self.proxy.app_log()
        turns = len(list((logs / "access").glob("access-*.*"))) - 1
        self.assertGreaterEqual(turns, 4)
        self.assertEqual(app_log.count("the log files are opened anew"), turns)
        self.assertEqual(app_log.count("ProxyService: ready: "), 1)
        self.assertEqual(app_log.count("ProxyService: stopped\n"), 1)
        self.assertEqual(self.stage.tracebacks(), [])


class WorkersTests(CompletenessTests):
    """The same for several processes that share the files."""

    workers = 2


class SoonTests(SynchronousTestCase):
    """The standard intervals."""

    def test_the_only_request(self) -> None:
        """The only request of a quiet minute is in the file soon, and files have names that people look for."""
        stage = Stage()
        self.addCleanup(stage.stop)
        stage.put(b"small", 2, 1000)
        stage.ask(b"GET", b"small")
        logs = stage.proxy.folder / "logs"
        poll(lambda: stage.proxy.access_log().count("/small") == 1, 5, "the line")
        self.assertTrue(list(logs.glob("access/*.log")))
        self.assertTrue(list(logs.glob("app/*/*.log")))


class FullDiskTests(SynchronousTestCase):
    """The file system of the logs is full."""

    def setUp(self) -> None:
        self.stage = Stage(start=False)
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy
        self.volume = SmallVolume(self.proxy.folder / "logs", 1 << 20)
        self.addCleanup(self.volume.unmount)
        self.proxy.start()
        self.stage.put(b"small", 2, 1000)

    def ask_many(self, names: range) -> None:
        """Requests that must all be answered."""
        with self.stage.connect() as client:
            for number in names:
                client.send(self.stage.request(b"GET", b"small?x-id=GetObject&n=%d" % number))
                self.assertEqual(client.read_response().status, 200)

    def test_full(self) -> None:
        """Requests are answered as ever; faults are counted; what waited is written when there is room."""
        self.ask_many(range(10))
        written = partial(self.proxy.metric, "s3proxy_access_log_records_total", result="written")
        poll(lambda: written() == 10, 5, "the first lines")
        self.volume.fill()
        self.ask_many(range(10, 500))
        poll(lambda: self.proxy.metric("s3proxy_log_write_errors_total", log="access") >= 2, 10, "the fault")
        self.ask_many(range(500, 510))
        self.assertGreater(self.proxy.metric("s3proxy_access_log_buffer_records"), 0)
        self.assertEqual(get(self.proxy.config["health"]["port"], "/livez")[0], 200)
        self.assertIn("The access log can't be written", self.proxy.output())
        self.volume.empty()
        poll(lambda: written() == 510, 10, "the rest")
        self.assertEqual(self.proxy.metric("s3proxy_access_log_records_total", result="dropped"), 0)
        self.assertEqual(self.proxy.terminate(), 0)
        lines = [line for line in self.proxy.access_log().splitlines() if "&n=" in line]
        self.assertEqual(len(lines), 510)

    def test_full_to_the_end(self) -> None:
        """A process that can't write its last lines ends all the same, in time, and says how many were lost."""
        self.volume.fill()
        self.ask_many(range(100))
        self.assertEqual(self.proxy.terminate(), 0)
        self.assertIn("lines of the access log could not be written before the end", self.proxy.output())


class HangingDirectoryTests(SynchronousTestCase):
    """The directory of the logs hangs, as an NFS server that is gone makes it do."""

    def test_hanging(self) -> None:
        """Requests are answered although neither log can be opened; everything is written when it goes on."""
        stage = Stage({"logging": {"log_level": "debug", "access_log_buffer_size": 100}})
        self.addCleanup(stage.stop)
        stage.put(b"small", 2, 1000)
        logs = stage.proxy.folder / "logs"
        pipes = [*(logs / "access").glob("*.log"), *(logs / "app").rglob("*.log")]
        self.assertEqual(len(pipes), 2)
        for path in pipes:
            path.rename(path.with_suffix(".before"))
            os.mkfifo(path)  # whoever opens it waits until somebody reads
        for _ in range(3):
            stage.proxy.signal(signal.SIGUSR1)
            for _ in range(100):
                self.assertEqual(stage.ask(b"GET", b"small", timeout=5).status, 200)
        self.assertEqual(stage.proxy.metric("s3proxy_http_requests_total", operation="GetObject"), 300)
        self.assertEqual(get(stage.proxy.config["health"]["port"], "/livez")[0], 200)
        with ThreadPoolExecutor(len(pipes)) as pool:
            reading = [pool.submit(path.read_text) for path in pipes]
            # As long as somebody could write, reading does not end.
            writers = [os.open(path, os.O_WRONLY) for path in pipes]
            self.assertEqual(stage.proxy.terminate(), 0)
            for writer in writers:
                os.close(writer)
            access, app = [future.result(20) for future in reading]
        before = sum(path.with_suffix(".before").read_text().count("\n") for path in pipes[:1])
        self.assertEqual(before + access.count("\n"), 300)
        self.assertEqual(app.count("the log files are opened anew"), 3)


class RetentionTests(SynchronousTestCase):
    """Old logs of any host."""

    def test_removed_at_the_start(self) -> None:
        """Also when the access log is switched off; files of others stay."""
        proxy = ProxyProcess({"logging": {"access_log_enabled": False, "access_log_retention_days": 3}})
        self.addCleanup(proxy.stop)
        logs = proxy.folder / "logs"
        old = [
            logs / "access/2020/01/02/2020-01-02-03-04-05-gone.log",
            logs / f"access/2020/01/02/2020-01-02-03-04-05-{os.uname().nodename}.log",
            logs / "app/gone/s3proxy.log.2020-01-02",
        ]
        foreign = logs / "access/2020/01/03/notes.log"
        for path in (*old, foreign):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("line\n")
        proxy.start()
        poll(lambda: not any(path.exists() for path in old), 10, "the removal")
        poll(lambda: proxy.metric("s3proxy_log_files_deleted_total") == 3, 5, "the count")
        self.assertEqual(proxy.metric("s3proxy_log_files_deleted_total", kind="access", owner="own"), 1)
        self.assertTrue(foreign.exists())
        self.assertFalse(Path(old[0]).parent.exists())
        self.assertFalse(Path(old[2]).parent.exists())
        poll(lambda: "3 old log files were removed" in proxy.app_log(), 5, "a word about it")
