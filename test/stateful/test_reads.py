"""Reads through the cache against a dictionary of versions.

Whatever clients ask for, whatever happens to the objects, to S3, to the disk and to the proxy, and in whatever order:
nobody gets a byte of another version than its head says, nor an older version than promised, nor fewer bytes than it
believes; and in the end nothing is left over.

More of it: ``S3PROXY_TEST_STEPS=200000 trial test.stateful``.
"""

import gc

from hypothesis.stateful import run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from test.stateful.changing import Overtaking, Permitting, Writing
from test.stateful.disturbing import Evicting, Failing, Restarting
from test.stateful.machine import Foundation, profile
from test.stateful.reading import Leaving, Reading

HISTORIES = 300
"""That belong to every test run, about 20 seconds of them."""


class Calm(Overtaking, Permitting):
    """Nothing goes wrong."""


class Stormy(Failing, Leaving, Overtaking, Writing, Permitting, Evicting, Restarting):
    """Everything goes wrong."""


class Unreliable(Failing, Leaving, Overtaking):
    """S3 fails, and objects change behind the proxy."""


class Losing(Reading, Leaving, Writing, Evicting):
    """The cache loses what it holds."""


class ReadTests(SynchronousTestCase):
    """The machines above."""

    def run_machine(self, machine: type[Foundation], share: float) -> None:
        problem = ""
        try:
            run_state_machine_as_test(machine, settings=profile(int(HISTORIES * share), share))
        except Exception as error:
            # The history is in the notes, which trial does not show.
            problem = "\n".join((repr(error), *getattr(error, "__notes__", ())))
        gc.collect()
        logged = self.flushLoggedErrors()
        if problem:
            self.fail(problem)
        self.assertEqual(logged, [])

    def test_calm(self) -> None:
        """Reads, and objects that change behind the proxy."""
        self.run_machine(Calm, 0.2)

    def test_unreliable(self) -> None:
        """An S3 that fails in every way."""
        self.run_machine(Unreliable, 0.3)

    def test_losing(self) -> None:
        """A cache directory that loses files."""
        self.run_machine(Losing, 0.2)

    def test_stormy(self) -> None:
        """All of that, restarts and crashes too."""
        self.run_machine(Stormy, 0.3)
