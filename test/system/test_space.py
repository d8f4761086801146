"""A cache that is far too small for what is read: its limit holds at every moment, and what is used often stays.

384 MiB are read, or 1 GiB with S3PROXY_TEST_LARGE=1.
"""

import itertools
import random
import threading
import time
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from test.support.waiting import poll
from test.system.stage import LARGE_TESTS, MIB, Cached, Stage, at_once, unfinished_files

LIMIT = 64 * MIB
TOTAL = (1024 if LARGE_TESTS else 384) * MIB
READERS = 8
SIZES = (16 << 10, 64 << 10, 256 << 10, MIB, 3 * MIB, 8 * MIB, 16 * MIB)
HOT = 12
HOT_SIZES = (16 << 10, 100_000, 300_000, MIB)
SEEDS = 7
SAMPLE_SECONDS = 0.05


class Sampler:
    """Looks at the directory again and again while the block runs.

    :ivar over: by how much what is published was above the limit at the worst moment, in bytes; negative: below it
    :ivar peak: the most that was in the directory, with everything in the making
    :ivar in_flight: the most that was in the making
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples = 0
        self.over = -LIMIT
        self.peak = 0
        self.in_flight = 0

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            found = Cached.of(self._stage.proxy.cache_dir)
            self.samples += 1
            self.over = max(self.over, found.published - LIMIT)
            self.peak = max(self.peak, found.published + found.in_flight)
            self.in_flight = max(self.in_flight, found.in_flight)


class SpaceTests(SynchronousTestCase):
    """One proxy whose cache takes 64 MiB."""

    def setUp(self) -> None:
        """Start the proxy."""
        self.stage = Stage({"cache": {"max_cache_size": LIMIT}})
        self.addCleanup(self.stage.stop)

    def test_limit_and_hot_set(self) -> None:
        """Reads of objects that nobody asks for twice, 8 at a time, in between reads of a few hot ones."""
        hot = [(b"hot-%d" % number, number % SEEDS, HOT_SIZES[number % len(HOT_SIZES)]) for number in range(HOT)]
        choice = random.Random(1)
        cold: list[tuple[bytes, int, int]] = []
        while sum(size for _, _, size in cold) < TOTAL:
            cold.append((b"cold-%d" % len(cold), len(cold) % SEEDS, choice.choice(SIZES) + choice.randrange(1000)))
        for key, seed, size in hot + cold:
            self.stage.put(key, seed, size)
        queue = iter(cold)
        lock = threading.Lock()
        turns = itertools.cycle(hot)
        outcomes: list[tuple[float, bytes]] = []

        def reader() -> list[str]:
            wrong: list[str] = []
            while True:
                with lock:
                    job = next(queue, None)
                    favourites = [next(turns) for _ in range(3)]
                if job is None:
                    return wrong
                for key, seed, size in favourites:
                    reading = self.stage.read(key, seed, size)
                    outcomes.append((time.monotonic(), reading.x_cache))
                    if not reading.exact:
                        wrong.append(f"{key!r}: {reading}")
                key, seed, size = job
                if not self.stage.read(key, seed, size).exact:
                    wrong.append(repr(key))

        with Sampler(self.stage) as sampler:
            results = at_once([reader] * READERS, 120)
            poll(lambda: not unfinished_files(self.stage.proxy.cache_dir), 10, "the last fills to end", 0.1)
        self.assertEqual([problem for wrong in results for problem in wrong], [])
        self.assertGreater(sampler.samples, 20)
        self.assertLessEqual(sampler.over, 0, f"over the limit by {sampler.over} bytes")
        self.assertGreater(sampler.peak, LIMIT // 2, "the cache was never full: nothing is tested")
        late = [outcome for _, outcome in sorted(outcomes)[len(outcomes) // 2 :]]
        hits = sum(outcome in (b"HIT", b"COALESCED") for outcome in late) / len(late)
        self.assertGreaterEqual(hits, 0.8, f"{hits:.2f} of the reads of hot objects were hits")
        self.assertEqual(self.stage.cache_state(), ("healthy", ""))
        self.assertEqual(self.stage.tracebacks(), [])

    def test_restart_with_less(self) -> None:
        """Lowering the limit counts from the next start: the directory shrinks without any traffic."""
        for number in range(6):
            self.stage.put(b"%d" % number, number, 8 * MIB)
            self.assertTrue(self.stage.read(b"%d" % number, number, 8 * MIB).exact)
        folder = self.stage.proxy.cache_dir
        poll(lambda: Cached.of(folder).published > 40 * MIB, 10, "the objects to be published")
        self.stage.proxy.configure({"cache": {"max_cache_size": 20 * MIB}})
        self.stage.proxy.restart()
        poll(lambda: Cached.of(folder).published <= 20 * MIB, 15, "the directory to shrink", interval=0.1)
        results = at_once([partial(self.stage.read, b"%d" % number, number, 8 * MIB) for number in range(6)])
        self.assertTrue(all(reading.exact for reading in results))

    def test_larger_than_the_cache(self) -> None:
        """An object that can't fit is passed on exactly, by as many clients as ask for it, and leaves nothing."""
        self.stage.put(b"huge", 1, 80 * MIB)
        with Sampler(self.stage) as sampler:
            results = at_once([partial(self.stage.read, b"huge", 1, 80 * MIB) for _ in range(2)])
        self.assertTrue(all(reading.exact for reading in results))
        self.assertLess(sampler.peak, MIB)
