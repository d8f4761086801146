"""Starting the servers of a group, and filling their caches with what is right."""

from collections.abc import Iterable, Mapping
from typing import Any

from bench import peers
from bench.clients import drive, fetch
from bench.measure import Stage
from bench.origins import Origin, static_origin
from bench.process import Server, ServerFailed
from bench.requests import a_request

__all__ = ["fill", "start_peers", "start_static"]

FILLERS = 8


def start_static(
    stage: Stage,
    *,
    cache: Mapping[str, Any] | None = None,
    slices: bool = False,
    storage: str | None = "file",
    caching: bool = True,
) -> None:
    """The static origin over TLS and the peers in front of it; see :func:`start_peers`."""
    origin = stage.origin = static_origin(stage.folder)
    stage.others.append(origin.server)
    start_peers(stage, origin, cache=cache, slices=slices, storage=storage, caching=caching)


def start_peers(
    stage: Stage,
    origin: Origin,
    *,
    cache: Mapping[str, Any] | None = None,
    slices: bool = False,
    storage: str | None = "file",
    caching: bool = True,
) -> None:
    """S3 Proxy once for each interpreter, nginx, and where they belong, nginx with slices and Varnish.

    :param cache: settings of S3 Proxy's section "cache"
    :param slices: with nginx that caches in slices
    :param storage: Varnish's; None for no Varnish
    :param caching: False for nginx and Varnish that keep nothing
    """
    for number, python in enumerate(stage.pythons, 1):
        name = "s3proxy" if number == 1 else f"s3proxy@{number}"
        stage.peers[name] = peers.s3proxy(stage.folder, origin, name=name, python=python, cache=cache)
    stage.peers["nginx"] = peers.nginx_cache(stage.folder, origin, caching=caching)
    if slices:
        stage.peers["slice"] = peers.nginx_cache(stage.folder, origin, name="slice", slices=True)
    if storage is not None and peers.varnish_is_installed():
        stage.peers["varnish"] = peers.varnish(stage.folder, origin, storage=storage, caching=caching)


def fill(stage: Stage, server: Server, paths: Iterable[str]) -> None:
    """Read all of these once, so that they are cached, and compare the first with the origin's file.

    :raises ServerFailed: an answer that failed, or wrong bytes
    """
    requests = [a_request(path) for path in paths]
    drive(server.port, requests, min(FILLERS, len(requests)))
    size = requests[0].split(b" ", 2)[1].rpartition(b"/")[2].decode()
    _, body = fetch(server.port, requests[0])
    if body != (stage.folder / "objects" / "bucket" / size).read_bytes():
        raise ServerFailed(f"{server.name} answered with wrong bytes")
