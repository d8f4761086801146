"""Counting what is stored."""

from test.storage.support import make_store, name_of, put_inline, put_ranges

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.census import Census


class CensusTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = make_store(self)
        self.census = Census(self.store.volume)

    def test_counts(self) -> None:
        """Objects, and files with parts of bodies; what is gone is not counted any more after the next round."""
        for number in range(5):
            put_inline(self.store, name_of(f"small-{number}"), b"text")
        put_ranges(self.store, name_of("large"), 1000, (0, 100), (500, 600))
        self.census.step(60)
        self.assertEqual((self.census.objects, self.census.ranges, self.census.rounds), (6, 2, 1))
        self.store.drop(name_of("large"))
        self.store.drop(name_of("small-0"))
        self.census.step(60)
        self.assertEqual((self.census.objects, self.census.ranges), (4, 0))

    def test_bit_by_bit(self) -> None:
        """No step takes longer than it may, about; the sum is there when all of them were made."""
        for number in range(20):
            put_inline(self.store, name_of(f"k-{number}"), b"text")
        for _ in range(10_000):
            self.census.step(1e-9)
            if self.census.rounds:
                break
        self.census.step(60)
        self.assertEqual(self.census.objects, 20)
