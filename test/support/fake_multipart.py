"""Multipart uploads of the fake S3."""

import hashlib
import re

from test.support.content import CHECKSUM_ALGORITHMS
from test.support.fake_messages import Response, S3Error, S3Request, element, iso_date, xml_document
from test.support.fake_store import BodyWriter, Part, Upload
from test.support.fake_upload import receive, receive_document
from test.support.fake_writes import checksum_headers, copy_source, find_text, parse_xml, stored_headers

__all__ = ["abort", "complete", "create", "list_parts", "list_uploads", "upload_part", "upload_part_copy"]


def _find(request: S3Request) -> Upload:
    upload = request.bucket.uploads.get(request.query[b"uploadId"])
    if upload is None or upload.key != request.key:
        message = "The specified multipart upload does not exist. The upload ID may be invalid."
        raise S3Error(404, "NoSuchUpload", message)
    return upload


def _number(request: S3Request) -> int:
    text = request.query.get(b"partNumber", b"")
    number = int(text) if text.isdigit() else 0
    if not 1 <= number <= 10000:
        message = "Part number must be an integer between 1 and 10000, inclusive"
        raise S3Error(400, "InvalidArgument", message)
    return number


async def create(request: S3Request) -> Response:
    """CreateMultipartUpload."""
    bucket = request.bucket
    algorithm = (request.header(b"x-amz-checksum-algorithm") or b"").lower().decode("latin-1") or None
    if algorithm is not None and algorithm not in CHECKSUM_ALGORITHMS:
        raise S3Error(400, "InvalidRequest", "Checksum algorithm provided is unsupported.")
    usual = b"FULL_OBJECT" if algorithm in (None, "crc64nvme") else b"COMPOSITE"
    upload = Upload(
        upload_id=request.store.new_upload_id(),
        key=request.key,
        initiated=request.store.seconds(),
        headers=stored_headers(request),
        algorithm=algorithm or ("crc64nvme" if "crc64nvme" in CHECKSUM_ALGORITHMS else None),
        checksum_type=(request.header(b"x-amz-checksum-type") or usual).upper(),
    )
    bucket.uploads[upload.upload_id] = upload
    fields = [(b"x-amz-server-side-encryption", b"AES256")]
    if algorithm is not None:
        fields.append((b"x-amz-checksum-algorithm", algorithm.upper().encode()))
        fields.append((b"x-amz-checksum-type", upload.checksum_type))
    shown = [
        element("Bucket", bucket.name),
        element("Key", request.key),
        element("UploadId", upload.upload_id),
    ]
    return Response(headers=tuple(fields), document=xml_document("InitiateMultipartUploadResult", shown))


async def upload_part(request: S3Request) -> Response:
    """UploadPart."""
    upload = _find(request)
    number = _number(request)
    received = await receive(request, default_checksum=upload.algorithm)
    upload.parts[number] = Part(
        etag=received.etag,
        body=received.body,
        last_modified=request.store.seconds(),
        md5=received.md5,
        checksums=received.checksums,
    )
    fields = [(b"ETag", received.etag), (b"x-amz-server-side-encryption", b"AES256")]
    return Response(headers=(*fields, *checksum_headers(received.checksums, b"FULL_OBJECT")[:-1]))


async def upload_part_copy(request: S3Request) -> Response:
    """UploadPartCopy, of the whole source or of x-amz-copy-source-range."""
    upload = _find(request)
    number = _number(request)
    source = copy_source(request)
    start, stop = 0, source.body.size
    text = request.header(b"x-amz-copy-source-range")
    if text is not None:
        match = re.fullmatch(rb"bytes=(\d+)-(\d+)", text)
        if match is None or not int(match[1]) <= int(match[2]) < stop:
            message = "The x-amz-copy-source-range value must be of the form bytes=first-last"
            raise S3Error(400, "InvalidArgument", message)
        start, stop = int(match[1]), int(match[2]) + 1
    writer = BodyWriter([upload.algorithm] if upload.algorithm else [])
    for begin in range(start, stop, 1 << 20):
        writer.write(source.body.read(begin, min(stop, begin + (1 << 20))))
    now = request.store.seconds()
    etag = b'"%b"' % writer.md5().hex().encode()
    upload.parts[number] = Part(
        etag=etag, body=writer.body(), last_modified=now, md5=writer.md5(), checksums=writer.checksums()
    )
    shown = [element("LastModified", iso_date(now)), element("ETag", etag)]
    return Response(document=xml_document("CopyPartResult", shown))


async def complete(request: S3Request) -> Response:
    """CompleteMultipartUpload: order, presence, ETags, checksums and minimum size of the listed parts are checked."""
    upload = _find(request)
    root = parse_xml(await receive_document(request))
    numbers: list[int] = []
    for item in root.findall("Part"):
        text = find_text(item, "PartNumber") or b""
        number = int(text) if text.isdigit() else 0
        part = upload.parts.get(number)
        etag = (find_text(item, "ETag") or b"").strip(b'"')
        if part is None or part.etag.strip(b'"') != etag:
            message = "One or more of the specified parts could not be found."
            raise S3Error(400, "InvalidPart", message, [("PartNumber", str(number))])
        for name, value in part.checksums.items():
            given = find_text(item, "Checksum" + name.upper())
            if given is not None and given != value:
                raise S3Error(400, "InvalidPart", f"The {name.upper()} of a part does not match")
        if numbers and number <= numbers[-1]:
            message = "The list of parts was not in ascending order. Parts must be ordered by part number."
            raise S3Error(400, "InvalidPartOrder", message)
        numbers.append(number)
    if not numbers:
        raise S3Error(400, "MalformedXML", "You must specify at least one part")
    if any(upload.parts[number].body.size < request.min_part_size for number in numbers[:-1]):
        raise S3Error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
    size = request.header(b"x-amz-mp-object-size")
    if size is not None and int(size) != sum(upload.parts[number].body.size for number in numbers):
        raise S3Error(400, "InvalidRequest", "The value of x-amz-mp-object-size is not the sum of the parts")
    bucket = request.bucket
    version = request.store.complete(bucket, upload, numbers)
    host = (request.header(b"host") or b"").decode("latin-1")
    shown = [
        element("Location", f"http://{host}/{request.key.decode('utf-8', 'replace')}"),
        element("Bucket", bucket.name),
        element("Key", request.key),
        element("ETag", version.etag),
    ]
    shown += [element("Checksum" + name.upper(), value) for name, value in version.checksums.items()]
    if version.checksums:
        shown.append(element("ChecksumType", version.checksum_type))
    fields = [] if version.version_id == b"null" else [(b"x-amz-version-id", version.version_id)]
    return Response(headers=tuple(fields), document=xml_document("CompleteMultipartUploadResult", shown))


async def abort(request: S3Request) -> Response:
    """AbortMultipartUpload."""
    del request.bucket.uploads[_find(request).upload_id]
    return Response(status=204)


async def list_parts(request: S3Request) -> Response:
    """ListParts, in one page."""
    upload = _find(request)
    shown = [element("Bucket", request.bucket.name), element("Key", upload.key), element("UploadId", upload.upload_id)]
    for number, part in sorted(upload.parts.items()):
        inside = element("PartNumber", number) + element("LastModified", iso_date(part.last_modified))
        shown.append(f"<Part>{inside}{element('ETag', part.etag)}{element('Size', part.body.size)}</Part>")
    return Response(document=xml_document("ListPartsResult", [*shown, element("IsTruncated", "false")]))


async def list_uploads(request: S3Request) -> Response:
    """ListMultipartUploads, in one page."""
    prefix = request.query.get(b"prefix", b"")
    shown = [element("Bucket", request.bucket.name), element("IsTruncated", "false")]
    for upload in request.bucket.uploads.values():
        if upload.key.startswith(prefix):
            inside = element("Key", upload.key) + element("UploadId", upload.upload_id)
            shown.append(f"<Upload>{inside}{element('Initiated', iso_date(upload.initiated))}</Upload>")
    return Response(document=xml_document("ListMultipartUploadsResult", shown))


def etag_of_parts(*parts: bytes) -> bytes:
    """The entity tag of an object that was uploaded in these parts."""
    digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
    return b'"%b-%d"' % (hashlib.md5(digests, usedforsecurity=False).hexdigest().encode(), len(parts))
