"""Which of several instances on one cache directory evicts."""

import errno
import os
import threading
import time
from test.storage.support import FailingCalls, finish_scan, make_store, put_inline

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.evictlease import EvictionLease
from s3proxy.storage.layout import entry_name


class LeaseTests(SynchronousTestCase):
    """EvictionLease."""

    def setUp(self) -> None:
        """Two instances."""
        self.one = make_store(self)
        self.two = make_store(self, root=self.one.root)
        self.now = time.time()
        self.leases = [
            EvictionLease(store.volume.calls, f"{store.root}/ctl/evict.lease", store.volume.instance, lambda: self.now)
            for store in (self.one, self.two)
        ]

    def test_one_at_a_time(self) -> None:
        """Who comes second waits until the first has ended, has made room enough, or his patience is at its end."""
        first, second = self.leases
        self.assertTrue(first.take())
        self.assertFalse(second.take(lambda: False, 0.05))
        self.assertFalse(second.take(lambda: True, 60))
        threading.Timer(0.05, first.release).start()
        self.assertTrue(second.take(lambda: False, 10))
        first.release()
        self.assertFalse(first.take())

    def test_takeover(self) -> None:
        """A lease that its owner has not touched for long, or whose owner is dead, is taken over."""
        first, second = self.leases
        self.assertTrue(first.take())
        self.now += 59
        self.assertFalse(second.take())
        first.keep()
        os.utime(f"{self.one.root}/ctl/evict.lease", (self.now, self.now))
        self.now += 59
        self.assertFalse(second.take())
        self.now += 2
        self.assertTrue(second.take())
        second.release()
        self.assertTrue(first.take())
        self.one.volume.instance.stop()
        self.assertTrue(second.take())
        self.assertEqual((first.broken, second.broken), (0, 2))
        self.assertEqual(sorted(os.listdir(f"{self.one.root}/ctl")), ["base.json", "evict.lease"])

    def test_no_room_for_it(self) -> None:
        """Where its owner's name can't be written there is none."""
        calls = FailingCalls()
        store = make_store(self, root=self.one.root, calls=calls)
        lease = EvictionLease(calls, f"{store.root}/ctl/evict.lease", store.volume.instance, time.time)
        calls.fail("pwrite", errno.ENOSPC)
        self.assertRaises(OSError, lease.take)
        calls.heal()
        self.assertEqual(os.listdir(f"{store.root}/ctl"), ["base.json"])
        self.assertTrue(self.leases[0].take())

    def test_left_behind(self) -> None:
        """A scan removes the lease of the dead, and no other."""
        put_inline(self.one, entry_name((b"k",)), bytes(10))
        self.assertTrue(self.leases[1].take())
        finish_scan(self.one)
        self.assertTrue(os.path.exists(f"{self.one.root}/ctl/evict.lease"))
        self.two.volume.instance.stop()
        finish_scan(self.one)
        self.assertFalse(os.path.exists(f"{self.one.root}/ctl/evict.lease"))

    def test_eviction_needs_it(self) -> None:
        """A sweep leaves the work to the instance that has the lease."""
        finish_scan(self.one)
        put_inline(self.one, entry_name((b"k",)), bytes(50_000))
        self.assertTrue(self.leases[1].take())
        self.assertEqual(self.one.evictor.shrink(0), 0)
        self.leases[1].release()
        self.assertGreater(self.one.evictor.shrink(0), 0)
