"""Two instances that share nothing but the cache directory: their accounts."""

import errno
import os
import random
import threading
import time
from collections.abc import Callable
from test.storage.support import MIB, FailingCalls, abandon, make_store, put_inline, put_ranges, upload

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore
from s3proxy.storage.layout import entry_name, instance_text
from s3proxy.storage.ledger import FIXED_OVERHEAD

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


def begin(store: DiskStore, *, patience: float = 0.0) -> Callable[[], bool]:
    """A walk that waits for the others so many seconds: a step of it."""
    walk = store.scan(patience=patience)
    return lambda: walk.step(1_000_000)


def kill(store: DiskStore) -> None:
    """What it has not told, nobody ever learns."""
    abandon(store)
    store.volume.ledger.told = None


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

    def test_trash_of_others(self) -> None:
        """What one has thrown away and not deleted yet, a scan of another leaves to it: both take it off, once."""
        one = make_store(self, max_size=LIMIT)
        two = make_store(self, root=one.root, max_size=LIMIT)
        scan(one)
        scan(two)
        put_ranges(one, entry_name((b"k",)), 500_000, (0, 500_000))
        self.settle([one, two])
        one.drop(entry_name((b"k",)))
        two.close()
        two = make_store(self, root=one.root, max_size=LIMIT)
        scan(two)
        self.assert_exact(two)
        self.assertGreater(two.usage(), 500_000)
        self.settle([one, two])
        self.assertEqual(os.listdir(f"{one.root}/trash"), [])
        self.assert_exact(one)
        self.assert_exact(two)

    def test_trash_of_the_dead(self) -> None:
        """What a process that died had thrown away, whoever deletes it takes off, and so do those who hear of that."""
        one = make_store(self, max_size=LIMIT)
        two = make_store(self, root=one.root, max_size=LIMIT)
        scan(one)
        scan(two)
        for number in range(2):
            put_ranges(two, entry_name((b"%d" % number,)), 500_000, (0, 500_000))
        self.settle([two, one])
        for number in range(2):
            two.drop(entry_name((b"%d" % number,)))
        two.pulse()
        kill(two)
        three = make_store(self, root=one.root, max_size=LIMIT)
        scan(three)
        self.assertEqual(os.listdir(f"{one.root}/trash"), [])
        self.settle([three, one])
        self.assert_exact(one)
        self.assert_exact(three)

    def test_renamed_away_amid_a_look(self) -> None:
        """What another throws away while its shard is added up, and deletes much later, is found once."""
        one = make_store(self, max_size=LIMIT)
        scan(one)
        name = entry_name((b"k",))
        entry = put_ranges(one, name, 500_000, (0, 500_000))
        one.pulse()
        calls = FailingCalls()
        two = make_store(self, root=one.root, max_size=LIMIT, calls=calls)
        step = begin(two, patience=60.0)
        listdir = calls.listdir
        shard = os.path.dirname(two.volume.entry_path(name))
        listed = 0

        def dropping(path: str) -> list[str]:
            nonlocal listed
            found = listdir(path)
            listed += path == shard
            # Not when leftovers are looked for, but when it is added up.
            if listed == 2:
                # Nothing else changes.
                one.volume.discard_generation(name, entry.generation)
            return found

        self.patch(calls, "listdir", dropping)
        while not step():
            one.pulse()
        self.assertEqual(len(os.listdir(f"{one.root}/trash")), 1)
        self.settle([one, two])
        self.assert_exact(two)

    def test_came_and_went_untold(self) -> None:
        """What another adds before a look and removes after it, and tells in one go, does not count."""
        one = make_store(self, max_size=LIMIT)
        name = entry_name((b"k",))
        one.volume.make_shard(name)
        two = make_store(self, root=one.root, max_size=LIMIT)
        self.settle([one, two])
        step = begin(two, patience=60.0)
        put_inline(one, name, bytes(500_000))
        step()
        one.drop(name)
        for _ in range(12):
            one.pulse()
            step()
        self.assertEqual((two.volume.ledger.complete, two.volume.ledger.assumed), (True, []))
        self.settle([one, two])
        self.assert_exact(two)

    def test_told_late(self) -> None:
        """A sign of life that was under way during the look says nothing about what was done by then."""
        one = make_store(self, max_size=LIMIT)
        name = entry_name((b"k",))
        one.volume.make_shard(name)
        calls = FailingCalls()
        two = make_store(self, root=one.root, max_size=LIMIT, calls=calls)
        self.settle([one, two])
        step = begin(two, patience=60.0)
        listdir = calls.listdir
        shard = os.path.dirname(two.volume.entry_path(name))
        listed = 0

        def publishing(path: str) -> list[str]:
            nonlocal listed
            listed += path == shard
            # Not when leftovers are looked for, but when it is added up.
            if listed == 2 and not one.has(name):
                # Twice between the moment when two listened and the one when it looks.
                one.pulse()
                one.pulse()
                put_inline(one, name, bytes(500_000))
            return listdir(path)

        self.patch(calls, "listdir", publishing)
        for _ in range(3):
            step()
        for _ in range(12):
            one.pulse()
            step()
        self.assertTrue(two.volume.ledger.complete)
        self.settle([one, two])
        self.assert_exact(two)

    def test_never_at_rest(self) -> None:
        """A shard that another changes all the time is counted as well as can be, and exactly once it rests."""
        one = make_store(self, max_size=LIMIT)
        name = entry_name((b"k",))
        put_inline(one, name, bytes(10))
        calls = FailingCalls()
        two = make_store(self, root=one.root, max_size=LIMIT, calls=calls)
        step = begin(two, patience=60.0)
        listdir = calls.listdir
        shard = os.path.dirname(two.volume.entry_path(name))
        busy, looks = True, 0

        def publishing(path: str) -> list[str]:
            nonlocal looks
            if path == shard and busy:
                looks += 1
                if looks % 2:
                    put_inline(one, name, bytes(100_000 + 50_000 * looks))
                else:
                    one.drop(name)
            return listdir(path)

        self.patch(calls, "listdir", publishing)
        while not step():
            one.pulse()
        ledger = two.volume.ledger
        self.assertEqual((ledger.complete, ledger.assumed), (True, [two.volume.shard_of(name)]))
        self.assertLess(looks, 20)
        busy = False
        for _ in range(5):
            put_inline(two, name, bytes(20_000))
            two.sweeper.run()
            for store in (one, two):
                store.pulse()
            # Assumed or not, what is known to be added is.
            self.assertTrue(two.sweeper.due() or not ledger.assumed)
        for _ in range(5):
            one.pulse()
            two.pulse()
            two.sweeper.run()
        self.assertEqual(ledger.assumed, [])
        self.assert_exact(two)
        two.drop(name)
        self.settle([two, one])
        self.assert_exact(two)
        self.assert_exact(one)

    def test_buried_by_others(self) -> None:
        """A death is noticed although another instance has cleaned up after it; an end in good order is none."""
        one = make_store(self, max_size=LIMIT)
        scan(one)
        for orderly in (True, False):
            two = make_store(self, root=one.root, max_size=LIMIT)
            scan(two)
            self.settle([one, two])
            put_inline(two, entry_name((b"k%d" % orderly,)), bytes(500_000))
            if orderly:
                two.close()
            else:
                kill(two)
            three = make_store(self, root=one.root, max_size=LIMIT)
            scan(three)
            one._peers._looked_at = three._peers._looked_at = 0.0
            one.pulse()
            three.pulse()
            self.assertEqual(one.lost_a_peer(), not orderly)
            # All that it did was there when this one came.
            self.assertFalse(three.lost_a_peer())
            three.close()
        scan(one, recount=True)
        self.assert_exact(one)

    def test_shard_that_could_not_be_made(self) -> None:
        """A shard without a directory, because there was no room for one, does not keep a scan from its end."""
        calls = FailingCalls()
        one = make_store(self, max_size=LIMIT)
        put_inline(one, entry_name((b"k",)), bytes(10))
        two = make_store(self, root=one.root, max_size=LIMIT, calls=calls)
        calls.fail("mkdir", errno.ENOSPC)
        self.assertRaises(OSError, two.volume.make_shard, entry_name((b"other",)))
        scan(two)
        self.assertTrue(two.volume.ledger.complete)

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
