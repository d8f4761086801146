"""Blocking calls on threads of their own, so that neither the reactor nor name look-ups ever wait for the disk."""

import errno
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, execute, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from s3proxy.telemetry.families import LAG_BOUNDS
from s3proxy.telemetry.instruments import Histogram

__all__ = ["DiskBusy", "DiskIO", "ImmediateIO", "IORunner", "give_back"]

T = TypeVar("T")


class DiskBusy(OSError):
    """More calls wait for the disk than are allowed to: do without it."""


class IORunner(Protocol):
    """Runs blocking calls somewhere."""

    def run(self, function: Callable[..., T], *args: Any) -> "Deferred[T]": ...


def give_back(result: object) -> None:
    """Release what a call returned that nobody waits for any more: the first of its close, release, cancel and disarm
    methods.
    """
    for method in ("close", "release", "cancel", "disarm"):
        found = getattr(result, method, None)
        if callable(found):
            found()
            return


class _Call:
    """One call, and who waits for it."""

    __slots__ = ("args", "asked_at", "cancelled", "deferred", "function", "waited")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.cancelled = False
        self.asked_at = time.perf_counter()
        self.waited = 0.0
        self.deferred: Deferred[Any] = Deferred(self._cancel)

    def _cancel(self, deferred: Deferred[Any]) -> None:
        self.cancelled = True
        deferred.errback(CancelledError())


class DiskIO:
    """A pool of threads with a bounded queue.

    A call whose Deferred is cancelled still runs; what it returns is given back (:func:`give_back`) in the thread.
    Order is kept only for calls that wait for each other.

    :ivar outstanding: calls that are not over
    :ivar waits: seconds that calls waited for a thread
    :param threads: how many calls run at a time
    :param queue: how many may wait; above that :meth:`run` fails with :class:`DiskBusy`
    """

    def __init__(self, reactor: IReactorFromThreads, *, threads: int = 8, queue: int = 1024) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=threads, name="disk")
        self._limit = threads + queue
        self.outstanding = 0
        self.waits = Histogram(LAG_BOUNDS)

    @property
    def busy(self) -> int:
        """Threads that run a call."""
        return len(self._pool.working)

    @property
    def idle(self) -> int:
        """Threads that have nothing to do."""
        return len(self._pool.threads) - self.busy

    @property
    def queued(self) -> int:
        """Calls that wait for a thread."""
        return max(0, self.outstanding - self.busy)

    def start(self) -> None:
        """Begin to run calls."""
        self._pool.start()

    def stop(self) -> None:
        """Wait for the calls under way, then end the threads."""
        self._pool.stop()

    def run(self, function: Callable[..., T], *args: Any) -> "Deferred[T]":
        """Call ``function(*args)`` in a thread. The Deferred fires in the reactor's thread, with the result or the
        exception.
        """
        if self.outstanding >= self._limit:
            return fail(DiskBusy(errno.EAGAIN, f"{self.outstanding} calls wait for the disk"))
        call = _Call(function, args)
        self.outstanding += 1
        self._pool.callInThread(self._run, call)
        return call.deferred

    def _run(self, call: _Call) -> None:
        call.waited = time.perf_counter() - call.asked_at
        try:
            result: object = call.function(*call.args)
        except BaseException:
            result = Failure()
        self._reactor.callFromThread(self._deliver, call, result)

    def _deliver(self, call: _Call, result: object) -> None:
        self.outstanding -= 1
        self.waits.observe(call.waited)
        if call.cancelled:
            if not isinstance(result, Failure):
                self._pool.callInThread(give_back, result)
        elif isinstance(result, Failure):
            call.deferred.errback(result)
        else:
            call.deferred.callback(result)


class ImmediateIO:
    """Runs each call at once, in the caller's thread: for tests and for programs without a reactor."""

    def run(self, function: Callable[..., T], *args: Any) -> "Deferred[T]":
        """Call ``function(*args)`` now."""
        return execute(function, *args)
