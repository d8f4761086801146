"""What other processes are getting of the objects that are asked for here: who asks for it waits for them, and reads it
as it grows, instead of asking S3 once more.

Processes of one host and hosts that share the cache directory do this in the same way, through the directory alone; see
:mod:`s3proxy.storage.growth`. Whatever goes wrong with it, or takes too long, S3 is asked.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.entry import ObjectId, decode_version
from s3proxy.cache.followed import ASK_AFTER, ELSEWHERE, HERE, Followed
from s3proxy.cache.index import Record
from s3proxy.storage.claims import ClaimedRange, Flight
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.growth import InlineGrowth, RangeGrowth
from s3proxy.storage.layout import EntryName, entry_name
from s3proxy.storage.record import RANGES
from s3proxy.util.deferreds import SharedResult
from s3proxy.util.intervals import Interval

__all__ = ["FLEET_WAIT", "Following", "Found", "Sought"]

FLEET_WAIT = 2.0
"""Seconds to wait for the first byte of what another process has asked for; then this one asks."""
COMPANY = 0.5
"""The same when it has asked for other bytes, and only makes the entry into which those that are wanted here go."""
UNCLEAR = 0.05
"""The same while its file does not say yet what it is."""
DISCOVERED = 10.0
"""Seconds for which what was found is offered without being looked for again."""
REMEMBERED = 1000
"""Processes that are no longer waited for, each for one object."""
COUNT_EVERY = 1.0
"""Seconds between two looks whether there are other processes."""
LISTING_SHARE = 20
"""Directories are not listed again before so many times the time that it took has passed."""


class Found(Enum):
    """What a look brought."""

    NOTHING = "nothing"
    """Nobody is getting it: S3 has to be asked."""
    NEWS = "news"
    """There is something new to look at."""
    AWAITED = "awaited"
    """The same, after some waiting."""
    IN_VAIN = "in vain"
    """Somebody is getting something else: S3 has to be asked."""


@attrs.frozen(kw_only=True)
class Sought:
    """What somebody wants of an object.

    :ivar interval: the bytes, as far as that is known
    :ivar lacking: some of them are not in the cache, as far as this process knows
    :ivar served_by: whether an answer that has these bytes of the object will do
    """

    interval: Interval | None
    lacking: bool
    served_by: Callable[[Interval], bool]


class _Watch:
    """One look after the other at a flight, on behalf of all who wait for it."""

    def __init__(self, owner: "Following", id: ObjectId, name: EntryName, flight: Flight, seconds: float) -> None:
        self.flight = flight
        self.changed: SharedResult[None] = SharedResult(self._deserted)
        self._owner = owner
        self._id = id
        self._name = name
        self._clock = owner.clock
        self._began = self._asked_at = self._clock.seconds()
        self._seconds = seconds
        self._least, self._most = HERE if flight.here else ELSEWHERE
        self._pause = self._least
        self._timer: IDelayedCall | None = self._clock.callLater(self._pause, self._look)

    def _deserted(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.watched(self._id, self)

    def _look(self) -> None:
        self._timer = None
        store, name = self._owner.store, self._name
        if self.flight.here:
            try:
                self._looked(store.flight(name))
            except OSError:
                self._end()
        else:
            self._owner.run(store.flight, name).addCallbacks(self._looked, lambda reason: self._end()).addErrback(
                lambda reason: Following.log.failure("waiting for another process", reason)
            )

    def _looked(self, now_there: Flight | None) -> None:
        seen, clock = self.flight, self._clock
        now = clock.seconds()
        if now_there is None or now_there.nonce != seen.nonce or now_there.entry is not None:
            self._end()
        elif now - self._began >= self._seconds:
            self._owner.no_longer_wait_for(self._name, seen.nonce)
            self._end()
        elif seen.here and now - self._asked_at >= ASK_AFTER and self._is_abandoned(now):
            self._end()
        elif self.changed.waiting:
            self._pause = min(self._most, 1.5 * self._pause)
            self._timer = clock.callLater(self._pause, self._look)

    def _is_abandoned(self, now: float) -> bool:
        self._asked_at = now
        return not self._owner.store.volume.instance.is_alive(self.flight.instance)

    def _end(self) -> None:
        self._owner.watched(self._id, self)
        self.changed.fire(None)


class Following:
    """See the module.

    :param host_only: follow nobody of another host
    :param forget: the entry of an object has to be read again
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: DiskStore,
        run: RunInThread,
        generations: GenerationTable,
        *,
        host_only: bool,
        forget: Callable[[ObjectId], None],
    ) -> None:
        self.clock = clock
        self.store = store
        self.run = run
        self._generations = generations
        self._host_only = host_only
        self._forget = forget
        self._bodies: dict[ObjectId, list[Followed]] = {}
        self._found: dict[Followed, tuple[float, int]] = {}
        self._watches: dict[ObjectId, _Watch] = {}
        self._not_waited_for: dict[EntryName, int] = {}
        self._given_up: dict[str, int] = {}
        self._count_again_at = float("-inf")
        self._alone = False
        self._salvaged: dict[str, int] = {}

    # What there is.

    def whole(self, id: ObjectId) -> Followed | None:
        """The whole body of a version that another process is getting, and that no entry tells of yet."""
        return next((body for body in self._current(id) if body.brought_at is not None), None)

    def ranges(self, id: ObjectId, record: Record | None) -> tuple[Followed, ...]:
        """Bytes that other processes are getting for an entry."""
        if record is None or record.stored.kind != RANGES or id not in self._bodies:
            return ()
        return tuple(
            body
            for body in self._current(id)
            if isinstance(body.growth, RangeGrowth) and body.growth.claim.entry.generation == record.stored.generation
        )

    def _current(self, id: ObjectId) -> list[Followed]:
        bodies = self._bodies.get(id)
        if not bodies:
            return []
        now, slot = self.clock.seconds(), entry_name(id.parts).slot
        for body in tuple(bodies):
            found_at, object_at = self._found[body]
            idle = not body.readers and now - found_at > DISCOVERED
            if idle or self._generations.object_at(slot) != object_at or not self._stands(body):
                self._drop(id, body)
        return list(bodies)

    def _stands(self, body: Followed) -> bool:
        try:
            return body.growth.stands()
        except OSError:
            return False

    def _drop(self, id: ObjectId, body: Followed) -> None:
        """Nobody new is to read from it."""
        bodies = self._bodies.get(id, [])
        if body in bodies:
            bodies.remove(body)
            del self._found[body]
            if not bodies:
                del self._bodies[id]

    def _over(self, id: ObjectId, body: Followed) -> None:
        self._drop(id, body)
        self._forget(id)
        growth = body.growth
        if body.hung and isinstance(growth, InlineGrowth):
            self.no_longer_wait_for(growth.flight.name, growth.flight.nonce)
        elif body.hung and isinstance(growth, RangeGrowth):
            _remember(self._given_up, growth.claim.text, growth.sign)
        elif body.died and isinstance(growth, RangeGrowth):
            self._salvage(id, growth.claim)

    def _salvage(self, id: ObjectId, claim: ClaimedRange) -> None:
        """Keep what a process that died has brought. If that fails, a scan finds it."""
        if claim.text in self._salvaged:
            return
        _remember(self._salvaged, claim.text, claim.instance)

        def failed(reason: Failure) -> None:
            self.log.debug("keeping what a dead process fetched: {reason}", reason=reason.getErrorMessage())

        self.run(self.store.salvage, claim).addErrback(failed).addCallback(lambda kept: self._forget(id))

    # Looking for more.

    async def seek(self, id: ObjectId, record: Record | None, sought: Sought) -> Found:
        """Look what other processes are getting, and wait until there is something of it."""
        try:
            if self._is_alone():
                return Found.NOTHING
            if self._new_ranges(id, record, sought):
                return Found.NEWS
            flight = self._flight(entry_name(id.parts))
        except OSError as error:
            self.log.debug("looking for what other processes do: {error}", error=str(error))
            return Found.NOTHING
        if flight is None or (flight.nonce and flight.asks is None and flight.entry is None):
            return Found.NOTHING
        if flight.entry is not None:
            return Found.NEWS if self._follow_flight(id, flight) else Found.NOTHING
        return await self._wait(id, flight, sought)

    def _is_alone(self) -> bool:
        """Whether no other process uses the directory."""
        now = self.clock.seconds()
        if now >= self._count_again_at:
            self._count_again_at = now + COUNT_EVERY
            self._alone = not self.store.volume.instance.others()
        return self._alone

    def stands_in_the_way(self, name: EntryName) -> bool:
        """Whether somebody else has the right to publish an object, and is to be waited for."""
        try:
            flight = self._flight(name)
        except OSError:
            return False
        if flight is None or (flight.nonce and flight.asks is None):
            return False
        self._alone = False
        return True

    def instead_of(self, name: EntryName) -> int | None:
        """Whose right to publish an object may be taken away, after all the waiting."""
        return self._not_waited_for.get(name)

    def no_longer_wait_for(self, name: EntryName, nonce: int) -> None:
        """This process has been waited for long enough."""
        _remember(self._not_waited_for, name, nonce)

    def watched(self, id: ObjectId, watch: _Watch) -> None:
        """The watch is over."""
        if self._watches.get(id) is watch:
            del self._watches[id]
            self._forget(id)

    def close(self) -> None:
        """Nobody reads any more."""
        for bodies in tuple(self._bodies.values()):
            for body in tuple(bodies):
                body.close()

    def _flight(self, name: EntryName) -> Flight | None:
        flight = self.store.flight(name)
        if flight is None or flight.nonce == 0:
            return flight
        if self._host_only and not flight.here:
            return None
        if flight.nonce == self._not_waited_for.get(name):
            return None
        return flight if self.store.volume.instance.is_alive(flight.instance) else None

    def _new_ranges(self, id: ObjectId, record: Record | None, sought: Sought) -> bool:
        """Read the directory of an entry again."""
        if record is None or record.stored.kind != RANGES or sought.interval is None or not sought.lacking:
            return False
        began = self.clock.seconds()
        if began < record.list_again_at:
            return False
        start, stop = sought.interval
        before = record.range_index(self.store).within(sought.interval)
        record.forget_ranges()
        new = record.range_index(self.store).within(sought.interval) != before
        known = {body.growth.claim.text for body in self.ranges(id, record) if isinstance(body.growth, RangeGrowth)}
        for claim in self.store.claims(record.stored):
            # All of them: those who want other bytes do not list the directory again at once.
            if not claim.alive:
                self._salvage(id, claim)
            elif claim.text not in known and self._is_of_use(claim):
                growth = RangeGrowth(self.store.volume, claim)
                self._add(id, Followed(self.clock, self.run, growth, record.version, None, self._over_for(id)))
                new = new or (claim.start < stop and start < claim.stop)
        ended = self.clock.seconds()
        record.list_again_at = ended + LISTING_SHARE * (ended - began)
        return new

    def _is_of_use(self, claim: ClaimedRange) -> bool:
        if self._host_only and not claim.here:
            return False
        return self._given_up.get(claim.text) != claim.sign

    def _follow_flight(self, id: ObjectId, flight: Flight) -> bool:
        """The body is growing: whether that is news."""
        assert flight.entry is not None
        for body in self._current(id):
            if isinstance(body.growth, InlineGrowth) and body.growth.flight.nonce == flight.nonce:
                return False
        version = decode_version(flight.entry.meta)
        if version is None or version.id != id or version.size != flight.entry.body_len:
            return False
        growth = InlineGrowth(self.store.volume, flight)
        brought_at = flight.entry.validated_at
        self._add(id, Followed(self.clock, self.run, growth, version, brought_at, self._over_for(id)))
        return True

    def _over_for(self, id: ObjectId) -> Callable[[Followed], None]:
        return lambda body: self._over(id, body)

    def _add(self, id: ObjectId, body: Followed) -> None:
        self._bodies.setdefault(id, []).append(body)
        self._found[body] = (self.clock.seconds(), self._generations.object_at(entry_name(id.parts).slot))

    async def _wait(self, id: ObjectId, flight: Flight, sought: Sought) -> Found:
        watch = self._watches.get(id)
        if watch is None or watch.flight.nonce != flight.nonce:
            seconds = FLEET_WAIT if flight.nonce else UNCLEAR
            watch = self._watches[id] = _Watch(self, id, entry_name(id.parts), flight, seconds)
        waiting: Deferred[None] = watch.changed.wait()
        if flight.asks is None or sought.served_by(flight.asks):
            await waiting
            return Found.AWAITED
        late = self.clock.callLater(COMPANY, waiting.cancel)
        try:
            await waiting
            return Found.AWAITED
        except CancelledError:
            if late.active():
                raise
            return Found.IN_VAIN
        finally:
            if late.active():
                late.cancel()


def _remember(memory: "dict[Any, int]", key: object, value: int) -> None:
    if len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = value
