"""Reading objects into the cache through their URLs."""

import socket
import threading
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control.outcome import Unreachable, Usage
from s3proxy.control.warm import Target, Warmed, read_targets, report, warm

OK = b"HTTP/1.1 200 OK\r\nX-Cache: MISS\r\nContent-Length: 5\r\n\r\nbytes"


class Server:
    """Answers each request with what a function makes of its head."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.heads: list[bytes] = []
        self.most = 0
        self._now = 0
        self._answer = answer
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                with self._lock:
                    self.heads.append(head)
                    self._now += 1
                    self.most = max(self.most, self._now)
                answer = self._answer(head)
                with self._lock:
                    self._now -= 1
                if not answer:
                    return
                connection.sendall(answer)

    def stop(self) -> None:
        self._listening.close()


def denied(head: bytes) -> bytes:
    body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    return b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class ListTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """One URL in a line; remarks and blank lines don't count; path, query and host stay as they are."""
        found = read_targets(
            ["# models", "", "https://b.s3.amazonaws.com/a%2Fb//c?X-Amz-Signature=1%2F2&x=", " http://[::1]:8333/b/k "]
        )
        self.assertEqual(
            found,
            [Target(3, "b.s3.amazonaws.com", "/a%2Fb//c?X-Amz-Signature=1%2F2&x="), Target(4, "[::1]:8333", "/b/k")],
        )

    def test_wrong_lines(self) -> None:
        """What is no URL of an object is named by its line before anything is sent."""
        for line in ("b/k", "ftp://h/k", "https://h", "https://h/", "https://h/a b", "https://h/\x01", "https://[h/k"):
            error = self.assertRaises(Usage, read_targets, ["https://h/k", line])
            self.assertIn("line 2", str(error), line)

    def test_shown_without_the_signature(self) -> None:
        """People see the URL, and can't use it."""
        (target,) = read_targets(["https://h/k?X-Amz-Signature=5ec2e7&X-Amz-Date=1"])
        self.assertEqual(target.shown, "h/k")


class WarmTests(SynchronousTestCase):
    def warm(self, answer: Callable[[bytes], bytes], urls: int = 1, parallel: int = 2) -> tuple[list[Warmed], Server]:
        server = Server(answer)
        self.addCleanup(server.stop)
        targets = [Target(number, "s3.example", f"/b/{number}?X-Amz-Signature=1") for number in range(1, urls + 1)]
        return warm(targets, server.address, parallel=parallel, patience=5.0), server

    def test_read(self) -> None:
        """The request is what the URL's owner would send, over connections that are kept."""
        results, server = self.warm(lambda head: OK, urls=6)
        self.assertEqual([each.target.line for each in results], [1, 2, 3, 4, 5, 6])
        self.assertEqual(
            {(each.status, each.outcome, each.size, each.error) for each in results}, {(200, "MISS", 5, "")}
        )
        first, *lines = server.heads[0].split(b"\r\n")
        self.assertTrue(first.startswith(b"GET /b/") and first.endswith(b"?X-Amz-Signature=1 HTTP/1.1"), first)
        self.assertEqual([line for line in lines if line.startswith(b"Host")], [b"Host: s3.example"])
        self.assertNotIn(b"accept-encoding", server.heads[0].lower())

    def test_parallel(self) -> None:
        """Never more at a time than wanted, and as many if there are enough."""
        barrier = threading.Barrier(3)

        def answer(head: bytes) -> bytes:
            barrier.wait(5)
            return OK

        results, server = self.warm(answer, urls=6, parallel=3)
        self.assertEqual((len(results), server.most), (6, 3))

    def test_refused(self) -> None:
        """S3's own words say why."""
        (result,), _ = self.warm(denied)
        self.assertEqual((result.status, result.error), (403, "AccessDenied: Request has expired"))

    def test_cut_short(self) -> None:
        """A body that does not come whole is a failure; one object's failure is not that of others."""
        results, _ = self.warm(lambda head: OK[:-2].replace(b"OK\r\n", b"OK\r\nConnection: close\r\n") if b"/1?" in head
                               else OK, urls=2, parallel=1)  # fmt: skip
        self.assertEqual([bool(each.error) for each in results], [True, False])

    def test_a_kept_connection_that_was_closed(self) -> None:
        """It is no failure of the next object."""
        served: list[bytes] = []

        def answer(head: bytes) -> bytes:
            served.append(head)
            return b"" if len(served) == 2 else OK

        results, _ = self.warm(answer, urls=2, parallel=1)
        self.assertEqual([each.error for each in results], ["", ""])
        self.assertEqual(len(served), 3)

    def test_no_proxy(self) -> None:
        """That nobody listens is said once, not for each URL."""
        server = Server(lambda head: OK)
        server.stop()
        with socket.create_server(("127.0.0.1", 0)) as unused:
            address = unused.getsockname()[:2]
        self.assertRaises(Unreachable, warm, [Target(1, "h", "/k")], address, parallel=1, patience=1.0)

    def test_report(self) -> None:
        """Sums, outcomes, and each URL."""
        target = Target(1, "h", "/k?X-Amz-Signature=5ec2e7")
        found: dict[str, Any] = report(
            [Warmed(target=target, status=200, outcome="HIT", size=7), Warmed(target=target, error="timed out")], 1.5
        )
        self.assertEqual((found["read"], found["failed"], found["bytes"], found["outcomes"]), (1, 1, 7, {"HIT": 1}))
        self.assertNotIn("5ec2e7", str(found))
