"""What signals mean."""

import signal
from collections.abc import Callable
from typing import Any

__all__ = ["listen_for_signals"]


def listen_for_signals(
    reactor: Any,
    *,
    end: Callable[[], None],
    reopen: Callable[[], None],
    reload: Callable[[], None],
    roll: Callable[[], None],
) -> None:
    """Have signals do something from now on, in the reactor's turn.

    :param end: SIGTERM and SIGINT: end the process with exit code 0 when everything is stopped
    :param reopen: SIGUSR1: open the log files anew
    :param reload: SIGHUP: do so, too, and read the configuration again
    :param roll: SIGUSR2: replace the workers
    """

    def have(number: int, work: Callable[[], None]) -> None:
        signal.signal(number, lambda *_: reactor.callFromThread(work))

    def end_on_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            have(number, end)

    have(signal.SIGUSR1, reopen)
    have(signal.SIGHUP, reload)
    # Who sends it means no harm: without a handler it would end the process.
    have(signal.SIGUSR2, roll)
    end_on_signal()
    # Again behind the reactor's own start. Its handlers would have the process die of the signal in the end, which
    # looks like a failure to whoever waits for it.
    reactor.callWhenRunning(end_on_signal)
