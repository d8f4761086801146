"""What is looked at on a timer, on real directories with a clock of the tests."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from test.system.mounts import SmallVolume
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import ComponentStatus
from s3proxy.config.model import Cache, Config, Health, Logging
from s3proxy.services import checks
from s3proxy.services.cache import CacheService
from s3proxy.services.checks import Checks
from s3proxy.telemetry.metrics import Metrics

MIB = 1 << 20


class OneThread:
    """A thread that works when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def run(self, work: Callable[[], Any]) -> "Deferred[Any]":
        self.waiting.append((work, Deferred()))
        return self.waiting[-1][1]

    def stop(self) -> None:
        """Nothing to do."""

    def work(self) -> None:
        """Do what waits."""
        while self.waiting:
            work, done = self.waiting.pop(0)
            done.callback(work())


class ChecksCase(SynchronousTestCase):
    interval = 10.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.offset = 0.0
        self.folder = Path(tempfile.mkdtemp(prefix="s3proxy-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.directory = self.folder / "cache"
        self.open()

    def open(self, **cache: Any) -> None:
        self.config = Config(
            cache=Cache(cache_dir=str(self.directory), **cache),
            logging=Logging(access_log_dir=str(self.logs)),
            health=Health(check_interval=self.interval),
        )
        self.cache = CacheService(self.clock, self.config, Metrics(CollectorRegistry()))
        self.cache.open()
        self.checks = Checks(self.clock, self.config, self.cache, self.now)
        self.thread = OneThread()
        self.patch(self.checks, "_thread", self.thread)
        self.checks.startService()
        self.addCleanup(self.checks.stopService)
        self.thread.work()

    def now(self) -> float:
        import time

        return time.time() + self.offset

    def look(self, times: int = 1) -> None:
        """Time passes, and the directories are looked at."""
        for _ in range(times):
            self.clock.advance(self.interval)
            self.thread.work()

    def component(self, name: str) -> ComponentStatus:
        return self.checks.components()[name]()

    def assertSays(self, name: str, state: str, text: str = "") -> None:
        status = self.component(name)
        self.assertEqual((status.state.value, text in status.message), (state, True), status.message)


class DirectoryTests(ChecksCase):
    def test_all_is_well(self) -> None:
        """A directory that works, and nothing is left in it."""
        for name in self.checks.components():
            self.assertSays(name, "healthy")
        self.assertEqual([name for name in os.listdir(self.directory) if name.startswith(".health")], [])
        self.assertGreater(self.component("storage").seconds, 0)

    def test_gone(self) -> None:
        """The cache directory is removed, and comes back."""
        os.rename(self.directory, self.folder / "elsewhere")
        self.look()
        self.assertSays("storage", "degraded", "No such file or directory; requests are answered from S3")
        self.assertSays("coordination", "degraded", "No sign of life")
        os.rename(self.folder / "elsewhere", self.directory)
        self.look()
        self.assertSays("storage", "healthy")

    def test_a_file_in_its_place(self) -> None:
        """There is no directory any more."""
        os.rename(self.directory, self.folder / "elsewhere")
        self.directory.write_text("a file")
        self.look()
        self.assertSays("storage", "degraded", "Not a directory")

    def test_namesake(self) -> None:
        """Containers on one directory all have process 1: each host has a file of its own, and does not mind if it is
        gone at the end.
        """
        real, names = os.fsync, []

        def fsync(fd: int) -> None:
            real(fd)
            names.extend(name for name in os.listdir(self.directory) if name.startswith(".health"))
            os.unlink(self.directory / names[-1])

        self.patch(checks.os, "fsync", fsync)
        self.look()
        self.assertSays("storage", "healthy")
        self.assertEqual(names, [f".health-{socket.gethostname()}-{os.getpid()}"])

    def test_slow(self) -> None:
        """A small file takes a second and more."""
        ticks = iter([0.0, 1.2, 5.0])
        self.patch(checks.time, "perf_counter", lambda: next(ticks))
        self.look()
        self.assertSays("storage", "degraded", "slow: a small file took 1.2 s")

    def test_hanging(self) -> None:
        """A directory that does not answer holds up the health document not at all, and one thread only."""
        self.clock.advance(self.interval)
        self.clock.advance(1)
        self.assertSays("storage", "healthy")
        self.clock.advance(2)
        self.assertSays("storage", "degraded", "has not answered for 3 s")
        self.clock.pump([self.interval] * 5)
        self.assertEqual(len(self.thread.waiting), 1)
        self.assertSays("checks", "healthy")
        self.thread.work()
        self.look()
        self.assertSays("storage", "healthy")

    def test_disk_errors_of_requests(self) -> None:
        """What requests found out counts, too."""
        assert self.cache.manager is not None
        self.cache.manager.guard.failed(OSError(5, "Input/output error"))
        self.assertSays("storage", "degraded", "Input/output error")

    def test_clock(self) -> None:
        """This host's clock is wrong, or the file server's."""
        self.offset = -45.0
        self.look()
        self.assertSays("coordination", "degraded", "45 s before this host's")
        self.offset = 45.0
        self.look()
        self.assertSays("coordination", "degraded", "45 s behind this host's")
        self.offset = 0.0
        self.look()
        self.assertSays("coordination", "healthy")

    def test_alone(self) -> None:
        """Without coordination there is nothing to say."""
        self.open(coordination="off")
        self.assertSays("coordination", "disabled")

    def test_instances(self) -> None:
        """Others on the directory, with a sign of life and without."""
        (self.directory / "inst" / "0000000000abcde.hb").write_text('{"host": "other", "pid": 1}')
        (self.directory / "inst" / "0000000000abcdf.hb").write_text('{"host": "other", "pid": 1}')
        os.utime(self.directory / "inst" / "0000000000abcdf.hb", (1.0, 1.0))
        self.look()
        found = {reading.labels: reading.value for reading in self.checks.readings() if "cluster" in reading.name}
        self.assertEqual(found, {("live",): 2, ("stale",): 1})

    def test_nobody_looks(self) -> None:
        """The timer does not run, because the process was stopped, say."""
        loop: Any = self.checks._loop
        loop.stop()
        self.clock.advance(25)
        self.assertSays("checks", "healthy")
        self.clock.advance(10)
        self.assertSays("checks", "unhealthy", "Nothing was looked at for 35 s")
        loop.start(self.interval)
        self.thread.work()
        self.assertSays("checks", "healthy")


class UpkeepTests(ChecksCase):
    """What goes over the directory in the background."""

    def test_metrics(self) -> None:
        """What was compared with its checksums, and by how much the accounts were wrong."""
        assert self.cache.store is not None
        (scrub, *_) = self.cache._reviews
        scrub.scrub.files, scrub.scrub.read, scrub.scrub.damaged = 7, 7000, 1
        self.cache.store.volume.ledger.drift = -4096
        found = {reading.name: reading.value for reading in self.checks.readings()}
        wanted = {
            "s3proxy_scrub_files_total": 7, "s3proxy_scrub_bytes_total": 7000, "s3proxy_scrub_damaged_total": 1,
            "s3proxy_size_drift_bytes": -4096,
        }  # fmt: skip
        self.assertEqual({name: found[name] for name in wanted}, wanted)


class UsageTests(ChecksCase):
    """More in the cache than there may be."""

    def fill(self, size: int) -> None:
        """Store this many bytes, about, and let them go on counting when the directory is opened again."""
        store = self.cache.store
        assert store is not None
        store.volume.ledger.add(0, size)

    def test_states(self) -> None:
        """Above the mark for more than two looks is degraded; far above the limit is unhealthy."""
        self.open(max_cache_size=100 * MIB)
        self.assertSays("cache_usage", "healthy")
        self.fill(97 * MIB)
        self.look(2)
        self.assertSays("cache_usage", "healthy")
        self.look()
        self.assertSays("cache_usage", "degraded", "97 % of its limit")
        self.fill(14 * MIB)
        self.assertSays("cache_usage", "unhealthy", "111 % of its limit")
        self.fill(-60 * MIB)
        self.look()
        self.assertSays("cache_usage", "healthy")

    def test_without_a_limit(self) -> None:
        """There is nothing to compare with."""
        self.open(max_cache_size=0)
        self.assertSays("cache_usage", "disabled")


class SpaceTests(ChecksCase):
    """A small file system that fills up."""

    def setUp(self) -> None:
        super().setUp()
        self.volume = SmallVolume(self.folder / "volume", 64 * MIB)
        self.addCleanup(self.volume.unmount)
        self.directory = self.volume.folder / "cache"
        self.open(max_cache_size=32 * MIB)

    def test_bytes(self) -> None:
        """Little room is degraded; none for five minutes, in which nothing could be evicted, is unhealthy."""
        self.assertSays("disk_space", "healthy")
        self.volume.fill()
        self.look()
        self.assertSays("disk_space", "degraded", "0.0 % of the file system")
        self.assertSays("storage", "degraded", "No space left on device")
        for _ in range(30):
            self.look()
            self.component("disk_space")
        self.assertSays("disk_space", "unhealthy", "has been full for 5 minutes")
        assert self.cache.store is not None
        self.cache.store.evictor.evicted_bytes += 4096
        self.assertSays("disk_space", "degraded")
        self.volume.empty()
        self.look()
        self.assertSays("disk_space", "healthy")
        self.assertSays("storage", "healthy")

    def test_read_only(self) -> None:
        """The file system is mounted read-only, and writable again."""
        assert self.cache.store is not None
        self.cache.store.close()
        self.volume.set_writable(False)
        self.look()
        self.assertSays("storage", "degraded", "Read-only file system")
        self.volume.set_writable(True)
        self.look()
        self.assertSays("storage", "healthy")

    def test_files(self) -> None:
        """There is room, but not for more files."""
        self.volume.limit_files(1000)
        folder = self.volume.folder / "many"
        folder.mkdir()
        for number in range(os.statvfs(folder).f_favail - 40):
            (folder / str(number)).touch()
        self.look()
        self.assertSays("disk_space", "degraded", "more files")

    def test_metrics(self) -> None:
        """What the file systems have."""
        found = {(reading.name, reading.labels): reading.value for reading in self.checks.readings()}
        self.assertEqual(found["s3proxy_volume_size_bytes", ("cache",)], 64 * MIB)
        self.assertGreater(found["s3proxy_volume_free_bytes", ("logs",)], 0)
        self.assertIn(("s3proxy_volume_free_inodes", ("cache",)), found)
