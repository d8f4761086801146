"""Stored bodies that are made smaller, and stay what they are."""

import errno
import os
import random
from test.storage.support import (
    ABOUT,
    MIB,
    FailingCalls,
    abandon,
    files_below,
    finish_scan,
    make_store,
    name_of,
    put_inline,
    read_body,
    recount,
    upload,
)
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage import codec
from s3proxy.storage.disk import DiskStore, StoredEntry
from s3proxy.storage.errors import Damaged
from s3proxy.storage.files import is_unread
from s3proxy.storage.layout import footprint
from s3proxy.storage.packing import Packed

LINE = b"a line that comes again and again, number %06d\n"
TEXT = b"".join(LINE % number for number in range(60_000))[: 2 * MIB + 12345]
NOISE = random.Random(1).randbytes(300_000)
BLOCK = 16


def put_range(store: DiskStore, body: bytes, *, name: str = "x", start: int = 0) -> StoredEntry:
    """An entry whose body is one range file."""
    lease = store.lease(name_of(name))
    assert lease is not None
    entry = store.publish_ranges(lease, object_size=start + len(body), **ABOUT)
    assert entry is not None
    write_range(store, entry, body, start)
    return entry


def write_range(store: DiskStore, entry: StoredEntry, body: bytes, start: int = 0) -> None:
    writer = store.start_range(entry, start, len(body))
    writer.append([body])
    writer.commit()
    writer.close()


def decoded(store: DiskStore, entry: StoredEntry, start: int, stop: int) -> bytes | None:
    """The bytes of a stored range, however it is stored."""
    if entry.has_ranges:
        handle = store.open_range(entry, start, stop)
    else:
        handle = store.open_inline(entry, sealed=True)
    if handle is None or handle.seal is None:
        return None
    try:
        return b"".join(handle.seal.read(handle.fd, 0, stop - start))
    finally:
        handle.close()


class RangeTests(SynchronousTestCase):
    """Range files."""

    def setUp(self) -> None:
        self.store = make_store(self)

    def pack(self, entry: StoredEntry, start: int = 0, stop: int | None = None, **options: Any) -> Packed:
        store = options.get("store", self.store)
        packing = store.pack_range(entry, start, entry.object_size if stop is None else stop, block=BLOCK)
        self.assertEqual(packing.outcome is Packed.SMALLER, packing.after > 0)
        return packing.outcome

    def files(self) -> list[str]:
        """Of all generations."""
        return [name for name in files_below(f"{self.store.root}/o") if "-" in name]

    def test_smaller(self) -> None:
        """The encoded file takes the place of the plain one; the accounts know its true size."""
        entry = put_range(self.store, TEXT)
        before = self.store.usage()
        self.assertIs(self.pack(entry), Packed.SMALLER)
        [name] = self.files()
        self.assertEqual(name, f"0-{len(TEXT):x}.z")
        self.assertEqual(self.store.listed(entry), (((0, len(TEXT)),), frozenset(((0, len(TEXT)),))))
        self.assertEqual(decoded(self.store, entry, 0, len(TEXT)), TEXT)
        self.assertLess(self.store.usage(), before // 2)
        used = self.store.usage()
        recount(self.store)
        self.assertEqual(self.store.usage(), used)

    def test_reader_keeps_the_plain_one(self) -> None:
        """Who has the plain file open reads on."""
        entry = put_range(self.store, TEXT)
        handle = self.store.open_range(entry, 0, len(TEXT))
        assert handle is not None
        self.pack(entry)
        self.assertEqual(os.pread(handle.fd, 100, 1000), TEXT[1000:1100])
        handle.close()

    def test_records_are_void(self) -> None:
        """What anybody remembers of the entry is read again."""
        entry = put_range(self.store, TEXT)
        loaded = self.store.load(entry.name)
        assert loaded is not None
        self.pack(entry)
        self.assertNotEqual(self.store.volume.generations.get(entry.name.slot), loaded.epoch)

    def test_elsewhere_in_the_object(self) -> None:
        """A range that does not begin with the object."""
        entry = put_range(self.store, TEXT, start=3 * MIB)
        self.assertIs(self.pack(entry, 3 * MIB), Packed.SMALLER)
        self.assertEqual(decoded(self.store, entry, 3 * MIB, 3 * MIB + len(TEXT)), TEXT)

    def test_not_worth_it(self) -> None:
        """What does not shrink stays; so does what shrinks at its beginning only."""
        for body in (NOISE, TEXT[:70_000] + NOISE + NOISE):
            entry = put_range(self.store, body, name=str(len(body)))
            self.assertIs(self.pack(entry), Packed.NOT_WORTH)
            self.assertEqual(read_body(self.store, entry), body)
        self.assertEqual([name for name in files_below(self.store.root) if name.startswith("t.")], [])
        self.assertEqual(self.store.in_flight(), 0)

    def test_mixed(self) -> None:
        """Blocks that do not shrink are stored as they are."""
        body = TEXT + NOISE + TEXT
        entry = put_range(self.store, body)
        self.assertIs(self.pack(entry), Packed.SMALLER)
        self.assertEqual(decoded(self.store, entry, 0, len(body)), body)

    def test_twice(self) -> None:
        """Once is enough."""
        entry = put_range(self.store, TEXT)
        self.pack(entry)
        self.assertIs(self.pack(entry), Packed.NOT_NOW)
        self.assertIs(self.pack(entry, 0, 17), Packed.NOT_NOW)

    def test_not_stored_again(self) -> None:
        """Who writes the same range once more finds it there."""
        entry = put_range(self.store, TEXT)
        self.pack(entry)
        write_range(self.store, entry, TEXT)
        self.assertEqual(self.files(), [f"0-{len(TEXT):x}.z"])

    def test_evicted_meanwhile(self) -> None:
        """It does not come back."""
        entry = put_range(self.store, TEXT)
        calls = FailingCalls()
        self.patch(self.store.volume, "calls", calls)
        self.store.drop(entry.name)
        self.store.volume.empty_trash()
        self.assertIs(self.pack(entry), Packed.NOT_NOW)
        self.assertEqual(self.files(), [])

    def test_damaged(self) -> None:
        """Damaged bytes are not encoded: they are put aside."""
        entry = put_range(self.store, TEXT)
        with open(f"{self.store.volume.range_path(entry, 0)}/0-{len(TEXT):x}", "r+b") as file:
            file.seek(MIB)
            file.write(bytes([TEXT[MIB] ^ 1]))
        self.assertRaises(Damaged, self.store.pack_range, entry, 0, len(TEXT), block=BLOCK)
        self.assertEqual(self.store.ranges(entry), ())
        self.assertEqual([name for name in files_below(self.store.root) if name.startswith("t.")], [])

    def test_disk_full(self) -> None:
        """On a full disk everything stays as it is."""
        calls = FailingCalls()
        store = self.store = make_store(self, calls=calls)
        entry = put_range(store, TEXT)
        calls.fail("pwritev", errno.ENOSPC)
        self.assertRaises(OSError, store.pack_range, entry, 0, len(TEXT), block=BLOCK)
        calls.heal()
        self.assertEqual(read_body(store, entry), TEXT)
        self.assertEqual((store.in_flight(), store.volume.ledger.reserved), (0, 0))
        self.assertEqual([name for name in files_below(store.root) if name.startswith("t.")], [])

    def test_no_room(self) -> None:
        """Where both files have no room, the plain one stays."""
        entry = put_range(self.store, TEXT)
        self.patch(self.store.evictor, "reserve", lambda size: False)
        self.assertIs(self.pack(entry), Packed.NOT_NOW)
        self.assertEqual(read_body(self.store, entry), TEXT)

    def test_crash_in_between(self) -> None:
        """After a crash both files may be there: either will do, and a scan removes the plain one."""
        calls = FailingCalls()
        store = self.store = make_store(self, calls=calls)
        entry = put_range(store, TEXT)
        calls.fail("unlink", errno.EIO)
        self.assertRaises(OSError, store.pack_range, entry, 0, len(TEXT), block=BLOCK)
        calls.heal()
        self.assertEqual(len(self.files()), 2)
        self.assertEqual(store.ranges(entry), ((0, len(TEXT)),))
        self.assertEqual(decoded(store, entry, 0, len(TEXT)), TEXT)
        abandon(store)
        other = make_store(self, root=store.root)
        finish_scan(other)
        self.assertEqual(self.files(), [f"0-{len(TEXT):x}.z"])
        self.assertEqual(decoded(other, entry, 0, len(TEXT)), TEXT)

    def test_nobody_has_read_it(self) -> None:
        """What was written through and not read yet still counts as that, with its new size."""
        self.store.inline_max = 0
        entry = upload(self.store, name_of("x"), TEXT)
        assert entry is not None
        stored = self.store.load(name_of("x"))
        assert stored is not None
        [span] = self.store.ranges(stored)
        self.assertIs(self.pack(stored, *span), Packed.SMALLER)
        path = f"{self.store.volume.range_path(stored, 0)}/{self.files()[0]}"
        self.assertTrue(is_unread(os.stat(path)))
        unread = self.store.unread()
        recount(self.store)
        self.assertEqual(self.store.unread(), unread)
        self.store.read_first(stored)
        self.store.flush_recency()
        self.assertEqual(self.store.unread(), 0)

    def test_age_stays(self) -> None:
        """For eviction it is as old as before."""
        entry = put_range(self.store, TEXT)
        path = f"{self.store.volume.range_path(entry, 0)}/{self.files()[0]}"
        os.utime(path, (1000, 1000))
        self.pack(entry)
        self.assertEqual(os.stat(f"{path}.z").st_mtime, 1000)

    def test_evicted(self) -> None:
        """It is evicted like any other."""
        entry = put_range(self.store, TEXT)
        self.pack(entry)
        self.store.evictor.shrink(0)
        self.assertEqual(self.files(), [])
        self.assertIsNone(self.store.load(entry.name))

    def test_without_the_package(self) -> None:
        """Where lz4 is missing, nothing is packed, and what others packed is as if it was not there; it stays for
        them.
        """
        plain, packed = put_range(self.store, TEXT, name="plain"), put_range(self.store, TEXT, name="packed")
        inline = put_inline(self.store, name_of("inline"), TEXT)
        self.pack(packed)
        self.store.pack_entry(inline, block=BLOCK)
        self.patch(codec, "_lz4", None)
        self.assertIs(self.pack(plain), Packed.NOT_NOW)
        self.assertEqual(self.store.ranges(packed), ())
        self.assertIsNone(self.store.load(name_of("inline")))
        self.assertEqual(self.store.volume.counts.faults.total(), 0)
        self.assertEqual(len(self.files()), 2)


class InlineTests(SynchronousTestCase):
    """Entries with their bodies."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.name = name_of("x")

    def pack(self, entry: StoredEntry) -> Packed:
        return self.store.pack_entry(entry, block=BLOCK).outcome

    def loaded(self) -> StoredEntry:
        entry = self.store.load(self.name)
        assert entry is not None
        return entry

    def test_smaller(self) -> None:
        """The same entry, with all that is known of it, in a smaller file."""
        entry = put_inline(self.store, self.name, TEXT, validated_at=77.5, unconfirmed=True)
        self.assertIs(self.pack(entry), Packed.SMALLER)
        found = self.loaded()
        self.assertTrue(found.encoded)
        for name in ("meta", "object_size", "validated_at", "observed_at", "unconfirmed", "body_len", "kind"):
            self.assertEqual(getattr(found, name), getattr(entry, name), name)
        self.assertEqual(decoded(self.store, found, 0, len(TEXT)), TEXT)
        size = os.path.getsize(self.store.volume.entry_path(self.name))
        self.assertLess(size, len(TEXT) // 2)
        used = self.store.usage()
        recount(self.store)
        self.assertEqual(self.store.usage(), used)

    def test_small_body(self) -> None:
        """A small body is decoded when the entry is loaded."""
        entry = put_inline(self.store, self.name, TEXT[:50_000])
        self.assertIs(self.pack(entry), Packed.SMALLER)
        self.assertEqual(self.loaded().small_body, TEXT[:50_000])

    def test_not_worth_it(self) -> None:
        """What takes as many blocks of the disk as before stays; so does what does not shrink."""
        for body in (TEXT[:3000], NOISE[:60_000], b""):
            entry = put_inline(self.store, self.name, body)
            self.assertIn(self.pack(entry), (Packed.NOT_WORTH, Packed.NOT_NOW), len(body))
            self.assertEqual(read_body(self.store, self.loaded()), body)

    def test_replaced_meanwhile(self) -> None:
        """Another version, or no entry at all, is left alone."""
        old = put_inline(self.store, self.name, TEXT)
        put_inline(self.store, self.name, TEXT[:-1])
        self.assertIs(self.pack(old), Packed.NOT_NOW)
        self.assertEqual(self.loaded().object_size, len(TEXT) - 1)
        self.store.drop(self.name)
        self.assertIs(self.pack(old), Packed.NOT_NOW)
        self.assertIsNone(self.store.load(self.name))

    def test_somebody_may_publish(self) -> None:
        """Who has the right to publish goes first."""
        entry = put_inline(self.store, self.name, TEXT)
        lease = self.store.lease(self.name)
        assert lease is not None
        self.assertIs(self.pack(entry), Packed.NOT_NOW)
        lease.release()
        self.assertIs(self.pack(entry), Packed.SMALLER)

    def test_changed_while_it_is_packed(self) -> None:
        """An object that changes at that moment does not get its old body back."""
        entry = put_inline(self.store, self.name, TEXT)
        compress = codec.compress

        def change(data: bytes) -> bytes:
            self.store.arm(self.name).invalidate()
            return compress(data)

        self.patch(self.store_module(), "compress", change)
        self.assertIs(self.pack(entry), Packed.NOT_NOW)
        self.assertIsNone(self.store.load(self.name))
        self.assertEqual([name for name in files_below(self.store.root) if name.endswith(".f")], [])

    def store_module(self) -> Any:
        from s3proxy.storage import packing

        return packing

    def test_described_anew(self) -> None:
        """A newer description keeps the encoded body."""
        entry = put_inline(self.store, self.name, TEXT)
        self.pack(entry)
        lease = self.store.lease(self.name)
        assert lease is not None
        found = self.store.replace_meta(self.loaded(), lease, meta=b"other", validated_at=9.0, observed_at=9.0)
        assert found is not None
        self.assertEqual((found.encoded, self.loaded().meta), (True, b"other"))
        self.assertEqual(decoded(self.store, self.loaded(), 0, len(TEXT)), TEXT)

    def test_use_stays(self) -> None:
        """When it was used last, and that it was, is still known."""
        entry = put_inline(self.store, self.name, TEXT)
        self.store.touched(self.name, 0)
        self.store.flush_recency()
        path = self.store.volume.entry_path(self.name)
        os.utime(path, (5000, 5000))
        before = os.stat(path)
        self.pack(entry)
        after = os.stat(path)
        self.assertEqual((after.st_mtime, after.st_mode), (before.st_mtime, before.st_mode))
        self.assertLess(footprint(after.st_size), footprint(before.st_size))


class AnyRangeTests(SynchronousTestCase):
    """Any bytes of any encoded body."""

    @given(
        pieces=st.lists(st.sampled_from((TEXT[:5000], NOISE[:3000], bytes(9000))), min_size=5, max_size=20),
        block=st.integers(min_value=12, max_value=20),
        ends=st.tuples(st.floats(min_value=0, max_value=1), st.floats(min_value=0, max_value=1)),
        flip=st.integers(min_value=0),
    )
    @settings(max_examples=40, deadline=None)
    def test_any(self, pieces: list[bytes], block: int, ends: tuple[float, float], flip: int) -> None:
        """They are right; and with any bit of the file changed they are right or not there."""
        store = make_store(self)
        body = b"".join(pieces)
        entry = put_range(store, body)
        packing = store.pack_range(entry, 0, len(body), block=block)
        start, stop = sorted(round(end * len(body)) for end in ends)
        handle = store.open_range(entry, 0, len(body))
        assert handle is not None and handle.seal is not None
        self.assertEqual(b"".join(handle.seal.read(handle.fd, start, stop)), body[start:stop])
        handle.close()
        suffix = ".z" if packing.outcome is Packed.SMALLER else ""
        path = f"{store.volume.range_path(entry, 0)}/0-{len(body):x}{suffix}"
        store.volume.handles.close()
        with open(path, "r+b") as file:
            data = file.read()
            file.seek(flip % len(data))
            file.write(bytes([data[flip % len(data)] ^ 1 << flip % 8]))
        handle = store.open_range(entry, 0, len(body))
        if handle is not None and handle.seal is not None:
            try:
                self.assertEqual(b"".join(handle.seal.read(handle.fd, start, stop)), body[start:stop])
            except Damaged:
                self.assertEqual(store.ranges(entry), ())
            handle.close()
