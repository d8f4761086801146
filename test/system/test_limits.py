"""Limits and switches of the configuration in the running proxy: each does what it says, and nothing else suffers.

Periods of hours are made short in the process itself, before it starts.
"""

import shutil
import signal
from pathlib import Path
from test.support.fake_script import Action, Match
from test.support.raw_client import ConnectionEnded, RawClient
from test.support.waiting import poll
from test.system.stage import MIB, Cached, Stage, at_once
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

AT_ONCE = 512 * 1024
"""Bytes that come of a connection before it is paused; without the limit, there were 11 MB of the uploads."""
CHECKOUT = Path(__file__).resolve().parents[2]


class LimitsCase(SynchronousTestCase):
    """A proxy with one key set."""

    def begin(self, config: dict[str, Any], before: str = "") -> Stage:
        """Start it.

        :param before: statements that its process executes first
        """
        stage = self.stage = Stage(config, start=False)
        self.addCleanup(stage.stop)
        stage.proxy.folder.mkdir(exist_ok=True)
        (stage.proxy.folder / "sitecustomize.py").write_text(before)
        stage.proxy.spawn(environment={"PYTHONPATH": f"{stage.proxy.folder}:{CHECKOUT}"})
        poll(stage.proxy._ready, 30, "the proxy")
        return stage

    def reload(self, changes: dict[str, Any]) -> None:
        """Other values, and SIGHUP."""
        proxy = self.stage.proxy
        proxy.configure(changes)
        proxy.config_file.write_text(yaml.safe_dump(proxy.config))
        proxy.signal(signal.SIGHUP)


class BodyMemoryTests(LimitsCase):
    """server.max_inflight_buffer_bytes."""

    def test_uploads(self) -> None:
        """Uploads that come faster than S3 takes them are slowed down, and none is refused: what is held of them stays
        near the limit, give or take what a connection delivers at once, and all of it is let go.
        """
        limit, clients = MIB, 8
        stage = self.begin({"server": {"max_inflight_buffer_bytes": limit}})
        done = at_once([lambda key=b"u%d" % number: stage.upload(key, 1, 16 * MIB) for number in range(clients)])
        self.assertEqual([each.status for each in done], [200] * clients)
        metrics = stage.proxy.metrics()
        self.assertEqual(metrics["s3proxy_buffer_limit_bytes"], limit)
        self.assertLessEqual(metrics["s3proxy_buffer_reserved_max_bytes"], limit + clients * AT_ONCE)
        poll(lambda: stage.proxy.metrics()["s3proxy_buffer_reserved_bytes"] == 0, 10, "all of it to be let go")
        self.assertTrue(all(stage.read(b"u%d" % number, 1, 16 * MIB).exact for number in range(3)))

    def test_downloads(self) -> None:
        """Many downloads at once, each of more than the limit: all of them come, and everything is let go."""
        clients = 24
        stage = self.begin({"server": {"max_inflight_buffer_bytes": MIB}})
        for number in range(clients):
            stage.put(b"k%d" % number, number, 2 * MIB)
        done = at_once(
            [lambda key=b"k%d" % number, seed=number: stage.read(key, seed, 2 * MIB) for number in range(clients)]
        )
        self.assertEqual([each for each in done if not each.exact], [])
        poll(lambda: stage.proxy.metrics()["s3proxy_buffer_reserved_bytes"] == 0, 10, "all of it to be let go")
        self.assertEqual(stage.proxy.metrics()["s3proxy_buffer_waiting"], 0)


class DescriptorTests(LimitsCase):
    """The limit of open files."""

    def test_connections(self) -> None:
        """However many clients come, some descriptors are left for the way to S3 and for files: those that are let in
        are served, further ones are closed at once, and when some have left, others are let in.
        """
        stage = self.begin({}, "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (800, 900))\n")
        stage.put(b"k", 1, 200_000)
        clients = [stage.connect() for _ in range(200)]
        for client in clients:
            self.addCleanup(client.close)
            client.send(stage.request(b"HEAD", b"k"))
        served = [client for client in clients if self._is_served(client)]
        # (900 - 900 / 8 - 640) / 2
        self.assertEqual(len(served), 74)
        self.assertTrue(stage.finish(self._again(served[0]), 1, 200_000).exact)
        for client in served[1:]:
            client.close()
        poll(lambda: stage.proxy.metric("s3proxy_client_connections") <= 1, 10, "them to be gone")
        self.assertTrue(stage.read(b"k", 1, 200_000).exact)
        self.assertEqual(stage.tracebacks(), [])

    def _is_served(self, client: RawClient) -> bool:
        try:
            return client.read_response(b"HEAD").status == 200
        except (ConnectionEnded, OSError):
            return False

    def _again(self, client: RawClient) -> RawClient:
        client.send(self.stage.request(b"GET", b"k"))
        return client


class CoordinationTests(LimitsCase):
    """cache.download_coordination.enabled."""

    def asked(self, stage: Stage) -> int:
        """How often S3 is asked when four ask before it answers; all of them get what they want."""
        stage.put(b"k", 1, 200_000)
        script = stage.fake.script(Match(key=b"k", operation="GetObject"), Action(hold=True), times=None)
        clients = [stage.connect() for _ in range(4)]
        for client in clients:
            self.addCleanup(client.close)
            client.send(stage.request(b"GET", b"k"))
        poll(lambda: stage.proxy.metric("s3proxy_http_requests_in_flight") == 4, 10, "all four to be at work")
        poll(lambda: script.held >= 1, 10, "S3 to be asked")
        script.release()
        self.assertTrue(all(stage.finish(client, 1, 200_000).exact for client in clients))
        return len(stage.fake.requests.reads_with_body(b"k"))

    def test_enabled(self) -> None:
        """They wait for one answer."""
        self.assertEqual(self.asked(self.begin({})), 1)

    def test_disabled(self) -> None:
        """Each has its own; what is cached afterwards is sound."""
        stage = self.begin({"cache": {"download_coordination": {"enabled": False}}})
        self.assertEqual(self.asked(stage), 4)
        self.assertTrue(stage.read(b"k", 1, 200_000).exact)
        self.assertEqual(stage.tracebacks(), [])


class ExpiryTests(LimitsCase):
    """cache.actively_remove_cached_data."""

    def test_removed(self) -> None:
        """What has expired goes by itself, what is fresh stays, and the numbers are those of what is left."""
        stage = self.begin(
            {"cache": {"actively_remove_cached_data": True, "get_ttl": "1h"}},
            "import s3proxy.services.expiry as expiry\nexpiry.FIRST = expiry.EVERY = 2.0\n",
        )
        (stage.proxy.cache_dir / "cache_rules.json").write_text(
            '{"rules": [{"pattern": "%s/short/**", "get_ttl": "1s"}]}' % stage.bucket
        )
        stage.proxy.signal(signal.SIGHUP)
        poll(lambda: "1 rule" in stage.proxy.app_log(), 10, "the rules")
        for number in range(4):
            stage.put(b"short/%d" % number, number, 2 * MIB)
            self.assertTrue(stage.read(b"short/%d" % number, number, 2 * MIB).exact)
        stage.put(b"long", 9, 2 * MIB)
        self.assertTrue(stage.read(b"long", 9, 2 * MIB).exact)
        poll(lambda: Cached.of(stage.proxy.cache_dir).published < 4 * MIB, 20, "what has expired to be removed")
        self.assertEqual(stage.read(b"long", 9, 2 * MIB).x_cache, b"HIT")
        poll(lambda: 2 * MIB <= stage.proxy.metric("s3proxy_cache_size_bytes", tier="disk") < 4 * MIB, 10, "the size")
        self.assertEqual(stage.read(b"short/1", 1, 2 * MIB).x_cache, b"MISS")

    def test_not_wanted(self) -> None:
        """Otherwise everything stays until it is read, or there is no room."""
        stage = self.begin(
            {"cache": {"get_ttl": "1s"}},
            "import s3proxy.services.expiry as expiry\nexpiry.FIRST = expiry.EVERY = 1.0\n",
        )
        stage.put(b"k", 1, 2 * MIB)
        self.assertTrue(stage.read(b"k", 1, 2 * MIB).exact)
        stage.put(b"other", 2, 1000)
        poll(lambda: stage.read(b"other", 2, 1000).x_cache == b"REVALIDATED", 10, "time to pass")
        self.assertGreater(Cached.of(stage.proxy.cache_dir).published, 2 * MIB)


class ValidationTests(LimitsCase):
    """cache.shared_storage.validation_*."""

    def test_drift(self) -> None:
        """What was removed behind the proxy's back is found by comparing, logged by how much it is, and corrected."""
        stage = self.begin(
            {},
            "import s3proxy.services.scrubbing as scrubbing\n"
            "scrubbing.Validation._frequency = property(lambda self: 3.0)\n",
        )
        for number in range(6):
            stage.put(b"k%d" % number, number, 2 * MIB)
            self.assertTrue(stage.read(b"k%d" % number, number, 2 * MIB).exact)
        size = stage.proxy.metric("s3proxy_cache_size_bytes", tier="disk")
        generations = [path for path in (stage.proxy.cache_dir / "o").rglob("*") if path.is_dir() and any(
            each.stat().st_size > MIB for each in path.iterdir() if each.is_file())]  # fmt: skip
        for path in generations[:4]:
            shutil.rmtree(path)
        poll(lambda: "the cache directory holds" in stage.proxy.app_log(), 20, "the drift to be found")
        line = next(line for line in stage.proxy.app_log().splitlines() if "the cache directory holds" in line)
        self.assertIn(" ERROR ", line)
        poll(
            lambda: stage.proxy.metric("s3proxy_cache_size_bytes", tier="disk") < size - 7 * MIB, 10, "the right number"
        )
