"""How many bytes there are, and who may add some."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.ledger import FIXED_OVERHEAD, Ledger


class LedgerTests(SynchronousTestCase):
    """Counting and reserving."""

    def ledger(self, limit: int = 1000, declared: int = 0, walked: bool = True) -> Ledger:
        return Ledger(limit + FIXED_OVERHEAD, 4, declared=declared, walked=walked)

    def test_reserve(self) -> None:
        """Reservations and published bytes together never exceed the limit."""
        ledger = self.ledger()
        self.assertTrue(ledger.reserve(600))
        self.assertFalse(ledger.reserve(401))
        self.assertTrue(ledger.reserve(400))
        ledger.add(1, 600)
        ledger.release(600)
        self.assertEqual(ledger.used, FIXED_OVERHEAD + 600)
        self.assertFalse(ledger.fits(1))
        ledger.release(400)
        self.assertTrue(ledger.fits(400))

    def test_no_limit(self) -> None:
        """Without a limit everything fits, until the file system itself is full."""
        ledger = Ledger(0, 4, declared=0, walked=True)
        self.assertTrue(ledger.reserve(1 << 50))
        self.assertEqual(ledger.excess, 0)
        ledger.squeeze(5000)
        self.assertFalse(ledger.fits(1))
        ledger.squeeze(0)
        self.assertTrue(ledger.fits(1 << 50))

    def test_spare(self) -> None:
        """Room set aside for shard directories is given to nothing else."""
        ledger = Ledger(100_000 + FIXED_OVERHEAD, 4, declared=0, walked=True, spare=4000)
        self.assertFalse(ledger.reserve(96_001))
        ledger.use_spare(1000)
        ledger.add(0, 1000)
        self.assertFalse(ledger.reserve(96_001))
        self.assertTrue(ledger.reserve(96_000))

    def test_before_the_walk(self) -> None:
        """What was declared counts, until every shard was walked."""
        ledger = self.ledger(declared=900, walked=False)
        ledger.add(0, 50)
        ledger.add(1, -100)
        self.assertEqual(ledger.used, 850)
        for shard, total in ((0, 70), (1, 10), (2, 0)):
            token = ledger.begin_walk(shard)
            assert token is not None
            self.assertTrue(ledger.end_walk(shard, token, total))
            self.assertFalse(ledger.complete)
        ledger.add(0, 5)
        ledger.add(3, 1000)
        ledger.finish_untouched({0, 1, 2, 3})
        self.assertFalse(ledger.complete)
        token = ledger.begin_walk(3)
        assert token is not None
        ledger.end_walk(3, token, 1000)
        self.assertTrue(ledger.complete)
        self.assertEqual(ledger.used, FIXED_OVERHEAD + 70 + 10 + 5 + 1000)

    def test_changed_while_walked(self) -> None:
        """A sum is refused when the shard changed meanwhile, or is changing."""
        ledger = self.ledger(walked=False)
        token = ledger.begin_walk(0)
        assert token is not None
        with ledger.changing(0):
            self.assertIsNone(ledger.begin_walk(0))
            self.assertFalse(ledger.end_walk(0, token, 5))
        self.assertFalse(ledger.end_walk(0, token, 5))
        self.assertFalse(ledger.is_walked(0))

    def test_absent_shards(self) -> None:
        """Shards that have no directory need no walk, unless something was put there since."""
        ledger = self.ledger(walked=False)
        with ledger.changing(2):
            ledger.add(2, 7)
        ledger.finish_untouched({1})
        self.assertEqual([ledger.is_walked(shard) for shard in range(4)], [True, False, False, True])

    def test_assumed(self) -> None:
        """An assumed sum counts, with what changes from then on, until a look that nobody disturbs puts it right."""
        ledger = self.ledger(declared=900, walked=False)
        ledger.finish_untouched({1, 3})
        ledger.assume(1, 70, 20)
        ledger.assume(3, 10, 10)
        self.assertTrue(ledger.complete)
        self.assertEqual(ledger.assumed, [1, 3])
        self.assertEqual((ledger.used, ledger.unread, ledger.staged), (FIXED_OVERHEAD + 80, 30, 10))
        ledger.add(1, 5, unread=5)
        ledger.hear(1, 6, 0)
        ledger.add(0, 1)
        ledger.assume(1, 1, 1)
        self.assertEqual((ledger.used, ledger.unread), (FIXED_OVERHEAD + 92, 35))
        token = ledger.begin_walk(1)
        assert token is not None
        with ledger.changing(1):
            self.assertFalse(ledger.end_walk(1, token, 50, 0))
        token = ledger.begin_walk(1)
        assert token is not None
        self.assertTrue(ledger.end_walk(1, token, 50, 0))
        self.assertEqual(ledger.assumed, [3])
        self.assertEqual((ledger.used, ledger.unread, ledger.staged), (FIXED_OVERHEAD + 61, 10, 10))
        ledger.add(1, 5)
        self.assertTrue(ledger.end_walk(1, ledger.begin_walk(1) or 0, 1000))
        self.assertEqual(ledger.used, FIXED_OVERHEAD + 66)
        ledger.recount()
        self.assertEqual((ledger.assumed, ledger.used), ([], FIXED_OVERHEAD + 66))
        self.assertFalse(ledger.end_walk(1, token, 50))

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100), st.booleans()), max_size=30))
    def test_walk_in_between(self, changes: list[tuple[int, int, bool]]) -> None:
        """Wherever the walk of a shard falls among the changes, the sum is right in the end."""
        ledger = self.ledger(declared=10_000, walked=False)
        truth = [0, 0, 0, 0]
        unwalked = [0, 1, 2, 3]
        for shard, size, walk in changes:
            if unwalked and walk:
                walked = unwalked.pop()
                token = ledger.begin_walk(walked)
                assert token is not None
                ledger.end_walk(walked, token, truth[walked])
            with ledger.changing(shard):
                truth[shard] += size
                ledger.add(shard, size)
        for shard in unwalked:
            ledger.assume(shard, truth[shard])
        self.assertEqual(ledger.used, FIXED_OVERHEAD + sum(truth))
