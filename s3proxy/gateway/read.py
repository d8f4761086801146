"""GET and HEAD of an object through the cache.

One loop: look at what the cache holds and at what is under way; serve it if the gate lets it through; else join a
request that is at S3 already, or send the caller's own. Whatever changed meanwhile, the loop looks again; it ends,
because a request joins others and asks for confirmation only so often.
"""

from twisted.logger import Logger

from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.view import BodyReader, Coverage, View
from s3proxy.gateway.answers import entry_headers, relayed_headers
from s3proxy.gateway.deliver import deliver
from s3proxy.gateway.fetch import Answer, Fetch, Kind
from s3proxy.gateway.relay import relay
from s3proxy.gateway.resume import resume
from s3proxy.gateway.transaction import Parts, Transaction, upstream_request
from s3proxy.policy.freshness import Gate, may_serve, may_serve_stale
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.errors import invalid_range
from s3proxy.s3.headers import Bypass, wants_checksums
from s3proxy.s3.ranges import SingleRange, resolve
from s3proxy.s3.validators import Verdict, evaluate, if_range_matches, read_conditions
from s3proxy.upstream.interfaces import UpstreamError

__all__ = ["ReadFlow"]

MAX_JOINS = 2
"""How many requests of others this one waits for before it sends its own."""
MAX_CONFIRMATIONS = 2
"""How often a 304 may come too late for what the cache held; then the object is asked for without a condition."""


class ReadFlow:
    """One GET or HEAD of an object.

    :param wanted: the parsed Range; None without one
    :param must_ask: only S3 can answer this caller, whatever the cache holds
    :param bypass: what the client's Cache-Control or Pragma ask for
    """

    log = Logger()

    def __init__(
        self, parts: Parts, transaction: Transaction, wanted: SingleRange | None, *, must_ask: bool, bypass: Bypass
    ) -> None:
        assert transaction.id is not None and transaction.settings is not None
        self._parts = parts
        self._transaction = transaction
        self._request = transaction.request
        self._id = transaction.id
        self._settings = transaction.settings
        self._headers = transaction.request.headers
        self._wanted = wanted
        self._head = transaction.request.method == b"HEAD"
        self._must_ask = must_ask
        self._renew = bypass is Bypass.NO_CACHE
        self._conditions = read_conditions(self._headers)
        self._if_range = self._headers.get(b"if-range")
        self._checksums = wants_checksums(self._headers, transaction.target.query)
        self._joined = False
        self._joins = 0
        self._confirmations = 0

    async def run(self) -> None:
        """Answer the request.

        :raises S3Error: an answer that the proxy makes itself
        :raises UpstreamError: S3 could not be asked
        """
        while True:
            view = await self._parts.cache.view(self._id)
            if view is not None and not self._renew:
                gate = self._gate(view)
                if gate.fresh:
                    reason = self._cannot_serve(view)
                    if reason is Reason.NONE:
                        outcome = Outcome.COALESCED if self._joined else Outcome.HIT
                        await self._serve(view, outcome)
                        return
                else:
                    reason = gate.reason
            else:
                reason = Reason.NO_CACHE if self._renew else Reason.COLD
            fetch = self._joinable(view, reason)
            if fetch is None:
                if await self._ask(view, reason):
                    return
            elif await self._share(fetch, reason):
                return

    # What the cache can do.

    def _gate(self, view: View) -> Gate:
        return may_serve(
            self._settings,
            view.version.headers,
            view.validated_at,
            self._parts.now(),
            head=self._head,
            unconfirmed=view.unconfirmed,
            must_ask=self._must_ask,
        )

    def _range_counts(self, view: View) -> bool:
        """Whether the Range is to be honoured for this version (RFC 9110 13.1.5)."""
        if self._wanted is None:
            return False
        if self._if_range is None:
            return True
        return if_range_matches(self._if_range, view.version.etag, view.version.last_modified)

    def _cannot_serve(self, view: View) -> Reason:
        """Why a version that the gate lets through can't answer this request; NONE if it can."""
        if self._if_range is not None and not self._range_counts(view):
            return Reason.CLIENT_CONDITION
        if self._conditions is not None:
            if not self._settings.evaluate_conditions or not self._conditions.judgeable(view.version.last_modified):
                return Reason.CLIENT_CONDITION
            verdict = evaluate(self._conditions, view.version.etag, view.version.last_modified, self._request.method)
            if verdict is Verdict.NOT_MODIFIED:
                return Reason.NONE
            if verdict is Verdict.PRECONDITION_FAILED:
                # The client may know a newer version than the cache: only S3 may refuse it.
                return Reason.CLIENT_CONDITION
        interval = self._interval(view)
        if interval is None:
            return Reason.NONE
        if self._checksums and not view.version.checksums and not self._range_counts(view):
            return Reason.NO_CHECKSUMS
        if self._head:
            return Reason.NONE
        return Reason.INCOMPLETE if view.coverage(interval) is Coverage.MISSING else Reason.NONE

    def _interval(self, view: View) -> tuple[int, int] | None:
        """The bytes to send; None: the range can't be satisfied."""
        if self._wanted is None or not self._range_counts(view):
            return (0, view.version.size)
        return resolve(self._wanted, view.version.size)

    async def _serve(
        self, view: View, outcome: Outcome, reason: Reason = Reason.NONE, *, confirmed: bool = False
    ) -> None:
        """Answer from a version that holds, or is getting, every byte.

        :param confirmed: S3 has just said that the version is current
        """
        transaction = self._transaction
        version = view.version
        now = self._parts.now()
        transaction.record.object_size = version.size
        transaction.record.version_id = version.headers.get(b"x-amz-version-id") or b""
        validated_at = max(view.validated_at, now) if confirmed else view.validated_at
        if self._conditions is not None:
            verdict = evaluate(self._conditions, version.etag, version.last_modified, self._request.method)
            if verdict is Verdict.NOT_MODIFIED:
                transaction.conclude(outcome, reason)
                headers = self._entry_headers(version, outcome, reason, None, now, validated_at)
                self._request.start_response(304, b"Not Modified", headers, None)
                self._request.finish()
                return
        interval = self._interval(view)
        if interval is None:
            transaction.conclude(outcome, reason)
            raise invalid_range(version.size, self._headers.get(b"range") or b"")
        ranged = self._range_counts(view)
        if not self._head and interval[0] < interval[1] and view.coverage(interval) is not Coverage.CACHED:
            if outcome is Outcome.HIT:
                outcome = Outcome.COALESCED
        transaction.conclude(outcome, reason)
        if ranged:
            transaction.note_range(interval)
        partial = interval if ranged else None
        headers = self._entry_headers(version, outcome, reason, partial, now, validated_at)
        status, phrase = (206, b"Partial Content") if ranged else (200, b"OK")
        length = interval[1] - interval[0]
        self._parts.cache.used(view, interval)
        if self._head:
            self._request.start_response(status, phrase, headers, length)
            self._request.finish()
            return
        reader = view.reader(interval)
        try:
            self._request.start_response(status, phrase, headers, length)
            await deliver(self._request, reader, self._refetch)
        finally:
            self._end_reading(reader)
        self._request.finish()

    def _entry_headers(
        self,
        version: ObjectVersion,
        outcome: Outcome,
        reason: Reason,
        partial: tuple[int, int] | None,
        now: float,
        validated_at: float,
    ) -> list[tuple[bytes, bytes]]:
        return entry_headers(
            version,
            request_id=self._transaction.request_id,
            outcome=outcome,
            reason=reason,
            now=now,
            validated_at=validated_at,
            partial=partial,
            with_checksums=self._checksums,
        )

    # Asking S3.

    def _joinable(self, view: View | None, reason: Reason) -> Fetch | None:
        """A request at S3 whose answer serves this one too, if this caller need not be asked about by itself."""
        if (
            self._joins >= MAX_JOINS
            or self._renew
            or self._head
            or self._if_range is not None
            or self._conditions is not None
        ):
            return None
        for fetch in self._parts.cache.asked(self._id):
            if fetch.serves(self._wanted):
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
                and self._cannot_serve(view) is Reason.NONE
            ):
                await self._serve(view, Outcome.COALESCED, confirmed=True)
                return True
        return False

    def _start_fetch(self, view: View | None, *, confirm: bool, adding: tuple[tuple[bytes, bytes], ...] = ()) -> Fetch:
        conditional = self._conditions is not None or self._if_range is not None
        known = None if view is None else view.version
        fetch = Fetch(
            self._parts,
            self._id,
            upstream_request(self._transaction, self._parts, adding=adding),
            wanted=self._wanted,
            known=known,
            confirming=confirm,
            conditional=conditional,
            store=True,
            checksums=self._checksums,
        )
        fetch.begin()
        return fetch

    async def _ask(self, view: View | None, reason: Reason) -> bool:
        """Send the caller's own request. Whether the client has its answer; if not, the loop looks again."""
        may_confirm = (
            view is not None
            and self._conditions is None
            and self._if_range is None
            and self._confirmations < MAX_CONFIRMATIONS
            and reason in (Reason.EXPIRED, Reason.ALWAYS_ASK, Reason.UNCONFIRMED)
            and not self._transaction.signature.covers(b"if-none-match")
            and self._cannot_serve(view) in (Reason.NONE, Reason.INCOMPLETE)
        )
        adding = ((b"If-None-Match", view.version.etag),) if may_confirm and view is not None else ()
        self._confirmations += may_confirm
        fetch = self._start_fetch(view, confirm=bool(adding), adding=adding)
        try:
            answer = await fetch.answer()
        except UpstreamError:
            if view is None or not self._may_serve_stale(view):
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
        if answer.response.status >= 500 and view is not None and self._may_serve_stale(view):
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
        if self._cannot_serve(view) is not Reason.NONE:
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

    def _may_serve_stale(self, view: View) -> bool:
        """S3 failed: whether the operator allows to serve what is held for so long."""
        return (
            not self._must_ask
            and may_serve_stale(
                self._settings, view.version.headers, view.validated_at, self._parts.now(), head=self._head
            )
            and self._cannot_serve(view) is Reason.NONE
        )

    async def _pass_on(self, answer: Answer, reason: Reason) -> None:
        """S3's own head, and the body as it flows into the cache."""
        assert answer.fill is not None and answer.interval is not None and answer.version is not None
        request = self._request
        response = answer.response
        outcome = Outcome.MISS
        self._transaction.conclude(outcome, reason)
        self._transaction.record.object_size = answer.version.size
        view = View(
            version=answer.version,
            validated_at=self._parts.now(),
            record=None,
            fills=(answer.fill,),
            store=self._parts.cache.store,
        )
        reader = view.reader(answer.interval, own=answer.fill)
        try:
            headers = relayed_headers(response.headers, outcome, reason)
            request.start_response(response.status, response.reason, headers, answer.interval[1] - answer.interval[0])
            await deliver(request, reader, self._refetch)
        finally:
            self._end_reading(reader)
        request.finish()

    def _end_reading(self, reader: BodyReader) -> None:
        record = self._transaction.record
        record.bytes_from_upstream += reader.from_upstream
        record.bytes_from_cache += reader.from_cache
        reader.close()

    async def _refetch(self, reader: BodyReader) -> None:
        await resume(self._parts, self._transaction, self._id, self._wanted, reader)

    async def _relay(self, answer: Answer, outcome: Outcome, reason: Reason) -> None:
        """S3's answer as it is."""
        response = answer.response
        length = response.claimed_length if self._head or response.status == 304 else response.length
        await relay(self._transaction, response, relayed_headers(response.headers, outcome, reason), length)
        self._request.finish()
