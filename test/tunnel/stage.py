"""Real sockets around tunnels: what plays the client and the far side works in threads and may block."""

import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from s3proxy.telemetry.record import RequestRecord
from s3proxy.tunnel import registry
from s3proxy.tunnel.limits import TunnelLimits
from s3proxy.tunnel.registry import Tunnels
from s3proxy.tunnel.relay import SocketTunnel
from s3proxy.tunnel.tunnel import Origin

__all__ = ["LARGE_TESTS", "RelayCase", "connected", "descriptors", "disturb", "read_all", "reset", "send_all"]

Result = TypeVar("Result")
SECONDS = 20.0
LARGE_TESTS = os.environ.get("S3PROXY_TEST_LARGE") == "1"
_MIB = 1 << 20


def connected() -> tuple[socket.socket, socket.socket]:
    """The two ends of a TCP connection, both blocking with a time limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.settimeout(SECONDS)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def read_all(sock: socket.socket, limit: int | None = None) -> bytes:
    """Everything up to the end, or so many bytes."""
    found = bytearray()
    while limit is None or len(found) < limit:
        data = sock.recv(65536 if limit is None else min(65536, limit - len(found)))
        if not data:
            break
        found += data
    return bytes(found)


def send_all(sock: socket.socket, data: bytes, end: bool = False) -> None:
    """Send, and perhaps finish sending."""
    sock.sendall(data)
    if end:
        sock.shutdown(socket.SHUT_WR)


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def disturb(end: socket.socket, chance: random.Random) -> None:
    """Do something to one end of a connection, without waiting."""
    if end.fileno() < 0:
        return
    end.setblocking(False)
    try:
        what = chance.random()
        if what < 0.4:
            end.send(b"x" * chance.choice((1, 1000, _MIB, 8 * _MIB)))
        elif what < 0.7:
            end.recv(chance.choice((1, 1000, _MIB)))
        elif what < 0.85:
            end.shutdown(socket.SHUT_WR)
        elif what < 0.93:
            reset(end)
        else:
            end.close()
    except OSError:
        # The tunnel, or the other side, has ended before.
        return


def descriptors() -> list[str]:
    """What this process has open besides files."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return [target for target in found if target.startswith(("socket:", "pipe:"))]


class RelayCase(TestCase):
    """Makes tunnels between real connections."""

    timeout = 60
    splice = True

    async def setUp(self) -> None:  # type: ignore[override]
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.records: list[RequestRecord] = []
        self.patch(registry, "TICK", 0.05)
        self.tunnels = self.make_tunnels()
        # What the reactor and its threads open for themselves is open from now on.
        await self.work(lambda: None)

    def make_tunnels(self, **limits: Any) -> Tunnels:
        """Another registry."""
        tunnels = Tunnels(
            self.reactor, self.records.append, lambda: 0.0, limits=TunnelLimits(**limits), splice=self.splice
        )
        self.addCleanup(tunnels.mover.pipes.close)
        self.addCleanup(tunnels.abort_all)
        return tunnels

    def origin(self, listener: str = "https") -> Origin:
        """Where a tunnel comes from."""
        return Origin(
            listener=listener,
            client_address="192.0.2.1",
            started_at=0.0,
            started=self.reactor.seconds(),
            host="s3.test",
            upstream_address="192.0.2.9:443",
        )

    def open(self, **first: bytes) -> tuple[socket.socket, socket.socket]:
        """A tunnel; gives back the client's and the far side's ends."""
        client, inner = connected()
        outer, upstream = connected()
        inner.setblocking(False)
        outer.setblocking(False)
        self.tunnel = SocketTunnel(self.reactor, self.tunnels, self.origin(), inner, outer, **first)
        for end in (client, upstream):
            self.addCleanup(end.close)
        return client, upstream

    def work(self, call: Callable[..., Result], *args: Any) -> "Deferred[Result]":
        """Do something that blocks, in a thread."""
        return deferToThread(call, *args)

    async def carry(self, client: socket.socket, upstream: socket.socket, data: bytes) -> bytes:
        """What arrives of these bytes, and nothing behind them, at the far side."""
        sending = self.work(send_all, client, data, True)
        got = await self.work(read_all, upstream)
        await sending
        return got

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait until it is."""
        limit = self.reactor.seconds() + SECONDS
        while not true():
            if self.reactor.seconds() > limit:
                self.fail("it did not become true")
            await deferLater(self.reactor, 0.01)

    def timers(self) -> list[Any]:
        """What tunnels and those who want one have left for later."""
        owners = ("s3proxy.tunnel", "twisted.internet.defer", "twisted.protocols.tls")
        return [call for call in self.reactor.getDelayedCalls() if call.func.__module__.startswith(owners)]

    def reasons(self) -> list[str]:
        """How tunnels have ended."""
        return [record.reason for record in self.records]
