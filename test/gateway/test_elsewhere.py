"""Two processes that have only the cache directory in common: what one gets, the other does not ask for."""

import os
import shutil
import tempfile

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.followed import SILENCE
from s3proxy.cache.following import COMPANY, FLEET_WAIT
from s3proxy.gateway.elsewhere import asked_for, sought
from s3proxy.s3.parts import PartNumber
from s3proxy.s3.ranges import From, FromTo, Suffix
from s3proxy.storage.lease import WHOLE
from s3proxy.upstream.interfaces import UpstreamUnreachable
from test.gateway.test_read import SIGNED_RANGE, error, not_modified, ok, part
from test.support.gateway import FakeClient, FakeResponse, GatewayHarness

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

    def served(self, client: FakeClient, body: bytes, outcome: bytes, status: int = 200) -> None:
        """The client got exactly this."""
        self.assertEqual((client.status, client.ended, client.header(b"x-cache")), (status, "finished", outcome))
        self.assertTrue(client.answer == body, f"{len(client.answer)} bytes")


class FollowingTests(TwoProcesses):
    """Bodies that grow."""

    def test_grows(self) -> None:
        """Clients of the second process get what the first one has, at once, and the rest as it comes."""
        for number, body in enumerate((MIDDLE, LARGE)):
            with self.subTest(size=len(body)):
                for harness in self.both:
                    harness.cache.drop(harness.cache.asked.__self__ and self.id_of(harness))
                asked = [len(harness.upstream.asked) for harness in self.both]
                client, response = self.begin(body, 400_000)
                follower = self.second.get()
                self.assertTrue(390_000 < len(follower.answer) <= 400_000)
                self.assertEqual((follower.status, follower.header(b"x-cache")), (200, b"COALESCED"))
                self.assertEqual(follower.header(b"etag"), b'"v1"')
                self.assertEqual(follower.header(b"x-amz-meta-colour"), b"gr\xc3\xbcn")
                response.sink.data_received(body[400_000:600_000])
                self.pass_time(0.05)
                late = self.second.get()
                for each in (follower, late):
                    self.assertTrue(590_000 < len(each.answer) <= 600_000)
                response.sink.data_received(body[600_000:])
                response.sink.stream_ended()
                self.pass_time(0.05)
                self.served(client, body, b"MISS")
                self.served(follower, body, b"COALESCED")
                self.served(late, body, b"COALESCED")
                self.served(self.second.get(), body, b"HIT")
                self.asked(self.first, asked[0] + 1)
                self.asked(self.second, asked[1])
                self.assertEqual(number + 1, len(self.first.upstream.asked))

    def id_of(self, harness: GatewayHarness) -> object:
        """The object of these tests."""
        from test.gateway.test_gaps import ID

        return ID
