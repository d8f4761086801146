"""Reading one version, wherever its bytes are."""

import os
import tempfile
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.cache.fill import Fill
from s3proxy.cache.growing import FillBroken
from s3proxy.cache.index import Record
from s3proxy.cache.spans import FileSpan, MemorySpan
from s3proxy.cache.view import BodyReader, Coverage, View
from s3proxy.s3.headers import Headers
from s3proxy.storage.disk import StoredEntry, open_store
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import entry_name
from test.support.streams import ScriptedSource, run_at_once

ID = ObjectId("aws", b"bucket", b"key")
BODY = bytes(range(100))


class ViewTestCase(SynchronousTestCase):
    """A real directory, and bodies that the test delivers."""

    size = 100

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.store = open_store(
            directory.name + "/cache", max_size=1 << 30, now=lambda: 1000.0, generations=GenerationTable()
        )
        self.addCleanup(self.store.close)
        self.version = ObjectVersion(
            id=ID, etag=b'"v"', last_modified=None, size=self.size, headers=Headers([(b"ETag", b'"v"')])
        )

    def publish(self, way: str, **extra: Any) -> Record:
        """An entry, published as the store's method of that name does it."""
        lease = self.store.lease(entry_name(ID.parts))
        assert lease is not None
        stored: StoredEntry | None = getattr(self.store, way)(
            lease,
            meta=encode_version(self.version),
            object_size=self.size,
            validated_at=1.0,
            observed_at=1.0,
            **extra,
        )
        assert stored is not None
        return Record(stored.name, stored.epoch, 1.0, stored, self.version)

    def ranges(self, *intervals: tuple[int, int]) -> Record:
        """An entry with these ranges of BODY."""
        record = self.publish("publish_ranges")
        for start, stop in intervals:
            writer = self.store.start_range(record.stored, start, stop - start)
            writer.append([BODY[start:stop]])
            writer.commit()
            writer.close()
        return record

    def fill(self, start: int = 0, stop: int = 100) -> Fill:
        """A body under way, in memory."""
        fill = Fill(
            Clock(),
            run_at_once,
            ScriptedSource(),
            start,
            stop,
            writers=None,
            commit_small=lambda chunks, promptly: None,
            on_settled=lambda fill, results: None,
            on_disk_error=lambda error: None,
        )
        fill.begin()
        return fill

    def view(self, record: Record | None = None, *fills: Fill) -> View:
        return View(version=self.version, validated_at=1.0, record=record, fills=fills, store=self.store)

    def read(self, reader: BodyReader) -> bytes:
        """What can be read now."""
        data = b""
        while reader.position < reader.stop:
            step = reader.next()
            if isinstance(step, FileSpan):
                piece = os.pread(step.fd, step.count, step.offset)
                step.release()
            elif isinstance(step, MemorySpan):
                piece = bytes(step.data)
            else:
                break
            data += piece
            reader.advance(len(piece))
        return data


class CoverageTests(ViewTestCase):
    """How an interval can be read."""

    def check(self, view: View, *expected: tuple[int, int, Coverage]) -> None:
        for start, stop, coverage in expected:
            self.assertIs(view.coverage((start, stop)), coverage, (start, stop))

    def test_description_only(self) -> None:
        """A HEAD's entry has no bytes; an empty interval needs none."""
        view = self.view(self.publish("publish_head"))
        self.check(view, (0, 100, Coverage.MISSING), (0, 1, Coverage.MISSING), (5, 5, Coverage.CACHED))
        self.assertEqual(view.held(), ())

    def test_whole(self) -> None:
        """An inline entry has all."""
        view = self.view(self.publish("publish_inline", body=[BODY]))
        self.check(view, (0, 100, Coverage.CACHED), (99, 100, Coverage.CACHED))
        self.assertEqual(view.held(), ((0, 100),))

    def test_ranges(self) -> None:
        """Ranges together."""
        view = self.view(self.ranges((10, 20), (15, 40)))
        self.check(view, (10, 40, Coverage.CACHED), (9, 40, Coverage.MISSING), (10, 41, Coverage.MISSING))
        self.assertEqual(view.available(), ((10, 20), (15, 40)))

    def test_growing(self) -> None:
        """Bodies under way count as far as they can be joined."""
        fill = self.fill(20, 60)
        view = self.view(self.ranges((10, 20)), fill)
        self.check(
            view, (10, 20, Coverage.CACHED), (10, 60, Coverage.GROWING), (20, 61, Coverage.MISSING)
        )
        self.check(self.view(None, fill), (20, 60, Coverage.GROWING), (19, 60, Coverage.MISSING))
        fill.stream_failed(Failure(FillBroken("reset")))
        self.check(view, (10, 60, Coverage.MISSING))

    def test_files_that_are_closed(self) -> None:
        """What is in files of a long body that are closed already does not come from there."""
        self.store.cut = 10
        record = self.publish("publish_ranges")
        fill = Fill(
            Clock(),
            run_at_once,
            ScriptedSource(),
            0,
            100,
            writers=lambda position: self.store.start_range(record.stored, position, 10),
            on_settled=lambda fill, results: None,
            on_disk_error=lambda error: None,
        )
        fill.begin()
        fill.data_received(BODY[:60])
        self.assertEqual(fill.first, 30)
        self.check(self.view(None, fill), (30, 100, Coverage.GROWING), (29, 100, Coverage.MISSING))
        self.check(self.view(record, fill), (0, 100, Coverage.GROWING), (0, 50, Coverage.CACHED))
        reader = self.view(None, fill).reader((29, 100))
        self.assertIsNone(reader.next())
        reader.use(self.view(record, fill))
        self.assertEqual(self.read(reader), BODY[29:60])
        reader.close()
        fill.stream_failed(Failure(FillBroken("reset")))

    def test_no_directory(self) -> None:
        """A directory that can't be read has nothing."""
        record = self.ranges((10, 20))

        def fail(entry: object) -> None:
            raise OSError(5, "broken")

        self.patch(self.store, "listed", fail)
        self.check(self.view(record), (10, 20, Coverage.MISSING))


class ReaderTests(ViewTestCase):
    """Span by span."""

    def test_small_body(self) -> None:
        """Out of memory, exactly the bytes."""
        view = self.view(self.publish("publish_inline", body=[BODY]))
        reader = view.reader((10, 20))
        self.assertIsInstance(reader.next(), MemorySpan)
        self.assertEqual(self.read(reader), BODY[10:20])
        self.assertEqual((reader.position, reader.from_cache, reader.from_upstream), (20, 10, 0))

    def test_overlapping_ranges(self) -> None:
        """Each step takes the range that leads farthest."""
        reader = self.view(self.ranges((0, 30), (10, 50), (20, 40), (50, 100))).reader((5, 90))
        first = reader.next()
        assert isinstance(first, FileSpan)
        self.assertEqual((first.offset, first.count, first.hot), (5, 25, False))
        first.release()
        self.assertEqual(self.read(reader), BODY[5:90])

    def test_longest_range(self) -> None:
        """Not the first one."""
        span = self.view(self.ranges((0, 20), (5, 40), (7, 30))).reader((10, 90)).next()
        assert isinstance(span, FileSpan)
        self.assertEqual((span.offset, span.count), (5, 30))
        span.release()

    def test_gap(self) -> None:
        """At a byte that nobody has there is nothing."""
        reader = self.view(self.ranges((0, 30), (40, 50))).reader((0, 50))
        self.assertEqual(self.read(reader), BODY[:30])
        self.assertIsNone(reader.next())

    def test_growing_body(self) -> None:
        """Bytes under way are waited for; once finished files have ended, reading goes on there."""
        fill = self.fill(30, 60)
        reader = self.view(self.ranges((0, 30)), fill).reader((0, 50))
        self.assertEqual(self.read(reader), BODY[:30])
        waiting = reader.next()
        assert isinstance(waiting, Deferred)
        fill.data_received(BODY[30:45])
        self.successResultOf(waiting)
        self.assertEqual(self.read(reader), BODY[30:45])
        fill.data_received(BODY[45:60])
        fill.stream_ended()
        self.assertEqual(self.read(reader), BODY[45:50])
        self.assertEqual((reader.from_cache, reader.from_upstream), (50, 0))

    def test_whose_bytes(self) -> None:
        """Bytes of the reader's own fills are told from others; what is not sent is not counted."""
        own, later = self.fill(0, 10), self.fill(10, 20)
        view = self.view(None, own)
        reader = view.reader((0, 20), own=own)
        own.data_received(BODY[:10])
        self.assertEqual(self.read(reader), BODY[:10])
        reader.join(later, own=True)
        later.data_received(BODY[10:20])
        reader.next()
        self.assertEqual((reader.from_cache, reader.from_upstream), (0, 10))
        self.read(reader)
        self.assertEqual((reader.from_cache, reader.from_upstream), (0, 20))

    def test_broken_body(self) -> None:
        """What came before a failure can be read; then there is nothing."""
        fill = self.fill()
        reader = self.view(None, fill).reader((0, 100))
        fill.data_received(BODY[:7])
        fill.stream_failed(Failure(FillBroken("reset")))
        self.assertEqual(self.read(reader), BODY[:7])
        self.assertIsNone(reader.next())
        self.assertFalse(reader.condemned)
        fill.condemned = True
        self.assertTrue(reader.condemned)

    def test_only_fills_that_help_are_joined(self) -> None:
        """Bodies beside the interval are left alone, and so are those that can't be joined."""
        near, far, over = self.fill(0, 50), self.fill(50, 100), self.fill(0, 100)
        over.stream_failed(Failure(FillBroken("reset")))
        reader = self.view(None, near, far, over).reader((10, 50))
        self.assertEqual([len(fill._readers) for fill in (near, far, over)], [1, 0, 0])
        reader.use(self.view(None, near))
        self.assertEqual(len(near._readers), 1)
        reader.close()
        reader.close()
        self.assertEqual(len(near._readers), 0)

    def test_claims_move_along(self) -> None:
        """A fill knows where its readers are."""
        fill = self.fill(20, 60)
        reader = self.view(self.ranges((0, 20)), fill).reader((0, 60))
        self.assertEqual(fill._readers[reader], 20)
        reader.next()
        reader.advance(5)
        self.assertEqual(fill._readers[reader], 20)
        self.read(reader)
        self.assertEqual(fill._readers[reader], 20)
        fill.data_received(BODY[20:30])
        self.read(reader)
        self.assertEqual(fill._readers[reader], 30)

    def test_published_elsewhere(self) -> None:
        """What a body under way has published is read out of the cache, also if the directory was listed before; and
        nobody waits for what was there, and is there no more.
        """
        record = self.ranges((0, 10))
        self.assertEqual(record.ranges(self.store), ((0, 10),))
        fill = self.fill(0, 100)
        self.patch(Fill, "published", property(lambda fill: ((10, 30),)))
        self.patch(fill, "span", lambda position, stop: None)
        fill.data_received(BODY[:30])
        reader = self.view(record, fill).reader((0, 100))
        writer = self.store.start_range(record.stored, 10, 20)
        writer.append([BODY[10:30]])
        writer.commit()
        writer.close()
        self.assertEqual(self.read(reader), BODY[:30])
        self.assertIsInstance(reader.next(), Deferred)
        reader.close()
        late = self.view(None, fill).reader((5, 100))
        self.assertIsNone(late.next())
        late.close()

    def test_evicted_range(self) -> None:
        """A range that has gone is looked for again, not waited for."""
        record = self.ranges((0, 30))
        reader = self.view(record).reader((0, 30))
        record.ranges(self.store)
        self.store.volume.handles.forget(record.name.digest)
        os.unlink(f"{self.store.volume.range_path(record.stored, 0)}/" + _file(record, self.store))
        self.assertIsNone(reader.next())
        self.assertEqual(record.ranges(self.store), ())
        self.assertFalse(reader.unreadable)

    def test_unreadable(self) -> None:
        """After an error of the disk the reader leaves it alone."""
        record = self.ranges((0, 30))
        reader = self.view(record).reader((0, 30))

        def fail(*args: object, **hints: object) -> None:
            raise OSError(24, "too many open files")

        self.patch(self.store, "open_range", fail)
        self.assertIsNone(reader.next())
        self.assertTrue(reader.unreadable)


class LargeEntryTests(ViewTestCase):
    """An inline entry that is too large for memory."""

    size = 100_000

    def test_file(self) -> None:
        """Out of its file, until another entry has the name."""
        body = os.urandom(100_000)
        record = self.publish("publish_inline", body=[body])
        record = Record(record.name, 1, 1.0, record.stored, self.version)
        reader = self.view(record).reader((99_000, 100_000))
        span = reader.next()
        assert isinstance(span, FileSpan)
        self.assertEqual((span.count, span.hot), (1000, False))
        span.release()
        self.assertEqual(self.read(reader), body[99_000:])
        reader = self.view(record).reader((0, 10))
        self.store.drop(record.name)
        self.assertIsNone(reader.next())
        self.assertFalse(reader.unreadable)


def _file(record: Record, store: Any) -> str:
    return next(name for name in os.listdir(store.volume.range_path(record.stored, 0)) if not name.startswith("t."))
