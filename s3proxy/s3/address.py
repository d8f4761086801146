"""Which object a request is about: store, bucket and key from the Host field and the path.

Recognised hosts of AWS, with ``B`` for a bucket (dots allowed unless said otherwise) and ``R`` for a region:

======================================================================  =============  =============================
host, below ``amazonaws.com`` or the partition's own suffix             style          store and bucket
======================================================================  =============  =============================
``s3``  ``s3.R``  ``s3-R``  ``s3.dualstack.R``  ``s3-external-1``       path           partition, first path segment
``s3-fips.R``  ``s3-fips.dualstack.R``  ``s3-fips-R``                   path           the same
the same with ``B.`` in front                                           virtual        partition, ``B``
``B.s3-accelerate``  ``B.s3-accelerate.dualstack`` (no dots in B)       virtual        the same
``bucket.vpce-ID.s3.R.vpce`` and ``B.bucket.vpce-ID.s3.R.vpce``         path, virtual  the same
``NAME-ACCOUNT.s3-accesspoint[-fips][.dualstack].R``, and below         access point   ``partition.s3-accesspoint.R``,
``accesspoint.vpce-ID.s3.R.vpce``                                                      ``NAME-ACCOUNT-s3alias``
``s3-accesspoint.R`` (alias as first path segment)                      path           partition, the alias
``ALIAS.accesspoint.s3-global``, ``accesspoint.s3-global``              multi-region   ``partition.s3-global``,
                                                                                       ``ALIAS.mrap``
======================================================================  =============  =============================

Forwarded, never cached (``cacheable`` is False): website endpoints (they answer index documents and redirects), Object
Lambda (answers differ by caller), Outposts, S3 Express and other directory buckets (they are what a cache would be),
and any other ``s3…`` host below a suffix of AWS, because it may be a further name of a bucket that is cached under
another.

Every other host is a store of its own, ``host:port``, in path-style; hosts below a configured base domain are
virtual-hosted, and all of them share the store ``base-domain:port``.

A key is the raw path percent-decoded exactly once. ``+`` is a plus, ``//`` and ``/../`` stay. AWS itself reads a bare
``+`` in a path as a blank, unlike ``%2B``; such a request names two possible objects there and is not cached.
"""

import enum
import re
from functools import lru_cache

import attrs

from s3proxy.s3.query import percent_decode_strictly
from s3proxy.s3.target import RequestTarget

__all__ = ["AddressStyle", "ObjectAddress", "certificate_host", "is_aws_host", "locate"]


class AddressStyle(enum.Enum):
    """How a request names its bucket."""

    PATH = "path"
    VIRTUAL_HOSTED = "virtual-hosted"
    ACCESS_POINT = "access-point"
    MULTI_REGION_ACCESS_POINT = "multi-region-access-point"
    WEBSITE = "website"
    OBJECT_LAMBDA = "object-lambda"
    OUTPOST = "outpost"
    DIRECTORY_BUCKET = "directory-bucket"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class ObjectAddress:
    """What a request is about. Store, bucket and key together identify an object; all spellings of one give the same.

    :ivar store: an AWS partition (``aws``, ``aws-cn``, …), an access point's namespace, or ``host:port``
    :ivar bucket: empty when the request concerns the service
    :ivar key: percent-decoded; empty when the request concerns the bucket or the service
    :ivar region: as far as the host names one
    :ivar cacheable: False when answers must not come from or go to the cache, whatever the operation
    :ivar twin_key: the other key that S3 may mean by this path, or None
    """

    store: str
    bucket: bytes
    key: bytes
    region: str | None = None
    style: AddressStyle = AddressStyle.PATH
    cacheable: bool = True
    twin_key: bytes | None = None

    @property
    def identity(self) -> tuple[str, bytes, bytes]:
        """Store, bucket and key: equal for all spellings of one object."""
        return self.store, self.bucket, self.key

    def with_key(self, key: bytes) -> "ObjectAddress":
        """The object that a body (a list of deletions, a form) sent to this address calls ``key``.

        A store that is addressed in path-style but got the request at ``/`` is virtual-hosted without our knowledge;
        there the key's own first segment stands where a bucket would, exactly as in :func:`locate`.
        """
        if self.style is AddressStyle.PATH and not self.bucket:
            bucket, _, rest = key.partition(b"/")
            return attrs.evolve(self, bucket=bucket, key=rest, twin_key=None)
        return attrs.evolve(self, key=key, twin_key=None)

    def affected(self) -> "tuple[ObjectAddress, ...]":
        """Every object that a write to this address may change: this one, and the one of the twin key."""
        if self.twin_key is None:
            return (self,)
        return (self, attrs.evolve(self, key=self.twin_key, twin_key=None))


@attrs.frozen(kw_only=True)
class _Endpoint:
    """What a host name alone says. ``bucket`` is None when the first path segment is the bucket."""

    store: str
    bucket: str | None
    region: str | None
    style: AddressStyle
    cacheable: bool = True
    aws: bool = False


# Partition, DNS suffix, and how its regions start. The first region prefix that fits decides, so special ones come
# first.
_PARTITIONS = (
    ("aws-cn", "amazonaws.com.cn", "cn-"),
    ("aws-us-gov", "amazonaws.com", "us-gov-"),
    ("aws-iso", "c2s.ic.gov", "us-iso-"),
    ("aws-iso-b", "sc2s.sgov.gov", "us-isob-"),
    ("aws-iso-e", "cloud.adc-e.uk", "eu-isoe-"),
    ("aws-iso-f", "csp.hci.ic.gov", "us-isof-"),
    ("aws-eusc", "amazonaws.eu", "eusc-"),
    ("aws", "amazonaws.com", ""),
)
# Suffix to the partition of a host that names no region.
_SUFFIXES = {suffix: partition for partition, suffix, _ in _PARTITIONS}
# AWS's newer suffixes, below which S3 has only names that are not cached.
_OTHER_SUFFIXES = ("api.aws", "api.amazonwebservices.com.cn", "api.amazonwebservices.eu")

_REGION = r"[a-z]{2,5}(?:-[a-z]+){1,3}-[0-9]{1,2}"
_BUCKET = r"(?:(?P<bucket>.+)\.)?"


def _host_pattern(tail: str, front: str = _BUCKET) -> re.Pattern[str]:
    return re.compile(front + tail.replace("<R>", f"(?P<region>{_REGION})"))


_BUCKET_HOST = tuple(
    _host_pattern(tail)
    for tail in (
        r"s3",
        r"s3-external-1",
        r"s3(?:-fips)?(?:\.dualstack)?\.<R>",
        r"s3-(?:fips-)?<R>",
    )
)
_VPC_ENDPOINT = _host_pattern(r"(?P<kind>bucket|accesspoint)\.vpce-[a-z0-9-]+\.s3\.<R>\.vpce")
_ACCELERATED = _host_pattern(r"s3-accelerate(?:\.dualstack)?", front=r"(?P<bucket>[^.]+)\.")
_ACCESS_POINT = _host_pattern(r"s3-accesspoint(?:-fips)?(?:\.dualstack)?\.<R>", front=r"(?:(?P<bucket>[^.]+)\.)?")
_MULTI_REGION = _host_pattern(r"accesspoint\.s3-global")
_NEVER_CACHED = (
    (_host_pattern(r"s3-website[.-]<R>"), AddressStyle.WEBSITE),
    (_host_pattern(r"s3-object-lambda(?:-fips)?(?:\.dualstack)?\.<R>"), AddressStyle.OBJECT_LAMBDA),
    (_host_pattern(r"s3-outposts(?:-fips)?(?:\.dualstack)?\.<R>"), AddressStyle.OUTPOST),
    (_host_pattern(r"s3express-[a-z0-9-]+(?:\.dualstack)?\.<R>"), AddressStyle.DIRECTORY_BUCKET),
)
# Something of S3's that is not listed above; a load balancer's or a machine's name has further labels and is none of
# these.
_OTHER_S3_HOST = re.compile(rf"(?:.*\.)?s3[a-z0-9-]*(?:\.(?:dualstack|vpce|{_REGION}))*")

# Suffixes that AWS reserves in bucket names, for what is no general purpose bucket.
_RESERVED_BUCKETS = (
    ("--x-s3", AddressStyle.DIRECTORY_BUCKET),
    ("--xa-s3", AddressStyle.DIRECTORY_BUCKET),
    ("--ol-s3", AddressStyle.OBJECT_LAMBDA),
    ("--op-s3", AddressStyle.OUTPOST),
)

_NO_BUCKET = re.compile(rb"[\x00-\x1f\x7f/\\]")


def locate(target: RequestTarget, base_domains: tuple[str, ...] = ()) -> ObjectAddress | None:
    """The object, bucket or service that a request is about.

    S3 goes by the Host field, so that is what is read here; when a different authority leads to the connection, the
    result is not cacheable.

    :param base_domains: lower-case names below which the first labels are a bucket, for compatible stores
    :returns: None when the path names nothing safely (a malformed escape, a ``#``, a bucket that is empty, ``.``,
        ``..`` or has control bytes or slashes): such a request is forwarded and touches no entry
    """
    if not target.path.startswith(b"/") or b"#" in target.origin_form:
        return None
    endpoint = _read_host(target.named_host, target.named_port, base_domains)
    raw_path = target.path[1:]
    if endpoint.bucket is not None:
        bucket: bytes | None = endpoint.bucket.encode("ascii")
        raw_key = raw_path
    else:
        segment, _, raw_key = raw_path.partition(b"/")
        bucket = percent_decode_strictly(segment)
    key = percent_decode_strictly(raw_key)
    if bucket is None or key is None:
        return None
    if bucket in (b".", b"..") or _NO_BUCKET.search(bucket) is not None or (not bucket and raw_path):
        return None

    style, cacheable = endpoint.style, endpoint.cacheable and target.consistent
    twin_key = None
    if endpoint.aws:
        for suffix, reserved_style in _RESERVED_BUCKETS:
            if bucket.endswith(suffix.encode("ascii")):
                style, cacheable = reserved_style, False
        if b"+" in raw_path:
            cacheable = False
            twin_key = percent_decode_strictly(raw_key.replace(b"+", b"%20"))
    return ObjectAddress(
        store=endpoint.store,
        bucket=bucket,
        key=key,
        region=endpoint.region,
        style=style,
        cacheable=cacheable,
        twin_key=twin_key if twin_key != key else None,
    )


@lru_cache(maxsize=1024)
def certificate_host(host: str) -> str | None:
    """The name that S3's certificate has to be for where it can't be for the host itself; None: for no other.

    Amazon's certificates are for ``*.s3.R.amazonaws.com`` and the like, and a star stands for one label (RFC 9525 6.3).
    Clients may ask for a bucket with dots over plain HTTP; on the way to S3 such a host is checked as if the dots of
    the bucket were hyphens. The endpoint that follows is the same, and only Amazon can have a certificate for it.

    :param host: lower case, without port
    """
    endpoint = _read_host(host, 443, ())
    bucket = endpoint.bucket
    if not endpoint.aws or bucket is None or "." not in bucket or not host.startswith(bucket + "."):
        return None
    return bucket.replace(".", "-") + host[len(bucket):]


def is_aws_host(host: str) -> bool:
    """Whether this name (lower case, without port) is one of S3's at Amazon."""
    return _read_host(host, 443, ()).aws


@lru_cache(maxsize=1024)
def _read_host(host: str, port: int, base_domains: tuple[str, ...]) -> _Endpoint:
    for domain in sorted(base_domains, key=len, reverse=True):
        if host == domain:
            return _Endpoint(store=f"{domain}:{port}", bucket=None, region=None, style=AddressStyle.PATH)
        if host.endswith("." + domain):
            bucket = host[: -len(domain) - 1]
            return _Endpoint(
                store=f"{domain}:{port}", bucket=bucket, region=None, style=AddressStyle.VIRTUAL_HOSTED
            )
    for suffix, partition in _SUFFIXES.items():
        if host.endswith("." + suffix):
            endpoint = _read_aws_host(host[: -len(suffix) - 1], suffix, partition)
            if endpoint is not None:
                return endpoint
    store = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    doubtful = any(
        host.endswith("." + suffix) and _OTHER_S3_HOST.fullmatch(host[: -len(suffix) - 1]) is not None
        for suffix in (*_SUFFIXES, *_OTHER_SUFFIXES)
    )
    return _Endpoint(
        store=store,
        bucket=None,
        region=None,
        style=AddressStyle.UNKNOWN if doubtful else AddressStyle.PATH,
        cacheable=not doubtful,
    )


def _partition_of(region: str, suffix: str) -> str | None:
    """The partition of a region, or None when its hosts do not end in this suffix."""
    for partition, own_suffix, prefix in _PARTITIONS:
        if region.startswith(prefix):
            return partition if own_suffix == suffix else None
    return None


def _read_aws_host(front: str, suffix: str, partition: str) -> _Endpoint | None:
    """Read what stands before a suffix of AWS; None for a name that is not one of S3's."""

    def match(pattern: re.Pattern[str]) -> tuple[str | None, str | None, str] | None:
        """Bucket, region and partition, if the pattern fits and the region belongs to the suffix."""
        found = pattern.fullmatch(front)
        if found is None:
            return None
        region = found.groupdict().get("region")
        where = partition if region is None else _partition_of(region, suffix)
        return None if where is None else (found["bucket"], region, where)

    def named(
        store: str, bucket: str | None, region: str | None, style: AddressStyle, cacheable: bool = True
    ) -> _Endpoint:
        return _Endpoint(store=store, bucket=bucket, region=region, style=style, cacheable=cacheable, aws=True)

    def access_point(name: str | None, region: str | None, where: str) -> _Endpoint:
        if name is None:
            return named(where, None, region, AddressStyle.PATH)
        alias = name if name.endswith("-s3alias") else name + "-s3alias"
        return named(f"{where}.s3-accesspoint.{region}", alias, region, AddressStyle.ACCESS_POINT)

    # A VPC endpoint's name ends like a bucket's ("B.s3.R" + ".vpce"), so it is tried first.
    vpce = match(_VPC_ENDPOINT)
    if vpce is not None:
        bucket, region, where = vpce
        found = _VPC_ENDPOINT.fullmatch(front)
        if found is not None and found["kind"] == "accesspoint":
            return access_point(bucket, region, where)
        return named(where, bucket, region, AddressStyle.VIRTUAL_HOSTED if bucket else AddressStyle.PATH)
    for pattern in (*_BUCKET_HOST, _ACCELERATED):
        plain = match(pattern)
        if plain is not None:
            bucket, region, where = plain
            return named(where, bucket, region, AddressStyle.VIRTUAL_HOSTED if bucket else AddressStyle.PATH)
    point = match(_ACCESS_POINT)
    if point is not None:
        return access_point(*point)
    multi = match(_MULTI_REGION)
    if multi is not None:
        bucket, region, where = multi
        if bucket is not None and not bucket.endswith(".mrap"):
            bucket += ".mrap"
        return named(f"{where}.s3-global", bucket, region, AddressStyle.MULTI_REGION_ACCESS_POINT)
    for pattern, style in _NEVER_CACHED:
        other = match(pattern)
        if other is not None:
            bucket, region, where = other
            return named(f"{where}.{style.value}", bucket, region, style, cacheable=False)
    return None
