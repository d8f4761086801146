"""What s3proxyctl asks of this process, answered from its parts."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from s3proxy.admin.answers import Refused
from s3proxy.admin.api import IDENTITY, Order, Query, Tell
from s3proxy.cache.entry import ObjectId
from s3proxy.dashboard import documents
from s3proxy.dashboard.browse import Browser, id_of, name_of, search_of
from s3proxy.dashboard.catalog import Search
from s3proxy.dashboard.documents import Known
from s3proxy.dashboard.sources import ISampler
from s3proxy.dashboard.verifying import Tally, Verification
from s3proxy.policy.explain import explain
from s3proxy.s3.address import ObjectAddress
from s3proxy.services.rolling import ICrew, roll_workers
from s3proxy.storage.volume import Volume
from s3proxy.telemetry.metrics import Metrics

__all__ = ["LocalOperations"]

MOST_ROWS: Final = 1000
LONGEST_DELAY: Final = 3600.0
LONGEST_ROLL: Final = 86400.0
_TELL: Final = 0.2
"""Seconds between two lines of progress."""
_MOST_FOUND: Final = 1000
"""Objects that are not sound and are told one by one; of more, the number."""


@attrs.frozen
class _Meant:
    """Which objects an order is about. :ivar ids: None: those that the search finds; :ivar what: for people"""

    ids: list[ObjectId] | None
    search: Search
    what: str


class LocalOperations:
    """The operations of :class:`s3proxy.admin.api.Operations` on this process.

    :param run: calls a function in a thread for disk work
    :param listeners: name, address and port of each listener for clients
    :param end: begins the end of the process, in so many seconds; gives back how long requests may take then
    :param crew: the workers; None: this process serves by itself
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        known: Known,
        sampler: ISampler,
        metrics: Metrics,
        browser: Browser,
        volume: Volume,
        run: Callable[..., "Deferred[Any]"],
        listeners: Callable[[], list[tuple[str, str, int]]],
        end: Callable[[float], float],
        crew: ICrew | None = None,
    ) -> None:
        self._reactor = reactor
        self._known = known
        self._sampler = sampler
        self._metrics = metrics
        self._browser = browser
        self._volume = volume
        self._run = run
        self._listeners = listeners
        self._end = end
        self._crew = crew

    # Documents.

    async def status(self, query: Query) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        row = self._sampler.read()
        return {
            **self._known.facts,
            "started_at": self._known.started_at,
            "listeners": [{"name": name, "address": ip, "port": port} for name, ip, port in self._listeners()],
            "health": self._known.board.document(),
            "summary": documents.summary(self._known, row, {}, self._metrics.recent_rates()),
            "attention": documents.attention(self._known, row, {}),
        }

    async def top(self, query: Query) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        return {
            **await self.status(query),
            "inflight": documents.in_flight(self._known),
            "buckets": documents.buckets(self._known),
            "upstreams": documents.upstreams(self._known),
        }

    async def stats(self, query: Query) -> Any:
        """See :class:`~s3proxy.admin.api.Operations`."""
        # JSON knows no infinity, and the API gives none.
        return json.loads(self._metrics.render_json(), parse_constant=lambda name: None)

    async def objects(self, query: Query) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        try:
            search = search_of(query, min(MOST_ROWS, max(1, int(query.get("limit", "100")))))
        except ValueError as error:
            raise Refused(400, f"{error}.") from None
        return {**await self._browser.objects(search), "now": self._known.now()}

    async def inspect(self, query: Query) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        for id in await self._ids(query.get(IDENTITY, ""), query.get("name", "")):
            found = await self._browser.object(id)
            if found is not None:
                return found
        raise Refused(404, "Nothing of this object is cached.")

    async def rules(self, query: Query) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        return documents.rules(self._known)

    async def explain(self, query: Query) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        id = id_of(query.get(IDENTITY, ""))
        if id is None:
            raise Refused(400, "Name the object: store, bucket and key.")
        address = ObjectAddress(store=id.store, bucket=id.bucket, key=id.key)
        return {"name": name_of(id), "store": id.store, **attrs.asdict(explain(self._known.rules(), address))}

    # Orders.

    async def refresh(self, order: Order, who: str, tell: Tell) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        with _Looking(self._reactor, self._browser, tell):
            await self._browser.look_through()
        return {}

    async def purge(self, order: Order, who: str, tell: Tell) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        meant = await self._meant(order)
        dry_run = bool(order.get("dry_run"))
        if meant.ids is not None:
            held = [id for id in meant.ids if await self._browser.object(id) is not None]
            # What can't be read is removed, too.
            purged = 0 if dry_run else await self._browser.purge(meant.ids, who)
            return {"objects": len(held), "purged": min(purged, len(held)), "dry_run": dry_run}
        if dry_run:
            pages = self._browser.pages(meant.search)
            with _Looking(self._reactor, self._browser, tell):
                await pages.next()
            return {"objects": pages.total, "purged": 0, "dry_run": True}
        often = _Often(self._reactor, tell)
        with _Looking(self._reactor, self._browser, tell) as looking:

            def told(removed: int, total: int) -> None:
                looking.end()
                often.tell(lambda: {"what": "removing", "done": removed, "total": total})

            removed = await self._browser.purge_all(meant.search, who, meant.what, told)
        return {"objects": removed, "purged": removed, "dry_run": False}

    async def verify(self, order: Order, who: str, tell: Tell) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        meant = await self._meant(order, everything=True)
        repair = bool(order.get("repair"))
        often = _Often(self._reactor, tell)
        total = 0
        shown = 0

        def told(tally: Tally) -> None:
            often.tell(lambda: {"what": "reading", "done": tally.objects, "total": total, **_counts(tally)})

        def found(finding: dict[str, Any]) -> None:
            nonlocal shown
            shown += 1
            if shown <= _MOST_FOUND:
                tell("found", finding)

        async def remove(id: ObjectId) -> None:
            await self._browser.purge([id], who)

        verification = Verification(self._volume, self._run, remove if repair else None, found, told)
        if meant.ids is not None:
            total = len(meant.ids)
            await verification.check(meant.ids)
        else:
            pages = self._browser.pages(meant.search)
            with _Looking(self._reactor, self._browser, tell):
                ids = await pages.next()
            total = pages.total
            while ids:
                await verification.check(ids)
                ids = await pages.next()
        tally = verification.tally
        self.log.info(
            "{who} verified {count} object(s) of the cache, {bad} of them are not sound: {what}",
            who=who,
            count=tally.objects,
            bad=tally.bad,
            what=meant.what,
        )
        return _counts(tally)

    async def drain(self, order: Order, who: str, tell: Tell) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        delay = order.get("delay", 0.0)
        if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay <= LONGEST_DELAY:
            raise Refused(400, f"delay is a number of seconds, from 0 to {LONGEST_DELAY:.0f}.")
        self.log.info("{who} ends the proxy in {delay} s", who=who, delay=delay)
        return {"delay": delay, "drain_timeout": self._end(float(delay))}

    async def roll(self, order: Order, who: str, tell: Tell) -> dict[str, Any]:
        """See :class:`~s3proxy.admin.api.Operations`."""
        limit = order.get("limit", LONGEST_ROLL)
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 1 <= limit <= LONGEST_ROLL:
            raise Refused(400, f"limit is a number of seconds, from 1 to {LONGEST_ROLL:.0f}.")
        if self._crew is None:
            raise Refused(
                409,
                "One process serves everything here (server.workers is 1), and nothing could serve while it is"
                " replaced. Drain the proxy and start it again, or set server.workers to 2 or more.",
            )
        if self._known.board.draining:
            raise Refused(409, "The proxy is on its way out.")
        self.log.info("{who} has the workers replaced", who=who)
        return await roll_workers(self._reactor, self._crew, float(limit), tell)

    # Which objects are meant.

    async def _ids(self, ref: str, name: str) -> list[ObjectId]:
        """One object by its reference; or those of a name, of whatever store."""
        id = id_of(ref)
        if id is not None:
            return [id]
        if "/" not in name.strip("/"):
            raise Refused(400, "Name the object: bucket/key.")
        # Most are in the store of AWS. To find others, the directory is looked through.
        bucket, _, key = name.partition("/")
        first = ObjectId("aws", bucket.encode("utf-8"), key.encode("utf-8"))
        if await self._browser.object(first) is not None:
            return [first]
        return await self._browser.named(name) or [first]

    async def _meant(self, order: Order, *, everything: bool = False) -> _Meant:
        given = {name: order[name] for name in ("ref", "name", "prefix", "glob") if order.get(name)}
        if not given and everything:
            return _Meant(None, Search(), "everything")
        if len(given) != 1 or not all(isinstance(value, str) for value in given.values()):
            raise Refused(400, "Give one of ref, name, prefix and glob.")
        ((kind, value),) = given.items()
        if kind in ("ref", "name"):
            if kind == "ref" and id_of(value) is None:
                raise Refused(400, "ref is store, bucket and key as a query.")
            ids = await self._ids(value if kind == "ref" else "", value if kind == "name" else "")
            return _Meant(ids, Search(), ", ".join(name_of(id) for id in ids))
        if "/" not in value and not everything:
            raise Refused(400, "Name at least the whole bucket: bucket/prefix.")
        if kind == "prefix":
            return _Meant(None, Search(prefix=value), f"{value}…")
        if not set(value) & set("*?"):
            raise Refused(400, "A glob has a * or a ?; to name one object, give its name.")
        return _Meant(None, Search(text=value), value)


def _counts(tally: Tally) -> dict[str, int]:
    return {**attrs.asdict(tally), "bad": tally.bad}


class _Often:
    """Progress, as often as people can read it."""

    def __init__(self, clock: Any, tell: Tell) -> None:
        self._clock = clock
        self._tell = tell
        self._next = 0.0

    def tell(self, value: Callable[[], Mapping[str, Any]]) -> None:
        """Say it, unless something was said a moment ago."""
        now = self._clock.seconds()
        if now >= self._next:
            self._next = now + _TELL
            self._tell("progress", value())


class _Looking:
    """Tells how far the look through the directory is while it lasts."""

    def __init__(self, clock: Any, browser: Browser, tell: Tell) -> None:
        self._loop = LoopingCall(
            lambda: tell("progress", {"what": "looking", "done": round(browser.progress, 3), "total": 1})
        )
        self._loop.clock = clock

    def __enter__(self) -> "_Looking":
        self._loop.start(_TELL, now=False).addErrback(lambda _: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """It is over. Idempotent."""
        if self._loop.running:
            self._loop.stop()
