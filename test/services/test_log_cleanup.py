"""The service that removes old logs."""

import os
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.services.log_cleanup import LogCleanup
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.retention import Kept, Sweep
from test.telemetry.test_access import ManualThread

DAY = 86400.0
NOW = 1769860800.0  # 31 January 2026, 12:00:00 UTC


class LogCleanupTests(SynchronousTestCase):
    def setUp(self) -> None:
        root = self.mktemp()
        self.folder = os.path.join(root, "app", "proxy-1")
        os.makedirs(self.folder)
        self.clock = Clock()
        self.clock.advance(NOW)
        self.thread = ManualThread()
        kept = Kept(
            access_dir=os.path.join(root, "access"), access_days=30, app_dir=os.path.join(root, "app"), app_days=30,
            hostname="proxy-1",
        )  # fmt: skip
        self.service = LogCleanup(self.clock, kept, 3600.0, self.clock.seconds, self.thread)
        self.addCleanup(self.end)

    def end(self) -> None:
        """Stop it, if it runs."""
        if self.service.running:
            self.service.stopService()

    def plant(self, date: str) -> None:
        """An application log of this day."""
        with open(os.path.join(self.folder, f"s3proxy.log.{date}"), "w", encoding="ascii"):
            pass

    def deleted(self, log: str, owner: str) -> float:
        """What the metrics tell."""
        name = "s3proxy_log_files_deleted_total"
        return next(r.value for r in self.service.readings() if (r.name, r.labels) == (name, (log, owner)))

    def test_at_the_start_and_then(self) -> None:
        """The first walk is at the start, the next one an interval after the end of the one before."""
        self.plant("2025-12-01")
        self.service.startService()
        self.assertEqual(os.listdir(self.folder), [])
        self.plant("2025-12-01")
        self.clock.advance(3599)
        self.assertEqual(len(os.listdir(self.folder)), 1)
        self.clock.advance(1)
        self.assertEqual(os.listdir(self.folder), [])
        self.assertEqual(self.deleted("app", "own"), 2)

    def test_the_clock_counts(self) -> None:
        """What was kept at one walk is removed by a later one, when its time is over."""
        self.plant("2026-01-01")
        self.service.startService()
        self.assertEqual(len(os.listdir(self.folder)), 1)
        for _ in range(24):
            self.clock.advance(3600)
        self.assertEqual(os.listdir(self.folder), [])

    def test_directory_that_hangs(self) -> None:
        """A walk that does not end is the only one."""
        self.thread.hangs = True
        self.service.startService()
        for _ in range(10):
            self.clock.advance(3600)
        self.assertEqual(len(self.thread.work), 1)

    def test_stop(self) -> None:
        """After the stop there is no walk and no timer, although one was under way."""
        self.thread.hangs = True
        self.service.startService()
        self.service.stopService()
        self.thread.proceed()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.thread.stopped)

    def test_fault(self) -> None:
        """A walk that fails is told, and the next one takes place."""
        walks: list[Any] = []

        def run(sweep: Sweep) -> Sweep:
            walks.append(sweep)
            raise RuntimeError("broken")

        self.patch(Sweep, "run", run)
        self.service.startService()
        self.clock.advance(3600)
        self.assertEqual(len(walks), 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_readings(self) -> None:
        """Every series is there from the start."""
        self.assertEqual(
            [reading.labels for reading in self.service.readings()],
            [("access", "own"), ("access", "foreign"), ("app", "own"), ("app", "foreign")],
        )
        self.assertIsInstance(next(iter(self.service.readings())), Reading)
