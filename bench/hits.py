"""Hits: from memory, from the disk with a warm and with a cold page cache; HEAD and 304."""

import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial

from bench.clients import Load, drive, fetch
from bench.measure import (
    BYTE_RATE,
    CPU_PER_GIB,
    CPU_PER_REQUEST,
    FIRST_BYTE,
    REQUEST_RATE,
    TOTAL,
    Case,
    Column,
    Group,
    Scale,
    Stage,
    drop_page_cache,
)
from bench.origins import SIZES
from bench.process import Server, ServerFailed
from bench.requests import a_request
from bench.stages import fill, start_static
from bench.wrk import wrk

__all__ = [
    "COLD", "HEADS", "HOT_LARGE", "HOT_SMALL", "RAM", "SMALL", "WARM", "WARM_UP_SECONDS", "connections_text",
    "load_large", "load_small", "paths", "whole",
]  # fmt: skip

CONNECTIONS = (1, 16, 64)
SMALL = {"k1": "1 KiB", "k64": "64 KiB"}
HOT_SMALL = 64
HOT_LARGE = 4
WARM_UP_SECONDS = 1.0
RANGE_BYTES = 8 << 20
ALL_BUT_SLICE = ("s3proxy", "nginx", "varnish")
SMALL_COLUMNS = (REQUEST_RATE, CPU_PER_REQUEST)
LARGE_COLUMNS = (BYTE_RATE, CPU_PER_GIB)
FORGETFUL = {"ram_cache_enabled": False, "metadata_cache": {"max_entries": 100}}
FROM_DISK = Column("from_disk", "read from disk ÷ sent")


def paths(size: str, count: int) -> list[str]:
    """Keys of objects of this size; always the same ones."""
    return [f"/bucket/u/h{number}/{size}" for number in range(count)]


def whole(objects: Sequence[str]) -> list[bytes]:
    """A GET of each."""
    return [a_request(path) for path in objects]


def ranges(objects: Sequence[str]) -> list[bytes]:
    """GETs of all their ranges of 8 MiB: the first of each, the second of each, …"""
    starts = range(0, SIZES["m64"], RANGE_BYTES)
    return [
        a_request(path, fields=(f"Range: bytes={start}-{start + RANGE_BYTES - 1}",))
        for start in starts
        for path in objects
    ]


def connections_text(count: int) -> str:
    """``1 connection``, ``16 connections``."""
    return f"{count} connection" + ("s" if count > 1 else "")


def load_small(requests: Sequence[bytes], count: int, seconds: float, size: int, server: Server) -> Load:
    """These requests in turns, over so many connections."""
    return wrk(server.port, requests, count, seconds, size)


def load_large(requests: Sequence[bytes], count: int, seconds: float, status: int, server: Server) -> Load:
    """The same by a client that is made for large bodies."""
    return drive(server.port, itertools.cycle(requests), count, seconds=seconds, status=status)


def _fill_whole(stage: Stage, objects: Sequence[str], server: Server) -> None:
    fill(stage, server, objects)


def _fill_ranges(stage: Stage, objects: Sequence[str], server: Server) -> None:
    """Whole objects where ranges are cut from them; the ranges themselves where slices are kept."""
    if server.name == "slice":
        drive(server.port, ranges(objects), 4, status=206)
    else:
        fill(stage, server, objects)


def _warm_up(prepare: Callable[[Server], None], load: Callable[[Server], Load], server: Server) -> None:
    prepare(server)
    load(server)


def warm_cases(stage: Stage, scale: Scale) -> list[Case]:
    """Hits of a few objects, again and again."""
    cases = []
    for size, title in SMALL.items():
        objects = paths(size, HOT_SMALL)
        for count in CONNECTIONS:
            load = partial(load_small, whole(objects), count)
            cases.append(
                Case(
                    f"{title}, {connections_text(count)}",
                    SMALL_COLUMNS,
                    partial(load, scale.seconds, SIZES[size]),
                    partial(
                        _warm_up, partial(_fill_whole, stage, objects), partial(load, WARM_UP_SECONDS, SIZES[size])
                    ),
                    peers=ALL_BUT_SLICE,
                )
            )
    objects = paths("m64", HOT_LARGE)
    for title, requests, filler, status in (
        ("8 MiB ranges", ranges(objects), _fill_ranges, 206),
        ("64 MiB", whole(objects), _fill_whole, 200),
    ):
        for count in CONNECTIONS:
            load = partial(load_large, requests, count)
            cases.append(
                Case(
                    f"{title}, {connections_text(count)}",
                    LARGE_COLUMNS,
                    partial(load, scale.seconds, status),
                    partial(_warm_up, partial(filler, stage, objects), partial(load, WARM_UP_SECONDS, status)),
                    peers=None if status == 206 else ALL_BUT_SLICE,
                )
            )
    return cases


def _load_once(requests: Sequence[bytes], count: int, status: int, server: Server) -> Load:
    return drive(server.port, requests, count, status=status)


def _drop(server: Server) -> None:
    drop_page_cache(server.folder)


def cold_cases(stage: Stage, scale: Scale) -> list[Case]:
    """Hits of many objects, each once."""
    cases = []
    for size, title in SMALL.items():
        objects = paths(size, scale.small_objects)
        for count in CONNECTIONS:
            cases.append(
                Case(
                    f"{title}, {connections_text(count)}",
                    (*SMALL_COLUMNS, TOTAL, FROM_DISK),
                    partial(_load_once, whole(objects), count, 200),
                    partial(_fill_whole, stage, objects),
                    _drop,
                    peers=ALL_BUT_SLICE,
                )
            )
    columns = (*LARGE_COLUMNS, FIRST_BYTE, FROM_DISK)
    few = paths("m64", scale.large_objects)
    for count in CONNECTIONS:
        load = partial(_load_once, ranges(few), count, 206)
        name = f"8 MiB ranges, {connections_text(count)}"
        cases.append(Case(name, columns, load, partial(_fill_ranges, stage, few), _drop))
    for count in CONNECTIONS:
        objects = paths("m64", min(max(scale.large_objects, count), scale.large_objects * 4))
        load = partial(_load_once, whole(objects), count, 200)
        name = f"64 MiB, {connections_text(count)}"
        cases.append(Case(name, columns, load, partial(_fill_whole, stage, objects), _drop, peers=ALL_BUT_SLICE))
    return cases


def _load_heads(requests: Sequence[bytes], count: int, seconds: float, server: Server) -> Load:
    return drive(server.port, itertools.cycle(requests), count, seconds=seconds)


def _load_not_modified(objects: Sequence[str], count: int, seconds: float, server: Server) -> Load:
    head, _ = fetch(server.port, a_request(objects[0]))
    match = re.search(rb"(?i)\r\netag: *([^\r]+)\r", head)
    if match is None:
        raise ServerFailed(f"{server.name} sent no ETag")
    fields = (f"If-None-Match: {match[1].decode()}",)
    answer, _ = fetch(server.port, a_request(objects[0], fields=fields))
    if not answer.startswith(b"HTTP/1.1 304"):
        raise ServerFailed(f"{server.name} does not answer 304: {answer!r}")
    return wrk(server.port, [a_request(path, fields=fields) for path in objects], count, seconds, 0)


def head_cases(stage: Stage, scale: Scale) -> list[Case]:
    """HEAD of cached objects, and conditional GETs whose answer is 304."""
    objects = paths("k64", HOT_SMALL)
    heads = [a_request(path, method="HEAD") for path in objects]
    cases = []
    for count in CONNECTIONS[1:]:
        for name, load in (
            ("HEAD", partial(_load_heads, heads, count)),
            ("304 to If-None-Match", partial(_load_not_modified, objects, count)),
        ):
            prepare = partial(_warm_up, partial(_fill_whole, stage, objects), partial(load, WARM_UP_SECONDS))
            cases.append(
                Case(f"{name}, {connections_text(count)}", SMALL_COLUMNS, partial(load, scale.seconds), prepare)
            )
    return cases


RAM = Group(
    "ram",
    "Hits from memory",
    "A few objects, again and again. S3 Proxy with its memory tier, Varnish with storage in memory, nginx with "
    "what the page cache holds of its files.",
    lambda stage, scale: start_static(stage, slices=True, storage="malloc"),
    warm_cases,
)
WARM = Group(
    "warm",
    "Hits from disk, page cache warm",
    "A few objects, again and again. S3 Proxy without its memory tier, Varnish with storage in a file.",
    lambda stage, scale: start_static(stage, cache={"ram_cache_enabled": False}, slices=True),
    warm_cases,
)
COLD = Group(
    "cold",
    "Hits from disk, page cache dropped",
    "Many objects, each once, after the page cache has forgotten them. S3 Proxy without its memory tier, and with "
    "room for the descriptions of 100 objects only, as if there were far more objects than memory. Varnish takes "
    "no part: it maps its storage, and mapped pages are not dropped.",
    lambda stage, scale: start_static(stage, cache=FORGETFUL, slices=True, storage=None),
    cold_cases,
)
HEADS = Group(
    "heads",
    "HEAD and 304 of cached objects",
    "The client of HEAD is slower than wrk, which cannot send it: compare processor time rather than requests.",
    lambda stage, scale: start_static(stage, storage="malloc"),
    head_cases,
)
