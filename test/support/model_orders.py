"""Writes whose bytes or keys are in the request: what a client sends, what S3 does, and what it answers."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import attrs

from test.support.model import Content, History, Version, described_by
from test.support.model_coding import Coded, code

if TYPE_CHECKING:
    from test.support.model_s3 import ModelS3

__all__ = ["Delete", "DeleteMany", "Order", "PostForm", "Put", "Told", "When", "document", "refusal", "verdict_on"]

When = tuple[int, float]
"""A moment, and the unix seconds."""


@attrs.frozen
class Told:
    """S3's answer to a write.

    :ivar versions: what has become current by it
    """

    status: int
    headers: dict[bytes, bytes] = attrs.field(factory=dict)
    body: bytes = b""
    versions: tuple[Version, ...] = ()


def refusal(status: int, code: bytes = b"") -> Told:
    """S3 does not do it."""
    return Told(status, {b"Content-Type": b"application/xml"}, b"<Error><Code>%s</Code></Error>" % (code or b"No"))


def document(name: bytes, inside: bytes, versions: tuple[Version, ...] = ()) -> Told:
    """S3 has done it, and says so at length."""
    body = b'<?xml version="1.0"?>\n<%s xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s</%s>' % (name, inside, name)
    return Told(200, {b"Content-Type": b"application/xml"}, body, versions)


def verdict_on(conditions: dict[bytes, bytes], history: History) -> Told | None:
    """S3's refusal of a conditional write; None: the conditions hold."""
    content = history.current.content
    if conditions.get(b"If-None-Match") == b"*" and content is not None:
        return refusal(412, b"PreconditionFailed")
    wanted = conditions.get(b"If-Match")
    if wanted is not None and content is None:
        return refusal(404, b"NoSuchKey")
    if wanted not in (None, b"*") and content is not None and content.etag != wanted:
        return refusal(412, b"PreconditionFailed")
    return None


@attrs.frozen(kw_only=True)
class Order(ABC):
    """One write.

    :ivar key: whose it is, for faults that are planned
    :ivar label: the metadata of what it makes
    :cvar decided_by_body: a 200 does not say yet that it was done
    :cvar many_keys: a thread follows it, also when nobody waits for that
    """

    key: bytes
    label: bytes = b""
    method = b"PUT"
    decided_by_body = False
    many_keys = False

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Whose histories it changes."""
        return (self.key,)

    @property
    def target(self) -> bytes:
        """As it is sent."""
        return b"/" + self.key

    @property
    def coded(self) -> Coded | None:
        """Its body, and the header fields that go with that; None: it has none."""
        return None

    @property
    def headers(self) -> dict[bytes, bytes]:
        """All other header fields."""
        return {}

    @abstractmethod
    def act(self, s3: "ModelS3", when: When) -> Told:
        """S3 has the whole request, and does what it says, or refuses."""


@attrs.frozen(kw_only=True)
class Put(Order):
    """PutObject.

    :ivar coding: see :mod:`test.support.model_coding`
    :ivar strict: whether S3 checks it
    :ivar tells_checksum: whether S3 states one in its answer
    """

    bytes_of: Content
    coding: str = "plain"
    strict: bool = True
    conditions: dict[bytes, bytes] = attrs.field(factory=dict)
    tags: int = 0
    tells_checksum: bool = False

    @property
    def coded(self) -> Coded:
        """See :class:`Order`."""
        return code(self.coding, self.bytes_of.body)

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        headers = {**described_by(self.label), **self.conditions}
        if self.tags:
            headers[b"x-amz-tagging"] = b"&".join(b"t%d=1" % number for number in range(self.tags))
        return headers

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        coded = self.coded
        if not coded.truthful and (self.strict or not coded.decodable):
            return refusal(400, b"BadDigest")
        history = s3.histories[self.key]
        refused = verdict_on(self.conditions, history)
        if refused is not None:
            return refused
        version = history.write(self.bytes_of, *when, label=self.label, tags=self.tags)
        headers = {b"ETag": self.bytes_of.etag}
        if self.tells_checksum:
            headers.update(self.bytes_of.extras(200, {b"x-amz-checksum-mode": b"ENABLED"}, None))
        return Told(200, headers, versions=(version,))


@attrs.frozen(kw_only=True)
class Delete(Order):
    """DeleteObject, or of one version: the only one there is."""

    query: bytes = b""
    conditions: dict[bytes, bytes] = attrs.field(factory=dict)
    method = b"DELETE"

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/" + self.key + self.query

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        return self.conditions

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        history = s3.histories[self.key]
        refused = verdict_on(self.conditions, history)
        if refused is not None and refused.status == 412:
            return refused
        if history.current.content is None:
            return Told(204)
        return Told(204, versions=(history.write(None, *when),))


@attrs.frozen(kw_only=True)
class DeleteMany(Order):
    """DeleteObjects.

    :ivar all_keys: which; ``key`` is one of them
    :ivar spared: what S3 refuses to delete
    :ivar others: how many keys of no object come first
    """

    all_keys: tuple[bytes, ...]
    spared: bytes | None = None
    quiet: bool = False
    others: int = 0
    method = b"POST"

    @property
    def many_keys(self) -> bool:  # type: ignore[override]
        """See :class:`Order`."""
        return self.others + len(self.all_keys) > 8

    @property
    def keys(self) -> tuple[bytes, ...]:
        """See :class:`Order`."""
        return self.all_keys

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/?delete"

    @property
    def coded(self) -> Coded:
        """See :class:`Order`."""
        keys = [b"other/%d &amp; more" % number for number in range(self.others)] + list(self.all_keys)
        listed = b"".join(b"<Object><Key>%s</Key></Object>" % key for key in keys)
        quiet = b"<Quiet>true</Quiet>" if self.quiet else b""
        body = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s%s</Delete>' % (quiet, listed)
        return code("md5", body)

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        versions, told = [], []
        for key in self.all_keys:
            history = s3.histories[key]
            if key == self.spared:
                told.append(b"<Error><Key>%s</Key><Code>AccessDenied</Code></Error>" % key)
                continue
            if not self.quiet:
                told.append(b"<Deleted><Key>%s</Key></Deleted>" % key)
            if history.current.content is not None:
                versions.append(history.write(None, *when))
        return document(b"DeleteResult", b"".join(told), tuple(versions))


@attrs.frozen(kw_only=True)
class PostForm(Order):
    """A browser's form.

    :ivar by_name: the key is the file's name
    """

    bytes_of: Content
    by_name: bool = False
    status: int = 204
    method = b"POST"

    @property
    def target(self) -> bytes:
        """See :class:`Order`."""
        return b"/"

    @property
    def coded(self) -> Coded:
        """See :class:`Order`."""
        fields = {
            b"key": b"${filename}" if self.by_name else self.key,
            b"success_action_status": b"%d" % self.status,
            **described_by(self.label),
        }
        parts = [b'--edge\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair for pair in fields.items()]
        file = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % self.key
        coded = code("plain", b"".join(parts) + file + self.bytes_of.body + b"\r\n--edge--\r\n")
        return attrs.evolve(coded, headers={b"Content-Length": coded.headers[b"Content-Length"]})

    @property
    def headers(self) -> dict[bytes, bytes]:
        """See :class:`Order`."""
        return {b"Content-Type": b"multipart/form-data; boundary=edge"}

    def act(self, s3: "ModelS3", when: When) -> Told:
        """See :class:`Order`."""
        version = s3.histories[self.key].write(self.bytes_of, *when, label=self.label)
        headers = {b"ETag": self.bytes_of.etag, b"Location": b"https://bucket.s3.test/" + self.key}
        body = b"<PostResponse><Key>%s</Key></PostResponse>" % self.key if self.status == 201 else b""
        return Told(self.status, headers, body, (version,))
