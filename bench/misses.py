"""Misses: objects that were never asked for before, fetched over TLS, with and without keeping them."""

from functools import partial
from itertools import islice

from bench.clients import Load, drive
from bench.measure import (
    BYTE_RATE,
    CPU_PER_GIB,
    CPU_PER_REQUEST,
    FIRST_BYTE,
    REQUEST_RATE,
    TOTAL,
    Case,
    Group,
    Scale,
    Stage,
    settle,
)
from bench.origins import SIZES
from bench.process import Server
from bench.requests import a_request, new_keys
from bench.stages import start_static
from bench.wrk import wrk

__all__ = ["MISSES", "PASSING"]

SMALL_CONNECTIONS = 32
_series = iter(range(1, 1_000_000_000))


def _load_small(seconds: float, server: Server) -> Load:
    path = f"/bucket/u/w{next(_series)}-UNIQUE/k1"
    return wrk(server.port, [a_request(path)], SMALL_CONNECTIONS, seconds, SIZES["k1"])


def _load(size: str, number: int, connections: int, server: Server) -> Load:
    return drive(server.port, islice(new_keys(size), number), connections)


def _prepare(server: Server) -> None:
    """Connections to the origin, and whatever is made at the first use."""
    for size in ("k1", "m64"):
        _load(size, 4, 2, server)


def cases(stage: Stage, scale: Scale) -> list[Case]:
    """1 KiB, 1 MiB and 64 MiB."""
    large = max(2, scale.large_objects // 2)
    columns = (BYTE_RATE, FIRST_BYTE, CPU_PER_GIB)
    found = [
        Case(
            f"1 KiB, {SMALL_CONNECTIONS} connections",
            (REQUEST_RATE, TOTAL, CPU_PER_REQUEST),
            partial(_load_small, scale.seconds),
            _prepare,
            lambda server: settle(),
        )
    ]
    for title, size, number, connections in (
        ("1 MiB, 8 connections", "m1", large * 32, 8),
        ("64 MiB, 1 connection", "m64", large, 1),
        ("64 MiB, 4 connections", "m64", large, 4),
    ):
        load = partial(_load, size, number, connections)
        found.append(Case(title, columns, load, _prepare, lambda server: settle()))
    return found


MISSES = Group(
    "misses",
    "Misses over TLS, kept",
    "Every request asks for another key. S3 Proxy and nginx fetch over TLS and verify the certificate; Varnish "
    "speaks no TLS and fetches the same over plain HTTP, which is less work. ETags are those of S3: of objects of "
    "up to 8 MiB, the MD5, which S3 Proxy compares before it keeps anything.",
    lambda stage, scale: start_static(stage),
    cases,
)
PASSING = Group(
    "passing",
    "Misses over TLS, not kept",
    "The same without a cache: S3 Proxy with `read_cache_enabled: false`, nginx without proxy_cache and without "
    "temporary files, Varnish with `return (pass)`, over plain HTTP.",
    lambda stage, scale: start_static(stage, cache={"read_cache_enabled": False}, caching=False),
    cases,
)
