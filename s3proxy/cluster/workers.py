"""One worker in the eyes of its supervisor, what is needed of its process, and how far a replacement of all is."""

from enum import Enum
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.protocols.amp import Command

__all__ = ["IOwner", "ISpawner", "IWorkerProcess", "Replaced", "Rolling", "State", "Worker", "WorkerFailed"]


class WorkerFailed(Exception):
    """A worker ended, or had to be ended, before it was ready; or it can't be replaced now."""


class State(str, Enum):
    """What a worker is doing."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"
    GONE = "gone"


class IWorkerProcess(Protocol):
    """A process of a worker."""

    @property
    def pid(self) -> int: ...

    def order(self, command: type[Command], **arguments: Any) -> "Deferred[dict[str, Any]]":
        """Tell the worker something; fires with its answer, and fails when it can't answer any more."""

    def kill(self) -> None:
        """End the process at once (SIGKILL), if it runs."""


class ISpawner(Protocol):
    """Whoever makes processes."""

    def spawn(self, worker: "Worker") -> IWorkerProcess:
        """Start a process for this worker, whose :meth:`Worker.is_ready` and :meth:`Worker.has_ended` it calls.

        :raises OSError: the system has no process, memory or descriptor left
        """


class IOwner(Protocol):
    """Whoever looks after workers: learns from each what becomes of it."""

    def worker_ready(self, worker: "Worker") -> None: ...

    def worker_leaving(self, worker: "Worker") -> None: ...

    def worker_ended(self, worker: "Worker", how: str) -> None: ...


class Worker:
    """One worker, from its start to its end.

    :ivar number: which worker it is, for people: from 1, that of the slot
    :ivar seat: no other living worker has it
    :ivar quiet: it has not answered for a while
    """

    def __init__(self, owner: IOwner, slot: int, seat: int, began_at: float) -> None:
        self._owner = owner
        self.slot = slot
        self.number = slot + 1
        self.seat = seat
        self.began_at = began_at
        self.served_from = 0.0
        self.state = State.STARTING
        self.quiet = False
        self.process: IWorkerProcess | None = None
        self.limit: IDelayedCall | None = None

    @property
    def pid(self) -> int:
        """Of its process; 0: it has none."""
        return 0 if self.process is None else self.process.pid

    def is_ready(self) -> None:
        """The process accepts connections."""
        self._owner.worker_ready(self)

    def is_leaving(self) -> None:
        """The process accepts no connections any more, and will end."""
        self._owner.worker_leaving(self)

    def has_ended(self, how: str) -> None:
        """The process is gone."""
        self._owner.worker_ended(self, how)


@attrs.frozen
class Replaced:
    """A worker that has a successor.

    :ivar before: process id of the old one
    :ivar pid: that of the new one
    :ivar seconds: until that served
    """

    number: int
    before: int
    pid: int
    seconds: float


class Rolling:
    """How far a replacement of all workers is.

    :ivar total: workers in all
    :ivar replaced: those that are new
    :ivar skipped: numbers of those that were not there, or are new anyway
    :ivar current: the one whose successor is starting; 0: none
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.replaced: list[Replaced] = []
        self.skipped: list[int] = []
        self.current = 0
