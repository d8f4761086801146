"""Running a machine in a test case."""

import gc

from hypothesis.stateful import run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from test.stateful.machine import Foundation, profile

__all__ = ["run_machine"]


def run_machine(case: SynchronousTestCase, machine: type[Foundation], histories: int, share: float) -> None:
    """Let the machine run; the test fails with the shortest history that breaks a promise.

    :param histories: of all machines of the test case together
    :param share: this machine's
    """
    problem = ""
    try:
        run_state_machine_as_test(machine, settings=profile(int(histories * share), share))
    except Exception as error:
        # The history is in the notes, which trial does not show.
        problem = "\n".join((repr(error), *getattr(error, "__notes__", ())))
    gc.collect()
    logged = case.flushLoggedErrors()
    if problem:
        case.fail(problem)
    case.assertEqual(logged, [])
