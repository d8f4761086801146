"""Making room."""

import errno
import os
import random
import threading
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore
from s3proxy.storage.layout import footprint
from test.storage.support import (
    ABOUT,
    MIB,
    FailingCalls,
    add_range,
    disk_usage,
    files_below,
    finish_scan,
    make_store,
    name_of,
    put_inline,
    put_ranges,
    recount,
)


def fill(store: DiskStore, first: int, last: int, size: int) -> None:
    for number in range(first, last):
        put_inline(store, name_of(f"object {number}"), bytes(size))


def age(store: DiskStore, text: str, seconds: float) -> None:
    """Make an inline entry look unused for so long."""
    path = store.volume.entry_path(name_of(text))
    moment = store.volume.now() - seconds
    os.utime(path, (moment, moment))


def present(store: DiskStore, *texts: str) -> list[bool]:
    return [store.load(name_of(text)) is not None for text in texts]


class LimitTests(SynchronousTestCase):
    """What is published never exceeds the limit."""

    def test_small_objects(self) -> None:
        """Ten times as much as fits is published, and at every moment the directory is within the limit."""
        store = make_store(self, max_size=8 * MIB)
        for number in range(800):
            put_inline(store, name_of(f"object {number}"), bytes(100_000))
            self.assertLessEqual(store.usage(), 8 * MIB)
            if number % 20 == 0:
                self.assertLessEqual(disk_usage(store.root), 8 * MIB)
        self.assertGreater(store.usage(), 6 * MIB)
        self.assertLessEqual(disk_usage(store.root), store.usage())
        used = store.usage()
        recount(store)
        self.assertEqual(store.usage(), used)

    def test_ranges(self) -> None:
        """The same with ranges, several being written at a time: over the limit by no more than the bytes in flight."""
        store = make_store(self, max_size=16 * MIB)
        source = random.Random(3)
        open_writers = []
        for number in range(60):
            entry = put_ranges(store, name_of(f"object {number}"), 4 * MIB)
            for start in range(0, 2 * MIB, MIB):
                writer = store.start_range(entry, start, MIB)
                writer.append([bytes(MIB)])
                open_writers.append(writer)
            while len(open_writers) > 5:
                writer = open_writers.pop(source.randrange(len(open_writers)))
                writer.commit()
                writer.close()
            self.assertLessEqual(store.usage(), 16 * MIB)
            self.assertLessEqual(disk_usage(store.root), 16 * MIB + store.in_flight())
        for writer in open_writers:
            writer.close()
        self.assertEqual(store.in_flight(), 0)
        self.assertGreater(store.usage(), 8 * MIB)
        used = store.usage()
        recount(store)
        self.assertEqual(store.usage(), used)

    def test_threads(self) -> None:
        """The same from several threads at once, while a sweep goes on."""
        store = make_store(self, max_size=8 * MIB)
        problems: list[BaseException] = []
        peaks: list[int] = []

        def work(thread: int) -> None:
            try:
                for number in range(120):
                    if number % 3:
                        put_inline(store, name_of(f"{thread} {number}"), bytes(60_000))
                    else:
                        put_ranges(store, name_of(f"{thread} {number}"), MIB, (0, 50_000), (50_000, 90_000))
                    if number % 10 == thread:
                        store.sweeper.run()
                    if number % 7 == 0:
                        store.drop(name_of(f"{thread} {number - 3}"))
                    peaks.append(store.usage())
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        self.assertLessEqual(max(peaks), 8 * MIB)
        self.assertEqual(store.volume.ledger.reserved, 0)
        store.sweeper.run()
        self.assertLessEqual(disk_usage(store.root), store.usage())
        used = store.usage()
        recount(store)
        self.assertEqual(store.usage(), used)

    def test_too_large(self) -> None:
        """What can't fit at all is refused, and nothing is evicted for it."""
        store = make_store(self, max_size=4 * MIB)
        fill(store, 0, 10, 100_000)
        lease = store.lease(name_of("large"))
        assert lease is not None
        self.assertIsNone(store.publish_inline(lease, object_size=5 * MIB, body=[bytes(5 * MIB)], **ABOUT))
        self.assertFalse(store.make_room(5 * MIB))
        self.assertEqual(present(store, *(f"object {number}" for number in range(10))), [True] * 10)

    def test_make_room(self) -> None:
        """Room can be made ahead."""
        store = make_store(self, max_size=4 * MIB)
        fill(store, 0, 60, 100_000)
        self.assertTrue(store.make_room(2 * MIB))
        self.assertLessEqual(store.usage(), 2 * MIB)

    def test_no_limit(self) -> None:
        """A limit of 0 means that nothing is ever evicted."""
        store = make_store(self, max_size=0)
        fill(store, 0, 30, 100_000)
        self.assertFalse(store.sweeper.due())
        self.assertEqual(store.sweeper.run(), 0)
        self.assertTrue(all(present(store, *(f"object {number}" for number in range(30)))))

    def test_lowered_limit(self) -> None:
        """After a restart with a lower limit, a sweep brings the directory below it without any traffic."""
        store = make_store(self, max_size=16 * MIB)
        fill(store, 0, 100, 100_000)
        store.close()
        store = make_store(self, root=store.root, max_size=4 * MIB)
        finish_scan(store)
        self.assertTrue(store.sweeper.due())
        store.sweeper.run()
        self.assertLessEqual(store.usage(), 0.8 * 4 * MIB)
        self.assertGreater(store.usage(), 0.6 * 4 * MIB)


class VictimTests(SynchronousTestCase):
    """What goes first."""

    def test_oldest_first(self) -> None:
        """With equal use, the longest unused goes."""
        store = make_store(self, max_size=8 * MIB)
        fill(store, 0, 20, 100_000)
        for number in range(20):
            age(store, f"object {number}", 1000 + (20 - number) * 100)
        store.evictor.shrink(store.usage() - 5 * footprint(100_300))
        kept = present(store, *(f"object {number}" for number in range(20)))
        self.assertEqual(kept, [False] * 5 + [True] * 15)

    def test_hot_survive_a_scan(self) -> None:
        """Objects in use survive when twenty times as much as fits is read once."""
        store = make_store(self, max_size=8 * MIB)
        hot = [f"hot {number}" for number in range(20)]
        for text in hot:
            put_inline(store, name_of(text), bytes(60_000))
            age(store, text, 600)
        for number in range(1200):
            put_inline(store, name_of(f"cold {number}"), bytes(100_000))
            if number % 50 == 0:
                for text in hot:
                    store.touched(name_of(text), 0)
                store.flush_recency()
        self.assertEqual(present(store, *hot), [True] * 20)

    def test_use_on_disk(self) -> None:
        """That something was used again counts for the next process, and for more than its age."""
        store = make_store(self, max_size=8 * MIB)
        fill(store, 0, 8, 100_000)
        for number in range(8):
            age(store, f"object {number}", 5000)
        store.touched(name_of("object 3"), 0)
        self.assertEqual(store.flush_recency(), 1)
        age(store, "object 3", 20_000)
        store.close()
        store = make_store(self, root=store.root, max_size=8 * MIB)
        finish_scan(store)
        store.evictor.shrink(store.usage() - 7 * footprint(100_300))
        self.assertEqual(sum(present(store, *(f"object {number}" for number in range(8)))), 1)
        self.assertEqual(present(store, "object 3"), [True])

    def test_use_of_ranges_on_disk(self) -> None:
        """So does the use of a range."""
        store = make_store(self, max_size=8 * MIB)
        entry = put_ranges(
            store, name_of("ranges"), 4 * MIB, *((start * 100_000, start * 100_000 + 100_000) for start in range(8))
        )
        directory = store.volume.range_path(entry, 0)
        for text in os.listdir(directory):
            os.utime(f"{directory}/{text}", (1000, 1000))
        store.touched(entry.name, 300_000)
        store.flush_recency()
        store.close()
        store = make_store(self, root=store.root, max_size=8 * MIB)
        finish_scan(store)
        store.evictor.shrink(store.usage() - 7 * footprint(100_044))
        self.assertEqual(store.ranges(entry), ((300_000, 400_000),))

    def test_recency_is_written_seldom(self) -> None:
        """The first use of an entry is written at once, later ones only now and then; sidecars of the dead are taken
        over.
        """
        store = make_store(self)
        entry = put_ranges(store, name_of("ranges"), MIB, (0, 100))
        store.touched(entry.name, 0)
        self.assertEqual(store.flush_recency(), 1)
        store.touched(entry.name, 0)
        self.assertEqual(store.flush_recency(), 0)
        store.close()
        store = make_store(self, root=store.root)
        store.touched(entry.name, 0)
        store.touched(name_of("absent"), 0)
        self.assertEqual(store.flush_recency(), 1)
        sidecars = [name for name in os.listdir(store.volume.range_path(entry, 0)) if name.startswith("a.")]
        self.assertEqual(sidecars, [f"a.{store.volume.instance.number:015x}"])

    def test_one_of_several_ranges(self) -> None:
        """When one range goes, records of the entry are void, and the others stay."""
        store = make_store(self)
        entry = put_ranges(store, name_of("ranges"), 4 * MIB, (0, 1000), (1000, 2000), (2000, 3000))
        os.utime(f"{store.volume.range_path(entry, 0)}/3e8-3e8", (1000, 1000))
        store.evictor.shrink(store.usage() - 1)
        self.assertEqual(store.ranges(entry), ((0, 1000), (2000, 3000)))
        self.assertNotEqual(store.volume.generations.get(entry.name.slot), entry.epoch)
        self.assertIsNone(store.open_range(entry, 1000, 2000))

    def test_empty_entry(self) -> None:
        """When the last range of an entry goes, so does the entry; one that is being filled stays."""
        store = make_store(self)
        entry = put_ranges(store, name_of("ranges"), MIB, (0, 1000))
        busy = put_ranges(store, name_of("busy"), MIB)
        writer = store.start_range(busy, 0, 10)
        os.utime(store.volume.range_path(busy, 0), (1000, 1000))
        store.evictor.shrink(0)
        self.assertIsNone(store.load(entry.name))
        self.assertIsNotNone(store.load(busy.name))
        writer.append([b"0123456789"])
        self.assertEqual(writer.commit(), 10)
        writer.close()

    def test_never_filled(self) -> None:
        """An entry that never got a range goes after a minute; until then its fetch may still come."""
        store = make_store(self)
        entry = put_ranges(store, name_of("ranges"), MIB)
        store.evictor.shrink(0)
        self.assertIsNotNone(store.load(entry.name))
        os.utime(store.volume.range_path(entry, 0), (1000, 1000))
        store.evictor.shrink(0)
        self.assertIsNone(store.load(entry.name))

    def test_evicted_records_are_void(self) -> None:
        """Whoever keeps a record of what is evicted learns it; whoever reads it goes on."""
        store = make_store(self)
        inline = put_inline(store, name_of("inline"), b"x" * 100_000)
        ranges = put_ranges(store, name_of("ranges"), MIB, (0, 1000))
        handles = (store.open_inline(inline), store.open_range(ranges, 0, 1000))
        store.evictor.shrink(0)
        for entry, handle, byte in zip((inline, ranges), handles, (b"x", b"r")):
            self.assertNotEqual(store.volume.generations.get(entry.name.slot), entry.epoch)
            assert handle is not None
            self.assertEqual(os.pread(handle.fd, 1000, handle.base), byte * 1000)
            handle.close()
        self.assertIsNone(store.open_inline(inline))
        self.assertIsNone(store.open_range(ranges, 0, 1000))
        self.assertEqual(files_below(f"{store.root}/o"), [])

    def test_segments(self) -> None:
        """Ranges in segments are found and evicted, too."""
        store = make_store(self, max_size=0)
        entry = put_ranges(store, name_of("huge"), 3 << 30, (0, 100), (2 << 30, (2 << 30) + 100))
        store.evictor.shrink(0)
        self.assertEqual(store.ranges(entry), ())
        self.assertIsNone(store.load(entry.name))

    def test_failing_disk(self) -> None:
        """On a read-only file system an eviction says so instead of trying for ever."""
        calls = FailingCalls()
        store = make_store(self, calls=calls, max_size=4 * MIB)
        fill(store, 0, 40, 100_000)
        calls.read_only()
        with self.assertRaises(OSError) as caught:
            store.sweeper.run() if store.sweeper.due() else store.evictor.shrink(0)
        self.assertEqual(caught.exception.errno, errno.EROFS)

    def test_sweep(self) -> None:
        """A sweep is due above the trigger, and goes down to the target, not further."""
        store = make_store(self, max_size=16 * MIB, trigger_percent=60, target_percent=40)
        fill(store, 0, 100, 90_000)
        self.assertFalse(store.sweeper.due())
        fill(store, 100, 120, 90_000)
        self.assertTrue(store.sweeper.due())
        self.assertGreater(store.sweeper.run(), 0)
        self.assertFalse(store.sweeper.due())
        self.assertLessEqual(store.usage(), 0.4 * 16 * MIB)
        self.assertGreater(store.usage(), 0.35 * 16 * MIB)

    def test_full_file_system(self) -> None:
        """When the file system has no room, less is kept for ten minutes, and the write is tried once more."""
        calls = FailingCalls()
        clock = [1_000_000.0]
        store = make_store(self, calls=calls, max_size=16 * MIB, now=lambda: clock[0])
        entry = put_ranges(store, name_of("ranges"), 4 * MIB)
        for start in range(0, 3 * MIB, MIB // 4):
            add_range(store, entry, start, start + MIB // 4)
        used = store.usage()
        writer = store.start_range(entry, 3_500_000, 100_000)
        calls.fail("pwritev", errno.ENOSPC, times=1)
        writer.append([bytes(100_000)])
        self.assertLess(store.usage(), used)
        self.assertLess(store.volume.ledger.capacity, used)
        self.assertEqual(writer.commit(), 100_000)
        writer.close()
        clock[0] += 601
        store.sweeper.run()
        self.assertEqual(store.volume.ledger.capacity, 16 * MIB)


class FullFileSystemTests(SynchronousTestCase):
    """A file system that has less room than the limit allows."""

    def test_room_comes_back(self) -> None:
        """What a body under way took is granted to others again when the body is gone, and not minutes later."""
        times = [1000.0]
        calls = FailingCalls()
        store = make_store(self, max_size=64 * MIB, calls=calls, now=lambda: times[0])
        fill(store, 0, 40, 100_000)
        space = SimpleNamespace(f_bavail=0, f_frsize=4096, f_files=0)
        calls.statvfs = lambda path: space
        for _ in range(40):
            store.evictor.exhausted(65536)
        self.assertFalse(store.evictor.reserve(MIB))
        space.f_bavail = 16 * MIB // 4096
        times[0] += 2
        self.assertTrue(store.evictor.reserve(MIB))
        store.evictor.release(MIB)
        self.assertFalse(store.evictor.reserve(32 * MIB))
