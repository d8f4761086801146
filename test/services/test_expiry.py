"""Tests for :mod:`s3proxy.services.expiry`."""

import os
from types import SimpleNamespace
from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, encode_version
from s3proxy.config.model import Cache, Config
from s3proxy.policy.rules import Rules
from s3proxy.services.expiry import EVERY, FIRST, Expiry
from s3proxy.storage.layout import entry_name
from test.cache.test_packer import VERSION
from test.storage.support import make_store, put_inline
from test.support.streams import run_at_once

START = 1e9
TTL = 3 * 86400.0


class ExpiryTests(SynchronousTestCase):
    """Expiry."""

    def setUp(self) -> None:
        """A store with three objects of different ages."""
        self.clock = Clock()
        self.store = make_store(self, now=lambda: START + self.clock.seconds())
        for key, age in ((b"new", 0.0), (b"middle", TTL - 1.5 * EVERY), (b"old", TTL + 1)):
            id = ObjectId("aws", b"bucket", key)
            put_inline(
                self.store,
                self.name(key),
                b"body",
                meta=encode_version(attrs.evolve(VERSION, id=id)),
                validated_at=START - age,
                observed_at=START - age,
            )

    def name(self, key: bytes) -> Any:
        return entry_name((b"aws", b"bucket", key))

    def serve(self, wanted: bool) -> Expiry:
        cache = Cache(actively_remove_cached_data=wanted, get_ttl=TTL)
        expiry = Expiry(self.clock, run_at_once, self.fail, self.store, cache)
        expiry.rules = Rules(Config(cache=cache))
        expiry.start()
        self.addCleanup(expiry.stop)
        return expiry

    def left(self) -> list[bytes]:
        self.store.volume.empty_trash()
        path = self.store.volume.entry_path
        return [key for key in (b"new", b"middle", b"old") if os.path.exists(path(self.name(key)))]

    def test_daily(self) -> None:
        """Some minutes after the start, and then once a day, what has expired is removed."""
        expiry = self.serve(True)
        self.clock.pump([60.0] * int(FIRST / 60 + 2))
        self.assertEqual((self.left(), expiry.removed), ([b"new", b"middle"], 1))
        self.clock.pump([300.0] * int(EVERY / 300 + 3))
        self.assertEqual(self.left(), [b"new", b"middle"])
        self.clock.pump([300.0] * int(EVERY / 300 + 3))
        self.assertEqual((self.left(), expiry.removed), ([b"new"], 2))

    def test_not_wanted(self) -> None:
        """By default nothing is removed because of its age."""
        self.serve(False)
        self.clock.pump([300.0] * int(2 * EVERY / 300))
        self.assertEqual(len(self.left()), 3)

    def test_not_while_others_evict(self) -> None:
        """As long as another instance makes room, nothing happens."""
        other = make_store(self, root=self.store.root, now=lambda: START + self.clock.seconds())
        self.assertTrue(other.evictor._lease.take())
        self.addCleanup(other.evictor._lease.release)
        expiry = self.serve(True)
        os.utime(f"{self.store.root}/ctl/evict.lease", (START + FIRST, START + FIRST))
        self.clock.pump([60.0] * int(FIRST / 60) + [1.0] * 10)
        self.assertEqual(expiry.removed, 0)


class FewFilesTests(SynchronousTestCase):
    """A file system that has room for bytes, but not for files."""

    def test_few_files(self) -> None:
        """It counts as full: a sixteenth of what is there goes, and no room is found by looking at free bytes."""
        store = make_store(self)
        for number in range(20):
            put_inline(store, entry_name((b"%d" % number,)), bytes(50_000))
        real = store.volume.calls.statvfs
        free = [10**6]

        def statvfs(path: str) -> Any:
            found = real(path)
            return SimpleNamespace(
                f_files=10**6, f_favail=free[0], f_bavail=found.f_bavail, f_frsize=found.f_frsize
            )  # fmt: skip

        store.volume.calls.statvfs = statvfs  # type: ignore[assignment]
        scan = store.scan()
        while not scan.step():
            pass
        store.flush_recency()
        self.assertFalse(store.sweeper.due())
        before = store.usage()
        free[0] = 100
        store.flush_recency()
        self.assertTrue(store.sweeper.due())
        store.sweeper.run()
        self.assertLess(store.usage(), before * 15 // 16)
        self.assertFalse(store.evictor.reserve(before))
