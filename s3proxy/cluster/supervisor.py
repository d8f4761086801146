"""Keeps a number of workers serving: starts them, replaces those that end, and has each slot of the listeners served.

Every listener has one listening socket per *slot*, which the supervisor holds for as long as it lives; the kernel
spreads connections evenly over the slots (SO_REUSEPORT). A worker accepts from the sockets of its own slot. When it
ends, another one stands in for it at once, so that nobody waits in a queue that no process looks at, and gives the slot
back when the successor is ready. As the sockets stay, no connection is refused meanwhile. So it is with a worker that
says nothing for a while: others serve its slot, too, until it speaks again or is killed.
"""

from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.protocols.amp import Command
from twisted.python.failure import Failure

from s3proxy.cluster.commands import Drain, GiveBack, TakeOver
from s3proxy.cluster.workers import ISpawner, Replaced, Rolling, State, Worker, WorkerFailed

__all__ = ["Supervisor"]

FIRST_DELAY: Final = 0.2
"""Seconds before a worker is started again that has ended twice in a row; twice as many each further time."""
LONGEST_DELAY: Final = 30.0
STEADY: Final = 60.0
"""Seconds of service after which a worker's end is no longer one in a row."""
START_LIMIT: Final = 60.0
"""Seconds until a worker has to be ready."""
END_GRACE: Final = 10.0
"""Seconds that a worker may take for the rest when its requests have ended."""
PATIENCE: Final = 2.0
"""Seconds that a connection without a request may stay when its worker is replaced: a request may be on its way."""
ANSWER_LIMIT: Final = 10.0
"""Seconds for the answer to an order."""


@attrs.define
class _Slot:
    failures: int = 0
    restart: IDelayedCall | None = None
    replacing: "Deferred[int] | None" = None


class Supervisor:
    """See the module. Belongs to the reactor's thread.

    :param gone: called with each worker that has ended
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, spawner: ISpawner, workers: int, gone: Callable[[Worker], None] = lambda worker: None
    ) -> None:
        self._clock = clock
        self._spawner = spawner
        self._gone = gone
        self._slots = [_Slot() for _ in range(workers)]
        self._workers: list[Worker] = []
        self._standing_in: dict[int, Worker] = {}
        self._starting: Deferred[None] | None = None
        self._started = False
        self._stopping: list[Deferred[None]] | None = None
        self._rolling = False
        self._drain_limit = 0.0
        self.restarts = 0

    # For people, and for those who ask the workers.

    @property
    def size(self) -> int:
        """How many workers there should be."""
        return len(self._slots)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All that have a process, also those that are on their way in or out."""
        return tuple(self._workers)

    @property
    def serving(self) -> tuple[Worker, ...]:
        """Those that accept connections."""
        return tuple(worker for worker in self._workers if worker.state is State.SERVING)

    @property
    def answering(self) -> tuple[Worker, ...]:
        """Those that can say how they are: that serve, or did and let requests end."""
        return tuple(worker for worker in self._workers if worker.state is not State.STARTING)

    @property
    def started(self) -> bool:
        """Whether all workers have served at once already."""
        return self._started

    def missing(self) -> tuple[int, ...]:
        """The numbers of the workers that don't serve at present, though others may stand in for them."""
        there = {worker.slot for worker in self.serving}
        return tuple(slot + 1 for slot in range(self.size) if slot not in there)

    # Orders.

    def start(self, drain_limit: float) -> "Deferred[None]":
        """Start all workers. Fires when all of them serve.

        :param drain_limit: seconds that requests may take when a worker is replaced
        :return: fails with :class:`WorkerFailed` when one can't
        """
        self._drain_limit = drain_limit
        self._starting = Deferred()
        starting = self._starting
        for slot in range(self.size):
            self._spawn(slot)
        return starting

    def roll(self, rolling: Rolling | None = None) -> "Deferred[None]":
        """Replace every worker by a new one, one after the other: each leaves when its successor serves. Fires when all
        successors do. Cancel it to replace no more than the one whose successor is starting.

        :param rolling: is told how far it is
        :return: fails with :class:`WorkerFailed` when a successor can't serve; its predecessor goes on, and so do those
            whose turn it was not yet
        """
        return Deferred.fromCoroutine(self._roll(Rolling(self.size) if rolling is None else rolling))

    async def _roll(self, rolling: Rolling) -> None:
        if self._stopping is not None:
            raise WorkerFailed("the proxy ends")
        if not self._started:
            raise WorkerFailed("the workers have not all served yet")
        if self._rolling:
            raise WorkerFailed("the workers are being replaced already")
        self._rolling = True
        try:
            for number in range(self.size):
                await self._replace(number, rolling)
        finally:
            self._rolling = False

    async def _replace(self, number: int, rolling: Rolling) -> None:
        """Give a slot a new worker, if it has one at all."""
        slot, old = self._slots[number], self._serving_in(number)
        if old is None:
            # Its turn comes by itself.
            rolling.skipped.append(number + 1)
            return
        began = self._clock.seconds()
        rolling.current = number + 1
        waiting: Deferred[int] = Deferred()
        slot.replacing = waiting
        try:
            # Somebody may have waited for the same successor, and have left.
            if not self._is_starting(number):
                self._spawn(number)
            pid = await waiting
        finally:
            slot.replacing = None
            rolling.current = 0
        rolling.replaced.append(Replaced(number + 1, old.pid, pid, max(0.0, self._clock.seconds() - began)))

    def stop(self, limit: float) -> "Deferred[None]":
        """Let every worker end its requests, for so many seconds, and end. Fires when all have.

        Idempotent: those who ask again are told of the same end.
        """
        if self._stopping is None:
            self._stopping = []
            for slot in self._slots:
                if slot.restart is not None:
                    _cancel(slot.restart)
                    slot.restart = None
            for worker in self.workers:
                self._let_go(worker, limit, 0.0)
            for slot in self._slots:
                if slot.replacing is not None:
                    slot.replacing.errback(WorkerFailed("the proxy ends"))
        if not self._workers:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._stopping.append(done)
        return done

    def broadcast(self, command: type[Command], **arguments: Any) -> None:
        """Tell all workers, those that are on their way in or out included."""
        for worker in self.workers:
            if worker.process is not None:
                self.order(worker, command, **arguments).addErrback(self._no_answer, worker)

    def hear_nothing(self, worker: Worker) -> None:
        """A worker has not answered for a while: others serve its slot, too."""
        if worker.state is State.SERVING and not worker.quiet:
            worker.quiet = True
            self.log.warn("worker {number} ({pid}) does not answer; others serve what arrives for it",
                          number=worker.number, pid=worker.pid)  # fmt: skip
            self._assign()

    def hear(self, worker: Worker) -> None:
        """A worker has answered."""
        if worker.quiet:
            worker.quiet = False
            self.log.info("worker {number} ({pid}) answers again", number=worker.number, pid=worker.pid)
            self._assign()

    def order(self, worker: Worker, command: type[Command], **arguments: Any) -> "Deferred[dict[str, Any]]":
        """Tell one worker; fires with its answer, and fails when there is none within some seconds."""
        assert worker.process is not None
        # One that starts hears what waits for it when it has started.
        limit = START_LIMIT if worker.state is State.STARTING else ANSWER_LIMIT
        return worker.process.order(command, **arguments).addTimeout(limit, self._clock)

    # What happens.

    def _spawn(self, number: int) -> None:
        slot = self._slots[number]
        slot.restart = None
        taken = {worker.seat for worker in self._workers}
        # The first seat is the supervisor's own.
        seat = next(seat for seat in range(1, len(taken) + 2) if seat not in taken)
        worker = Worker(self, number, seat, self._clock.seconds())
        self._workers.append(worker)
        try:
            worker.process = self._spawner.spawn(worker)
        except OSError as error:
            self.worker_ended(worker, f"could not be started: {error}")
            return
        worker.limit = self._clock.callLater(START_LIMIT, self._too_slow, worker)

    def _too_slow(self, worker: Worker) -> None:
        self.log.error("worker {number} is not ready after {limit} s and is killed", number=worker.number,
                       limit=START_LIMIT)  # fmt: skip
        assert worker.process is not None
        worker.process.kill()

    def worker_ready(self, worker: Worker) -> None:
        """A process accepts connections."""
        if worker.state is not State.STARTING:
            return
        if worker.limit is not None:
            _cancel(worker.limit)
            worker.limit = None
        if self._stopping is not None:
            return
        predecessors = [each for each in self.serving if each.slot == worker.slot]
        worker.state = State.SERVING
        worker.served_from = self._clock.seconds()
        for each in predecessors:
            self._let_go(each, self._drain_limit, PATIENCE)
        self._assign()
        slot = self._slots[worker.slot]
        waiting, slot.replacing = slot.replacing, None
        if waiting is not None:
            waiting.callback(worker.pid)
        if not self._started and not self.missing():
            self._started = True
            starting, self._starting = self._starting, None
            if starting is not None:
                starting.callback(None)

    def worker_leaving(self, worker: Worker) -> None:
        """Somebody else has told a worker to end: another one takes its place at once."""
        if worker.state is not State.SERVING or self._stopping is not None:
            return
        worker.state = State.LEAVING
        assert worker.process is not None
        worker.limit = self._clock.callLater(self._drain_limit + END_GRACE, worker.process.kill)
        self._assign()
        if not self._is_starting(worker.slot):
            self._spawn(worker.slot)

    def _let_go(self, worker: Worker, limit: float, patience: float) -> None:
        """The worker ends its requests, and then itself."""
        if worker.state is State.LEAVING:
            return
        worker.state = State.LEAVING
        assert worker.process is not None
        if worker.limit is not None:
            _cancel(worker.limit)
        worker.limit = self._clock.callLater(limit + END_GRACE, worker.process.kill)
        self.order(worker, Drain, limit=limit, patience=patience).addErrback(self._no_answer, worker)

    def worker_ended(self, worker: Worker, how: str) -> None:
        """A process is gone."""
        if worker.state is State.GONE:
            return
        before, worker.state = worker.state, State.GONE
        self._workers.remove(worker)
        if worker.limit is not None:
            _cancel(worker.limit)
            worker.limit = None
        for slot in [slot for slot, other in self._standing_in.items() if other is worker]:
            del self._standing_in[slot]
        self._gone(worker)
        if self._stopping is not None:
            if not self._workers:
                waiting, self._stopping = self._stopping, []
                for each in waiting:
                    each.callback(None)
            return
        self._assign()
        if before is State.LEAVING:
            self.log.info("worker {number} ({pid}) has left: {how}", number=worker.number, pid=worker.pid, how=how)
            return
        self._lost(worker, before, how)

    def _lost(self, worker: Worker, before: State, how: str) -> None:
        """A worker that should be there is not."""
        slot = self._slots[worker.slot]
        self.log.error("worker {number} ({pid}) {how}", number=worker.number, pid=worker.pid, how=how)
        problem = WorkerFailed(f"worker {worker.number} {how}")
        if not self._started and self._starting is not None:
            starting, self._starting = self._starting, None
            starting.errback(problem)
            return
        if before is State.STARTING and slot.replacing is not None:
            waiting, slot.replacing = slot.replacing, None
            waiting.errback(problem)
        if self._serving_in(worker.slot) is not None or slot.restart is not None:
            return
        if before is State.SERVING and self._clock.seconds() - worker.served_from >= STEADY:
            slot.failures = 0
        slot.failures += 1
        self.restarts += 1
        delay = 0.0 if slot.failures == 1 else min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(slot.failures - 2, 20))
        if self._is_starting(worker.slot):
            return
        slot.restart = self._clock.callLater(delay, self._spawn, worker.slot)

    def _serving_in(self, slot: int) -> Worker | None:
        return next((worker for worker in self.serving if worker.slot == slot), None)

    def _is_starting(self, slot: int) -> bool:
        return any(worker.slot == slot and worker.state is State.STARTING for worker in self._workers)

    def _is_attended(self, slot: int) -> bool:
        """Whether its own worker serves it."""
        worker = self._serving_in(slot)
        return worker is not None and not worker.quiet

    def _assign(self) -> None:
        """Have somebody stand in for each worker that is missing or quiet, and nobody for those that are not."""
        for slot in range(self.size):
            present = self._standing_in.get(slot)
            if present is not None and (present not in self._attentive() or self._is_attended(slot)):
                del self._standing_in[slot]
                if present.state is State.SERVING:
                    self.order(present, GiveBack, slot=slot).addErrback(self._no_answer, present)
            if slot in self._standing_in or self._is_attended(slot) or not self._started:
                continue
            burdens = list(self._standing_in.values())
            substitute = min(self._attentive(), key=burdens.count, default=None)
            if substitute is not None:
                self._standing_in[slot] = substitute
                self.order(substitute, TakeOver, slot=slot).addErrback(self._no_answer, substitute)

    def _attentive(self) -> list[Worker]:
        return [worker for worker in self.serving if not worker.quiet]

    def _no_answer(self, reason: Failure, worker: Worker) -> None:
        if worker.state is not State.GONE:
            self.log.warn(
                "worker {number} ({pid}) does not do as it is told: {error}",
                number=worker.number,
                pid=worker.pid,
                error=reason.getErrorMessage() or reason.type.__name__,
            )


def _cancel(call: IDelayedCall) -> None:
    try:
        call.cancel()
    except (AlreadyCalled, AlreadyCancelled):
        return
