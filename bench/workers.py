"""One process and several: what a request costs, and how much more is served where there are processors for it."""

from functools import partial

from bench import peers
from bench.hits import (
    HOT_LARGE,
    HOT_SMALL,
    SMALL,
    WARM_UP_SECONDS,
    connections_text,
    load_large,
    load_small,
    paths,
    whole,
)
from bench.measure import BYTE_RATE, CPU_PER_GIB, CPU_PER_REQUEST, REQUEST_RATE, Case, Group, Scale, Stage
from bench.origins import SIZES, static_origin
from bench.process import Server
from bench.stages import fill

__all__ = ["WORKERS"]

COUNTS = (1, 2)
CONNECTIONS = (16, 64)


def _start(stage: Stage, scale: Scale) -> None:
    origin = stage.origin = static_origin(stage.folder)
    stage.others.append(origin.server)
    for count in COUNTS:
        name = "s3proxy" if count == 1 else f"workers-{count}"
        stage.peers[name] = peers.s3proxy(stage.folder, origin, name=name, workers=count)


def _prepare(stage: Stage, objects: list[str], size: str, server: Server) -> None:
    """Fill the cache, and let every worker get to know what is in it."""
    fill(stage, server, objects)
    if size == "m64":
        load_large(whole(objects), 16, WARM_UP_SECONDS, 200, server)
    else:
        load_small(whole(objects), 64, WARM_UP_SECONDS, SIZES[size], server)


def cases(stage: Stage, scale: Scale) -> list[Case]:
    """Hits of a few objects, again and again."""
    found = []
    for size, title in SMALL.items():
        objects = paths(size, HOT_SMALL)
        for count in CONNECTIONS:
            found.append(
                Case(
                    f"{title}, {connections_text(count)}",
                    (REQUEST_RATE, CPU_PER_REQUEST),
                    partial(load_small, whole(objects), count, scale.seconds, SIZES[size]),
                    partial(_prepare, stage, objects, size),
                )
            )
    objects = paths("m64", HOT_LARGE)
    found.append(
        Case(
            f"64 MiB, {connections_text(16)}",
            (BYTE_RATE, CPU_PER_GIB),
            partial(load_large, whole(objects), 16, scale.seconds, 200),
            partial(_prepare, stage, objects, "m64"),
        )
    )
    return found


WORKERS = Group(
    "workers",
    "One process and two",
    "Hits of a few objects, with server.workers 1 and 2. Two workers can serve more only where the load generator, "
    "which takes a processor itself, leaves them two: on a machine of two processors compare the processor time per "
    "request, by which one sees what that would be.",
    _start,
    cases,
)
