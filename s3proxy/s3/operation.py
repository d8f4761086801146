"""What a request asks S3 to do, from its method, address, query and three header fields.

Everything that the cache decides later hangs on this one value, so it denies by default: a read is
:attr:`Operation.GetObject` or :attr:`Operation.HeadObject` only when its query holds nothing but parameters known to
change nothing, and a read of a part only when ``partNumber`` is all there is besides. A read with any other parameter
is a ``…Variant`` or a sub-resource, neither of which is ever cached;
a write with an unknown parameter is a ``…Variant`` too, which still drops the entry.

The order of parameters, and whether they are signed, does not matter. Names are compared after percent-decoding.
"""

import enum

from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.headers import Headers
from s3proxy.s3.parts import MOST_PARTS
from s3proxy.s3.query import query_params

__all__ = ["Operation", "classify", "part_number", "upload_id"]


class Operation(enum.Enum):
    """The operations of S3 by their API names, and the variants of them that a cache must tell apart."""

    GetObject = "GetObject"
    HeadObject = "HeadObject"
    #: One part of an object, by ``partNumber``.
    GetObjectPart = "GetObjectPart"
    HeadObjectPart = "HeadObjectPart"
    #: A version, an answer with overridden headers, or anything else that is not the plain object.
    GetObjectVariant = "GetObjectVariant"
    HeadObjectVariant = "HeadObjectVariant"
    GetObjectAcl = "GetObjectAcl"
    GetObjectAnnotation = "GetObjectAnnotation"
    GetObjectAttributes = "GetObjectAttributes"
    GetObjectLegalHold = "GetObjectLegalHold"
    GetObjectRetention = "GetObjectRetention"
    GetObjectTagging = "GetObjectTagging"
    GetObjectTorrent = "GetObjectTorrent"
    ListParts = "ListParts"

    PutObject = "PutObject"
    #: A PUT of an object with a parameter that is not known to be harmless.
    PutObjectVariant = "PutObjectVariant"
    CopyObject = "CopyObject"
    AppendObject = "AppendObject"
    RenameObject = "RenameObject"
    RestoreObject = "RestoreObject"
    PutObjectAcl = "PutObjectAcl"
    PutObjectAnnotation = "PutObjectAnnotation"
    PutObjectLegalHold = "PutObjectLegalHold"
    PutObjectRetention = "PutObjectRetention"
    PutObjectTagging = "PutObjectTagging"
    UpdateObjectEncryption = "UpdateObjectEncryption"
    DeleteObject = "DeleteObject"
    DeleteObjectVersion = "DeleteObjectVersion"
    #: A DELETE of an object with a parameter that is not known to be harmless.
    DeleteObjectVariant = "DeleteObjectVariant"
    DeleteObjectAnnotation = "DeleteObjectAnnotation"
    DeleteObjectTagging = "DeleteObjectTagging"
    DeleteObjects = "DeleteObjects"
    #: A browser's form upload.
    PostObject = "PostObject"

    CreateMultipartUpload = "CreateMultipartUpload"
    UploadPart = "UploadPart"
    UploadPartCopy = "UploadPartCopy"
    CompleteMultipartUpload = "CompleteMultipartUpload"
    AbortMultipartUpload = "AbortMultipartUpload"
    SelectObjectContent = "SelectObjectContent"
    #: A CORS preflight.
    OptionsObject = "OptionsObject"

    ListBuckets = "ListBuckets"
    ListObjects = "ListObjects"
    ListObjectsV2 = "ListObjectsV2"
    ListObjectVersions = "ListObjectVersions"
    ListMultipartUploads = "ListMultipartUploads"
    HeadBucket = "HeadBucket"
    GetBucketLocation = "GetBucketLocation"
    CreateSession = "CreateSession"
    CreateBucket = "CreateBucket"
    DeleteBucket = "DeleteBucket"
    #: The policies, rules and configurations of a bucket, whatever they are called.
    GetBucketSubresource = "GetBucketSubresource"
    PutBucketSubresource = "PutBucketSubresource"
    DeleteBucketSubresource = "DeleteBucketSubresource"

    #: Anything else, and every request whose address is not understood.
    Other = "Other"

    @property
    def is_cacheable_read(self) -> bool:
        """Whether the answer may come from the cache and go into it."""
        return self in _CACHEABLE_READS

    @property
    def writes_object(self) -> bool:
        """Whether success may change the addressed object's bytes or headers, so that its entry must be dropped."""
        return self in _OBJECT_WRITES

    @property
    def body_names_keys(self) -> bool:
        """Whether the objects that are changed are named in the request's body instead of its target."""
        return self in _BODY_NAMES_KEYS


_CACHEABLE_READS = frozenset(
    {Operation.GetObject, Operation.HeadObject, Operation.GetObjectPart, Operation.HeadObjectPart}
)

_OBJECT_WRITES = frozenset(
    {
        Operation.PutObject,
        Operation.PutObjectVariant,
        Operation.CopyObject,
        Operation.AppendObject,
        Operation.RenameObject,
        Operation.RestoreObject,
        Operation.PutObjectAcl,
        Operation.PutObjectAnnotation,
        Operation.PutObjectLegalHold,
        Operation.PutObjectRetention,
        Operation.PutObjectTagging,
        Operation.UpdateObjectEncryption,
        Operation.DeleteObject,
        Operation.DeleteObjectVersion,
        Operation.DeleteObjectVariant,
        Operation.DeleteObjectAnnotation,
        Operation.DeleteObjectTagging,
        Operation.CompleteMultipartUpload,
        Operation.Other,
    }
)

_BODY_NAMES_KEYS = frozenset({Operation.DeleteObjects, Operation.PostObject})

# Parameters that say who asks or which API was called, and change nothing in what is asked. Compared in lower case.
_HARMLESS = frozenset(
    {
        b"x-amz-algorithm",
        b"x-amz-content-sha256",
        b"x-amz-credential",
        b"x-amz-date",
        b"x-amz-expires",
        b"x-amz-region-set",
        b"x-amz-security-token",
        b"x-amz-signature",
        b"x-amz-signedheaders",
        b"x-amz-user-agent",
        b"x-id",
    }
)
# The parameters of the older presigned form; these names have one spelling only.
_HARMLESS_EXACTLY = frozenset({b"AWSAccessKeyId", b"Expires", b"Signature"})
_HARMLESS_IN_READ = b"x-amz-checksum-mode"
# Fields of an upload that clients move into a presigned query, and that leave no trace in the object's own headers.
_HARMLESS_IN_UPLOAD = (b"x-amz-checksum-", b"x-amz-sdk-checksum-algorithm", b"x-amz-acl")

_GET_SUBRESOURCES = {
    b"uploadId": Operation.ListParts,
    b"acl": Operation.GetObjectAcl,
    b"annotation": Operation.GetObjectAnnotation,
    b"attributes": Operation.GetObjectAttributes,
    b"legal-hold": Operation.GetObjectLegalHold,
    b"retention": Operation.GetObjectRetention,
    b"tagging": Operation.GetObjectTagging,
    b"torrent": Operation.GetObjectTorrent,
}
_PUT_SUBRESOURCES = {
    b"acl": Operation.PutObjectAcl,
    b"annotation": Operation.PutObjectAnnotation,
    b"encryption": Operation.UpdateObjectEncryption,
    b"legal-hold": Operation.PutObjectLegalHold,
    b"renameObject": Operation.RenameObject,
    b"retention": Operation.PutObjectRetention,
    b"tagging": Operation.PutObjectTagging,
}
_DELETE_SUBRESOURCES = {
    b"uploadId": Operation.AbortMultipartUpload,
    b"annotation": Operation.DeleteObjectAnnotation,
    b"tagging": Operation.DeleteObjectTagging,
    b"versionId": Operation.DeleteObjectVersion,
}
_POST_SUBRESOURCES = {
    b"uploads": Operation.CreateMultipartUpload,
    b"uploadId": Operation.CompleteMultipartUpload,
    b"restore": Operation.RestoreObject,
    b"select": Operation.SelectObjectContent,
}
_LISTINGS = {
    b"versions": Operation.ListObjectVersions,
    b"uploads": Operation.ListMultipartUploads,
    b"location": Operation.GetBucketLocation,
    b"session": Operation.CreateSession,
}
_LIST_OBJECTS_PARAMETERS = frozenset({b"delimiter", b"encoding-type", b"marker", b"max-keys", b"prefix"})
_LIST_BUCKETS_PARAMETERS = frozenset({b"bucket-region", b"continuation-token", b"max-buckets", b"prefix"})


def classify(method: bytes, address: ObjectAddress | None, query: bytes | None, headers: Headers) -> Operation:
    """What the request asks for.

    :param method: as received; methods are case-sensitive
    :param address: what :func:`s3proxy.s3.address.locate` says; reads of an address that is not cacheable are variants
    :param query: the raw query string
    """
    if method == b"OPTIONS":
        return Operation.OptionsObject
    if address is None:
        return Operation.Other
    names = frozenset(
        name
        for name, _ in query_params(query)
        if name.lower() not in _HARMLESS and name not in _HARMLESS_EXACTLY
    )
    if not address.key:
        return _classify_bucket(method, address, query, headers, names)
    if method == b"GET":
        return _classify_get(address, query, names)
    if method == b"HEAD":
        return _classify_head(address, query, names)
    if method == b"PUT":
        return _classify_put(headers, names)
    if method == b"DELETE":
        return _first(_DELETE_SUBRESOURCES, names, Operation.DeleteObjectVariant if names else Operation.DeleteObject)
    if method == b"POST":
        return _first(_POST_SUBRESOURCES, names, Operation.PostObject if _is_form(headers) else Operation.Other)
    return Operation.Other


def part_number(query: bytes | None) -> int | None:
    """The part that ``partNumber`` asks for, 1 to 10000; None without one, with several, or with anything else."""
    values = [value for name, value in query_params(query) if name == b"partNumber"]
    if len(values) != 1 or values[0] is None:
        return None
    digits = values[0]
    if not 1 <= len(digits) <= 5 or not digits.isdigit():
        return None
    number = int(digits)
    return number if 1 <= number <= MOST_PARTS else None


def upload_id(query: bytes | None) -> bytes | None:
    """The multipart upload that ``uploadId`` names; None without one, or with several."""
    values = [value for name, value in query_params(query) if name == b"uploadId"]
    return values[0] or None if len(values) == 1 else None


def _first(known: dict[bytes, Operation], names: frozenset[bytes], otherwise: Operation) -> Operation:
    return next((operation for name, operation in known.items() if name in names), otherwise)


def _without_checksum_mode(names: frozenset[bytes]) -> frozenset[bytes]:
    return frozenset(name for name in names if name.lower() != _HARMLESS_IN_READ)


def _classify_get(address: ObjectAddress, query: bytes | None, names: frozenset[bytes]) -> Operation:
    names = _without_checksum_mode(names)
    if address.cacheable:
        if not names:
            return Operation.GetObject
        if names == {b"partNumber"} and part_number(query) is not None:
            return Operation.GetObjectPart
    return _first(_GET_SUBRESOURCES, names, Operation.GetObjectVariant)


def _classify_head(address: ObjectAddress, query: bytes | None, names: frozenset[bytes]) -> Operation:
    names = _without_checksum_mode(names)
    if address.cacheable:
        if not names:
            return Operation.HeadObject
        if names == {b"partNumber"} and part_number(query) is not None:
            return Operation.HeadObjectPart
    return Operation.HeadObjectVariant


def _classify_put(headers: Headers, names: frozenset[bytes]) -> Operation:
    # A presigned request may carry any x-amz field as a parameter instead.
    lower = {name.lower() for name in names}
    copies = b"x-amz-copy-source" in headers or b"x-amz-copy-source" in lower
    if {b"uploadId", b"partNumber"} <= names:
        return Operation.UploadPartCopy if copies else Operation.UploadPart
    subresource = _first(_PUT_SUBRESOURCES, names, Operation.PutObject)
    if subresource is not Operation.PutObject:
        return subresource
    if copies:
        return Operation.CopyObject
    if b"x-amz-rename-source" in headers or b"x-amz-rename-source" in lower:
        return Operation.RenameObject
    if b"x-amz-write-offset-bytes" in headers or b"x-amz-write-offset-bytes" in lower:
        return Operation.AppendObject
    if all(name.startswith(_HARMLESS_IN_UPLOAD) for name in lower):
        return Operation.PutObject
    return Operation.PutObjectVariant


def _classify_bucket(
    method: bytes, address: ObjectAddress, query: bytes | None, headers: Headers, names: frozenset[bytes]
) -> Operation:
    if method == b"GET":
        if not address.bucket and names <= _LIST_BUCKETS_PARAMETERS and names != {b"prefix"}:
            return Operation.ListBuckets
        if b"list-type" in names:
            is_v2 = (b"list-type", b"2") in query_params(query)
            return Operation.ListObjectsV2 if is_v2 else Operation.ListObjects
        otherwise = Operation.ListObjects if names <= _LIST_OBJECTS_PARAMETERS else Operation.GetBucketSubresource
        return _first(_LISTINGS, names, otherwise)
    if method == b"HEAD":
        return Operation.HeadBucket
    if method == b"PUT":
        return Operation.PutBucketSubresource if names else Operation.CreateBucket
    if method == b"DELETE":
        return Operation.DeleteBucketSubresource if names else Operation.DeleteBucket
    if method == b"POST":
        if b"delete" in names:
            return Operation.DeleteObjects
        if _is_form(headers):
            return Operation.PostObject
        return Operation.PutBucketSubresource if names else Operation.Other
    return Operation.Other


def _is_form(headers: Headers) -> bool:
    return (headers.get(b"content-type") or b"").strip().lower().startswith(b"multipart/form-data")
