"""Stored bytes that are not sent before they were compared with their checksums, or decoded."""

import os
from test.cache.test_ram import Thread, descriptors
from test.storage.test_packing import LINE
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.cache.index import Record
from s3proxy.cache.inspection import MOST_DECODED, WINDOW, Inspector
from s3proxy.cache.memfile import SMALL
from s3proxy.cache.ram import RamTier
from s3proxy.cache.spans import FileSpan, MemorySpan
from s3proxy.cache.view import BodyReader, View
from s3proxy.s3.headers import Headers
from s3proxy.storage.disk import DiskStore, GenerationTable, open_store
from s3proxy.storage.layout import entry_name

MIB = 1 << 20
ID = ObjectId("aws", b"bucket", b"key")
SIZE = 6 * MIB + 1000
BODY = b"".join(LINE % number for number in range(SIZE // len(LINE) + 1))[:SIZE]
CUT = 4 * MIB


def flip(path: str, offset: int) -> None:
    """Change one bit of a file that nobody has looked at yet."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


class InspectionTestCase(SynchronousTestCase):
    """A store as it is after a restart, and a thread that works when the test says so."""

    packed = False
    inline = False

    def setUp(self) -> None:
        self.root = os.path.abspath(self.mktemp())
        before = self.open()
        self.version = ObjectVersion(
            id=ID, etag=b'"v"', last_modified=None, size=SIZE, headers=Headers([(b"ETag", b'"v"')])
        )
        lease = before.lease(entry_name(ID.parts))
        assert lease is not None
        about: dict[str, Any] = {
            "meta": encode_version(self.version),
            "object_size": SIZE,
            "validated_at": 1.0,
            "observed_at": 1.0,
        }
        if self.inline:
            stored = before.publish_inline(lease, body=[BODY], **about)
            assert stored is not None
            if self.packed:
                before.pack_entry(stored, block=20)
        else:
            stored = before.publish_ranges(lease, **about)
            assert stored is not None
            for start, stop in ((0, CUT), (CUT, SIZE)):
                writer = before.start_range(stored, start, stop - start)
                writer.append([BODY[start:stop]])
                writer.commit()
                writer.close()
                if self.packed:
                    before.pack_range(stored, start, stop, block=20)
        before.close()
        self.before = descriptors()
        self.store = self.open()
        entry = self.store.load(entry_name(ID.parts))
        assert entry is not None
        self.record = Record(entry.name, entry.epoch, 1.0, entry, self.version)
        self.thread = Thread()
        self.inspector = Inspector(self.thread.run)
        self.ram: RamTier | None = None

    def open(self) -> DiskStore:
        store = open_store(self.root, max_size=1 << 30, now=lambda: 1000.0, generations=GenerationTable())
        self.addCleanup(store.close)
        return store

    def reader(self, start: int = 0, stop: int = SIZE, **options: Any) -> BodyReader:
        view = View(
            version=self.version,
            validated_at=1.0,
            record=self.record,
            fills=(),
            store=self.store,
            ram=self.ram,
            inspector=self.inspector,
        )
        reader = view.reader((start, stop), **options)
        self.addCleanup(reader.close)
        return reader

    def step(self, reader: BodyReader) -> "bytes | Deferred[None] | None":
        """What comes next; bytes that can be sent are."""
        step = reader.next()
        if isinstance(step, FileSpan):
            data = os.pread(step.fd, step.count, step.offset)
            self.assertEqual(len(data), step.count)
            step.release()
        elif isinstance(step, MemorySpan):
            data = bytes(step.data)
        else:
            return step
        self.assertEqual(data, BODY[reader.position : reader.position + len(data)])
        reader.advance(len(data))
        return data

    def read(self, reader: BodyReader) -> bytes:
        """All of it; the thread works when it is waited for."""
        data = b""
        while reader.position < reader.stop:
            step = self.step(reader)
            if isinstance(step, bytes):
                data += step
            else:
                assert step is not None, reader.position
                while not step.called:
                    self.thread.work()
        while self.thread.calls:
            self.thread.work()
        return data

    def file(self, start: int = 0, stop: int = CUT) -> str:
        if self.inline:
            return self.store.volume.entry_path(self.record.name)
        suffix = ".z" if self.packed else ""
        return f"{self.store.volume.range_path(self.record.stored, start)}/{start:x}-{stop - start:x}{suffix}"


class PlainTests(InspectionTestCase):
    """Files that can be sent as they are, once they have been compared."""

    def test_first_read(self) -> None:
        """The first read after a restart waits for the thread: for one block, then less and less."""
        reader = self.reader()
        self.assertIsInstance(self.step(reader), Deferred)
        self.assertEqual(len(self.thread.calls), 1)
        self.thread.work()
        self.assertEqual(self.step(reader), BODY[:MIB])
        # What follows was begun when these bytes were given out.
        self.assertEqual(len(self.thread.calls), 1)
        self.thread.work()
        self.assertEqual(self.step(reader), BODY[MIB:CUT])
        self.assertEqual(self.read(reader), BODY[CUT:])

    def test_second_read(self) -> None:
        """After that nothing is waited for."""
        self.read(self.reader())
        reader = self.reader()
        self.assertEqual(self.step(reader), BODY[:CUT])
        self.assertEqual(self.step(reader), BODY[CUT:])
        self.assertEqual(self.thread.calls, [])

    def test_small_part(self) -> None:
        """For a few bytes one block is compared."""
        read: list[int] = []
        pread = self.store.volume.calls.pread

        def counted(fd: int, count: int, offset: int) -> bytes:
            read.append(count)
            return pread(fd, count, offset)

        self.patch(self.store.volume.calls, "pread", counted)
        self.assertEqual(self.read(self.reader(2 * MIB + 5, 2 * MIB + 50)), BODY[2 * MIB + 5 : 2 * MIB + 50])
        self.assertEqual(read.count(MIB), 1)
        self.assertEqual(self.thread.calls, [])

    def test_shared(self) -> None:
        """Those who want the same block wait for the same work; one of them may leave."""
        first, second = self.reader(), self.reader(100, 200)
        waiting = self.step(first), self.step(second)
        self.assertEqual(len(self.thread.calls), 1)
        assert isinstance(waiting[0], Deferred)
        waiting[0].cancel()
        self.failureResultOf(waiting[0])
        first.close()
        self.thread.work()
        self.assertEqual(self.step(second), BODY[100:200])

    def test_damaged(self) -> None:
        """A damaged block is not sent, nor what is behind it in the file: S3 is asked for that."""
        flip(self.file(), 2 * MIB)
        reader = self.reader()
        self.assertEqual(self.read_until_missing(reader), BODY[:MIB])
        self.assertFalse(reader.unreadable)
        self.assertEqual(self.record.ranges(self.store), ((CUT, SIZE),))

    def read_until_missing(self, reader: BodyReader) -> bytes:
        data = b""
        while (step := self.step(reader)) is not None:
            if isinstance(step, bytes):
                data += step
            else:
                while not step.called:
                    self.thread.work()
        return data

    def test_cannot_be_put_aside(self) -> None:
        """A damaged file that can't be moved is not looked at for ever."""
        flip(self.file(), 1000)

        def refuse(*args: object) -> None:
            raise OSError(30, "read-only")

        for name in ("rename", "unlink"):
            self.patch(self.store.volume.calls, name, refuse)
        reader = self.reader()
        self.assertEqual(self.read_until_missing(reader), b"")
        self.assertTrue(reader.unreadable)

    def test_busy_disk(self) -> None:
        """When no thread is to be had, the cache is as good as unreadable."""
        reader = self.reader()
        self.thread.busy = True
        step = self.step(reader)
        assert isinstance(step, Deferred)
        self.assertTrue(step.called)
        self.assertIsNone(self.step(reader))
        self.assertTrue(reader.unreadable)

    def test_prompt(self) -> None:
        """Who can't wait is told nothing, and nothing is begun."""
        self.assertIsNone(self.reader(prompt=True).next())
        self.assertEqual(self.thread.calls, [])
        self.read(self.reader())
        span = self.reader(prompt=True).next()
        assert isinstance(span, FileSpan)
        span.release()

    def test_without_a_thread(self) -> None:
        """Where there is no inspector, it is done at once."""
        view = View(version=self.version, validated_at=1.0, record=self.record, fills=(), store=self.store)
        reader = view.reader((0, SIZE))
        self.addCleanup(reader.close)
        self.assertEqual(self.read(reader), BODY)


class PlainInlineTests(PlainTests):
    """The same with the body in the entry's own file."""

    inline = True

    def test_first_read(self) -> None:
        """By blocks, too."""
        self.assertEqual(self.read(self.reader()), BODY)

    def test_second_read(self) -> None:
        """And only once."""
        self.read(self.reader())
        self.assertEqual(self.step(self.reader()), BODY)

    def test_damaged(self) -> None:
        """The entry is gone then."""
        flip(self.file(), 2 * MIB + 1000)
        reader = self.reader()
        self.assertEqual(self.read_until_missing(reader), BODY[:MIB])
        self.assertIsNone(self.store.load(self.record.name))


class PackedTests(InspectionTestCase):
    """Encoded files: decoded for each reader, or once for all in memory."""

    packed = True

    def check_nothing_left(self) -> None:
        self.assertEqual((self.inspector.decoded, descriptors()), (0, self.before))

    def test_all(self) -> None:
        """All of it, block by block; afterwards nothing is held."""
        reader = self.reader()
        self.assertEqual(self.read(reader), BODY)
        reader.close()
        self.check_nothing_left()

    def test_small_part(self) -> None:
        """A few bytes need one block, and no descriptor."""
        reader = self.reader(2 * MIB + 5, 2 * MIB + 50)
        step = self.step(reader)
        assert isinstance(step, Deferred)
        self.thread.work()
        self.assertIsInstance(reader.next(), MemorySpan)
        self.assertEqual(self.inspector.decoded, 45)
        reader.close()
        self.check_nothing_left()

    def test_window(self) -> None:
        """No more than a block is held for one reader."""
        reader = self.reader(MIB // 2, SIZE)
        self.assertIsInstance(self.step(reader), Deferred)
        self.assertEqual(self.inspector.decoded, MIB // 2)
        self.thread.work()
        self.assertEqual(self.step(reader), BODY[MIB // 2 : MIB])
        self.assertIsInstance(self.step(reader), Deferred)
        self.assertEqual(self.inspector.decoded, WINDOW)
        self.thread.work()

    def test_many_readers(self) -> None:
        """When there are very many, each is given little, and all of it in the end."""
        self.inspector.decoded = MOST_DECODED
        reader = self.reader(0, 3 * SMALL)
        self.assertIsInstance(self.step(reader), Deferred)
        self.assertEqual(self.inspector.decoded, MOST_DECODED + SMALL)
        self.assertEqual(self.read(reader), BODY[: 3 * SMALL])
        reader.close()
        self.assertEqual(self.inspector.decoded, MOST_DECODED)

    def test_reader_leaves(self) -> None:
        """What nobody waits for any more is let go of."""
        reader = self.reader()
        step = self.step(reader)
        assert isinstance(step, Deferred)
        step.cancel()
        self.failureResultOf(step)
        reader.close()
        self.thread.work()
        self.check_nothing_left()

    def test_leaves_while_it_is_sent(self) -> None:
        """What is being sent stays until it is sent."""
        reader = self.reader(0, MIB)
        self.step(reader)
        self.thread.work()
        span = reader.next()
        assert isinstance(span, FileSpan)
        reader.close()
        self.assertEqual(os.pread(span.fd, span.count, span.offset), BODY[:MIB])
        span.release()
        self.check_nothing_left()

    def test_damaged(self) -> None:
        """A block that can't be decoded, or is another one, is not sent."""
        flip(self.file(), 30)
        reader = self.reader()
        step = self.step(reader)
        assert isinstance(step, Deferred)
        self.thread.work()
        self.assertIsNone(self.step(reader))
        self.assertEqual(self.record.ranges(self.store), ((CUT, SIZE),))
        reader.close()
        self.check_nothing_left()

    def test_hot(self) -> None:
        """What is read again is decoded once for all, and found in memory then, also by those who can't wait."""
        self.ram = RamTier(self.thread.run, lambda: 0.0, total=64 * MIB, seed=1, plain=False)
        self.addCleanup(self.ram.close)
        for _ in range(3):
            self.assertEqual(self.read(self.reader(0, CUT)), BODY[:CUT])
        self.assertEqual(self.ram.promoted, 1)
        reader = self.reader(100, CUT, prompt=True)
        self.assertEqual(self.step(reader), BODY[100:CUT])
        self.assertEqual(self.thread.calls, [])
        reader = self.reader(CUT, SIZE, prompt=True)
        misses = self.ram.misses
        self.assertIsNone(reader.next())
        self.assertEqual(self.ram.misses, misses)

    def test_damaged_when_it_becomes_hot(self) -> None:
        """No damaged byte gets into memory."""
        self.ram = RamTier(self.thread.run, lambda: 0.0, total=64 * MIB, seed=1, plain=False)
        self.addCleanup(self.ram.close)
        self.assertEqual(self.read(self.reader(0, 10)), BODY[:10])
        handle = self.store.open_range(self.record.stored, 0, CUT)
        assert handle is not None
        with open(self.file(), "r+b") as file:
            file.seek(os.path.getsize(self.file()) - 200)
            file.write(b"xxxx")
        for _ in range(5):
            self.ram.find(self.record.stored, (0, CUT), 0, CUT, encoded=True)
        self.ram.promote(self.record.stored, handle, 0)
        handle.close()
        self.thread.work()
        self.assertEqual((self.ram.promoted, self.ram.failed, len(self.ram)), (0, 1, 0))
        self.assertEqual(self.store.ranges(self.record.stored), ((CUT, SIZE),))


class PackedInlineTests(PackedTests):
    """The same with the body in the entry's own file."""

    inline = True

    def test_damaged(self) -> None:
        """The entry is gone then."""
        flip(self.file(), os.path.getsize(self.file()) // 2)
        reader = self.reader()
        while (step := self.step(reader)) is not None:
            if isinstance(step, Deferred):
                self.thread.work()
        self.assertIsNone(self.store.load(self.record.name))

    def test_hot(self) -> None:
        """Also these are decoded once."""
        self.ram = RamTier(self.thread.run, lambda: 0.0, total=64 * MIB, seed=1, plain=False)
        self.addCleanup(self.ram.close)
        for _ in range(3):
            self.assertEqual(self.read(self.reader(0, SIZE)), BODY)
        self.assertEqual(self.ram.promoted, 2)
        self.assertIsInstance(self.step(self.reader(prompt=True)), bytes)

    def test_damaged_when_it_becomes_hot(self) -> None:
        """See the other one."""


class PlainMemoryTests(InspectionTestCase):
    """A memory tier for encoded bodies alone."""

    def test_nothing_is_copied(self) -> None:
        """Plain files are left to the kernel, and not even counted."""
        self.ram = RamTier(self.thread.run, lambda: 0.0, total=64 * MIB, seed=1, plain=False)
        self.addCleanup(self.ram.close)
        for _ in range(5):
            self.read(self.reader())
        self.assertEqual((self.ram.hits, self.ram.misses, self.ram.promoted, self.ram.refused), (0, 0, 0, 0))
