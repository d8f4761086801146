"""Large objects and slow clients cost the running proxy no memory, and nothing of them is left when they are gone.

The object has 64 MiB, or 300 MiB with S3PROXY_TEST_LARGE=1.
"""

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from test.support.fake_script import Action, Match
from test.support.raw_client import RawClient
from test.support.waiting import poll
from test.system.stage import LARGE_TESTS, MIB, Stage

SIZE = (300 if LARGE_TESTS else 64) * MIB
GROWTH = 48 * MIB
SLOW_RATE = 64 << 10
SLOW_SECONDS = 3


class MemoryTests(SynchronousTestCase):
    """One proxy, one large object."""

    def setUp(self) -> None:
        """Start, and serve a little first: what is loaded on the first request is no growth."""
        self.stage = Stage()
        self.addCleanup(self.stage.stop)
        self.stage.put(b"small", 1, 100_000)
        self.assertTrue(self.stage.read(b"small", 1, 100_000).exact)
        self.stage.upload(b"small", 1, 100_000)
        self.stage.put(b"large", 2, SIZE)
        self.sockets = self.stage.sockets()

    def growth(self, work: Callable[[], None]) -> int:
        """By how much memory peaks above what was resident before."""
        before = self.stage.reset_peak()
        work()
        return self.stage.proxy.peak_rss() - before

    def slow_client(self, request: bytes) -> RawClient:
        """A client that has asked, reads slowly for some seconds, and goes on waiting."""
        client = self.stage.connect(receive_buffer=16 << 10)
        self.addCleanup(client.close)
        client.send(request)
        self.assertEqual(client.read_head().status, 200)
        client.read_exactly(SLOW_SECONDS * SLOW_RATE, rate=SLOW_RATE)
        return client

    def test_miss_hit_upload(self) -> None:
        """A miss, a hit and an upload each keep the peak below the limit, and return everything that they took."""

        def read(outcome: bytes) -> None:
            reading = self.stage.read(b"large", 2, SIZE)
            self.assertTrue(reading.exact)
            self.assertEqual(reading.x_cache, outcome)

        def upload() -> None:
            self.assertEqual(self.stage.upload(b"uploaded", 3, SIZE).status, 200)

        self.assertLess(self.growth(lambda: read(b"MISS")), GROWTH)
        self.stage.wait_idle(self.sockets)
        self.assertLess(self.growth(lambda: read(b"HIT")), GROWTH)
        self.assertLess(self.growth(upload), GROWTH)
        self.assertTrue(self.stage.read(b"uploaded", 3, SIZE).exact)
        self.stage.wait_idle(self.sockets)

    def test_slow_client_of_a_miss(self) -> None:
        """A slow client doesn't slow the fetch down: all of the object is in the cache before it has much of it. When
        it aborts, everything is let go.
        """

        def work() -> None:
            client = self.slow_client(self.stage.request(b"GET", b"large"))
            poll(
                lambda: self.stage.proxy.metric("s3proxy_cache_size_bytes", tier="disk") > SIZE, 30, "the fetch to end"
            )
            client.abort()

        self.assertLess(self.growth(work), GROWTH)
        self.stage.wait_idle(self.sockets)
        self.assertEqual(self.stage.read(b"large", 2, SIZE).x_cache, b"HIT")

    def test_slow_client_of_an_uncached_answer(self) -> None:
        """What is not cached is fetched at the client's pace: S3 is paused, and nothing piles up. When the client
        aborts, the request to S3 ends, too.
        """

        def work() -> None:
            client = self.slow_client(self.stage.request(b"GET", b"large?response-content-type=text%2Fplain"))
            sent = self.stage.fake.requests.object_bytes(b"large")
            self.assertLess(sent, 24 * MIB, "S3 was not paused")
            client.abort()

        self.assertLess(self.growth(work), GROWTH)
        self.stage.wait_idle(self.sockets)
        poll(lambda: self.stage.fake.connection_counts()["open"] == 0, 10, "the connection to S3 to end")

    def test_first_byte_of_a_miss(self) -> None:
        """The client has all of the first MiB while S3 has not sent any of the second."""
        script = self.stage.fake.script(Match(key=b"large", operation="GetObject"), Action(stall_after=MIB))
        with self.stage.connect() as client:
            client.send(self.stage.request(b"GET", b"large"))
            self.assertEqual(client.read_head().status, 200)
            client.read_exactly(MIB)
            self.assertEqual(script.held, 1)
            self.assertEqual(self.stage.fake.requests.object_bytes(b"large"), MIB)
            script.release()
            client.read_exactly(SIZE - MIB)
