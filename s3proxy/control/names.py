"""How objects are named on the command line: ``bucket/key``, ``s3://bucket/key``, or a URL."""

import os
from urllib.parse import urlencode, urlsplit

import attrs

from s3proxy.control.outcome import Usage
from s3proxy.s3.address import ObjectAddress, locate
from s3proxy.s3.errors import S3Error
from s3proxy.s3.headers import Headers
from s3proxy.s3.target import parse_target

__all__ = ["ObjectName", "parse_name", "parse_prefix"]

_SCHEME = "s3://"


@attrs.frozen
class ObjectName:
    """An object. :ivar store: None: whichever has it, that of AWS first"""

    store: str | None
    bucket: bytes
    key: bytes

    @property
    def reference(self) -> str:
        """As a query, with whatever bytes the key has. Without a store, that of AWS is meant."""
        return urlencode({"store": self.store or "aws", "bucket": self.bucket, "key": self.key})

    @property
    def text(self) -> str:
        """``bucket/key`` for people."""
        return (self.bucket + b"/" + self.key).decode("utf-8", "backslashreplace")

    @property
    def query(self) -> str:
        """What the API is asked with."""
        return self.reference if self._exact else urlencode({"name": self.text})

    @property
    def order(self) -> dict[str, str]:
        """What the API is told."""
        return {"ref": self.reference} if self._exact else {"name": self.text}

    @property
    def address(self) -> ObjectAddress:
        """For rules."""
        return ObjectAddress(store=self.store or "aws", bucket=self.bucket, key=self.key)

    @property
    def _exact(self) -> bool:
        # A name that is no text can't be searched for.
        return self.store is not None or self.text.encode("utf-8") != self.bucket + b"/" + self.key


def parse_name(text: str, store: str | None = None) -> ObjectName:
    """The object that somebody names.

    :raises Usage: it names none
    """
    if text.startswith(("http://", "https://")):
        return _from_url(text, store)
    bucket, slash, key = os.fsencode(text.removeprefix(_SCHEME)).partition(b"/")
    if not bucket or not key:
        raise Usage(f"{text!r} names no object; write bucket/key, s3://bucket/key or a URL")
    return ObjectName(store, bucket, key)


def _from_url(text: str, store: str | None) -> ObjectName:
    try:
        host = urlsplit(text).netloc.rpartition("@")[2]
        address = locate(parse_target(os.fsencode(text), Headers([(b"Host", host.encode("ascii"))])))
    except (S3Error, ValueError) as error:
        raise Usage(f"{text!r} is no URL of an object: {error}") from None
    if address is None or not address.bucket or not address.key:
        raise Usage(f"{text!r} is the URL of no object")
    return ObjectName(store or address.store, address.bucket, address.key)


def parse_prefix(text: str) -> str:
    """The beginning of a name ``bucket/key``, or a glob over such names, as the proxy searches for it."""
    return os.fsencode(text.removeprefix(_SCHEME)).decode("utf-8", "backslashreplace")
