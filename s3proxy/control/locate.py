"""Which socket is that of the proxy in question."""

import errno
import glob
import os
import socket
import stat
from collections.abc import Iterable, Mapping

from s3proxy.config.load import ConfigError, load_config
from s3proxy.config.model import Config
from s3proxy.config.places import socket_directories, socket_name
from s3proxy.control.outcome import Unreachable, Usage

__all__ = ["directories", "find_socket", "load"]

_SECONDS = 2.0


def load(path: str, environ: Mapping[str, str]) -> Config:
    """The configuration in a file, for what it says of the proxy that was started with it.

    :raises Usage: it can't be used
    """
    try:
        return load_config(os.path.abspath(path), environ=environ, options={}).config
    except ConfigError as error:
        raise Usage("\n".join(str(problem) for problem in error.problems)) from None


def directories(environ: Mapping[str, str], user: int) -> list[str]:
    """Where proxies that this user may ask can have their sockets: root may ask those of everybody."""
    found = socket_directories(environ, user)
    if user == 0:
        found += sorted(set(glob.glob("/tmp/s3proxy-*")) - set(found))
    return found


def find_socket(given: str | None, config: str | None, environ: Mapping[str, str], places: Iterable[str]) -> str:
    """The path of the proxy's socket.

    :param given: the path, if somebody knows it
    :param config: the file of the proxy's configuration, if that is known
    :param places: see :func:`directories`
    :raises Unreachable: there is none
    :raises Usage: it is not clear which; or the configuration has none
    """
    if given:
        return given
    private = [path for path in places if _is_private(path)]
    if config:
        return _of_config(load(config, environ), config, private)
    found = [path for path in _sockets(private) if _answers(path)]
    if not found:
        raise Unreachable(
            "no proxy answers on this machine that this user may ask; start it, or name its socket (--socket) or its "
            "configuration (--config)"
        )
    if len(found) > 1:
        raise Usage(f"several proxies run here; name one with --socket: {', '.join(found)}")
    return found[0]


def _of_config(config: Config, file: str, places: list[str]) -> str:
    if not config.admin.enabled:
        raise Usage(f"{file} has admin.enabled: false: the proxy has no socket")
    if config.admin.socket:
        return config.admin.socket
    name = socket_name(config)
    candidates = [os.path.join(directory, name) for directory in places]
    present = [path for path in candidates if os.path.exists(path)]
    if not present:
        where = ", ".join(places) or "any place where a proxy of this user would have it"
        raise Unreachable(f"there is no socket {name} in {where}: the proxy does not run, or runs as another user")
    return next((path for path in present if _answers(path)), present[0])


def _is_private(directory: str) -> bool:
    """Whether nobody but its owner can put sockets there."""
    try:
        status = os.stat(directory, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022


def _sockets(places: Iterable[str]) -> list[str]:
    return [path for each in places for path in sorted(glob.glob(os.path.join(glob.escape(each), "*.sock")))]


def _answers(path: str) -> bool:
    """Whether somebody listens there whom this user may ask."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_SECONDS)
        try:
            return probe.connect_ex(path) in (0, errno.EAGAIN)
        except OSError:
            return False
