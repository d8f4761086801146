"""One request for an object, at S3 on behalf of the client who asked first; others may share what comes of it.

The fetch belongs to nobody's connection: the client who started it may leave, and it goes on while somebody waits
for it or reads what it brings.
"""

from enum import Enum

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.cache.fill import Fill
from s3proxy.gateway.elsewhere import asked_for
from s3proxy.gateway.relay import discard
from s3proxy.gateway.transaction import Parts
from s3proxy.policy.cacheability import Storable, judge_answer
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.parts import PartNumber, Wanted
from s3proxy.s3.ranges import FromTo
from s3proxy.upstream.interfaces import IUpstreamResponse, UpstreamRequest
from s3proxy.util.deferreds import SharedResult
from s3proxy.util.intervals import Interval

__all__ = ["Answer", "Fetch", "Kind"]


class Kind(Enum):
    """What S3's answer turned out to be."""

    STORED = "stored"
    """A body that flows into the cache; everybody may read it there."""
    CONFIRMED = "confirmed"
    """304: the version that was asked about is current."""
    CHANGED = "changed"
    """304, but about another version, or other metadata, than the cache holds: ask again, without our condition."""
    RELAY = "relay"
    """Anything else: its body can be given to one client only, the one who asked."""


@attrs.frozen
class Answer:
    """:ivar reason: for RELAY, why the answer is not kept"""

    kind: Kind
    response: IUpstreamResponse
    version: ObjectVersion | None = None
    interval: Interval | None = None
    fill: Fill | None = None
    reason: Reason = Reason.NONE


class Fetch:
    """See the module.

    :param wanted: the Range or part that is asked for; None: the whole object
    :param known: the version the cache holds, if any: a 304 that names it renews it
    :param confirming: whether the request's If-None-Match is ours and names ``known``
    :param conditional: whether the client sent conditions of its own
    :param store: whether the answer may be kept
    :param checksums: whether the request asks for S3's checksums
    :param unconfirmed: ``known`` was written through the proxy, and S3 has not described it yet
    :param promised: the bytes of ``known`` that are asked for because somebody is in the middle of them, if so
    """

    log = Logger()

    def __init__(
        self,
        parts: Parts,
        id: ObjectId,
        request: UpstreamRequest,
        *,
        wanted: Wanted | None,
        known: ObjectVersion | None,
        confirming: bool,
        conditional: bool,
        store: bool,
        checksums: bool,
        promised: Interval | None = None,
        unconfirmed: bool = False,
    ) -> None:
        self.wanted = wanted
        self._promised = promised
        self._parts = parts
        self._id = id
        self._request = request
        self._known = known
        self._confirming = confirming
        self._conditional = conditional
        self._unconfirmed = unconfirmed
        self._store = store
        self._checksums = checksums
        self._answer: SharedResult[Answer] = SharedResult(self._deserted)
        self._owner_waits = True
        self._asking: Deferred[IUpstreamResponse] | None = None

    def begin(self, *, yielding: bool = False) -> bool:
        """Send it.

        :param yielding: not if another process is about to get the object; False: so it is, and nothing was sent
        """
        cache = self._parts.cache
        known = self._known is not None
        missing = known and not self._confirming
        self._ticket = cache.flights.begin(self._id, self, known, self._asks, missing=missing)
        if yielding and self._ticket.in_the_way:
            self._end_ticket()
            return False
        self._asking = self._parts.upstream.request(self._request)
        self._asking.addCallbacks(self._answered, self._failed).addErrback(
            lambda reason: self.log.failure("handling S3's answer", reason)
        )
        return True

    @property
    def _asks(self) -> Interval | None:
        """The bytes that others may wait for."""
        if self._promised is not None:
            return self._promised
        if self._conditional or not self._store or self._request.method != b"GET":
            return None
        return asked_for(self.wanted)

    def answer(self) -> "Deferred[Answer]":
        """A Deferred of the caller's own. When the last one is cancelled before an answer came, the request is given
        up.
        """
        return self._answer.wait()

    def owner_left(self) -> None:
        """The client who started the fetch is gone: an answer for it alone has no taker."""
        self._owner_waits = False

    def serves(self, wanted: Wanted | None) -> bool:
        """Whether the answer will hold every byte that ``wanted`` asks for, as far as can be told before it came."""
        if self._confirming or self._conditional or not self._store or self._request.method != b"GET":
            return False
        if self.wanted == wanted:
            return True
        if self.wanted is None:
            # Which bytes of them are a part, the whole object's answer does not say.
            return not isinstance(wanted, PartNumber)
        return (
            isinstance(self.wanted, FromTo)
            and isinstance(wanted, FromTo)
            and self.wanted.first <= wanted.first
            and wanted.last <= self.wanted.last
        )

    def confirms(self, version: ObjectVersion) -> bool:
        """Whether the fetch asks S3 about this version."""
        return self._confirming and self._known is not None and self._known.same_bytes(version)

    @property
    def asked_at(self) -> float:
        """Unix seconds at which the request was sent."""
        return self._ticket.sent_at

    def promises(self, version: ObjectVersion) -> Interval | None:
        """The bytes of this version that the fetch asks for because somebody lacks them; None: it is no such fetch."""
        if self._promised is None or self._known is None or not self._known.same_bytes(version):
            return None
        return self._promised

    def resumes(self, version: ObjectVersion, position: int) -> bool:
        """Whether the fetch asks for the rest of this version, from this offset or an earlier one on."""
        promised = self.promises(version)
        return promised is not None and promised[0] <= position < promised[1]

    def _deserted(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _failed(self, reason: Failure) -> None:
        self._end_ticket()
        self._parts.counts.fetches["error"] += 1
        if reason.check(CancelledError) and not self._answer.waiting:
            return
        self._answer.fire(reason)

    def _end_ticket(self) -> None:
        self._parts.cache.flights.answered(self._ticket, self)
        self._parts.cache.flights.close(self._ticket)

    def _answered(self, response: IUpstreamResponse) -> None:
        self._parts.cache.flights.answered(self._ticket, self)
        self._parts.counts.fetches["success"] += 1
        try:
            answer = self._judge(response)
        except Exception:
            self.log.failure("the cache can't take an answer; it is passed on")
            answer = Answer(Kind.RELAY, response, reason=Reason.STORE_UNAVAILABLE)
        finally:
            self._parts.cache.flights.close(self._ticket)
        if answer.kind in (Kind.CONFIRMED, Kind.CHANGED):
            discard(response)
        elif answer.kind is Kind.RELAY and not self._owner_waits:
            response.abort()
        awaited = self._answer.waiting > 0
        self._answer.fire(answer)
        # Only now: whoever waited has attached itself and sees the body from its first byte on.
        if answer.fill is not None:
            answer.fill.begin()
            if awaited:
                # Those who waited may all have had other plans for it.
                answer.fill.detach(self)

    def _judge(self, response: IUpstreamResponse) -> Answer:
        cache = self._parts.cache
        head = self._request.method == b"HEAD"
        if response.status == 304:
            known = self._known
            etag = response.headers.get(b"etag")
            same = known is not None and (etag == known.etag or (etag is None and self._confirming))
            modified = response.headers.get(b"last-modified")
            if same and known is not None and known.last_modified is None and self._unconfirmed:
                # It was written through the proxy, and only S3 knows when. Some stores do not tell with a 304. And it
                # may be there since somebody wrote the same once more.
                if modified is None or known.is_rewritten(modified):
                    cache.drop(self._id, "etag_mismatch")
                    return Answer(Kind.CHANGED if self._confirming else Kind.RELAY, response, reason=Reason.CHANGED)
                known = known.modified_at(modified)
                cache.admission.completed(self._ticket, known)
            elif same and known is not None and modified is not None and modified != known.last_modified:
                # The same bytes were written again, perhaps under other metadata, which a 304 does not show.
                cache.drop(self._id, "etag_mismatch")
                return Answer(Kind.CHANGED if self._confirming else Kind.RELAY, response, reason=Reason.CHANGED)
            elif same and known is not None:
                cache.admission.confirmed(self._ticket, known)
            if self._confirming:
                if same:
                    return Answer(Kind.CONFIRMED, response, known)
                # The client did not ask for a 304, and this one says nothing about what is held.
                cache.drop(self._id, "etag_mismatch")
                return Answer(Kind.CHANGED, response, reason=Reason.CHANGED)
            return Answer(Kind.RELAY, response, reason=Reason.CLIENT_CONDITION)
        if response.status == 412 and self._promised is not None:
            # The version that somebody is in the middle of is no longer S3's. The cache may have the next one already.
            assert self._known is not None
            cache.outdated(self._id, self._known)
            return Answer(Kind.RELAY, response, reason=Reason.CHANGED)
        if response.status in (404, 410):
            cache.drop(self._id, "gone")
            return Answer(Kind.RELAY, response, reason=Reason.NOT_CACHEABLE)
        if not self._store:
            return Answer(Kind.RELAY, response, reason=Reason.NO_STORE)
        judged = judge_answer(
            self._id,
            response.status,
            response.headers,
            response.claimed_length if head else response.length,
            checksums_asked=self._checksums,
            head=head,
            part=self.wanted.number if isinstance(self.wanted, PartNumber) else None,
        )
        if not isinstance(judged, Storable):
            return Answer(Kind.RELAY, response, reason=judged)
        if head:
            if isinstance(self.wanted, PartNumber):
                cache.admission.describe_part(self._ticket, judged.version)
            else:
                cache.admission.describe(self._ticket, judged.version)
            return Answer(Kind.RELAY, response, judged.version)
        fill = cache.admission.receive(self._ticket, judged.version, judged.interval, response, whole=judged.whole)
        if fill is None:
            return Answer(Kind.RELAY, response, judged.version, judged.interval, reason=Reason.STORE_UNAVAILABLE)
        return Answer(Kind.STORED, response, judged.version, judged.interval, fill)
