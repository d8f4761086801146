"""Asks the workers how they are: again and again, and when somebody wants to know."""

import json
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cluster.commands import Report
from s3proxy.cluster.supervisor import Supervisor
from s3proxy.cluster.workers import State, Worker
from s3proxy.services.facts import Gathered
from s3proxy.telemetry.snapshot import Snapshot, empty, merge, remains

__all__ = ["QUIET", "SILENCE", "Polling"]

PULL: Final = 1.0
"""Seconds between two questions to all workers how they are."""
COUNT_EVERY: Final = 5
"""Every so many questions, workers are also asked what they have counted: of one that dies, no more is lost."""
ANSWER: Final = 3.0
"""Seconds that people wait for a worker's answer; then they see what it said before."""
FRESH: Final = 0.05
"""Seconds for which an answer is as good as a new one."""
QUIET: Final = 10
"""Looks at a worker without any answer after which others serve what arrives for it."""
SILENCE: Final = 60
"""Looks at a worker without any answer after which it is taken for dead, and killed. These are looks, not seconds: when
the supervisor itself, or the whole machine, stood still, no worker is to blame.
"""


class Polling:
    """See the module.

    :ivar gathered: what the workers say of themselves
    """

    log = Logger()

    def __init__(self, reactor: Any, supervisor: Supervisor) -> None:
        self._reactor = reactor
        self._supervisor = supervisor
        self._snapshots: dict[int, Snapshot] = {}
        self._past: Snapshot = empty()
        self._asked_at: dict[str, float] = {}
        self._asking: dict[str, Deferred[None]] = {}
        self._unanswered: dict[Worker, int] = {}
        self._looks = 0
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self.gathered = Gathered()

    def start(self) -> None:
        """Begin."""
        self._loop.start(PULL, now=False).addErrback(lambda reason: self.log.failure("asking the workers", reason))

    def stop(self) -> None:
        """Ask no more. Idempotent."""
        if self._loop.running:
            self._loop.stop()

    def snapshots(self) -> list[Snapshot]:
        """What workers have counted, those that have ended included."""
        return [*self._snapshots.values(), self._past]

    # What workers say.

    def take(self, worker: Worker, said: dict[str, Any]) -> None:
        """A worker says how it is, and what it has counted."""
        if worker.state is State.GONE:
            return
        self._unanswered[worker] = 0
        self._supervisor.hear(worker)
        if "facts" in said:
            self.gathered.tell(worker, worker.number, said["facts"])
        if "snapshot" in said:
            self._snapshots[worker.seat] = said["snapshot"]

    def gone(self, worker: Worker) -> None:
        """A worker has ended: what it has counted stays."""
        self._unanswered.pop(worker, None)
        self.gathered.gone(worker)
        last = self._snapshots.pop(worker.seat, None)
        if last is not None:
            self._past = merge([self._past, remains(last)])

    # Asking them.

    def _look(self) -> None:
        for worker in self._supervisor.serving:
            looks = self._unanswered[worker] = self._unanswered.get(worker, 0) + 1
            if looks > SILENCE and worker.process is not None:
                self.log.error(
                    "worker {number} ({pid}) says nothing for {limit} s and is killed",
                    number=worker.number, pid=worker.pid, limit=round(SILENCE * PULL),
                )  # fmt: skip
                worker.process.kill()
            elif looks > QUIET:
                self._supervisor.hear_nothing(worker)
        self._looks += 1
        # A Deferred here would hold up the next question.
        self.refresh("facts" if self._looks % COUNT_EVERY else "facts,snapshot")

    def refresh(self, wanted: str = "facts") -> "Deferred[None]":
        """Ask all workers; fires, without an error, when all have answered, or have been given time enough.

        :param wanted: facts, snapshot or latest, with commas between them
        """
        now = self._reactor.seconds()
        if 0 <= now - self._asked_at.get(wanted, -FRESH) < FRESH:
            return succeed(None)
        asking = self._asking.get(wanted)
        if asking is None:
            asking = self._asking[wanted] = Deferred()
            self._ask(wanted, asking)
        waiting: Deferred[None] = Deferred()

        def told(result: Any) -> Any:
            if not waiting.called:
                waiting.callback(None)
            return result

        asking.addBoth(told)
        return waiting

    def _ask(self, wanted: str, asking: "Deferred[None]") -> None:
        began = self._reactor.seconds()

        def ask(worker: Worker) -> "Deferred[Any]":
            answer: Deferred[Any] = self._supervisor.order(worker, Report, wanted=wanted)
            return answer.addTimeout(ANSWER, self._reactor).addCallbacks(
                lambda said: self.take(worker, json.loads(said["data"])), self._no_answer
            )

        def over(_: Any) -> None:
            self._asked_at[wanted] = began
            del self._asking[wanted]
            asking.callback(None)

        DeferredList([ask(worker) for worker in self._supervisor.answering]).addCallback(over)

    def _no_answer(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self.log.debug("a worker did not say how it is: {error}", error=reason.getErrorMessage())
