"""Two hosts that see each other's changes late, as clients of a network file system do: each has a mount of its own, in
which the kernel believes for a second what it knows of names, attributes and folders.
"""

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from test.support.content import content
from test.support.late_mount import LateMount
from test.support.raw_client import RawClient
from test.support.waiting import PATIENCE, poll
from test.support.wrapped_proxy import require_namespaces
from test.system.hosts import HostStage, Mixture, measure_lags
from test.system.stage import MIB, at_once
from test.system.test_shared_herd import CLIENTS, MIDDLE, MOST, SIZE, SMALL, SharedCase
from typing import Any

BELIEVED = 1.0
"""Seconds for which the kernel believes what it knows."""
REFRESH = 1.0
"""``cache.metadata_cache.refresh_interval``."""
BUSY = 1.0
"""What a busy machine adds."""
LATEST = REFRESH + BELIEVED + BUSY
CHAOS_SECONDS = 6.0


class HostsCase(SharedCase):
    """Two proxies, each alone on its host, with one empty cache directory."""

    first_like: Mapping[str, bool] = {}
    second_like: Mapping[str, bool] = {}

    def start(self, config: Mapping[str, Any] | None = None) -> None:
        """Mount the directory twice, and start them."""
        require_namespaces()
        folder = tempfile.TemporaryDirectory(prefix="s3proxy-late-")
        self.addCleanup(folder.cleanup)
        source = Path(folder.name, "source")
        source.mkdir()
        stages = []
        for name, like in (("first", self.first_like), ("second", self.second_like)):
            mount = LateMount(source, Path(folder.name, name), BELIEVED, **like)
            self.addCleanup(mount.unmount)
            stage = HostStage(mount.point, config)
            self.addCleanup(stage.stop)
            stages.append(stage)
        self.first, self.second = stages
        self.second.bucket = self.first.bucket
        self.fake = self.first.fake
        self.both = (self.first, self.second)
        self.source = source
        for stage in self.both:
            stage.proxy.start()


class WritesTests(HostsCase):
    """What is written through one host, and read through the other."""

    first_like = {"loose": True}

    def setUp(self) -> None:
        """Start the proxies."""
        self.start({"cache": {"metadata_cache": {"refresh_interval": f"{REFRESH:g}s"}, "write_cache_percent": 30}})

    def test_seen_in_time(self) -> None:
        """A host that has the older version in memory shows the new one after ``refresh_interval`` and the time for
        which its kernel believes what it knows, at the latest; and never anything in between.
        """
        found = measure_lags(self.both, "late", LATEST * PATIENCE)
        self.assertLess(sorted(late.seconds for late in found)[len(found) // 2], LATEST)
        self.assertEqual(self.first.ask(b"DELETE", b"late-1000-0").status, 204)
        deleted = time.monotonic()
        while self.second.ask(b"GET", b"late-1000-0").status == 200:
            self.assertLess(time.monotonic() - deleted, LATEST * PATIENCE)
            time.sleep(0.02)
        for stage in self.both:
            self.assertEqual(stage.ask(b"GET", b"late-1000-0").status, 404)


class MixtureTests(HostsCase):
    """Readers and writers at random, where each host has a mount of another character."""

    first_like = {"loose": True}
    second_like = {"strict": True}

    def setUp(self) -> None:
        """Start the proxies."""
        cache = {
            "metadata_cache": {"refresh_interval": f"{REFRESH:g}s"},
            "write_cache_percent": 30,
            "max_cache_size": 24 * MIB,
            "max_ram_cache_size": 8 * MIB,
        }
        self.start({"cache": cache})

    def test_never_mixed(self) -> None:
        """Every answer has the bytes of one version, of one that may still be shown; the cache is too small, so that
        files are removed under the readers of the other host.
        """
        mixture = Mixture(self.both, REFRESH + BELIEVED, BUSY * PATIENCE)
        mixture.run(CHAOS_SECONDS)
        self.assertEqual(mixture.faults, [])
        self.assertGreater(mixture.reads, 100)
        self.assertLessEqual(mixture.broken, mixture.reads / 20)


class HerdTests(HostsCase):
    """Many clients ask both hosts for what neither has."""

    def setUp(self) -> None:
        """Start the proxies, and let them see each other."""
        self.start()
        seen = time.monotonic() + 2 * BELIEVED
        poll(lambda: time.monotonic() > seen, 5, "the hosts to see each other", BELIEVED)

    def test_transferred_once(self) -> None:
        """S3 sends it once, whatever its size."""
        objects = ((b"large", 1, SIZE, 2.0), (b"middle", 2, MIDDLE, 1.0), (b"small", 3, SMALL, 0.3))
        for key, seed, size, seconds in objects:
            self.put(key, seed, size, rate=size / seconds)
            self.assert_exact(self.herd(key, seed, size, CLIENTS // 2))
            self.assertLessEqual(self.ratio(key, size), MOST, key)
        self.assert_nothing_is_left()

    def test_killed(self) -> None:
        """When the host that fetches dies, the other one fetches the rest, and its clients get every byte."""
        script = self.put(b"killed", 4, SIZE, stall_after=SIZE // 2)
        leader = self.begin(self.first, b"killed")
        self.assertEqual(leader.read_head().status, 200)
        leader.read_exactly(4096)
        followers = [self.begin(self.second, b"killed") for _ in range(5)]
        heads = [client.read_head().status for client in followers]
        self.first.proxy.kill9()
        readings = at_once([partial(self.finish, client, 4, SIZE) for client in followers])
        self.assertEqual((heads, readings), ([200] * 5, [True] * 5))
        script.release()
        self.assertLessEqual(self.ratio(b"killed", SIZE), 1.6)

    def finish(self, client: RawClient, seed: int, size: int) -> bool:
        """Whether the whole body comes, and is right."""
        found: bytes = client.read_exactly(size)
        return found == content(seed, 0, size)
