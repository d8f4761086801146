"""GetObject and HeadObject of the fake S3: conditions, ranges, parts, versions, header overrides."""

import re

from test.support.fake_messages import Response, S3Error, S3Request, http_date, parse_http_date
from test.support.fake_store import ObjectVersion

__all__ = ["find_version", "read_object"]

Pair = tuple[bytes, bytes]

_OVERRIDES = (
    b"cache-control", b"content-disposition", b"content-encoding", b"content-language", b"content-type", b"expires"
)


def find_version(request: S3Request, key: bytes, version_id: bytes | None) -> ObjectVersion:
    """The version that is meant.

    :raises S3Error: if there is none, or it is a delete marker.
    """
    bucket = request.bucket
    if version_id is None:
        version = bucket.current(key)
        if version is None:
            raise request.no_such_key()
        if version.delete_marker:
            error = request.no_such_key()
            error.headers = ((b"x-amz-delete-marker", b"true"), (b"x-amz-version-id", version.version_id))
            raise error
        return version
    for version in bucket.objects.get(key, ()):
        if version.version_id == version_id:
            if version.delete_marker:
                headers = [(b"x-amz-delete-marker", b"true"), (b"Allow", b"DELETE")]
                message = "The specified method is not allowed against this resource."
                raise S3Error(405, "MethodNotAllowed", message, headers=headers)
            return version
    raise S3Error(404, "NoSuchVersion", "The specified version does not exist.")


async def read_object(request: S3Request) -> Response:
    """Answer a GetObject or HeadObject."""
    version = find_version(request, request.key, request.query.get(b"versionId"))
    headers = _version_headers(request, version)
    not_modified = _judge_conditions(request, version)
    if not_modified:
        kept = (b"etag", b"last-modified", b"cache-control", b"expires", b"x-amz-version-id")
        return Response(status=304, headers=tuple(pair for pair in headers if pair[0].lower() in kept))
    size = version.body.size
    span, extra = _requested_span(request, version)
    whole = span is None
    start, stop = (0, size) if span is None else span
    headers = [*headers, *extra]
    if not whole:
        headers.append((b"Content-Range", b"bytes %d-%d/%d" % (start, stop - 1, size)))
    if (request.header(b"x-amz-checksum-mode") or b"").upper() == b"ENABLED":
        checksums = _checksums(request, version, whole)
        headers += [(f"x-amz-checksum-{name}".encode(), value) for name, value in checksums.items()]
        if checksums:
            headers.append((b"x-amz-checksum-type", version.checksum_type))
    return Response(
        status=200 if whole else 206, headers=tuple(headers), body=version.body, start=start, stop=stop
    )


def _checksums(request: S3Request, version: ObjectVersion, whole: bool) -> dict[str, bytes]:
    """Those of the object, or of the part that was asked for by number; a range has none."""
    if whole:
        return version.checksums
    number = request.query.get(b"partNumber")
    if number is None:
        return {}
    if not version.parts:
        return version.checksums
    return version.part_checksums[int(number) - 1] if version.part_checksums else {}


def _version_headers(request: S3Request, version: ObjectVersion) -> list[Pair]:
    headers: list[Pair] = [
        (b"Last-Modified", http_date(version.last_modified)),
        (b"ETag", version.etag),
        (b"x-amz-server-side-encryption", b"AES256"),
        (b"Accept-Ranges", b"bytes"),
    ]
    query = request.query
    overrides = {name: query[b"response-" + name] for name in _OVERRIDES if b"response-" + name in query}
    if overrides and request.verified is None:
        message = "Request specific response headers cannot be used for anonymous GET requests."
        raise S3Error(400, "InvalidRequest", message)
    stored = dict((name.lower(), (name, value)) for name, value in version.headers)
    stored.setdefault(b"content-type", (b"Content-Type", b"binary/octet-stream"))
    for name, value in overrides.items():
        stored[name] = (name, value)
    headers += stored.values()
    if version.version_id != b"null":
        headers.append((b"x-amz-version-id", version.version_id))
    return headers


def _tags(value: bytes) -> list[bytes]:
    return [match[0] for match in re.finditer(rb'(?:W/)?"[^"]*"|[^\s,"]+', value)]


def _matches(value: bytes, etag: bytes, weak: bool) -> bool:
    if value.strip() == b"*":
        return True
    for tag in _tags(value):
        if tag.startswith(b"W/"):
            if not weak:
                continue
            tag = tag[2:]
        if tag.strip(b'"') == etag.strip(b'"'):
            return True
    return False


def _judge_conditions(request: S3Request, version: ObjectVersion) -> bool:
    """True for 304, False to go on (RFC 9110 section 13.2.2).

    :raises S3Error: 412, if a precondition failed.
    """
    failed = "At least one of the pre-conditions you specified did not hold"
    if_match = request.header(b"if-match")
    if_unmodified = parse_http_date(request.header(b"if-unmodified-since") or b"")
    if if_match is not None:
        if not _matches(if_match, version.etag, weak=False):
            raise S3Error(412, "PreconditionFailed", failed, [("Condition", "If-Match")])
    elif if_unmodified is not None and version.last_modified > if_unmodified:
        raise S3Error(412, "PreconditionFailed", failed, [("Condition", "If-Unmodified-Since")])
    if_none_match = request.header(b"if-none-match")
    if if_none_match is not None:
        return _matches(if_none_match, version.etag, weak=True)
    if_modified = parse_http_date(request.header(b"if-modified-since") or b"")
    return if_modified is not None and version.last_modified <= if_modified


def _range_applies(request: S3Request, version: ObjectVersion) -> bool:
    if_range = request.header(b"if-range")
    if if_range is None:
        return True
    if if_range.startswith(b'"'):
        return if_range == version.etag
    return parse_http_date(if_range) == version.last_modified


def _requested_span(request: S3Request, version: ObjectVersion) -> tuple[tuple[int, int] | None, list[Pair]]:
    """Bytes [start, stop) for a 206, or None for the whole object, and header fields of a part."""
    size = version.body.size
    text = request.header(b"range")
    part = request.query.get(b"partNumber")
    if part is not None:
        if text is not None:
            raise S3Error(400, "InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
        return _part_span(part, version)
    if text is None or not _range_applies(request, version):
        return None, []
    match = re.fullmatch(rb"bytes=(\d*)-(\d*)", text.strip())
    if match is None or match[0] == b"bytes=-":
        return None, []
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None, []
    if start >= size or (not first and int(last) == 0):
        elements = [("RangeRequested", text.decode("latin-1")), ("ActualObjectSize", str(size))]
        headers = [(b"Content-Range", b"bytes */%d" % size)]
        raise S3Error(416, "InvalidRange", "The requested range is not satisfiable", elements, headers)
    return (start, stop), []


def _part_span(text: bytes, version: ObjectVersion) -> tuple[tuple[int, int] | None, list[Pair]]:
    number = int(text) if text.isdigit() else 0
    if not 1 <= number <= 10000:
        message = "Part number must be an integer between 1 and 10000, inclusive"
        raise S3Error(400, "InvalidArgument", message)
    sizes = version.parts or (version.body.size,)
    if number > len(sizes):
        elements = [("ActualPartCount", str(len(sizes))), ("PartNumberRequested", str(number))]
        raise S3Error(416, "InvalidPartNumber", "The requested partnumber is not satisfiable", elements)
    extra = [(b"x-amz-mp-parts-count", b"%d" % len(sizes))] if version.parts else []
    start = sum(sizes[: number - 1])
    if version.body.size == 0:
        return None, extra
    return (start, start + sizes[number - 1]), extra
