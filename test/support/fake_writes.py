"""The operations of the fake S3 that change objects: put, copy, delete, multi-delete, form upload, sub-resources."""

import base64
import binascii
import hmac
import json
import xml.etree.ElementTree as ElementTree
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from hashlib import sha256
from urllib.parse import unquote_to_bytes

from test.support.fake_messages import Response, S3Error, S3Request, element, iso_date, parse_http_date, xml_document
from test.support.fake_reads import find_version
from test.support.fake_routing import document_name
from test.support.fake_store import Bucket, BytesBody, ObjectVersion
from test.support.fake_upload import receive, receive_document
from test.support.sigv4 import Credential, scope_key

__all__ = [
    "checksum_headers",
    "copy_object",
    "copy_source",
    "delete_object",
    "delete_objects",
    "documents",
    "find_text",
    "parse_xml",
    "post_object",
    "put_object",
    "stored_headers",
]

Pair = tuple[bytes, bytes]

_STORED = frozenset(
    b"cache-control content-disposition content-encoding content-language content-type expires x-amz-storage-class "
    b"x-amz-website-redirect-location".split()
)
_FORM_LIMIT = 32 << 20


def stored_headers(request: S3Request) -> tuple[Pair, ...]:
    """The fields of an upload that S3 keeps and sends with the object; ``aws-chunked`` is not one of its encodings."""
    kept = []
    for name, value in request.head.headers:
        lower = name.lower()
        if lower == b"content-encoding":
            codings = [coding.strip() for coding in value.split(b",")]
            others = [coding for coding in codings if coding.lower() != b"aws-chunked"]
            if len(others) != len(codings):
                value = b",".join(others)
            if not value:
                continue
        if lower in _STORED or lower.startswith(b"x-amz-meta-"):
            kept.append((lower if lower.startswith(b"x-amz-") else name, value))
    return tuple(kept)


def checksum_headers(checksums: dict[str, bytes], kind: bytes) -> list[Pair]:
    """How an answer shows these checksums."""
    fields = [(f"x-amz-checksum-{name}".encode(), value) for name, value in checksums.items()]
    return [*fields, (b"x-amz-checksum-type", kind)] if fields else []


def _version_fields(version: ObjectVersion) -> list[Pair]:
    return [] if version.version_id == b"null" else [(b"x-amz-version-id", version.version_id)]


def _check_write_conditions(request: S3Request) -> None:
    current = request.bucket.current(request.key)
    exists = current is not None and not current.delete_marker
    failed = "At least one of the pre-conditions you specified did not hold"
    if request.header(b"if-none-match") is not None and exists:
        raise S3Error(412, "PreconditionFailed", failed, [("Condition", "If-None-Match")])
    if_match = request.header(b"if-match")
    if if_match is not None:
        if current is None or not exists:
            raise request.no_such_key()
        if if_match.strip(b'"') != current.etag.strip(b'"'):
            raise S3Error(412, "PreconditionFailed", failed, [("Condition", "If-Match")])


async def put_object(request: S3Request) -> Response:
    """PutObject."""
    _check_write_conditions(request)
    received = await receive(request)
    bucket = request.bucket
    version = request.store.put(
        bucket,
        request.key,
        received.body,
        etag=received.etag,
        headers=stored_headers(request),
        checksums=received.checksums,
    )
    fields = [(b"x-amz-server-side-encryption", b"AES256"), (b"ETag", version.etag), *_version_fields(version)]
    return Response(headers=(*fields, *checksum_headers(received.checksums, b"FULL_OBJECT")))


def copy_source(request: S3Request) -> ObjectVersion:
    """The version that x-amz-copy-source names, with its conditions checked.

    :raises S3Error: if it is not there, or a condition fails.
    """
    text = request.header(b"x-amz-copy-source") or b""
    path, _, query = text.partition(b"?")
    bucket_name, _, key = unquote_to_bytes(path).lstrip(b"/").partition(b"/")
    version_id = query[len(b"versionId=") :] if query.startswith(b"versionId=") else None
    if not key:
        raise S3Error(400, "InvalidArgument", "Invalid copy source object key")
    bucket = request.store.buckets.get(bucket_name)
    if bucket is None:
        raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist")
    version = find_version(_at(request, bucket, key), key, version_id)
    prefix = b"x-amz-copy-source-if-"
    match, none_match = request.header(prefix + b"match"), request.header(prefix + b"none-match")
    modified = parse_http_date(request.header(prefix + b"modified-since") or b"")
    unmodified = parse_http_date(request.header(prefix + b"unmodified-since") or b"")
    etag = version.etag.strip(b'"')
    if (
        (match is not None and match.strip(b'"') != etag)
        or (none_match is not None and none_match.strip(b'"') == etag)
        or (modified is not None and version.last_modified <= modified)
        or (match is None and unmodified is not None and version.last_modified > unmodified)
    ):
        raise S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    return version


def _at(request: S3Request, bucket: Bucket, key: bytes) -> S3Request:
    return S3Request(
        head=request.head,
        query={},
        bucket_name=bucket.name,
        bucket_in_host=None,
        key=key,
        operation=request.operation,
        raw_body=request.raw_body,
        store=request.store,
        verified=request.verified,
    )


async def copy_object(request: S3Request) -> Response:
    """CopyObject; the body of the request is empty."""
    bucket = request.bucket
    source = copy_source(request)
    replace = (request.header(b"x-amz-metadata-directive") or b"COPY").upper() == b"REPLACE"
    version = request.store.put(
        bucket,
        request.key,
        source.body,
        etag=source.etag if not source.parts else None,
        headers=stored_headers(request) if replace else source.headers,
        checksums=source.checksums if source.checksum_type == b"FULL_OBJECT" else {},
    )
    children = [element("LastModified", iso_date(version.last_modified)), element("ETag", version.etag)]
    return Response(headers=tuple(_version_fields(version)), document=xml_document("CopyObjectResult", children))


async def delete_object(request: S3Request) -> Response:
    """DeleteObject, of one version or of the key."""
    version_id = request.query.get(b"versionId")
    gone = request.store.delete(request.bucket, request.key, version_id)
    fields = [] if gone is None else _version_fields(gone)
    if gone is not None and gone.delete_marker:
        fields.append((b"x-amz-delete-marker", b"true"))
    return Response(status=204, headers=tuple(fields))


def parse_xml(document: bytes) -> ElementTree.Element:
    """The root, with name spaces removed from the tags.

    :raises S3Error: if it is not well-formed.
    """
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError:
        message = "The XML you provided was not well-formed or did not validate against our published schema"
        raise S3Error(400, "MalformedXML", message) from None
    for item in root.iter():
        item.tag = item.tag.rpartition("}")[2]
    return root


def find_text(parent: ElementTree.Element, name: str) -> bytes | None:
    """The text of this child, or None without one."""
    child = parent.find(name)
    return None if child is None else (child.text or "").encode()


async def delete_objects(request: S3Request) -> Response:
    """DeleteObjects; the body has to be protected by a digest."""
    digests = {b"content-md5", b"x-amz-trailer"}
    names = {name.lower() for name, _ in request.head.headers}
    if not any(name in digests or name.startswith(b"x-amz-checksum-") for name in names):
        raise S3Error(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    root = parse_xml(await receive_document(request))
    bucket = request.bucket
    children = []
    for item in root.findall("Object"):
        key = find_text(item, "Key") or b""
        version_id = find_text(item, "VersionId")
        gone = request.store.delete(bucket, key, version_id)
        shown = element("Key", key)
        if version_id is not None:
            shown += element("VersionId", version_id)
        if gone is not None and gone.delete_marker:
            shown += element("DeleteMarker", "true") + element("DeleteMarkerVersionId", gone.version_id)
        children.append(f"<Deleted>{shown}</Deleted>")
    quiet = (find_text(root, "Quiet") or b"").lower() == b"true"
    return Response(document=xml_document("DeleteResult", [] if quiet else children))


async def documents(request: S3Request) -> Response:
    """GET, PUT and DELETE of ``?acl``, ``?tagging`` and the other sub-resources that are one document."""
    bucket = request.bucket
    name = document_name(request.query)
    if request.key:
        find_version(request, request.key, request.query.get(b"versionId"))
    place = (request.key, name)
    if request.head.method == b"PUT":
        bucket.subresources[place] = await receive_document(request)
        return Response()
    if request.head.method == b"DELETE":
        bucket.subresources.pop(place, None)
        return Response(status=204)
    if place in bucket.subresources:
        return Response(document=bucket.subresources[place])
    if name == b"acl":
        owner = "<Owner>" + element("ID", "owner") + "</Owner><AccessControlList/>"
        return Response(document=xml_document("AccessControlPolicy", [owner]))
    if name == b"tagging" and request.key:
        return Response(document=xml_document("Tagging", ["<TagSet/>"]))
    raise S3Error(404, "NoSuch" + name.decode().title().replace("-", "") + "Configuration", "There is none")


async def post_object(request: S3Request, find: "dict[str, Credential]") -> Response:
    """A browser's form upload, with its policy's signature checked."""
    bucket = request.bucket
    data = await request.raw_body.read_all(_FORM_LIMIT)
    content_type = request.header(b"content-type") or b""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type + b"\r\n\r\n" + data)
    fields: dict[str, bytes] = {}
    filename = ""
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str) and not part.is_multipart():
            fields[name if name == "file" else name.lower()] = _payload(part)
            if name == "file":
                filename = part.get_filename() or ""
    if "key" not in fields or "file" not in fields:
        raise S3Error(400, "InvalidArgument", "Bucket POST must contain a field named 'key' and a file")
    key = fields["key"].replace(b"${filename}", filename.encode())
    if not bucket.public:
        _check_policy(fields, find)
    headers = tuple(
        (name.encode(), value)
        for name, value in fields.items()
        if name.encode() in _STORED or name.startswith("x-amz-meta-")
    )
    version = request.store.put(bucket, key, BytesBody(fields["file"]), headers=headers)
    status = fields.get("success_action_status", b"204")
    shown = [element("Bucket", bucket.name), element("Key", key), element("ETag", version.etag)]
    answer = ((b"ETag", version.etag), *_version_fields(version))
    if status == b"201":
        return Response(status=201, headers=answer, document=xml_document("PostResponse", shown))
    return Response(status=200 if status == b"200" else 204, headers=answer)


def _payload(part: Message) -> bytes:
    found = part.get_payload(decode=True)
    return found if isinstance(found, bytes) else b""


def _check_policy(fields: dict[str, bytes], find: "dict[str, Credential]") -> None:
    policy = fields.get("policy", b"")
    access_key, _, scope = fields.get("x-amz-credential", b"").partition(b"/")
    credential = find.get(access_key.decode("latin-1"))
    if credential is None or not policy:
        raise S3Error(403, "AccessDenied", "Access Denied")
    expected = hmac.new(scope_key(credential.secret_key, scope), policy, sha256).hexdigest().encode()
    if not hmac.compare_digest(expected, fields.get("x-amz-signature", b"")):
        raise S3Error(403, "SignatureDoesNotMatch", "The signature of the policy does not match")
    try:
        json.loads(base64.b64decode(policy, validate=True))
    except (ValueError, binascii.Error):
        raise S3Error(400, "InvalidPolicyDocument", "The policy is not JSON in base64") from None
