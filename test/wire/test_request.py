"""Answers: their heads, their framing, and what becomes of them when they are wrong."""

import os

from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from s3proxy.gateway.interfaces import ClientGone, IClientRequest
from s3proxy.util.streams import IByteSource
from test.wire.harness import Connected


class AnswerCase(SynchronousTestCase):
    """A request to answer."""

    def ask(self, text: bytes = b"GET /k?X-Amz-Signature=s HTTP/1.1\r\n\r\n") -> None:
        self.wire = Connected()
        self.wire.receive(text)
        (self.request,) = self.wire.requests

    def setUp(self) -> None:
        self.events: list[dict[str, object]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.ask()

    def file_with(self, data: bytes) -> int:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(data)
        fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        return fd


class HeadTests(AnswerCase):
    """start_response()"""

    def test_interfaces(self) -> None:
        """The request and its body are what the gateway expects."""
        verifyObject(IClientRequest, self.request)
        verifyObject(IByteSource, self.request.body)

    def test_fields(self) -> None:
        """Fields keep spelling and order, nothing is added but the length."""
        self.wire.clock.advance(3)
        self.request.start_response(200, b"Fine", [(b"etag", b'"a"'), (b"X-b", b"1"), (b"x-B", b"2")], 2)
        self.assertEqual(
            self.wire.sent, b'HTTP/1.1 200 Fine\r\netag: "a"\r\nX-b: 1\r\nx-B: 2\r\nContent-Length: 2\r\n\r\n'
        )
        self.assertEqual((self.request.status, self.request.first_byte_at), (200, 3.0))

    def test_own_fields_are_ours(self) -> None:
        """Framing fields among those given are left out."""
        self.request.start_response(200, b"OK", [(b"content-length", b"9"), (b"Connection", b"x"), (b"A", b"b")], 0)
        self.assertEqual(self.wire.sent, b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n")

    def test_injection(self) -> None:
        """A value that would end the field is refused before a byte is sent."""
        for field in ((b"A", b"b\r\nC: d"), (b"A", b"b\nC: d"), (b"A", b"b\rC"), (b"A", b"\0"), (b"A\r\nB", b"c")):
            self.assertRaises(ValueError, self.request.start_response, 200, b"OK", [field], 0)
        self.assertRaises(ValueError, self.request.start_response, 200, b"OK\r\nA: b", [], 0)
        self.assertEqual(self.wire.sent, b"")

    def test_interim_status(self) -> None:
        """An interim status is no answer."""
        self.assertRaises(ValueError, self.request.start_response, 100, b"Continue", [], 0)

    def test_twice(self) -> None:
        """An answer has one head."""
        self.request.start_response(200, b"OK", [], 0)
        self.assertRaises(RuntimeError, self.request.start_response, 200, b"OK", [], 0)

    def test_body_before_head(self) -> None:
        """A body without a head is a mistake of the caller."""
        self.assertRaises(RuntimeError, self.request.write, b"a")

    def test_get_header(self) -> None:
        """Code written for twisted.web finds the fields in its own way."""
        self.ask(b"GET / HTTP/1.1\r\nA: 1\r\na: 2\r\n\r\n")
        self.assertEqual((self.request.getHeader("A"), self.request.getHeader(b"a")), ("2", b"2"))
        self.assertIsNone(self.request.getHeader("b"))


class BodyTests(AnswerCase):
    """write(), send_file() and finish()"""

    def test_length(self) -> None:
        """A body of known length is sent as it is, and counted."""
        self.request.start_response(200, b"OK", [], 5)
        self.request.write(b"ab")
        self.assertIsNone(self.request.write(b""))
        self.request.write(b"cde")
        self.assertEqual(self.request.body_bytes_sent, 5)
        self.request.finish()
        self.assertTrue(self.wire.sent.endswith(b"\r\n\r\nabcde"))
        self.assertFalse(self.wire.transport.disconnecting)

    def test_chunked(self) -> None:
        """Without a length an HTTP/1.1 client gets chunks; files are framed as well."""
        fd = self.file_with(b"0123456789" * 2)
        self.request.start_response(200, b"OK", [], None)
        self.request.write(b"ab")
        self.successResultOf(self.request.send_file(fd, 1, 17))
        self.request.finish()
        head, _, body = self.wire.sent.partition(b"\r\n\r\n")
        self.assertIn(b"Transfer-Encoding: chunked", head)
        self.assertEqual(body, b"2\r\nab\r\n11\r\n12345678901234567\r\n0\r\n\r\n")
        self.assertEqual(self.request.body_bytes_sent, 19)
        self.assertFalse(self.wire.transport.disconnecting)

    def test_until_the_end(self) -> None:
        """Without a length an HTTP/1.0 client gets everything until the connection ends."""
        self.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        self.request.start_response(200, b"OK", [], None)
        self.request.write(b"ab")
        self.request.finish()
        self.assertEqual(self.wire.sent, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nab")
        self.assertTrue(self.wire.transport.disconnecting)

    def test_head(self) -> None:
        """HEAD claims the length and sends no byte, whatever is written."""
        fd = self.file_with(b"abc")
        self.ask(b"HEAD / HTTP/1.1\r\n\r\n")
        self.request.start_response(200, b"OK", [], 1000)
        self.assertIsNone(self.request.write(b"abc"))
        self.successResultOf(self.request.send_file(fd, 0, 3))
        self.request.finish()
        self.assertEqual(self.wire.sent, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        self.assertEqual(self.request.body_bytes_sent, 0)
        self.assertFalse(self.wire.transport.disconnecting)

    def test_head_of_unknown_length(self) -> None:
        """HEAD without a length claims none."""
        self.ask(b"HEAD / HTTP/1.1\r\n\r\n")
        self.request.start_response(200, b"OK", [], None)
        self.request.finish()
        self.assertEqual(self.wire.sent, b"HTTP/1.1 200 OK\r\n\r\n")

    def test_no_content(self) -> None:
        """CN-15: 204 and 304 have no body and no framing, and keep the connection."""
        for status in (204, 304):
            self.ask()
            self.request.start_response(status, b"X", [(b"ETag", b'"a"')], 0 if status == 204 else None)
            self.request.write(b"junk")
            self.request.finish()
            self.assertEqual(self.wire.sent, b'HTTP/1.1 %d X\r\nETag: "a"\r\n\r\n' % status)
            self.assertFalse(self.wire.transport.disconnecting)

    def test_fewer_bytes(self) -> None:
        """Fewer bytes than promised cut the connection and are logged without the query."""
        self.request.start_response(200, b"OK", [], 5)
        self.request.write(b"ab")
        self.request.finish()
        self.check_fault("fewer bytes than promised")

    def test_more_bytes(self) -> None:
        """More bytes than promised are not sent: they would be taken for the next answer."""
        self.request.start_response(200, b"OK", [], 2)
        self.failureResultOf(self.request.write(b"abc"), ClientGone)
        self.assertNotIn(b"abc", self.wire.sent)
        self.check_fault("more bytes than promised")

    def test_no_answer(self) -> None:
        """To finish without an answer is a fault."""
        self.request.finish()
        self.check_fault("no answer at all")

    def check_fault(self, what: str) -> None:
        self.assertTrue(self.wire.transport.aborted)
        (event,) = [event for event in self.events if event["log_level"] == LogLevel.error]
        text = formatEvent(event)
        self.assertIn(what, text)
        self.assertIn("/k", text)
        self.assertNotIn("Signature", text)

    def test_finish_twice(self) -> None:
        """The second finish() is too late to do anything."""
        self.request.start_response(200, b"OK", [], 0)
        self.request.finish()
        self.request.finish()
        self.wire.receive(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(self.wire.requests), 2)

    def test_abort(self) -> None:
        """abort() cuts the connection, once; the client counts as gone when it is lost."""
        self.request.start_response(200, b"OK", [], 5)
        self.request.write(b"ab")
        gone = self.request.when_gone()
        self.request.abort()
        self.request.abort()
        self.assertTrue(self.wire.transport.aborted)
        self.failureResultOf(self.request.write(b"cde"), ClientGone)
        self.assertNoResult(gone)
        self.wire.lose(clean=False)
        self.successResultOf(gone)
        self.assertEqual(self.request.body_bytes_sent, 2)
        self.assertEqual(self.wire.site.counters.aborted, {"proxy": 1})

    def test_notify_finish(self) -> None:
        """What twisted.web calls notifyFinish() works as it does there."""
        finished = self.request.notifyFinish()
        self.request.start_response(200, b"OK", [], 0)
        self.request.finish()
        self.successResultOf(finished)


class SpanTests(AnswerCase):
    """send_file() on a transport that has no means of its own"""

    def test_back_pressure(self) -> None:
        """One block is written at a time; the next waits for room."""
        fd = self.file_with(bytes(1000 * 1000))
        self.request.start_response(200, b"OK", [], 1000 * 1000)
        self.wire.transport.full = True
        sent = self.request.send_file(fd, 0, 1000 * 1000)
        for count in (262144, 524288, 786432, 1000000):
            self.assertEqual(self.request.body_bytes_sent, count)
            self.assertNoResult(sent)
            self.wire.channel.resumeProducing()
        self.successResultOf(sent)
        self.request.finish()
        self.assertEqual(len(self.wire.sent.partition(b"\r\n\r\n")[2]), 1000 * 1000)

    def test_short_file(self) -> None:
        """A file that is too short cuts the connection."""
        fd = self.file_with(b"abc")
        self.request.start_response(200, b"OK", [], 5)
        self.failureResultOf(self.request.send_file(fd, 0, 5), OSError)
        self.assertTrue(self.wire.transport.aborted)

    def test_client_goes(self) -> None:
        """A client that goes in between makes the span fail."""
        fd = self.file_with(bytes(1000 * 1000))
        self.request.start_response(200, b"OK", [], 1000 * 1000)
        self.wire.transport.full = True
        sent = self.request.send_file(fd, 0, 1000 * 1000)
        self.wire.lose()
        self.failureResultOf(sent, ClientGone)
        self.assertEqual(self.request.body_bytes_sent, 262144)

    def test_one_after_the_other(self) -> None:
        """To write while a span is under way would mix them up: it cuts the connection."""
        fd = self.file_with(bytes(1000 * 1000))
        self.request.start_response(200, b"OK", [], 1000 * 1000 + 1)
        self.wire.transport.full = True
        sent = self.request.send_file(fd, 0, 1000 * 1000)
        self.failureResultOf(self.request.write(b"x"), ClientGone)
        self.assertTrue(self.wire.transport.aborted)
        self.wire.lose(clean=False)
        self.failureResultOf(sent, ClientGone)
