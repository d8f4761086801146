"""However a request ends, nothing of it stays: no lease, no file, no flight, no open answer of S3."""

import errno
from collections.abc import Callable
from test.gateway.test_read import BODY, ReadTestCase, error, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness
from test.support.streams import ManualThread, RecordingSink
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.background import Promptness
from s3proxy.cache.backpressure import WINDOW
from s3proxy.cache.entry import ObjectId
from s3proxy.storage.diskio import DiskBusy
from s3proxy.upstream.interfaces import UpstreamError, UpstreamUnreachable

LARGE = b"0123456789" * 20_000
CRC = b"AAAAAA=="


def _busy(function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
    return fail(DiskBusy(errno.EAGAIN, "busy"))


class LeftoverTestCase(ReadTestCase):
    """Looks at what is left."""

    def nothing_is_left(self) -> None:
        """No request, flight, lease, writer or temporary file."""
        self.assertEqual(self.harness.gateway.in_flight, 0)
        self.assertEqual(self.harness.cache.flights.current, {})
        self.assertEqual(self.harness.store.volume.live, set())
        self.harness.store.volume.empty_trash()
        self.assertEqual(self.harness.left_over(), [])

    def broken(self, response: FakeResponse) -> None:
        """S3's answer breaks off."""
        response.sink.stream_failed(Failure(UpstreamError("reset", sent=True)))

    def unreachable(self, client: FakeClient) -> None:
        """Nor does S3 answer the question for the rest."""
        while client.ended is None:
            self.upstream.last.fail(UpstreamUnreachable("down"))
        self.assertEqual(client.ended, "aborted")


class BrokenBodyTests(LeftoverTestCase):
    """Bodies that do not come to their end."""

    def test_small_body_breaks_off(self) -> None:
        """The right to publish a small body is given back when it breaks off."""
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=1000))
        response.sink.data_received(b"x")
        self.broken(response)
        self.unreachable(client)
        self.nothing_is_left()

    def test_body_breaks_off_before_its_first_byte(self) -> None:
        """A file that was made for a body of which nothing came is removed."""
        client = self.harness.get()
        self.broken(self.asks(1).respond(ok(None, length=200_000)))
        self.unreachable(client)
        self.nothing_is_left()

    def test_wrong_checksum(self) -> None:
        """A body that came in one piece and is wrong leaves nothing behind, whatever its size."""
        for number, body in enumerate((BODY, LARGE), 1):
            client = self.harness.get()
            self.asks(number).respond(ok(body, x_amz_checksum_crc32=CRC))
            self.assertEqual((client.answer, client.ended), (b"", "aborted"))
            self.nothing_is_left()

    def test_wrong_checksum_behind_a_slow_disk(self) -> None:
        """S3's connection does not stay paused when a body turns out wrong."""
        thread = ManualThread()
        self.harness.cache.admission._run = thread
        body = b"x" * (4 * WINDOW)
        client = self.harness.get()
        response = self.asks(1).respond(ok(None, length=len(body), x_amz_checksum_crc32=CRC))
        response.sink.data_received(body[:1000])
        response.sink.data_received(body[1000 : 2 * WINDOW])
        response.sink.data_received(body[2 * WINDOW :])
        self.assertTrue(response.paused)
        thread.finish()
        self.assertEqual(client.ended, "aborted")
        self.assertTrue(response.aborted)
        self.nothing_is_left()

    def test_rest_is_of_another_version(self) -> None:
        """When the rest that is asked for turns out to be of a new version, that answer comes to an end, too."""
        for size in (200_000, 20_000_000):
            client = self.harness.get()
            response = self.upstream.last.respond(ok(None, length=size))
            response.sink.data_received(LARGE[:1000])
            self.broken(response)
            rest = part(1000, size, bytes(size), b'"v2"', deliver=False)
            self.upstream.last.respond(rest)
            self.assertEqual((client.answer, client.ended), (LARGE[:1000], "aborted"))
            if not rest.aborted:
                rest.sink.data_received(bytes(size - 1000))
                rest.sink.stream_ended()
            self.nothing_is_left()
            self.harness.cache.drop(ObjectId("aws", b"bucket", b"key"))


class NobodyTests(LeftoverTestCase):
    """Answers that nobody wants any more."""

    settings = {"get_ttl": 0.0, "head_ttl": 0.0}

    def test_body_that_nobody_reads(self) -> None:
        """A long body ends at once when who asked for it has left, and who waited for it was refused."""
        leader = self.harness.get()
        follower = self.harness.get()
        leader.leave()
        response = self.asks(1).respond(ok(None, length=100_000_000))
        self.asks(2).respond(error(403, b"AccessDenied"))
        self.assertEqual(follower.status, 403)
        self.assertTrue(response.aborted)
        self.nothing_is_left()


class AnswerForNobodyTests(LeftoverTestCase):
    """Answers for one client alone who has left, and answers without a body."""

    def test_refusal_for_who_left(self) -> None:
        """It is closed; who waited asks for itself."""
        leader, follower = self.harness.get(), self.harness.get()
        leader.leave()
        refusal = FakeResponse(403, {}, None)
        self.asks(1).respond(refusal)
        self.assertTrue(refusal.aborted)
        self.asks(2).respond(ok())
        self.served(follower, b"MISS")
        self.nothing_is_left()

    def test_confirmation(self) -> None:
        """The end of a 304 is read, so that its connection can be used again."""
        self.cached()
        self.harness.clock.advance(61)
        self.harness.get()
        confirmation = not_modified()
        self.asks(1).respond(confirmation)
        self.assertEqual(confirmation.calls, ["start"])


class StaleTests(LeftoverTestCase):
    """stale_if_error."""

    settings = {"stale_if_error": 3600.0}

    def test_failure_that_is_not_shown(self) -> None:
        """S3's error answer is closed before stale bytes are sent instead, however that ends."""
        self.cached()
        self.harness.clock.advance(120)
        client = self.harness.get()
        client.stalled = True
        failure = self.asks(1).respond(error(503, b"SlowDown"))
        self.assertEqual(client.header(b"x-cache"), b"STALE")
        client.leave()
        self.assertTrue(failure.aborted)


class BusyDiskTests(LeftoverTestCase):
    """No thread takes work for the disk."""

    def test_bodies(self) -> None:
        """Answers are complete, and nothing is held for them."""
        self.harness.cache.admission._run = _busy
        self.patch(Promptness, "now", False)
        for body in (BODY, LARGE):
            client = self.harness.get()
            self.upstream.last.respond(ok(body))
            self.assertEqual((client.answer, client.ended), (body, "finished"))
            self.nothing_is_left()
            self.harness.clock.advance(11)

    def test_description(self) -> None:
        """Nor for a description that can't be written down."""
        self.cached()
        self.harness.cache._records._run = _busy
        self.harness.head(cache_control=b"no-cache")
        self.asks(1).respond(FakeResponse(200, {b"ETag": b'"v1"'}, b"", length=0, claimed=1024))
        self.nothing_is_left()


class ArmedKeysTests(SynchronousTestCase):
    """Writes to so many keys that a thread is asked."""

    BODY = b"<Delete>%s</Delete>" % b"".join(b"<Object><Key>k%d</Key></Object>" % number for number in range(12))

    def setUp(self) -> None:
        self.thread = ManualThread()
        self.harness = GatewayHarness(run=self.thread)
        self.addCleanup(self.harness.close)

    def upload(self) -> tuple[FakeClient, RecordingSink]:
        """All of the list has come."""
        client = self.harness.send(b"POST", b"/?delete", {}, self.BODY)
        sink = RecordingSink()
        source = self.harness.upstream.last.request.body
        assert source is not None
        source.start(sink)
        client.body.sink.data_received(self.BODY)
        client.body.sink.stream_ended()
        return client, sink

    def nothing_is_left(self) -> None:
        """No key stays armed."""
        self.assertEqual(self.harness.left_over(), [])
        self.assertEqual(self.harness.store.volume.live, set())

    def test_client_leaves_while_keys_are_armed(self) -> None:
        """What is armed when nobody waits any more is disarmed: S3 never got the last byte."""
        client, sink = self.upload()
        client.leave()
        self.thread.finish()
        self.assertEqual((sink.data, self.harness.events.invalidations), (b"", 0))
        self.nothing_is_left()

    def test_client_leaves_while_entries_are_dropped(self) -> None:
        """The entries are dropped all the same, and S3's answer is closed."""
        client, sink = self.upload()
        self.thread.finish()
        self.assertIs(sink.ended, True)
        response = self.harness.upstream.last.respond(FakeResponse(200, {}, b"<DeleteResult/>"))
        client.leave()
        self.assertTrue(response.aborted)
        self.thread.finish()
        self.nothing_is_left()

    def test_failed_invalidation_is_remembered(self) -> None:
        """Also when nobody waits for it: what the disk did not drop is not served."""
        cache = self.harness.cache
        client, _ = self.upload()
        self.thread.finish()
        self.harness.upstream.last.respond(FakeResponse(200, {}, b"<DeleteResult/>"))
        self.patch(cache._invalidation, "_invalidate_all", lambda arms: [False] * len(arms))
        self.thread._work = [(done, cache._invalidation._invalidate_all, args) for done, _, args in self.thread._work]
        client.leave()
        self.thread.finish()
        self.assertEqual(len(cache._invalidation._remembered), 12)

    def test_no_thread(self) -> None:
        """When no thread takes the work, it is done at once: a write never fails because of the cache."""
        self.harness.cache._invalidation._run = _busy
        client, sink = self.upload()
        self.assertIs(sink.ended, True)
        self.harness.upstream.last.respond(FakeResponse(200, {}, b"<DeleteResult/>"))
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.assertEqual(self.harness.events.invalidations, 12)
        self.nothing_is_left()


class FaultTests(LeftoverTestCase):
    """Faults in the proxy itself."""

    def test_cache_raises(self) -> None:
        """An answer that the cache chokes on is passed on to its client, and nobody waits for ever."""

        def choke(*args: object, **kwargs: object) -> None:
            raise ValueError("not foreseen")

        self.patch(self.harness.cache.admission, "receive", choke)
        leader, follower = self.harness.get(), self.harness.get()
        self.asks(1).respond(ok())
        self.served(leader, b"MISS")
        self.asks(2).respond(ok())
        self.served(follower, b"MISS")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.nothing_is_left()

    def test_answer_that_cannot_be_sent(self) -> None:
        """When S3's head can't be given to the client, S3's answer is closed."""
        client = FakeClient(b"GET", b"/?list-type=2")

        def refuse(*args: object) -> None:
            raise ValueError("CR in a field")

        client.start_response = refuse  # type: ignore[method-assign, assignment]
        done = self.harness.gateway.handle(client)
        response = FakeResponse(200, {}, None)
        self.asks(1).respond(response)
        self.assertTrue(response.aborted)
        self.successResultOf(done)
        self.assertEqual(client.ended, "aborted")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertEqual(len(self.harness.records), 1)
        self.nothing_is_left()
