"""Whether a client's transport takes more output, and who waits for that."""

from twisted.internet.defer import Deferred

from s3proxy.gateway.interfaces import ClientGone

__all__ = ["OutputRoom"]


class OutputRoom:
    """The back-pressure of one connection.

    :ivar full: the transport has asked for a pause
    """

    __slots__ = ("full", "_waiters")

    def __init__(self) -> None:
        self.full = False
        self._waiters: list[Deferred[None]] = []

    def wait(self) -> "Deferred[None] | None":
        """None while there is room, else a Deferred of the caller's own that fires when there is room again."""
        if not self.full:
            return None
        waiter: Deferred[None] = Deferred(self._left)
        self._waiters.append(waiter)
        return waiter

    def _left(self, waiter: "Deferred[None]") -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def release(self) -> None:
        """Let everybody go on who waits now."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def fail(self, why: str) -> None:
        """Tell everybody who waits that the client has gone."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.errback(ClientGone(why))
