"""Multipart uploads: what a client sends, what S3 keeps and does, and what it answers."""

import hashlib
from typing import TYPE_CHECKING

import attrs

from test.support.model import Composed, Content, Version, described_by
from test.support.model_changes import BUCKET
from test.support.model_coding import Coded, code
from test.support.model_orders import Order, Told, When, document, refusal, verdict_on

if TYPE_CHECKING:
    from test.support.model_s3 import ModelS3

__all__ = ["Abort", "Complete", "CopyPart", "Create", "Part", "PutPart", "Upload"]


@attrs.frozen
class Part:
    """:ivar etag: with quotes"""

    body: bytes = attrs.field(repr=False)
    etag: bytes


@attrs.define(eq=False)
class Upload:
    """A multipart upload at S3.

    :ivar plain: whether the parts have MD5s for ETags
    :ivar replaced: parts that were uploaded once more, by their numbers
    :ivar listed: what was put together; None: nothing has been
    :ivar made: what came of it
    """

    key: bytes
    id: bytes
    label: bytes
    plain: bool
    parts: dict[int, Part] = attrs.field(factory=dict)
    replaced: list[tuple[int, bytes]] = attrs.field(factory=list)
    listed: tuple[tuple[int, bytes], ...] | None = None
    made: Version | None = None
    aborted: bool = False

    @property
    def is_open(self) -> bool:
        """Whether there may still be parts."""
        return self.made is None and not self.aborted

    def put(self, number: int, body: bytes, serial: int, plain: bool) -> Part:
        """A part comes, perhaps in the place of another one."""
        tag = hashlib.md5(body).hexdigest().encode() if plain else b"part-%d" % serial
        before = self.parts.get(number)
        if before is not None:
            self.replaced.append((number, before.etag))
        self.parts[number] = Part(body, b'"%s"' % tag)
        return self.parts[number]

    def together(self, listed: tuple[tuple[int, bytes], ...], serial: int) -> Composed:
        """The object that these parts make."""
        parts = [self.parts[number] for number, _ in listed]
        tags = [part.etag.strip(b'"') for part in parts]
        tag = b"opaque-%d" % serial
        if all(len(each) == 32 and b"-" not in each for each in tags):
            tag = hashlib.md5(b"".join(bytes.fromhex(each.decode()) for each in tags)).hexdigest().encode()
        pieces = tuple(part.body for part in parts)
        sizes = tuple(map(len, pieces))
        return Composed(self.key, serial, sum(sizes), sizes, pieces=pieces, tag=b'"%s-%d"' % (tag, len(parts)))


@attrs.frozen(kw_only=True)
class Create(Order):
    """CreateMultipartUpload.

    :ivar id: what S3 will call it
    """

    id: bytes
    plain: bool = True
    method = b"POST"

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/" + self.key + b"?uploads="

    @property
    def keys(self) -> tuple[bytes, ...]:
        """See :class:`Order`."""
        return ()

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        return described_by(self.label)

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        s3.uploads[self.id] = Upload(self.key, self.id, self.label, self.plain)
        named = b"<Bucket>%s</Bucket><Key>%s</Key><UploadId>%s</UploadId>" % (BUCKET, self.key, self.id)
        return document(b"InitiateMultipartUploadResult", named)


@attrs.frozen(kw_only=True)
class _OfUpload(Order):
    """Anything about an upload."""

    id: bytes

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/" + self.key + b"?uploadId=" + self.id


@attrs.frozen(kw_only=True)
class PutPart(_OfUpload):
    """UploadPart.

    :ivar coding: see :mod:`test.support.model_coding`
    """

    number: int
    bytes_of: Content
    coding: str = "plain"
    strict: bool = True

    @property
    def keys(self) -> tuple[bytes, ...]:
        """See :class:`Order`."""
        return ()

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/%s?partNumber=%d&uploadId=%s" % (self.key, self.number, self.id)

    @property
    def coded(self) -> Coded:
        """See :class:`Order`."""
        return code(self.coding, self.bytes_of.body)

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        coded, upload = self.coded, s3.uploads[self.id]
        if not coded.truthful and (self.strict or not coded.decodable):
            return refusal(400, b"BadDigest")
        if not upload.is_open:
            return refusal(404, b"NoSuchUpload")
        return Told(200, {b"ETag": upload.put(self.number, self.bytes_of.body, s3.serial(), upload.plain).etag})


@attrs.frozen(kw_only=True)
class CopyPart(_OfUpload):
    """UploadPartCopy.

    :ivar span: of the source
    """

    number: int
    source: bytes
    span: tuple[int, int] | None = None
    decided_by_body = True

    @property
    def keys(self) -> tuple[bytes, ...]:
        """See :class:`Order`."""
        return ()

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/%s?partNumber=%d&uploadId=%s" % (self.key, self.number, self.id)

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        headers = {b"x-amz-copy-source": b"/%s/%s" % (BUCKET, self.source)}
        if self.span is not None:
            headers[b"x-amz-copy-source-range"] = b"bytes=%d-%d" % (self.span[0], self.span[1] - 1)
        return headers

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        upload, content = s3.uploads[self.id], s3.histories[self.source].current.content
        if not upload.is_open:
            return refusal(404, b"NoSuchUpload")
        start, stop = self.span or (0, 0 if content is None else content.size)
        if content is None or not start < stop <= content.size:
            return refusal(400, b"InvalidRequest")
        part = upload.put(self.number, content.body[start:stop], s3.serial(), plain=False)
        return document(b"CopyPartResult", b"<ETag>%s</ETag>" % part.etag.replace(b'"', b"&quot;"))


@attrs.frozen(kw_only=True)
class Complete(_OfUpload):
    """CompleteMultipartUpload.

    :ivar blanks: how many S3 sends while it works
    :ivar again: whether S3 says the same once more when it is asked to do it again
    """

    listed: tuple[tuple[int, bytes], ...]
    conditions: dict[bytes, bytes] = attrs.field(factory=dict)
    blanks: int = 0
    again: bool = True
    tells_checksum: bool = False
    method = b"POST"
    decided_by_body = True

    @property
    def coded(self) -> Coded:
        """See :class:`Order`."""
        part = b"<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>"
        listed = b"".join(part % (number, etag.replace(b'"', b"&quot;")) for number, etag in self.listed)
        body = b"<CompleteMultipartUpload>%s</CompleteMultipartUpload>" % listed
        coded = code("plain", body)
        return attrs.evolve(coded, headers={b"Content-Length": coded.headers[b"Content-Length"]})

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        return self.conditions

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        upload = s3.uploads[self.id]
        if upload.made is not None and upload.listed == self.listed and self.again:
            return self._told(upload.made)
        if not upload.is_open:
            return refusal(404, b"NoSuchUpload")
        there = [(number, part.etag) for number, part in upload.parts.items()]
        if not self.listed or any(each not in there for each in self.listed):
            return refusal(400, b"InvalidPart")
        if [number for number, _ in self.listed] != sorted({number for number, _ in self.listed}):
            return refusal(400, b"InvalidPartOrder")
        history = s3.histories[self.key]
        refused = verdict_on(self.conditions, history)
        if refused is not None:
            return refused
        content = upload.together(self.listed, s3.serial())
        upload.listed, upload.made = self.listed, history.write(content, *when, label=upload.label)
        return self._told(upload.made)

    def _told(self, version: Version) -> Told:
        assert version.content is not None
        inside = b"<ETag>%s</ETag>" % version.content.etag.replace(b'"', b"&quot;")
        if self.tells_checksum:
            extras = version.content.extras(200, {b"x-amz-checksum-mode": b"ENABLED"}, None)
            inside += b"<ChecksumSHA256>%s</ChecksumSHA256>" % extras[b"x-amz-checksum-sha256"]
        told = document(b"CompleteMultipartUploadResult", inside, (version,))
        if not self.blanks:
            return told
        declaration, _, rest = told.body.partition(b"\n")
        return attrs.evolve(told, body=declaration + b"\n" + b" " * self.blanks + rest)


@attrs.frozen(kw_only=True)
class Abort(_OfUpload):
    """AbortMultipartUpload."""

    method = b"DELETE"

    @property
    def keys(self) -> tuple[bytes, ...]:
        """See :class:`Order`."""
        return ()

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        upload = s3.uploads[self.id]
        if not upload.is_open:
            return refusal(404, b"NoSuchUpload")
        upload.aborted = True
        return Told(204)
