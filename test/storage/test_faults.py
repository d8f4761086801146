"""Disks that are full, broken, read-only or gone."""

import ctypes
import errno
import os
import shutil
import subprocess
import tempfile

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s3proxy.storage.errors import NotNow, StoreError
from s3proxy.storage.writer import InlineWriter
from test.storage.support import (
    ABOUT,
    MIB,
    FailingCalls,
    add_range,
    files_below,
    make_store,
    name_of,
    put_inline,
    put_ranges,
)


class FaultCase(SynchronousTestCase):
    """A store whose system calls can be made to fail."""

    def setUp(self) -> None:
        self.calls = FailingCalls()
        self.store = make_store(self, calls=self.calls)
        self.name = name_of("faulty")


class PublicationFaultTests(FaultCase):
    """A publication that fails publishes nothing and leaves nothing behind."""

    def attempt_inline(self) -> None:
        lease = self.store.lease(self.name)
        assert lease is not None
        with self.assertRaises(OSError):
            self.store.publish_inline(lease, object_size=5000, body=[b"x" * 5000], **ABOUT)
        self.calls.heal()
        self.assertIsNone(self.store.load(self.name))
        self.assertEqual(files_below(f"{self.store.root}/o"), [])
        self.assertEqual(self.store.in_flight(), 0)
        self.assertEqual(self.store.volume.ledger.reserved, 0)

    def test_write_fails(self) -> None:
        """An I/O error while writing."""
        self.calls.fail("pwritev", errno.EIO)
        self.attempt_inline()

    def test_short_write(self) -> None:
        """An I/O error after half of the bytes."""
        self.calls.fail("pwritev", errno.EIO, after=1)
        self.attempt_inline()

    def test_rename_fails(self) -> None:
        """An I/O error at the last step."""
        self.calls.fail("rename", errno.EIO, when=lambda source, target: source.endswith(".f"))
        self.attempt_inline()

    def test_lease_fails(self) -> None:
        """No file can be created, or nothing written to it."""
        for name, code in (("open", errno.ENOSPC), ("open", errno.EACCES), ("pwrite", errno.EIO)):
            self.calls.fail(name, code)
            with self.assertRaises(OSError):
                self.store.lease(self.name)
            self.calls.heal()
            self.assertEqual(files_below(f"{self.store.root}/o"), [])
        self.assertEqual(self.store.in_flight(), 0)

    def test_ranges_fail(self) -> None:
        """The generation directory can't be made, or the entry not be written."""
        for name in ("mkdir", "pwritev"):
            lease = self.store.lease(self.name)
            assert lease is not None
            used = self.store.usage()
            self.calls.fail(name, errno.EIO)
            with self.assertRaises(OSError):
                self.store.publish_ranges(lease, object_size=MIB, **ABOUT)
            self.calls.heal()
            self.assertEqual(files_below(f"{self.store.root}/o"), [])
            self.assertEqual(self.store.usage(), used)
            self.assertEqual(self.store.volume.ledger.reserved, 0)

    def test_range_fails(self) -> None:
        """A range that can't be finished is not published; what was written may be written again."""
        entry = put_ranges(self.store, self.name, MIB)
        writer = self.store.start_range(entry, 0, 1000)
        self.calls.fail("pwritev", errno.EIO, times=1)
        self.assertRaises(OSError, writer.append, [b"x" * 1000])
        self.assertEqual(writer.written, 0)
        writer.append([b"y" * 1000])
        self.calls.fail("pwritev", errno.EIO, times=1)
        self.assertRaises(OSError, writer.commit)
        writer.close()
        self.assertEqual(self.store.ranges(entry), ())
        self.assertEqual(files_below(self.store.volume.range_path(entry, 0)), [])
        self.assertEqual(self.store.in_flight(), 0)

    def test_inline_fails(self) -> None:
        """A growing body that can't be started or finished frees the lease."""
        lease = self.store.lease(self.name)
        assert lease is not None
        self.calls.fail("pwritev", errno.EIO, times=1)
        with self.assertRaises(OSError):
            self.store.start_inline(lease, object_size=3, **ABOUT)
        lease = self.store.lease(self.name)
        assert lease is not None
        writer = self.store.start_inline(lease, object_size=3, **ABOUT)
        writer.append([b"abc"])
        self.calls.fail("rename", errno.EIO, times=1)
        self.assertRaises(OSError, writer.commit)
        writer.close()
        self.assertIsNone(self.store.load(self.name))
        self.assertIsNotNone(self.store.lease(self.name))

    def test_noreplace_unsupported(self) -> None:
        """Where a range can't be renamed without replacing, it is linked."""

        class Old:
            def __call__(self, *arguments: object) -> int:
                ctypes.set_errno(errno.EINVAL)
                return -1

        self.calls._renameat2 = Old()
        entry = put_ranges(self.store, self.name, MIB, (0, 100))
        self.assertEqual(add_range(self.store, entry, 0, 100), 100)
        self.assertEqual(self.store.ranges(entry), ((0, 100),))
        self.assertEqual(files_below(self.store.volume.range_path(entry, 0)), ["0-64"])


class PromptTests(FaultCase):
    """What must not evict anything says so before it has done anything, and can be done in a thread then."""

    def writer(self) -> InlineWriter:
        lease = self.store.lease(self.name)
        assert lease is not None
        writer = self.store.start_inline(lease, object_size=100_000, **ABOUT)
        self.addCleanup(writer.close)
        return writer

    def fill_the_cache(self) -> None:
        """Nothing fits any more."""
        self.store.volume.ledger.reserve(self.store.volume.ledger.capacity - self.store.volume.ledger.committed)

    def make_room(self) -> None:
        self.store.volume.ledger.release(self.store.volume.ledger.reserved)

    def test_small_body(self) -> None:
        """A body that is published at once: the lease still stands."""
        lease = self.store.lease(self.name)
        assert lease is not None
        self.fill_the_cache()
        about = {"object_size": 5, "body": [b"small"], **ABOUT}
        self.assertRaises(NotNow, self.store.publish_inline, lease, promptly=True, **about)
        self.make_room()
        entry = self.store.publish_inline(lease, promptly=True, **about)
        assert entry is not None
        self.assertEqual(entry.small_body, b"small")
        self.assertEqual(self.store.volume.ledger.reserved, 0)

    def test_small_body_on_a_full_disk(self) -> None:
        """The limit of the cache is not the only one."""
        lease = self.store.lease(self.name)
        assert lease is not None
        about = {"object_size": 5, "body": [b"small"], **ABOUT}
        for full in (lambda fd, *_: fd != lease.file.fd, lambda fd, *_: fd == lease.file.fd):
            self.calls.fail("pwritev", errno.ENOSPC, when=full)
            self.assertRaises(NotNow, self.store.publish_inline, lease, promptly=True, **about)
            self.calls.heal()
        self.assertIsNotNone(self.store.publish_inline(lease, **about))
        self.assertEqual(self.store.volume.ledger.reserved, 0)

    def test_small_body_on_a_broken_disk(self) -> None:
        """Other failures end the attempt: nothing is left behind."""
        lease = self.store.lease(self.name)
        assert lease is not None
        self.calls.fail("pwritev", errno.EIO, when=lambda fd, *_: fd == lease.file.fd)
        about = {"object_size": 5, "body": [b"small"], **ABOUT}
        self.assertRaises(OSError, self.store.publish_inline, lease, promptly=True, **about)
        self.calls.heal()
        self.assertIsNone(self.store.load(self.name))
        self.assertEqual((lease.held, self.store.volume.ledger.reserved, self.store.in_flight()), (False, 0, 0))

    def test_revoked(self) -> None:
        """A lease that is gone publishes nothing, promptly or not."""
        lease = self.store.lease(self.name)
        assert lease is not None
        self.store.drop(self.name)
        about = {"object_size": 5, "body": [b"small"], **ABOUT}
        self.assertIsNone(self.store.publish_inline(lease, promptly=True, **about))
        self.assertIsNone(self.store.load(self.name))
        self.assertEqual((self.store.volume.ledger.reserved, self.store.in_flight()), (0, 0))

    def test_growing_body(self) -> None:
        """A body that grew in its file."""
        writer = self.writer()
        writer.append([b"x" * 100_000], True)
        self.fill_the_cache()
        self.assertRaises(NotNow, writer.commit, True)
        self.make_room()
        self.assertIsNotNone(writer.commit(True))
        self.assertEqual(self.store.volume.ledger.reserved, 0)

    def test_growing_body_on_a_full_disk(self) -> None:
        """Bytes that find no room can be written again."""
        writer = self.writer()
        writer.append([b"x" * 60_000], True)
        self.calls.fail("pwritev", errno.ENOSPC)
        self.assertRaises(NotNow, writer.append, [b"y" * 40_000], True)
        self.assertEqual(writer.written, 60_000)
        self.calls.heal()
        writer.append([b"y" * 40_000])
        entry = writer.commit()
        assert entry is not None
        handle = self.store.open_inline(entry)
        assert handle is not None
        self.addCleanup(handle.close)
        self.assertEqual(os.pread(handle.fd, 100_000, handle.base), b"x" * 60_000 + b"y" * 40_000)

    def test_range(self) -> None:
        """A range."""
        entry = put_ranges(self.store, self.name, 1000)
        writer = self.store.start_range(entry, 0, 1000)
        self.addCleanup(writer.close)
        writer.append([b"x" * 1000], True)
        self.fill_the_cache()
        self.assertRaises(NotNow, writer.commit, True)
        self.assertEqual(self.store.ranges(entry), ())
        self.make_room()
        self.assertEqual(writer.commit(True), 1000)
        self.assertEqual(self.store.ranges(entry), ((0, 1000),))
        self.assertEqual(self.store.volume.ledger.reserved, 0)


class ReadFaultTests(FaultCase):
    """Reads from a disk that fails."""

    def test_error(self) -> None:
        """An I/O error is raised: it is not a miss, and nothing is removed."""
        put_inline(self.store, self.name, b"x")
        for name in ("open", "fstat", "pread"):
            self.calls.fail(name, errno.EIO)
            self.assertRaises(OSError, self.store.load, self.name)
            self.calls.heal()
        self.assertIsNotNone(self.store.load(self.name))

    def test_stale_handle(self) -> None:
        """A file that went away on a server is asked for once more, then it is a miss."""
        put_inline(self.store, self.name, b"x")
        for name in ("open", "pread"):
            self.calls.fail(name, errno.ESTALE, times=1)
            self.assertIsNotNone(self.store.load(self.name))
            self.calls.fail(name, errno.ESTALE, times=2)
            self.assertIsNone(self.store.load(self.name))
        self.assertIsNotNone(self.store.load(self.name))

    def test_unlinked_while_read(self) -> None:
        """An entry that loses its name between the opening and the reading is a miss: who took it back has said so."""
        put_inline(self.store, self.name, b"x")
        path = self.store.volume.entry_path(self.name)

        def unlink(*_: object) -> bool:
            if os.path.exists(path):
                os.unlink(path)
            return False

        self.calls.fail("fstat", errno.EIO, when=unlink)
        self.assertIsNone(self.store.load(self.name))

    def test_damaged_on_read_only(self) -> None:
        """A damaged entry that can't be removed is a miss."""
        put_inline(self.store, self.name, b"x" * 1000)
        os.truncate(self.store.volume.entry_path(self.name), 500)
        self.calls.read_only()
        self.assertIsNone(self.store.load(self.name))


class InvalidationFaultTests(FaultCase):
    """The caller always learns when an entry may still be there."""

    def test_read_only(self) -> None:
        """On a read-only file system a stored entry can't be taken back: StoreError, from every way to do it."""
        put_inline(self.store, self.name, b"x")
        armed = self.store.arm(self.name)
        before = self.store.volume.generations.get(self.name.slot)
        self.calls.read_only()
        for attempt in (lambda: self.store.arm(self.name), lambda: self.store.drop(self.name), armed.invalidate):
            problem = self.assertRaises(StoreError, attempt)
            self.assertIn("could not be taken back", str(problem))
            self.assertNotEqual(self.store.volume.generations.get(self.name.slot), before)
        armed.disarm()

    def test_read_only_without_entry(self) -> None:
        """What is not there needs no taking back."""
        self.calls.read_only()
        self.store.drop(self.name)
        self.store.arm(self.name).invalidate()

    def test_full(self) -> None:
        """On a full disk no flight file can be made, but the entry can be removed."""
        put_inline(self.store, self.name, b"x")
        self.calls.fail("open", errno.ENOSPC, when=lambda path, flags, *_: bool(flags & os.O_CREAT))
        arm = self.store.arm(self.name)
        self.assertIsNone(arm.lease)
        self.assertIsNone(self.store.load(self.name))
        arm.invalidate()

    def test_stamp_fails(self) -> None:
        """An entry that can't be marked is removed; if that fails too, the caller learns it."""
        put_inline(self.store, self.name, b"x")
        self.calls.fail("pwritev", errno.EIO)
        self.store.arm(self.name).invalidate()
        self.calls.heal()
        self.assertIsNone(self.store.load(self.name))
        put_inline(self.store, self.name, b"x")
        self.calls.fail("pwritev", errno.EIO)
        self.calls.fail("unlink", errno.EIO)
        self.assertRaises(StoreError, self.store.arm, self.name)

    def test_withdrawal_fails(self) -> None:
        """A confirmation that must be withdrawn, and can't, takes the entry with it."""
        put_inline(self.store, self.name, b"x")
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        make_store(self, root=self.store.root).arm(self.name)
        self.calls.fail("pwritev", errno.EIO, after=1)
        self.assertIsNone(renewal.confirm(2000))
        self.calls.heal()
        self.assertIsNone(self.store.load(self.name))

    def test_deleted_directory(self) -> None:
        """When the cache directory was deleted, an invalidation does not claim success; reads are misses."""
        entry = put_ranges(self.store, self.name, MIB, (0, 100))
        shutil.rmtree(self.store.root)
        self.assertIsNone(self.store.load(self.name))
        self.assertEqual(self.store.ranges(entry), ())
        self.assertRaises(StoreError, self.store.drop, self.name)
        self.assertRaises(StoreError, self.store.arm, self.name)
        self.assertRaises(StoreError, self.store.lease, self.name)
        problem = self.assertRaises(StoreError, self.store.pulse)
        self.assertIn("deleted, replaced or unmounted", str(problem))

    def test_replaced_directory(self) -> None:
        """Another directory in its place is not taken for it."""
        os.rename(self.store.root, f"{self.store.root}.old")
        other = make_store(self, root=self.store.root)
        put_inline(other, self.name, b"x")
        self.assertRaises(StoreError, self.store.pulse)


class SmallFileSystemTests(SynchronousTestCase):
    """A real file system that is smaller than the cache may grow."""

    def setUp(self) -> None:
        self.mount = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, self.mount)
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", self.mount]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            raise SkipTest("a file system can't be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", self.mount], check=True)

    def test_full(self) -> None:
        """When the file system is full, what was stored makes room: inserts go on, nothing wrong is ever served."""
        store = make_store(self, root=f"{self.mount}/cache", max_size=256 * MIB)
        stored = 0
        for number in range(40):
            entry = put_ranges(store, name_of(f"object {number}"), MIB)
            stored += add_range(store, entry, 0, 600_000, bytes([number])) is not None
        self.assertEqual(stored, 40)
        found = [number for number in range(40) if store.load(name_of(f"object {number}")) is not None]
        self.assertIn(39, found)
        for number in found:
            loaded = store.load(name_of(f"object {number}"))
            assert loaded is not None
            handle = store.open_range(loaded, 0, 600_000)
            if handle is not None:
                self.assertEqual(os.pread(handle.fd, 600_000, 0), bytes([number]) * 600_000)
                handle.close()

    def test_foreign_bytes(self) -> None:
        """When others fill the file system, writes fail cleanly, and work again afterwards."""
        store = make_store(self, root=f"{self.mount}/cache", max_size=256 * MIB)
        self.assertRaises(OSError, self.fill)
        self.assertRaises(OSError, put_inline, store, name_of("x"), bytes(50_000))
        os.unlink(f"{self.mount}/foreign")
        put_inline(store, name_of("x"), bytes(50_000))
        self.assertEqual(store.in_flight(), 0)

    def fill(self) -> None:
        with open(f"{self.mount}/foreign", "wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
                os.fsync(file.fileno())
