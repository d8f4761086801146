"""Which keys a request may change. Pure."""

from urllib.parse import unquote_to_bytes

from s3proxy.cache.entry import ObjectId
from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.documents import parse_delete_objects, post_form_key
from s3proxy.s3.errors import malformed_xml
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation

__all__ = ["body_decides", "body_limit", "keys_in_answer", "keys_in_body", "keys_in_head"]

LIST_LIMIT = 16 * 1024 * 1024
"""Bytes of a list of keys. S3 takes at most 1,000 keys of 1,024 bytes, which XML can spell up to nine times as long."""
FORM_LIMIT = 64 * 1024
"""Bytes of a form that are looked at for its key. S3 takes at most 20 KB in front of the file."""


def body_limit(operation: Operation) -> int:
    """How many bytes of a request's body :func:`keys_in_body` needs."""
    if operation is Operation.DeleteObjects:
        return LIST_LIMIT
    return FORM_LIMIT if operation is Operation.PostObject else 0


def body_decides(operation: Operation) -> bool:
    """Whether a 200 may still turn out an error by its body (S3 API: CopyObject, UploadPartCopy,
    CompleteMultipartUpload).
    """
    return operation in (Operation.CopyObject, Operation.UploadPartCopy, Operation.CompleteMultipartUpload)


def keys_in_head(operation: Operation, address: ObjectAddress | None, headers: Headers) -> tuple[ObjectId, ...]:
    """The objects that a request changes if it succeeds, as far as its head tells."""
    if address is None or not operation.writes_object or not address.key:
        return ()
    ids = _affected(address)
    if operation is Operation.RenameObject:
        source = headers.get(b"x-amz-rename-source")
        if source is not None:
            # The API's text allows both "bucket/key" and "key"; both readings are dropped.
            path = unquote_to_bytes(source.partition(b"?")[0]).lstrip(b"/")
            bucket, _, key = path.partition(b"/")
            ids += (ObjectId(address.store, bucket, key), ObjectId(address.store, address.bucket, path))
    return ids


def keys_in_body(
    operation: Operation, address: ObjectAddress | None, headers: Headers, body: bytes
) -> tuple[ObjectId, ...]:
    """The objects that the request's body names.

    :raises S3Error: when it can't be understood: S3 must not act on what the cache can't follow
    """
    if address is None:
        return ()
    keys: tuple[bytes, ...] = ()
    if operation is Operation.DeleteObjects:
        listed = parse_delete_objects(body) if len(body) < LIST_LIMIT else None
        if listed is None:
            raise malformed_xml()
        keys = listed
    elif operation is Operation.PostObject:
        key = post_form_key(body, headers.get(b"content-type") or b"")
        keys = () if key is None else (key,)
    return tuple(id for key in keys for id in _affected(address.with_key(key)))


def keys_in_answer(operation: Operation, address: ObjectAddress | None, headers: Headers) -> tuple[ObjectId, ...]:
    """The object that a form upload made, which S3 names in ``Location`` (S3 API: POST Object)."""
    location = headers.get(b"location")
    if operation is not Operation.PostObject or address is None or location is None:
        return ()
    path = unquote_to_bytes(location.partition(b"?")[0])
    if b"://" in path:
        path = path.partition(b"://")[2].partition(b"/")[2]
    path = path.lstrip(b"/")
    ids = _affected(address.with_key(path))
    if path.startswith(address.bucket + b"/"):
        ids += _affected(address.with_key(path[len(address.bucket) + 1 :]))
    return ids


def _affected(address: ObjectAddress) -> tuple[ObjectId, ...]:
    return tuple(ObjectId(each.store, each.bucket, each.key) for each in address.affected())
