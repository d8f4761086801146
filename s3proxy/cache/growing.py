"""What bodies on their way have in common, whoever gets them from S3: who reads them, and how far that is possible."""

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s3proxy.util.deferreds import WakeUps

__all__ = ["FillBroken", "GrowingBody"]


class FillBroken(Exception):
    """The bytes from here on will not come this way."""


class GrowingBody:
    """Bytes ``[start, stop)`` of one version.

    :ivar have: readers can have the bytes before this offset
    :ivar failure: why no byte after ``have`` will come
    :ivar condemned: it does not match S3's own checksum, and is not kept
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.have = start
        self.failure: Failure | None = None
        self.condemned = False
        self._readers: dict[object, int] = {}
        self._progress = WakeUps()

    @property
    def complete(self) -> bool:
        """Every byte can be read."""
        return self.have >= self.stop

    @property
    def readers(self) -> int:
        """How many follow it."""
        return len(self._readers)

    def attach(self, reader: object, position: int) -> None:
        """A reader's claim on the bytes from ``position`` on: they stay readable until it moves past them or leaves."""
        self._readers[reader] = position

    def moved(self, reader: object, position: int) -> None:
        """The reader has all bytes before ``position``."""
        self._readers[reader] = position

    def wait(self) -> "Deferred[None]":
        """Fires when ``have`` has grown, or nothing more comes."""
        return self._progress.wait()
