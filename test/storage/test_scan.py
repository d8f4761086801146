"""The walk after a start."""

import os
import time

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore
from test.storage.support import (
    ABOUT,
    MIB,
    abandon,
    add_range,
    disk_usage,
    files_below,
    finish_scan,
    make_store,
    name_of,
    put_inline,
    put_ranges,
)


class CrashTests(SynchronousTestCase):
    """After kill -9 nothing wrong is served and nothing is lost or left over."""

    def crash(self) -> DiskStore:
        """A store that died in the middle of everything."""
        store = make_store(self)
        put_inline(store, name_of("small"), b"small")
        large = put_ranges(store, name_of("large"), 10 * MIB, (0, MIB))
        self.addCleanup(store.start_range(large, MIB, MIB).close)
        writer = store.start_range(large, 2 * MIB, MIB)
        writer.append([bytes(500_000)])
        self.addCleanup(writer.close)
        store.lease(name_of("leased"))
        lease = store.lease(name_of("growing"))
        assert lease is not None
        growing = store.start_inline(lease, object_size=300_000, **ABOUT)
        growing.append([bytes(200_000)])
        self.addCleanup(growing.close)
        store.arm(name_of("large"))
        # As if it had died between the directory and the entry, between a rename and the next one, and before the first
        # write.
        store.volume.make_shard(name_of("orphan"))
        os.mkdir(store.volume.generation_path(name_of("orphan"), 77))
        os.mkdir(f"{store.root}/trash/0123")
        with open(f"{store.root}/trash/0123/0-5", "wb") as file:
            file.write(bytes(5000))
        drafts = (f"{store.root}/ctl/base.{5:015x}.tmp", f"{store.root}/FORMAT.1.tmp")
        for path in (store.volume.flight_path(name_of("orphan")), *drafts):
            with open(path, "wb"):
                pass
        past = time.time() - 5
        for directory, directories, names in os.walk(store.root):
            for name in directories + names:
                if not name.endswith(".hb"):
                    os.utime(f"{directory}/{name}", (past, past))
        abandon(store)
        return store

    def test_cleanup(self) -> None:
        """At once after the restart: temporary files, leases, orphans and trash are gone, the rest is served, the sum
        is right.
        """
        crashed = self.crash()
        store = make_store(self, root=crashed.root)
        self.assertFalse(store.volume.ledger.complete)
        self.assertGreaterEqual(store.usage(), disk_usage(f"{store.root}/o") - 600_000 - 200_000 - 5 * 4096)
        scan = finish_scan(store)
        self.assertEqual(scan.postponed, 0)
        self.assertGreaterEqual(scan.removed, 7)
        small, large = name_of("small"), name_of("large")
        generation = store.load(large)
        assert generation is not None
        self.assertEqual(sorted(files_below(f"{store.root}/o")), sorted([small.text, large.text, "0-100000"]))
        self.assertEqual(os.listdir(f"{store.root}/trash"), [])
        self.assertEqual(os.listdir(f"{store.root}/ctl"), ["base.json"])
        self.assertEqual(sorted(os.listdir(store.root)), ["FORMAT", "ctl", "inst", "o", "trash", "up"])
        self.assertEqual(len([name for name in os.listdir(f"{store.root}/inst") if name.endswith(".hb")]), 1)
        found = store.load(small)
        assert found is not None
        self.assertEqual(found.small_body, b"small")
        self.assertEqual(generation.validated_at, 0)
        self.assertEqual(store.ranges(generation), ((0, MIB),))
        self.assertLessEqual(disk_usage(store.root), store.usage())
        self.assertLess(store.usage() - disk_usage(store.root), 64 * 1024)

    def test_leases_are_free(self) -> None:
        """What the dead held can be taken at once after the scan."""
        store = make_store(self, root=self.crash().root)
        finish_scan(store)
        for text in ("leased", "growing", "large", "orphan"):
            self.assertIsNotNone(store.lease(name_of(text)))

    def test_living_neighbour(self) -> None:
        """What a living instance is writing is left alone, and counted as postponed."""
        busy = make_store(self)
        entry = put_ranges(busy, name_of("large"), MIB)
        writer = busy.start_range(entry, 0, 10)
        writer.append([b"01234"])
        lease = busy.lease(name_of("leased"))
        assert lease is not None
        store = make_store(self, root=busy.root)
        scan = finish_scan(store)
        self.assertEqual((scan.removed, scan.postponed), (0, 2))
        self.assertFalse(lease.revoked())
        writer.append([b"56789"])
        self.assertEqual(writer.commit(), 10)
        writer.close()
        self.assertIsNotNone(busy.publish_head(lease, object_size=1, **ABOUT))

    def test_own_work(self) -> None:
        """A scan during normal work disturbs none of it."""
        store = make_store(self)
        put_inline(store, name_of("small"), b"small")
        store.close()
        store = make_store(self, root=store.root)
        scan = store.scan()
        entry = put_ranges(store, name_of("large"), MIB)
        writer = store.start_range(entry, 0, 10)
        lease = store.lease(name_of("leased"))
        assert lease is not None
        begun = store.volume.generation_path(name_of("leased"), 77)
        os.mkdir(begun)
        while not scan.step(items=1):
            continue
        writer.append([b"0123456789"])
        self.assertEqual(writer.commit(), 10)
        writer.close()
        self.assertFalse(lease.revoked())
        self.assertTrue(os.path.isdir(begun))
        self.assertEqual((scan.removed, scan.postponed), (0, 1))
        self.assertTrue(store.volume.ledger.complete)
        used = store.usage()
        self.assertLess(used - disk_usage(store.root), 64 * 1024)
        self.assertLessEqual(disk_usage(store.root), used)

    def test_foreign_host(self) -> None:
        """An instance of another host counts as living while its heartbeat is young, and as dead afterwards."""
        busy = make_store(self)
        busy.lease(name_of("leased"))
        heartbeat = f"{busy.root}/inst/{busy.volume.instance.number:015x}.hb"
        with open(heartbeat, "w") as file:
            file.write('{"host": "elsewhere pid:[1]", "pid": 1, "start": "1"}')
        store = make_store(self, root=busy.root)
        self.assertEqual(finish_scan(store).postponed, 1)
        os.utime(heartbeat, (time.time() - 60, time.time() - 60))
        self.assertEqual(finish_scan(store).removed, 1)
        self.assertEqual(store.volume.instance.others(), [])

    def test_damaged_heartbeat(self) -> None:
        """A heartbeat that can't be read is judged by its age."""
        store = make_store(self)
        for number, age, alive in ((5, 10, True), (6, 60, False)):
            path = f"{store.root}/inst/{number:015x}.hb"
            with open(path, "w") as file:
                file.write("[")
            os.utime(path, (time.time() - age, time.time() - age))
            self.assertEqual(store.volume.instance.is_alive(number), alive)
        self.assertFalse(store.volume.instance.is_alive(7))
        self.assertTrue(store.volume.instance.is_alive(store.volume.instance.number))


class DamageTests(SynchronousTestCase):
    """What no reader would accept is removed."""

    def setUp(self) -> None:
        self.old = make_store(self)
        self.name = name_of("entry")

    def restart(self) -> DiskStore:
        abandon(self.old)
        return make_store(self, root=self.old.root)

    def test_damaged_entries(self) -> None:
        """Entries with a wrong size or header are removed, but after a clean stop nothing is examined."""
        put_inline(self.old, self.name, bytes(5000))
        os.truncate(self.old.volume.entry_path(self.name), 3000)
        self.old.close()
        store = make_store(self, root=self.old.root)
        self.assertEqual(finish_scan(store).removed, 0)
        abandon(store)
        store = make_store(self, root=self.old.root)
        self.assertEqual(finish_scan(store).removed, 1)
        self.assertEqual(files_below(f"{store.root}/o"), [])

    def test_truncated_and_covered_ranges(self) -> None:
        """Ranges with a wrong size are removed, and those that lie wholly within another one."""
        entry = put_ranges(self.old, self.name, MIB, (0, 1000), (1000, 2000), (500, 900), (900, 1100), (3000, 4000))
        os.truncate(f"{self.old.volume.range_path(entry, 0)}/bb8-3e8", 1000)
        store = self.restart()
        finish_scan(store)
        self.assertEqual(store.ranges(entry), ((0, 1000), (900, 1100), (1000, 2000)))

    def test_replaced_generation(self) -> None:
        """A generation that its entry does not name is deleted."""
        entry = put_ranges(self.old, self.name, MIB, (0, 1000))
        path = self.old.volume.generation_path(self.name, entry.generation)
        other = self.old.volume.generation_path(self.name, 1234)
        os.rename(path, other)
        os.utime(other, (1000, 1000))
        store = self.restart()
        self.assertEqual(finish_scan(store).removed, 1)
        self.assertFalse(os.path.exists(other))
        self.assertEqual(store.ranges(entry), ())

    def test_foreign_files(self) -> None:
        """What is not ours is left alone."""
        put_inline(self.old, self.name, b"x")
        path = f"{os.path.dirname(self.old.volume.entry_path(self.name))}/README"
        with open(path, "w") as file:
            file.write("keep me")
        os.utime(path, (1000, 1000))
        finish_scan(self.restart())
        self.assertTrue(os.path.exists(path))

    def test_host_failure(self) -> None:
        """After the host failed, what was written shortly before is not served until the scan has examined it."""
        good = put_ranges(self.old, self.name, 4 * MIB, (0, 1000), (1000, 2000))
        inline = {text: put_inline(self.old, name_of(text), text.encode() * 20_000) for text in ("sound", "holes")}
        self.old.volume.handles.close()
        for path in (f"{self.old.volume.range_path(good, 0)}/3e8-3e8", self.old.volume.entry_path(name_of("holes"))):
            with open(path, "r+b") as file:
                file.seek(600)
                file.write(bytes(300))
        heartbeat = f"{self.old.root}/inst/{self.old.volume.instance.number:015x}.hb"
        with open(heartbeat, "w") as file:
            file.write('{"host": "before pid:[1]", "pid": 1, "start": "1"}')
        os.utime(heartbeat, (time.time() - 40, time.time() - 40))
        past = time.time() - 45
        for directory, _, names in os.walk(f"{self.old.root}/o"):
            for name in names:
                os.utime(f"{directory}/{name}", (past, past))
        store = make_store(self, root=self.old.root)
        finish_scan(store)
        self.assertEqual(store.ranges(good), ((0, 1000),))
        found = store.load(name_of("sound"))
        assert found is not None
        self.assertEqual(found.nonce, inline["sound"].nonce)
        self.assertIsNone(store.load(name_of("holes")))
        add_range(store, good, 1000, 2000)
        self.assertEqual(store.ranges(good), ((0, 1000), (1000, 2000)))


class DeclarationTests(SynchronousTestCase):
    """What is known about the size before the walk is over."""

    def test_clean_stop(self) -> None:
        """After a clean stop the size is known at once, exactly."""
        store = make_store(self)
        put_inline(store, name_of("x"), bytes(100_000))
        used = store.usage()
        store.close()
        self.assertEqual(make_store(self, root=store.root).usage(), used)

    def test_crash(self) -> None:
        """After a crash it is never taken for less than it is, and the scan finds out."""
        store = make_store(self)
        for number in range(100):
            put_inline(store, name_of(f"object {number}"), bytes(100_000))
        used = store.usage()
        abandon(store)
        store = make_store(self, root=store.root)
        self.assertGreaterEqual(store.usage(), used)
        self.assertLess(store.usage(), used + 8 * MIB)
        finish_scan(store)
        self.assertEqual(store.usage(), used)

    def test_repeated_crashes(self) -> None:
        """Crashes do not add up."""
        store = make_store(self)
        for number in range(60):
            put_inline(store, name_of(f"object {number % 7}"), bytes(50_000))
            abandon(store)
            store = make_store(self, root=store.root)
            finish_scan(store)
            store.flush_recency()
        used = store.usage()
        abandon(store)
        self.assertLess(make_store(self, root=store.root).usage(), used + 8 * MIB)

    def test_lost(self) -> None:
        """When nothing is known, the directory counts as full until the scan is over: the limit holds."""
        store = make_store(self, max_size=8 * MIB)
        for number in range(70):
            put_inline(store, name_of(f"object {number}"), bytes(100_000))
        abandon(store)
        with open(f"{store.root}/ctl/base.json", "w") as file:
            file.write("{")
        store = make_store(self, root=store.root, max_size=8 * MIB)
        self.assertEqual(store.usage(), 8 * MIB)
        for number in range(20):
            put_inline(store, name_of(f"more {number}"), bytes(100_000))
            self.assertLessEqual(disk_usage(store.root), 8 * MIB)
        finish_scan(store)
        self.assertLessEqual(disk_usage(store.root), store.usage())
        store.evictor.shrink(MIB)
        store.flush_recency()
        abandon(store)
        self.assertLess(make_store(self, root=store.root, max_size=8 * MIB).usage(), 4 * MIB)
