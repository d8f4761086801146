"""Stored bytes are compared with their checksums before anybody gets them."""

import errno
import os
from test.storage.support import (
    MIB,
    FailingCalls,
    add_range,
    files_below,
    finish_scan,
    make_store,
    name_of,
    put_inline,
    put_ranges,
    read_body,
)
from test.support.content import content
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore, ReadHandle, StoredEntry
from s3proxy.storage.errors import Damaged
from s3proxy.storage.seal import Memory, Seal
from s3proxy.storage.volume import Damage

SIZE = 3 * MIB + 1000
BODY = content(7, 0, SIZE)


def reopened(test: SynchronousTestCase, store: DiskStore, **options: Any) -> DiskStore:
    """Another process on the same directory, that knows nothing of what this one has seen."""
    other = make_store(test, root=store.root, **{"max_size": 1 << 30, **options})
    other.damages = []  # type: ignore[attr-defined]
    other.volume.on_damage = other.damages.append  # type: ignore[attr-defined]
    return other


def path_of(store: DiskStore, entry: StoredEntry, start: int = 0, stop: int = 0) -> str:
    """The file that holds a body, or a range of it."""
    if not entry.has_ranges:
        return store.volume.entry_path(entry.name)
    return f"{store.volume.range_path(entry, start)}/{start:x}-{stop - start:x}"


def flip(path: str, offset: int) -> None:
    """Change one bit of a file, in another file that takes its place: as after a disk has lost it."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    data[offset] ^= 1
    with open(f"{path}.new", "wb") as file:
        file.write(data)
    os.rename(f"{path}.new", path)


def seal_of(handle: ReadHandle | None) -> Seal:
    """What is known of an open file."""
    assert handle is not None and handle.seal is not None
    return handle.seal


class SealTestCase(SynchronousTestCase):
    """Files that another process has written."""

    def setUp(self) -> None:
        self.old = make_store(self)
        lease = self.old.lease(name_of("ranges"))
        assert lease is not None
        entry = self.old.publish_ranges(lease, meta=b"{}", object_size=SIZE, validated_at=1.0, observed_at=1.0)
        assert entry is not None
        self.entry = entry
        writer = self.old.start_range(entry, 0, SIZE)
        writer.append([BODY])
        writer.commit()
        writer.close()
        self.inline = put_inline(self.old, name_of("inline"), BODY)
        self.store = reopened(self, self.old)

    @property
    def damages(self) -> list[Damage]:
        return self.store.damages  # type: ignore[attr-defined,no-any-return]

    def open(self, store: DiskStore | None = None) -> ReadHandle:
        handle = (store or self.store).open_range(self.entry, 0, SIZE)
        assert handle is not None
        self.addCleanup(handle.close)
        return handle


class CheckTests(SealTestCase):
    """Comparing."""

    def test_own_files(self) -> None:
        """What this process has written itself is sound."""
        self.assertTrue(seal_of(self.open(self.old)).sound)
        handle = self.old.open_inline(self.inline)
        assert handle is not None
        self.assertIsNone(handle.seal)
        handle.close()
        handle = self.old.open_inline(self.inline, sealed=True)
        self.assertTrue(seal_of(handle).sound)
        assert handle is not None
        handle.close()

    def test_only_what_is_asked_for(self) -> None:
        """Of another's file nothing is known; then as much as was looked at, by whole blocks."""
        handle = self.open()
        seal = seal_of(handle)
        self.assertEqual(seal.sound_until(0, SIZE), 0)
        seal.check(handle.fd, MIB + 5, MIB + 6)
        self.assertEqual(seal.sound_until(0, SIZE), 0)
        self.assertEqual(seal.sound_until(MIB, SIZE), 2 * MIB)
        self.assertEqual(seal.sound_until(MIB + 77, MIB + 99), MIB + 99)
        self.assertFalse(seal.sound)
        seal.check(handle.fd, 0, SIZE)
        self.assertTrue(seal.sound)
        self.assertEqual(seal.sound_until(5, SIZE), SIZE)

    def test_remembered(self) -> None:
        """It is still known when the file is opened again."""
        handle = self.open()
        seal_of(handle).check(handle.fd, 0, SIZE)
        self.store.volume.handles.close()
        self.assertTrue(seal_of(self.open()).sound)
        first = self.store.open_inline(self.inline)
        assert first is not None
        seal_of(first).check(first.fd, 0, SIZE)
        first.close()
        second = self.store.open_inline(self.inline)
        assert second is not None
        self.assertIsNone(second.seal)
        second.close()

    def test_not_read_twice(self) -> None:
        """What is known to be sound is not read again."""
        calls = FailingCalls()
        store = reopened(self, self.old, calls=calls)
        handle = self.open(store)
        seal = seal_of(handle)
        seal.check(handle.fd, 0, MIB)
        calls.fail("pread", errno.EIO)
        seal.check(handle.fd, 10, MIB)
        self.assertEqual(calls.failures, 0)

    def test_damaged(self) -> None:
        """A file with a wrong byte goes into quarantine; its sound blocks may be sent by whoever has it open."""
        flip(path_of(self.store, self.entry, 0, SIZE), 2 * MIB + 9)
        handle = self.open()
        seal = seal_of(handle)
        seal.check(handle.fd, 0, 2 * MIB)
        self.assertRaises(Damaged, seal.check, handle.fd, 2 * MIB, SIZE)
        self.assertIsNone(self.store.open_range(self.entry, 0, SIZE))
        self.assertEqual(self.store.ranges(self.entry), ())
        [damage] = self.damages
        self.assertEqual(damage.kind, "range")
        self.assertEqual(self.store.volume.quarantine.names(), [damage.kept])
        self.assertEqual(self.store.volume.counts.faults["range"], 1)
        # Whoever looks second puts nothing else aside.
        add_range(self.store, self.entry, 0, SIZE)
        self.assertRaises(Damaged, seal.check, handle.fd, 2 * MIB, SIZE)
        self.assertEqual(self.store.ranges(self.entry), ((0, SIZE),))

    def test_damaged_inline(self) -> None:
        """So does an entry with its body."""
        flip(path_of(self.store, self.inline), MIB)
        entry = self.store.load(name_of("inline"))
        assert entry is not None
        handle = self.store.open_inline(entry)
        assert handle is not None
        self.assertRaises(Damaged, seal_of(handle).check, handle.fd, 0, SIZE)
        handle.close()
        self.assertIsNone(self.store.load(name_of("inline")))
        self.assertEqual([damage.kind for damage in self.damages], ["range"])

    def test_damaged_small_body(self) -> None:
        """A small body is compared when its entry is loaded."""
        put_inline(self.old, name_of("small"), b"small body")
        flip(self.store.volume.entry_path(name_of("small")), 128 + len(b'{"etag": "1"}') + 3)
        self.assertIsNone(self.store.load(name_of("small")))
        self.assertEqual([damage.kind for damage in self.damages], ["range"])

    def test_damaged_metadata(self) -> None:
        """So is the description."""
        flip(path_of(self.store, self.inline), 130)
        self.assertIsNone(self.store.load(name_of("inline")))
        self.assertEqual([damage.kind for damage in self.damages], ["metadata"])

    def test_truncated(self) -> None:
        """A file that is too short is noticed when it is opened."""
        for entry, path in ((self.entry, path_of(self.store, self.entry, 0, SIZE)), (self.inline, "")):
            path = path or path_of(self.store, entry)
            os.truncate(path, os.path.getsize(path) - 1)
        self.assertIsNone(self.store.open_range(self.entry, 0, SIZE))
        self.assertIsNone(self.store.open_inline(self.inline))
        self.assertIsNone(self.store.load(name_of("inline")))
        self.assertEqual([damage.kind for damage in self.damages], ["missing", "missing"])

    def test_unreadable_sector(self) -> None:
        """A block that can't be read is one that is damaged; another fault of the disk says nothing about the file."""
        calls = FailingCalls()
        store = reopened(self, self.old, calls=calls)
        handle = self.open(store)
        calls.fail("pread", errno.ENOMEM)
        problem = self.assertRaises(OSError, seal_of(handle).check, handle.fd, 0, 1)
        self.assertNotIsInstance(problem, Damaged)
        self.assertEqual(store.ranges(self.entry), ((0, SIZE),))
        calls.fail("pread", errno.EIO)
        self.assertRaises(Damaged, seal_of(handle).check, handle.fd, 0, 1)
        self.assertEqual(store.ranges(self.entry), ())

    def test_read_only(self) -> None:
        """What can't be moved away stays, and is found damaged again."""
        flip(path_of(self.store, self.entry, 0, SIZE), 5)
        calls = FailingCalls()
        store = reopened(self, self.old, calls=calls)
        calls.read_only()
        for _ in range(2):
            handle = self.open(store)
            self.assertRaises(Damaged, seal_of(handle).check, handle.fd, 0, 1)
        self.assertEqual(store.damages, [])  # type: ignore[attr-defined]

    def test_written_to(self) -> None:
        """A file that is open is looked at again once a second: if it was written to, nothing is known of it; if it has
        no name any more, it is let go of.
        """
        now = [1000.0]
        store = reopened(self, self.old, now=lambda: now[0])
        handle = self.open(store)
        seal_of(handle).check(handle.fd, 0, SIZE)
        self.assertTrue(seal_of(self.open(store)).sound)
        with open(path_of(store, self.entry, 0, SIZE), "r+b") as file:
            file.write(b"x")
        os.utime(path_of(store, self.entry, 0, SIZE), (5, 5))
        now[0] += 1.0
        self.assertFalse(seal_of(self.open(store)).sound)
        os.unlink(path_of(store, self.entry, 0, SIZE))
        now[0] += 1.0
        self.assertIsNone(store.open_range(self.entry, 0, SIZE))

    def test_republished(self) -> None:
        """Damaged bytes do not get new checksums when an entry is described anew."""
        flip(path_of(self.store, self.inline), MIB)
        entry = self.store.load(name_of("inline"))
        lease = self.store.lease(name_of("inline"))
        assert entry is not None and lease is not None
        self.assertRaises(Damaged, self.store.replace_meta, entry, lease, meta=b"{}", validated_at=2.0, observed_at=2.0)
        self.assertIsNone(self.store.load(name_of("inline")))
        self.assertEqual([name for name in files_below(self.store.root) if name.endswith(".f")], [])


class ReadTests(SealTestCase):
    """Reading what was compared."""

    @given(st.integers(min_value=0, max_value=SIZE), st.integers(min_value=0, max_value=SIZE))
    @settings(max_examples=30, deadline=None)
    def test_any_range(self, one: int, other: int) -> None:
        """Any bytes of it."""
        start, stop = min(one, other), max(one, other)
        handle = self.open()
        self.assertEqual(b"".join(seal_of(handle).read(handle.fd, start, stop)), BODY[start:stop])

    def test_raw(self) -> None:
        """The blocks as they are in the file."""
        handle = self.open()
        self.assertEqual(b"".join(seal_of(handle).stored(handle.fd)), BODY)
        self.assertEqual(read_body(self.store, self.entry), BODY)

    def test_always_compared(self) -> None:
        """Also when they were sound once: whoever keeps a copy wants to be sure."""
        handle = self.open()
        seal = seal_of(handle)
        seal.check(handle.fd, 0, SIZE)
        with open(path_of(self.store, self.entry, 0, SIZE), "r+b") as file:
            file.write(bytes([BODY[0] ^ 1]))
        self.assertRaises(Damaged, list, seal.read(handle.fd, 0, 10))


class MemoryTests(SynchronousTestCase):
    """What is remembered."""

    def test_bounded(self) -> None:
        """The oldest go."""
        memory = Memory(2)
        for number in range(3):
            memory.note(("file", number), Memory.ALL)
        self.assertEqual([memory.recall(("file", number)) for number in range(3)], [0, -1, -1])
        memory.note(("file", 1), 1)
        self.assertEqual([memory.recall(("file", number)) for number in range(3)], [0, 1, -1])


class OverlapTests(SynchronousTestCase):
    """Ranges of one entry."""

    def test_other_ranges_stay(self) -> None:
        """A damaged range takes nothing else with it."""
        old = make_store(self)
        entry = put_ranges(old, name_of("x"), 3000, (0, 1000), (1000, 2000))
        store = reopened(self, old)
        finish_scan(store)
        used = store.usage()
        flip(path_of(store, entry, 0, 1000), 10)
        handle = store.open_range(entry, 0, 1000)
        assert handle is not None
        self.assertRaises(Damaged, seal_of(handle).check, handle.fd, 0, 10)
        handle.close()
        self.assertEqual(store.ranges(entry), ((1000, 2000),))
        self.assertLess(store.usage(), used)
