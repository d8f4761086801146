"""The workers as their supervisor sees them: what an engine is to a single process."""

import pickle
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.admin.board import ComponentStatus, HealthComponent, HealthState
from s3proxy.cluster.commands import Reload, Reopen
from s3proxy.cluster.handover import Handover
from s3proxy.cluster.process import Hearing, ProcessSpawner
from s3proxy.cluster.supervisor import Supervisor
from s3proxy.cluster.workers import Rolling, State, Worker
from s3proxy.config.model import Config
from s3proxy.dashboard.requests import LogLines
from s3proxy.policy.rules import Rules
from s3proxy.services.cache import CacheService
from s3proxy.services.engine import COMPONENTS
from s3proxy.services.facts import components
from s3proxy.services.listeners import BoundPort
from s3proxy.services.polling import Polling
from s3proxy.services.worker_settings import USE, WorkerSettings, share_of
from s3proxy.storage.hostledger import HostLedger
from s3proxy.storage.recency import Use
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.snapshot import Snapshot

__all__ = ["Crew"]


class Crew(Service, Hearing):
    """See the module.

    :param bound: the ports of the listeners for clients, by name
    :param memory: descriptor of what all processes of the host share
    :param cache: of this process, which looks after the directory for all
    :param own_addresses: where this proxy listens
    :param lines: gets what the workers log
    :param ready: called when all workers serve for the first time
    :param failed: called with the reason when they can't
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: Config,
        *,
        workers: int,
        bound: dict[str, BoundPort],
        memory: int,
        cache: CacheService,
        own_addresses: Callable[[], frozenset[tuple[str, int]]],
        hostname: str,
        lines: LogLines,
        ready: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._bound = bound
        self._cache = cache
        self._own_addresses = own_addresses
        self._hostname = hostname
        self._lines = lines
        self._when_ready = ready
        self._when_failed = failed
        self._size = workers
        self._left: set[Worker] = set()
        spawner = ProcessSpawner(reactor, self, self._handover, self._sockets, memory)
        self.supervisor = Supervisor(reactor, spawner, workers, self._gone)
        self._polling = Polling(reactor, self.supervisor)
        self.traffic = self.manager = self._gathered = self._polling.gathered

    # Life.

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        self._polling.start()
        self.supervisor.start(self._config.server.drain_timeout).addCallbacks(
            lambda _: self._when_ready(), lambda reason: self._when_failed(reason.getErrorMessage())
        )

    def _sockets(self) -> dict[str, list[list[socket.socket]]]:
        return {name: bound.slots for name, bound in self._bound.items()}

    def _handover(self, worker: Worker, sockets: dict[str, list[list[int]]]) -> Handover:
        return Handover(
            number=worker.number,
            seat=worker.seat,
            slot=worker.slot,
            workers=self._size,
            sockets=sockets,
            settings=WorkerSettings(
                config=share_of(self._config, self._size, self._cache.ram_limit),
                hostname=self._hostname,
                own_addresses=self._own_addresses(),
                told_lines=self._config.dashboard.enabled,
            ),
        )

    def roll(self, rolling: Rolling | None = None) -> "Deferred[None]":
        """Replace all workers, one after the other, without refusing a connection; see :meth:`Supervisor.roll`."""
        self.log.info("the workers are replaced one after the other")
        return self.supervisor.roll(rolling).addCallbacks(self._rolled, self._not_rolled)

    def _rolled(self, _: None) -> None:
        self.log.info("all workers are replaced")

    def _not_rolled(self, reason: Failure) -> Failure:
        if reason.check(CancelledError):
            self.log.warn("no more workers are replaced: who ordered it has gone, or would wait no longer")
        else:
            self.log.error("the workers are not all replaced: {error}", error=reason.getErrorMessage())
        return reason

    @property
    def size(self) -> int:
        """How many workers there should be."""
        return self._size

    def leaving(self) -> int:
        """How many workers have a successor, or will have none, and let requests end."""
        return sum(worker.state is State.LEAVING for worker in self.supervisor.workers)

    def reopen_logs(self) -> None:
        """The files were renamed: begin new ones."""
        self.supervisor.broadcast(Reopen)

    def reload(self, config: Config | None) -> None:
        """See :meth:`Engine.reload`."""
        if config is not None:
            self._config = config
        self.supervisor.broadcast(
            Reload, data=pickle.dumps(share_of(self._config, self._size, self._cache.ram_limit))
        )  # fmt: skip

    def use_rules(self, rules: Rules) -> None:
        """Every worker reads them for itself; the directory is looked after here."""
        self._cache.use_rules(rules)

    async def drain(self, limit: float) -> None:
        """See :meth:`Engine.drain`. All workers have ended afterwards."""
        for bound in self._bound.values():
            bound.close()
        await self.supervisor.stop(limit)

    async def close(self) -> None:
        """See :meth:`Engine.close`."""
        self._polling.stop()

    # What workers say.

    def used(self, worker: Worker, data: bytes) -> None:
        """See :class:`Hearing`."""
        if self._cache.store is not None:
            whole = len(data) // USE.size * USE.size
            self._cache.store.heard_of([Use(*each) for each in USE.iter_unpack(data[:whole])])

    def logged(self, worker: Worker, lines: list[Any]) -> None:
        """See :class:`Hearing`."""
        for at, level, namespace, text in lines:
            self._lines.add(float(at), str(level), str(namespace), str(text))

    def farewell(self, worker: Worker, counted: dict[str, Any]) -> None:
        """See :class:`Hearing`."""
        self._left.add(worker)
        self._polling.take(worker, counted)

    def _gone(self, worker: Worker) -> None:
        self._polling.gone(worker)
        store = self._cache.store
        if store is not None and isinstance(store.volume.ledger, HostLedger):
            store.volume.ledger.vacate(worker.seat)
        if worker in self._left:
            # It has put everything in order itself.
            self._left.discard(worker)
        else:
            self._cache.clean_up_soon()

    def refresh(self, wanted: str = "facts") -> "Deferred[None]":
        """See :meth:`Polling.refresh`."""
        return self._polling.refresh(wanted)

    def snapshots(self) -> list[Snapshot]:
        """See :meth:`Polling.snapshots`."""
        return self._polling.snapshots()

    # For people.

    def requests(self) -> Iterator[tuple[Any, Any]]:
        """See :meth:`Engine.requests`."""
        return self._gathered.requests()

    def permits(self) -> int:
        """See :meth:`Engine.permits`."""
        return self._gathered.permits()

    def upstream(self) -> dict[str, Any]:
        """See :meth:`Engine.upstream`."""
        return self._gathered.upstream()

    def latest(self) -> Iterator[tuple[float, bytes]]:
        """See :meth:`Engine.latest`."""
        return self._gathered.latest()

    def read(self) -> dict[str, float]:
        """See :meth:`Engine.read`."""
        row = self._gathered.read()
        own = self._cache.store
        if own is not None:
            row["evictions"] += own.evictor.evicted_items
            row["evicted_bytes"] += own.evictor.evicted_bytes
            row["disk_bytes"] = own.usage()
            row["disk_limit"] = self._cache.limit
        return row

    def readings(self) -> Iterator[Reading]:
        """Values for the metrics that this process keeps itself."""
        cache = self._cache
        if cache.store is not None:
            yield Reading("s3proxy_cache_size_bytes", cache.store.usage(), ("disk",))
            yield Reading("s3proxy_cache_limit_bytes", cache.limit, ("disk",))

    def health(self) -> dict[str, HealthComponent]:
        """See :meth:`Engine.health`."""
        return {**components(self._gathered, COMPONENTS), "workers": self._health_of_workers}

    def too_late(self, limit: float) -> str | None:
        """Why the proxy can't go on, if a worker's event loop is later than so many seconds."""
        late = self._gathered.most_late()
        return f"The event loop of a worker is {late:.1f} s late." if late > limit else None

    def _health_of_workers(self) -> ComponentStatus:
        workers = self.supervisor.workers
        data: dict[str, object] = {
            "wanted": self.supervisor.size,
            "serving": len(self.supervisor.serving),
            "restarts": self.supervisor.restarts,
            "workers": [
                {
                    "number": worker.number,
                    "pid": worker.pid,
                    "state": "quiet" if worker.quiet else worker.state.value,
                    "seconds": round(time.time() - worker.began_at, 1),
                }
                for worker in workers
            ],
        }
        missing, serving = self.supervisor.missing(), self.supervisor.serving
        quiet = [worker.number for worker in serving if worker.quiet]
        if not self.supervisor.started:
            text = f"Worker {_listed(missing)} is starting."
            return ComponentStatus("workers", HealthState.DEGRADED, text, data=data, expected=True)
        if len(quiet) == len(serving):
            text = "No worker answers." if serving else "No worker serves."
            return ComponentStatus("workers", HealthState.UNHEALTHY, text, data=data)
        texts = []
        if missing:
            texts.append(f"Worker {_listed(missing)} is started again; the others serve its connections.")
        if quiet:
            texts.append(f"Worker {_listed(quiet)} does not answer; the others serve what arrives for it.")
        state = HealthState.DEGRADED if texts else HealthState.HEALTHY
        return ComponentStatus("workers", state, " ".join(texts), data=data)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
