"""Growing files."""

import os

from twisted.trial.unittest import SynchronousTestCase

from test.storage.support import ABOUT, MIB, add_range, files_below, make_store, name_of, put_inline, put_ranges


class RangeWriterTests(SynchronousTestCase):
    """Ranges that are being written."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.entry = put_ranges(self.store, name_of("growing"), 20 * MIB)

    def test_readers_follow(self) -> None:
        """Readers see each byte once it is written, before, while and after the range is published."""
        writer = self.store.start_range(self.entry, 100, 10)
        self.assertEqual((writer.base, writer.start, writer.length, writer.written), (0, 100, 10, 0))
        handle = writer.handle()
        self.assertEqual((handle.base, handle.start, handle.stop), (0, 100, 110))
        writer.append([b"abc", b"", b"de"])
        self.assertEqual(writer.written, 5)
        self.assertEqual(os.pread(handle.fd, 5, handle.base), b"abcde")
        self.assertEqual(self.store.ranges(self.entry), ())
        writer.append([b"fghij"])
        self.assertEqual(writer.commit(), 10)
        self.assertEqual(self.store.ranges(self.entry), ((100, 110),))
        self.assertEqual(os.pread(writer.fd, 10, writer.base), b"abcdefghij")
        writer.close()
        self.store.drop(self.entry.name)
        self.assertEqual(os.pread(handle.fd, 10, handle.base), b"abcdefghij")
        handle.close()

    def test_incomplete(self) -> None:
        """A range that lacks bytes can't be published."""
        writer = self.store.start_range(self.entry, 0, 10)
        writer.append([b"123"])
        self.assertRaises(ValueError, writer.commit)
        writer.close()
        self.assertEqual(self.store.ranges(self.entry), ())

    def test_too_much(self) -> None:
        """More than was promised is refused, and not written."""
        writer = self.store.start_range(self.entry, 0, 10)
        writer.append([b"1234567"])
        self.assertRaises(ValueError, writer.append, [b"89", b"ab"])
        writer.append([b"890"])
        self.assertEqual(writer.commit(), 10)
        self.assertRaises(ValueError, writer.append, [b""])
        self.assertRaises(ValueError, writer.commit)
        self.assertRaises(ValueError, writer.commit_prefix, 1)
        writer.close()

    def test_prefix(self) -> None:
        """What was written so far becomes a shorter range, if it is worth it."""
        writer = self.store.start_range(self.entry, 2 * MIB, 2 * MIB)
        writer.append([b"x" * 1_100_000])
        self.assertEqual(writer.commit_prefix(MIB), 1_100_000)
        writer.close()
        self.assertEqual(self.store.ranges(self.entry), ((2 * MIB, 2 * MIB + 1_100_000),))
        self.store.volume.handles.close()
        handle = self.store.open_range(self.entry, 2 * MIB, 2 * MIB + 1_100_000)
        assert handle is not None
        handle.close()
        for written, least in ((0, 0), (10, 11)):
            writer = self.store.start_range(self.entry, 0, 100)
            writer.append([b"y" * written])
            self.assertIsNone(writer.commit_prefix(least))
            writer.close()
        self.assertEqual(len(files_below(self.store.volume.range_path(self.entry, 0))), 1)

    def test_discard(self) -> None:
        """What is discarded leaves nothing behind, but is readable until everybody closed it."""
        writer = self.store.start_range(self.entry, 0, 10)
        writer.append([b"123"])
        handle = writer.handle()
        self.assertGreater(self.store.in_flight(), 0)
        writer.discard()
        writer.discard()
        self.assertEqual(self.store.in_flight(), 0)
        self.assertEqual(files_below(self.store.volume.range_path(self.entry, 0)), [])
        self.assertEqual(os.pread(writer.fd, 3, 0), b"123")
        writer.close()
        self.assertEqual(os.pread(handle.fd, 3, 0), b"123")
        descriptor = handle.fd
        handle.close()
        self.assertRaises(OSError, os.fstat, descriptor)
        self.assertRaises(ValueError, writer.handle)

    def test_same_range_twice(self) -> None:
        """Two writers of the same range both succeed; it is stored and counted once."""
        writers = [self.store.start_range(self.entry, 0, 100) for _ in range(2)]
        for writer in writers:
            writer.append([b"z" * 100])
        self.assertEqual(writers[0].commit(), 100)
        used = self.store.usage()
        self.assertEqual(writers[1].commit(), 100)
        for writer in writers:
            writer.close()
        self.assertEqual(self.store.usage(), used)
        self.assertEqual(files_below(self.store.volume.range_path(self.entry, 0)), ["0-64"])

    def test_entry_gone(self) -> None:
        """A range whose entry was invalidated meanwhile is not published, neither whole nor as a prefix."""
        for finish in (lambda writer: writer.commit(), lambda writer: writer.commit_prefix(1)):
            entry = put_ranges(self.store, name_of("doomed"), MIB)
            writer = self.store.start_range(entry, 0, 10)
            writer.append([b"0123456789"])
            self.store.drop(entry.name)
            self.assertIsNone(finish(writer))
            writer.close()
            self.store.sweeper.run()
            self.assertEqual(self.store.in_flight(), 0)
            self.assertIsNone(self.store.load(entry.name))
        self.assertEqual(os.listdir(f"{self.store.root}/trash"), [])

    def test_replaced_by_new_version(self) -> None:
        """A range never lands in another version of its object."""
        writer = self.store.start_range(self.entry, 0, 10)
        writer.append([b"0123456789"])
        new = put_ranges(self.store, self.entry.name, 20 * MIB)
        self.assertIsNone(writer.commit())
        writer.close()
        self.assertEqual(self.store.ranges(new), ())

    def test_checksums(self) -> None:
        """The footer is right for a range of several blocks in odd pieces: a scan after a host failure keeps it."""
        data = os.urandom(3 * MIB + 17)
        writer = self.store.start_range(self.entry, 0, len(data))
        for start in range(0, len(data), 77_777):
            writer.append([data[start : start + 77_777]])
        writer.commit()
        writer.close()
        self.store.volume.doubt_from = 0.0
        self.store.volume.instance.started_at = 1e12
        scan = self.store.scan()
        while not scan.step():
            continue
        self.assertEqual(self.store.ranges(self.entry), ((0, len(data)),))


class InlineWriterTests(SynchronousTestCase):
    """Whole bodies that grow in the flight file."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.name = name_of("inline")
        lease = self.store.lease(self.name)
        assert lease is not None
        self.writer = self.store.start_inline(lease, object_size=200_000, **ABOUT)
        self.addCleanup(self.writer.close)

    def test_publish(self) -> None:
        """The entry appears with the last byte, and not before; readers follow it from the start."""
        handle = self.writer.handle()
        self.writer.append([b"a" * 150_000])
        self.assertIsNone(self.store.load(self.name))
        self.assertEqual(os.pread(handle.fd, 200_000, handle.base), b"a" * 150_000)
        self.assertRaises(ValueError, self.writer.commit)
        self.writer.append([b"b" * 50_000])
        entry = self.writer.commit()
        self.assertEqual(self.store.load(self.name), entry)
        self.assertEqual(os.pread(handle.fd, 200_000, handle.base), b"a" * 150_000 + b"b" * 50_000)
        handle.close()
        self.writer.close()
        self.assertEqual(self.store.in_flight(), 0)

    def test_revoked(self) -> None:
        """After an invalidation it is not published."""
        self.writer.append([b"a" * 200_000])
        self.store.drop(self.name)
        self.assertIsNone(self.writer.commit())
        self.assertIsNone(self.store.load(self.name))
        self.assertEqual(self.store.in_flight(), 0)

    def test_discard(self) -> None:
        """A discarded body frees the lease."""
        self.writer.append([b"a"])
        self.writer.close()
        self.assertEqual(files_below(f"{self.store.root}/o"), [])
        self.assertIsNotNone(self.store.lease(self.name))

    def test_old_version_stays(self) -> None:
        """An older version stays in place until the new one is complete."""
        self.writer.close()
        put_inline(self.store, self.name, b"old")
        lease = self.store.lease(self.name)
        assert lease is not None
        writer = self.store.start_inline(lease, object_size=3, **ABOUT)
        writer.append([b"ne"])
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(found.small_body, b"old")
        writer.append([b"w"])
        writer.commit()
        writer.close()
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(found.small_body, b"new")


class LargestBufferTests(SynchronousTestCase):
    """What a write costs in calls."""

    def test_many_chunks(self) -> None:
        """More chunks than one call may take are written all the same."""
        store = make_store(self)
        entry = put_ranges(store, name_of("pieces"), MIB)
        writer = store.start_range(entry, 0, 3000)
        writer.append([bytes([index % 251]) for index in range(3000)])
        self.assertEqual(writer.commit(), 3000)
        self.assertEqual(os.pread(writer.fd, 3000, 0), bytes(index % 251 for index in range(3000)))
        writer.close()
        self.assertEqual(add_range(store, entry, 0, 3000), 3000)
