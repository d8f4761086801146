"""How many processes there should be."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cluster.count import available_processors, worker_count


class CountTests(SynchronousTestCase):
    """auto, or a number."""

    def setUp(self) -> None:
        """Control groups to be described."""
        self.root = Path(self.mktemp())
        self.groups = self.root / "groups"
        self.root.mkdir()

    def processors(self) -> int:
        """What is found."""
        return available_processors(str(self.groups), str(self.root))

    def test_number(self) -> None:
        """A number is taken as it is."""
        self.assertEqual(worker_count(7), 7)

    def test_auto(self) -> None:
        """auto is at least one and no more than the processors that the process may run on."""
        self.assertIn(worker_count("auto"), range(1, len(os.sched_getaffinity(0)) + 1))

    def test_unlimited(self) -> None:
        """Without control groups, or without a limit in them, only the processors count."""
        self.assertEqual(self.processors(), len(os.sched_getaffinity(0)))
        self.groups.write_text("0::/a\n")
        (self.root / "a").mkdir()
        (self.root / "a" / "cpu.max").write_text("max 100000\n")
        self.assertEqual(self.processors(), len(os.sched_getaffinity(0)))

    def test_quota(self) -> None:
        """A quota counts, rounded up; the smallest of those around the process."""
        self.patch(os, "sched_getaffinity", lambda pid: range(16))
        self.groups.write_text("0::/a/b\n")
        (self.root / "a" / "b").mkdir(parents=True)
        (self.root / "a" / "cpu.max").write_text("250000 100000\n")
        (self.root / "a" / "b" / "cpu.max").write_text("900000 100000\n")
        self.assertEqual(self.processors(), 3)
        (self.root / "a" / "b" / "cpu.max").write_text("10000 100000\n")
        self.assertEqual(self.processors(), 1)

    def test_older_groups(self) -> None:
        """The same in the first version of control groups."""
        self.patch(os, "sched_getaffinity", lambda pid: range(16))
        self.groups.write_text("4:cpu,cpuacct:/a\n2:memory:/a\n")
        folder = self.root / "cpu" / "a"
        folder.mkdir(parents=True)
        (folder / "cpu.cfs_quota_us").write_text("400000\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
        self.assertEqual(self.processors(), 4)
        (folder / "cpu.cfs_quota_us").write_text("-1\n")
        self.assertEqual(self.processors(), 16)
