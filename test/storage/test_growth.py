"""Following what another process writes."""

import os
from test.storage.support import ABOUT, MIB, add_range, put_ranges
from test.storage.test_claims import TwoStores, move_away

from s3proxy.storage.growth import Growth, InlineGrowth, RangeGrowth
from s3proxy.storage.lease import WHOLE
from s3proxy.storage.writer import InlineWriter

SIZE = 3 * MIB
BODY = os.urandom(SIZE)
LAG = 200
"""Bytes at the end of what is there that could be those of a footer; more than there are."""


def read(growth: Growth, start: int, stop: int) -> bytes:
    """Bytes that are there."""
    data = b""
    while start + len(data) < stop:
        at = start + len(data)
        handle = growth.handle(at)
        assert handle is not None
        data += os.pread(handle.fd, min(stop, handle.stop) - at, handle.base + at - handle.start)
        handle.close()
    return data


class InlineGrowthTests(TwoStores):
    """The body of an entry that will be one file."""

    def begin(self) -> tuple[InlineWriter, InlineGrowth]:
        lease = self.theirs.lease(self.name, asks=WHOLE)
        assert lease is not None
        writer = self.theirs.start_inline(lease, object_size=SIZE, **ABOUT)
        self.addCleanup(writer.close)
        flight = self.ours.flight(self.name)
        assert flight is not None
        growth = InlineGrowth(self.ours.volume, flight)
        self.addCleanup(growth.close)
        return writer, growth

    def test_to_the_end(self) -> None:
        """What is written can be read, but for the last few bytes; those when it is published."""
        writer, growth = self.begin()
        growth.look()
        self.assertEqual((growth.have, growth.over), (0, False))
        for written in (MIB, SIZE):
            writer.append([BODY[writer.written : written]])
            self.assertTrue(growth.look())
            self.assertTrue(written - LAG < growth.have < written, growth.have)
            self.assertEqual(read(growth, 0, growth.have), BODY[: growth.have])
        self.assertFalse(growth.look())
        writer.commit()
        self.assertTrue(growth.look())
        self.assertTrue(growth.complete and growth.stands())
        self.assertEqual(read(growth, 0, SIZE), BODY)
        growth.close()
        self.assertEqual(growth.have, 0)
        growth.look()
        self.assertEqual(read(growth, 0, SIZE), BODY, "opened again under the entry's name")

    def test_signs_of_life(self) -> None:
        """Without more bytes its owner's touch tells that he lives."""
        writer, growth = self.begin()
        growth.look()
        self.assertFalse(growth.look())
        os.utime(writer.fd, (5, 5))
        self.assertTrue(growth.look())
        self.assertFalse(growth.is_abandoned())
        self.theirs.volume.instance.stop()
        self.assertTrue(growth.is_abandoned())

    def test_given_up(self) -> None:
        """Its owner removes it: that is told apart from a write to the object."""
        writer, growth = self.begin()
        writer.append([BODY[:MIB]])
        growth.look()
        writer.discard()
        growth.look()
        self.assertTrue(growth.over and not growth.stands())
        self.assertEqual(read(growth, 0, growth.have), BODY[: growth.have])

    def test_object_is_written(self) -> None:
        """Who has begun can read on; nobody else is offered it."""
        writer, growth = self.begin()
        writer.append([BODY[:MIB]])
        growth.look()
        self.ours.drop(self.name)
        self.assertFalse(growth.stands())
        writer.append([BODY[MIB : 2 * MIB]])
        self.assertTrue(growth.look())
        self.assertEqual((growth.loose, growth.over), (True, False))
        self.assertEqual(read(growth, 0, growth.have), BODY[: growth.have])
        self.assertGreater(growth.have, MIB)
        writer.append([BODY[2 * MIB :]])
        self.assertIsNone(writer.commit())
        growth.look()
        self.assertEqual(read(growth, 0, SIZE), BODY)

    def test_came_too_late(self) -> None:
        """The file is gone, or is another one, when somebody begins to read."""
        writer, growth = self.begin()
        writer.discard()
        growth.look()
        self.assertTrue(growth.over)
        writer, growth = self.begin()
        writer.close()
        other, _ = self.begin()
        other.append([BODY])
        growth.look()
        self.assertEqual((growth.over, growth.have), (True, 0))

    def test_of_another_host(self) -> None:
        """Nothing is read before it has become the entry; signs of life are seen."""
        move_away(self.ours)
        self.ours.volume.instance._neighbours.clear()
        writer, growth = self.begin()
        writer.append([BODY])
        self.assertFalse(growth.look() and growth.have)
        os.utime(writer.fd, (5, 5))
        growth.look()
        self.assertEqual((growth.have, growth.over), (0, False))
        writer.commit()
        growth.look()
        self.assertEqual(read(growth, 0, SIZE), BODY)


class RangeGrowthTests(TwoStores):
    """Bytes that become ranges."""

    def setUp(self) -> None:
        super().setUp()
        self.entry = put_ranges(self.ours, self.name, 20 * MIB)
        self.claimed = self.theirs.claim(self.name, self.entry.generation, (0, SIZE))
        (found,) = self.ours.claims(self.entry)
        self.growth = RangeGrowth(self.ours.volume, found)
        self.addCleanup(self.growth.close)

    def release(self) -> None:
        assert self.claimed is not None
        self.claimed.release()

    def look(self) -> int:
        self.growth.look()
        return self.growth.have

    def test_file_after_file(self) -> None:
        """Each file is followed to its end, then the next; a footer is never taken for bytes of the body."""
        self.assertEqual(self.look(), 0)
        for number in range(3):
            start = number * MIB
            writer = self.theirs.start_range(self.entry, start, MIB)
            self.assertEqual(self.look(), start)
            writer.append([BODY[start : start + MIB // 2]])
            self.assertTrue(start + MIB // 2 - LAG < self.look() < start + MIB // 2)
            writer.append([BODY[start + MIB // 2 : start + MIB]])
            self.assertLess(self.look(), start + MIB)
            writer.commit()
            self.assertEqual(self.look(), start + MIB)
            writer.close()
        self.assertEqual(read(self.growth, 0, SIZE), BODY)
        self.assertEqual(self.growth.published, [(0, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB)])
        self.growth.drop_read(SIZE)
        self.assertIsNotNone(self.growth.handle(0), "few files stay open")

    def test_published_already(self) -> None:
        """Who comes late finds finished ranges, and says so."""
        add_range(self.theirs, self.entry, 0, MIB, b"a")
        add_range(self.theirs, self.entry, MIB, 2 * MIB, b"b")
        writer = self.theirs.start_range(self.entry, 2 * MIB, MIB)
        writer.append([BODY[:1000]])
        self.assertTrue(2 * MIB < self.look() <= 2 * MIB + 1000)
        self.assertEqual(self.growth.published, [(0, MIB), (MIB, 2 * MIB)])
        self.assertIsNone(self.growth.handle(0))
        writer.close()

    def test_breaks_off(self) -> None:
        """A beginning that is published has a footer, too, where more bytes were expected."""
        writer = self.theirs.start_range(self.entry, 0, MIB)
        writer.append([BODY[: MIB // 2]])
        self.look()
        writer.commit_prefix(1)
        writer.close()
        self.assertTrue(MIB // 2 - LAG < self.look() <= MIB // 2)
        self.assertEqual(read(self.growth, 0, self.growth.have), BODY[: self.growth.have])
        self.assertFalse(self.growth.over)
        self.release()
        self.look()
        self.assertTrue(self.growth.over)

    def test_given_up(self) -> None:
        """When the claim is gone there will be no more than is there."""
        writer = self.theirs.start_range(self.entry, 0, MIB)
        writer.append([BODY[: MIB // 2]])
        self.look()
        writer.close()
        self.assertTrue(self.growth.stands())
        self.release()
        self.assertFalse(self.growth.stands())
        self.look()
        self.assertTrue(self.growth.over)
        self.assertEqual(read(self.growth, 0, self.growth.have), BODY[: self.growth.have])

    def test_last_look(self) -> None:
        """The owner publishes, and then lets go of the claim: nothing of that is missed."""
        self.look()
        for start in range(0, SIZE, MIB):
            add_range(self.theirs, self.entry, start, start + MIB)
        self.release()
        self.assertEqual(self.look(), SIZE)
        self.assertFalse(self.growth.over)

    def test_signs_of_life(self) -> None:
        """The claim is touched while no byte comes."""
        self.growth.look()
        self.assertFalse(self.growth.look())
        path = f"{self.ours.volume.generation_path(self.name, self.entry.generation)}/{self.growth.claim.text}"
        os.utime(path, (5, 5))
        self.assertTrue(self.growth.look())
        self.assertEqual(self.growth.sign, 5_000_000_000)

    def test_object_is_written(self) -> None:
        """Who has begun a file reads on as long as it grows."""
        writer = self.theirs.start_range(self.entry, 0, MIB)
        writer.append([BODY[:1000]])
        self.look()
        self.ours.drop(self.name)
        writer.append([BODY[1000:10_000]])
        self.assertGreater(self.look(), 9000)
        self.growth.look()
        self.assertEqual((self.growth.loose, self.growth.over), (True, False))
        writer.close()

    def test_of_another_host(self) -> None:
        """Only what is known to have reached the server is read, and finished ranges."""
        move_away(self.ours)
        self.ours.volume.instance._neighbours.clear()
        (found,) = self.ours.claims(self.entry)
        self.growth = RangeGrowth(self.ours.volume, found)
        writer = self.theirs.start_range(self.entry, 0, MIB)
        writer.append([BODY[:100_000]])
        self.assertEqual(self.look(), 0)
        assert self.claimed is not None
        self.claimed.writing(writer)
        self.claimed._networked = True
        self.claimed.touch()
        writer.append([BODY[100_000:200_000]])
        self.assertEqual(self.look(), 100_000)
        self.assertEqual(read(self.growth, 0, 100_000), BODY[:100_000])
        self.claimed.touch()
        self.assertTrue(200_000 - LAG < self.look() <= 200_000)
        writer.append([BODY[200_000:MIB]])
        writer.commit()
        self.assertEqual(self.look(), MIB)
        self.assertEqual(self.growth.published, [(0, MIB)])
        writer.close()
