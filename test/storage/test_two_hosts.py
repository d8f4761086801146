"""Two instances that share nothing but the cache directory: their accounts, and who evicts."""

import os
import random
import threading
import time

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore
from s3proxy.storage.evictlease import EvictionLease
from s3proxy.storage.layout import entry_name, instance_text
from s3proxy.storage.ledger import FIXED_OVERHEAD
from test.storage.support import MIB, make_store, put_inline, put_ranges, upload

LIMIT = 16 * MIB


def truth(root: str) -> int:
    """What is really there, in bytes of blocks, apart from the fixed files."""
    total = 0
    for top in ("o", "up", "trash"):
        for parent, _, names in os.walk(f"{root}/{top}"):
            if parent != f"{root}/{top}":
                total += os.lstat(parent).st_blocks * 512
            total += sum(os.lstat(f"{parent}/{name}").st_blocks * 512 for name in names)
    return total


def scan(store: DiskStore, recount: bool = False) -> None:
    """Walk through everything."""
    walk = store.scan(again=recount, recount=recount, patience=0.0)
    while not walk.step():
        pass


def work(store: DiskStore, choice: random.Random, steps: int) -> None:
    """Publish, replace, drop and evict."""
    for _ in range(steps):
        name = entry_name((b"%d" % choice.randrange(150),))
        todo = choice.random()
        try:
            if todo < 0.5:
                put_inline(store, name, bytes(choice.randrange(1, 60_000)))
            elif todo < 0.75:
                size = choice.randrange(66_000, 700_000)
                put_ranges(store, name, size, (0, size))
            elif todo < 0.8:
                upload(store, name, bytes(choice.randrange(1, 300_000)))
            elif todo < 0.93:
                store.drop(name)
            else:
                store.evictor.shrink(LIMIT // 2)
        except AssertionError:
            # Somebody else holds the lease, or there is no room.
            continue
        if choice.random() < 0.1:
            store.pulse()


class AccountsTests(SynchronousTestCase):
    """Peers."""

    def settle(self, stores: list[DiskStore]) -> None:
        for _ in range(2):
            for store in stores:
                store.volume.empty_trash()
                store.pulse()

    def assert_exact(self, store: DiskStore) -> None:
        used, real = store.usage() - FIXED_OVERHEAD, truth(store.root)
        self.assertLess(abs(used - real), 0.01 * real + 8192, (used, real))

    def test_both_know(self) -> None:
        """What one publishes or removes, the other knows after both have shown life; so does the third who comes."""
        one = make_store(self, max_size=LIMIT)
        two = make_store(self, root=one.root, max_size=LIMIT)
        scan(one)
        scan(two)
        name = entry_name((b"k",))
        before = two.usage()
        put_inline(one, name, bytes(50_000))
        self.assertEqual(two.usage(), before)
        self.settle([one, two])
        self.assertEqual(two.usage(), one.usage())
        self.assertGreater(two.usage(), before)
        three = make_store(self, root=one.root, max_size=LIMIT)
        scan(three)
        two.drop(name)
        self.settle([two, one, three])
        for store in (one, two, three):
            self.assert_exact(store)

    def test_random_work(self) -> None:
        """Two instances at work at once in threads, limit and all: both accounts are the directory's."""
        one = make_store(self, max_size=LIMIT)
        two = make_store(self, root=one.root, max_size=LIMIT)
        scan(one)
        scan(two)
        seed = random.SystemRandom().randrange(1 << 30)
        threads = [
            threading.Thread(target=work, args=(store, random.Random(seed + number), 250))
            for number, store in enumerate((one, two))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.settle([one, two])
        try:
            self.assert_exact(one)
            self.assert_exact(two)
            self.assertLess(truth(one.root), LIMIT * 1.1)
        except AssertionError as problem:
            raise AssertionError(f"seed {seed}: {problem}") from None

    def test_crash(self) -> None:
        """An instance that is killed at work: the other notices, counts anew, and its accounts are right."""
        later = 0.0
        one = make_store(self, max_size=LIMIT, now=lambda: time.time() + later)
        scan(one)
        for number in range(3):
            child = os.fork()
            if not child:
                try:
                    two = make_store(self, root=one.root, max_size=LIMIT)
                    scan(two)
                    threading.Timer(0.3 + 0.2 * number, os._exit, (0,)).start()
                    while True:
                        work(two, random.Random(number), 20)
                finally:
                    os._exit(1)
            work(one, random.Random(77), 50)
            os.waitpid(child, 0)
            one._peers._looked_at = 0.0
            one.pulse()
            self.assertTrue(one.lost_a_peer())
            self.assertFalse(one.lost_a_peer())
            # What others put aside a moment ago, they may be about to delete themselves.
            later = 120.0
            scan(one, recount=True)
            later = 0.0
            self.settle([one])
            self.assert_exact(one)
        self.assertEqual(one.volume.calls.listdir(f"{one.root}/trash"), [])

    def test_removed_by_hand(self) -> None:
        """A file that somebody removed is written again, whole."""
        one = make_store(self, max_size=LIMIT)
        two = make_store(self, root=one.root, max_size=LIMIT)
        scan(one)
        scan(two)
        put_inline(one, entry_name((b"a",)), bytes(50_000))
        one.pulse()
        os.unlink(f"{one.root}/inst/{instance_text(one.volume.instance.number)}.use")
        put_inline(one, entry_name((b"b",)), bytes(50_000))
        self.settle([one, two])
        self.assert_exact(two)

    def test_nothing_stays_open(self) -> None:
        """Between two signs of life nothing is open for writing, so that the directory can be remounted."""
        one = make_store(self, max_size=LIMIT)
        one.pulse()
        opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        self.assertEqual([path for path in opened if path.startswith(f"{os.path.realpath(one.root)}/")], [])

    def test_clean_end(self) -> None:
        """One that ends in good order is not missed; its file goes when all have read it, or nobody is there."""
        one = make_store(self, max_size=LIMIT)
        two = make_store(self, root=one.root, max_size=LIMIT)
        scan(one)
        scan(two)
        put_inline(two, entry_name((b"k",)), bytes(50_000))
        two.close()
        one._peers._looked_at = 0.0
        self.settle([one])
        self.assertFalse(one.lost_a_peer())
        self.assert_exact(one)
        path = f"{one.root}/inst/{instance_text(two.volume.instance.number)}.use"
        os.utime(path, (0, time.time() - 3600))
        one._peers._looked_at = 0.0
        one.pulse()
        self.assertFalse(os.path.exists(path))


class LeaseTests(SynchronousTestCase):
    """EvictionLease."""

    def setUp(self) -> None:
        """Two instances."""
        self.one = make_store(self)
        self.two = make_store(self, root=self.one.root)
        self.now = time.time()
        self.leases = [
            EvictionLease(store.volume.calls, f"{store.root}/ctl/evict.lease", store.volume.instance, lambda: self.now)
            for store in (self.one, self.two)
        ]

    def test_one_at_a_time(self) -> None:
        """Who comes second waits until the first has ended, has made room enough, or his patience is at its end."""
        first, second = self.leases
        self.assertTrue(first.take())
        self.assertFalse(second.take(lambda: False, 0.05))
        self.assertFalse(second.take(lambda: True, 60))
        threading.Timer(0.05, first.release).start()
        self.assertTrue(second.take(lambda: False, 10))
        first.release()
        self.assertFalse(first.take())

    def test_takeover(self) -> None:
        """A lease that its owner has not touched for long, or whose owner is dead, is taken over."""
        first, second = self.leases
        self.assertTrue(first.take())
        self.now += 59
        self.assertFalse(second.take())
        first.keep()
        os.utime(f"{self.one.root}/ctl/evict.lease", (self.now, self.now))
        self.now += 59
        self.assertFalse(second.take())
        self.now += 2
        self.assertTrue(second.take())
        second.release()
        self.assertTrue(first.take())
        self.one.volume.instance.stop()
        self.assertTrue(second.take())
        self.assertEqual((first.broken, second.broken), (0, 2))
        self.assertEqual(sorted(os.listdir(f"{self.one.root}/ctl")), ["base.json", "evict.lease"])

    def test_eviction_needs_it(self) -> None:
        """A sweep leaves the work to the instance that has the lease."""
        scan(self.one)
        put_inline(self.one, entry_name((b"k",)), bytes(50_000))
        self.assertTrue(self.leases[1].take())
        self.assertEqual(self.one.evictor.shrink(0), 0)
        self.leases[1].release()
        self.assertGreater(self.one.evictor.shrink(0), 0)
