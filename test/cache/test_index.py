"""Records of entries, in memory."""

import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.cache.index import EntryIndex, Record
from s3proxy.s3.headers import Headers
from s3proxy.storage.disk import DiskStore, open_store
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import entry_name


def identify(key: bytes) -> ObjectId:
    """An object of the tests' bucket."""
    return ObjectId("aws", b"bucket", key)


class IndexTests(SynchronousTestCase):
    """In front of a real directory."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.time = 1000.0
        self.generations = GenerationTable()
        self.store: DiskStore = open_store(
            directory.name + "/cache", max_size=1 << 30, now=lambda: self.time, generations=self.generations
        )
        self.addCleanup(self.store.close)
        self.loads: list[Any] = []
        load = self.store.load
        self.store.load = lambda name: (self.loads.append(name), load(name))[1]  # type: ignore[method-assign]

    def index(self, **options: Any) -> EntryIndex:
        options = {"max_entries": 100, "max_bytes": 1 << 30, "refresh_interval": 5.0, **options}
        return EntryIndex(self.store, self.generations, lambda: self.time, **options)

    def publish(self, key: bytes = b"key", body: bytes | None = b"body", named: bytes | None = None) -> None:
        """An entry, of kind INLINE or, without a body, RANGES."""
        version = ObjectVersion(
            id=identify(key if named is None else named), etag=b'"v"', last_modified=None, size=9, headers=Headers()
        )
        lease = self.store.lease(entry_name(identify(key).parts))
        assert lease is not None
        facts: dict[str, Any] = {"meta": encode_version(version), "validated_at": 1.0, "observed_at": 1.0}
        if body is None:
            self.store.publish_ranges(lease, object_size=9, **facts)
        else:
            self.store.publish_inline(lease, object_size=len(body), body=[body], **facts)

    def found(self, index: EntryIndex, key: bytes = b"key") -> Record:
        record = index.get(identify(key))
        assert record is not None
        return record

    def test_read_once(self) -> None:
        """A second look costs no file system call."""
        self.publish()
        index = self.index()
        record = self.found(index)
        self.assertEqual((record.version.etag, record.stored.small_body), (b'"v"', b"body"))
        self.time += 4.9
        self.assertIs(self.found(index), record)
        self.assertIs(index.hot(identify(b"key")), record)
        self.assertEqual(len(self.loads), 1)

    def test_absent(self) -> None:
        """What is not there is looked for every time, and takes no memory."""
        index = self.index()
        for _ in range(2):
            self.assertIsNone(index.get(identify(b"key")))
        self.assertEqual((len(self.loads), len(index), index.bytes), (2, 0, 0))
        self.assertIsNone(index.hot(identify(b"key")))

    def test_invalidation(self) -> None:
        """A change of the key's slot voids the record at once."""
        self.publish()
        index = self.index()
        first = self.found(index)
        self.generations.bump(first.name.slot)
        self.assertIsNone(index.hot(identify(b"key")))
        self.assertIsNot(self.found(index), first)
        self.store.drop(first.name)
        self.assertIsNone(index.get(identify(b"key")))
        self.assertEqual((len(index), index.bytes), (0, 0))

    def test_invalidation_while_it_is_read(self) -> None:
        """A change between reading and remembering is not missed."""
        self.publish()
        index = self.index()
        name = entry_name(identify(b"key").parts)
        load = self.store.load

        def overtaken(which: Any) -> Any:
            stored = load(which)
            self.generations.bump(name.slot)
            return stored

        self.store.load = overtaken  # type: ignore[method-assign]
        self.found(index)
        self.assertIsNone(index.hot(identify(b"key")))

    def test_refresh(self) -> None:
        """Other hosts don't know the table: records are read again after a while, and when a clock was set back."""
        self.publish()
        index = self.index()
        first = self.found(index)
        self.time += 5.0
        self.assertIsNone(index.hot(identify(b"key")))
        second = self.found(index)
        self.assertIsNot(second, first)
        self.time -= 1.0
        self.assertIsNone(index.hot(identify(b"key")))
        self.assertIsNot(self.found(index), second)

    def test_another_object_under_the_name(self) -> None:
        """An entry that says that it is another object's is none."""
        self.publish(named=b"other")
        index = self.index()
        self.assertIsNone(index.get(identify(b"key")))
        self.assertEqual(len(index), 0)

    def test_undecodable(self) -> None:
        """Nor is one whose description can't be read."""
        lease = self.store.lease(entry_name(identify(b"key").parts))
        assert lease is not None
        self.store.publish_head(lease, meta=b"?", object_size=1, validated_at=1.0, observed_at=1.0)
        self.assertIsNone(self.index().get(identify(b"key")))

    def test_least_recently_used_leaves(self) -> None:
        """Not more than so many."""
        index = self.index(max_entries=2)
        for key in (b"a", b"b", b"c"):
            self.publish(key)
        for key in (b"a", b"b", b"a", b"c"):
            self.found(index, key)
        self.assertEqual(len(index), 2)
        self.assertIsNone(index.hot(identify(b"b")))
        self.assertIsNotNone(index.hot(identify(b"a")))

    def test_bytes_are_bounded(self) -> None:
        """Not more than so many bytes, bodies included; the last one stays, whatever it weighs."""
        index = self.index(max_bytes=150_000)
        for number in range(10):
            self.publish(b"%d" % number, b"x" * 60_000)
            self.found(index, b"%d" % number)
            self.assertLessEqual(index.bytes, 150_000)
        self.assertEqual(len(index), 2)
        self.assertGreater(index.bytes, 120_000)
        for number in (8, 9):
            index.forget(identify(b"%d" % number))
        self.assertEqual((len(index), index.bytes), (0, 0))
        index = self.index(max_bytes=10)
        self.found(index, b"5")
        self.assertEqual(len(index), 1)

    def test_weight_of_a_record_that_is_read_again(self) -> None:
        """It is counted once."""
        self.publish()
        index = self.index()
        self.found(index)
        weight = index.bytes
        self.time += 10
        self.found(index)
        self.assertEqual(index.bytes, weight)

    def test_ranges(self) -> None:
        """The directory is read once per record, and again when something shows that it has changed."""
        self.publish(body=None)
        index = self.index()
        record = self.found(index)
        self.assertEqual(record.ranges(self.store), ())
        writer = self.store.start_range(record.stored, 2, 3)
        writer.append([b"abc"])
        writer.commit()
        writer.close()
        self.assertEqual(record.ranges(self.store), ())
        record.forget_ranges()
        self.assertEqual(record.ranges(self.store), ((2, 5),))
        self.time += 10
        self.assertEqual(self.found(index).ranges(self.store), ((2, 5),))

    def test_forget(self) -> None:
        """What is forgotten is read again; forgetting what is not there is nothing."""
        self.publish()
        index = self.index()
        first = self.found(index)
        index.forget(identify(b"key"))
        index.forget(identify(b"key"))
        self.assertIsNot(self.found(index), first)

    def test_disk_fails(self) -> None:
        """The caller hears of it."""

        def fail(name: Any) -> Any:
            raise OSError(5, "broken")

        self.store.load = fail  # type: ignore[method-assign]
        self.assertRaises(OSError, self.index().get, identify(b"key"))
