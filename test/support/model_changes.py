"""Writes that change what S3 has: copies, renaming, appending, tags. What a client sends, what S3 does, and what it
answers.
"""

from typing import TYPE_CHECKING

import attrs

from test.support.model import Composed, Content, described_by
from test.support.model_coding import Coded, code
from test.support.model_orders import Order, Told, When, document, refusal

if TYPE_CHECKING:
    from test.support.model_s3 import ModelS3

__all__ = ["BUCKET", "Append", "Copy", "Rename", "Tag", "Touch"]

BUCKET = b"bucket"


@attrs.frozen(kw_only=True)
class Copy(Order):
    """CopyObject, with metadata of its own.

    :ivar serial: a number that no other copy has
    :ivar same_tag: whether the copy has the ETag of the source
    """

    source: bytes
    serial: int
    same_tag: bool = False
    decided_by_body = True

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        source = b"/%s/%s" % (BUCKET, self.source)
        return {b"x-amz-copy-source": source, b"x-amz-metadata-directive": b"REPLACE", **described_by(self.label)}

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        content = s3.histories[self.source].current.content
        if content is None:
            return refusal(404, b"NoSuchKey")
        if not self.same_tag:
            # Encrypted with another key, for instance.
            tag = b'"copy-%d"' % self.serial
            content = Composed(self.key, self.serial, content.size, pieces=(content.body,), tag=tag)
        version = s3.histories[self.key].write(content, *when, label=self.label)
        tag = content.etag.replace(b'"', b"&quot;")
        return document(b"CopyObjectResult", b"<ETag>%s</ETag>" % tag, (version,))


@attrs.frozen(kw_only=True)
class Rename(Order):
    """RenameObject; what comes of it has metadata of its own, which real ones have not."""

    source: bytes
    serial: int

    @property
    def keys(self) -> tuple[bytes, ...]:
        """See :class:`Order`."""
        return (self.key, self.source)

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/" + self.key + b"?renameObject"

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        return {b"x-amz-rename-source": b"/" + self.source}

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        content = s3.histories[self.source].current.content
        if content is None or self.source == self.key:
            return refusal(404, b"NoSuchKey")
        tag = b'"renamed-%d"' % self.serial
        moved = Composed(self.key, self.serial, content.size, pieces=(content.body,), tag=tag)
        here = s3.histories[self.key].write(moved, *when, label=self.label)
        return Told(200, versions=(here, s3.histories[self.source].write(None, *when)))


@attrs.frozen(kw_only=True)
class Append(Order):
    """More bytes behind those that are there."""

    piece: Content
    offset: int

    @property
    def coded(self) -> Coded:
        """See :class:`Order`."""
        return code("plain", self.piece.body)

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        return {b"x-amz-write-offset-bytes": b"%d" % self.offset}

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        history = s3.histories[self.key]
        content = history.current.content
        if content is None or content.size != self.offset:
            return refusal(400, b"InvalidWriteOffset")
        tag = b'"appended-%d"' % self.piece.number
        pieces = (content.body, self.piece.body)
        longer = Composed(self.key, self.piece.number, content.size + self.piece.size, pieces=pieces, tag=tag)
        return Told(200, {b"ETag": tag}, versions=(history.write(longer, *when, label=self.label),))


@attrs.frozen(kw_only=True)
class Tag(Order):
    """PutObjectTagging, or, with no tags, DeleteObjectTagging."""

    tags: int

    @property
    def method(self) -> bytes:  # type: ignore[override]
        """See :class:`Order`."""
        return b"PUT" if self.tags else b"DELETE"

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/" + self.key + b"?tagging"

    @property
    def coded(self) -> Coded | None:
        """See :class:`Order`."""
        if not self.tags:
            return None
        tags = b"".join(b"<Tag><Key>%d</Key><Value/></Tag>" % number for number in range(self.tags))
        return code("md5", b"<Tagging><TagSet>%s</TagSet></Tagging>" % tags)

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        history = s3.histories[self.key]
        if history.current.content is None:
            return refusal(404, b"NoSuchKey")
        return Told(200 if self.tags else 204, versions=(history.tag(self.tags, *when),))


@attrs.frozen(kw_only=True)
class Touch(Order):
    """A write of something about the object that no read shows: permissions, holds, restoring."""

    what: bytes

    @property
    def method(self) -> bytes:  # type: ignore[override]
        """See :class:`Order`."""
        return b"POST" if self.what == b"restore" else b"PUT"

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/" + self.key + b"?" + self.what

    @property
    def coded(self) -> Coded:
        """See :class:`Order`."""
        return code("md5", b"<Anything>%s</Anything>" % self.what)

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        return Told(200) if s3.histories[self.key].current.content is not None else refusal(404, b"NoSuchKey")
