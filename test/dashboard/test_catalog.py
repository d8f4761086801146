"""Searching what is cached."""

import os
from test.dashboard.stocked import Stocked, an_id

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard import catalog
from s3proxy.dashboard.catalog import PAUSE, REFRESH, Found, Search
from s3proxy.storage.layout import entry_name

NAMES = (b"b/one", b"b/dir/two", b"b/dir/three", b"b/dir/deep/four", b"other/one", b"b/\xff", b"b/a[1]", b"b/%d_%s")


class CatalogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.stocked = Stocked()
        self.addCleanup(self.stocked.close)
        self.catalog = self.stocked.catalog

    def found(self, **wanted: object) -> Found:
        search = Search(**wanted)  # type: ignore[arg-type]
        self.successResultOf(self.catalog.find(search))
        self.stocked.walk()
        return self.successResultOf(self.catalog.find(search))

    def names(self, **wanted: object) -> list[bytes]:
        return [id.bucket + b"/" + id.key for id in self.found(**wanted).ids]


class SearchTests(CatalogCase):
    def setUp(self) -> None:
        super().setUp()
        for number, name in enumerate(NAMES):
            self.stocked.read(name, b"x" * (number + 1))

    def test_all(self) -> None:
        """Everything that is cached is found, by name."""
        found = self.found()
        self.assertEqual({id.bucket + b"/" + id.key for id in found.ids}, set(NAMES))
        self.assertEqual((found.total, found.size), (8, 36))

    def test_prefix(self) -> None:
        """Names that begin so, and no others."""
        self.assertEqual(self.names(prefix="b/dir/"), [b"b/dir/deep/four", b"b/dir/three", b"b/dir/two"])
        self.assertEqual(self.names(prefix="b/dir/deep/four"), [b"b/dir/deep/four"])
        self.assertEqual(self.names(prefix="b/none"), [])

    def test_text(self) -> None:
        """Part of a name, whatever its case; marks of SQL are characters like others."""
        self.assertEqual(self.names(text="ONE"), [b"b/one", b"other/one"])
        self.assertEqual(self.names(text="%d_"), [b"b/%d_%s"])
        self.assertEqual(self.names(text="' OR 1 --"), [])

    def test_glob(self) -> None:
        """A star is any text, a question mark any character, a bracket a bracket."""
        self.assertEqual(self.names(text="b/dir/t*"), [b"b/dir/three", b"b/dir/two"])
        self.assertEqual(self.names(text="*/one"), [b"b/one", b"other/one"])
        self.assertEqual(self.names(text="b/a[1?"), [b"b/a[1]"])

    def test_order_and_pages(self) -> None:
        """By size or name, up or down, a page at a time; the totals are those of all pages."""
        self.assertEqual(self.names(order="-size", limit=2), [b"b/%d_%s", b"b/a[1]"])
        self.assertEqual(self.names(order="size", offset=2, limit=1), [b"b/dir/three"])
        found = self.found(order="size", offset=7, limit=5)
        self.assertEqual((len(found.ids), found.total), (1, 8))
        self.assertRaises(ValueError, Search, order="name; DROP TABLE entries")

    def test_folders(self) -> None:
        """What lies deeper is gathered under its next component."""
        found = self.found(folders=True)
        self.assertEqual(([name for name, *_ in found.folders], found.ids), (["b/", "other/"], ()))
        found = self.found(folders=True, prefix="b/")
        self.assertEqual(found.folders, (("dir/", 3, 9),))
        self.assertEqual({id.key for id in found.ids}, {b"one", b"\xff", b"a[1]", b"%d_%s"})
        found = self.found(folders=True, prefix="b/dir/")
        self.assertEqual(found.folders, (("deep/", 1, 4),))
        self.assertEqual([id.key for id in found.ids], [b"dir/three", b"dir/two"])


class WalkTests(CatalogCase):
    def test_nothing_is_read_before_somebody_looks(self) -> None:
        """The directory of a proxy whose dashboard nobody uses is not walked."""
        self.stocked.read(b"b/k")
        self.stocked.clock.advance(1000)
        self.assertEqual(self.catalog.progress, 0.0)

    def test_steps(self) -> None:
        """The walk takes its time, and what has been seen can be searched meanwhile."""
        self.patch(catalog, "_STEP", 20)
        for number in range(100):
            self.stocked.read(b"b/k%d" % number)
        seen = []
        for _ in range(10_000):
            if self.catalog.progress == 1.0:
                break
            seen.append(self.successResultOf(self.catalog.find(Search())).total)
            self.stocked.clock.advance(PAUSE)
        self.assertLess(seen[0], 10)
        self.assertGreater(len(set(seen)), 10)
        self.assertEqual(self.successResultOf(self.catalog.find(Search())).total, 100)

    def test_changes(self) -> None:
        """A later look finds what came, and no longer what went."""
        self.stocked.read(b"b/old")
        self.assertEqual(self.names(), [b"b/old"])
        self.stocked.harness.cache.drop(an_id(b"b/old"))
        self.stocked.read(b"b/new")
        self.assertEqual(self.names(), [b"b/old"])
        self.stocked.clock.advance(REFRESH)
        self.assertEqual(self.names(), [b"b/new"])

    def test_unchanged_shards_are_left_alone(self) -> None:
        """A later look costs little where nothing happened."""
        for number in range(20):
            self.stocked.read(b"b/k%d" % number)
        calls = self.stocked.harness.store.volume.calls
        for path in self.shards():
            os.utime(path, (1e9, 1e9))
        self.names()
        listed: list[str] = []
        listdir = calls.listdir

        def noted(path: str) -> list[str]:
            listed.append(path)
            return listdir(path)

        self.patch(calls, "listdir", noted)
        self.stocked.clock.advance(REFRESH)
        self.assertEqual(len(self.names()), 20)
        self.assertEqual([path for path in listed if path in self.shards()], [])

    def shards(self) -> list[str]:
        folder = os.path.join(self.stocked.harness.root, "o")
        return [os.path.join(folder, name) for name in os.listdir(folder)]

    def test_forget(self) -> None:
        """What was removed from here is gone at once."""
        self.stocked.read(b"b/k")
        self.names()
        self.catalog.forget(entry_name(an_id(b"b/k").parts))
        self.assertEqual(self.successResultOf(self.catalog.find(Search())).total, 0)

    def test_damage(self) -> None:
        """An entry that can't be read is passed over, and nothing is removed."""
        self.stocked.read(b"b/k")
        volume = self.stocked.harness.store.volume
        path = volume.entry_path(entry_name(an_id(b"b/k").parts))
        with open(path, "r+b") as file:
            file.write(b"junk")
        self.assertEqual(self.names(), [])
        self.assertTrue(os.path.exists(path))

    def test_the_directory_fails(self) -> None:
        """The walk ends, says so once, and the next look tries again."""
        self.stocked.read(b"b/k")
        volume = self.stocked.harness.store.volume
        with_fault = self.patch(volume.calls, "listdir", lambda path: (_ for _ in ()).throw(OSError(5, "no")))
        self.assertEqual(self.names(), [])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        with_fault.restore()
        self.stocked.clock.advance(REFRESH)
        self.assertEqual(self.names(), [b"b/k"])

    def test_wait_for_a_whole_look(self) -> None:
        """Who must know everything waits for the end of a walk; closing ends the wait."""
        self.patch(catalog, "_STEP", 1)
        self.stocked.read(b"b/k")
        done = self.catalog.refresh()
        self.assertNoResult(done)
        self.stocked.walk()
        self.successResultOf(done)
        again = self.catalog.refresh()
        self.catalog.close()
        self.successResultOf(again)
        self.assertTrue(self.stocked.thread.stopped)
        self.patch(self.stocked, "close", self.stocked.harness.close)

    def test_a_look_during_a_walk(self) -> None:
        """Who must know everything waits for a walk that began after it asked."""
        self.patch(catalog, "_STEP", 1)
        self.stocked.read(b"b/one")
        first = self.catalog.refresh()
        second = self.catalog.refresh()
        for _ in range(1000):
            if first.called:
                break
            self.stocked.clock.advance(PAUSE)
        self.assertNoResult(second)
        self.stocked.walk()
        self.successResultOf(second)

    def test_a_thread_that_fails(self) -> None:
        """A look that fails is the asker's to see."""
        failed: Deferred[None] = fail(OSError(5, "no"))
        self.patch(self.stocked.thread, "run", lambda work: failed)
        self.catalog.find(Search()).addErrback(lambda reason: reason.trap(OSError))
        self.flushLoggedErrors(OSError)
