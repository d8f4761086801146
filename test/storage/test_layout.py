"""Names and the rules that decide them."""

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage import layout
from s3proxy.storage.errors import StoreError
from s3proxy.storage.layout import EntryName, entry_name

MIB = 1 << 20
OFFSETS = st.integers(min_value=0, max_value=(5 << 40))
LENGTHS = st.integers(min_value=1, max_value=1 << 30)


class EntryNameTests(SynchronousTestCase):
    """Which entry a tuple of parts names."""

    @given(st.lists(st.binary(max_size=20), max_size=5), st.lists(st.binary(max_size=20), max_size=5))
    def test_different_parts_different_names(self, one: list[bytes], two: list[bytes]) -> None:
        """Two tuples have the same name only if they are equal, however their parts would join."""
        self.assertEqual(entry_name(tuple(one)) == entry_name(tuple(two)), one == two)

    def test_stable(self) -> None:
        """The name of an entry never changes from one release to the next."""
        name = entry_name((b"aws", b"bucket", b"key"))
        self.assertEqual(name.text, "xn7o2oyzcmrgzq3fvekd2dhdwhrw44nn")

    @given(st.binary(min_size=20, max_size=20))
    def test_text_round_trip(self, digest: bytes) -> None:
        """The file name leads back to the entry; it has 32 harmless characters."""
        name = EntryName(digest)
        self.assertRegex(name.text, r"^[a-z2-7]{32}$")
        self.assertEqual(EntryName.from_text(name.text), name)

    def test_slot_and_shard(self) -> None:
        """The slot is the digest's low 20 bits, the shard its first ones."""
        name = EntryName(bytes.fromhex("abcdef" + "00" * 14 + "123456"))
        self.assertEqual(name.slot, 0x23456)
        self.assertEqual(name.shard(12), "abc")
        self.assertEqual(name.shard(8), "0ab")
        self.assertEqual(name.shard(16), "0ab/cd")
        self.assertEqual(name.shard_index(16), 0xABCD)

    @given(st.text(max_size=40))
    def test_any_text(self, text: str) -> None:
        """No file name makes a parser fail."""
        found = EntryName.from_text(text)
        self.assertEqual(found is not None, found is not None and found.text == text)
        layout.parse_generation(text)
        layout.parse_range(text)
        layout.parse_temp(text)


class FileNameTests(SynchronousTestCase):
    """Names of ranges and generations."""

    @given(OFFSETS, LENGTHS)
    def test_range_round_trip(self, start: int, length: int) -> None:
        """A range's name says which bytes it holds."""
        self.assertEqual(layout.parse_range(layout.range_name(start, start + length)), (start, start + length))

    def test_not_ranges(self) -> None:
        """Only the canonical spelling is a range."""
        names = ("0-0", "00-1", "1-01", "-1", "1-", "A-1", "0-1.y", "0-1.z.z", "t.0-1",
                 "0x1-1", "1-1 ", "1-1\n", "", "a.1")  # fmt: skip
        for text in names:
            self.assertIsNone(layout.parse_range(text), text)
        self.assertEqual(layout.parse_range("0-1"), (0, 1))

    def test_encoded(self) -> None:
        """An encoded one says so."""
        for encoded in (False, True):
            text = layout.range_name(16, 48, encoded=encoded)
            self.assertEqual((layout.parse_range(text), layout.is_encoded(text)), ((16, 48), encoded))

    @given(OFFSETS, LENGTHS, st.integers(1, (1 << 60) - 1), st.integers(0, 1 << 40))
    def test_temp_round_trip(self, start: int, length: int, instance: int, serial: int) -> None:
        """The name of a range in the making says whose it is."""
        found = layout.parse_temp(layout.temp_name(start, start + length, instance, serial))
        self.assertEqual(found, layout.TempName(start=start, stop=start + length, instance=instance))

    @given(st.integers(1, (1 << 60) - 1))
    def test_generation_round_trip(self, generation: int) -> None:
        """A generation directory's name says whose ranges it holds."""
        name = entry_name((b"x",))
        self.assertEqual(layout.parse_generation(layout.generation_name(name, generation)), (name, generation))

    def test_new_generation(self) -> None:
        """Generations have 60 bits and are never 0."""

        class Zeros(random.Random):
            def getrandbits(self, k: int) -> int:
                return next(values)

        values = iter([0, 0, 7])
        self.assertEqual(layout.new_generation(Zeros()), 7)
        self.assertLess(layout.new_generation(random.Random(1)), 1 << 60)

    def test_segments(self) -> None:
        """Ranges of objects above 1 GiB are in one directory for each GiB."""
        self.assertEqual(layout.range_directory(1 << 30, (1 << 30) - 1), "")
        self.assertEqual(layout.range_directory((1 << 30) + 1, 0), "0")
        self.assertEqual(layout.range_directory(1 << 40, 10 << 30), "a")


class CutTests(SynchronousTestCase):
    """How long streams are divided."""

    @given(OFFSETS, st.integers(0, 1 << 28), st.sampled_from([MIB, 8 * MIB, 64 * MIB]))
    def test_pieces(self, start: int, length: int, cut: int) -> None:
        """The pieces follow each other without gap or overlap, and none crosses a multiple of the cut."""
        position = start
        for begin, end in layout.cut_boundaries(start, start + length, cut):
            self.assertEqual(begin, position)
            self.assertLess(begin, end)
            self.assertEqual(begin // cut, (end - 1) // cut)
            position = end
        self.assertEqual(position, start + length)

    @given(st.integers(0, 1 << 45))
    def test_small_cache(self, max_size: int) -> None:
        """The cut is at most an eighth of the cache, but never below 1 MiB or above 64 MiB, and a power of two."""
        cut = layout.cut_for(max_size)
        self.assertTrue(MIB <= cut <= 64 * MIB and cut & (cut - 1) == 0)
        if max_size:
            self.assertTrue(cut <= max_size // 8 or cut == MIB)
        else:
            self.assertEqual(cut, 64 * MIB)


class FootprintTests(SynchronousTestCase):
    """What a file is charged with."""

    @given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
    def test_monotonic_and_enough(self, one: int, two: int) -> None:
        """A file is charged with all of its blocks, and a larger one with at least as much."""
        self.assertGreaterEqual(layout.footprint(one), -(-one // 4096) * 4096)
        if one <= two:
            self.assertLessEqual(layout.footprint(one), layout.footprint(two))


class FormatTests(SynchronousTestCase):
    """The file FORMAT."""

    @given(st.integers(0, 1 << 45))
    def test_round_trip(self, max_size: int) -> None:
        """What is written is read again."""
        form = layout.format_for(max_size)
        self.assertEqual(layout.parse_format(form.encode(), "FORMAT"), form)

    @given(st.integers(8 * MIB, 1 << 41))
    def test_shards_are_cheap(self, max_size: int) -> None:
        """The shard directories take at most a 32nd of the cache."""
        self.assertLessEqual(layout.format_for(max_size).shards * layout.DIRECTORY_FOOTPRINT, max_size / 32)

    def test_shards(self) -> None:
        """4096 shards from about 1 GiB up, 65536 above 2 TiB."""
        self.assertEqual(layout.format_for(10 << 30).shard_bits, 12)
        self.assertEqual(layout.format_for(0).shard_bits, 12)
        self.assertEqual(layout.format_for(64 * MIB).shard_bits, 8)
        self.assertEqual(layout.format_for(4 << 40).shard_bits, 16)

    @given(st.binary(max_size=80))
    def test_any_bytes(self, data: bytes) -> None:
        """Anything else is refused with the path and the remedy."""
        problem = self.assertRaises(StoreError, layout.parse_format, data, "/cache/FORMAT")
        self.assertIn("/cache/FORMAT", str(problem))
        self.assertIn("Empty the directory", str(problem))

    def test_impossible_values(self) -> None:
        """A FORMAT with values that can't be is refused."""
        for text in (
            b"shard_bits=17 inline_max=1 cut=1048576",
            b"shard_bits=8 inline_max=1 cut=1048577",
            b"shard_bits=8 inline_max=2097152 cut=1048576",
            b"shard_bits=0 inline_max=1 cut=1048576",
        ):
            self.assertRaises(StoreError, layout.parse_format, b"s3px 1 " + text + b"\n", "FORMAT")
