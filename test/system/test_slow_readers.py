"""Many slow readers of a large object cost the running proxy next to no memory.

A hundred clients take 10 KB/s each, of an object of 64 MiB; with S3PROXY_TEST_LARGE=1 for longer.
"""

import selectors
import time

from twisted.trial.unittest import SynchronousTestCase

from test.support.content import content
from test.support.raw_client import RawClient
from test.system.stage import LARGE_TESTS, MIB, Stage

READERS = 100
SIZE = 64 * MIB
RATE = 10_000
SECONDS = 20 if LARGE_TESTS else 3
GROWTH = 16 * MIB
TICK = 0.1


class Reader:
    """A client that has asked for the object, and looks at every byte it takes."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.taken = 0
        self.exact = client.read_head().status == 200

    def take(self, seed: int) -> None:
        """Its share of one tick."""
        data = self.client.read_some(int(RATE * TICK))
        self.exact = self.exact and bool(data) and data == content(seed, self.taken, self.taken + len(data))
        self.taken += len(data)


class SlowReaderTests(SynchronousTestCase):
    """One proxy, one large object."""

    def setUp(self) -> None:
        """Start, and serve as many quick clients at once: what is loaded and allocated for them is no growth."""
        self.stage = Stage()
        self.addCleanup(self.stage.stop)
        self.stage.put(b"first", 1, 2 * MIB)
        for _ in range(2):
            clients = [self.ask(b"first") for _ in range(READERS)]
            for client in clients:
                self.assertTrue(self.stage.finish(client, 1, 2 * MIB).exact)
                client.close()
        self.sockets = self.stage.sockets()
        self.stage.put(b"large", 2, SIZE)

    def ask(self, key: bytes, receive_buffer: int = 0) -> RawClient:
        """A client that has asked."""
        client = self.stage.connect(timeout=60, receive_buffer=receive_buffer)
        self.addCleanup(client.close)
        client.send(self.stage.request(b"GET", key))
        return client

    def growth(self) -> int:
        """By how much memory peaks above what was resident, while all of them read."""
        before = self.stage.reset_peak()
        clients = [self.ask(b"large", receive_buffer=16 << 10) for _ in range(READERS)]
        readers = [Reader(client) for client in clients]
        end = time.monotonic() + SECONDS
        with selectors.DefaultSelector() as pause:
            while time.monotonic() < end:
                began = time.monotonic()
                for reader in readers:
                    reader.take(2)
                pause.select(max(0.0, TICK - (time.monotonic() - began)))
        peak = self.stage.proxy.peak_rss()
        self.assertEqual([reader for reader in readers if not reader.exact], [])
        self.assertLess(max(reader.taken for reader in readers), 2 * RATE * SECONDS)
        for client in clients:
            client.abort()
        return peak - before

    def test_hit(self) -> None:
        """Out of the cache."""
        self.assertTrue(self.stage.read(b"large", 2, SIZE).exact)
        self.assertLess(self.growth(), GROWTH)
        self.stage.wait_idle(self.sockets)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_miss(self) -> None:
        """While it is being fetched, once for all of them; nobody's pace is that of the fetch."""
        self.assertLess(self.growth(), GROWTH)
        reads = self.stage.fake.requests.reads_with_body(b"large")
        self.assertEqual([(read.status, read.body_sent) for read in reads], [(200, SIZE)])
        self.stage.wait_idle(self.sockets)
        self.assertEqual(self.stage.read(b"large", 2, SIZE).x_cache, b"HIT")
        self.assertEqual(self.stage.tracebacks(), [])
