"""Bytes and file spans on real sockets."""

import errno
import os
import socket
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from s3proxy.wire import transport
from s3proxy.wire.pages import PageCache
from s3proxy.wire.transport import GATHER, FileServer, FileTruncated
from test.wire.harness import Receiver, listen_files, small_buffers

reactor: Any = _reactor
DATA = os.urandom(1 << 20)
PATTERN = bytes(range(256)) * 4096


class Accepted(Protocol):
    """The server's end: remembers why the connection was lost."""

    reason: Failure | None = None

    def __init__(self) -> None:
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.on_data: Any = None

    def connectionMade(self) -> None:
        self.made.callback(None)

    def dataReceived(self, data: bytes) -> None:
        if self.on_data is not None:
            self.on_data(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:
        self.reason = reason
        self.lost.callback(None)


class Threads:
    """Reads that end when the test says so."""

    def __init__(self) -> None:
        self.pending: list[tuple[Deferred[Any], Any, Any]] = []

    def run(self, call: Any, *arguments: Any) -> "Deferred[Any]":
        done: Deferred[Any] = Deferred()
        self.pending.append((done, call, arguments))
        return done

    def work(self) -> None:
        done, call, arguments = self.pending.pop(0)
        try:
            result = call(*arguments)
        except OSError:
            done.errback(Failure())
        else:
            done.callback(result)


class Pushed:
    """A push producer that counts."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")

    def stopProducing(self) -> None:
        self.events.append("stop")


class FileServerCase(TestCase):
    """One connection over the loopback."""

    timeout = 30

    async def connect(self, page_cache: PageCache | None = None, tiny: bool = False) -> None:
        self.accepted = Accepted()
        factory = Factory.forProtocol(lambda: self.accepted)
        factory.noisy = False
        port = listen_files(reactor, factory, page_cache=page_cache)
        self.addCleanup(port.stopListening)
        sock = socket.socket()
        if tiny:
            small_buffers(sock)
        sock.connect(("127.0.0.1", port.getHost().port))
        self.receiver = Receiver()
        client_factory = Factory.forProtocol(lambda: self.receiver)
        client_factory.noisy = False
        sock.setblocking(False)
        self.client: Any = reactor.adoptStreamConnection(sock.fileno(), socket.AF_INET, client_factory)
        self.client = self.receiver.transport
        sock.close()
        await self.accepted.made
        self.server: FileServer = self.accepted.transport
        if tiny:
            small_buffers(self.server.socket)
        self.addCleanup(self.disconnect)

    async def disconnect(self) -> None:
        if self.receiver.reason is None:
            self.client.abortConnection()
            await self.receiver.closed
        if self.accepted.reason is None:
            self.server.abortConnection()
            await self.accepted.lost

    def file_with(self, data: bytes) -> int:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(data)
        fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        return fd

    async def wait_until(self, condition: Any) -> None:
        for _ in range(5000):
            if condition():
                return
            await deferLater(reactor, 0.001, lambda: None)
        self.fail("it did not happen")

    def run_now(self, coroutine: Any) -> "Deferred[None]":
        return Deferred.fromCoroutine(coroutine)


async def outcomes(spans: "list[Deferred[None]]") -> "list[type[BaseException] | None]":
    """What each of them failed with, or None."""
    results = await DeferredList(spans, consumeErrors=True)
    return [None if good else result.type for good, result in results]


def coroutine(method: Any) -> Any:
    """Make a test of a coroutine function."""

    def test(self: Any) -> "Deferred[None]":
        return Deferred.fromCoroutine(method(self))

    test.__doc__ = method.__doc__
    return test


class OrderTests(FileServerCase):
    """Bytes and spans arrive in the order in which they were handed over."""

    @coroutine
    async def test_order(self) -> None:
        """Writes before, between and behind spans keep their places; every Deferred fires."""
        await self.connect()
        fd = self.file_with(DATA)
        sent = []
        self.server.write(b"head")
        sent.append(self.server.sendFile(fd, 10, 100))
        self.server.write(b"one")
        self.server.writeSequence([b"two", b"three"])
        sent.append(self.server.sendFile(fd, 0, len(DATA)))
        sent.append(self.server.sendFile(fd, 5, 5))
        self.server.write(b"tail")
        expected = b"head" + DATA[10:110] + b"onetwothree" + DATA + DATA[5:10] + b"tail"
        self.assertEqual(await self.receiver.wait_for(len(expected)), expected)
        await gatherResults(sent)
        self.assertEqual((self.server.bytes_sent, self.server.unsent), (len(expected), 0))

    @coroutine
    async def test_small_is_sent_at_once(self) -> None:
        """A head and a small span leave in the same turn; the Deferred has fired when sendFile() returns."""
        await self.connect()
        fd = self.file_with(DATA)
        self.server.write(b"head")
        self.assertTrue(self.server.sendFile(fd, 0, 1000).called)
        self.assertEqual((self.server.bytes_sent, self.server.unsent), (1004, 0))
        self.assertNotIn(self.server, reactor.getWriters())
        self.assertEqual(await self.receiver.wait_for(1004), b"head" + DATA[:1000])

    @coroutine
    async def test_answers_leave_in_the_turn_of_the_request(self) -> None:
        """What is written while data is received needs no second turn of the reactor, and one segment."""
        await self.connect()
        seen = []

        def answer(data: bytes) -> None:
            self.server.write(b"a")
            self.server.write(b"b")
            seen.append(self.server.bytes_sent)
            reactor.callLater(0, lambda: seen.append(self.server.bytes_sent))

        self.accepted.on_data = answer
        self.client.write(b"?")
        self.assertEqual(await self.receiver.wait_for(2), b"ab")
        await self.wait_until(lambda: len(seen) == 2)
        self.assertEqual(seen, [0, 2])

    @coroutine
    async def test_tiny_socket(self) -> None:
        """A socket that takes little at a time gets everything in the end."""
        await self.connect(tiny=True)
        fd = self.file_with(DATA)
        sent = []
        expected = b""
        for index in range(20):
            sent.append(self.server.sendFile(fd, index, 30011))
            self.server.write(b"<%d>" % index)
            expected += DATA[index : index + 30011] + b"<%d>" % index
        self.assertFalse(sent[-1].called)
        self.assertEqual(await self.receiver.wait_for(len(expected)), expected)
        await gatherResults(sent)

    @coroutine
    async def test_byte_by_byte(self) -> None:
        """A client that reads one byte at a time gets the same bytes."""
        await self.connect(tiny=True)
        fd = self.file_with(DATA)
        self.client.bufferSize = 1
        sent = self.server.sendFile(fd, 0, 5000)
        self.server.write(b"!")
        self.assertEqual(await self.receiver.wait_for(5001), DATA[:5000] + b"!")
        await sent

    @coroutine
    async def test_close_waits(self) -> None:
        """loseConnection() lets everything out first, spans included."""
        await self.connect(tiny=True)
        fd = self.file_with(DATA)
        sent = self.server.sendFile(fd, 0, len(DATA))
        self.server.write(b"tail")
        self.server.loseConnection()
        await self.receiver.closed
        await sent
        self.assertEqual(bytes(self.receiver.data), DATA + b"tail")
        assert self.receiver.reason is not None
        self.receiver.reason.trap(ConnectionDone)

    @coroutine
    async def test_half_close_waits(self) -> None:
        """So does the half-close, after which nothing more can be sent but all can be received."""
        await self.connect(tiny=True)
        fd = self.file_with(DATA)
        received = []
        self.accepted.on_data = received.append
        sent = self.server.sendFile(fd, 0, len(DATA))
        self.server.loseWriteConnection()
        await self.receiver.wait_for(len(DATA))
        await sent
        await self.receiver.closed
        await self.assertFailure(self.server.sendFile(fd, 0, 1), ConnectionLost)

    @coroutine
    async def test_turns_are_short_when_others_wait(self) -> None:
        """Who is alone sends much in a turn; beside another connection with a file to send it is one piece."""
        await self.connect()
        self.server.piece = 1000
        fd = self.file_with(DATA)
        self.server.sendFile(fd, 0, 5000)
        self.assertEqual(self.server.bytes_sent, 5000)
        with_file = object()
        transport._SENDING.add(with_file)
        self.addCleanup(transport._SENDING.discard, with_file)
        self.server._allowance = self.server._turn()
        sent = self.server.sendFile(fd, 0, 5000)
        self.assertEqual(self.server.bytes_sent, 6000)
        await sent
        self.assertEqual(await self.receiver.wait_for(10000), DATA[:5000] * 2)
        self.assertEqual(transport._SENDING, {with_file})

    @coroutine
    async def test_turns_are_bounded(self) -> None:
        """No more than a turn's share is sent at once, however much the socket would take."""
        await self.connect()
        fd = self.file_with(DATA)
        self.server.alone = 20000
        self.server._allowance = 20000
        sent = self.server.sendFile(fd, 0, 100000)
        self.assertEqual(self.server.bytes_sent, 20000)
        self.server.doWrite()
        self.assertEqual(self.server.bytes_sent, 40000)
        self.assertIn(self.server, reactor.getWriters())
        await sent

    @coroutine
    async def test_a_loop_of_spans_yields(self) -> None:
        """A sender that loops over spans does not keep the reactor to itself either."""
        await self.connect()
        fd = self.file_with(DATA)
        self.server._allowance = self.server.alone = 20000
        at_once = 0
        for _ in range(100):
            sent = self.server.sendFile(fd, 0, 1000)
            at_once += bool(sent.called)
        self.assertEqual(at_once, 20)
        await sent

    @coroutine
    async def test_nothing_to_send(self) -> None:
        """An empty span is sent already."""
        await self.connect()
        await self.server.sendFile(0, 0, 0)


class AnswerTests(FileServerCase):
    """Whole answers that go past the buffers."""

    @coroutine
    async def test_at_once(self) -> None:
        """Small or large, the kernel has it when the call returns, and nothing is left to the reactor."""
        await self.connect()
        total = b""
        for body in (b"", b"x", DATA[:1024], DATA[:GATHER], DATA[: 64 * 1024]):
            self.server.answer(b"head", body)
            total += b"head" + body
            self.assertEqual((self.server.bytes_sent, self.server.unsent), (len(total), 0))
            self.assertEqual(await self.receiver.wait_for(len(total)), total)
        self.assertNotIn(self.server, reactor.getWriters())

    @coroutine
    async def test_full_socket(self) -> None:
        """What the socket does not take follows, in order, and the producer is asked to pause."""
        await self.connect(tiny=True)
        self.client.pauseProducing()
        producer = Pushed()
        self.server.registerProducer(producer, True)
        expected = b""
        for index in range(10):
            self.server.answer(b"<%d>" % index, DATA[: 64 * 1024])
            expected += b"<%d>" % index + DATA[: 64 * 1024]
        self.assertEqual(self.server.bytes_sent + self.server.unsent, len(expected))
        self.assertIn("pause", producer.events)
        self.client.resumeProducing()
        self.assertEqual(await self.receiver.wait_for(len(expected)), expected)
        self.assertEqual(producer.events[-1], "resume")
        self.server.unregisterProducer()

    @coroutine
    async def test_behind_others(self) -> None:
        """An answer does not overtake what was written or queued before it."""
        await self.connect(tiny=True)
        fd = self.file_with(DATA)
        self.server.write(b"first")
        self.server.answer(b"second", b"third")
        sent = self.server.sendFile(fd, 0, len(DATA))
        self.server.answer(b"fourth", b"")
        self.server.answer(b"fifth", b"sixth")
        expected = b"firstsecondthird" + DATA + b"fourthfifthsixth"
        self.assertEqual(await self.receiver.wait_for(len(expected)), expected)
        await sent

    @coroutine
    async def test_behind_a_span_that_waits_for_its_turn(self) -> None:
        """Nor when the socket would take it, but not the span before it."""
        await self.connect()
        fd = self.file_with(DATA)
        self.server._allowance = 0
        sent = self.server.sendFile(fd, 0, 1000)
        self.server.answer(b"head", b"body")
        self.assertEqual(await self.receiver.wait_for(1008), DATA[:1000] + b"headbody")
        await sent

    @coroutine
    async def test_lost_connection(self) -> None:
        """A client that has reset the connection is found out by the reactor; an answer after that goes nowhere."""
        await self.connect()
        self.client.abortConnection()
        await self.receiver.closed
        for _ in range(3):
            self.server.answer(b"head", b"body")
        await self.accepted.lost
        self.server.answer(b"head", b"body")
        self.assertFalse(self.server.connected)


class BackPressureTests(FileServerCase):
    """A client that does not read"""

    @coroutine
    async def test_stalled_reader(self) -> None:
        """64 MiB for a client that reads nothing occupy no memory here; a producer is paused until the end."""
        await self.connect()
        fd = self.file_with(DATA * 4)
        self.client.pauseProducing()
        producer = Pushed()
        self.server.registerProducer(producer, True)
        sent = [self.server.sendFile(fd, 0, len(DATA) * 4) for _ in range(16)]
        await deferLater(reactor, 0.1, lambda: None)
        self.assertFalse(sent[-1].called)
        self.assertGreater(self.server.unsent, 48 << 20)
        self.assertLess(self.server._buffered(), 1024)
        self.assertEqual(producer.events, ["pause"] * len(producer.events))
        taken = self.server.acknowledged()
        await deferLater(reactor, 0.05, lambda: None)
        self.assertEqual(self.server.acknowledged(), taken)
        self.client.resumeProducing()
        await gatherResults(sent)
        await self.wait_until(lambda: producer.events[-1] == "resume")
        self.server.unregisterProducer()
        await self.wait_until(lambda: len(self.receiver.data) == 64 << 20)
        await self.wait_until(lambda: self.server.acknowledged() == 64 << 20)

    @coroutine
    async def test_writes_behind_a_span_count(self) -> None:
        """What is written behind a span pauses the producer as well."""
        await self.connect(tiny=True)
        fd = self.file_with(DATA)
        self.client.pauseProducing()
        sent = self.server.sendFile(fd, 0, len(DATA))
        producer = Pushed()
        self.server.registerProducer(producer, True)
        self.server.write(b"x")
        self.assertEqual(producer.events, ["pause"])
        self.client.resumeProducing()
        await sent
        await self.wait_until(lambda: producer.events[-1] == "resume")
        self.server.unregisterProducer()

    @coroutine
    async def test_plain_writes(self) -> None:
        """Without spans the high-water mark is 128 KiB."""
        await self.connect(tiny=True)
        self.client.pauseProducing()
        producer = Pushed()
        self.server.registerProducer(producer, True)
        self.server.write(bytes(128 * 1024))
        self.assertEqual(producer.events, [])
        self.server.write(b"x")
        self.assertEqual(producer.events, ["pause"])
        self.server.unregisterProducer()

    def test_only_bytes(self) -> None:
        """Text is refused, behind a span too."""
        return self.run_now(self.only_bytes())

    async def only_bytes(self) -> None:
        await self.connect(tiny=True)
        sent = self.server.sendFile(self.file_with(DATA), 0, len(DATA))
        self.assertRaises(TypeError, self.server.write, "text")
        await sent


class LossTests(FileServerCase):
    """Connections and files that fail"""

    @coroutine
    async def test_client_resets(self) -> None:
        """Every span that was not sent fails with the reason of the loss."""
        await self.connect()
        fd = self.file_with(DATA)
        self.client.pauseProducing()
        sent = [self.server.sendFile(fd, 0, len(DATA)) for _ in range(20)]
        self.client.abortConnection()
        self.assertEqual((await outcomes(sent))[10:], [ConnectionLost] * 10)
        self.assertGreater(self.server.unsent, 0)
        await self.assertFailure(self.server.sendFile(fd, 0, 1), ConnectionLost)

    @coroutine
    async def test_abort(self) -> None:
        """abortConnection() drops spans and resets the connection."""
        await self.connect()
        fd = self.file_with(DATA)
        self.client.pauseProducing()
        sent = [self.server.sendFile(fd, 0, len(DATA)) for _ in range(20)]
        self.server.abortConnection()
        self.assertEqual(set(await outcomes(sent)), {None, ConnectionAborted})
        self.client.resumeProducing()
        await self.receiver.closed
        assert self.receiver.reason is not None
        self.receiver.reason.trap(ConnectionLost)
        self.assertLess(len(self.receiver.data), 20 * len(DATA))

    @coroutine
    async def test_cancel(self) -> None:
        """Cancelling a span aborts the connection: not one byte of its file is sent afterwards."""
        await self.connect()
        fd = self.file_with(DATA)
        self.client.pauseProducing()
        sent = [self.server.sendFile(fd, 0, len(DATA)) for _ in range(20)]
        count = self.server.bytes_sent
        sent[10].cancel()
        self.assertEqual((await outcomes(sent))[10:], [CancelledError] + [ConnectionAborted] * 9)
        self.assertEqual(self.server.bytes_sent, count)

    @coroutine
    async def test_cancelled_when_the_connection_is_lost(self) -> None:
        """A protocol that is told of the end may cancel what it waited for: that is all that happens to it."""
        await self.connect()
        fd = self.file_with(DATA)
        self.client.pauseProducing()
        sent = [self.server.sendFile(fd, 0, len(DATA)) for _ in range(20)]
        protocol = self.server.protocol
        told = protocol.connectionLost

        def give_up(reason: object) -> None:
            for each in sent:
                if not each.called:
                    each.cancel()
            told(reason)

        protocol.connectionLost = give_up
        self.server.abortConnection()
        self.assertEqual(set(await outcomes(sent)), {None, CancelledError})

    @coroutine
    async def test_truncated_file(self) -> None:
        """A file that is too short aborts the connection: the client can't take what it got for all."""
        await self.connect()
        fd = self.file_with(DATA[:1000])
        sent = self.server.sendFile(fd, 0, 1001)
        behind = self.server.sendFile(fd, 0, 10)
        self.assertEqual(await outcomes([sent, behind]), [FileTruncated, ConnectionLost])
        await self.receiver.closed
        assert self.receiver.reason is not None
        self.receiver.reason.trap(ConnectionLost)

    @coroutine
    async def test_bad_descriptor(self) -> None:
        """So does a descriptor that is none, or none of a file."""
        await self.connect()
        sent = self.server.sendFile(1 << 20, 0, 10)
        error = await self.assertFailure(sent, OSError)
        self.assertEqual(error.errno, errno.EBADF)
        await self.receiver.closed

    @coroutine
    async def test_write_after_loss(self) -> None:
        """Writing to a lost connection is no error."""
        await self.connect()
        self.client.abortConnection()
        await self.accepted.lost
        self.server.write(b"x")
        self.server.writeSequence([b"x"])

    @coroutine
    async def test_hung_up(self) -> None:
        """A reset is seen while nothing is read; a client that is only silent has not hung up."""
        await self.connect()
        self.server.pauseProducing()
        self.assertFalse(self.server.hung_up())
        self.client.write(b"unread")
        await deferLater(reactor, 0.01, lambda: None)
        self.assertFalse(self.server.hung_up())
        self.client.abortConnection()
        await self.receiver.closed
        await self.wait_until(self.server.hung_up)

    @coroutine
    async def test_no_plain_bytes_into_tls(self) -> None:
        """A connection that has turned to TLS refuses spans."""
        await self.connect()
        self.server.TLS = True
        self.assertRaises(RuntimeError, self.server.sendFile, 0, 0, 1)
        self.server.TLS = False


class PageTests(FileServerCase):
    """Files whose pages are not in memory"""

    async def connect_cold(self, resident: Any = lambda fd, offset, count: False) -> None:
        self.threads = Threads()
        self.windows: list[tuple[int, int]] = []

        def read_ahead(fd: int, offset: int, count: int) -> None:
            self.windows.append((offset, count))

        await self.connect(PageCache(self.threads.run, resident, read_ahead))
        self.server.window = 100

    @coroutine
    async def test_read_ahead_first(self) -> None:
        """Nothing is sent before a thread has read it, and the reactor has nothing to do meanwhile."""
        await self.connect_cold()
        fd = self.file_with(DATA)
        self.server.write(b"head")
        sent = self.server.sendFile(fd, 7, 90)
        self.assertEqual(await self.receiver.wait_for(4), b"head")
        self.assertTrue(self.server.waits_for_disk)
        self.assertNotIn(self.server, reactor.getWriters())
        self.assertEqual(self.server.bytes_sent, 4)
        self.threads.work()
        await sent
        self.assertEqual(self.windows, [(7, 90)])
        self.assertFalse(self.server.waits_for_disk)
        self.assertEqual(await self.receiver.wait_for(94), b"head" + DATA[7:97])

    @coroutine
    async def test_windows_are_the_same_for_all(self) -> None:
        """Wherever a reader begins, windows end at the multiples of their size, so that one look serves everybody."""
        asked = []

        def resident(fd: int, offset: int, count: int) -> bool:
            asked.append((offset, count))
            return True

        await self.connect_cold(resident)
        fd = self.file_with(DATA)
        await self.server.sendFile(fd, 7, 300)
        await self.server.sendFile(fd, 50, 250)
        self.assertEqual(asked, [(7, 93), (100, 100), (200, 100), (300, 7), (50, 50)])
        self.assertEqual(await self.receiver.wait_for(550), DATA[7:307] + DATA[50:300])

    @coroutine
    async def test_one_window_ahead(self) -> None:
        """While one window is sent the next is read, and no more than that."""
        await self.connect_cold()
        fd = self.file_with(DATA)
        sent = self.server.sendFile(fd, 0, 350)
        self.assertEqual(len(self.threads.pending), 1)
        while self.threads.pending:
            self.assertEqual(len(self.threads.pending), 1)
            self.threads.work()
        await sent
        self.assertEqual(self.windows, [(0, 100), (100, 100), (200, 100), (300, 50)])
        self.assertEqual(await self.receiver.wait_for(350), DATA[:350])

    @coroutine
    async def test_threadless_runner(self) -> None:
        """A runner that is done at once is fine, however long the file."""
        self.threads = Threads()

        def at_once(call: Any, *arguments: Any) -> "Deferred[Any]":
            done: Deferred[Any] = Deferred()
            done.callback(call(*arguments))
            return done

        await self.connect(PageCache(at_once, lambda fd, offset, count: False, lambda fd, offset, count: None))
        self.server.window = 100
        fd = self.file_with(DATA)
        await self.server.sendFile(fd, 0, len(DATA))
        self.assertEqual(await self.receiver.wait_for(len(DATA)), DATA)

    @coroutine
    async def test_writes_wait_without_turning(self) -> None:
        """Neither a write behind the span nor the wish to close makes the reactor turn in vain."""
        await self.connect_cold()
        fd = self.file_with(DATA)
        sent = self.server.sendFile(fd, 0, 50)
        self.server.write(b"tail")
        self.server.loseConnection()
        await deferLater(reactor, 0.01, lambda: None)
        self.assertNotIn(self.server, reactor.getWriters())
        self.assertEqual(self.server.bytes_sent, 0)
        self.threads.work()
        await sent
        await self.receiver.closed
        self.assertEqual(bytes(self.receiver.data), DATA[:50] + b"tail")

    @coroutine
    async def test_resident(self) -> None:
        """Pages in memory need no thread; each window is asked for."""
        asked = []

        def resident(fd: int, offset: int, count: int) -> bool:
            asked.append((offset, count))
            return True

        await self.connect_cold(resident)
        await self.server.sendFile(self.file_with(DATA), 0, 250)
        self.assertEqual(asked, [(0, 100), (100, 100), (200, 50)])
        self.assertEqual(self.threads.pending, [])

    @coroutine
    async def test_known_windows(self) -> None:
        """What was in memory a moment ago is not asked for again, and goes out in one piece."""
        asked = []

        def resident(fd: int, offset: int, count: int) -> bool:
            asked.append((offset, count))
            return True

        await self.connect_cold(resident)
        fd = self.file_with(DATA)
        await self.server.sendFile(fd, 0, 250)
        asked.clear()
        pieces = []
        send = os.sendfile
        self.patch(os, "sendfile", lambda out, *piece: pieces.append(piece[1:]) or send(out, *piece))
        await self.server.sendFile(fd, 0, 250)
        await self.server.sendFile(fd, 100, 300)
        self.assertEqual(asked, [(200, 100), (300, 100)])
        self.assertEqual(pieces, [(0, 250), (100, 100), (200, 100), (300, 100)])
        self.assertEqual(await self.receiver.wait_for(800), DATA[:250] * 2 + DATA[100:400])

    @coroutine
    async def test_known_windows_and_turns(self) -> None:
        """Nor is more made ready at once than a turn sends."""
        await self.connect_cold(lambda fd, offset, count: True)
        fd = self.file_with(DATA)
        await self.server.sendFile(fd, 0, 900)
        self.server.alone = self.server._allowance = 300
        sent = self.server.sendFile(fd, 0, 900)
        self.assertEqual(self.server.bytes_sent, 900 + 300)
        self.assertEqual(self.server._queue[0].ready, 600)
        await sent

    @coroutine
    async def test_stale_knowledge(self) -> None:
        """Pages that were in memory a while ago are asked for again."""
        asked = []

        def resident(fd: int, offset: int, count: int) -> bool:
            asked.append(offset)
            return True

        await self.connect_cold(resident)
        self.server.alone = self.server._allowance = 10
        sent = self.server.sendFile(self.file_with(DATA), 0, 25)
        self.assertEqual(asked, [0])
        self.server._queue[0]._seen -= 6  # as if the client had been slow
        self.server.doWrite()
        self.assertEqual(asked, [0, 10])
        await sent

    @coroutine
    async def test_unknown(self) -> None:
        """Where the file system can't tell, each window is read by a thread once."""
        await self.connect_cold(lambda fd, offset, count: None)
        sent = self.server.sendFile(self.file_with(DATA), 0, 100)
        self.threads.work()
        await sent
        self.assertEqual(self.windows, [(0, 100)])

    @coroutine
    async def test_hot(self) -> None:
        """Hot bytes are not asked for."""
        await self.connect_cold()
        self.assertTrue(self.server.sendFile(self.file_with(DATA), 0, 1000, hot=True).called)
        self.assertEqual(self.threads.pending, [])

    @coroutine
    async def test_read_error(self) -> None:
        """A disk that fails aborts the connection, and the span fails with the disk's error."""
        await self.connect_cold()
        sent = self.server.sendFile(self.file_with(DATA), 0, 100)
        self.threads.pending[0][0].errback(OSError(errno.EIO, "Input/output error"))
        error = await self.assertFailure(sent, OSError)
        self.assertEqual(error.errno, errno.EIO)
        await self.receiver.closed
        os.close(self.threads.pending[0][2][1])

    @coroutine
    async def test_probe_error(self) -> None:
        """So does a probe that fails."""

        def resident(fd: int, offset: int, count: int) -> bool:
            raise OSError(errno.EIO, "Input/output error")

        await self.connect_cold(resident)
        await self.assertFailure(self.server.sendFile(self.file_with(DATA), 0, 100), OSError)
        await self.receiver.closed

    @coroutine
    async def test_client_goes_meanwhile(self) -> None:
        """A client that goes while a thread reads makes the span fail at once; the thread's end changes nothing."""
        await self.connect_cold()
        sent = self.server.sendFile(self.file_with(DATA), 0, 100)
        self.client.abortConnection()
        await self.assertFailure(sent, ConnectionLost)
        self.threads.work()


class ConstructionTests(TestCase):
    """Without a port"""

    def test_no_page_cache(self) -> None:
        """A transport that no port of ours made asks nobody about pages."""
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        server = FileServer(ours, StringTransport(), ("x", 0), None, 0, reactor)
        self.addCleanup(ours.close)
        self.addCleanup(server.stopReading)
        self.assertIsNone(server.page_cache)
