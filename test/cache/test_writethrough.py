"""Uploads that are kept and published, over a real store."""

import os
import tempfile
from test.support.gateway import CountingEvents
from test.support.streams import run_at_once
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache import writethrough
from s3proxy.cache.bodycopy import BodyCopy, CopiedBody
from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.cache.manager import CacheManager
from s3proxy.cache.settings import CacheSettings
from s3proxy.cache.writethrough import PartToKeep, UploadKey, WriteThrough
from s3proxy.s3.headers import Headers
from s3proxy.storage.disk import open_store
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.generations import GenerationTable

ID = ObjectId("aws", b"bucket", b"key")
UPLOAD = UploadKey(ID, b"upload")


class WriteThroughCase(SynchronousTestCase):
    """A cache."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = os.path.join(directory.name, "cache")
        self.busy = False
        self.events = CountingEvents()
        generations = GenerationTable()
        self.store = open_store(self.root, max_size=1 << 30, now=lambda: 1e9, generations=generations)
        self.addCleanup(self.store.close)
        self.cache = CacheManager(
            Clock(),
            self.store,
            generations,
            self.run_unless_busy,
            CacheSettings(max_cache_size=1 << 30, small_object_bytes=65536, keep_ratio=0.25),
            now=lambda: 1e9,
            events=self.events,
        )
        self.writes: WriteThrough = self.cache.writes

    def run_unless_busy(self, function: Any, *args: Any) -> "Deferred[Any]":
        """A thread."""
        return fail(DiskBusy(11, "busy")) if self.busy else run_at_once(function, *args)

    def filled(self, copy: BodyCopy | None, body: bytes) -> CopiedBody:
        """The complete copy of a body."""
        assert copy is not None
        copy.data_received(body)
        copy.ended()
        found = self.successResultOf(Deferred.fromCoroutine(copy.copied()))
        assert found is not None
        return found

    def object_copy(self, body: bytes) -> CopiedBody:
        """Of an object."""
        return self.filled(self.writes.copy_object(ID, len(body), chunked=False, checksums=()), body)

    def keep_part(self, number: int, body: bytes, upload: UploadKey = UPLOAD) -> None:
        """A part that S3 has taken, with its number as ETag."""
        part = PartToKeep(upload, number)
        copied = self.filled(self.writes.copy_part(part, len(body), chunked=False, checksums=()), body)
        self.successResultOf(self.writes.keep_part(part, b'"%d"' % number, copied))

    def version(self, size: int) -> ObjectVersion:
        """What was uploaded."""
        headers = Headers([(b"ETag", b'"tag"')])
        return ObjectVersion(
            id=ID, etag=b'"tag"', last_modified=None, size=size, headers=headers, checksums=False, parts=None
        )

    def armed(self) -> Any:
        """The key is about to be written."""
        return self.successResultOf(Deferred.fromCoroutine(self.cache.arm([ID])))

    def forgive(self) -> None:
        """What the disk did wrong is forgotten."""
        self.writes._guard._no_inserts_until = 0.0

    def nothing_left(self) -> None:
        """Nothing is published, under way or reserved."""
        self.store.volume.empty_trash()
        self.assertEqual(os.listdir(self.store.volume.uploads), [])
        self.assertEqual(self.store.volume.ledger.reserved, 0)


class ObjectTests(WriteThroughCase):
    """Whole objects."""

    sizes = (0, 10, 65536, 65537, 1_000_000, 9_000_000)

    def test_published(self) -> None:
        """Every size class becomes an entry that S3 has to confirm."""
        for size in self.sizes:
            body = b"x" * size
            copied = self.object_copy(body)
            self.assertTrue(self.successResultOf(self.writes.publish(self.armed(), self.version(size), copied)))
            self.assertEqual(self.store.volume.ledger.reserved, 0)
            view = self.successResultOf(Deferred.fromCoroutine(self.cache.view(ID)))
            assert view is not None and view.record is not None
            self.assertEqual((view.version.size, view.unconfirmed), (size, True))

    def test_overtaken(self) -> None:
        """Whoever writes the same key meanwhile takes the right to publish away."""
        for size in self.sizes:
            copied = self.object_copy(b"x" * size)
            first, second = self.armed(), self.armed()
            self.successResultOf(second.invalidate())
            self.assertFalse(self.successResultOf(self.writes.publish(first, self.version(size), copied)))
            self.successResultOf(self.writes.discard(copied))
            self.nothing_left()

    def test_not_wanted(self) -> None:
        """A copy that is discarded leaves nothing, also when no thread has time for it."""
        for size in self.sizes:
            for busy in (False, True):
                copied = self.object_copy(b"x" * size)
                self.busy = busy
                self.successResultOf(self.writes.discard(copied))
                self.busy = False
                self.nothing_left()
                self.forgive()

    def test_busy(self) -> None:
        """If no thread has time to publish, the older entry is gone, and the copy with it."""
        for size in self.sizes[3:]:
            copied = self.object_copy(b"x" * size)
            armed = self.armed()
            self.busy = True
            self.assertFalse(self.successResultOf(self.writes.publish(armed, self.version(size), copied)))
            self.successResultOf(self.writes.discard(copied))
            self.busy = False
            self.nothing_left()
            self.forgive()

    def test_too_large(self) -> None:
        """What can't fit into the cache at all is not begun."""
        copy = self.writes.copy_object(ID, 1 << 40, chunked=False, checksums=())
        assert copy is not None
        copy.data_received(b"x" * 2_000_000)
        copy.ended()
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(copy.copied())))
        self.nothing_left()

    def test_after_an_error(self) -> None:
        """A disk that has just failed is left alone for a while."""
        self.writes._guard.failed(OSError(5, "Input/output error"))
        self.assertIsNone(self.writes.copy_object(ID, 10, chunked=False, checksums=()))
        self.assertIsNone(self.writes.copy_part(PartToKeep(UPLOAD, 1), 10, chunked=False, checksums=()))


class UploadTests(WriteThroughCase):
    """Uploads in parts."""

    def assembled(self, upload: UploadKey, numbers: tuple[int, ...]) -> bool:
        """Whether the object comes about."""
        listed = tuple((number, b'"%d"' % number) for number in numbers)
        plan = self.successResultOf(self.writes.plan(upload, listed))
        if plan is None:
            return False
        armed = self.armed()
        found: bool = self.successResultOf(self.writes.assemble(upload, armed, self.version(plan.size), plan))
        return found

    def test_assembled(self) -> None:
        """Parts become the object; then nothing of the upload is left, and its end is known when it is repeated."""
        self.successResultOf(self.writes.describe(UPLOAD, b"description"))
        self.keep_part(2, b"b" * 100)
        self.keep_part(1, b"a" * 3_000_000)
        self.assertEqual(self.successResultOf(self.writes.description(UPLOAD)), b"description")
        self.assertFalse(self.writes.was_completed(UPLOAD, b'"tag"'))
        self.assertTrue(self.assembled(UPLOAD, (1, 2)))
        self.assertTrue(self.writes.was_completed(UPLOAD, b'"tag"'))
        self.assertFalse(self.writes.was_completed(UPLOAD, b'"other"'))
        self.assertFalse(self.writes.was_completed(UploadKey(ID, b"other"), b'"tag"'))
        self.assertFalse(self.assembled(UPLOAD, (1, 2)))
        self.nothing_left()

    def test_not_assembled(self) -> None:
        """A part that is missing, or has another ETag; an upload with a copied part, or that was aborted."""
        self.keep_part(1, b"a")
        self.assertFalse(self.assembled(UPLOAD, (1, 2)))
        self.assertIsNone(self.successResultOf(self.writes.plan(UPLOAD, ((1, b'"other"'),))))
        self.successResultOf(self.writes.poison(UPLOAD))
        self.assertFalse(self.assembled(UPLOAD, (1,)))
        self.assertIsNone(self.successResultOf(self.writes.plan(UPLOAD, ((1, b'"1"'),))))
        self.successResultOf(self.writes.forget(UPLOAD))
        self.nothing_left()

    def test_description(self) -> None:
        """Descriptions of many uploads are found; those that are no longer at hand are read from disk."""
        self.patch(writethrough, "MOST_UPLOADS", 3)
        uploads = [UploadKey(ID, b"%d" % number) for number in range(5)]
        for upload in uploads:
            self.successResultOf(self.writes.describe(upload, b"of " + upload.upload_id))
        self.assertEqual(len(self.writes._described), 3)
        for upload in uploads:
            self.assertEqual(self.successResultOf(self.writes.description(upload)), b"of " + upload.upload_id)
            self.successResultOf(self.writes.forget(upload))
            self.assertIsNone(self.successResultOf(self.writes.description(upload)))
        self.nothing_left()

    def test_completed_are_bounded(self) -> None:
        """So many ends of uploads are remembered, and no more."""
        self.patch(writethrough, "MOST_COMPLETED", 2)
        uploads = [UploadKey(ID, b"%d" % number) for number in range(3)]
        for upload in uploads:
            self.keep_part(1, b"a", upload)
            self.assertTrue(self.assembled(upload, (1,)))
        self.assertEqual([self.writes.was_completed(upload, b'"tag"') for upload in uploads], [False, True, True])

    def test_busy(self) -> None:
        """If no thread has time for a part it is not kept, and nothing of it stays."""
        part = PartToKeep(UPLOAD, 1)
        copied = self.filled(self.writes.copy_part(part, 3_000_000, chunked=False, checksums=()), b"x" * 3_000_000)
        self.busy = True
        for work in (
            self.writes.keep_part(part, b'"1"', copied),
            self.writes.describe(UPLOAD, b"d"),
            self.writes.poison(UPLOAD),
            self.writes.forget(UPLOAD),
        ):
            self.assertIsNone(self.successResultOf(work))
        self.assertIsNone(self.successResultOf(self.writes.plan(UPLOAD, ((1, b'"1"'),))))
        self.busy = False
        self.assertIsNone(self.successResultOf(self.writes.plan(UPLOAD, ((1, b'"1"'),))))
        self.successResultOf(self.writes.forget(UPLOAD))
        self.nothing_left()


class NoStoreTests(SynchronousTestCase):
    """Without a cache directory."""

    def test_nothing_is_kept(self) -> None:
        """Nothing is kept, and nobody notices."""
        writes = WriteThrough(
            Clock(), None, None, run_at_once, small=1, largest=1, now=lambda: 0.0  # type: ignore[arg-type]
        )
        self.assertFalse(writes.possible)
        self.assertIsNone(writes.copy_object(ID, 1, chunked=False, checksums=()))
        self.assertIsNone(writes.copy_part(PartToKeep(UPLOAD, 1), 1, chunked=False, checksums=()))
