"""S3 in front of the model: takes the requests that reach it one by one, and answers each from what is current then.

What goes wrong is planned ahead: :meth:`ModelS3.plan` says what becomes of the next request for a key.
"""

from typing import Any

import attrs
from twisted.python.failure import Failure

from s3proxy.upstream.interfaces import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from test.support.gateway import Asked, FakeResponse
from test.support.model import History, Shape, Version, http_date, shape_of
from test.support.model_multipart import Upload
from test.support.model_orders import Told

__all__ = [
    "FAULTS",
    "HEAD_FAULTS",
    "WRITE_FAULTS",
    "Exchange",
    "Fault",
    "ModelS3",
    "S3Response",
    "WriteFault",
    "error_document",
]

PRECONDITIONS = frozenset({b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"})
HEAD_FAULTS = ("refused", "silent", "reset")
"""No answer comes."""
STATUS_FAULTS = (500, 503, 403, 404)
"""Another answer than the right one comes."""
FAULTS = (
    *HEAD_FAULTS,
    *(str(status) for status in STATUS_FAULTS),
    "412",
    "cut",
    "stall",
    "whole",
    "other-range",
    "short-range",
    "no-total",
    "no-content-range",
    "no-etag",
    "no-length",
    "unconditional",
)
"""``412``: to a request that has a precondition. ``cut``, ``stall``: the body, somewhere. ``whole``: a 200 to a Range.
``other-range``: bytes and Content-Range of another place. ``short-range``: Content-Range and length contradict each
other. ``unconditional``: no precondition was looked at. The other ones lack something in their head.
"""


@attrs.frozen
class Fault:
    """:ivar place: where in the body, or how far away; in thousandths"""

    kind: str
    place: int = 500


WRITE_FAULTS = (
    "refused",
    "reset",
    "stuck",
    "early",
    "early-200",
    "silent",
    "lost",
    "status",
    "error-in-200",
    "no-etag",
    "cut",
    "stall",
)
"""What becomes of a write. ``reset``, ``stuck``, ``early``, ``early-200``: somewhere in the request's body, or before
it: the connection is lost, nothing moves any more, an error is answered, a success is answered. ``silent``, ``lost``,
``status``: behind the body: no answer, a lost connection, an error. ``cut``, ``stall``: somewhere in the answer.
"""


@attrs.frozen
class WriteFault:
    """:ivar place: where in the request's body, or in the answer's; in thousandths. 0: before it begins
    :ivar acts: whether S3 does it although it does not say so: ``before`` it fails to, ``never``, or ``after`` that
    :ivar status: of the error
    """

    kind: str
    place: int = 500
    acts: str = "never"
    status: int = 503


class S3Response(FakeResponse):
    """An answer whose body comes bit by bit.

    :ivar version: what it is about
    :ivar sent: everything that its body holds
    :ivar rest: what of it has not come yet
    :ivar fails: what the body ends with instead of its end; None: with that
    :ivar stalled: nothing comes until it fails
    :ivar truthful: whether it is what S3 should have said
    """

    def __init__(
        self,
        status: int,
        headers: dict[bytes, bytes],
        body: bytes,
        *,
        version: Version | None,
        has_length: bool = True,
        claimed: int | None = None,
    ) -> None:
        super().__init__(status, headers, None, length=len(body), claimed=claimed)
        if not has_length:
            self.length = self.claimed_length = None
        self.version = version
        self.sent = self.rest = body
        self.fails: UpstreamError | None = None
        self.stalled = False
        self.about_a_write = False
        self.truthful = True
        self.fault: str | None = None

    def flow(self, count: int) -> bool:
        """So many more bytes come, or the end. Whether that was the end."""
        assert self.sink is not None and not self.stalled
        if self.rest:
            piece, self.rest = self.rest[:count], self.rest[count:]
            self.sink.data_received(piece)
            return False
        if self.fails is not None:
            if isinstance(self.fails, UpstreamTimeout):
                self.stalled = True
                return False
            self.sink.stream_failed(Failure(self.fails))
        else:
            self.sink.stream_ended()
        return True

    def give_up(self) -> None:
        """The upstream client has waited long enough."""
        assert self.sink is not None and self.fails is not None
        self.stalled = False
        self.sink.stream_failed(Failure(self.fails))


@attrs.define(eq=False)
class Exchange:
    """One request that reached the upstream side.

    :ivar owner: whose request it is
    :ivar fields: lower-case header fields
    :ivar sent: the moment, and the unix seconds, at which it was sent
    :ivar response: once S3 has taken the request
    :ivar answered: the head of the answer has come
    :ivar broken: it had no answer, or not all of it
    """

    number: int
    asked: Asked
    owner: Any
    key: bytes
    part: int | None
    fields: dict[bytes, bytes]
    sent: tuple[int, float]
    response: S3Response | None = None
    answered: bool = False
    broken: bool = False

    @property
    def method(self) -> bytes:
        """Its method."""
        return self.asked.request.method

    @property
    def conditional(self) -> bool:
        """Whether S3 could answer it with 412."""
        return not self.fields.keys().isdisjoint((b"if-match", b"if-unmodified-since"))


class ModelS3:
    """:ivar denied: callers who may not read
    :ivar histories: the dictionary
    :ivar uploads: multipart uploads, by their ids
    """

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self.histories = {key: History(key) for key in keys}
        self.uploads: dict[bytes, Upload] = {}
        self.denied: set[bytes] = set()
        self._planned: dict[bytes, list[Fault]] = {}
        self._planned_writes: dict[bytes, list[WriteFault]] = {}
        self._serial = 0

    def serial(self) -> int:
        """A number that was never there before."""
        self._serial += 1
        return self._serial

    def plan(self, key: bytes, fault: Fault) -> None:
        """What becomes of the next request for this key."""
        self._planned.setdefault(key, []).append(fault)

    def plan_write(self, key: bytes, fault: WriteFault) -> None:
        """What becomes of the next write of this key."""
        self._planned_writes.setdefault(key, []).append(fault)

    def next_write_fault(self, key: bytes) -> WriteFault | None:
        """What becomes of a write that begins now."""
        planned = self._planned_writes.get(key)
        return planned.pop(0) if planned else None

    def forget_plans(self) -> None:
        """From now on nothing goes wrong."""
        self._planned.clear()
        self._planned_writes.clear()

    @staticmethod
    def is_silent(error: UpstreamError) -> bool:
        """Whether it takes a while until this shows."""
        return isinstance(error, UpstreamTimeout)

    def take(self, exchange: Exchange) -> S3Response | UpstreamError:
        """S3 answers a read, or does not."""
        version = self.histories[exchange.key].current
        planned = self._planned.get(exchange.key)
        fault = planned.pop(0) if planned and version.content is not None else None
        if fault is not None and fault.kind in HEAD_FAULTS:
            exchange.broken = True
            if fault.kind == "refused":
                return UpstreamUnreachable("refused")
            return UpstreamTimeout("silent", sent=True) if fault.kind == "silent" else UpstreamError("reset", sent=True)
        if fault is not None and fault.kind.isdigit() and (fault.kind != "412" or exchange.conditional):
            response = self._error(exchange, int(fault.kind), version)
            response.truthful = False
        elif exchange.fields.get(b"x-caller") in self.denied:
            response = self._error(exchange, 403, version)
        else:
            fields = exchange.fields
            if fault is not None and fault.kind == "unconditional":
                fields = {name: value for name, value in fields.items() if name not in PRECONDITIONS}
            shape = shape_of(version, fields, exchange.part)
            response = self._answer(exchange, version, shape, fault)
            if fields is not exchange.fields:
                response.truthful = False
        exchange.response = response
        return response

    def answer(self, exchange: Exchange, told: Told) -> S3Response:
        """S3's answer to a write."""
        headers = {**self._common(exchange), **told.headers}
        if told.versions:
            headers[b"Date"] = http_date(told.versions[0].modified)
        # What comes while S3 still works has no length.
        has_length = not told.body or b"\n " not in told.body
        if has_length and told.status != 204:
            headers[b"Content-Length"] = b"%d" % len(told.body)
        response = S3Response(told.status, headers, told.body, version=None, has_length=has_length)
        response.about_a_write = True
        exchange.response = response
        return response

    def _error(self, exchange: Exchange, status: int, version: Version | None) -> S3Response:
        body = b"" if exchange.method == b"HEAD" else error_document(status)
        headers = self._common(exchange)
        if body:
            headers[b"Content-Length"] = b"%d" % len(body)
            headers[b"Content-Type"] = b"application/xml"
        if status == 416 and version is not None and version.content is not None:
            headers[b"Content-Range"] = b"bytes */%d" % version.content.size
        return S3Response(status, headers, body, version=version)

    def _common(self, exchange: Exchange) -> dict[bytes, bytes]:
        return {
            b"x-amz-request-id": b"S3-%d" % exchange.number,
            b"x-amz-id-2": b"host",
            b"Date": b"Tue, 14 Nov 2023 22:13:20 GMT",
            b"Server": b"AmazonS3",
        }

    def _answer(self, exchange: Exchange, version: Version, shape: Shape, fault: Fault | None) -> S3Response:
        content = version.content
        if shape.status == 304:
            headers = {**self._common(exchange), **dict(version.fields[:2])}
            return S3Response(304, headers, b"", version=version)
        if shape.status >= 400 or content is None:
            return self._error(exchange, shape.status, version)
        kind = None if fault is None else fault.kind
        place = 0 if fault is None else fault.place
        if kind == "whole" and exchange.part is None:
            shape = Shape(200)
        span = shape.span or (0, content.size)
        if kind == "other-range" and shape.span is not None and exchange.part is None:
            start = min(content.size - 1, place * content.size // 1000)
            span = (start, min(content.size, start + span[1] - span[0]))
        body = content.body[span[0] : span[1]]
        headers = {**self._common(exchange), **dict(version.fields), b"Accept-Ranges": b"bytes"}
        if shape.status == 206 and kind != "no-content-range":
            total = b"*" if kind == "no-total" else b"%d" % content.size
            first, last = span[0], span[1] - 1
            if kind == "short-range" and last > first:
                last = first + (last - first) * place // 1000
            headers[b"Content-Range"] = b"bytes %d-%d/%s" % (first, last, total)
        headers.update(content.extras(shape.status, exchange.fields, exchange.part))
        if kind == "no-etag":
            del headers[b"ETag"]
        response = self._with_body(exchange, shape.status, headers, body, version, kind)
        response.fault = kind
        response.truthful = kind in (None, "cut", "stall", "no-length")
        if kind in ("cut", "stall"):
            exchange.broken = True
            if exchange.method != b"HEAD":
                response.rest = body[: len(body) * place // 1000]
                response.fails = (
                    UpstreamError("cut", sent=True) if kind == "cut" else UpstreamTimeout("silent", sent=True)
                )
        return response

    def _with_body(
        self,
        exchange: Exchange,
        status: int,
        headers: dict[bytes, bytes],
        body: bytes,
        version: Version,
        kind: str | None,
    ) -> S3Response:
        has_length = kind != "no-length"
        if has_length:
            headers[b"Content-Length"] = b"%d" % len(body)
        if exchange.method == b"HEAD":
            return S3Response(status, headers, b"", version=version, has_length=has_length, claimed=len(body))
        return S3Response(status, headers, body, version=version, has_length=has_length)


def error_document(status: int) -> bytes:
    """What S3 says about an error, roughly."""
    return b"<Error><Code>Code%d</Code></Error>" % status
