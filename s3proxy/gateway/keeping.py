"""What a write leaves in the cache besides a removed entry: the object, a part, or a note for the end of an upload.

Each kind of write has its own :class:`Keeping`. The flow (:mod:`s3proxy.gateway.forward`) tells it what passes by; it
never holds up or fails the write, but that S3's answer waits until the cache is as it should be.
"""

from twisted.internet.defer import Deferred

from s3proxy.cache.bodycopy import BodyCopy, CopiedBody
from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.invalidation import ArmedKeys
from s3proxy.cache.writethrough import PartToKeep, UploadKey, WriteThrough
from s3proxy.gateway.bodies import IReader
from s3proxy.gateway.transaction import Parts, Transaction
from s3proxy.policy.verdicts import Reason
from s3proxy.policy.writing import (
    Description,
    decode_description,
    described_by,
    encode_description,
    encryption_of,
    expected_checksums,
    is_true_copy,
    is_upload_tag,
    names_to_compute,
    plan_body,
    upload_time,
    written_version,
)
from s3proxy.s3.documents import CompletedUpload, CompleteUploadReader, parse_complete_result, parse_initiate_result
from s3proxy.s3.headers import SSE_C_FIELDS, Headers
from s3proxy.s3.operation import Operation, part_number, upload_id
from s3proxy.s3.parts import PartMap
from s3proxy.s3.query import query_params
from s3proxy.storage.staging import Plan
from s3proxy.upstream.interfaces import IUpstreamResponse

__all__ = ["Keeping", "keeping_for"]

DOCUMENT_LIMIT = 64 * 1024
"""Bytes of S3's answer to CreateMultipartUpload or CompleteMultipartUpload that are looked at."""
LIST_LIMIT = 8 * 1024 * 1024
"""Bytes of a list of parts. S3 takes at most 10,000 parts; with ETag and checksums each has some hundred bytes."""


class Keeping:
    """A write that leaves nothing.

    :cvar answer_bytes: how much of S3's answer's body :meth:`acted` needs; 0: it is called before the client sees the
        status, else before it sees the end of the body
    :ivar copy: gets the request's body as it passes; None: nobody needs it
    :ivar reader: gets its beginning, if there is room; None: nobody needs that
    :ivar reason: why the object is not kept
    """

    answer_bytes = 0

    def __init__(self) -> None:
        self.copy: BodyCopy | None = None
        self.reader: IReader | None = None
        self.reason = Reason.WRITE

    def sent(self, read: bool) -> None:
        """S3 is about to get the last byte of the request.

        :param read: the reader has got all that it takes
        """

    async def acted(self, response: IUpstreamResponse, body: bytes, armed: ArmedKeys | None) -> None:
        """S3 has done it: the cache is made true. Never fails.

        :param body: of S3's answer, its first ``answer_bytes``
        :param armed: the keys whose entries the write changes; None: it changes none
        """
        if armed is not None:
            await armed.invalidate()

    def close(self) -> None:
        """The request is over, one way or the other. Idempotent."""
        if self.copy is not None:
            self.copy.abandon()


class _Tally:
    """Counts an upload."""

    def __init__(self, parts: Parts, transaction: Transaction) -> None:
        self._parts = parts
        self._began = transaction.record.started_monotonic

    def kept(self, size: int) -> None:
        """It is in the cache."""
        self._parts.counts.kept(size, self._parts.clock.seconds() - self._began)
        self._parts.cache.note_kept(size)

    def not_kept(self, copy: BodyCopy | None) -> None:
        """It is not.

        :param copy: that was made all the same; None: none was meant to be
        """
        self._parts.counts.puts["bypassed" if copy is None else "failed"] += 1


class _ObjectKeeping(Keeping):
    """PutObject: the object, read from the cache from now on."""

    def __init__(self, parts: Parts, transaction: Transaction) -> None:
        super().__init__()
        assert transaction.settings is not None and transaction.id is not None
        self._tally = _Tally(parts, transaction)
        self._writes = parts.cache.writes
        self._id = transaction.id
        self._headers = transaction.request.headers
        self._described = described_by(self._headers)
        plan = plan_body(self._headers, transaction.request.body_length, transaction.settings, self._writes.largest)
        if isinstance(plan, Reason):
            self.reason = plan
        elif self._described is not None:
            self._size = plan.size
            checksums = names_to_compute(self._headers)
            self.copy = self._writes.copy_object(self._id, plan.size, chunked=plan.chunked, checksums=checksums)

    async def acted(self, response: IUpstreamResponse, body: bytes, armed: ArmedKeys | None) -> None:
        """See :meth:`Keeping.acted`."""
        assert armed is not None
        copied = await _true_copy(self._writes, self.copy, self._headers, response)
        if copied is None:
            self._tally.not_kept(self.copy)
            await armed.invalidate()
            return
        version = self._version(response)
        if version is not None and await self._writes.publish(armed, version, copied):
            self._tally.kept(self._size)
            return
        self._tally.not_kept(self.copy)
        await armed.invalidate()
        await self._writes.discard(copied)

    def _version(self, response: IUpstreamResponse) -> ObjectVersion | None:
        etag = response.headers.get(b"etag")
        if self._described is None or etag is None or response.status != 200:
            return None
        return written_version(self._id, self._size, self._described, etag, response.headers)


class _UploadKeeping(Keeping):
    """Anything that belongs to a multipart upload; by itself nothing."""

    def __init__(self, parts: Parts, transaction: Transaction) -> None:
        super().__init__()
        assert transaction.id is not None
        self._writes = parts.cache.writes
        self._id = transaction.id
        self._headers = transaction.request.headers
        self._upload_id = upload_id(transaction.target.query)

    @property
    def _upload(self) -> UploadKey | None:
        return None if self._upload_id is None else UploadKey(self._id, self._upload_id)


class _PartKeeping(_UploadKeeping):
    """UploadPart: the part, for the end of the upload."""

    def __init__(self, parts: Parts, transaction: Transaction) -> None:
        super().__init__(parts, transaction)
        self._tally = _Tally(parts, transaction)
        assert transaction.settings is not None
        number = part_number(transaction.target.query)
        plan = plan_body(self._headers, transaction.request.body_length, transaction.settings, self._writes.largest)
        if isinstance(plan, Reason):
            self.reason = plan
        elif self._upload is not None and number is not None:
            self._part = PartToKeep(self._upload, number)
            self._size = plan.size
            checksums = names_to_compute(self._headers)
            self.copy = self._writes.copy_part(self._part, plan.size, chunked=plan.chunked, checksums=checksums)

    async def acted(self, response: IUpstreamResponse, body: bytes, armed: ArmedKeys | None) -> None:
        """See :meth:`Keeping.acted`."""
        copied = await _true_copy(self._writes, self.copy, self._headers, response)
        if copied is None:
            self._tally.not_kept(self.copy)
        else:
            await self._writes.keep_part(self._part, response.headers.get(b"etag") or b"", copied)
            self._tally.kept(self._size)


class _CreateKeeping(_UploadKeeping):
    """CreateMultipartUpload: what the object will be described by."""

    answer_bytes = DOCUMENT_LIMIT

    async def acted(self, response: IUpstreamResponse, body: bytes, armed: ArmedKeys | None) -> None:
        """See :meth:`Keeping.acted`."""
        made = parse_initiate_result(body)
        described = described_by(self._headers)
        if made is not None and described is not None:
            fields = (*described, *encryption_of(response.headers))
            noted = encode_description(Description(fields, response.headers.get(b"date")))
            await self._writes.describe(UploadKey(self._id, made), noted)


class _CopiedPartKeeping(_UploadKeeping):
    """UploadPartCopy: bytes that are not seen here."""

    async def acted(self, response: IUpstreamResponse, body: bytes, armed: ArmedKeys | None) -> None:
        """See :meth:`Keeping.acted`."""
        if self._upload is not None:
            await self._writes.poison(self._upload)


class _AbortKeeping(_UploadKeeping):
    """AbortMultipartUpload."""

    async def acted(self, response: IUpstreamResponse, body: bytes, armed: ArmedKeys | None) -> None:
        """See :meth:`Keeping.acted`."""
        if self._upload is not None:
            await self._writes.forget(self._upload)


class _CompleteKeeping(_UploadKeeping):
    """CompleteMultipartUpload: the object, if all of its parts are here."""

    answer_bytes = DOCUMENT_LIMIT

    def __init__(self, parts: Parts, transaction: Transaction) -> None:
        super().__init__(parts, transaction)
        assert transaction.settings is not None
        self._list = _PartList() if transaction.settings.write_cache_enabled else None
        self.reader = self._list
        self._listed: tuple[tuple[int, bytes], ...] = ()
        self._planning: Deferred[Plan | None] | None = None

    def sent(self, read: bool) -> None:
        """See :meth:`Keeping.sent`."""
        listed = self._list.parts() if self._list is not None and read else None
        if listed is not None and self._upload is not None:
            self._listed = listed
            # While S3 works, which may take minutes.
            self._planning = self._writes.plan(self._upload, listed)

    async def acted(self, response: IUpstreamResponse, body: bytes, armed: ArmedKeys | None) -> None:
        """See :meth:`Keeping.acted`."""
        assert armed is not None
        upload = self._upload
        planning, self._planning = self._planning, None
        plan = None if planning is None else await planning
        result = parse_complete_result(body) if len(body) < DOCUMENT_LIMIT else None
        published = False
        if upload is not None and plan is not None and result is not None and plan.size <= self._writes.largest:
            version = await self._version(upload, plan, result, response)
            if version is not None:
                published = await self._writes.assemble(upload, armed, version, plan)
        if published:
            return
        if upload is not None and result is not None and self._writes.was_completed(upload, result.etag):
            await armed.disarm()
            return
        await armed.invalidate()
        if upload is not None:
            await self._writes.forget(upload)

    async def _version(
        self, upload: UploadKey, plan: Plan, result: CompletedUpload, response: IUpstreamResponse
    ) -> ObjectVersion | None:
        noted = await self._writes.description(upload)
        described = None if noted is None else decode_description(noted)
        if described is None or not is_upload_tag(result.etag, [etag for _, etag in sorted(self._listed)]):
            return None
        parts = PartMap.of_upload([(placed.part.number, placed.part.size) for placed in plan.parts])
        answer = response.headers.adding(*result.checksums)
        under_way = upload_time(described.begun_at, answer, response.head_at - response.sent_at)
        return written_version(self._id, plan.size, described.fields, result.etag, answer, parts, under_way)

    def close(self) -> None:
        """See :meth:`Keeping.close`."""
        super().close()
        if self._planning is not None:
            self._planning.addErrback(lambda _: None)


class _PartList:
    """The list in CompleteMultipartUpload; see :class:`~s3proxy.gateway.bodies.IReader`."""

    most = LIST_LIMIT

    def __init__(self) -> None:
        self._reader = CompleteUploadReader()
        self._fed = 0

    def feed(self, data: bytes) -> None:
        """See :class:`~s3proxy.gateway.bodies.IReader`."""
        self._fed += len(data)
        self._reader.feed(data)

    def parts(self) -> tuple[tuple[int, bytes], ...] | None:
        """Number and ETag of each; None if it is too long, or not understood."""
        listed = self._reader.finish()
        return None if self._fed >= self.most else listed


async def _true_copy(
    writes: WriteThrough, copy: BodyCopy | None, headers: Headers, response: IUpstreamResponse
) -> CopiedBody | None:
    """The copy of the request's body, if it is what S3 has; the caller's to publish or discard."""
    copied = None if copy is None else await copy.copied()
    if copied is None:
        return None
    stated = expected_checksums((*headers, *copied.trailers))
    if is_true_copy(copied.digests, stated, response.headers.get(b"etag") or b"", response.headers):
        return copied
    await writes.discard(copied)
    return None


_KINDS = {
    Operation.PutObject: _ObjectKeeping,
    Operation.CreateMultipartUpload: _CreateKeeping,
    Operation.UploadPart: _PartKeeping,
    Operation.UploadPartCopy: _CopiedPartKeeping,
    Operation.CompleteMultipartUpload: _CompleteKeeping,
    Operation.AbortMultipartUpload: _AbortKeeping,
}


def keeping_for(parts: Parts, transaction: Transaction) -> Keeping:
    """What this write leaves in the cache."""
    kind, settings = _KINDS.get(transaction.operation), transaction.settings
    if kind is None or transaction.id is None or settings is None or not parts.cache.writes.possible:
        return Keeping()
    if transaction.address is None or not transaction.address.cacheable:
        return Keeping()
    # A presigned request may have the client's key as a parameter instead.
    if any(name.lower() in SSE_C_FIELDS for name, _ in query_params(transaction.target.query)):
        return Keeping()
    if kind is _CreateKeeping and not settings.write_cache_enabled:
        return Keeping()
    return kind(parts, transaction)
