"""The bytes that the cache lacks in the middle of an answer: asked of S3 span by span, several at once, and of the one
version only of which the cache has the rest.

Each request is the client's own with an unsigned Range and If-Match. The bytes it brings are for everybody who reads
the same version; what S3 refuses is an answer to this client alone.
"""

from collections.abc import Coroutine
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.cache.fill import Fill
from s3proxy.cache.view import BodyReader, View
from s3proxy.gateway.demand import Demand
from s3proxy.gateway.fetch import Answer, Fetch, Kind
from s3proxy.gateway.transaction import Parts, Transaction, upstream_request
from s3proxy.policy.pages import Widened, widen
from s3proxy.policy.plan import at_most, missing_spans
from s3proxy.s3.headers import CONDITIONAL_FIELDS
from s3proxy.s3.parts import PartNumber
from s3proxy.s3.ranges import FromTo
from s3proxy.upstream.interfaces import UpstreamError
from s3proxy.util.deferreds import WakeUps
from s3proxy.util.intervals import Interval

__all__ = ["MOST_SPANS", "GapFetches", "Gaps", "continues", "fetch_span", "find_gaps", "take_up"]

MOST_SPANS = 8
"""How many spans of one answer are asked for, all of them at once: before the client gets a status, S3 has said about
each whether it is of the same version. With more gaps the nearest spans become one.
"""


def fetch_span(parts: Parts, transaction: Transaction, id: ObjectId, version: ObjectVersion, span: Interval) -> Fetch:
    """The client's request for these bytes of this version alone, under way. Its signature must leave Range free."""
    signature = transaction.signature
    adding = [(b"Range", b"bytes=%d-%d" % (span[0], span[1] - 1))]
    if not signature.covers(b"if-match"):
        adding.append((b"If-Match", version.etag))
    fetch = Fetch(
        parts,
        id,
        upstream_request(transaction, parts, adding=tuple(adding), without=CONDITIONAL_FIELDS - {b"if-match"}),
        wanted=FromTo(span[0], span[1] - 1),
        known=version,
        confirming=False,
        conditional=True,
        store=True,
        checksums=False,
        promised=span,
    )
    fetch.begin()
    return fetch


def continues(answer: Answer, version: ObjectVersion, position: int) -> bool:
    """Whether the answer's body has the byte at ``position`` of this version."""
    return (
        answer.version is not None
        and answer.interval is not None
        and answer.version.same_bytes(version)
        and answer.interval[0] <= position < answer.interval[1]
    )


def take_up(parts: Parts, answer: Answer, reader: BodyReader) -> Fill:
    """Let the reader read the body of the answer to its own request, whether or not the cache keeps it."""
    if answer.fill is not None:
        reader.join(answer.fill, own=True)
        return answer.fill
    assert answer.interval is not None
    fill = parts.cache.admission.pass_through(answer.interval, answer.response)
    reader.join(fill, own=True)
    fill.begin()
    return fill


def _overlap(promised: Interval | None, interval: Interval) -> bool:
    return promised is not None and promised[0] < interval[1] and interval[0] < promised[1]


@attrs.frozen
class Gaps:
    """What a version lacks of the bytes that are wanted.

    :ivar spans: what to ask S3 for, in order
    :ivar shared: requests of others whose answers will bring the rest of it
    :ivar pages: whether the spans are widened to whole pages
    :ivar confirming: S3's answers have to show, too, that the version is described as it is here
    """

    spans: tuple[Interval, ...]
    shared: tuple[Fetch, ...]
    pages: bool
    confirming: bool


def find_gaps(parts: Parts, id: ObjectId, demand: Demand, view: View, *, confirming: bool) -> Gaps | None:
    """What is missing for an answer from this version; None: all of it, and asking for it in spans saves nothing.

    :param confirming: nothing else tells whether the version is current
    """
    version, settings = view.version, demand.settings
    interval = demand.interval(version)
    if interval is None or isinstance(demand.wanted, PartNumber):
        return None
    widened = widen(settings, demand.wanted, version.size, range_signed=False)
    pages = widened.pages if isinstance(widened, Widened) else ()
    shared = tuple(fetch for fetch in parts.cache.flights.asked(id) if _overlap(fetch.promises(version), interval))
    promised = tuple(fetch.promises(version) or (0, 0) for fetch in shared)
    spans: list[Interval] = []
    for page in pages or (interval,):
        missing = missing_spans(page, view.available(page) + promised, settings.range_merge_gap)
        spans += at_most(MOST_SPANS // max(1, len(pages)), missing)
    if tuple(spans) == (interval,) and not pages:
        return None
    return Gaps(tuple(spans), shared, bool(pages), confirming)


class _NotGiven(Exception):
    """S3 answered otherwise than with the bytes that were asked for."""


class GapFetches:
    """The spans that one reader lacks.

    :param gaps: of the reader's version
    """

    log = Logger()

    def __init__(self, parts: Parts, transaction: Transaction, id: ObjectId, reader: BodyReader, gaps: Gaps) -> None:
        self._parts = parts
        self._transaction = transaction
        self._id = id
        self._reader = reader
        self._gaps = gaps
        self._asking: set[Deferred[None]] = set()
        self._failure: Failure | None = None
        self._progress = WakeUps()

    async def begin(self) -> bool:
        """Ask for the spans. Whether all of them come; the reader has joined their bodies then.

        :raises UpstreamError: S3 could not be asked
        """
        for fetch in self._gaps.shared:
            self._run(self._share(fetch))
        for span in self._gaps.spans:
            if self._failure is None:
                self._run(self._bring(span))
        while self._asking and self._failure is None:
            await self._progress.wait()
        if self._failure is None:
            return True
        if self._failure.check(_NotGiven):
            return False
        self._failure.raiseException()

    def close(self) -> None:
        """Wait for no more. Idempotent."""
        asking, self._asking = self._asking, set()
        for each in asking:
            each.cancel()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asking = Deferred.fromCoroutine(work)
        self._asking.add(asking)
        asking.addErrback(self._failed).addCallback(self._over, asking)

    def _failed(self, reason: Failure) -> None:
        if not reason.check(CancelledError, UpstreamError, _NotGiven):
            self.log.failure("asking for missing bytes", reason)
        self._failure = self._failure or reason

    def _over(self, _: None, asking: "Deferred[None]") -> None:
        if asking in self._asking:
            self._asking.remove(asking)
            self._progress.wake()

    async def _bring(self, span: Interval) -> None:
        fetch = fetch_span(self._parts, self._transaction, self._id, self._reader.version, span)
        try:
            answer = await fetch.answer()
        finally:
            fetch.owner_left()
        self._transaction.note_response(answer.response)
        if not continues(answer, self._reader.version, span[0]) or self._redescribes(answer):
            if answer.fill is None:
                answer.response.abort()
            raise _NotGiven()
        body = take_up(self._parts, answer, self._reader)
        if self._gaps.pages and answer.response.status == 206:
            # Not so the whole object, from a store that ignores Range.
            body.finish_anyway()

    def _redescribes(self, answer: Answer) -> bool:
        """Whether the same bytes were written again: the head that would be sent is that of the older writing."""
        if not self._gaps.confirming or answer.version is None:
            return False
        return answer.version.last_modified not in (None, self._reader.version.last_modified)

    async def _share(self, fetch: Fetch) -> None:
        """Another client's request; if nothing comes of it, the same bytes with a request of this client's own."""
        span = fetch.promises(self._reader.version)
        assert span is not None
        try:
            answer = await fetch.answer()
        except UpstreamError:
            await self._bring(span)
            return
        if answer.kind is Kind.STORED and continues(answer, self._reader.version, span[0]):
            assert answer.fill is not None
            self._reader.join(answer.fill)
        else:
            await self._bring(span)
