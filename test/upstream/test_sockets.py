"""Tests of s3proxy.upstream.sockets."""

import socket
import struct
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from s3proxy.upstream.sockets import RECV_SIZE, SocketOptions, connect
from s3proxy.util.turn import TURN

loop: Any = reactor


class Recorder(Protocol):
    """Keeps what it reads."""

    def __init__(self) -> None:
        self.received = b""
        self.sizes: list[int] = []
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.made.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.sizes.append(len(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class Producer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def pauseProducing(self) -> None:
        self.heard.append("paused")

    def resumeProducing(self) -> None:
        self.heard.append("resumed")

    def stopProducing(self) -> None:
        self.heard.append("stopped")


class SocketTests(TestCase):
    """One connection, with a plain socket at its other end."""

    timeout = 10

    async def pair(self, options: SocketOptions = SocketOptions()) -> tuple[Recorder, Any, socket.socket]:
        """Protocol, transport, and the peer's socket."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        protocol = Recorder()
        factory = ClientFactory.forProtocol(lambda: protocol)
        factory.noisy = False
        connect(loop, "127.0.0.1", listener.getsockname()[1], factory, 5, options)
        await protocol.made
        peer, _ = listener.accept()
        self.addCleanup(peer.close)
        return protocol, protocol.transport, peer

    async def test_output_of_a_turn(self) -> None:
        """What is written while the reactor deals with another socket goes out at the end of that, by itself."""
        protocol, transport, peer = await self.pair()
        peer.setblocking(False)
        self.assertTrue(TURN.begin())
        transport.write(b"a request ")
        transport.write(b"in two pieces")
        self.assertNotIn(transport, loop.getWriters())
        self.assertRaises(BlockingIOError, peer.recv, 100)
        TURN.end()
        self.assertNotIn(transport, loop.getWriters())
        peer.settimeout(5)
        self.assertEqual(peer.recv(100), b"a request in two pieces")
        transport.abortConnection()
        await protocol.lost

    async def test_large_output(self) -> None:
        """Much is sent at once, behind what waits for the end of the turn."""
        protocol, transport, peer = await self.pair()
        peer.settimeout(5)
        self.assertTrue(TURN.begin())
        transport.write(b"head")
        transport.write(b"x" * 65536)
        received = b""
        while len(received) < 4 + 65536:
            received += peer.recv(1 << 20)
        TURN.end()
        self.assertTrue(received == b"head" + b"x" * 65536)
        transport.abortConnection()
        await protocol.lost

    async def test_output_from_a_buffer(self) -> None:
        """The buffer may change afterwards; what the kernel does not take at once pauses the producer, and is sent
        before anything later.
        """
        protocol, transport, peer = await self.pair()
        producer = Producer()
        transport.registerProducer(producer, True)
        buffer = bytearray(b"a" * (1 << 20))
        count = 0
        while "paused" not in producer.heard:
            transport.write_through(memoryview(buffer))
            count += 1
        buffer[:] = b"b" * len(buffer)
        transport.write_through(memoryview(buffer))
        received = bytearray()
        peer.setblocking(False)
        while len(received) < (count + 1) << 20:
            try:
                received += peer.recv(1 << 20)
            except BlockingIOError:
                await deferLater(loop, 0.001)
        self.assertTrue(received == b"a" * (count << 20) + bytes(buffer))
        await deferLater(loop, 0)
        self.assertEqual(producer.heard[-1], "resumed")
        transport.unregisterProducer()
        transport.abortConnection()
        await protocol.lost

    async def test_large_output_to_nobody(self) -> None:
        """A peer that is gone is noticed by the reactor, not by who writes."""
        protocol, transport, peer = await self.pair()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        transport.write(b"x" * 65536)
        self.assertFalse(protocol.lost.called)
        await protocol.lost
        transport.write(b"x" * 65536)

    async def test_more_than_the_kernel_takes(self) -> None:
        """The reactor sees to the rest, and to the end of the connection."""
        protocol, transport, peer = await self.pair()
        data = bytes(range(256)) * (64 * 1024)
        self.assertTrue(TURN.begin())
        transport.write(data)
        transport.loseConnection()
        TURN.end()
        self.assertIn(transport, loop.getWriters())
        received = bytearray()
        peer.setblocking(False)
        while True:
            try:
                piece = peer.recv(1 << 20)
            except BlockingIOError:
                await deferLater(loop, 0.001)
                continue
            if not piece:
                break
            received += piece
        self.assertTrue(received == data)
        await protocol.lost

    async def test_last_bytes(self) -> None:
        """What the peer sent before its reset is read, although a write is what noticed the reset."""
        protocol, transport, peer = await self.pair()
        transport.pauseProducing()
        peer.sendall(b"answer")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        transport.write(b"more of the upload")
        await protocol.lost
        self.assertEqual(protocol.received, b"answer")

    async def test_last_bytes_after_an_abort(self) -> None:
        """Nothing more is read after our own abort."""
        protocol, transport, peer = await self.pair()
        peer.sendall(b"answer")
        transport.abortConnection()
        await protocol.lost
        self.assertEqual(protocol.received, b"")

    async def test_large_reads(self) -> None:
        """One read takes as much as 256 KiB."""
        protocol, transport, peer = await self.pair()
        transport.pauseProducing()
        peer.setblocking(False)
        size = peer.send(b"x" * 2 * RECV_SIZE)
        transport.resumeProducing()
        while len(protocol.received) < size:
            await deferLater(loop, 0.001)
        self.assertGreater(max(protocol.sizes), 65536)
        transport.loseConnection()
        await protocol.lost

    async def test_unsent(self) -> None:
        """Bytes count as unsent until the peer's kernel has them."""
        protocol, transport, peer = await self.pair()
        self.assertEqual(transport.unsent(), 0)
        transport.write(b"x" * 1000)
        self.assertEqual(transport.unsent(), 1000)
        while transport.unsent():
            await deferLater(loop, 0.001)
        transport.write(b"x" * 64 * 1024 * 1024)
        await deferLater(loop, 0.05)
        first = transport.unsent()
        self.assertGreater(first, 32 * 1024 * 1024)
        peer.recv(1024 * 1024)
        transport.abortConnection()
        await protocol.lost

    async def test_readable(self) -> None:
        """Bytes and the end of the connection make it readable."""
        protocol, transport, peer = await self.pair()
        transport.pauseProducing()
        self.assertFalse(transport.readable())
        peer.sendall(b"x")
        self.assertTrue(transport.readable())
        transport.abortConnection()
        await protocol.lost

    async def test_receive_buffer(self) -> None:
        """SO_RCVBUF is left alone unless configured (Linux reports twice the value)."""
        default = (await self.pair())[1]
        small = (await self.pair(SocketOptions(recv_buffer=40000)))[1]
        sizes = [sock.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in (default, small)]
        self.assertEqual(sizes[1], 80000)
        self.assertNotEqual(sizes[0], sizes[1])
        for transport in (default, small):
            transport.abortConnection()
            await transport.protocol.lost
