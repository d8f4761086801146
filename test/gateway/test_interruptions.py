"""Fetches that nobody waits for any more, and answers that stop in the middle."""

import os
from test.gateway.test_leftovers import LeftoverTestCase
from test.gateway.test_read import ok, part
from test.support.gateway import FakeClient, FakeResponse

from twisted.python.failure import Failure

from s3proxy.cache import fill as fill_module
from s3proxy.gateway.deliver import MAX_REFETCHES
from s3proxy.upstream.interfaces import UpstreamTimeout, UpstreamUnreachable

SIZE = 1_000_000
BODY = os.urandom(SIZE)
SIXTH = SIZE // 6


class AbandonmentTests(LeftoverTestCase):
    """The last reader of a fetch leaves: it goes on if a quarter at most is missing, or 8 MiB; here 40,000 bytes."""

    def setUp(self) -> None:
        super().setUp()
        self.assertEqual(fill_module.WORTH_FINISHING, 8 << 20)
        self.patch(fill_module, "WORTH_FINISHING", 40_000)
        self.harness.store.inline_max = 0

    def begin(self, received: int, **headers: bytes) -> tuple[FakeClient, FakeResponse]:
        """A client of whose object so much has come."""
        client = self.harness.get(**headers)
        response = self.asks(1).respond(ok(None, length=SIZE))
        response.sink.data_received(BODY[:received])
        self.harness.clock.advance(0.1)
        self.assertTrue(client.answer == BODY[:received])
        return client, response

    def finish(self, response: FakeResponse, received: int) -> None:
        """The rest comes."""
        response.sink.data_received(BODY[received:])
        response.sink.stream_ended()
        self.harness.clock.advance(0.1)
        self.served(self.harness.get(), b"HIT", BODY)
        self.asks(1)
        self.nothing_is_left()

    def test_a_quarter_is_missing(self) -> None:
        """It goes on, and the object is a hit."""
        client, response = self.begin(750_000)
        client.leave()
        self.assertFalse(response.aborted)
        self.finish(response, 750_000)

    def test_more_than_a_quarter_is_missing(self) -> None:
        """It stops at once; its beginning is kept, and the rest of it asked for when somebody wants it."""
        client, response = self.begin(749_999)
        client.leave()
        self.assertTrue(response.aborted)
        self.nothing_is_left()
        self.served(self.harness.get(range=b"bytes=0-749998"), b"HIT", BODY[:749_999], 206)
        self.asks(1)

    def test_little_has_come(self) -> None:
        """Of a beginning below partial_range_commit_ratio nothing is kept."""
        client, response = self.begin(100_000)
        client.leave()
        self.assertTrue(response.aborted)
        self.nothing_is_left()
        self.harness.get(range=b"bytes=0-9")
        self.asks(2)

    def test_few_bytes_are_missing(self) -> None:
        """However large the share, a few bytes more are worth having."""
        client = self.harness.get(range=b"bytes=0-59999")
        response = self.asks(1).respond(part(0, 60_000, BODY, deliver=False))
        response.sink.data_received(BODY[:20_000])
        client.leave()
        self.assertFalse(response.aborted)
        response.sink.data_received(BODY[20_000:60_000])
        response.sink.stream_ended()
        self.harness.clock.advance(0.1)
        self.served(self.harness.get(range=b"bytes=0-59999"), b"HIT", BODY[:60_000], 206)

    def test_somebody_else_reads(self) -> None:
        """Whoever joined keeps it going, also when he is the slowest; only the last one to leave decides."""
        first, response = self.begin(SIXTH)
        second, third = self.harness.get(), self.harness.get()
        first.leave()
        third.leave()
        self.assertFalse(response.aborted)
        response.sink.data_received(BODY[SIXTH : 2 * SIXTH])
        self.harness.clock.advance(0.1)
        self.assertTrue(second.answer == BODY[: 2 * SIXTH])
        second.leave()
        self.assertTrue(response.aborted)
        self.nothing_is_left()

    def test_reader_of_a_part_of_it(self) -> None:
        """A reader who wants a few bytes of it leaves satisfied: then the others decide, or nobody."""
        first, response = self.begin(SIXTH)
        small = self.harness.get(range=b"bytes=%d-%d" % (SIXTH, SIXTH + 9))
        self.asks(1)
        first.leave()
        self.assertFalse(response.aborted)
        response.sink.data_received(BODY[SIXTH : 2 * SIXTH])
        self.harness.clock.advance(0.1)
        self.served(small, b"COALESCED", BODY[SIXTH : SIXTH + 10], 206)
        self.assertTrue(response.aborted)
        self.nothing_is_left()


class StallTests(LeftoverTestCase):
    """S3 falls silent in the middle of a body, for longer than upstream_idle_timeout."""

    def stall(self, response: FakeResponse, received: int) -> None:
        """So much comes, and then nothing for too long."""
        response.sink.data_received(BODY[:received])
        self.harness.clock.advance(0.1)
        response.sink.stream_failed(Failure(UpstreamTimeout("silent", sent=True)))

    def test_only_client(self) -> None:
        """The rest is asked for, of that version, and the client never notices."""
        client = self.harness.get()
        self.stall(self.asks(1).respond(ok(None, length=SIZE)), SIXTH)
        again = self.asks(2)
        self.assertEqual(again.header(b"range"), b"bytes=%d-%d" % (SIXTH, SIZE - 1))
        self.assertEqual(again.header(b"if-match"), b'"v1"')
        again.respond(part(SIXTH, SIZE, BODY))
        self.harness.clock.advance(0.1)
        self.served(client, b"MISS", BODY)
        self.nothing_is_left()

    def test_joined_client(self) -> None:
        """Whoever follows another one's fetch gets the rest with it, and S3 is asked for it once."""
        first, second = self.harness.get(), self.harness.get()
        late = self.asks(1).respond(ok(None, length=SIZE))
        late.sink.data_received(BODY[:10])
        third = self.harness.get(range=b"bytes=%d-" % (SIZE // 2))
        self.asks(1)
        late.sink.data_received(BODY[10:SIXTH])
        self.harness.clock.advance(0.1)
        late.sink.stream_failed(Failure(UpstreamTimeout("silent", sent=True)))
        asked = list(self.upstream.asked[1:])
        self.assertLessEqual(len(asked), 2, "one for the rest of all of it, perhaps one for the last half")
        for each in asked:
            start = int((each.header(b"range") or b"").partition(b"=")[2].partition(b"-")[0])
            each.respond(part(start, SIZE, BODY))
        self.harness.clock.advance(0.1)
        for client, start in ((first, 0), (second, 0), (third, SIZE // 2)):
            self.assertEqual(client.ended, "finished")
            self.assertTrue(client.answer == BODY[start:])
        self.nothing_is_left()

    def test_silent_for_good(self) -> None:
        """After a few attempts without one byte more the connection is cut: no client takes the beginning for all."""
        clients = [self.harness.get(), self.harness.get()]
        self.stall(self.asks(1).respond(ok(None, length=SIZE)), SIXTH)
        attempts = 0
        while any(client.ended is None for client in clients):
            attempts += 1
            self.assertLess(attempts, 20)
            asked = self.upstream.last
            if attempts % 2:
                asked.fail(UpstreamTimeout("silent", sent=True))
            else:
                start = int((asked.header(b"range") or b"").partition(b"=")[2].partition(b"-")[0])
                response = asked.respond(part(start, SIZE, BODY, deliver=False))
                if response.sink is not None:
                    response.sink.stream_failed(Failure(UpstreamTimeout("silent", sent=True)))
        for client in clients:
            self.assertEqual((client.status, client.ended), (200, "aborted"))
            self.assertTrue(client.answer == BODY[:SIXTH])
        self.assertLessEqual(attempts, 2 * (MAX_REFETCHES + 1))
        self.nothing_is_left()

    def test_progress_counts_anew(self) -> None:
        """An S3 that stalls again and again, and gets a little further each time, serves the client in the end."""
        client = self.harness.get()
        self.stall(self.asks(1).respond(ok(None, length=SIZE)), 100_000)
        for number in range(2, 10):
            asked = self.asks(number)
            start = (number - 1) * 100_000
            self.assertEqual(asked.header(b"range"), b"bytes=%d-%d" % (start, SIZE - 1))
            response = asked.respond(part(start, SIZE, BODY, deliver=False))
            response.sink.data_received(BODY[start : start + 100_000])
            self.harness.clock.advance(0.1)
            response.sink.stream_failed(Failure(UpstreamTimeout("silent", sent=True)))
        self.asks(10).respond(part(900_000, SIZE, BODY))
        self.harness.clock.advance(0.1)
        self.served(client, b"MISS", BODY)
        self.nothing_is_left()

    def test_before_the_first_byte_of_the_body(self) -> None:
        """The same between the head and the body."""
        client = self.harness.get()
        self.stall_at_once(self.asks(1).respond(ok(None, length=SIZE)))
        self.asks(2).respond(part(0, SIZE, BODY))
        self.harness.clock.advance(0.1)
        self.served(client, b"MISS", BODY)

    def stall_at_once(self, response: FakeResponse) -> None:
        """Nothing comes."""
        response.sink.stream_failed(Failure(UpstreamTimeout("silent", sent=True)))

    def test_small_body(self) -> None:
        """The same for a body that is kept in memory until it is complete."""
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=1000))
        response.sink.data_received(BODY[:400])
        response.sink.stream_failed(Failure(UpstreamTimeout("silent", sent=True)))
        self.assertEqual(self.asks(2).header(b"range"), b"bytes=400-999")
        self.upstream.last.respond(part(400, 1000, BODY[:1000]))
        self.served(client, b"MISS", BODY[:1000])
        self.nothing_is_left()


class NoAnswerTests(LeftoverTestCase):
    """S3 can't be asked."""

    def test_document_of_every_failure(self) -> None:
        """502 and 504 are documents in S3's form, whose request id is the header's; HEAD has the header alone."""
        for failure, status, code in (
            (UpstreamUnreachable("refused"), 502, b"BadGateway"),
            (UpstreamTimeout("silent", sent=True), 504, b"GatewayTimeout"),
        ):
            for method in (b"GET", b"HEAD", b"PUT", b"DELETE"):
                client = self.harness.send(method, b"/a/key")
                self.upstream.last.fail(failure)
                self.assertEqual((client.status, client.ended), (status, "finished"))
                request_id = client.header(b"x-amz-request-id") or b"?"
                self.assertRegex(request_id.decode(), "^[0-9A-F]{16}$")
                self.assertEqual(client.header(b"content-type"), b"application/xml")
                if method == b"HEAD":
                    self.assertEqual(client.answer, b"")
                    continue
                self.assertEqual(client.length, len(client.answer))
                for text in (b"<Code>%s</Code>" % code, b"<Resource>/a/key</Resource>", request_id):
                    self.assertIn(text, client.answer)
        self.nothing_is_left()

    def test_waiting_clients(self) -> None:
        """Whoever waited for another client's request asks for himself; each gets his own answer and id."""
        clients = [self.harness.get() for _ in range(3)]
        number = 0
        while number < len(self.upstream.asked):
            self.upstream.asked[number].fail(UpstreamTimeout("silent", sent=True))
            number += 1
        self.assertEqual([client.status for client in clients], [504] * 3)
        self.assertEqual(len({client.header(b"x-amz-request-id") for client in clients}), 3)
        self.assertLessEqual(number, 3)
        self.nothing_is_left()
