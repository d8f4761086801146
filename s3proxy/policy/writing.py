"""Which uploads are kept on their way to S3, and how the object that they make is described. Pure.

An entry that comes of an upload says what S3 would say about the object, as far as the request and S3's answer tell;
only Last-Modified is unknown. Where it could say something else than S3, the upload is not kept: the first read fetches
the object then.
"""

from collections.abc import Iterable

import attrs

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.policy.rules import Settings
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.aws_chunked import decoded_length, is_aws_chunked, plain_content_encoding
from s3proxy.s3.checksums import decode_checksum, is_known
from s3proxy.s3.headers import Headers, is_sse_c

__all__ = ["BodyPlan", "Expected", "described_by", "expected_checksums", "plan_body", "written_version"]

_ECHOED = frozenset(
    {
        b"cache-control",
        b"content-disposition",
        b"content-language",
        b"content-type",
        b"expires",
        b"x-amz-object-lock-legal-hold",
        b"x-amz-object-lock-mode",
        b"x-amz-object-lock-retain-until-date",
        b"x-amz-website-redirect-location",
    }
)
"""What a PUT or CreateMultipartUpload says about the object and a GET repeats, besides ``x-amz-meta-*``."""
_ANSWERED = frozenset(
    {
        b"x-amz-expiration",
        b"x-amz-server-side-encryption",
        b"x-amz-server-side-encryption-aws-kms-key-id",
        b"x-amz-server-side-encryption-bucket-key-enabled",
        b"x-amz-version-id",
    }
)
"""What S3's answer to the upload says about the object and a GET repeats, besides ``x-amz-checksum-*``."""
_CHECKSUM = b"x-amz-checksum-"
_DEFAULT_TYPE = b"binary/octet-stream"


@attrs.frozen
class BodyPlan:
    """How the bytes of an object come out of a request's body.

    :ivar size: of the object (or part), in bytes
    :ivar chunked: the body is aws-chunked
    """

    size: int
    chunked: bool


@attrs.frozen
class Expected:
    """A checksum of the whole body that somebody stated.

    :ivar name: as in ``x-amz-checksum-<name>``, or md5
    """

    name: bytes
    value: bytes


def plan_body(headers: Headers, body_length: int | None, settings: Settings, largest: int) -> BodyPlan | Reason:
    """Whether a body is kept on its way to S3.

    :param body_length: as it is on the wire; None: not known
    :param largest: bytes of the largest object that is kept
    """
    if not settings.write_cache_enabled:
        return Reason.WRITE
    if is_sse_c(headers):
        return Reason.SSE_C
    chunked = is_aws_chunked(headers)
    size = decoded_length(headers) if chunked else body_length
    if size is None:
        return Reason.NO_LENGTH
    return BodyPlan(size, chunked) if size <= largest else Reason.TOO_LARGE


def described_by(headers: Headers) -> tuple[tuple[bytes, bytes], ...] | None:
    """What S3 will say about the object because a PutObject or CreateMultipartUpload said it; None: it can't be told.

    S3 changes values that are not plain ASCII, and joins or refuses repeated ones.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower not in _ECHOED and not lower.startswith(b"x-amz-meta-"):
            continue
        if lower in found or not value.isascii():
            return None
        found[lower] = value
    encoding = plain_content_encoding(headers)
    if encoding is not None:
        found[b"content-encoding"] = encoding
    storage_class = headers.get(b"x-amz-storage-class")
    if storage_class not in (None, b"STANDARD"):
        found[b"x-amz-storage-class"] = storage_class or b""
    tags = headers.get(b"x-amz-tagging")
    if tags:
        found[b"x-amz-tagging-count"] = b"%d" % len([tag for tag in tags.split(b"&") if tag])
    found.setdefault(b"content-type", _DEFAULT_TYPE)
    return tuple((_spelt(name), value) for name, value in found.items())


def _spelt(name: bytes) -> bytes:
    """As S3 spells it."""
    return name if name.startswith(b"x-amz-") else b"-".join(word.capitalize() for word in name.split(b"-"))


def expected_checksums(fields: Iterable[tuple[bytes, bytes]]) -> tuple[Expected, ...]:
    """The checksums of the whole body that a request's header fields, its trailer or S3's answer state and that can be
    computed here.
    """
    found = []
    for name, value in fields:
        lower = name.lower()
        if lower == b"content-md5":
            algorithm = b"md5"
        elif lower.startswith(_CHECKSUM):
            algorithm = lower[len(_CHECKSUM) :]
        else:
            continue
        decoded = decode_checksum(algorithm, value) if is_known(algorithm) else None
        if decoded is not None:
            found.append(Expected(algorithm, decoded))
    return tuple(found)


def written_version(
    id: ObjectId, size: int, described: tuple[tuple[bytes, bytes], ...], etag: bytes, answer: Headers
) -> ObjectVersion:
    """The version that an upload made.

    :param described: see :func:`described_by`
    :param etag: as S3's answer, or its body, states it
    :param answer: the header fields of S3's answer
    """
    answered = [(name, value) for name, value in answer if _is_answered(name.lower())]
    checksums = any(name.lower().startswith(_CHECKSUM) for name, _ in answered)
    headers = Headers((*described, *answered)).without([b"etag"]).adding((b"ETag", etag))
    return ObjectVersion(id=id, etag=etag, last_modified=None, size=size, headers=headers, checksums=checksums)


def _is_answered(name: bytes) -> bool:
    return name in _ANSWERED or name.startswith(_CHECKSUM)
