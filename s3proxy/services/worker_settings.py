"""What a worker is given by its supervisor: its share of what is limited for the whole proxy."""

import struct
from typing import Final

import attrs

from s3proxy.config.model import Config

__all__ = ["USE", "WorkerSettings", "share_of"]

USE: Final = struct.Struct("<20sQId")
"""A use of what is stored, as workers tell it: digest, start, how often, when last."""


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """What a worker needs to know beside its sockets.

    :ivar config: its own share, see :func:`share_of`
    :ivar own_addresses: where this proxy listens
    :ivar told_lines: whether somebody wants to see what it logs
    """

    config: Config
    hostname: str
    own_addresses: frozenset[tuple[str, int]]
    told_lines: bool


def share_of(config: Config, workers: int, ram: int) -> Config:
    """The configuration of one of so many workers: what is limited for the whole proxy is divided.

    :param ram: bytes that the memory cache of the whole proxy may take
    """

    def part(limit: int, least: int = 1) -> int:
        return max(least, -(-limit // workers))

    def part_if_any(limit: int, least: int = 1) -> int:
        return part(limit, least) if limit else 0

    server, cache, pool, rate = config.server, config.cache, config.connection_pool, config.download_bandwidth
    return attrs.evolve(
        config,
        server=attrs.evolve(
            server,
            max_concurrent_requests=part(server.max_concurrent_requests),
            max_inflight_buffer_bytes=part_if_any(server.max_inflight_buffer_bytes, 1 << 20),
        ),
        cache=attrs.evolve(
            cache,
            max_ram_cache_size=part(ram),
            metadata_cache=attrs.evolve(
                cache.metadata_cache, max_entries=part(cache.metadata_cache.max_entries, 100)
            ),
        ),
        connection_pool=attrs.evolve(pool, max_connections=part(pool.max_connections)),
        download_bandwidth=attrs.evolve(rate, max_bytes_per_sec=part_if_any(rate.max_bytes_per_sec)),
    )  # fmt: skip
