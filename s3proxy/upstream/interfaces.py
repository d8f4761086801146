"""What the gateway asks of the upstream side: send this request to S3, give back S3's answer as it comes."""

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from s3proxy.s3.headers import Headers
from s3proxy.util.streams import IByteSource

__all__ = [
    "Hedging",
    "IUpstream",
    "UpstreamBusy",
    "UpstreamError",
    "UpstreamProtocolError",
    "UpstreamRefused",
    "UpstreamRequest",
    "IUpstreamResponse",
    "UpstreamTimeout",
    "UpstreamTLSError",
    "UpstreamUnreachable",
    "UpstreamUnresolved",
]


class UpstreamError(Exception):
    """S3 could not be asked, or its answer broke off. :ivar sent: whether S3 may have acted on the request."""

    def __init__(self, message: str, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class UpstreamUnreachable(UpstreamError):
    """No address, no connection, or the connection was lost before an answer came: 502."""


class UpstreamUnresolved(UpstreamUnreachable):
    """No address: 502."""


class UpstreamProtocolError(UpstreamError):
    """What came is no HTTP answer: 502."""


class UpstreamTimeout(UpstreamError):
    """No answer, or no further byte of one, in the time configured: 504."""


class UpstreamTLSError(UpstreamError):
    """The certificate of a verified upstream did not hold: never retried, never downgraded."""


class UpstreamBusy(UpstreamError):
    """All connections that may be in use are: 503."""


class UpstreamRefused(UpstreamError):
    """The destination is not one this proxy talks to (a loop, a forbidden address): 403."""


@attrs.define(eq=False)
class Hedging:
    """When a request is sent a second time because its answer is late. One of them belongs to all the requests that
    are made for one client's request.

    :ivar after: seconds without the head of an answer
    :ivar left: how many second requests there may still be
    """

    after: float
    left: int


@attrs.frozen(kw_only=True)
class UpstreamRequest:
    """One request for S3, complete but for hop-by-hop fields.

    :ivar host: name to resolve, and SNI; lower case, without brackets or port
    :ivar port: the port the client meant (absolute-form or Host), 80 without one; overrides are looked up by it
    :ivar headers: exactly what is sent, in this order, except that framing of the body is added by the exchange: when
        ``body`` is given, ``Content-Length`` is taken from these headers if present, else ``Transfer-Encoding:
        chunked`` is added. A ``Content-Length: 0`` without a body stays.
    :ivar body: started when S3 is ready for it (at once, or after ``100 Continue`` when the headers expect that)
    :ivar repeatable: may be sent again after a failure before the first byte of the answer (GET, HEAD without body)
    :ivar group: of S3's operations, one of :data:`s3proxy.telemetry.operations.GROUPS`, for counts
    :ivar hedging: when it is sent a second time before the first has failed; None: never. Only for repeatable ones.
    :ivar share: in whose name the answer's body is downloaded, where downloads have a common limit; None: in nobody's,
        and the limit does not concern it
    """

    method: bytes
    target: bytes
    host: str
    port: int
    headers: Headers
    body: IByteSource | None = None
    body_length: int | None = 0
    repeatable: bool = False
    hedging: Hedging | None = None
    group: str = "other"
    share: str | None = None


class IUpstreamResponse(IByteSource):
    """S3's final answer; 1xx answers are not shown. It is the source of its own body.

    The body fails with :class:`UpstreamTimeout` on silence while it is not paused, with :class:`UpstreamError` when
    it is cut. Aborting it closes the connection, whatever that still carries.
    """

    status: int = Attribute("Status code.")
    reason: bytes = Attribute("Reason phrase.")
    headers: Headers = Attribute("Names, order and values as S3 sent them, hop-by-hop ones included.")
    length: int | None = Attribute("Bytes of the body that will be delivered; None when only the end tells.")
    claimed_length: int | None = Attribute("Value of Content-Length, also for HEAD and 304; None without one.")
    address: str = Attribute("``IP:port`` of the peer.")
    sent_at: float = Attribute("The reactor's seconds when the request was sent.")
    head_at: float = Attribute("The reactor's seconds when the answer's head had arrived.")


class IUpstream(Interface):
    """Sends requests to S3."""

    def request(request: UpstreamRequest) -> Deferred[IUpstreamResponse]:
        """Fires with the answer as soon as its head is complete, also while the request's body is still being sent.

        Cancelling it closes the connection. Fails with an :class:`UpstreamError`; the request's body has been aborted
        then. A response must be started or aborted.
        """
