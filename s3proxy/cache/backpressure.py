"""How much of one body may wait here: S3 is paused when it is too much."""

from s3proxy.util.bodymemory import BodyMemory
from s3proxy.util.streams import IByteSource

__all__ = ["WINDOW", "BackPressure"]

WINDOW = 2 * 1024 * 1024
"""Bytes that may wait for the disk (or, passing, for the slowest reader) before S3 is paused."""
SHORT_WINDOW = 64 * 1024
"""The same while all bodies together take as much memory as they may."""


class BackPressure:
    """The account of one body.

    :param source: where it comes from
    :param account: of all bodies
    """

    __slots__ = ("_account", "_held", "_paused", "_source")

    def __init__(self, source: IByteSource, account: BodyMemory) -> None:
        self._source = source
        self._account = account
        self._held = 0
        self._paused = False

    def hold(self, size: int) -> None:
        """So many bytes more are in memory."""
        self._held += size
        self._account.hold(size)

    def let_go(self, size: int) -> None:
        """So many bytes fewer are."""
        self._held -= size
        self._account.let_go(size)

    def let_go_of_all(self) -> None:
        """Nothing of it is in memory any more."""
        self.let_go(self._held)

    def adapt(self, waiting: int) -> None:
        """Pause S3, or let it go on.

        :param waiting: bytes for which somebody is too slow
        """
        window = SHORT_WINDOW if self._account.full else WINDOW
        if not self._paused and waiting >= window:
            self._paused = True
            self._source.pause()
        elif self._paused and waiting < window // 2:
            self._paused = False
            self._source.resume()
