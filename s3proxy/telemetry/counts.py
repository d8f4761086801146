"""What the ways of requests through the proxy count beside the requests themselves, each where it happens.

Plain numbers, changed in the reactor's thread, and read when a snapshot is taken.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from s3proxy.telemetry.families import REQUEST_BOUNDS, SIZE_BOUNDS, WAIT_BOUNDS
from s3proxy.telemetry.instruments import Histogram, Reading, Spread

__all__ = ["DROPS", "CacheCounts", "FlowCounts", "totals"]

DROPS: Final = ("etag_mismatch", "put", "delete", "gone", "rule_disabled", "purge", "corrupt")
"""Why an entry is made invalid."""

_TRIGGERS: Final = ("ttl", "zero_ttl", "unconfirmed")
_ANSWERS: Final = ("not_modified", "modified", "client_error", "error")
_WAITS: Final = ("served", "fetch_failed", "refused", "left")
_FETCHES: Final = ("success", "error")
_PAGES: Final = ("widened", "page_hit", "skipped_signed", "fallback")
_LEASES: Final = ("ok", "busy", "error")
_ORIGINS: Final = ("get", "put", "prefetch")
_FILLS: Final = ("stored", "partial", "declined", "failed")
_PUTS: Final = ("cached", "bypassed", "failed")


def totals(name: str, counter: "Counter[Any]", words: Iterable[Any]) -> Iterator[Reading]:
    """Running totals by a label, or by several; those of ``words`` are shown from the beginning."""
    for word in dict.fromkeys((*words, *counter)):
        yield Reading(name, counter[word], word if isinstance(word, tuple) else (word,))


@attrs.define
class CacheCounts:
    """What the cache counts.

    :ivar lookups: of descriptions of objects, by tier, group of operations and result
    :ivar descriptions: sizes of those that were read from the directory, as they are stored
    :ivar drops: entries made invalid, by reason
    :ivar leases: attempts to get the right to store the next version of an object: ok, busy or error
    :ivar first_reads: reads of what was written through and nobody had read
    :ivar descriptions_evicted: descriptions that made room in memory for others
    :ivar fills: attempts to keep a body, by origin and result
    :ivar fill_bytes: bytes kept, by origin
    """

    lookups: "Counter[tuple[str, str, str]]" = attrs.field(factory=Counter)
    descriptions: Histogram = attrs.field(factory=lambda: Histogram(SIZE_BOUNDS))
    drops: "Counter[str]" = attrs.field(factory=Counter)
    leases: "Counter[str]" = attrs.field(factory=Counter)
    first_reads: int = 0
    descriptions_evicted: int = 0
    fills: "Counter[tuple[str, str]]" = attrs.field(factory=Counter)
    fill_bytes: "Counter[str]" = attrs.field(factory=Counter)

    def looked(self, group: str | None, memory: str, directory: str | None = None) -> None:
        """Somebody looked for a description.

        :param group: of operations; None: it was not for a read
        :param memory: hit, miss, or stale: it was there and had to be read again
        :param directory: hit or miss; None: there was no need to look
        """
        if group is not None:
            self.lookups["meta_ram", group, memory] += 1
            if directory is not None:
                self.lookups["meta_disk", group, directory] += 1

    def filled(self, origin: str, result: str, stored: int = 0) -> None:
        """An attempt to keep a body ended: stored, partial, declined or failed.

        :param origin: get (an answer), put (an upload) or prefetch (more than was asked for)
        :param stored: bytes that are kept
        """
        self.fills[origin, result] += 1
        self.fill_bytes[origin] += stored

    def readings(self) -> Iterator[Reading | Spread]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        kinds = [("meta_ram", group, found) for group in ("get", "head") for found in ("hit", "miss", "stale")]
        kinds += [("meta_disk", group, found) for group in ("get", "head") for found in ("hit", "miss")]
        yield from totals("s3proxy_cache_lookups_total", self.lookups, kinds)
        yield Spread("s3proxy_cache_metadata_file_bytes", self.descriptions)
        yield from totals("s3proxy_cache_invalidations_total", self.drops, DROPS)
        locks = Counter({("entry", result): count for result, count in self.leases.items()})
        yield from totals("s3proxy_lock_acquisitions_total", locks, [("entry", result) for result in _LEASES])
        yield Reading("s3proxy_write_cache_hits_total", self.first_reads)
        yield Reading("s3proxy_cache_evictions_total", self.descriptions_evicted, ("metadata", "capacity"))
        fills = [(origin, result) for origin in _ORIGINS for result in _FILLS]
        yield from totals("s3proxy_cache_fills_total", self.fills, fills)
        yield from totals("s3proxy_cache_fill_bytes_total", self.fill_bytes, _ORIGINS)


@attrs.define
class FlowCounts:
    """:ivar revalidations: questions whether an entry is current, by why they were asked and what S3 said
    :ivar waits: requests that waited for another one's answer: served from it, or not because it failed or was for that
        client alone, or the client left
    :ivar waiting: of them, those that wait now
    :ivar fetches: requests to S3 that others may join, by whether an answer came
    :ivar pages: reads of objects that are to be read in pages
    :ivar page_bytes: requested by clients, and prefetched beyond that
    :ivar puts: uploads, by whether they were kept
    """

    revalidations: "Counter[tuple[str, str]]" = attrs.field(factory=Counter)
    waits: "Counter[str]" = attrs.field(factory=Counter)
    wait_seconds: dict[str, Histogram] = attrs.field(
        factory=lambda: {outcome: Histogram(WAIT_BOUNDS) for outcome in _WAITS}
    )
    waiting: int = 0
    fetches: "Counter[str]" = attrs.field(factory=Counter)
    pages: "Counter[str]" = attrs.field(factory=Counter)
    page_bytes: "Counter[str]" = attrs.field(factory=Counter)
    puts: "Counter[str]" = attrs.field(factory=Counter)
    put_sizes: Histogram = attrs.field(factory=lambda: Histogram(SIZE_BOUNDS))
    put_seconds: Histogram = attrs.field(factory=lambda: Histogram(REQUEST_BOUNDS))

    def waited(self, outcome: str, seconds: float) -> None:
        """A request waited for another one's answer: served, fetch_failed, refused or left."""
        self.waits[outcome] += 1
        self.wait_seconds[outcome].observe(seconds)

    def kept(self, size: int, seconds: float) -> None:
        """An upload was kept."""
        self.puts["cached"] += 1
        self.put_sizes.observe(size)
        self.put_seconds.observe(seconds)

    def readings(self) -> Iterator[Reading | Spread]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        pairs = [(trigger, answer) for trigger in _TRIGGERS for answer in _ANSWERS]
        yield from totals("s3proxy_cache_revalidations_total", self.revalidations, pairs)
        yield from totals("s3proxy_coalesce_waits_total", self.waits, _WAITS)
        for outcome, spread in self.wait_seconds.items():
            yield Spread("s3proxy_coalesce_wait_seconds", spread, (outcome,))
        yield Reading("s3proxy_coalesce_in_flight", self.waiting, ("waiter",))
        yield from totals("s3proxy_coalesce_fetches_total", self.fetches, _FETCHES)
        yield from totals("s3proxy_page_requests_total", self.pages, _PAGES)
        yield from totals("s3proxy_page_bytes_total", self.page_bytes, ("requested", "prefetched"))
        yield from totals("s3proxy_write_cache_puts_total", self.puts, _PUTS)
        yield Spread("s3proxy_write_cache_put_size_bytes", self.put_sizes)
        yield Spread("s3proxy_write_cache_put_duration_seconds", self.put_seconds)
