"""Two processes that have only the cache directory in common: what one gets, the other does not ask for."""

import os
import shutil
import tempfile
from test.gateway.test_gaps import ID, precondition_failed
from test.gateway.test_read import SIGNED_RANGE, error, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.followed import SILENCE
from s3proxy.cache.following import COMPANY, FLEET_WAIT
from s3proxy.gateway.elsewhere import asked_for, sought
from s3proxy.s3.parts import PartNumber
from s3proxy.s3.ranges import From, FromTo, Suffix
from s3proxy.storage.lease import WHOLE
from s3proxy.upstream.interfaces import UpstreamUnreachable

SMALL = bytes(range(256)) * 4
MIDDLE = os.urandom(1 << 20)
LARGE = os.urandom(9 << 20)
TICK = 0.005


class TwoProcesses(SynchronousTestCase):
    """Two proxies with one directory."""

    settings: dict[str, object] = {}

    def setUp(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        root = os.path.join(folder, "cache")
        self.first = GatewayHarness(root=root, **self.settings)  # type: ignore[arg-type]
        self.addCleanup(self.first.close)
        self.second = GatewayHarness(root=root, **self.settings)  # type: ignore[arg-type]
        self.addCleanup(self.second.close)
        self.both = (self.first, self.second)

    def pass_time(self, seconds: float, *, pulse: bool = True) -> None:
        """For both, in small steps; every second the first one gives a sign of life."""
        for number in range(1, round(seconds / TICK) + 1):
            for harness in self.both:
                harness.clock.advance(TICK)
            if pulse and number % round(1 / TICK) == 0:
                self.first.store.pulse()

    def asked(self, harness: GatewayHarness, count: int) -> None:
        """So many requests went to S3."""
        self.assertEqual(len(harness.upstream.asked), count)

    def begin(self, body: bytes, sent: int) -> tuple[FakeClient, FakeResponse]:
        """The first process has got so much of an object that S3 is sending."""
        client = self.first.get()
        response = self.first.upstream.last.respond(ok(None, length=len(body)))
        response.sink.data_received(body[:sent])
        return client, response

    def range_of(self, harness: GatewayHarness) -> tuple[int, int]:
        """The bytes that S3 was asked for last."""
        first, _, last = (harness.upstream.last.header(b"range") or b"").removeprefix(b"bytes=").partition(b"-")
        return int(first), int(last) + 1

    def served(self, client: FakeClient, body: bytes, outcome: bytes, status: int = 200) -> None:
        """The client got exactly this."""
        self.assertEqual((client.status, client.ended, client.header(b"x-cache")), (status, "finished", outcome))
        self.assertTrue(client.answer == body, f"{len(client.answer)} bytes")


class InlineTests(TwoProcesses):
    """Bodies that grow: those that become one file."""

    body = MIDDLE

    def test_grows(self) -> None:
        """Clients of the second process get what the first one has, at once, and the rest as it comes."""
        body = self.body
        client, response = self.begin(body, 400_000)
        follower = self.second.get()
        self.assertTrue(399_000 < len(follower.answer) <= 400_000)
        self.assertEqual((follower.status, follower.header(b"x-cache")), (200, b"COALESCED"))
        self.assertEqual((follower.header(b"etag"), follower.header(b"content-type")), (b'"v1"', b"text/plain"))
        response.sink.data_received(body[400_000:600_000])
        self.pass_time(0.05)
        late = self.second.get()
        middle = self.second.get(range=b"bytes=500000-599999", authorization=SIGNED_RANGE)
        for each in (follower, late):
            self.assertTrue(599_000 < len(each.answer) <= 600_000)
        response.sink.data_received(body[600_000:])
        response.sink.stream_ended()
        self.pass_time(0.05)
        self.served(client, body, b"MISS")
        self.served(follower, body, b"COALESCED")
        self.served(late, body, b"COALESCED")
        self.served(middle, body[500_000:600_000], b"COALESCED", 206)
        self.served(self.second.get(), body, b"HIT")
        self.asked(self.first, 1)
        self.asked(self.second, 0)
        self.assertEqual(self.second.left_over(), [])

    def test_dies(self) -> None:
        """The first process dies: the second one asks S3 for the rest, of the same version, once."""
        body = self.body
        self.begin(body, 400_000)
        followers = [self.second.get() for _ in range(3)]
        self.first.store.volume.instance.stop()
        self.pass_time(0.3, pulse=False)
        self.asked(self.second, 1)
        asked = self.second.upstream.last
        have = len(followers[0].answer)
        self.assertEqual(asked.header(b"range"), b"bytes=%d-%d" % (have, len(body) - 1))
        self.assertEqual(asked.header(b"if-match"), b'"v1"')
        asked.respond(part(have, len(body), body))
        for client in followers:
            self.served(client, body, b"COALESCED")
        self.asked(self.second, 1)

    def test_hangs(self) -> None:
        """The same when it gives no sign of life; what it brings when it goes on is of no consequence."""
        body = self.body
        client, response = self.begin(body, 400_000)
        follower = self.second.get()
        self.pass_time(SILENCE - 0.5, pulse=False)
        self.asked(self.second, 0)
        self.pass_time(1, pulse=False)
        self.asked(self.second, 1)
        self.second.upstream.last.respond(part(len(follower.answer), len(body), body))
        self.served(follower, body, b"COALESCED")
        response.sink.data_received(body[400_000:])
        response.sink.stream_ended()
        self.served(client, body, b"MISS")

    def test_slow(self) -> None:
        """It lives, and S3 lets it wait: so does everybody."""
        body = self.body
        _, response = self.begin(body, 400_000)
        follower = self.second.get()
        self.pass_time(3 * SILENCE)
        self.asked(self.second, 0)
        response.sink.data_received(body[400_000:])
        response.sink.stream_ended()
        self.pass_time(0.1)
        self.served(follower, body, b"COALESCED")

    def test_changed_meanwhile(self) -> None:
        """The first process dies, and S3 has another version: the answer that has begun is cut off."""
        self.begin(self.body, 400_000)
        follower = self.second.get()
        self.first.store.volume.instance.stop()
        self.pass_time(0.3, pulse=False)
        self.second.upstream.last.respond(precondition_failed())
        self.assertEqual(follower.ended, "aborted")

    def test_breaks_off(self) -> None:
        """S3 breaks off: the first process asks for the rest, and the second waits for that."""
        body = self.body
        client, response = self.begin(body, 700_000)
        follower = self.second.get()
        response.sink.stream_failed(Failure(UpstreamUnreachable("reset")))
        self.pass_time(0.1)
        self.asked(self.first, 2)
        start, _ = self.range_of(self.first)
        self.first.upstream.last.respond(part(start, len(body), body))
        self.pass_time(0.1)
        if self.second.upstream.asked:
            # The last bytes before the break can't be told from a footer.
            self.asked(self.second, 1)
            start, stop = self.range_of(self.second)
            self.assertLess(stop - start, 1000)
            self.second.upstream.last.respond(part(start, stop, body))
        self.pass_time(0.1)
        self.served(client, body, b"MISS")
        self.served(follower, body, b"COALESCED")

    def test_object_is_written(self) -> None:
        """After a write nobody is given what was asked for before it; who has begun gets it to its end."""
        body = self.body
        _, response = self.begin(body, 400_000)
        follower = self.second.get()
        self.second.send(b"DELETE", b"/key")
        self.second.upstream.last.respond(FakeResponse(204, {}, b""))
        asked = len(self.second.upstream.asked)
        fresh = self.second.get()
        self.asked(self.second, asked + 1)
        self.second.upstream.last.respond(ok(SMALL, b'"v2"'))
        self.served(fresh, SMALL, b"MISS")
        response.sink.data_received(body[400_000:])
        response.sink.stream_ended()
        self.pass_time(0.1)
        self.served(follower, body, b"COALESCED")
        self.served(self.second.get(), SMALL, b"HIT")


class RangesTests(InlineTests):
    """The same for those that become ranges, and what is special about these."""

    body = LARGE

    def test_parallel_ranges(self) -> None:
        """Ranges that the first process has asked for together with the one that it gets first: they are waited for
        as well.
        """
        headers = {"authorization": SIGNED_RANGE}
        ours = [self.first.get(range=b"bytes=%d-%d" % (at, at + 99_999), **headers) for at in (0, 100_000, 200_000)]
        self.first.upstream.asked[0].respond(part(0, 100_000, LARGE))
        self.served(ours[0], LARGE[:100_000], b"MISS", 206)
        theirs = [self.second.get(range=b"bytes=%d-%d" % (at, at + 99_999), **headers) for at in (100_000, 200_000)]
        self.pass_time(0.1)
        self.asked(self.second, 0)
        self.first.upstream.asked[1].respond(part(100_000, 200_000, LARGE))
        self.first.upstream.asked[2].respond(error(403, b"AccessDenied"))
        self.pass_time(0.1)
        self.served(theirs[0], LARGE[100_000:200_000], b"COALESCED", 206)
        self.assertEqual(ours[2].status, 403)
        self.asked(self.second, 1)
        self.second.upstream.last.respond(part(200_000, 300_000, LARGE))
        self.served(theirs[1], LARGE[200_000:300_000], b"COALESCED", 206)

    def test_other_ranges(self) -> None:
        """Who wants other bytes waits for the entry, so that they can be kept, but not for long."""
        headers = {"authorization": SIGNED_RANGE}
        self.first.get(range=b"bytes=0-99999", **headers)
        other = self.second.get(range=b"bytes=500000-599999", **headers)
        self.pass_time(0.1)
        self.asked(self.second, 0)
        self.first.upstream.last.respond(part(0, 100_000, LARGE))
        self.pass_time(0.03)
        self.asked(self.second, 1)
        self.second.upstream.last.respond(part(500_000, 600_000, LARGE))
        self.served(other, LARGE[500_000:600_000], b"MISS", 206)
        self.served(self.second.get(range=b"bytes=0-99999", **headers), LARGE[:100_000], b"HIT", 206)

    def test_other_ranges_in_vain(self) -> None:
        """S3 answers the first process too late for that."""
        headers = {"authorization": SIGNED_RANGE}
        self.first.get(range=b"bytes=0-99999", **headers)
        other = self.second.get(range=b"bytes=500000-599999", **headers)
        self.pass_time(COMPANY + 0.05)
        self.asked(self.second, 1)
        self.second.upstream.last.respond(part(500_000, 600_000, LARGE))
        self.served(other, LARGE[500_000:600_000], b"MISS", 206)

    def test_what_the_other_has_published(self) -> None:
        """Ranges that the first process has got since the second one has listed them are found."""
        headers = {"authorization": SIGNED_RANGE}
        for at in (0, 100_000):
            self.first.get(range=b"bytes=%d-%d" % (at, at + 99_999), **headers)
            self.first.upstream.last.respond(part(at, at + 100_000, LARGE))
            client = self.second.get(range=b"bytes=%d-%d" % (at, at + 99_999), **headers)
            self.served(client, LARGE[at : at + 100_000], b"HIT", 206)
        self.asked(self.second, 0)

    def test_salvage(self) -> None:
        """What a process that has died had got stays in the cache."""
        self.begin(LARGE, 400_000)
        self.second.get()
        self.first.store.volume.instance.stop()
        self.pass_time(0.3, pulse=False)
        self.second.upstream.last.fail(UpstreamUnreachable("refused"))
        client = self.second.get(range=b"bytes=0-399000", authorization=SIGNED_RANGE)
        self.served(client, LARGE[:399_001], b"HIT", 206)


class WaitingTests(TwoProcesses):
    """Before there is a body."""

    def test_small(self) -> None:
        """A small object is waited for until it is published."""
        client = self.first.get()
        followers = [self.second.get() for _ in range(5)]
        self.pass_time(0.5)
        self.asked(self.second, 0)
        self.first.upstream.last.respond(ok(SMALL))
        self.pass_time(0.03)
        self.served(client, SMALL, b"MISS")
        for follower in followers:
            self.served(follower, SMALL, b"COALESCED")
        self.asked(self.second, 0)
        self.assertEqual(self.second.records[0].wait_seconds and round(self.second.records[0].wait_seconds, 1), 0.5)

    def test_not_for_ever(self) -> None:
        """After a while the second process asks, once for all its clients, and what it gets is kept."""
        slow = self.first.get()
        followers = [self.second.get() for _ in range(5)]
        self.pass_time(FLEET_WAIT + 0.1)
        self.asked(self.second, 1)
        self.second.upstream.last.respond(ok(SMALL, b'"v2"'))
        for follower in followers:
            self.assertEqual((follower.status, follower.answer), (200, SMALL))
        self.first.upstream.last.respond(ok(SMALL))
        self.served(slow, SMALL, b"MISS")
        self.assertEqual(self.second.get().header(b"etag"), b'"v2"', "and not what came later")
        self.asked(self.second, 1)

    def test_refused(self) -> None:
        """What S3 says to a client of the first process is not for those of the second."""
        for status in (403, 404, 503):
            with self.subTest(status=status):
                asked = len(self.second.upstream.asked)
                refused = self.first.get()
                follower = self.second.get()
                self.pass_time(0.05)
                self.first.upstream.last.respond(error(status, b"Refused"))
                self.pass_time(0.03)
                self.assertEqual(refused.status, status)
                self.asked(self.second, asked + 1)
                self.second.upstream.last.respond(error(404, b"NoSuchKey"))
                self.assertEqual(follower.status, 404)

    def test_dies(self) -> None:
        """The first process dies before S3 has answered."""
        self.first.get()
        follower = self.second.get()
        self.pass_time(0.05)
        self.asked(self.second, 0)
        self.first.store.volume.instance.stop()
        self.pass_time(0.3, pulse=False)
        self.asked(self.second, 1)
        self.second.upstream.last.respond(ok(SMALL))
        self.served(follower, SMALL, b"MISS")
        self.served(self.second.get(), SMALL, b"HIT")

    def test_leaves(self) -> None:
        """A client that waits leaves: nothing goes on for it."""
        self.first.get()
        self.second.get().leave()
        self.assertEqual(self.second.clock.getDelayedCalls(), [])
        self.asked(self.second, 0)

    def test_both_at_once(self) -> None:
        """Both looked and found nothing, and one of them is a moment earlier: the other waits all the same."""
        waiting = self.second.store.flight
        hidden = [None]
        self.patch(self.second.store, "flight", lambda name: hidden.pop() if hidden else waiting(name))
        self.first.get()
        follower = self.second.get()
        self.asked(self.second, 0)
        self.first.upstream.last.respond(ok(SMALL))
        self.pass_time(0.03)
        self.served(follower, SMALL, b"COALESCED")

    def test_published_at_that_moment(self) -> None:
        """The same when the other one has published it by then."""
        view = self.second.cache.view

        async def late_view(*args: object, **more: object) -> object:
            found = await view(*args, **more)  # type: ignore[arg-type]
            if not self.first.upstream.asked:
                self.first.get()
                self.first.upstream.last.respond(ok(SMALL))
            return found

        self.patch(self.second.cache, "view", late_view)
        self.served(self.second.get(), SMALL, b"HIT")
        self.asked(self.second, 0)

    def test_expired(self) -> None:
        """Of an expired entry S3 is asked once, and what it says counts for both."""
        self.first.get()
        self.first.upstream.last.respond(ok(SMALL))
        self.served(self.second.get(), SMALL, b"HIT")
        self.pass_time(0.1)
        for harness in self.both:
            harness.clock.advance(61)
        client = self.first.get()
        follower = self.second.get()
        self.asked(self.second, 0)
        self.first.upstream.last.respond(not_modified())
        self.pass_time(0.03)
        self.served(client, SMALL, b"REVALIDATED")
        self.served(follower, SMALL, b"COALESCED")
        self.asked(self.second, 0)

    def test_a_head_is_not_waited_for(self) -> None:
        """Nor is a write, or S3's own answer."""
        self.first.head()
        self.second.get()
        self.asked(self.second, 1)

    def test_disk_fails(self) -> None:
        """When it can't be told what others do, S3 is asked."""

        def fail(*args: object) -> None:
            raise OSError(5, "broken")

        self.first.get()
        self.patch(self.second.store, "flight", fail)
        client = self.second.get()
        self.asked(self.second, 1)
        self.second.upstream.last.respond(ok(SMALL))
        self.assertEqual(client.answer, SMALL)


class AlwaysAskTests(TwoProcesses):
    """Every request needs S3's permission."""

    settings = {"get_ttl": 0.0}

    def test_permission(self) -> None:
        """Each client asks for itself, without a body that is on its way; and gets no byte if S3 refuses."""
        for body in (MIDDLE, LARGE):
            with self.subTest(size=len(body)):
                for harness in self.both:
                    harness.cache.drop(ID)
                    harness.upstream.asked.clear()
                _, response = self.begin(body, 400_000)
                allowed, refused = self.second.get(), self.second.get()
                self.asked(self.second, 2)
                for asked in self.second.upstream.asked:
                    self.assertEqual(asked.header(b"if-none-match"), b'"v1"')
                self.second.upstream.asked[1].respond(error(403, b"AccessDenied"))
                self.assertEqual((refused.status, len(refused.answer) < 1000), (403, True))
                self.assertIsNone(allowed.status)
                self.second.upstream.asked[0].respond(not_modified())
                response.sink.data_received(body[400_000:])
                response.sink.stream_ended()
                self.pass_time(0.05)
                self.served(allowed, body, b"REVALIDATED")
                self.asked(self.second, 2)

    def test_before_the_answer(self) -> None:
        """Who waits for a body asks as soon as there is a version to ask about."""
        self.first.get()
        follower = self.second.get()
        self.pass_time(0.1)
        self.asked(self.second, 0)
        response = self.first.upstream.last.respond(ok(None, length=len(MIDDLE)))
        response.sink.data_received(MIDDLE)
        self.pass_time(0.03)
        self.asked(self.second, 1)
        self.assertEqual(self.second.upstream.last.header(b"if-none-match"), b'"v1"')
        response.sink.stream_ended()
        self.second.upstream.last.respond(not_modified())
        self.pass_time(0.03)
        self.served(follower, MIDDLE, b"REVALIDATED")


class ScopeTests(SynchronousTestCase):
    """What serves what."""

    def test_served_by(self) -> None:
        """Whether a request's answer will have the bytes, as far as can be told before there is one."""
        whole, part_of = WHOLE, (100, 200)
        for wanted, interval, by_whole, by_part in (
            (None, None, True, False),
            (FromTo(100, 199), None, True, True),
            (FromTo(100, 200), None, True, False),
            (From(150), None, True, False),
            (Suffix(10), None, True, False),
            (PartNumber(1), None, False, False),
            (PartNumber(1), (120, 130), True, True),
            (None, (0, 1000), True, False),
        ):
            found = sought(wanted, interval)
            self.assertEqual(
                (found.served_by(whole), found.served_by(part_of)), (by_whole, by_part), (wanted, interval)
            )
        self.assertEqual(asked_for(From(5)), (5, WHOLE[1]))
        self.assertTrue(sought(From(7), None).served_by((5, WHOLE[1])))
        self.assertIsNone(asked_for(Suffix(5)))
