"""The clients that put load on a server, against a server of canned answers."""

import socket
import threading
from collections.abc import Callable

from twisted.trial.unittest import TestCase

from bench.clients import drive, fetch
from bench.process import ServerFailed
from bench.requests import a_request

BODY = b"0123456789" * 20_000
GET = a_request("/bucket/key")


def ok(request: bytes) -> bytes:
    """The whole body, or the head of it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    return head if request.startswith(b"HEAD ") else head + BODY


class ClientTests(TestCase):
    def listen(self, answer: Callable[[bytes], bytes]) -> int:
        """Answers every request with this, and closes after an answer that is too short; returns the port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        threads: list[threading.Thread] = []

        def serve(sock: socket.socket) -> None:
            with sock:
                while request := sock.recv(65536):
                    data = answer(request)
                    sock.sendall(data)
                    if len(data) < 10_000 and b"Content-Length: 200000" in data and request.startswith(b"GET "):
                        return

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
                threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()

        def stop() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            for thread in (acceptor, *threads):
                thread.join(5)

        self.addCleanup(stop)
        port: int = listener.getsockname()[1]
        return port

    def test_every_request_once(self) -> None:
        """Ten requests over three connections are ten answers with all their bytes, discarded or not."""
        port = self.listen(ok)
        for discard in (True, False):
            load = drive(port, [GET] * 10, 3, discard=discard)
            self.assertEqual((load.requests, load.body_bytes), (10, 10 * len(BODY)))
            self.assertLessEqual(load.extras["first_byte_ms"], load.extras["total_ms"])

    def test_head_has_no_body(self) -> None:
        """The promised length is not waited for."""
        load = drive(self.listen(ok), [a_request("/bucket/key", method="HEAD")] * 4, 2)
        self.assertEqual((load.requests, load.body_bytes), (4, 0))

    def test_a_wrong_status_is_no_figure(self) -> None:
        """An error that is answered fast must not look like a fast server."""
        port = self.listen(lambda request: b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
        error = self.assertRaises(ServerFailed, drive, port, [GET], 1)
        self.assertIn("503", str(error))

    def test_a_short_body_is_no_figure(self) -> None:
        """Nor is a truncated answer."""
        port = self.listen(lambda request: ok(request)[:5000])
        self.assertRaises(ServerFailed, drive, port, [GET], 1)
        self.assertRaises(ServerFailed, fetch, port, GET)

    def test_bytes_behind_the_answer_are_no_figure(self) -> None:
        """Nor is an answer that goes on."""
        port = self.listen(lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy")
        error = self.assertRaises(ServerFailed, drive, port, [GET], 1)
        self.assertIn("1 bytes behind the answer", str(error))

    def test_fetch(self) -> None:
        """Head and body, byte by byte."""
        head, body = fetch(self.listen(ok), GET)
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK"))
        self.assertEqual(body, BODY)
