"""Many clients ask for one cold object through two proxies that have nothing but a cache directory in common: S3 sends
it once, and nobody notices when the proxy that gets it dies.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from test.support.content import content
from test.support.fake_script import Action, Match
from test.support.raw_client import ConnectionEnded, RawClient, RawResponse
from test.support.sigv4 import Credential
from test.support.waiting import poll
from test.system.stage import LARGE_TESTS, MIB, Reading, Stage, at_once, unfinished_files
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

CLIENTS = 50
SIZE = 20 * MIB
MANY, LARGE = (200, 100 * MIB) if LARGE_TESTS else (CLIENTS, SIZE)
MIDDLE = 4 * MIB
SMALL = 10_000
MOST = 1.05
"""Bytes that S3 may send for each byte of an object."""
FIRST_BYTE = 1.5
"""Seconds in which the first byte must come while S3 takes two for the body, on a busy machine."""


class SharedCase(SynchronousTestCase):
    """Two proxies with one empty cache directory."""

    def start(self, config: Mapping[str, Any] | None = None) -> None:
        """Start them, one after the other."""
        self.first = Stage(config)
        self.addCleanup(self.first.stop)
        self.second = Stage(config, start=False)
        self.addCleanup(self.second.stop)
        self.second.bucket = self.first.bucket
        self.second.proxy.configure({"cache": {"cache_dir": str(self.first.proxy.cache_dir)}})
        self.second.proxy.start()
        self.fake = self.first.fake
        self.both = (self.first, self.second)

    def tearDown(self) -> None:
        """No proxy met anything that it did not expect."""
        self.assertEqual([text for stage in self.both for text in stage.tracebacks()], [])

    def put(self, key: bytes, seed: int, size: int, **action: Any) -> Any:
        """An object; its next reads are answered as the action says."""
        self.first.put(key, seed, size)
        times = action.pop("times", 1)
        return self.fake.script(Match(key=key, operation="GetObject"), Action(**action), times) if action else None

    def begin(self, stage: Stage, key: bytes, **headers: bytes) -> RawClient:
        """A client of one of the proxies that has asked, and has the head of its answer to read."""
        client = stage.connect(timeout=60)
        self.addCleanup(client.close)
        client.send(stage.request(b"GET", key))
        return client

    def ratio(self, key: bytes, size: int) -> float:
        """How often S3 sent each byte, on average."""
        return float(self.fake.requests.object_bytes(key)) / size

    def herd(self, key: bytes, seed: int, size: int, clients: int = CLIENTS) -> list[Reading]:
        """What clients get that ask both proxies at once."""
        work: list[Callable[[], Reading]] = []
        for number in range(clients):
            work.append(partial(self.both[number % 2].read, key, seed, size, timeout=60))
        return at_once(work, 120)

    def assert_exact(self, readings: list[Reading]) -> None:
        """Everybody has every byte."""
        self.assertEqual([reading for reading in readings if not reading.exact], [])

    def assert_nothing_is_left(self) -> None:
        """No temporary file, no lease and no claim is in the directory once all is quiet."""
        poll(lambda: not unfinished_files(self.first.proxy.cache_dir), 10, "the directory to be in order")


class HerdTests(SharedCase):
    """All at once."""

    def setUp(self) -> None:
        """Start the proxies."""
        self.start()

    def test_large(self) -> None:
        """An object that becomes ranges, at the pace of its store."""
        self.put(b"large", 1, LARGE, rate=LARGE / 2)
        readings = self.herd(b"large", 1, LARGE, MANY)
        self.assert_exact(readings)
        self.assertLessEqual(self.ratio(b"large", LARGE), MOST)
        self.assertLess(max(reading.first_byte for reading in readings), FIRST_BYTE)
        self.assert_nothing_is_left()
        for stage in self.both:
            self.assertEqual(stage.read(b"large", 1, LARGE).x_cache, b"HIT")
        self.assertLessEqual(self.ratio(b"large", LARGE), MOST)

    def test_middle(self) -> None:
        """An object that becomes one file: it is read while the flight file grows."""
        self.put(b"middle", 2, MIDDLE, rate=MIDDLE / 2)
        readings = self.herd(b"middle", 2, MIDDLE)
        self.assert_exact(readings)
        self.assertLess(max(reading.first_byte for reading in readings), FIRST_BYTE)
        self.assertLessEqual(self.ratio(b"middle", MIDDLE), MOST)
        self.assert_nothing_is_left()

    def test_small(self) -> None:
        """An object that is in no file before it is complete: who asks the other proxy waits for that."""
        script = self.put(b"small", 3, SMALL, hold=True)
        clients = [self.begin(self.both[number % 2], b"small") for number in range(CLIENTS)]
        for stage in self.both:
            poll(partial(self.has_requests, stage, CLIENTS // 2), 10, "all requests to arrive")
        script.release()
        self.assert_exact([self.first.finish(client, 3, SMALL) for client in clients])
        self.assertEqual(self.ratio(b"small", SMALL), 1)
        self.assert_nothing_is_left()

    def has_requests(self, stage: Stage, count: int) -> bool:
        """Whether so many requests are with a proxy."""
        return stage.proxy.metric("s3proxy_http_requests_in_flight") == count

    def test_refused(self) -> None:
        """What S3 says to the client who asks first is meant for that one: a client of the other proxy gets the
        object.
        """
        stranger = Credential("AKIDSTRANGER", "secret")
        self.fake.add_credential(stranger)
        self.fake.deny(stranger.access_key)
        script = self.put(b"guarded", 4, SMALL, hold=True)
        self.first.fake.credential, known = stranger, self.first.fake.credential
        try:
            refused = self.begin(self.first, b"guarded")
        finally:
            self.first.fake.credential = known
        poll(lambda: script.held == 1, 10, "S3 to be asked")
        allowed = self.begin(self.second, b"guarded")
        poll(partial(self.has_requests, self.second, 1), 10, "the second request to arrive")
        script.release()
        self.assertEqual(refused.read_response(b"GET").status, 403)
        self.assert_exact([self.second.finish(allowed, 4, SMALL)])

    def test_slow_to_answer(self) -> None:
        """When S3 lets the first proxy wait for long, the other one asks, once, whatever number of clients it has."""
        script = self.put(b"late", 5, SMALL, hold=True)
        first = self.begin(self.first, b"late")
        poll(lambda: script.held == 1, 10, "S3 to be asked")
        readings = at_once([partial(self.second.read, b"late", 5, SMALL)] * 10)
        self.assert_exact(readings)
        self.assertEqual(self.ratio(b"late", SMALL), 1)
        script.release()
        self.assert_exact([self.first.finish(first, 5, SMALL)])
        self.assertEqual(self.second.read(b"late", 5, SMALL).x_cache, b"HIT")
        self.assert_nothing_is_left()

    def test_upstream_resets(self) -> None:
        """S3's connection breaks in the middle: everybody is served, and the rest comes once."""
        for key, size in ((b"broken", SIZE), (b"broken-inline", MIDDLE)):
            self.put(key, 6, size, reset_after=size * 3 // 4, rate=size)
            self.assert_exact(self.herd(key, 6, size, 20))
            self.assertLessEqual(self.ratio(key, size), 1.4)
        self.assert_nothing_is_left()


class RangesTests(SharedCase):
    """Clients that read an object in many ranges at once, as those of AWS do."""

    def setUp(self) -> None:
        """Start the proxies."""
        self.start()

    def read_range(self, stage: Stage, key: bytes, seed: int, start: int, stop: int) -> bool:
        """Whether a range, signed as it is, comes as it should."""
        answer = stage.ask(b"GET", key, headers=[(b"Range", b"bytes=%d-%d" % (start, stop - 1))], timeout=60)
        return answer.status == 206 and answer.body == content(seed, start, stop)

    def test_one_client(self) -> None:
        """Its connections lead to different proxies: each range is kept, whichever proxy gets it."""
        self.put(b"parts", 1, SIZE, rate=8 * MIB, times=None)
        step = 2 * MIB
        work = [
            partial(self.read_range, self.both[number % 2], b"parts", 1, number * step, (number + 1) * step)
            for number in range(SIZE // step)
        ]
        self.assertEqual(at_once(work), [True] * len(work))
        self.assertLessEqual(self.ratio(b"parts", SIZE), MOST)
        self.assert_nothing_is_left()
        for stage in self.both:
            self.assertEqual(stage.read(b"parts", 1, SIZE).x_cache, b"HIT")
        self.assertLessEqual(self.ratio(b"parts", SIZE), MOST)

    def test_many_clients(self) -> None:
        """Several clients read the same object so: S3 sends it once."""
        for key, delay in ((b"all-parts", 0.0), (b"all-parts-late", 0.2)):
            self.put(key, 2, SIZE, rate=8 * MIB, delay_head=delay, times=None)
            step = 2 * MIB
            work = [
                partial(self.read_range, self.both[client % 2], key, 2, number * step, (number + 1) * step)
                for number in range(SIZE // step)
                for client in range(6)
            ]
            self.assertEqual(at_once(work), [True] * len(work))
            self.assertLessEqual(self.ratio(key, SIZE), MOST)
        self.assert_nothing_is_left()


class TroubleTests(SharedCase):
    """A client of the first proxy has begun, S3 holds the second half back, and clients of the second proxy have the
    first half.
    """

    def setUp(self) -> None:
        """Start the proxies."""
        self.start()

    def begin_all(self, key: bytes, seed: int, size: int, clients: int = 10) -> tuple[Any, RawClient, list[RawClient]]:
        """The script, the client of the first proxy, and those of the second."""
        script = self.put(key, seed, size, stall_after=size // 2)
        leader = self.begin(self.first, key)
        self.assertEqual(leader.read_head().status, 200)
        leader.read_exactly(4096)
        followers = [self.begin(self.second, key) for _ in range(clients)]
        for client in followers:
            head = client.read_head()
            self.assertEqual((head.status, head.header(b"x-cache")), (200, b"COALESCED"))
            self.assertEqual(client.read_exactly(size // 4), content(seed, 0, size // 4))
        self.assertEqual(self.fake.requests.of("GetObject", key=key)[1:], [])
        return script, leader, followers

    def assert_rest(self, clients: list[RawClient], seed: int, size: int) -> None:
        """They get all that is missing, and it is right."""

        def rest(client: RawClient) -> bool:
            return client.read_exactly(size - size // 4) == content(seed, size // 4, size)

        self.assertEqual(at_once([partial(rest, client) for client in clients]), [True] * len(clients))

    def test_killed(self) -> None:
        """kill -9: the second proxy gets the rest itself, at once, and nobody notices."""
        for key, size in ((b"killed", SIZE), (b"killed-inline", MIDDLE)):
            script, _, followers = self.begin_all(key, 1, size)
            self.first.proxy.kill9()
            began = time.monotonic()
            self.assert_rest(followers, 1, size)
            self.assertLess(time.monotonic() - began, 4)
            script.release()
            reads = self.fake.requests.reads_with_body(key)
            self.assertEqual([read.status for read in reads], [200, 206])
            self.assertLessEqual(self.ratio(key, size), MOST)
            self.assertEqual(self.second.read(key, 1, size).exact, True)
            self.first.proxy.start()
        self.assert_nothing_is_left()

    def test_hung(self) -> None:
        """The same when it only stands still; what it does afterwards harms nobody."""
        for key, size in ((b"hung", SIZE), (b"hung-inline", MIDDLE)):
            script, leader, followers = self.begin_all(key, 2, size)
            os.kill(self.first.proxy.pid, signal.SIGSTOP)
            began = time.monotonic()
            try:
                self.assert_rest(followers, 2, size)
                self.assertLess(time.monotonic() - began, 10)
                self.assertLessEqual(self.ratio(key, size), MOST)
            finally:
                os.kill(self.first.proxy.pid, signal.SIGCONT)
            script.release()
            self.assertEqual(leader.read_exactly(size - 4096), content(2, 4096, size))
            self.assertTrue(self.first.read(key, 2, size).exact)
            self.assertTrue(self.second.read(key, 2, size).exact)
        self.assert_nothing_is_left()

    def test_client_disconnects(self) -> None:
        """The client of the first proxy leaves: whoever goes on with it, the others get everything, and nothing
        twice.
        """
        for key, size in ((b"left", SIZE), (b"left-inline", MIDDLE)):
            script, leader, followers = self.begin_all(key, 3, size)
            leader.abort()
            if size == SIZE:
                self.assert_rest(followers, 3, size)
            else:
                script.release()
                self.assert_rest(followers, 3, size)
            script.release()
            self.assertLessEqual(self.ratio(key, size), MOST)
        self.assert_nothing_is_left()

    def test_changed_in_s3(self) -> None:
        """The object changes in S3, and the first proxy dies: what was begun can't be finished, and is cut off; who
        asks then gets the new one.
        """
        for key, size in ((b"changed", SIZE), (b"changed-inline", MIDDLE)):
            script, _, followers = self.begin_all(key, 4, size)
            self.first.put(key, 5, size)
            self.first.proxy.kill9()
            for client in followers:
                with self.assertRaises((ConnectionEnded, ConnectionResetError)):
                    client.read_exactly(size - size // 4)
            script.release()
            self.assertTrue(self.second.read(key, 5, size).exact)
            self.first.proxy.start()
            self.assertTrue(self.first.read(key, 5, size).exact)
        self.assert_nothing_is_left()

    def test_written(self) -> None:
        """A write through the second proxy: who has begun gets the old version to its end, who asks after the answer
        gets the new one from either proxy.
        """
        for key, size in ((b"written", SIZE), (b"written-inline", MIDDLE)):
            script, leader, followers = self.begin_all(key, 6, size, 3)
            self.assertEqual(self.second.upload(key, 7, size).status, 200)
            self.assertTrue(self.second.read(key, 7, size).exact)
            script.release()
            self.assert_rest(followers, 6, size)
            self.assertEqual(leader.read_exactly(size - 4096), content(6, 4096, size))
            self.assertTrue(self.second.read(key, 7, size).exact)
            poll(lambda: self.first.read(key, 7, size).exact, 7, "the first proxy to notice")
        self.assert_nothing_is_left()


class AlwaysAskTests(SharedCase):
    """Every request needs S3's permission."""

    def test_permission(self) -> None:
        """S3 is asked about each client, and sends the body once."""
        self.start({"cache": {"get_ttl": "0s"}})
        stranger = Credential("AKIDSTRANGER", "secret")
        self.fake.add_credential(stranger)
        self.fake.deny(stranger.access_key)
        for key, size in ((b"asked", SIZE), (b"asked-inline", MIDDLE)):
            script = self.put(key, 1, size, stall_after=size // 2)
            leader = self.begin(self.first, key)
            self.assertEqual(leader.read_head().status, 200)
            followers = [self.begin(self.second, key) for _ in range(10)]
            self.assertEqual([client.read_head().status for client in followers], [200] * 10)
            self.first.fake.credential, known = stranger, self.first.fake.credential
            try:
                refused: list[RawResponse] = [self.second.ask(b"GET", key) for _ in range(5)]
            finally:
                self.first.fake.credential = known
            self.assertEqual([answer.status for answer in refused], [403] * 5)
            script.release()
            bodies = at_once([partial(client.read_exactly, size) for client in (leader, *followers)])
            self.assertEqual([body == content(1, 0, size) for body in bodies], [True] * 11)
            self.assertEqual(len(self.fake.requests.of("GetObject", key=key)), 16)
            self.assertLessEqual(self.ratio(key, size), MOST)
        self.assert_nothing_is_left()


class ModeTests(SharedCase):
    """cache.coordination"""

    def test_off(self) -> None:
        """Each proxy gets the object for itself."""
        self.start({"cache": {"coordination": "off"}})
        self.put(b"off", 1, SIZE, rate=20 * MIB, times=None)
        self.assert_exact(self.herd(b"off", 1, SIZE, 2))
        self.assertEqual(self.ratio(b"off", SIZE), 2)

    def test_host(self) -> None:
        """Two processes of one host follow each other."""
        self.start({"cache": {"coordination": "host"}})
        self.put(b"host", 1, SIZE, rate=20 * MIB, times=None)
        self.assert_exact(self.herd(b"host", 1, SIZE, 10))
        self.assertLessEqual(self.ratio(b"host", SIZE), MOST)
