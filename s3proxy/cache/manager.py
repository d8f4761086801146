"""The cache as the gateway sees it: look at an object, store an answer about it, make it invalid.

Calls that may have to wait for a disk return Deferreds. A failing disk is never an error to the caller: reads become misses, answers
are not stored; only an invalidation that could not be written down is remembered here until the process ends.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import write_small_range
from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.cache.fill import Fill, RunInThread
from s3proxy.cache.flight import KeyFlight, Ticket
from s3proxy.cache.index import EntryIndex, Record
from s3proxy.cache.verify import verifier_for
from s3proxy.cache.view import View
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import entry_name
from s3proxy.storage.record import INLINE, RANGES
from s3proxy.util.intervals import Interval
from s3proxy.util.streams import IByteSource

__all__ = ["ArmedKeys", "CacheEvents", "CacheManager", "CacheSettings"]

QUIET_AFTER_ERROR = 10.0
"""Seconds without inserts after the disk refused a write."""
MANY_KEYS = 8
"""Invalidations of more keys than this go through a thread."""
MAX_REMEMBERED = 100_000
"""Invalidations that could not be written down; with more, the disk is not read any more."""


class CacheEvents(Protocol):
    """What the cache reports, for counters."""

    def entry_stored(self, size: int) -> None:
        """An answer, or a range of one, was published."""

    def fill_failed_verification(self) -> None:
        """A body did not match S3's own checksum."""

    def invalidated(self) -> None:
        """An entry was made invalid by a write."""

    def disk_failed(self, error: BaseException) -> None:
        """The disk refused something."""


@attrs.frozen(kw_only=True)
class CacheSettings:
    """:ivar small_object_bytes: bodies up to this size are answered from memory and committed behind the answer
    :ivar keep_ratio: a body that broke off is kept if at least this fraction of it arrived
    """

    max_cache_size: int
    small_object_bytes: int = 65536
    keep_ratio: float = 0.5
    max_entries: int = 100_000
    refresh_interval: float = 5.0


class ArmedKeys:
    """Keys about to be written: until the outcome is known, nothing of them is served without asking S3, or stored."""

    def __init__(self, manager: "CacheManager", ids: tuple[ObjectId, ...], arms: list[Any]) -> None:
        self._manager = manager
        self._ids = ids
        self._arms = arms
        self._over = False

    def invalidate(self) -> "Deferred[None]":
        """The write happened, or may have: the entries are gone when the Deferred fires. It never fails."""
        if self._over:
            return succeed(None)
        self._over = True
        return self._manager._invalidate(self._ids, self._arms)

    def disarm(self) -> "Deferred[None]":
        """The write did not happen: the entries are as before, but S3 is asked once more. Never fails."""
        if self._over:
            return succeed(None)
        self._over = True
        return self._manager._disarm(self._arms)


class CacheManager:
    """See the module."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: DiskStore | None,
        generations: GenerationTable,
        run: RunInThread,
        settings: CacheSettings,
        *,
        now: Callable[[], float],
        events: CacheEvents,
    ) -> None:
        self._clock = clock
        self._store = store
        self._run = run
        self._settings = settings
        self._now = now
        self._events = events
        self._flights: dict[ObjectId, KeyFlight] = {}
        self._remembered: set[ObjectId] = set()
        self._trusted = True
        self._no_inserts_until = 0.0
        self.last_error: tuple[float, str] | None = None
        """When the disk last failed (unix seconds), and how."""
        self._index = (
            None
            if store is None
            else EntryIndex(
                store,
                generations,
                now,
                max_entries=settings.max_entries,
                refresh_interval=settings.refresh_interval,
            )
        )

    # Looking.

    @property
    def store(self) -> DiskStore | None:
        """Where the bytes are; None: there is no cache directory that could be used."""
        return self._store

    @property
    def fills_in_flight(self) -> int:
        """Bodies on their way into the cache."""
        return sum(len(flight.fills) for flight in self._flights.values())

    async def view(self, id: ObjectId) -> View | None:
        """What can be read of an object now; None: nothing."""
        if self._store is None:
            return None
        record = self._record(id)
        flight = self._flights.get(id)
        if flight is not None and flight.version is not None:
            fills = tuple(fill for fill in flight.fills if fill.joinable)
            if fills and (record is None or not record.version.same_bytes(flight.version)):
                return View(
                    version=flight.version, validated_at=flight.brought_at, record=None, fills=fills, store=self._store
                )
        else:
            fills = ()
        if record is None:
            return None
        return View(
            version=record.version,
            validated_at=record.stored.validated_at,
            unconfirmed=record.stored.unconfirmed,
            record=record,
            fills=fills,
            store=self._store,
        )

    def used(self, view: View, wanted: Interval) -> None:
        """Somebody read these bytes from the cache: what is used stays longer."""
        if view.record is not None and self._store is not None:
            self._store.touched(view.record.name, wanted[0])

    def asked(self, id: ObjectId) -> tuple[Any, ...]:
        """The requests for this object that wait for S3's answer, oldest first."""
        flight = self._flights.get(id)
        return () if flight is None else tuple(flight.asked)

    # Storing.

    def begin(self, id: ObjectId, asking: Any, conditional: bool) -> Ticket:
        """A request for this object is about to be sent to S3.

        :param asking: what others who want the same find with :meth:`asked`, until the ticket is used
        :param conditional: the request may be answered with a 304 about the entry on disk
        """
        flight = self._flights.get(id)
        if flight is None:
            flight = self._new_flight(id, conditional)
            self._flights[id] = flight
        flight.tickets += 1
        flight.asked.append(asking)
        return Ticket(flight, self._now())

    def confirmed(self, ticket: Ticket) -> None:
        """S3 answered the ticket's request with 304 for the version on disk."""
        flight = ticket.flight
        if flight.renewal is not None and not flight.revoked:
            renewal, flight.renewal = flight.renewal, None
            self._attempt(renewal.confirm, ticket.sent_at)
            if self._index is not None:
                self._index.forget(flight.id)

    def receive(
        self, ticket: Ticket, version: ObjectVersion, interval: Interval, source: IByteSource, *, whole: bool
    ) -> Fill | None:
        """S3's answer with a body: take the body into the cache.

        :param interval: the bytes of the object that the body holds
        :param whole: the answer was a 200, and its headers describe the object completely
        :return: the fill, not begun yet, that the body must flow through; None: not stored, relay it
        """
        flight = ticket.flight
        if self._store is None or flight.revoked or version.size > self._settings.max_cache_size:
            return None
        record = self._record(flight.id)
        if record is not None and not record.version.same_bytes(version):
            if flight.lease is None and flight.renewal is None:
                self.drop(flight.id)
                return None
            record = None
        if flight.version is not None and flight.fills and not flight.version.same_bytes(version):
            # Two answers of different versions at once: S3 changed in between. Neither may stay.
            self.drop(flight.id)
            return None
        fill = self._start_fill(ticket, record, version, interval, source, whole)
        if fill is not None:
            flight.version = version
            flight.brought_at = ticket.sent_at
            flight.fills.append(fill)
        return fill

    def pass_through(self, interval: Interval, source: IByteSource) -> Fill:
        """A body that is not kept, for one reader who is in the middle of it. Not begun yet."""
        return Fill(
            self._clock,
            self._run,
            source,
            *interval,
            writers=None,
            passing=True,
            on_settled=lambda fill, results, true: None,
            on_disk_error=self.disk_failed,
        )

    def describe(self, ticket: Ticket, version: ObjectVersion) -> None:
        """S3's answer to a HEAD: renew the entry, or replace one that holds another version."""
        flight = ticket.flight
        if self._store is None or flight.revoked:
            return
        record = self._record(flight.id)
        if record is not None and record.version.same_bytes(version):
            merged = record.version.merged(version)
            if merged.headers == record.version.headers and merged.checksums == record.version.checksums:
                self.confirmed(ticket)
                return
            if record.stored.kind in (INLINE, RANGES):
                self._redescribe(ticket, record, merged)
                return
            version = merged
        elif record is not None and flight.lease is None and flight.renewal is None:
            self.drop(flight.id)
            return
        lease = self._take_lease(flight)
        if lease is not None:
            self._attempt(self._store.publish_head, lease, **self._facts(version, ticket.sent_at))
            if self._index is not None:
                self._index.forget(flight.id)

    def close(self, ticket: Ticket) -> None:
        """The head of S3's answer has come, or no answer will. Idempotent."""
        if ticket.closed:
            return
        ticket.closed = True
        ticket.flight.tickets -= 1
        self._end_if_idle(ticket.flight)

    def answered(self, ticket: Ticket, asking: Any) -> None:
        """The request no longer waits for an answer: nobody should join it any more. Idempotent."""
        if asking in ticket.flight.asked:
            ticket.flight.asked.remove(asking)

    # Invalidating.

    async def arm(self, ids: Iterable[ObjectId]) -> ArmedKeys:
        """Before a write can take effect at S3; see :class:`ArmedKeys`."""
        keys = tuple(dict.fromkeys(ids))
        for id in keys:
            self._revoke(id)
        arms: list[Any] = []
        if self._store is not None:
            if len(keys) > MANY_KEYS:
                arms = await self._run(self._arm_all, keys)
            else:
                arms = self._arm_all(keys)
            for id, arm in zip(keys, arms):
                if arm is None:
                    self._remember(id)
        return ArmedKeys(self, keys, arms)

    def drop(self, id: ObjectId) -> None:
        """The entry is no longer true: remove it now, and let nothing that is under way be stored."""
        self._revoke(id)
        if self._store is None:
            return
        if not self._done(self._store.drop, entry_name(id.parts)):
            self._remember(id)

    # Upkeep.

    def pulse(self) -> None:
        """Every few seconds: the leases of what is under way show that somebody is at work."""
        for flight in self._flights.values():
            for holder in (flight.lease, flight.renewal):
                if holder is not None:
                    holder.touch()

    def end(self) -> None:
        """Give back what is held on disk; nothing is stored any more."""
        self._no_inserts_until = float("inf")
        for flight in tuple(self._flights.values()):
            flight.revoked = True
            self._give_back(flight)

    def disk_failed(self, error: BaseException) -> None:
        """The disk refused something: no inserts for a while, and the operator is told."""
        self._no_inserts_until = self._now() + QUIET_AFTER_ERROR
        first = self.last_error is None or self._now() - self.last_error[0] > QUIET_AFTER_ERROR
        self.last_error = (self._now(), str(error) or type(error).__name__)
        self._events.disk_failed(error)
        if first:
            self.log.warn("the cache directory failed: {error}; answers come from S3", error=str(error))

    # What is behind these.

    def _record(self, id: ObjectId) -> Record | None:
        if self._index is None or id in self._remembered or not self._trusted:
            return None
        try:
            return self._index.get(id)
        except OSError as error:
            self.disk_failed(error)
            return None

    def _new_flight(self, id: ObjectId, conditional: bool) -> KeyFlight:
        name = entry_name(id.parts)
        lease = renewal = None
        if id in self._remembered and self._store is not None and self._done(self._store.drop, name):
            self._remembered.discard(id)
        may_insert = (
            self._store is not None
            and self._now() >= self._no_inserts_until
            and id not in self._remembered
            and self._trusted
        )
        if may_insert and self._store is not None:
            if conditional:
                renewal = self._attempt(self._store.prepare_renewal, name)
            if renewal is None:
                lease = self._attempt(self._store.lease, name)
        return KeyFlight(id, name, lease, renewal)

    def _take_lease(self, flight: KeyFlight) -> Any:
        """The right to publish, once."""
        if flight.lease is not None:
            lease, flight.lease = flight.lease, None
            return lease
        if flight.renewal is not None:
            renewal, flight.renewal = flight.renewal, None
            return renewal.hand_over()
        return None

    def _facts(self, version: ObjectVersion, sent_at: float) -> dict[str, Any]:
        return {
            "meta": encode_version(version),
            "object_size": version.size,
            "validated_at": sent_at,
            "observed_at": sent_at,
        }

    def _redescribe(self, ticket: Ticket, record: Record, version: ObjectVersion) -> None:
        """The same bytes under another description: the entry gets it, the bytes stay where they are."""
        assert self._store is not None
        store = self._store
        lease = self._take_lease(ticket.flight)
        if lease is None:
            return

        def rewrite() -> Any:
            facts = self._facts(version, ticket.sent_at)
            del facts["object_size"]
            return store.replace_meta(record.stored, lease, **facts)

        def done(result: Any) -> None:
            if isinstance(result, Failure):
                self.disk_failed(result.value)
            if self._index is not None:
                self._index.forget(version.id)

        self._run(rewrite).addBoth(done)

    def _start_fill(
        self,
        ticket: Ticket,
        record: Record | None,
        version: ObjectVersion,
        interval: Interval,
        source: IByteSource,
        whole: bool,
    ) -> Fill | None:
        assert self._store is not None
        store = self._store
        flight = ticket.flight
        start, stop = interval
        length = stop - start
        small = length <= self._settings.small_object_bytes
        verify = verifier_for(version.headers, version.etag) if whole else None
        facts = self._facts(version, ticket.sent_at)
        writers: Callable[[int], Any] | None = None
        commit_small: Callable[[list[bytes]], Any] | None = None

        if record is not None and record.stored.kind == RANGES:
            entry: StoredEntry | None = record.stored
            if whole and record.version.merged(version) != record.version:
                self._redescribe(ticket, record, record.version.merged(version))
            else:
                self.confirmed(ticket)
        elif whole and version.size <= store.inline_max:
            entry = None
        elif record is not None and record.stored.kind == INLINE:
            # Every byte is held already.
            self.confirmed(ticket)
            return None
        else:
            lease = self._take_lease(flight)
            if lease is None:
                return None
            entry = self._attempt(store.publish_ranges, lease, **facts)
            if entry is None:
                return None
            if self._index is not None:
                self._index.forget(flight.id)

        if entry is None:
            lease = self._take_lease(flight)
            if lease is None:
                return None
            if small:
                def commit_small(chunks: list[bytes]) -> Any:
                    return store.publish_inline(lease, body=chunks, **facts)
            else:
                writer = self._attempt(store.start_inline, lease, **facts)
                if writer is None:
                    return None

                def writers(position: int) -> Any:
                    return writer
        else:
            ranges_of = entry

            def open_writer(position: int) -> Any:
                return store.start_range(ranges_of, position, min(stop - position, store.cut - position % store.cut))

            if small:
                def commit_small(chunks: list[bytes]) -> Any:
                    return write_small_range(open_writer, start, chunks)
            else:
                writers = open_writer

        return Fill(
            self._clock,
            self._run,
            source,
            start,
            stop,
            writers=writers,
            commit_small=commit_small,
            verify=verify,
            keep_ratio=self._settings.keep_ratio,
            on_settled=lambda fill, results, true: self._settled(flight, fill, results),
            on_disk_error=self.disk_failed,
        )

    def _settled(self, flight: KeyFlight, fill: Fill, results: list[Any]) -> None:
        if fill in flight.fills:
            flight.fills.remove(fill)
        if fill.condemned:
            self._events.fill_failed_verification()
            self.log.warn("a body from S3 does not match its checksum; not kept")
            self.drop(flight.id)
        elif any(result is not None for result in results):
            self._events.entry_stored(fill.have - fill.start)
        if self._index is not None and not flight.revoked:
            self._index.forget(flight.id)
        self._end_if_idle(flight)

    def _end_if_idle(self, flight: KeyFlight) -> None:
        if not flight.idle:
            return
        if self._flights.get(flight.id) is flight:
            del self._flights[flight.id]
        self._give_back(flight)

    def _give_back(self, flight: KeyFlight) -> None:
        lease, flight.lease = flight.lease, None
        renewal, flight.renewal = flight.renewal, None
        if lease is not None:
            self._attempt(lease.release)
        if renewal is not None:
            self._attempt(renewal.cancel)

    def _revoke(self, id: ObjectId) -> None:
        """Nothing that is under way for this key may be joined or stored from now on."""
        flight = self._flights.pop(id, None)
        if flight is not None:
            flight.revoked = True
            flight.asked.clear()
            self._give_back(flight)
        if self._index is not None:
            self._index.forget(id)

    def _arm_all(self, ids: tuple[ObjectId, ...]) -> list[Any]:
        assert self._store is not None
        return [self._attempt(self._store.arm, entry_name(id.parts)) for id in ids]

    def _invalidate(self, ids: tuple[ObjectId, ...], arms: list[Any]) -> "Deferred[None]":
        for id in ids:
            # Again: a read that began while the write was on its way may have seen the older version.
            self._revoke(id)
            self._events.invalidated()

        def invalidate_all() -> list[bool]:
            return [arm is not None and self._done(arm.invalidate) for arm in arms]

        def note(done: list[bool]) -> None:
            for id, success in zip(ids, done):
                if success:
                    self._remembered.discard(id)
                else:
                    self._remember(id)

        if len(arms) > MANY_KEYS:
            return self._run(invalidate_all).addCallback(note)
        note(invalidate_all())
        return succeed(None)

    def _disarm(self, arms: list[Any]) -> "Deferred[None]":
        def disarm_all() -> None:
            for arm in arms:
                if arm is not None:
                    self._attempt(arm.disarm)

        if len(arms) > MANY_KEYS:
            return self._run(disarm_all)
        disarm_all()
        return succeed(None)

    def _remember(self, id: ObjectId) -> None:
        """An invalidation that the disk did not take."""
        if len(self._remembered) >= MAX_REMEMBERED and self._trusted:
            self._trusted = False
            self.log.error("too many invalidations could not be written to the cache directory; it is not read any more")
        self._remembered.add(id)

    def _done(self, call: Callable[..., Any], *args: Any) -> bool:
        """Whether the disk did what the call asks."""
        try:
            call(*args)
        except OSError as error:
            self.disk_failed(error)
            return False
        return True

    def _attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The call's result; None if the disk refused."""
        try:
            return call(*args, **kwargs)
        except OSError as error:
            self.disk_failed(error)
            return None
