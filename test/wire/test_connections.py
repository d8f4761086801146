"""Whole exchanges over real sockets, with clients that are blocking threads."""

import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

from OpenSSL import crypto
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from s3proxy.gateway.interfaces import ClientGone
from s3proxy.wire.channel import BODY_READ, HEAD_READ
from s3proxy.wire.limits import WireLimits
from s3proxy.wire.pages import PageCache
from s3proxy.wire.resource import CachingResource
from s3proxy.wire.site import CachingSite
from test.wire.harness import Collector, listen_files, split_answers
from test.wire.test_transport import coroutine

reactor: Any = _reactor
DATA = os.urandom(1 << 20) * 8
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


def read_to_end(sock: socket.socket) -> bytes:
    pieces = []
    while True:
        data = sock.recv(1 << 20)
        if not data:
            return b"".join(pieces)
        pieces.append(data)


class ConnectionCase(TestCase):
    """A site on a real port, whose handler is a coroutine function ``answer``."""

    timeout = 60

    async def serve(
        self, answer: Callable[[Any], Any], limits: WireLimits = WireLimits(), context: Any = None
    ) -> None:
        self.requests: list[Any] = []
        self.outcomes: list[Deferred[Any]] = []

        def handle(request: Any) -> "Deferred[Any]":
            self.requests.append(request)
            handled = Deferred.fromCoroutine(answer(request))
            self.outcomes.append(handled)
            return handled

        self.site = CachingSite(CachingResource(handle), reactor, limits=limits)
        self.site.noisy = False
        factory: Any = self.site
        if context is not None:
            factory = TLSMemoryBIOFactory(context, False, self.site)
            factory.noisy = False
        pages = PageCache(lambda call, *arguments: deferToThread(call, *arguments))
        self.port = listen_files(reactor, factory, page_cache=pages)
        self.addCleanup(self.stop)

    async def stop(self) -> None:
        await self.port.stopListening()
        drained = self.site.drain()
        self.site.abort_all()
        await drained

    def file_with(self, data: bytes) -> int:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(data)
        fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        return fd

    def client(self, talk: Callable[[socket.socket], Any]) -> "Deferred[Any]":
        """Run a blocking client in a thread."""

        def run() -> Any:
            with socket.create_connection(("127.0.0.1", self.port.getHost().port), 30) as sock:
                return talk(sock)

        return deferToThread(run)

    async def wait_until(self, condition: Callable[[], Any]) -> None:
        for _ in range(10000):
            if condition():
                return
            await deferLater(reactor, 0.001, lambda: None)
        self.fail("it did not happen")


class ExchangeTests(ConnectionCase):
    """Answers of bytes and files"""

    @coroutine
    async def test_pipelined_files(self) -> None:
        """Answers made of files and bytes arrive whole and in order on one connection."""
        fd = self.file_with(DATA)

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], len(DATA) + 4)
            request.write(b"<<")
            await request.send_file(fd, 0, len(DATA))
            request.write(b">>")
            request.finish()

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(GET * 3 + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            return read_to_end(sock)

        answers = split_answers(await self.client(talk))
        self.assertEqual(len(answers), 4)
        for _, _, body in answers:
            self.assertTrue(body == b"<<" + DATA + b">>")
        self.assertEqual({request.body_bytes_sent for request in self.requests}, {len(DATA) + 4})

    @coroutine
    async def test_chunked_file(self) -> None:
        """A file in an answer without length is one chunk."""
        fd = self.file_with(DATA)

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], None)
            await request.send_file(fd, 1, 100000)
            request.finish()

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            return read_to_end(sock)

        body = (await self.client(talk)).partition(b"\r\n\r\n")[2]
        self.assertEqual(body, b"186a0\r\n" + DATA[1:100001] + b"\r\n0\r\n\r\n")

    @coroutine
    async def test_writes(self) -> None:
        """Many writes at the client's pace."""

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], len(DATA))
            for start in range(0, len(DATA), 50000):
                room = request.write(DATA[start : start + 50000])
                if room is not None:
                    await room
            request.finish()

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            return read_to_end(sock)

        ((_, _, body),) = split_answers(await self.client(talk))
        self.assertTrue(body == DATA)

    @coroutine
    async def test_one_byte_requests(self) -> None:
        """A request that comes byte by byte is a request."""

        async def answer(request: Any) -> None:
            sink = Collector()
            request.body.start(sink)
            await self.wait_until(lambda: sink.ended)
            request.start_response(200, b"OK", [], len(sink.data))
            request.write(sink.data)
            request.finish()

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"PUT / HTTP/1.1\r\nConnection: close\r\nContent-Length: 5\r\n\r\nabcde":
                sock.sendall(bytes((byte,)))
            return read_to_end(sock)

        ((_, _, body),) = split_answers(await self.client(talk))
        self.assertEqual(body, b"abcde")

    @coroutine
    async def test_reset_body(self) -> None:
        """An aborted answer ends in a reset, never in an orderly end."""

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], None)
            request.write(b"abc")
            await deferLater(reactor, 0.05, lambda: None)
            request.abort()

        await self.serve(answer)

        def talk(sock: socket.socket) -> str:
            sock.sendall(GET)
            try:
                read_to_end(sock)
            except ConnectionResetError:
                return "reset"
            return "end"

        self.assertEqual(await self.client(talk), "reset")


class UploadTests(ConnectionCase):
    """Bodies of requests"""

    @coroutine
    async def test_nobody_reads(self) -> None:
        """Of a body that nobody has asked for no more than 128 KiB are read, and all of it later."""
        go: Deferred[None] = Deferred()

        async def answer(request: Any) -> None:
            await go
            sink = Collector()
            request.body.start(sink)
            await self.wait_until(lambda: sink.ended)
            request.start_response(200, b"OK", [], 0)
            request.finish()
            self.assertTrue(sink.data == DATA)

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(b"PUT / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(DATA))
            sock.sendall(DATA)
            return read_to_end(sock)

        done = self.client(talk)
        await self.wait_until(lambda: self.requests and self.requests[0].body._held)
        await deferLater(reactor, 0.1, lambda: None)
        self.assertLessEqual(sum(map(len, self.requests[0].body._held)), 128 * 1024)
        go.callback(None)
        self.assertIn(b"200 OK", await done)
        await self.outcomes[0]

    @coroutine
    async def test_reads_of_a_body(self) -> None:
        """A body that somebody takes is read in larger pieces than what comes before and behind it."""
        sizes = []
        sinks = []

        async def answer(request: Any) -> None:
            server = request.channel.file_server
            sizes.append(server.read_size)
            sink = Collector()
            sinks.append(sink)
            request.body.start(sink)
            sizes.append(server.read_size)
            await self.wait_until(lambda: sink.ended)
            request.start_response(200, b"OK", [], 0)
            request.finish()
            sizes.append(server.read_size)

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(b"PUT / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(DATA))
            sock.sendall(DATA)
            return read_to_end(sock)

        def keep(sock: socket.socket) -> bytes:
            sock.sendall(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(DATA))
            sock.sendall(DATA)
            return sock.recv(1000)

        self.assertIn(b"200 OK", await self.client(talk))
        self.assertEqual(sizes, [HEAD_READ, BODY_READ, BODY_READ])
        self.assertTrue(sinks[0].data == DATA)
        self.assertGreater(max(map(len, sinks[0].pieces)), HEAD_READ)
        sizes.clear()
        self.assertIn(b"200 OK", await self.client(keep))
        self.assertEqual(sizes, [HEAD_READ, BODY_READ, HEAD_READ])

    @coroutine
    async def test_early_answer_to_a_client_that_only_sends(self) -> None:
        """A client that sends 50 MiB before it reads anything still gets the whole answer, and no reset."""
        error = b"<Error>" + b"x" * 300000 + b"</Error>"

        async def answer(request: Any) -> None:
            request.start_response(403, b"Forbidden", [], len(error))
            request.write(error)
            request.finish()

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (50 << 20))
            for _ in range(50):
                sock.sendall(DATA[: 1 << 20])
            return read_to_end(sock)

        ((line, fields, body),) = split_answers(await self.client(talk))
        self.assertEqual((line, fields[b"connection"]), (b"HTTP/1.1 403 Forbidden", b"close"))
        self.assertTrue(body == error)

    @coroutine
    async def test_early_answer_to_a_client_that_listens(self) -> None:
        """A client that stops sending when it hears the answer can read all of it."""

        async def answer(request: Any) -> None:
            request.start_response(403, b"Forbidden", [], 3)
            request.write(b"no!")
            request.finish()

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (50 << 20))
            sock.sendall(DATA[:100000])
            return read_to_end(sock)

        self.assertTrue((await self.client(talk)).endswith(b"no!"))
        await self.wait_until(lambda: self.site.connections_open == 0)

    @coroutine
    async def test_rejection_is_delivered(self) -> None:
        """So does a client whose request was malformed, and who goes on sending."""

        async def answer(request: Any) -> None:
            """There is nothing to answer."""

        await self.serve(answer)

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(b"PUT / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n")
            for _ in range(5):
                sock.sendall(DATA[: 1 << 20])
            return read_to_end(sock)

        self.assertIn(b"InvalidRequest", await self.client(talk))
        self.assertEqual(self.requests, [])

    @coroutine
    async def test_reset_while_paused(self) -> None:
        """A client that resets its connection while the body is paused is noticed within seconds."""
        begun = threading.Event()

        async def answer(request: Any) -> None:
            request.body.start(Collector(lambda data: request.body.pause()))
            begun.set()
            await request.when_gone()

        await self.serve(answer)

        def talk(sock: socket.socket) -> None:
            sock.sendall(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(DATA))
            sock.sendall(DATA[:300000])
            begun.wait(10)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        await self.client(talk)
        await self.wait_until(lambda: self.outcomes[0].called)
        self.assertEqual(self.site.counters.aborted["client"], 1)


class SlowReaderTests(ConnectionCase):
    """Clients that don't take their answer"""

    @coroutine
    async def test_stalled_reader_is_cut(self) -> None:
        """A client that takes no byte for the time allowed is cut, and what was under way fails with ClientGone."""
        fd = self.file_with(DATA)

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], 8 * len(DATA))
            for _ in range(8):
                await request.send_file(fd, 0, len(DATA))
            request.finish()

        await self.serve(answer, WireLimits(stall_timeout=1.0))

        def talk(sock: socket.socket) -> bool:
            sock.sendall(GET)
            sock.settimeout(20)
            # MSG_PEEK looks at the first bytes and takes none.
            sock.recv(1, socket.MSG_PEEK)
            while not self.site.counters.aborted:
                sock.recv(1, socket.MSG_PEEK)
            return True

        await self.client(talk)
        await self.wait_until(lambda: self.outcomes[0].called)
        self.assertEqual(dict(self.site.counters.aborted), {"slow_reader": 1})
        self.assertTrue(self.requests[0]._gone)
        self.assertLess(self.requests[0].body_bytes_sent, 8 * len(DATA))
        self.assertRaises(ClientGone, self.check_result, self.requests[0].write(b"x"))

    def check_result(self, room: Any) -> None:
        self.failureResultOf(room).raiseException()


def tls_context() -> CertificateOptions:
    key = crypto.PKey()
    key.generate_key(crypto.TYPE_RSA, 2048)
    certificate = crypto.X509()
    certificate.get_subject().CN = "localhost"
    certificate.set_serial_number(1)
    certificate.gmtime_adj_notBefore(-60)
    certificate.gmtime_adj_notAfter(3600)
    certificate.set_issuer(certificate.get_subject())
    certificate.set_pubkey(key)
    certificate.sign(key, "sha256")
    return CertificateOptions(privateKey=key, certificate=certificate)


class TLSTests(ConnectionCase):
    """The same over TLS"""

    def tls_client(self, talk: Callable[[Any], Any]) -> "Deferred[Any]":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

        def wrapped(sock: socket.socket) -> Any:
            with context.wrap_socket(sock) as secure:
                return talk(secure)

        return self.client(wrapped)

    @coroutine
    async def test_file(self) -> None:
        """Files go through TLS, block by block: never as plain bytes past it."""
        fd = self.file_with(DATA)

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], len(DATA) + 2)
            request.write(b"<")
            await request.send_file(fd, 0, len(DATA))
            room = request.write(b">")
            if room is not None:
                await room
            request.finish()

        await self.serve(answer, context=tls_context())

        def talk(sock: Any) -> bytes:
            sock.sendall(GET + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            return read_to_end(sock)

        answers = split_answers(await self.tls_client(talk))
        self.assertEqual(len(answers), 2)
        for _, _, body in answers:
            self.assertTrue(body == b"<" + DATA + b">")
        self.assertFalse(self.requests[0]._wire.sends_files)

    @coroutine
    async def test_file_in_memory(self) -> None:
        """Of a file that is in memory nobody asks where its bytes are, and no thread reads it."""
        fd = self.file_with(DATA)
        asked: list[object] = []
        self.patch(PageCache, "read", lambda pages, *span: asked.append(span))

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], len(DATA))
            await request.send_file(fd, 0, len(DATA), hot=True)
            request.finish()

        await self.serve(answer, context=tls_context())

        def talk(sock: Any) -> bytes:
            sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            return read_to_end(sock)

        ((_, _, body),) = split_answers(await self.tls_client(talk))
        self.assertTrue(body == DATA)
        self.assertEqual(asked, [])

    @coroutine
    async def test_upload_and_early_answer(self) -> None:
        """Uploads are paused and resumed, and an early answer arrives."""

        async def answer(request: Any) -> None:
            if request.target == b"/early":
                request.start_response(403, b"Forbidden", [], 3)
                request.write(b"no!")
                request.finish()
                return
            sink = Collector()
            request.body.start(sink)
            await self.wait_until(lambda: sink.ended)
            request.start_response(200, b"OK", [], 4)
            request.write(b"same" if sink.data == DATA else b"diff")
            request.finish()

        await self.serve(answer, context=tls_context())

        def talk(sock: Any) -> bytes:
            sock.sendall(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA)
            sock.sendall(b"PUT /early HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA)
            return read_to_end(sock)

        answers = split_answers(await self.tls_client(talk))
        self.assertEqual([body for _, _, body in answers], [b"same", b"no!"])

    @coroutine
    async def test_client_goes(self) -> None:
        """A client that goes makes the file fail with ClientGone, and is known to have gone."""
        fd = self.file_with(DATA)
        failed: list[BaseException] = []

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], 10 * len(DATA))
            try:
                for _ in range(10):
                    await request.send_file(fd, 0, len(DATA))
            except ClientGone as error:
                failed.append(error)

        await self.serve(answer, context=tls_context())

        def talk(sock: Any) -> None:
            sock.sendall(GET)
            sock.recv(100)

        await self.tls_client(talk)
        await self.wait_until(lambda: failed)
        await self.wait_until(lambda: self.site.connections_open == 0)


class GarbageTests(ConnectionCase):
    """Bytes that are nothing"""

    @coroutine
    async def test_garbage(self) -> None:
        """Random bytes, half requests and closed connections leave a healthy listener."""

        async def answer(request: Any) -> None:
            request.start_response(200, b"OK", [], 2)
            request.write(b"ok")
            request.finish()

        await self.serve(answer)
        samples = [os.urandom(10000), b"\0" * 100, b"GET ", GET[:-2], b"\r\n" * 1000, b"\x16\x03\x01\x00\xff", b""]

        def send(data: bytes) -> Callable[[socket.socket], None]:
            def talk(sock: socket.socket) -> None:
                try:
                    sock.sendall(data)
                except ConnectionError:
                    return

            return talk

        for sample in samples:
            await self.client(send(sample))

        def talk(sock: socket.socket) -> bytes:
            sock.sendall(GET)
            return sock.recv(1000)

        self.assertTrue((await self.client(talk)).endswith(b"ok"))
        await self.wait_until(lambda: self.site.connections_open == 0)
        self.assertEqual((self.site.requests_in_flight, self.flushLoggedErrors()), (0, []))
