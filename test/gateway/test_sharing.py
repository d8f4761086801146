"""Readers of one object who come at the same time, and what becomes of those who wait for others."""

import errno
import os

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from s3proxy.storage.layout import entry_name
from s3proxy.upstream.interfaces import UpstreamUnreachable
from test.gateway.test_gaps import ID
from test.gateway.test_read import BODY, SIGNED_RANGE, ReadTestCase, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from test.support.streams import ManualThread


class WaitingTests(ReadTestCase):
    """Clients who wait for another client's request."""

    def answer_all(self, *, each_takes: float = 0.0) -> None:
        """S3 answers whatever it is asked, one request after another."""
        number = 0
        while number < len(self.upstream.asked):
            self.harness.clock.advance(each_takes)
            asked = self.upstream.asked[number]
            if asked.request.method == b"GET":
                asked.respond(not_modified() if asked.header(b"if-none-match") else ok())
            number += 1

    def all_served(self, clients: list[FakeClient]) -> None:
        """Everybody got the object."""
        for client in clients:
            self.assertEqual((client.status, client.answer, client.ended), (200, BODY, "finished"))

    def test_confirmation_that_cannot_be_written_down(self) -> None:
        """While a write is on its way no confirmation is stored; who waited for one is served by it all the same."""
        self.cached()
        self.harness.send(b"DELETE", b"/key")
        clients = [self.harness.get() for _ in range(30)]
        self.asks(2)
        self.answer_all()
        self.all_served(clients)
        self.asks(2)
        self.assertEqual({client.header(b"age") for client in clients}, {b"0"})

    def test_confirmation_that_comes_late(self) -> None:
        """The same when S3 takes longer to answer than its answer is trusted."""
        self.cached()
        self.harness.clock.advance(61)
        clients = [self.harness.get() for _ in range(30)]
        self.answer_all(each_takes=61.0)
        self.all_served(clients)
        self.asks(1)

    def test_body_that_comes_late(self) -> None:
        """Nobody waits for ever for a body that is not trusted any more when it comes."""
        clients = [self.harness.get() for _ in range(30)]
        self.answer_all(each_takes=61.0)
        self.all_served(clients)

    def test_what_cannot_be_kept_is_not_waited_for(self) -> None:
        """Everybody gets an object that the cache does not take, such as one without an ETag, for itself: nobody waits
        until all who came before have it.
        """
        answer = ok()
        answer.headers = answer.headers.without([b"etag"])
        clients = [self.harness.get() for _ in range(10)]
        self.asks(1).respond(answer)
        self.asks(10)
        self.answer_all_without_tag()
        self.all_served(clients)

    def answer_all_without_tag(self) -> None:
        """S3 answers in a way that can't be stored."""
        for asked in self.upstream.asked[1:]:
            answer = ok()
            answer.headers = answer.headers.without([b"etag"])
            asked.respond(answer)

    def test_nobody_waits_for_a_head(self) -> None:
        """The answer to a HEAD has no bytes for a GET."""
        self.harness.head()
        self.harness.get()
        self.asks(2)

    def test_leader_who_gets_no_answer(self) -> None:
        """When the one who asks gets no answer, the others ask for themselves."""
        clients = [self.harness.get() for _ in range(3)]
        self.asks(1).fail(UpstreamUnreachable("down"))
        self.assertEqual(clients[0].status, 502)
        self.asks(3)
        for asked in self.upstream.asked[1:]:
            asked.respond(ok())
        self.all_served(clients[1:])

    def test_rest_that_the_leader_does_not_get(self) -> None:
        """The same in the middle of a body."""
        body = b"0123456789" * 20_000
        first, second = self.harness.get(), self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        response.sink.stream_failed(Failure(UpstreamUnreachable("reset", sent=True)))
        self.asks(2).fail(UpstreamUnreachable("down"))
        self.assertEqual(first.ended, "aborted")
        self.asks(3).respond(part(1000, len(body), body))
        self.served(second, b"COALESCED", body)

    def test_versions_that_overtake_each_other(self) -> None:
        """A body under way and a HEAD that shows another version: neither stays."""
        self.harness.get()
        response = self.asks(1).respond(ok(None, length=200_000))
        response.sink.data_received(b"x")
        self.harness.head(cache_control=b"no-cache")
        self.asks(2).respond(FakeResponse(200, {b"ETag": b'"v2"'}, b"", length=0, claimed=3))
        response.sink.data_received(b"x" * 199_999)
        response.sink.stream_ended()
        self.harness.get()
        self.assertIsNone(self.asks(3).header(b"if-none-match"))

    def test_second_answer_of_a_new_version(self) -> None:
        """The first answer of a new version is on its way into the cache: a second one does not undo that."""
        self.cached()
        self.harness.clock.advance(61)
        self.harness.get()
        self.harness.get(cache_control=b"no-cache")
        response = self.upstream.asked[0].respond(ok(None, b'"v2"', 200_000))
        response.sink.data_received(b"x")
        self.upstream.asked[1].respond(ok(b"x" * 200_000, b'"v2"'))
        response.sink.data_received(b"x" * 199_999)
        response.sink.stream_ended()
        self.served(self.harness.get(), b"HIT", b"x" * 200_000)


class OverlappingTests(ReadTestCase):
    """Requests for one key of which one is always under way."""

    settings = {"get_ttl": 0.0, "head_ttl": 0.0}

    def test_use_up_no_right_to_store(self) -> None:
        """An answer is stored although an earlier one was, while a third request has been under way all the time; what
        that one brings in the end is not.
        """
        first = self.harness.get()
        eternal = self.harness.get(if_none_match=b'"v0"')
        self.upstream.asked[0].respond(ok())
        self.served(first, b"MISS")
        changed = self.harness.get()
        self.asks(3).respond(ok(BODY[::-1], b'"v2"'))
        self.served(changed, b"MISS", BODY[::-1])
        self.harness.get()
        self.assertEqual(self.asks(4).header(b"if-none-match"), b'"v2"')
        self.upstream.last.respond(not_modified(b'"v2"'))
        self.upstream.asked[1].respond(ok())
        self.served(eternal, b"MISS")
        self.harness.get()
        self.assertEqual(self.asks(5).header(b"if-none-match"), b'"v2"')

    def test_small_ranges_one_after_another(self) -> None:
        """A client that always has several small ranges under way: all of them are stored, whichever came first."""
        spans = [(start, start + 32) for start in range(0, 1024, 32)]
        under_way = []
        for start, stop in spans + [(0, 0)] * 4:
            if stop:
                self.harness.get(range=b"bytes=%d-%d" % (start, stop - 1), authorization=SIGNED_RANGE)
                under_way.append((self.upstream.last, start, stop))
            if len(under_way) > 4 or not stop:
                asked, *span = under_way.pop(0)
                asked.respond(part(*span))
        view = self.successResultOf(Deferred.fromCoroutine(self.harness.cache.view(ID)))
        assert view is not None
        self.assertEqual(view.held(), tuple(spans))

    def test_many_ranges_are_not_looked_for_each_time(self) -> None:
        """A directory of many thousand range files is not read again for every range that joins them."""
        harness = GatewayHarness(range_merge_gap_threshold=0)
        self.addCleanup(harness.close)
        read = []
        listing = harness.store.listed
        self.patch(harness.store, "listed", lambda entry: read.append(entry) or listing(entry))
        for start in range(0, 1000, 20):
            client = harness.get(range=b"bytes=%d-%d" % (start, start + 9))
            harness.upstream.last.respond(part(start, start + 10))
            self.assertEqual(client.answer, BODY[start : start + 10])
        self.assertLessEqual(len(read), 2)
        asked = len(harness.upstream.asked)
        for start in range(0, 1000, 20):
            self.served(harness.get(range=b"bytes=%d-%d" % (start, start + 9)), b"HIT", BODY[start : start + 10], 206)
        self.assertEqual(len(harness.upstream.asked), asked)
        self.assertLessEqual(len(read), 2)

    def test_late_answer_of_an_older_version(self) -> None:
        """What was asked for before the newer version was, and comes while that is on its way, does not undo it."""
        self.harness.get(range=b"bytes=0-9", authorization=SIGNED_RANGE)
        self.harness.get(range=b"bytes=10-19", authorization=SIGNED_RANGE)
        self.upstream.asked[0].respond(part(0, 10))
        self.harness.get(cache_control=b"no-cache")
        answer = self.asks(3).respond(ok(None, b'"v2"', 200_000))
        answer.sink.data_received(b"x")
        self.upstream.asked[1].respond(part(10, 20))
        answer.sink.data_received(b"x" * 199_999)
        answer.sink.stream_ended()
        self.harness.get()
        self.assertEqual(self.asks(4).header(b"if-none-match"), b'"v2"')

    def test_who_comes_while_a_broken_body_is_put_away(self) -> None:
        """Who asks after a body broke off, and before it is decided what is kept of it, waits for that instead of
        asking for everything in a way that can't be stored.
        """
        thread = ManualThread()
        harness = GatewayHarness(run=thread)
        self.addCleanup(harness.close)
        body = b"0123456789" * 20_000
        first = harness.get()
        response = harness.upstream.last.respond(ok(None, length=len(body)))
        response.sink.data_received(body[:1000])
        response.sink.stream_failed(Failure(UpstreamUnreachable("reset")))
        late = harness.get()
        self.assertEqual(len(harness.upstream.asked), 1)
        thread.finish()
        self.assertEqual(
            [asked.header(b"range") for asked in harness.upstream.asked], [None, b"bytes=1000-199999", None]
        )
        harness.upstream.asked[2].respond(ok(body))
        thread.finish()
        self.assertEqual((late.answer, late.ended), (body, "finished"))
        harness.upstream.asked[1].respond(part(1000, len(body), body))
        thread.finish()
        self.assertEqual((first.answer, first.ended), (body, "finished"))
        self.assertEqual(harness.get().header(b"x-cache"), b"HIT")


class LongBodyTests(ReadTestCase):
    """Bodies that take many files."""

    def setUp(self) -> None:
        super().setUp()
        self.harness.store.cut = 100_000
        self.harness.store.inline_max = 0

    def test_readers_at_every_distance(self) -> None:
        """Early, late and slow readers of one body under way get all of it from one request, although files that are
        far behind are closed meanwhile.
        """
        body = os.urandom(3_000_000)
        clients = [self.harness.get()]
        slow = FakeClient(b"GET", b"/key")
        response = self.asks(1).respond(ok(None, length=len(body)))
        for start in range(0, 2_900_000, 50_000):
            response.sink.data_received(body[start : start + 50_000])
            self.harness.clock.advance(0.1)
            if start % 200_000 == 0:
                clients.append(self.harness.get())
            if start == 300_000:
                slow.stalled = True
                self.harness.gateway.handle(slow)
        response.sink.data_received(body[2_900_000:])
        response.sink.stream_ended()
        self.harness.clock.advance(0.1)
        slow.unstall()
        for client in (*clients, slow):
            self.assertTrue(client.answer == body)
            self.assertEqual(client.ended, "finished")
        self.asks(1)
        self.assertEqual(self.harness.left_over(), [])

    def test_write_in_the_middle(self) -> None:
        """A write takes the next file's directory away: the readers get the rest, and the disk is not blamed."""
        body = os.urandom(500_000)
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:50_000])
        self.harness.send(b"DELETE", b"/key")
        self.asks(2).respond(FakeResponse(204))
        response.sink.data_received(body[50_000:])
        response.sink.stream_ended()
        self.harness.clock.advance(0.1)
        self.assertTrue(client.answer == body)
        self.assertEqual((client.ended, self.harness.events.errors), ("finished", []))
        self.harness.store.volume.empty_trash()
        self.assertEqual(self.harness.left_over(), [])

    def test_eviction_in_the_middle(self) -> None:
        """The same when the entry is evicted; the object can be stored again."""
        body = os.urandom(500_000)
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body)))
        response.sink.data_received(body[:50_000])
        self.harness.store.volume.remove_entry(entry_name((b"aws", b"bucket", b"key")))
        response.sink.data_received(body[50_000:])
        response.sink.stream_ended()
        self.harness.clock.advance(0.1)
        self.assertTrue(client.answer == body)
        self.assertEqual(self.harness.events.errors, [])
        self.harness.get()
        self.asks(2).respond(ok(body))
        self.harness.clock.advance(0.1)
        self.served(self.harness.get(), b"HIT", body)


class UnreadableTests(ReadTestCase):
    """The disk fails when the cache is read."""

    def test_file_cannot_be_opened(self) -> None:
        """The bytes come from S3 then."""
        body = os.urandom(100_000)
        self.cached(body)

        def refuse(*args: object, **options: object) -> None:
            raise OSError(errno.EMFILE, "too many open files")

        self.patch(self.harness.store, "open_inline", refuse)
        client = self.harness.get()
        self.asks(1).respond(part(0, len(body), body))
        self.assertEqual((client.answer, client.ended), (body, "finished"))

    def test_file_cannot_be_read(self) -> None:
        """An answer that has begun is cut, and that is no fault of the proxy's."""
        body = os.urandom(100_000)
        self.cached(body)
        client = FakeClient(b"GET", b"/key")
        client.send_file = lambda *args: fail(OSError(errno.EIO, "bad block"))  # type: ignore[method-assign]
        self.harness.gateway.handle(client)
        self.assertEqual(client.ended, "aborted")
        self.assertEqual(self.flushLoggedErrors(), [])


class WeakTagTests(ReadTestCase):
    """Entity tags that promise nothing about bytes."""

    def test_weak_tags_are_not_stored(self) -> None:
        """Bytes are only ever joined under strong tags."""
        self.harness.get()
        self.asks(1).respond(ok(etag=b'W/"v1"'))
        self.harness.get()
        self.asks(2)
