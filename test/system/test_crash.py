"""SIGKILL at any moment, and a start on the same directory: every byte is right, and nothing is left over."""

import threading
from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from test.support.fake_script import Action, Match
from test.support.raw_client import ConnectionEnded
from test.support.waiting import poll
from test.system.stage import MIB, Cached, Stage, dangling_generations, unfinished_files

ROUNDS = 3
MISSES = 20
RATE = 4 * MIB
SIZES = (100_000, 1 * MIB, 3 * MIB, 12 * MIB)
"""Answered from memory, in one file, and in range files (with the limit of these tests larger objects are cut)."""


class CrashTests(SynchronousTestCase):
    """One proxy and its directory, killed again and again."""

    def setUp(self) -> None:
        """Start the proxy."""
        self.stage = Stage({"cache": {"max_cache_size": 1 << 30}})
        self.addCleanup(self.stage.stop)
        self.proxy = self.stage.proxy

    def in_background(self, work: Callable[[], object]) -> threading.Thread:
        """Do this while the proxy is killed: the connection may break."""

        def run() -> None:
            try:
                work()
            except (ConnectionEnded, OSError):
                return

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def end(self, threads: list[threading.Thread]) -> None:
        """All of these have ended."""
        for thread in threads:
            thread.join(30)
            self.assertFalse(thread.is_alive())

    def assert_clean(self) -> None:
        """Nothing is left of what the crash interrupted, and what the proxy takes for used is what is used."""
        folder = self.proxy.cache_dir

        def leftovers() -> list[str]:
            return [str(path) for path in unfinished_files(folder) + dangling_generations(folder)]

        try:
            poll(lambda: not leftovers(), 15, "what the crash left behind to be removed", interval=0.1)
        except TimeoutError:
            self.fail(f"left over: {leftovers()}")
        files = [path.stem for path in (folder / "inst").iterdir()]
        self.assertEqual(len(set(files)), 1, "heartbeats or accounts of dead instances are left")

        def difference() -> float:
            used = Cached.of(folder).published
            counted = self.proxy.metric("s3proxy_cache_size_bytes", tier="disk")
            return abs(counted - used) / max(used, 1)

        poll(lambda: difference() < 0.05, 10, "the usage metric to be right", interval=0.2)

    def test_misses(self) -> None:
        """Killed in the middle of 20 misses, three times, with reads in between."""
        folder = self.proxy.cache_dir
        for turn in range(ROUNDS):
            objects = [
                (b"%d-%d" % (turn, number), number % 5, SIZES[number % len(SIZES)] + number)
                for number in range(MISSES)
            ]
            for key, seed, size in objects:
                self.stage.put(key, seed, size)
            self.stage.fake.script(Match(operation="GetObject"), Action(rate=RATE), times=MISSES)
            self.stage.fake.clear_requests()
            readers = [
                self.in_background(partial(self.stage.read, key, seed, size)) for key, seed, size in objects
            ]
            # Some are complete by then, some have just begun, most are in the middle.
            poll(lambda: self.stage.fake.requests.object_bytes() > 20 * MIB, 30, "the misses to be under way")
            self.assertGreater(len(unfinished_files(folder)), 3, "nothing is under way: nothing is tested")
            self.proxy.kill9()
            self.end(readers)
            self.stage.fake.behave()
            self.proxy.start()
            for key, seed, size in objects:
                reading = self.stage.read(key, seed, size)
                self.assertTrue(reading.exact, reading)
            self.assert_clean()
            # What the dead instance was fetching may not be stored before the scan has come to it.
            for key, seed, size in objects:
                self.assertTrue(self.stage.read(key, seed, size).exact)
            poll(lambda: not unfinished_files(folder), 10, "the last commits")
            self.stage.fake.clear_requests()
            for key, seed, size in objects:
                reading = self.stage.read(key, seed, size)
                self.assertEqual((reading.exact, reading.x_cache), (True, b"HIT"))
            self.assertEqual(len(self.stage.fake.requests), 0)
        self.assertEqual(self.stage.tracebacks(), [])

    def test_first_read_after_a_crash(self) -> None:
        """What had been cached before the crash is a hit after it, at once."""
        self.stage.put(b"kept", 1, 12 * MIB)
        self.assertTrue(self.stage.read(b"kept", 1, 12 * MIB).exact)
        poll(lambda: not unfinished_files(self.proxy.cache_dir), 10, "the object to be published")
        self.proxy.kill9()
        self.proxy.start()
        reading = self.stage.read(b"kept", 1, 12 * MIB)
        self.assertEqual((reading.exact, reading.x_cache), (True, b"HIT"))
        self.assert_clean()

    def test_writes(self) -> None:
        """Killed in the middle of uploads and deletes of cached objects: whatever S3 has at the end is what is read,
        although the old entries were fresh for an hour.
        """
        count = 8
        old, new = 1, 2
        for turn in range(ROUNDS):
            keys = [b"%d-%d" % (turn, number) for number in range(2 * count)]
            sizes = [SIZES[number % len(SIZES)] for number in range(2 * count)]
            for key, size in zip(keys, sizes):
                self.stage.put(key, old, size)
                self.assertTrue(self.stage.read(key, old, size).exact)
            acknowledged: list[bytes] = []

            def upload(key: bytes, size: int) -> None:
                if self.stage.upload(key, new, size).status == 200:
                    acknowledged.append(key)

            def delete(key: bytes) -> None:
                if self.stage.ask(b"DELETE", key).status == 204:
                    acknowledged.append(key)

            # S3 does what it is asked, but the answers of every second one never come.
            held = [
                self.stage.fake.script(Match(key=key, method=method), Action(hold=True))
                for key, method in [*((key, b"PUT") for key in keys[:count:2]), (keys[count], b"DELETE")]
            ]
            writers = [self.in_background(partial(upload, key, size)) for key, size in zip(keys[:count], sizes)]
            writers += [self.in_background(partial(delete, key)) for key in keys[count:]]
            poll(lambda: all(script.held for script in held), 30, "S3 to have acted")
            poll(lambda: len(acknowledged) >= 3, 30, "some writes to be acknowledged")
            self.proxy.kill9()
            self.end(writers)
            self.stage.fake.behave()
            self.proxy.start()
            for number, (key, size) in enumerate(zip(keys, sizes)):
                self.check(key, size, number < count, old, new)
            self.assert_clean()
        self.assertEqual(self.stage.tracebacks(), [])

    def check(self, key: bytes, size: int, uploaded: bool, old: int, new: int) -> None:
        """The proxy answers what S3 answers."""
        written = [
            request for request in self.stage.fake.requests.of(key=key) if request.method in (b"PUT", b"DELETE")
        ]
        acted = bool(written) and (not uploaded or written[0].body_received == size)
        if not uploaded:
            self.assertEqual(self.stage.ask(b"GET", key).status, 404 if acted else 200)
            return
        reading = self.stage.read(key, new if acted else old, size)
        self.assertTrue(reading.exact, (key, acted, reading))
