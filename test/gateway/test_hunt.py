"""Hunt."""

import errno
import os
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.diskio import DiskBusy
from s3proxy.upstream.interfaces import UpstreamError, UpstreamUnreachable
from test.gateway.test_forward import ForwardTestCase
from test.gateway.test_read import BODY, ReadTestCase, error, not_modified, ok, part
from test.support.gateway import FakeResponse, GatewayHarness
from test.support.streams import ManualThread, RecordingSink

BROKEN = Failure(UpstreamError("reset", sent=True))


class Leaks(ReadTestCase):
    def quiet(self) -> None:
        self.assertEqual(self.harness.left_over(), [])
        self.assertEqual(self.harness.cache._flights, {})
        self.assertEqual(len(self.harness.store.volume.live), 0)

    def test_small_broken(self) -> None:
        client = self.harness.get()
        r = self.asks(1).respond(ok(None, length=1000))
        r.sink.data_received(b"x")
        r.sink.stream_failed(BROKEN)
        while client.ended is None:
            self.upstream.last.fail(UpstreamUnreachable("down"))
        self.quiet()

    def test_large_broken_before_first_byte(self) -> None:
        client = self.harness.get()
        r = self.asks(1).respond(ok(None, length=200_000))
        r.sink.stream_failed(BROKEN)
        while client.ended is None:
            self.upstream.last.fail(UpstreamUnreachable("down"))
        self.quiet()

    def test_wrong_checksum_in_one_piece(self) -> None:
        body = b"x" * 100_000
        client = self.harness.get()
        self.asks(1).respond(ok(body, x_amz_checksum_crc32=b"AAAAAA=="))
        self.assertEqual(client.ended, "aborted")
        self.quiet()

    def test_small_wrong_checksum(self) -> None:
        client = self.harness.get()
        self.asks(1).respond(ok(BODY, x_amz_checksum_crc32=b"AAAAAA=="))
        self.assertEqual(client.ended, "aborted")
        self.quiet()

    def test_leader_left_refused_follower(self) -> None:
        """G"""

    def test_refetch_finds_new_version_large(self) -> None:
        body = b"0123456789" * 20_000
        client = self.harness.get()
        r = self.asks(1).respond(ok(None, length=len(body)))
        r.sink.data_received(body[:1000])
        r.sink.stream_failed(BROKEN)
        r2 = part(1000, len(body), body.swapcase(), b'"v2"', deliver=False)
        self.asks(2).respond(r2)
        self.assertEqual(client.ended, "aborted")
        if r2.sink is not None and not r2.aborted:
            r2.sink.data_received(body[1000:])
            r2.sink.stream_ended()
        self.quiet()

    def test_busy_threads_small(self) -> None:
        busy = {"on": False}
        from test.support.streams import run_at_once

        def run(function: Any, *args: Any) -> Any:
            if busy["on"]:
                return fail(DiskBusy(errno.EAGAIN, "busy"))
            return run_at_once(function, *args)

        self.harness.cache._run = run
        busy["on"] = True
        client = self.harness.get()
        self.asks(1).respond(ok())
        self.assertEqual(client.answer, BODY)
        self.quiet()
        client = self.harness.get(b"/large")
        self.upstream.last.respond(ok(b"x" * 100_000))
        self.assertEqual(len(client.answer), 100_000)
        self.quiet()

    def test_busy_threads_describe(self) -> None:
        self.cached()
        self.harness.cache._run = lambda *a: fail(DiskBusy(errno.EAGAIN, "busy"))
        self.harness.clock.advance(61)
        self.harness.head(cache_control=b"no-cache")
        self.asks(1).respond(FakeResponse(200, {b"ETag": b'"v1"', b"x-amz-meta-new": b"1"}, b"", length=0, claimed=1024))
        self.quiet()


class NoReaders(ReadTestCase):
    settings = {"get_ttl": 0.0, "head_ttl": 0.0}

    def test_nobody_reads(self) -> None:
        leader = self.harness.get()
        follower = self.harness.get()
        leader.leave()
        r = self.asks(1).respond(ok(None, length=100_000_000))
        self.asks(2).respond(error(403, b"AccessDenied"))
        self.assertEqual(follower.status, 403)
        self.assertTrue(r.aborted)
        self.assertEqual(self.harness.cache._flights, {})
        self.assertEqual(self.harness.left_over(), [])


class Joins(ReadTestCase):
    def test_many_readers_while_armed(self) -> None:
        self.cached()
        self.harness.send(b"DELETE", b"/key")
        clients = [self.harness.get() for _ in range(30)]
        answered = 1
        while answered < len(self.upstream.asked):
            self.upstream.asked[answered].respond(not_modified())
            answered += 1
        self.assertEqual({c.status for c in clients}, {200})
        self.assertEqual({c.answer for c in clients}, {BODY})

    def test_many_readers_slow_s3(self) -> None:
        """TTL passes while waiting."""
        self.cached()
        self.harness.clock.advance(61)
        clients = [self.harness.get() for _ in range(30)]
        answered = 0
        while answered < len(self.upstream.asked):
            self.harness.clock.advance(61)
            self.upstream.asked[answered].respond(not_modified())
            answered += 1
        self.assertEqual({c.status for c in clients}, {200})

    def test_many_readers_slow_s3_cold(self) -> None:
        clients = [self.harness.get() for _ in range(30)]
        answered = 0
        while answered < len(self.upstream.asked):
            self.harness.clock.advance(61)
            q = self.upstream.asked[answered]
            q.respond(not_modified() if q.header(b"if-none-match") else ok())
            answered += 1
        self.assertEqual({c.status for c in clients}, {200})

    def test_get_does_not_wait_for_head(self) -> None:
        self.harness.head()
        self.harness.get()
        self.asks(2)

    def test_late_reader_of_many_files(self) -> None:
        self.harness.store.cut = 100_000
        self.harness.store.inline_max = 0
        body = os.urandom(1_000_000)
        first = self.harness.get()
        r = self.asks(1).respond(ok(None, length=len(body)))
        for start in range(0, 700_000, 50_000):
            r.sink.data_received(body[start : start + 50_000])
            self.harness.clock.advance(1)
        late = self.harness.get()
        self.assertEqual(late.answer, body[:700_000])
        r.sink.data_received(body[700_000:])
        r.sink.stream_ended()
        self.harness.clock.advance(1)
        self.assertEqual((first.answer, first.ended), (body, "finished"))
        self.assertEqual((late.answer, late.ended), (body, "finished"))
        self.asks(1)

    def test_write_during_a_long_fill_is_no_disk_error(self) -> None:
        self.harness.store.cut = 100_000
        self.harness.store.inline_max = 0
        body = os.urandom(500_000)
        client = self.harness.get()
        r = self.asks(1).respond(ok(None, length=len(body)))
        r.sink.data_received(body[:50_000])
        self.harness.send(b"DELETE", b"/key")
        self.asks(2).respond(FakeResponse(204))
        r.sink.data_received(body[50_000:])
        r.sink.stream_ended()
        self.harness.clock.advance(1)
        self.assertEqual((client.answer, client.ended), (body, "finished"))
        self.assertEqual(self.harness.events.errors, [])
        self.harness.store.volume.empty_trash()
        self.assertEqual(self.harness.left_over(), [])

    def test_late_reader_between(self) -> None:
        self.harness.store.cut = 100_000
        self.harness.store.inline_max = 0
        body = os.urandom(3_000_000)
        first = self.harness.get()
        r = self.asks(1).respond(ok(None, length=len(body)))
        clients = [first]
        stalled = None
        for start in range(0, 2_900_000, 50_000):
            r.sink.data_received(body[start : start + 50_000])
            self.harness.clock.advance(0.1)
            if start % 200_000 == 0:
                clients.append(self.harness.get())
            if start == 300_000:
                stalled = self.harness.send(b"GET", b"/key")
                stalled.stalled = True
        r.sink.data_received(body[2_900_000:])
        r.sink.stream_ended()
        self.harness.clock.advance(1)
        while stalled._waiting: 
            stalled.unstall()
        clients.append(stalled)
        for c in clients:
            self.assertEqual((c.answer == body, c.ended), (True, "finished"))
        self.asks(1)
        self.assertEqual(self.harness.left_over(), [])

    def test_judge_raises(self) -> None:
        def boom(*a: Any, **k: Any) -> Any:
            raise ValueError("boom")

        self.harness.cache.receive = boom  # type: ignore
        client = self.harness.get()
        other = self.harness.get()
        r = ok()
        self.asks(1).respond(r)
        self.flushLoggedErrors(ValueError)
        self.assertIsNotNone(client.ended)

    def test_open_fails(self) -> None:
        body = os.urandom(100_000)
        self.harness.get()
        self.asks(1).respond(ok(body))
        def boom(*a: Any) -> Any:
            raise OSError(errno.EMFILE, "too many")
        self.harness.store.open_inline = boom  # type: ignore
        client = self.harness.get()
        self.upstream.last.respond if len(self.upstream.asked) == 1 else self.upstream.last.respond(part(0, len(body), body))
        self.assertEqual((client.answer, client.ended), (body, "finished"))


    def test_weak(self) -> None:
        self.harness.get()
        self.asks(1).respond(ok(etag=b'W/"v1"'))
        self.harness.get()
        self.asks(2)


class Stale(ReadTestCase):
    settings = {"stale_if_error": 3600.0}

    def test_abort_when_client_leaves(self) -> None:
        self.cached()
        self.harness.clock.advance(120)
        client = self.harness.send(b"GET", b"/key")
        client.stalled = True
        r = error(503, b"SlowDown")
        self.asks(1).respond(r)
        client.leave()
        self.assertTrue(r.aborted)


class Arms(SynchronousTestCase):
    def setUp(self) -> None:
        self.thread = ManualThread()
        self.harness = GatewayHarness(run=self.thread)
        self.addCleanup(self.harness.close)
        self.body = b"<Delete>%s</Delete>" % b"".join(
            b"<Object><Key>k%d</Key></Object>" % n for n in range(12)
        )

    def start(self) -> Any:
        client = self.harness.send(b"POST", b"/?delete", {}, self.body)
        sink = RecordingSink()
        source = self.harness.upstream.last.request.body
        source.start(sink)
        client.body.sink.data_received(self.body)
        client.body.sink.stream_ended()
        return client, sink, source

    def test_leaves_while_arming(self) -> None:
        client, sink, source = self.start()
        source.abort()
        client.leave()
        self.thread.finish()
        self.assertEqual(self.harness.left_over(), [])
        self.assertEqual(len(self.harness.store.volume.live), 0)

    def test_leaves_while_invalidating(self) -> None:
        client, sink, source = self.start()
        self.thread.finish()
        r = FakeResponse(200, {}, b"<DeleteResult/>")
        self.harness.upstream.last.respond(r)
        client.leave()
        self.assertTrue(r.aborted)
        self.thread.finish()
        self.assertEqual(self.harness.left_over(), [])

    def test_busy(self) -> None:
        self.harness.cache._invalidation._run = lambda *a: fail(DiskBusy(errno.EAGAIN, "busy"))
        client, sink, source = self.start()
        self.assertEqual(sink.ended, True)
        self.harness.upstream.last.respond(FakeResponse(200, {}, b"<DeleteResult/>"))
        self.assertEqual((client.status, client.ended), (200, "finished"))
        self.assertEqual(self.harness.left_over(), [])
