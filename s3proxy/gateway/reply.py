"""What the client of a read gets: a version that the cache has or is getting, S3's answer on its way into the cache, or
S3's answer as it is.
"""

from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.spans import FileSpan
from s3proxy.cache.view import BodyReader, Coverage, View
from s3proxy.gateway.answers import entry_headers, relayed_headers
from s3proxy.gateway.deliver import Step, deliver
from s3proxy.gateway.demand import Demand
from s3proxy.gateway.fetch import Answer
from s3proxy.gateway.relay import relay
from s3proxy.gateway.resume import resume
from s3proxy.gateway.transaction import Parts, Transaction
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.s3.errors import invalid_range
from s3proxy.s3.validators import Verdict
from s3proxy.util.intervals import Interval

__all__ = ["Reply"]


class Reply:
    """The answer to one GET or HEAD of an object. Each of the public methods gives it, but for :meth:`reader`."""

    def __init__(self, parts: Parts, transaction: Transaction, demand: Demand) -> None:
        self._parts = parts
        self._transaction = transaction
        self._request = transaction.request
        self._demand = demand

    async def from_view(
        self,
        view: View,
        outcome: Outcome,
        reason: Reason = Reason.NONE,
        *,
        confirmed: bool = False,
        doubtful: bool = False,
    ) -> bool:
        """From a version that holds, or is getting, every byte.

        :param confirmed: S3 has just said that the version is current
        :param doubtful: another host may have replaced or removed it without our knowing
        :return: False: so it was; nothing was answered
        :raises S3Error: the range can't be satisfied
        """
        version = view.version
        now = self._parts.now()
        validated_at = max(view.validated_at, now) if confirmed else view.validated_at
        interval = self._demand.interval(version)
        if self._demand.verdict(version) is Verdict.NOT_MODIFIED:
            self._note(version, outcome, reason)
            headers = self._entry_headers(version, outcome, reason, None, validated_at)
            self._request.start_response(304, b"Not Modified", headers, None)
        elif interval is None:
            self._note(version, outcome, reason)
            raise invalid_range(version.size, self._request.headers.get(b"range") or b"")
        elif self._demand.head:
            self._parts.cache.used(view, interval)
            self._start(version, interval, outcome, reason, validated_at)
        else:
            reader = self.reader(view, interval)
            first = reader.next() if doubtful and interval[0] < interval[1] else None
            if first is None and doubtful and interval[0] < interval[1]:
                self.close(reader)
                return False
            self._parts.cache.used(view, interval)
            growing = interval[0] < interval[1] and view.coverage(interval) is not Coverage.CACHED
            if growing and outcome is Outcome.HIT:
                outcome = Outcome.COALESCED
            await self.from_reader(reader, outcome, reason, validated_at, first)
            return True
        self._request.finish()
        return True

    def reader(self, view: View, interval: Interval) -> BodyReader:
        """For :meth:`from_reader`."""
        assert self._transaction.settings is not None
        return view.reader(interval, ram=self._transaction.settings.ram_cache_eligible)

    async def from_reader(
        self,
        reader: BodyReader,
        outcome: Outcome,
        reason: Reason,
        validated_at: float,
        first: "Step | None" = None,
    ) -> None:
        """What the reader finds, under a head of our own. The reader is closed.

        :param first: what it has given already
        """
        try:
            try:
                self._start(reader.version, (reader.position, reader.stop), outcome, reason, validated_at)
            except BaseException:
                if isinstance(first, FileSpan):
                    first.release()
                raise
            await deliver(self._request, reader, self._refetch, first)
        finally:
            self.close(reader)
        self._request.finish()

    async def from_answer(self, answer: Answer, interval: Interval, reason: Reason) -> None:
        """Some bytes of a body that flows into the cache, under a head of our own."""
        await self.from_reader(self._reader_of(answer, interval), Outcome.MISS, reason, self._parts.now())

    async def pass_on(self, answer: Answer, reason: Reason) -> None:
        """S3's own head, and the body as it flows into the cache."""
        assert answer.interval is not None and answer.version is not None
        self._note(answer.version, Outcome.MISS, reason)
        reader = self._reader_of(answer, answer.interval)
        response = answer.response
        try:
            headers = relayed_headers(response.headers, Outcome.MISS, reason)
            length = answer.interval[1] - answer.interval[0]
            self._request.start_response(response.status, response.reason, headers, length)
            await deliver(self._request, reader, self._refetch)
        finally:
            self.close(reader)
        self._request.finish()

    async def as_it_is(self, answer: Answer, outcome: Outcome, reason: Reason) -> None:
        """S3's answer, of which the cache keeps nothing."""
        self._transaction.conclude(outcome, reason)
        response = answer.response
        length = response.claimed_length if self._demand.head or response.status == 304 else response.length
        await relay(self._transaction, response, relayed_headers(response.headers, outcome, reason), length)
        self._request.finish()

    def close(self, reader: BodyReader) -> None:
        """The reader is not needed any more. Idempotent."""
        record = self._transaction.record
        record.bytes_from_upstream += reader.from_upstream
        record.bytes_from_cache += reader.from_cache
        record.from_disk = record.from_disk or reader.from_disk
        reader.from_upstream = reader.from_cache = 0
        reader.close()

    def _note(self, version: ObjectVersion, outcome: Outcome, reason: Reason) -> None:
        record = self._transaction.record
        record.object_size = version.size
        record.version_id = version.headers.get(b"x-amz-version-id") or b""
        self._transaction.conclude(outcome, reason)

    def _start(
        self, version: ObjectVersion, interval: Interval, outcome: Outcome, reason: Reason, validated_at: float
    ) -> None:
        """The head of a 200 or 206."""
        self._note(version, outcome, reason)
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

    def _reader_of(self, answer: Answer, interval: Interval) -> BodyReader:
        assert self._transaction.settings is not None
        assert answer.version is not None and answer.fill is not None
        view = View(
            version=answer.version,
            validated_at=self._parts.now(),
            record=None,
            fills=(answer.fill,),
            store=self._parts.cache.store,
        )
        return view.reader(interval, own=answer.fill, ram=self._transaction.settings.ram_cache_eligible)

    async def _refetch(self, reader: BodyReader) -> None:
        assert self._transaction.id is not None
        await resume(self._parts, self._transaction, self._transaction.id, self._demand.wanted, reader)
