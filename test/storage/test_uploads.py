"""Bodies of uploads that become entries."""

import errno
import os
import random
import threading
from collections.abc import Callable
from test.storage.support import (
    ABOUT,
    MIB,
    FailingCalls,
    abandon,
    facts_of,
    files_below,
    finish_scan,
    make_store,
    name_of,
    put_inline,
    put_ranges,
    read_body,
    recount,
    upload,
)
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import INLINE, RANGES, DiskStore, StoredEntry, Upload
from s3proxy.storage.errors import NotNow
from s3proxy.storage.layout import footprint, parse_temp
from s3proxy.storage.upload import HELD_MAX, MOST_HELD, HeldBytes

SMALL, HELD, MIDDLE, LARGE = 5000, 200_000, 300_000, 2 * MIB + 12_345
FORMS = (("memory", SMALL), ("held", HELD), ("file", MIDDLE), ("ranges", LARGE))
STORE = 64 * MIB
T = TypeVar("T")


def body_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def each_form(method: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
    """Mark a test that :func:`with_forms` makes into one for each form; they differ in nothing that can be seen from
    outside.
    """
    vars(method)["each_form"] = True
    return method


def with_forms(case: type[T]) -> type[T]:
    """Make the marked tests into one for each form."""
    for name, method in list(vars(case).items()):
        if getattr(method, "each_form", False):
            delattr(case, name)
            for form, size in FORMS:
                setattr(case, f"{name}_{form}", _with_size(method, size))
    return case


def _with_size(method: Callable[[Any, int], None], size: int) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        method(self, size)

    test.__doc__ = method.__doc__
    return test


class UploadCase(SynchronousTestCase):
    """A store, and what is in it."""

    def setUp(self) -> None:
        self.calls = FailingCalls()
        self.store = self.open(calls=self.calls)
        self.name = name_of("written")

    def open(self, **options: Any) -> DiskStore:
        """A store with files of at most 1 MiB."""
        store = make_store(self, **{"max_size": STORE, "write_percent": 100, **options})
        store.cut = store.inline_max = MIB
        store.held = HeldBytes(HELD)
        return store

    def begin(self, size: int, store: DiskStore | None = None) -> Upload:
        kept = (store or self.store).start_upload(self.name, size)
        assert kept is not None
        self.addCleanup(kept.discard)
        return kept

    def whole(self, size: int, seed: int = 1, store: DiskStore | None = None) -> Upload:
        kept = self.begin(size, store)
        body = body_of(size, seed)
        for start in range(0, size, 700_001):
            kept.append([body[start : start + 99], body[start + 99 : start + 700_001]])
        return kept

    def assert_nothing_left(self, store: DiskStore | None = None) -> None:
        """No file of an upload, no byte reserved, and the count is what is on disk."""
        store = store or self.store
        store.sweeper.run()
        self.assertEqual(os.listdir(f"{store.root}/up"), [])
        self.assertEqual(os.listdir(f"{store.root}/trash"), [])
        self.assertEqual([name for name in files_below(f"{store.root}/o") if name.endswith(".f")], [])
        self.assertEqual(store.in_flight(), 0)
        self.assertIn(store.held._left, (HELD, MOST_HELD))
        ledger = store.volume.ledger
        self.assertEqual((ledger.reserved, ledger._unread_reserved), (0, 0))
        self.assertEqual(store.staged(), 0)
        used, unread = store.usage(), store.unread()
        recount(store)
        self.assertEqual((store.usage(), store.unread()), (used, unread))


@with_forms
class PublicationTests(UploadCase):
    """What becomes of an upload that S3 accepted."""

    @each_form
    def test_commit(self, size: int) -> None:
        """The body is the entry's, exactly, with the facts given; it is unconfirmed and unread."""
        kept = self.whole(size)
        self.assertEqual((kept.size, kept.written, kept.in_memory), (size, size, size == SMALL))
        self.assertIsNone(self.store.load(self.name))
        entry = kept.commit(self.store.arm(self.name), facts_of(size))
        assert entry is not None
        self.assertEqual(self.store.load(self.name), entry)
        self.assertEqual((entry.kind, entry.object_size), (RANGES if size == LARGE else INLINE, size))
        self.assertEqual((entry.meta, entry.validated_at), (ABOUT["meta"], ABOUT["validated_at"]))
        self.assertTrue(entry.unconfirmed and entry.unread)
        self.assertEqual(read_body(self.store, entry), body_of(size))
        lease = self.store.lease(self.name)
        assert lease is not None
        lease.release()
        self.store.drop(self.name)
        self.assert_nothing_left()
        self.assertEqual(self.store.unread(), 0)

    def test_ranges(self) -> None:
        """A large body is cut like any other."""
        entry = self.whole(LARGE).commit(self.store.arm(self.name), facts_of(LARGE))
        assert entry is not None
        self.assertEqual(self.store.ranges(entry), ((0, MIB), (MIB, 2 * MIB), (2 * MIB, LARGE)))
        scan = finish_scan(self.store)
        self.assertEqual((scan.removed, scan.postponed), (0, 0))
        self.assertEqual(read_body(self.store, entry), body_of(LARGE))

    def test_segments(self) -> None:
        """An object of more than 1 GiB has its ranges where readers look for them."""
        store = make_store(self, max_size=0)
        size = (1 << 30) + 100
        kept = store.start_upload(self.name, size)
        assert kept is not None

        def write_last_byte(fd: int, chunks: Any, offset: int) -> int:
            total = sum(map(len, chunks))
            return total - 1 + os.pwrite(fd, b"x", offset + total - 1)

        self.patch(store.volume.calls, "pwritev", write_last_byte)
        block = bytes(64 * MIB)
        for _ in range(16):
            kept.append([block])
        del store.volume.calls.pwritev
        kept.append([b"x" * 100])
        # Nothing has happened for long where the segments are; a scan must not take that for left behind.
        (draft,) = os.listdir(f"{store.root}/up")
        os.utime(f"{store.root}/up/{draft}", (1000, 1000))
        entry = kept.commit(store.arm(self.name), facts_of(size))
        assert entry is not None
        self.assertGreater(os.stat(store.volume.generation_path(self.name, entry.generation)).st_mtime, 1000)
        self.assertEqual(len(store.ranges(entry)), 17)
        handle = store.open_range(entry, 1 << 30, size)
        assert handle is not None
        self.assertEqual(os.pread(handle.fd, 100, 0), b"x" * 100)
        handle.close()
        self.assert_nothing_left(store)

    def test_exact_multiple(self) -> None:
        """A body that ends at a cut has no empty range behind it."""
        size = 2 * self.store.cut
        entry = self.whole(size).commit(self.store.arm(self.name), facts_of(size))
        assert entry is not None
        self.assertEqual(self.store.ranges(entry), ((0, size // 2), (size // 2, size)))

    def test_empty(self) -> None:
        """An object without bytes is an entry, too."""
        entry = self.begin(0).commit(self.store.arm(self.name), facts_of(0))
        assert entry is not None
        self.assertEqual((entry.kind, entry.small_body), (INLINE, b""))

    @each_form
    def test_replaces(self, size: int) -> None:
        """The older version is there, armed, until the new one is, and gone then."""
        for old in (lambda: put_inline(self.store, self.name, b"old"), lambda: put_ranges(self.store, self.name, MIB)):
            before = old()
            kept = self.whole(size)
            self.assertEqual(self.store.load(self.name), before)
            arm = self.store.arm(self.name)
            armed = self.store.load(self.name)
            assert armed is not None
            self.assertEqual((armed.nonce, armed.validated_at), (before.nonce, 0))
            entry = kept.commit(arm, facts_of(size))
            self.assertEqual(self.store.load(self.name), entry)
            self.assertNotEqual(self.store.volume.generations.get(self.name.slot), armed.epoch)
            self.assert_nothing_left()
        self.store.drop(self.name)

    def test_held(self) -> None:
        """Bodies stay in memory only as far as there is room for them, and none that is larger than 1 MiB."""
        first, second = self.whole(HELD), self.begin(HELD)
        self.assertEqual(len(self.store.volume.live), 1)
        second.discard()
        self.assertIsNotNone(first.commit(self.store.arm(self.name), facts_of(HELD)))
        self.begin(HELD).discard()
        self.assertEqual(len(self.store.volume.live), 0)
        self.assertFalse(HeldBytes().take(HELD_MAX + 1))
        self.store.drop(self.name)
        self.assert_nothing_left()

    def test_promptly(self) -> None:
        """A small body is published without a thread, unless something has to be evicted."""
        store = make_store(self, max_size=4 * MIB, write_percent=20)
        entry = None
        for number in range(60):
            kept = store.start_upload(name_of(f"object {number}"), 30_000)
            assert kept is not None
            kept.append([bytes(30_000)], True)
            arm = store.arm(kept.name)
            try:
                entry = kept.commit(arm, facts_of(30_000), True)
            except NotNow:
                break
            self.assertEqual(store.load(kept.name), entry)
        assert kept is not None
        self.assertRaises(NotNow, kept.commit, arm, facts_of(30_000), True)
        self.assertEqual(store.volume.ledger.reserved, 0)
        self.assertIsNotNone(kept.commit(arm, facts_of(30_000)))
        for size in (HELD, MIDDLE, LARGE):
            kept = self.whole(size)
            arm = self.store.arm(self.name)
            self.assertRaises(NotNow, kept.commit, arm, facts_of(size), True)
            self.assertIsNotNone(kept.commit(arm, facts_of(size)))

    def test_prompt_appends(self) -> None:
        """What would need another file is refused as a whole; the rest is written at once."""
        kept = self.begin(LARGE)
        self.assertRaises(NotNow, kept.append, [b"x"], True)
        kept.append([bytes(1000)])
        kept.append([bytes(self.store.cut - 2000)], True)
        self.assertRaises(NotNow, kept.append, [bytes(500), bytes(501)], True)
        self.assertEqual(kept.written, self.store.cut - 1000)
        kept.append([bytes(1000)], True)
        self.assertRaises(NotNow, kept.append, [b"x"], True)
        kept.append([bytes(LARGE - self.store.cut)])
        self.assertRaises(NotNow, kept.commit, self.store.arm(self.name), facts_of(LARGE), True)
        entry = kept.commit(self.store.arm(self.name), facts_of(LARGE))
        assert entry is not None
        self.assertEqual(read_body(self.store, entry), bytes(LARGE))


@with_forms
class RefusalTests(UploadCase):
    """What is not published leaves nothing behind."""

    @each_form
    def test_discard(self, size: int) -> None:
        """An upload that S3 refused, at any point."""
        for share in (0, 0.3, 1):
            kept = self.begin(size)
            kept.append([bytes(int(size * share))])
            kept.discard()
            kept.discard()
            self.assertRaises(ValueError, kept.append, [b""])
            self.assertIsNone(self.store.load(self.name))
            self.assert_nothing_left()

    @each_form
    def test_misuse(self, size: int) -> None:
        """Too many bytes, too few, other facts and another object are mistakes of the caller; they publish nothing."""
        kept = self.begin(size)
        arm = self.store.arm(self.name)
        self.assertRaises(ValueError, kept.append, [bytes(size + 1)])
        self.assertRaises(ValueError, kept.commit, arm, facts_of(size))
        kept.append([bytes(size)])
        self.assertRaises(ValueError, kept.append, [b"x"])
        self.assertRaises(ValueError, kept.commit, arm, facts_of(size + 1))
        other = self.store.arm(name_of("other"))
        self.assertRaises(ValueError, kept.commit, other, facts_of(size))
        other.disarm()
        self.assertIsNotNone(kept.commit(arm, facts_of(size)))
        self.assertRaises(ValueError, kept.commit, arm, facts_of(size))
        self.store.drop(self.name)
        self.assert_nothing_left()

    @each_form
    def test_revoked(self, size: int) -> None:
        """Whoever writes or invalidates the object after the arm keeps it from being published."""
        other = self.open(root=self.store.root, generations=self.store.volume.generations)
        arms = (lambda name: self.store.arm(name).disarm(), lambda name: other.arm(name).invalidate())
        for revoke in (self.store.drop, other.drop, *arms):
            kept = self.whole(size)
            arm = self.store.arm(self.name)
            revoke(self.name)
            self.assertIsNone(kept.commit(arm, facts_of(size)))
            arm.invalidate()
            self.assertIsNone(self.store.load(self.name))
            self.assert_nothing_left()

    @each_form
    def test_without_lease(self, size: int) -> None:
        """An arm that could not take the lease publishes nothing."""
        kept = self.whole(size)
        self.calls.fail("open", errno.ENOSPC, when=lambda path, flags, *_: path.endswith(".f"))
        arm = self.store.arm(self.name)
        self.calls.heal()
        self.assertIsNone(arm.lease)
        self.assertIsNone(kept.commit(arm, facts_of(size)))
        self.assert_nothing_left()

    @each_form
    def test_two_at_once(self, size: int) -> None:
        """Of two uploads of one object that overlap, the one that armed first is not stored, nor is the other one when
        the first has ended.
        """
        first, second = self.whole(size, 1), self.whole(size, 2)
        arms = [self.store.arm(self.name), self.store.arm(self.name)]
        self.assertIsNone(first.commit(arms[0], facts_of(size)))
        arms[0].invalidate()
        self.assertIsNone(second.commit(arms[1], facts_of(size)))
        arms[1].invalidate()
        self.assert_nothing_left()
        # The first one ended before the second was armed.
        first, second = self.whole(size, 1), self.whole(size, 2)
        self.assertIsNotNone(first.commit(self.store.arm(self.name), facts_of(size)))
        entry = second.commit(self.store.arm(self.name), facts_of(size))
        assert entry is not None
        self.assertEqual(read_body(self.store, entry), body_of(size, 2))
        self.store.drop(self.name)
        self.assert_nothing_left()

    @each_form
    def test_fills(self, size: int) -> None:
        """A fill of the same object goes on undisturbed during the upload, and is not stored once the object is
        armed.
        """
        kept = self.begin(size)
        lease = self.store.lease(self.name)
        assert lease is not None
        kept.append([body_of(size)])
        self.assertFalse(lease.revoked())
        arm = self.store.arm(self.name)
        self.assertIsNone(self.store.publish_inline(lease, object_size=3, body=[b"old"], **ABOUT))
        entry = kept.commit(arm, facts_of(size))
        self.assertEqual(self.store.load(self.name), entry)
        # One that began before the arm and holds a renewal, too.
        kept = self.whole(size, 2)
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        arm = self.store.arm(self.name)
        self.assertIsNone(renewal.confirm(2000.0))
        entry = kept.commit(arm, facts_of(size))
        assert entry is not None
        self.assertEqual(read_body(self.store, entry), body_of(size, 2))
        self.store.drop(self.name)
        self.assert_nothing_left()

    def test_ranges_of_the_old(self) -> None:
        """A range of the old version that is being fetched does not land in the new one."""
        old = put_ranges(self.store, self.name, LARGE)
        writer = self.store.start_range(old, 0, 1000)
        writer.append([b"o" * 1000])
        entry = self.whole(LARGE).commit(self.store.arm(self.name), facts_of(LARGE))
        assert entry is not None
        self.assertIsNone(writer.commit())
        writer.close()
        self.assertEqual(read_body(self.store, entry), body_of(LARGE))

    def test_too_large(self) -> None:
        """What can't fit is refused at the start, and nothing goes for it."""
        put_inline(self.store, name_of("kept"), bytes(1000))
        for size in (STORE, 1 << 50):
            self.assertIsNone(self.store.start_upload(self.name, size))
        small = make_store(self, max_size=4 * MIB, write_percent=1)
        for size in (50_000, 100_000):
            self.assertIsNone(small.start_upload(self.name, size))
        self.assertIsNotNone(self.store.load(name_of("kept")))
        self.assertRaises(ValueError, self.store.start_upload, self.name, -1)
        self.assert_nothing_left()


class EvictionTests(UploadCase):
    """Uploads while room is made."""

    def test_evicted_meanwhile(self) -> None:
        """Nothing of an upload under way is evicted; as an entry it can be."""
        kept = self.begin(LARGE)
        kept.append([body_of(LARGE)[: LARGE // 2]])
        self.store.evictor.shrink(0)
        kept.append([body_of(LARGE)[LARGE // 2 :]])
        entry = kept.commit(self.store.arm(self.name), facts_of(LARGE))
        assert entry is not None
        self.assertEqual(read_body(self.store, entry), body_of(LARGE))
        self.store.evictor.shrink(0)
        self.assertIsNone(self.store.load(self.name))
        self.assert_nothing_left()

    def test_limit(self) -> None:
        """The room for all of an upload is set aside at the start: the limit holds at every moment."""
        store = self.open(max_size=8 * MIB)
        for number in range(60):
            put_inline(store, name_of(f"old {number}"), bytes(MIB // 8))
        kept = self.begin(LARGE, store)
        ledger = store.volume.ledger
        self.assertGreaterEqual(ledger.reserved, LARGE)
        for start in range(0, LARGE, MIB // 4):
            kept.append([bytes(min(MIB // 4, LARGE - start))])
            self.assertLessEqual(ledger.used + ledger.reserved, 8 * MIB)
            self.assertGreaterEqual(ledger.used + ledger.reserved, LARGE)
        self.assertIsNotNone(kept.commit(store.arm(self.name), facts_of(LARGE)))
        self.assert_nothing_left(store)

    def test_counts(self) -> None:
        """Finished files of an upload count as used and as unread, before and after it is published."""
        before = self.store.usage()
        kept = self.begin(LARGE)
        kept.append([bytes(self.store.cut + 1)])
        piece = footprint(self.store.cut + 4 + 40)
        self.assertEqual(self.store.unread(), piece)
        self.assertEqual(self.store.staged(), piece)
        self.assertGreaterEqual(self.store.usage(), before + piece)
        self.assertGreater(self.store.in_flight(), 0)
        recount(self.store)
        self.assertEqual((self.store.unread(), self.store.staged()), (piece, piece))
        kept.append([bytes(LARGE - self.store.cut - 1)])
        kept.commit(self.store.arm(self.name), facts_of(LARGE))
        self.assertGreater(self.store.unread(), LARGE)
        self.assertEqual(self.store.staged(), 0)
        self.assert_nothing_left()


@with_forms
class FaultTests(UploadCase):
    """Disks that fail under an upload."""

    @each_form
    def test_every_call(self, size: int) -> None:
        """Whichever call fails, and however often: the upload is published whole or not at all, and what it took is
        given back.
        """
        for call in FailingCalls.NAMES:
            for after in range(0, 40, 1 if size == SMALL else 3):
                self.calls.fail(call, errno.EIO, after=after, times=1)
                failures = self.calls.failures
                entry = self.attempt(size)
                happened = self.calls.failures > failures
                self.calls.heal()
                found = self.store.load(self.name)
                if entry is not None:
                    self.assertEqual(found, entry)
                    self.assertEqual(read_body(self.store, entry), bytes(size))
                self.store.drop(self.name)
                if not happened:
                    break
            abandoned = [name for name in os.listdir(f"{self.store.root}/up") if ".w." in name]
            for name in abandoned:
                # Could not be removed: the next start does it.
                self.store.volume.discard_directory(f"{self.store.root}/up/{name}", self.store.volume.uploads_shard)
            for name in os.listdir(f"{self.store.root}/up"):
                self.assertIsNotNone(parse_temp(name))
                os.unlink(f"{self.store.root}/up/{name}")
            for path in self.flights():
                os.unlink(path)
            finish_scan(self.store)
            self.assert_nothing_left()

    def flights(self) -> list[str]:
        return [
            f"{path}/{name}" for path, _, names in os.walk(f"{self.store.root}/o") for name in names if ".f" in name
        ]

    def attempt(self, size: int) -> StoredEntry | None:
        kept = arm = entry = None
        try:
            kept = self.store.start_upload(self.name, size)
            assert kept is not None
            kept.append([bytes(size // 2)])
            kept.append([bytes(size - size // 2)])
            arm = self.store.arm(self.name)
            whole, kept = kept, None
            entry = whole.commit(arm, facts_of(size))
        except OSError:
            entry = None
        ends = [] if kept is None else [kept.discard]
        if arm is not None and entry is None:
            ends.append(arm.invalidate)
        for end in ends:
            try:
                end()
            except OSError:
                continue
        return entry

    @each_form
    def test_full(self, size: int) -> None:
        """When the file system is full, what is stored makes room, once; after that the upload fails cleanly."""
        for number in range(8):
            put_inline(self.store, name_of(f"old {number}"), bytes(MIB))
        kept = self.begin(size)
        self.calls.fail("pwritev", errno.ENOSPC, times=1)
        kept.append([body_of(size)])
        entry = kept.commit(self.store.arm(self.name), facts_of(size))
        self.calls.heal()
        assert entry is not None
        self.assertEqual(read_body(self.store, entry), body_of(size))
        arm = self.store.arm(self.name)
        again = self.store.start_upload(self.name, size)
        self.calls.fail("pwritev", errno.ENOSPC)
        if again is not None:
            try:
                again.append([body_of(size)])
                self.assertIsNone(again.commit(arm, facts_of(size)))
            except OSError as problem:
                self.assertEqual(problem.errno, errno.ENOSPC)
            again.discard()
        arm.invalidate()
        self.calls.heal()
        self.store.drop(self.name)
        self.assert_nothing_left()


@with_forms
class CrashTests(UploadCase):
    """What kill -9 leaves."""

    @each_form
    def test_restart(self, size: int) -> None:
        """An upload that died at any point is gone after the next start, and so are its bytes from the count."""
        for share in (0, 0.5, 1):
            kept = self.begin(size)
            kept.append([bytes(int(size * share))])
            if share:
                self.store.arm(self.name)
            abandon(self.store)
            store = self.open(root=self.store.root)
            finish_scan(store)
            self.assertIsNone(store.load(self.name))
            self.assertEqual(store.unread(), 0)
            self.assert_nothing_left(store)
            self.assertIsNotNone(store.lease(self.name))
            store.close()
            self.store = self.open(root=self.store.root, calls=self.calls)

    def test_every_point(self) -> None:
        """The process dies before any of the calls of a commit: the old version, the new one or none is there; and
        nothing else.
        """

        class Died(BaseException):
            pass

        for _, size in FORMS:
            for call in FailingCalls.NAMES:
                for after in range(30):
                    root = os.path.abspath(self.mktemp())
                    calls = FailingCalls()
                    dying = self.open(root=root, calls=calls)
                    put_inline(dying, self.name, b"old")
                    kept = self.whole(size, 1, dying)
                    arm = dying.arm(self.name)

                    def die(*_: object) -> bool:
                        raise Died

                    calls.fail(call, errno.EIO, after=after)
                    fault = calls._faults[call]
                    fault.when = lambda *_, fault=fault: fault.seen < fault.after or die()  # type: ignore[misc]
                    try:
                        kept.commit(arm, facts_of(size))
                        died = False
                    except Died:
                        died = True
                    calls.heal()
                    abandon(dying)
                    store = self.open(root=root)
                    finish_scan(store)
                    found = store.load(self.name)
                    if found is not None and found.unread:
                        self.assertIn(read_body(store, found), (body_of(size), None))
                    elif found is not None:
                        self.assertEqual((found.small_body, found.validated_at), (b"old", 0))
                    self.assert_nothing_left(store)
                    store.close()
                    kept._over = True
                    if not died:
                        break

    def test_living_neighbour(self) -> None:
        """Another process that starts, scans or sweeps leaves an upload under way alone."""
        kept = self.begin(LARGE)
        kept.append([body_of(LARGE)[: LARGE // 2]])
        now = self.store.volume.now() + 7 * 86400
        other = self.open(root=self.store.root, now=lambda: now)
        finish_scan(other)
        self.assertEqual(len(os.listdir(f"{other.root}/up")), 1)
        other.sweeper.run()
        kept.append([body_of(LARGE)[LARGE // 2 :]])
        entry = kept.commit(self.store.arm(self.name), facts_of(LARGE))
        assert entry is not None
        self.assertEqual(read_body(other, entry), body_of(LARGE))

    def test_scan_before_publication(self) -> None:
        """However long the upload took: a process that scans just before the entry is published does not take its
        ranges for left behind.
        """
        other = self.open(root=self.store.root)
        kept = self.whole(LARGE)
        (draft,) = os.listdir(f"{self.store.root}/up")
        os.utime(f"{self.store.root}/up/{draft}", (1000, 1000))
        scans = []

        def scan(source: str, target: str) -> bool:
            if source.endswith(".f"):
                scans.append(finish_scan(other))
            return False

        self.calls.fail("rename", errno.EIO, when=scan)
        entry = kept.commit(self.store.arm(self.name), facts_of(LARGE))
        assert entry is not None
        self.assertEqual([found.removed for found in scans], [0])
        self.assertEqual(read_body(self.store, entry), body_of(LARGE))

    def test_dead_neighbour(self) -> None:
        """A process that goes on finds what another one left when it died, without a new start."""
        clock = [self.store.volume.now()]
        living = self.open(root=self.store.root, now=lambda: clock[0])
        finish_scan(living)
        kept = self.begin(LARGE)
        kept.append([bytes(LARGE // 2)])
        abandon(self.store)
        clock[0] += 61
        self.assertTrue(living.sweeper.due())
        living.sweeper.run()
        self.assertEqual(os.listdir(f"{living.root}/up"), [])


class ThreadTests(UploadCase):
    """Several uploads at once."""

    def test_one_object(self) -> None:
        """Many threads write one object, and read it: each entry is one of the bodies, whole."""
        problems: list[BaseException] = []
        stored: list[int] = []

        def write(thread: int) -> None:
            try:
                for number in range(30):
                    size = (SMALL, MIDDLE, LARGE)[number % 3]
                    entry = upload(self.store, self.name, bytes([thread * 30 + number]) * size)
                    if entry is None:
                        self.store.drop(self.name)
                    else:
                        stored.append(size)
            except BaseException as problem:
                problems.append(problem)

        def read() -> None:
            try:
                for _ in range(300):
                    entry = self.store.load(self.name)
                    body = None if entry is None else read_body(self.store, entry)
                    if body is not None:
                        self.assertEqual(body, body[:1] * len(body))
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        threads += [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        self.assertGreater(len(stored), 0)
        self.store.drop(self.name)
        self.assert_nothing_left()
        self.assertEqual(self.store.unread(), 0)
