"""The body of a request on its way to S3: framed, at the peer's pace, no longer than promised."""

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.upstream.http1 import LAST_CHUNK, chunk
from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["BodyLengthError", "Upload"]


class BodyLengthError(Exception):
    """The body has more or fewer bytes than its Content-Length says."""


@implementer(IByteSink, IPushProducer)
class Upload:
    """Takes a source's bytes to a transport.

    A source that delivers more than the kernel takes is paused when more than the transport's buffer limit (64 KiB)
    is left, so that at most that and one delivery of the source wait here.

    :ivar taken: bytes of the body handed to the transport
    :ivar started: the source has been started
    :ivar over: nothing more will be sent: complete, failed or stopped
    :ivar complete: every byte has been handed to the transport
    :param length: bytes to send; None: chunked
    :param done: called once when the body is complete
    :param failed: called once, when the source fails or does not keep to its length
    """

    def __init__(
        self,
        source: IByteSource,
        length: int | None,
        transport: Any,
        done: Callable[[], None],
        failed: Callable[[Failure], None],
    ) -> None:
        self._source = source
        self._length = length
        self._transport = transport
        self._done = done
        self._failed = failed
        self.taken = 0
        self.started = False
        self.over = False
        self.complete = False

    def start(self) -> None:
        """Let the bytes come. Idempotent."""
        if self.started or self.over:
            return
        self.started = True
        self._transport.registerProducer(self, True)
        self._source.start(self)

    def stop(self) -> None:
        """The peer wants no more of it. Idempotent; a complete body stays complete."""
        if self.over:
            return
        self._end()
        self._source.abort()

    def _end(self) -> None:
        self.over = True
        if self.started:
            self._transport.unregisterProducer()

    # IByteSink.

    def data_received(self, data: bytes) -> None:
        if self.over or not data:
            # An empty chunk would end the body.
            return
        self.taken += len(data)
        if self._length is None:
            self._transport.writeSequence(chunk(data))
        elif self.taken <= self._length:
            self._transport.write(data)
        else:
            self._end()
            self._source.abort()
            self._failed(Failure(BodyLengthError("the request's body is longer than its Content-Length")))

    def stream_ended(self) -> None:
        if self.over:
            return
        self._end()
        if self._length is None:
            self._transport.write(LAST_CHUNK)
        elif self.taken < self._length:
            self._failed(Failure(BodyLengthError("the request's body is shorter than its Content-Length")))
            return
        self.complete = True
        self._done()

    def stream_failed(self, reason: Failure) -> None:
        if self.over:
            return
        self._end()
        self._failed(reason)

    # IPushProducer: the transport's side.

    def pauseProducing(self) -> None:
        if not self.over:
            self._source.pause()

    def resumeProducing(self) -> None:
        if not self.over:
            self._source.resume()

    def stopProducing(self) -> None:
        # The connection is gone; the exchange hears of it in a moment and decides what that means.
        pass
