"""The way of every request: permit, classification, flow, and the one exit where it is accounted.

Nothing else starts or ends a request, and no other module turns exceptions into answers.
"""

from collections.abc import Callable
from http import HTTPStatus

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.gateway.answers import marks, new_request_id
from s3proxy.gateway.bodies import CopyBudget
from s3proxy.gateway.deliver import BodyBroken
from s3proxy.gateway.demand import Demand
from s3proxy.gateway.forward import ForwardFlow
from s3proxy.gateway.interfaces import ClientGone, IClientRequest
from s3proxy.gateway.large import LargeHit
from s3proxy.gateway.names import read_name
from s3proxy.gateway.read import ReadFlow
from s3proxy.gateway.transaction import Parts, Transaction
from s3proxy.policy.rules import Rules
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.policy.writing import announced_size, upload_limit
from s3proxy.s3 import errors
from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import JUDGED_BY_S3_FIELDS, Bypass, Headers, bypass_mode, is_sse_c
from s3proxy.s3.operation import Operation, classify, part_number
from s3proxy.s3.parts import PartNumber
from s3proxy.s3.ranges import InvalidRange, MultiRange, RangeSpec, parse_range
from s3proxy.s3.signature import SignatureForm, read_signature
from s3proxy.s3.target import refuse_connect
from s3proxy.telemetry.counts import FlowCounts
from s3proxy.telemetry.record import RequestRecord
from s3proxy.upstream.interfaces import UpstreamBusy, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamTLSError

__all__ = ["Gateway"]

_SIGNATURE_WORDS = {
    SignatureForm.HEADER_V4: ("SigV4", "AuthHeader"),
    SignatureForm.HEADER_V4A: ("SigV4A", "AuthHeader"),
    SignatureForm.HEADER_V2: ("SigV2", "AuthHeader"),
    SignatureForm.QUERY_V4: ("SigV4", "QueryString"),
    SignatureForm.QUERY_V4A: ("SigV4A", "QueryString"),
    SignatureForm.QUERY_V2: ("SigV2", "QueryString"),
}
_ORDINARY = {b"GET": Operation.GetObject, b"HEAD": Operation.HeadObject}
_RANGE_FIELDS = frozenset({b"range", b"if-range"})
_PART_READS = (Operation.GetObjectPart, Operation.HeadObjectPart)
SHED_WARNING_INTERVAL = 60.0
"""Seconds between two log lines about requests that were turned away."""


@attrs.frozen(kw_only=True)
class Accounts:
    """Where ended requests are accounted.

    :ivar started: called when a request has its permit or is turned away
    :ivar finished: called once with the closed record
    """

    started: Callable[[], None]
    finished: Callable[[RequestRecord], None]


class Gateway:
    """Serves requests.

    :param max_requests: permits; a request holds one until its last byte is handed over
    :param bypass_headers: whether clients may ask to bypass the cache
    :param base_domains: domains of S3-compatible stores with virtual-hosted buckets
    :ivar in_flight: requests that are being served
    :ivar turned_away: requests so far for which there was no permit
    :ivar served: all others that have ended
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        parts: Parts,
        rules: Rules,
        accounts: Accounts,
        *,
        max_requests: int,
        bypass_headers: bool,
        instance: str = "",
        base_domains: tuple[str, ...] = (),
    ) -> None:
        self._clock = clock
        self._parts = parts
        self._rules = rules
        self._accounts = accounts
        self._max_requests = max_requests
        self._bypass_headers = bypass_headers
        self._instance = instance
        self._base_domains = base_domains
        self.in_flight = 0
        self.turned_away = 0
        self.served = 0
        self._running: dict[int, tuple[IClientRequest, RequestRecord]] = {}
        self._shed_since_warning = 0
        self._next_shed_warning = 0.0

    @property
    def running(self) -> list[tuple[IClientRequest, RequestRecord]]:
        """The requests that are being served, oldest first, and what is known of them so far. To be looked at only."""
        return list(self._running.values())

    @property
    def counts(self) -> FlowCounts:
        """What the flows count."""
        return self._parts.counts

    @property
    def copies(self) -> CopyBudget:
        """Room for what is read of bodies of requests."""
        return self._parts.copies

    @property
    def max_requests(self) -> int:
        """How many requests may be served at once."""
        return self._max_requests

    def reconfigure(self, rules: Rules, *, max_requests: int, bypass_headers: bool) -> None:
        """Serve the requests that come from now on under other settings."""
        self._rules = rules
        self._max_requests = max_requests
        self._bypass_headers = bypass_headers

    def handle(self, request: IClientRequest) -> "Deferred[None]":
        """Answer the request. Fires, never fails, when the request is accounted for."""
        record = RequestRecord(
            started_at=self._parts.now(),
            started_monotonic=request.received_at,
            client_address=request.client_address,
            listener=request.listener,
            method=request.method,
            target=request.target,
            http_version=request.version,
            host=request.headers.get(b"host") or b"",
            referer=request.headers.get(b"referer") or b"",
            user_agent=request.headers.get(b"user-agent") or b"",
            tls=request.tls,
            cipher_suite=request.cipher_suite,
            request_id=new_request_id(),
            instance=self._instance,
        )
        may_be_served = self.has_room
        self._begin(request, record)
        work = Deferred.fromCoroutine((self._serve if may_be_served else self._shed)(request, record))
        request.when_gone().addCallback(lambda _: work.cancel())
        return self._conclude(work, request, record)

    @property
    def has_room(self) -> bool:
        """See :class:`s3proxy.gateway.large.IDesk`."""
        return self.in_flight < self._max_requests

    def deliver(self, request: IClientRequest, hit: LargeHit) -> "Deferred[None]":
        """See :class:`s3proxy.gateway.large.IDesk`."""
        record = hit.record
        record.started_monotonic = request.received_at
        self._begin(request, record)
        work = hit.send(request)
        work.addErrback(self._cut, request, record)
        return self._conclude(work, request, record)

    def _begin(self, request: IClientRequest, record: RequestRecord) -> None:
        self._accounts.started()
        self._running[id(record)] = (request, record)
        self.in_flight += 1

    def _conclude(self, work: "Deferred[None]", request: IClientRequest, record: RequestRecord) -> "Deferred[None]":
        work.addErrback(self._escaped, request, record)
        work.addErrback(self._unanswerable, request)
        return work.addCallback(self._account, request, record)

    async def _serve(self, request: IClientRequest, record: RequestRecord) -> None:
        try:
            await self._flow(request, record)
        except S3Error as error:
            self._answer_error(request, record, error)
        except UpstreamError as error:
            self._answer_error(request, record, _as_s3_error(error, record))
        except BodyBroken:
            self._cut(Failure(), request, record)

    def _cut(self, reason: Failure, request: IClientRequest, record: RequestRecord) -> None:
        """The rest of a body can't be had."""
        reason.trap(BodyBroken)
        record.upstream_aborted = True
        record.outcome = Outcome.ERROR.value
        self.log.debug("answer cut: {reason}", reason=str(reason.value))
        request.abort()

    async def _shed(self, request: IClientRequest, record: RequestRecord) -> None:
        self.turned_away += 1
        self._shed_since_warning += 1
        now = self._clock.seconds()
        if now >= self._next_shed_warning:
            self._next_shed_warning = now + SHED_WARNING_INTERVAL
            self.log.warn(
                "{count} request(s) turned away: server.max_concurrent_requests is {limit}",
                count=self._shed_since_warning,
                limit=self._max_requests,
            )
            self._shed_since_warning = 0
        record.reason = Reason.OVERLOAD.value
        self._answer_error(request, record, errors.slow_down())

    async def _flow(self, request: IClientRequest, record: RequestRecord) -> None:
        """Classify, then hand over to the flow."""
        if request.method == b"CONNECT":
            refuse_connect(request.target)
        name = read_name(request.target, request.headers, self._base_domains)
        target, address = name.target, name.address
        signature = read_signature(request.headers, target.query)
        if name.ordinary and request.method in _ORDINARY:
            operation = _ORDINARY[request.method]
        else:
            operation = classify(request.method, address, target.query, request.headers)
        transaction = Transaction(
            request=request,
            record=record,
            request_id=record.request_id,
            target=target,
            address=address,
            operation=operation,
            signature=signature,
            settings=None if address is None else self._rules.resolve(address),
        )
        record.operation = operation.name
        record.access_key = signature.access_key or ""
        record.signature_version, record.authentication_type = _SIGNATURE_WORDS.get(signature.form, ("", ""))
        if address is not None:
            record.bucket = address.bucket
            record.key = address.key
            if transaction.settings is not None:
                record.rule = self._rules.number_of(transaction.settings)
            if transaction.settings is not None and transaction.settings.source:
                self.log.debug(
                    "{name}: the first rule that fits is {pattern}",
                    name=(address.bucket + b"/" + address.key).decode("utf-8", "backslashreplace"),
                    pattern=transaction.settings.source,
                )
        now = self._parts.now()
        if signature.is_expired(now):
            record.reason = Reason.EXPIRED_URL.value
            raise errors.access_denied_expired(signature.expires_at or 0.0, now)
        _refuse_too_large(operation, request)
        if operation.is_cacheable_read and address is not None and transaction.id is not None:
            reason = self._why_not_cached(transaction, address)
            if reason is Reason.NONE:
                await self._read(transaction)
                return
        elif operation.writes_object or operation.body_names_keys:
            reason = Reason.WRITE
        else:
            reason = Reason.NOT_CACHEABLE if address is not None else Reason.NO_ADDRESS
        await ForwardFlow(self._parts, transaction, reason).run()

    def _why_not_cached(self, transaction: Transaction, address: ObjectAddress) -> Reason:
        """What keeps an object's GET or HEAD from the cache; NONE if nothing does."""
        assert transaction.settings is not None and transaction.id is not None
        headers = transaction.request.headers
        if is_sse_c(headers):
            return Reason.SSE_C
        if not transaction.signature.understood:
            return Reason.CREDENTIALS
        if transaction.request.body_length != 0:
            return Reason.NOT_CACHEABLE
        if not transaction.settings.read_cache_enabled:
            self._parts.cache.drop(transaction.id, "rule_disabled")
            return Reason.READ_CACHE_OFF
        if self._bypass_headers and bypass_mode(headers) is Bypass.NO_STORE:
            return Reason.NO_STORE
        if isinstance(_range(headers), (MultiRange, InvalidRange)):
            return Reason.RANGE_FORM
        if transaction.operation in _PART_READS and headers.has_any(_RANGE_FIELDS):
            # S3 refuses a part of a part.
            return Reason.PART_NUMBER
        return Reason.NONE

    async def _read(self, transaction: Transaction) -> None:
        headers = transaction.request.headers
        wanted = _wanted(transaction)
        assert not isinstance(wanted, (MultiRange, InvalidRange))
        assert transaction.settings is not None
        demand = Demand.read(
            transaction.request.method,
            headers,
            transaction.target.query,
            wanted,
            transaction.settings,
            must_ask=headers.has_any(JUDGED_BY_S3_FIELDS),
        )
        renew = self._bypass_headers and bypass_mode(headers) is Bypass.NO_CACHE
        await ReadFlow(self._parts, transaction, demand, renew=renew).run()

    # The exit.

    def _answer_error(self, request: IClientRequest, record: RequestRecord, error: S3Error) -> None:
        """An error of our own, or, when the answer has begun, the end of the connection."""
        if error.status != 416:
            record.outcome = Outcome.ERROR.value
        record.error_code = error.code
        if request.first_byte_at is not None:
            record.upstream_aborted = True
            request.abort()
            return
        outcome = Outcome.ERROR if error.status != 416 else Outcome(record.outcome)
        body = errors.render(error, record.request_id, _path_of(request.target))
        headers = [
            (b"x-amz-request-id", record.request_id.encode("ascii")),
            (b"Content-Type", errors.CONTENT_TYPE),
            *error.headers,
            *marks(outcome),
        ]
        record.status = error.status
        request.start_response(error.status, _phrase(error.status), headers, len(body))
        if request.method != b"HEAD":
            room = request.write(body)
            if room is not None:
                room.addErrback(lambda _: None)
        request.finish()

    def _escaped(self, reason: Failure, request: IClientRequest, record: RequestRecord) -> None:
        """What no flow handles: the client is gone, or we have a bug."""
        if reason.check(CancelledError, ClientGone):
            record.aborted = True
            request.abort()
            return
        self.log.failure("serving {method} {host}", reason, method=record.method, host=record.host)
        record.outcome = Outcome.ERROR.value
        record.error_code = "InternalError"
        try:
            self._answer_error(request, record, errors.internal_error())
        except ClientGone:
            record.aborted = True

    def _unanswerable(self, reason: Failure, request: IClientRequest) -> None:
        self.log.failure("answering with an error", reason)
        request.abort()

    def _account(self, _: None, request: IClientRequest, record: RequestRecord) -> None:
        self.in_flight -= 1
        self.served += record.reason != Reason.OVERLOAD.value
        del self._running[id(record)]
        record.bytes_sent = request.body_bytes_sent
        if request.first_byte_at is not None:
            record.first_byte_seconds = request.first_byte_at - request.received_at
        if record.status == 0 and request.status is not None:
            record.status = request.status
        record.close(self._clock.seconds())
        self._accounts.finished(record)


def _path_of(target: bytes) -> bytes:
    """The path of a target, also of one in absolute-form; S3's error documents name nothing else."""
    if target.startswith(b"/") or b"://" not in target:
        return target
    return b"/" + target.partition(b"://")[2].partition(b"/")[2]


def _phrase(status: int) -> bytes:
    """The standard reason phrase."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b"Error"


def _refuse_too_large(operation: Operation, request: IClientRequest) -> None:
    """What S3 will not take need not be sent."""
    limit = upload_limit(operation)
    if limit is not None:
        size = announced_size(request.headers, request.body_length)
        if size is not None and size > limit:
            raise errors.entity_too_large(limit, size)


def _range(headers: Headers) -> RangeSpec | None:
    values = headers.get_all(b"range")
    if not values:
        return None
    return parse_range(values[0]) if len(values) == 1 else InvalidRange()


def _wanted(transaction: Transaction) -> RangeSpec | PartNumber | None:
    """What of the object a read asks for; None: all of it."""
    number = part_number(transaction.target.query) if transaction.operation in _PART_READS else None
    return _range(transaction.request.headers) if number is None else PartNumber(number)


def _as_s3_error(error: UpstreamError, record: RequestRecord) -> S3Error:
    if isinstance(error, UpstreamRefused):
        record.reason = Reason.REFUSED.value
        return errors.access_denied(str(error))
    if isinstance(error, UpstreamBusy):
        record.reason = Reason.OVERLOAD.value
        return errors.slow_down()
    if isinstance(error, UpstreamTimeout):
        record.reason = Reason.UPSTREAM_TIMEOUT.value
        return errors.gateway_timeout(str(error))
    record.reason = Reason.UPSTREAM_ERROR.value
    if isinstance(error, UpstreamTLSError):
        return errors.upstream_tls_validation_failed(record.host.decode("ascii", "replace"))
    return errors.bad_gateway(str(error))
