"""Copies in memory of what is used most."""

import errno
import os
import tempfile
from collections.abc import Callable
from test.support.content import content
from typing import Any

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred, execute, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.ram import PIECE, REST, SMALL, RamTier, copy_to_memory
from s3proxy.cache.spans import FileSpan, MemorySpan, Span
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.files import SystemCalls
from s3proxy.storage.handles import OpenFile, ReadHandle
from s3proxy.storage.layout import entry_name
from s3proxy.storage.record import INLINE, RANGES

KIB = 1 << 10
MIB = 1 << 20
MARK = "ram-test-disk-"


def descriptors() -> int:
    """How many there are of memory files, and of files of :class:`Disk`. Others come and go with garbage."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        found += target.startswith("/memfd:s3proxy-range") or MARK in target
    return found


def entry(key: bytes = b"key", number: int = 1, *, kind: int = RANGES, size: int = 64 * MIB) -> StoredEntry:
    """An entry as the store describes it; ``number`` tells its body from others of that name."""
    return StoredEntry(
        name=entry_name((key,)),
        kind=kind,
        unconfirmed=False,
        validated_at=1.0,
        observed_at=1.0,
        object_size=size,
        generation=number if kind == RANGES else 0,
        nonce=number if kind == INLINE else 99,
        meta=b"",
        body_len=size,
        inode=1,
        epoch=1,
    )


class Thread:
    """Calls that wait until the test has them done."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.busy = False

    def run(self, call: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        if self.busy:
            return fail(DiskBusy(errno.EAGAIN, "busy"))
        done: Deferred[Any] = Deferred()
        self.calls.append((lambda: call(*args), done))
        return done

    def work(self) -> None:
        """Do the call that has waited longest."""
        call, done = self.calls.pop(0)
        execute(call).chainDeferred(done)


class Disk:
    """A file of the store that holds bytes ``[start, stop)`` of generated content, behind a header."""

    header = 100

    def __init__(self, seed: int, start: int, stop: int) -> None:
        self.seed, self.start, self.stop = seed, start, stop
        self.file = tempfile.NamedTemporaryFile(buffering=0, prefix=MARK)
        self.file.truncate(self.header)
        self.file.seek(self.header)
        self.file.write(content(seed, start, stop))

    def handle(self) -> ReadHandle:
        """A reader's own hold."""
        return ReadHandle(OpenFile(SystemCalls(), os.dup(self.file.fileno())), self.header, self.start, self.stop)

    def close(self) -> None:
        self.file.close()


def bytes_of(span: Span) -> bytes:
    """What a span holds."""
    if isinstance(span, MemorySpan):
        return bytes(span.data)
    return os.pread(span.fd, span.count, span.offset)


class TierTestCase(SynchronousTestCase):
    """A tier, and a thread that works when the test says so."""

    def setUp(self) -> None:
        self.thread = Thread()
        self.time = 0.0
        self.before = descriptors()
        self.make(total=16 * MIB)

    def make(self, **options: Any) -> RamTier:
        self.tier = RamTier(self.thread.run, lambda: self.time, seed=1, **options)
        self.addCleanup(self.tier.close)
        return self.tier

    def disk(self, stop: int, start: int = 0, seed: int = 1) -> Disk:
        disk = Disk(seed, start, stop)
        self.addCleanup(disk.close)
        return disk

    def read(self, stored: StoredEntry, disk: Disk, position: int = 0, stop: int | None = None) -> Span | None:
        """What a reader does: look here, else open the file and say so. The span that was found here."""
        stop = disk.stop if stop is None else stop
        span = self.tier.find(stored, (disk.start, disk.stop), position, stop)
        if span is None:
            handle = disk.handle()
            self.tier.promote(stored, handle, position)
            handle.close()
        return span

    def holds(self, key: bytes) -> bool:
        """Whether the first MiB of this entry is here."""
        span = self.tier.find(entry(key), (0, MIB), 0, 0)
        if isinstance(span, FileSpan):
            span.release()
        return span is not None

    def promote(self, stored: StoredEntry, disk: Disk, position: int = 0) -> None:
        """Use it until a copy was made."""
        for _ in range(2):
            self.assertIsNone(self.read(stored, disk, position))
        self.thread.work()


class FindTests(TierTestCase):
    """What is found, and when."""

    def test_second_use(self) -> None:
        """The first read out of the store makes no copy, the second one has a thread make it, the third finds it."""
        disk, stored = self.disk(MIB), entry()
        self.assertIsNone(self.read(stored, disk))
        self.assertEqual(self.thread.calls, [])
        self.assertIsNone(self.read(stored, disk))
        self.assertEqual(len(self.thread.calls), 1)
        self.assertIsNone(self.read(stored, disk))
        self.thread.work()
        span = self.read(stored, disk)
        assert isinstance(span, FileSpan)
        self.assertEqual((span.offset, span.count, span.hot), (0, MIB, True))
        self.assertEqual(bytes_of(span), content(1, 0, MIB))
        span.release()
        tier = self.tier
        self.assertEqual((tier.hits, tier.misses, tier.promoted, tier.bytes, len(tier)), (1, 3, 1, MIB, 1))

    def test_parts_of_it(self) -> None:
        """Any part is found, up to the end of the copy."""
        disk, stored = self.disk(3 * MIB), entry()
        self.promote(stored, disk)
        for start, stop in ((0, 1), (1, 2 * MIB), (3 * MIB - 1, 3 * MIB), (12_345, 67_890)):
            span = self.tier.find(stored, (0, 3 * MIB), start, stop)
            assert isinstance(span, FileSpan)
            self.assertEqual(bytes_of(span), content(1, start, stop))
            span.release()

    def test_pieces(self) -> None:
        """A large file is copied piece by piece; reading goes on behind each one."""
        disk, stored = self.disk(11 * MIB, start=2 * MIB), entry()
        self.promote(stored, disk, 4 * MIB)
        handle = disk.handle()
        self.addCleanup(handle.close)
        self.assertEqual(self.tier.promote(stored, handle, 2 * MIB), PIECE)
        self.assertEqual(self.tier.promote(stored, handle, 9 * MIB), 11 * MIB)
        span = self.tier.find(stored, (2 * MIB, 11 * MIB), 5 * MIB, 11 * MIB)
        assert isinstance(span, FileSpan)
        self.assertEqual(span.count, 3 * MIB)
        self.assertEqual(bytes_of(span), content(1, 5 * MIB, 8 * MIB))
        span.release()
        self.assertIsNone(self.read(stored, disk, 2 * MIB))
        self.assertIsNone(self.read(stored, disk, 8 * MIB))
        self.assertEqual(self.tier.bytes, PIECE)

    def test_small(self) -> None:
        """A small one needs no descriptor."""
        disk, stored = self.disk(SMALL), entry()
        before = descriptors()
        self.promote(stored, disk)
        span = self.read(stored, disk, 10, 20)
        self.assertIsInstance(span, MemorySpan)
        assert span is not None
        self.assertEqual(bytes_of(span), content(1, 10, 20))
        self.assertEqual((descriptors(), self.tier.bytes), (before, SMALL))

    def test_inline(self) -> None:
        """An entry's own file is one like any other."""
        disk, stored = self.disk(MIB), entry(kind=INLINE, size=MIB)
        self.promote(stored, disk)
        span = self.read(stored, disk)
        assert isinstance(span, FileSpan)
        self.assertEqual(bytes_of(span), content(1, 0, MIB))
        span.release()

    def test_read_bit_by_bit(self) -> None:
        """What is read once in many small pieces was used once: no copy, however small they are."""
        disk, stored = self.disk(MIB), entry()
        for step in (MIB // 3, 64 * KIB, 10_000):
            with self.subTest(step=step):
                self.make(total=16 * MIB)
                for start in range(0, MIB, step):
                    self.read(stored, disk, start, min(start + step, MIB))
                self.assertEqual(self.thread.calls, [])

    def test_part_that_is_read_often(self) -> None:
        """A piece is copied when as much was read of it as two reads of all of it would have read."""
        disk, stored = self.disk(MIB), entry()
        for number in range(32):
            self.assertEqual(self.thread.calls, [], number)
            self.read(stored, disk, 300 * KIB, 364 * KIB)
        self.assertEqual(len(self.thread.calls), 1)

    def test_not_while_it_is_copied(self) -> None:
        """One copy is made at a time."""
        disk, stored = self.disk(MIB), entry()
        for _ in range(5):
            self.read(stored, disk)
        self.assertEqual(len(self.thread.calls), 1)

    def test_no_room_at_all(self) -> None:
        """Without room nothing happens."""
        disk, stored = self.disk(MIB), entry()
        self.make(total=0)
        for _ in range(5):
            self.assertIsNone(self.read(stored, disk))
        self.assertEqual((self.thread.calls, self.tier.misses, self.tier.refused), ([], 0, 0))


class VersionTests(TierTestCase):
    """A copy belongs to one body."""

    def setUp(self) -> None:
        super().setUp()
        self.old, self.new = entry(number=1), entry(number=2)
        self.old_disk, self.new_disk = self.disk(MIB, seed=1), self.disk(MIB, seed=2)
        self.opened = descriptors()
        self.promote(self.old, self.old_disk)

    def test_another_version(self) -> None:
        """It is not found for another version, whatever was forgotten to be dropped, and is copied for itself."""
        self.assertIsNone(self.read(self.new, self.new_disk))
        self.thread.work()
        for stored, seed in ((self.old, 1), (self.new, 2)):
            span = self.read(stored, self.old_disk)
            assert isinstance(span, FileSpan)
            self.assertEqual(bytes_of(span), content(seed, 0, MIB))
            span.release()

    def test_other_kinds(self) -> None:
        """Numbers of range files and of entries' own files are different things."""
        self.assertIsNone(self.tier.find(entry(number=1, kind=INLINE), (0, MIB), 0, MIB))

    def test_other_objects(self) -> None:
        """Nor is it found for another name."""
        self.assertIsNone(self.tier.find(entry(b"other"), (0, MIB), 0, MIB))

    def test_drop(self) -> None:
        """When an entry is no longer true, its copies go at once, all of them."""
        long = self.disk(9 * MIB, seed=1)
        self.promote(self.old, long, 4 * MIB)
        self.assertEqual(len(self.tier), 2)
        self.tier.drop(self.old.name.digest)
        self.assertEqual((len(self.tier), self.tier.bytes), (0, 0))
        self.assertIsNone(self.read(self.old, self.old_disk))

    def test_drop_of_others(self) -> None:
        """Copies of other entries stay."""
        self.tier.drop(entry(b"other").name.digest)
        self.assertEqual(len(self.tier), 1)

    def test_retain(self) -> None:
        """What is published now keeps its copies; those of everything else go."""
        self.tier.retain(self.old.name.digest, attrs.evolve(self.old, validated_at=2.0, nonce=7))
        self.assertEqual(len(self.tier), 1)
        self.tier.retain(self.old.name.digest, self.new)
        self.assertEqual((len(self.tier), self.tier.bytes), (0, 0))

    def test_dropped_while_it_is_sent(self) -> None:
        """Who is in the middle of it has all bytes; then the descriptor is closed, and only then the room is free."""
        span = self.read(self.old, self.old_disk)
        assert isinstance(span, FileSpan)
        self.tier.drop(self.old.name.digest)
        self.assertEqual(bytes_of(span), content(1, 0, MIB))
        self.assertEqual((len(self.tier), self.tier.bytes, descriptors()), (0, MIB, self.opened + 1))
        span.release()
        self.assertEqual((self.tier.bytes, descriptors()), (0, self.opened))
        span.release()
        self.assertEqual((self.tier.bytes, descriptors()), (0, self.opened))

    def test_dropped_while_it_is_copied(self) -> None:
        """The copy is not used."""
        other, disk = entry(b"other"), self.disk(MIB)
        opened = descriptors()
        for _ in range(2):
            self.read(other, disk)
        self.tier.drop(other.name.digest)
        self.thread.work()
        self.assertIsNone(self.tier.find(other, (0, MIB), 0, MIB))
        self.assertEqual((len(self.tier), self.tier.bytes, descriptors()), (1, MIB, opened))

    def test_close(self) -> None:
        """At the end everything is let go of, and nothing more is kept."""
        other, disk = entry(b"other"), self.disk(MIB)
        opened = descriptors()
        for _ in range(2):
            self.read(other, disk)
        self.tier.close()
        self.thread.work()
        for _ in range(3):
            self.read(other, disk)
        self.assertEqual((len(self.tier), self.tier.bytes, self.thread.calls), (0, 0, []))
        self.assertEqual(descriptors(), opened - 1)


class RoomTests(TierTestCase):
    """How much is kept, and what."""

    def test_hot_ones_stay(self) -> None:
        """What is used twice does not displace what is used often."""
        self.make(total=4 * MIB)
        disk = self.disk(MIB)
        hot = [entry(b"hot %d" % number) for number in range(4)]
        for stored in hot:
            self.promote(stored, disk)
        for _ in range(5):
            for stored in hot:
                span = self.read(stored, disk)
                assert isinstance(span, FileSpan)
                span.release()
        for number in range(50):
            for _ in range(2):
                self.read(entry(b"scan %d" % number), disk)
        self.assertEqual(self.thread.calls, [])
        self.assertEqual((self.tier.refused, self.tier.evicted), (50, 0))
        self.assertEqual(len(self.tier), 4)

    def test_lru(self) -> None:
        """With that algorithm the last ones stay."""
        self.make(total=4 * MIB, algorithm="lru")
        disk = self.disk(MIB)
        for number in range(10):
            self.promote(entry(b"%d" % number), disk)
        found = [number for number in range(10) if self.holds(b"%d" % number)]
        self.assertEqual((found, self.tier.evicted), ([6, 7, 8, 9], 6))

    def test_more_than_all(self) -> None:
        """What would not fit into all of the room is left alone."""
        self.make(total=MIB)
        disk = self.disk(2 * MIB)
        for _ in range(3):
            self.read(entry(), disk)
        self.assertEqual((self.thread.calls, self.tier.refused), ([], 2))

    def test_few_at_a_time(self) -> None:
        """So many copies are made at once; for the next one there is another time."""
        disk = self.disk(MIB)
        self.make(total=16 * MIB, copies=2)
        for number in range(3):
            for _ in range(2):
                self.read(entry(b"%d" % number), disk)
        self.assertEqual((len(self.thread.calls), self.tier.refused), (2, 1))
        self.thread.work()
        self.read(entry(b"2"), disk)
        self.assertEqual(len(self.thread.calls), 2)

    def test_descriptors(self) -> None:
        """No more memory files than are allowed, however much room there is; small ones count for nothing."""
        self.make(total=16 * MIB, files=2)
        disk, small = self.disk(100 * KIB), self.disk(SMALL)
        opened = descriptors()
        for number in range(2):
            self.promote(entry(b"%d" % number), disk)
        self.promote(entry(b"small"), small)
        for _ in range(3):
            self.read(entry(b"more"), disk)
        self.assertEqual((self.thread.calls, self.tier.refused), ([], 2))
        self.read(entry(b"more"), disk)
        self.thread.work()
        self.assertEqual((descriptors(), len(self.tier), self.tier.evicted), (opened + 2, 3, 1))

    def test_what_is_being_sent_stays(self) -> None:
        """It would not free anything before it is sent."""
        self.make(total=2 * MIB)
        disk = self.disk(MIB)
        for key in (b"a", b"b"):
            self.promote(entry(key), disk)
        span = self.tier.find(entry(b"a"), (0, MIB), 0, 1)
        assert isinstance(span, FileSpan)
        for _ in range(9):
            self.read(entry(b"c"), disk)
        self.thread.work()
        self.assertEqual([self.holds(key) for key in (b"a", b"b", b"c")], [True, False, True])
        self.assertEqual(self.tier.bytes, 2 * MIB)
        span.release()

    def test_descriptions_go_first(self) -> None:
        """Copies make way for descriptions, the least recently used ones first; those that are being sent do not, and
        then there is less for descriptions.
        """
        self.make(total=4 * MIB)
        disk = self.disk(MIB)
        for key in (b"a", b"b", b"c"):
            self.promote(entry(key), disk)
        span = self.tier.find(entry(b"a"), (0, MIB), 0, MIB)
        assert isinstance(span, FileSpan)
        self.assertEqual(self.tier.leave(MIB), MIB)
        self.assertEqual(len(self.tier), 3)
        self.assertEqual(self.tier.leave(MIB + 1), MIB + 1)
        self.assertEqual((len(self.tier), self.tier.evicted), (2, 1))
        self.assertEqual(self.tier.leave(4 * MIB), 3 * MIB)
        self.assertTrue(self.holds(b"a"))
        span.release()
        self.assertEqual(self.tier.leave(4 * MIB), 4 * MIB)

    def test_descriptions_take_room(self) -> None:
        """What they have taken is no room for copies."""
        self.make(total=4 * MIB)
        self.tier.descriptions = 3 * MIB + 1
        disk = self.disk(MIB)
        for _ in range(3):
            self.read(entry(), disk)
        self.assertEqual(self.thread.calls, [])

    def test_nothing_shared(self) -> None:
        """Where there is no room for copies, descriptions are not limited by it."""
        self.make(total=0)
        self.assertEqual(self.tier.leave(123), 123)

    def test_resize(self) -> None:
        """With less room some go, with none all of them; with more, more are kept."""
        disk = self.disk(MIB)
        for number in range(8):
            self.promote(entry(b"%d" % number), disk)
        self.tier.resize(5 * MIB)
        self.assertEqual((len(self.tier), self.tier.bytes), (5, 5 * MIB))
        span = self.tier.find(entry(b"7"), (0, MIB), 0, MIB)
        assert isinstance(span, FileSpan)
        self.tier.resize(0)
        self.assertEqual((len(self.tier), self.tier.bytes), (0, MIB))
        span.release()
        self.tier.resize(16 * MIB)
        self.promote(entry(b"x"), disk)
        self.assertEqual((len(self.tier), self.tier.bytes), (1, MIB))

    def test_resize_while_a_copy_is_made(self) -> None:
        """What is being copied when there is no room any more is not kept."""
        disk = self.disk(MIB)
        for _ in range(2):
            self.read(entry(), disk)
        self.tier.resize(0)
        self.thread.work()
        self.assertEqual((len(self.tier), self.tier.bytes), (0, 0))

    def test_resize_while_all_are_sent(self) -> None:
        """Those that are being sent go when they are sent."""
        disk = self.disk(MIB)
        self.promote(entry(), disk)
        span = self.tier.find(entry(), (0, MIB), 0, MIB)
        assert isinstance(span, FileSpan)
        self.tier.resize(1000)
        self.assertEqual((len(self.tier), self.tier.bytes), (0, MIB))
        span.release()
        self.assertEqual(self.tier.bytes, 0)


class FailureTests(TierTestCase):
    """Whatever goes wrong with a copy, the bytes come from the store."""

    def setUp(self) -> None:
        super().setUp()
        self.file = self.disk(MIB)
        self.opened = descriptors()

    def fails(self, times: int = 3) -> None:
        for _ in range(times):
            self.assertIsNone(self.read(entry(), self.file))

    def check_nothing_left(self) -> None:
        self.assertEqual((len(self.tier), self.tier.bytes, descriptors()), (0, 0, self.opened))

    def test_short_file(self) -> None:
        """A file that ends too early is not copied."""
        self.fails(2)
        self.file.file.truncate(MIB)
        self.thread.work()
        self.assertEqual(self.tier.failed, 1)
        self.check_nothing_left()

    def test_short_small_file(self) -> None:
        """Nor a small one."""
        small = self.disk(1000)
        self.opened = descriptors()
        for _ in range(2):
            self.read(entry(), small)
        small.file.truncate(1099)
        self.thread.work()
        self.assertEqual(self.tier.failed, 1)
        self.check_nothing_left()

    def test_no_thread(self) -> None:
        """When no thread takes it, it is tried again with the next use."""
        self.thread.busy = True
        self.fails()
        self.assertEqual(self.tier.failed, 2)
        self.check_nothing_left()
        self.thread.busy = False
        self.fails(1)
        self.assertEqual(len(self.thread.calls), 1)

    def test_no_memory(self) -> None:
        """When the machine has no memory for it, none are made for a while."""

        def exhausted(fd: int, offset: int, count: int) -> bytes:
            raise OSError(errno.ENOMEM, "no memory")

        self.make(total=16 * MIB, copy=exhausted)
        with capturedLogs() as events:
            self.fails(2)
            self.thread.work()
        self.assertEqual(len(events), 1)
        self.fails()
        self.assertEqual(self.thread.calls, [])
        self.time += REST
        self.fails(1)
        self.assertEqual(len(self.thread.calls), 1)
        self.thread.work()
        self.check_nothing_left()

    def test_fault(self) -> None:
        """A fault of the program is logged."""

        def faulty(fd: int, offset: int, count: int) -> bytes:
            raise ZeroDivisionError()

        self.make(total=16 * MIB, copy=faulty)
        self.fails(2)
        self.thread.work()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.check_nothing_left()

    def test_descriptor_of_its_own(self) -> None:
        """The copy does not need the reader's descriptor: that may be closed at once."""
        self.fails(2)
        self.file.close()
        self.thread.work()
        span = self.tier.find(entry(), (0, MIB), 0, MIB)
        assert isinstance(span, FileSpan)
        self.assertEqual(bytes_of(span), content(1, 0, MIB))
        span.release()


class CopyTests(SynchronousTestCase):
    """The copying itself."""

    def test_sizes(self) -> None:
        """Exactly the bytes, around every size that matters."""
        disk = Disk(3, 0, 3 * MIB + 1)
        self.addCleanup(disk.close)
        for count in (1, SMALL, SMALL + 1, MIB, MIB + 1, 3 * MIB + 1):
            with self.subTest(count=count):
                made = copy_to_memory(disk.file.fileno(), Disk.header, count)
                if isinstance(made, int):
                    self.assertEqual(os.fstat(made).st_size, count)
                    data = os.pread(made, count, 0)
                    self.assertFalse(os.get_inheritable(made))
                    os.close(made)
                else:
                    data = made
                self.assertEqual(isinstance(made, bytes), count <= SMALL)
                self.assertEqual(data, content(3, 0, count))

    def test_failure(self) -> None:
        """A failing copy leaves no descriptor."""
        disk = Disk(3, 0, MIB)
        self.addCleanup(disk.close)
        before = descriptors()
        self.assertRaises(OSError, copy_to_memory, disk.file.fileno(), Disk.header, MIB + 1)
        self.assertEqual(descriptors(), before)

    def test_possible(self) -> None:
        """Whether there are memory files is known beforehand."""
        self.assertTrue(RamTier.is_possible())
        self.patch(os, "memfd_create", None)
        del os.memfd_create  # type: ignore[attr-defined]
        self.assertFalse(RamTier.is_possible())


TOTAL = 600 * KIB
FILES = 3
SIZES = {b"a": 40 * KIB, b"b": 100 * KIB, b"c": 150 * KIB, b"d": 300 * KIB, b"e": 20 * KIB}


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: the right bytes, no more room and descriptors than allowed, nothing left."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = Thread()
        self.opened = descriptors()
        self.numbers = dict.fromkeys(SIZES, 1)
        self.disks: dict[tuple[bytes, int], Disk] = {}
        self.spans: list[tuple[Span, bytes]] = []
        self.descriptions = 0

    @initialize(algorithm=st.sampled_from(("tinylfu", "lru")), seed=st.integers(0, 5))
    def make(self, algorithm: str, seed: int) -> None:
        self.tier = RamTier(self.thread.run, lambda: 0.0, total=TOTAL, files=FILES, algorithm=algorithm, seed=seed)

    def disk(self, key: bytes) -> Disk:
        """The file of what is published under this name now; each version has its own content."""
        at = key, self.numbers[key]
        if at not in self.disks:
            self.disks[at] = Disk(key[0] * 1000 + self.numbers[key], 0, SIZES[key])
            self.opened += 1
        return self.disks[at]

    @rule(key=st.sampled_from(sorted(SIZES)), times=st.integers(1, 4), hold=st.booleans(), data=st.data())
    def read(self, key: bytes, times: int, hold: bool, data: st.DataObject) -> None:
        stored, disk = entry(key, self.numbers[key]), self.disk(key)
        start = data.draw(st.sampled_from((0, 1, SIZES[key] // 2)))
        for _ in range(times):
            expected = content(disk.seed, start, disk.stop)
            span = self.tier.find(stored, (0, disk.stop), start, disk.stop)
            if span is None:
                handle = disk.handle()
                self.tier.promote(stored, handle, start)
                handle.close()
                continue
            assert bytes_of(span) == expected
            if hold:
                self.spans.append((span, expected))
            elif isinstance(span, FileSpan):
                span.release()

    @precondition(lambda self: self.thread.calls)
    @rule()
    def copy(self) -> None:
        self.thread.work()

    @precondition(lambda self: self.spans)
    @rule(index=st.integers(0, 100))
    def release(self, index: int) -> None:
        span, expected = self.spans.pop(index % len(self.spans))
        assert bytes_of(span) == expected
        if isinstance(span, FileSpan):
            span.release()

    @rule(key=st.sampled_from(sorted(SIZES)))
    def replace(self, key: bytes) -> None:
        self.numbers[key] += 1
        self.tier.retain(entry(key).name.digest, entry(key, self.numbers[key]))

    @rule(key=st.sampled_from(sorted(SIZES)))
    def drop(self, key: bytes) -> None:
        self.tier.drop(entry(key).name.digest)

    @rule(wanted=st.sampled_from((0, 50 * KIB, 300 * KIB)))
    def describe(self, wanted: int) -> None:
        self.descriptions = self.tier.descriptions = self.tier.leave(wanted)

    @rule(busy=st.booleans())
    def threads(self, busy: bool) -> None:
        self.thread.busy = busy

    @invariant()
    def bounded(self) -> None:
        if not hasattr(self, "tier"):
            return
        assert self.tier.bytes + self.descriptions <= TOTAL
        assert self.tier.bytes >= 0
        # One for each copy that waits: what it is made from.
        assert descriptors() <= self.opened + FILES + len(self.thread.calls)

    def teardown(self) -> None:
        if not hasattr(self, "tier"):
            return
        self.tier.close()
        while self.thread.calls:
            self.thread.work()
        for span, expected in self.spans:
            assert bytes_of(span) == expected
            if isinstance(span, FileSpan):
                span.release()
        assert self.tier.bytes == 0 and len(self.tier) == 0
        assert descriptors() == self.opened
        for disk in self.disks.values():
            disk.close()


class AnyOrderTests(SynchronousTestCase):
    """See :class:`AnyOrder`."""

    def test_any_order(self) -> None:
        """Random histories."""
        run_state_machine_as_test(
            AnyOrder,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
