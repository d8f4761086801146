"""The operations of the fake S3 on buckets: listings, versions, location, creation, CORS preflight."""

import base64
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

from test.support.fake_messages import Response, S3Error, S3Request, element, iso_date, xml_document
from test.support.fake_store import ObjectVersion
from test.support.fake_upload import receive_document
from test.support.fake_writes import find_text, parse_xml

__all__ = [
    "bucket_location",
    "bucket_versioning",
    "create_bucket",
    "delete_bucket",
    "head_bucket",
    "list_buckets",
    "list_objects",
    "list_versions",
    "preflight",
    "put_versioning",
]


def _shown_key(request: S3Request, name: str, key: bytes) -> str:
    if request.query.get(b"encoding-type") == b"url":
        return element(name, quote_from_bytes(key, safe="/-_.~*"))
    return element(name, key)


def _entry(request: S3Request, key: bytes, version: ObjectVersion) -> str:
    return (
        _shown_key(request, "Key", key)
        + element("LastModified", iso_date(version.last_modified))
        + element("ETag", version.etag)
        + element("Size", version.body.size)
        + element("StorageClass", "STANDARD")
    )


def _selected(request: S3Request, after: bytes) -> Iterator[tuple[bytes, ObjectVersion | None]]:
    """Keys with their versions and common prefixes without one, in order, behind ``after``."""
    prefix = request.query.get(b"prefix", b"")
    delimiter = request.query.get(b"delimiter", b"")
    last = None
    for key, version in request.bucket.listing():
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            if key > after:
                yield key, version
            continue
        common = key[: at + len(delimiter)]
        if common != last and common > after and not after.startswith(common):
            yield common, None
        last = common


async def list_objects(request: S3Request) -> Response:
    """ListObjects and ListObjectsV2, with pages."""
    second = request.operation == "ListObjectsV2"
    query = request.query
    token = query.get(b"continuation-token")
    after = query.get(b"start-after" if second else b"marker", b"")
    if second and token is not None:
        after = base64.urlsafe_b64decode(token)
    limit_text = query.get(b"max-keys", b"1000")
    if not limit_text.isdigit():
        raise S3Error(400, "InvalidArgument", "Argument max-keys must be an integer between 0 and 2147483647")
    limit = min(1000, int(limit_text))
    shown: list[str] = []
    truncated = False
    last = b""
    for name, version in _selected(request, after):
        if len(shown) == limit:
            truncated = True
            break
        if version is None:
            shown.append(f"<CommonPrefixes>{_shown_key(request, 'Prefix', name)}</CommonPrefixes>")
        else:
            shown.append(f"<Contents>{_entry(request, name, version)}</Contents>")
        last = name
    head = [
        element("Name", request.bucket.name),
        _shown_key(request, "Prefix", query.get(b"prefix", b"")),
        element("MaxKeys", limit),
        element("IsTruncated", "true" if truncated and limit else "false"),
    ]
    if query.get(b"delimiter"):
        head.append(_shown_key(request, "Delimiter", query[b"delimiter"]))
    if query.get(b"encoding-type"):
        head.append(element("EncodingType", query[b"encoding-type"]))
    if second:
        head.append(element("KeyCount", len(shown)))
        if truncated and limit:
            head.append(element("NextContinuationToken", base64.urlsafe_b64encode(last)))
    else:
        head.append(_shown_key(request, "Marker", after))
        if truncated and limit:
            head.append(_shown_key(request, "NextMarker", last))
    return Response(document=xml_document("ListBucketResult", [*head, *shown]))


async def list_versions(request: S3Request) -> Response:
    """ListObjectVersions, in one page."""
    prefix = request.query.get(b"prefix", b"")
    shown = [element("Name", request.bucket.name), element("IsTruncated", "false")]
    for key in sorted(request.bucket.objects):
        if not key.startswith(prefix):
            continue
        versions = request.bucket.objects[key]
        for version in reversed(versions):
            latest = element("IsLatest", "true" if version is versions[-1] else "false")
            kind = "DeleteMarker" if version.delete_marker else "Version"
            inside = _entry(request, key, version) + element("VersionId", version.version_id) + latest
            shown.append(f"<{kind}>{inside}</{kind}>")
    return Response(document=xml_document("ListVersionsResult", shown))


async def list_buckets(request: S3Request) -> Response:
    """ListBuckets."""
    names = "".join(
        f"<Bucket>{element('Name', name)}{element('CreationDate', iso_date(0))}</Bucket>"
        for name in sorted(request.store.buckets)
    )
    return Response(document=xml_document("ListAllMyBucketsResult", [f"<Buckets>{names}</Buckets>"]))


async def head_bucket(request: S3Request) -> Response:
    """HeadBucket."""
    found = request.bucket
    return Response(headers=((b"x-amz-bucket-region", b"us-east-1"),) if found else ())


async def create_bucket(request: S3Request) -> Response:
    """CreateBucket; a bucket that is there already stays as it is."""
    await request.raw_body.read_all(1 << 16)
    if request.bucket_name not in request.store.buckets:
        request.store.create_bucket(request.bucket_name)
    return Response(headers=((b"Location", b"/" + request.bucket_name),))


async def delete_bucket(request: S3Request) -> Response:
    """DeleteBucket."""
    if request.bucket.objects:
        raise S3Error(409, "BucketNotEmpty", "The bucket you tried to delete is not empty")
    del request.store.buckets[request.bucket_name]
    return Response(status=204)


async def bucket_location(request: S3Request) -> Response:
    """GetBucketLocation: us-east-1 is shown as nothing."""
    return Response(document=xml_document("LocationConstraint", [""] if request.bucket else []))


async def bucket_versioning(request: S3Request) -> Response:
    """GetBucketVersioning."""
    return Response(
        document=xml_document(
            "VersioningConfiguration", [element("Status", "Enabled")] if request.bucket.versioned else []
        )
    )


async def put_versioning(request: S3Request) -> Response:
    """PutBucketVersioning."""
    root = parse_xml(await receive_document(request))
    request.bucket.versioned = find_text(root, "Status") == b"Enabled"
    return Response()


async def preflight(request: S3Request) -> Response:
    """CORS preflight: allowed for every origin where the bucket has CORS at all."""
    origin = request.header(b"origin")
    method = request.header(b"access-control-request-method")
    if origin is None or method is None:
        raise S3Error(400, "BadRequest", "Insufficient information. Origin request header needed.")
    if not request.bucket.cors:
        raise S3Error(403, "AccessForbidden", "CORSResponse: CORS is not enabled for this bucket.")
    fields = [
        (b"Access-Control-Allow-Origin", origin),
        (b"Access-Control-Allow-Methods", b"GET, PUT, POST, DELETE, HEAD"),
        (b"Access-Control-Max-Age", b"3000"),
        (b"Vary", b"Origin, Access-Control-Request-Headers, Access-Control-Request-Method"),
    ]
    asked = request.header(b"access-control-request-headers")
    if asked is not None:
        fields.append((b"Access-Control-Allow-Headers", asked))
    return Response(headers=tuple(fields))
