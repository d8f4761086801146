"""What is under way in this process: the flights of all keys, and who has the right to publish what they bring.

See :mod:`s3proxy.cache.flight` for what a flight is. Nothing here waits for S3 or reads bodies: requests are announced
here before they are sent, and ask here for the lease under which their answers may be stored.
"""

from collections.abc import Callable, Iterator
from typing import Any

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.fill import Fill
from s3proxy.cache.flight import KeyFlight, Ticket
from s3proxy.cache.following import Following
from s3proxy.cache.guard import DiskGuard
from s3proxy.cache.invalidation import Invalidation
from s3proxy.cache.records import Records
from s3proxy.storage.claims import Claim
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import EntryName, entry_name
from s3proxy.storage.record import RANGES
from s3proxy.telemetry.counts import CacheCounts
from s3proxy.util.intervals import Interval

__all__ = ["Flights"]


class Flights:
    """See the module.

    :param store: None: nothing can be published
    :param following: what other processes are getting; None: nobody follows anybody
    :param unclaimed: bytes of the largest body that is not shown to other processes while it comes
    :param now: unix seconds
    :param changed: called when another process of the host has changed an object since its flight began; has to
        :meth:`revoke` it
    :param over: called when nothing is under way for an object any more
    :ivar current: the flights that somebody may still join, for looking at; see :meth:`get`
    """

    def __init__(
        self,
        store: DiskStore | None,
        records: Records,
        invalidation: Invalidation,
        following: Following | None,
        guard: DiskGuard,
        generations: GenerationTable,
        counts: CacheCounts,
        *,
        unclaimed: int,
        now: Callable[[], float],
        changed: Callable[[ObjectId], None],
        over: Callable[[EntryName, ObjectId], None],
    ) -> None:
        self.current: dict[ObjectId, KeyFlight] = {}
        self._store = store
        self._records = records
        self._invalidation = invalidation
        self._following = following
        self._guard = guard
        self._generations = generations
        self._counts = counts
        self._unclaimed = unclaimed
        self._now = now
        self._changed = changed
        self._over = over

    # Looking.

    def get(self, id: ObjectId) -> KeyFlight | None:
        """What is under way for an object, unless somebody changed the object meanwhile, in whatever process of the
        host: then it is nobody's business but that of those who wait already.
        """
        flight = self.current.get(id)
        if flight is not None and self._generations.object_at(flight.name.slot) != flight.object_at:
            self._changed(id)
            return None
        return flight

    def asked(self, id: ObjectId) -> tuple[Any, ...]:
        """The requests for this object that wait for S3's answer, oldest first."""
        flight = self.get(id)
        return () if flight is None else tuple(flight.asked)

    @property
    def waiting(self) -> int:
        """Requests for all objects that wait for S3's answer."""
        return sum(len(flight.asked) for flight in self.current.values())

    def bodies(self) -> Iterator[tuple[ObjectId, Fill]]:
        """Bodies on their way from S3 that readers can join, with their objects."""
        for flight in tuple(self.current.values()):
            for fill in tuple(flight.fills):
                yield flight.id, fill

    # Requests.

    def begin(
        self, id: ObjectId, asking: Any, conditional: bool, asks: Interval | None = None, *, missing: bool = False
    ) -> Ticket:
        """A request for this object is about to be sent to S3.

        :param asking: what others who want the same find with :meth:`asked`, until the request is :meth:`answered`
        :param conditional: the request may be answered with a 304 about the entry on disk
        :param asks: the bytes that it asks for, if other processes may wait for them
        :param missing: it asks for them because the entry on disk lacks them
        """
        flight = self.get(id)
        if flight is None:
            name = entry_name(id.parts)
            flight = self.current[id] = KeyFlight(id, name, self._generations.object_at(name.slot))
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
                else not conditional and bool(self._guard.attempt(self._following.store.has, flight.name))
            )
            record = self._records.get(id) if missing else None
            if record is not None and record.stored.kind == RANGES:
                self.claim_early(ticket, record.stored.generation, record.version.size)
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
        self.end_if_idle(ticket.flight)

    # The right to publish.

    def _equip(self, flight: KeyFlight, conditional: bool, asks: Interval | None) -> None:
        """Get it for a request that is about to be sent."""
        lease = renewal = None
        if self._store is not None and self._guard.may_insert and self._invalidation.catch_up(flight.id):
            how: dict[str, Any] = {}
            if self._following is not None:
                how = {"asks": asks, "instead_of": self._following.instead_of(flight.name)}
            if conditional:
                renewal = self._guard.attempt(self._store.prepare_renewal, flight.name, **how)
            if renewal is None:
                failures = self._guard.failures
                lease = self._guard.attempt(self._store.lease, flight.name, **how)
                refused = "busy" if failures == self._guard.failures else "error"
                self._counts.leases["ok" if lease is not None else refused] += 1
        flight.equip(lease, renewal, blank=not conditional)

    def take_lease(self, ticket: Ticket) -> Any:
        """The right to publish, once; None if it is gone, or was taken after the request was sent."""
        flight = ticket.flight
        if not ticket.may_publish:
            return None
        lease, flight.lease = flight.lease, None
        renewal, flight.renewal = flight.renewal, None
        if renewal is not None:
            return renewal.hand_over()
        return lease

    def _give_back(self, flight: KeyFlight) -> None:
        lease, flight.lease = flight.lease, None
        renewal, flight.renewal = flight.renewal, None
        if lease is not None:
            self._guard.attempt(lease.release)
        if renewal is not None:
            self._guard.attempt(renewal.cancel)

    def pulse(self) -> None:
        """Every few seconds: the leases of what is under way show that somebody is at work."""
        for flight in self.current.values():
            lease = flight.lease if flight.renewal is None else flight.renewal.lease
            if lease is not None:
                lease.touch()

    # What other processes see of it.

    def claim(self, name: EntryName, generation: int, interval: Interval) -> Claim | None:
        """Let other processes know that these bytes are on their way into an entry."""
        if self._store is None or self._following is None:
            return None
        return self._store.claim(name, generation, interval)

    def claim_early(self, ticket: Ticket, generation: int, size: int) -> None:
        """What a request asks for is going to be written into this generation, unless S3 refuses.

        :param size: of the object, in bytes
        """
        if ticket.asks is not None and ticket.claim is None:
            interval = ticket.asks[0], min(ticket.asks[1], size)
            if interval[1] - interval[0] > self._unclaimed:
                ticket.claim = self.claim(ticket.flight.name, generation, interval)

    # The end.

    def end_if_idle(self, flight: KeyFlight) -> None:
        """The flight is over unless something of it is still under way."""
        if not flight.idle:
            return
        current = self.current.get(flight.id) is flight
        if current:
            del self.current[flight.id]
        self._give_back(flight)
        if current:
            self._over(flight.name, flight.id)

    def revoke(self, id: ObjectId) -> None:
        """Nothing that is under way for this object may be joined or stored from now on."""
        flight = self.current.pop(id, None)
        if flight is not None:
            flight.revoked = True
            flight.asked.clear()
            self._give_back(flight)
