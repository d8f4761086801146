"""The body of a client's request as a source that stands still until somebody wants it."""

from collections.abc import Callable

from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["RequestBody"]


@implementer(IByteSource)
class RequestBody:
    """Fed by the channel, read by one sink.

    Largest buffer: what one read of the connection brings: 64 KiB before the start, twice when the first came
    together with the head, 256 KiB later.

    :param started: called when the sink is there, before anything is delivered: the moment for ``100 Continue``
    :param changed: called whenever :attr:`held` may have changed
    :ivar arrived: whether any byte of the body has been received
    :ivar complete: whether all of it has been received
    :ivar wanted: whether the sink waits for bytes that the client has not sent
    """

    def __init__(self, started: Callable[[], None], changed: Callable[[], None]) -> None:
        self.arrived = False
        self.complete = False
        self._started = started
        self._changed = changed
        self._sink: IByteSink | None = None
        self._held: list[bytes] = []
        self._failure: Failure | None = None
        self._paused = False
        self._delivering = False
        self._over = False

    @property
    def held(self) -> bool:
        """Whether nothing more may be read from the connection for now."""
        if self._over:
            return False
        return self._paused or bool(self._held)

    @property
    def wanted(self) -> bool:
        """Whether it is the client's turn to send."""
        return self._sink is not None and not self._paused and not self._over and not self.complete

    # IByteSource

    def start(self, sink: IByteSink) -> None:
        """See :class:`IByteSource`."""
        if self._sink is not None:
            raise RuntimeError("The request's body was started twice")
        self._sink = sink
        if not self._over and self._failure is None:
            self._started()
        self._deliver()
        self._changed()

    def pause(self) -> None:
        """See :class:`IByteSource`."""
        if not self._paused:
            self._paused = True
            self._changed()

    def resume(self) -> None:
        """See :class:`IByteSource`."""
        if self._paused:
            self._paused = False
            self._deliver()
            self._changed()

    def abort(self) -> None:
        """See :class:`IByteSource`. What still comes from the client is read and thrown away."""
        if not self._over:
            self._over = True
            self._held = []
            self._changed()

    # For the channel

    def received(self, data: bytes, complete: bool) -> None:
        """Some bytes of the body have come, perhaps none, and perhaps the last."""
        self.complete = complete
        if data:
            self.arrived = True
            if not self._over:
                self._held.append(data)
        self._deliver()

    def failed(self, reason: Failure) -> None:
        """The rest of the body will not come."""
        if not self.complete and self._failure is None:
            self._failure = reason
            self._deliver()

    def _deliver(self) -> None:
        if self._delivering or self._sink is None:
            return
        self._delivering = True
        try:
            while not self._over:
                if self._failure is not None:
                    self._over = True
                    self._held = []
                    self._sink.stream_failed(self._failure)
                elif self._paused:
                    break
                elif self._held:
                    held, self._held = self._held, []
                    self._sink.data_received(held[0] if len(held) == 1 else b"".join(held))
                elif self.complete:
                    self._over = True
                    self._sink.stream_ended()
                else:
                    break
        finally:
            self._delivering = False
