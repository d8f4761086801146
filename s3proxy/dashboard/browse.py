"""Objects in the cache: lists, one object with all that is known of it, and their removal."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from s3proxy.cache.entry import ObjectId, decode_version
from s3proxy.cache.manager import CacheManager
from s3proxy.dashboard.catalog import Catalog, Search
from s3proxy.dashboard.requests import text_of
from s3proxy.policy.freshness import freshness_lifetime, may_serve
from s3proxy.policy.rules import Rules
from s3proxy.s3.address import ObjectAddress
from s3proxy.storage.layout import entry_name
from s3proxy.storage.listing import Listed, describe
from s3proxy.storage.volume import Volume

__all__ = ["Browser", "Pages", "id_of", "name_of", "reference", "search_of"]

MOST_PURGED: Final = 100_000
"""Objects that one order may remove."""
_AT_ONCE: Final = 20
_PAGE: Final = 1000
_FURTHEST: Final = 1 << 40


def reference(id: ObjectId) -> str:
    """An object as a query, for links: whatever bytes its key has."""
    return urlencode({"store": id.store, "bucket": id.bucket, "key": id.key})


def id_of(query: str) -> ObjectId | None:
    """The inverse of :func:`reference`; None when the query names no object."""
    if not query.isascii():
        return None
    fields = parse_qs(query, keep_blank_values=True, encoding="latin-1")

    def value(name: str) -> bytes:
        return fields.get(name, [""])[-1].encode("latin-1")

    store, bucket, key = value("store").decode("utf-8", "replace") or "aws", value("bucket"), value("key")
    return ObjectId(store, bucket, key) if bucket and key else None


def name_of(id: ObjectId) -> str:
    """``bucket/key`` for people, which is also what is searched."""
    return text_of(id.bucket + b"/" + id.key)


def search_of(query: Mapping[str, str], limit: int) -> Search:
    """What the parameters of a query look for: prefix, q, sort, folders, offset.

    :raises ValueError: with what they may be
    """
    try:
        return Search(
            prefix=query.get("prefix", ""),
            text=query.get("q", ""),
            order=query.get("sort", "name"),
            folders=query.get("folders") == "1",
            offset=min(_FURTHEST, max(0, int(query.get("offset", "0")))),
            limit=limit,
        )
    except ValueError:
        raise ValueError(
            "sort is name, size or age, with - in front the other way round; offset is a number"
        ) from None


class Pages:
    """All objects that fit, some at a time, in the order of their names. What goes away meanwhile does no harm.

    :ivar total: how many there were at the beginning
    """

    def __init__(self, catalog: Catalog, search: Search, size: int = _PAGE) -> None:
        self._catalog = catalog
        self._search = attrs.evolve(search, offset=0, limit=size, order="name", folders=False)
        self._begun = self._over = False
        self.total = 0

    async def next(self) -> tuple[ObjectId, ...]:
        """The next ones; none when there are no more. The first time, the whole directory is looked through."""
        if self._over:
            return ()
        if not self._begun:
            await self._catalog.refresh()
        found = await self._catalog.find(self._search)
        if not self._begun:
            self._begun, self.total = True, found.total
        self._over = len(found.ids) < self._search.limit
        if found.ids:
            last = found.ids[-1]
            self._search = attrs.evolve(self._search, after=(name_of(last), last.store))
        return found.ids


class Browser:
    """Looks at what is cached, and takes it away if that is wanted.

    :param run: calls a function in a thread for disk work
    :param purged: told how many objects were removed
    :ivar ordered: told of each order to remove something: object, prefix or bucket
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        manager: CacheManager,
        volume: Volume,
        catalog: Catalog,
        run: Callable[..., "Deferred[Any]"],
        rules: Callable[[], Rules],
        now: Callable[[], float],
        purged: Callable[[int], None],
    ) -> None:
        self._clock = clock
        self._manager = manager
        self._volume = volume
        self._catalog = catalog
        self._run = run
        self._rules = rules
        self._now = now
        self._purged = purged
        self.ordered: Callable[[str], None] = lambda scope: None

    async def objects(self, search: Search) -> dict[str, Any]:
        """A page of objects. What is held of each is read from disk now."""
        found = await self._catalog.find(search)
        listed: list[Listed | None] = await self._run(self._describe, found.ids)
        rows = [self._row(id, each) for id, each in zip(found.ids, listed) if each is not None]
        return {
            "objects": rows,
            "gone": len(found.ids) - len(rows),
            "total": found.total,
            "size": found.size,
            "offset": search.offset,
            "folders": [{"folder": name, "objects": count, "size": size} for name, count, size in found.folders],
            "progress": round(self._catalog.progress, 3),
        }

    def _describe(self, ids: Iterable[ObjectId]) -> list[Listed | None]:
        found: list[Listed | None] = []
        for id in ids:
            try:
                found.append(describe(self._volume, entry_name(id.parts)))
            except OSError:
                found.append(None)
        return found

    def _row(self, id: ObjectId, listed: Listed) -> dict[str, Any]:
        version = decode_version(listed.meta)
        settings = self._rules().resolve(ObjectAddress(store=id.store, bucket=id.bucket, key=id.key))
        lifetime = None
        if version is not None and not listed.unconfirmed:
            lifetime = freshness_lifetime(settings, version.headers, listed.validated_at, head=False, unconfirmed=False)
        return {
            "ref": reference(id),
            "store": id.store,
            "bucket": text_of(id.bucket),
            "key": text_of(id.key),
            "size": listed.object_size,
            "held": listed.held_bytes,
            "ranges": len(listed.held),
            "validated": listed.validated_at or None,
            "expires": listed.validated_at + lifetime if lifetime is not None and listed.validated_at else None,
            "etag": "" if version is None else text_of(version.etag),
        }

    async def object(self, id: ObjectId) -> dict[str, Any] | None:
        """One object; None when nothing of it is cached."""
        (listed,) = await self._run(self._describe, (id,))
        if listed is None:
            return None
        version = decode_version(listed.meta)
        if version is None:
            return None
        settings = self._rules().resolve(ObjectAddress(store=id.store, bucket=id.bucket, key=id.key))
        now = self._now()
        gate = may_serve(settings, version.headers, listed.validated_at, now, unconfirmed=listed.unconfirmed)
        complete = listed.held_bytes >= listed.object_size
        if not settings.read_cache_enabled:
            next_read = "passed through: a rule keeps the object out of the cache (read-cache-off)"
        elif not gate.fresh:
            next_read = f"S3 is asked first ({gate.reason.value})"
        elif not complete:
            next_read = "what is missing is fetched (incomplete)"
        else:
            next_read = "a hit"
        return {
            **self._row(id, listed),
            "form": "one file" if listed.inline else "ranges",
            "in_memory": self._manager.hot(id) is not None,
            "extents": [
                {"start": start, "stop": stop, "written": written}
                for (start, stop), written in zip(listed.held, listed.written_at)
            ],
            "unconfirmed": listed.unconfirmed,
            "headers": [[text_of(name), text_of(value)] for name, value in version.headers],
            "rule": settings.source,
            "get_ttl": settings.get_ttl,
            "head_ttl": settings.head_ttl,
            "next_read": next_read,
        }

    async def matching(self, search: Search) -> list[ObjectId]:
        """Every object that fits, after a look through the whole directory.

        :raises ValueError: there are too many
        """
        await self._catalog.refresh()
        ids: list[ObjectId] = []
        while True:
            found = await self._catalog.find(_page(search, len(ids)))
            if found.total > MOST_PURGED:
                raise ValueError(f"{found.total} objects fit; at most {MOST_PURGED} can be removed at once")
            ids += found.ids
            if len(found.ids) < _PAGE:
                return ids

    def pages(self, search: Search) -> Pages:
        """Every object that fits, however many there are."""
        return Pages(self._catalog, search)

    @property
    def progress(self) -> float:
        """How much of the directory has been looked through, from 0 to 1; 1 when nobody looks now."""
        return self._catalog.progress

    async def look_through(self) -> None:
        """Look through the whole directory, so that what is found is what is there now."""
        await self._catalog.refresh()

    async def named(self, name: str) -> list[ObjectId]:
        """The cached objects of this very name, of whatever store, after a look through the directory."""
        await self._catalog.refresh()
        return list((await self._catalog.find(Search(name=name))).ids)

    async def purge(self, ids: Iterable[ObjectId], who: str, what: str = "") -> int:
        """Remove these objects from the cache: the next read of each goes to S3. S3 itself is not touched."""
        ids = list(ids)
        await self._remove(ids)
        self._note_purge(who, len(ids), what or ", ".join(name_of(id) for id in ids))
        self.ordered(_scope(what))
        return len(ids)

    async def purge_all(self, search: Search, who: str, what: str, tell: Callable[[int, int], None]) -> int:
        """Remove every object that fits.

        :param tell: called now and then with how many were removed, and how many there are
        """
        pages = self.pages(search)
        removed = 0
        try:
            while ids := await pages.next():
                await self._remove(ids)
                removed += len(ids)
                tell(removed, pages.total)
        finally:
            self._note_purge(who, removed, what)
            self.ordered(_scope(search.prefix or search.text))
        return removed

    async def _remove(self, ids: Iterable[ObjectId]) -> None:
        for number, id in enumerate(ids, 1):
            self._manager.drop(id)
            self._catalog.forget(entry_name(id.parts))
            self._purged(1)
            if number % _AT_ONCE == 0:
                # Others get their turn.
                await deferLater(self._clock, 0)

    def _note_purge(self, who: str, count: int, what: str) -> None:
        self.log.info("{who} removed {count} object(s) from the cache: {what}", who=who, count=count, what=what)

    def close(self) -> None:
        """End the look through the directory, and its thread."""
        self._catalog.close()


def _scope(what: str) -> str:
    """What an order is about: object, prefix (or glob), or bucket."""
    if not what:
        return "object"
    return "bucket" if what.find("/") + 1 == len(what) else "prefix"


def _page(search: Search, offset: int) -> Search:
    return Search(prefix=search.prefix, text=search.text, offset=offset, limit=_PAGE)
