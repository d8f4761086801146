"""A real proxy with a limit on downloads from S3: misses keep to it, hits do not know it."""

import signal
import threading
import time
from test.support.proxy_process import ProxyProcess
from test.support.raw_client import RawClient
from test.support.waiting import poll
from test.system.stage import MIB, Stage, at_once
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

LIMIT = 2 * MIB


class BandwidthTests(SynchronousTestCase):
    """download_bandwidth."""

    def test_limit(self) -> None:
        """Two MiB per second, over two downloads at once; what is cached comes as fast as ever; a new limit holds."""
        stage = Stage({"download_bandwidth": {"max_bytes_per_sec": LIMIT}})
        self.addCleanup(stage.stop)
        size = 5 * MIB
        stage.put(b"a", 1, size)
        stage.put(b"b", 2, size)
        began = time.monotonic()
        found = at_once([lambda: stage.read(b"a", 1, size), lambda: stage.read(b"b", 2, size)])
        seconds = time.monotonic() - began
        self.assertTrue(all(each.exact for each in found))
        # The bucket was full.
        self.assertLess(abs(seconds - (2 * size / LIMIT - 0.2)) * LIMIT / (2 * size), 0.1, seconds)
        began = time.monotonic()
        hit = stage.read(b"a", 1, size)
        self.assertTrue(hit.exact and hit.x_cache == b"HIT")
        self.assertLess(time.monotonic() - began, 0.7)
        answer = stage.ask(b"PUT", b"c", body=b"x" * size)
        self.assertEqual(answer.status, 200)
        self.assertLess(time.monotonic() - began, 1.5)
        metrics = stage.proxy.metrics()
        self.assertEqual(metrics["s3proxy_qos_limit_bytes_per_second"], LIMIT)
        self.assertEqual(metrics[f's3proxy_qos_class_bytes_total{{class="bkt:{stage.bucket}"}}'], 2 * size)
        stage.proxy.configure({"download_bandwidth": {"max_bytes_per_sec": 100 * LIMIT}})
        stage.proxy.config_file.write_text(yaml.safe_dump(stage.proxy.config))
        stage.proxy.signal(signal.SIGHUP)
        poll(lambda: stage.proxy.metrics()["s3proxy_qos_limit_bytes_per_second"] > LIMIT, 10, "the new limit")
        stage.put(b"d", 4, size)
        began = time.monotonic()
        self.assertTrue(stage.read(b"d", 4, size).exact)
        self.assertLess(time.monotonic() - began, 1.0)
        self.assertEqual(stage.tracebacks(), [])


class _Downloads:
    """Downloads, each in a thread that counts what comes, until they are stopped."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self._over = threading.Event()
        self._counting = threading.Lock()
        self._clients: list[RawClient] = []
        self._threads: list[threading.Thread] = []

    def begin(self, name: str, client: RawClient, request: bytes) -> None:
        """One more, counted under this name."""
        self.taken.setdefault(name, 0)
        self._clients.append(client)
        client.send(request)
        thread = threading.Thread(target=self._take, args=(name, client))
        self._threads.append(thread)
        thread.start()

    def _take(self, name: str, client: RawClient) -> None:
        client.read_head()
        while not self._over.is_set():
            size = len(client.read_some(64 << 10))
            with self._counting:
                self.taken[name] += size

    def measure(self, seconds: float) -> dict[str, float]:
        """Bytes per second under each name, over so long a time."""
        before, began = dict(self.taken), time.monotonic()
        self._over.wait(seconds)
        passed = time.monotonic() - began
        return {name: (taken - before[name]) / passed for name, taken in self.taken.items()}

    def stop(self) -> None:
        """Break them off."""
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        for client in self._clients:
            client.abort()


class ShareTests(SynchronousTestCase):
    """Who gets how much of the limit, by the bytes that clients measure."""

    def begin(self, config: "dict[str, Any]", **more: Any) -> Stage:
        """A proxy with a limit."""
        stage = Stage({"download_bandwidth": {"max_bytes_per_sec": LIMIT, **config}, **more})
        self.addCleanup(stage.stop)
        self.downloads = _Downloads()
        self.addCleanup(self.downloads.stop)
        return stage

    def ask(self, stage: Stage, name: str, number: int, bucket: str, agent: bytes = b"") -> None:
        """Begin a download of an object that is large enough."""
        key = f"{name}-{number}".encode().replace(b"/", b"-")
        stage.fake.put_generated(bucket, key, number, 64 * MIB)
        headers = [(b"User-Agent", agent)] if agent else []
        own, stage.bucket = stage.bucket, bucket
        request = stage.request(b"GET", key, headers=headers)
        stage.bucket = own
        # What waits in the kernel's buffers is nobody's yet.
        self.downloads.begin(name, stage.connect(timeout=60, receive_buffer=64 << 10), request)

    def assert_half(self, found: dict[str, float], name: str) -> None:
        """One of them got half of it, and all together no more than the limit."""
        total = sum(found.values())
        self.assertLess(total, 1.15 * LIMIT, found)
        self.assertLess(abs(found[name] / total - 0.5), 0.15, found)

    def test_buckets(self) -> None:
        """A bucket of which one object is read gets as much as one of which four are."""
        stage = self.begin({})
        other = f"{stage.bucket}-other"
        stage.fake.create_bucket(other)
        self.ask(stage, "one", 0, stage.bucket)
        for number in range(4):
            self.ask(stage, "four", number, other)
        self.downloads.measure(1.5)
        found = self.downloads.measure(3.5)
        self.assert_half(found, "one")
        counted = stage.proxy.metrics()
        self.assertGreater(counted[f's3proxy_qos_class_bytes_total{{class="bkt:{other}"}}'], 2 * MIB)

    def test_callers(self) -> None:
        """Callers that name themselves get the same, also in one bucket; names that don't fit are none."""
        stage = self.begin({"caller_id": {"enabled": True, "validation_regex": "^team-", "max_len": 12}})
        self.ask(stage, "a", 0, stage.bucket, b"aws-cli/2 app/team-a")
        for number in range(3):
            self.ask(stage, "b", number, stage.bucket, b"aws-cli/2 app/team-b")
        self.downloads.measure(1.5)
        found = self.downloads.measure(3.5)
        self.assert_half(found, "a")
        self.ask(stage, "c", 0, stage.bucket, b"aws-cli/2 app/other")
        self.ask(stage, "d", 0, stage.bucket, b"aws-cli/2 app/team-with-a-long-name")
        poll(lambda: min(self.downloads.taken.values()) > 0, 20, "everybody to get something")
        family = "s3proxy_qos_class_bytes_total{"
        names = {series.split('"')[1] for series in stage.proxy.metrics() if series.startswith(family)}
        self.assertEqual(names, {"ua:team-a", "ua:team-b", f"bkt:{stage.bucket}"})

    def test_tracked_classes(self) -> None:
        """Beyond so many classes, bytes are counted together; the limit is shared as before."""
        stage = self.begin({"max_tracked_classes": 1, "caller_id": {"enabled": True}})
        for name in ("a", "b"):
            self.ask(stage, name, 0, stage.bucket, b"app/%b" % name.encode())
            poll(lambda name=name: self.downloads.taken[name] > 0, 20, "its first bytes")
        found = self.downloads.measure(3.5)
        self.assert_half(found, "a")
        metrics = stage.proxy.metrics()
        self.assertGreater(metrics['s3proxy_qos_class_bytes_total{class="residual"}'], 0)
        self.assertNotIn('s3proxy_qos_class_bytes_total{class="ua:b"}', metrics)

    def test_workers(self) -> None:
        """The limit is that of all workers together, each has its part of it."""
        stage = self.begin({}, server={"workers": 2})
        for number in range(16):
            self.ask(stage, "all", number, stage.bucket)
        self.downloads.measure(1.5)
        found = self.downloads.measure(3.5)
        self.assertLess(found["all"], 1.15 * LIMIT, found)
        self.assertEqual(stage.proxy.metrics()["s3proxy_qos_limit_bytes_per_second"], LIMIT)

    def test_nobody_waits_for_ever(self) -> None:
        """Under a limit that is much too small every download gets something before clients give up, which is counted;
        nothing breaks off.
        """
        stage = self.begin({})
        stage.proxy.configure({"download_bandwidth": {"max_bytes_per_sec": 2000}})
        stage.proxy.restart()
        for number in range(3):
            self.ask(stage, f"n{number}", number, stage.bucket)
        poll(lambda: min(self.downloads.taken.values()) > 0, 20, "everybody to get something")
        self.assertGreater(stage.proxy.metric("s3proxy_qos_failopen_total", reason="waited"), 0)


class FleetTests(SynchronousTestCase):
    """Several instances on one directory."""

    def limit(self, proxy: ProxyProcess) -> float:
        """What this instance may download."""
        return proxy.metrics()["s3proxy_qos_limit_bytes_per_second"]

    def test_instances(self) -> None:
        """They share the limit, and one that ends leaves its part to the others, each within the period."""
        stage = Stage({"download_bandwidth": {"max_bytes_per_sec": LIMIT, "fleet": {"refresh_interval": "10s"}}})
        self.addCleanup(stage.stop)
        self.assertEqual(self.limit(stage.proxy), LIMIT)
        other = ProxyProcess(
            {
                "cache": {"cache_dir": str(stage.proxy.cache_dir)},
                "download_bandwidth": stage.proxy.config["download_bandwidth"],
                "server": {"workers": 2},
            }
        )
        self.addCleanup(other.stop)
        other.start()
        poll(lambda: self.limit(other) == LIMIT // 2, 15, "the second one to know its part")
        poll(lambda: self.limit(stage.proxy) == LIMIT // 2, 15, "the first one to know of the second")
        other.kill9()
        poll(lambda: self.limit(stage.proxy) == LIMIT, 15, "the first one to be alone again")

    def test_least_number(self) -> None:
        """With a least number of instances nobody has more than that part, even alone."""
        fleet = {"fallback_instance_count": 4}
        stage = Stage({"download_bandwidth": {"max_bytes_per_sec": LIMIT, "fleet": fleet}})
        self.addCleanup(stage.stop)
        self.assertEqual(self.limit(stage.proxy), LIMIT // 4)
