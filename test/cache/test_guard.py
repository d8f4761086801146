"""How the cache remembers that the disk failed, and what it does when it works again."""

import errno
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.guard import QUIET_AFTER_ERROR, DiskGuard
from s3proxy.cache.invalidation import MANY_AT_ONCE, Invalidation
from s3proxy.storage.disk import EntryName
from test.support.gateway import CountingEvents
from test.support.streams import run_at_once


class GuardTests(SynchronousTestCase):
    """The guard by itself."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.guard = DiskGuard(lambda: self.now, CountingEvents())

    def test_inserts_pause_after_an_error(self) -> None:
        """After an error nothing is inserted for a while."""
        self.assertTrue(self.guard.may_insert)
        self.guard.failed(OSError(errno.EIO, "bad"))
        self.assertFalse(self.guard.may_insert)
        self.now += QUIET_AFTER_ERROR
        self.assertTrue(self.guard.may_insert)
        self.assertIsNotNone(self.guard.last_error)

    def test_recovery(self) -> None:
        """A write that began after the error and succeeded ends the pause and the error."""
        self.guard.failed(OSError(errno.EIO, "bad"))
        self.guard.recovered(self.now + 1)
        self.assertTrue(self.guard.may_insert)
        self.assertIsNone(self.guard.last_error)

    def test_older_success_is_no_recovery(self) -> None:
        """A write that began before the error says nothing."""
        self.guard.failed(OSError(errno.EIO, "bad"))
        self.guard.recovered(self.now)
        self.assertFalse(self.guard.may_insert)
        self.assertIsNotNone(self.guard.last_error)

    def test_no_inserts_after_the_end(self) -> None:
        """A recovery does not bring back inserts that were stopped for good."""
        self.guard.failed(OSError(errno.EIO, "bad"))
        self.guard.stop_inserts()
        self.guard.recovered(self.now + 1)
        self.assertFalse(self.guard.may_insert)


class _Store:
    """Drops entries, or refuses to."""

    def __init__(self) -> None:
        self.broken = True
        self.dropped: list[EntryName] = []

    def drop(self, name: EntryName) -> None:
        if self.broken:
            raise OSError(errno.EROFS, "read-only")
        self.dropped.append(name)


class CatchUpTests(SynchronousTestCase):
    """Invalidations that the disk did not take."""

    def setUp(self) -> None:
        self.store: Any = _Store()
        self.guard = DiskGuard(lambda: 1000.0, CountingEvents())
        self.invalidation = Invalidation(
            self.store, self.guard, run_at_once, lambda id: None, CountingEvents()
        )

    def test_written_down_later(self) -> None:
        """What could not be dropped is not trusted, and dropped when the disk works again, some at a time."""
        ids = [ObjectId("aws", b"b", b"%d" % number) for number in range(MANY_AT_ONCE + 1)]
        for id in ids:
            self.invalidation.drop(id)
        self.assertFalse(self.invalidation.catch_up_some())
        self.store.broken = False
        self.assertFalse(self.invalidation.catch_up_some())
        self.assertEqual(len(self.store.dropped), MANY_AT_ONCE)
        self.assertTrue(self.invalidation.catch_up_some())
        self.assertEqual(len(set(self.store.dropped)), len(ids))
        self.assertTrue(all(self.invalidation.trusts_disk(id) for id in ids))

    def test_broken_again(self) -> None:
        """One that fails again ends the attempt, and is not trusted."""
        id = ObjectId("aws", b"b", b"k")
        self.invalidation.drop(id)
        self.assertFalse(self.invalidation.catch_up_some())
        self.assertFalse(self.invalidation.trusts_disk(id))
