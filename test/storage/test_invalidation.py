"""Confirming entries, and taking them back."""

import os

from twisted.trial.unittest import SynchronousTestCase

from test.storage.support import ABOUT, MIB, files_below, make_store, name_of, put_inline, put_ranges


class RenewalTests(SynchronousTestCase):
    """An entry that turned out to be still right."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.other = make_store(self, root=self.store.root)
        self.name = name_of("renewed")
        self.entry = put_inline(self.store, self.name, b"body", unconfirmed=True)

    def test_confirm(self) -> None:
        """A confirmed entry has the new time, counts as confirmed, and keeps its body; its older records are void."""
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        self.assertEqual(renewal.entry, self.entry)
        entry = renewal.confirm(2000.75)
        assert entry is not None
        self.assertEqual(self.store.load(self.name), entry)
        self.assertEqual((entry.validated_at, entry.unconfirmed, entry.small_body), (2000.75, False, b"body"))
        self.assertNotEqual(entry.epoch, self.entry.epoch)
        self.assertEqual(files_below(f"{self.store.root}/o"), [self.name.text])
        self.assertEqual(self.store.in_flight(), 0)

    def test_once(self) -> None:
        """Only one process asks at a time, and each attempt confirms at most once."""
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        self.assertIsNone(self.other.prepare_renewal(self.name))
        renewal.confirm(2000)
        self.assertIsNone(renewal.confirm(3000))
        self.assertIsNotNone(self.other.prepare_renewal(self.name))

    def test_cancel(self) -> None:
        """A cancelled attempt changes nothing and frees the lease."""
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        renewal.cancel()
        renewal.cancel()
        self.assertEqual(self.store.load(self.name), self.entry)
        self.assertIsNotNone(self.store.lease(self.name))

    def test_nothing_to_confirm(self) -> None:
        """Without an entry there is nothing to confirm, and no lease is taken."""
        self.assertIsNone(self.store.prepare_renewal(name_of("absent")))
        self.assertIsNotNone(self.store.lease(name_of("absent")))

    def test_written_meanwhile(self) -> None:
        """A writer in another process voids the confirmation: the entry stays unconfirmed."""
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        self.other.arm(self.name)
        self.assertIsNone(renewal.confirm(2000))
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual(found.validated_at, 0)
        self.assertIsNone(self.store.lease(self.name), "the writer's lease still stands")

    def test_replaced_meanwhile(self) -> None:
        """The new version is not confirmed by what was learnt about the old one."""
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        self.other.drop(self.name)
        new = put_inline(self.other, self.name, b"new", validated_at=1500.0)
        self.assertIsNone(renewal.confirm(2000))
        found = self.store.load(self.name)
        assert found is not None
        self.assertEqual((found.small_body, found.validated_at, found.nonce), (b"new", 1500.0, new.nonce))

    def test_evicted_meanwhile(self) -> None:
        """An entry that was evicted is not confirmed."""
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        self.other.volume.remove_entry(self.name)
        self.assertIsNone(renewal.confirm(2000))
        self.assertIsNone(self.store.load(self.name))
        self.assertIsNotNone(self.store.lease(self.name))

    def test_new_version(self) -> None:
        """When the answer is a new version, it is published under the same lease."""
        renewal = self.store.prepare_renewal(self.name)
        assert renewal is not None
        entry = self.store.publish_inline(renewal.lease, object_size=3, body=[b"new"], **ABOUT)
        renewal.cancel()
        self.assertEqual(self.store.load(self.name), entry)

    def test_damaged(self) -> None:
        """A damaged entry is removed instead."""
        os.truncate(self.store.volume.entry_path(self.name), 50)
        self.assertIsNone(self.store.prepare_renewal(self.name))
        self.assertEqual(files_below(f"{self.store.root}/o"), [])


class ArmTests(SynchronousTestCase):
    """An object that is being changed."""

    def setUp(self) -> None:
        self.store = make_store(self)
        self.other = make_store(self, root=self.store.root)
        self.name = name_of("written")
        self.entry = put_inline(self.store, self.name, b"body")

    def test_armed(self) -> None:
        """While it is armed, the entry reads as never validated, nobody can confirm it, and nobody can publish."""
        arm = self.store.arm(self.name)
        found = self.other.load(self.name)
        assert found is not None
        self.assertEqual((found.validated_at, found.small_body), (0, b"body"))
        self.assertIsNone(self.other.prepare_renewal(self.name))
        self.assertIsNone(self.other.lease(self.name))
        arm.disarm()
        renewal = self.other.prepare_renewal(self.name)
        assert renewal is not None
        self.assertIsNotNone(renewal.confirm(2000))

    def test_invalidate(self) -> None:
        """Afterwards the entry is gone, and the next one can be published at once."""
        used = self.store.usage()
        arm = self.store.arm(self.name)
        arm.invalidate()
        self.assertIsNone(self.other.load(self.name))
        self.assertLess(self.store.usage(), used)
        self.assertEqual(files_below(f"{self.store.root}/o"), [])
        self.assertEqual(self.store.in_flight(), 0)
        put_inline(self.other, self.name, b"new")

    def test_earlier_flight(self) -> None:
        """What was asked for before the write can't be published after it."""
        lease = self.other.lease(self.name)
        assert lease is not None
        self.store.arm(self.name).invalidate()
        self.assertTrue(lease.revoked())
        self.assertIsNone(self.other.publish_inline(lease, object_size=3, body=[b"old"], **ABOUT))
        self.assertIsNone(self.store.load(self.name))

    def test_overlapping_writes(self) -> None:
        """Of two writes at the same time neither is cached, and the entry is gone."""
        first = self.store.arm(self.name)
        second = self.other.arm(self.name)
        first.invalidate()
        second.invalidate()
        self.assertIsNone(self.store.load(self.name))
        self.assertEqual(files_below(f"{self.store.root}/o"), [])

    def test_late_disarm(self) -> None:
        """A refused write does not take the lease of a later one away."""
        first = self.store.arm(self.name)
        second = self.other.arm(self.name)
        first.disarm()
        assert second.lease is not None
        self.assertFalse(second.lease.revoked())

    def test_publish_under_arm(self) -> None:
        """The new version may be published under the writer's own lease."""
        arm = self.store.arm(self.name)
        assert arm.lease is not None
        entry = self.store.publish_inline(arm.lease, object_size=3, body=[b"new"], **ABOUT)
        found = self.other.load(self.name)
        assert found is not None and entry is not None
        self.assertEqual((found.small_body, found.nonce), (b"new", entry.nonce))

    def test_absent(self) -> None:
        """An object that is not cached is armed, disarmed and invalidated all the same."""
        self.store.arm(name_of("absent")).disarm()
        self.store.arm(name_of("absent")).invalidate()
        self.store.drop(name_of("absent"))
        self.assertEqual(files_below(f"{self.store.root}/o"), [self.name.text])

    def test_drop_ranges(self) -> None:
        """An entry's ranges go with it."""
        entry = put_ranges(self.store, self.name, MIB, (0, 1000))
        self.store.drop(self.name)
        self.assertEqual(self.store.ranges(entry), ())
        self.assertIsNone(self.store.open_range(entry, 0, 1000))
        self.store.sweeper.run()
        self.assertEqual(files_below(f"{self.store.root}/o") + files_below(f"{self.store.root}/trash"), [])

    def test_damaged_entry(self) -> None:
        """An entry that can't be marked is removed."""
        os.truncate(self.store.volume.entry_path(self.name), 50)
        self.store.arm(self.name)
        self.assertIsNone(self.store.volume.inode(self.store.volume.entry_path(self.name)))
