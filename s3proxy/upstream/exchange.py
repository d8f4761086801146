"""One request and its answer on one connection.

::

    send the head ──► no body ───────────────────────────────┐
        │                                                    ▼
        ├──► Expect: 100-continue ──► 100, or 1 s ──► body   await the answer's head ──► body of the answer ──► done
        │         │ final answer                       │     (first-byte limit, or 30 s      (idle limit while
        │         └──► the body is never started       │      from the end of the upload)     it is not paused)
        └──► body ──► final answer while sending ──────┘
                        2xx: go on sending; 300 and above: stop the body, do not use the connection again

A 2xx that has come in full before the body has been sent settles the matter: the rest of the body only serves to keep
the connection usable, and is given up when it does not move for a moment.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

import attrs

from s3proxy.upstream.connection import IConnectionUser, UpstreamConnection
from s3proxy.upstream.http1 import (
    End,
    Informational,
    ParseError,
    ResponseHead,
    ResponseParser,
    content_length,
    request_head,
)
from s3proxy.upstream.interfaces import (
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from s3proxy.upstream.response import UpstreamResponse
from s3proxy.upstream.retry import Stage
from s3proxy.upstream.upload import Upload

__all__ = ["Exchange", "Limits", "framing"]


@attrs.frozen(kw_only=True)
class Limits:
    """Seconds.

    :ivar first_byte: from the request to the answer's head, for repeatable requests without a body
    :ivar head: the same for all others, from the end of the upload
    :ivar idle: silence in the answer's body
    :ivar continue_wait: silence after which a held body is sent all the same (RFC 9110 10.1.1)
    :ivar upload_stall: an upload in which no byte moves, neither from the client nor to S3
    :ivar upload_check: how often that is looked at
    """

    first_byte: float = 5.0
    head: float = 30.0
    idle: float = 5.0
    continue_wait: float = 1.0
    upload_stall: float = 60.0
    upload_check: float = 5.0


def framing(request: UpstreamRequest) -> tuple[bytes, int | None]:
    """The head to send, and the length of the body that follows it (None: chunked; 0 without a body).

    :raises ValueError: the headers do not fit the body, or can't be sent
    """
    headers = request.headers
    coded = b"transfer-encoding" in headers
    try:
        length = content_length(headers)
    except ParseError as error:
        raise ValueError(str(error)) from None
    if request.body is None:
        if coded or length:
            raise ValueError("the headers announce a body, and there is none")
        return request_head(request.method, request.target, headers), 0
    if coded and length is not None:
        raise ValueError("both Content-Length and Transfer-Encoding")
    if length is None and not coded:
        headers = headers.adding((b"Transfer-Encoding", b"chunked"))
    return request_head(request.method, request.target, headers), length


@implementer(IConnectionUser)
class Exchange:
    """Begin it with :meth:`run`, once.

    :param framed: what :func:`framing` says of the request
    """

    def __init__(
        self,
        clock: IReactorTime,
        connection: UpstreamConnection,
        request: UpstreamRequest,
        framed: tuple[bytes, int | None],
        limits: Limits,
    ) -> None:
        self._framed = framed
        self._clock = clock
        self._connection = connection
        self._request = request
        self._limits = limits
        self._kept = connection.requests > 0
        self._parser = ResponseParser(request.method)
        self._upload: Upload | None = None
        self._response: UpstreamResponse | None = None
        self._keep_alive = False
        self._answer: Deferred[UpstreamResponse] = Deferred(self._cancelled)
        self._timer: IDelayedCall | None = None
        self._sent_at = 0.0
        self._reading = True
        self._over = False
        self._silent = False
        self._hopeless = False
        self._progress: tuple[float, int, int] = (0.0, 0, 0)

    def run(self, on_idle: Any) -> "Deferred[UpstreamResponse]":
        """Send the request. Fires with the answer when its head is complete; cancelling aborts the connection.

        :param on_idle: called with the connection when it can be used again
        """
        request, transport = self._request, self._connection.transport
        head, length = self._framed
        self._connection.lend(self, on_idle)
        self._sent_at = self._clock.seconds()
        answer = self._answer
        transport.write(head)  # type: ignore[union-attr]
        if request.body is None:
            first_byte = self._limits.first_byte if request.repeatable else self._limits.head
            self._later(first_byte, self._no_answer)
        else:
            self._upload = Upload(request.body, length, transport, self._body_sent, self._body_failed)
            expectations = request.headers.get(b"expect") or b""
            if b"100-continue" in expectations.lower():
                self._later(self._limits.continue_wait, self._start_body)
            else:
                self._start_body()
        return answer

    @property
    def stage(self) -> Stage:
        """How far it has come, for the decision about another attempt after a failure."""
        if self._hopeless:
            return Stage.FORBIDDEN
        if self._parser.began:
            return Stage.ANSWERING
        if self._upload is not None and not self._upload.started:
            return Stage.BODY_HELD
        if self._silent:
            return Stage.SILENT
        return Stage.STALE if self._kept else Stage.UNANSWERED

    # The request's body.

    def _start_body(self) -> None:
        upload = self._upload
        if upload is None or upload.started or self._over:
            return
        self._progress = (self._clock.seconds(), -1, -1)
        self._later(self._limits.upload_check, self._check_upload)
        upload.start()

    def _check_upload(self) -> None:
        """Does the upload still move? Once it is sent: is the answer overdue, now that the peer has had it all?"""
        upload = self._upload
        if upload is None or upload.over and not upload.complete:
            return
        now, unsent = self._clock.seconds(), self._connection.unsent()
        since, taken, before = self._progress
        if (upload.taken, unsent) != (taken, before):
            since = now
            self._progress = (now, upload.taken, unsent)
        if upload.complete and self._response is not None:
            return
        if upload.complete:
            limit = self._limits.head
        else:
            limit = self._limits.idle if self._parser.done else self._limits.upload_stall
        left = since + limit - now
        if left > 0:
            self._later(min(left, self._limits.upload_check), self._check_upload)
        elif upload.complete:
            self._no_answer()
        else:
            # With all of it taken by the peer it is the client who sends no more: no reason to avoid this address.
            self._hopeless = unsent == 0
            self._fail(UpstreamTimeout(f"the upload to {self._connection.address} does not move on", sent=True))

    def _body_sent(self) -> None:
        now = self._clock.seconds()
        if self._response is None:
            self._sent_at = now
            upload = self._upload
            # From here on the limit for the answer counts, unless the peer still takes what is under way.
            self._progress = (now, 0 if upload is None else upload.taken, self._connection.unsent())
            self._later(min(self._limits.head, self._limits.upload_check), self._check_upload)
        else:
            self._settle()

    def _body_failed(self, reason: Failure) -> None:
        self._hopeless = True
        self._fail(UpstreamError(f"the request's body broke off: {reason.getErrorMessage()}", sent=True))

    # From the connection.

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        response = self._response
        if self._parser.take_body(data):
            if response is not None:
                response.deliver(data)
            return
        ended = False
        try:
            for event in self._parser.receive(data):
                if isinstance(event, bytes):
                    if self._response is not None:
                        self._response.deliver(event)
                elif isinstance(event, ResponseHead):
                    self._head_received(event)
                elif isinstance(event, Informational):
                    if event.status == 100:
                        self._start_body()
                elif isinstance(event, End):
                    ended = True
                if self._ended():
                    return
        except ParseError as error:
            text = f"{self._connection.address} sent no proper answer: {error}"
            self._fail(UpstreamProtocolError(text, sent=True))
            return
        response = self._response
        if ended:
            self._settle()
        elif response is not None and not response.started and self._reading:
            self._set_reading(False)
        if response is not None and response.receiving:
            response.received()

    def connection_lost(self, reason: Failure) -> None:
        if self._over:
            return
        if self._response is not None and reason.check(ConnectionDone):
            try:
                for _ in self._parser.receive_end():
                    pass
            except ParseError:
                pass
        if self._parser.done:
            self._finish()
            return
        detail = reason.getErrorMessage().rstrip(".")
        address = self._connection.address
        if self._response is None:
            self._fail(UpstreamUnreachable(f"{address} closed the connection without an answer: {detail}", sent=True))
        else:
            self._fail(UpstreamError(f"{address} closed the connection amid its answer: {detail}", sent=True))

    # The answer.

    def _head_received(self, head: ResponseHead) -> None:
        self._keep_alive = head.keep_alive
        upload = self._upload
        sending = upload is not None and not upload.complete
        if upload is not None and sending and (head.status >= 300 or not upload.started):
            upload.stop()
            sending = False
        if not sending:
            self._cancel_timer()
        self._response = UpstreamResponse(
            self._clock,
            head,
            self._connection.address,
            self._clock.seconds() if sending else self._sent_at,
            self._limits.idle,
            self._set_reading,
            self._cut,
        )
        self._response.receiving = True
        self._answer.callback(self._response)

    def _set_reading(self, reading: bool) -> None:
        if self._over or self._parser.done or reading == self._reading:
            return
        self._reading = reading
        transport: Any = self._connection.transport
        if reading:
            transport.resumeProducing()
        else:
            transport.pauseProducing()

    def _settle(self) -> None:
        """Finish if both directions have; otherwise hand on the end of the answer and let the upload go on."""
        if not self._parser.done:
            return
        upload = self._upload
        if upload is not None and not upload.over:
            transport: Any = self._connection.transport
            if not self._reading:
                self._reading = True
                transport.resumeProducing()
            if self._response is not None:
                self._response.complete()
            if not self._over and not upload.over:
                self._progress = (self._clock.seconds(), upload.taken, self._connection.unsent())
                self._later(min(self._limits.idle, self._limits.upload_check), self._check_upload)
            return
        self._finish()

    # Ends.

    def _finish(self) -> None:
        """The answer is complete."""
        if self._over:
            return
        self._over = True
        self._cancel_timer()
        upload = self._upload
        sent = upload is None or upload.complete
        if upload is not None:
            upload.stop()
        if sent:
            self._connection.give_back(self, self._keep_alive and not self._parser.surplus)
        else:
            self._connection.abort()
        if self._response is not None:
            self._response.complete()

    def _fail(self, error: UpstreamError) -> None:
        if self._over:
            return
        self._over = True
        self._cancel_timer()
        held = self.stage is Stage.BODY_HELD
        if self._upload is not None and not held:
            self._upload.stop()
        self._connection.abort()
        if self._response is not None:
            self._response.broken(Failure(error))
        else:
            self._answer.errback(error)

    def _ended(self) -> bool:
        """Whether the receiver of the answer has given up, say, while it was handed a piece of it."""
        return self._over

    def _no_answer(self) -> None:
        self._silent = True
        limit = self._limits.first_byte if self._request.repeatable and self._upload is None else self._limits.head
        self._fail(UpstreamTimeout(f"{self._connection.address} did not answer within {limit:g} s", sent=True))

    def _cut(self) -> None:
        """The receiver of the answer has given up."""
        if self._over:
            return
        self._over = True
        self._cancel_timer()
        if self._upload is not None:
            self._upload.stop()
        self._connection.abort()

    def _cancelled(self, _: object) -> None:
        self._cut()

    def _later(self, seconds: float, call: Any) -> None:
        self._cancel_timer()
        self._timer = self._clock.callLater(seconds, self._fired, call)

    def _fired(self, call: Any) -> None:
        self._timer = None
        call()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
