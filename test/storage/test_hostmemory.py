"""Several processes of a host, one cache directory: each is a store of its own here, on memory that they share."""

import os
import threading
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore, open_store
from s3proxy.storage.entry import EntryFacts
from s3proxy.storage.hostledger import HostLedger
from s3proxy.storage.hostmemory import HostMemory
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, EntryName, entry_name, footprint
from s3proxy.storage.ledger import FIXED_OVERHEAD
from s3proxy.storage.recency import Use

LIMIT = 64 << 20


class HostMemoryTests(SynchronousTestCase):
    """The memory itself."""

    def setUp(self) -> None:
        """A file."""
        self.fd = HostMemory.make()
        self.addCleanup(os.close, self.fd)

    def test_table(self) -> None:
        """What one process stores in the table, the others read."""
        one, other = HostMemory(self.fd, 0, founder=True), HostMemory(self.fd, 1)
        value = one.generations.bump(5)
        self.assertEqual(other.generations.get(5), value)
        self.assertNotEqual(other.generations.bump(5), value)
        self.assertNotEqual(one.generations.get(5), value)

    def test_columns(self) -> None:
        """Every seat has numbers of its own, which all can read, and which nothing else shares."""
        one, other = HostMemory(self.fd, 0, founder=True), HostMemory(self.fd, 1)
        walked, versions, active, believed = other.per_shard(1000)
        one.generations.void(2**20 - 1)
        one.column(3)[0], other.column(3)[1], one.totals[0] = -7, 8, 9
        walked[999], versions[999], active[0], believed[1999] = 1, 2, 3, -4
        self.assertEqual(list(other.column(3)[:3]), [-7, 8, 0])
        self.assertEqual((other.totals[0], one.per_shard(1000)[1][999], one.per_shard(1000)[2][0]), (9, 2, 3))
        self.assertEqual((one.per_shard(1000)[0][999], one.per_shard(1000)[3][1999]), (1, -4))
        self.assertEqual(sum(sum(one.column(number)) for number in (0, 1, 2, 4)), 0)
        self.assertEqual(one.generations.get(0), 0)

    def test_lock(self) -> None:
        """A lock excludes the same lock of another process, not another one, and may be taken again by its holder."""
        one, other = HostMemory(self.fd, 0, founder=True), HostMemory(self.fd, 1)
        mine, theirs = one.lock(4), other.lock(4)
        entered = threading.Event()

        def enter() -> None:
            with theirs:
                entered.set()

        thread = threading.Thread(target=enter)
        with mine, mine:
            thread.start()
            with other.lock(5):
                self.assertFalse(entered.wait(0.05))
        self.assertTrue(entered.wait(10))
        thread.join()

    def test_other_version(self) -> None:
        """Memory of another layout is refused."""
        os.pwrite(self.fd, b"s3proxy host 0", 0)
        self.assertRaises(ValueError, HostMemory, self.fd, 1)

    def test_seats_and_locks_are_limited(self) -> None:
        """Numbers beyond what there is room for are refused."""
        self.assertRaises(ValueError, HostMemory, self.fd, 1024, founder=True)
        self.assertRaises(ValueError, HostMemory(self.fd, 0, founder=True).lock, 5000)


class GenerationTableTests(SynchronousTestCase):
    """The second column of the table, and doubts about the disk."""

    def setUp(self) -> None:
        """The table as two processes see it."""
        fd = HostMemory.make()
        self.addCleanup(os.close, fd)
        self.one = HostMemory(fd, 0, founder=True).generations
        self.other = HostMemory(fd, 1).generations

    def test_void(self) -> None:
        """Only a change of the object changes the second column; it changes the first one, too."""
        before = self.other.get(3), self.other.object_at(3)
        self.one.bump(3)
        self.assertEqual(self.other.object_at(3), before[1])
        self.assertNotEqual(self.other.get(3), before[0])
        before = self.other.get(3), self.other.object_at(3)
        self.one.void(3)
        self.assertNotEqual(self.other.object_at(3), before[1])
        self.assertNotEqual(self.other.get(3), before[0])
        self.assertEqual(self.other.object_at(4), 0)

    def test_taint(self) -> None:
        """A tainted slot is tainted for all, whatever else happens to it, until the taint is taken away; records from
        before are void.
        """
        before = self.other.get(3)
        self.one.taint(3)
        self.assertTrue(self.other.is_tainted(3))
        self.assertFalse(self.other.is_tainted(4))
        self.assertNotEqual(self.other.get(3), before)
        self.other.void(3)
        self.assertTrue(self.one.is_tainted(3))
        self.one.taint(3, False)
        self.assertFalse(self.other.is_tainted(3))
        self.one.taint_all()
        self.assertTrue(self.other.is_tainted(4))


class SharedStoreCase(SynchronousTestCase):
    """A supervisor and two workers."""

    limit = LIMIT

    def setUp(self) -> None:
        """Three stores on one directory."""
        self.fd = HostMemory.make()
        self.addCleanup(os.close, self.fd)
        self.root = self.mktemp()
        self.stores = [self.open(seat) for seat in range(3)]

    def open(self, seat: int) -> DiskStore:
        """The store of one process."""
        memory = HostMemory(self.fd, seat, founder=seat == 0)
        store = open_store(
            self.root, max_size=self.limit, now=lambda: 1000.0, generations=memory.generations, random=Random(seat),
            memory=memory,
        )  # fmt: skip
        self.addCleanup(store.volume.handles.close)
        return store

    def put(self, store: DiskStore, key: bytes, size: int, **options: bool) -> EntryName:
        """Publish an entry."""
        name = entry_name((b"aws", b"bucket", key))
        lease = store.lease(name)
        assert lease is not None
        entry = store.publish_inline(
            lease, meta=b"{}", object_size=size, validated_at=1.0, observed_at=1.0, body=[bytes(size)], **options
        )
        assert entry is not None
        return name

    def on_disk(self) -> int:
        """What the directory holds, as the ledger counts."""
        total = 0
        for parent, folders, files in os.walk(f"{self.root}/o"):
            total += DIRECTORY_FOOTPRINT * len(folders)
            total += sum(footprint(os.lstat(os.path.join(parent, name)).st_size) for name in files)
        return total + FIXED_OVERHEAD


class SharedStoreTests(SharedStoreCase):
    """What one does, the others know."""

    def test_usage(self) -> None:
        """All count the same, whoever added or removed something."""
        names = [self.put(self.stores[1 + number % 2], b"%d" % number, 10_000) for number in range(10)]
        self.assertEqual({store.usage() for store in self.stores}, {self.on_disk()})
        for number, name in enumerate(names[:6]):
            self.stores[number % 3].drop(name)
        self.put(self.stores[2], b"9", 50_000)
        self.assertEqual({store.usage() for store in self.stores}, {self.on_disk()})

    def test_records_are_void(self) -> None:
        """What one process read is void when another one has changed it."""
        name = self.put(self.stores[1], b"k", 100)
        entry = self.stores[2].load(name)
        assert entry is not None
        self.assertEqual(self.stores[2].volume.generations.get(name.slot), entry.epoch)
        self.stores[1].drop(name)
        self.assertNotEqual(self.stores[2].volume.generations.get(name.slot), entry.epoch)
        self.assertIsNone(self.stores[2].load(name))

    def test_objects_change(self) -> None:
        """Arming and dropping say that an object changes; publishing what was read does not."""
        table = self.stores[2].volume.generations
        name = self.put(self.stores[1], b"k", 100)
        seen = [table.object_at(name.slot)]
        self.assertEqual(seen, [0])
        for change in (self.stores[1].arm, self.stores[0].drop, self.stores[1].void):
            change(name)
            seen.append(table.object_at(name.slot))
        self.assertEqual(len(set(seen)), 4)

    def test_limit(self) -> None:
        """Together they set no more room aside than there is."""
        granted = 0
        size = self.limit // 10
        for number in range(30):
            granted += self.stores[number % 3].volume.ledger.reserve(size)
        self.assertEqual(granted, (self.limit - self.stores[0].volume.ledger.committed + granted * size) // size)
        self.assertLess(granted, 10)
        self.assertFalse(any(store.volume.ledger.fits(size) for store in self.stores))

    def test_dead_process(self) -> None:
        """What a process had set aside when it died is free again, and what it had published counts on; so it does when
        another one takes its seat.
        """
        name = self.put(self.stores[1], b"k", 100_000)
        self.assertIsNotNone(self.stores[1].lease(entry_name((b"aws", b"bucket", b"other"))))
        ledgers = [store.volume.ledger for store in self.stores]
        ledgers[1].reserve(1_000_000)
        ledgers[1].reserve_unread(1_000_000)
        used = ledgers[0].used
        self.assertGreater(ledgers[0].in_flight, 0)
        assert isinstance(ledgers[0], HostLedger)
        ledgers[0].vacate(1)
        self.assertEqual((ledgers[2].reserved, ledgers[2]._unread_reserved, ledgers[2].in_flight), (0, 0, 0))
        self.assertEqual(ledgers[2].used, used)
        successor = self.open(1)
        self.assertEqual(successor.usage(), used)
        successor.drop(name)
        self.assertLess(self.stores[0].usage(), used)

    def test_squeeze(self) -> None:
        """When one process finds the file system full, all keep less, and the one that looks after the directory lifts
        that again.
        """
        ledgers = [store.volume.ledger for store in self.stores]
        ledgers[1].squeeze(1 << 20)
        ledgers[1].squeezed_at = 10.5
        self.assertEqual({ledger.capacity for ledger in ledgers}, {1 << 20})
        self.assertEqual(ledgers[0].squeezed_at, 10.5)
        self.stores[0].evictor.shrink(self.limit)
        self.assertEqual({ledger.capacity for ledger in ledgers}, {self.limit})
        self.assertEqual(ledgers[1].squeezed_at, 0.0)

    def test_eviction_by_the_supervisor(self) -> None:
        """It evicts what the workers stored, and their ledgers know."""
        for number in range(20):
            self.put(self.stores[1 + number % 2], b"%d" % number, 100_000)
        self.stores[0].evictor.shrink(FIXED_OVERHEAD)
        self.assertLess(self.stores[1].usage(), 20 * 100_000)
        self.assertEqual({store.usage() for store in self.stores}, {self.on_disk()})

    def test_uses_are_told(self) -> None:
        """What workers use is known to whoever evicts."""
        name = self.put(self.stores[1], b"k", 100)
        self.stores[1].tell_uses(self.stores[0].heard_of)
        for _ in range(3):
            self.stores[1].touched(name, 0)
        self.stores[1].flush_recency()
        log = self.stores[0].evictor._log
        self.assertEqual((log.frequency(name.digest, 0), log.last_use(name.digest, 0)), (3, 1000.0))
        self.stores[0].heard_of([Use(name.digest, 0, 2, 500.0)])
        self.assertEqual((log.frequency(name.digest, 0), log.last_use(name.digest, 0)), (5, 1000.0))

    def test_declared(self) -> None:
        """The number on disk for the next start is never below what all have published, and the founder's stop is a
        clean one, while that of the others is none.
        """
        for number in range(12):
            self.put(self.stores[1 + number % 2], b"%d" % number, 300_000)
        declared, clean = self.stores[0]._balance.read()
        assert declared is not None
        self.assertGreaterEqual(declared, self.stores[0].usage())
        self.stores[2].close()
        self.stores[1].close()
        self.assertEqual(self.stores[0]._balance.read(), (declared, False))
        used = self.stores[0].usage()
        self.stores[0].close()
        self.assertEqual(self.stores[0]._balance.read(), (used, True))

    def test_concurrent_replacements(self) -> None:
        """Threads of several processes that replace, drop and evict the same few entries leave the ledgers exact."""
        facts = EntryFacts(meta=b"{}", object_size=9000, validated_at=1.0, observed_at=1.0, unconfirmed=False)

        def work(store: DiskStore, seed: int) -> None:
            random = Random(seed)
            for _ in range(150):
                name = entry_name((b"aws", b"bucket", b"%d" % random.randrange(4)))
                if random.random() < 0.2:
                    store.drop(name)
                elif random.random() < 0.1:
                    store.evictor.shrink(FIXED_OVERHEAD)
                else:
                    lease = store.lease(name)
                    if lease is not None:
                        size = random.randrange(40_000)
                        store.publish_inline(
                            lease, meta=facts.meta, object_size=size, validated_at=1.0, observed_at=1.0,
                            body=[bytes(size)],
                        )  # fmt: skip

        threads = [
            threading.Thread(target=work, args=(store, number))
            for number, store in enumerate((*self.stores, *self.stores))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual({store.usage() for store in self.stores}, {self.on_disk()})
        self.assertEqual(self.stores[0].volume.ledger.reserved, 0)


class WalkTests(SharedStoreCase):
    """A start on a directory that nobody has counted."""

    def setUp(self) -> None:
        """A directory that an earlier run left without a clean stop."""
        super().setUp()
        for number in range(40):
            self.put(self.stores[0], b"old-%d" % number, 20_000)
        self.fd = HostMemory.make()
        self.addCleanup(os.close, self.fd)
        self.stores = [self.open(seat) for seat in range(3)]

    def test_counted_while_others_write(self) -> None:
        """The supervisor walks through it while the workers add and remove; afterwards all know exactly what is
        there.
        """
        self.assertFalse(any(store.volume.ledger.complete for store in self.stores))
        scan = self.stores[0].scan()
        number, over = 0, False
        while not over:
            number += 1
            self.put(self.stores[1], b"new-%d" % number, 5000)
            self.stores[2].drop(entry_name((b"aws", b"bucket", b"old-%d" % number)))
            over = scan.step(1)
        self.assertTrue(all(store.volume.ledger.complete for store in self.stores))
        self.assertEqual({store.usage() for store in self.stores}, {self.on_disk()})

    def test_assumed(self) -> None:
        """What any process adds to a shard whose sum is only assumed is known when that is put right."""
        one, two, three = (store.volume.ledger for store in self.stores)
        one.finish_untouched({5, 6})
        one.assume(5, 1000, 100)
        self.assertFalse(two.complete)
        one.assume(6, 0)
        self.assertTrue(two.complete)
        self.assertEqual(three.used, FIXED_OVERHEAD + 1000)
        two.add(5, 50, unread=7)
        three.add(5, -20)
        three.add(6, 4)
        two.add(7, 3)
        self.assertEqual((one.used, one.unread), (FIXED_OVERHEAD + 1037, 107))
        token = one.begin_walk(5)
        assert token is not None
        with two.changing(5):
            self.assertIsNone(one.begin_walk(5))
        self.assertFalse(one.end_walk(5, token, 900))
        token = one.begin_walk(5)
        assert token is not None
        self.assertTrue(one.end_walk(5, token, 900, 10))
        self.assertEqual((three.used, three.unread, three.assumed), (FIXED_OVERHEAD + 907, 10, [6]))
        two.add(5, 1)
        self.assertEqual(one.used, FIXED_OVERHEAD + 908)
        one.recount()
        self.assertEqual((three.used, three.assumed, three.complete), (FIXED_OVERHEAD + 908, [], False))
        one.assume(6, 1)
        self.assertTrue(one.end_walk(6, one.begin_walk(6) or 0, 2))

    def test_died_amid_a_change(self) -> None:
        """A process that died while it changed something does not keep the walk from its end."""
        for shard in range(self.stores[1].volume.format.shards):
            self.stores[1].volume.ledger.enter(shard)
        ledger = self.stores[0].volume.ledger
        assert isinstance(ledger, HostLedger)
        ledger.vacate(1)
        scan = self.stores[0].scan()
        while not scan.step(100):
            continue
        self.assertEqual({store.usage() for store in self.stores}, {self.on_disk()})


class ScanAgainTests(SharedStoreCase):
    """After the death of a process its traces are looked for."""

    def test_traces(self) -> None:
        """Leases that nobody holds are removed, and what was in the trash is counted off, unless it may be a living
        process's.
        """
        lost = entry_name((b"aws", b"bucket", b"lost"))
        self.assertIsNotNone(self.stores[1].lease(lost))
        lease = self.stores[1].lease(entry_name((b"aws", b"bucket", b"k")))
        assert lease is not None
        entry = self.stores[1].publish_ranges(
            lease, meta=b"{}", object_size=500_000, validated_at=1.0, observed_at=1.0
        )  # fmt: skip
        assert entry is not None
        writer = self.stores[1].start_range(entry, 0, 500_000)
        writer.append([bytes(500_000)])
        writer.commit()
        writer.close()
        self.stores[1].drop(entry.name)
        self.assertGreater(self.stores[0].usage(), 500_000)
        # It dies.
        self.stores[1].volume.instance.stop()
        self.patch(self.stores[0].volume, "now", lambda: 4e9)
        scan = self.stores[0].scan(again=True)
        while not scan.step():
            continue
        self.assertEqual(os.listdir(f"{self.root}/trash"), [])
        self.assertEqual(self.stores[0].usage(), self.on_disk())
        self.assertFalse(os.path.exists(self.stores[0].volume.flight_path(lost)))
