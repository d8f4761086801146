"""What is known of the entries on disk, and how an entry follows what S3 says about the bytes that it holds.

A record is used only where the disk may be trusted with the object, and is forgotten as soon as its entry may have
changed.
"""

from collections.abc import Callable, Iterable
from typing import Any

from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.cache.guard import DiskGuard
from s3proxy.cache.index import EntryIndex, Record
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.entry import StoredEntry
from s3proxy.util.deferreds import SharedResult
from s3proxy.util.intervals import Interval

__all__ = ["Records", "entry_facts"]


def entry_facts(version: ObjectVersion, sent_at: float) -> dict[str, Any]:
    """What an entry of this version tells.

    :param sent_at: unix seconds at which the request was sent that S3 answered so
    """
    return {
        "meta": encode_version(version),
        "object_size": version.size,
        "validated_at": sent_at,
        "observed_at": sent_at,
    }


class Records:
    """See the module.

    :param store: None: there are no entries
    :param index: of what is in the store; None like that
    :param trusted: whether what the disk holds of an object may be used
    :ivar describing: objects whose entries get a newer description at this moment; who wants to see one waits for it
    """

    def __init__(
        self,
        store: DiskStore | None,
        index: EntryIndex | None,
        guard: DiskGuard,
        run: RunInThread,
        trusted: Callable[[ObjectId], bool],
    ) -> None:
        self.describing: dict[ObjectId, SharedResult[None]] = {}
        self._store = store
        self._index = index
        self._guard = guard
        self._run = run
        self._trusted = trusted

    def __contains__(self, id: ObjectId) -> bool:
        """Whether the record is at hand, true or not."""
        return self._index is not None and id in self._index

    def get(self, id: ObjectId, group: str | None = None) -> Record | None:
        """The record of an object; None if there is none, or none that may be used.

        :param group: of operations, for the counts; None: this look does not count
        """
        if self._index is None or not self._trusted(id):
            return None
        try:
            return self._index.get(id, group)
        except OSError as error:
            self._guard.failed(error)
            return None

    def held(self, record: Record, wanted: Interval) -> tuple[Interval, ...]:
        """The range files of an entry that have some of these bytes."""
        assert self._store is not None
        try:
            return record.range_index(self._store).within(wanted)
        except OSError as error:
            self._guard.failed(error)
            return ()

    def forget(self, id: ObjectId) -> None:
        """The entry has changed: it is read again when it is needed."""
        if self._index is not None:
            self._index.forget(id)

    def published(self, id: ObjectId, entry: StoredEntry | None, ranges: Iterable[Interval]) -> None:
        """This process has published something of an object.

        :param entry: the one to which these range files were added; None: the entry itself is new
        """
        if entry is None or self._index is None:
            self.forget(id)
        else:
            self._index.published(id, entry, ranges)

    def confirm(self, id: ObjectId, renewal: Any, sent_at: float) -> None:
        """S3 has confirmed the entry that the renewal was prepared for.

        :param sent_at: unix seconds at which the request was sent
        """
        assert self._index is not None
        self._index.renew(id, lambda: self._guard.attempt(renewal.confirm, sent_at))

    def describe(self, record: Record, version: ObjectVersion, lease: Any, sent_at: float) -> None:
        """The entry gets a newer description of the bytes that it holds, from a thread.

        :param lease: the right to publish it once more
        :param sent_at: unix seconds at which the request was sent that S3 answered so
        """
        assert self._store is not None
        store = self._store
        facts = entry_facts(version, sent_at)
        del facts["object_size"]

        describing: SharedResult[None] = SharedResult()
        self.describing[version.id] = describing

        def done(result: Any) -> None:
            if isinstance(result, Failure):
                # The thread may not even have begun, in which case the lease is still ours.
                self._guard.attempt(lease.release)
                self._guard.failed(result.value)
            self.forget(version.id)
            if self.describing.get(version.id) is describing:
                del self.describing[version.id]
            describing.fire(None)

        self._run(lambda: store.replace_meta(record.stored, lease, **facts)).addBoth(done)
