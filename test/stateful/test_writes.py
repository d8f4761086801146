"""Writes through the proxy against a dictionary of versions.

Every kind of write, in any order and at the same time as reads, with faults of S3 and its network at every point of
an upload: nobody who comes after an acknowledgement gets an older version, nobody ever gets bytes that S3 does not
have, or mixed ones, or too few; and in the end nothing is left over.

More of it: ``S3PROXY_TEST_STEPS=200000 trial test.stateful``.
"""

from twisted.trial.unittest import SynchronousTestCase

from test.stateful.changing import Overtaking, Overwriting, Permitting, Writing
from test.stateful.disturbing import Crashing, Evicting, Failing, FailingWrites
from test.stateful.multipart import Assembling
from test.stateful.reading import Leaving, Reading
from test.stateful.running import run_machine
from test.stateful.writing import Deleting, Uploading

HISTORIES = 80
"""That belong to every test run."""


class CalmWrites(Reading, Uploading, Deleting, Assembling):
    """Nothing goes wrong."""


class InParts(Reading, Leaving, Assembling, FailingWrites, Crashing):
    """Multipart uploads, of which anything may fail, and a proxy that is stopped or killed in between."""


class UnreliableWrites(Reading, Leaving, Uploading, Deleting, Overwriting, FailingWrites):
    """S3 and its network fail at every point of a write."""


class StormyWrites(
    Failing, Leaving, Overtaking, Writing, Uploading, Deleting, Assembling, FailingWrites, Permitting, Evicting,
    Crashing,
):  # fmt: skip
    """Everything goes wrong."""


class WriteTests(SynchronousTestCase):
    """The machines above."""

    def test_calm(self) -> None:
        """All writes, at the same time as each other and as reads."""
        run_machine(self, CalmWrites, HISTORIES, 0.25)

    def test_in_parts(self) -> None:
        """Multipart uploads."""
        run_machine(self, InParts, HISTORIES, 0.25)

    def test_unreliable(self) -> None:
        """Faults at every point of an upload."""
        run_machine(self, UnreliableWrites, HISTORIES, 0.25)

    def test_stormy(self) -> None:
        """All of that, restarts, crashes and lost files too."""
        run_machine(self, StormyWrites, HISTORIES, 0.25)
