"""Tests for waiting and for looking at processes and folders."""

import os
import socket
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from test.support.waiting import (
    PATIENCE,
    directory_files,
    directory_size,
    free_ports,
    open_descriptors,
    peak_resident_bytes,
    poll,
    resident_bytes,
    wait_until,
)


class WaitUntilTests(SynchronousTestCase):
    """Waiting on the reactor's clock."""

    def test_condition_holds(self) -> None:
        """The wait ends soon after the condition holds."""
        clock = Clock()
        found: list[int] = []
        waiting = Deferred.fromCoroutine(wait_until(clock, lambda: found))
        clock.pump([0.01] * 10)
        self.assertNoResult(waiting)
        found.append(1)
        clock.advance(0.01)
        self.successResultOf(waiting)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_limit(self) -> None:
        """The wait fails after its limit, and says for what it waited."""
        clock = Clock()
        waiting = Deferred.fromCoroutine(wait_until(clock, lambda: False, 1, "rain"))
        clock.pump([0.1] * int(10 * PATIENCE + 2))
        self.assertIn("rain", str(self.failureResultOf(waiting, TimeoutError).value))


class PollTests(SynchronousTestCase):
    """Waiting by blocking."""

    def test_limit(self) -> None:
        """It fails after its limit."""
        self.assertRaises(TimeoutError, poll, lambda: False, 0.05, "nothing")
        poll(lambda: True, 0, "nothing")


class PortTests(SynchronousTestCase):
    """Free ports."""

    def test_distinct(self) -> None:
        """No port is given twice, and each can be bound."""
        ports = free_ports(5, also=1) + free_ports(5)
        self.assertEqual(len(set(ports)), 10)
        for port in ports:
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", port))

    def test_taken(self) -> None:
        """A port that is in use is passed over."""
        (port,) = free_ports(1)
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", port + 1))
            listening.listen()
            self.assertNotIn(port + 1, free_ports(3))


class ProcessTests(SynchronousTestCase):
    """Looking at this process."""

    def test_numbers(self) -> None:
        """Memory and descriptors are those of the process."""
        pid = os.getpid()
        self.assertGreater(resident_bytes(pid), 1 << 20)
        self.assertGreaterEqual(peak_resident_bytes(pid), resident_bytes(pid))
        before = open_descriptors()
        with socket.socket():
            self.assertEqual(open_descriptors(pid), before + 1)


class FolderTests(SynchronousTestCase):
    """Looking at a folder."""

    def test_sizes(self) -> None:
        """Files at every depth count, once."""
        folder = Path(self.mktemp())
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "one").write_bytes(b"1")
        (folder / "a" / "b" / "two").write_bytes(b"22")
        self.assertEqual(directory_size(folder), 3)
        self.assertEqual([path.name for path in directory_files(folder)], ["two", "one"])
