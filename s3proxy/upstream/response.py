"""S3's answer as the gateway sees it: a byte source that is fed by the exchange."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.s3.headers import Headers
from s3proxy.upstream.http1 import ResponseHead
from s3proxy.upstream.interfaces import IUpstreamResponse, UpstreamTimeout
from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["IdleWatch", "UpstreamResponse"]


class IdleWatch:
    """Calls back after *limit* seconds without :meth:`touch`, while it runs. A touch is an assignment, no timer."""

    def __init__(self, clock: IReactorTime, limit: float, silent: Callable[[], None]) -> None:
        self._clock = clock
        self._limit = limit
        self._silent = silent
        self._last = 0.0
        self._running = False
        self._call: IDelayedCall | None = None

    def start(self, armed: bool = True) -> None:
        """Count from now on.

        :param armed: False: :meth:`arm` will follow, or :meth:`stop`
        """
        self._last = self._clock.seconds()
        self._running = True
        if armed:
            self.arm()

    def arm(self) -> None:
        """See :meth:`start`."""
        if self._running and self._call is None:
            self._call = self._clock.callLater(self._limit, self._check)

    def touch(self) -> None:
        """Something came."""
        self._last = self._clock.seconds()

    def pause(self) -> None:
        """Silence does not count until the next :meth:`start`."""
        self._running = False

    def stop(self) -> None:
        """Never call back again."""
        self._running = False
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _check(self) -> None:
        self._call = None
        if not self._running:
            return
        left = self._last + self._limit - self._clock.seconds()
        if left > 0:
            self._call = self._clock.callLater(left, self._check)
        else:
            self._running = False
            self._silent()


@implementer(IUpstreamResponse, IByteSource)
class UpstreamResponse:
    """See :class:`~s3proxy.upstream.interfaces.IUpstreamResponse`.

    Before :meth:`start` it keeps what came with the head, at most one read of the socket.

    :ivar receiving: more of what was received may be delivered at once; :meth:`received` follows
    :param set_reading: called with whether the connection shall be read
    :param cut: called when nobody wants the rest, or none comes
    """

    def __init__(
        self,
        clock: IReactorTime,
        head: ResponseHead,
        address: str,
        sent_at: float,
        idle_timeout: float,
        set_reading: Callable[[bool], None],
        cut: Callable[[], None],
    ) -> None:
        self.status = head.status
        self.reason = head.reason
        self.headers: Headers = head.headers
        self.length = head.length
        self.claimed_length = head.claimed_length
        self.address = address
        self.sent_at = sent_at
        self.head_at = clock.seconds()
        self.started = False
        self.receiving = False
        self._set_reading = set_reading
        self._cut = cut
        self._sink: IByteSink | None = None
        self._early: list[bytes] = []
        self._paused = False
        # How it ended: None while it has not; True in full; a Failure.
        self._end: bool | Failure | None = None
        self._aborted = False
        self._on_over: list[Callable[[], None]] = []
        self._idle_timeout = idle_timeout
        self._watch = IdleWatch(clock, idle_timeout, self._silent)

    # IByteSource.

    def start(self, sink: object) -> None:
        if self.started:
            raise RuntimeError("the body has been started already")
        self.started = True
        if self._given_up():
            return
        receiver: IByteSink = sink  # type: ignore[assignment]
        early, self._early = self._early, []
        for data in early:
            receiver.data_received(data)
            if self._given_up():
                return
        self._sink = receiver
        if self._end is not None:
            self._tell_end()
        elif not self._paused:
            self._watch.start(not self.receiving)
            self._set_reading(True)

    def pause(self) -> None:
        if self._paused:
            return
        self._paused = True
        if self._sink is not None and self._end is None:
            self._watch.pause()
            self._set_reading(False)

    def resume(self) -> None:
        if not self._paused:
            return
        self._paused = False
        if self._sink is not None and self._end is None:
            self._watch.start(not self.receiving)
            self._set_reading(True)

    def abort(self) -> None:
        if self._aborted:
            return
        self._aborted = True
        self._sink = None
        self._early = []
        self._watch.stop()
        self._end = True
        self._cut()
        self._over()

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call *callback* once nothing more comes from S3, at once when that is so already."""
        if self._end is not None:
            callback()
        else:
            self._on_over.append(callback)

    @property
    def fault(self) -> Failure | None:
        """Why the body did not come in full; None: it did, or may, or nobody wanted the rest."""
        return self._end if isinstance(self._end, Failure) else None

    # The exchange's side.

    def deliver(self, data: bytes) -> None:
        """Bytes of the body have come."""
        sink = self._sink
        if sink is not None:
            self._watch.touch()
            sink.data_received(data)
        elif not self._aborted:
            self._early.append(data)

    def received(self) -> None:
        """What was received at once has been delivered; the owner had set ``receiving``.

        A small body is complete by now, and has needed no timer.
        """
        self.receiving = False
        self._watch.arm()

    def complete(self) -> None:
        """The body has come in full."""
        self._finish(True)

    def broken(self, reason: Failure) -> None:
        """The body will not come in full."""
        self._finish(reason)

    def _given_up(self) -> bool:
        return self._aborted

    def _finish(self, end: bool | Failure) -> None:
        if self._end is not None:
            return
        self._end = end
        self._watch.stop()
        self._over()
        if self._sink is not None:
            self._tell_end()

    def _over(self) -> None:
        callbacks, self._on_over = self._on_over, []
        for callback in callbacks:
            callback()

    def _tell_end(self) -> None:
        sink, self._sink = self._sink, None
        end = self._end
        if sink is None:
            return
        if isinstance(end, Failure):
            sink.stream_failed(end)
        else:
            sink.stream_ended()

    def _silent(self) -> None:
        text = f"{self.address} sent no byte of the answer's body for {self._idle_timeout:g} s"
        error = UpstreamTimeout(text, sent=True)
        self._finish(Failure(error))
        self._cut()
