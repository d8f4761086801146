"""The share of the cache that what was written through may take until somebody reads it."""

from s3proxy.storage.eviction import Evictor
from s3proxy.storage.ledger import Ledger
from s3proxy.storage.publish import Room

__all__ = ["Allowance", "WriteShare"]

_RESERVE_ATTEMPTS = 8


class WriteShare:
    """Grants room for what is written through (:class:`~s3proxy.storage.publish.Room`): it needs to fit into the cache
    and into the share of what nobody has read. Unread entries go for it, the oldest first; what was read never does.
    """

    def __init__(self, evictor: Evictor, ledger: Ledger) -> None:
        self._evictor = evictor
        self._ledger = ledger

    def could_fit(self, size: int) -> bool:
        """Whether so much could be kept if everything else went."""
        limit = self._ledger.unread_limit
        return self._ledger.could_fit(size) and (limit == 0 or size <= limit)

    def reserve(self, size: int) -> bool:
        """See :class:`~s3proxy.storage.publish.Room`."""
        for _ in range(_RESERVE_ATTEMPTS):
            if self._ledger.reserve_unread(size):
                break
            if not self._evictor.make_unread_room(size):
                return False
        else:
            return False
        granted = False
        try:
            granted = self._evictor.reserve(size)
        finally:
            if not granted:
                self._ledger.release_unread(size)
        return granted

    def reserve_at_once(self, size: int) -> bool:
        """See :class:`~s3proxy.storage.publish.Room`."""
        if not self._ledger.reserve_unread(size):
            return False
        granted = self._evictor.reserve_at_once(size)
        if not granted:
            self._ledger.release_unread(size)
        return granted

    def release(self, size: int) -> None:
        """See :class:`~s3proxy.storage.publish.Room`."""
        self._evictor.release(size)
        self._ledger.release_unread(size)

    def exhausted(self, size: int) -> bool:
        """See :class:`~s3proxy.storage.publish.Room`."""
        return self._evictor.exhausted(size)


class Allowance:
    """Room that was set aside for several files, and is used one by one."""

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self._left = size

    @classmethod
    def grant(cls, room: Room, size: int) -> "Allowance | None":
        """Set so much aside; None when it can't be. May evict."""
        return cls(room, size) if room.reserve(size) else None

    def use(self, size: int) -> None:
        """So much of it is counted as published now."""
        self._left -= size
        self._room.release(size)

    def close(self) -> None:
        """Give the rest back. Idempotent."""
        left, self._left = self._left, 0
        if left:
            self._room.release(left)
