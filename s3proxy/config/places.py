"""Where things are that the configuration leaves to the proxy, for the proxy itself and for who looks for it."""

import os
from collections.abc import Mapping

from s3proxy.config.model import Config

__all__ = ["main_port", "socket_directories", "socket_name"]


def main_port(config: Config) -> int:
    """The port of the listener that clients use first."""
    server = config.server
    return server.proxy_port if server.mode == "proxy_only" else server.http_port


def socket_name(config: Config) -> str:
    """The name of the socket for s3proxyctl in one of :func:`socket_directories`. One port has one proxy."""
    return f"{main_port(config)}.sock"


def socket_directories(environ: Mapping[str, str], user: int) -> list[str]:
    """Where the socket for s3proxyctl may be; the proxy takes the first of them that it can use.

    All of them are local, and empty after a restart of the machine: who asks a proxy how it is must not have to wait
    for a network file system that hangs.

    :param environ: of the process; ``RUNTIME_DIRECTORY`` is what systemd made for the service
    :param user: the number of the proxy's user
    """
    own = environ.get("XDG_RUNTIME_DIR", "")
    found = [
        *environ.get("RUNTIME_DIRECTORY", "").split(":"),
        "/run/s3proxy",
        os.path.join(own, "s3proxy") if own else "",
        f"/tmp/s3proxy-{user}",
    ]
    return list(dict.fromkeys(path for path in found if os.path.isabs(path)))
