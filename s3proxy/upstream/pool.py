"""Connections to S3 that wait for their next request."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["ConnectionPool", "IdleConnection", "PoolKey", "PoolLimits"]


@attrs.frozen
class PoolKey:
    """Connections of one key are interchangeable.

    :ivar host: name that was resolved, sent as SNI and verified
    :ivar transport: None for plain TCP, else how the peer was verified
    """

    host: str
    ip: str
    port: int
    transport: Hashable


@attrs.frozen(kw_only=True)
class PoolLimits:
    """Counts and seconds.

    :ivar per_key: most idle connections to one address of a host
    :ivar per_host: most idle connections to a host, all its addresses together; None for no such limit
    :ivar idle: how long a connection may wait
    :ivar lifetime: age at which a connection carries no further request
    """

    per_key: int = 10
    per_host: int | None = None
    idle: float = 55.0
    lifetime: float = 300.0


class IdleConnection(Protocol):
    """What the pool needs of a connection.

    :ivar broken: it ended in the middle of something
    """

    opened_at: float
    idle_since: float
    broken: bool

    def still_open(self) -> bool: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def when_lost(self, callback: "Callable[[IdleConnection], None]") -> None: ...


class ConnectionPool:
    """Keeps idle connections, newest first, and counts those in use.

    A connection enters with :meth:`opened`, as one in use; :meth:`release` makes it idle, :meth:`take` gives it out
    again.

    :ivar closed: connections that ended, by why: idle (nobody wanted it), lifetime, limit (there were too many), peer,
        error (while in use), or stop
    :param on_unused: called once for each :meth:`opened` and each :meth:`take`, when the connection is idle or gone
    """

    def __init__(self, clock: IReactorTime, limits: PoolLimits, on_unused: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._limits = limits
        self._on_unused = on_unused
        self._used: set[IdleConnection] = set()
        # Oldest first within a key.
        self._idle: dict[PoolKey, list[IdleConnection]] = {}
        self._key_of: dict[IdleConnection, PoolKey] = {}
        self._timer: IDelayedCall | None = None
        self._closed = False
        self.closed: "Counter[str]" = Counter()

    def opened(self, key: PoolKey, connection: IdleConnection) -> None:
        """A new connection is in use."""
        self._key_of[connection] = key
        self._used.add(connection)
        connection.when_lost(self._lost)

    def adopt(self, key: PoolKey, connection: IdleConnection) -> None:
        """A new connection is idle from the beginning."""
        self._key_of[connection] = key
        connection.when_lost(self._lost)
        self._keep(key, connection)

    def make_room(self, limit: int) -> None:
        """Close idle connections, the oldest first, until there is room for one more beside those that are left.

        :param limit: most connections, idle and in use
        """
        while len(self._used) + sum(map(len, self._idle.values())) >= limit and self._idle:
            self._close_oldest(list(self._idle))

    def take(self, key: PoolKey) -> IdleConnection | None:
        """The connection of this key that became idle last, if one is still good; it is in use now."""
        waiting = self._idle.get(key)
        while waiting:
            connection = waiting.pop()
            if not waiting:
                del self._idle[key]
            if not self._fresh(connection):
                self._end(connection, self._why_stale(connection))
            elif connection.still_open():
                self._used.add(connection)
                return connection
            else:
                self._end(connection, "peer")
        return None

    def _end(self, connection: IdleConnection, why: str) -> None:
        """Close an idle connection."""
        # When it is gone it is counted already.
        self._key_of.pop(connection, None)
        self.closed[why] += 1
        connection.close()

    def _why_stale(self, connection: IdleConnection) -> str:
        return "lifetime" if self._clock.seconds() - connection.opened_at >= self._limits.lifetime else "idle"

    def release(self, connection: IdleConnection) -> None:
        """A connection is idle. If it is too old it is closed; if there are too many, the oldest idle one is."""
        key = self._key_of.get(connection)
        if key is None:
            return
        self._keep(key, connection)
        self._unused(connection)

    def _keep(self, key: PoolKey, connection: IdleConnection) -> None:
        if self._closed or not self._fresh(connection):
            self._end(connection, "stop" if self._closed else self._why_stale(connection))
            return
        waiting = self._idle.setdefault(key, [])
        waiting.append(connection)
        if len(waiting) > self._limits.per_key:
            self._end(waiting.pop(0), "limit")
        elif self._limits.per_host is not None:
            self._trim_host(key.host, self._limits.per_host)
        self._watch()

    def _unused(self, connection: IdleConnection) -> None:
        if connection in self._used:
            self._used.remove(connection)
            # Last, because whoever waits for it may take the connection at once.
            self._on_unused()

    def counts(self) -> dict[str, tuple[int, int]]:
        """By host: connections that are idle, and in use."""
        result: dict[str, tuple[int, int]] = {}
        idle_now = {connection for waiting in self._idle.values() for connection in waiting}
        for connection, key in self._key_of.items():
            idle, used = result.get(key.host, (0, 0))
            waits = connection in idle_now
            result[key.host] = idle + waits, used + (not waits)
        return result

    def close(self) -> list[IdleConnection]:
        """Keep nothing any more. Gives back the connections that were idle, for the caller to end."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle = [connection for waiting in self._idle.values() for connection in waiting]
        for connection in idle:
            self._key_of.pop(connection, None)
            self.closed["stop"] += 1
        self._idle.clear()
        return idle

    def _fresh(self, connection: IdleConnection) -> bool:
        now = self._clock.seconds()
        return now - connection.idle_since < self._limits.idle and now - connection.opened_at < self._limits.lifetime

    def _trim_host(self, host: str, limit: int) -> None:
        keys = [key for key in self._idle if key.host == host]
        if sum(len(self._idle[key]) for key in keys) > limit:
            self._close_oldest(keys)

    def _close_oldest(self, keys: Iterable[PoolKey]) -> None:
        """Close the connection that has been idle for longest, of these keys."""
        key = min(keys, key=lambda key: self._idle[key][0].idle_since)
        waiting = self._idle[key]
        connection = waiting.pop(0)
        if not waiting:
            del self._idle[key]
        self._end(connection, "limit")

    def _lost(self, connection: IdleConnection) -> None:
        key = self._key_of.pop(connection, None)
        if key is None:
            return
        self.closed["error" if connection.broken else "peer"] += 1
        waiting = self._idle.get(key, [])
        if connection in waiting:
            waiting.remove(connection)
            if not waiting:
                del self._idle[key]
        self._unused(connection)

    def _deadline(self, connection: IdleConnection) -> float:
        return min(connection.idle_since + self._limits.idle, connection.opened_at + self._limits.lifetime)

    def _watch(self) -> None:
        if self._timer is None and self._idle:
            first = min(self._deadline(connection) for waiting in self._idle.values() for connection in waiting)
            self._timer = self._clock.callLater(max(first - self._clock.seconds(), 0.1), self._expire)

    def _expire(self) -> None:
        self._timer = None
        for key, waiting in list(self._idle.items()):
            fresh = [connection for connection in waiting if self._fresh(connection)]
            expired = [connection for connection in waiting if connection not in fresh]
            if fresh:
                self._idle[key] = fresh
            else:
                del self._idle[key]
            for connection in expired:
                self._end(connection, self._why_stale(connection))
        self._watch()
