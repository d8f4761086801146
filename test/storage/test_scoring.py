"""Which things go first, judged by what that does to hit rates."""

import functools
import itertools
import random
from collections import OrderedDict

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.layout import EntryName, entry_name
from s3proxy.storage.recency import RecencyLog
from s3proxy.storage.scoring import Candidate, Score, choose_victims, lru, tinylfu

OBJECTS = 1500
REQUESTS = 16_000
SHARDS = 32
POOL = 128


@functools.lru_cache(maxsize=None)
def name_for(key: int) -> EntryName:
    return entry_name((b"%d" % key,))


def candidate(last_use: float = 0.0, reused: bool = False, frequency: int = 0, key: int = 0) -> Candidate:
    return Candidate(
        name=name_for(key),
        generation=None,
        start=key,
        stop=0,
        path="",
        size=1,
        inode=0,
        last_use=last_use,
        reused=reused,
        frequency=frequency,
    )


class ScoreTests(SynchronousTestCase):
    """The two orders."""

    def test_lru(self) -> None:
        """The longest unused goes first, whatever else is known."""
        pool = [candidate(last_use=float(age), reused=age % 2 == 0, key=age) for age in range(16)]
        self.assertEqual([victim.last_use for victim in choose_victims(pool, 100.0, lru)], [0.0, 1.0])

    def test_never_reused(self) -> None:
        """What was never used again goes before what was, even if that is up to eight times as old."""
        once, again = candidate(last_use=90.0), candidate(last_use=21.0, reused=True)
        self.assertEqual(choose_victims([again, once], 100.0, tinylfu), [once])
        older = candidate(last_use=19.0, reused=True)
        self.assertEqual(choose_victims([older, once], 100.0, tinylfu), [older])

    def test_popular_and_idle(self) -> None:
        """An object that was read a hundred times and then idle for two hours survives a flood of others."""
        log = RecencyLog()
        for _ in range(100):
            log.touched(name_for(0).digest, 0, 0.0)
        popular = candidate(last_use=0.0, reused=True, frequency=log.frequency(name_for(0).digest, 0))
        flood = [candidate(last_use=7200.0 - seconds, key=seconds) for seconds in range(5, 300)]
        self.assertNotIn(popular, choose_victims([popular, *flood], 7200.0, tinylfu, share=0.9))

    def test_at_least_one(self) -> None:
        """Even of a few, one goes; of none, none."""
        self.assertEqual(len(choose_victims([candidate()], 1.0, lru)), 1)
        self.assertEqual(choose_victims([], 1.0, lru), [])


def requests(kind: str) -> list[int]:
    """Object numbers: Zipf 0.9; if ``kind`` is scan, with runs of objects that never come again in between."""
    source = random.Random(1)
    order = list(range(OBJECTS))
    source.shuffle(order)
    weights = list(itertools.accumulate(1 / (rank + 1) ** 0.9 for rank in range(OBJECTS)))
    trace: list[int] = []
    fresh = itertools.count(OBJECTS)
    while len(trace) < REQUESTS:
        trace.extend(order[rank] for rank in source.choices(range(OBJECTS), cum_weights=weights, k=600))
        if kind == "scan":
            trace.extend(itertools.islice(fresh, 200))
    return trace


@functools.lru_cache(maxsize=None)
def size_of(key: int) -> int:
    return int(min(4e6, max(1000, random.Random(key).lognormvariate(10, 1.2))))


def exact_lru(trace: list[int], capacity: int) -> float:
    kept: OrderedDict[int, int] = OrderedDict()
    used = hits = 0
    for key in trace:
        if key in kept:
            kept.move_to_end(key)
            hits += 1
            continue
        kept[key] = size_of(key)
        used += kept[key]
        while used > capacity:
            used -= kept.popitem(last=False)[1]
    return hits / len(trace)


def sampled(trace: list[int], capacity: int, score: Score) -> float:
    """The hit rate of sampled eviction, with the time counted in requests."""
    source = random.Random(2)
    shards: list[dict[int, tuple[float, bool, int]]] = [{} for _ in range(SHARDS)]
    log = RecencyLog()
    used = hits = 0
    for moment, key in enumerate(trace):
        name = name_for(key)
        shard = shards[name.digest[0] % SHARDS]
        if key in shard:
            hits += 1
            shard[key] = (moment, True, shard[key][2])
            log.touched(name.digest, 0, moment)
            continue
        shard[key] = (moment, False, size_of(key))
        used += size_of(key)
        if used <= capacity:
            continue
        log.take()
        while used > capacity * 0.985:
            pool: list[Candidate] = []
            for index in source.sample(range(SHARDS), SHARDS):
                for other, (last, reused, _) in shards[index].items():
                    pool.append(candidate(last, reused, log.frequency(name_for(other).digest, 0), other))
                if len(pool) >= POOL:
                    break
            for victim in choose_victims(pool, moment, score):
                used -= shards[victim.name.digest[0] % SHARDS].pop(victim.start)[2]
                if used <= capacity * 0.985:
                    break
    return hits / len(trace)


class HitRateTests(SynchronousTestCase):
    """Sampling costs almost nothing, and knowing about re-use gains a lot."""

    def compare(self, kind: str) -> tuple[float, float, float]:
        trace = requests(kind)
        capacity = sum(size_of(key) for key in range(OBJECTS)) // 10
        return exact_lru(trace, capacity), sampled(trace, capacity, lru), sampled(trace, capacity, tinylfu)

    def test_zipf(self) -> None:
        """On popular and unpopular objects, sampled LRU is within half a point of exact LRU; tinylfu is above it."""
        exact, recency, reuse = self.compare("zipf")
        self.assertGreater(recency, exact - 0.005)
        self.assertGreater(reuse, exact + 0.05)

    def test_scan(self) -> None:
        """When scans of cold objects come in between, tinylfu keeps the hot ones."""
        exact, recency, reuse = self.compare("scan")
        self.assertGreater(recency, exact - 0.005)
        self.assertGreater(reuse, exact + 0.05)
