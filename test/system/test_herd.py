"""Many clients ask for one cold object at once: S3 is asked once, and everybody gets every byte unharmed."""

import threading
import time
from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from test.support.content import content
from test.support.fake_script import Action, Match
from test.support.raw_client import RawClient
from test.support.waiting import poll
from test.system.stage import MIB, Reading, Stage, at_once

CLIENTS = 50
LARGE = 64 * MIB
MIDDLE = 16 * MIB
SMALL = 10_000
AT_ONCE = 2.0
"""Seconds in which the first byte of what is there must reach a client, on a busy machine."""


class HerdTests(SynchronousTestCase):
    """One proxy with an empty cache."""

    def setUp(self) -> None:
        """Start the proxy."""
        self.stage = Stage()
        self.addCleanup(self.stage.stop)
        self.sockets = self.stage.sockets()

    def assert_exact(self, readings: list[Reading]) -> None:
        """Everybody has every byte."""
        wrong = [reading for reading in readings if not reading.exact]
        self.assertEqual(wrong, [])

    def assert_asked_once(self, key: bytes) -> None:
        """S3 sent the object once."""
        reads = self.stage.fake.requests.reads_with_body(key)
        self.assertEqual([(read.method, read.status) for read in reads], [(b"GET", 200)])

    def begin(self, key: bytes) -> RawClient:
        """A client that has asked and has the head of its answer to read."""
        client = self.stage.connect(timeout=60)
        self.addCleanup(client.close)
        client.send(self.stage.request(b"GET", key))
        return client

    def test_large(self) -> None:
        """One upstream GET. While S3 holds the second half back, everybody gets the first one at once, also those who
        come late; afterwards the object is a hit.
        """
        self.stage.put(b"large", 1, LARGE)
        script = self.stage.fake.script(Match(key=b"large", operation="GetObject"), Action(stall_after=LARGE // 2))
        at_half = threading.Semaphore(0)
        first_bytes: list[float] = []

        def client() -> bool:
            began = time.monotonic()
            with self.begin(b"large") as connection:
                exact = connection.read_head().status == 200
                at = 0
                while at < LARGE:
                    data = connection.read_some(min(MIB, LARGE // 2 - at if at < LARGE // 2 else MIB))
                    if not data:
                        return False
                    if at == 0:
                        first_bytes.append(time.monotonic() - began)
                    exact = exact and data == content(1, at, at + len(data))
                    at += len(data)
                    if at == LARGE // 2:
                        at_half.release()
                return exact

        def conductor() -> bool:
            for _ in range(CLIENTS):
                if not at_half.acquire(timeout=60):
                    return False
            # Everybody has the first half, and S3 waits: who comes now is late.
            late = [self.begin(b"large") for _ in range(5)]
            for connection in late:
                began = time.monotonic()
                connection.read_head()
                if connection.read_exactly(4096) != content(1, 0, 4096) or time.monotonic() - began > AT_ONCE:
                    return False
            held = script.held
            script.release()
            for connection in late:
                connection.read_exactly(LARGE - 4096)
                connection.close()
            return held == 1

        clients: list[Callable[[], bool]] = [client] * CLIENTS
        results = at_once([conductor, *clients], 90)
        self.assertEqual(results, [True] * (CLIENTS + 1))
        self.assert_asked_once(b"large")
        self.assertEqual(self.stage.read(b"large", 1, LARGE).x_cache, b"HIT")
        self.assert_asked_once(b"large")
        self.stage.wait_idle(self.sockets)

    def test_small(self) -> None:
        """The same for an object that fits into one packet or two."""
        self.stage.put(b"small", 2, SMALL)
        script = self.stage.fake.script(Match(key=b"small", operation="GetObject"), Action(hold=True))
        clients = [self.begin(b"small") for _ in range(CLIENTS)]
        poll(
            lambda: self.stage.proxy.metric("s3proxy_http_requests_in_flight") == CLIENTS, 10, "all requests to arrive"
        )
        poll(lambda: script.held == 1, 10, "S3 to be asked")
        script.release()
        self.assert_exact([self.stage.finish(client, 2, SMALL) for client in clients])
        self.assert_asked_once(b"small")

    def test_first_client_disconnects(self) -> None:
        """The fetch doesn't belong to the client that began it: when that one leaves, the others get the rest of the
        same answer.
        """
        self.stage.put(b"middle", 3, MIDDLE)
        script = self.stage.fake.script(Match(key=b"middle", operation="GetObject"), Action(stall_after=MIB))
        first = self.begin(b"middle")
        first.read_head()
        first.read_exactly(4096)
        others = [self.begin(b"middle") for _ in range(CLIENTS - 1)]
        poll(lambda: self.stage.proxy.metric("s3proxy_http_requests_in_flight") == CLIENTS, 10, "all to ask")
        first.abort()
        poll(lambda: self.stage.proxy.metric("s3proxy_http_requests_in_flight") < CLIENTS, 10, "the first to be gone")
        script.release()
        self.assert_exact(at_once([partial(self.stage.finish, client, 3, MIDDLE) for client in others]))
        for client in others:
            client.close()
        self.assert_asked_once(b"middle")
        self.stage.wait_idle(self.sockets)

    def test_first_client_disconnects_before_the_answer(self) -> None:
        """The same when S3 has not even begun to answer."""
        self.stage.put(b"waited-for", 4, SMALL)
        script = self.stage.fake.script(Match(key=b"waited-for", operation="GetObject"), Action(hold=True))
        first = self.begin(b"waited-for")
        poll(lambda: script.held == 1, 10, "S3 to be asked")
        others = [self.begin(b"waited-for") for _ in range(CLIENTS - 1)]
        poll(lambda: self.stage.proxy.metric("s3proxy_http_requests_in_flight") == CLIENTS, 10, "all to ask")
        first.abort()
        poll(lambda: self.stage.proxy.metric("s3proxy_http_requests_in_flight") < CLIENTS, 10, "the first to be gone")
        script.release()
        self.assert_exact([self.stage.finish(client, 4, SMALL) for client in others])
        self.assert_asked_once(b"waited-for")

    def test_upstream_resets_once(self) -> None:
        """S3's connection breaks in the middle: everybody is served to the last byte all the same, and S3 sends the
        bytes that were missing once, not once for each client.
        """
        for key, size, broken_at in ((b"broken", MIDDLE, MIDDLE // 2), (b"broken-inline", 4 * MIB, 3 * MIB)):
            self.stage.put(key, 5, size)
            self.stage.fake.script(Match(key=key, operation="GetObject"), Action(reset_after=broken_at))
            self.assert_exact(at_once([partial(self.stage.read, key, 5, size) for _ in range(CLIENTS)], 90))
            reads = self.stage.fake.requests.reads_with_body(key)
            self.assertLessEqual(len(reads), 3, [(read.status, read.body_sent) for read in reads])
            self.assertLess(self.stage.fake.requests.object_bytes(key), 3 * size)
            self.stage.wait_idle(self.sockets)
            self.assertTrue(self.stage.read(key, 5, size).exact)
            self.assertEqual(self.stage.cache_state(), ("healthy", ""))
