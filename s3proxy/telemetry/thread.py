"""One thread that does one piece of work after the other, for logs on file systems that may hang."""

import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

__all__ = ["PATIENCE", "SerialThread"]

PATIENCE: Final = 10.0
"""Seconds after which a log that is being written is said to hang."""

_T = TypeVar("_T")


class SerialThread:
    """Runs functions in order in a thread of its own, which begins with the first of them.

    The reactor's pool is of no use here: a hung mount would take its threads away from DNS and disk reads, and
    joining it would hang the shutdown. This thread is a daemon: a process may end although it is stuck.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._work: "queue.SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None]" = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], _T]) -> "Deferred[_T]":
        """Call *work* after all work given before; the Deferred fires in the reactor's thread.

        Cancelling it makes the result go unheard; the work is done nevertheless.
        """
        done: Deferred[_T] = Deferred(lambda _: None)
        self._work.put((work, done))
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        return done

    def stop(self) -> None:
        """End the thread after the work it was given. Returns at once."""
        if self._thread is not None:
            self._work.put(None)
            self._thread = None

    def _loop(self) -> None:
        while (item := self._work.get()) is not None:
            work, done = item
            try:
                result: Any = work()
            except Exception:
                result = Failure()
            self._reactor.callFromThread(_fire, done, result)


def _fire(done: "Deferred[Any]", result: Any) -> None:
    if not done.called:
        done.callback(result)
