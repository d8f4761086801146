"""The cache as a service."""

import errno
import os
import tempfile
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import Cache, Config
from s3proxy.services.cache import CacheService
from s3proxy.storage.diskio import DiskBusy
from s3proxy.telemetry.metrics import Metrics


class OneThread:
    """Calls for the disk that wait for its only thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], Deferred[Any]]] = []
        self.busy = False

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""

    def run(self, call: Callable[..., Any]) -> "Deferred[Any]":
        if self.busy:
            return fail(DiskBusy(errno.EAGAIN, "busy"))
        done: Deferred[Any] = Deferred()
        self.calls.append((call, done))
        return done

    def work(self) -> Callable[..., Any]:
        """Do the call that has waited longest."""
        call, done = self.calls.pop(0)
        try:
            result = call()
        except OSError:
            done.errback()
        else:
            done.callback(result)
        return call


class LongScan:
    """A pass over the directory in several steps."""

    removed = 0

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.broken = False

    def step(self) -> bool:
        if self.broken:
            raise OSError(errno.EIO, "broken")
        self.left -= 1
        return self.left == 0


class ScanTests(SynchronousTestCase):
    """The walk through the directory after a start."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.clock = Clock()
        config = Config(cache=Cache(cache_dir=os.path.join(folder.name, "cache")))
        self.service = CacheService(self.clock, config, Metrics(CollectorRegistry()), self.clock.seconds)
        self.service.open()
        self.disk = OneThread()
        self.service.disk = self.disk  # type: ignore[assignment]
        self.scan = LongScan(3)
        self.patch(self.service.store, "scan", lambda: self.scan)

    def close(self) -> None:
        closed = Deferred.fromCoroutine(self.service.close())
        self.successResultOf(closed)

    def test_others_get_their_turn(self) -> None:
        """The scan may take hours; between its steps the thread does what requests wait for."""
        self.service.startService()
        self.addCleanup(self.close)
        asked = self.disk.run(lambda: "a write")
        self.disk.work()
        self.assertEqual(self.scan.left, 2)
        self.disk.work()
        self.assertEqual(self.successResultOf(asked), "a write")
        self.disk.work()
        self.disk.work()
        self.assertEqual((self.scan.left, self.disk.calls), (0, []))

    def test_busy_disk(self) -> None:
        """A scan that finds no room in the queue goes on later."""
        self.service.startService()
        self.addCleanup(self.close)
        self.disk.busy = True
        self.disk.work()
        self.disk.busy = False
        self.clock.advance(0.99)
        self.assertEqual(self.disk.calls, [])
        self.clock.advance(0.02)
        while self.scan.left:
            self.disk.work()
        assert self.service.manager is not None
        self.assertIsNone(self.service.manager.guard.last_error)

    def test_broken_disk(self) -> None:
        """A step that the disk refused is taken again later, and the operator hears of it."""
        self.service.startService()
        self.addCleanup(self.close)
        self.scan.broken = True
        self.disk.work()
        assert self.service.manager is not None
        self.assertIn("broken", str(self.service.manager.guard.last_error))
        self.scan.broken = False
        self.clock.advance(10.1)
        while self.scan.left:
            self.disk.work()

    def test_end(self) -> None:
        """When the service stops, so does the scan."""
        self.service.startService()
        self.close()
        self.disk.work()
        self.assertEqual((self.scan.left, self.disk.calls), (3, []))


class SpaceTests(SynchronousTestCase):
    """The size of the cache and that of its disk."""

    def warnings(self, max_cache_size: int) -> list[str]:
        """What is logged when a cache of this size is opened."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        config = Config(cache=Cache(cache_dir=folder.name, max_cache_size=max_cache_size))
        service = CacheService(Clock(), config, Metrics(CollectorRegistry()))
        with capturedLogs() as logged:
            service.open()
        self.addCleanup(service.store.close)  # type: ignore[union-attr]
        return [text for event in logged if "max_cache_size" in (text := formatEvent(event))]

    def test_more_than_the_disk_has(self) -> None:
        """A limit that can't be reached is named, and one that fits."""
        (warning,) = self.warnings(1 << 60)
        self.assertTrue(warning.startswith("cache.max_cache_size is 1152921504606846976, but the file system"), warning)

    def test_fits(self) -> None:
        """Nothing is said about a limit that the disk has room for, or about none."""
        self.assertEqual(self.warnings(1 << 20), [])
        self.assertEqual(self.warnings(0), [])
