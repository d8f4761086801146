"""The cache directory becomes read-only, full, or vanishes while the proxy runs: clients don't notice, operators do."""

import shutil
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from test.support.content import content
from test.support.waiting import poll
from test.system.mounts import SmallVolume
from test.system.stage import MIB, Stage, at_once, unfinished_files

SMALL = 5000
MIDDLE = 2 * MIB
LARGE = 20 * MIB
OLD, NEW = 1, 2


class BrokenDiskTestCase(SynchronousTestCase):
    """A proxy with fresh entries in its cache, and what must hold when the disk fails."""

    def start(self) -> None:
        """Start the proxy and fill its cache."""
        self.stage = Stage()
        self.addCleanup(self.stage.stop)
        self.remember()

    def start_on_volume(self, size: int) -> SmallVolume:
        """The same, with the cache directory on a file system of its own."""
        self.stage = Stage(start=False)
        self.addCleanup(self.stage.stop)
        volume = SmallVolume(self.stage.proxy.cache_dir, size)
        self.addCleanup(volume.unmount)
        self.addCleanup(self.stage.proxy.kill9)
        self.stage.proxy.start()
        self.remember()
        return volume

    def remember(self) -> None:
        """Objects of which the cache has a fresh entry."""
        for key, size in ((b"put-old", SMALL), (b"put-old-middle", MIDDLE), (b"delete-old", SMALL), (b"kept", MIDDLE)):
            self.stage.put(key, OLD, size)
            self.assertTrue(self.stage.read(key, OLD, size).exact)
        # The last commits happen behind the answers.
        poll(lambda: not unfinished_files(self.stage.proxy.cache_dir), 10, "the entries to be published")

    def assert_right(self, name: bytes, sizes: tuple[int, ...] = (SMALL, MIDDLE)) -> None:
        """Every kind of request for objects that are not in the cache is answered as S3 would."""
        stage = self.stage
        for size in sizes:
            key = b"%b-%d" % (name, size)
            stage.put(key, OLD, size)
            results = at_once([partial(stage.read, key, OLD, size) for _ in range(2)])
            self.assertTrue(all(reading.exact for reading in results), key)
            self.assertTrue(stage.read(key, OLD, size).exact, key)
            part = stage.ask(b"GET", key, headers=[(b"Range", b"bytes=100-4099")])
            self.assertEqual((part.status, part.body), (206, content(OLD, 100, 4100)))
            self.assertEqual(part.header(b"content-range"), b"bytes 100-4099/%d" % size)
            head = stage.ask(b"HEAD", key)
            self.assertEqual((head.status, head.header(b"content-length")), (200, b"%d" % size))
            self.assertEqual(self.stage.upload(key, NEW, size).status, 200)
            self.assertTrue(stage.read(key, NEW, size).exact, key)
            self.assertEqual(self.stage.ask(b"DELETE", key).status, 204)
            self.assertEqual(self.stage.ask(b"GET", key).status, 404)
            self.assertEqual(self.stage.ask(b"HEAD", key).status, 404)
        self.assertTrue(stage.read(b"kept", OLD, MIDDLE).exact)

    def write(self) -> None:
        """Change the objects of which the cache has fresh entries."""
        self.assertEqual(self.stage.upload(b"put-old", NEW, SMALL).status, 200)
        self.assertEqual(self.stage.upload(b"put-old-middle", NEW, MIDDLE).status, 200)
        self.assertEqual(self.stage.ask(b"DELETE", b"delete-old").status, 204)

    def assert_nothing_stale(self) -> None:
        """What :meth:`write` changed is read as it is now."""
        for _ in range(2):
            self.assertTrue(self.stage.read(b"put-old", NEW, SMALL).exact)
            self.assertTrue(self.stage.read(b"put-old-middle", NEW, MIDDLE).exact)
            self.assertEqual(self.stage.ask(b"GET", b"delete-old").status, 404)
            part = self.stage.ask(b"GET", b"put-old-middle", headers=[(b"Range", b"bytes=7-99")])
            self.assertEqual((part.status, part.body), (206, content(NEW, 7, 100)))

    def wait_degraded(self) -> None:
        """Health says what is wrong, and that traffic is welcome all the same."""
        poll(lambda: self.stage.cache_state()[0] == "degraded", 10, "health to say degraded", 0.1)
        state, message = self.stage.cache_state()
        self.assertIn("cache directory", message)
        document = self.stage.proxy.health()
        self.assertEqual((document["status"], document["ready"], document["live"]), ("degraded", True, True))

    def wait_healthy(self) -> None:
        """Health notices by itself that the directory can be used again, and it is used."""
        poll(lambda: self.stage.cache_state() == ("healthy", ""), 10, "health to say healthy", 0.1)
        self.stage.put(b"afterwards", OLD, MIDDLE)
        self.assertTrue(self.stage.read(b"afterwards", OLD, MIDDLE).exact)
        poll(lambda: self.stage.read(b"afterwards", OLD, MIDDLE).x_cache == b"HIT", 10, "a hit", 0.1)


class ReadOnlyTests(BrokenDiskTestCase):
    """Nothing can be written or removed."""

    def test_read_only(self) -> None:
        """Clients get S3's bytes, changed objects are never stale: not while it lasts, not after it, and not after the
        next start either.
        """
        volume = self.start_on_volume(200 * MIB)
        volume.set_writable(False)
        self.assertEqual(self.stage.read(b"kept", OLD, MIDDLE).x_cache, b"HIT")
        self.write()
        self.assert_nothing_stale()
        self.assert_right(b"read-only", (SMALL, MIDDLE, LARGE))
        self.wait_degraded()
        volume.set_writable(True)
        self.wait_healthy()
        self.assert_nothing_stale()
        self.assertEqual(self.stage.tracebacks(), [])

    def test_forgotten_until_the_next_start(self) -> None:
        """Objects that were changed while the directory was read-only, and that nobody asked for since, are not stale
        after the next start.
        """
        volume = self.start_on_volume(200 * MIB)
        volume.set_writable(False)
        self.write()
        self.wait_degraded()
        volume.set_writable(True)
        poll(lambda: self.stage.cache_state() == ("healthy", ""), 10, "health to say healthy", 0.1)
        self.stage.proxy.kill9()
        self.stage.proxy.start()
        self.assert_nothing_stale()


class FullTests(BrokenDiskTestCase):
    """The file system has no room, although the limit has."""

    def test_full(self) -> None:
        """Clients get S3's bytes; when there is room again, the cache is used again."""
        volume = self.start_on_volume(64 * MIB)
        volume.fill()
        self.write()
        self.assert_nothing_stale()
        # What the writes freed is taken again.
        volume.fill()
        self.assert_right(b"full", (SMALL, MIDDLE, LARGE))
        self.wait_degraded()
        volume.empty()
        self.wait_healthy()
        self.assert_nothing_stale()
        self.assertEqual(self.stage.tracebacks(), [])


def remove(folder: Path) -> None:
    """Remove a folder in which the proxy may be making a file at the same moment."""

    def removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    poll(removed, 10, f"{folder} to be gone")


class DeletedTests(BrokenDiskTestCase):
    """Somebody removes the directory."""

    def test_deleted(self) -> None:
        """Clients get S3's bytes; a restart makes the directory anew."""
        self.start()
        remove(self.stage.proxy.cache_dir)
        self.write()
        self.assert_nothing_stale()
        self.assert_right(b"deleted", (SMALL, MIDDLE, LARGE))
        self.wait_degraded()
        self.assertEqual(self.stage.tracebacks(), [])
        self.stage.proxy.restart()
        self.wait_healthy()
        self.assert_nothing_stale()

    def test_replaced(self) -> None:
        """The same when an empty directory takes its place: nothing is written there unawares."""
        self.start()
        folder = self.stage.proxy.cache_dir
        remove(folder)
        folder.mkdir()
        self.write()
        self.assert_nothing_stale()
        self.assert_right(b"replaced")
        self.wait_degraded()
        self.stage.proxy.restart()
        self.wait_healthy()
        self.assert_nothing_stale()

    def test_emptied(self) -> None:
        """The same when only what is in it is removed."""
        self.start()
        for path in self.stage.proxy.cache_dir.iterdir():
            remove(path) if path.is_dir() else path.unlink()
        self.write()
        self.assert_nothing_stale()
        self.assert_right(b"emptied")
        self.wait_degraded()
        self.stage.proxy.restart()
        self.wait_healthy()
