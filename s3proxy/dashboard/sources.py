"""Whom the documents are made from: the parts of one process, or what stands for those of several."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from s3proxy.cache.entry import ObjectId
from s3proxy.telemetry.traffic import Answers, Totals

__all__ = ["IBodies", "IBody", "ILatest", "ISampler", "ITraffic"]


class IBody(Protocol):
    """A body on its way from S3; see :class:`s3proxy.cache.fill.Fill`."""

    @property
    def start(self) -> int: ...

    @property
    def have(self) -> int: ...

    @property
    def stop(self) -> int: ...

    @property
    def readers(self) -> int: ...


class IBodies(Protocol):
    """See :class:`s3proxy.cache.manager.CacheManager`."""

    def bodies_under_way(self) -> "Iterator[tuple[ObjectId, IBody]]": ...


class ITraffic(Protocol):
    """See :class:`s3proxy.telemetry.traffic.Traffic`."""

    @property
    def addresses(self) -> Mapping[str, Answers]: ...

    def buckets(self) -> dict[bytes, Totals]: ...

    def prefixes(self, bucket: bytes) -> dict[bytes, Totals]: ...


class ISampler(Protocol):
    """See :class:`s3proxy.dashboard.samples.Sampler`."""

    def read(self) -> dict[str, float]: ...


class ILatest(Protocol):
    """See :class:`s3proxy.telemetry.exit.Exit`."""

    def latest(self) -> Iterable[tuple[float, bytes]]: ...
