"""Which keys a request may change, and whether it did. Pure."""

from typing import Protocol
from urllib.parse import unquote_to_bytes

from s3proxy.cache.entry import ObjectId
from s3proxy.s3.address import ObjectAddress
from s3proxy.s3.aws_chunked import AwsChunkedDecoder, AwsChunkedError, is_aws_chunked
from s3proxy.s3.documents import DeleteObjectsReader, post_form_key
from s3proxy.s3.errors import malformed_xml
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation
from s3proxy.s3.query import query_params

__all__ = ["IBodyKeys", "acted", "body_decides", "keys_in_answer", "keys_in_body", "keys_in_head"]

LIST_LIMIT = 16 * 1024 * 1024
"""Bytes of a list of keys. S3 takes at most 1,000 keys of 1,024 bytes, which XML can spell up to nine times as long."""
FORM_LIMIT = 64 * 1024
"""Bytes of a form that are looked at for its key. S3 takes at most 20 KB in front of the file."""


class IBodyKeys(Protocol):
    """Finds the objects that a request's body names.

    :ivar most: how many bytes of the body it takes; of a longer one the first
    """

    most: int

    def feed(self, data: bytes) -> None:
        """The next piece of the body."""

    def ids(self) -> tuple[ObjectId, ...]:
        """The objects, when all of the body is here, or ``most`` bytes of it.

        :raises S3Error: when it can't be understood: S3 must not act on what the cache can't follow
        """


def keys_in_body(operation: Operation, address: ObjectAddress | None, headers: Headers) -> IBodyKeys | None:
    """What finds the objects that the body names; None: it names none."""
    if address is None:
        return None
    if operation is Operation.DeleteObjects:
        return _ListedKeys(address, headers)
    return _FormKey(address, headers) if operation is Operation.PostObject else None


class _ListedKeys:
    """Of DeleteObjects."""

    most = LIST_LIMIT

    def __init__(self, address: ObjectAddress, headers: Headers) -> None:
        self._address = address
        self._reader = DeleteObjectsReader()
        self._decoder = AwsChunkedDecoder() if is_aws_chunked(headers) else None
        self._fed = 0
        self._broken = False

    def feed(self, data: bytes) -> None:
        """See :class:`IBodyKeys`."""
        self._fed += len(data)
        try:
            for piece in [data] if self._decoder is None else self._decoder.feed(data):
                self._reader.feed(piece)
        except AwsChunkedError:
            self._broken = True

    def ids(self) -> tuple[ObjectId, ...]:
        """See :class:`IBodyKeys`."""
        keys = self._reader.finish()
        if keys is None or self._broken or self._fed >= self.most:
            raise malformed_xml()
        return tuple(id for key in keys for id in _affected(self._address.with_key(key)))


class _FormKey:
    """Of a form upload."""

    most = FORM_LIMIT

    def __init__(self, address: ObjectAddress, headers: Headers) -> None:
        self._address = address
        self._content_type = headers.get(b"content-type") or b""
        self._head: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """See :class:`IBodyKeys`."""
        self._head.append(data)

    def ids(self) -> tuple[ObjectId, ...]:
        """See :class:`IBodyKeys`."""
        key = post_form_key(b"".join(self._head), self._content_type)
        return () if key is None else _affected(self._address.with_key(key))


def acted(operation: Operation, status: int) -> bool:
    """Whether a status says that S3 has done what was asked, unless the body of a 200 says otherwise.

    After a form upload S3 sends the browser on to the page that the form names (S3 API: POST Object,
    ``success_action_redirect``); 301 and 307 are of S3 itself, and say that it must be asked elsewhere.
    """
    return 200 <= status < 300 or (operation is Operation.PostObject and status in (302, 303))


def body_decides(operation: Operation) -> bool:
    """Whether a 200 may still turn out an error by its body (S3 API: CopyObject, UploadPartCopy,
    CompleteMultipartUpload).
    """
    return operation in (Operation.CopyObject, Operation.UploadPartCopy, Operation.CompleteMultipartUpload)


def keys_in_head(
    operation: Operation, address: ObjectAddress | None, headers: Headers, query: bytes | None
) -> tuple[ObjectId, ...]:
    """The objects that a request changes if it succeeds, as far as its head tells."""
    if address is None or not operation.writes_object or not address.key:
        return ()
    ids = _affected(address)
    if operation is Operation.RenameObject:
        # Presigned requests may have the field as a parameter, which is encoded once more.
        moved = [value or b"" for name, value in query_params(query) if name.lower() == b"x-amz-rename-source"]
        for source in (*headers.get_all(b"x-amz-rename-source"), *moved):
            # The API's text allows both "bucket/key" and "key"; both readings are dropped.
            path = unquote_to_bytes(source.partition(b"?")[0]).lstrip(b"/")
            bucket, _, key = path.partition(b"/")
            ids += (ObjectId(address.store, bucket, key), ObjectId(address.store, address.bucket, path))
    return ids


def keys_in_answer(operation: Operation, address: ObjectAddress | None, headers: Headers) -> tuple[ObjectId, ...]:
    """The object that a form upload made, which S3 names in ``Location`` (S3 API: POST Object): it is what that leads
    to, or, when the browser is sent to a page, what the parameter ``key`` that S3 appends says.
    """
    location = headers.get(b"location")
    if operation is not Operation.PostObject or address is None or location is None:
        return ()
    head, _, query = location.partition(b"?")
    path = unquote_to_bytes(head)
    if b"://" in path:
        path = path.partition(b"://")[2].partition(b"/")[2]
    path = path.lstrip(b"/")
    keys = [path]
    if path.startswith(address.bucket + b"/"):
        keys.append(path[len(address.bucket) + 1 :])
    # A blank may be written as forms do it.
    for name, value in (*query_params(query), *query_params(query.replace(b"+", b" "))):
        if name == b"key" and value:
            keys.append(value)
    return tuple(id for key in keys for id in _affected(address.with_key(key)))


def _affected(address: ObjectAddress) -> tuple[ObjectId, ...]:
    return tuple(ObjectId(each.store, each.bucket, each.key) for each in address.affected())
