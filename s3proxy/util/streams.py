"""How bytes move between the parts of the proxy: a source pushes into one sink, and can be paused.

Both ends of a connection to a client and both ends of a connection to S3 speak these two interfaces, so that an
upload, a download and a relayed error page are all "this source into that sink".
"""

from twisted.python.failure import Failure
from zope.interface import Interface

__all__ = ["IByteSink", "IByteSource"]


class IByteSink(Interface):
    """Receives one stream of bytes. Exactly one of :meth:`stream_ended` and :meth:`stream_failed` is called, once,
    last.
    """

    def data_received(data: bytes) -> None:
        """Take the next bytes (never empty). A sink that can't keep up pauses its source; what is under way still
        comes.
        """

    def stream_ended() -> None:
        """Every byte that was promised has been delivered."""

    def stream_failed(reason: Failure) -> None:
        """No further byte comes, and what came may be incomplete."""


class IByteSource(Interface):
    """Pushes one stream of bytes into one sink. Delivers nothing before :meth:`start`."""

    def start(sink: IByteSink) -> None:
        """Begin delivery; called at most once. May call the sink before it returns."""

    def pause() -> None:
        """Deliver no more than what has already been read from the peer, until :meth:`resume`. Idempotent."""

    def resume() -> None:
        """Deliver again. Idempotent."""

    def abort() -> None:
        """Nobody wants the rest: release what the source holds. The sink is not called again. Idempotent."""
