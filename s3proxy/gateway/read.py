"""GET and HEAD of an object through the cache.

One loop: look at what the cache holds and at what is under way; serve it if the gate lets it through; else join a
request that is at S3 already, or ask for the bytes that are missing, or send the caller's own request. Whatever changed
meanwhile, the loop looks again; it ends, because a request joins others, asks for single spans and asks for
confirmation only so often.
"""

from twisted.logger import Logger

from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.view import BodyReader, Coverage, View
from s3proxy.gateway.answers import entry_headers, relayed_headers
from s3proxy.gateway.deliver import deliver
from s3proxy.gateway.demand import Demand
from s3proxy.gateway.fetch import Answer, Fetch, Kind
from s3proxy.gateway.gaps import GapFetches, Gaps, find_gaps
from s3proxy.gateway.relay import relay
from s3proxy.gateway.resume import resume
from s3proxy.gateway.transaction import Parts, Transaction, upstream_request
from s3proxy.policy.pages import Widened, widen
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.errors import invalid_range
from s3proxy.s3.parts import PartNumber
from s3proxy.s3.ranges import FromTo, Suffix, format_range
from s3proxy.s3.validators import Verdict
from s3proxy.upstream.interfaces import UpstreamError
from s3proxy.util.intervals import Interval

__all__ = ["ReadFlow"]

MAX_JOINS = 2
"""How many requests of others this one waits for before it sends its own."""
MAX_CONFIRMATIONS = 2
"""How often a 304 may come too late for what the cache held; then the object is asked for without a condition."""


class ReadFlow:
    """One GET or HEAD of an object.

    :param renew: the client wants S3's own answer, whatever the cache holds
    """

    log = Logger()

    def __init__(self, parts: Parts, transaction: Transaction, demand: Demand, *, renew: bool) -> None:
        assert transaction.id is not None and transaction.settings is not None
        self._parts = parts
        self._transaction = transaction
        self._request = transaction.request
        self._id = transaction.id
        self._settings = transaction.settings
        self._demand = demand
        self._renew = renew
        self._joined = False
        self._joins = 0
        self._confirmations = 0
        self._in_spans = True
        self._range_signed = transaction.signature.covers(b"range")

    async def run(self) -> None:
        """Answer the request.

        :raises S3Error: an answer that the proxy makes itself
        :raises UpstreamError: S3 could not be asked
        """
        while True:
            view = await self._parts.cache.view(self._id)
            if view is not None and not self._renew:
                gate = self._demand.gate(view, self._parts.now())
                if gate.fresh:
                    reason = self._demand.lacks(view)
                    if reason is Reason.NONE:
                        outcome = Outcome.COALESCED if self._joined else Outcome.HIT
                        await self._serve(view, outcome)
                        return
                else:
                    reason = gate.reason
            else:
                reason = Reason.NO_CACHE if self._renew else Reason.COLD
            fetch = self._joinable(view, reason)
            if fetch is not None:
                answered = await self._share(fetch, reason)
            elif view is not None and (gaps := self._gaps(view, reason)) is not None:
                answered = await self._fill_gaps(view, gaps)
            elif view is None and (pages := self._pages()) is not None:
                answered = await self._ask_for_pages(pages)
            else:
                answered = await self._ask(view, reason)
            if answered:
                return

    # What the cache can do.

    async def _serve(
        self, view: View, outcome: Outcome, reason: Reason = Reason.NONE, *, confirmed: bool = False
    ) -> None:
        """Answer from a version that holds, or is getting, every byte.

        :param confirmed: S3 has just said that the version is current
        """
        transaction = self._transaction
        version = view.version
        self._note(version)
        now = self._parts.now()
        validated_at = max(view.validated_at, now) if confirmed else view.validated_at
        if self._demand.verdict(version) is Verdict.NOT_MODIFIED:
            transaction.conclude(outcome, reason)
            headers = self._entry_headers(version, outcome, reason, None, validated_at)
            self._request.start_response(304, b"Not Modified", headers, None)
            self._request.finish()
            return
        interval = self._demand.interval(version)
        if interval is None:
            transaction.conclude(outcome, reason)
            raise invalid_range(version.size, self._request.headers.get(b"range") or b"")
        if not self._demand.head and interval[0] < interval[1] and view.coverage(interval) is not Coverage.CACHED:
            if outcome is Outcome.HIT:
                outcome = Outcome.COALESCED
        self._parts.cache.used(view, interval)
        if self._demand.head:
            self._start(version, interval, outcome, reason, validated_at)
            self._request.finish()
            return
        reader = view.reader(interval, ram=self._settings.ram_cache_eligible)
        try:
            self._start(version, interval, outcome, reason, validated_at)
            await deliver(self._request, reader, self._refetch)
        finally:
            self._end_reading(reader)
        self._request.finish()

    def _note(self, version: ObjectVersion) -> None:
        record = self._transaction.record
        record.object_size = version.size
        record.version_id = version.headers.get(b"x-amz-version-id") or b""

    def _start(
        self, version: ObjectVersion, interval: Interval, outcome: Outcome, reason: Reason, validated_at: float
    ) -> None:
        """The head of a 200 or 206."""
        self._transaction.conclude(outcome, reason)
        partial = interval if self._demand.ranged(version) else None
        self._transaction.note_range(partial)
        headers = self._entry_headers(version, outcome, reason, partial, validated_at)
        headers += self._demand.part_fields(version)
        status, phrase = (200, b"OK") if partial is None else (206, b"Partial Content")
        self._request.start_response(status, phrase, headers, interval[1] - interval[0])

    def _entry_headers(
        self,
        version: ObjectVersion,
        outcome: Outcome,
        reason: Reason,
        partial: Interval | None,
        validated_at: float,
    ) -> list[tuple[bytes, bytes]]:
        return entry_headers(
            version,
            request_id=self._transaction.request_id,
            outcome=outcome,
            reason=reason,
            now=self._parts.now(),
            validated_at=validated_at,
            partial=partial,
            with_checksums=self._demand.checksums,
        )

    # Asking S3 for what is missing.

    def _gaps(self, view: View, reason: Reason) -> Gaps | None:
        """What to ask for so that the version can be served; None: send the client's own request as it is."""
        demand = self._demand
        if not self._in_spans or self._renew or view.unconfirmed or demand.if_range is not None or self._range_signed:
            return None
        must_ask = reason in (Reason.EXPIRED, Reason.ALWAYS_ASK) and demand.conditions is None
        if reason is not Reason.INCOMPLETE and not (must_ask and demand.lacks(view) is Reason.INCOMPLETE):
            return None
        gaps = find_gaps(self._parts, self._id, demand, view)
        # Where S3 has to be asked about this caller, a 304 does it without a body that others are getting already.
        return None if gaps is None or (must_ask and gaps.shared) else gaps

    async def _fill_gaps(self, view: View, gaps: Gaps) -> bool:
        """Serve the version while S3 sends what is missing of it. False: S3 does not; nothing was answered."""
        version = view.version
        interval = self._demand.interval(version)
        assert interval is not None
        reader = view.reader(interval, ram=self._settings.ram_cache_eligible)
        fetches = GapFetches(self._parts, self._transaction, self._id, reader, gaps)
        try:
            if not await fetches.begin():
                self._in_spans = False
                return False
            self._note(version)
            self._parts.cache.used(view, interval)
            self._start(version, interval, Outcome.PARTIAL, Reason.INCOMPLETE, self._parts.now())
            await deliver(self._request, reader, self._refetch, fetches.advance)
        finally:
            fetches.close()
            self._end_reading(reader)
        self._request.finish()
        return True

    def _pages(self) -> Widened | None:
        """The pages to ask for instead of the range of an object that nothing is known of; None: the range it is."""
        if not self._in_spans or self._renew or self._demand.head or self._demand.conditional:
            return None
        wanted = self._demand.wanted
        if wanted is None or isinstance(wanted, PartNumber):
            return None
        widened = widen(self._settings, wanted, None, range_signed=self._range_signed)
        return widened if isinstance(widened, Widened) else None

    async def _ask_for_pages(self, pages: Widened) -> bool:
        """Ask for whole pages, and serve what the client wants of them. Whether the client has its answer."""
        fetch = self._start_fetch(None, asking=pages.ask, adding=((b"Range", format_range(pages.ask)),))
        try:
            answer = await fetch.answer()
        finally:
            fetch.owner_left()
        self._transaction.note_response(answer.response)
        interval = None
        if answer.kind is Kind.STORED:
            assert answer.fill is not None and answer.interval is not None and answer.version is not None
            answer.fill.finish_anyway()
            interval = self._demand.interval(answer.version)
            if interval is not None and answer.interval[0] <= interval[0] and interval[1] <= answer.interval[1]:
                await self._play(answer, interval)
                return True
        elif answer.kind is Kind.RELAY:
            answer.response.abort()
        # Whatever S3 has to say, it says to the client's own request.
        self._in_spans = False
        return False

    async def _play(self, answer: Answer, interval: Interval) -> None:
        """Some bytes of S3's answer, under a head of our own."""
        assert answer.version is not None
        reader = self._reader_of(answer, interval)
        try:
            self._note(answer.version)
            self._start(answer.version, interval, Outcome.MISS, Reason.COLD, self._parts.now())
            await deliver(self._request, reader, self._refetch)
        finally:
            self._end_reading(reader)
        self._request.finish()

    # Asking S3.

    def _joinable(self, view: View | None, reason: Reason) -> Fetch | None:
        """A request at S3 whose answer serves this one too, if this caller need not be asked about by itself."""
        if self._joins >= MAX_JOINS or self._renew or self._demand.head or self._demand.conditional:
            return None
        forms = self._demand.forms(None if view is None else view.version)
        for fetch in self._parts.cache.asked(self._id):
            if any(map(fetch.serves, forms)):
                return fetch
            if view is not None and reason is Reason.EXPIRED and fetch.confirms(view.version):
                return fetch
        return None

    async def _share(self, fetch: Fetch, reason: Reason) -> bool:
        """Wait for what another client's request brings. Whether this client has its answer."""
        self._joins += 1
        began = self._parts.now()
        record = self._transaction.record
        try:
            answer = await fetch.answer()
        except UpstreamError:
            self._joins = MAX_JOINS
            return False
        finally:
            record.wait_seconds = (record.wait_seconds or 0.0) + max(0.0, self._parts.now() - began)
        if answer.kind is Kind.RELAY:
            # What S3 said was meant for the other client alone.
            self._joins = MAX_JOINS
            return False
        self._joined = True
        if answer.kind is Kind.CONFIRMED and reason is Reason.EXPIRED:
            # Whether or not the confirmation could be written down, it counts for those who waited for it.
            view = await self._parts.cache.view(self._id)
            if (
                view is not None
                and answer.version is not None
                and view.version.same_bytes(answer.version)
                and self._demand.lacks(view) is Reason.NONE
            ):
                await self._serve(view, Outcome.COALESCED, confirmed=True)
                return True
        return False

    def _start_fetch(
        self,
        view: View | None,
        *,
        confirm: bool = False,
        asking: FromTo | Suffix | None = None,
        adding: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Fetch:
        fetch = Fetch(
            self._parts,
            self._id,
            upstream_request(self._transaction, self._parts, adding=adding),
            wanted=asking or self._demand.wanted,
            known=None if view is None else view.version,
            confirming=confirm,
            conditional=self._demand.conditional,
            store=True,
            checksums=self._demand.checksums,
        )
        fetch.begin()
        return fetch

    async def _ask(self, view: View | None, reason: Reason) -> bool:
        """Send the caller's own request. Whether the client has its answer; if not, the loop looks again."""
        may_confirm = (
            view is not None
            and not self._demand.conditional
            and self._confirmations < MAX_CONFIRMATIONS
            and reason in (Reason.EXPIRED, Reason.ALWAYS_ASK, Reason.UNCONFIRMED)
            and not self._transaction.signature.covers(b"if-none-match")
            and self._demand.lacks(view) in (Reason.NONE, Reason.INCOMPLETE)
        )
        adding = ((b"If-None-Match", view.version.etag),) if may_confirm and view is not None else ()
        self._confirmations += may_confirm
        fetch = self._start_fetch(view, confirm=bool(adding), adding=adding)
        try:
            answer = await fetch.answer()
        except UpstreamError:
            if view is None or not self._demand.may_be_stale(view, self._parts.now()):
                raise
            await self._serve(view, Outcome.STALE)
            return True
        finally:
            fetch.owner_left()
        self._transaction.note_response(answer.response)
        if answer.kind is Kind.CHANGED:
            return False
        if answer.kind is Kind.CONFIRMED:
            return await self._serve_confirmed(answer)
        if answer.kind is Kind.STORED:
            await self._pass_on(answer, reason)
            return True
        if answer.response.status >= 500 and view is not None and self._demand.may_be_stale(view, self._parts.now()):
            answer.response.abort()
            await self._serve(view, Outcome.STALE)
            return True
        outcome = Outcome.MISS if answer.response.status in (200, 206, 304) else Outcome.BYPASS
        why = reason if answer.reason is Reason.NONE else answer.reason
        self._transaction.conclude(outcome, why)
        await self._relay(answer, outcome, why)
        return True

    async def _serve_confirmed(self, answer: Answer) -> bool:
        """S3 said 304 to this caller: what the cache holds of that version is current, and this caller may have it."""
        view = await self._parts.cache.view(self._id)
        if view is None or answer.version is None or not view.version.same_bytes(answer.version):
            return False
        if self._demand.lacks(view) is not Reason.NONE:
            gaps = self._gaps(view, self._demand.lacks(view))
            if gaps is not None and await self._fill_gaps(view, gaps):
                return True
            # Confirmed, but not all there: the same request once more, for the bytes.
            fetch = self._start_fetch(view, confirm=False)
            try:
                second = await fetch.answer()
            finally:
                fetch.owner_left()
            self._transaction.note_response(second.response)
            if second.kind is Kind.STORED:
                await self._pass_on(second, Reason.INCOMPLETE)
            else:
                self._transaction.conclude(Outcome.MISS, second.reason)
                await self._relay(second, Outcome.MISS, second.reason)
            return True
        await self._serve(view, Outcome.REVALIDATED, confirmed=True)
        return True

    async def _pass_on(self, answer: Answer, reason: Reason) -> None:
        """S3's own head, and the body as it flows into the cache."""
        assert answer.fill is not None and answer.interval is not None and answer.version is not None
        request = self._request
        response = answer.response
        outcome = Outcome.MISS
        self._transaction.conclude(outcome, reason)
        self._transaction.record.object_size = answer.version.size
        reader = self._reader_of(answer, answer.interval)
        try:
            headers = relayed_headers(response.headers, outcome, reason)
            request.start_response(response.status, response.reason, headers, answer.interval[1] - answer.interval[0])
            await deliver(request, reader, self._refetch)
        finally:
            self._end_reading(reader)
        request.finish()

    def _reader_of(self, answer: Answer, interval: Interval) -> BodyReader:
        assert answer.version is not None and answer.fill is not None
        view = View(
            version=answer.version,
            validated_at=self._parts.now(),
            record=None,
            fills=(answer.fill,),
            store=self._parts.cache.store,
        )
        return view.reader(interval, own=answer.fill, ram=self._settings.ram_cache_eligible)

    def _end_reading(self, reader: BodyReader) -> None:
        record = self._transaction.record
        record.bytes_from_upstream += reader.from_upstream
        record.bytes_from_cache += reader.from_cache
        reader.close()

    async def _refetch(self, reader: BodyReader) -> None:
        await resume(self._parts, self._transaction, self._id, self._demand.wanted, reader)

    async def _relay(self, answer: Answer, outcome: Outcome, reason: Reason) -> None:
        """S3's answer as it is."""
        response = answer.response
        length = response.claimed_length if self._demand.head or response.status == 304 else response.length
        await relay(self._transaction, response, relayed_headers(response.headers, outcome, reason), length)
        self._request.finish()
