"""Bodies are made smaller behind the answers, one at a time."""

import errno
from test.cache.test_ram import Thread
from test.storage.support import make_store, name_of, put_inline
from test.storage.test_packing import NOISE, TEXT, put_range
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.entry import ObjectId, ObjectVersion
from s3proxy.cache.packer import MOST_WAITING, Packer, PackingRules
from s3proxy.s3.headers import Headers
from s3proxy.storage.packing import Packed

VERSION = ObjectVersion(
    id=ObjectId("aws", b"bucket", b"key"), etag=b'"v"', last_modified=None, size=1, headers=Headers()
)


class PackerTests(SynchronousTestCase):
    """Over a real store."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.thread = Thread()
        self.asked: list[ObjectVersion] = []
        self.packer = Packer(self.store, self.thread.run)
        self.use()

    def use(self, *, threshold: int = 1024, wanted: bool = True) -> None:
        def wants(version: ObjectVersion) -> bool:
            self.asked.append(version)
            return wanted

        self.packer.rules = PackingRules(wants=wants, threshold=threshold, block=16)

    def work(self) -> None:
        while self.thread.calls:
            self.thread.work()

    def outcomes(self) -> tuple[int, ...]:
        return tuple(self.packer.outcomes[outcome] for outcome in Packed)

    def test_off(self) -> None:
        """Without rules nothing is even asked."""
        self.packer.rules = None
        self.packer.offer(VERSION, put_range(self.store, TEXT), [(0, len(TEXT))])
        self.assertEqual((self.thread.calls, len(self.packer), self.asked), ([], 0, []))

    def test_ranges_and_entries(self) -> None:
        """Everything worth it becomes smaller, one after another."""
        ranges, inline = put_range(self.store, TEXT), put_inline(self.store, name_of("inline"), TEXT)
        self.packer.offer(VERSION, ranges, [(0, len(TEXT))])
        self.packer.offer(VERSION, inline, [])
        self.packer.offer(VERSION, put_inline(self.store, name_of("noise"), NOISE), [])
        self.assertEqual((len(self.thread.calls), len(self.packer)), (1, 3))
        self.work()
        self.assertEqual(self.outcomes(), (2, 1, 0))
        self.assertLess(self.packer.after, self.packer.before // 2)
        self.assertEqual(self.store.listed(ranges)[1], frozenset(((0, len(TEXT)),)))
        loaded = self.store.load(name_of("inline"))
        assert loaded is not None
        self.assertTrue(loaded.encoded)

    def test_not_wanted(self) -> None:
        """What the rules don't want stays; what is too small, or encoded, is not asked about."""
        self.use(wanted=False)
        self.packer.offer(VERSION, put_range(self.store, TEXT), [(0, len(TEXT))])
        self.assertEqual(len(self.asked), 1)
        self.use(threshold=len(TEXT) + 1)
        self.packer.offer(VERSION, put_range(self.store, TEXT, name="y"), [(0, len(TEXT))])
        self.use(threshold=0)
        self.packer.offer(VERSION, put_inline(self.store, name_of("tiny"), bytes(4096)), [])
        inline = put_inline(self.store, name_of("inline"), TEXT)
        self.store.pack_entry(inline, block=16)
        loaded = self.store.load(name_of("inline"))
        assert loaded is not None
        self.packer.offer(VERSION, loaded, [])
        self.assertEqual((self.thread.calls, len(self.asked)), ([], 1))

    def test_offered_twice(self) -> None:
        """What waits already does not wait twice."""
        entry = put_range(self.store, TEXT)
        for _ in range(3):
            self.packer.offer(VERSION, entry, [(0, len(TEXT))])
        self.work()
        self.assertEqual(self.outcomes(), (1, 0, 0))

    def test_many(self) -> None:
        """More than so many are left as they are."""
        entry = put_range(self.store, TEXT)
        self.packer.offer(VERSION, entry, [(n, n + 10_000) for n in range(MOST_WAITING + 5)])
        self.assertEqual(self.packer.left, 5)
        self.packer.close()
        self.work()
        self.assertEqual(len(self.packer), 0)

    def test_trouble(self) -> None:
        """Neither a busy nor a failing disk matters; a fault of the program is logged."""
        entry = put_range(self.store, TEXT)
        self.thread.busy = True
        self.packer.offer(VERSION, entry, [(0, len(TEXT))])
        self.thread.busy = False
        problems: list[Exception] = [OSError(errno.ENOSPC, "full"), ZeroDivisionError()]

        def fail(*args: Any, **options: Any) -> None:
            raise problems.pop(0)

        self.patch(self.store, "pack_range", fail)
        self.packer.offer(VERSION, entry, [(0, len(TEXT)), (1, len(TEXT))])
        self.work()
        self.assertEqual(self.outcomes(), (0, 0, 2))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.packer), 0)
