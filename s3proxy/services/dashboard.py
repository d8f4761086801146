"""The dashboard as a service: takes a sample every second, tells the browsers, and keeps the history."""

import ipaddress
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from s3proxy.admin.sites import admin_site
from s3proxy.config.model import Config
from s3proxy.dashboard import documents
from s3proxy.dashboard.browse import Browser, id_of, search_of
from s3proxy.dashboard.catalog import Search
from s3proxy.dashboard.documents import Known
from s3proxy.dashboard.events import Hub, message
from s3proxy.dashboard.guard import names_of
from s3proxy.dashboard.history import History, HistoryError, encode
from s3proxy.dashboard.instances import INTERVAL, Cards
from s3proxy.dashboard.requests import LEVELS, LogLines, matching
from s3proxy.dashboard.series import NAMES, RANGES, curves, point
from s3proxy.dashboard.site import Answer, Api, Query, Refused, dashboard_resource
from s3proxy.dashboard.sources import ILatest, ISampler
from s3proxy.services.listeners import AdminListener
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.volume import Volume
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.logs import ApplicationLog, format_line
from s3proxy.telemetry.metrics import Metrics

__all__ = ["DashboardService", "LineKeeper"]

TICK = 1.0
"""Seconds between two samples."""
SAVE = 60.0
"""Seconds between two savings of the history."""
RATE_SPAN = 5
"""Samples over which the present rates are taken."""
MOST_ROWS = 1000
_RATES = (
    "sent", "received", "from_s3", "to_s3", "saved_bytes", "shed", "status_5xx", "evicted_bytes", "reads", "hits",
    "fill_bytes",
)  # fmt: skip


@implementer(ILogObserver)
class LineKeeper:
    """An observer that keeps what the application log writes."""

    def __init__(self, lines: LogLines, log: ApplicationLog) -> None:
        self._lines = lines
        self._log = log

    def __call__(self, event: LogEvent) -> None:
        if self._log.wants(event):
            level = event.get("log_level")
            self._lines.add(
                float(event.get("log_time") or 0.0),
                "info" if level is None else level.name,
                str(event.get("log_namespace") or "-"),
                format_line(event).partition(": ")[2].rstrip("\n"),
            )


class DashboardService(MultiService):
    """See the module.

    :param run: calls a function in a thread for disk work
    :param fresh: wraps the root of the site if something must be asked for before it can answer
    :ivar listener: of the page and its API
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        known: Known,
        sampler: ISampler,
        metrics: Metrics,
        exit: ILatest,
        lines: LogLines,
        browser: Browser,
        volume: Volume,
        run: Callable[..., "Deferred[Any]"],
        config: Config,
        hostname: str,
        fresh: Callable[[IResource], IResource] = lambda resource: resource,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._known = known
        self._sampler = sampler
        self._metrics = metrics
        self._exit = exit
        self._lines = lines
        self._run = run
        self._config = config.dashboard
        port = config.server.proxy_port if config.server.mode == "proxy_only" else config.server.http_port
        self._file = os.path.join(config.cache.cache_dir, "dashboard", f"{hostname}-{port}.history")
        self._history = History()
        self._hub = Hub(reactor.seconds)
        metrics.observe_source(lambda: [Reading("s3proxy_dashboard_clients", len(self._hub))], "dashboard")
        self._cards = Cards(volume)
        self._browser = browser
        self._row: dict[str, float] = {}
        self._past: list[tuple[float, dict[str, float]]] = []
        self._last_at = 0.0
        self._told = 0
        self._loops: list[LoopingCall] = []
        self._saving: Deferred[Any] | None = None
        site = admin_site(fresh(dashboard_resource(self._api(hostname))), reactor)
        self.listener = AdminListener(
            reactor, "dashboard.port", self._config.port, self._config.bind_address, site
        )  # fmt: skip
        self.listener.setServiceParent(self)

    def _api(self, hostname: str) -> Api:
        try:
            resolver = Path("/etc/resolv.conf").read_text(errors="replace")
        except OSError:
            resolver = ""
        return Api(
            documents={
                "summary": self._summary,
                "series": self._series,
                "buckets": lambda query: Answer(_fitting(documents.buckets(self._known), query)),
                "prefixes": lambda query: Answer(
                    _fitting(documents.prefixes(self._known, query.get("bucket", "")), query)
                ),
                "inflight": lambda query: Answer(documents.in_flight(self._known)),
                "upstreams": lambda query: Answer(documents.upstreams(self._known)),
                "instances": self._instances,
                "requests": self._requests,
                "cache/objects": self._objects,
                "cache/object": self._object,
                "rules": self._rules,
                "rules/match": self._match,
                "logs": self._logs,
                "health": lambda query: Answer(self._known.board.document()),
            },
            changes={"cache/purge": self._purge},
            stream=self._open_stream,
            full=lambda: self._hub.full,
            names=names_of(hostname, resolver),
            seconds=self._reactor.seconds,
        )

    # Life.

    def startService(self) -> None:
        """Read what was saved, and begin."""
        super().startService()
        if self._config.allow_purge and not ipaddress.ip_address(self._config.bind_address).is_loopback:
            self.log.warn(
                "dashboard.allow_purge: everybody who reaches {address} port {port} can empty the cache; there is no "
                "password",
                address=self._config.bind_address,
                port=self._config.port,
            )
        self._last_at = self._reactor.seconds()
        self._take()
        self._run(self._read_file).addCallbacks(self._restore, self._failed)
        self._every(TICK, self._tick)
        self._every(SAVE, self._save)
        self._every(INTERVAL, self._write_card)

    def _every(self, seconds: float, call: Callable[[], Any]) -> None:
        loop = LoopingCall(call)
        loop.clock = self._reactor
        self._loops.append(loop)
        loop.start(seconds, now=False).addErrback(self._failed)

    async def close(self) -> None:
        """End the streams, save the history, take the card away. Before the threads for disk work end."""
        for loop in self._loops:
            if loop.running:
                loop.stop()
        self._hub.close()
        await gatherResults([self._save(), self._run(self._cards.remove).addErrback(self._failed)])

    def _failed(self, reason: Failure) -> None:
        if not reason.check(DiskBusy):
            self.log.failure("the dashboard", reason)

    # The history.

    def _read_file(self) -> bytes:
        try:
            return Path(self._file).read_bytes()
        except FileNotFoundError:
            return b""

    def _restore(self, data: bytes) -> None:
        if data:
            try:
                self._history.restore(data, self._known.now())
            except HistoryError as error:
                self.log.warn("the dashboard's history {file} begins anew: {error}", file=self._file, error=str(error))

    def _save(self) -> "Deferred[Any]":
        rings = self._history.snapshot()

        def write() -> None:
            data = encode(rings)
            os.makedirs(os.path.dirname(self._file), 0o700, exist_ok=True)
            draft = f"{self._file}.new"
            with open(draft, "wb") as file:
                file.write(data)
            os.replace(draft, self._file)
            self._cards.tidy()

        return self._run(write).addErrback(self._failed)

    # Once a second.

    def _take(self) -> Any:
        now = self._reactor.seconds()
        elapsed, self._last_at = max(0.001, now - self._last_at), now
        self._row = self._sampler.read()
        self._past.append((now, self._row))
        del self._past[: -RATE_SPAN - 1]
        return self._history.take(self._known.now(), elapsed, self._row)

    def _tick(self) -> None:
        completed = self._take()
        if not len(self._hub):
            self._told = self._lines.newest
            return
        parts = [message("tick", self._present())]
        if completed is not None:
            parts.append(message("row", point(completed)))
        if self._lines.newest > self._told:
            parts.append(message("log", self._lines.latest(after=self._told, limit=50)))
            self._told = self._lines.newest
        self._hub.send(b"".join(parts))

    def _rates(self) -> dict[str, float]:
        """Per second, over the last samples."""
        (then, before), (now, row) = self._past[0], self._past[-1]
        seconds = now - then
        if seconds <= 0:
            return {name: 0.0 for name in (*_RATES, "requests")}
        rates = {name: round(max(0.0, row[name] - before[name]) / seconds, 2) for name in _RATES}
        names = [name for name in row if name.startswith("req_")]
        rates["requests"] = round(sum(max(0.0, row[name] - before[name]) for name in names) / seconds, 2)
        return rates

    def _present(self) -> dict[str, Any]:
        rates = self._rates()
        return {
            **documents.summary(self._known, self._row, rates, self._metrics.recent_rates()),
            "attention": documents.attention(self._known, self._row, rates),
            "inflight": documents.in_flight(self._known, 12),
            "buckets": documents.buckets(self._known)[:8],
        }

    def _greeting(self) -> dict[str, Any]:
        return {
            **self._known.facts,
            "started_at": self._known.started_at,
            "allow_purge": self._config.allow_purge,
            "ranges": list(RANGES),
            "names": NAMES,
            "refresh": self._config.cache_stats_refresh_interval,
            "logs_refresh": self._config.logs_refresh_interval,
        }

    def _open_stream(self, request: Any) -> "Deferred[bytes]":
        return self._hub.open(request, message("hello", self._greeting()) + message("tick", self._present()))

    def _write_card(self) -> "Deferred[Any]":
        rates, row = self._rates(), self._row
        card = {
            **self._known.facts,
            "pid": os.getpid(),
            "started_at": self._known.started_at,
            "health": self._known.board.check().state.value,
            "requests_per_second": rates["requests"],
            "sent_per_second": rates["sent"],
            "from_s3_per_second": rates["from_s3"],
            "hit_rate": row["hits"] / row["reads"] if row["reads"] else None,
            "requests_total": sum(value for name, value in row.items() if name.startswith("req_")),
            "in_flight": row["in_flight"],
            "ram_bytes": row["ram_bytes"],
            "disk_bytes": row["disk_bytes"],
        }
        return self._run(self._cards.write, card).addErrback(self._failed)

    # Documents.

    def _summary(self, query: Query) -> Answer:
        # Now, not as it was up to a second ago: what was counted since is part of it.
        row = self._sampler.read()
        rates = self._rates()
        found = {**documents.summary(self._known, row, rates, self._metrics.recent_rates()), **self._greeting()}
        found["attention"] = documents.attention(self._known, row, rates)
        if query.get("format") == "text":
            return Answer("".join(_text_lines(found)), keep=0)
        return Answer(found, keep=0.5)

    async def _series(self, query: Query) -> Answer:
        span = RANGES.get(query.get("range", "1h"))
        if span is None:
            raise Refused(400, f"The range is one of {', '.join(RANGES)}.")
        found: dict[str, Any] = {}
        for document in curves(self._history, span, self._known.now()):
            if document is None:
                await deferLater(self._reactor, 0)
            else:
                found = document
        # Long columns one by one: others get their turn.
        columns = []
        for column in found.pop("values"):
            columns.append(json.dumps(column, separators=(",", ":")))
            if len(columns) % 5 == 0:
                await deferLater(self._reactor, 0)
        text = f'{json.dumps(found)[:-1]}, "values": [{",".join(columns)}]}}'
        return Answer(text.encode("ascii"), keep=2.0 if span <= 3600 else 30.0)

    async def _instances(self, query: Query) -> Answer:
        found = await self._run(self._cards.read)
        return Answer({"instances": found, "now": self._known.now()}, keep=2.0)

    def _requests(self, query: Query) -> Answer:
        found = matching(
            self._exit.latest(),
            text=query.get("q", ""),
            outcome=query.get("outcome", ""),
            reason=query.get("reason", ""),
            limit=_limit(query, 100),
        )
        return Answer({"requests": found})

    def _logs(self, query: Query) -> Answer:
        level = query.get("level", "trace")
        if level not in LEVELS:
            raise Refused(400, f"The level is one of {', '.join(LEVELS)}.")
        return Answer(
            {"lines": self._lines.latest(level=level, text=query.get("q", ""), limit=_limit(query, 200))}
        )  # fmt: skip

    def _rules(self, query: Query) -> Answer:
        # The snapshot, because of several processes each has its part; it costs some milliseconds.
        return Answer(documents.rules(self._known, self._metrics.snapshot()), keep=3.0)

    def _match(self, query: Query) -> Answer:
        bucket, _, key = query.get("name", "").partition("/")
        return Answer(documents.rule_for(self._known, bucket.encode("utf-8"), key.encode("utf-8")))

    async def _objects(self, query: Query) -> Answer:
        try:
            search = search_of(query, _limit(query, 100))
        except ValueError as error:
            raise Refused(400, f"{error}.") from None
        return Answer(await self._browser.objects(search))

    async def _object(self, query: Query) -> Answer:
        id = id_of(query["?"])
        if id is None:
            raise Refused(400, "Name the object: store, bucket and key.")
        found = await self._browser.object(id)
        if found is None:
            raise Refused(404, "Nothing of this object is cached.")
        return Answer(found, keep=0)

    async def _purge(self, order: dict[str, Any], who: str) -> dict[str, Any]:
        """``ref`` of one object, or ``prefix`` or ``glob`` over names ``bucket/key``; ``dry_run`` only counts."""
        if not self._config.allow_purge:
            raise Refused(403, "dashboard.allow_purge is false: the dashboard removes nothing.")
        texts = [order.get(name) or "" for name in ("ref", "prefix", "glob")]
        dry_run = order.get("dry_run", False)
        if not all(isinstance(value, str) for value in texts) or not isinstance(dry_run, bool):
            raise Refused(400, "ref, prefix and glob are texts, dry_run is true or false.")
        given = list(filter(None, texts))
        if len(given) != 1:
            raise Refused(400, "Give one of ref, prefix and glob.")
        ref, prefix, glob = texts
        if ref:
            id = id_of(ref)
            if id is None:
                raise Refused(400, "ref is store, bucket and key as a query.")
            ids = [id]
        else:
            if glob and not set(glob) & set("*?"):
                raise Refused(400, "A glob has a * or a ?; to remove one object, give its ref.")
            if "/" not in given[0]:
                raise Refused(400, "Name at least the whole bucket: bucket/prefix.")
            try:
                ids = await self._browser.matching(Search(prefix=prefix, text=glob))
            except ValueError as error:
                raise Refused(400, f"{error}.") from None
        if dry_run:
            return {"objects": len(ids), "purged": 0}
        what = "" if ref else given[0]
        return {"objects": len(ids), "purged": await self._browser.purge(ids, who, what)}


def _limit(query: Query, default: int) -> int:
    try:
        return min(MOST_ROWS, max(1, int(query.get("limit", default))))
    except ValueError:
        raise Refused(400, "limit is a number.") from None


def _fitting(rows: list[dict[str, Any]], query: Query) -> dict[str, Any]:
    wanted = query.get("q", "").lower()
    found = [row for row in rows if wanted in f"{row['bucket']}/{row.get('prefix', '')}".lower()]
    return {"rows": found[: _limit(query, 100)], "total": len(found)}


def _text_lines(found: dict[str, Any]) -> Iterable[str]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from (f"{name}.{inner} {each}\n" for inner, each in value.items())
        elif not isinstance(value, (list, tuple)):
            yield f"{name} {value}\n"
    for each in found["attention"]:
        yield f"attention {each['level']} {each['what']}: {each['text']}\n"
