"""What systemd, or whoever speaks its protocols, is told and gives: notifications and sockets that are already bound.

Sources: sd_notify(3), sd_listen_fds(3), systemd.service(5) for ``Type=notify-reload``. Without one, nothing
happens.
"""

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

__all__ = ["ServiceManager", "inherited_sockets"]

_FIRST: Final = 3
_log = Logger()


class ServiceManager:
    """Tells how the process is, in datagrams to ``NOTIFY_SOCKET``. Never raises, never waits.

    :param reactor: runs the timer of the watchdog
    :param environ: of the process
    """

    def __init__(self, reactor: Any, environ: MutableMapping[str, str]) -> None:
        self._reactor = reactor
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._period = _watchdog_period(environ) if self._address else 0.0
        self._timer: IDelayedCall | None = None
        self._alive: Callable[[], object] = bool

    def ready(self, status: str = "", alive: Callable[[], object] = lambda: True) -> None:
        """The start, or a reload, is over.

        :param status: for ``systemctl status``
        :param alive: whether the watchdog is to be told so; a process whose event loop hangs tells nothing anyway
        """
        self._tell("READY=1", *([f"STATUS={_one_line(status)}"] if status else ()))
        self._alive = alive
        if self._period and self._timer is None:
            self._pat()

    def reloading(self) -> None:
        """A reload begins; :meth:`ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """The end begins. The watchdog is told that all is well while it lasts: it has a limit of its own."""
        self._tell("STOPPING=1", *([f"STATUS={_one_line(status)}"] if status else ()))
        self._alive = lambda: True

    def stop(self) -> None:
        """Nothing more is told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pat(self) -> None:
        self._timer = self._reactor.callLater(self._period, self._pat)
        if self._alive():
            self._tell("WATCHDOG=1")

    def _tell(self, *words: str) -> None:
        if not self._address:
            return
        # A name in the abstract namespace is written with @ for its leading NUL.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(words).encode("utf-8", "replace"), address)
        except OSError as error:
            _log.warn("the service manager could not be told {words}: {error}", words=words, error=error)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _watchdog_period(environ: MutableMapping[str, str]) -> float:
    """Seconds between two signs of life, half of what is allowed; 0: none are wanted of this process."""
    try:
        if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return 0.0
        return int(environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return 0.0


def inherited_sockets(environ: MutableMapping[str, str], first: int = _FIRST) -> list[socket.socket]:
    """The bound TCP sockets that this process was started with; once only, and none of them goes to its children.

    What tells of them is taken out of *environ*, as it is not true for children. Descriptors that are no TCP sockets
    are left out with a warning.

    :param first: number of the first descriptor
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for number in range(first, first + int(count)):
        try:
            sock = socket.socket(fileno=number)
        except OSError as error:
            _log.warn("descriptor {number} of LISTEN_FDS is no socket: {error}", number=number, error=error)
            continue
        sock.set_inheritable(False)
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            _log.warn("descriptor {number} of LISTEN_FDS is no TCP socket", number=number)
            sock.close()
            continue
        sock.setblocking(False)
        found.append(sock)
    return found
