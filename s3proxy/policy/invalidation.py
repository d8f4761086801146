"""Which keys a request may change. Pure."""

from urllib.parse import unquote_to_bytes

from s3proxy.cache.entry import ObjectId
from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.documents import parse_delete_objects, post_form_key
from s3proxy.s3.errors import malformed_xml
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation

__all__ = ["BODY_LIMIT", "body_decides", "keys_in_answer", "keys_in_body", "keys_in_head", "names_keys_in_body"]

BODY_LIMIT = 16 * 1024 * 1024
"""Bytes of a body that are looked at for keys. S3 takes at most 1,000 keys of 1,024 bytes, which XML can spell up to nine times as long."""


def names_keys_in_body(operation: Operation) -> bool:
    """Whether the keys are in the request's body."""
    return operation in (Operation.DeleteObjects, Operation.PostObject)


def body_decides(operation: Operation) -> bool:
    """Whether a 200 may still turn out an error by its body (S3 API: CopyObject, UploadPartCopy, CompleteMultipartUpload)."""
    return operation in (Operation.CopyObject, Operation.UploadPartCopy, Operation.CompleteMultipartUpload)


def keys_in_head(operation: Operation, address: ObjectAddress | None, headers: Headers) -> tuple[ObjectId, ...]:
    """The objects that a request changes if it succeeds, as far as its head tells."""
    if address is None or not operation.writes_object or not address.key:
        return ()
    ids = [ObjectId(address.store, address.bucket, address.key)]
    if operation is Operation.RenameObject:
        source = headers.get(b"x-amz-rename-source")
        if source is not None:
            path = unquote_to_bytes(source.split(b"?", 1)[0]).lstrip(b"/")
            bucket, _, key = path.partition(b"/")
            ids.append(ObjectId(address.store, bucket, key))
            ids.append(ObjectId(address.store, address.bucket, path))
    return tuple(ids)


def keys_in_body(
    operation: Operation, address: ObjectAddress | None, headers: Headers, body: bytes
) -> tuple[ObjectId, ...]:
    """The objects that the request's body names.

    :raises S3Error: when it can't be understood: S3 must not act on what the cache can't follow
    """
    if address is None:
        return ()
    if operation is Operation.DeleteObjects:
        keys = parse_delete_objects(body) if len(body) < BODY_LIMIT else None
        if keys is None:
            raise malformed_xml()
        return tuple(ObjectId(address.store, address.bucket, key) for key in keys)
    if operation is Operation.PostObject:
        key = post_form_key(body, headers.get(b"content-type") or b"")
        return () if key is None else (ObjectId(address.store, address.bucket, key),)
    return ()


def keys_in_answer(operation: Operation, address: ObjectAddress | None, headers: Headers) -> tuple[ObjectId, ...]:
    """The object that a form upload made, which S3 names in ``Location`` (S3 API: POST Object)."""
    location = headers.get(b"location")
    if operation is not Operation.PostObject or address is None or location is None:
        return ()
    path = unquote_to_bytes(location.split(b"?", 1)[0])
    if b"://" in path:
        path = path.split(b"://", 1)[1].partition(b"/")[2]
    path = path.lstrip(b"/")
    ids = [ObjectId(address.store, address.bucket, path)]
    if path.startswith(address.bucket + b"/"):
        ids.append(ObjectId(address.store, address.bucket, path[len(address.bucket) + 1 :]))
    return tuple(ids)
