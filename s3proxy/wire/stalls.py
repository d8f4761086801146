"""Whether a client that is being answered takes anything."""

__all__ = ["ReaderProgress"]


class ReaderProgress:
    """Watches a number that grows when the client has taken something.

    What the client's kernel has confirmed is the number to watch: what the own kernel has taken stands still for
    minutes when a slow but steady client empties megabytes of socket buffer.
    """

    __slots__ = ("_taken", "_since")

    def __init__(self) -> None:
        self._taken = -1
        self._since = 0.0

    def started(self, now: float) -> None:
        """There is nothing to take, or there has just begun to be."""
        self._since = now

    def stalls(self, now: float, taken: int, timeout: float) -> bool:
        """Whether nothing was taken for longer than the timeout."""
        if taken != self._taken:
            self._taken = taken
            self._since = now
            return False
        return now - self._since > timeout
