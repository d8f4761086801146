"""Uploads that are kept on their way to S3, and published when S3 has said that they are the object.

Publishing happens under the right that was taken when the key was armed, before S3 could act: whoever writes the same
key meanwhile takes it away, and nothing is published then.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.bodycopy import Backlog, BodyCopy, CopiedBody, IKept
from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.cache.guard import DiskGuard
from s3proxy.cache.invalidation import ArmedKeys
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.invalidation import Arm
from s3proxy.storage.layout import entry_name
from s3proxy.storage.staging import Plan
from s3proxy.storage.volume import SMALL_BODY
from s3proxy.util.bodymemory import BodyMemory

__all__ = ["MOST_UPLOADS", "PartToKeep", "UploadKey", "WriteThrough"]

MOST_UPLOADS = 10_000
"""Multipart uploads whose descriptions are at hand; those of others are read from disk."""
MOST_COMPLETED = 1_000
"""Completed multipart uploads that are recognised when they are completed again."""


@attrs.frozen
class UploadKey:
    """A multipart upload."""

    id: ObjectId
    upload_id: bytes


@attrs.frozen
class PartToKeep:
    """One of its parts."""

    upload: UploadKey
    number: int


class WriteThrough:
    """Keeps and publishes uploads.

    :param store: None: nothing is kept
    :param small: bytes up to which a body stays in memory until it is published
    :param memory: where bodies in memory are accounted
    :ivar largest: bytes of the largest object that is kept
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: DiskStore | None,
        guard: DiskGuard,
        run: RunInThread,
        *,
        small: int,
        largest: int,
        now: Callable[[], float],
        memory: BodyMemory | None = None,
    ) -> None:
        self._clock = clock
        self._store = store
        self._guard = guard
        self._run = run
        self._small = min(small, SMALL_BODY)
        self.largest = largest
        self._now = now
        self._backlog = Backlog(memory=memory)
        self._described: OrderedDict[UploadKey, bytes] = OrderedDict()
        self._completed: OrderedDict[UploadKey, bytes] = OrderedDict()

    @property
    def uploads_in_progress(self) -> int:
        """Multipart uploads that began here and have not ended, as far as is known."""
        return len(self._described)

    @property
    def possible(self) -> bool:
        """Whether there is anywhere to keep them."""
        return self._store is not None

    # Bodies.

    def copy_object(self, id: ObjectId, size: int, *, chunked: bool, checksums: Iterable[bytes]) -> BodyCopy | None:
        """Keep the body of an object on its way; None: it can't be kept."""
        store = self._store
        if store is None or not self._guard.may_insert:
            return None
        name = entry_name(id.parts)
        return self._copy(size, chunked, checksums, size <= self._small, lambda: store.start_upload(name, size))

    def copy_part(self, part: PartToKeep, size: int, *, chunked: bool, checksums: Iterable[bytes]) -> BodyCopy | None:
        """The same for a part."""
        if self._store is None or not self._guard.may_insert:
            return None
        staging = self._staging(part.upload)
        return self._copy(size, chunked, checksums, False, lambda: staging.start_part(part.number, size))

    def _copy(
        self, size: int, chunked: bool, checksums: Iterable[bytes], here: bool, start: Callable[[], IKept | None]
    ) -> BodyCopy:
        return BodyCopy(
            self._clock,
            self._run,
            size=size,
            chunked=chunked,
            checksums=checksums,
            here=here,
            start=start,
            failed=self._failed,
            backlog=self._backlog,
        )

    def _failed(self, error: BaseException) -> None:
        # That a file's directory is gone means that the upload has ended meanwhile.
        if type(error) is not FileNotFoundError:
            self._guard.failed(error)

    def _attempt(self, call: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`DiskGuard.attempt`."""
        try:
            return call(*args)
        except OSError as error:
            self._failed(error)
            return None

    def discard(self, body: CopiedBody) -> "Deferred[None]":
        """A copy is not wanted after all. Never fails."""
        return self._in_thread(lambda: self._attempt(body.kept.discard), body.kept.discard)

    # Objects.

    def publish(self, armed: ArmedKeys, version: ObjectVersion, body: CopiedBody) -> "Deferred[bool]":
        """S3 has the object: its entry is the new one, or gone, when the Deferred fires. Never fails.

        :return: whether it is the new one
        """

        def commit(arm: Arm, facts: EntryFacts, promptly: bool) -> StoredEntry | None:
            entry: StoredEntry | None = body.kept.commit(arm, facts, promptly)
            return entry

        return armed.publish(version.id, self._facts(version), commit, here=version.size <= self._small)

    # Multipart uploads.

    def describe(self, upload: UploadKey, described: bytes) -> "Deferred[None]":
        """S3 has begun an upload: remember what its object will be described by. Never fails."""
        _remember(self._described, upload, described, MOST_UPLOADS)
        return self._in_thread(lambda: self._attempt(self._staging(upload).describe, described))

    def keep_part(self, part: PartToKeep, etag: bytes, body: CopiedBody) -> "Deferred[None]":
        """S3 has taken a part. Never fails."""
        return self._in_thread(lambda: self._attempt(body.kept.commit, etag), body.kept.discard)

    def plan(self, upload: UploadKey, listed: tuple[tuple[int, bytes], ...]) -> "Deferred[Plan | None]":
        """How the object will be put together; None: it can't be. Never fails."""
        return self._in_thread(lambda: self._attempt(self._staging(upload).plan, listed))

    def description(self, upload: UploadKey) -> "Deferred[bytes | None]":
        """What :meth:`describe` was told, by whichever process; None if that is not known. Never fails."""
        known = self._described.get(upload)
        return self._in_thread(lambda: known or self._attempt(self._staging(upload).description))

    def assemble(self, upload: UploadKey, armed: ArmedKeys, version: ObjectVersion, plan: Plan) -> "Deferred[bool]":
        """S3 has put the object together; see :meth:`publish`."""
        self._described.pop(upload, None)
        staging = self._staging(upload)

        def note(published: bool) -> bool:
            if published:
                _remember(self._completed, upload, version.etag, MOST_COMPLETED)
            return published

        return armed.publish(
            version.id, self._facts(version), lambda arm, facts, _: staging.assemble(arm, plan, facts), here=False
        ).addCallback(note)

    def was_completed(self, upload: UploadKey, etag: bytes) -> bool:
        """Whether this process has published what this upload made: clients repeat the end of an upload when its answer
        was lost, and S3 says the same again.
        """
        return self._completed.get(upload) == etag

    def poison(self, upload: UploadKey) -> "Deferred[None]":
        """The object will have bytes that nobody has seen here. Never fails."""
        return self._in_thread(lambda: self._attempt(self._staging(upload).poison))

    def forget(self, upload: UploadKey) -> "Deferred[None]":
        """The upload is over, and nothing comes of what is staged. Never fails."""
        self._described.pop(upload, None)
        return self._in_thread(lambda: self._attempt(self._staging(upload).discard))

    def _staging(self, upload: UploadKey) -> Any:
        assert self._store is not None
        return self._store.staging(entry_name(upload.id.parts), upload.upload_id)

    def _facts(self, version: ObjectVersion) -> EntryFacts:
        now = self._now()
        return EntryFacts(
            meta=encode_version(version),
            object_size=version.size,
            validated_at=now,
            observed_at=now,
            unconfirmed=True,
            unread=True,
        )

    def _in_thread(self, work: Callable[[], Any], otherwise: Callable[[], Any] | None = None) -> "Deferred[Any]":
        """A disk that has no time, or is not there, is no error here.

        :param otherwise: done at once, in the caller's thread, when nothing came of the work
        """
        if self._store is None:
            return succeed(None)

        def failed(reason: Failure) -> None:
            if not reason.check(OSError, DiskBusy):
                self.log.failure("keeping an upload", reason)
            self._guard.failed(reason.value)
            if otherwise is not None:
                self._attempt(otherwise)

        return self._run(work).addErrback(failed)


def _remember(known: "OrderedDict[UploadKey, bytes]", upload: UploadKey, value: bytes, most: int) -> None:
    known[upload] = value
    while len(known) > most:
        known.popitem(last=False)
