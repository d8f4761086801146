"""What is known of parts before it is on disk."""

import errno
import tempfile

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, ObjectVersion, decode_version, encode_version
from s3proxy.cache.guard import DiskGuard
from s3proxy.cache.parts import LearnedParts
from s3proxy.s3.headers import Headers
from s3proxy.s3.parts import PartMap, Run
from s3proxy.storage.disk import open_store
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import entry_name
from test.support.gateway import CountingEvents
from test.support.streams import ManualThread, run_at_once

ID = ObjectId("aws", b"bucket", b"key")
NAME = entry_name(ID.parts)
PLAIN = ObjectVersion(id=ID, etag=b'"v1-3"', last_modified=None, size=100, headers=Headers([(b"a", b"1")]))


def knowing(*numbers: int, version: ObjectVersion = PLAIN, key: bytes = b"key") -> ObjectVersion:
    """A version of which these parts are known."""
    parts = PartMap(count=3)
    for number in numbers:
        parts = parts.merged(PartMap(count=3, runs=(Run(number, number * 5, 5, 1),)))
    return attrs.evolve(version, id=ObjectId("aws", b"bucket", key), parts=parts)


def numbers_of(version: ObjectVersion | None) -> list[int]:
    """The parts that are known."""
    assert version is not None
    return [] if version.parts is None else [n for n in range(1, 30) if version.parts.interval(n) is not None]


class MemoryTests(SynchronousTestCase):
    """What is remembered."""

    def setUp(self) -> None:
        self.parts = LearnedParts(None, DiskGuard(lambda: 0.0, CountingEvents()), run_at_once, self.fail, most_facts=6)

    def test_completes_the_same_version(self) -> None:
        """What was learned adds to what the entry has; another version has nothing of it."""
        self.parts.learn(knowing(1))
        self.parts.learn(knowing(3))
        self.assertEqual(numbers_of(self.parts.completed(PLAIN)), [1, 3])
        described = attrs.evolve(knowing(5), headers=Headers([(b"b", b"2")]))
        self.assertEqual(numbers_of(self.parts.completed(described)), [1, 3, 5])
        self.parts.learn(knowing(7))
        self.assertEqual(numbers_of(self.parts.completed(described)), [1, 3, 5, 7])
        self.assertEqual(self.parts.completed(described).headers, described.headers)
        self.assertEqual(self.parts.completed(PLAIN).headers, PLAIN.headers)
        for other in (attrs.evolve(PLAIN, etag=b'"v2-3"'), attrs.evolve(PLAIN, size=101)):
            self.assertIs(self.parts.completed(other), other)
        other = attrs.evolve(PLAIN, id=ObjectId("aws", b"bucket", b"other"))
        self.assertIs(self.parts.completed(other), other)

    def test_same_answer_for_the_same_question(self) -> None:
        """Nothing is computed twice, and nothing is old."""
        self.parts.learn(knowing(1))
        self.assertIs(self.parts.completed(PLAIN), self.parts.completed(PLAIN))
        self.parts.learn(knowing(2))
        self.assertEqual(numbers_of(self.parts.completed(PLAIN)), [1, 2])
        self.parts.forget(ID)
        self.assertIs(self.parts.completed(PLAIN), PLAIN)

    def test_newer_version_replaces(self) -> None:
        """Of an older one nothing stays."""
        newer = attrs.evolve(PLAIN, etag=b'"v2-3"')
        self.parts.learn(knowing(1))
        self.parts.learn(knowing(2, version=newer))
        self.assertEqual(numbers_of(self.parts.completed(newer)), [2])
        self.assertIs(self.parts.completed(PLAIN), PLAIN)

    def test_nothing_to_learn(self) -> None:
        """An answer that tells nothing about parts is not remembered."""
        self.parts.learn(PLAIN)
        self.assertEqual(len(self.parts), 0)

    def test_bounded(self) -> None:
        """What was learned longest ago makes room; the latest stays, however much it is."""
        self.parts.learn(knowing(1, 3, key=b"a"))
        self.parts.learn(knowing(1, 3, key=b"b"))
        self.parts.learn(knowing(5, key=b"a"))
        self.assertEqual(len(self.parts), 2)
        self.parts.learn(knowing(1, 3, key=b"c"))
        self.assertEqual(len(self.parts), 2)
        self.assertEqual(numbers_of(self.parts.completed(attrs.evolve(knowing(key=b"a"), parts=None))), [1, 3, 5])
        self.parts.learn(knowing(*range(1, 20, 2), key=b"d"))
        self.assertEqual(len(self.parts), 1)
        self.parts.forget(ObjectId("aws", b"bucket", b"d"))
        for key in (b"a", b"b", b"c"):
            self.parts.learn(knowing(1, 3, key=key))
        self.assertEqual(len(self.parts), 3)

    def test_no_cache_directory(self) -> None:
        """Nothing is written then."""
        self.parts.learn(knowing(1))
        self.parts.write_down(NAME, ID)
        self.assertEqual(len(self.parts), 1)


class DiskTests(SynchronousTestCase):
    """Into the entry, in a real directory."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.store = open_store(
            directory.name + "/cache", max_size=1 << 30, now=lambda: 1000.0, generations=GenerationTable()
        )
        self.addCleanup(self.store.close)
        self.events = CountingEvents()
        self.written: list[ObjectId] = []
        self.thread = ManualThread()
        self.guard = DiskGuard(lambda: 1000.0, self.events)
        self.parts = LearnedParts(self.store, self.guard, self.thread, self.written.append)

    def publish(self, version: ObjectVersion = PLAIN, body: bytes | None = None, unconfirmed: bool = False) -> None:
        """An entry with ranges, or with its body."""
        lease = self.store.lease(NAME)
        assert lease is not None
        meta = encode_version(version)
        if body is None:
            entry = self.store.publish_ranges(
                lease, meta=meta, object_size=100, validated_at=7.0, observed_at=8.0, unconfirmed=unconfirmed
            )
        else:
            entry = self.store.publish_inline(
                lease,
                meta=meta,
                object_size=100,
                validated_at=7.0,
                observed_at=8.0,
                unconfirmed=unconfirmed,
                body=[body],
            )
        assert entry is not None

    def load(self) -> StoredEntry:
        entry = self.store.load(NAME)
        assert entry is not None
        return entry

    def test_written_into_the_entry(self) -> None:
        """Together with what it knew already; nothing else of it changes, and the memory is free again."""
        self.publish(knowing(2), unconfirmed=True)
        before = self.load()
        self.parts.learn(knowing(1))
        self.parts.write_down(NAME, ID)
        self.assertEqual((len(self.parts), self.written), (1, []))
        self.thread.finish()
        self.assertEqual((len(self.parts), self.written), (0, [ID]))
        after = self.load()
        self.assertEqual(numbers_of(decode_version(after.meta)), [1, 2])
        for name in ("validated_at", "observed_at", "unconfirmed", "generation", "object_size", "kind"):
            self.assertEqual(getattr(after, name), getattr(before, name), name)

    def test_entry_with_its_body(self) -> None:
        """The body stays."""
        body = bytes(range(100))
        self.publish(PLAIN, body)
        self.parts.learn(knowing(1))
        self.parts.write_down(NAME, ID)
        self.thread.finish()
        entry = self.load()
        self.assertEqual((numbers_of(decode_version(entry.meta)), entry.small_body), ([1], body))

    def test_learned_while_it_was_written(self) -> None:
        """What came later is not forgotten."""
        self.publish()
        self.parts.learn(knowing(1))
        self.parts.write_down(NAME, ID)
        self.parts.learn(knowing(2))
        self.thread.finish()
        self.assertEqual(numbers_of(self.parts.completed(PLAIN)), [1, 2])
        self.parts.write_down(NAME, ID)
        self.thread.finish()
        self.assertEqual(numbers_of(decode_version(self.load().meta)), [1, 2])
        self.assertEqual(len(self.parts), 0)

    def test_known_already(self) -> None:
        """Nothing is written then."""
        self.publish(knowing(1, 2))
        before = self.load()
        self.parts.learn(knowing(1))
        self.parts.write_down(NAME, ID)
        self.thread.finish()
        self.assertEqual(self.load(), before)
        self.assertEqual(len(self.parts), 0)
        self.assertIsNotNone(self.store.lease(NAME), "the right to publish was given back")

    def test_entry_of_another_version(self) -> None:
        """It gets nothing of it."""
        self.publish(attrs.evolve(PLAIN, etag=b'"v2-3"'))
        before = self.load()
        self.parts.learn(knowing(1))
        self.parts.write_down(NAME, ID)
        self.thread.finish()
        self.assertEqual(self.load(), before)
        self.assertEqual(len(self.parts), 0)

    def test_somebody_else_publishes(self) -> None:
        """While another has the right to publish, or there is no entry, it stays in memory."""
        self.parts.learn(knowing(1))
        self.parts.write_down(NAME, ID)
        self.thread.finish()
        self.publish()
        lease = self.store.lease(NAME)
        assert lease is not None
        self.parts.write_down(NAME, ID)
        self.thread.finish()
        self.assertEqual((len(self.parts), numbers_of(decode_version(self.load().meta))), (1, []))
        lease.release()
        self.parts.write_down(NAME, ID)
        self.thread.finish()
        self.assertEqual((len(self.parts), numbers_of(decode_version(self.load().meta))), (0, [1]))

    def test_invalidated_before(self) -> None:
        """An entry that is gone, or is being changed, does not come back."""
        for invalidate in (self.store.drop, self.store.arm):
            self.publish()
            self.parts.learn(knowing(1))
            self.parts.write_down(NAME, ID)
            invalidate(NAME)
            self.thread.finish()
            entry = self.store.load(NAME)
            self.assertTrue(entry is None or entry.validated_at == 0)
            self.store.drop(NAME)

    def test_disk_fails(self) -> None:
        """A fault is told, a disk that has too much to do is none; what is known stays in memory."""
        self.publish()
        self.parts.learn(knowing(1))
        for problem, count in ((DiskBusy(errno.EAGAIN, "busy"), 0), (OSError(errno.EIO, "broken"), 1)):
            self.parts._run = lambda *args, problem=problem: _failed(problem)  # type: ignore[misc]
            self.parts.write_down(NAME, ID)
            self.assertEqual((len(self.events.errors), len(self.parts), self.written), (count, 1, []))
        self.assertFalse(self.guard.may_insert)
        self.parts._run = self.thread
        self.parts.write_down(NAME, ID)
        self.assertEqual(self.thread.waiting, 0)

    def test_bug(self) -> None:
        """Whatever else goes wrong ends in the log."""
        self.publish()
        self.parts.learn(knowing(1))
        self.parts._run = lambda *args: _failed(ZeroDivisionError())
        self.parts.write_down(NAME, ID)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


def _failed(problem: Exception) -> "Deferred[None]":
    return fail(Failure(problem))
