"""What is in the cache, to be searched by name.

On disk, names are digests: to know which objects there are, every entry must be read. That is done when somebody looks
for the first time, in a thread of its own, in small steps with pauses between them; what has been seen so far can be
searched meanwhile. Names are kept in a temporary SQLite database that vanishes with the process. Later looks read only
shards that have changed.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.entry import ObjectId, decode_version
from s3proxy.storage.layout import EntryName
from s3proxy.storage.listing import Named, describe, named_in, shards_of
from s3proxy.storage.volume import Volume

__all__ = ["Catalog", "Found", "Search", "Shelf"]

PAUSE: Final = 0.02
"""Seconds between two steps of the walk."""
REFRESH: Final = 3.0
"""Seconds after which the next look walks again; never less than twice as long as the last walk took."""
_STEP: Final = 200
"""Entries that are looked at in one step."""
_SHARD: Final = 5
"""As how many of them a shard counts."""
_SETTLED: Final = 3_000_000_000
"""Nanoseconds: a directory that changed this shortly before it was read may change again under the same time."""
_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -4096;
CREATE TABLE entries (
    digest BLOB PRIMARY KEY, shard INTEGER, inode INTEGER, modified INTEGER,
    store TEXT, bucket BLOB, key BLOB, name TEXT, size INTEGER, validated REAL
) WITHOUT ROWID;
CREATE INDEX by_name ON entries (name);
CREATE INDEX by_shard ON entries (shard);
"""
_ORDERS: Final = {
    "name": "name, store", "-name": "name DESC, store", "size": "size, name", "-size": "size DESC, name",
    "age": "validated DESC, name", "-age": "validated, name",
}  # fmt: skip

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Search:
    """What is looked for: names ``bucket/key`` that begin so, contain that, or fit a glob with ``*`` and ``?``.

    :ivar order: name, size or age, with ``-`` in front the other way round
    :ivar folders: gather what lies deeper below the prefix
    :ivar name: exactly this
    :ivar after: only what comes behind this name and store in the order of names
    """

    prefix: str = ""
    text: str = ""
    order: str = attrs.field(default="name", validator=attrs.validators.in_(_ORDERS))
    folders: bool = False
    offset: int = 0
    limit: int = 100
    name: str = ""
    after: tuple[str, str] | None = None

    def condition(self) -> tuple[str, list[Any]]:
        """As SQL, with its parameters."""
        parts: list[str] = ["1"]
        values: list[Any] = []
        if self.name:
            parts.append("name = ?")
            values.append(self.name)
        if self.after is not None:
            parts.append("(name, store) > (?, ?)")
            values += self.after
        if self.prefix:
            # A range of the index; nothing is greater than the last character there can be.
            parts.append("name >= ? AND name < ?")
            values += [self.prefix, self.prefix + "\U0010ffff"]
        if self.text and any(mark in self.text for mark in "*?"):
            parts.append("name GLOB ?")
            values.append(self.text.replace("[", "[[]"))
        elif self.text:
            parts.append("instr(lower(name), lower(?))")
            values.append(self.text)
        return " AND ".join(parts), values


@attrs.frozen(kw_only=True)
class Found:
    """A page of what was found.

    :ivar total: objects that fit, on all pages
    :ivar size: of them, in bytes, as S3 has them
    :ivar folders: name, number of objects and their size
    """

    ids: tuple[ObjectId, ...]
    total: int
    size: int
    folders: tuple[tuple[str, int, int], ...] = ()


class Shelf:
    """The database. Every call blocks; all belong to one thread, the one that makes it."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._database = sqlite3.connect("")
        self._database.executescript(_SCHEMA)
        self._walked: dict[int, int] = {}

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def walk(self) -> Iterator[float]:
        """Look through the directory; yields, between steps, how much of it has been seen, from 0 to less than 1.

        :raises OSError: the directory can't be read
        """
        shards = shards_of(self._volume)
        self._forget_shards({index for index, _, _ in shards})
        done = 0
        for number, (index, path, changed) in enumerate(shards):
            if self._walked.get(index) == changed:
                continue
            done += _SHARD
            for _ in self._shard(index, path):
                done += 1
                if done >= _STEP:
                    done = 0
                    yield number / len(shards)
            if self._volume.now() * 1e9 - changed > _SETTLED:
                self._walked[index] = changed

    def _forget_shards(self, present: set[int]) -> None:
        for (index,) in self._database.execute("SELECT DISTINCT shard FROM entries").fetchall():
            if index not in present:
                self._database.execute("DELETE FROM entries WHERE shard = ?", (index,))
        self._walked = {index: changed for index, changed in self._walked.items() if index in present}

    def _shard(self, index: int, path: str) -> Iterator[None]:
        known = {
            digest: (inode, modified)
            for digest, inode, modified in self._database.execute(
                "SELECT digest, inode, modified FROM entries WHERE shard = ?", (index,)
            )
        }
        for named in named_in(self._volume, path):
            if known.pop(named.name.digest, None) != (named.inode, named.modified):
                self._take(index, named)
            yield
        self._database.executemany("DELETE FROM entries WHERE digest = ?", [(digest,) for digest in known])

    def _take(self, index: int, named: Named) -> None:
        listed = describe(self._volume, named.name, ranges=False)
        version = None if listed is None else decode_version(listed.meta)
        if listed is None or version is None:
            self.forget(named.name)
            return
        id = version.id
        self._database.execute(
            "REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                named.name.digest, index, named.inode, named.modified, id.store, id.bucket, id.key,
                (id.bucket + b"/" + id.key).decode("utf-8", "backslashreplace"), min(listed.object_size, 1 << 62),
                listed.validated_at,
            ),
        )  # fmt: skip

    def forget(self, name: EntryName) -> None:
        """The entry is no longer there."""
        self._database.execute("DELETE FROM entries WHERE digest = ?", (name.digest,))

    def find(self, search: Search) -> Found:
        """A page of objects, and of what lies deeper if that is to be gathered."""
        condition, values = search.condition()
        total, size = self._database.execute(
            f"SELECT count(*), coalesce(sum(size), 0) FROM entries WHERE {condition}", values
        ).fetchone()
        folders: tuple[tuple[str, int, int], ...] = ()
        rest = "1"
        if search.folders:
            rest = f"instr(substr(name, {len(search.prefix) + 1}), '/') = 0"
            folders = tuple(self._folders(search, condition, values))
        rows = self._database.execute(
            f"SELECT store, bucket, key FROM entries WHERE {condition} AND {rest} "
            f"ORDER BY {_ORDERS[search.order]} LIMIT ? OFFSET ?",
            (*values, search.limit, search.offset),
        )
        return Found(
            ids=tuple(ObjectId(store, bucket, key) for store, bucket, key in rows),
            total=total,
            size=size,
            folders=folders,
        )

    def _folders(self, search: Search, condition: str, values: list[Any]) -> Iterable[tuple[str, int, int]]:
        rest = f"substr(name, {len(search.prefix) + 1})"
        return self._database.execute(
            f"SELECT substr({rest}, 1, instr({rest}, '/')) AS folder, count(*), sum(size) FROM entries "
            f"WHERE {condition} AND instr({rest}, '/') > 0 GROUP BY folder ORDER BY folder LIMIT 500",
            values,
        )


class IThread(Protocol):
    """What is needed of :class:`s3proxy.telemetry.thread.SerialThread`."""

    def run(self, work: Callable[[], _T]) -> "Deferred[_T]":
        """See :meth:`SerialThread.run`."""

    def stop(self) -> None:
        """See :meth:`SerialThread.stop`."""


class Catalog:
    """The shelf and its thread, as the reactor's thread sees them.

    :ivar progress: how much of the directory the walk has seen, from 0 to 1; 1 when none is under way
    """

    log = Logger()

    def __init__(self, clock: Any, thread: IThread, volume: Volume) -> None:
        self._clock = clock
        self._thread = thread
        self._volume = volume
        self._shelf: Shelf | None = None
        self._walk: Iterator[float] | None = None
        self._began = 0.0
        self._rest_until = 0.0
        self._timer: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []
        self._waiting_for_next: list[Deferred[None]] = []
        self._closed = False
        self.progress = 0.0

    def find(self, search: Search) -> "Deferred[Found]":
        """A page of what is known so far; begins to look through the directory if that was not done lately."""
        if self._walk is None and self._clock.seconds() >= self._rest_until:
            self.refresh()
        return self._thread.run(lambda: self._open().find(search))

    def refresh(self) -> "Deferred[None]":
        """Look through the directory, from now on; fires when that is done, or has failed. What a walk that is under
        way has passed already is looked at again.
        """
        done: Deferred[None] = Deferred(lambda _: None)
        if self._walk is None:
            self._waiting.append(done)
            self._start()
        else:
            self._waiting_for_next.append(done)
        return done

    def _start(self) -> None:
        self._walk = iter(())
        self._began = self._clock.seconds()
        self.progress = 0.0
        self._thread.run(lambda: self._open().walk()).addCallback(self._begin).addErrback(self._failed)

    def forget(self, name: EntryName) -> None:
        """The entry was removed."""
        if self._shelf is not None:
            self._thread.run(lambda: self._open().forget(name)).addErrback(self._failed)

    def close(self) -> None:
        """End the walk and the thread."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._shelf is not None:
            self._thread.run(self._shelf.close).addErrback(self._failed)
        self._thread.stop()
        self._ended()

    def _open(self) -> Shelf:
        if self._shelf is None:
            self._shelf = Shelf(self._volume)
        return self._shelf

    def _begin(self, walk: Iterator[float]) -> None:
        self._walk = walk
        self._step()

    def _step(self) -> None:
        self._timer = None
        walk = self._walk
        assert walk is not None
        if not self._closed:
            self._thread.run(lambda: next(walk, None)).addCallback(self._stepped).addErrback(self._failed)

    def _stepped(self, progress: float | None) -> None:
        if progress is None:
            self._ended()
        elif not self._closed:
            self.progress = progress
            self._timer = self._clock.callLater(PAUSE, self._step)

    def _failed(self, reason: Failure) -> None:
        self.log.failure("looking through the cache directory", reason)
        self._ended()

    def _ended(self) -> None:
        self._walk = None
        self.progress = 1.0
        now = self._clock.seconds()
        self._rest_until = now + max(REFRESH, 2 * (now - self._began))
        waiting, self._waiting = self._waiting, []
        if self._closed:
            waiting += self._waiting_for_next
        elif self._waiting_for_next:
            self._waiting, self._waiting_for_next = self._waiting_for_next, []
            self._start()
        for done in waiting:
            if not done.called:
                done.callback(None)
