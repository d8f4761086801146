"""What is worth a limited room."""

import itertools
import random
from bisect import bisect
from collections import Counter, OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.tinylfu import USE, Cells, FrequencySketch, TinyLFU


def sketch(width: int = 4096, period: int = 1 << 40, seed: int = 1) -> FrequencySketch:
    """One that does not age by itself."""
    return FrequencySketch(width, period, seed)


class SketchTests(SynchronousTestCase):
    """Estimates of how often something was used."""

    def test_exact_while_nothing_collides(self) -> None:
        """Few names in many cells are counted one by one."""
        counts = sketch()
        for number in range(10):
            for _ in range(number):
                counts.count(counts.cells(b"%d" % number))
        self.assertEqual([counts.estimate(counts.cells(b"%d" % n)) for n in range(10)], [USE * n for n in range(10)])

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, 60), max_size=300))
    def test_never_too_low(self, names: list[int]) -> None:
        """However many names share the cells, none is estimated below its own uses."""
        counts = sketch(width=16)
        for name in names:
            counts.count(counts.cells(b"%d" % name), 1)
        for name, used in Counter(names).items():
            self.assertGreaterEqual(counts.estimate(counts.cells(b"%d" % name)), used)

    def test_ceiling(self) -> None:
        """Counts stop at their highest value; nothing overflows into other cells."""
        counts = sketch()
        cells = counts.cells(b"often")
        for _ in range(1000):
            counts.count(cells)
        self.assertEqual(counts.estimate(cells), 255)
        self.assertEqual(counts.estimate(counts.cells(b"other")), 0)

    def test_ageing(self) -> None:
        """After so many uses all counts are halved: what was popular once is forgotten."""
        counts = sketch(period=10 * USE)
        old = counts.cells(b"old")
        for _ in range(9):
            counts.count(old)
        self.assertEqual(counts.estimate(old), 9 * USE)
        counts.count(counts.cells(b"new"))
        self.assertEqual(counts.estimate(old), 9 * USE // 2)
        for number in range(100):
            counts.count(counts.cells(b"%d" % number))
        self.assertLess(counts.estimate(old), USE)

    def test_nothing(self) -> None:
        """A use of nothing counts nothing."""
        counts = sketch()
        counts.count(counts.cells(b"name"), 0)
        self.assertEqual(counts.estimate(counts.cells(b"name")), 0)

    def test_seeds(self) -> None:
        """A seed gives the same cells each time, another one others: nobody can choose names that collide."""
        self.assertEqual(sketch(seed=7).cells(b"name"), sketch(seed=7).cells(b"name"))
        self.assertNotEqual(sketch(seed=7).cells(b"name"), sketch(seed=8).cells(b"name"))

    def test_rows(self) -> None:
        """Each row has its own cell for a name, within the row."""
        for number in range(100):
            cells = sketch(width=64).cells(b"%d" % number)
            self.assertEqual([cell // 64 for cell in cells], [0, 1, 2, 3])

    def test_width(self) -> None:
        """The width is a power of two."""
        self.assertRaises(ValueError, FrequencySketch, 100, 1, 1)


class VictimTests(SynchronousTestCase):
    """Who makes room for whom."""

    def setUp(self) -> None:
        self.sketch = sketch()
        self.kept: TinyLFU[str] = TinyLFU(self.sketch)

    def cells(self, name: str, uses: int = 0) -> Cells:
        """The cells of a name that was used so often more."""
        cells = self.sketch.cells(name.encode())
        self.sketch.count(cells, uses * USE)
        return cells

    def add(self, name: str, size: int, uses: int) -> None:
        self.kept.add(name, size, self.cells(name, uses))

    def victims(self, uses: int, needed: int, movable: str | None = None) -> list[str] | None:
        """For a newcomer that was used so often."""
        name = f"newcomer {uses}"
        self.sketch.count(self.cells(name), uses * USE - self.sketch.estimate(self.cells(name)))
        return self.kept.victims(self.cells(name), needed, lambda key: movable is None or key in movable)

    def test_least_recently_used_first(self) -> None:
        """Of those that are used less, the ones that were not used for the longest time go, as many as it takes."""
        for name in "abcd":
            self.add(name, 10, 1)
        self.kept.used("a")
        self.assertEqual(self.victims(5, 15), ["b", "c"])
        self.assertEqual(self.victims(5, 10), ["b"])

    def test_room_enough(self) -> None:
        """Nobody goes for what fits."""
        self.add("a", 10, 1)
        self.assertEqual(self.victims(5, 0), [])
        self.assertEqual(self.victims(1, -5), [])

    def test_used_alike(self) -> None:
        """The newcomer's latest use does not count: between equals the one that is here stays."""
        self.add("a", 10, 3)
        self.assertIsNone(self.victims(3, 10))
        self.assertIsNone(self.victims(4, 10))
        self.assertEqual(self.victims(5, 10), ["a"])

    def test_more_used_ones_are_passed_over(self) -> None:
        """They stay, and are not looked at next time."""
        self.add("often", 10, 9)
        self.add("rarely", 10, 1)
        self.add("too", 10, 1)
        self.assertEqual(self.victims(4, 10), ["rarely"])
        self.kept.remove("rarely")
        self.assertEqual(self.victims(12, 20), ["too", "often"])

    def test_not_enough(self) -> None:
        """If what is used less does not make room enough, all of it stays."""
        self.add("small", 5, 1)
        self.add("often", 10, 9)
        self.assertIsNone(self.victims(4, 10))
        self.assertEqual((len(self.kept), self.kept.bytes), (2, 15))

    def test_refusals_are_cheap(self) -> None:
        """A newcomer is refused after a few that are used more, even if there are victims behind them; the next one
        finds those.
        """
        for number in range(16):
            self.add(f"often {number}", 1, 9)
        self.add("rarely", 1, 1)
        self.assertIsNone(self.victims(4, 1))
        self.assertEqual(self.victims(4, 1), ["rarely"])

    def test_immovable(self) -> None:
        """Who can't go stays."""
        for name in "abc":
            self.add(name, 10, 1)
        self.assertEqual(self.victims(5, 10, movable="bc"), ["b"])
        self.assertIsNone(self.victims(5, 30, movable="bc"))

    def test_for_something_else(self) -> None:
        """For what is worth more than anything, all goes that can, be it enough or not."""
        self.add("a", 10, 15)
        self.add("b", 10, 1)
        self.assertEqual(self.kept.victims(None, 5, lambda key: True), ["a"])
        self.assertEqual(self.kept.victims(None, 100, lambda key: key != "a"), ["b"])

    def test_lru(self) -> None:
        """With ``admits_all`` only the time of the last use counts."""
        self.kept = TinyLFU(self.sketch, admits_all=True)
        self.add("often", 10, 15)
        self.add("rarely", 10, 1)
        self.assertEqual(self.victims(1, 10), ["often"])


class HitRateTests(SynchronousTestCase):
    """How good the choice is, on traces."""

    def zipf(self, things: int, exponent: float, length: int, seed: int) -> list[int]:
        """Uses of things of which the n-th is used as often as n to the power of -exponent says."""
        weights = list(itertools.accumulate(1 / (rank + 1) ** exponent for rank in range(things)))
        chance = random.Random(seed)
        return [bisect(weights, chance.random() * weights[-1]) for _ in range(length)]

    def lru(self, trace: list[int], room: int) -> int:
        """Hits of a plain LRU cache that admits everything."""
        kept: OrderedDict[int, None] = OrderedDict()
        hits = 0
        for thing in trace:
            hits += thing in kept
            kept[thing] = None
            kept.move_to_end(thing)
            if len(kept) > room:
                kept.popitem(last=False)
        return hits

    def tinylfu(self, trace: list[int], room: int, kept: set[int] | None = None) -> int:
        """Hits with the admission that is tested here. All things have one size."""
        counts = FrequencySketch(16384, 10 * USE * max(64, room), 1)
        order: TinyLFU[int] = TinyLFU(counts)
        kept = set() if kept is None else kept
        hits = 0
        for thing in trace:
            cells = counts.cells(b"%d" % thing)
            counts.count(cells)
            if thing in kept:
                hits += 1
                order.used(thing)
                continue
            victims = order.victims(cells, order.bytes + 1 - room, lambda key: True)
            if victims is not None and counts.estimate(cells) >= 2 * USE:
                for victim in victims:
                    order.remove(victim)
                    kept.remove(victim)
                order.add(thing, 1, cells)
                kept.add(thing)
        return hits

    def test_not_below_lru(self) -> None:
        """On Zipf traces, with room for little, some and much, the hit ratio is at least that of LRU."""
        for exponent, room in itertools.product((0.7, 0.9, 1.1), (50, 400)):
            trace = self.zipf(4000, exponent, 20_000, seed=1)
            self.assertGreaterEqual(self.tinylfu(trace, room), self.lru(trace, room), (exponent, room))

    def test_another_taste(self) -> None:
        """When other things become popular, they replace what was popular before: still not below LRU."""
        early = self.zipf(4000, 0.9, 20_000, seed=2)
        trace = early + [thing + 10_000 for thing in self.zipf(4000, 0.9, 20_000, seed=3)]
        self.assertGreaterEqual(self.tinylfu(trace, 200), self.lru(trace, 200))

    def test_scan(self) -> None:
        """Things that are used once or twice do not displace those that are used often; with LRU nothing would stay."""
        hot = [thing for _ in range(8) for thing in range(50)]
        scan = [1000 + number // 2 for number in range(800)]
        kept: set[int] = set()
        self.tinylfu(hot + scan, 50, kept)
        self.assertEqual(kept, set(range(50)))

    def test_loop(self) -> None:
        """Going round and round through more than there is room for, part of it stays; LRU never hits."""
        trace = list(range(300)) * 30
        self.assertEqual(self.lru(trace, 200), 0)
        self.assertGreater(self.tinylfu(trace, 200), len(trace) // 2)
