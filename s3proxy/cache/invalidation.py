"""Entries that a write makes untrue: armed before S3 can act, gone before the client can know that it has."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, execute, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.entry import ObjectId
from s3proxy.cache.guard import CacheEvents, DiskGuard
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.errors import NotNow
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.invalidation import Arm
from s3proxy.storage.layout import entry_name
from s3proxy.util.deferreds import SharedResult

__all__ = ["ArmedKeys", "Invalidation"]

MANY_KEYS = 8
"""Work on more keys than this goes through a thread."""
MANY_AT_ONCE = 256
"""Invalidations that are written down in one go after the disk has recovered."""
MAX_REMEMBERED = 100_000
"""Invalidations that could not be written down; with more, the disk is not read any more."""


class Invalidation:
    """Makes entries untrue, and remembers what the disk did not take.

    :param revoke: lets nothing that is under way for a key be joined or stored
    :param generations: tells other processes of this host what the disk did not take; None: there are none
    """

    log = Logger()

    def __init__(
        self,
        store: DiskStore | None,
        guard: DiskGuard,
        run: RunInThread,
        revoke: Callable[[ObjectId], None],
        events: CacheEvents,
        generations: GenerationTable | None = None,
    ) -> None:
        self._store = store
        self._generations = GenerationTable(1) if generations is None else generations
        self._guard = guard
        self._run = run
        self._revoke = revoke
        self._events = events
        self._remembered: set[ObjectId] = set()
        self._trusted = True

    def trusts_disk(self, id: ObjectId) -> bool:
        """Whether what the disk holds of this object may be used."""
        return self._trusted and id not in self._remembered

    def catch_up(self, id: ObjectId) -> bool:
        """Try again to write down what the disk did not take; whether it may be trusted with this object now."""
        if id in self._remembered and self._store is not None and self._guard.done(self._store.drop, _name(id)):
            self._written_down(id)
        return self.trusts_disk(id)

    def catch_up_some(self) -> bool:
        """The same for a number of objects that does not keep others waiting; whether none is left."""
        for id in tuple(itertools.islice(self._remembered, MANY_AT_ONCE)):
            if not self.catch_up(id):
                return False
        return self._trusted and not self._remembered

    async def arm(self, ids: Iterable[ObjectId]) -> "ArmedKeys":
        """Before a write can take effect at S3; see :class:`ArmedKeys`."""
        keys = tuple(dict.fromkeys(ids))
        for id in keys:
            self._revoke(id)
        arms: list[Any] = []
        if self._store is not None:
            arms = await self._in_thread(len(keys), self._arm_all, keys)
            for id, arm in zip(keys, arms):
                if arm is None:
                    self._remember(id)
        return ArmedKeys(self, keys, arms)

    def revoke(self, ids: Iterable[ObjectId]) -> None:
        """Nothing that is under way for these keys can be joined any more, in whichever process."""
        for id in ids:
            self._revoke(id)
            if self._store is not None:
                self._store.void(_name(id))

    def drop(self, id: ObjectId) -> None:
        """The entry is no longer true: remove it now, and let nothing that is under way be stored."""
        self._revoke(id)
        if self._store is not None and not self._guard.done(self._store.drop, _name(id)):
            self._remember(id)

    def invalidate(self, ids: tuple[ObjectId, ...], arms: list[Any]) -> "Deferred[None]":
        """The armed entries are gone when the Deferred fires."""
        for id in ids:
            # Again: a read that began while the write was on its way may have seen the older version.
            self._revoke(id)
            self._events.invalidated()

        def note(done: list[bool]) -> None:
            for id, success in zip(ids, done):
                if success:
                    self._written_down(id)
                else:
                    self._remember(id)

        # Who waits may leave; what was done is noted all the same.
        noted: SharedResult[None] = SharedResult()
        self._in_thread(len(arms), self._invalidate_all, arms).addCallback(note).addBoth(noted.fire)
        return noted.wait()

    def publish(
        self,
        ids: tuple[ObjectId, ...],
        arms: list[Any],
        id: ObjectId,
        commit: Callable[[Arm, bool], StoredEntry | None],
        here: bool,
    ) -> "Deferred[bool]":
        """One of the armed entries is the new one, or gone like the others, when the Deferred fires; whether it is."""
        for each in ids:
            # Again: a read that began while the write was on its way may have seen the older version.
            self._revoke(each)
            self._events.invalidated()
        published: list[bool] = []

        def work(promptly: bool) -> list[bool]:
            fates: dict[ObjectId, bool] = {}
            arm = dict(zip(ids, arms)).get(id)
            if arm is not None:
                entry = self._guard.attempt(commit, arm, promptly)
                assert self._store is not None
                self._store.void(_name(id))
                if entry is not None:
                    published.append(True)
                    fates[id] = True
            rest = [each for each in ids if each not in fates]
            fates.update(zip(rest, self._invalidate_all([arms[ids.index(each)] for each in rest])))
            return [fates[each] for each in ids]

        def note(done: list[bool]) -> bool:
            for each, success in zip(ids, done):
                if success:
                    self._written_down(each)
                else:
                    self._remember(each)
                self._revoke(each)
            return any(published)

        def elsewhere(reason: Failure) -> "Deferred[list[bool]]":
            reason.trap(NotNow)
            return self._run(work, False)

        def failed(reason: Failure) -> list[bool]:
            if not reason.check(DiskBusy):
                self.log.failure("publishing what was written", reason)
            return self._invalidate_all(arms)

        noted: SharedResult[bool] = SharedResult()
        working: Deferred[list[bool]] = execute(work, True) if here else self._run(work, False)
        working.addErrback(elsewhere).addErrback(failed).addCallback(note).addBoth(noted.fire)
        return noted.wait()

    def disarm(self, arms: list[Any]) -> "Deferred[None]":
        """The armed entries may be confirmed again."""
        return self._in_thread(len(arms), self._disarm_all, arms)

    def _in_thread(self, count: int, work: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        """A few keys are a few microseconds; many would hold up everybody else, but even that is better than not to do
        it when no thread takes it.
        """
        if count <= MANY_KEYS:
            return succeed(work(*args))

        def busy(reason: Failure) -> Any:
            reason.trap(DiskBusy)
            return work(*args)

        return self._run(work, *args).addErrback(busy)

    def _arm_all(self, ids: tuple[ObjectId, ...]) -> list[Any]:
        assert self._store is not None
        return [self._guard.attempt(self._store.arm, _name(id)) for id in ids]

    def _invalidate_all(self, arms: list[Any]) -> list[bool]:
        return [arm is not None and self._guard.done(arm.invalidate) for arm in arms]

    def _disarm_all(self, arms: list[Any]) -> None:
        for arm in arms:
            if arm is not None:
                arm.disarm()

    def _remember(self, id: ObjectId) -> None:
        """The disk did not take it: what it holds of this object is not used until it does."""
        if len(self._remembered) >= MAX_REMEMBERED and self._trusted:
            self._trusted = False
            self._remembered.clear()
            self._generations.taint_all()
            self.log.error(
                "too many invalidations could not be written to the cache directory; it is not read any more"
            )
        if self._trusted:
            self._remembered.add(id)
            self._generations.taint(_name(id).slot)

    def _written_down(self, id: ObjectId) -> None:
        """The disk may be trusted with this object again."""
        if id in self._remembered:
            self._remembered.discard(id)
            slot = _name(id).slot
            if not any(_name(other).slot == slot for other in self._remembered):
                self._generations.taint(slot, False)


def _name(id: ObjectId) -> Any:
    return entry_name(id.parts)


class ArmedKeys:
    """Keys about to be written: until the outcome is known, nothing of them is served without asking S3, or stored.

    :ivar ids: the objects
    """

    def __init__(self, owner: Invalidation, ids: tuple[ObjectId, ...], arms: list[Any]) -> None:
        self.ids = ids
        self._owner = owner
        self._arms = arms
        self._over = False

    def acted(self) -> None:
        """S3 has done it: what is under way for these keys may be of the older version. To be followed by
        :meth:`invalidate` or :meth:`publish`, which may take their time.
        """
        self._owner.revoke(self.ids)

    def invalidate(self) -> "Deferred[None]":
        """The write happened, or may have: the entries are gone when the Deferred fires. It never fails."""
        if self._over:
            return succeed(None)
        self._over = True
        return self._owner.invalidate(self.ids, self._arms)

    def publish(
        self,
        id: ObjectId,
        facts: EntryFacts,
        commit: Callable[[Arm, EntryFacts, bool], StoredEntry | None],
        *,
        here: bool,
    ) -> "Deferred[bool]":
        """The write happened, and ``commit`` publishes what was written: the entry is that, or gone, when the Deferred
        fires, and the other keys' entries are gone. Never fails.

        :param commit: gets the arm, the facts, and whether it must be prompt (see :class:`NotNow`)
        :param here: it is small: try it without a thread
        :return: whether it was published
        """
        if self._over:
            return succeed(False)
        self._over = True
        return self._owner.publish(self.ids, self._arms, id, lambda arm, promptly: commit(arm, facts, promptly), here)

    def disarm(self) -> "Deferred[None]":
        """The write did not happen: the entries are as before, but S3 is asked once more. Never fails."""
        if self._over:
            return succeed(None)
        self._over = True
        return self._owner.disarm(self._arms)
