"""Which uploads are kept on their way to S3, and how the object that they make is described. Pure.

An entry that comes of an upload says what S3 would say about the object, as far as the request and S3's answer tell;
only Last-Modified is unknown. Where it could say something else than S3, the upload is not kept: the first read fetches
the object then.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import attrs

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.policy.rules import Settings
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.aws_chunked import decoded_length, is_aws_chunked, plain_content_encoding
from s3proxy.s3.checksums import decode_checksum, is_known
from s3proxy.s3.headers import Headers, is_sse_c
from s3proxy.s3.operation import Operation
from s3proxy.s3.parts import PartMap
from s3proxy.s3.validators import parse_http_date

__all__ = [
    "BodyPlan",
    "Description",
    "Expected",
    "announced_size",
    "decode_description",
    "described_by",
    "encode_description",
    "encryption_of",
    "expected_checksums",
    "is_true_copy",
    "is_upload_tag",
    "names_to_compute",
    "plan_body",
    "upload_limit",
    "upload_time",
    "written_version",
]

LARGEST_UPLOAD = 5 * 1024**3
"""Bytes that S3 takes as an object or a part in one request (S3 API: PutObject, UploadPart, POST Object)."""
FORM_ROOM = 64 * 1024
"""Bytes that a form may have around its file. S3 takes at most 20 KB in front of it."""

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
_ENCRYPTION = frozenset(
    {
        b"x-amz-server-side-encryption",
        b"x-amz-server-side-encryption-aws-kms-key-id",
        b"x-amz-server-side-encryption-bucket-key-enabled",
    }
)
_ANSWERED = _ENCRYPTION | {b"x-amz-expiration", b"x-amz-version-id"}
"""What S3's answer to the upload says about the object and a GET repeats, besides ``x-amz-checksum-*``."""
_ARCHIVES = (b"GLACIER", b"DEEP_ARCHIVE")
_PLAIN = re.compile(rb"[\x20-\x7e]*")
_CHECKSUM = b"x-amz-checksum-"
_DEFAULT_TYPE = b"binary/octet-stream"
_WHOLE_SECOND = 1.0
"""How much later than it says the moment of an HTTP date may be."""


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


@attrs.frozen
class Description:
    """What the beginning of a multipart upload tells of its object.

    :ivar fields: see :func:`described_by` and :func:`encryption_of`
    :ivar begun_at: the Date of S3's answer; None: not known
    """

    fields: tuple[tuple[bytes, bytes], ...]
    begun_at: bytes | None = None


def plan_body(headers: Headers, body_length: int | None, settings: Settings, largest: int) -> BodyPlan | Reason:
    """Whether a body is kept on its way to S3.

    :param body_length: as it is on the wire; None: not known
    :param largest: bytes of the largest object that is kept
    """
    if not (settings.write_cache_enabled and settings.read_cache_enabled):
        return Reason.WRITE
    if is_sse_c(headers):
        return Reason.SSE_C
    chunked = is_aws_chunked(headers)
    if chunked is None:
        return Reason.NOT_CACHEABLE
    size = decoded_length(headers) if chunked else body_length
    if size is None:
        return Reason.NO_LENGTH
    return BodyPlan(size, chunked) if size <= largest else Reason.TOO_LARGE


def upload_limit(operation: Operation) -> int | None:
    """How many bytes S3 takes with such a request; None: that is S3's to say."""
    if operation in (Operation.PutObject, Operation.UploadPart):
        return LARGEST_UPLOAD
    return LARGEST_UPLOAD + FORM_ROOM if operation is Operation.PostObject else None


def announced_size(headers: Headers, body_length: int | None) -> int | None:
    """How many bytes an upload says it has, without Amazon's chunks; None if it does not say.

    :param body_length: as it is on the wire; None: not known
    """
    size = decoded_length(headers) if is_aws_chunked(headers) else None
    return body_length if size is None else size


def described_by(headers: Headers) -> tuple[tuple[bytes, bytes], ...] | None:
    """What S3 will say about the object because a PutObject or CreateMultipartUpload said it; None: it can't be told.

    S3 changes values that are not plain ASCII, or encoded as RFC 2047 has it, and joins or refuses repeated ones. What
    goes into an archive can't be read.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower not in _ECHOED and not lower.startswith(b"x-amz-meta-"):
            continue
        if lower in found or _PLAIN.fullmatch(value) is None or b"=?" in value:
            return None
        found[lower] = value
    encoding = plain_content_encoding(headers)
    if encoding is not None:
        found[b"content-encoding"] = encoding
    storage_class = headers.get(b"x-amz-storage-class")
    if storage_class in _ARCHIVES:
        return None
    if storage_class not in (None, b"STANDARD"):
        found[b"x-amz-storage-class"] = storage_class or b""
    tags = headers.get(b"x-amz-tagging")
    if tags:
        found[b"x-amz-tagging-count"] = b"%d" % len([tag for tag in tags.split(b"&") if tag])
    found.setdefault(b"content-type", _DEFAULT_TYPE)
    return tuple((_spelt(name), value) for name, value in found.items())


def encryption_of(answer: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """What S3's answer to CreateMultipartUpload says about the object: the answer to the end of the upload need not say
    it again.
    """
    return tuple((name.lower(), value) for name, value in answer if name.lower() in _ENCRYPTION)


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
    id: ObjectId,
    size: int,
    described: tuple[tuple[bytes, bytes], ...],
    etag: bytes,
    answer: Headers,
    parts: PartMap | None = None,
    upload_time: tuple[float, float] | None = None,
) -> ObjectVersion:
    """The version that an upload made.

    :param described: see :func:`described_by`
    :param etag: as S3's answer, or its body, states it
    :param answer: the header fields of S3's answer
    :param parts: in which it was uploaded
    :param upload_time: when that was; see :func:`upload_time`
    """
    answered = [(name, value) for name, value in answer if _is_answered(name.lower())]
    checksums = any(name.lower().startswith(_CHECKSUM) for name, _ in answered)
    names = {name.lower() for name, _ in answered}
    remaining = [field for field in described if field[0].lower() not in names]
    headers = Headers((*remaining, *answered)).without([b"etag"]).adding((b"ETag", etag))
    return ObjectVersion(
        id=id,
        etag=etag,
        last_modified=None,
        size=size,
        headers=headers,
        checksums=checksums,
        parts=parts,
        written_at=answer.get(b"date"),
        upload_time=upload_time,
    )


def upload_time(begun_at: bytes | None, answer: Headers, seconds: float) -> tuple[float, float] | None:
    """When a multipart upload was under way, by S3's clock (unix seconds): at the latest until the request for its end
    was sent. None: S3 did not tell.

    :param begun_at: see :class:`Description`
    :param answer: the header fields of S3's answer to that request
    :param seconds: that passed between the two
    """
    answered = parse_http_date(answer.get(b"date") or b"")
    if answered is None:
        return None
    begun = parse_http_date(begun_at or b"")
    return 0.0 if begun is None else float(begun), answered - seconds - _WHOLE_SECOND


def _is_answered(name: bytes) -> bool:
    return name in _ANSWERED or name.startswith(_CHECKSUM)


def names_to_compute(headers: Headers) -> tuple[bytes, ...]:
    """The checksums to compute over an upload's body: those that the request states, or will state in its trailer; an
    MD5, which S3's ETag may be, if it states none.
    """
    names = [stated.name for stated in expected_checksums(headers)]
    for value in headers.get_all(b"x-amz-trailer"):
        for field in value.lower().split(b","):
            name = field.strip(b" \t").removeprefix(_CHECKSUM)
            if is_known(name):
                names.append(name)
    return tuple(dict.fromkeys(names)) or (b"md5",)


def is_true_copy(digests: Mapping[bytes, bytes], stated: Iterable[Expected], etag: bytes, answer: Headers) -> bool:
    """Whether nothing contradicts that the copy of a body is what S3 has.

    :param digests: of the copy
    :param stated: by the request and its trailer
    :param etag: in S3's answer
    :param answer: the header fields of S3's answer
    """
    if any(digests.get(expected.name) != expected.value for expected in stated):
        # Also a checksum in a trailer that nothing had announced: it was not computed.
        return False
    for expected in expected_checksums(answer):
        if digests.get(expected.name, expected.value) != expected.value:
            return False
    md5 = digests.get(b"md5")
    plain = etag.strip(b'"')
    encrypted = answer.get(b"x-amz-server-side-encryption")
    if md5 is None or len(plain) != 32 or plain.strip(b"0123456789abcdef") or encrypted not in (None, b"AES256"):
        return True
    return md5.hex().encode("ascii") == plain


def is_upload_tag(etag: bytes, parts: Sequence[bytes]) -> bool:
    """Whether S3's ETag can be that of an object that was put together from parts with these ETags.

    It ends in their number; in front stands the MD5 of their MD5s, where they are MD5s.
    """
    digest, dash, number = etag.strip(b'"').rpartition(b"-")
    if not dash or number != b"%d" % len(parts):
        return False
    plain = [part.strip(b'"') for part in parts]
    if len(digest) != 32 or any(len(part) != 32 or part.strip(b"0123456789abcdef") for part in plain):
        return True
    together = b"".join(bytes.fromhex(part.decode("ascii")) for part in plain)
    return hashlib.md5(together, usedforsecurity=False).hexdigest().encode("ascii") == digest


def encode_description(described: Description) -> bytes:
    """The bytes in which a description waits for the end of a multipart upload."""
    fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in described.fields]
    begun_at = None if described.begun_at is None else described.begun_at.decode("latin-1")
    return json.dumps({"fields": fields, "begun": begun_at}).encode("ascii")


def decode_description(data: bytes) -> Description | None:
    """What :func:`encode_description` wrote; None for anything else."""
    try:
        document = json.loads(data)
        fields, begun_at = document["fields"], document["begun"]
        return Description(
            tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in fields),
            None if begun_at is None else begun_at.encode("latin-1"),
        )
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
