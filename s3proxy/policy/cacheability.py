"""May this answer be kept, and where do its bytes go? Pure; S3's answer decides, never what was asked."""

import attrs

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.policy.verdicts import Reason
from s3proxy.s3.headers import CHECKSUM_FIELDS, Headers, storable_response
from s3proxy.s3.parts import PartMap
from s3proxy.s3.ranges import parse_content_range
from s3proxy.util.intervals import Interval

__all__ = ["Storable", "judge_answer"]


@attrs.frozen
class Storable:
    """An answer that may be kept.

    :ivar interval: where in the object its body belongs; for HEAD the whole object, or the part that was asked for
    :ivar whole: the answer describes the whole object
    """

    version: ObjectVersion
    interval: Interval
    whole: bool


def judge_answer(
    id: ObjectId,
    status: int,
    headers: Headers,
    body_length: int | None,
    *,
    checksums_asked: bool,
    head: bool,
    part: int | None = None,
) -> Storable | Reason:
    """What S3's answer to a GET or HEAD of an object is good for.

    :param body_length: HEAD: what Content-Length claims
    :param part: the part that was asked for by number, if one was
    :return: how to keep it, or why not
    """
    if status not in (200, 206):
        return Reason.NOT_CACHEABLE
    etag = headers.get(b"etag")
    if not etag or len(headers.get_all(b"etag")) != 1 or etag.startswith(b"W/"):
        # A weak one does not promise the same bytes (RFC 9110 8.8.1).
        return Reason.NO_ETAG
    if body_length is None:
        return Reason.NO_LENGTH
    if part is not None and status != 206:
        # Some stores answer with the whole object then, others with the part, and neither says which.
        return Reason.PART_NUMBER
    if head and part is None and (status == 206 or b"content-range" in headers or b"x-amz-mp-parts-count" in headers):
        # The description of a part or a range, not of the object.
        return Reason.RANGE_FORM
    if status == 206:
        content_range = parse_content_range(headers.get(b"content-range") or b"")
        if content_range is None or content_range.size is None:
            return Reason.BAD_CONTENT_RANGE
        interval = (content_range.start, content_range.stop)
        if interval[1] - interval[0] != body_length:
            return Reason.BAD_CONTENT_RANGE
        size = content_range.size
    else:
        if b"content-range" in headers:
            return Reason.BAD_CONTENT_RANGE
        size = body_length
        interval = (0, size)
    kept, parts = storable_response(headers), None
    if part is not None:
        # Of what describes the object a part's answer has all but the checksums: those are the part's.
        kept = kept.without(CHECKSUM_FIELDS)
        parts = PartMap.of_answer(part, interval, headers, checksums_asked=checksums_asked)
    version = ObjectVersion(
        id=id,
        etag=etag,
        last_modified=headers.get(b"last-modified"),
        size=size,
        headers=kept,
        checksums=checksums_asked and status == 200,
        parts=parts,
    )
    return Storable(version, interval, status == 200)
