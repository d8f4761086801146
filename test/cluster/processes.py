"""Processes of workers that are none."""

from typing import Any

from twisted.internet.defer import Deferred

from s3proxy.cluster.workers import Worker

__all__ = ["FakeProcess", "FakeSpawner"]


class FakeProcess:
    """A process that does nothing but remember what it was told.

    :ivar deaf: it answers nothing
    :ivar says: its answer to all orders
    """

    def __init__(self, worker: Worker, pid: int) -> None:
        self.worker = worker
        self.pid = pid
        self.orders: list[tuple[Any, dict[str, Any]]] = []
        self.killed = False
        self.deaf = False
        self.says: dict[str, Any] = {"data": b"{}"}

    def order(self, command: Any, **arguments: Any) -> "Deferred[dict[str, Any]]":
        """Remember it."""
        self.orders.append((command, arguments))
        if self.deaf:
            return Deferred()
        done: Deferred[dict[str, Any]] = Deferred()
        done.callback(self.says)
        return done

    def kill(self) -> None:
        """Remember it; the end comes when the test says so."""
        self.killed = True

    def told(self, command: Any) -> list[dict[str, Any]]:
        """The arguments of these orders."""
        return [arguments for each, arguments in self.orders if each is command]


class FakeSpawner:
    """Makes such processes."""

    def __init__(self) -> None:
        self.made: list[FakeProcess] = []
        self.error: OSError | None = None

    def spawn(self, worker: Worker) -> FakeProcess:
        """One more."""
        if self.error is not None:
            raise self.error
        process = FakeProcess(worker, 1000 + len(self.made))
        self.made.append(process)
        return process
