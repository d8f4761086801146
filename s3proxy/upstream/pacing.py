"""Downloads that have a common limit: their connections to S3 are paused until it is their turn.

Nothing is dropped or delayed but by back-pressure: while a download waits, nobody reads its connection, and S3's
silence does not count. One timer serves all of them.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.s3.headers import Headers
from s3proxy.telemetry.families import WAIT_BOUNDS
from s3proxy.telemetry.instruments import Histogram, Reading, Spread
from s3proxy.upstream.interfaces import IUpstream, IUpstreamResponse, UpstreamRequest
from s3proxy.upstream.qos import Flow, Scheduler
from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["PacedUpstream", "Pacer"]

_BODIES: Final = (200, 206)


class Pacer:
    """The limit that downloads have in common.

    :param rate: bytes per second; 0: none
    :ivar waits: seconds that downloads waited, each time
    """

    def __init__(self, clock: IReactorTime, rate: float = 0.0, most_shares: int = 1024) -> None:
        self._clock = clock
        self._scheduler = Scheduler(rate, clock.seconds(), most_shares)
        self._calls: dict[Flow, tuple[Callable[[], None], float]] = {}
        self._timer: IDelayedCall | None = None
        self.waits = Histogram(WAIT_BOUNDS)

    @property
    def rate(self) -> float:
        """Bytes per second; 0: no limit."""
        return self._scheduler.rate

    def set_rate(self, rate: float) -> None:
        """Another limit from now on, for downloads under way, too."""
        if rate != self.rate:
            self._scheduler.set_rate(rate, self._clock.seconds())
            self._cancel()
            self._hand_out()

    def open(self, share: str, length: int | None) -> Flow:
        """A download begins; :meth:`ask` before the first byte of it is taken."""
        return self._scheduler.open(share, length)

    def received(self, flow: Flow, size: int) -> None:
        """So many bytes of it came."""
        self._scheduler.received(flow, size)

    def ask(self, flow: Flow, go_on: Callable[[], None]) -> bool:
        """Whether the download may go on; if not, *go_on* will be called."""
        now = self._clock.seconds()
        if self._scheduler.ask(flow, now):
            self.waits.observe(0.0)
            return True
        self._calls[flow] = go_on, now
        self._arm()
        return False

    def close(self, flow: Flow) -> None:
        """The download is over."""
        self._calls.pop(flow, None)
        self._scheduler.close(flow, self._clock.seconds())

    def stop(self) -> None:
        """No more timers; whoever waits goes on."""
        self.set_rate(0.0)
        self._cancel()

    def _arm(self) -> None:
        if self._timer is None:
            due = self._scheduler.due(self._clock.seconds())
            if due is not None:
                self._timer = self._clock.callLater(due, self._tick)

    def _cancel(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        self._hand_out()

    def _hand_out(self) -> None:
        now = self._clock.seconds()
        for flow in self._scheduler.grant(now):
            called = self._calls.pop(flow, None)
            # One that went on before may have ended this one.
            if called is not None:
                self.waits.observe(now - called[1])
                called[0]()
        self._arm()

    def readings(self) -> Iterator[Reading | Spread]:
        """For the metrics."""
        scheduler = self._scheduler
        yield Reading("s3proxy_qos_enabled", float(scheduler.rate > 0))
        yield Reading("s3proxy_qos_limit_bytes_per_second", scheduler.rate)
        yield Reading("s3proxy_qos_waiting", scheduler.waiting)
        yield Reading("s3proxy_qos_failopen_total", scheduler.failed_open, ("waited",))
        for share, count in list(scheduler.bytes.items()):
            yield Reading("s3proxy_qos_class_bytes_total", count, (share,))
        if scheduler.residual:
            yield Reading("s3proxy_qos_class_bytes_total", scheduler.residual, ("residual",))
        if self.waits.count:
            yield Spread("s3proxy_qos_wait_seconds", self.waits)


@implementer(IUpstream)
class PacedUpstream:
    """Another :class:`IUpstream` whose downloads keep to a limit: those of requests with a ``share``."""

    def __init__(self, upstream: IUpstream, pacer: Pacer) -> None:
        self._upstream = upstream
        self._pacer = pacer

    def request(self, request: UpstreamRequest) -> "Deferred[IUpstreamResponse]":
        """See :class:`IUpstream`."""
        asking = self._upstream.request(request)
        if request.share is None or not self._pacer.rate:
            return asking
        return asking.addCallback(self._paced, request.share)

    def _paced(self, response: Any, share: str) -> Any:
        if response.status not in _BODIES or response.length == 0:
            return response
        return _PacedResponse(response, self._pacer, self._pacer.open(share, response.length))


@implementer(IUpstreamResponse, IByteSource, IByteSink)
class _PacedResponse:
    """An answer whose body comes when the pacer lets it."""

    def __init__(self, response: Any, pacer: Pacer, flow: Flow) -> None:
        self._response = response
        self._pacer = pacer
        self._flow = flow
        self._sink: IByteSink | None = None
        self._started = False
        self._paused = False
        self._waiting = False
        self.status: int = response.status
        self.reason: bytes = response.reason
        self.headers: Headers = response.headers
        self.length: int | None = response.length
        self.claimed_length: int | None = response.claimed_length
        self.address: str = response.address
        self.sent_at: float = response.sent_at
        self.head_at: float = response.head_at

    # The source of the body.

    def start(self, sink: object) -> None:
        if self._sink is not None or self._started:
            raise RuntimeError("the body has been started already")
        self._sink = sink  # type: ignore[assignment]
        if self._may_go_on():
            self._go_on()

    def pause(self) -> None:
        self._paused = True
        self._response.pause()

    def resume(self) -> None:
        self._paused = False
        if self._started and not self._waiting:
            self._response.resume()

    def abort(self) -> None:
        self._sink = None
        self._started = True
        self._pacer.close(self._flow)
        self._response.abort()

    def _may_go_on(self) -> bool:
        self._waiting = not self._pacer.ask(self._flow, self._go_on)
        return not self._waiting

    def _go_on(self) -> None:
        self._waiting = False
        if not self._started:
            self._started = True
            if not self._paused:
                self._response.resume()
            self._response.start(self)
        elif not self._paused:
            self._response.resume()

    # The sink of what comes.

    def data_received(self, data: bytes) -> None:
        """See :class:`IByteSink`."""
        self._pacer.received(self._flow, len(data))
        if self._sink is not None:
            self._sink.data_received(data)
        flow = self._flow
        if flow.credit <= 0 and flow.left != 0 and not flow.closed and not self._waiting and not self._may_go_on():
            self._response.pause()

    def stream_ended(self) -> None:
        """See :class:`IByteSink`."""
        sink = self._over()
        if sink is not None:
            sink.stream_ended()

    def stream_failed(self, reason: Failure) -> None:
        """See :class:`IByteSink`."""
        sink = self._over()
        if sink is not None:
            sink.stream_failed(reason)

    def _over(self) -> IByteSink | None:
        self._pacer.close(self._flow)
        sink, self._sink = self._sink, None
        return sink
