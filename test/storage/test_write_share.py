"""What was written through and not read yet: its share of the cache."""

import errno
import os
import stat
import threading
from test.storage.support import (
    MIB,
    FailingCalls,
    abandon,
    finish_scan,
    make_store,
    name_of,
    put_inline,
    put_ranges,
    recount,
    stage,
    upload,
)
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage import eviction
from s3proxy.storage.disk import INLINE, DiskStore, StoredEntry
from s3proxy.storage.layout import footprint
from s3proxy.storage.ledger import FIXED_OVERHEAD, Ledger
from s3proxy.storage.scoring import Candidate

STORE = 16 * MIB
"""Of which 1.6 MiB may be unread; range files are at most 1 MiB long."""
SHARE = STORE // 10
SMALL, LARGE = 40_000, 600_000


class ShareCase(SynchronousTestCase):
    """A store whose entries become ranges from 512 KiB on."""

    def setUp(self) -> None:
        self.clock = [1_000_000_000.0]
        self.calls = FailingCalls()
        self.store = self.open(calls=self.calls)

    def open(self, **options: Any) -> DiskStore:
        options = {"max_size": STORE, "now": lambda: self.clock[0], **options}
        store = make_store(self, **options)
        store.inline_max, store.cut = MIB // 2, MIB // 4
        return store

    def write(self, text: str, size: int = SMALL, *, age: float = 0.0) -> StoredEntry:
        """Write an object through that looks as old as that."""
        entry = upload(self.store, name_of(text), bytes(size))
        assert entry is not None, text
        self.age(entry, age)
        return entry

    def age(self, entry: StoredEntry, age: float) -> None:
        moment = self.clock[0] - age
        for path in self.files(entry):
            os.utime(path, (moment, moment))

    def files(self, entry: StoredEntry) -> list[str]:
        paths = [self.store.volume.entry_path(entry.name)]
        if entry.has_ranges:
            directory = self.store.volume.generation_path(entry.name, entry.generation)
            paths += [f"{directory}/{name}" for name in os.listdir(directory) if "-" in name]
        return paths

    def charge(self, entry: StoredEntry) -> int:
        return sum(footprint(os.stat(path).st_size) for path in self.files(entry))

    def present(self, *texts: str) -> list[bool]:
        return [self.store.load(name_of(text)) is not None for text in texts]

    def assert_counted(self, store: DiskStore | None = None) -> None:
        """The count is what is on disk."""
        store = store or self.store
        store.volume.empty_trash()
        before = (store.usage(), store.unread(), store.staged())
        recount(store)
        self.assertEqual((store.usage(), store.unread(), store.staged()), before)


class ReadingTests(ShareCase):
    """What is read leaves the share."""

    def test_first_read(self) -> None:
        """The first read takes an entry, all files of it, out of the share, and records of it are void."""
        for size in (SMALL, LARGE):
            entry = self.write("x", size)
            self.assertEqual(self.store.unread(), self.charge(entry))
            self.store.read_first(entry)
            self.assertEqual(self.store.unread(), self.charge(entry))
            used = self.store.usage()
            self.store.flush_recency()
            self.assertEqual((self.store.unread(), self.store.usage()), (0, used))
            self.assertNotEqual(self.store.volume.generations.get(entry.name.slot), entry.epoch)
            found = self.store.load(entry.name)
            assert found is not None
            self.assertEqual((found.unread, found.unconfirmed, found.nonce), (False, True, entry.nonce))
            self.assert_counted()
            self.store.drop(entry.name)

    def test_recorded_use(self) -> None:
        """So does a use that is put on disk; and the mark that it is used stays when it is read first afterwards."""
        for size in (SMALL, LARGE):
            entry = self.write(f"object of {size}", size)
            self.store.touched(entry.name, 0)
            self.store.flush_recency()
            self.assertEqual(self.store.unread(), 0)
            self.store.read_first(entry)
            self.store.flush_recency()
            mode = stat.S_IMODE(os.stat(self.store.volume.entry_path(entry.name)).st_mode)
            self.assertEqual(mode, 0o600 | (stat.S_ISVTX if entry.kind == INLINE else 0))
            self.assert_counted()

    def test_soon_after_another(self) -> None:
        """A new version that is read within minutes after the old one leaves the share as well."""
        for _ in range(2):
            entry = self.write("x")
            self.store.touched(entry.name, 0)
            self.store.read_first(entry)
            self.store.flush_recency()
            self.assertEqual(self.store.unread(), 0)

    def test_segments(self) -> None:
        """Ranges in segments are marked, too."""
        store = self.open(max_size=0)
        entry = put_ranges(store, name_of("huge"), 3 << 30, (0, 100), (2 << 30, (2 << 30) + 100))
        paths = [f"{store.volume.range_path(entry, start)}/{start:x}-64" for start in (0, 2 << 30)]
        for path in (*paths, store.volume.entry_path(entry.name)):
            os.chmod(path, 0o610)
        recount(store)
        unread = store.load(entry.name)
        assert unread is not None
        self.assertEqual((unread.unread, store.unread()), (True, 3 * footprint(300)))
        store.read_first(unread)
        store.flush_recency()
        self.assertEqual(store.unread(), 0)

    def test_gone(self) -> None:
        """An entry that was replaced, dropped or evicted before its first read is marked is no matter."""
        for size in (SMALL, LARGE):
            for end in (self.store.drop, lambda name: put_inline(self.store, name, b"new"), self.evict):
                entry = self.write("x", size)
                self.store.read_first(entry)
                end(entry.name)
                self.store.flush_recency()
                self.store.volume.empty_trash()
                self.assertEqual(self.store.unread(), 0)
                self.assert_counted()

    def evict(self, name: object) -> None:
        self.store.evictor.shrink(0)

    def test_confirmed(self) -> None:
        """What S3 has described is confirmed but not read; a new description leaves that as it is."""
        for size in (SMALL, LARGE, 200_000):
            entry = self.write("x", size)
            renewal = self.store.prepare_renewal(entry.name)
            assert renewal is not None
            confirmed = renewal.confirm(5000.0)
            assert confirmed is not None
            self.assertEqual((confirmed.unconfirmed, confirmed.unread), (False, True))
            self.assertEqual(self.store.load(entry.name), confirmed)
            lease = self.store.lease(entry.name)
            assert lease is not None
            again = self.store.replace_meta(confirmed, lease, meta=b"other", validated_at=6000.0, observed_at=6000.0)
            assert again is not None
            self.assertTrue(again.unread)
            found = self.store.load(entry.name)
            assert found is not None
            self.assertEqual((found.nonce, found.unread), (again.nonce, True))
            self.assertEqual(self.store.unread(), self.charge(again))
            self.assert_counted()
            self.store.drop(entry.name)
            self.store.volume.empty_trash()

    def test_disk_fails(self) -> None:
        """A mark that can't be made is told; the entry stays readable and is counted as it is."""
        entry = self.write("x")
        self.store.read_first(entry)
        self.calls.fail("chmod", errno.EIO)
        self.assertRaises(OSError, self.store.flush_recency)
        self.calls.heal()
        self.assertEqual(self.store.load(entry.name), entry)
        self.assert_counted()


class LimitTests(ShareCase):
    """What is unread never takes more than its share."""

    def test_oldest_first(self) -> None:
        """Above the share the oldest unread entries go: as many as must, nothing that was read, nothing that was not
        written through.
        """
        put_inline(self.store, name_of("fetched"), bytes(SMALL))
        read = self.write("read", age=9000)
        self.store.read_first(read)
        self.store.flush_recency()
        names = [f"written {number}" for number in range(40)]
        for number, text in enumerate(names):
            self.write(text, age=5000 - number)
        self.assertLess(SHARE - self.store.unread(), footprint(SMALL))
        self.write("new")
        kept = self.present(*names)
        self.assertEqual(kept, sorted(kept))
        self.assertIn(kept.count(False), range(1, 5))
        self.assertEqual(self.present("fetched", "read", "new"), [True] * 3)
        self.assertLessEqual(self.store.unread(), SHARE)
        self.assert_counted()

    def test_ranges(self) -> None:
        """The same with the files of large objects: those of the older one go before any of the newer one."""
        old = self.write("old", LARGE, age=5000)
        new = self.write("new", LARGE, age=10)
        self.write("newest", LARGE)
        self.assertEqual(self.present("new", "newest"), [True, True])
        self.assertLess(len(self.store.ranges(old)), 3)
        self.assertEqual(len(self.store.ranges(new)), 3)
        self.assert_counted()

    def test_every_moment(self) -> None:
        """Ten times as much as the share is written, also at once: the limit holds throughout."""
        problems: list[BaseException] = []
        peaks: list[int] = []

        def work(thread: int) -> None:
            try:
                for number in range(40):
                    size = (SMALL, 5, 200_000, LARGE)[number % 4]
                    upload(self.store, name_of(f"{thread} {number}"), bytes(size))
                    ledger = self.store.volume.ledger
                    peaks.append(ledger._unread + ledger._unread_reserved)
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        self.assertLessEqual(max(peaks), SHARE)
        self.assertGreater(max(peaks), SHARE // 2)
        self.assert_counted()
        self.assertEqual((self.store.volume.ledger.reserved, self.store.volume.ledger._unread_reserved), (0, 0))

    def test_staged(self) -> None:
        """Parts count, unread entries go for them, but parts never go for anything: what has no room is refused."""
        written = [self.write(f"written {number}") for number in range(30)]
        staging = self.store.staging(name_of("upload"), b"id")
        self.assertTrue(stage(staging, 1, bytes(MIB), b"1"))
        self.assertGreater(self.store.staged(), MIB)
        self.assertLessEqual(self.store.unread(), SHARE)
        self.assertLess(sum(self.present(*(f"written {number}" for number in range(30)))), len(written) // 2)
        self.assertIsNone(staging.start_part(2, MIB))
        self.assertIsNone(self.store.start_upload(name_of("large"), MIB))
        small = self.store.start_upload(name_of("large"), 10_000)
        assert small is not None
        small.discard()
        self.assertEqual(list(staging.parts()), [1])
        staging.discard()
        self.assertTrue(stage(staging, 1, bytes(MIB), b"1"))
        self.assert_counted()

    def searches_in_vain(self) -> list[int]:
        """Let nothing unread be found from now on; the list grows with each search."""
        searches: list[int] = []

        def search() -> list[Candidate]:
            searches.append(1)
            return []

        self.patch(self.store.evictor, "sample_unread", search)
        return searches

    def test_full_of_staged(self) -> None:
        """A share that is full of parts makes nobody search for something to evict, and a small object is not stored;
        the caller learns it.
        """
        store = self.store = self.open(root=self.store.root, write_percent=1)
        staging = store.staging(name_of("upload"), b"id")
        self.assertTrue(stage(staging, 1, bytes(130_000), b"1"))
        searches = self.searches_in_vain()
        self.assertIsNone(upload(store, name_of("x"), bytes(30_000)))
        self.assertEqual(searches, [])
        self.assertFalse(store.sweeper.due())

    def test_nothing_found(self) -> None:
        """When a search finds nothing, the next one is made a minute later."""
        self.write("x", LARGE)
        searches = self.searches_in_vain()
        for _ in range(3):
            self.assertIsNone(self.store.start_upload(name_of("y"), LARGE + LARGE))
        self.assertEqual(len(searches), 1)
        self.clock[0] += 61
        self.assertIsNone(self.store.start_upload(name_of("y"), LARGE + LARGE))
        self.assertEqual(len(searches), 2)

    def test_search_ends(self) -> None:
        """A search ends when enough was found or looked at."""
        for number in range(200):
            put_inline(self.store, name_of(f"fetched {number}"), b"x")
        for number in range(200):
            self.write(f"written {number}", 10)
        self.assertIn(len(self.store.evictor.sample_unread()), range(128, 170))
        self.patch(eviction, "UNREAD_POOL", 20)
        self.assertIn(len(self.store.evictor.sample_unread()), range(20, 60))
        self.patch(eviction, "LONGEST_SEARCH", 10)
        self.assertIn(len(self.store.evictor.sample_unread()), range(0, 40))

    def test_no_limit(self) -> None:
        """A cache without limit has none for this either."""
        self.store = self.open(max_size=0)
        for number in range(60):
            self.write(f"written {number}", 200_000)
        self.assertTrue(all(self.present(*(f"written {number}" for number in range(60)))))
        self.assertGreater(self.store.unread(), 60 * 200_000)

    def test_lowered(self) -> None:
        """After a restart with a smaller share a sweep brings what is unread below it, the oldest first."""
        for number in range(30):
            self.write(f"written {number}", age=5000 - number)
        unread = self.store.unread()
        self.store.close()
        self.store = self.open(root=self.store.root, write_percent=5)
        finish_scan(self.store)
        self.assertEqual(self.store.unread(), unread)
        self.assertTrue(self.store.sweeper.due())
        self.store.sweeper.run()
        self.assertLessEqual(self.store.unread(), SHARE // 2)
        self.assertGreater(self.store.unread(), SHARE // 3)
        kept = self.present(*(f"written {number}" for number in range(30)))
        self.assertEqual(kept, sorted(kept))
        self.store.sweeper.run()
        self.assertFalse(self.store.sweeper.due())

    def test_refused_reservation(self) -> None:
        """When the cache itself has no room, or the disk fails, nothing of the share stays set aside."""
        share = self.store._share
        self.store.volume.ledger.squeeze(100_000)
        self.assertFalse(share.reserve(200_000))
        self.assertFalse(share.reserve_at_once(200_000))
        self.store.volume.ledger.squeeze(0)
        self.patch(self.store.evictor, "reserve", self.fail_with_error)
        self.assertRaises(OSError, share.reserve, 1000)
        self.assertEqual(self.store.volume.ledger._unread_reserved, 0)

    def fail_with_error(self, size: int) -> bool:
        raise OSError(errno.EIO, "broken")


class RestartTests(ShareCase):
    """What is known after a start."""

    def test_restart(self) -> None:
        """The scan finds out what is unread and what is staged, after a clean stop and after a crash."""
        self.write("small")
        self.write("large", LARGE)
        read = self.write("read", 300_000)
        self.store.read_first(read)
        self.store.flush_recency()
        staging = self.store.staging(name_of("upload"), b"id")
        stage(staging, 1, bytes(100_000), b"1")
        wanted = (self.store.unread(), self.store.staged())
        self.assertGreater(wanted[0], wanted[1] + LARGE)
        for leave in (DiskStore.close, abandon):
            leave(self.store)
            self.store = self.open(root=self.store.root)
            self.assertEqual((self.store.unread(), self.store.staged()), (0, 0))
            finish_scan(self.store)
            self.assertEqual((self.store.unread(), self.store.staged()), wanted)
            found = self.store.load(name_of("large"))
            assert found is not None
            self.assertTrue(found.unread)

    def test_damaged(self) -> None:
        """An unread range that turns out to be damaged leaves the share with its file."""
        entry = self.write("x", LARGE)
        start, stop = self.store.ranges(entry)[0]
        self.store.volume.handles.close()
        with open(f"{self.store.volume.range_path(entry, start)}/{start:x}-{stop - start:x}", "r+b") as file:
            file.seek(-40, os.SEEK_END)
            file.write(b"?")
        self.assertIsNone(self.store.open_range(entry, start, stop))
        self.assert_counted()


class UnreadLedgerTests(SynchronousTestCase):
    """Counting what is unread."""

    def ledger(self, **options: Any) -> Ledger:
        return Ledger(1_000_000 + FIXED_OVERHEAD, 3, **{"declared": 0, "walked": True, "unread_limit": 1000, **options})

    def test_count(self) -> None:
        """Unread bytes are counted with the published ones and by themselves, those of the last shard as staged."""
        ledger = self.ledger()
        ledger.add(0, 500, unread=300)
        ledger.add(2, 100, unread=100)
        self.assertEqual((ledger.used - FIXED_OVERHEAD, ledger.unread, ledger.staged), (600, 400, 100))
        ledger.add(0, 0, unread=-300)
        ledger.add(2, -100, unread=-100)
        self.assertEqual((ledger.used - FIXED_OVERHEAD, ledger.unread, ledger.staged), (500, 0, 0))
        ledger.add(0, -1, unread=-1)
        self.assertEqual(ledger.unread, 0)

    def test_reserve(self) -> None:
        """Reservations and unread bytes together never exceed the share."""
        ledger = self.ledger()
        self.assertTrue(ledger.reserve_unread(600))
        self.assertFalse(ledger.reserve_unread(401))
        ledger.add(0, 400, unread=400)
        self.assertEqual(ledger.unread_excess, 0)
        self.assertFalse(ledger.fits_unread(1))
        ledger.release_unread(600)
        self.assertEqual(ledger.unread_excess, -600)
        self.assertTrue(self.ledger(unread_limit=0).reserve_unread(1 << 50))
        self.assertEqual(self.ledger(unread_limit=0).unread_excess, 0)

    def test_walk(self) -> None:
        """A shard that has not been walked counts nothing; its walk tells the sum."""
        ledger = self.ledger(walked=False, declared=5000)
        ledger.add(1, 70, unread=70)
        self.assertEqual(ledger.unread, 0)
        for shard, total, unread in ((0, 100, 10), (1, 200, 70), (2, 300, 300)):
            token = ledger.begin_walk(shard)
            assert token is not None
            ledger.end_walk(shard, token, total, unread)
        self.assertEqual((ledger.unread, ledger.staged), (380, 300))
