"""Hits that the kernel sends from one file, prepared by the fast lane and sent like any other answer."""

from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s3proxy.cache.spans import FileSpan
from s3proxy.gateway.deliver import BodyBroken
from s3proxy.gateway.interfaces import IClientRequest
from s3proxy.telemetry.record import RequestRecord

__all__ = ["IDesk", "LargeHit"]


@attrs.define
class LargeHit:
    """An answer whose body is in one open file. It must be sent, or closed.

    :ivar head: all of the answer's head, as it goes over the wire
    :ivar record: all that is known before the first byte is sent
    """

    status: int
    head: bytes
    record: RequestRecord
    desk: "IDesk"
    _span: FileSpan

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self._span.count

    def close(self) -> None:
        """It will not be sent."""
        self._span.release()

    def send(self, request: IClientRequest) -> "Deferred[None]":
        """Send the body, behind the head that has been written.

        :return: fails with :class:`BodyBroken` when the file can't be read, with
            :class:`~s3proxy.gateway.interfaces.ClientGone` when the client left
        """
        span = self._span
        sent: Deferred[None] = request.send_file(span.fd, span.offset, span.count, span.hot)
        return sent.addCallbacks(self._sent, self._not_sent, (request,))

    def _sent(self, _: None, request: IClientRequest) -> None:
        self._span.release()
        self.record.bytes_from_cache = self._span.count
        self.record.from_disk = True
        request.finish()

    def _not_sent(self, reason: Failure) -> Failure:
        self._span.release()
        if reason.check(OSError):
            return Failure(BodyBroken(f"a file of the cache can't be read: {reason.value}"))
        return reason


class IDesk(Protocol):
    """Where requests get their permits and are accounted."""

    @property
    def has_room(self) -> bool:
        """Whether another request may be served now."""

    def deliver(self, request: IClientRequest, hit: LargeHit) -> "Deferred[None]":
        """Serve a request whose head has been answered already. Fires, never fails, when it is accounted for."""
