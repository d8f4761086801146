"""One request of one client, and its answer."""

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from s3proxy.gateway.interfaces import ClientGone, IClientRequest
from s3proxy.wire.body import RequestBody
from s3proxy.wire.head import RequestHead
from s3proxy.wire.spans import send_span

if TYPE_CHECKING:
    from s3proxy.wire.channel import ClientChannel
    from s3proxy.wire.connection import HandedOver

__all__ = ["ClientRequest"]

_FLUSH_TURN = 0.01
"""Seconds between two looks at whether earlier answers have gone out."""
_WIRES_OWN = frozenset((b"content-length", b"transfer-encoding", b"connection", b"keep-alive"))


@implementer(IClientRequest)
class ClientRequest(http.Request):
    """A request whose head has arrived, and whose body may be on its way.

    Of :class:`twisted.web.http.Request` it keeps what a Resource may look at; the body file, the parsed form and
    query, the cookies and the default header fields are gone, and an answer is written as :class:`IClientRequest`
    says.

    :ivar keep_alive: whether the connection is to be used again after this answer; settled when the answer's head is
        written
    :ivar answer_begun: whether the answer's head was written
    """

    channel: Any
    log = Logger()

    def __init__(self, channel: "ClientChannel", head: RequestHead, body: RequestBody) -> None:
        super().__init__(channel, False)
        self.method: bytes = head.method
        self.target = self.uri = head.target
        self.version = self.clientproto = head.version
        self.headers = head.headers
        self.body_length = head.body_length
        self.expects_continue = head.expects_continue
        self.body = body
        self.client_address = channel.client_address
        self.listener = channel.site.listener
        self.received_at: float = channel.site.reactor.seconds()
        self.first_byte_at: float | None = None
        self.status: int | None = None
        self.keep_alive = head.keep_alive
        self.answer_begun = False
        self._wire: ClientChannel = channel
        self._gone = False
        self._ended = False
        self._without_body = False
        self._chunked = False
        self._promised: int | None = None
        self._accepted = 0
        self._handed_over = 0
        self._final_count: int | None = None
        self._span_under_way = False
        self._gone_waiters: list[Deferred[None]] = []

    def process(self) -> None:
        """Called by the channel at the end of the head."""
        self._wire.site.resource.render(self)

    def getHeader(self, key: Any) -> Any:
        """The last value of a header field, or None; for code that takes this for a request of twisted.web."""
        name = key if isinstance(key, bytes) else key.encode("ascii")
        values = self.headers.get_all(name.lower())
        if not values:
            return None
        return values[-1] if isinstance(key, bytes) else values[-1].decode("iso-8859-1")

    # The client

    @property
    def over(self) -> bool:
        """Whether nothing can be answered any more: the answer has ended, was aborted, or the client has gone."""
        return self._gone or self._ended

    def when_gone(self) -> "Deferred[None]":
        """See :class:`IClientRequest`.

        While the connection is not read (the body is paused, or much of a next request waits) a client that goes is
        noticed by a reset, by the next write, or by the progress timers only.
        """
        waiter: Deferred[None] = Deferred(self._waiter_left)
        if self._gone:
            waiter.callback(None)
        else:
            self._gone_waiters.append(waiter)
        return waiter

    def _waiter_left(self, waiter: "Deferred[None]") -> None:
        if waiter in self._gone_waiters:
            self._gone_waiters.remove(waiter)

    def connectionLost(self, reason: Failure) -> None:
        """Called by the channel when the client can't be answered any more, whatever the cause."""
        if self._gone:
            return
        self._gone = True
        if not self._ended:
            self._final_count = self._count()
        self._ended = True
        super().connectionLost(reason)
        # First: who forwards the body is to know why it breaks off.
        waiters, self._gone_waiters = self._gone_waiters, []
        for waiter in waiters:
            waiter.callback(None)
        self.body.failed(Failure(ClientGone(str(reason.value))))

    async def hand_over(self) -> "HandedOver":
        """Give the client's connection away, unanswered, once all earlier answers on it have gone out.

        :raises ClientGone: there is nothing to give
        :raises OSError: there is no descriptor left
        """
        while not self.over and self._wire.output_pending:
            await deferLater(self._wire.site.reactor, _FLUSH_TURN)
        if self.over:
            raise ClientGone("The client has gone")
        given = self._wire.hand_over()
        self._ended = True
        self._final_count = 0
        self._gone_waiters = []
        return given

    @property
    def tls(self) -> str:
        """See :class:`IClientRequest`."""
        return self._wire.tls_words()[0]

    @property
    def cipher_suite(self) -> str:
        """See :class:`IClientRequest`."""
        return self._wire.tls_words()[1]

    # The answer

    @property
    def body_bytes_sent(self) -> int:
        """See :class:`IClientRequest`; the whole body once the answer has ended properly."""
        return self._count() if self._final_count is None else self._final_count

    def _count(self) -> int:
        server = self._wire.file_server if self._wire.sends_files else None
        return self._handed_over if server is None else max(0, self._accepted - server.unsent)

    def start_response(
        self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]], length: int | None
    ) -> None:
        """See :class:`IClientRequest`.

        :raises ValueError: when the status is not that of a final answer, or a field would break the head's framing
        """
        if self.over:
            return
        if self.answer_begun:
            raise RuntimeError("The answer was begun twice")
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is not the status of a final answer")
        fields = [b"%s: %s" % field for field in headers if field[0].lower() not in _WIRES_OWN]
        self._without_body = status in (204, 304) or self.method == b"HEAD"
        keep_alive = self._wire.may_keep_alive(self)
        if status not in (204, 304):
            if length is not None:
                fields.append(b"Content-Length: %d" % length)
                if not self._without_body:
                    self._promised = length
            elif not self._without_body:
                if self.version == b"HTTP/1.1":
                    fields.append(b"Transfer-Encoding: chunked")
                    self._chunked = True
                else:
                    keep_alive = False
        if not keep_alive:
            fields.append(b"Connection: close")
        elif self.version == b"HTTP/1.0":
            fields.append(b"Connection: keep-alive")
        lines = [b"HTTP/1.1 %d %s" % (status, reason), *fields, b"\r\n"]
        head = b"\r\n".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise ValueError("A header field of the answer contains CR, LF or NUL")
        self.keep_alive = keep_alive
        self._begin(status, head)

    def start_prepared(self, status: int, head: bytes, length: int) -> None:
        """Write a head that was prepared for an ordinary request like this one, of HTTP/1.1 and to be kept alive.

        :param length: of the body that is to follow
        """
        self._promised = length
        self._begin(status, head)

    def _begin(self, status: int, head: bytes) -> None:
        self.answer_begun = True
        self.status = status
        self.first_byte_at = self._wire.site.reactor.seconds()
        self._wire.transport.write(head)

    def write(self, data: bytes) -> "Deferred[None] | None":
        """See :class:`IClientRequest`."""
        if self.over:
            return fail(ClientGone("The answer has ended, or the client has gone"))
        if not data or not self._accept(len(data)):
            return None if not self.over else fail(ClientGone("The answer was aborted"))
        if self._chunked:
            self._wire.transport.writeSequence((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            self._wire.transport.write(data)
        self._handed_over += len(data)
        return self._wire.room.wait()

    def send_file(self, fd: int, offset: int, count: int, hot: bool = False) -> "Deferred[None]":
        """See :class:`IClientRequest`.

        Over TLS the Deferred must have fired before anything else is written.

        :param hot: the bytes are known to be in memory
        """
        if self.over:
            return fail(ClientGone("The answer has ended, or the client has gone"))
        if count <= 0 or not self._accept(count):
            return succeed(None) if not self.over else fail(ClientGone("The answer was aborted"))
        if self._chunked:
            self._wire.transport.write(b"%x\r\n" % count)
        server = self._wire.file_server
        if self._wire.sends_files and server is not None:
            sent = server.sendFile(fd, offset, count, hot)
            if self._chunked:
                self._wire.transport.write(b"\r\n")
        else:
            self._span_under_way = True
            pages = None if server is None or hot else server.page_cache
            sent = send_span(self._write_block, fd, offset, count, pages)
            sent.addCallback(self._end_span)
        return sent.addErrback(self._not_sent)

    def _write_block(self, data: bytes) -> "Deferred[None] | None":
        if self.over:
            return fail(ClientGone("The answer has ended, or the client has gone"))
        self._wire.transport.write(data)
        self._handed_over += len(data)
        return self._wire.room.wait()

    def _end_span(self, _: None) -> None:
        self._span_under_way = False
        if self._chunked and not self.over:
            self._wire.transport.write(b"\r\n")

    def _not_sent(self, reason: Failure) -> Failure:
        if reason.check(ConnectionDone, ConnectionLost, ConnectionAborted):
            return Failure(ClientGone(str(reason.value)))
        if not reason.check(ClientGone):
            self.abort()
        return reason

    def _accept(self, count: int) -> bool:
        """Whether body bytes are to be sent at all; counts them, and aborts when they are more than were promised."""
        if not self.answer_begun:
            raise RuntimeError("Body bytes were written before the answer's head")
        if self._without_body:
            return False
        if self._span_under_way:
            self._fault("a second part before a file span has ended")
            return False
        self._accepted += count
        if self._promised is not None and self._accepted > self._promised:
            self._fault("more bytes than promised")
            return False
        return True

    def finish(self) -> None:
        """See :class:`IClientRequest`."""
        if self.over:
            return
        if not self.answer_begun:
            self._fault("no answer at all")
            return
        if self._promised is not None and self._accepted != self._promised or self._span_under_way:
            self._fault("fewer bytes than promised")
            return
        if self._chunked:
            self._wire.transport.write(b"0\r\n\r\n")
        self._ended = True
        self._final_count = self._accepted
        self._gone_waiters = []
        notifications, self.notifications = self.notifications, []
        for notification in notifications:
            notification.callback(None)
        self._wire.answer_ended(self)

    def _fault(self, what: str) -> None:
        self.log.error(
            "The answer to {method} {target} has {what}: {accepted} of {promised}; the connection is cut.",
            method=self.method.decode("ascii"),
            target=self.target.split(b"?", 1)[0].decode("ascii"),
            what=what,
            accepted=self._accepted,
            promised=self._promised,
        )
        self.abort()

    def abort(self) -> None:
        """See :class:`IClientRequest`."""
        if self.over:
            return
        self._final_count = self._count()
        self._ended = True
        self._wire.abort("proxy")
