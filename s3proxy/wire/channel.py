"""The server's side of HTTP/1: what the bytes from a client mean, and when there may be more of them."""

from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from s3proxy.gateway.interfaces import ClientGone
from s3proxy.gateway.lane import Glance
from s3proxy.gateway.large import LargeHit
from s3proxy.s3.errors import S3Error, request_timeout
from s3proxy.wire.body import RequestBody
from s3proxy.wire.connection import ClientConnection, HandedOver, Step
from s3proxy.wire.framing import BodyDecoder, body_decoder
from s3proxy.wire.head import RequestHead, check_partial_head, parse_head
from s3proxy.wire.reject import rejection
from s3proxy.wire.request import ClientRequest

if TYPE_CHECKING:
    from s3proxy.wire.site import CachingSite

__all__ = ["ClientChannel"]

HEAD_READ = 64 * 1024
"""Bytes that are read together of heads, and of bodies that nobody has asked for."""
BODY_READ = 256 * 1024
"""Bytes that are read together of a body that somebody takes: what each piece costs on its way is paid less often."""


class ClientChannel(ClientConnection):
    """Reads requests, and hands each to its site's resource as soon as its head is complete.

    The parser of :class:`twisted.web.http.HTTPChannel` is not used: it stores bodies before it hands over a request,
    re-spells header fields, and closes without an answer where this class answers with an error document. What is
    inherited is the channel's role as the transport of its requests.

    Largest buffer: 64 KiB of a head, or 64 KiB of a body nobody has asked for, plus what the transport holds before
    it asks for a pause.
    """

    def __init__(self, site: "CachingSite") -> None:
        super().__init__(site)
        self._searched = 0
        self._running = False
        self._request: ClientRequest | None = None
        self._decoder: BodyDecoder | None = None
        self._glance: Glance | None = None

    def _lose_request(self, reason: Failure) -> None:
        request, self._request = self._request, None
        if request is not None:
            self.requests.clear()
            request.connectionLost(reason)
            self.site.request_ended()
        super()._lose_request(reason)

    def hand_over(self) -> HandedOver:
        """Give the connection away, with all that the client has sent after the head of the current request.

        :raises OSError: there is no descriptor left
        """
        server = self.file_server if self.sends_files else None
        sock = None if server is None else server.detach()
        self._step = Step.CLOSED
        self._cut = True
        received = bytes(self._input)
        self._input.clear()
        if sock is None:
            self._unregister()
        self._request = None
        self.requests.clear()
        self.site.request_ended()
        self.site.closed(self)
        return HandedOver(sock, None if sock is not None else self.transport, received)

    # Input

    def dataReceived(self, data: bytes) -> None:
        """Called by the transport."""
        step = self._step
        if step is Step.LINGER:
            self._since = self.site.reactor.seconds()
            return
        if step is Step.CLOSED:
            return
        if step is Step.HEAD and not self._input and self._take_lane(data):
            return
        if step is Step.BODY or step is Step.HEAD and not self._input and data[0] not in b"\r\n":
            self._since = self.site.reactor.seconds()
        if step is Step.BODY and not self._input and not self._running:
            self._run(data)
        else:
            self._input += data
            self._run()

    def _take_lane(self, data: bytes) -> bool:
        """Whether the fast lane has answered what these bytes ask for."""
        site = self.site
        if site.lane is None or site.draining or self.room.full:
            return False
        self._glance = glance = site.glancer.glance(data, self._glance)
        if glance is None:
            return False
        answer = site.lane.answer(glance, self.client_address, site.listener, files=self.sends_files, tls=self._tls)
        if answer is None:
            return False
        if isinstance(answer, LargeHit):
            return self._deliver(data, answer)
        site.counters.requests += 1
        self._since = site.reactor.seconds()
        if self.sends_files:
            self.transport.answer(*answer)
        else:
            self.transport.writeSequence(answer)
        return True

    def _deliver(self, data: bytes, hit: LargeHit) -> bool:
        """Answer this request with that hit; whether it is one after all."""
        try:
            head = parse_head(data[:-2], self._limits)
        except S3Error:
            hit.close()
            return False
        request = self._begin_request(head)
        self._step = Step.NEXT
        request.body.received(b"", True)
        request.start_prepared(hit.status, hit.head, hit.length)
        hit.desk.deliver(request, hit)
        return True

    def _run(self, body: bytes = b"") -> None:
        """Deal with what is in the buffer, as far as possible.

        :param body: what has just come of a body, not copied to the buffer first
        """
        if self._running:
            return
        self._running = True
        try:
            if body:
                self._take_body(body)
            while self._advance():
                pass
        except S3Error as why:
            self._reject(why)
        finally:
            self._running = False
        self._update_reading()

    def _advance(self) -> bool:
        """Do one step; whether there may be another."""
        step = self._step
        if not self._input:
            return False
        if step is Step.HEAD:
            return not self.room.full and self._take_head()
        if step is Step.BODY or step is Step.DRAIN:
            data = bytes(self._input)
            self._input.clear()
            self._take_body(data)
            return True
        return False

    def _take_head(self) -> bool:
        buffer = self._input
        # Empty lines before a request line: some clients leave them behind a body (RFC 9112 section 2.2).
        while buffer.startswith(b"\r\n"):
            del buffer[:2]
            self._searched = 0
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._searched = len(buffer)
            if buffer and buffer != b"\r":
                check_partial_head(buffer, self._limits)
            return False
        head = parse_head(bytes(buffer[: end + 2]), self._limits)
        del buffer[: end + 4]
        self._searched = 0
        request = self._begin_request(head)
        if head.body_length == 0:
            self._step = Step.NEXT
            request.body.received(b"", True)
        else:
            self._step = Step.BODY
            self._decoder = body_decoder(head.body_length)
            self._since = request.received_at
        request.process()
        return True

    def _read_up_to(self, size: int) -> None:
        if self.file_server is not None:
            self.file_server.read_size = size

    def _begin_request(self, head: RequestHead) -> ClientRequest:
        request = ClientRequest(self, head, RequestBody(self._body_started, self._update_reading))
        self._request = request
        self.requests.append(request)
        self.site.request_begun()
        return request

    def _take_body(self, data: bytes) -> None:
        decoder = self._decoder
        assert decoder is not None
        payload = decoder.feed(data)
        request = self._request
        if decoder.finished:
            self._decoder = None
            self._input += decoder.rest
        if request is None:
            if decoder.finished:
                self._next()
            return
        if decoder.finished:
            self._step = Step.NEXT
        request.body.received(payload, decoder.finished)

    def _body_started(self) -> None:
        request = self._request
        if request is None or request.body.complete:
            return
        self._since = self.site.reactor.seconds()
        self._read_up_to(BODY_READ)
        if request.expects_continue:
            request.expects_continue = False
            if not request.answer_begun and not request.body.arrived:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _wants_input(self) -> bool:
        step = self._step
        if step is Step.BODY:
            return self._request is None or not self._request.body.held
        if step is Step.NEXT:
            return len(self._input) <= self._limits.eager_bytes
        return step is not Step.HEAD or not self.room.full

    def _reject(self, why: S3Error) -> None:
        self.site.counters.rejected[why.code] += 1
        request = self._request
        if request is not None and request.answer_begun:
            self.abort(why.code)
            return
        self._lose_request(Failure(ClientGone(why.message)))
        self.transport.write(rejection(why, b"" if request is None else request.target, self.site.wall_clock()))
        self._linger()

    # The answers

    def may_keep_alive(self, request: ClientRequest) -> bool:
        """Whether the connection can be used again after an answer that begins now."""
        if not request.keep_alive or self.site.draining:
            return False
        if request.body.complete:
            return True
        # Part of the body is missing. A short rest that is on its way can be read and dropped; a client that waits
        # for permission to send may never send it.
        remaining = None if self._decoder is None else self._decoder.remaining()
        return remaining is not None and remaining <= self._limits.drain_bytes and not request.expects_continue

    def answer_ended(self, request: ClientRequest) -> None:
        """Called by the request when the last byte of its answer was written."""
        self._request = None
        self.requests.clear()
        self.site.request_ended()
        request.body.abort()
        # Who does not wait for the last bytes to go out should not hear of it when they don't.
        self.room.release()
        if self._step is Step.CLOSED:
            return
        if self._step is Step.BODY:
            if request.keep_alive:
                self._step = Step.DRAIN
                self._since = self.site.reactor.seconds()
            else:
                self._linger()
                return
        elif request.keep_alive and not self.site.draining:
            self._next()
        elif self._input:
            self._linger()
            return
        else:
            self._close()
            return
        self._run()
        self._update_reading()

    def _next(self) -> None:
        """The connection is ready for the next request."""
        self._step = Step.HEAD
        self._read_up_to(HEAD_READ)
        self._since = self.site.reactor.seconds()
        if self.site.draining:
            self._close()

    def _go_on(self) -> None:
        if self._input and self._step is Step.HEAD:
            self._run()
        self._update_reading()

    # Time

    def _check_step(self, now: float, waited: float) -> None:
        limits, step = self._limits, self._step
        if step is Step.HEAD:
            if self.room.full or self.file_server is not None and self.file_server.unsent:
                self._since = now
            elif not self._input:
                if waited > limits.idle_timeout:
                    self._close()
            elif waited > limits.head_timeout:
                self._reject(request_timeout())
        elif step is Step.BODY:
            assert self._request is not None
            if not self._request.body.wanted:
                self._since = now
            elif waited > limits.stall_timeout:
                self._reject(request_timeout())
        elif step is Step.DRAIN:
            if waited > limits.drain_time:
                self._linger()
        else:
            super()._check_step(now, waited)
