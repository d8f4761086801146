"""S3's answers on their way into the cache: what becomes an entry, or part of one, and what confirms one.

The answer's request has a :class:`~s3proxy.cache.flight.Ticket`, which was got before it was sent. What it may publish
is decided by the flight's lease; what it may add to an entry or confirm, by the version that the entry holds.
"""

from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from s3proxy.cache.background import Promptness, RunInThread
from s3proxy.cache.entry import ObjectId, ObjectVersion, decode_version
from s3proxy.cache.fill import Fill
from s3proxy.cache.flight import KeyFlight, Ticket
from s3proxy.cache.flights import Flights
from s3proxy.cache.guard import CacheEvents, DiskGuard
from s3proxy.cache.index import Record
from s3proxy.cache.packer import Packer
from s3proxy.cache.parts import LearnedParts
from s3proxy.cache.placement import Place, into_entry, into_ranges
from s3proxy.cache.records import Records, entry_facts
from s3proxy.cache.settings import CacheSettings
from s3proxy.cache.verify import verifier_for
from s3proxy.storage.claims import Claim
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.record import INLINE, RANGES
from s3proxy.telemetry.counts import CacheCounts
from s3proxy.util.bodymemory import BodyMemory
from s3proxy.util.intervals import Interval
from s3proxy.util.streams import IByteSource

__all__ = ["Admission"]


class Drop(Protocol):
    """See :meth:`s3proxy.cache.manager.CacheManager.drop`."""

    def __call__(self, id: ObjectId, reason: str | None = None) -> None: ...


class Admission:
    """See the module.

    :param store: None: nothing is kept
    :param drop: the entry of an object is no longer true
    :param packer: is offered what has been stored
    :param memory: where bodies on their way are accounted
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: DiskStore | None,
        flights: Flights,
        records: Records,
        parts: LearnedParts,
        guard: DiskGuard,
        run: RunInThread,
        settings: CacheSettings,
        *,
        drop: Drop,
        packer: Packer,
        events: CacheEvents,
        counts: CacheCounts,
        memory: BodyMemory,
    ) -> None:
        self._clock = clock
        self._store = store
        self._flights = flights
        self._records = records
        self._parts = parts
        self._guard = guard
        self._run = run
        self._settings = settings
        self._drop = drop
        self._packer = packer
        self._events = events
        self._counts = counts
        self._memory = memory
        self._promptness = Promptness(clock.seconds)
        self._fills: set[Fill] = set()

    @property
    def fills_in_flight(self) -> int:
        """Bodies on their way into the cache, those included that will not be kept."""
        return len(self._fills)

    def break_off(self) -> None:
        """The bodies that are on their way end here; :attr:`fills_in_flight` tells when all that is kept is on disk."""
        for fill in tuple(self._fills):
            fill.break_off()

    # Answers without a body.

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
            self._records.confirm(flight.id, renewal, ticket.sent_at)

    def completed(self, ticket: Ticket, version: ObjectVersion) -> None:
        """S3 confirmed what was written through, and told since when it is there: the entry does so, too, from now
        on.
        """
        record = None if ticket.flight.revoked else self._records.get(ticket.flight.id)
        if record is not None and record.version.same_bytes(version):
            self._renew_or_redescribe(ticket, record, version)

    def describe(self, ticket: Ticket, version: ObjectVersion) -> None:
        """S3's answer to a HEAD: renew the entry, or replace one that holds another version."""
        flight = ticket.flight
        if self._store is None or flight.revoked:
            return
        if self._contradicts(ticket, version):
            return
        record = self._records.get(flight.id)
        if record is not None and record.version.same_bytes(version):
            self._renew_or_redescribe(ticket, record, version)
            return
        if record is not None and not ticket.may_publish and not flight.fills and not ticket.superseded:
            self._drop(flight.id, "etag_mismatch")
            return
        lease = self._flights.take_lease(ticket)
        if lease is not None:
            self._guard.attempt(self._store.publish_head, lease, **entry_facts(version, ticket.sent_at))
            self._records.forget(flight.id)

    def describe_part(self, ticket: Ticket, version: ObjectVersion) -> None:
        """S3's answer to a HEAD of a part: it tells which bytes the part is and which version is current, and nothing
        of what describes the object.
        """
        flight = ticket.flight
        if flight.revoked or self._contradicts(ticket, version):
            return
        record = self._records.get(flight.id)
        if record is not None and record.version.same_bytes(version):
            self.confirmed(ticket, version)
        elif record is not None and not flight.fills and not ticket.superseded:
            self._drop(flight.id, "etag_mismatch")
        self._parts.learn(version)

    def _contradicts(self, ticket: Ticket, version: ObjectVersion) -> bool:
        """Whether bodies of another version are under way: S3 changed in between, and neither may stay, unless this is
        the answer to the older request.
        """
        flight = ticket.flight
        if flight.version is None or not flight.fills or flight.version.same_bytes(version):
            return False
        if not ticket.superseded:
            self._drop(flight.id, "etag_mismatch")
        return True

    def _renew_or_redescribe(self, ticket: Ticket, record: Record, version: ObjectVersion) -> None:
        """S3 described the bytes that are held: the entry is confirmed, under the newer description if that differs."""
        merged = record.version.merged(version)
        if merged == record.version:
            self.confirmed(ticket, version)
            return
        lease = self._flights.take_lease(ticket)
        if lease is not None:
            self._records.describe(record, merged, lease, ticket.sent_at)

    # Answers with a body.

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
        if self._contradicts(ticket, version):
            return None
        record = None if flight.blank and flight.lease is not None else self._records.get(flight.id)
        if record is not None and not record.version.same_bytes(version):
            if ticket.superseded:
                return None
            if not ticket.may_publish and not flight.fills:
                self._drop(flight.id, "etag_mismatch")
                return None
            record = None
        self._parts.learn(version)
        place = self._place(ticket, record, version, interval, whole)
        if place is None:
            return None
        fill = self._fill(flight, place, version, interval, source, whole)
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
            memory=self._memory,
            on_settled=lambda fill, results: None,
            on_disk_error=self._guard.failed,
        )

    def _place(
        self, ticket: Ticket, record: Record | None, version: ObjectVersion, interval: Interval, whole: bool
    ) -> Place | None:
        """Where the body goes: into the entry's own file, or as a range beside it; None: nowhere.

        :param record: the entry on disk, if it holds this version
        """
        assert self._store is not None
        store, small = self._store, self._is_small(interval)
        facts = entry_facts(_described(record, version, whole), ticket.sent_at)
        if record is not None and record.stored.kind == RANGES:
            if whole:
                self._renew_or_redescribe(ticket, record, version)
            else:
                self.confirmed(ticket, version)
            held = self._records.held(record, interval)
            claim = ticket.take_claim(record.stored.generation, interval)
            if claim is None and not small:
                claim = self._flights.claim(record.name, record.stored.generation, interval)
            return into_ranges(store, record.stored, interval, small, held, claim)
        if whole and version.size <= store.inline_max:
            return into_entry(store, self._guard, self._flights.take_lease(ticket), facts, small)
        if record is not None and record.stored.kind == INLINE:
            # Every byte is held already.
            self.confirmed(ticket, version)
            return None
        lease = self._flights.take_lease(ticket)
        return None if lease is None else self._place_in_new_entry(ticket, lease, version, interval, facts)

    def _place_in_new_entry(
        self, ticket: Ticket, lease: Any, version: ObjectVersion, interval: Interval, facts: dict[str, Any]
    ) -> Place | None:
        """Publish an entry without bytes, into which go those of the answer, and of all that are still awaited."""
        assert self._store is not None
        store, flight, small = self._store, ticket.flight, self._is_small(interval)
        claims: list[Claim | None] = []

        def prepare(generation: int) -> None:
            claims.append(None if small else self._flights.claim(flight.name, generation, interval))
            for other in flight.open:
                if other is not ticket:
                    self._flights.claim_early(other, generation, version.size)

        entry = self._guard.attempt(store.publish_ranges, lease, prepare=prepare, **facts)
        claim = claims[0] if claims else None
        if entry is None:
            if claim is not None:
                claim.release()
            return None
        self._records.forget(version.id)
        return into_ranges(store, entry, interval, small, (), claim)

    def _is_small(self, interval: Interval) -> bool:
        return interval[1] - interval[0] <= self._settings.small_object_bytes

    def _fill(
        self,
        flight: KeyFlight,
        place: Place,
        version: ObjectVersion,
        interval: Interval,
        source: IByteSource,
        whole: bool,
    ) -> Fill:
        """A body that goes there."""
        fill = Fill(
            self._clock,
            self._run,
            source,
            *interval,
            writers=place.writers,
            commit_small=place.commit_small,
            promptness=self._promptness,
            give_up=place.give_up,
            memory=self._memory,
            verify=verifier_for(version.headers, version.etag) if whole else None,
            keep_ratio=self._settings.keep_ratio,
            on_file=lambda: self._published(flight, fill, place),
            on_settled=lambda fill, results: self._settled(flight, fill, place, results),
            on_disk_error=lambda error: self._refused(flight, place, error),
        )
        return fill

    # What becomes of the body.

    def _published(self, flight: KeyFlight, fill: Fill, place: Place) -> None:
        """Some of a body can be read out of the cache now."""
        self._records.published(flight.id, place.entry, (*fill.published, *place.small_ranges))

    def _refused(self, flight: KeyFlight, place: Place, error: BaseException) -> None:
        """Bytes of a fill could not be written."""
        if place.claim is not None:
            place.claim.release()
        if type(error) is not FileNotFoundError:
            self._guard.failed(error)
        elif not flight.revoked:
            # The entry was evicted, or it has lost its directory: the next answer makes a new one.
            self._drop(flight.id)

    def _settled(self, flight: KeyFlight, fill: Fill, place: Place, results: list[Any]) -> None:
        self._fills.discard(fill)
        if place.claim is not None:
            place.claim.release()
        if fill in flight.fills:
            flight.fills.remove(fill)
        if fill.condemned:
            self._events.fill_failed_verification()
            self.log.warn("a body from S3 does not match its checksum; it is not kept")
            self._drop(flight.id, "corrupt")
            self._counts.filled(fill.origin, "failed")
        elif any(result is not None for result in results):
            stored = fill.have - fill.start
            self._events.entry_stored(stored)
            self._counts.filled(fill.origin, "stored" if fill.complete else "partial", stored)
        elif fill.failure is None:
            self._events.entry_declined()
            self._counts.filled(fill.origin, "declined")
        else:
            self._counts.filled(fill.origin, "failed")
        self._published(flight, fill, place)
        if self._packer.rules is not None and flight.version is not None and not fill.condemned and not flight.revoked:
            entry = place.entry or next((each for each in results if isinstance(each, StoredEntry)), None)
            if entry is not None:
                self._packer.offer(flight.version, entry, (*fill.published, *place.small_ranges))
        self._flights.end_if_idle(flight)


def _described(record: Record | None, version: ObjectVersion, whole: bool) -> ObjectVersion:
    """How an entry of this version is described from now on: an answer about some of its bytes adds what it tells of
    the parts, and replaces a description only if that is an older one.
    """
    if record is None:
        return version
    if whole or version.last_modified not in (None, record.version.last_modified):
        return record.version.merged(version)
    return record.version.knowing(version.parts)
