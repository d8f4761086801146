"""What the sites have in common."""

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.answers import prepare
from s3proxy.admin.sites import MAX_BODY, PathResource
from test.admin.exchange import Answer, Exchange


class SiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.bodies: list[bytes] = []

        def answer(request: object) -> bytes:
            self.bodies.append(request.content.read())  # type: ignore[attr-defined]
            return prepare(request, 200, b"fine")

        self.resource = PathResource(answer)

    def test_no_access_log(self) -> None:
        """Requests leave no trace in the log."""
        observer = EventLoggingObserver()
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        exchange = Exchange(self.resource)
        exchange.site.doStart()
        self.addCleanup(exchange.site.doStop)
        self.assertEqual(Answer(exchange.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).status, 200)
        self.assertEqual(list(observer), [])

    def test_small_body(self) -> None:
        """A body up to the limit is read, with a length or in chunks."""
        exchange = Exchange(self.resource)
        head = b"POST / HTTP/1.1\r\nHost: x\r\n"
        exchange.send(head + b"Content-Length: %d\r\n\r\n" % MAX_BODY + b"x" * MAX_BODY)
        exchange.send(head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        self.assertEqual([len(body) for body in self.bodies], [MAX_BODY, 3])

    def test_long_body(self) -> None:
        """A body that is announced too long is refused before it comes."""
        exchange = Exchange(self.resource)
        raw = exchange.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1))
        self.assertEqual(Answer(raw).status, 413)
        self.assertTrue(exchange.transport.disconnecting)
        self.assertEqual(exchange.send(b"x" * 1000), b"")
        self.assertEqual(self.bodies, [])

    def test_long_chunked_body(self) -> None:
        """A chunked body is cut off at the limit."""
        exchange = Exchange(self.resource)
        raw = exchange.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        for _ in range(6):
            raw += exchange.send(chunk)
        raw += exchange.send(b"0\r\n\r\n")
        self.assertEqual(raw.count(b"HTTP/1.1"), 1)
        self.assertEqual(Answer(raw).status, 413)
        self.assertEqual(self.bodies, [])

    def test_idle_connection(self) -> None:
        """A connection on which nothing happens is closed."""
        exchange = Exchange(self.resource)
        exchange.send(b"GET / HTTP/1.1\r\nHo")
        exchange.clock.advance(31)
        self.assertTrue(exchange.transport.disconnecting)

    def test_garbage(self) -> None:
        """Bytes that are no request are refused."""
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 70_000):
            exchange = Exchange(self.resource)
            self.assertIn(exchange.send(garbage)[:26], (b"HTTP/1.1 400 Bad Request\r\n", b""))
            self.assertTrue(exchange.transport.disconnecting)
        self.assertEqual(self.bodies, [])

    def test_several_requests_on_a_connection(self) -> None:
        """Connections are kept for the next probe."""
        exchange = Exchange(self.resource)
        for _ in range(3):
            self.assertEqual(Answer(exchange.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).body, b"fine")
