"""What S3 holds, as a dictionary: for every key the versions it has had, and when each was the current one.

The bytes of a version tell whose they are: every cell of 16 names its key, its content and its offset, so that bytes
of another version, or of another place, are recognised wherever they turn up.
"""

import base64
import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache

import attrs

__all__ = [
    "CELL",
    "EXTRAS",
    "Composed",
    "Content",
    "History",
    "Shape",
    "Span",
    "Version",
    "body_of",
    "described_by",
    "http_date",
    "shape_of",
]

Span = tuple[int, int]

CELL = 16
EXTRAS = (b"x-amz-mp-parts-count", b"x-amz-checksum-crc32", b"x-amz-checksum-sha256", b"x-amz-checksum-type")
"""Fields that belong to some answers about a version only."""
FIRST_WRITE = 1_600_000_000
"""Unix seconds of the first Last-Modified."""


@lru_cache(maxsize=512)
def body_of(key: bytes, number: int, size: int) -> bytes:
    """The bytes of one content; ``key`` is one letter."""
    return b"".join(b"%s%05d@%08d|" % (key, number, offset) for offset in range(0, size, CELL))[:size]


@attrs.frozen
class Content:
    """Bytes that were uploaded at once, perhaps more than once.

    :ivar parts: the sizes of the parts of a multipart upload; empty for any other
    """

    key: bytes
    number: int
    size: int
    parts: tuple[int, ...] = ()

    @property
    def body(self) -> bytes:
        """All of it."""
        return body_of(self.key, self.number, self.size)

    @property
    def etag(self) -> bytes:
        """The MD5 for some, as S3 has it for small uploads, something opaque for others. No two contents share it."""
        if self.parts:
            return b'"%s-%d"' % (hashlib.md5(self.body).hexdigest().encode(), len(self.parts))
        if self.number % 2 and self.size >= CELL:
            return b'"%s"' % hashlib.md5(self.body).hexdigest().encode()
        return b'"%s-content-%d"' % (self.key, self.number)

    def extras(self, status: int, fields: Mapping[bytes, bytes], part: int | None) -> dict[bytes, bytes]:
        """What S3 adds to some successful answers: the number of parts, and checksums."""
        extras: dict[bytes, bytes] = {}
        if part is not None and self.parts:
            extras[b"x-amz-mp-parts-count"] = b"%d" % len(self.parts)
        if fields.get(b"x-amz-checksum-mode") == b"ENABLED":
            if part is not None:
                extras[b"x-amz-checksum-sha256"] = base64.b64encode(b"part %d of %d" % (part, self.number))
            elif status == 200 and self.parts:
                extras[b"x-amz-checksum-sha256"] = b"Y29tcG9zaXRl-%d" % len(self.parts)
            elif status == 200:
                extras[b"x-amz-checksum-crc32"] = base64.b64encode(zlib.crc32(self.body).to_bytes(4, "big"))
                extras[b"x-amz-checksum-type"] = b"FULL_OBJECT"
        return extras

    def part(self, number: int) -> Span | None:
        """Where a part is; None: there are not so many."""
        sizes = self.parts or (self.size,)
        if number > len(sizes):
            return None
        start = sum(sizes[: number - 1])
        return (start, start + sizes[number - 1])


@attrs.frozen
class Composed(Content):
    """Bytes that were not uploaded at once: parts, copies, and what was appended.

    :ivar pieces: its bytes
    :ivar tag: its ETag
    """

    pieces: tuple[bytes, ...] = attrs.field(default=(), repr=False)
    tag: bytes = b""

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)

    @property
    def etag(self) -> bytes:
        """See :class:`Content`."""
        return self.tag


def described_by(label: bytes) -> dict[bytes, bytes]:
    """The fields of an upload that come back with the object."""
    return {b"Content-Type": b"text/x-%s" % label, b"x-amz-meta-version": label}


@attrs.define(eq=False)
class Version:
    """One state of a key.

    :ivar label: what its metadata say, and those of no other version of the key
    :ivar content: None: the key was deleted
    :ivar since: the moment from which it was current
    :ivar until: the moment and the unix seconds at which it ceased to be; None: it has not
    :ivar tags: how many tags it has. They change neither ETag nor Last-Modified: no condition tells whether they did
    """

    key: bytes
    index: int
    content: Content | None
    modified: int
    since: int
    label: bytes = b""
    until: tuple[int, float] | None = None
    tags: int = 0

    @property
    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """How S3 describes it in every answer that carries it."""
        assert self.content is not None
        told = ((b"ETag", self.content.etag), (b"Last-Modified", http_date(self.modified)))
        tagged = ((b"x-amz-tagging-count", b"%d" % self.tags),) if self.tags else ()
        return told + tuple(described_by(self.label).items()) + tagged


class History:
    """The versions of one key, oldest first. It begins with a key that does not exist."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.versions = [Version(key, 0, None, FIRST_WRITE, 0)]
        self.contents: list[Content] = []

    @property
    def current(self) -> Version:
        """What S3 has now."""
        return self.versions[-1]

    def write(
        self,
        content: Content | None,
        moment: int,
        now: float,
        same_second: bool = False,
        label: bytes = b"",
        tags: int = 0,
    ) -> Version:
        """The key is overwritten, or, with None, deleted.

        :param same_second: within the second of the version before, if that one can still be told by its ETag
        """
        before = self.current
        before.until = (moment, now)
        step = 10
        if same_second and before.content is not None and content is not None:
            same = [each.content for each in self.versions if each.modified == before.modified]
            step = 0 if content.etag not in {each.etag for each in same if each is not None} else 10
        index = before.index + 1
        modified = before.modified + step
        version = Version(self.key, index, content, modified, moment, label or b"v%d" % index, tags=tags)
        self.versions.append(version)
        if content is not None and content not in self.contents:
            self.contents.append(content)
        return version

    def tag(self, tags: int, moment: int, now: float) -> Version:
        """What is there gets so many tags instead of those it has."""
        before = self.current
        before.until = (moment, now)
        version = attrs.evolve(before, index=before.index + 1, since=moment, until=None, tags=tags)
        self.versions.append(version)
        return version

    def labelled(self, label: bytes | None, tags: int = 0) -> Version | None:
        """The version with these metadata, the last one if there were several."""
        versions = reversed(self.versions)
        return next((each for each in versions if (each.label, each.tags) == (label, tags) and each.content), None)

    def during(self, since: int, seconds: float, floor: int = 0) -> Iterator[Version]:
        """The versions that were current at the moment ``since`` or later, or at the unix seconds ``seconds`` or later.

        :param floor: none with a lower index
        """
        for version in self.versions[floor:]:
            if version.until is None or version.until[0] > since or version.until[1] >= seconds:
                yield version


# What S3 says to a read of a version.


@attrs.frozen
class Shape:
    """:ivar span: the bytes of a 206"""

    status: int
    span: Span | None = None


def http_date(seconds: float) -> bytes:
    """As in Last-Modified."""
    return formatdate(seconds, usegmt=True).encode("ascii")


def shape_of(version: Version, fields: Mapping[bytes, bytes], part: int | None = None) -> Shape:
    """Status and bytes of S3's answer to a GET or HEAD with these (lower-case) header fields."""
    content = version.content
    if content is None:
        return Shape(404)
    verdict = _judge(fields, content.etag, version.modified)
    if verdict is not None:
        return Shape(verdict)
    if part is not None:
        span = content.part(part)
        if span is None:
            return Shape(416)
        return Shape(206, span) if content.size else Shape(200)
    wanted = fields.get(b"range")
    if wanted is None or not _range_applies(fields.get(b"if-range"), content.etag, version.modified):
        return Shape(200)
    match = re.fullmatch(rb"bytes=(\d*)-(\d*)", wanted)
    if match is None or match[0] == b"bytes=-" or (match[1] and match[2] and int(match[1]) > int(match[2])):
        return Shape(200)
    if match[1]:
        start, stop = int(match[1]), min(content.size, int(match[2]) + 1) if match[2] else content.size
    else:
        start, stop = max(0, content.size - int(match[2])), content.size
    return Shape(206, (start, stop)) if start < stop else Shape(416)


def _judge(fields: Mapping[bytes, bytes], etag: bytes, modified: int) -> int | None:
    """RFC 9110 13.2.2: the status by which the conditions end the request; None: they hold."""
    match, none_match = fields.get(b"if-match"), fields.get(b"if-none-match")
    if match is not None:
        if not _names(match, etag):
            return 412
    elif (date := _date(fields.get(b"if-unmodified-since"))) is not None and modified > date:
        return 412
    if none_match is not None:
        return 304 if _names(none_match, etag) else None
    since = _date(fields.get(b"if-modified-since"))
    return 304 if since is not None and modified <= since else None


def _names(value: bytes, etag: bytes) -> bool:
    return value == b"*" or etag in [member.strip() for member in value.split(b",")]


def _date(value: bytes | None) -> int | None:
    try:
        return None if value is None else int(parsedate_to_datetime(value.decode("ascii")).timestamp())
    except ValueError:
        return None


def _range_applies(if_range: bytes | None, etag: bytes, modified: int) -> bool:
    return if_range is None or if_range == etag or _date(if_range) == modified
