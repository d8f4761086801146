"""From S3 to the client."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.gateway.interfaces import ClientGone
from s3proxy.gateway.relay import HEAD_BYTES, RelaySink, discard, relay
from s3proxy.gateway.transaction import Transaction
from s3proxy.s3.headers import Headers
from s3proxy.s3.operation import Operation
from s3proxy.s3.signature import read_signature
from s3proxy.s3.target import parse_target
from s3proxy.telemetry.record import RequestRecord
from s3proxy.upstream.interfaces import UpstreamError
from test.support.gateway import FakeClient, FakeResponse

RESET = Failure(UpstreamError("reset", sent=True))


class RelayTests(SynchronousTestCase):
    """An answer of S3, and the client that gets it."""

    def setUp(self) -> None:
        self.client = FakeClient(b"GET", b"/key")
        self.record = RequestRecord(started_at=0.0, started_monotonic=0.0)
        self.response = FakeResponse(200, {}, None)

    def relay(self, **options: Any) -> "Deferred[None]":
        headers = Headers([(b"Host", b"h")])
        transaction = Transaction(
            request=self.client,
            record=self.record,
            request_id="",
            target=parse_target(b"/key", headers),
            address=None,
            operation=Operation.Other,
            signature=read_signature(headers, None),
            settings=None,
        )
        length = options.pop("length", None)
        return Deferred.fromCoroutine(relay(transaction, self.response, [(b"a", b"b")], length, **options))

    def test_bytes_and_end(self) -> None:
        """Status, fields, length and bytes as they come."""
        done = self.relay(length=4)
        self.assertEqual((self.client.status, self.client.reason, self.client.length), (200, b"Reason", 4))
        self.assertEqual(self.client.header(b"a"), b"b")
        self.response.sink.data_received(b"ab")
        self.assertEqual(self.client.answer, b"ab")
        self.response.sink.data_received(b"cd")
        self.assertNoResult(done)
        self.response.sink.stream_ended()
        self.successResultOf(done)
        self.assertEqual((self.client.answer, self.record.bytes_from_upstream, self.record.status), (b"abcd", 4, 200))
        self.assertFalse(self.response.aborted)

    def test_pace(self) -> None:
        """S3 is paused until the client takes more."""
        self.relay()
        self.client.stalled = True
        self.response.sink.data_received(b"ab")
        self.assertTrue(self.response.paused)
        self.client.unstall()
        self.assertFalse(self.response.paused)

    def test_client_leaves(self) -> None:
        """Whether it is being written to or not."""
        for stalled in (True, False):
            self.setUp()
            done = self.relay()
            self.client.stalled = stalled
            self.response.sink.data_received(b"ab")
            self.client.leave()
            if not stalled:
                self.response.sink.data_received(b"cd")
            self.failureResultOf(done, ClientGone)
            self.assertTrue(self.response.aborted)
            self.response.sink.data_received(b"ef")
            self.response.sink.stream_failed(RESET)

    def test_cancelled(self) -> None:
        """Who gives up closes S3's answer."""
        done = self.relay()
        done.cancel()
        self.failureResultOf(done)
        self.assertTrue(self.response.aborted)

    def test_broken(self) -> None:
        """An answer that breaks off is an error."""
        done = self.relay()
        self.response.sink.data_received(b"ab")
        self.response.sink.stream_failed(RESET)
        self.failureResultOf(done, UpstreamError)
        self.assertEqual(self.record.bytes_from_upstream, 2)

    def test_head_that_cannot_be_sent(self) -> None:
        """Nothing stays open."""

        def refuse(*args: object) -> None:
            raise ValueError("no")

        self.client.start_response = refuse  # type: ignore[method-assign, assignment]
        self.failureResultOf(self.relay(), ValueError)
        self.assertTrue(self.response.aborted)

    def test_error_code(self) -> None:
        """Out of the first bytes of an error, however they come; not out of other answers."""
        for status, code in ((404, "NoSuchKey"), (200, "")):
            self.setUp()
            self.response.status = status
            self.relay()
            for piece in (b"<Error><Co", b"de>NoSuch", b"Key</Code>", b"x" * HEAD_BYTES):
                self.response.sink.data_received(piece)
            self.response.sink.stream_ended()
            self.assertEqual(self.record.error_code, code)

    def test_late_error_code(self) -> None:
        """Behind the first bytes nobody looks for it."""
        self.response.status = 500
        self.relay()
        self.response.sink.data_received(b" " * HEAD_BYTES + b"<Code>A</Code>")
        self.response.sink.stream_ended()
        self.assertEqual(self.record.error_code, "")


class BeforeEndTests(RelayTests):
    """With something to be done before the end; what holds without holds here, too."""

    def setUp(self) -> None:
        super().setUp()
        self.heads: list[bytes] = []
        self.done: Deferred[None] = Deferred()

    def before_end(self, head: bytes) -> "Deferred[None]":
        self.heads.append(head)
        return self.done

    def begin(self) -> "Deferred[None]":
        return self.relay(before_end=self.before_end)

    def test_last_piece_waits(self) -> None:
        """One piece is held, and let through when the Deferred fires."""
        done = self.begin()
        self.response.sink.data_received(b"ab")
        self.assertEqual(self.client.answer, b"")
        self.response.sink.data_received(b"cd")
        self.assertEqual(self.client.answer, b"ab")
        self.response.sink.stream_ended()
        self.assertEqual((self.client.answer, self.heads), (b"ab", [b"abcd"]))
        self.assertNoResult(done)
        self.done.callback(None)
        self.successResultOf(done)
        self.assertEqual(self.client.answer, b"abcd")

    def test_empty(self) -> None:
        """Also without any byte."""
        done = self.begin()
        self.response.sink.stream_ended()
        self.assertEqual(self.heads, [b""])
        self.done.callback(None)
        self.successResultOf(done)

    def test_head_is_bounded(self) -> None:
        """Not more than so many bytes are shown."""
        self.begin()
        self.response.sink.data_received(b"a" * 4000)
        self.response.sink.data_received(b"b" * 4000)
        self.response.sink.stream_ended()
        self.assertEqual(self.heads, [b"a" * 4000 + b"b" * (HEAD_BYTES - 4000)])
        self.done.callback(None)

    def test_failure_before_the_end(self) -> None:
        """The client does not get the end."""
        done = self.begin()
        self.response.sink.data_received(b"ab")
        self.response.sink.stream_ended()
        self.done.errback(ValueError("no"))
        self.failureResultOf(done, ValueError)
        self.assertEqual(self.client.answer, b"")

    def test_cancelled_before_the_end(self) -> None:
        """Nor one that is not wanted any more."""
        done = self.begin()
        self.response.sink.data_received(b"ab")
        self.response.sink.stream_ended()
        done.cancel()
        self.failureResultOf(done)
        self.done.callback(None)
        self.assertEqual(self.client.answer, b"")

    def test_broken_answer_has_no_end(self) -> None:
        """Nothing is done for a body that broke off."""
        done = self.begin()
        self.response.sink.data_received(b"ab")
        self.response.sink.stream_failed(RESET)
        self.failureResultOf(done, UpstreamError)
        self.assertEqual((self.heads, self.client.answer), ([], b""))

    def test_slow_client_at_the_end(self) -> None:
        """The last piece does not wait for room, and a client that leaves then is no error."""
        sink = RelaySink(self.client, self.response, None)
        self.client.start_response(200, b"OK", [], None)
        sink._held = b"ab"
        self.client.stalled = True
        sink.stream_ended()
        self.successResultOf(sink.done)
        self.client.leave()
        self.assertEqual(self.client.answer, b"ab")


class DiscardTests(SynchronousTestCase):
    """Bodies that nobody wants."""

    def test_short(self) -> None:
        """A short one is read to its end, for the connection's sake."""
        response = FakeResponse(304, {}, None)
        discard(response, 10)
        response.sink.data_received(b"0123456789")
        self.assertFalse(response.aborted)
        response.sink.stream_ended()

    def test_long(self) -> None:
        """A long one is cut."""
        response = FakeResponse(304, {}, None)
        discard(response, 10)
        response.sink.data_received(b"0123456789a")
        self.assertTrue(response.aborted)
        response.sink.stream_failed(RESET)
