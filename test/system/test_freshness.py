"""What a change behind the proxy costs, and when it is seen: the real process, time passing."""

import time

from twisted.trial.unittest import SynchronousTestCase

from test.support.waiting import poll
from test.system.stage import MIB, Stage

TTL = 1.0
SIZE = 20 * MIB


class FreshnessTests(SynchronousTestCase):
    """get_ttl of one second."""

    def setUp(self) -> None:
        self.stage = Stage({"cache": {"get_ttl": f"{TTL:g}s", "head_ttl": f"{TTL:g}s"}})
        self.addCleanup(self.stage.stop)

    def reads(self) -> list[tuple[int, int]]:
        """Status and body bytes of what S3 answered since the last call."""
        found = [(asked.status, asked.body_sent) for asked in self.stage.fake.requests if asked.method == b"GET"]
        self.stage.fake.clear_requests()
        return found

    def expire(self) -> None:
        """Wait until what was read before is older than the TTL."""
        end = time.monotonic() + TTL + 0.2
        poll(lambda: time.monotonic() > end, TTL + 5, "the TTL to pass")

    def test_unchanged_object(self) -> None:
        """After the TTL an unchanged object costs one 304 without a body, then nothing until the next TTL."""
        self.stage.put(b"same", 1, SIZE)
        self.assertTrue(self.stage.read(b"same", 1, SIZE).exact)
        self.assertEqual(self.reads(), [(200, SIZE)])
        for _ in range(2):
            self.expire()
            again = self.stage.read(b"same", 1, SIZE)
            self.assertEqual((again.exact, again.x_cache), (True, b"REVALIDATED"))
            self.assertEqual(self.reads(), [(304, 0)])
            self.assertEqual(self.stage.read(b"same", 1, SIZE).x_cache, b"HIT")
            self.assertEqual(self.reads(), [])

    def test_overwritten_object(self) -> None:
        """An object that was overwritten behind the proxy is seen after the TTL, at the price of one request."""
        self.stage.put(b"changing", 1, SIZE)
        self.assertTrue(self.stage.read(b"changing", 1, SIZE).exact)
        self.stage.put(b"changing", 2, SIZE - 1)
        self.expire()
        self.reads()
        self.assertTrue(self.stage.read(b"changing", 2, SIZE - 1).exact)
        self.assertEqual(self.reads(), [(200, SIZE - 1)])
        hit = self.stage.read(b"changing", 2, SIZE - 1)
        self.assertEqual((hit.exact, hit.x_cache), (True, b"HIT"))

    def test_deleted_object(self) -> None:
        """An object that was deleted behind the proxy is gone after the TTL."""
        self.stage.put(b"going", 1, 1000)
        self.assertTrue(self.stage.read(b"going", 1, 1000).exact)
        self.stage.fake.delete_object(self.stage.bucket, b"going")
        self.expire()
        self.assertEqual(self.stage.ask(b"GET", b"going").status, 404)
        self.assertEqual(self.stage.ask(b"HEAD", b"going").status, 404)
