"""A TCP connection to the first of several addresses that answers."""

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.upstream.interfaces import UpstreamTimeout, UpstreamUnreachable
from s3proxy.upstream.routing import show_address

__all__ = ["Dialled", "dial"]

#: The socket, and the IP address and port to which it leads.
Dialled = tuple[socket.socket, str, int]

_UNDER_WAY = frozenset((0, errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EINTR))


@implementer(IWriteDescriptor)
class _Attempt:
    """One address that is being dialled."""

    def __init__(
        self,
        reactor: Any,
        ip: str,
        port: int,
        prepare: Callable[[socket.socket], None],
        ended: "Callable[[_Attempt, int], None]",
    ) -> None:
        self.ip = ip
        self.port = port
        self._reactor = reactor
        self._ended = ended
        self._watched = False
        self.began: float = reactor.seconds()
        self.sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self._prepare = prepare

    def start(self) -> int:
        """Begin; gives back the error, if it fails at once."""
        try:
            self._prepare(self.sock)
            code = self.sock.connect_ex((self.ip, self.port))
        except OSError as error:
            code = error.errno or errno.EINVAL
        if code not in _UNDER_WAY:
            return code
        self._watched = True
        self._reactor.addWriter(self)
        return 0

    def fileno(self) -> int:
        """Called by the reactor."""
        return self.sock.fileno()

    def logPrefix(self) -> str:
        """Called by the reactor."""
        return "tunnel"

    def doWrite(self) -> None:
        """Called by the reactor when the connection has come about, or failed."""
        self.let_go()
        self._ended(self, self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def connectionLost(self, reason: Failure) -> None:
        """Called by the reactor when the attempt has failed, and at its own end."""
        self.let_go()
        self._ended(self, self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNABORTED)

    def let_go(self) -> None:
        """The reactor has nothing to do with it any more."""
        if self._watched:
            self._watched = False
            self._reactor.removeWriter(self)

    def close(self) -> None:
        """Give it up."""
        self.let_go()
        self.sock.close()


class _Dial:
    """Dials one address after the other, the next one also when the one before is silent for a moment."""

    def __init__(
        self,
        reactor: Any,
        host: str,
        addresses: Sequence[tuple[str, int]],
        *,
        limit: float,
        stagger: float,
        prepare: Callable[[socket.socket], None],
        failed: Callable[[str, int], None],
    ) -> None:
        self._reactor = reactor
        self._host = host
        self._left: Iterator[tuple[str, int]] = iter(addresses)
        self._stagger = stagger
        self._prepare = prepare
        self._failed = failed
        self._attempts: list[_Attempt] = []
        self._problem = "it has no address"
        self._next: IDelayedCall | None = None
        self._seconds = limit
        self.result: Deferred[Dialled] = Deferred(lambda _: self._stop())
        self._limit: IDelayedCall = reactor.callLater(limit, self._too_late)
        self._go_on()

    def _go_on(self) -> None:
        """Dial the next address."""
        self._cancel_next()
        for ip, port in self._left:
            try:
                attempt = _Attempt(self._reactor, ip, port, self._prepare, self._ended)
            except OSError as error:
                self._problem = f"{show_address(ip, port)}: {error.strerror or error}"
                continue
            self._attempts.append(attempt)
            code = attempt.start()
            if code == 0:
                self._next = self._reactor.callLater(self._stagger, self._go_on)
                return
            self._drop(attempt, code)
        if not self._attempts:
            self._finish(Failure(UpstreamUnreachable(f"cannot connect to {self._host}: {self._problem}")))

    def _drop(self, attempt: _Attempt, code: int) -> None:
        self._problem = f"{show_address(attempt.ip, attempt.port)}: {os.strerror(code)}"
        self._attempts.remove(attempt)
        attempt.close()
        self._failed(attempt.ip, attempt.port)

    def _ended(self, attempt: _Attempt, code: int) -> None:
        if code:
            self._drop(attempt, code)
            self._go_on()
            return
        self._attempts.remove(attempt)
        self._blame_silent()
        self._finish((attempt.sock, attempt.ip, attempt.port))

    def _blame_silent(self) -> None:
        """Those that had their time and were passed over, or would be passed over by each connection to come."""
        latest = self._reactor.seconds() - self._stagger
        for attempt in self._attempts:
            if attempt.began <= latest:
                self._failed(attempt.ip, attempt.port)

    def _too_late(self) -> None:
        self._blame_silent()
        self._finish(Failure(UpstreamTimeout(f"no connection to {self._host} within {self._seconds:g} s")))

    def _finish(self, result: Dialled | Failure) -> None:
        self._stop()
        if isinstance(result, Failure):
            self.result.errback(result)
        else:
            self.result.callback(result)

    def _cancel_next(self) -> None:
        call, self._next = self._next, None
        if call is not None and call.active():
            call.cancel()

    def _stop(self) -> None:
        self._cancel_next()
        if self._limit.active():
            self._limit.cancel()
        attempts, self._attempts = self._attempts, []
        self._left = iter(())
        for attempt in attempts:
            attempt.close()


def dial(
    reactor: Any,
    host: str,
    addresses: Sequence[tuple[str, int]],
    *,
    limit: float,
    stagger: float,
    prepare: Callable[[socket.socket], None],
    failed: Callable[[str, int], None],
) -> "Deferred[Dialled]":
    """Connect to one of the addresses, preferring those in front; its socket does not block. Cancelling stops it.

    Fails with UpstreamUnreachable when all refuse, with UpstreamTimeout when time is up.

    :param limit: seconds for all of it
    :param stagger: seconds after which the next address is dialled besides
    :param prepare: sets options of a socket that is about to be connected
    :param failed: called with IP and port of each address that could not be reached, or kept silent until the end
    """
    return _Dial(reactor, host, addresses, limit=limit, stagger=stagger, prepare=prepare, failed=failed).result
