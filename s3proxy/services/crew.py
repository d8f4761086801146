"""The workers as their supervisor sees them: what an engine is to a single process."""

import json
import pickle
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
from prometheus_client import CollectorRegistry
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.admin.board import ComponentStatus, HealthComponent, HealthState
from s3proxy.cluster.commands import Reload, Reopen, Report
from s3proxy.cluster.handover import Handover
from s3proxy.cluster.process import Hearing, ProcessSpawner
from s3proxy.cluster.supervisor import State, Supervisor, Worker
from s3proxy.config.model import Config
from s3proxy.dashboard.requests import LogLines
from s3proxy.policy.rules import Rules
from s3proxy.services.cache import CacheService
from s3proxy.services.facts import Gathered, components
from s3proxy.services.listeners import BoundPort
from s3proxy.storage.hostledger import HostLedger
from s3proxy.storage.recency import Use
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.snapshot import Snapshot, empty, merge, remains

__all__ = ["USE", "Crew", "HostMetrics", "WorkerSettings", "share_of"]

PULL: Final = 1.0
"""Seconds between two questions to all workers how they are."""
COUNT_EVERY: Final = 5
"""Every so many questions, workers are also asked what they have counted: of one that dies, no more is lost."""
ANSWER: Final = 3.0
"""Seconds that people wait for a worker's answer; then they see what it said before."""
FRESH: Final = 0.05
"""Seconds for which an answer is as good as a new one."""
SILENCE: Final = 60.0
"""Seconds without any answer after which a worker is taken for dead, and killed."""

USE: Final = struct.Struct("<20sQId")
"""A use of what is stored, as workers tell it: digest, start, how often, when last."""


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """What a worker needs to know beside its sockets.

    :ivar config: its own share, see :func:`share_of`
    :ivar own_addresses: where this proxy listens
    :ivar told_lines: whether somebody wants to see what it logs
    """

    config: Config
    hostname: str
    own_addresses: frozenset[tuple[str, int]]
    told_lines: bool


def share_of(config: Config, workers: int, ram: int) -> Config:
    """The configuration of one of so many workers: what is limited for the whole proxy is divided.

    :param ram: bytes that the memory cache of the whole proxy may take
    """

    def part(limit: int, least: int = 1) -> int:
        return max(least, -(-limit // workers))

    def part_if_any(limit: int, least: int = 1) -> int:
        return part(limit, least) if limit else 0

    server, cache, pool, rate = config.server, config.cache, config.connection_pool, config.download_bandwidth
    return attrs.evolve(
        config,
        server=attrs.evolve(
            server,
            max_concurrent_requests=part(server.max_concurrent_requests),
            max_inflight_buffer_bytes=part_if_any(server.max_inflight_buffer_bytes, 1 << 20),
        ),
        cache=attrs.evolve(
            cache,
            max_ram_cache_size=part(ram),
            metadata_cache=attrs.evolve(
                cache.metadata_cache, max_entries=part(cache.metadata_cache.max_entries, 100)
            ),
        ),
        connection_pool=attrs.evolve(pool, max_connections=part(pool.max_connections)),
        download_bandwidth=attrs.evolve(rate, max_bytes_per_sec=part_if_any(rate.max_bytes_per_sec)),
    )  # fmt: skip


class HostMetrics(Metrics):
    """The metrics of this process and of all workers together.

    :param others: gives what the workers have counted
    """

    def __init__(self, registry: CollectorRegistry, others: Callable[[], list[Snapshot]]) -> None:
        super().__init__(registry)
        self._others = others

    def snapshot(self) -> Snapshot:
        """See :meth:`Metrics.snapshot`."""
        return merge([super().snapshot(), *self._others()])

    def recent_rates(self) -> tuple[float, float]:
        """See :meth:`Metrics.recent_rates`."""
        families = merge(self._others())["families"]

        def recent(name: str) -> float:
            for labels, (part, whole) in families.get(name, {"samples": ()})["samples"]:
                if labels == ["5m"]:
                    return float(part / whole) if whole else 0.0
            return 0.0

        return recent("s3proxy_cache_hit_rate_ratio"), recent("s3proxy_cache_byte_hit_rate_ratio")


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
        self._gathered = Gathered()
        self._snapshots: dict[int, Snapshot] = {}
        self._past: Snapshot = empty()
        self._asked_at: dict[str, float] = {}
        self._asking: dict[str, Deferred[None]] = {}
        self._heard_at: dict[Worker, float] = {}
        self._left: set[Worker] = set()
        self._pulls = 0
        self._pulling = LoopingCall(self._pull)
        self._pulling.clock = reactor
        self.traffic = self.manager = self._gathered
        spawner = ProcessSpawner(reactor, self, self._handover, self._sockets, memory)
        self.supervisor = Supervisor(reactor, spawner, workers, self._gone)

    # Life.

    def startService(self) -> None:
        """Start the workers."""
        super().startService()
        self._pulling.start(PULL, now=False).addErrback(self._broken)
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

    def roll(self) -> "Deferred[None]":
        """Replace all workers, one after the other, without refusing a connection; see :meth:`Supervisor.roll`."""
        self.log.info("the workers are replaced one after the other")
        return self.supervisor.roll().addCallbacks(self._rolled, self._not_rolled)

    def _rolled(self, _: None) -> None:
        self.log.info("all workers are replaced")

    def _not_rolled(self, reason: Failure) -> None:
        self.log.error("the workers are not all replaced: {error}", error=reason.getErrorMessage())

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
        if self._pulling.running:
            self._pulling.stop()

    def _broken(self, reason: Failure) -> None:
        self.log.failure("asking the workers", reason)

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
        self._take(worker, counted)

    def _gone(self, worker: Worker) -> None:
        self._heard_at.pop(worker, None)
        self._gathered.gone(worker)
        last = self._snapshots.pop(worker.seat, None)
        if last is not None:
            self._past = merge([self._past, remains(last)])
        store = self._cache.store
        if store is not None and isinstance(store.volume.ledger, HostLedger):
            store.volume.ledger.vacate(worker.seat)
        if worker in self._left:
            # It has put everything in order itself.
            self._left.discard(worker)
        else:
            self._cache.clean_up_soon()

    def _take(self, worker: Worker, said: dict[str, Any]) -> None:
        if worker.state is State.GONE:
            return
        self._heard_at[worker] = self._reactor.seconds()
        if "facts" in said:
            self._gathered.tell(worker, worker.number, said["facts"])
        if "snapshot" in said:
            self._snapshots[worker.seat] = said["snapshot"]

    # Asking them.

    def _pull(self) -> None:
        now = self._reactor.seconds()
        for worker in self.supervisor.serving:
            if now - self._heard_at.setdefault(worker, now) > SILENCE and worker.process is not None:
                self.log.error(
                    "worker {number} ({pid}) says nothing for {limit} s and is killed",
                    number=worker.number, pid=worker.pid, limit=SILENCE,
                )  # fmt: skip
                worker.process.kill()
        self._pulls += 1
        # A Deferred here would hold up the next question.
        self.refresh("facts" if self._pulls % COUNT_EVERY else "facts,snapshot")

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
            answer: Deferred[Any] = self.supervisor.order(worker, Report, wanted=wanted)
            return answer.addTimeout(ANSWER, self._reactor).addCallbacks(
                lambda said: self._take(worker, json.loads(said["data"])), self._no_answer
            )

        def over(_: Any) -> None:
            self._asked_at[wanted] = began
            del self._asking[wanted]
            asking.callback(None)

        DeferredList([ask(worker) for worker in self.supervisor.serving]).addCallback(over)

    def _no_answer(self, reason: Failure) -> None:
        if not reason.check(CancelledError):
            self.log.debug("a worker did not say how it is: {error}", error=reason.getErrorMessage())

    def snapshots(self) -> list[Snapshot]:
        """What workers have counted, those that have ended included."""
        return [*self._snapshots.values(), self._past]

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
        names = ["upstream", "dns", "capacity", "reactor", "logs", "listeners", "tls"]
        return {**components(self._gathered, names), "workers": self._health_of_workers}

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
                    "state": worker.state.value,
                    "seconds": round(time.time() - worker.began_at, 1),
                }
                for worker in workers
            ],
        }
        missing = self.supervisor.missing()
        if not self.supervisor.serving:
            return ComponentStatus("workers", HealthState.UNHEALTHY, "No worker serves.", data=data)
        if missing:
            text = f"Worker {', '.join(map(str, missing))} is started again; the others serve its connections."
            return ComponentStatus("workers", HealthState.DEGRADED, text, data=data)
        return ComponentStatus("workers", HealthState.HEALTHY, data=data)
