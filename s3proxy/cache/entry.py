"""What is remembered of one object version besides its bytes, and its encoding for the store.

The encoding is JSON whose strings are latin-1, so that any header byte survives::

    {"v": 1, "store": "aws", "bucket": "b", "key": "k", "etag": "\\"…\\"", "modified": "…" | null,
     "size": 1, "headers": [["Content-Type", "text/plain"], …], "checksums": true, "parts": {…}}

``parts`` is there when anything is known of them; see :meth:`s3proxy.s3.parts.PartMap.document`. ``written``, and
``upload`` (two numbers) of what was uploaded in parts, are there while ``modified`` is not known of what was written
through the proxy.
"""

import json
from typing import Any

import attrs

from s3proxy.s3.headers import CHECKSUM_FIELDS, Headers
from s3proxy.s3.parts import PartMap
from s3proxy.s3.validators import parse_http_date

__all__ = ["ObjectId", "ObjectVersion", "decode_version", "encode_version"]

FORMAT = 1
SLACK = 1.0
"""Seconds by which S3's clocks may differ."""


@attrs.frozen
class ObjectId:
    """Identity of an object, whatever spelling it was asked by: store, bucket and decoded key."""

    store: str
    bucket: bytes
    key: bytes

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What names the object in the store."""
        return (self.store.encode("utf-8"), self.bucket, self.key)


@attrs.frozen(kw_only=True)
class ObjectVersion:
    """One version of an object as S3 described it.

    :ivar etag: as sent, quotes included; bytes are only ever joined under equal ETag and size
    :ivar size: of the whole object, in bytes
    :ivar headers: as S3 sent them, in order, without those that belong to a single answer
    :ivar checksums: whether ``headers`` holds all checksums S3 has, because the whole object was asked for with them
    :ivar parts: what is known of the parts in which it was uploaded; None: nothing
    :ivar written_at: the Date of S3's answer to the request that wrote it, as long as ``last_modified`` is not known;
        None: S3 did not tell, or somebody else wrote it
    :ivar upload_time: unix seconds by S3's clock between which the multipart upload that wrote it was under way: from
        S3's answer to its beginning to the request for its end that S3 answered; as long as ``written_at`` is there
    """

    id: ObjectId
    etag: bytes
    last_modified: bytes | None
    size: int
    headers: Headers
    checksums: bool = False
    parts: PartMap | None = None
    written_at: bytes | None = None
    upload_time: tuple[float, float] | None = None

    def same_bytes(self, other: "ObjectVersion") -> bool:
        """Whether both describe the same content."""
        return self.etag == other.etag and self.size == other.size

    def merged(self, newer: "ObjectVersion") -> "ObjectVersion":
        """This version as a later answer about the same bytes describes it; what only this one knows of checksums and
        parts stays.
        """
        newer = attrs.evolve(newer, parts=self.knowing(newer.parts).parts)
        if newer.checksums or not self.checksums:
            return newer
        kept = tuple(pair for pair in self.headers if pair[0].lower() in CHECKSUM_FIELDS)
        headers = newer.headers.without(CHECKSUM_FIELDS).adding(*kept)
        return attrs.evolve(newer, headers=headers, checksums=True)

    def modified_at(self, last_modified: bytes) -> "ObjectVersion":
        """This version, of which S3 has told since when it is there."""
        headers = self.headers.without([b"last-modified"]).adding((b"Last-Modified", last_modified))
        return attrs.evolve(self, last_modified=last_modified, headers=headers, written_at=None, upload_time=None)

    def is_rewritten(self, last_modified: bytes) -> bool:
        """Whether the same bytes were written again after this version was, perhaps under other metadata, if S3 says
        that they are there since then.

        A multipart upload may have been ended by an earlier request, whose answer was lost, and its object may have
        been written again before S3 was asked for the end once more. S3 dates an object by the request that ended its
        upload, Amazon by the one that began it: a date in between is somebody else's, or that of the earlier request.
        """
        written = None if self.written_at is None else parse_http_date(self.written_at)
        modified = parse_http_date(last_modified)
        if written is None:
            return False
        if modified is None or modified > written + SLACK:
            return True
        if self.upload_time is None:
            return False
        begun, ended = self.upload_time
        return begun + SLACK < modified < ended - SLACK

    def knowing(self, parts: PartMap | None) -> "ObjectVersion":
        """This version with what is known of its parts elsewhere."""
        if parts is None or parts is self.parts:
            return self
        return attrs.evolve(self, parts=parts if self.parts is None else self.parts.merged(parts))


def encode_version(version: ObjectVersion) -> bytes:
    """The bytes to store."""

    def text(value: bytes) -> str:
        return value.decode("latin-1")

    document: dict[str, Any] = {
        "v": FORMAT,
        "store": version.id.store,
        "bucket": text(version.id.bucket),
        "key": text(version.id.key),
        "etag": text(version.etag),
        "modified": None if version.last_modified is None else text(version.last_modified),
        "size": version.size,
        "headers": [[text(name), text(value)] for name, value in version.headers],
        "checksums": version.checksums,
    }
    if version.written_at is not None:
        document["written"] = text(version.written_at)
    if version.upload_time is not None:
        document["upload"] = version.upload_time
    if version.parts is not None:
        document["parts"] = version.parts.document()
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def decode_version(data: bytes) -> ObjectVersion | None:
    """What :func:`encode_version` wrote, or None for anything else."""
    try:
        document = json.loads(data)
        if document["v"] != FORMAT:
            return None

        def raw(value: str) -> bytes:
            return value.encode("latin-1")

        modified, written, upload = document["modified"], document.get("written"), document.get("upload")
        size, parts = document["size"], document.get("parts")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            return None
        return ObjectVersion(
            id=ObjectId(document["store"], raw(document["bucket"]), raw(document["key"])),
            etag=raw(document["etag"]),
            last_modified=None if modified is None else raw(modified),
            size=size,
            headers=Headers((raw(name), raw(value)) for name, value in document["headers"]),
            checksums=bool(document["checksums"]),
            parts=None if parts is None else PartMap.from_document(parts),
            written_at=None if written is None else raw(written),
            upload_time=None if upload is None else (float(upload[0]), float(upload[1])),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
