"""What the Host field and the target of a request name. Remembered, for what is asked for once is asked for again."""

from functools import lru_cache

import attrs

from s3proxy.s3.address import ObjectAddress, locate
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation, classify
from s3proxy.s3.target import RequestTarget, parse_target

__all__ = ["Name", "is_ordinary", "read_name"]

MOST_NAMES = 10_000
"""Names that are remembered."""
LONGEST_TARGET = 1536
LONGEST_HOST = 256
"""Bytes. What is longer is hardly an object's name, and nobody should have to remember it."""


@attrs.frozen
class Name:
    """See the module.

    :ivar ordinary: GET and HEAD of it are those of a whole, cacheable object: no parameter changes their meaning
    """

    target: RequestTarget
    address: ObjectAddress | None
    ordinary: bool


def is_ordinary(target: bytes) -> bool:
    """Whether a target is without parameters but those that SDKs add to all of them. Only such names come again."""
    return b"?" not in target or target.endswith((b"?x-id=GetObject", b"?x-id=HeadObject"))


def read_name(target: bytes, headers: Headers, base_domains: tuple[str, ...] = ()) -> Name:
    """What a request is about.

    :raises S3Error: see :func:`s3proxy.s3.target.parse_target`
    """
    hosts = headers.get_all(b"host")
    if len(hosts) == 1 and len(hosts[0]) <= LONGEST_HOST and len(target) <= LONGEST_TARGET and is_ordinary(target):
        return _remembered(target, hosts[0], base_domains)
    return _read(target, headers, base_domains)


@lru_cache(maxsize=MOST_NAMES)
def _remembered(target: bytes, host: bytes, base_domains: tuple[str, ...]) -> Name:
    return _read(target, Headers(((b"Host", host),)), base_domains)


def _read(target: bytes, headers: Headers, base_domains: tuple[str, ...]) -> Name:
    parsed = parse_target(target, headers)
    address = locate(parsed, base_domains)
    ordinary = (
        address is not None
        and bool(address.key)
        and classify(b"GET", address, parsed.query, headers) is Operation.GetObject
        and classify(b"HEAD", address, parsed.query, headers) is Operation.HeadObject
    )
    return Name(parsed, address, ordinary)
