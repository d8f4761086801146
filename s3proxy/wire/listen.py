"""Listening sockets of the data listener: bound once, perhaps with privileges, then served by transports that can
send files.
"""

import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory

from s3proxy.wire.pages import PageCache
from s3proxy.wire.transport import FileServer

__all__ = ["FileServerPort", "adopt_files", "bind_socket"]

BACKLOG = 1024

_ANY = ("", "::")
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


class FileServerPort(tcp.Port):
    """A port whose connections are :class:`FileServer` transports.

    :ivar page_cache: how they see to it that pages are in memory before they are sent; None: they don't
    """

    transport = FileServer
    page_cache: PageCache | None = None


def bind_socket(port: int, interface: str = "", reuse_port: bool = False) -> socket.socket:
    """A bound TCP socket that does not listen yet.

    :param interface: an IP address; empty for all addresses of both families (IPv4 only where the machine has no IPv6)
    :param reuse_port: several processes are to bind the same port (SO_REUSEPORT)
    :raises CannotListenError: when the port is taken, or not ours to take, or the address is not this machine's
    """
    if interface in _ANY:
        try:
            return _bind(socket.AF_INET6, "::", port, reuse_port)
        except OSError as error:
            if interface == "::" or socket.has_ipv6 and _has_ipv6_loopback():
                raise CannotListenError(interface, port, error) from error
        interface = "0.0.0.0"
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    try:
        return _bind(family, interface, port, reuse_port)
    except OSError as error:
        raise CannotListenError(interface, port, error) from error


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _bind(family: int, interface: str, port: int, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if interface == "::" else 1)
        sock.bind((interface, port))
    except BaseException:
        sock.close()
        raise
    return sock


def adopt_files(
    reactor: Any,
    sock: socket.socket,
    factory: IProtocolFactory,
    backlog: int = BACKLOG,
    page_cache: PageCache | None = None,
) -> FileServerPort:
    """Accept connections on a bound socket. The port works on a duplicate: the caller may close its own, or hand it on.

    :raises CannotListenError: when another socket listens there
    """
    # Accepted sockets inherit these, which saves four system calls for each of them.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    sock.setblocking(False)
    try:
        sock.listen(backlog)
    except OSError as error:
        interface, number = sock.getsockname()[:2]
        raise CannotListenError(interface, number, error) from error
    port = FileServerPort._fromListeningDescriptor(reactor, sock.fileno(), sock.family, factory)
    assert isinstance(port, FileServerPort)
    port.page_cache = page_cache
    port.startListening()
    return port
