"""Tests of s3proxy.upstream.pool."""

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.pool import ConnectionPool, PoolKey, PoolLimits

A1 = PoolKey("a.test", "192.0.2.1", 443, "tls")
A2 = PoolKey("a.test", "192.0.2.2", 443, "tls")
PLAIN = PoolKey("a.test", "192.0.2.1", 443, None)


class FakeConnection:
    """A connection as the pool sees it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.opened_at = self.idle_since = clock.seconds()
        self.open = True
        self.broken = False
        self.closed = 0
        self.aborted = 0
        self._lost: list[Callable[[Any], None]] = []

    def still_open(self) -> bool:
        return self.open

    def close(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        self.aborted += 1

    def when_lost(self, callback: Callable[[Any], None]) -> None:
        self._lost.append(callback)

    def lose(self) -> None:
        for callback in self._lost:
            callback(self)


class PoolTests(SynchronousTestCase):
    """Which connection is given out, and which is closed."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pool = self.make_pool()

    def make_pool(self, **limits: Any) -> ConnectionPool:
        return ConnectionPool(self.clock, PoolLimits(**limits))

    def idle(self, key: PoolKey = A1, pool: ConnectionPool | None = None) -> FakeConnection:
        """A connection that has become idle now."""
        connection = FakeConnection(self.clock)
        (pool or self.pool).opened(key, connection)
        (pool or self.pool).release(connection)
        return connection

    def test_newest_first(self) -> None:
        """The connection that became idle last is the first to be used again."""
        first, second = self.idle(), self.idle()
        self.assertIs(self.pool.take(A1), second)
        self.assertIs(self.pool.take(A1), first)
        self.assertIsNone(self.pool.take(A1))

    def test_keys_do_not_mix(self) -> None:
        """Another address, and another way of verifying the peer, are other connections."""
        self.idle(A1)
        self.assertIsNone(self.pool.take(A2))
        self.assertIsNone(self.pool.take(PLAIN))

    def test_dead_ones_are_skipped(self) -> None:
        """A connection that the peer has closed or written to is closed, and the next one is tried."""
        first, second = self.idle(), self.idle()
        second.open = False
        self.assertIs(self.pool.take(A1), first)
        self.assertEqual((first.closed, second.closed), (0, 1))

    def test_lost_while_idle(self) -> None:
        """A lost connection is forgotten."""
        connection = self.idle()
        connection.lose()
        self.assertIsNone(self.pool.take(A1))
        self.assertEqual(self.pool.counts(), {})

    def test_idle_timeout(self) -> None:
        """A connection that waited for too long is closed without anybody asking."""
        pool = self.make_pool(idle=55)
        first = self.idle(pool=pool)
        self.clock.advance(30)
        second = self.idle(pool=pool)
        self.clock.advance(25)
        self.assertEqual((first.closed, second.closed), (1, 0))
        self.clock.advance(30)
        self.assertEqual((first.closed, second.closed), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lifetime(self) -> None:
        """An old connection is closed when it is given back, and when it becomes old while it waits."""
        pool = self.make_pool(idle=1000, lifetime=300)
        connection = FakeConnection(self.clock)
        pool.opened(A1, connection)
        waiting = self.idle(pool=pool)
        self.clock.advance(300)
        self.assertEqual(waiting.closed, 1)
        pool.release(connection)
        self.assertEqual(connection.closed, 1)
        self.assertIsNone(pool.take(A1))

    def test_limit_per_address(self) -> None:
        """Beyond the limit the connection that is idle for longest is closed."""
        pool = self.make_pool(per_key=2)
        first, second, third = self.idle(pool=pool), self.idle(pool=pool), self.idle(pool=pool)
        other = self.idle(A2, pool)
        self.assertEqual([first.closed, second.closed, third.closed, other.closed], [1, 0, 0, 0])

    def test_limit_per_host(self) -> None:
        """A limit per host counts all its addresses."""
        pool = self.make_pool(per_key=100, per_host=2)
        first = self.idle(A2, pool)
        self.clock.advance(1)
        second, third = self.idle(A1, pool), self.idle(A1, pool)
        self.assertEqual([first.closed, second.closed, third.closed], [1, 0, 0])

    def test_counts(self) -> None:
        """Idle connections and those in use are told apart."""
        self.idle(A1)
        self.pool.opened(A2, FakeConnection(self.clock))
        self.assertEqual(self.pool.counts(), {"a.test": (1, 1)})
        self.pool.take(A1)
        self.assertEqual(self.pool.counts(), {"a.test": (0, 2)})

    def test_unused(self) -> None:
        """Each use ends once: when the connection becomes idle, or is lost before that."""
        ended: list[int] = []
        pool = ConnectionPool(self.clock, PoolLimits(), lambda: ended.append(1))
        connection = FakeConnection(self.clock)
        pool.opened(A1, connection)
        pool.release(connection)
        self.assertEqual(len(ended), 1)
        self.assertIs(pool.take(A1), connection)
        connection.lose()
        self.assertEqual(len(ended), 2)
        connection.lose()
        pool.release(connection)
        self.assertEqual(len(ended), 2)

    def test_unused_while_another_waits(self) -> None:
        """Whoever waits for the end of a use finds the connection idle by then."""
        found: list[object] = []
        pool = ConnectionPool(self.clock, PoolLimits(), lambda: found.append(pool.take(A1)))
        connection = FakeConnection(self.clock)
        pool.opened(A1, connection)
        pool.release(connection)
        self.assertEqual(found, [connection])

    def test_too_old_when_released(self) -> None:
        """A connection that is closed when it is released ends one use, not two."""
        ended: list[int] = []
        pool = ConnectionPool(self.clock, PoolLimits(lifetime=10), lambda: ended.append(1))
        connection = FakeConnection(self.clock)
        pool.opened(A1, connection)
        self.clock.advance(11)
        pool.release(connection)
        connection.lose()
        self.assertEqual((connection.closed, len(ended)), (1, 1))

    def test_adopted(self) -> None:
        """A connection that nobody asked for is idle from the beginning, and ends no use."""
        ended: list[int] = []
        pool = ConnectionPool(self.clock, PoolLimits(), lambda: ended.append(1))
        connection = FakeConnection(self.clock)
        pool.adopt(A1, connection)
        self.assertEqual((pool.counts(), ended), ({"a.test": (1, 0)}, []))
        self.assertIs(pool.take(A1), connection)

    def test_make_room(self) -> None:
        """Idle connections make room for a new one, those that have been idle for longest first."""
        first = self.idle(A1)
        self.clock.advance(1)
        second = self.idle(A2)
        self.clock.advance(1)
        third = self.idle(A1)
        self.pool.opened(A1, FakeConnection(self.clock))
        self.pool.make_room(5)
        self.assertEqual(first.closed, 0)
        self.pool.make_room(3)
        self.assertEqual([each.closed for each in (first, second, third)], [1, 1, 0])
        self.pool.make_room(1)
        self.assertEqual(third.closed, 1)

    def test_close(self) -> None:
        """A closed pool hands over what is idle and keeps nothing any more."""
        used = FakeConnection(self.clock)
        self.pool.opened(A1, used)
        connection = self.idle()
        self.assertEqual(self.pool.close(), [connection])
        self.pool.release(used)
        self.assertEqual(used.closed, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
