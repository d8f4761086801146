"""The table of generation counters."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.generations import GenerationTable


class GenerationTableTests(SynchronousTestCase):
    """What one process stores, every process reads at once."""

    def test_bump(self) -> None:
        """A bump changes one slot, to a value that no slot had before."""
        table = GenerationTable(slots=8)
        self.addCleanup(table.close)
        seen = {table.get(slot) for slot in range(8)}
        for slot in (3, 3, 5, 3):
            others = [table.get(other) for other in range(8) if other != slot]
            value = table.bump(slot)
            self.assertNotIn(value, seen)
            self.assertEqual(table.get(slot), value)
            self.assertEqual([table.get(other) for other in range(8) if other != slot], others)
            seen.add(value)

    def test_shared(self) -> None:
        """Two tables on one file are one table, and never store the same value."""
        path = self.mktemp()
        one, two = GenerationTable(slots=8, path=path), GenerationTable(slots=8, path=path)
        self.addCleanup(one.close)
        self.addCleanup(two.close)
        first = one.bump(2)
        self.assertEqual(two.get(2), first)
        self.assertNotEqual(two.bump(2), first)
        self.assertEqual(one.get(2), two.get(2))

    def test_large_slot(self) -> None:
        """A slot beyond the table wraps around."""
        table = GenerationTable(slots=8)
        self.addCleanup(table.close)
        self.assertEqual(table.bump(8 + 1), table.get(1))

    def test_size(self) -> None:
        """The number of slots must be a power of two."""
        self.assertRaises(ValueError, GenerationTable, 12)
        self.assertRaises(ValueError, GenerationTable, 0)
