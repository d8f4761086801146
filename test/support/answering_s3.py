"""An S3 of a few lines that answers the requests which reached a :class:`~test.support.gateway.FakeUpstream`.

For tests that say what a client must get, whichever requests the gateway chooses to send for it.
"""

import email.utils
import re
from collections.abc import Callable, Iterable
from test.support.gateway import FakeResponse
from urllib.parse import unquote_to_bytes

import attrs

from s3proxy.s3.headers import Headers
from s3proxy.upstream.interfaces import UpstreamRequest

__all__ = ["AnsweringS3", "Read", "StoredObject"]

DATE = b"Wed, 21 Oct 2015 07:28:00 GMT"
Interval = tuple[int, int]
Pair = tuple[bytes, bytes]


@attrs.frozen(kw_only=True)
class StoredObject:
    """One version. :ivar parts: the sizes of its parts, if it came in several"""

    body: bytes
    etag: bytes
    last_modified: bytes = DATE
    headers: tuple[Pair, ...] = ()
    checksums: tuple[Pair, ...] = ()
    parts: tuple[int, ...] = ()


@attrs.frozen(kw_only=True)
class Read:
    """A GET or HEAD that was answered.

    :ivar interval: the bytes of the object that the answer stands for; None: an answer without bytes of it
    :ivar pinned: the request's If-Match
    :ivar confirming: the request's If-None-Match
    """

    method: bytes
    target: bytes
    wanted: bytes | None
    status: int
    interval: Interval | None
    pinned: bytes | None
    confirming: bytes | None


def _error(status: int, code: bytes, *fields: Pair) -> FakeResponse:
    return FakeResponse(status, dict(fields), b"<Error><Code>%s</Code></Error>" % code)


def _names(value: bytes, etag: bytes, weak: bool) -> bool:
    """Whether a list of entity tags has this one."""
    if value.strip() == b"*":
        return True
    for mark, quoted, bare in re.findall(rb'(W/)?(?:"([^"]*)"|([^\s,"]+))', value):
        if (weak or not mark) and (quoted or bare) == etag.strip(b'"'):
            return True
    return False


def _seconds(date: bytes | None) -> float | None:
    parsed = email.utils.parsedate_tz((date or b"").decode("latin-1"))
    return None if parsed is None else email.utils.mktime_tz(parsed)


class AnsweringS3:
    """Called with a request it gives the answer.

    :ivar objects: by key
    :ivar reads: what it was asked for, and what it gave
    :ivar refuses: which requests get 403
    :ivar ignores: lower-case names of fields that it does not look at
    :ivar holding: bodies wait for :meth:`let_go`
    """

    def __init__(self) -> None:
        self.objects: dict[bytes, StoredObject] = {}
        self.reads: list[Read] = []
        self.refuses: Callable[[UpstreamRequest], bool] = lambda request: False
        self.ignores: frozenset[bytes] = frozenset()
        self.holding = False
        self._held: list[tuple[FakeResponse, bytes]] = []

    def put(
        self,
        key: bytes,
        body: bytes,
        etag: bytes = b'"v1"',
        *,
        last_modified: bytes = DATE,
        headers: tuple[Pair, ...] = (),
        checksums: tuple[Pair, ...] = (),
        parts: tuple[int, ...] = (),
    ) -> None:
        """A new version, behind the proxy's back."""
        self.objects[key] = StoredObject(
            body=body, etag=etag, last_modified=last_modified, headers=headers, checksums=checksums, parts=parts
        )

    def __call__(self, request: UpstreamRequest) -> FakeResponse:
        """Answer."""
        if self.refuses(request):
            return _error(403, b"AccessDenied")
        if request.method == b"DELETE":
            self.objects.pop(self._key(request), None)
            return FakeResponse(204)
        if request.method not in (b"GET", b"HEAD"):
            return FakeResponse(200, {b"ETag": b'"written"'})
        return self._read(request)

    def let_go(self, pieces: int = 1) -> None:
        """Deliver every body that is held, in so many pieces."""
        held, self._held = self._held, []
        for response, body in held:
            size = max(1, -(-len(body) // pieces))
            for start in range(0, len(body), size):
                if not response.aborted:
                    response.sink.data_received(body[start : start + size])
            if not response.aborted:
                response.sink.stream_ended()

    def held(self) -> list[tuple[FakeResponse, bytes]]:
        """The bodies that are held, for a test that delivers them in its own way."""
        held, self._held = self._held, []
        return held

    def asked_intervals(self) -> list[Interval]:
        """The bytes that were sent, by offset; without answers that had none."""
        return sorted(read.interval for read in self.reads if read.interval is not None and read.method == b"GET")

    def bytes_sent(self) -> int:
        """Bytes of objects that were sent."""
        return sum(stop - start for start, stop in self.asked_intervals())

    @staticmethod
    def _key(request: UpstreamRequest) -> bytes:
        return unquote_to_bytes(request.target.partition(b"?")[0][1:])

    def _read(self, request: UpstreamRequest) -> FakeResponse:
        headers = request.headers.without(self.ignores)
        response, interval = self._answer(request, headers, self.objects.get(self._key(request)))
        self.reads.append(
            Read(
                method=request.method,
                target=request.target,
                wanted=request.headers.get(b"range"),
                status=response.status,
                interval=interval,
                pinned=request.headers.get(b"if-match"),
                confirming=request.headers.get(b"if-none-match"),
            )
        )
        return response

    def _answer(
        self, request: UpstreamRequest, headers: Headers, found: StoredObject | None
    ) -> tuple[FakeResponse, Interval | None]:
        if found is None:
            return _error(404, b"NoSuchKey"), None
        refusal = self._judge(headers, found)
        if refusal is not None:
            return refusal, None
        size = len(found.body)
        number = re.search(rb"[?&]partNumber=(\d+)", request.target)
        interval, extra = _part(found, int(number[1])) if number is not None else _range(headers, found)
        if interval is None:
            return _error(416, b"InvalidRange", (b"Content-Range", b"bytes */%d" % size)), None
        fields = dict([(b"ETag", found.etag), (b"Last-Modified", found.last_modified), *found.headers, *extra])
        if not extra and (headers.get(b"x-amz-checksum-mode") or b"").lower() == b"enabled":
            fields.update(found.checksums)
        body = found.body[slice(*interval)]
        status = 206 if extra else 200
        if request.method == b"HEAD":
            return FakeResponse(status, fields, b"", length=0, claimed=len(body)), interval
        if not self.holding:
            return FakeResponse(status, fields, body), interval
        response = FakeResponse(status, fields, None, len(body))
        self._held.append((response, body))
        return response, interval

    def _judge(self, headers: Headers, found: StoredObject) -> FakeResponse | None:
        """RFC 9110 13.2.2."""
        modified = _seconds(found.last_modified) or 0.0
        match, none_match = headers.get(b"if-match"), headers.get(b"if-none-match")
        unmodified_since = _seconds(headers.get(b"if-unmodified-since"))
        modified_since = _seconds(headers.get(b"if-modified-since"))
        if match is not None:
            failed = not _names(match, found.etag, weak=False)
        else:
            failed = unmodified_since is not None and modified > unmodified_since
        if failed:
            return _error(412, b"PreconditionFailed")
        if none_match is not None:
            same = _names(none_match, found.etag, weak=True)
        else:
            same = modified_since is not None and modified <= modified_since
        return FakeResponse(304, {b"ETag": found.etag}, b"") if same else None


def _part(found: StoredObject, number: int) -> tuple[Interval, list[Pair]]:
    """The bytes of a part, and the fields of a 206."""
    size = len(found.body)
    sizes = found.parts or (size,)
    start = sum(sizes[: number - 1])
    stop = start + sizes[number - 1]
    extra = [(b"Content-Range", b"bytes %d-%d/%d" % (start, stop - 1, size))]
    if found.parts:
        extra.append((b"x-amz-mp-parts-count", b"%d" % len(sizes)))
    return (start, stop), extra


def _range(headers: Headers, found: StoredObject) -> tuple[Interval | None, Iterable[Pair]]:
    """The bytes that are meant, and the fields of a 206 if it becomes one; no bytes: 416."""
    size = len(found.body)
    match = re.fullmatch(rb"bytes=(\d*)-(\d*)", headers.get(b"range") or b"")
    if_range = headers.get(b"if-range")
    if match is None or not match[1] and not match[2] or if_range not in (None, found.etag, found.last_modified):
        return (0, size), ()
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return (0, size), ()
    if start >= stop:
        return None, ()
    return (start, stop), ((b"Content-Range", b"bytes %d-%d/%d" % (start, stop - 1, size)),)
