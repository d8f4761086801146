"""Many clients of one object: a herd that asks at once for what nobody asked for before, and readers that are slow."""

import select
import socket
import time
from functools import partial

from bench.clients import Load, drive
from bench.measure import CPU_PER_GIB, Case, Column, Group, Scale, Stage, settle
from bench.origins import account_of, paced_origin
from bench.paced_origin import Script
from bench.process import Server, ServerFailed
from bench.requests import a_request
from bench.stages import fill, start_peers, start_static

__all__ = ["HERD", "SLOW", "read_slowly"]

DELAY_SECONDS = 0.1
ORIGIN_RATE = 100 << 20
READ_RATE = 10_000
READ_TICK = 0.1
_keys = (f"/bucket/herd/{number}" for number in range(1_000_000_000))

HERD_COLUMNS = (
    Column("upstream_ratio", "upstream bytes ÷ object size"),
    Column("first_byte_ratio", "first byte ÷ single client's"),
    Column("total_ratio", "last byte ÷ single client's"),
    Column("limit_ratio", "last byte ÷ what the machine allows"),
    Column("single_first_byte_ms", "single client: first byte, ms"),
    Column("single_total_ms", "single client: last byte, ms"),
    Column("first_byte_ms", "first byte, ms"),
    Column("total_ms", "last byte, ms"),
    Column("hit_total_ms", "last byte when it is cached, ms"),
    CPU_PER_GIB,
)


def _start_herd(stage: Stage, scale: Scale) -> None:
    origin = stage.origin = paced_origin(stage.folder, Script(scale.herd_bytes, ORIGIN_RATE, DELAY_SECONDS))
    stage.others.append(origin.server)
    start_peers(stage, origin, slices=True)


def _herd(stage: Stage, size: int, clients: int, server: Server) -> Load:
    """One client of a new object, the herd at another, and the herd again at the same. The load is the herd's first."""
    single = drive(server.port, [a_request(next(_keys))], 1)
    if single.body_bytes != size:
        raise ServerFailed(f"{server.name} sent {single.body_bytes} bytes of {size}")
    requests = [a_request(next(_keys))] * clients
    origin = stage.origin
    assert origin is not None
    before, cpu = account_of(origin), server.cpu_seconds()
    load = drive(server.port, requests, clients)
    after, cpu = account_of(origin), server.cpu_seconds() - cpu
    again = drive(server.port, requests, clients)
    one, all_, hit = single.extras, load.extras, again.extras
    extras = {
        **all_,
        "upstream_ratio": (after.body_bytes - before.body_bytes) / size,
        "upstream_requests": after.requests - before.requests,
        "origin_late_s": after.late_seconds - before.late_seconds,
        "single_first_byte_ms": one["first_byte_ms"],
        "single_total_ms": one["total_ms"],
        "first_byte_ratio": all_["first_byte_ms"] / one["first_byte_ms"],
        "total_ratio": all_["total_ms"] / one["total_ms"],
        "limit_ratio": all_["total_ms"] / max(one["total_ms"], hit["total_ms"]),
        "hit_total_ms": hit["total_ms"],
        "cpu_s": cpu,
        "cpu_s_per_gib": cpu / (load.body_bytes / (1 << 30)),
    }
    return Load(load.requests, load.body_bytes, load.seconds, extras)


def _warm_up(server: Server) -> None:
    drive(server.port, [a_request(next(_keys)) for _ in range(2)], 1)


def herd_cases(stage: Stage, scale: Scale) -> list[Case]:
    """The whole herd, and a tenth of it, which the machine can serve at the origin's pace."""
    mib = scale.herd_bytes >> 20
    return [
        Case(
            f"{clients} clients of one object of {mib} MiB",
            HERD_COLUMNS,
            partial(_herd, stage, scale.herd_bytes, clients),
            _warm_up,
            lambda server: settle(),
        )
        for clients in (scale.herd // 10, scale.herd)
    ]


def read_slowly(server: Server, request: bytes, readers: int, seconds: float) -> int:
    """Read an answer with so many clients at 10 KB/s each; returns the most resident memory of the server meanwhile.

    :raises ServerFailed: a connection is closed
    """
    sockets = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(readers)]
    most = 0
    try:
        for sock in sockets:
            sock.setblocking(False)
            sock.send(request)
        start = time.monotonic()
        taken = [0] * readers
        while (elapsed := time.monotonic() - start) < seconds:
            due = int(elapsed * READ_RATE)
            for index, sock in enumerate(sockets):
                if due <= taken[index] or not select.select([sock], [], [], 0)[0]:
                    continue
                piece = sock.recv(due - taken[index])
                if not piece:
                    raise ServerFailed(f"{server.name} closed the connection of a slow reader")
                taken[index] += len(piece)
            most = max(most, server.resident_bytes())
            time.sleep(max(0.0, READ_TICK - (time.monotonic() - start - elapsed)))
    finally:
        for sock in sockets:
            sock.close()
    if min(taken) == 0:
        raise ServerFailed(f"{server.name} sent nothing to a slow reader")
    return most


class _Growth:
    """Growth of resident memory since the server was warm; over several rounds it can only become larger."""

    def __init__(self, stage: Stage, scale: Scale, cached: bool) -> None:
        self._stage = stage
        self._scale = scale
        self._cached = cached
        self._base: dict[str, int] = {}
        self._serial = iter(range(1_000_000_000))

    def prepare(self, server: Server) -> None:
        fill(self._stage, server, ["/bucket/u/slow/m64", "/bucket/u/slower/m64"])
        self._base[server.name] = server.resident_bytes()

    def load(self, server: Server) -> Load:
        name = "slow" if self._cached else f"{server.name}-{next(self._serial)}"
        request = a_request(f"/bucket/u/{name}/m64")
        seconds, readers = self._scale.slow_seconds, self._scale.readers
        growth = max(0, read_slowly(server, request, readers, seconds) - self._base[server.name])
        return Load(readers, int(readers * READ_RATE * seconds), seconds, {"growth_mib": growth / (1 << 20)})


def slow_cases(stage: Stage, scale: Scale) -> list[Case]:
    """An object that is cached, and one that is fetched for these readers."""
    columns = (Column("growth_mib", "growth of resident memory, MiB"), Column("cpu_s", "CPU s"))
    found = []
    for title, cached in (("cached", True), ("not cached", False)):
        growth = _Growth(stage, scale, cached)
        name = f"{scale.readers} readers of one object of 64 MiB at 10 KB/s, {title}"
        found.append(Case(name, columns, growth.load, growth.prepare))
    return found


HERD = Group(
    "herd",
    "Herd",
    "All clients ask at the same time for an object that nobody has asked for before. The origin takes 100 ms to "
    "its first byte and then sends 100 MiB/s to each of its clients, over plain HTTP. Medians over the clients. A "
    "herd of 100 would need 10 GiB/s to end when a single client does. What the machine allows is the later of two "
    "ends: the single client's, and that of the same herd which asks again when the object is cached.",
    _start_herd,
    herd_cases,
)
SLOW = Group(
    "slow",
    "Slow readers",
    "Growth of resident memory over that of the server after its first two objects, the most of all rounds so "
    "far. Varnish maps its storage file, which counts as resident.",
    lambda stage, scale: start_static(stage),
    slow_cases,
)
