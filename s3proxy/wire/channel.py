"""The server's side of one HTTP/1 connection: what the bytes from a client mean, and when there may be more of them."""

import socket
from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.interfaces import IHandshakeListener, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from s3proxy.gateway.interfaces import ClientGone
from s3proxy.gateway.lane import Glance
from s3proxy.gateway.large import LargeHit
from s3proxy.s3.errors import S3Error, request_timeout
from s3proxy.wire.body import RequestBody
from s3proxy.wire.framing import BodyDecoder, body_decoder
from s3proxy.wire.head import RequestHead, check_partial_head, parse_head
from s3proxy.wire.reject import rejection
from s3proxy.wire.request import ClientRequest
from s3proxy.wire.room import OutputRoom
from s3proxy.wire.stalls import ReaderProgress
from s3proxy.wire.transport import FileServer

if TYPE_CHECKING:
    from s3proxy.wire.site import CachingSite

__all__ = ["ClientChannel", "HandedOver"]

CLOSE_TIME = 15.0
"""Seconds a client has to take part in the end of a connection whose last byte was sent."""

HEAD_READ = 64 * 1024
"""Bytes that are read together of heads, and of bodies that nobody has asked for."""
BODY_READ = 256 * 1024
"""Bytes that are read together of a body that somebody takes: what each piece costs on its way is paid less often."""


@attrs.frozen
class HandedOver:
    """A connection that a channel gave away.

    :ivar sock: of a plain connection; it does not block
    :ivar transport: of one under TLS, with a ``wrappedProtocol`` to be replaced and no producer
    :ivar received: bytes of the client that nobody has looked at
    """

    sock: socket.socket | None
    transport: Any
    received: bytes


class _Step(Enum):
    """What the next bytes from the client are.

    HEAD: of a request's head. BODY: of the current request's body. NEXT: of a later request, kept until the current
    one is answered. DRAIN: the rest of a body that was answered before it ended, after which the connection is used
    again. LINGER: of no interest, the connection ends as soon as the client has had time to read its answer. CLOSED:
    none will come.
    """

    HEAD = "head"
    BODY = "body"
    NEXT = "next"
    DRAIN = "drain"
    LINGER = "linger"
    CLOSED = "closed"


@implementer(IHandshakeListener)
class ClientChannel(http.HTTPChannel):
    """Reads requests, and hands each to its site's resource as soon as its head is complete.

    The parser of the base class is not used: it stores bodies before it hands over a request, re-spells header
    fields, and closes without an answer where this class answers with an error document. What is inherited is the
    channel's role as the transport of its requests.

    Largest buffer: 64 KiB of a head, or 64 KiB of a body nobody has asked for, plus what the transport holds before
    it asks for a pause.

    :ivar file_server: the socket's transport, under TLS if need be; None for one that knows no files
    :ivar sends_files: whether file spans may be given to it
    :ivar room: the back-pressure of the transport
    """

    transport: Any

    def __init__(self, site: "CachingSite") -> None:
        super().__init__()
        self.site = site
        self.factory = site
        self.client_address = ""
        self.file_server: FileServer | None = None
        self.sends_files = False
        self.room = OutputRoom()
        self._limits = site.limits
        self._input = bytearray()
        self._searched = 0
        self._step = _Step.HEAD
        self._since = 0.0
        self._running = False
        self._reading = True
        self._request: ClientRequest | None = None
        self._decoder: BodyDecoder | None = None
        self._linger_since = 0.0
        self._reader = ReaderProgress()
        self._cut = False
        self._peer: Any = None
        self._host: Any = None
        self._glance: Glance | None = None
        self._tls = ("", "")

    # The connection

    def handshakeCompleted(self) -> None:
        """Called by Twisted's TLS layer, once, when application data may flow."""
        self.site.counters.handshakes += 1
        self._tls = self.tls_words()

    def connectionMade(self) -> None:
        """Called by the transport."""
        transport = self.transport
        lower = transport if isinstance(transport, FileServer) else getattr(transport, "transport", None)
        if isinstance(lower, FileServer):
            self.file_server = lower
            self.sends_files = lower is transport
        elif ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        self._peer = transport.getPeer()
        self.client_address = getattr(self._peer, "host", "").removeprefix("::ffff:")
        self._since = self.site.reactor.seconds()
        transport.registerProducer(self, True)
        self.site.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Called by the transport."""
        self._step = _Step.CLOSED
        self._cut = True
        self._input.clear()
        self._lose_request(reason)
        self.site.closed(self)

    def _lose_request(self, reason: Failure) -> None:
        request, self._request = self._request, None
        if request is not None:
            self.requests.clear()
            request.connectionLost(reason)
            self.site.request_ended()
        self.room.fail(str(reason.value))

    def getPeer(self) -> Any:
        """The client's address."""
        return self._peer

    def getHost(self) -> Any:
        """The address at which the client reached the listener."""
        if self._host is None:
            self._host = self.transport.getHost()
        return self._host

    def abort(self, reason: str) -> None:
        """Cut the connection; what was not sent is dropped.

        :param reason: a short word for the statistics
        """
        self._step = _Step.CLOSED
        if not self._cut:
            self._cut = True
            self.site.counters.aborted[reason] += 1
            self.transport.abortConnection()

    def loseConnection(self) -> None:
        """End the connection after everything that was written."""
        if self._step is not _Step.CLOSED:
            self._close()

    def close_if_idle(self, quiet: float = 0.0) -> bool:
        """Close the connection if it waits for a request that has not begun; whether it did.

        :param quiet: and has waited for so many seconds
        """
        if self._step is _Step.HEAD and not self._input and self.site.reactor.seconds() - self._since >= quiet:
            self._close()
            return True
        return False

    @property
    def output_pending(self) -> bool:
        """Whether the kernel has not taken all that was written; under TLS, nobody can tell, and order is kept."""
        return self.sends_files and self.file_server is not None and self.file_server.unsent > 0

    def hand_over(self) -> HandedOver:
        """Give the connection away, with all that the client has sent after the head of the current request.

        :raises OSError: there is no descriptor left
        """
        server = self.file_server if self.sends_files else None
        sock = None if server is None else server.detach()
        self._step = _Step.CLOSED
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

    def tls_words(self) -> tuple[str, str]:
        """Protocol version and cipher suite of the connection; empty ones without TLS."""
        if self.sends_files or not hasattr(self.transport, "getHandle"):
            return "", ""
        session = self.transport.getHandle()
        name = getattr(session, "get_cipher_name", lambda: None)()
        return (session.get_protocol_version_name(), name) if name else ("", "")

    def _close(self) -> None:
        self._step = _Step.CLOSED
        self._since = self.site.reactor.seconds()
        self._unregister()
        self.transport.loseConnection()

    def _unregister(self) -> None:
        # A transport with a producer would wait for it before it closes.
        self.transport.unregisterProducer()
        self.room.full = False

    def _linger(self) -> None:
        """End the connection such that the client can read its answer first.

        Closing a socket that has unread input resets the connection, and a reset can overtake the answer. So only the
        sending half is closed, and what the client still sends is read and dropped, until it closes or time is up.
        """
        self._step = _Step.LINGER
        self._linger_since = self._since = self.site.reactor.seconds()
        self._input.clear()
        self._unregister()
        if self.sends_files:
            self.transport.loseWriteConnection()
        self._update_reading()

    # Input

    def dataReceived(self, data: bytes) -> None:
        """Called by the transport."""
        step = self._step
        if step is _Step.LINGER:
            self._since = self.site.reactor.seconds()
            return
        if step is _Step.CLOSED:
            return
        if step is _Step.HEAD and not self._input and self._take_lane(data):
            return
        if step is _Step.BODY or step is _Step.HEAD and not self._input and data[0] not in b"\r\n":
            self._since = self.site.reactor.seconds()
        if step is _Step.BODY and not self._input and not self._running:
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
        answer = site.lane.answer(
            glance, self.client_address, site.listener, files=self.sends_files, tls=self._tls
        )
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
        self._step = _Step.NEXT
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
        if step is _Step.HEAD:
            return not self.room.full and self._take_head()
        if step is _Step.BODY or step is _Step.DRAIN:
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
            self._step = _Step.NEXT
            request.body.received(b"", True)
        else:
            self._step = _Step.BODY
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
            self._step = _Step.NEXT
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

    def _update_reading(self) -> None:
        """Read from the client or not: the one place that decides it."""
        step = self._step
        if step is _Step.CLOSED:
            return
        if step is _Step.BODY:
            wanted = self._request is None or not self._request.body.held
        elif step is _Step.NEXT:
            wanted = len(self._input) <= self._limits.eager_bytes
        elif step is _Step.HEAD:
            wanted = not self.room.full
        else:
            wanted = True
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

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
        if self._step is _Step.CLOSED:
            return
        if self._step is _Step.BODY:
            if request.keep_alive:
                self._step = _Step.DRAIN
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
        self._step = _Step.HEAD
        self._read_up_to(HEAD_READ)
        self._since = self.site.reactor.seconds()
        if self.site.draining:
            self._close()

    def pauseProducing(self) -> None:
        """Called by the transport when it holds enough."""
        if not self.room.full:
            self.room.full = True
            self._reader.started(self.site.reactor.seconds())
            self._update_reading()

    def resumeProducing(self) -> None:
        """Called by the transport when it has sent everything."""
        self.room.full = False
        self.room.release()
        if self._input and self._step is _Step.HEAD:
            self._run()
        self._update_reading()

    def stopProducing(self) -> None:
        """Called by the transport when the connection is lost; connectionLost() follows."""

    # Time

    def check(self, now: float) -> None:
        """Called by the site once a second: end what takes too long."""
        limits = self._limits
        if self._reader_stalls(now):
            self.abort("slow_reader")
            return
        step = self._step
        waited = now - self._since
        if step is _Step.HEAD:
            if self.room.full or self.file_server is not None and self.file_server.unsent:
                self._since = now
            elif not self._input:
                if waited > limits.idle_timeout:
                    self._close()
            elif waited > limits.head_timeout:
                self._reject(request_timeout())
        elif step is _Step.BODY:
            assert self._request is not None
            if not self._request.body.wanted:
                self._since = now
            elif waited > limits.stall_timeout:
                self._reject(request_timeout())
        elif step is _Step.DRAIN:
            if waited > limits.drain_time:
                self._linger()
        elif step is _Step.LINGER:
            if self.file_server is not None and self.file_server.unsent:
                self._linger_since = self._since = now
            elif waited > limits.drain_time or now - self._linger_since > limits.linger_time:
                self._step = _Step.CLOSED
                self._since = now
                self.transport.loseConnection()
        elif step is _Step.CLOSED and waited > CLOSE_TIME and not (self.file_server and self.file_server.unsent):
            # TLS waits for the client's part of the farewell.
            self.abort("close")
        if not self._reading and self.file_server is not None and self.file_server.hung_up():
            self.abort("client")

    def _reader_stalls(self, now: float) -> bool:
        server = self.file_server
        if server is None:
            return self.room.full and self._reader.stalls(now, 0, self._limits.stall_timeout)
        if server.unsent == 0 or server.waits_for_disk:
            self._reader.started(now)
            return False
        return self._reader.stalls(now, server.acknowledged(), self._limits.stall_timeout)
