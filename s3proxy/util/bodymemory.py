"""How much memory the bodies on their way take, all together, and who waits when it is too much."""

from collections import deque

from twisted.internet.defer import Deferred

__all__ = ["BodyMemory"]


class BodyMemory:
    """One account for all that holds bytes of bodies: those on their way to the disk or to slow readers, small ones
    that are complete, copies of uploads, and what is read of them.

    Nobody is refused bytes that have come already: holders pause their sources while it is :attr:`full`, and who is
    about to ask for another body waits (:meth:`wait`).

    :param limit: bytes; 0: no limit
    :ivar held: bytes that are held now
    :ivar most: most that were held at once
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.held = 0
        self.most = 0
        self._waiting: deque[Deferred[None]] = deque()

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return 0 < self.limit <= self.held

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

    def hold(self, size: int) -> None:
        """So many bytes more."""
        self.held += size
        if self.held > self.most:
            self.most = self.held

    def let_go(self, size: int) -> None:
        """So many bytes less."""
        self.held -= size
        if self._waiting and not self.full:
            self._waiting.popleft().callback(None)
            while self._waiting and self.held <= self.limit // 2:
                self._waiting.popleft().callback(None)

    def wait(self) -> "Deferred[None]":
        """Fires when there is room. Cancel it to wait no longer. While there is little room, they go on one by one,
        each time that somebody lets go of something.
        """
        waiter: Deferred[None] = Deferred(self._left)
        self._waiting.append(waiter)
        return waiter

    def _left(self, waiter: "Deferred[None]") -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
