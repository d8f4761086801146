"""Which bucket, key and operation a request to the fake S3 means."""

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

import attrs

from test.support.http_connection import RequestHead
from test.support.sigv4 import query_pairs

__all__ = ["Route", "route"]

_AWS_HOST = re.compile(
    rb"(?:(?P<bucket>.+)\.)?"
    rb"s3(?:[.-](?:fips|dualstack|accelerate|global|[a-z]{2}(?:-[a-z]+)+-\d))*\.amazonaws\.com(?:\.cn)?"
)

_BUCKET_DOCUMENTS = (
    b"accelerate", b"acl", b"analytics", b"cors", b"encryption", b"inventory", b"lifecycle", b"logging", b"metrics",
    b"notification", b"object-lock", b"ownershipControls", b"policy", b"policyStatus", b"publicAccessBlock",
    b"replication", b"requestPayment", b"tagging", b"website",
)
_BUCKET_READS = {
    b"location": "GetBucketLocation",
    b"uploads": "ListMultipartUploads",
    b"versioning": "GetBucketVersioning",
    b"versions": "ListObjectVersions",
}
_OBJECT_DOCUMENTS = (b"acl", b"legal-hold", b"retention", b"tagging")


@attrs.frozen(kw_only=True)
class Route:
    """What a request is about."""

    bucket: bytes
    key: bytes
    bucket_in_host: bytes | None
    query: dict[bytes, bytes]
    operation: str
    """The name of the S3 operation, or ``Unknown``."""


def route(head: RequestHead, domains: Sequence[bytes]) -> Route | None:
    """Understand the request; None if the target is not in origin-form.

    Buckets may stand in the Host before AWS's names or one of ``domains``; a host that is neither means path style.
    """
    if not head.target.startswith(b"/"):
        return None
    path, _, query_text = head.target.partition(b"?")
    query = dict(query_pairs(query_text))
    host = re.sub(rb":\d+$", b"", head.get(b"host") or b"").lower()
    in_host = _bucket_in_host(host, domains)
    if in_host is not None:
        bucket, raw_key = in_host, path[1:]
    else:
        bucket, _, raw_key = path[1:].partition(b"/")
        bucket = unquote_to_bytes(bucket)
    key = unquote_to_bytes(raw_key)
    return Route(
        bucket=bucket,
        key=key,
        bucket_in_host=in_host,
        query=query,
        operation=_operation(head, bucket, key, query),
    )


def _bucket_in_host(host: bytes, domains: Sequence[bytes]) -> bytes | None:
    for domain in domains:
        if host == domain:
            return None
        if host.endswith(b"." + domain):
            return host[: -len(domain) - 1]
    aws = _AWS_HOST.fullmatch(host)
    return aws["bucket"] if aws is not None else None


def _operation(head: RequestHead, bucket: bytes, key: bytes, query: dict[bytes, bytes]) -> str:
    method = head.method
    if method == b"OPTIONS":
        return "Preflight"
    if not bucket:
        return "ListBuckets" if method == b"GET" else "Unknown"
    if key:
        return _object_operation(head, method, query)
    if method == b"POST":
        form = (head.get(b"content-type") or b"").startswith(b"multipart/form-data")
        return "DeleteObjects" if b"delete" in query else "PostObject" if form else "Unknown"
    document = next((name for name in _BUCKET_DOCUMENTS if name in query), None)
    if document is not None:
        return {b"GET": "GetDocument", b"PUT": "PutDocument", b"DELETE": "DeleteDocument"}.get(method, "Unknown")
    if method == b"GET":
        found = next((_BUCKET_READS[name] for name in _BUCKET_READS if name in query), None)
        return found or ("ListObjectsV2" if query.get(b"list-type") == b"2" else "ListObjects")
    if method == b"PUT":
        return "PutBucketVersioning" if b"versioning" in query else "CreateBucket"
    return {b"HEAD": "HeadBucket", b"DELETE": "DeleteBucket"}.get(method, "Unknown")


def _object_operation(head: RequestHead, method: bytes, query: dict[bytes, bytes]) -> str:
    if method == b"POST":
        if b"uploads" in query:
            return "CreateMultipartUpload"
        if b"uploadId" in query:
            return "CompleteMultipartUpload"
        return "RestoreObject" if b"restore" in query else "Unknown"
    if b"uploadId" in query:
        copy = "UploadPartCopy" if head.get(b"x-amz-copy-source") is not None else "UploadPart"
        return {b"GET": "ListParts", b"PUT": copy, b"DELETE": "AbortMultipartUpload"}.get(method, "Unknown")
    if any(name in query for name in _OBJECT_DOCUMENTS):
        return {b"GET": "GetDocument", b"PUT": "PutDocument", b"DELETE": "DeleteDocument"}.get(method, "Unknown")
    if method == b"GET":
        return "GetObjectAttributes" if b"attributes" in query else "GetObject"
    if method == b"PUT":
        return "CopyObject" if head.get(b"x-amz-copy-source") is not None else "PutObject"
    return {b"HEAD": "HeadObject", b"DELETE": "DeleteObject"}.get(method, "Unknown")


def document_name(query: dict[bytes, bytes]) -> bytes:
    """The sub-resource that a Get-, Put- or DeleteDocument is about."""
    return next(name for name in (*_OBJECT_DOCUMENTS, *_BUCKET_DOCUMENTS) if name in query)
