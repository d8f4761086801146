"""What the operations of the fake S3 are given and what they return."""

import calendar
import re
import time
from collections.abc import Iterable, Sequence
from email.utils import formatdate, parsedate_tz
from xml.sax.saxutils import escape

import attrs

from test.support.fake_store import Body, Bucket, FakeStore
from test.support.http_connection import BodyReader, RequestHead
from test.support.sigv4_verify import Verified

__all__ = ["Response", "S3Error", "S3Request", "element", "http_date", "iso_date", "parse_http_date", "xml_document"]

Pair = tuple[bytes, bytes]

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


class S3Error(Exception):
    """The answer is this error document."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        elements: Sequence[tuple[str, str]] = (),
        headers: Sequence[Pair] = (),
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.elements = tuple(elements)
        self.headers = tuple(headers)


@attrs.frozen(kw_only=True)
class Response:
    """An answer: a small document, or bytes [start, stop) of a stored body."""

    status: int = 200
    headers: tuple[Pair, ...] = ()
    document: bytes | None = None
    body: Body | None = attrs.field(default=None, repr=False)
    start: int = 0
    stop: int = 0


@attrs.define(kw_only=True)
class S3Request:
    """A request whose target is understood and whose signature was checked."""

    head: RequestHead
    query: dict[bytes, bytes]
    bucket_name: bytes
    bucket_in_host: bytes | None
    key: bytes
    operation: str
    raw_body: BodyReader
    store: FakeStore
    verified: Verified | None = None
    min_part_size: int = 5 << 20

    @property
    def bucket(self) -> Bucket:
        """The bucket that is named.

        :raises S3Error: if it does not exist.
        """
        found = self.store.buckets.get(self.bucket_name)
        if found is None:
            name = self.bucket_name.decode("utf-8", "replace")
            raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist", [("BucketName", name)])
        return found

    def header(self, name: bytes) -> bytes | None:
        """The first value of the field with this lower-case name, or None."""
        return self.head.get(name)

    def no_such_key(self) -> S3Error:
        """The error for a key that is not there."""
        key = self.key.decode("utf-8", "replace")
        return S3Error(404, "NoSuchKey", "The specified key does not exist.", [("Key", key)])


def http_date(seconds: float) -> bytes:
    """As in Last-Modified."""
    return formatdate(seconds, usegmt=True).encode()


def parse_http_date(text: bytes) -> int | None:
    """Seconds since 1970, or None if it is no date."""
    parsed = parsedate_tz(text.decode("latin-1"))
    return None if parsed is None or not text.rstrip().endswith(b"GMT") else calendar.timegm(parsed[:6] + (0, 0, 0))


def iso_date(seconds: float) -> str:
    """As in listings."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def element(name: str, value: bytes | str | int) -> str:
    """One XML element with text; characters that XML can't hold are replaced."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return f"<{name}>{escape(_NOT_XML.sub(chr(0xFFFD), text))}</{name}>"


def xml_document(name: str, children: Iterable[str]) -> bytes:
    """A whole document in S3's name space."""
    namespace = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    inside = "".join(children)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{namespace}>{inside}</{name}>'.encode()
