"""Reads through the cache against a dictionary of versions.

Whatever clients ask for, whatever happens to the objects, to S3, to the disk and to the proxy, and in whatever order:
nobody gets a byte of another version than its head says, nor an older version than promised, nor fewer bytes than it
believes; and in the end nothing is left over.

More of it: ``S3PROXY_TEST_STEPS=200000 trial test.stateful``.
"""

from twisted.trial.unittest import SynchronousTestCase

from test.stateful.changing import Overtaking, Permitting, Writing
from test.stateful.disturbing import Evicting, Failing, Restarting
from test.stateful.reading import Leaving, Reading
from test.stateful.running import run_machine

HISTORIES = 160
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

    def test_calm(self) -> None:
        """Reads, and objects that change behind the proxy."""
        run_machine(self, Calm, HISTORIES, 0.2)

    def test_unreliable(self) -> None:
        """An S3 that fails in every way."""
        run_machine(self, Unreliable, HISTORIES, 0.3)

    def test_losing(self) -> None:
        """A cache directory that loses files."""
        run_machine(self, Losing, HISTORIES, 0.2)

    def test_stormy(self) -> None:
        """All of that, restarts and crashes too."""
        run_machine(self, Stormy, HISTORIES, 0.3)
