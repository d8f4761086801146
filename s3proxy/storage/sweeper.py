"""Keeping the cache directory in order while it is used."""

from s3proxy.storage.counting import Corrections
from s3proxy.storage.eviction import Evictor
from s3proxy.storage.reaper import Reaper
from s3proxy.storage.volume import Volume

__all__ = ["Sweeper"]


class Sweeper:
    """Keeps the store between two marks in the background, so that a publication seldom has to wait for room.

    :param reaper: finds what is left of uploads
    :param corrections: finds out what shards hold that were never at rest when they were counted
    :param trigger_percent: of the limit; above it a sweep is due
    :param target_percent: of the limit; a sweep goes down to it
    """

    def __init__(
        self,
        volume: Volume,
        evictor: Evictor,
        reaper: Reaper,
        corrections: Corrections,
        *,
        trigger_percent: float = 95,
        target_percent: float = 80,
    ) -> None:
        self._volume = volume
        self._evictor = evictor
        self._reaper = reaper
        self._corrections = corrections
        self._trigger = trigger_percent / 100
        self._target = target_percent / 100

    def due(self) -> bool:
        """Whether :meth:`run` has something to do. Costs nothing."""
        ledger = self._volume.ledger
        capacity = ledger.capacity
        return (
            self._volume.has_trash
            or self._reaper.due()
            or self._corrections.due()
            or (not ledger.fits_unread(0) and ledger.unread > ledger.staged)
            or (capacity > 0 and ledger.used + ledger.reserved > capacity * self._trigger)
        )

    def run(self) -> int:
        """Delete the trash and what is left of uploads, correct sums, evict if there is too much, and return the bytes
        that were evicted. Blocks: call it in a thread.

        :raises OSError: the directory can't be changed
        """
        ledger = self._volume.ledger
        if self._reaper.due():
            self._reaper.run()
        if self._corrections.due():
            self._corrections.step()
        self._evictor.make_unread_room(0)
        capacity = ledger.capacity
        if capacity > 0 and ledger.used + ledger.reserved > capacity * self._trigger:
            return self._evictor.shrink(int(capacity * self._target))
        return self._evictor.shrink(max(capacity, ledger.used + ledger.reserved))
