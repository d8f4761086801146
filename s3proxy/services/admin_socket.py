"""The UNIX socket for s3proxyctl: where it is made, and the service that listens there."""

import errno
import os
import socket
import stat
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Site

from s3proxy.config.model import Config
from s3proxy.config.places import socket_directories, socket_name

__all__ = ["AdminSocket", "socket_path"]

LONGEST = 107
"""Bytes of a path that a UNIX address can hold (unix(7))."""
_MODE = 0o600
_ELSEWHERE = "set admin.socket to another path, or admin.enabled to false"


def socket_path(config: Config, environ: Mapping[str, str], owner: tuple[int, int] | None) -> str | None:
    """Where to listen; None: nowhere. Makes the directory, which may need privileges, unless the path is configured.

    :param owner: user and group to which privileges will be given up
    """
    if not config.admin.enabled:
        return None
    if config.admin.socket:
        return config.admin.socket
    user = os.geteuid() if owner is None else owner[0]
    directories = socket_directories(environ, user)
    chosen = next((path for path in directories if _make_usable(path, user, owner)), directories[-1])
    return os.path.join(chosen, socket_name(config))


def _make_usable(path: str, user: int, owner: tuple[int, int] | None) -> bool:
    """Whether only this user can make sockets in the directory. It is made if it is not there."""
    try:
        os.mkdir(path, 0o700)
        if owner is not None:
            os.chown(path, *owner)
    except FileExistsError:
        pass
    except OSError:
        return False
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022


class AdminSocket(Service):
    """Listens at a path that nobody but this user, and root, can open.

    Where that is impossible, it is an error in the log and in :attr:`error`, and the proxy goes on without it.
    """

    log = Logger()

    def __init__(self, reactor: Any, path: str, site: Site) -> None:
        self._reactor = reactor
        self._site = site
        self._port: IListeningPort | None = None
        self.path = path
        self.error: str | None = None

    def startService(self) -> None:
        """Listen."""
        super().startService()
        try:
            if len(os.fsencode(self.path)) > LONGEST:
                raise OSError(errno.ENAMETOOLONG, f"the path has more than {LONGEST} bytes")
            _clear(self.path)
            self._port = self._reactor.listenUNIX(self.path, self._site, mode=_MODE)
        except CannotListenError as error:
            self._fail(error.socketError)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        text = getattr(error, "strerror", None) or str(error)
        self.error = f"admin.socket: can't listen at {self.path}: {text}; {_ELSEWHERE}"
        self.log.error("{text}", text=self.error)

    def stopService(self) -> "Deferred[None] | None":
        """Stop listening. The socket is removed."""
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            return None
        stopped: Deferred[Any] = maybeDeferred(port.stopListening)
        return stopped.addErrback(self._left)

    def _left(self, reason: Failure) -> None:
        """Somebody has removed the socket already, or its directory."""
        reason.trap(OSError)


def _clear(path: str) -> None:
    """Remove a socket that a proxy has left behind that did not end as it should.

    :raises OSError: something else has the name, or somebody listens there
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file of that name, and it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another proxy listens there")
