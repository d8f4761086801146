"""Everything stored is read again, bit by bit, once in an interval."""

import json
import os
from test.storage.support import MIB, abandon, make_store, name_of, put_inline, put_ranges
from test.storage.test_packing import TEXT, put_range
from test.storage.test_seal import flip, path_of

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore
from s3proxy.storage.scrub import Scrub

DAY = 86400.0


class ScrubTestCase(SynchronousTestCase):
    """A directory with something of everything in it, and a clock."""

    def setUp(self) -> None:
        self.time = 1_000_000.0
        self.store = self.open()
        self.inline = put_inline(self.store, name_of("inline"), bytes(300_000))
        self.small = put_inline(self.store, name_of("small"), b"small")
        self.ranges = put_ranges(self.store, name_of("ranges"), 3 * MIB, (0, MIB), (2 * MIB, 3 * MIB))
        self.packed = put_range(self.store, TEXT, name="packed")
        self.store.pack_range(self.packed, 0, len(TEXT), block=16)
        self.scrub = self.store.scrub()
        self.scrub.wait(DAY)
        self.time += DAY

    def open(self, root: str | None = None) -> DiskStore:
        return make_store(self, root=root, now=lambda: self.time, max_size=1 << 30)

    def finish(self, scrub: Scrub, budget: int = 1 << 30) -> int:
        """Make the pass; how many steps it takes."""
        steps = 1
        while scrub.step(budget) is not None:
            steps += 1
        return steps


class PassTests(ScrubTestCase):
    """A pass."""

    def test_sound(self) -> None:
        """Nothing happens to what is sound."""
        self.finish(self.scrub)
        self.assertEqual((self.scrub.files, self.scrub.damaged), (5, 0))
        self.assertGreater(self.scrub.read, 2 * MIB + 300_000)
        for name in ("inline", "small", "ranges", "packed"):
            self.assertIsNotNone(self.store.load(name_of(name)), name)

    def test_damaged(self) -> None:
        """What is not goes into quarantine, also when it was found sound before."""
        flip(path_of(self.store, self.inline), 200_000)
        flip(path_of(self.store, self.small), 140)
        flip(path_of(self.store, self.ranges, 2 * MIB, 3 * MIB), 5)
        flip(path_of(self.store, self.packed, 0, len(TEXT)) + ".z", 70)
        self.finish(self.scrub)
        self.assertEqual(self.scrub.damaged, 4)
        self.assertIsNone(self.store.load(name_of("inline")))
        self.assertIsNone(self.store.load(name_of("small")))
        self.assertEqual(self.store.ranges(self.ranges), ((0, MIB),))
        self.assertEqual(self.store.ranges(self.packed), ())
        self.assertEqual(len(self.store.volume.quarantine.names()), 4)

    def test_in_place(self) -> None:
        """A byte that changed under an open file is found, too."""
        with open(path_of(self.store, self.ranges, 0, MIB), "r+b") as file:
            file.write(b"x")
        self.finish(self.scrub)
        self.assertEqual(self.store.ranges(self.ranges), ((2 * MIB, 3 * MIB),))

    def test_budget(self) -> None:
        """A step reads about as much as it may."""
        steps = self.finish(self.scrub, 100_000)
        self.assertGreater(steps, 4)
        self.assertEqual(self.scrub.files, 5)

    def test_open_files(self) -> None:
        """The pass does not push what is being read out of the files that are kept open."""
        before = len(self.store.volume.handles)
        self.finish(self.scrub)
        self.assertEqual(len(self.store.volume.handles), before)


class TimeTests(ScrubTestCase):
    """When it is made, and by whom."""

    def test_interval(self) -> None:
        """One pass per interval, counted from its beginning."""
        self.assertEqual(self.scrub.wait(DAY), 0)
        self.time += 500
        self.finish(self.scrub)
        self.time += 100
        self.assertEqual(self.scrub.wait(DAY), DAY - 100)

    def test_new_directory(self) -> None:
        """A new directory waits for one interval, also across restarts."""
        store = self.open(os.path.abspath(self.mktemp()))
        self.assertEqual(store.scrub().wait(DAY), DAY)
        self.time += DAY / 2
        self.assertEqual(store.scrub().wait(DAY), DAY / 2)

    def test_position(self) -> None:
        """A pass that was interrupted goes on where it was."""
        self.scrub.step(1)
        self.time += 20
        while self.scrub.files < 4:
            self.scrub.step(1)
        self.scrub.close()
        self.store.close()
        other = self.open(self.store.root).scrub()
        self.assertEqual(other.wait(DAY), 0)
        self.finish(other)
        self.assertLess(other.files, 5)
        self.assertGreaterEqual(other.files + self.scrub.files, 5)

    def test_one_at_a_time(self) -> None:
        """Two processes do not do the same work; another one goes on when the first has died."""
        other = self.open(self.store.root)
        self.scrub.step(1)
        second = other.scrub()
        self.assertEqual(second.wait(DAY), 0)
        self.assertIsNone(second.step(MIB))
        self.assertEqual(second.files, 0)
        abandon(self.store)
        self.finish(second)
        self.assertGreater(second.files, 0)

    def test_pass_of_another(self) -> None:
        """The pass that another process made counts for this one."""
        second = self.open(self.store.root).scrub()
        self.assertEqual(second.wait(DAY), 0)
        self.finish(self.scrub)
        self.assertIsNone(second.step(MIB))
        self.assertEqual((second.files, second.wait(DAY)), (0, DAY))

    def test_damaged_notes(self) -> None:
        """A position that can't be read is as good as none."""
        later = '{"next":1,"began":9e99,"ended":1}'
        for text in ("", "[]", '{"next": 1}', '{"next": "x", "began": 0, "ended": 0}', later):
            with open(f"{self.store.root}/ctl/scrub.json", "w") as file:
                file.write(text)
            self.assertEqual(self.store.scrub().wait(DAY), DAY, text)

    def test_lease_without_owner(self) -> None:
        """A lease whose owner died before he wrote his name ends by its age."""
        lease = f"{self.store.root}/ctl/scrub.lease"
        with open(lease, "w"):
            pass
        os.utime(lease, (self.time, self.time))
        self.assertIsNone(self.scrub.step(1))
        self.time += 60
        self.finish(self.scrub)
        self.assertEqual(self.scrub.files, 5)
        self.assertFalse(os.path.exists(lease))

    def test_notes(self) -> None:
        """What is noted."""
        self.finish(self.scrub)
        with open(f"{self.store.root}/ctl/scrub.json") as file:
            self.assertEqual(json.load(file), {"next": 0, "began": self.time, "ended": self.time})
