"""What is under way for one key in this process: requests at S3, bodies on their way, and the right to publish.

All requests for a key that are under way at the same time share one lease. It was taken before the first of them was
sent, and an invalidation takes it away; so no answer to a request that began before a write can be published after it.
When it is used up, the next request brings another one, which those that were sent before it must not use. What these
bring is kept only as ranges of an entry that is there already.
"""

from typing import Any

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.cache.fill import Fill
from s3proxy.storage.claims import Claim
from s3proxy.storage.layout import EntryName
from s3proxy.util.intervals import Interval

__all__ = ["KeyFlight", "Ticket"]


class KeyFlight:
    """The flight of one key. Revoked ones are on nobody's list any more and end with their last fill.

    :ivar asked: requests that wait for the head of S3's answer; opaque here, for those who want to join them
    :ivar blank: its lease was taken where there was no entry. While it stands, nobody else can have published one
    :ivar object_at: what the generation table said of the object before any of its requests was sent
    :ivar open: requests whose answers have not been dealt with
    :ivar turn: how many leases it has had
    :ivar version: what the fills bring
    :ivar brought_at: unix seconds at which the request was sent that brought ``version``
    """

    __slots__ = (
        "asked", "blank", "brought_at", "fills", "id", "lease",
        "name", "object_at", "open", "renewal", "revoked", "turn", "version",
    )  # fmt: skip

    def __init__(self, id: ObjectId, name: EntryName, object_at: int = 0) -> None:
        self.id = id
        self.name = name
        self.object_at = object_at
        self.lease: Any = None
        self.renewal: Any = None
        self.blank = False
        self.turn = 0
        self.revoked = False
        self.open: list[Ticket] = []
        self.asked: list[Any] = []
        self.fills: list[Fill] = []
        self.version: ObjectVersion | None = None
        self.brought_at = 0.0

    @property
    def idle(self) -> bool:
        """Nothing is under way any more."""
        return not self.open and not self.fills

    @property
    def spent(self) -> bool:
        """No entry can be published through it any more: the lease is used up, or there never was one."""
        return self.lease is None and self.renewal is None and not self.fills

    def announce(self, asks: Interval) -> None:
        """These bytes are being asked for: others may wait for them."""
        lease = self.lease if self.renewal is None else self.renewal.lease
        if lease is not None:
            lease.announce(asks)

    def equip(self, lease: Any, renewal: Any, *, blank: bool) -> None:
        """A lease, or a renewal, or neither, for the requests that are sent from now on."""
        self.lease, self.renewal, self.blank = lease, renewal, blank
        self.turn += 1


class Ticket:
    """One request that is about to be sent to S3 for a key; its answer may be stored through the flight.

    :ivar asks: the bytes that it asks for, if other processes may wait for them
    :ivar claim: shows them so
    :ivar in_the_way: another process has the right to publish, and is about to get the object
    """

    __slots__ = ("_turn", "asks", "claim", "closed", "flight", "in_the_way", "sent_at")

    def __init__(self, flight: KeyFlight, sent_at: float, asks: Interval | None = None) -> None:
        self.flight = flight
        self.sent_at = sent_at
        self.asks = asks
        self.claim: Claim | None = None
        self.closed = False
        self.in_the_way = False
        self._turn = flight.turn

    def take_claim(self, generation: int, interval: Interval) -> Claim | None:
        """The claim that was made for the request, if its answer is what was expected. Whoever takes it ends it."""
        claim = self.claim
        if claim is None or (claim.generation, claim.interval) != (generation, interval):
            return None
        self.claim = None
        return claim

    @property
    def superseded(self) -> bool:
        """The flight's lease was taken after this request was sent: the cache may know more than the answer."""
        return self._turn != self.flight.turn

    @property
    def may_publish(self) -> bool:
        """Whether the flight has a lease, or a renewal, that this request may use."""
        flight = self.flight
        return not self.superseded and (flight.lease is not None or flight.renewal is not None)
