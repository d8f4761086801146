"""Series of single buckets, and of prefixes in them that the configuration names, of which there are only so many.

Names are clients' choice, so a bucket gets series only when S3 or the cache gave something there; and when there are as
many as are allowed, all that come later share one more, ``__other__``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from twisted.logger import Logger

from s3proxy.telemetry import operations
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.record import RequestRecord

__all__ = ["BucketSeries", "OTHER", "Share"]

OTHER: Final = "__other__"
"""Instead of a bucket's name: all that have no series of their own."""


class Share:
    """What one group of operations did in one bucket, below one prefix.

    Hits that are answered at once add to two numbers only.

    :ivar quick: such hits
    :ivar quick_bytes: of their bodies
    """

    __slots__ = ("quick", "quick_bytes", "requests", "sent", "saved", "received")

    def __init__(self) -> None:
        self.quick = self.quick_bytes = 0
        self.requests = self.sent = self.saved = self.received = 0


_Place = dict[str, Share]


class BucketSeries:
    """Belongs to the reactor's thread.

    :param most: buckets, and prefixes of buckets, that have series of their own
    :param prefixes: by bucket; the longest one that fits a key counts, and what fits none counts as ""
    """

    _log = Logger()

    def __init__(self, most: int = 100, prefixes: Mapping[str, Sequence[str]] | None = None) -> None:
        self._most = most
        self._prefixes = {
            bucket.encode("utf-8"): sorted((each.encode("utf-8") for each in names), key=len, reverse=True)
            for bucket, names in (prefixes or {}).items()
        }
        self._places: dict[tuple[bytes, bytes], _Place] = {}
        self._elsewhere: _Place = {}
        self.overflowing = False

    def count(self, record: RequestRecord) -> None:
        """A request ended."""
        if record.bucket:
            share = self.share(record)
            share.requests += 1
            share.sent += record.bytes_sent
            share.saved += record.bytes_from_cache
            share.received += record.body_bytes_received

    def share(self, record: RequestRecord) -> Share:
        """Where this request is counted."""
        place = self._place(record.bucket, record.key, 200 <= record.status < 400)
        group = operations.group_of(record.operation)
        share = place.get(group)
        if share is None:
            share = place[group] = Share()
        return share

    def _place(self, bucket: bytes, key: bytes, gave: bool) -> _Place:
        prefixes = self._prefixes.get(bucket)
        prefix = b"" if prefixes is None else next((each for each in prefixes if key.startswith(each)), b"")
        place = self._places.get((bucket, prefix))
        if place is None:
            if not gave:
                return self._elsewhere
            if len(self._places) >= self._most:
                self._overflow()
                return self._elsewhere
            place = self._places[bucket, prefix] = {}
        return place

    def _overflow(self) -> None:
        if not self.overflowing:
            self.overflowing = True
            self._log.warn(
                "metrics.per_bucket.max_series is {most}: what else is asked for is counted as {other}",
                most=self._most,
                other=OTHER,
            )

    def readings(self) -> Iterator[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        yield Reading("s3proxy_bucket_overflow", float(self.overflowing))
        for (bucket, prefix), place in self._places.items():
            yield from _readings(_text(bucket), _text(prefix), place)
        if self._elsewhere:
            yield from _readings(OTHER, "", self._elsewhere)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _readings(bucket: str, prefix: str, place: _Place) -> Iterator[Reading]:
    where = bucket, prefix
    sent = saved = received = 0
    for group, share in place.items():
        yield Reading("s3proxy_bucket_requests_total", share.requests + share.quick, (bucket, prefix, group))
        sent += share.sent + share.quick_bytes
        saved += share.saved + share.quick_bytes
        received += share.received
    yield Reading("s3proxy_bucket_sent_bytes_total", sent, where)
    yield Reading("s3proxy_bucket_saved_bytes_total", saved, where)
    yield Reading("s3proxy_bucket_received_bytes_total", received, where)
