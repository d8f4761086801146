"""Damaged files are kept for a while, but not too many of them."""

import os
from test.storage.support import FailingCalls

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.files import SystemCalls
from s3proxy.storage.quarantine import LONGEST, MOST_FILES, Quarantine

NOW = 2_000_000_000.0


class QuarantineTests(SynchronousTestCase):
    """A directory of its own."""

    def setUp(self) -> None:
        self.root = os.path.abspath(self.mktemp())
        os.mkdir(self.root)
        self.quarantine = Quarantine(SystemCalls(), self.root, 64_000)

    def admit(self, size: int, now: float = NOW, label: str = "label") -> str | None:
        path = f"{self.root}/damaged"
        with open(path, "wb") as file:
            file.write(bytes(size))
        kept = self.quarantine.admit(path, label, now)
        self.assertFalse(os.path.exists(path))
        return kept

    def test_kept(self) -> None:
        """It is moved, under a name that tells when and what."""
        kept = self.admit(900)
        self.assertEqual(self.quarantine.names(), [kept])
        assert kept is not None
        self.assertTrue(kept.endswith(f"/quarantine/{int(NOW):016x}.label"))

    def test_too_large(self) -> None:
        """What takes more than the quarantine may have is deleted."""
        self.assertIsNone(self.admit(1001))
        self.assertEqual(self.quarantine.names(), [])

    def test_space(self) -> None:
        """The oldest make room."""
        kept = [self.admit(400, NOW + number) for number in range(4)]
        self.assertEqual(self.quarantine.names(), kept[2:])

    def test_count(self) -> None:
        """There are so many at most."""
        kept = [self.admit(1, NOW + number) for number in range(MOST_FILES + 3)]
        self.assertEqual(self.quarantine.names(), kept[3:])

    def test_age(self) -> None:
        """After a week they go."""
        self.admit(1, NOW)
        kept = self.admit(1, NOW + 10)
        self.quarantine.tidy(NOW + LONGEST + 5)
        self.assertEqual(self.quarantine.names(), [kept])

    def test_gone(self) -> None:
        """There may be nothing to move any more."""
        self.assertRaises(FileNotFoundError, self.quarantine.admit, f"{self.root}/nothing", "label", NOW)

    def test_no_room(self) -> None:
        """Where it can't be moved, it is deleted."""
        calls = FailingCalls()
        self.quarantine = Quarantine(calls, self.root, 0)
        calls.fail("mkdir", 28)
        self.assertIsNone(self.admit(10))
        self.assertEqual(self.quarantine.names(), [])
