"""The cache as the gateway sees it: what can be read of an object now, and what makes it invalid.

This is where its parts are put together. Those that the gateway deals with are at hand here: ``flights`` (requests at
S3), ``admission`` (S3's answers) and ``writes`` (uploads).

Calls that may have to wait for a disk return Deferreds. A failing disk is never an error to the caller: reads become
misses, answers are not stored; only an invalidation that could not be written down is remembered here until the process
ends.
"""

from collections.abc import Callable, Iterable, Iterator

from twisted.internet.interfaces import IReactorTime

from s3proxy.cache.admission import Admission
from s3proxy.cache.background import RunInThread
from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.cache.fill import Fill
from s3proxy.cache.flights import Flights
from s3proxy.cache.following import Following, Found, Sought
from s3proxy.cache.guard import CacheEvents, DiskGuard
from s3proxy.cache.index import EntryIndex, Record
from s3proxy.cache.inspection import Inspector
from s3proxy.cache.invalidation import ArmedKeys, Invalidation
from s3proxy.cache.packer import Packer
from s3proxy.cache.parts import LearnedParts
from s3proxy.cache.ram import RamTier
from s3proxy.cache.records import Records
from s3proxy.cache.settings import CacheSettings
from s3proxy.cache.view import BodyUnderWay, View
from s3proxy.cache.writethrough import WriteThrough
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import entry_name
from s3proxy.telemetry.counts import CacheCounts
from s3proxy.util.bodymemory import BodyMemory
from s3proxy.util.intervals import Interval

__all__ = ["CacheManager"]


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
    :ivar flights: requests at S3, and what they bring
    :ivar admission: takes S3's answers into the cache
    :ivar writes: uploads that are kept on their way to S3
    """

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
        self.store = store
        self.ram = ram
        self.inspector = Inspector(run)
        self.packer = Packer(store, run)
        self.guard = DiskGuard(now, events)
        self.counts = counts or CacheCounts()
        self._index = _index(store, generations, settings, now, ram, self.counts)
        self._invalidation = Invalidation(store, self.guard, run, self._revoke, events, generations)
        self._records = Records(store, self._index, self.guard, run, self._invalidation.trusts_disk)
        self._parts = LearnedParts(store, self.guard, run, self._records.forget)
        self._following = _following(clock, store, run, generations, settings, self._records.forget)
        self.flights = Flights(
            store,
            self._records,
            self._invalidation,
            self._following,
            self.guard,
            generations,
            self.counts,
            unclaimed=settings.small_object_bytes,
            now=now,
            changed=self._revoke,
            over=self._parts.write_down,
        )
        self.admission = Admission(
            clock,
            store,
            self.flights,
            self._records,
            self._parts,
            self.guard,
            run,
            settings,
            drop=self.drop,
            packer=self.packer,
            events=events,
            counts=self.counts,
            memory=self.bodies,
        )
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

    # Looking.

    async def view(self, id: ObjectId, *, as_it_is: bool = False, group: str | None = None) -> View | None:
        """What can be read of an object now; None: nothing.

        :param group: of operations, for the counts of look-ups; None: this one does not count
        :param as_it_is: don't wait until what S3 said about the object is written down; the caller knows it
        """
        # Who asks for the body right behind the head would still find an entry that S3 has not described.
        while not as_it_is and (describing := self._records.describing.get(id)) is not None:
            await describing.wait()
        flight = self.flights.get(id)
        # Who looks between the end of a body that broke off and the decision what is kept of it would find neither.
        while flight is not None and (settling := next((fill for fill in flight.fills if fill.settling), None)):
            await settling.wait()
            flight = self.flights.get(id)
        record = self._records.get(id, group)
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

    def hot(self, id: ObjectId) -> Record | None:
        """The record of an object that is in memory, if nothing is under way for it: all that a view would show."""
        if self._index is None or id in self.flights.current or not self._invalidation.trusts_disk(id):
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

    async def seek(self, id: ObjectId, sought: Sought) -> Found:
        """What is wanted of an object is not here: see whether another process that uses the directory is getting it,
        and wait for its first bytes.
        """
        following = self._following
        if following is None or not self._invalidation.trusts_disk(id) or not self.guard.may_insert:
            return Found.NOTHING
        return await following.seek(id, self._records.get(id), sought)

    def look_again(self, id: ObjectId) -> None:
        """What the last view told is not on disk: the entry was replaced, perhaps by the same bytes under a newer
        description, and nobody has noticed yet. The next view tells what is there now.
        """
        self._records.forget(id)

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

    # Invalidating.

    async def arm(self, ids: Iterable[ObjectId]) -> ArmedKeys:
        """Before a write can take effect at S3; see :class:`ArmedKeys`."""
        return await self._invalidation.arm(ids)

    def drop(self, id: ObjectId, reason: str | None = None) -> None:
        """The entry is no longer true: remove it now, and let nothing that is under way be stored.

        :param reason: a word for the counts; None: it is counted by others
        """
        if reason is not None and (id in self.flights.current or id in self._records):
            self.counts.drops[reason] += 1
        self._invalidation.drop(id)

    def outdated(self, id: ObjectId, version: ObjectVersion) -> None:
        """S3 no longer has this version: what is here of it is no longer true; of another one, it still is."""
        record, flight = self._records.get(id), self.flights.get(id)
        held = None if record is None else record.version
        brought = None if flight is None or not flight.fills else flight.version
        if any(each is not None and each.same_bytes(version) for each in (held, brought)):
            self.drop(id, "etag_mismatch")

    def noticed(self, id: ObjectId, etag: bytes | None) -> None:
        """S3 gave somebody this object, past the cache: an entry of another version is no longer true."""
        record = None if etag is None else self._records.get(id)
        if record is not None and record.version.etag != etag:
            self.drop(id, "etag_mismatch")

    def _revoke(self, id: ObjectId) -> None:
        """Nothing that is under way for this object, and nothing that is known of it, is true from now on."""
        self.flights.revoke(id)
        self._parts.forget(id)
        self._records.forget(id)
        if self.ram is not None:
            self.ram.drop(entry_name(id.parts).digest)

    # What it has to do, and what it takes.

    @property
    def fills_in_flight(self) -> int:
        """Bodies on their way into the cache, those included that will not be kept."""
        return self.admission.fills_in_flight

    def bodies_under_way(self) -> Iterator[tuple[ObjectId, Fill]]:
        """Bodies on their way from S3 that readers can join, with their objects. To be looked at only."""
        return self.flights.bodies()

    @property
    def fetches_in_flight(self) -> int:
        """Requests at S3 that others may join."""
        return self.flights.waiting

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

    def note_kept(self, size: int) -> None:
        """An upload of so many bytes was kept."""
        self.counts.filled("put", "stored", size)

    # Upkeep.

    def pulse(self) -> None:
        """Every few seconds: the leases of what is under way show that somebody is at work."""
        self.flights.pulse()

    def catch_up(self) -> bool:
        """The disk takes writes again: write down some of the invalidations that it did not take; whether all are."""
        return self._invalidation.catch_up_some()

    def break_off(self) -> None:
        """The bodies that are on their way end here; ``fills_in_flight`` tells when all that is kept is on disk."""
        self.admission.break_off()

    def end(self) -> None:
        """Give back what is held on disk; nothing is stored any more."""
        self.packer.close()
        self.guard.stop_inserts()
        for id in tuple(self.flights.current):
            self._revoke(id)
        if self._following is not None:
            self._following.close()
        if self.ram is not None:
            self.ram.close()


def _index(
    store: DiskStore | None,
    generations: GenerationTable,
    settings: CacheSettings,
    now: Callable[[], float],
    ram: RamTier | None,
    counts: CacheCounts,
) -> EntryIndex | None:
    if store is None:
        return None
    return EntryIndex(
        store,
        generations,
        now,
        max_entries=settings.max_entries,
        max_bytes=settings.max_memory,
        refresh_interval=settings.refresh_interval,
        ram=ram,
        counts=counts,
    )


def _following(
    clock: IReactorTime,
    store: DiskStore | None,
    run: RunInThread,
    generations: GenerationTable,
    settings: CacheSettings,
    forget: Callable[[ObjectId], None],
) -> Following | None:
    if store is None or settings.coordination == "off":
        return None
    host_only = settings.coordination == "host"
    return Following(clock, store, run, generations, host_only=host_only, forget=forget)
