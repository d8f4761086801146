"""What people and programs look at the proxy with: health and metrics over HTTP, OTLP, the dashboard, and the socket of
s3proxyctl.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.web.resource import IResource

from s3proxy import __version__
from s3proxy.admin.api import control_resource
from s3proxy.admin.board import HealthBoard
from s3proxy.admin.health import health_resource
from s3proxy.admin.metrics import metrics_resource
from s3proxy.admin.refreshing import RefreshingResource
from s3proxy.admin.sites import admin_site
from s3proxy.config.model import Config
from s3proxy.dashboard.browse import Browser
from s3proxy.dashboard.catalog import Catalog
from s3proxy.dashboard.documents import Known
from s3proxy.dashboard.requests import LogLines
from s3proxy.services.admin_socket import AdminSocket
from s3proxy.services.cache import CacheService
from s3proxy.services.control import LocalOperations
from s3proxy.services.crew import Crew
from s3proxy.services.dashboard import DashboardService
from s3proxy.services.engine import Engine
from s3proxy.services.listeners import AdminListener, BoundPort
from s3proxy.services.rules_source import RulesSource
from s3proxy.telemetry.metrics import Metrics
from s3proxy.telemetry.snapshot import Snapshot
from s3proxy.telemetry.thread import SerialThread

if TYPE_CHECKING:
    from s3proxy.services.otlp import OtlpExporter

__all__ = ["Operators"]


class Operators:
    """See the module. Its services become children of the parent, in the order in which they are added.

    :param facts: who this instance is
    :param serving: who serves clients: this process, or its workers
    :param bound: the ports of the listeners for clients, by name
    :param end: begins the end of the process, in so many seconds; gives back how long requests may take then
    """

    def __init__(
        self,
        reactor: Any,
        parent: MultiService,
        config: Config,
        *,
        facts: dict[str, str],
        started_at: float,
        board: HealthBoard,
        metrics: Metrics,
        cache: CacheService,
        rules: RulesSource,
        serving: Engine | Crew,
        bound: dict[str, BoundPort],
        lines: LogLines,
        end: Callable[[float], float],
    ) -> None:
        self._reactor = reactor
        self._parent = parent
        self._config = config
        self._facts = facts
        self._started_at = started_at
        self._board = board
        self._metrics = metrics
        self._cache = cache
        self._rules = rules
        self._serving = serving
        self._crew = serving if isinstance(serving, Crew) else None
        self._bound = bound
        self._lines = lines
        self._end = end
        self._browser: Browser | None = None
        self._dashboard: DashboardService | None = None
        self._socket: AdminSocket | None = None
        self._otlp: OtlpExporter | None = None

    def listeners(self) -> list[AdminListener]:
        """All that listen on TCP."""
        found = [child for child in self._parent.services if isinstance(child, AdminListener)]
        return found if self._dashboard is None else [*found, self._dashboard.listener]

    def failures(self) -> list[str]:
        """What can't listen, and why."""
        failed = [child.error for child in self.listeners() if child.error]
        if self._socket is not None and self._socket.error:
            failed.append(self._socket.error)
        return failed

    # What is added.

    def add_exporter(self) -> None:
        """Of metrics, to an OTLP collector, if that is wanted."""
        if not self._config.metrics.otlp.enabled:
            return
        # It needs what only an extra installs.
        from s3proxy.services.otlp import OtlpExporter

        self._otlp = OtlpExporter(
            self._reactor,
            self._config.metrics.otlp,
            snapshot=self._collect,
            resource={
                "service.name": "s3-proxy",
                "service.version": __version__,
                "service.instance.id": self._facts["instance_id"],
                "host.name": self._facts["hostname"],
            },
            exported=self._metrics.exported,
            started_at=self._started_at,
        )
        self._otlp.setServiceParent(self._parent)

    def _collect(self) -> "Snapshot | Deferred[Snapshot]":
        if self._crew is None:
            return self._metrics.snapshot()
        return self._crew.refresh("snapshot").addCallback(lambda _: self._metrics.snapshot())

    def add_sites(self) -> None:
        """The listeners for health and metrics."""
        health, metrics = self._config.health, self._config.metrics
        if health.enabled:
            site = admin_site(self._fresh(health_resource(self._board, health.endpoint)), self._reactor)
            AdminListener(
                self._reactor, "health.port", health.port, health.bind_address, site
            ).setServiceParent(self._parent)  # fmt: skip
        if metrics.enabled:
            resource = metrics_resource(self._metrics.snapshot, metrics.endpoint, metrics.format)
            site = admin_site(self._fresh(resource, "snapshot"), self._reactor)
            AdminListener(
                self._reactor, "metrics.port", metrics.port, metrics.bind_address, site
            ).setServiceParent(self._parent)  # fmt: skip

    def add_control(self, socket_path: str | None) -> None:
        """The dashboard, and the socket of s3proxyctl."""
        assert self._cache.manager is not None and self._cache.store is not None
        volume, run = self._cache.store.volume, self._cache.disk.run
        known = Known(
            facts=self._facts,
            now=time.time,
            clock=self._reactor.seconds,
            started_at=self._started_at,
            board=self._board,
            traffic=self._serving.traffic,
            manager=self._serving.manager,
            running=self._serving.requests,
            permits=self._serving.permits,
            upstream=self._serving.upstream,
            rules=lambda: self._rules.rules,
        )
        catalog = Catalog(self._reactor, SerialThread(self._reactor, "catalog"), volume)
        browser = self._browser = Browser(
            self._reactor, self._cache.manager, volume, catalog, run, known.rules, known.now, self._note_purged
        )
        browser.ordered = self._metrics.cache_purged
        if self._config.dashboard.enabled:
            self._dashboard = DashboardService(
                self._reactor,
                known=known,
                sampler=self._serving,
                metrics=self._metrics,
                exit=self._serving,
                lines=self._lines,
                browser=browser,
                volume=volume,
                run=run,
                config=self._config,
                hostname=self._facts["hostname"],
                fresh=self._fresh,
            )
            self._dashboard.setServiceParent(self._parent)
        if socket_path is not None:
            operations = LocalOperations(
                self._reactor,
                known=known,
                sampler=self._serving,
                metrics=self._metrics,
                browser=browser,
                volume=volume,
                run=run,
                listeners=self._client_listeners,
                end=self._end,
                crew=self._crew,
            )
            site = admin_site(self._fresh(control_resource(operations)), self._reactor)
            self._socket = AdminSocket(self._reactor, socket_path, site)
            self._socket.setServiceParent(self._parent)

    def _fresh(self, resource: IResource, wanted: str = "facts") -> IResource:
        """A resource whose answers are made of what the workers say, if there are any; they are asked first."""
        crew = self._crew
        if crew is None:
            return resource

        def refresh(request: Any) -> "Deferred[None]":
            latest = wanted == "facts" and request.path.endswith(b"/requests")
            return crew.refresh(f"{wanted},latest" if latest else wanted)

        return RefreshingResource(resource, refresh)

    def _note_purged(self, count: int) -> None:
        for _ in range(count):
            self._metrics.cache_invalidated("purge")

    def _client_listeners(self) -> list[tuple[str, str, int]]:
        return [(name, ip, port) for name, bound in self._bound.items() for ip, port in sorted(bound.names())]

    # The end.

    async def close(self) -> None:
        """Show nothing more: once no client is served any more, and before the cache is closed."""
        if self._otlp is not None:
            # What is asked for metrics is still open.
            self._otlp.finish()
        if self._dashboard is not None:
            await self._dashboard.close()
        if self._browser is not None:
            self._browser.close()
