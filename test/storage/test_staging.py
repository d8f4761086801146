"""Parts of multipart uploads, and the objects they become."""

import errno
import os
import random
import subprocess
import sys
import threading
import time
from test.storage.support import (
    MIB,
    FailingCalls,
    abandon,
    facts_of,
    files_below,
    finish_scan,
    make_store,
    name_of,
    put_inline,
    read_body,
    recount,
    stage,
)
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import RANGES, DiskStore, Plan, StagedPart, Staging, StoredEntry
from s3proxy.storage.errors import NotNow, RecordError
from s3proxy.storage.layout import parse_temp
from s3proxy.storage.part_record import PartFile, decode_part, encode_part
from s3proxy.storage.upload_names import (
    DraftName,
    data_name,
    draft_name,
    is_data,
    parse_draft,
    parse_record,
    parse_staging,
    record_name,
    staging_name,
)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STORE = 64 * MIB
SIZES = (5 * MIB, 300_000, 11 * MIB + 7, 1)


def part_body(number: int, size: int, version: int = 0) -> bytes:
    return random.Random(number * 1000 + version).randbytes(size)


class StagingCase(SynchronousTestCase):
    """A store, and one upload."""

    def setUp(self) -> None:
        self.calls = FailingCalls()
        self.store = self.open(calls=self.calls)
        self.name = name_of("object")
        self.staging = self.store.staging(self.name, b"upload")

    def open(self, **options: Any) -> DiskStore:
        if hasattr(self, "store"):
            options.setdefault("root", self.store.root)
        return make_store(self, max_size=STORE, write_percent=100, **options)

    def stage_all(self, staging: Staging | None = None, numbers: tuple[int, ...] = (3, 1, 4, 2)) -> bytes:
        """Stage parts in this order; returns the whole object."""
        for number in numbers:
            body = part_body(number, SIZES[number % 4])
            self.assertTrue(stage(staging or self.staging, number, body, b'"%d"' % number, b"note %d" % number))
        return b"".join(part_body(number, SIZES[number % 4]) for number in sorted(numbers))

    def listed(self, *numbers: int) -> list[tuple[int, bytes]]:
        return [(number, b'"%d"' % number) for number in numbers or (1, 2, 3, 4)]

    def planned(self, *numbers: int, staging: Staging | None = None) -> Plan:
        plan = (staging or self.staging).plan(self.listed(*numbers))
        assert plan is not None
        return plan

    def assemble(self, plan: Plan, staging: Staging | None = None) -> StoredEntry | None:
        arm = self.store.arm(self.name)
        entry = (staging or self.staging).assemble(arm, plan, facts_of(plan.size))
        if entry is None:
            arm.invalidate()
        return entry

    def assert_nothing_left(self, store: DiskStore | None = None) -> None:
        """Nothing is staged or in flight, and the count is what is on disk."""
        store = store or self.store
        store.sweeper.run()
        self.assertEqual(os.listdir(f"{store.root}/up"), [])
        self.assertEqual(os.listdir(f"{store.root}/trash"), [])
        self.assert_counted(store)
        self.assertEqual(store.staged(), 0)

    def assert_counted(self, store: DiskStore | None = None) -> None:
        """The count is what is on disk, and nothing is set aside."""
        store = store or self.store
        store.volume.empty_trash()
        ledger = store.volume.ledger
        self.assertEqual((store.in_flight(), ledger.reserved, ledger._unread_reserved), (0, 0, 0))
        before = (store.usage(), store.unread(), store.staged())
        recount(store)
        self.assertEqual((store.usage(), store.unread(), store.staged()), before)


class PartTests(StagingCase):
    """What is known of parts."""

    def test_parts(self) -> None:
        """Parts are there with what S3 answered, by number, whatever order they came in; for every process."""
        self.assertEqual(self.staging.parts(), {})
        self.stage_all()
        for staging in (self.staging, self.open().staging(self.name, b"upload")):
            parts = staging.parts()
            self.assertEqual(list(parts), [1, 2, 3, 4])
            for number, part in parts.items():
                self.assertEqual((part.number, part.size), (number, SIZES[number % 4]))
                self.assertEqual((part.etag, part.note), (b"%d" % number, b"note %d" % number))
        self.assertEqual(len(parts[2].files), 2)
        self.assertGreater(self.store.staged(), sum(SIZES))
        self.assertEqual(self.store.staged(), self.store.unread())
        self.assert_counted()

    def test_other_uploads(self) -> None:
        """Two uploads of one object, and those of two objects with one id, know nothing of each other."""
        others = (self.store.staging(self.name, b"other"), self.store.staging(name_of("other"), b"upload"))
        self.stage_all()
        for other in others:
            self.assertEqual(other.parts(), {})
            self.assertTrue(stage(other, 1, b"other", b"o"))
            self.assertEqual(list(other.parts()), [1])
            other.discard()
        self.assertEqual(len(self.staging.parts()), 4)

    def test_again(self) -> None:
        """A part that is uploaded again replaces the older one, bytes and ETag together, and frees its room."""
        self.stage_all()
        before = self.store.staged()
        for version in range(3):
            self.assertTrue(stage(self.staging, 2, part_body(2, SIZES[2], version), b"v%d" % version))
            self.assertEqual(self.staging.parts()[2].etag, b"v%d" % version)
            self.assertEqual(self.store.staged(), before)
        self.assertTrue(stage(self.staging, 2, b"short", b"short"))
        self.assertLess(self.store.staged(), before - 10 * MIB)
        self.assert_counted()

    def test_incomplete(self) -> None:
        """A part that has not all its bytes, or that S3 refused, is not there; an older one stays."""
        stage(self.staging, 1, b"old", b"old")
        part = self.staging.start_part(1, 10 * MIB)
        assert part is not None
        part.append([bytes(9 * MIB)])
        self.assertEqual(part.written, 9 * MIB)
        self.assertRaises(ValueError, part.commit, b"new")
        self.assertRaises(ValueError, part.append, [b""])
        part = self.staging.start_part(1, 10 * MIB)
        assert part is not None
        part.append([bytes(10 * MIB)])
        self.assertRaises(ValueError, part.append, [b"x"])
        part.discard()
        part.close()
        self.assertRaises(ValueError, part.commit, b"new")
        self.assertEqual(self.staging.parts()[1].etag, b"old")
        self.assertEqual(len(files_below(self.staging.path)), 2)
        self.assert_counted()

    def test_misuse(self) -> None:
        """Numbers that no part has, and notes that are too long, are refused."""
        for number, size in ((0, 1), (10_001, 1), (1, -1)):
            self.assertRaises(ValueError, self.staging.start_part, number, size)
        part = self.staging.start_part(10_000, 0)
        assert part is not None
        self.assertRaises(ValueError, part.commit, b"e", bytes(70_000))
        part.discard()
        self.assert_counted()

    def test_prompt_appends(self) -> None:
        """What goes into the open file is written at once, anything else is refused as a whole."""
        part = self.staging.start_part(1, 10 * MIB)
        assert part is not None
        self.assertRaises(NotNow, part.append, [b"x"], True)
        part.append([bytes(1000)])
        part.append([bytes(8 * MIB - 1000)], True)
        self.assertRaises(NotNow, part.append, [b"x"], True)
        part.append([b"x" * (2 * MIB)])
        self.assertTrue(part.commit(b"e"))
        entry = self.assemble(Plan(self.one_part(b"e")))
        assert entry is not None
        self.assertEqual(read_body(self.store, entry), bytes(8 * MIB) + b"x" * (2 * MIB))

    def one_part(self, etag: bytes) -> Any:
        plan = self.staging.plan([(1, etag)])
        assert plan is not None
        return plan.parts

    def test_no_room(self) -> None:
        """What can't fit is not staged, however often it is tried; what is there stays."""
        stage(self.staging, 1, bytes(20 * MIB), b"1")
        stage(self.staging, 2, bytes(20 * MIB), b"2")
        self.assertIsNone(self.staging.start_part(3, 30 * MIB))
        self.assertIsNone(self.staging.start_part(3, 1 << 50))
        self.assertIsNone(self.store.staging(name_of("other"), b"x").start_part(1, 30 * MIB))
        self.assertIsNone(self.store.start_upload(name_of("other"), 30 * MIB))
        self.assertEqual(list(self.staging.parts()), [1, 2])
        self.assertTrue(stage(self.staging, 3, bytes(10 * MIB), b"3"))
        self.assert_counted()

    def test_torn_record(self) -> None:
        """A record that was cut short or changed tells of no part."""
        self.stage_all()
        path = f"{self.staging.path}/{record_name(2)}"
        with open(path, "rb") as file:
            data = file.read()
        for damaged in (b"", data[:5], data[:-1], data + b"x", b"X" + data[1:], data.replace(b'"2"', b'"3"')):
            with open(path, "wb") as file:
                file.write(damaged)
            self.assertEqual(list(self.staging.parts()), [1, 3, 4])
            self.assertIsNone(self.staging.plan(self.listed()))
        # The record of another part under this one's name.
        os.replace(f"{self.staging.path}/{record_name(3)}", path)
        self.assertEqual(list(self.staging.parts()), [1, 4])


class AssemblyTests(StagingCase):
    """What becomes of a completed upload."""

    def test_assemble(self) -> None:
        """The parts are the object, in the order of their numbers; nothing is copied, and nothing stays staged."""
        body = self.stage_all()
        inodes = {os.stat(f"{self.staging.path}/{name}").st_ino for name in os.listdir(self.staging.path)}
        plan = self.planned(4, 3, 2, 1)
        self.assertEqual([placed.part.number for placed in plan.parts], [1, 2, 3, 4])
        starts = [0, 300_000, 300_000 + 11 * MIB + 7, 300_000 + 11 * MIB + 8]
        self.assertEqual([placed.start for placed in plan.parts], starts)
        self.assertEqual([placed.stop for placed in plan.parts], [*starts[1:], len(body)])
        self.assertEqual(plan.size, len(body))
        put_inline(self.store, self.name, b"old")
        entry = self.assemble(plan)
        assert entry is not None
        self.assertEqual(self.store.load(self.name), entry)
        self.assertEqual((entry.kind, entry.object_size), (RANGES, len(body)))
        self.assertTrue(entry.unconfirmed and entry.unread)
        self.assertEqual(read_body(self.store, entry), body)
        directory = self.store.volume.generation_path(self.name, entry.generation)
        self.assertLessEqual({os.stat(f"{directory}/{name}").st_ino for name in os.listdir(directory)}, inodes)
        self.assertEqual(max(stop - start for start, stop in self.store.ranges(entry)), self.store.cut)
        self.assert_nothing_left()

    def test_everybody_copes(self) -> None:
        """Ranges that begin and end anywhere survive a scan, are opened, used, evicted and filled up like others."""
        body = self.stage_all()
        entry = self.assemble(self.planned())
        assert entry is not None
        self.store.sweeper.run()
        abandon(self.store)
        store = self.open()
        scan = finish_scan(store)
        self.assertEqual((scan.removed, scan.postponed), (0, 0))
        self.assertEqual(read_body(store, entry), body)
        store.touched(self.name, 300_000)
        store.flush_recency()
        spans = store.ranges(entry)
        first = store.volume.range_path(entry, 0)
        os.utime(f"{first}/0-{spans[0][1]:x}", (1000, 1000))
        store.evictor.shrink(store.usage() - 1)
        self.assertEqual(store.ranges(entry), spans[1:])
        writer = store.start_range(entry, 0, spans[0][1])
        writer.append([body[: spans[0][1]]])
        writer.commit()
        writer.close()
        self.assertEqual(read_body(store, entry), body)
        store.evictor.shrink(0)
        self.assertIsNone(store.load(self.name))
        self.assert_nothing_left(store)

    def test_damaged_range(self) -> None:
        """A range from a part that is damaged is found out when it is opened."""
        self.stage_all()
        entry = self.assemble(self.planned())
        assert entry is not None
        start, stop = self.store.ranges(entry)[1]
        path = f"{self.store.volume.range_path(entry, start)}/{start:x}-{stop - start:x}"
        with open(path, "r+b") as file:
            file.seek(-40, os.SEEK_END)
            file.write(b"X")
        self.assertIsNone(self.store.open_range(entry, start, stop))
        self.assertNotIn((start, stop), self.store.ranges(entry))
        self.assert_counted()

    def test_some_parts(self) -> None:
        """Numbers with gaps, and parts that are not listed: those are gone afterwards."""
        self.stage_all(numbers=(10, 3, 700, 7))
        entry = self.assemble(self.planned(3, 10, 700))
        assert entry is not None
        body = b"".join(part_body(number, SIZES[number % 4]) for number in (3, 10, 700))
        self.assertEqual(read_body(self.store, entry), body)
        self.assert_nothing_left()

    def test_refused_lists(self) -> None:
        """Without exactly the listed parts there is no plan; what is staged stays."""
        self.stage_all()
        for listed in (
            [],
            self.listed(1, 2, 5),
            [(1, b"1"), (2, b"other")],
            [(1, b"1"), (1, b"1")],
            [(0, b"1")],
            [(-1, b"1")],
            [(10**30, b"1")],
        ):
            self.assertIsNone(self.staging.plan(listed))
        self.assertIsNone(self.store.staging(self.name, b"other").plan(self.listed()))
        self.assertIsNotNone(self.staging.plan([(1, b"1"), (2, b' "2"')]))

    def test_wrong_size(self) -> None:
        """Facts that tell another size than the parts, and arms of other objects, are mistakes of the caller."""
        self.stage_all()
        plan = self.planned()
        arm = self.store.arm(self.name)
        self.assertRaises(ValueError, self.staging.assemble, arm, plan, facts_of(plan.size - 1))
        other = self.store.arm(name_of("other"))
        self.assertRaises(ValueError, self.staging.assemble, other, plan, facts_of(plan.size))
        self.assertIsNotNone(self.staging.assemble(arm, plan, facts_of(plan.size)))

    def test_empty(self) -> None:
        """An upload of one part without bytes."""
        self.assertTrue(stage(self.staging, 1, b"", b"1"))
        entry = self.assemble(self.planned(1))
        assert entry is not None
        self.assertEqual((entry.object_size, self.store.ranges(entry)), (0, ()))
        self.assert_nothing_left()

    def test_segments(self) -> None:
        """Parts of an object of more than 1 GiB are put where readers look for them."""
        store = make_store(self, max_size=0)
        staging = store.staging(self.name, b"upload")

        def write_last_byte(fd: int, chunks: Any, offset: int) -> int:
            total = sum(map(len, chunks))
            return total - 1 + os.pwrite(fd, b"x", offset + total - 1)

        self.patch(store.volume.calls, "pwritev", write_last_byte)
        first = staging.start_part(1, (1 << 30) - 100)
        assert first is not None
        for _ in range(15):
            first.append([bytes(64 * MIB)])
        first.append([bytes(64 * MIB - 100)])
        del store.volume.calls.pwritev
        first.commit(b"1")
        stage(staging, 2, b"2" * 5 * MIB, b"2")
        stage(staging, 3, b"3" * 100, b"3")
        plan = staging.plan(self.listed(1, 2, 3))
        assert plan is not None
        entry = staging.assemble(store.arm(self.name), plan, facts_of(plan.size))
        assert entry is not None
        for start, size, byte in (((1 << 30) - 100, 5 * MIB, b"2"), ((1 << 30) - 100 + 5 * MIB, 100, b"3")):
            self.assertIn((start, start + size), store.ranges(entry))
            handle = store.open_range(entry, start, start + size)
            assert handle is not None
            self.assertEqual(os.pread(handle.fd, size, 0), byte * size)
            handle.close()
        self.assert_nothing_left(store)

    def test_revoked(self) -> None:
        """Whoever writes or invalidates the object after the arm keeps it from being published; nothing stays."""
        other = self.open(generations=self.store.volume.generations)
        for revoke in (self.store.drop, other.drop, lambda name: other.arm(name).invalidate()):
            self.stage_all()
            plan = self.planned()
            arm = self.store.arm(self.name)
            revoke(self.name)
            self.assertIsNone(self.staging.assemble(arm, plan, facts_of(plan.size)))
            arm.invalidate()
            self.assertIsNone(self.store.load(self.name))
            self.assert_nothing_left()

    def test_replaced_after_plan(self) -> None:
        """A part that was uploaded again after the plan was made never gets into the object with the old one's ETag."""
        self.stage_all()
        plan = self.planned()
        stage(self.staging, 2, b"new", b"new")
        self.assertIsNone(self.assemble(plan))
        self.assertIsNone(self.store.load(self.name))
        self.assert_nothing_left()

    def test_twice(self) -> None:
        """An upload is assembled once: the second one who tries finds nothing."""
        body = self.stage_all()
        plan = self.planned()
        arm = self.store.arm(self.name)
        entry = self.staging.assemble(arm, plan, facts_of(plan.size))
        assert entry is not None
        self.assertIsNone(self.staging.plan(self.listed()))
        again = self.store.arm(self.name)
        self.assertIsNone(self.staging.assemble(again, plan, facts_of(plan.size)))
        again.disarm()
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(read_body(self.store, found), body)
        self.assert_nothing_left()

    def test_late_part(self) -> None:
        """A part that is still being written when the upload ends is not kept, and says so without an error."""
        for end in ("assemble", "discard"):
            stage(self.staging, 1, b"1", b"1")
            late = [self.staging.start_part(2, 10 * MIB), self.staging.start_part(3, 3)]
            done = self.staging.start_part(4, 3)
            assert late[0] is not None and late[1] is not None and done is not None
            late[0].append([bytes(9 * MIB)])
            done.append([b"444"])
            if end == "assemble":
                self.assertIsNotNone(self.assemble(self.planned(1)))
            else:
                self.staging.discard()
            self.assertRaises(OSError, late[1].append, [b"333"])
            late[0].append([bytes(MIB)])
            self.assertFalse(late[0].commit(b"2"))
            self.assertFalse(done.commit(b"4"))
            late[1].discard()
            self.store.drop(self.name)
            self.assert_nothing_left()


class DescriptionTests(StagingCase):
    """What the object will be described by."""

    def test_describe(self) -> None:
        """What was told when the upload began is there for every process until the upload ends; the last one counts."""
        self.assertIsNone(self.staging.description())
        for described in (b"", bytes(range(256)), b"d" * 100_000):
            self.assertTrue(self.staging.describe(described))
            self.assertEqual(self.staging.description(), described)
            self.assertEqual(self.open().staging(self.name, b"upload").description(), described)
            self.assert_counted()
        self.assertIsNone(self.store.staging(self.name, b"other").description())
        body = self.stage_all()
        self.assertEqual(list(self.staging.parts()), [1, 2, 3, 4])
        entry = self.assemble(self.planned())
        assert entry is not None
        self.assertEqual(read_body(self.store, entry), body)
        self.assertIsNone(self.staging.description())
        self.assert_nothing_left()
        self.assertRaises(ValueError, self.staging.describe, bytes((1 << 20) + 1))

    def test_damaged(self) -> None:
        """A description that was cut short, or is another record, is none."""
        self.staging.describe(b"described")
        stage(self.staging, 1, b"1", b"1")
        path = f"{self.staging.path}/described"
        os.truncate(path, 12)
        self.assertIsNone(self.staging.description())
        os.replace(f"{self.staging.path}/{record_name(1)}", path)
        self.assertIsNone(self.staging.description())

    def test_no_room(self) -> None:
        """Without room it is not kept, and the caller learns it; nothing stays set aside."""
        self.patch(self.store._share, "reserve", lambda size: False)
        self.assertFalse(self.staging.describe(b"x"))
        self.assertIsNone(self.staging.description())
        self.assert_counted()

    def test_gone(self) -> None:
        """A poisoned upload has no description any more."""
        self.staging.describe(b"x")
        self.staging.poison()
        self.assertIsNone(self.staging.description())


class EndTests(StagingCase):
    """Uploads that come to nothing."""

    def test_discard(self) -> None:
        """An aborted upload leaves nothing."""
        self.stage_all()
        self.staging.discard()
        self.staging.discard()
        self.assertEqual(self.staging.parts(), {})
        self.assert_nothing_left()

    def test_poison(self) -> None:
        """A poisoned upload keeps nothing, takes nothing more and is never assembled; for other processes, too."""
        self.stage_all()
        plan = self.planned()
        part = self.staging.start_part(5, 10)
        assert part is not None
        part.append([bytes(10)])
        self.staging.poison()
        self.staging.poison()
        self.assertFalse(part.commit(b"5"))
        other = self.open().staging(self.name, b"upload")
        for staging in (self.staging, other):
            self.assertIsNone(staging.start_part(1, 10))
            self.assertEqual(staging.parts(), {})
            self.assertIsNone(staging.plan(self.listed()))
        self.assertIsNone(self.staging.start_part(1, 10))
        self.store.sweeper.run()
        self.assertEqual(self.store.staged(), 0)
        self.assert_counted()
        self.assertIsNone(self.assemble(plan))
        self.assert_nothing_left()

    def test_poisoned_behind_the_plan(self) -> None:
        """The poison is seen even if it comes without removing what is there."""
        self.stage_all()
        plan = self.planned()
        with open(f"{self.staging.path}/poisoned", "w"):
            pass
        self.assertIsNone(self.assemble(plan))

    def test_poison_without_room(self) -> None:
        """Where there is no room for the mark, what is staged goes all the same."""
        store = make_store(self, max_size=4 * MIB, write_percent=1)
        staging = store.staging(self.name, b"upload")
        self.assertTrue(stage(staging, 1, b"1", b"1"))
        self.patch(store._share, "reserve", lambda size: False)
        staging.poison()
        self.assertIsNone(staging.plan(self.listed(1)))
        self.assert_nothing_left(store)

    def test_expiry(self) -> None:
        """An upload in which nothing has happened for too long goes; one that is worked on stays, and so do others."""
        clock = [time.time()]
        store = self.open(now=lambda: clock[0], upload_expiry=3600)
        active = store.staging(name_of("active"), b"upload")
        self.stage_all(store.staging(self.name, b"upload"))
        stage(active, 1, b"1", b"1")
        writer = active.start_part(2, 10)
        assert writer is not None
        writer.append([b"x"])
        self.assertFalse(store.sweeper.due())
        for path in (self.staging.path, active.path):
            os.utime(path, (clock[0] - 3500, clock[0] - 3500))
        clock[0] += 61
        self.assertTrue(store.sweeper.due())
        store.sweeper.run()
        self.assertEqual(len(os.listdir(f"{store.root}/up")), 2)
        clock[0] += 61
        store.pulse()
        self.assertTrue(store.sweeper.due())
        store.sweeper.run()
        self.assertFalse(store.sweeper.due())
        self.assertEqual(self.staging.parts(), {})
        self.assertEqual(list(active.parts()), [1])
        writer.append([b"x" * 9])
        self.assertTrue(writer.commit(b"2"))
        self.assertEqual(list(active.parts()), [1, 2])
        self.assert_counted(store)

    def test_expiry_after_restart(self) -> None:
        """The time counts from the last activity, whatever process that was in; the first scan looks."""
        self.stage_all()
        past = time.time() - 7200
        os.utime(self.staging.path, (past, past))
        self.store.close()
        store = self.open(upload_expiry=7500)
        finish_scan(store)
        self.assertEqual(len(store.staging(self.name, b"upload").parts()), 4)
        self.assertGreater(store.staged(), sum(SIZES))
        store.close()
        store = self.open(upload_expiry=7000)
        scan = finish_scan(store)
        self.assertEqual(scan.removed, 1)
        self.assert_nothing_left(store)


class CrashTests(StagingCase):
    """What kill -9 leaves, and what goes on after it."""

    def test_goes_on(self) -> None:
        """Parts survive a crash, what was being written does not, and the upload can be completed after it."""
        body = self.stage_all()
        writer = self.staging.start_part(5, 10 * MIB)
        assert writer is not None
        writer.append([bytes(9 * MIB)])
        abandon(self.store)
        store = self.open()
        finish_scan(store)
        self.assertGreater(store.staged(), sum(SIZES))
        self.assertEqual([name for name in files_below(f"{store.root}/up") if parse_temp(name) is not None], [])
        self.assert_counted(store)
        self.store = store
        staging = store.staging(self.name, b"upload")
        entry = self.assemble(self.planned(staging=staging), staging)
        assert entry is not None
        self.assertEqual(read_body(store, entry), body)
        self.assert_nothing_left(store)

    def test_only_staged(self) -> None:
        """A directory that holds nothing but parts is not taken for empty."""
        stage(self.staging, 1, bytes(5 * MIB), b"1")
        abandon(self.store)
        store = self.open()
        self.assertGreater(store.usage(), 5 * MIB)
        finish_scan(store)
        self.assertGreater(store.staged(), 5 * MIB)
        self.assert_counted(store)

    def test_every_point(self) -> None:
        """The process dies before any call of an assembly: the object is there whole, or partly readable and exact, or
        not at all; nothing is left behind.
        """

        class Died(BaseException):
            pass

        for call in FailingCalls.NAMES:
            for after in range(60):
                root = os.path.abspath(self.mktemp())
                calls = FailingCalls()
                dying = make_store(self, root=root, max_size=STORE, write_percent=100, calls=calls)
                staging = dying.staging(self.name, b"upload")
                bodies = [bytes([number]) * 100_000 for number in (1, 2, 3)]
                for number, body in enumerate(bodies, 1):
                    stage(staging, number, body, b"%d" % number)
                plan = staging.plan(self.listed(1, 2, 3))
                assert plan is not None
                arm = dying.arm(self.name)

                def die(*_: object) -> bool:
                    raise Died

                calls.fail(call, errno.EIO, after=after)
                fault = calls._faults[call]
                fault.when = lambda *_, fault=fault: fault.seen < fault.after or die()  # type: ignore[misc]
                try:
                    staging.assemble(arm, plan, facts_of(plan.size))
                    died = False
                except Died:
                    died = True
                calls.heal()
                abandon(dying)
                store = make_store(self, root=root, max_size=STORE, upload_expiry=0)
                finish_scan(store)
                found = store.load(self.name)
                if found is not None:
                    self.assertIn(read_body(store, found), (b"".join(bodies), None))
                os.utime(staging.path, (0, 0)) if os.path.exists(staging.path) else None
                finish_scan(store)
                self.assert_nothing_left(store)
                store.close()
                if not died:
                    break

    def test_host_failure(self) -> None:
        """After the host failed, parts whose bytes did not reach the disk are not assembled."""
        self.stage_all()
        plan = self.planned()
        path = f"{self.staging.path}/{plan.parts[1].part.files[0].name}"
        with open(path, "r+b") as file:
            file.seek(600)
            file.write(bytes(300))
        heartbeat = f"{self.store.root}/inst/{self.store.volume.instance.number:015x}.hb"
        with open(heartbeat, "w") as file:
            file.write('{"host": "before pid:[1]", "pid": 1, "start": "1"}')
        os.utime(heartbeat, (time.time() - 40, time.time() - 40))
        past = time.time() - 45
        for name in os.listdir(self.staging.path):
            os.utime(f"{self.staging.path}/{name}", (past, past))
        store = self.open()
        finish_scan(store)
        self.assertFalse(os.path.exists(path))
        self.assertEqual(len(files_below(self.staging.path)), 8)
        staging = store.staging(self.name, b"upload")
        self.store = store
        self.assertIsNone(self.assemble(plan, staging))
        self.assert_nothing_left(store)

    def test_host_failure_not_examined(self) -> None:
        """Until the scan has examined them, such parts are not assembled either."""
        self.stage_all()
        plan = self.planned()
        self.store.volume.doubt_from = 0.0
        self.store.volume.instance.started_at = 1e12
        self.assertIsNone(self.assemble(plan))
        self.assertIsNone(self.store.load(self.name))


class FaultTests(StagingCase):
    """Disks that fail."""

    def test_every_call(self) -> None:
        """Whichever call fails, at whatever point of staging and assembling: the object is exact or not there."""
        bodies = [bytes([number]) * (9 * MIB if number == 2 else 100_000) for number in (1, 2, 3)]
        for call in FailingCalls.NAMES:
            for after in range(0, 80, 3):
                self.calls.fail(call, errno.EIO, after=after, times=1)
                failures = self.calls.failures
                entry = self.attempt(bodies)
                happened = self.calls.failures > failures
                self.calls.heal()
                if entry is not None:
                    self.assertEqual(read_body(self.store, entry), b"".join(bodies))
                self.store.drop(self.name)
                self.staging.discard()
                if not happened:
                    break
            for name in os.listdir(f"{self.store.root}/up"):
                # Could not be removed: the next start does it.
                path = f"{self.store.root}/up/{name}"
                self.assertIsNotNone(parse_draft(name))
                self.store.volume.discard_directory(path, self.store.volume.uploads_shard)
            self.assert_nothing_left()

    def attempt(self, bodies: list[bytes]) -> StoredEntry | None:
        arm = entry = None
        try:
            for number, body in enumerate(bodies, 1):
                part = self.staging.start_part(number, len(body))
                assert part is not None
                try:
                    part.append([body])
                    if not part.commit(b"%d" % number):
                        return None
                finally:
                    part.discard()
            plan = self.staging.plan(self.listed(1, 2, 3))
            if plan is None:
                return None
            arm = self.store.arm(self.name)
            entry = self.staging.assemble(arm, plan, facts_of(plan.size))
        except OSError:
            entry = None
        if arm is not None and entry is None:
            arm.invalidate()
        return entry

    def test_deleted_directory(self) -> None:
        """When the cache directory is gone, parts can't be staged, and the caller learns it."""
        os.rename(self.store.root, f"{self.store.root}.gone")
        self.assertRaises(OSError, self.staging.start_part, 1, 10)
        self.assertEqual(self.staging.parts(), {})
        self.staging.discard()
        ledger = self.store.volume.ledger
        self.assertEqual((ledger.reserved, ledger._unread_reserved), (0, 0))


class ConcurrencyTests(StagingCase):
    """Many writers of one upload."""

    def test_threads(self) -> None:
        """Parts, some of them twice, from several threads of two processes' stores: each has the ETag of its bytes."""
        stores = [self.store, self.open()]
        problems: list[BaseException] = []

        def work(thread: int) -> None:
            try:
                staging = stores[thread % 2].staging(self.name, b"upload")
                for number in range(1, 41):
                    version = thread * 100 + number
                    body = part_body(number, 3000 + version, version)
                    assert stage(staging, number, body, b"%d" % version)
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        parts = self.staging.parts()
        self.assertEqual(list(parts), list(range(1, 41)))
        plan = self.staging.plan([(number, part.etag) for number, part in parts.items()])
        assert plan is not None
        entry = self.assemble(plan)
        assert entry is not None
        wanted = b"".join(part_body(number, part.size, int(part.etag)) for number, part in parts.items())
        self.assertEqual(read_body(self.store, entry), wanted)
        # Between two stores the count may be off until the next walk, never what is on disk.
        self.store.sweeper.run()
        self.assertEqual(os.listdir(f"{self.store.root}/up"), [])

    def test_two_assemblies(self) -> None:
        """Of several who assemble one upload at the same moment, one succeeds at most."""
        for _ in range(10):
            body = self.stage_all(numbers=(1, 4))
            plan = self.planned(1, 4)
            arm = self.store.arm(self.name)
            results: list[StoredEntry | None] = []

            def work() -> None:
                results.append(self.staging.assemble(arm, plan, facts_of(plan.size)))

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            entries = [entry for entry in results if entry is not None]
            self.assertLessEqual(len(entries), 1)
            for entry in entries:
                self.assertEqual(read_body(self.store, entry), body)
            self.store.drop(self.name)
            self.assert_nothing_left()

    def test_two_processes(self) -> None:
        """Parts that another process staged are the object's like one's own."""
        program = "import sys; from test.storage.test_staging import stage_elsewhere; stage_elsewhere(sys.argv[1])"
        command = [sys.executable, "-c", program, os.path.abspath(self.store.root)]
        with subprocess.Popen(command, cwd=ROOT) as child:
            self.assertTrue(stage(self.staging, 2, part_body(2, 300_000), b"2"))
            self.assertEqual(child.wait(60), 0)
        entry = self.assemble(self.planned(1, 2, 3))
        assert entry is not None
        wanted = b"".join(part_body(number, 300_000) for number in (1, 2, 3))
        self.assertEqual(read_body(self.store, entry), wanted)


def stage_elsewhere(root: str) -> None:
    """What the other process does."""
    case = SynchronousTestCase()
    store = make_store(case, root=root, max_size=STORE, write_percent=100)
    staging = store.staging(name_of("object"), b"upload")
    for number in (3, 1):
        assert stage(staging, number, part_body(number, 300_000), b"%d" % number)
    store.close()


class RecordTests(SynchronousTestCase):
    """What is written about a part."""

    files = st.lists(st.tuples(st.integers(0, 1 << 64), st.integers(1, 1 << 40)), max_size=5)

    @given(st.integers(1, 10_000), files, st.binary(max_size=40), st.binary(max_size=300))
    def test_round_trip(self, number: int, files: list[tuple[int, int]], etag: bytes, note: bytes) -> None:
        """What is read is what was written, whatever bytes the ETag and the note have."""
        named = tuple(PartFile(data_name(7, serial % (1 << 64)), length) for serial, length in files)
        size = sum(length for _, length in files)
        part = StagedPart(number=number, size=size, etag=etag, note=note, files=named)
        self.assertEqual(decode_part(encode_part(part)), part)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are a part or a RecordError."""
        try:
            decode_part(data)
        except RecordError:
            return

    @given(st.binary(max_size=100), st.integers(0, 200), st.integers(1, 255))
    def test_changed(self, note: bytes, position: int, change: int) -> None:
        """A record in which one byte is another one is not taken for one."""
        file = PartFile(data_name(1, 2), 5)
        data = bytearray(encode_part(StagedPart(number=1, size=5, etag=b"e", note=note, files=(file,))))
        data[position % len(data)] ^= change
        self.assertRaises(RecordError, decode_part, bytes(data))

    def test_contradictions(self) -> None:
        """A record that names files that are no parts' files, or whose numbers don't fit, is none."""
        good = StagedPart(number=1, size=5, etag=b"e", note=b"", files=(PartFile(data_name(1, 2), 5),))
        self.assertEqual(decode_part(encode_part(good)), good)
        for bad in (
            attrs.evolve(good, files=(PartFile("../../x", 5),)),
            attrs.evolve(good, size=6),
            attrs.evolve(good, number=0),
            attrs.evolve(good, files=(PartFile(data_name(1, 2), 6), PartFile(data_name(1, 3), -1))),
        ):
            self.assertRaises(RecordError, decode_part, encode_part(bad))

    def test_names(self) -> None:
        """Names say what they are, and nothing else is taken for them; no upload id gets into a path."""
        name = name_of("x")
        self.assertEqual(parse_draft(draft_name(name, 5, 6)), DraftName(name, 5, 6))
        self.assertEqual(parse_staging(staging_name(name, b"../../x")), name)
        self.assertNotIn("/", staging_name(name, b"../../x"))
        self.assertNotEqual(staging_name(name, b"a"), staging_name(name, b"b"))
        self.assertTrue(is_data(data_name(1, 2)))
        self.assertEqual(parse_record(record_name(77)), 77)
        others = ("", "x", "r.0", "r.01", "r.100000", draft_name(name, 1, 2), staging_name(name, b"x"), data_name(1, 2))
        for text in (*others, record_name(1), "poisoned", f"{name.text}.f", f"{name.text}.{5:015x}"):
            self.assertEqual(parse_draft(text) is not None, text == others[5])
            self.assertEqual(parse_staging(text) is not None, text == others[6])
            self.assertEqual(is_data(text), text == others[7])
            self.assertEqual(parse_record(text) is not None, text == "r.1")
