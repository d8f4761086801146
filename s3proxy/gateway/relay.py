"""From S3 to the client without the cache: what comes is sent on, at the client's pace.

Largest buffer: what the client's connection takes before it asks for a pause, and what one read of S3's connection
brings.
"""

import re
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.gateway.interfaces import IClientRequest
from s3proxy.gateway.transaction import Transaction
from s3proxy.upstream.interfaces import IUpstreamResponse
from s3proxy.util.streams import IByteSink

__all__ = ["HEAD_BYTES", "RelaySink", "discard", "relay"]

HEAD_BYTES = 4096
"""How much of a body is looked at for ``<Error>`` and its code: S3 may send blanks for minutes first, but sends the
root in one piece.
"""
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")


@implementer(IByteSink)
class RelaySink:
    """Writes S3's body to the client.

    :ivar done: fires at the end of S3's body, fails when it broke off or the client is gone
    :param before_end: awaited before the last bytes are let through: they tell the client that S3 is done
    """

    def __init__(
        self,
        request: IClientRequest,
        response: IUpstreamResponse,
        before_end: "Callable[[bytes], Deferred[None]] | None",
        head_bytes: int = 0,
    ) -> None:
        self.done: Deferred[None] = Deferred(self._cancelled)
        self.received = 0
        self.first_bytes = b""
        self._request = request
        self._response = response
        self._before_end = before_end
        self._head_bytes = head_bytes
        self._held: bytes | None = None
        self._over = False

    def data_received(self, data: bytes) -> None:
        """See :class:`IByteSink`."""
        if self._over:
            return
        self.received += len(data)
        if len(self.first_bytes) < self._head_bytes:
            self.first_bytes += data[: self._head_bytes - len(self.first_bytes)]
        if self._before_end is None:
            self._write(data)
            return
        held, self._held = self._held, data
        if held is not None:
            self._write(held)

    def _write(self, data: bytes) -> None:
        room = self._request.write(data)
        if room is not None:
            self._response.pause()
            room.addCallbacks(lambda _: self._response.resume(), self._client_failed)

    def _client_failed(self, reason: Failure) -> None:
        if not self._over:
            self._over = True
            self._response.abort()
            self.done.errback(reason)

    def stream_ended(self) -> None:
        """See :class:`IByteSink`."""
        if self._over:
            return
        if self._before_end is None:
            self._finish(None)
        else:
            self._before_end(self.first_bytes).addCallbacks(self._finish, self._client_failed)

    def _finish(self, _: None) -> None:
        if self._over:
            return
        self._over = True
        if self._held is not None:
            room = self._request.write(self._held)
            if room is not None:
                room.addErrback(lambda _: None)
        self.done.callback(None)

    def stream_failed(self, reason: Failure) -> None:
        """See :class:`IByteSink`."""
        if not self._over:
            self._over = True
            self.done.errback(reason)

    def _cancelled(self, _: "Deferred[None]") -> None:
        self._over = True
        self._response.abort()


async def relay(
    transaction: Transaction,
    response: IUpstreamResponse,
    headers: list[tuple[bytes, bytes]],
    length: int | None,
    before_end: "Callable[[bytes], Deferred[None]] | None" = None,
    head_bytes: int = HEAD_BYTES,
) -> None:
    """Answer with S3's status and body. Returns when S3's body has ended and everything is handed over; S3's answer is
    aborted if that does not come about.

    :param headers: of the client's answer
    :param length: of its body
    :param before_end: called with the first ``head_bytes`` bytes of the body when S3 has sent all of it; the last
        piece, and so the end, waits for the Deferred it returns
    :raises ClientGone: the client left
    :raises UpstreamError: S3's answer broke off
    """
    request, record = transaction.request, transaction.record
    record.status = response.status
    refused = response.status >= 400
    sink = RelaySink(request, response, before_end, head_bytes if refused or before_end is not None else 0)
    try:
        request.start_response(response.status, response.reason, headers, length)
        response.start(sink)
        await sink.done
    except BaseException:
        response.abort()
        raise
    finally:
        record.bytes_from_upstream += sink.received
        if refused:
            code = _CODE.search(sink.first_bytes)
            record.error_code = "" if code is None else code[1].decode("ascii")


@implementer(IByteSink)
class _Nowhere:
    def __init__(self, response: IUpstreamResponse, limit: int) -> None:
        self._response = response
        self._room = limit

    def data_received(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            self._response.abort()

    def stream_ended(self) -> None:
        return None

    def stream_failed(self, reason: Failure) -> None:
        return None


def discard(response: IUpstreamResponse, limit: int = 65536) -> None:
    """Nobody wants this body: read a short one to its end, so that the connection can be used again; cut a long one."""
    response.start(_Nowhere(response, limit))
