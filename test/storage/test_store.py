"""Publishing, finding and opening entries."""

import os
import stat

import attrs

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import HEAD, INLINE, RANGES
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.lease import Lease
from s3proxy.storage.record import META_MAX
from test.storage.support import ABOUT, MIB, add_range, files_below, make_store, name_of, put_inline, put_ranges


class InlineTests(SynchronousTestCase):
    """Small complete objects."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.name = name_of("small")

    def test_round_trip(self) -> None:
        """What was published is loaded, with its body, and equals what publication returned."""
        entry = put_inline(self.store, self.name, b"hello", unconfirmed=True)
        found = self.store.load(self.name)
        self.assertEqual(found, entry)
        assert found is not None
        self.assertEqual(
            (found.kind, found.small_body, found.object_size, found.meta), (INLINE, b"hello", 5, ABOUT["meta"])
        )
        self.assertEqual((found.validated_at, found.observed_at, found.unconfirmed), (1000.5, 1000.25, True))
        self.assertEqual(self.store.ranges(found), ((0, 5),))

    def test_one_file(self) -> None:
        """A small object is one file of mode 0600, in a directory of mode 0700."""
        put_inline(self.store, self.name, b"hello")
        path = self.store.volume.entry_path(self.name)
        self.assertEqual(files_below(f"{self.store.root}/o"), [self.name.text])
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode), 0o700)

    def test_empty_body(self) -> None:
        """An object of no bytes is a complete object."""
        put_inline(self.store, self.name, b"")
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(found.small_body, b"")
        handle = self.store.open_inline(found)
        assert handle is not None
        self.assertEqual((handle.start, handle.stop), (0, 0))
        handle.close()

    def test_larger_than_memory_body(self) -> None:
        """A body above 64 KiB is not loaded, but opened."""
        body = os.urandom(64 * 1024 + 1)
        put_inline(self.store, self.name, body)
        found = self.store.load(self.name)
        assert found is not None
        self.assertIsNone(found.small_body)
        handle = self.store.open_inline(found)
        assert handle is not None
        self.assertEqual(os.pread(handle.fd, 1 << 20, handle.base)[: len(body)], body)
        handle.close()

    def test_large_metadata(self) -> None:
        """Metadata larger than the first read is loaded whole; beyond the format's limit it is refused."""
        meta = os.urandom(100_000)
        put_inline(self.store, self.name, b"x" * 70_000, meta=meta)
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(found.meta, meta)
        with self.assertRaises(ValueError):
            put_inline(self.store, name_of("other"), b"", meta=bytes(META_MAX + 1))

    def test_none(self) -> None:
        """What was never published is not found."""
        self.assertIsNone(self.store.load(self.name))

    def test_replace(self) -> None:
        """A later publication takes the place of an earlier one, in the ledger too."""
        put_inline(self.store, self.name, b"one")
        used = self.store.usage()
        first = self.store.load(self.name)
        put_inline(self.store, self.name, b"two")
        found = self.store.load(self.name)
        assert found is not None and first is not None
        self.assertEqual(found.small_body, b"two")
        self.assertEqual(self.store.usage(), used)
        self.assertIsNone(self.store.open_inline(first))

    def test_reused_inode(self) -> None:
        """A later version that happens to have the inode of an earlier one is not taken for it."""
        first = put_inline(self.store, self.name, b"1" * 100_000)
        second = put_inline(self.store, self.name, b"2" * 100_000)
        self.assertIsNone(self.store.open_inline(attrs.evolve(first, inode=second.inode)))

    def test_replaced_while_read(self) -> None:
        """A reader goes on with the version that it opened."""
        body = b"1" * 100_000
        handle = self.store.open_inline(put_inline(self.store, self.name, body))
        assert handle is not None
        put_inline(self.store, self.name, b"2" * 100_000)
        self.store.drop(self.name)
        self.assertEqual(os.pread(handle.fd, len(body), handle.base), body)
        handle.close()

    def test_head(self) -> None:
        """Metadata can be published without a body; it has none to open."""
        lease = self.store.lease(self.name)
        assert lease is not None
        entry = self.store.publish_head(lease, object_size=77, **ABOUT)
        self.assertEqual(self.store.load(self.name), entry)
        assert entry is not None
        self.assertEqual((entry.kind, entry.object_size, entry.body_len), (HEAD, 77, 0))
        self.assertEqual(self.store.ranges(entry), ())
        self.assertIsNone(self.store.open_inline(entry))

    def test_epochs(self) -> None:
        """A record is void after any change of its entry, and not before."""
        table = GenerationTable(slots=1 << 12)
        store = make_store(self, generations=table)
        entry = put_inline(store, self.name, b"one")
        self.assertEqual(table.get(self.name.slot), entry.epoch)
        store.load(self.name)
        self.assertEqual(table.get(self.name.slot), entry.epoch)
        steps = (
            lambda: put_inline(store, self.name, b"two"),
            lambda: store.arm(self.name).disarm(),
            lambda: store.drop(self.name),
        )
        for step in steps:
            before = table.get(self.name.slot)
            step()
            self.assertNotEqual(table.get(self.name.slot), before)


class DamageTests(SynchronousTestCase):
    """Files that are not what they should be."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.name = name_of("damaged")
        self.entry = put_inline(self.store, self.name, b"x" * 5000)
        self.path = self.store.volume.entry_path(self.name)

    def assert_removed(self) -> None:
        empty = self.store.usage()
        self.assertIsNone(self.store.load(self.name))
        self.assertFalse(os.path.lexists(self.path))
        self.assertLess(self.store.usage(), empty)
        put_inline(self.store, self.name, b"again")
        self.assertIsNotNone(self.store.load(self.name))

    def overwrite(self, offset: int, data: bytes) -> None:
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def test_truncated(self) -> None:
        """A file that is too short is removed, and counts as a miss."""
        os.truncate(self.path, 3000)
        self.assert_removed()

    def test_header(self) -> None:
        """So is one whose header is damaged."""
        self.overwrite(33, b"!")
        self.assert_removed()

    def test_metadata(self) -> None:
        """So is one whose metadata is damaged."""
        self.overwrite(130, b"!")
        self.assert_removed()

    def test_small_body(self) -> None:
        """So is one whose body, read with the header, is not what its checksum says."""
        self.overwrite(1000, b"!")
        self.assert_removed()

    def test_symbolic_link(self) -> None:
        """A symbolic link is never followed."""
        os.rename(self.path, self.path + "x")
        os.symlink(self.path + "x", self.path)
        self.assertIsNone(self.store.load(self.name))
        self.assertFalse(os.path.lexists(self.path))

    def test_directory(self) -> None:
        """A directory in the entry's place is a miss."""
        os.unlink(self.path)
        os.mkdir(self.path)
        self.assertIsNone(self.store.load(self.name))

    def test_torn_stamp(self) -> None:
        """A stamp that was half written reads as never validated."""
        self.overwrite(8, b"\1\2\3")
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(found.validated_at, 0)

    def test_inline_footer(self) -> None:
        """A large body without its footer is not opened, unless nobody needs it any more, and removed."""
        entry = put_inline(self.store, self.name, b"y" * 100_000)
        self.overwrite(os.path.getsize(self.path) - 40, b"!")
        self.assertIsNone(self.store.open_inline(entry, sealed=True))
        self.assertIsNone(self.store.load(self.name))

    def test_range_footer(self) -> None:
        """A range without its footer, or of another length, is not opened, and removed."""
        entry = put_ranges(self.store, self.name, MIB, (0, 1000), (1000, 3000))
        directory = self.store.volume.range_path(entry, 0)
        self.store.volume.handles.close()
        os.truncate(f"{directory}/0-3e8", 900)
        with open(f"{directory}/3e8-7d0", "r+b") as file:
            file.seek(-40, os.SEEK_END)
            file.write(b"!")
        used = self.store.usage()
        self.assertIsNone(self.store.open_range(entry, 0, 1000))
        self.assertIsNone(self.store.open_range(entry, 1000, 3000))
        self.assertEqual(self.store.ranges(entry), ())
        self.assertLess(self.store.usage(), used)

    def test_foreign_footer(self) -> None:
        """A range file of another offset under this range's name is not opened."""
        entry = put_ranges(self.store, self.name, MIB, (0, 1000), (1000, 2000))
        directory = self.store.volume.range_path(entry, 0)
        self.store.volume.handles.close()
        os.rename(f"{directory}/0-3e8", f"{directory}/3e8-3e8")
        self.assertIsNone(self.store.open_range(entry, 1000, 2000))


class RangesTests(SynchronousTestCase):
    """Objects whose bytes come as ranges."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.name = name_of("large")

    def test_round_trip(self) -> None:
        """Ranges are listed in order, opened by their exact bounds, and hold what was written."""
        entry = put_ranges(self.store, self.name, 10 * MIB)
        self.assertEqual(self.store.ranges(entry), ())
        add_range(self.store, entry, 500, 1500, b"b")
        add_range(self.store, entry, 0, 1000, b"a")
        self.assertEqual(self.store.load(self.name), entry)
        self.assertEqual(self.store.ranges(entry), ((0, 1000), (500, 1500)))
        handle = self.store.open_range(entry, 500, 1500)
        assert handle is not None
        self.assertEqual((handle.base, handle.start, handle.stop), (0, 500, 1500))
        self.assertEqual(os.pread(handle.fd, handle.stop - handle.start, handle.base), b"b" * 1000)
        handle.close()
        self.assertIsNone(self.store.open_range(entry, 500, 1400))

    def test_segments(self) -> None:
        """Ranges of an object above 1 GiB are found in their segments."""
        store = make_store(self, max_size=4 << 30)
        entry = put_ranges(store, self.name, 5 << 30, (0, 100), (3 << 30, (3 << 30) + 100))
        self.assertEqual(store.ranges(entry), ((0, 100), (3 << 30, (3 << 30) + 100)))
        store.volume.handles.close()
        handle = store.open_range(entry, 3 << 30, (3 << 30) + 100)
        assert handle is not None
        handle.close()
        self.assertTrue(os.path.isdir(f"{store.volume.generation_path(self.name, entry.generation)}/3"))

    def test_new_version(self) -> None:
        """A new version starts without ranges; the old one's are gone, while its readers go on."""
        old = put_ranges(self.store, self.name, MIB, (0, 1000))
        handle = self.store.open_range(old, 0, 1000)
        new = put_ranges(self.store, self.name, MIB)
        self.assertEqual(self.store.ranges(new), ())
        self.assertEqual(self.store.ranges(old), ())
        self.assertIsNone(self.store.open_range(old, 0, 1000))
        assert handle is not None
        self.assertEqual(os.pread(handle.fd, 1000, 0), b"r" * 1000)
        handle.close()
        self.store.sweeper.run()
        self.assertEqual(os.listdir(f"{self.store.root}/trash"), [])

    def test_kept_generation(self) -> None:
        """Other metadata for the same version keeps the ranges."""
        old = put_ranges(self.store, self.name, MIB, (0, 1000))
        used = self.store.usage()
        lease = self.store.lease(self.name)
        assert lease is not None
        new = self.store.replace_meta(old, lease, meta=b"other", validated_at=5.0, observed_at=5.0)
        assert new is not None
        self.assertEqual((new.kind, new.meta, new.generation), (RANGES, b"other", old.generation))
        self.assertEqual(self.store.ranges(new), ((0, 1000),))
        self.assertEqual(self.store.usage(), used)

    def test_replace_inline_meta(self) -> None:
        """Other metadata for an inline entry keeps its body; for a head there is none to keep."""
        body = os.urandom(3 * MIB)
        old = put_inline(self.store, self.name, body)
        lease = self.store.lease(self.name)
        assert lease is not None
        new = self.store.replace_meta(old, lease, meta=b"other", validated_at=5.0, observed_at=5.0)
        assert new is not None
        handle = self.store.open_inline(new)
        assert handle is not None
        self.assertEqual(os.pread(handle.fd, len(body), handle.base), body)
        self.assertEqual((new.meta, new.validated_at), (b"other", 5.0))
        handle.close()
        lease = self.store.lease(self.name)
        assert lease is not None
        self.assertIsNone(self.store.replace_meta(old, lease, meta=b"third", validated_at=5.0, observed_at=5.0))
        self.assertIsNotNone(self.store.lease(self.name))

    def test_hot_handles(self) -> None:
        """A range that was opened is not opened again, and not more than the limit are kept."""
        store = make_store(self, handles=3)
        entry = put_ranges(store, self.name, MIB, *((start * 100, start * 100 + 100) for start in range(6)))
        self.assertEqual(len(store.volume.handles), 3)
        handles = [store.open_range(entry, 500, 600) for _ in range(3)]
        descriptors = {handle.fd for handle in handles if handle is not None}
        self.assertEqual(len(descriptors), 1)
        for handle in handles:
            assert handle is not None
            handle.close()
            handle.close()
        self.assertEqual(os.pread(descriptors.pop(), 100, 0), b"r" * 100)

    def test_wrong_ranges(self) -> None:
        """A range outside the object, empty, or across a cut is refused."""
        entry = put_ranges(self.store, self.name, 30 * MIB)
        for start, length in ((0, 0), (-1, 5), (0, self.store.cut + 1), (self.store.cut - 1, 2), (30 * MIB - 1, 2)):
            with self.assertRaises(ValueError):
                self.store.start_range(entry, start, length)

    def test_gone(self) -> None:
        """A range of an entry that is gone can't be begun."""
        entry = put_ranges(self.store, self.name, MIB)
        self.store.drop(self.name)
        with self.assertRaises(FileNotFoundError):
            self.store.start_range(entry, 0, 10)


class LeaseTests(SynchronousTestCase):
    """The right to publish."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.name = name_of("leased")

    def test_exclusive(self) -> None:
        """One holder at a time; after a release the next one gets it."""
        lease = self.store.lease(self.name)
        assert lease is not None
        self.assertIsNone(self.store.lease(self.name))
        self.assertFalse(lease.revoked())
        lease.release()
        lease.release()
        self.assertTrue(lease.revoked())
        self.assertIsNotNone(self.store.lease(self.name))

    def test_two_stores(self) -> None:
        """It holds between processes."""
        other = make_store(self, root=self.store.root)
        lease = self.store.lease(self.name)
        assert lease is not None
        self.assertIsNone(other.lease(self.name))
        lease.release()
        self.assertIsNotNone(other.lease(self.name))

    def test_stale(self) -> None:
        """A lease that nobody touched for 20 seconds is broken; its holder can't publish any more, nor release the new
        one.
        """
        old = self.store.lease(self.name)
        assert old is not None
        path = self.store.volume.flight_path(self.name)
        moment = os.stat(path).st_mtime
        os.utime(path, (moment - 19, moment - 19))
        self.assertIsNone(self.store.lease(self.name))
        os.utime(path, (moment - 25, moment - 25))
        new = self.store.lease(self.name)
        assert new is not None
        self.assertTrue(old.revoked())
        self.assertFalse(new.revoked())
        old.release()
        self.assertFalse(new.revoked())

    def test_touch(self) -> None:
        """A touch, and the store's pulse, keep a lease."""
        lease = self.store.lease(self.name)
        assert lease is not None
        path = self.store.volume.flight_path(self.name)
        for touch in (lease.touch, self.store.pulse):
            os.utime(path, (5, 5))
            touch()
            self.assertIsNone(self.store.lease(self.name))

    def test_revoked_publication(self) -> None:
        """Whoever publishes under a revoked lease publishes nothing, of any kind, and leaves nothing behind."""
        publications = (
            lambda lease: self.store.publish_inline(lease, object_size=1, body=[b"x"], **ABOUT),
            lambda lease: self.store.publish_head(lease, object_size=1, **ABOUT),
            lambda lease: self.store.publish_ranges(lease, object_size=1, **ABOUT),
        )
        for publish in publications:
            lease = self.store.lease(self.name)
            used = self.store.usage()
            self.store.drop(self.name)
            self.assertIsNone(publish(lease))
            self.assertIsNone(self.store.load(self.name))
            self.assertEqual(files_below(f"{self.store.root}/o"), [])
            self.assertEqual(self.store.usage(), used)
            self.assertEqual(self.store.in_flight(), 0)

    def test_used_lease(self) -> None:
        """A lease publishes once."""
        lease = self.store.lease(self.name)
        assert lease is not None
        self.assertIsNotNone(self.store.publish_head(lease, object_size=1, **ABOUT))
        self.assertIsNone(self.store.publish_head(lease, object_size=2, **ABOUT))
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(found.object_size, 1)

    def test_moved_flight(self) -> None:
        """An older attempt's rename may move a newer flight file: nothing is served until its owner finished it in
        place.
        """
        lease = self.moved()
        self.assertIsNone(self.store.load(self.name))
        used = self.store.usage()
        self.assertIsNotNone(self.store.publish_inline(lease, object_size=3, body=[b"new"], **ABOUT))
        self.assertGreater(self.store.usage(), used)
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(found.small_body, b"new")

    def test_moved_and_released(self) -> None:
        """A moved flight file whose owner gives up leaves nothing behind."""
        self.moved().release()
        self.assertEqual(files_below(f"{self.store.root}/o"), [])

    def test_moved_and_replaced(self) -> None:
        """A moved flight file that is replaced before it is finished was never counted."""
        lease = self.moved()
        used = self.store.usage()
        put_inline(self.store, self.name, b"other")
        self.assertIsNone(self.store.publish_inline(lease, object_size=3, body=[b"new"], **ABOUT))
        self.store.drop(self.name)
        self.assertEqual(self.store.usage(), used)

    def moved(self) -> Lease:
        """A lease whose file got the entry's name by the race between a publication and a revocation."""
        lease = self.store.lease(self.name)
        assert lease is not None
        os.rename(self.store.volume.flight_path(self.name), self.store.volume.entry_path(self.name))
        return lease

    def test_foreign_flight(self) -> None:
        """Whoever lost its lease leaves the next holder's alone."""
        old = self.store.lease(self.name)
        arm = self.store.arm(self.name)
        assert old is not None and arm.lease is not None
        self.assertIsNone(self.store.publish_inline(old, object_size=3, body=[b"old"], **ABOUT))
        self.assertFalse(arm.lease.revoked())
