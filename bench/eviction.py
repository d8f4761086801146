"""How well what is kept was chosen: hit ratios on three traces, beside exact LRU, S3-FIFO and the optimum.

    python bench/eviction.py [--objects N] [--requests N] [--seed N]

Prints a table. ``tinylfu`` and ``lru`` are what ``cache.eviction_algorithm`` may name: the functions that judge a
sample in the proxy, its record of uses, its sizes of samples and batches, on a list in memory instead of a directory.
All objects have the same size, so that the optimum (Belady: evict what is needed again last, and do not even store what
is needed again later than all that is kept) is exact.

* **zipf**: popularity by rank to the power of -0.9.
* **scan**: the same, and every 60,000 requests a walk over 20,000 objects that nobody asks for again.
* **drift**: the same, and every 50,000 requests a tenth of the objects change places.
"""

import argparse
import hashlib
import heapq
import itertools
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from s3proxy.storage.eviction import POOL  # noqa: E402
from s3proxy.storage.layout import EntryName  # noqa: E402
from s3proxy.storage.recency import RecencyLog  # noqa: E402
from s3proxy.storage.scoring import SCORES, Candidate, Score, choose_victims  # noqa: E402

__all__ = ["TRACES", "exact_lru", "main", "optimum", "s3_fifo", "sampled", "trace"]

TRACES = ("zipf", "scan", "drift")
SHARES = (0.02, 0.05, 0.2)
_EXPONENT = 0.9
_REQUESTS_PER_SECOND = 100.0
_FLUSH = 10
"""Seconds between two looks at the record of uses, as in the proxy."""


def trace(kind: str, objects: int, requests: int, seed: int) -> list[int]:
    """Numbers of objects in the order in which they are asked for."""
    chance = random.Random(seed)
    places = list(range(objects))
    chance.shuffle(places)
    weights = list(itertools.accumulate((rank + 1) ** -_EXPONENT for rank in range(objects)))
    found: list[int] = []
    fresh = objects
    while len(found) < requests:
        if kind == "scan" and found and len(found) % 60_000 < 10_000:
            found.extend(range(fresh, fresh + 20_000))
            fresh += 20_000
        if kind == "drift" and found and len(found) % 50_000 < 10_000:
            moved = chance.sample(range(objects), objects // 10)
            values = [places[place] for place in moved]
            chance.shuffle(values)
            for place, value in zip(moved, values):
                places[place] = value
        found.extend(places[rank] for rank in chance.choices(range(objects), cum_weights=weights, k=10_000))
    return found[:requests]


def exact_lru(requests: Sequence[int], capacity: int) -> float:
    """Hit ratio of a list in the order of use."""
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for number in requests:
        if number in kept:
            hits += 1
            kept.move_to_end(number)
        else:
            kept[number] = None
            if len(kept) > capacity:
                kept.popitem(last=False)
    return hits / len(requests)


def s3_fifo(requests: Sequence[int], capacity: int) -> float:
    """Hit ratio of S3-FIFO (Yang and others, SOSP 2023): a tenth for what is new, a queue for the rest, and ghosts."""
    small: deque[int] = deque()
    main: deque[int] = deque()
    ghosts: OrderedDict[int, None] = OrderedDict()
    uses: dict[int, int] = {}
    for_new = max(1, capacity // 10)
    hits = 0

    def evict() -> None:
        while True:
            if len(small) >= for_new or not main:
                number = small.popleft()
                if uses[number] > 1:
                    uses[number] = 0
                    main.append(number)
                    if len(main) <= capacity - for_new:
                        continue
                else:
                    del uses[number]
                    ghosts[number] = None
                    if len(ghosts) > capacity - for_new:
                        ghosts.popitem(last=False)
                    return
            number = main.popleft()
            if uses[number]:
                uses[number] -= 1
                main.append(number)
                continue
            del uses[number]
            return

    for number in requests:
        if number in uses:
            hits += 1
            uses[number] = min(3, uses[number] + 1)
            continue
        if len(uses) >= capacity:
            evict()
        uses[number] = 0
        if number in ghosts:
            del ghosts[number]
            main.append(number)
        else:
            small.append(number)
    return hits / len(requests)


def optimum(requests: Sequence[int], capacity: int) -> float:
    """Hit ratio of who knows the future."""
    never = len(requests)
    following = [never] * never
    last: dict[int, int] = {}
    for position in range(never - 1, -1, -1):
        following[position] = last.get(requests[position], never)
        last[requests[position]] = position
    kept: dict[int, int] = {}
    latest: list[tuple[int, int]] = []
    hits = 0
    for position, number in enumerate(requests):
        hits += number in kept
        kept[number] = following[position]
        heapq.heappush(latest, (-following[position], number))
        while len(kept) > capacity:
            due, candidate = heapq.heappop(latest)
            if kept.get(candidate) == -due:
                del kept[candidate]
    return hits / never


def sampled(requests: Sequence[int], capacity: int, score: Score, seed: int) -> float:
    """Hit ratio of the proxy's way: a random sample is judged, the worst of it goes, until there is room again."""
    chance = random.Random(seed)
    log = RecencyLog()
    stored: dict[int, float] = {}
    reused: set[int] = set()
    order: list[int] = []
    names: dict[int, bytes] = {}
    hits, flushed = 0, 0.0
    for position, number in enumerate(requests):
        now = position / _REQUESTS_PER_SECOND
        if now - flushed >= _FLUSH:
            log.take()
            flushed = now
        digest = names.get(number)
        if digest is None:
            digest = names[number] = hashlib.sha256(number.to_bytes(8, "big")).digest()
        if number in stored:
            hits += 1
            log.touched(digest, 0, now)
            reused.add(number)
            continue
        if len(stored) >= capacity:
            for gone in _victims(chance, order, stored, reused, names, log, now, score)[: max(1, capacity // 64)]:
                place = gone.inode
                assert order[place] == gone.start
                order[place] = -1
                del stored[gone.start]
                reused.discard(gone.start)
            order = [each for each in order if each >= 0]
        stored[number] = now
        order.append(number)
    return hits / len(requests)


def _victims(
    chance: random.Random,
    order: Sequence[int],
    stored: dict[int, float],
    reused: set[int],
    names: dict[int, bytes],
    log: RecencyLog,
    now: float,
    score: Score,
) -> list[Candidate]:
    sample = chance.sample(range(len(order)), min(POOL, len(order)))
    candidates = []
    for place in sample:
        number = order[place]
        digest = names[number]
        candidates.append(
            Candidate(
                name=EntryName(digest), generation=None, start=number, stop=0, path="", size=1, inode=place,
                last_use=max(stored[number], log.last_use(digest, 0)), reused=number in reused,
                frequency=log.frequency(digest, 0),
            )
        )  # fmt: skip
    return choose_victims(candidates, now, score)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Hit ratios of eviction on three traces.")
    parser.add_argument("--objects", type=int, default=50_000, help="that are asked for more than once (50000)")
    parser.add_argument("--requests", type=int, default=500_000, help="of each trace (500000)")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (1)")
    options = parser.parse_args(arguments)
    print(f"Seed {options.seed}: {options.objects:,} objects, {options.requests:,} requests.\n")
    print("| trace | room for | optimum | exact LRU | S3-FIFO | S3 Proxy, lru | S3 Proxy, tinylfu | tinylfu ÷ LRU |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in TRACES:
        requests = trace(kind, options.objects, options.requests, options.seed)
        for share in SHARES:
            capacity = int(options.objects * share)
            policies: list[Callable[[Sequence[int], int], float]] = [optimum, exact_lru, s3_fifo]
            found = [policy(requests, capacity) for policy in policies]
            found += [sampled(requests, capacity, SCORES[name], options.seed) for name in ("lru", "tinylfu")]
            figures = " | ".join(f"{100 * ratio:.1f} %" for ratio in found)
            print(f"| {kind} | {share:.0%} | {figures} | {found[4] / found[1]:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
