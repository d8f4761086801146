"""The cache as the gateway sees it: look at an object, store an answer about it, make it invalid.

Calls that may have to wait for a disk return Deferreds. A failing disk is never an error to the caller: reads become
misses, answers are not stored; only an invalidation that could not be written down is remembered here until the process
ends.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import Promptness
from s3proxy.cache.entry import ObjectId, ObjectVersion, decode_version, encode_version
from s3proxy.cache.fill import Fill, RunInThread
from s3proxy.cache.flight import KeyFlight, Ticket
from s3proxy.cache.following import Following, Found, Sought
from s3proxy.cache.guard import CacheEvents, DiskGuard
from s3proxy.cache.index import EntryIndex, Record
from s3proxy.cache.inspection import Inspector
from s3proxy.cache.invalidation import ArmedKeys, Invalidation
from s3proxy.cache.packer import Packer
from s3proxy.cache.parts import LearnedParts
from s3proxy.cache.placement import Place, into_entry, into_ranges
from s3proxy.cache.ram import RamTier
from s3proxy.cache.settings import CacheSettings
from s3proxy.cache.verify import verifier_for
from s3proxy.cache.view import BodyUnderWay, View
from s3proxy.cache.writethrough import WriteThrough
from s3proxy.storage.claims import Claim
from s3proxy.storage.disk import DiskStore, StoredEntry
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import EntryName, entry_name
from s3proxy.storage.record import INLINE, RANGES
from s3proxy.telemetry.counts import CacheCounts
from s3proxy.util.bodymemory import BodyMemory
from s3proxy.util.deferreds import SharedResult
from s3proxy.util.intervals import Interval
from s3proxy.util.streams import IByteSource

__all__ = ["ArmedKeys", "CacheEvents", "CacheManager", "CacheSettings"]


class CacheManager:
    """See the module.

    :param store: None: there is no cache directory that could be used; everything is a miss
    :param run: calls a function in a thread for disk work
    :param now: unix seconds
    :param counts: what happened so far, where others see it, too
    :param ram: keeps copies of what is used most in memory; None: the kernel's page cache does that well enough
    :param bodies: where what bodies take of the memory is accounted
    :ivar guard: how the disk is doing
    :ivar inspector: has stored bytes compared with their checksums, and decoded
    :ivar packer: has bodies stored smaller that are worth it
    :ivar counts: what happened so far
    :ivar writes: uploads that are kept on their way to S3
    """

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
        ram: RamTier | None = None,
        counts: CacheCounts | None = None,
        bodies: BodyMemory | None = None,
    ) -> None:
        self.bodies = BodyMemory() if bodies is None else bodies
        self._clock = clock
        self.store = store
        self.ram = ram
        self.inspector = Inspector(run)
        self.packer = Packer(store, run)
        self._run = run
        self._settings = settings
        self._now = now
        self._events = events
        self.guard = DiskGuard(now, events)
        self.counts = counts or CacheCounts()
        self._promptness = Promptness(clock.seconds)
        self._generations = generations
        self._invalidation = Invalidation(store, self.guard, run, self._revoke, events, generations)
        self._parts = LearnedParts(store, self.guard, run, self._forget)
        self.writes = WriteThrough(
            clock,
            store,
            self.guard,
            run,
            small=settings.small_object_bytes,
            largest=settings.max_written_size,
            now=now,
            memory=self.bodies,
        )
        self._flights: dict[ObjectId, KeyFlight] = {}
        self._fills: set[Fill] = set()
        self._describing: dict[ObjectId, SharedResult[None]] = {}
        self._following = (
            None
            if store is None or settings.coordination == "off"
            else Following(
                clock,
                store,
                run,
                generations,
                host_only=settings.coordination == "host",
                forget=self._forget,
            )
        )
        self._index = (
            None
            if store is None
            else EntryIndex(
                store,
                generations,
                now,
                max_entries=settings.max_entries,
                max_bytes=settings.max_memory,
                refresh_interval=settings.refresh_interval,
                ram=ram,
                counts=self.counts,
            )
        )

    # Looking.

    @property
    def fills_in_flight(self) -> int:
        """Bodies on their way into the cache, those included that will not be kept."""
        return len(self._fills)

    def bodies_under_way(self) -> Iterator[tuple[ObjectId, Fill]]:
        """Bodies on their way from S3 that readers can join, with their objects. To be looked at only."""
        for flight in tuple(self._flights.values()):
            for fill in tuple(flight.fills):
                yield flight.id, fill

    @property
    def entries_in_memory(self) -> int:
        """Objects whose description is at hand."""
        return 0 if self._index is None else len(self._index)

    @property
    def bytes_in_memory(self) -> int:
        """What these descriptions take, and copies of what is used most."""
        return (0 if self._index is None else self._index.bytes) + (0 if self.ram is None else self.ram.bytes)

    def resize_memory(self, descriptions: int, total: int) -> None:
        """Bytes that may be taken from now on: by descriptions, and by them together with copies."""
        if self.ram is not None:
            self.ram.resize(total)
        if self._index is not None:
            self._index.resize(descriptions)

    @property
    def fetches_in_flight(self) -> int:
        """Requests at S3 that others may join."""
        return sum(len(flight.asked) for flight in self._flights.values())

    async def view(self, id: ObjectId, *, as_it_is: bool = False, group: str | None = None) -> View | None:
        """What can be read of an object now; None: nothing.

        :param group: of operations, for the counts of look-ups; None: this one does not count
        :param as_it_is: don't wait until what S3 said about the object is written down; the caller knows it
        """
        # Who asks for the body right behind the head would still find an entry that S3 has not described.
        while not as_it_is and (describing := self._describing.get(id)) is not None:
            await describing.wait()
        flight = self._flight(id)
        # Who looks between the end of a body that broke off and the decision what is kept of it would find neither.
        while flight is not None and (settling := next((fill for fill in flight.fills if fill.settling), None)):
            await settling.wait()
            flight = self._flight(id)
        record = self._record(id, group)
        fills: tuple[BodyUnderWay, ...] = ()
        if flight is not None and flight.version is not None:
            fills = tuple(fill for fill in flight.fills if fill.joinable)
            if fills and (record is None or not record.version.same_bytes(flight.version)):
                return self._growing(flight.version, flight.brought_at, fills)
        if self._following is not None and self._invalidation.trusts_disk(id):
            body = None if fills else self._following.whole(id)
            if body is not None and (record is None or not record.version.same_bytes(body.version)):
                return self._growing(body.version, body.brought_at or 0.0, (body,))
            fills += self._following.ranges(id, record) if body is None else (body,)
        return None if record is None else self.recorded(record, fills)

    def _growing(self, version: ObjectVersion, brought_at: float, fills: tuple[BodyUnderWay, ...]) -> View:
        """A version of which nothing but these bodies is there."""
        return View(
            version=self._parts.completed(version),
            validated_at=brought_at,
            record=None,
            fills=fills,
            store=self.store,
            ram=self.ram,
            inspector=self.inspector,
        )

    async def seek(self, id: ObjectId, sought: Sought) -> Found:
        """What is wanted of an object is not here: see whether another process that uses the directory is getting it,
        and wait for its first bytes.
        """
        following = self._following
        if following is None or not self._invalidation.trusts_disk(id) or not self.guard.may_insert:
            return Found.NOTHING
        return await following.seek(id, self._record(id), sought)

    def look_again(self, id: ObjectId) -> None:
        """What the last view told is not on disk: the entry was replaced, perhaps by the same bytes under a newer
        description, and nobody has noticed yet. The next view tells what is there now.
        """
        self._forget(id)

    def used(self, view: View, wanted: Interval) -> None:
        """Somebody reads these bytes from the cache: what is used stays longer."""
        if view.record is not None and self.store is not None:
            self.counts.first_reads += view.record.stored.unread
            if view.record.stored.unread and self.packer.rules is not None:
                self.packer.offer(view.version, view.record.stored, view.held())
            self.store.read_first(view.record.stored)
            for start, stop in view.held(wanted):
                if start < wanted[1] and wanted[0] < stop:
                    self.store.touched(view.record.name, start)

    def hot(self, id: ObjectId) -> Record | None:
        """The record of an object that is in memory, if nothing is under way for it: all that a view would show."""
        if self._index is None or id in self._flights or not self._invalidation.trusts_disk(id):
            return None
        return self._index.hot(id)

    def recorded(self, record: Record, fills: tuple[BodyUnderWay, ...] = ()) -> View:
        """What can be read of an object that has this record, a current one or a :meth:`hot` one."""
        return View(
            version=self._parts.completed(record.version),
            validated_at=record.stored.validated_at,
            unconfirmed=record.stored.unconfirmed,
            record=record,
            fills=fills,
            store=self.store,
            ram=self.ram,
            inspector=self.inspector,
        )

    def asked(self, id: ObjectId) -> tuple[Any, ...]:
        """The requests for this object that wait for S3's answer, oldest first."""
        flight = self._flight(id)
        return () if flight is None else tuple(flight.asked)

    # Storing.

    def begin(
        self, id: ObjectId, asking: Any, conditional: bool, asks: Interval | None = None, *, missing: bool = False
    ) -> Ticket:
        """A request for this object is about to be sent to S3.

        :param asking: what others who want the same find with :meth:`asked`, until the request is :meth:`answered`
        :param conditional: the request may be answered with a 304 about the entry on disk
        :param asks: the bytes that it asks for, if other processes may wait for them
        :param missing: it asks for them because the entry on disk lacks them
        """
        flight = self._flight(id)
        if flight is None:
            name = entry_name(id.parts)
            flight = self._flights[id] = KeyFlight(id, name, self._generations.object_at(name.slot))
        if flight.spent:
            # Requests that overlap without end would keep it so, and the object out of the cache, for ever.
            self._equip(flight, conditional, asks)
        elif asks is not None and self._following is not None:
            flight.announce(asks)
        flight.asked.append(asking)
        ticket = Ticket(flight, self._now(), asks)
        flight.open.append(ticket)
        if self._following is not None:
            # Its file may have become the entry just after that was looked for.
            ticket.in_the_way = (
                self._following.stands_in_the_way(flight.name)
                if flight.spent
                else not conditional and bool(self.guard.attempt(self._following.store.has, flight.name))
            )
            record = self._record(id) if missing else None
            if record is not None and record.stored.kind == RANGES:
                self._claim_early(ticket, record.stored.generation, record.version.size)
        return ticket

    def answered(self, ticket: Ticket, asking: Any) -> None:
        """The request no longer waits for an answer: nobody should join it any more. Idempotent."""
        if asking in ticket.flight.asked:
            ticket.flight.asked.remove(asking)

    def close(self, ticket: Ticket) -> None:
        """The head of S3's answer has been dealt with, or no answer will come. Idempotent."""
        if ticket.closed:
            return
        ticket.closed = True
        if ticket.claim is not None:
            ticket.claim.release()
        ticket.flight.open.remove(ticket)
        self._end_if_idle(ticket.flight)

    def confirmed(self, ticket: Ticket, version: ObjectVersion) -> None:
        """S3 confirmed this version in its answer to the ticket's request: the entry that holds it is renewed."""
        flight = ticket.flight
        if flight.renewal is None or flight.revoked or not ticket.may_publish:
            return
        # The entry that was opened for it may be a later one than the one that was asked about. And the same bytes may
        # have been written again, under other metadata, of which an answer about some of them is no description.
        held = decode_version(flight.renewal.entry.meta)
        if held is not None and held.same_bytes(version) and version.last_modified in (None, held.last_modified):
            renewal, flight.renewal = flight.renewal, None
            index = self._index
            assert index is not None
            index.renew(flight.id, lambda: self.guard.attempt(renewal.confirm, ticket.sent_at))

    def completed(self, ticket: Ticket, version: ObjectVersion) -> None:
        """S3 confirmed what was written through, and told since when it is there: the entry does so, too, from now
        on.
        """
        record = None if ticket.flight.revoked else self._record(ticket.flight.id)
        if self.store is not None and record is not None and record.version.same_bytes(version):
            self._renew_or_redescribe(ticket, record, version)

    def receive(
        self, ticket: Ticket, version: ObjectVersion, interval: Interval, source: IByteSource, *, whole: bool
    ) -> Fill | None:
        """S3's answer with a body: take the body into the cache.

        :param interval: the bytes of the object that the body holds
        :param whole: the answer was a 200, and its headers describe the object completely
        :return: the fill, not begun yet, that the body must flow through; None: not stored, relay it
        """
        flight = ticket.flight
        if self.store is None or flight.revoked or version.size > self._settings.max_cache_size:
            return None
        if self._contradicts(ticket, version):
            return None
        record = None if flight.blank and flight.lease is not None else self._record(flight.id)
        if record is not None and not record.version.same_bytes(version):
            if ticket.superseded:
                return None
            if not ticket.may_publish and not flight.fills:
                self.drop(flight.id, "etag_mismatch")
                return None
            record = None
        self._parts.learn(version)
        fill = self._start_fill(ticket, record, version, interval, source, whole)
        if fill is not None:
            flight.version = version
            flight.brought_at = ticket.sent_at
            flight.fills.append(fill)
            self._fills.add(fill)
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
            memory=self.bodies,
            on_settled=lambda fill, results, true: None,
            on_disk_error=self.guard.failed,
        )

    def describe(self, ticket: Ticket, version: ObjectVersion) -> None:
        """S3's answer to a HEAD: renew the entry, or replace one that holds another version."""
        flight = ticket.flight
        if self.store is None or flight.revoked:
            return
        if self._contradicts(ticket, version):
            return
        record = self._record(flight.id)
        if record is not None and record.version.same_bytes(version):
            self._renew_or_redescribe(ticket, record, version)
            return
        if record is not None and not ticket.may_publish and not flight.fills and not ticket.superseded:
            self.drop(flight.id, "etag_mismatch")
            return
        lease = self._take_lease(ticket)
        if lease is not None:
            self.guard.attempt(self.store.publish_head, lease, **self._facts(version, ticket.sent_at))
            self._forget(flight.id)

    def describe_part(self, ticket: Ticket, version: ObjectVersion) -> None:
        """S3's answer to a HEAD of a part: it tells which bytes the part is and which version is current, and nothing
        of what describes the object.
        """
        flight = ticket.flight
        if flight.revoked or self._contradicts(ticket, version):
            return
        record = self._record(flight.id)
        if record is not None and record.version.same_bytes(version):
            self.confirmed(ticket, version)
        elif record is not None and not flight.fills and not ticket.superseded:
            self.drop(flight.id, "etag_mismatch")
        self._parts.learn(version)

    # Invalidating.

    async def arm(self, ids: Iterable[ObjectId]) -> ArmedKeys:
        """Before a write can take effect at S3; see :class:`ArmedKeys`."""
        return await self._invalidation.arm(ids)

    def drop(self, id: ObjectId, reason: str | None = None) -> None:
        """The entry is no longer true: remove it now, and let nothing that is under way be stored.

        :param reason: a word for the counts; None: it is counted by others
        """
        if reason is not None and (id in self._flights or (self._index is not None and id in self._index)):
            self.counts.drops[reason] += 1
        self._invalidation.drop(id)

    def outdated(self, id: ObjectId, version: ObjectVersion) -> None:
        """S3 no longer has this version: what is here of it is no longer true; of another one, it still is."""
        record, flight = self._record(id), self._flight(id)
        held = None if record is None else record.version
        brought = None if flight is None or not flight.fills else flight.version
        if any(each is not None and each.same_bytes(version) for each in (held, brought)):
            self.drop(id, "etag_mismatch")

    def noticed(self, id: ObjectId, etag: bytes | None) -> None:
        """S3 gave somebody this object, past the cache: an entry of another version is no longer true."""
        record = None if etag is None else self._record(id)
        if record is not None and record.version.etag != etag:
            self.drop(id, "etag_mismatch")

    def note_kept(self, size: int) -> None:
        """An upload of so many bytes was kept."""
        self.counts.filled("put", "stored", size)

    # Upkeep.

    def pulse(self) -> None:
        """Every few seconds: the leases of what is under way show that somebody is at work."""
        for flight in self._flights.values():
            lease = flight.lease if flight.renewal is None else flight.renewal.lease
            if lease is not None:
                lease.touch()

    def catch_up(self) -> bool:
        """The disk takes writes again: write down some of the invalidations that it did not take; whether all are."""
        return self._invalidation.catch_up_some()

    def break_off(self) -> None:
        """The bodies that are on their way end here; ``fills_in_flight`` tells when all that is kept is on disk."""
        for fill in tuple(self._fills):
            fill.break_off()

    def end(self) -> None:
        """Give back what is held on disk; nothing is stored any more."""
        self.packer.close()
        self.guard.stop_inserts()
        for id in tuple(self._flights):
            self._revoke(id)
        if self._following is not None:
            self._following.close()
        if self.ram is not None:
            self.ram.close()

    # What is behind these.

    def _flight(self, id: ObjectId) -> KeyFlight | None:
        """What is under way for an object, unless somebody changed the object meanwhile, in whatever process of the
        host: then it is nobody's business but that of those who wait already.
        """
        flight = self._flights.get(id)
        if flight is not None and self._generations.object_at(flight.name.slot) != flight.object_at:
            self._revoke(id)
            return None
        return flight

    def _record(self, id: ObjectId, group: str | None = None) -> Record | None:
        if self._index is None or not self._invalidation.trusts_disk(id):
            return None
        try:
            return self._index.get(id, group)
        except OSError as error:
            self.guard.failed(error)
            return None

    def _forget(self, id: ObjectId) -> None:
        if self._index is not None:
            self._index.forget(id)

    def _equip(self, flight: KeyFlight, conditional: bool, asks: Interval | None) -> None:
        """Get the right to publish for a request that is about to be sent."""
        lease = renewal = None
        if self.store is not None and self.guard.may_insert and self._invalidation.catch_up(flight.id):
            how: dict[str, Any] = {}
            if self._following is not None:
                how = {"asks": asks, "instead_of": self._following.instead_of(flight.name)}
            if conditional:
                renewal = self.guard.attempt(self.store.prepare_renewal, flight.name, **how)
            if renewal is None:
                failures = self.guard.failures
                lease = self.guard.attempt(self.store.lease, flight.name, **how)
                refused = "busy" if failures == self.guard.failures else "error"
                self.counts.leases["ok" if lease is not None else refused] += 1
        flight.equip(lease, renewal, blank=not conditional)

    def _take_lease(self, ticket: Ticket) -> Any:
        """The right to publish, once; None if it is gone, or was taken after the request was sent."""
        flight = ticket.flight
        if not ticket.may_publish:
            return None
        lease, flight.lease = flight.lease, None
        renewal, flight.renewal = flight.renewal, None
        if renewal is not None:
            return renewal.hand_over()
        return lease

    def _contradicts(self, ticket: Ticket, version: ObjectVersion) -> bool:
        """Whether bodies of another version are under way: S3 changed in between, and neither may stay, unless this is
        the answer to the older request.
        """
        flight = ticket.flight
        if flight.version is None or not flight.fills or flight.version.same_bytes(version):
            return False
        if not ticket.superseded:
            self.drop(flight.id, "etag_mismatch")
        return True

    def _facts(self, version: ObjectVersion, sent_at: float) -> dict[str, Any]:
        return {
            "meta": encode_version(version),
            "object_size": version.size,
            "validated_at": sent_at,
            "observed_at": sent_at,
        }

    def _renew_or_redescribe(self, ticket: Ticket, record: Record, version: ObjectVersion) -> None:
        """S3 described the bytes that are held: the entry is confirmed, under the newer description if that differs."""
        merged = record.version.merged(version)
        if merged == record.version:
            self.confirmed(ticket, version)
            return
        assert self.store is not None
        store = self.store
        lease = self._take_lease(ticket)
        if lease is None:
            return
        facts = self._facts(merged, ticket.sent_at)
        del facts["object_size"]

        describing: SharedResult[None] = SharedResult()
        self._describing[merged.id] = describing

        def done(result: Any) -> None:
            if isinstance(result, Failure):
                # The thread may not even have begun, in which case the lease is still ours.
                self.guard.attempt(lease.release)
                self.guard.failed(result.value)
            self._forget(merged.id)
            if self._describing.get(merged.id) is describing:
                del self._describing[merged.id]
            describing.fire(None)

        self._run(lambda: store.replace_meta(record.stored, lease, **facts)).addBoth(done)

    def _start_fill(
        self,
        ticket: Ticket,
        record: Record | None,
        version: ObjectVersion,
        interval: Interval,
        source: IByteSource,
        whole: bool,
    ) -> Fill | None:
        """How the body gets into the cache: into the entry's own file, or as a range beside it; None: not at all.

        :param record: the entry on disk, if it holds this version
        """
        assert self.store is not None
        store, flight = self.store, ticket.flight
        start, stop = interval
        small = stop - start <= self._settings.small_object_bytes
        facts = self._facts(_described(record, version, whole), ticket.sent_at)
        place: Place | None
        if record is not None and record.stored.kind == RANGES:
            if whole:
                self._renew_or_redescribe(ticket, record, version)
            else:
                self.confirmed(ticket, version)
            held = self._held(record, interval)
            claim = ticket.take_claim(record.stored.generation, interval)
            if claim is None and not small:
                claim = self._claim(record.name, record.stored.generation, interval)
            place = into_ranges(store, record.stored, interval, small, held, claim)
        elif whole and version.size <= store.inline_max:
            place = into_entry(store, self.guard, self._take_lease(ticket), facts, small)
        elif record is not None and record.stored.kind == INLINE:
            # Every byte is held already.
            self.confirmed(ticket, version)
            return None
        else:
            lease = self._take_lease(ticket)
            claims: list[Claim | None] = []

            def prepare(generation: int) -> None:
                claims.append(None if small else self._claim(flight.name, generation, interval))
                for other in flight.open:
                    if other is not ticket:
                        self._claim_early(other, generation, version.size)

            entry = None if lease is None else self.guard.attempt(store.publish_ranges, lease, prepare=prepare, **facts)
            claim = claims[0] if claims else None
            if entry is None:
                if claim is not None:
                    claim.release()
                return None
            self._forget(version.id)
            place = into_ranges(store, entry, interval, small, (), claim)
        if place is None:
            return None
        fill = Fill(
            self._clock,
            self._run,
            source,
            start,
            stop,
            writers=place.writers,
            commit_small=place.commit_small,
            promptness=self._promptness,
            give_up=place.give_up,
            memory=self.bodies,
            verify=verifier_for(version.headers, version.etag) if whole else None,
            keep_ratio=self._settings.keep_ratio,
            on_file=lambda: self._published(flight, fill, place),
            on_settled=lambda fill, results, true: self._settled(flight, fill, place, results),
            on_disk_error=lambda error: self._refused(flight, place, error),
        )
        return fill

    def _claim_early(self, ticket: Ticket, generation: int, size: int) -> None:
        """What is asked for is going to be written into this generation, unless S3 refuses."""
        if ticket.asks is not None and ticket.claim is None:
            interval = ticket.asks[0], min(ticket.asks[1], size)
            if interval[1] - interval[0] > self._settings.small_object_bytes:
                ticket.claim = self._claim(ticket.flight.name, generation, interval)

    def _claim(self, name: EntryName, generation: int, interval: Interval) -> Claim | None:
        """Let other processes know that these bytes are on their way into an entry."""
        if self.store is None or self._following is None:
            return None
        return self.store.claim(name, generation, interval)

    def _published(self, flight: KeyFlight, fill: Fill, place: Place) -> None:
        """Some of a body can be read out of the cache now."""
        if place.entry is None or self._index is None:
            self._forget(flight.id)
        else:
            self._index.published(flight.id, place.entry, (*fill.published, *place.small_ranges))

    def _held(self, record: Record, wanted: Interval) -> tuple[Interval, ...]:
        assert self.store is not None
        try:
            return record.range_index(self.store).within(wanted)
        except OSError as error:
            self.guard.failed(error)
            return ()

    def _refused(self, flight: KeyFlight, place: Place, error: BaseException) -> None:
        """Bytes of a fill could not be written."""
        if place.claim is not None:
            place.claim.release()
        if type(error) is not FileNotFoundError:
            self.guard.failed(error)
        elif not flight.revoked:
            # The entry was evicted, or it has lost its directory: the next answer makes a new one.
            self.drop(flight.id)

    def _settled(self, flight: KeyFlight, fill: Fill, place: Place, results: list[Any]) -> None:
        self._fills.discard(fill)
        if place.claim is not None:
            place.claim.release()
        if fill in flight.fills:
            flight.fills.remove(fill)
        if fill.condemned:
            self._events.fill_failed_verification()
            self.log.warn("a body from S3 does not match its checksum; it is not kept")
            self.drop(flight.id, "corrupt")
            self.counts.filled(fill.origin, "failed")
        elif any(result is not None for result in results):
            stored = fill.have - fill.start
            self._events.entry_stored(stored)
            self.counts.filled(fill.origin, "stored" if fill.complete else "partial", stored)
        elif fill.failure is None:
            self._events.entry_declined()
            self.counts.filled(fill.origin, "declined")
        else:
            self.counts.filled(fill.origin, "failed")
        self._published(flight, fill, place)
        if self.packer.rules is not None and flight.version is not None and not fill.condemned and not flight.revoked:
            entry = place.entry or next((each for each in results if isinstance(each, StoredEntry)), None)
            if entry is not None:
                self.packer.offer(flight.version, entry, (*fill.published, *place.small_ranges))
        self._end_if_idle(flight)

    def _end_if_idle(self, flight: KeyFlight) -> None:
        if not flight.idle:
            return
        current = self._flights.get(flight.id) is flight
        if current:
            del self._flights[flight.id]
        self._give_back(flight)
        if current:
            self._parts.write_down(flight.name, flight.id)

    def _give_back(self, flight: KeyFlight) -> None:
        lease, flight.lease = flight.lease, None
        renewal, flight.renewal = flight.renewal, None
        if lease is not None:
            self.guard.attempt(lease.release)
        if renewal is not None:
            self.guard.attempt(renewal.cancel)

    def _revoke(self, id: ObjectId) -> None:
        """Nothing that is under way for this key may be joined or stored from now on."""
        flight = self._flights.pop(id, None)
        if flight is not None:
            flight.revoked = True
            flight.asked.clear()
            self._give_back(flight)
        self._parts.forget(id)
        self._forget(id)
        if self.ram is not None:
            self.ram.drop(entry_name(id.parts).digest)


def _described(record: Record | None, version: ObjectVersion, whole: bool) -> ObjectVersion:
    """How an entry of this version is described from now on: an answer about some of its bytes adds what it tells of
    the parts, and replaces a description only if that is an older one.
    """
    if record is None:
        return version
    if whole or version.last_modified not in (None, record.version.last_modified):
        return record.version.merged(version)
    return record.version.knowing(version.parts)
