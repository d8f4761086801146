"""One result for many waiters, each of whom may leave without harming the others."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["SharedResult", "WakeUps"]

T = TypeVar("T")


class SharedResult(Generic[T]):
    """A result that is set once and handed to every waiter in a Deferred of its own.

    A Deferred is a chain, not a broadcast: shared by two waiters, the cancellation of one would reach the other.

    :param on_deserted: called when the last waiter left (cancelled) before there was a result
    """

    def __init__(self, on_deserted: Callable[[], None] | None = None) -> None:
        self._waiters: list[Deferred[T]] = []
        self._result: Any = None
        self._fired = False
        self._on_deserted = on_deserted

    @property
    def fired(self) -> bool:
        """Whether the result is there."""
        return self._fired

    @property
    def waiting(self) -> int:
        """How many waiters there are."""
        return len(self._waiters)

    def wait(self) -> Deferred[T]:
        """A Deferred of the caller's own that fires with the result, or fails with the failure."""
        waiter: Deferred[T] = Deferred(self._left)
        if self._fired:
            self._give(waiter)
        else:
            self._waiters.append(waiter)
        return waiter

    def fire(self, result: T | Failure) -> None:
        """Set the result. Waiters are called in the order in which they came."""
        self._fired = True
        self._result = result
        while self._waiters:
            # One by one: what a waiter does with the result may make another one leave.
            self._give(self._waiters.pop(0))

    def _give(self, waiter: "Deferred[T]") -> None:
        if isinstance(self._result, Failure):
            # Each waiter needs a failure of its own: Deferreds clean and annotate the one they carry.
            waiter.errback(Failure(self._result.value, self._result.type))
        else:
            waiter.callback(self._result)

    def _left(self, waiter: "Deferred[T]") -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            if not self._waiters and not self._fired and self._on_deserted is not None:
                self._on_deserted()


class WakeUps:
    """Waiters for "something changed, look again": each wake-up fires all of them once."""

    def __init__(self) -> None:
        self._waiters: list[Deferred[None]] = []
        self._waking: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """A Deferred that fires at the next :meth:`wake`; cancelling it affects nobody else."""
        waiter: Deferred[None] = Deferred(self._left)
        self._waiters.append(waiter)
        return waiter

    def wake(self) -> None:
        """Fire everybody who waits now."""
        self._waking += self._waiters
        self._waiters = []
        while self._waking:
            # One by one: what a waiter does may make another one leave.
            self._waking.pop(0).callback(None)

    def _left(self, waiter: "Deferred[None]") -> None:
        for waiters in (self._waiters, self._waking):
            if waiter in waiters:
                waiters.remove(waiter)
