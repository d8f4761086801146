"""One request as every later step sees it: classified once, never looked at as text again."""

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.manager import CacheManager
from s3proxy.gateway.bodies import CopyBudget
from s3proxy.gateway.interfaces import IClientRequest
from s3proxy.policy.rules import Settings
from s3proxy.policy.sharing import Sharing
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.headers import Headers, forwardable_request
from s3proxy.s3.operation import Operation
from s3proxy.s3.ranges import parse_content_range
from s3proxy.s3.signature import Signature
from s3proxy.s3.target import RequestTarget
from s3proxy.telemetry.counts import FlowCounts
from s3proxy.telemetry.operations import group_of
from s3proxy.telemetry.record import RequestRecord
from s3proxy.upstream.interfaces import Hedging, IUpstream, IUpstreamResponse, UpstreamRequest
from s3proxy.util.intervals import Interval

__all__ = ["Parts", "Transaction", "upstream_request"]


@attrs.frozen(kw_only=True)
class Parts:
    """What the flows work with.

    :ivar now: unix seconds
    :ivar copies: room for the copies of bodies that have to be understood
    :ivar counts: what the flows count
    :ivar referer: what to send as Referer where the client and its signature leave room for it; None: nothing
    :ivar sharing: in whose name objects are downloaded; None: nobody wants to know
    :ivar coalescing: requests wait for the answers to others that ask for the same
    """

    clock: IReactorTime
    cache: CacheManager
    upstream: IUpstream
    now: Callable[[], float]
    referer: bytes | None = None
    sharing: Sharing | None = None
    coalescing: bool = True
    copies: CopyBudget = attrs.field(factory=CopyBudget)
    counts: FlowCounts = attrs.field(factory=FlowCounts)


@attrs.define(kw_only=True)
class Transaction:
    """A classified request and its record.

    :ivar hedging: what all its requests to S3 share; None: none of them is sent a second time while the first is late
    """

    request: IClientRequest
    record: RequestRecord
    request_id: str
    target: RequestTarget
    address: ObjectAddress | None
    operation: Operation
    signature: Signature
    settings: Settings | None
    hedging: Hedging | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        settings = self.settings
        self.hedging = None
        if settings is not None and settings.hedging_enabled and settings.hedge_max_per_request > 0:
            self.hedging = Hedging(settings.hedge_trigger_after, settings.hedge_max_per_request)

    @property
    def id(self) -> ObjectId | None:
        """The object, if the request names one."""
        if self.address is None or not self.address.key:
            return None
        return ObjectId(self.address.store, self.address.bucket, self.address.key)

    def note_response(self, response: IUpstreamResponse) -> None:
        """Note what S3's answer tells about itself."""
        record, headers = self.record, response.headers
        record.upstream_address = response.address
        record.upstream_seconds = response.head_at - response.sent_at
        record.upstream_request_id = headers.get(b"x-amz-request-id") or b""
        record.host_id = headers.get(b"x-amz-id-2") or b""
        record.version_id = headers.get(b"x-amz-version-id") or b""
        if response.status == 206:
            content_range = parse_content_range(headers.get(b"content-range") or b"")
            if content_range is not None:
                self.note_range((content_range.start, content_range.stop))

    def note_range(self, interval: Interval | None) -> None:
        """Note which bytes of the object the client gets; None: all of them."""
        self.record.served_range = "" if interval is None else f"bytes={interval[0]}-{interval[1] - 1}"

    def conclude(self, outcome: Outcome, reason: Reason = Reason.NONE) -> None:
        """Note where the answer comes from."""
        self.record.outcome = outcome.value
        self.record.reason = reason.value


def upstream_request(
    transaction: Transaction,
    parts: Parts,
    *,
    adding: tuple[tuple[bytes, bytes], ...] = (),
    without: frozenset[bytes] = frozenset(),
    with_body: bool = False,
) -> UpstreamRequest:
    """The client's request as it goes to S3: the raw target and its own headers, less what belongs to its connection.

    :param adding: fields that the client's signature does not cover
    :param without: lower-case names to leave out; signed ones stay
    """
    request = transaction.request
    signature = transaction.signature
    headers: Headers = forwardable_request(request.headers, signature)
    if without:
        headers = headers.without(name for name in without if not signature.covers(name))
    if adding:
        headers = headers.without(name.lower() for name, _ in adding).adding(*adding)
    if parts.referer is not None and b"referer" not in headers and not signature.covers(b"referer"):
        headers = headers.adding((b"Referer", parts.referer))
    has_body = with_body and request.body_length != 0
    repeatable = request.method in (b"GET", b"HEAD") and not has_body
    group = group_of(transaction.operation.name)
    share = None
    if parts.sharing is not None and group == "get":
        address = transaction.address
        share = parts.sharing.share_of(request.headers.get(b"user-agent"), None if address is None else address.bucket)
    return UpstreamRequest(
        method=request.method,
        target=transaction.target.origin_form,
        host=transaction.target.host,
        port=transaction.target.port,
        headers=headers,
        body=request.body if has_body else None,
        body_length=request.body_length if has_body else 0,
        repeatable=repeatable,
        hedging=transaction.hedging if repeatable else None,
        group=group,
        share=share,
    )
