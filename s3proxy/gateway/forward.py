"""Everything that is not a cached read: to S3 and back as it is, with the cache told of what a write makes untrue.

Keys that the request may change are *armed* before S3 has its last byte, and their entries are gone before the
client can know that S3 has acted: before the status line, or, where a 200 is only decided by its body (copies,
completions), before the body's end.
"""

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.invalidation import ArmedKeys
from s3proxy.gateway.answers import relayed_headers
from s3proxy.gateway.bodies import HoldBack
from s3proxy.gateway.keeping import keeping_for
from s3proxy.gateway.relay import HEAD_BYTES, relay
from s3proxy.gateway.transaction import Parts, Transaction, upstream_request
from s3proxy.policy.invalidation import acted as has_acted
from s3proxy.policy.invalidation import body_decides, keys_in_answer, keys_in_body, keys_in_head
from s3proxy.policy.verdicts import Outcome, Reason
from s3proxy.policy.writing import announced_size, upload_limit
from s3proxy.s3.documents import has_error_root
from s3proxy.s3.headers import is_sse_c
from s3proxy.telemetry.operations import group_of
from s3proxy.upstream.interfaces import IUpstreamResponse, UpstreamError
from s3proxy.util.deferreds import SharedResult

__all__ = ["LATE", "MOST_CONCLUDING", "ForwardFlow"]

MOST_CONCLUDING = 10.0
"""Seconds that the answer to a write waits for the cache."""
LATE = 10.0
"""Seconds after which S3 has done, or never will do, what nobody waits for any more."""


class ForwardFlow:
    """One request that is passed through."""

    log = Logger()

    def __init__(self, parts: Parts, transaction: Transaction, reason: Reason) -> None:
        self._parts = parts
        self._transaction = transaction
        self._request = transaction.request
        self._reason = reason
        operation, address, headers = transaction.operation, transaction.address, transaction.request.headers
        self._ids: tuple[ObjectId, ...] = keys_in_head(operation, address, headers, transaction.target.query)
        self._named = keys_in_body(operation, address, headers)
        self._body: HoldBack | None = None
        self._writes = bool(self._ids) or transaction.operation.body_names_keys
        self._keeping = keeping_for(parts, transaction)
        if reason is Reason.WRITE:
            self._reason = self._keeping.reason
        self._armed: ArmedKeys | None = None
        self._acted: bool | None = False
        self._over = False
        self._settled = False
        self._concluding = False

    async def run(self) -> None:
        """Answer the request.

        :raises UpstreamError: S3 could not be asked, or its answer broke off
        """
        transaction = self._transaction
        transaction.conclude(Outcome.BYPASS, self._reason)
        outgoing = upstream_request(transaction, self._parts, with_body=True)
        body: HoldBack | None = None
        if outgoing.body is not None:
            body = self._body = HoldBack(
                outgoing.body,
                (lambda: Deferred.fromCoroutine(self._arm())) if self._writes else None,
                reader=self._named or self._keeping.reader,
                budget=self._parts.copies,
                must_be_read=self._named is not None,
                beside=self._keeping.copy,
                limit=upload_limit(transaction.operation) if self._size_is_unknown else None,
            )
            outgoing = attrs.evolve(outgoing, body=body)
        else:
            if self._keeping.copy is not None:
                self._keeping.copy.ended()
            if self._writes:
                await self._arm()
        acted: bool | None = None
        try:
            try:
                response = await self._parts.upstream.request(outgoing)
            except UpstreamError as error:
                acted = None if error.sent else False
                if body is not None and body.refusal is not None:
                    raise body.refusal from error
                raise
            transaction.note_response(response)
            try:
                acted = await self._answer(response)
            except BaseException:
                response.abort()
                raise
        finally:
            if body is not None:
                transaction.record.body_bytes_received = body.received
            self._over = True
            if not self._settled:
                self._acted = acted
            try:
                await self._settle(acted)
            finally:
                if not self._concluding:
                    self._keeping.close()
        self._request.finish()

    @property
    def _size_is_unknown(self) -> bool:
        return announced_size(self._request.headers, self._request.body_length) is None

    async def _arm(self) -> None:
        """S3 is about to get the last byte."""
        ids = self._ids if self._named is None else (*self._ids, *self._named.ids())
        self._keeping.sent(self._body is None or not self._body.unread)
        armed = await self._parts.cache.arm(ids)
        if self._over or self._settled:
            # Nobody waited: the client left, or S3 did not care for the end. What was armed must not stay so.
            await (armed.invalidate() if self._acted else armed.disarm())
        else:
            self._armed = armed

    async def _answer(self, response: IUpstreamResponse) -> bool | None:
        """Relay S3's answer. Whether S3 has acted: None when it can't be known."""
        transaction = self._transaction
        success = has_acted(transaction.operation, response.status)
        reads = transaction.operation.is_cacheable_read and not is_sse_c(self._request.headers)
        if reads and transaction.id is not None:
            if success:
                self._parts.cache.noticed(transaction.id, response.headers.get(b"etag"))
            elif response.status in (404, 410):
                self._parts.cache.drop(transaction.id, "gone")
        decided_by_body = success and (body_decides(transaction.operation) or self._keeping.answer_bytes > 0)
        if success and not decided_by_body:
            await self._settle(True, response)
        elif response.status < 500 and not success:
            await self._settle(False)
        bodiless = self._request.method == b"HEAD" or response.status in (204, 304)
        headers = relayed_headers(response.headers, Outcome.BYPASS, self._reason)
        length = response.claimed_length if bodiless else response.length
        if not decided_by_body:
            await relay(transaction, response, headers, length)
            return None if response.status >= 500 else success

        def decide(body: bytes) -> "Deferred[None]":
            """All of a 200's body is here: it tells whether S3 has acted, and its end waits for the consequences."""
            return Deferred.fromCoroutine(self._settle(not has_error_root(body), response, body))

        head_bytes = max(HEAD_BYTES, self._keeping.answer_bytes)
        await relay(transaction, response, headers, length, decide, head_bytes)
        return None

    async def _settle(self, acted: bool | None, response: IUpstreamResponse | None = None, body: bytes = b"") -> None:
        """The write's outcome is known (or, None, never will be): the cache follows. Only the first call counts.

        :param body: of S3's answer, as far as it is needed
        """
        if self._settled:
            return
        if not self._writes:
            self._settled = True
            if acted and response is not None:
                await self._conclude(response, body, None)
            return
        armed = self._armed
        if armed is None:
            if acted is not True:
                # Without its last byte S3 can't have acted.
                return
            armed = self._armed = await self._parts.cache.arm(self._ids)
        self._settled, self._acted = True, acted
        if response is not None:
            named = keys_in_answer(self._transaction.operation, self._transaction.address, response.headers)
            for id in named:
                self._parts.cache.drop(id, "put")
        if acted is not False:
            deletes = group_of(self._transaction.operation.name) == "delete"
            self._parts.cache.counts.drops["delete" if deletes else "put"] += len(armed.ids)
        if acted is False:
            await armed.disarm()
        elif acted and response is not None:
            await self._conclude(response, body, armed)
        else:
            # S3 may still be at it: who reads the older object now must not keep it for long.
            self._parts.clock.callLater(LATE, self._invalidate_again, armed.ids)
            await armed.invalidate()

    def _invalidate_again(self, ids: tuple[ObjectId, ...]) -> None:
        async def invalidate() -> None:
            await (await self._parts.cache.arm(ids)).invalidate()

        Deferred.fromCoroutine(invalidate()).addErrback(
            lambda reason: self.log.failure("invalidating what may have been written", reason)
        )

    def _conclude(self, response: IUpstreamResponse, body: bytes, armed: ArmedKeys | None) -> "Deferred[None]":
        """The cache is made true, whether or not the client stays to see it.

        A disk that hangs holds up S3's answer for ``MOST_CONCLUDING`` seconds. Until it is done nothing of the armed
        keys is served without S3's word, and what was asked before S3 acted is shared with nobody.
        """
        self._concluding = True
        if armed is not None:
            armed.acted()

        def failed(reason: Failure) -> "Deferred[None] | None":
            self.log.failure("keeping what was written", reason)
            return None if armed is None else armed.invalidate()

        done: SharedResult[None] = SharedResult()
        work = Deferred.fromCoroutine(self._keeping.acted(response, body, armed)).addErrback(failed)
        work.addBoth(lambda _: self._keeping.close()).addBoth(done.fire)

        def too_late(_: object, seconds: float) -> None:
            self.log.warn("the cache directory takes more than {seconds:g} s to take a write", seconds=seconds)

        return done.wait().addTimeout(MOST_CONCLUDING, self._parts.clock, too_late)
