"""Requests as they come in on one connection, and what happens around their answers."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.gateway.interfaces import ClientGone
from s3proxy.wire.limits import WireLimits
from test.wire.harness import Collector, Connected, reply, split_answers

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"
EXPECT = b"PUT /b HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class DispatchTests(SynchronousTestCase):
    """Requests are handed over at the end of their heads, in order."""

    def test_request(self) -> None:
        """The request carries what the head said and where it came from."""
        wire = Connected(listener="proxy")
        wire.clock.advance(7)
        wire.receive(b"GET http://s3.test/b/k?x HTTP/1.1\r\nHOST: s3.test\r\n\r\n")
        (request,) = wire.requests
        self.assertEqual(
            (request.method, request.target, request.version), (b"GET", b"http://s3.test/b/k?x", b"HTTP/1.1")
        )
        self.assertEqual(request.headers.pairs, ((b"HOST", b"s3.test"),))
        self.assertEqual(
            (request.body_length, request.client_address, request.listener, request.received_at),
            (0, "192.168.1.1", "proxy", 7.0),
        )
        self.assertEqual((request.status, request.first_byte_at, request.body_bytes_sent), (None, None, 0))
        self.assertEqual(wire.site.requests_in_flight, 1)

    def test_before_the_body(self) -> None:
        """A request is handed over before any byte of its body has come."""
        wire = Connected()
        wire.receive(PUT)
        self.assertEqual([request.body_length for request in wire.requests], [10])

    def test_pipelined_in_order(self) -> None:
        """The second of two requests that come together is handed over when the first is answered."""
        wire = Connected()
        wire.receive(GET + GET.replace(b"/a", b"/2"))
        self.assertEqual(len(wire.requests), 1)
        reply(wire.requests[0], b"one")
        self.assertEqual(len(wire.requests), 2)
        reply(wire.requests[1], b"two")
        self.assertEqual([answer[2] for answer in split_answers(wire.sent)], [b"one", b"two"])
        self.assertFalse(wire.transport.disconnecting)

    def test_many_at_once(self) -> None:
        """Thousands of requests answered on the spot need no stack."""
        wire = Connected(reply)
        wire.receive(GET * 3000)
        self.assertEqual(len(split_answers(wire.sent)), 3000)
        self.assertEqual(wire.site.counters.requests, 3000)
        self.assertEqual(wire.site.requests_in_flight, 0)

    def test_read_ahead_is_bounded(self) -> None:
        """While a request is answered, little is read of the next ones; afterwards all of them are served."""
        wire = Connected()
        wire.receive(GET + GET * 1000)
        self.assertTrue(wire.paused)
        wire.handler.answer = reply
        reply(wire.requests[0])
        self.assertFalse(wire.paused)
        self.assertEqual(len(split_answers(wire.sent)), 1001)

    def test_empty_lines_before_a_request(self) -> None:
        """Empty lines before a request line are skipped."""
        wire = Connected()
        wire.receive(b"\r")
        wire.receive(b"\n\r\n")
        wire.receive(GET)
        self.assertEqual(len(wire.requests), 1)

    def test_connection_close(self) -> None:
        """A client that asks for it gets the connection closed after the answer, and what it sent behind is ignored."""
        wire = Connected(reply)
        wire.receive(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n" + GET)
        ((_, fields, _),) = split_answers(wire.sent)
        self.assertEqual(fields[b"connection"], b"close")
        self.assertEqual(len(wire.requests), 1)
        wire.pass_time(4)
        self.assertTrue(wire.transport.disconnecting)

    def test_http_1_0(self) -> None:
        """HTTP/1.0 ends with its answer, unless the client asked to keep the connection."""
        wire = Connected(reply)
        wire.receive(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        self.assertFalse(wire.transport.disconnecting)
        self.assertEqual(split_answers(wire.sent)[0][1][b"connection"], b"keep-alive")
        wire.receive(b"GET / HTTP/1.0\r\n\r\n")
        self.assertTrue(wire.transport.disconnecting)
        self.assertEqual(split_answers(wire.sent)[1][1][b"connection"], b"close")

    def test_handler_raises(self) -> None:
        """A handler that raises costs its client the connection, and is logged."""

        def broken(request: object) -> None:
            raise ZeroDivisionError

        wire = Connected(broken)
        wire.receive(GET)
        self.assertTrue(wire.transport.aborted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_mapped_address(self) -> None:
        """An IPv4 client of a dual-stack socket is known by its IPv4 address."""
        wire = Connected()
        wire.channel.transport.peerAddr = type("Peer", (), {"host": "::ffff:10.1.2.3"})()
        wire.channel.transport.unregisterProducer()
        wire.channel.connectionMade()
        self.assertEqual(wire.channel.client_address, "10.1.2.3")


class BodyTests(SynchronousTestCase):
    """Bodies are paused sources."""

    def test_waits_for_its_sink(self) -> None:
        """Body bytes that come before the source is started are kept, and no more are read."""
        wire = Connected()
        wire.receive(PUT)
        self.assertFalse(wire.paused)
        wire.receive(b"abc")
        self.assertTrue(wire.paused)
        sink = Collector()
        wire.requests[0].body.start(sink)
        self.assertEqual((sink.data, sink.ended, wire.paused), (b"abc", 0, False))
        wire.receive(b"defghij")
        self.assertEqual((sink.data, sink.ended), (b"abcdefghij", 1))

    def test_all_at_once(self) -> None:
        """Head and body in one segment, with the next request behind them."""
        wire = Connected()
        wire.receive(PUT + b"abcdefghij" + GET)
        sink = Collector()
        wire.requests[0].body.start(sink)
        self.assertEqual((sink.data, sink.ended), (b"abcdefghij", 1))
        self.assertEqual(len(wire.requests), 1)
        reply(wire.requests[0])
        self.assertEqual(len(wire.requests), 2)

    def test_chunked(self) -> None:
        """A chunked body is decoded, its trailers dropped."""
        wire = Connected()
        wire.receive(CHUNKED)
        self.assertIsNone(wire.requests[0].body_length)
        sink = Collector()
        wire.requests[0].body.start(sink)
        wire.receive(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n" + GET)
        self.assertEqual((sink.data, sink.ended), (b"abcde", 1))
        reply(wire.requests[0])
        self.assertEqual(wire.requests[1].target, b"/a")

    def test_no_body(self) -> None:
        """The source of a request without a body ends as soon as it is started, and pauses nothing."""
        wire = Connected()
        wire.receive(GET)
        sink = Collector()
        wire.requests[0].body.start(sink)
        self.assertEqual((sink.data, sink.ended, wire.paused), (b"", 1, False))

    def test_pause(self) -> None:
        """While the sink has paused it nothing is read; what is under way is kept for the resumption."""
        wire = Connected()
        wire.receive(PUT)
        body = wire.requests[0].body
        sink = Collector(lambda data: body.pause())
        body.start(sink)
        wire.receive(b"abc")
        self.assertTrue(wire.paused)
        wire.receive(b"def")
        self.assertEqual(sink.data, b"abc")
        body.resume()
        self.assertEqual(sink.data, b"abcdef")
        self.assertTrue(wire.paused)
        sink.on_data = None
        body.resume()
        self.assertFalse(wire.paused)
        wire.receive(b"ghij")
        self.assertEqual((sink.data, sink.ended), (b"abcdefghij", 1))

    def test_output_does_not_resume_it(self) -> None:
        """A paused body stays paused when the transport has room for output again."""
        wire = Connected()
        wire.receive(PUT)
        body = wire.requests[0].body
        body.start(Collector())
        body.pause()
        wire.channel.pauseProducing()
        wire.channel.resumeProducing()
        self.assertTrue(wire.paused)

    def test_end_waits_for_resumption(self) -> None:
        """The end of a body is not told to a sink that has paused it."""
        wire = Connected()
        wire.receive(PUT)
        body = wire.requests[0].body
        sink = Collector(lambda data: body.pause())
        body.start(sink)
        wire.receive(b"abcdefghij")
        self.assertEqual((sink.data, sink.ended), (b"abcdefghij", 0))
        body.resume()
        self.assertEqual(sink.ended, 1)

    def test_abort(self) -> None:
        """After abort() the sink hears nothing more; what comes is read and dropped."""
        wire = Connected()
        wire.receive(PUT)
        sink = Collector()
        wire.requests[0].body.start(sink)
        wire.requests[0].body.abort()
        wire.receive(b"abcdefghij")
        self.assertEqual((sink.data, sink.ended, sink.failure, wire.paused), (b"", 0, None, False))
        reply(wire.requests[0])
        wire.receive(GET)
        self.assertEqual(len(wire.requests), 2)

    def test_started_twice(self) -> None:
        """A body has one sink."""
        wire = Connected()
        wire.receive(PUT)
        wire.requests[0].body.start(Collector())
        self.assertRaises(RuntimeError, wire.requests[0].body.start, Collector())

    def test_client_goes(self) -> None:
        """A client that goes in the middle of its body makes it fail, once, for early and late sinks alike."""
        early, late = Collector(), Collector()
        for sink in (early, late):
            wire = Connected()
            wire.receive(PUT + b"abc")
            if sink is early:
                wire.requests[0].body.start(sink)
            wire.lose()
            if sink is late:
                wire.requests[0].body.start(sink)
            assert sink.failure is not None
            sink.failure.trap(ClientGone)

    def test_broken_chunks(self) -> None:
        """A body whose framing breaks fails, and the client is told so if no answer has begun."""
        wire = Connected()
        wire.receive(CHUNKED)
        sink = Collector()
        request = wire.requests[0]
        request.body.start(sink)
        gone = request.when_gone()
        wire.receive(b"3\r\nabcX")
        assert sink.failure is not None
        self.assertIn(b"400 Bad Request", split_answers(wire.sent)[0][0])
        self.assertIn(b"<Resource>/c</Resource>", split_answers(wire.sent)[0][2])
        self.successResultOf(gone)
        reply(request)
        self.assertEqual(len(split_answers(wire.sent)), 1)
        self.assertEqual(wire.site.requests_in_flight, 0)

    def test_broken_chunks_during_the_answer(self) -> None:
        """If an answer has begun, there is no way to tell but to cut the connection."""
        wire = Connected()
        wire.receive(CHUNKED)
        wire.requests[0].start_response(200, b"OK", [], 100)
        wire.receive(b"X\r\n")
        self.assertTrue(wire.transport.aborted)


class ExpectTests(SynchronousTestCase):
    """100 Continue"""

    def test_sent_at_start(self) -> None:
        """It is sent when the body is started, once, and not before."""
        wire = Connected()
        wire.receive(EXPECT)
        self.assertEqual(wire.sent, b"")
        body = wire.requests[0].body
        body.start(Collector())
        self.assertEqual(wire.sent, CONTINUE)
        body.pause()
        body.resume()
        wire.receive(b"abcdefghij")
        self.assertEqual(wire.sent, CONTINUE)
        reply(wire.requests[0])
        self.assertEqual(split_answers(wire.sent[len(CONTINUE) :])[0][1].get(b"connection"), None)

    def test_not_when_the_body_came(self) -> None:
        """A client that did not wait is not told to continue."""
        wire = Connected()
        wire.receive(EXPECT + b"a")
        wire.requests[0].body.start(Collector())
        self.assertEqual(wire.sent, b"")

    def test_not_after_the_answer_began(self) -> None:
        """A final answer takes its place, and ends the connection: the body may come or not."""
        wire = Connected()
        wire.receive(EXPECT)
        wire.requests[0].start_response(403, b"Forbidden", [], 0)
        wire.requests[0].body.start(Collector())
        wire.requests[0].finish()
        ((line, fields, _),) = split_answers(wire.sent)
        self.assertEqual((line, fields[b"connection"]), (b"HTTP/1.1 403 Forbidden", b"close"))

    def test_not_in_1_0(self) -> None:
        """HTTP/1.0 clients know no interim answers."""
        wire = Connected()
        wire.receive(EXPECT.replace(b"HTTP/1.1", b"HTTP/1.0"))
        wire.requests[0].body.start(Collector())
        self.assertEqual(wire.sent, b"")

    def test_not_without_a_body(self) -> None:
        """An empty body needs no permission."""
        wire = Connected()
        wire.receive(EXPECT.replace(b": 10", b": 0"))
        wire.requests[0].body.start(Collector())
        self.assertEqual(wire.sent, b"")


class EarlyAnswerTests(SynchronousTestCase):
    """Answers that end before the request's body has."""

    def test_short_rest(self) -> None:
        """A short rest is read and dropped, and the connection is used again."""
        wire = Connected()
        wire.receive(PUT + b"abc")
        reply(wire.requests[0], status=403)
        self.assertNotIn(b"connection", split_answers(wire.sent)[0][1])
        self.assertFalse(wire.paused)
        wire.receive(b"defg")
        wire.receive(b"hij" + GET)
        self.assertEqual([request.target for request in wire.requests], [b"/b", b"/a"])

    def test_short_rest_never_comes(self) -> None:
        """A short rest that does not come ends the connection after two seconds."""
        wire = Connected()
        wire.receive(PUT + b"abc")
        reply(wire.requests[0], status=403)
        wire.pass_time(7)
        self.assertTrue(wire.transport.disconnecting)
        self.assertFalse(wire.transport.aborted)

    def test_long_rest(self) -> None:
        """A long rest ends the connection, but only when the client has stopped sending, or had its time."""
        wire = Connected()
        wire.receive(b"PUT /b HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 1000)
        self.assertTrue(wire.paused)
        reply(wire.requests[0], status=403)
        self.assertEqual(split_answers(wire.sent)[0][1][b"connection"], b"close")
        self.assertFalse(wire.paused)
        for _ in range(20):
            wire.receive(b"x" * 65536)
            wire.pass_time(1)
        self.assertFalse(wire.transport.disconnecting)
        wire.pass_time(4)
        self.assertTrue(wire.transport.disconnecting)
        self.assertFalse(wire.transport.aborted)

    def test_endless_rest(self) -> None:
        """A client that goes on sending for ever is left after half a minute."""
        wire = Connected()
        wire.receive(CHUNKED)
        reply(wire.requests[0], status=403)
        for _ in range(33):
            wire.receive(b"x" * 65536)
            wire.pass_time(1)
        self.assertTrue(wire.transport.disconnecting)

    def test_drain_limit(self) -> None:
        """The limit parts a short rest from a long one."""
        for length, count in ((100, 2), (101, 1)):
            wire = Connected(limits=WireLimits(drain_bytes=100))
            wire.receive(b"PUT /b HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length)
            reply(wire.requests[0], status=403)
            wire.receive(b"x" * length + GET)
            self.assertEqual(len(wire.requests), count)

    def test_broken_rest(self) -> None:
        """A rest whose framing breaks gets no second answer."""
        wire = Connected()
        wire.receive(CHUNKED + b"3\r\nabc\r\n")
        reply(wire.requests[0])
        sent = wire.sent
        wire.receive(b"zzz\r\n")
        self.assertEqual(wire.sent, sent)

    def test_body_completed_in_time(self) -> None:
        """A body that is complete when the answer begins leaves the connection as it is."""
        wire = Connected()
        wire.receive(CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")
        reply(wire.requests[0])
        self.assertNotIn(b"connection", split_answers(wire.sent)[0][1])

    def test_answer_from_the_sink(self) -> None:
        """A sink may end the answer while it is being called with the last bytes."""
        wire = Connected()
        wire.receive(PUT)
        request = wire.requests[0]
        request.body.start(Collector(lambda data: reply(request)))
        wire.receive(b"abcdefghij" + GET)
        self.assertEqual(len(wire.requests), 2)


class RejectionTests(SynchronousTestCase):
    """What is not a request is answered with an error document, and then the connection ends."""

    def check_rejected(self, wire: Connected, status: bytes, code: bytes) -> None:
        ((line, fields, body),) = split_answers(wire.sent)
        self.assertTrue(line.startswith(b"HTTP/1.1 " + status), line)
        self.assertIn(b"<Code>" + code + b"</Code>", body)
        self.assertEqual(fields[b"connection"], b"close")
        self.assertEqual(fields[b"content-type"], b"application/xml")
        self.assertIn(b"<RequestId>" + fields[b"x-amz-request-id"], body)
        self.assertEqual(fields[b"date"], b"Thu, 01 Jan 1970 00:00:00 GMT")
        self.assertEqual(wire.site.counters.rejected[code.decode()], 1)
        wire.receive(GET)
        self.assertEqual(wire.requests, [])
        wire.pass_time(5)
        self.assertTrue(wire.transport.disconnecting)
        self.assertFalse(wire.transport.aborted)

    def test_malformed(self) -> None:
        """A malformed field."""
        wire = Connected()
        wire.receive(b"GET / HTTP/1.1\r\nA : b\r\n\r\n")
        self.check_rejected(wire, b"400", b"InvalidRequest")

    def test_garbage(self) -> None:
        """A TLS ClientHello on the plain port is told so at its first bytes."""
        wire = Connected()
        wire.receive(b"\x16\x03\x01")
        self.check_rejected(wire, b"400", b"InvalidRequest")

    def test_long_target(self) -> None:
        """An endless target is refused before it ends."""
        wire = Connected()
        wire.receive(b"GET /" + b"a" * 20000)
        self.check_rejected(wire, b"414", b"RequestURITooLong")

    def test_large_head(self) -> None:
        """An endless field is refused before it ends."""
        wire = Connected()
        wire.receive(b"GET / HTTP/1.1\r\nA: ")
        for _ in range(9):
            wire.receive(b"a" * 8192)
        self.check_rejected(wire, b"431", b"RequestHeaderSectionTooLarge")

    def test_both_framings(self) -> None:
        """The classic of request smuggling: the second request is never seen."""
        wire = Connected()
        wire.receive(b"POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET)
        self.check_rejected(wire, b"400", b"InvalidRequest")

    def test_after_a_good_one(self) -> None:
        """A bad request behind a good one is answered after it."""
        wire = Connected()
        wire.receive(GET + b"nonsense\r\n\r\n")
        self.assertEqual(wire.sent, b"")
        reply(wire.requests[0])
        self.assertEqual([answer[0][9:12] for answer in split_answers(wire.sent)], [b"200", b"400"])


class TimeTests(SynchronousTestCase):
    """Limits of time"""

    def test_idle(self) -> None:
        """A connection without a request is closed after the idle time, without a word."""
        wire = Connected()
        wire.pass_time(65)
        self.assertFalse(wire.transport.disconnecting)
        wire.pass_time(2)
        self.assertTrue(wire.transport.disconnecting)
        self.assertEqual(wire.sent, b"")

    def test_idle_after_an_answer(self) -> None:
        """The idle time begins with the end of the last answer."""
        wire = Connected()
        wire.pass_time(60)
        wire.receive(GET)
        wire.pass_time(300)
        reply(wire.requests[0])
        wire.pass_time(60)
        self.assertFalse(wire.transport.disconnecting)
        wire.pass_time(7)
        self.assertTrue(wire.transport.disconnecting)

    def test_empty_lines_are_idle(self) -> None:
        """Empty lines don't keep an idle connection open."""
        wire = Connected()
        for _ in range(67):
            wire.receive(b"\r\n")
            wire.pass_time(1)
        self.assertTrue(wire.transport.disconnecting)

    def test_slow_head(self) -> None:
        """A head that trickles is cut off after its total time, with an answer."""
        wire = Connected()
        wire.receive(b"GET / HTTP/1.1\r\n")
        for _ in range(32):
            wire.receive(b"a: b\r\n")
            wire.pass_time(1)
        self.assertIn(b"<Code>RequestTimeout</Code>", split_answers(wire.sent)[0][2])
        self.assertEqual(wire.requests, [])

    def test_upload_stalls(self) -> None:
        """A client that stops sending the body it was asked for is answered so, and the body fails."""
        wire = Connected()
        wire.receive(PUT)
        sink = Collector()
        wire.requests[0].body.start(sink)
        wire.pass_time(100)
        wire.receive(b"a")
        wire.pass_time(119)
        self.assertIsNone(sink.failure)
        wire.pass_time(3)
        self.assertIn(b"<Code>RequestTimeout</Code>", split_answers(wire.sent)[0][2])
        assert sink.failure is not None

    def test_upload_stalls_during_the_answer(self) -> None:
        """If the answer has begun, the connection is cut."""
        wire = Connected()
        wire.receive(PUT)
        wire.requests[0].start_response(200, b"OK", [], 5)
        wire.requests[0].body.start(Collector())
        wire.pass_time(122)
        self.assertTrue(wire.transport.aborted)
        self.assertEqual(wire.site.counters.aborted["RequestTimeout"], 1)

    def test_our_pause_is_not_the_clients(self) -> None:
        """An upload that the proxy holds up, by a pause or by not starting it, may stand still for ever."""
        for prepare in (lambda body: (body.start(Collector()), body.pause()), lambda body: None):
            wire = Connected()
            wire.receive(PUT + b"abc")
            prepare(wire.requests[0].body)
            wire.pass_time(1000)
            self.assertFalse(wire.transport.disconnecting)
            self.assertEqual(wire.sent, b"")

    def test_time_starts_at_resumption(self) -> None:
        """After a long pause the client has its full time again."""
        wire = Connected()
        wire.receive(PUT + b"abc")
        body = wire.requests[0].body
        body.start(Collector())
        body.pause()
        wire.pass_time(1000)
        body.resume()
        wire.pass_time(100)
        self.assertEqual(wire.sent, b"")

    def test_slow_handler(self) -> None:
        """No time limit of the listener concerns the making of an answer."""
        wire = Connected()
        wire.receive(GET)
        wire.pass_time(1000)
        self.assertFalse(wire.transport.disconnecting)

    def test_slow_reader(self) -> None:
        """A client that takes nothing of its answer is cut off."""
        wire = Connected()
        wire.receive(GET)
        wire.requests[0].start_response(200, b"OK", [], 10)
        wire.channel.pauseProducing()
        room = wire.requests[0].write(b"abc")
        wire.pass_time(119)
        self.assertFalse(wire.transport.aborted)
        wire.pass_time(3)
        self.assertTrue(wire.transport.aborted)
        self.assertEqual(wire.site.counters.aborted["slow_reader"], 1)
        self.assertNoResult(room)
        wire.lose(clean=False)
        self.failureResultOf(room, ClientGone)

    def test_no_timer_without_connections(self) -> None:
        """When the last connection has ended no timer is left."""
        wire = Connected()
        wire.lose()
        self.assertEqual(wire.clock.getDelayedCalls(), [])
        self.assertEqual(wire.site.connections_open, 0)


class BackPressureTests(SynchronousTestCase):
    """A client that does not read"""

    def test_write_waits(self) -> None:
        """write() says when to wait, and each waiter is told when there is room."""
        wire = Connected()
        wire.receive(GET)
        request = wire.requests[0]
        request.start_response(200, b"OK", [], 9)
        self.assertIsNone(request.write(b"abc"))
        wire.channel.pauseProducing()
        first, second = request.write(b"def"), request.write(b"ghi")
        self.assertNoResult(first)
        second.addErrback(lambda _: None)
        second.cancel()
        wire.channel.resumeProducing()
        self.successResultOf(first)
        request.finish()

    def test_no_further_request(self) -> None:
        """No further request is read, or begun, while the answer of the last one is stuck."""
        wire = Connected(reply)
        wire.channel.pauseProducing()
        self.assertTrue(wire.paused)
        wire.receive(GET)
        self.assertEqual(wire.requests, [])
        wire.channel.resumeProducing()
        self.assertEqual(len(wire.requests), 1)
        self.assertFalse(wire.paused)


class StreamTests(SynchronousTestCase):
    """Properties of whole streams"""

    @settings(deadline=None, max_examples=100, derandomize=True)
    @given(
        st.lists(st.tuples(st.sampled_from(["get", "put", "chunked"]), st.binary(max_size=60)), min_size=1, max_size=5),
        st.lists(st.integers(1, 40), max_size=80),
        st.booleans(),
    )
    def test_any_split(self, requests: list[tuple[str, bytes]], sizes: list[int], at_once: bool) -> None:
        """However a stream of valid requests is cut, the requests, bodies and answers are the same."""
        stream = b""
        expected = []
        for index, (kind, body) in enumerate(requests):
            if kind == "get":
                stream += b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % index
                body = b""
            elif kind == "put":
                stream += b"PUT /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (index, len(body), body)
            else:
                stream += b"PUT /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % index
                for start in range(0, len(body), 7):
                    stream += b"%x\r\n%s\r\n" % (len(body[start : start + 7]), body[start : start + 7])
                stream += b"0\r\n\r\n"
            expected.append((b"/%d" % index, body))
        seen = []

        class Echo(Collector):
            def __init__(self, request: object) -> None:
                super().__init__()
                self.request = request

            def stream_ended(self) -> None:
                super().stream_ended()
                seen.append((self.request.target, self.data))
                reply(self.request, self.data)

        wire = Connected(lambda request: request.body.start(Echo(request)))
        if at_once:
            sizes = []
        for size in [*sizes, len(stream)]:
            if stream[:size]:
                wire.receive(stream[:size])
            stream = stream[size:]
        self.assertEqual(seen, expected)
        self.assertEqual([answer[2] for answer in split_answers(wire.sent)], [body for _, body in expected])

    @settings(deadline=None, max_examples=300, derandomize=True)
    @given(
        st.lists(
            st.one_of(
                st.binary(min_size=1, max_size=80),
                st.sampled_from([GET, PUT, CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n", b"\r\n", b"Host: x\r\n", EXPECT]),
            ),
            max_size=12,
        ),
        st.booleans(),
    )
    def test_garbage(self, pieces: list[bytes], start: bool) -> None:
        """Whatever comes, nothing is raised, and every answer is whole."""

        def answer(request: object) -> None:
            if start:
                request.body.start(Collector())
            reply(request)

        wire = Connected(answer)
        for piece in pieces:
            wire.receive(piece)
            wire.pass_time(1)
        wire.lose()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual((wire.site.requests_in_flight, wire.site.connections_open), (0, 0))
        for line, fields, body in split_answers(wire.sent.replace(CONTINUE, b"")):
            self.assertTrue(line.startswith(b"HTTP/1.1 "))
            self.assertEqual(len(body), int(fields[b"content-length"]))


class LastWriteTests(SynchronousTestCase):
    """The room that the last write asks for"""

    def test_answer_ends_first(self) -> None:
        """Whoever ends the answer without waiting for room is let go, whatever becomes of the connection."""
        wire = Connected()
        wire.receive(GET)
        wire.channel.pauseProducing()
        wire.requests[0].start_response(200, b"OK", [], 3)
        room = wire.requests[0].write(b"abc")
        wire.requests[0].finish()
        self.successResultOf(room)
        wire.lose(clean=False)

    def test_client_goes_first(self) -> None:
        """If the client goes before, the Deferred fails."""
        wire = Connected()
        wire.receive(GET)
        wire.channel.pauseProducing()
        wire.requests[0].start_response(200, b"OK", [], 3)
        room = wire.requests[0].write(b"abc")
        wire.lose(clean=False)
        self.failureResultOf(room, ClientGone)


class GoneTests(SynchronousTestCase):
    """Clients that go"""

    def test_when_gone(self) -> None:
        """Each caller has a Deferred of its own; late callers are told at once."""
        wire = Connected()
        wire.receive(GET)
        first, second = wire.requests[0].when_gone(), wire.requests[0].when_gone()
        second.addErrback(lambda _: None)
        second.cancel()
        self.assertNoResult(first)
        wire.lose()
        self.successResultOf(first)
        self.successResultOf(wire.requests[0].when_gone())
        self.assertEqual(wire.site.requests_in_flight, 0)

    def test_before_the_body_fails(self) -> None:
        """Whoever forwards the body must know that it is the client who left before it hears that the body broke off:
        else it looks like a failure of the upload.
        """
        wire = Connected()
        wire.receive(b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        request = wire.requests[0]
        sink = Collector()
        request.body.start(sink)
        failed: list[bool] = []
        request.when_gone().addCallback(lambda _: failed.append(sink.failure is not None))
        wire.lose()
        self.assertEqual(failed, [False])
        assert sink.failure is not None
        sink.failure.trap(ClientGone)

    def test_not_after_the_answer(self) -> None:
        """A connection that ends after the answer is nobody's loss."""
        wire = Connected(reply)
        wire.receive(GET)
        gone = wire.requests[0].when_gone()
        wire.lose()
        self.assertNoResult(gone)

    def test_methods_of_a_gone_request(self) -> None:
        """A request whose client has gone takes an answer without complaint, but says so."""
        wire = Connected()
        wire.receive(GET)
        request = wire.requests[0]
        wire.lose()
        request.start_response(200, b"OK", [], 3)
        self.failureResultOf(request.write(b"abc"), ClientGone)
        self.failureResultOf(request.send_file(0, 0, 3), ClientGone)
        request.finish()
        request.abort()
        self.assertEqual(request.body_bytes_sent, 0)

    def test_failure_reaches_the_log_unless_the_client_left(self) -> None:
        """A pipeline that fails with ClientGone is not an error; one that fails otherwise is."""
        for error, count in ((ClientGone("x"), 0), (KeyError("x"), 1)):
            wire = Connected()
            wire.receive(GET)
            wire.channel.site.resource._escaped(Failure(error), wire.requests[0])
            self.assertEqual(len(self.flushLoggedErrors(KeyError)), count)
            self.assertTrue(wire.transport.aborted)
