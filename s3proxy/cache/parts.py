"""What S3's answers told about the parts of objects, until it is on disk with their entries.

Many parts of an object are asked for at once, and only the first answer may publish the entry: what the others tell is
kept here, where every reader of this process finds it, and is written into the entry when nothing else is under way
for the object. It is true for one version, whatever became of the object since, and so needs no invalidation.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.entry import ObjectId, ObjectVersion, decode_version, encode_version
from s3proxy.cache.guard import DiskGuard
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.layout import EntryName

__all__ = ["LearnedParts"]

MOST_FACTS = 100_000
"""Runs and checksums of all objects together; some ten MiB."""


class _Learned:
    """:ivar version: with all that is known of its parts
    :ivar base: whose description that is, and whose parts are among them
    """

    __slots__ = ("base", "version")

    def __init__(self, version: ObjectVersion) -> None:
        self.version = version
        self.base: ObjectVersion | None = None


class LearnedParts:
    """See the module.

    :param store: None: nothing is ever written
    :param written: called when the entry of an object has changed on disk
    :param most_facts: what is remembered at most; of what was learned longest ago S3 is asked again
    """

    log = Logger()

    def __init__(
        self,
        store: DiskStore | None,
        guard: DiskGuard,
        run: RunInThread,
        written: Callable[[ObjectId], None],
        *,
        most_facts: int = MOST_FACTS,
    ) -> None:
        self._store = store
        self._guard = guard
        self._run = run
        self._written = written
        self._most_facts = most_facts
        self._facts = 0
        self._known: OrderedDict[ObjectId, _Learned] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, version: ObjectVersion) -> None:
        """An answer told something about parts of this version."""
        if version.parts is None:
            return
        known = self._known.get(version.id)
        if known is None or not known.version.same_bytes(version):
            self.forget(version.id)
            known = self._known[version.id] = _Learned(version)
            self._facts += _weight(version)
        else:
            self._known.move_to_end(version.id)
            self._change(known, known.version.knowing(version.parts))
        while self._facts > self._most_facts and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            self._facts -= _weight(oldest.version)

    def completed(self, version: ObjectVersion) -> ObjectVersion:
        """This version with all that is known here about its parts."""
        known = self._known.get(version.id)
        if known is None or not known.version.same_bytes(version):
            return version
        # Many readers of one object come one after the other, and there may be thousands of parts.
        if known.base is not version:
            self._change(known, version.knowing(known.version.parts))
            known.base = version
        return known.version

    def forget(self, id: ObjectId) -> None:
        """Nothing is to be remembered of this object."""
        known = self._known.pop(id, None)
        if known is not None:
            self._facts -= _weight(known.version)

    def write_down(self, name: EntryName, id: ObjectId) -> None:
        """Nothing is under way for this object: what is known here goes into its entry, if that is of this version."""
        known = self._known.get(id)
        store = self._store
        if known is None or store is None or not self._guard.may_insert:
            return
        learned = known.version

        def done(result: Any) -> None:
            if isinstance(result, Failure):
                if result.check(OSError) is None:
                    self.log.failure("writing down parts", result)
                elif not result.check(DiskBusy):
                    self._guard.failed(result.value)
            elif result:
                if self._known.get(id) is known and known.version.parts == learned.parts:
                    self.forget(id)
                self._written(id)

        self._run(_write, store, name, learned).addBoth(done)

    def _change(self, known: _Learned, version: ObjectVersion) -> None:
        self._facts += _weight(version) - _weight(known.version)
        known.version = version


def _weight(version: ObjectVersion) -> int:
    return 0 if version.parts is None else version.parts.weight


def _write(store: DiskStore, name: EntryName, learned: ObjectVersion) -> bool:
    """Publish the entry once more, with what is known of its parts; runs in a thread. Whether nothing is left to do."""
    # The entry that is opened now can only be published again if nobody invalidates it meanwhile.
    renewal = store.prepare_renewal(name)
    if renewal is None:
        return False
    entry = renewal.entry
    held = decode_version(entry.meta)
    complete = None if held is None or not held.same_bytes(learned) else held.knowing(learned.parts)
    if complete is None or complete == held:
        # The entry is of another version, or knows it all.
        renewal.cancel()
        return True
    published = store.replace_meta(
        entry,
        renewal.hand_over(),
        meta=encode_version(complete),
        validated_at=entry.validated_at,
        observed_at=entry.observed_at,
        unconfirmed=entry.unconfirmed,
    )
    return published is not None
