"""The proxy with two workers: one cache, whichever of them is asked, and no request lost when one of them goes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from test.support.content import content
from test.support.fake_script import Action, Match
from test.support.proxy_process import clean_environment
from test.support.raw_client import ConnectionEnded, RawClient
from test.support.waiting import open_descriptors, poll
from test.system.stage import MIB, Cached, Stage, unfinished_files
from typing import Any, ClassVar

import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parents[2]
SIZE = 4 * MIB


def _inodes(pid: int) -> set[str]:
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return found


class WorkersCase(SynchronousTestCase):
    """One proxy with two workers."""

    config: ClassVar[dict[str, Any]] = {}

    def setUp(self) -> None:
        """Start it."""
        self.stage = Stage({**self.config, "server": {"workers": 2, **self.config.get("server", {})}})
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy

    def component(self, name: str = "workers") -> Any:
        """What health says of a component."""
        return next(part for part in self.proxy.health()["components"] if part["name"] == name)

    def workers(self) -> dict[int, int]:
        """Process ids of the workers that serve, by their numbers."""
        found = self.component()["data"]["workers"]
        return {each["number"]: each["pid"] for each in found if each["state"] == "serving"}

    def is_replaced(self, number: int, pid: int) -> bool:
        """Whether all serve, and this one is another process than before."""
        workers = self.workers()
        return len(workers) == 2 and workers.get(number) != pid

    def are_new(self, before: set[int]) -> bool:
        """Whether all serve, and none of them is one of these processes."""
        pids = set(self.workers().values())
        return len(pids) == 2 and not pids & before

    def pid_of(self, client: RawClient) -> int:
        """The process that has the other end of this connection."""
        port = client._socket.getsockname()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[2].endswith(f":{port:04X}") and fields[1].endswith(f":{self.proxy.port:04X}"):
                socket_name = f"socket:[{fields[9]}]"
                for pid in self.workers().values():
                    if socket_name in _inodes(pid):
                        return pid
        raise LookupError(f"nobody has the connection from port {port}")

    def connect_to_each(self) -> dict[int, RawClient]:
        """A connection to each worker, by process id."""
        found: dict[int, RawClient] = {}
        for _ in range(200):
            client = self.stage.connect()
            self.stage_ask(client, b"HEAD", b"nothing")
            pid = self.pid_of(client)
            if pid in found:
                client.close()
            else:
                found[pid] = client
                self.addCleanup(client.close)
            if len(found) == 2:
                return found
        raise AssertionError("the connections of 200 went to one worker")

    def stage_ask(self, client: RawClient, method: bytes, key: bytes, body: bytes = b"") -> Any:
        """A request on a connection that stays open."""
        headers = [(b"Content-Length", b"%d" % len(body))] if method in (b"PUT", b"POST") else []
        client.send(self.stage.request(method, key, headers=headers, body=body))
        return client.read_response(method)


class CoherenceTests(WorkersCase):
    """What one worker did, the other knows at once."""

    def test_put_is_seen_at_once(self) -> None:
        """Every PUT that was answered through one worker is what the next GET through the other one gets, whether the
        other one had the older version in memory or not.
        """
        one, other = self.connect_to_each().values()
        for number in range(60):
            writer, reader = (one, other) if number % 3 else (other, one)
            body = b"%d-" % number * (200 if number % 2 else 30_000)
            self.assertEqual(self.stage_ask(writer, b"PUT", b"k", body).status, 200)
            answer = self.stage_ask(reader, b"GET", b"k")
            self.assertTrue(answer.body == body, f"an older version in round {number}")
            again = self.stage_ask(writer, b"GET", b"k")
            self.assertTrue(again.body == body, f"an older version through the writer in round {number}")

    def test_delete_is_seen_at_once(self) -> None:
        """A DELETE through one worker leaves no hit in the other."""
        one, other = self.connect_to_each().values()
        for _ in range(10):
            self.stage_ask(one, b"PUT", b"k", b"there")
            self.assertEqual(self.stage_ask(other, b"GET", b"k").body, b"there")
            self.assertEqual(self.stage_ask(one, b"DELETE", b"k").status, 204)
            self.assertEqual(self.stage_ask(other, b"GET", b"k").status, 404)

    def test_fetch_from_before_is_not_joined(self) -> None:
        """A GET that S3 was asked for before a PUT through the other worker is nobody's who asks after the PUT."""
        one, other = self.connect_to_each().values()
        self.stage.fake.put_object(self.stage.bucket, b"k", b"old" * 100_000)
        early = self.stage.fake.script(Match(key=b"k", operation="GetObject"), Action(stall_after=1000))
        other.send(self.stage.request(b"GET", b"k"))
        self.assertEqual(other.read_head().status, 200)
        new = b"new" * 50_000
        self.assertEqual(self.stage_ask(one, b"PUT", b"k", new).status, 200)
        late = self._second_connection(self.pid_of(other))
        late.send(self.stage.request(b"GET", b"k"))
        answer = late.read_response(b"GET")
        self.assertTrue(answer.body == new, "what was asked for before the PUT was given to somebody who asked later")
        early.release()
        self.assertTrue(other.read_exactly(300_000) == b"old" * 100_000)
        for _ in range(20):
            self.assertTrue(self.stage.ask(b"GET", b"k").body == new, "the old version came back into the cache")

    def _second_connection(self, pid: int) -> RawClient:
        for _ in range(200):
            client = self.stage.connect()
            self.stage_ask(client, b"HEAD", b"nothing")
            if self.pid_of(client) == pid:
                self.addCleanup(client.close)
                return client
            client.close()
        raise AssertionError("no connection to that worker")

    def test_parts_through_both(self) -> None:
        """The parts of an upload that come through different workers are one object in the cache."""
        one, other = self.connect_to_each().values()
        started = self.stage_ask(one, b"POST", b"big?uploads")
        found = re.search(rb"<UploadId>(.*?)</UploadId>", started.body)
        assert found is not None
        upload = found[1]
        parts = [content(7, 0, 5 * MIB), content(8, 0, 5 * MIB), content(9, 0, 1000)]
        listed = b""
        for number, (client, body) in enumerate(zip((one, other, one), parts), 1):
            answer = self.stage_ask(client, b"PUT", b"big?partNumber=%d&uploadId=%b" % (number, upload), body)
            self.assertEqual(answer.status, 200)
            listed += b"<Part><PartNumber>%d</PartNumber><ETag>%b</ETag></Part>" % (number, answer.header(b"etag"))
        document = b"<CompleteMultipartUpload>%b</CompleteMultipartUpload>" % listed
        self.assertEqual(self.stage_ask(other, b"POST", b"big?uploadId=" + upload, document).status, 200)
        self.stage.fake.clear_requests()
        for client in (one, other):
            answer = self.stage_ask(client, b"GET", b"big")
            self.assertTrue(answer.body == b"".join(parts))
        sent = self.stage.fake.requests.reads_with_body(b"big")
        self.assertEqual(sent, [], "S3 had to send what was uploaded")

    def test_hits_of_both_are_of_one_cache(self) -> None:
        """What one worker fetched is a hit in the other."""
        one, other = self.connect_to_each().values()
        for number in range(10):
            key = b"k%d" % number
            self.stage.put(key, number, 100_000)
            self.assertEqual(self.stage_ask(one, b"GET", key).header(b"x-cache"), b"MISS")
            poll(lambda: not unfinished_files(self.proxy.cache_dir), 10, "the object to be stored")
            answer = self.stage_ask(other, b"GET", key)
            self.assertEqual(answer.header(b"x-cache"), b"HIT")
            self.assertTrue(answer.body == content(number, 0, 100_000))


class AggregationTests(WorkersCase):
    """Operators see one proxy."""

    def test_metrics(self) -> None:
        """Counters are the sums over the workers, at once, and go on when a worker is replaced."""
        self.stage.put(b"k", 1, 5000)
        clients = list(self.connect_to_each().values())
        for number in range(30):
            self.stage_ask(clients[number % 2], b"GET", b"k")
        gets = self.proxy.metric("s3proxy_http_requests_total", operation="GetObject")
        self.assertEqual(gets, 30)
        before = self.proxy.metric("s3proxy_http_requests_total")
        pids = set(self.workers().values())
        self.proxy.signal(signal.SIGUSR2)
        poll(lambda: len(self.workers()) == 2 and not pids & set(self.workers().values()), 20, "new workers")
        self.assertEqual(self.proxy.metric("s3proxy_http_requests_total"), before)

    def test_disk_is_counted_once(self) -> None:
        """The size of the cache is what the directory holds, not as often as there are workers."""
        for number in range(8):
            self.stage.put(b"k%d" % number, number, 100_000)
            self.assertTrue(self.stage.read(b"k%d" % number, number, 100_000).exact)
        size = self.proxy.metric("s3proxy_cache_size_bytes", tier="disk")
        self.assertGreater(size, 8 * 100_000)
        self.assertLess(size, 8 * 110_000 + 1_000_000)

    def test_health_and_logs(self) -> None:
        """The health document shows the workers; the application log says which worker wrote a line; each request is
        in the access log once, in a line of its own.
        """
        self.stage.put(b"k", 1, 5000)
        for _ in range(60):
            self.stage.ask(b"GET", b"k")
        self.assertEqual(set(self.workers()), {1, 2})
        self.assertEqual(self.proxy.health()["status"], "healthy")
        self.assertEqual(self.proxy.terminate(), 0)
        log = self.proxy.app_log()
        self.assertIn(" worker-1 s3proxy.", log)
        self.assertIn(" worker-2 s3proxy.", log)
        lines = [line for line in self.proxy.access_log().splitlines() if "REST.GET.OBJECT" in line]
        self.assertEqual(len(lines), 60)
        self.assertEqual(len({line.count(" ") for line in lines if " HIT " in line}), 1, "lines are mixed up")
        self.assertEqual(self.stage.tracebacks(), [])


class _Load:
    """Threads that ask for an object, each request over a connection of its own, until they are stopped."""

    def __init__(self, stage: Stage, key: bytes, size: int, seed: int, threads: int = 4) -> None:
        self._stage = stage
        self._key = key
        self._size = size
        self._seed = seed
        self._over = threading.Event()
        self.good = 0
        self.refused: list[str] = []
        self.broken: list[str] = []
        self.wrong = 0
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._over.is_set():
            try:
                reading = self._stage.read(self._key, self._seed, self._size, timeout=20)
            except ConnectionRefusedError as error:
                self.refused.append(repr(error))
            except (ConnectionEnded, OSError) as error:
                self.broken.append(repr(error))
            else:
                self.good += reading.exact
                self.wrong += not reading.exact

    def stop(self) -> None:
        """End them."""
        self._over.set()
        for thread in self._threads:
            thread.join(30)


class ReplacementTests(WorkersCase):
    """Workers come and go."""

    def setUp(self) -> None:
        """An object in the cache."""
        super().setUp()
        self.stage.put(b"k", 1, 20_000)
        self.assertTrue(self.stage.read(b"k", 1, 20_000).exact)

    def load(self) -> _Load:
        """Requests, until the end of the test."""
        load = _Load(self.stage, b"k", 20_000, 1)
        self.addCleanup(load.stop)
        poll(lambda: load.good > 20, 10, "the load to begin")
        return load

    def test_kill_9(self) -> None:
        """A worker that is killed takes at most the connections that it had with it; others are served meanwhile, no
        connection is refused or waits long, and a new worker comes.
        """
        load = self.load()
        for round in range(3):
            before = self.workers()
            os.kill(before[1 + round % 2], signal.SIGKILL)
            good = load.good
            poll(lambda: load.good > good + 50, 10, "the others to be served")
            poll(lambda: len(self.workers()) == 2 and self.workers() != before, 20, "a new worker", interval=0.1)
        load.stop()
        self.assertEqual((load.refused, load.wrong), ([], 0))
        self.assertLessEqual(len(load.broken), 3 * 4)
        self.assertEqual(self.proxy.terminate(), 0)

    def test_others_survive(self) -> None:
        """A download through the other worker goes on when a worker is killed."""
        self.stage.put(b"held", 2, SIZE)
        script = self.stage.fake.script(Match(key=b"held"), Action(stall_after=SIZE // 2), times=None)
        clients = self.connect_to_each()
        (killed, _), (_, client) = clients.items()
        client.send(self.stage.request(b"GET", b"held"))
        client.read_head()
        client.read_exactly(SIZE // 2)
        os.kill(killed, signal.SIGKILL)
        poll(lambda: killed not in self.workers().values(), 10, "the death to be noticed")
        script.release()
        self.assertTrue(client.read_exactly(SIZE // 2) == content(2, SIZE // 2, SIZE))

    def test_killed_amid_a_fetch(self) -> None:
        """What a worker that was killed was fetching can be fetched and cached again, and nothing of it stays."""
        self.stage.put(b"held", 2, SIZE)
        script = self.stage.fake.script(Match(key=b"held"), Action(stall_after=SIZE // 2))
        client = self.stage.connect()
        self.addCleanup(client.close)
        client.send(self.stage.request(b"GET", b"held"))
        client.read_head()
        client.read_exactly(SIZE // 2)
        os.kill(self.pid_of(client), signal.SIGKILL)
        script.release()
        poll(lambda: len(self.workers()) == 2, 20, "a new worker")
        for _ in range(10):
            self.assertTrue(self.stage.read(b"held", 2, SIZE).exact)

    def test_rolling_restart(self) -> None:
        """SIGUSR2 replaces all workers; no connection is refused or broken, whatever the load."""
        load = self.load()
        before = set(self.workers().values())
        self.proxy.signal(signal.SIGUSR2)
        poll(lambda: "all workers are replaced" in self.proxy.app_log(), 30, "the end of the replacement")
        poll(lambda: self.are_new(before), 10, "two new workers")
        good = load.good
        poll(lambda: load.good > good + 50, 10, "the new ones to serve")
        load.stop()
        self.assertEqual((load.refused, load.broken, load.wrong), ([], [], 0))
        poll(lambda: all(not Path(f"/proc/{pid}").exists() for pid in before), 20, "the old ones to leave")

    def test_terminated_worker(self) -> None:
        """A worker that gets SIGTERM is replaced; no connection is refused or broken."""
        load = self.load()
        pid = self.workers()[1]
        os.kill(pid, signal.SIGTERM)
        poll(lambda: self.is_replaced(1, pid), 20, "its successor")
        poll(lambda: not Path(f"/proc/{pid}").exists(), 20, "its end")
        good = load.good
        poll(lambda: load.good > good + 50, 10, "more answers")
        load.stop()
        self.assertEqual((load.refused, load.broken, load.wrong), ([], [], 0))

    def test_rolling_restart_lets_requests_end(self) -> None:
        """A download that is under way when its worker is replaced comes to its end."""
        self.stage.put(b"held", 2, SIZE)
        script = self.stage.fake.script(Match(key=b"held"), Action(stall_after=SIZE // 2), times=None)
        client = self.stage.connect()
        self.addCleanup(client.close)
        client.send(self.stage.request(b"GET", b"held"))
        client.read_head()
        client.read_exactly(SIZE // 2)
        self.proxy.signal(signal.SIGUSR2)
        poll(lambda: "all workers are replaced" in self.proxy.app_log(), 30, "the end of the replacement")
        script.release()
        self.assertTrue(client.read_exactly(SIZE // 2) == content(2, SIZE // 2, SIZE))

    def test_hanging_worker(self) -> None:
        """What arrives for a worker that hangs is served by the other one after some seconds; health says so. When it
        comes to itself, it is as before.
        """
        pid = self.workers()[1]
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(_resume, pid)
        poll(lambda: "Worker 1 does not answer" in self.component()["message"], 30, "the silence to be noticed")
        for _ in range(30):
            # Each connection is the hanging worker's with a probability of one half.
            self.assertTrue(self.stage.read(b"k", 1, 20_000, timeout=5).exact)
        self.assertEqual(self.proxy.health()["ready"], True)
        os.kill(pid, signal.SIGCONT)
        poll(lambda: self.workers().get(1) == pid, 10, "the worker to answer")
        self.assertIn("answers again", self.proxy.app_log())
        self.assertTrue(self.stage.read(b"k", 1, 20_000).exact)

    def test_worker_that_dies_at_once(self) -> None:
        """Workers that can't start are tried less and less often; no process is left behind as a zombie, no descriptor
        as open; when the reason is gone, one comes again by itself.
        """
        logs = self.proxy.folder / "logs" / "access"
        aside = logs.with_name("aside")
        descriptors = open_descriptors(self.proxy.pid)
        logs.rename(aside)
        logs.write_text("no directory")
        os.kill(self.workers()[1], signal.SIGKILL)
        poll(lambda: self.proxy.app_log().count("can't serve: logging.access_log_dir") >= 4, 60, "four attempts")
        poll(lambda: all(map(_runs, _children(self.proxy.pid))), 10, "no zombie to be there", interval=0.01)
        self.assertTrue(self.stage.read(b"k", 1, 20_000).exact)
        self.assertEqual(self.proxy.health()["ready"], True)
        logs.unlink()
        aside.rename(logs)
        poll(lambda: len(self.workers()) == 2, 40, "a new worker")
        poll(lambda: open_descriptors(self.proxy.pid) <= descriptors, 10, "descriptors to be closed")

    def test_hangup_amid_a_replacement(self) -> None:
        """SIGHUP while workers are replaced reaches those that come, too; a second SIGUSR2 does nothing."""
        before = set(self.workers().values())
        self.proxy.configure({"server": {"max_concurrent_requests": 50}})
        self.proxy.config_file.write_text(yaml.safe_dump(self.proxy.config))
        self.proxy.signal(signal.SIGUSR2)
        poll(lambda: "replaced one after the other" in self.proxy.app_log(), 10, "the replacement to begin")
        self.proxy.signal(signal.SIGHUP)
        self.proxy.signal(signal.SIGUSR2)
        poll(lambda: "all workers are replaced" in self.proxy.app_log(), 40, "the end of the replacement")
        poll(lambda: self.are_new(before), 10, "two new workers")
        self.assertIn("are being replaced already", self.proxy.app_log())
        poll(lambda: self.component("capacity")["data"]["most_requests"] == 50, 10, "the new limit in all workers")
        self.assertEqual(self.stage.tracebacks(), [])

    def test_stopped_worker(self) -> None:
        """A worker that was stopped before it was killed is replaced, and traffic is welcome all the time."""
        pid = self.workers()[1]
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(_resume, pid)
        os.kill(pid, signal.SIGKILL)
        poll(lambda: self.is_replaced(1, pid), 20, "a new worker")
        self.assertEqual(self.proxy.health()["ready"], True)


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _resume(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


class EndTests(WorkersCase):
    """The end of the whole."""

    def test_sigterm_drains(self) -> None:
        """Downloads through both workers come to their end; meanwhile new connections are refused; the exit code is
        0 and nobody is left.
        """
        self.stage.put(b"held", 1, SIZE)
        script = self.stage.fake.script(Match(key=b"held"), Action(stall_after=SIZE // 2), times=None)
        pids = self.workers().values()
        clients = list(self.connect_to_each().values())
        for client in clients:
            client.send(self.stage.request(b"GET", b"held"))
            client.read_head()
            client.read_exactly(SIZE // 2)
        self.proxy.signal(signal.SIGTERM)
        poll(lambda: self.proxy.health()["draining"], 5, "the drain")
        poll(self._is_refused, 5, "new connections to be refused")
        script.release()
        for client in clients:
            self.assertTrue(client.read_exactly(SIZE // 2) == content(1, SIZE // 2, SIZE))
        self.assertEqual(self.proxy.wait(10), 0)
        self.assertEqual([pid for pid in pids if Path(f"/proc/{pid}").exists()], [])
        self.assertEqual(self.stage.tracebacks(), [])
        self.assertEqual(unfinished_files(self.proxy.cache_dir), [])

    def _is_refused(self) -> bool:
        try:
            self.stage.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    def test_interrupt_of_all(self) -> None:
        """Ctrl-C in a terminal, which every process gets, ends it with exit code 0."""
        pids = [self.proxy.pid, *self.workers().values()]
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        self.assertEqual(self.proxy.wait(10), 0)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_terminate_all(self) -> None:
        """A service manager that sends SIGTERM to every process of the unit gets exit code 0."""
        for pid in [*self.workers().values(), self.proxy.pid]:
            os.kill(pid, signal.SIGTERM)
        self.assertEqual(self.proxy.wait(10), 0)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_killed_supervisor(self) -> None:
        """When the supervisor is killed, the workers end, too, and the next start finds its ports free and its cache
        full.
        """
        self.stage.put(b"k", 1, 5000)
        self.stage.read(b"k", 1, 5000)
        pids = self.workers().values()
        self.proxy.kill9()
        poll(lambda: not any(_runs(pid) for pid in pids), 10, "the workers to end")
        self.proxy.start()
        self.assertEqual(self.stage.read(b"k", 1, 5000).x_cache, b"HIT")

    def test_killed_supervisor_amid_downloads(self) -> None:
        """Orphans let downloads end, and stand in nobody's way: the next proxy starts in the same moment. They end when
        the downloads have.
        """
        size = 64 * MIB
        self.stage.put(b"large", 2, size)
        self.assertTrue(self.stage.read(b"large", 2, size).exact)
        pids = list(self.workers().values())
        clients = list(self.connect_to_each().values())
        for client in clients:
            client.send(self.stage.request(b"GET", b"large"))
            client.read_head()
            client.read_exactly(MIB)
        self.proxy.kill9()
        self.proxy.start()
        self.assertEqual([pid for pid in pids if not _runs(pid)], [])
        for client in clients:
            self.assertTrue(client.read_exactly(size - MIB) == content(2, MIB, size))
        poll(lambda: not any(_runs(pid) for pid in pids), 20, "the orphans to end")

    def test_terminate_twice(self) -> None:
        """A second SIGTERM changes nothing: a download comes to its end, and the exit code is 0."""
        self.stage.put(b"held", 1, SIZE)
        script = self.stage.fake.script(Match(key=b"held"), Action(stall_after=SIZE // 2))
        client = self.stage.connect()
        self.addCleanup(client.close)
        client.send(self.stage.request(b"GET", b"held"))
        client.read_head()
        client.read_exactly(SIZE // 2)
        self.proxy.signal(signal.SIGTERM)
        poll(lambda: self.proxy.health()["draining"], 5, "the drain")
        self.proxy.signal(signal.SIGTERM)
        self.proxy.signal(signal.SIGUSR2)
        poll(lambda: "not all replaced: the proxy ends" in self.proxy.app_log(), 5, "the refusal")
        script.release()
        self.assertTrue(client.read_exactly(SIZE // 2) == content(1, SIZE // 2, SIZE))
        self.assertEqual(self.proxy.wait(10), 0)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_terminate_amid_a_replacement(self) -> None:
        """The end does not wait for workers that are just starting longer than they need, and leaves none."""
        self.proxy.signal(signal.SIGUSR2)
        poll(lambda: len(_children(self.proxy.pid)) == 3, 10, "a successor")
        pids = _children(self.proxy.pid)
        self.proxy.signal(signal.SIGTERM)
        self.assertEqual(self.proxy.wait(20), 0)
        self.assertEqual([pid for pid in pids if Path(f"/proc/{pid}").exists()], [])
        self.assertEqual(self.stage.tracebacks(), [])

    def test_terminate_amid_the_start(self) -> None:
        """SIGTERM to every process while they start ends all of them, with exit code 0."""
        self.proxy.terminate()
        self.proxy.spawn()
        poll(lambda: len(_children(self.proxy.pid)) == 2, 20, "two children")
        for pid in [self.proxy.pid, *_children(self.proxy.pid)]:
            os.kill(pid, signal.SIGTERM)
        self.assertEqual(self.proxy.wait(20), 0)

    def test_progress_of_the_drain(self) -> None:
        """While workers let requests end, operators see how many are left."""
        self.stage.put(b"held", 1, SIZE)
        script = self.stage.fake.script(Match(key=b"held"), Action(stall_after=SIZE // 2), times=None)
        clients = list(self.connect_to_each().values())
        for client in clients:
            client.send(self.stage.request(b"GET", b"held"))
            client.read_head()
        self.proxy.signal(signal.SIGTERM)
        poll(lambda: self.proxy.metric("s3proxy_http_requests_in_flight") == 2, 10, "two requests under way")
        clients[0].abort()
        poll(lambda: self.proxy.metric("s3proxy_http_requests_in_flight") == 1, 10, "one of them to be seen to end")
        script.release()
        self.assertEqual(self.proxy.wait(20), 0)

    def test_second_proxy(self) -> None:
        """A second proxy on the same ports does not start, although the workers of the first share them."""
        result = subprocess.run(
            [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", "s3proxy",
             "--config", str(self.proxy.config_file)],
            cwd=self.proxy.folder, env={**clean_environment(), "PYTHONPATH": str(CHECKOUT)}, capture_output=True,
            timeout=30,
        )  # fmt: skip
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"another program listens there", result.stderr)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class SpaceTests(WorkersCase):
    """One limit for all."""

    config = {"cache": {"max_cache_size": 24 * MIB}}

    def test_limit(self) -> None:
        """However many workers store at once, the directory holds no more than it may, and the number that is shown is
        what is there; also after one of them was killed meanwhile.
        """
        seen = []
        clients = list(self.connect_to_each().values())
        for number in range(120):
            key = b"k%d" % number
            self.stage.put(key, number, MIB // 2)
            answer = self.stage_ask(clients[number % len(clients)], b"GET", key)
            self.assertTrue(answer.body == content(number, 0, MIB // 2))
            if number == 60:
                os.kill(self.pid_of(clients[0]), signal.SIGKILL)
                del clients[0]
            if number % 10 == 0:
                seen.append(Cached.of(self.proxy.cache_dir).published)
        self.assertLessEqual(max(seen), 24 * MIB)
        self.assertGreater(max(seen), 16 * MIB)
        poll(self._is_accounted, 15, "the number to be what is there")

    def _is_accounted(self) -> bool:
        there = Cached.of(self.proxy.cache_dir).published
        return abs(self.proxy.metric("s3proxy_cache_size_bytes", tier="disk") - there) < 0.05 * there


class ReloadTests(WorkersCase):
    """SIGHUP and SIGUSR1 reach the workers."""

    def test_hangup(self) -> None:
        """A key that can change at run time changes in all workers."""
        self.proxy.configure({"logging": {"log_level": "debug"}})
        self.proxy.config_file.write_text(yaml.safe_dump(self.proxy.config))
        self.proxy.signal(signal.SIGHUP)
        poll(lambda: "in effect now: logging.log_level" in self.proxy.app_log(), 10, "the reload")
        self.stage.ask(b"GET", b"k")
        self.assertEqual(len(self.workers()), 2)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_log_rotation(self) -> None:
        """After SIGUSR1 all processes write to new files."""
        log = next(self.proxy.folder.glob("logs/access/access-*.log"))
        log.rename(log.with_suffix(".old"))
        self.proxy.signal(signal.SIGUSR1)
        for _ in range(20):
            self.stage.ask(b"GET", b"nothing")
        poll(lambda: log.exists() and log.read_text().count("\n") >= 20, 10, "the new file")


class PrivilegesTests(SynchronousTestCase):
    """Ports are bound before privileges are given up, and no worker has them."""

    def test_group(self) -> None:
        """With twistd's --gid neither the supervisor nor a worker keeps the group that the start had."""
        if os.getuid() != 0:
            raise SkipTest("only root can give up privileges")
        stage = Stage({"server": {"workers": 2, "http_port": _low_port()}}, start=False)
        self.addCleanup(stage.stop)
        proxy = stage.proxy
        proxy.folder.chmod(0o777)
        proxy.spawn(options=("--gid", "65534"))
        poll(proxy._ready, 30, "the proxy")
        found = next(part for part in proxy.health()["components"] if part["name"] == "workers")
        for pid in [proxy.pid, *(each["pid"] for each in found["data"]["workers"])]:
            line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:4] == "Gid:")
            self.assertEqual(set(line.split()[1:]), {"65534"})
        stage.put(b"k", 1, 5000)
        self.assertTrue(stage.read(b"k", 1, 5000).exact)


def _low_port() -> int:
    for port in range(600, 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SkipTest("no port below 1024 is free")
