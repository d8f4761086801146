"""Tests of s3proxy.upstream.exchange, response, upload and connection, on a transport in memory."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from s3proxy.s3.headers import Headers
from s3proxy.upstream.connection import IConnectionUser, UpstreamConnection
from s3proxy.upstream.exchange import Exchange, Limits, framing
from s3proxy.upstream.interfaces import (
    IUpstreamResponse,
    UpstreamError,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from s3proxy.upstream.retry import Stage
from s3proxy.upstream.routing import Route
from s3proxy.util.streams import IByteSink, IByteSource
from test.upstream.tools import Sink, Source, a_get, a_put

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!"
EXPECT = (b"Expect", b"100-Continue")


class Transport(StringTransport):
    """Remembers an abort, and can say how much the peer has not acknowledged."""

    aborted = 0
    waiting = 0

    def abortConnection(self) -> None:
        self.aborted += 1

    def unsent(self) -> int:
        return self.waiting

    @property
    def reading(self) -> bool:
        return self.producerState == "producing"


class Bench:
    """A connection, and the exchange on it."""

    def __init__(self, request: UpstreamRequest, connection: UpstreamConnection | None = None, **limits: float) -> None:
        self.clock = Clock()
        self.idle: list[UpstreamConnection] = []
        if connection is None:
            connection = UpstreamConnection(self.clock, Route("s3.test", 80, None), "192.0.2.1", 80)
            connection.makeConnection(Transport())
        transport: Any = connection.transport
        self.connection = connection
        self.transport = transport
        self.transport.clear()
        self.exchange = Exchange(self.clock, connection, request, framing(request), Limits(**limits))
        self.answer: Deferred[Any] = self.exchange.run(self.idle.append)

    @property
    def sent(self) -> bytes:
        value: bytes = self.transport.value()
        return value

    def receive(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.dataReceived(piece)

    def lose(self, error: Exception | None = None) -> None:
        self.connection.connectionLost(Failure(error or ConnectionLost()))


class ExchangeTestCase(SynchronousTestCase):
    """Common assertions."""

    def answered(self, bench: Bench) -> Any:
        response = self.successResultOf(bench.answer)
        bench.answer = Deferred()
        return response

    def assert_clean(self, bench: Bench) -> None:
        """No timer is left, and no producer."""
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        self.assertIsNone(bench.transport.producer)


class DownloadTests(ExchangeTestCase):
    """Requests without a body."""

    def test_interfaces(self) -> None:
        """The objects keep to their interfaces."""
        bench = Bench(a_put(Source(), 0))
        verifyObject(IConnectionUser, bench.exchange)
        verifyObject(IByteSink, bench.exchange._upload)
        bench.receive(OK)
        response = self.answered(bench)
        verifyObject(IUpstreamResponse, response)
        verifyObject(IByteSource, response)

    def test_request_is_sent_as_given(self) -> None:
        """The head is the caller's, a Content-Length of 0 on a GET included."""
        bench = Bench(a_get(target=b"/b/k?x", headers=Headers([(b"host", b"S3.test:80"), (b"content-Length", b"0")])))
        self.assertEqual(bench.sent, b"GET /b/k?x HTTP/1.1\r\nhost: S3.test:80\r\ncontent-Length: 0\r\n\r\n")

    def test_whole_answer(self) -> None:
        """Head, body and end arrive in order; the connection is idle before the end is told."""
        bench = Bench(a_get())
        bench.clock.advance(1)
        bench.receive(OK + b"he")
        response = self.answered(bench)
        self.assertEqual((response.status, response.reason, response.length), (200, b"OK", 5))
        self.assertEqual((response.address, response.sent_at, response.head_at), ("192.0.2.1:80", 0, 1))
        sink = Sink()
        response.start(sink)
        self.assertEqual(bench.idle, [])
        bench.receive(b"llo")
        self.assertEqual((sink.data, sink.ended, bench.idle), (b"hello", 1, [bench.connection]))
        self.assertTrue(bench.transport.reading)
        self.assert_clean(bench)

    def test_held_until_started(self) -> None:
        """The connection is not read before the body is wanted, and what came with the head is kept."""
        bench = Bench(a_get())
        bench.receive(OK + b"he")
        response = self.answered(bench)
        self.assertFalse(bench.transport.reading)
        bench.receive(b"l")
        bench.clock.advance(3600)
        sink = Sink()
        response.start(sink)
        self.assertEqual(sink.pieces, [b"he", b"l"])
        self.assertTrue(bench.transport.reading)
        bench.receive(b"lo")
        self.assertEqual((sink.data, sink.ended), (b"hello", 1))

    def test_complete_before_started(self) -> None:
        """A body that came with its head frees the connection at once and can be fetched any time."""
        bench = Bench(a_get())
        bench.receive(OK + b"hello")
        self.assertEqual(bench.idle, [bench.connection])
        response = self.answered(bench)
        self.assertTrue(bench.transport.reading)
        bench.lose()
        sink = Sink()
        response.start(sink)
        self.assertEqual((sink.data, sink.ended), (b"hello", 1))

    def test_pause_and_resume(self) -> None:
        """Pausing the body stops reading; both are idempotent."""
        bench = Bench(a_get())
        bench.receive(OK)
        response = self.answered(bench)
        response.start(Sink())
        response.pause()
        response.pause()
        self.assertFalse(bench.transport.reading)
        response.resume()
        response.resume()
        self.assertTrue(bench.transport.reading)

    def test_paused_at_the_end(self) -> None:
        """A connection that becomes idle is read again, or its end would go unnoticed."""
        bench = Bench(a_get())
        bench.receive(OK)
        response = self.answered(bench)
        sink = Sink()
        response.start(sink)
        response.pause()
        bench.receive(b"hello")
        self.assertEqual((sink.ended, bench.transport.reading), (1, True))

    def test_idle_limit(self) -> None:
        """Silence in the body fails it with UpstreamTimeout, counted from the last byte."""
        bench = Bench(a_get(), idle=5)
        bench.receive(OK)
        response = self.answered(bench)
        sink = Sink()
        response.start(sink)
        bench.clock.advance(4)
        bench.receive(b"h")
        bench.clock.advance(4.9)
        self.assertEqual(sink.failures, [])
        bench.clock.advance(0.1)
        error = sink.failures[0].value
        assert isinstance(error, UpstreamTimeout)
        self.assertTrue(error.sent)
        self.assertEqual(bench.transport.aborted, 1)
        self.assert_clean(bench)

    def test_idle_limit_while_paused(self) -> None:
        """The time a sink pauses the body is not the peer's silence."""
        bench = Bench(a_get(), idle=5)
        bench.receive(OK)
        response = self.answered(bench)
        sink = Sink()
        response.start(sink)
        response.pause()
        bench.clock.advance(100)
        response.resume()
        bench.clock.advance(4.9)
        self.assertEqual(sink.failures, [])
        bench.clock.advance(0.1)
        self.assertEqual(len(sink.failures), 1)

    def test_first_byte_limit(self) -> None:
        """A repeatable request without an answer in time fails as silent."""
        bench = Bench(a_get(), first_byte=5, head=30)
        bench.clock.advance(5)
        error = self.failureResultOf(bench.answer, UpstreamTimeout).value
        self.assertTrue(error.sent)
        self.assertIs(bench.exchange.stage, Stage.SILENT)
        self.assertEqual(bench.transport.aborted, 1)
        self.assert_clean(bench)

    def test_patience_for_others(self) -> None:
        """A request that can't be repeated is given the longer limit."""
        bench = Bench(a_get(method=b"DELETE", repeatable=False), first_byte=5, head=30)
        bench.clock.advance(29)
        self.assertNoResult(bench.answer)
        bench.clock.advance(1)
        self.failureResultOf(bench.answer, UpstreamTimeout)

    def test_interim_answers_are_hidden(self) -> None:
        """1xx answers are not shown, and do not extend the limit."""
        bench = Bench(a_get(), first_byte=5)
        bench.clock.advance(4)
        bench.receive(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        self.assertNoResult(bench.answer)
        bench.clock.advance(1)
        self.failureResultOf(bench.answer, UpstreamTimeout)

    def test_no_answer(self) -> None:
        """A connection lost before any byte of an answer: UpstreamUnreachable."""
        bench = Bench(a_get())
        bench.lose()
        error = self.failureResultOf(bench.answer, UpstreamUnreachable).value
        self.assertTrue(error.sent)
        self.assertIs(bench.exchange.stage, Stage.UNANSWERED)
        self.assert_clean(bench)

    def test_stale_connection(self) -> None:
        """The same on a kept connection is told apart."""
        first = Bench(a_get())
        first.receive(OK + b"hello")
        second = Bench(a_get(), first.connection)
        second.lose(ConnectionDone())
        self.failureResultOf(second.answer, UpstreamUnreachable)
        self.assertIs(second.exchange.stage, Stage.STALE)

    def test_broken_head(self) -> None:
        """An answer that is not HTTP, or breaks off in its head, can't be tried again."""
        for data in (b"garbage\r\n\r\n", b"HTTP/1.1 2"):
            bench = Bench(a_get())
            bench.receive(data)
            bench.lose()
            self.failureResultOf(bench.answer, UpstreamError)
            self.assertIs(bench.exchange.stage, Stage.ANSWERING)
            self.assert_clean(bench)

    def test_cut_body(self) -> None:
        """A body that is cut short fails, whether the peer reset the connection or closed it in order."""
        for error in (ConnectionLost(), ConnectionDone()):
            bench = Bench(a_get())
            bench.receive(OK + b"hell")
            sink = Sink()
            self.answered(bench).start(sink)
            bench.lose(error)
            self.assertIsInstance(sink.failures[0].value, UpstreamError)
            self.assertEqual((sink.data, sink.ended), (b"hell", 0))
            self.assert_clean(bench)

    def test_cut_before_started(self) -> None:
        """The failure waits for the sink, behind the bytes that came."""
        bench = Bench(a_get())
        bench.receive(OK + b"hell")
        response = self.answered(bench)
        bench.lose()
        sink = Sink()
        response.start(sink)
        self.assertEqual((sink.data, len(sink.failures)), (b"hell", 1))

    def test_body_until_the_end(self) -> None:
        """A body without a length ends well only with an orderly end of the connection."""
        for error, ended in ((ConnectionDone(), 1), (ConnectionLost(), 0)):
            bench = Bench(a_get())
            bench.receive(b"HTTP/1.1 200 OK\r\n\r\nhello")
            response = self.answered(bench)
            self.assertIsNone(response.length)
            sink = Sink()
            response.start(sink)
            bench.lose(error)
            self.assertEqual((sink.data, sink.ended, len(sink.failures)), (b"hello", ended, 1 - ended))
            self.assertEqual(bench.idle, [])

    def test_not_kept(self) -> None:
        """A connection is closed after an answer that forbids its reuse or was followed by bytes nobody asked for."""
        close = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
        for data in (close, OK + b"helloHTTP/1.1 200 OK\r\n"):
            bench = Bench(a_get())
            bench.receive(data)
            sink = Sink()
            self.answered(bench).start(sink)
            self.assertEqual((sink.data, sink.ended, bench.idle), (b"hello", 1, []))
            self.assertTrue(bench.transport.disconnecting)

    def test_goodbye_has_a_limit(self) -> None:
        """A connection that does not close in good order is aborted."""
        bench = Bench(a_get())
        bench.receive(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        bench.clock.advance(10)
        self.assertEqual(bench.transport.aborted, 1)

    def test_abort(self) -> None:
        """Aborting the response aborts the connection, and the sink hears nothing more."""
        bench = Bench(a_get())
        bench.receive(OK + b"h")
        response = self.answered(bench)
        sink = Sink()
        response.start(sink)
        response.abort()
        response.abort()
        self.assertEqual(bench.transport.aborted, 1)
        bench.receive(b"ello")
        bench.lose()
        self.assertEqual((sink.data, sink.ended, sink.failures), (b"h", 0, []))
        self.assert_clean(bench)

    def test_abort_from_within(self) -> None:
        """A sink may abort while it is given bytes that were kept for it."""
        bench = Bench(a_get())
        bench.receive(OK + b"h", b"ell")
        response = self.answered(bench)

        class Quitter(Sink):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                response.abort()

        sink = Quitter()
        response.start(sink)
        self.assertEqual((sink.pieces, bench.transport.aborted), ([b"h"], 1))

    def test_abort_after_the_end(self) -> None:
        """Aborting a response that is complete leaves the connection to its next user."""
        bench = Bench(a_get())
        bench.receive(OK + b"hello")
        self.answered(bench).abort()
        self.assertEqual((bench.transport.aborted, bench.idle), (0, [bench.connection]))

    def test_cancel(self) -> None:
        """Cancelling the wait for the answer aborts the connection."""
        bench = Bench(a_get())
        bench.answer.cancel()
        self.failureResultOf(bench.answer, CancelledError)
        self.assertEqual(bench.transport.aborted, 1)
        bench.lose()
        self.assert_clean(bench)

    def test_bytes_while_idle(self) -> None:
        """An idle connection on which bytes arrive is of no more use."""
        bench = Bench(a_get())
        bench.receive(OK + b"hello")
        self.assertTrue(bench.connection.still_open())
        bench.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        self.assertFalse(bench.connection.still_open())
        self.assertEqual(bench.transport.aborted, 1)


class UploadTests(ExchangeTestCase):
    """Requests with a body."""

    def test_with_a_length(self) -> None:
        """A counted body goes out as it comes; the connection is kept afterwards."""
        source = Source([b"abc", b"def"])
        bench = Bench(a_put(source, 6))
        expected = b"PUT /bucket/key HTTP/1.1\r\nHost: s3.test\r\nContent-Length: 6\r\n\r\nabcdef"
        self.assertEqual(bench.sent, expected)
        bench.receive(OK + b"hello")
        self.answered(bench)
        self.assertEqual(bench.idle, [bench.connection])
        self.assertEqual(source.aborted, 0)
        self.assert_clean(bench)

    def test_chunked(self) -> None:
        """A body without a Content-Length is sent in chunks, and the header that says so is added."""
        bench = Bench(a_put(Source([b"abc", b"", b"x" * 17]), None))
        head = b"PUT /bucket/key HTTP/1.1\r\nHost: s3.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(bench.sent, head + b"3\r\nabc\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n")

    def test_empty(self) -> None:
        """A body of no bytes is a body too."""
        self.assertTrue(Bench(a_put(Source(), 0)).sent.endswith(b"Content-Length: 0\r\n\r\n"))
        self.assertTrue(Bench(a_put(Source(), None)).sent.endswith(b"chunked\r\n\r\n0\r\n\r\n"))

    def test_headers_that_do_not_fit(self) -> None:
        """Headers that would break the framing are refused before anything is sent."""
        pairs = [(b"Content-Length", b"3")]
        both = [*pairs, (b"Transfer-Encoding", b"chunked")]
        for request in (
            a_get(headers=Headers(pairs)),
            a_get(headers=Headers(both[1:])),
            a_put(Source(), None, *both),
            a_put(Source(), 3, (b"Content-Length", b"4")),
        ):
            self.assertRaises(ValueError, framing, request)

    def test_back_pressure(self) -> None:
        """The transport pauses and resumes the source."""
        source = Source([b"a"] * 3, end=False)
        bench = Bench(a_put(source, 4))
        bench.transport.producer.pauseProducing()
        source.push(b"b")
        self.assertTrue(bench.sent.endswith(b"aaa"))
        bench.transport.producer.resumeProducing()
        self.assertTrue(bench.sent.endswith(b"aaab"))

    def test_early_refusal(self) -> None:
        """An answer of 300 and above ends the upload at once, is delivered, and costs the connection."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 1000))
        bench.receive(REFUSAL[:-2])
        response = self.answered(bench)
        self.assertEqual(source.aborted, 1)
        sink = Sink()
        response.start(sink)
        source.push(b"more")
        bench.receive(b"o!")
        self.assertEqual((response.status, sink.data, sink.ended), (403, b"no!", 1))
        self.assertTrue(bench.sent.endswith(b"abc"))
        self.assertEqual((bench.idle, bench.transport.aborted), ([], 1))
        self.assert_clean(bench)

    def test_early_success(self) -> None:
        """After an early 2xx the upload goes on, and the connection is kept when both directions are done."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 6))
        bench.receive(OK + b"hello")
        sink = Sink()
        self.answered(bench).start(sink)
        self.assertEqual((sink.data, sink.ended, bench.idle), (b"hello", 1, []))
        source.push(b"def")
        source.finish()
        self.assertTrue(bench.sent.endswith(b"abcdef"))
        self.assertEqual((bench.idle, source.aborted), ([bench.connection], 0))
        self.assert_clean(bench)

    def test_early_success_and_a_client_that_stops(self) -> None:
        """After an early 2xx an upload that does not move on is given up within seconds, and the answer stands."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 9))
        bench.receive(OK + b"hello")
        sink = Sink()
        self.answered(bench).start(sink)
        bench.clock.pump([1.0] * 4)
        source.push(b"def")
        bench.clock.pump([1.0] * 4)
        self.assertEqual((bench.transport.aborted, source.aborted), (0, 0))
        bench.clock.pump([1.0] * 6)
        self.assertEqual((bench.transport.aborted, source.aborted, bench.idle), (1, 1, []))
        self.assertEqual((sink.data, sink.ended, sink.failures), (b"hello", 1, []))
        self.assert_clean(bench)

    def test_early_success_then_gone(self) -> None:
        """If the peer closes after its early answer, the answer stands and the source is aborted."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 6))
        bench.receive(OK + b"hello")
        sink = Sink()
        self.answered(bench).start(sink)
        bench.lose()
        self.assertEqual((sink.ended, source.aborted), (1, 1))
        self.assert_clean(bench)

    def test_expect_continue(self) -> None:
        """A body that waits for 100 is started by it."""
        source = Source([b"abc"])
        bench = Bench(a_put(source, 3, EXPECT))
        self.assertIn(b"Expect: 100-Continue\r\n", bench.sent)
        self.assertEqual(source.calls, [])
        bench.receive(b"HTTP/1.1 102 Processing\r\n\r\n")
        self.assertEqual(source.calls, [])
        bench.receive(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertTrue(bench.sent.endswith(b"\r\n\r\nabc"))
        bench.receive(OK + b"hello")
        self.assertEqual(bench.idle, [bench.connection])
        self.assert_clean(bench)

    def test_expect_and_silence(self) -> None:
        """After a second without an answer the body goes out all the same; a late 100 does no harm."""
        source = Source([b"abc"])
        bench = Bench(a_put(source, 3, EXPECT))
        bench.clock.advance(0.9)
        self.assertEqual(source.calls, [])
        bench.clock.advance(0.1)
        self.assertEqual(source.calls, ["start"])
        bench.receive(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
        self.assertEqual(self.answered(bench).status, 200)

    def test_expect_and_refusal(self) -> None:
        """A final answer instead of 100: the body is never started, and the connection not used again."""
        for answer in (REFUSAL, OK + b"hello", b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n\r\n"):
            source = Source([b"abc"])
            bench = Bench(a_put(source, 3, EXPECT))
            bench.receive(answer)
            self.answered(bench)
            bench.clock.advance(5)
            self.assertEqual((source.calls, bench.idle), (["abort"], []))
            self.assertEqual(bench.transport.aborted, 1)

    def test_lost_while_body_is_held(self) -> None:
        """A loss before the body was started leaves it untouched, for another attempt."""
        source = Source([b"abc"])
        bench = Bench(a_put(source, 3, EXPECT))
        bench.lose()
        self.failureResultOf(bench.answer, UpstreamUnreachable)
        self.assertIs(bench.exchange.stage, Stage.BODY_HELD)
        self.assertEqual(source.calls, [])
        self.assert_clean(bench)

    def test_lost_while_sending(self) -> None:
        """A loss in the middle of the upload aborts the source."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 30))
        bench.lose()
        error = self.failureResultOf(bench.answer, UpstreamUnreachable).value
        self.assertTrue(error.sent)
        self.assertEqual(source.aborted, 1)
        self.assertIs(bench.exchange.stage, Stage.UNANSWERED)

    def test_answer_just_before_the_loss(self) -> None:
        """An answer that arrived before the connection broke is delivered."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 30))
        bench.receive(REFUSAL)
        bench.lose()
        sink = Sink()
        self.answered(bench).start(sink)
        self.assertEqual((sink.data, sink.ended), (b"no!", 1))

    def test_source_fails(self) -> None:
        """A body that breaks off aborts the connection, and is not tried again."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 30))
        source.sink.stream_failed(Failure(ConnectionLost()))
        error = self.failureResultOf(bench.answer, UpstreamError).value
        self.assertTrue(error.sent)
        self.assertEqual(bench.transport.aborted, 1)
        self.assertIs(bench.exchange.stage, Stage.FORBIDDEN)
        self.assert_clean(bench)

    def test_source_fails_after_the_head(self) -> None:
        """If the answer has begun, it is the answer's body that fails."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 30))
        bench.receive(OK)
        sink = Sink()
        self.answered(bench).start(sink)
        source.sink.stream_failed(Failure(ConnectionLost()))
        self.assertIsInstance(sink.failures[0].value, UpstreamError)

    def test_wrong_length(self) -> None:
        """A body longer or shorter than its Content-Length fails; not one byte too many is sent."""
        for pieces in ([b"abc", b"defg"], [b"abc", b"de"]):
            bench = Bench(a_put(Source(pieces), 6))
            self.failureResultOf(bench.answer, UpstreamError)
            self.assertNotIn(b"g", bench.sent.partition(b"\r\n\r\n")[2])
            self.assertEqual(bench.transport.aborted, 1)
            self.assert_clean(bench)

    def test_slow_upload(self) -> None:
        """An upload may take any time as long as something moves: bytes from the client, or bytes to S3."""
        source = Source([b"a"], end=False)
        bench = Bench(a_put(source, 1000))
        for moved in range(40):
            bench.clock.pump([5] * 11)
            if moved % 2:
                source.push(b"a")
            else:
                bench.transport.waiting += 1
        self.assertNoResult(bench.answer)
        self.assertEqual(bench.transport.aborted, 0)

    def test_stalled_upload(self) -> None:
        """An upload in which nothing moves for a minute is given up."""
        source = Source([b"a"], end=False)
        bench = Bench(a_put(source, 1000))
        bench.clock.pump([5] * 5)
        source.push(b"a")
        bench.clock.pump([5] * 12)
        self.assertNoResult(bench.answer)
        bench.clock.pump([5, 5])
        self.failureResultOf(bench.answer, UpstreamTimeout)
        self.assertEqual(source.aborted, 1)
        self.assert_clean(bench)

    def test_answer_limit_after_upload(self) -> None:
        """The wait for the answer counts from the end of the upload, and from when the peer has taken all of it."""
        source = Source([b"a"], end=False)
        bench = Bench(a_put(source, 2), head=30)
        bench.transport.waiting = 9
        bench.clock.pump([5] * 10)
        source.push(b"a")
        source.finish()
        for left in range(8, -1, -1):
            bench.clock.pump([5] * 4)
            bench.transport.waiting = left
        bench.clock.pump([5] * 5)
        self.assertNoResult(bench.answer)
        bench.clock.pump([5] * 3)
        self.failureResultOf(bench.answer, UpstreamTimeout)
        self.assertIs(bench.exchange.stage, Stage.SILENT)
        self.assert_clean(bench)

    def test_whose_fault_a_stall_is(self) -> None:
        """A client that sends no more of its body says nothing about S3; an S3 that takes no more of it does."""
        for unsent, stage in ((0, Stage.FORBIDDEN), (7, Stage.UNANSWERED)):
            source = Source([b"a"], end=False)
            bench = Bench(a_put(source, 2))
            bench.transport.waiting = unsent
            bench.clock.pump([5] * 14)
            self.failureResultOf(bench.answer, UpstreamTimeout)
            self.assertIs(bench.exchange.stage, stage)
            self.assert_clean(bench)

    def test_sent_at(self) -> None:
        """The time to the first byte counts from the end of the upload."""
        source = Source([b"a"], end=False)
        bench = Bench(a_put(source, 1))
        bench.clock.advance(3)
        source.finish()
        bench.clock.advance(1)
        bench.receive(OK)
        response = self.answered(bench)
        self.assertEqual((response.sent_at, response.head_at), (3, 4))

    def test_abort_while_sending(self) -> None:
        """Aborting the answer ends an upload that still goes on, also when the answer itself is complete."""
        for data in (OK, OK + b"hello"):
            source = Source([b"abc"], end=False)
            bench = Bench(a_put(source, 30))
            bench.receive(data)
            self.answered(bench).abort()
            self.assertEqual((source.aborted, bench.transport.aborted), (1, 1))
            self.assert_clean(bench)

    def test_cancel(self) -> None:
        """Cancelling the wait for the answer ends the upload."""
        source = Source([b"abc"], end=False)
        bench = Bench(a_put(source, 30))
        bench.answer.cancel()
        self.failureResultOf(bench.answer, CancelledError)
        self.assertEqual((source.aborted, bench.transport.aborted), (1, 1))
        self.assert_clean(bench)
