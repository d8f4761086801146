"""Workers as processes: how they are started, and the supervisor's end of the channel to each."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.protocols.amp import Command
from twisted.python.failure import Failure

from s3proxy.cluster.channel import Channel
from s3proxy.cluster.commands import Farewell, Leaving, Lines, Ready, Uses
from s3proxy.cluster.handover import CHANNEL, FIRST_SOCKET, HOST_MEMORY, SETUP, Handover, write_setup
from s3proxy.cluster.workers import Worker

__all__ = ["Hearing", "ProcessSpawner"]

DEAF: Final = 1.0
"""Seconds for which a worker whose connection has ended may yet live."""
_PROGRAM: Final = "from s3proxy.worker import main; main()"


class Hearing:
    """What is done with what workers say. Does nothing with it."""

    def used(self, worker: Worker, data: bytes) -> None:
        """See :class:`~s3proxy.cluster.commands.Uses`."""

    def logged(self, worker: Worker, lines: list[Any]) -> None:
        """See :class:`~s3proxy.cluster.commands.Lines`."""

    def farewell(self, worker: Worker, counted: dict[str, Any]) -> None:
        """See :class:`~s3proxy.cluster.commands.Farewell`."""


class _Channel(Channel):
    """The supervisor's end. What a worker says wrong is logged, and no more."""

    def __init__(self, clock: IReactorTime, worker: Worker, hearing: Hearing) -> None:
        super().__init__()
        self._clock = clock
        self._worker = worker
        self._hearing = hearing

    def lost(self) -> None:
        """Most often the process has died, of which the supervisor learns by itself. One that lives takes its
        supervisor for dead: it accepts nothing more.
        """
        self._clock.callLater(DEAF, self._worker.is_leaving)

    @Ready.responder
    def ready(self, pid: int) -> dict[str, Any]:
        """The worker accepts connections."""
        self._worker.is_ready()
        return {}

    @Leaving.responder
    def leaving(self) -> dict[str, Any]:
        """The worker accepts nothing more."""
        self._worker.is_leaving()
        return {}

    @Uses.responder
    def uses(self, data: bytes) -> dict[str, Any]:
        """What was used of late."""
        return self._hear(self._hearing.used, data)

    @Lines.responder
    def lines(self, data: bytes) -> dict[str, Any]:
        """What the worker has logged."""
        return self._hear(lambda worker, data: self._hearing.logged(worker, json.loads(data)), data)

    @Farewell.responder
    def farewell(self, data: bytes) -> dict[str, Any]:
        """What the worker has counted."""
        return self._hear(lambda worker, data: self._hearing.farewell(worker, json.loads(data)), data)

    def _hear(self, hear: Callable[[Worker, bytes], None], data: bytes) -> dict[str, Any]:
        try:
            hear(self._worker, data)
        except Exception:
            self._log.failure("what worker {number} said", number=self._worker.number)
        return {}


class _Process(ProcessProtocol):
    """One process of a worker (:class:`~s3proxy.cluster.workers.IWorkerProcess`)."""

    def __init__(self, worker: Worker, channel: _Channel) -> None:
        self._worker = worker
        self._channel = channel
        self.pid = 0

    def connectionMade(self) -> None:
        """The process runs."""
        assert self.transport is not None
        self.pid = self.transport.pid or 0

    def processEnded(self, reason: Failure) -> None:
        """The process is gone."""
        self._channel.close()
        self._worker.has_ended(_how(reason))

    def order(self, command: type[Command], **arguments: Any) -> "Deferred[dict[str, Any]]":
        """See :class:`~s3proxy.cluster.workers.IWorkerProcess`."""
        return self._channel.tell(command, **arguments)

    def kill(self) -> None:
        """See :class:`~s3proxy.cluster.workers.IWorkerProcess`."""
        assert self.transport is not None
        try:
            self.transport.signalProcess("KILL")
        except ProcessExitedAlready:
            return


def _how(reason: Failure) -> str:
    if reason.check(ProcessDone):
        return "ended with exit code 0"
    if reason.check(ProcessTerminated):
        number = reason.value.signal
        if number:
            return f"was ended by {signal.Signals(number).name}"
        return f"ended with exit code {reason.value.exitCode}"
    return f"ended: {reason.getErrorMessage()}"


class ProcessSpawner:
    """Starts workers as children that inherit their sockets (:class:`~s3proxy.cluster.workers.ISpawner`).

    :param handover: what a worker is told, but for its sockets
    :param sockets: by listener and slot, the listening sockets
    :param memory: descriptor of the memory that all processes of the host share
    """

    def __init__(
        self,
        reactor: Any,
        hearing: Hearing,
        handover: Callable[[Worker, dict[str, list[list[int]]]], Handover],
        sockets: Callable[[], dict[str, list[list[socket.socket]]]],
        memory: int,
    ) -> None:
        self._reactor = reactor
        self._hearing = hearing
        self._handover = handover
        self._sockets = sockets
        self._memory = memory

    def spawn(self, worker: Worker) -> _Process:
        """See :class:`~s3proxy.cluster.workers.ISpawner`."""
        numbers: dict[str, list[list[int]]] = {}
        children = {0: 0, 1: 1, 2: 2, HOST_MEMORY: self._memory}
        for name, slots in self._sockets().items():
            numbers[name] = []
            for sockets in slots:
                numbers[name].append([])
                for sock in sockets:
                    number = FIRST_SOCKET + sum(len(each) for per in numbers.values() for each in per)
                    numbers[name][-1].append(number)
                    children[number] = sock.fileno()
        setup = write_setup(self._handover(worker, numbers))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            children[SETUP] = setup
            children[CHANNEL] = theirs.fileno()
            channel = _Channel(self._reactor, worker, self._hearing)
            process = _Process(worker, channel)
            channel.connect(self._reactor, ours)
            self._reactor.spawnProcess(
                process,
                sys.executable,
                [sys.executable, "-c", _PROGRAM, f"worker-{worker.number}"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if os.path.isabs(path))},
                childFDs=children,
            )
        finally:
            os.close(setup)
            ours.close()
            theirs.close()
        return process
