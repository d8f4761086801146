"""GET and HEAD of an object through the cache.

One loop: look at what the cache holds and at what is under way; serve it if the gate lets it through; else join a
request that is at S3 already, or wait for another process that gets the same, or ask for the bytes that are missing, or
send the caller's own request. Whatever changed meanwhile, the loop looks again; it ends, because a request joins
others, waits for other processes, asks for single spans and asks for confirmation only so often.
"""

import attrs
from twisted.logger import Logger

from s3proxy.cache.view import View
from s3proxy.gateway.demand import Demand
from s3proxy.gateway.elsewhere import Elsewhere
from s3proxy.gateway.fetch import Answer, Fetch, Kind
from s3proxy.gateway.gaps import GapFetches, Gaps, find_gaps
from s3proxy.gateway.reply import Reply
from s3proxy.gateway.transaction import Parts, Transaction, upstream_request
from s3proxy.policy.pages import AsItIs, Widened, widen
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.parts import PartNumber
from s3proxy.s3.ranges import FromTo, Suffix, format_range
from s3proxy.upstream.interfaces import UpstreamError

__all__ = ["ReadFlow"]

MAX_JOINS = 2
"""How many requests of others this one waits for before it sends its own."""
MAX_REFUSALS = 16
"""How many of those requests may bring nothing for this one, without counting."""
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
        self._id = transaction.id
        self._settings = transaction.settings
        self._demand = demand
        self._reply = Reply(parts, transaction, demand)
        self._elsewhere = Elsewhere(parts, transaction, demand, renew=renew)
        self._renew = renew
        self._joined = False
        self._joins = 0
        self._refusals = 0
        self._confirmations = 0
        self._in_spans = True
        self._looked_again = False
        self._group: str | None = "head" if demand.head else "get"
        self._range_signed = transaction.signature.covers(b"range")

    async def run(self) -> None:
        """Answer the request.

        :raises S3Error: an answer that the proxy makes itself
        :raises UpstreamError: S3 could not be asked
        """
        while True:
            view = await self._parts.cache.view(self._id, group=self._group)
            self._group = None
            if view is not None and not self._renew:
                gate = self._demand.gate(view, self._parts.now())
                if gate.fresh:
                    reason = self._demand.lacks(view)
                    if reason is Reason.NONE:
                        outcome = Outcome.COALESCED if self._joined or self._elsewhere.waited else Outcome.HIT
                        if self._settings.page_widening and outcome is Outcome.HIT and self._demand.wanted is not None:
                            self._parts.counts.pages["page_hit"] += 1
                        if await self._reply.from_view(view, outcome, doubtful=not self._looked_again):
                            return
                        # What is on disk decides. If it can't be read, the rest of the body is S3's matter.
                        self._looked_again = True
                        self._parts.cache.look_again(self._id)
                        continue
                else:
                    reason = gate.reason
            else:
                reason = Reason.NO_CACHE if self._renew else Reason.COLD
            fetch = self._joinable(view, reason)
            if fetch is not None:
                answered = await self._share(fetch, reason)
            elif await self._elsewhere.has(view, reason):
                answered = False
            elif view is not None and (gaps := self._gaps(view, reason)) is not None:
                answered = await self._fill_gaps(view, gaps)
            elif view is None and (pages := self._pages()) is not None:
                answered = await self._ask_for_pages(pages)
            else:
                answered = await self._ask(view, reason)
            if answered:
                return

    # Asking S3 for what is missing.

    def _gaps(self, view: View, reason: Reason) -> Gaps | None:
        """What to ask for so that the version can be served; None: send the client's own request as it is."""
        demand = self._demand
        if not self._in_spans or self._renew or view.unconfirmed or demand.if_range is not None or self._range_signed:
            return None
        must_ask = reason in (Reason.EXPIRED, Reason.ALWAYS_ASK) and demand.conditions is None
        if reason is not Reason.INCOMPLETE and not (must_ask and demand.lacks(view) is Reason.INCOMPLETE):
            return None
        gaps = find_gaps(self._parts, self._id, demand, view, confirming=must_ask)
        # Where S3 has to be asked about this caller, a 304 does it without a body that others are getting already.
        return None if gaps is None or (must_ask and gaps.shared) else gaps

    async def _fill_gaps(self, view: View, gaps: Gaps) -> bool:
        """Serve the version while S3 sends what is missing of it. False: S3 does not; nothing was answered."""
        interval = self._demand.interval(view.version)
        assert interval is not None
        reader = self._reply.reader(view, interval)
        fetches = GapFetches(self._parts, self._transaction, self._id, reader, gaps)
        try:
            if not await fetches.begin():
                self._in_spans = False
                return False
            self._parts.cache.used(view, interval)
            now = self._parts.now()
            await self._reply.from_reader(reader, Outcome.PARTIAL, Reason.INCOMPLETE, now)
        finally:
            fetches.close()
            self._reply.close(reader)
        return True

    def _pages(self) -> Widened | None:
        """The pages to ask for instead of the range of an object that nothing is known of; None: the range it is."""
        if not self._in_spans or self._renew or self._demand.head or self._demand.conditional:
            return None
        wanted = self._demand.wanted
        if wanted is None or isinstance(wanted, PartNumber):
            return None
        widened = widen(self._settings, wanted, None, range_signed=self._range_signed)
        if widened is AsItIs.SIGNED:
            self._in_spans = False
            self._parts.counts.pages["skipped_signed"] += 1
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
            if answer.response.status == 206:
                # Not so the whole object, from a store that ignores Range.
                answer.fill.finish_anyway()
                answer.fill.origin = "prefetch"
            interval = self._demand.interval(answer.version)
            if interval is not None and answer.interval[0] <= interval[0] and interval[1] <= answer.interval[1]:
                self._count_pages(interval[1] - interval[0], answer.interval[1] - answer.interval[0])
                await self._reply.from_answer(answer, interval, Reason.COLD)
                return True
        elif answer.kind is Kind.RELAY:
            answer.response.abort()
        # Whatever S3 has to say, it says to the client's own request.
        self._in_spans = False
        self._parts.counts.pages["fallback"] += 1
        return False

    def _count_pages(self, requested: int, fetched: int) -> None:
        counts = self._parts.counts
        counts.pages["widened"] += 1
        counts.page_bytes["requested"] += requested
        counts.page_bytes["prefetched"] += fetched - requested

    # Asking S3.

    def _joinable(self, view: View | None, reason: Reason) -> Fetch | None:
        """A request at S3 whose answer serves this one too, if this caller need not be asked about by itself."""
        if not self._parts.coalescing or self._joins >= MAX_JOINS or self._renew:
            return None
        if self._demand.head or self._demand.conditional:
            return None
        forms = self._demand.forms(None if view is None else view.version)
        for fetch in self._parts.cache.flights.asked(self._id):
            if any(map(fetch.serves, forms)):
                return fetch
            if view is not None and reason is Reason.EXPIRED and fetch.confirms(view.version):
                # S3 answers as of some moment since it was asked: for this client, only if that is not too long ago.
                if self._demand.gate(attrs.evolve(view, validated_at=fetch.asked_at), self._parts.now()).fresh:
                    return fetch
        return None

    async def _share(self, fetch: Fetch, reason: Reason) -> bool:
        """Wait for what another client's request brings. Whether this client has its answer."""
        self._joins += 1
        record, clock, counts = self._transaction.record, self._parts.clock, self._parts.counts
        began = clock.seconds()
        outcome = "left"
        counts.waiting += 1
        try:
            answer = await fetch.answer()
            outcome = "refused" if answer.kind is Kind.RELAY else "served"
        except UpstreamError:
            outcome = "fetch_failed"
            self._joins = MAX_JOINS
            return False
        finally:
            waited = clock.seconds() - began
            counts.waiting -= 1
            counts.waited(outcome, waited)
            record.wait_seconds = (record.wait_seconds or 0.0) + waited
        if answer.kind is Kind.RELAY:
            # What S3 said was meant for the other client alone. If it refused that one, one of those who waited asks
            # next, and the others wait for that one: not all of them at once. But an object that the cache does not
            # take is got by each of them for itself, and there is nothing to wait for.
            self._refusals += 1
            given = answer.response.status < 300
            self._joins = MAX_JOINS if given or self._refusals >= MAX_REFUSALS else self._joins - 1
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
                await self._reply.from_view(view, Outcome.COALESCED, confirmed=True)
                return True
        return False

    def _start_fetch(
        self,
        view: View | None,
        *,
        asking: FromTo | Suffix | None = None,
        adding: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Fetch:
        fetch = self._new_fetch(view, asking=asking, adding=adding)
        fetch.begin()
        return fetch

    def _new_fetch(
        self,
        view: View | None,
        *,
        confirm: bool = False,
        asking: FromTo | Suffix | None = None,
        adding: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Fetch:
        return Fetch(
            self._parts,
            self._id,
            upstream_request(self._transaction, self._parts, adding=adding),
            wanted=asking or self._demand.wanted,
            known=None if view is None else view.version,
            confirming=confirm,
            conditional=self._demand.conditional,
            store=True,
            checksums=self._demand.checksums,
            unconfirmed=view is not None and view.unconfirmed,
        )

    async def _ask(self, view: View | None, reason: Reason) -> bool:
        """Send the caller's own request. Whether the client has its answer; if not, the loop looks again."""
        may_confirm = (
            view is not None
            and not self._demand.conditional
            and self._confirmations < MAX_CONFIRMATIONS
            and reason in (Reason.EXPIRED, Reason.ALWAYS_ASK, Reason.UNCONFIRMED)
            # A HEAD costs no body, and its answer describes what was written.
            and not (self._demand.head and view.unconfirmed)
            and not self._transaction.signature.covers(b"if-none-match")
            and self._demand.lacks(view) in (Reason.NONE, Reason.INCOMPLETE)
        )
        adding = ((b"If-None-Match", view.version.etag),) if may_confirm and view is not None else ()
        fetch = self._new_fetch(view, confirm=bool(adding), adding=adding)
        if not fetch.begin(yielding=self._elsewhere.may_wait(reason)):
            # Another process came a moment earlier.
            return False
        self._confirmations += may_confirm
        try:
            answer = await fetch.answer()
            if adding:
                self._count_confirmation(reason, answer)
        except UpstreamError:
            if adding:
                self._count_confirmation(reason, None)
            if not self._may_be_stale(view):
                raise
            assert view is not None
            await self._reply.from_view(view, Outcome.STALE)
            return True
        finally:
            fetch.owner_left()
        self._transaction.note_response(answer.response)
        if answer.kind is Kind.CHANGED:
            return False
        if answer.kind is Kind.CONFIRMED:
            return await self._serve_confirmed(answer)
        if answer.kind is Kind.STORED:
            await self._reply.pass_on(answer, reason)
            return True
        if answer.response.status >= 500 and self._may_be_stale(view):
            assert view is not None
            answer.response.abort()
            await self._reply.from_view(view, Outcome.STALE)
            return True
        outcome = Outcome.MISS if answer.response.status in (200, 206, 304) else Outcome.BYPASS
        why = reason if answer.reason is Reason.NONE else answer.reason
        await self._reply.as_it_is(answer, outcome, why)
        return True

    def _count_confirmation(self, reason: Reason, answer: Answer | None) -> None:
        """S3 was asked whether an entry is current. None: it did not answer."""
        if answer is None or answer.response.status >= 500:
            said = "error"
        elif answer.response.status >= 400:
            said = "client_error"
        else:
            said = "not_modified" if answer.kind is Kind.CONFIRMED else "modified"
        trigger = {Reason.EXPIRED: "ttl", Reason.ALWAYS_ASK: "zero_ttl"}.get(reason, "unconfirmed")
        self._parts.counts.revalidations[trigger, said] += 1

    def _may_be_stale(self, view: View | None) -> bool:
        """S3 failed: whether the client gets what is held; not if it wants S3's own answer (RFC 9111 4.2.4)."""
        return view is not None and not self._renew and self._demand.may_be_stale(view, self._parts.now())

    async def _serve_confirmed(self, answer: Answer) -> bool:
        """S3 said 304 to this caller: what the cache holds of that version is current, and this caller may have it."""
        view = await self._parts.cache.view(self._id, as_it_is=True)
        if view is None or answer.version is None or not view.version.same_bytes(answer.version):
            return False
        if self._demand.lacks(view) is not Reason.NONE:
            gaps = self._gaps(view, self._demand.lacks(view))
            if gaps is not None and await self._fill_gaps(view, gaps):
                return True
            # Confirmed, but not all there: the same request once more, for the bytes.
            fetch = self._start_fetch(view)
            try:
                second = await fetch.answer()
            finally:
                fetch.owner_left()
            self._transaction.note_response(second.response)
            if second.kind is Kind.STORED:
                await self._reply.pass_on(second, Reason.INCOMPLETE)
            else:
                await self._reply.as_it_is(second, Outcome.MISS, second.reason)
            return True
        # What S3 has told about it just now may not be in the cache yet.
        view = attrs.evolve(view, version=view.version.merged(answer.version))
        await self._reply.from_view(view, Outcome.REVALIDATED, confirmed=True)
        return True
