"""What was used when, and how often."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.layout import entry_name
from s3proxy.storage.recency import FrequencySketch, RecencyLog, decode_sidecar, encode_sidecar, parse_sidecar_name

ONE, TWO = entry_name((b"1",)).digest, entry_name((b"2",)).digest


class LogTests(SynchronousTestCase):
    """Uses in memory."""

    def test_take(self) -> None:
        """Uses are taken once, added up, and remembered."""
        log = RecencyLog()
        for moment in (1.0, 2.0, 3.0):
            log.touched(ONE, 0, moment)
        log.touched(ONE, 100, 4.0)
        self.assertEqual(log.last_use(ONE, 0), 3.0)
        self.assertEqual(log.frequency(ONE, 0), 3)
        uses = {(use.digest, use.start): (use.count, use.last) for use in log.take()}
        self.assertEqual(uses, {(ONE, 0): (3, 3.0), (ONE, 100): (1, 4.0)})
        self.assertEqual(log.take(), [])
        self.assertEqual((log.last_use(ONE, 0), log.last_use(ONE, 100), log.last_use(TWO, 0)), (3.0, 4.0, 0.0))
        self.assertEqual((log.frequency(ONE, 0), log.frequency(TWO, 0)), (3, 0))

    def test_bounded(self) -> None:
        """Only so many are remembered; the latest stay."""
        log = RecencyLog(remembered=2)
        for start in range(4):
            log.touched(ONE, start, 10.0 + start)
            log.take()
        self.assertEqual([log.last_use(ONE, start) for start in range(4)], [0.0, 0.0, 12.0, 13.0])
        self.assertTrue(all(log.due_on_disk(ONE, start, 1.0, 100.0) for start in (0, 1, 2)))
        self.assertTrue(log.due_on_disk(ONE, 0, 2.0, 100.0))

    def test_due(self) -> None:
        """A use is worth a write once per interval."""
        log = RecencyLog()
        self.assertTrue(log.due_on_disk(ONE, 0, 1000.0, 600.0))
        self.assertFalse(log.due_on_disk(ONE, 0, 1599.0, 600.0))
        self.assertTrue(log.due_on_disk(ONE, 0, 1600.0, 600.0))


class SketchTests(SynchronousTestCase):
    """About how often."""

    @given(st.lists(st.integers(0, 30), max_size=200))
    def test_never_too_low(self, keys: list[int]) -> None:
        """An estimate is at least the truth, up to 15."""
        sketch = FrequencySketch(width=1 << 10)
        spread = [int.from_bytes(entry_name((b"%d" % key,)).digest[:12], "big") for key in range(31)]
        for key in keys:
            sketch.add(spread[key])
        for key in range(31):
            self.assertGreaterEqual(sketch.estimate(spread[key]), min(15, keys.count(key)))

    def test_forgets(self) -> None:
        """What was popular once is forgotten when others are used."""
        sketch = FrequencySketch(width=64)
        sketch.add(0, 15)
        for key in range(1, 3000):
            sketch.add((key * 0x9E3779B97F4A7C15F39CC060) & ((1 << 96) - 1) | 63)
        self.assertLess(sketch.estimate(0), 8)


class SidecarTests(SynchronousTestCase):
    """Uses on disk."""

    @given(
        st.dictionaries(
            st.integers(0, (1 << 64) - 1), st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 65535)), max_size=20
        )
    )
    def test_round_trip(self, uses: dict[int, tuple[int, int]]) -> None:
        """What is written is read again, also when half a record follows."""
        data = encode_sidecar(uses)
        self.assertEqual(decode_sidecar(data), uses)
        self.assertEqual(decode_sidecar(data + b"\0" * 13), uses)

    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        """No content makes reading fail."""
        decode_sidecar(data)

    def test_names(self) -> None:
        """A sidecar's name says whose it is."""
        self.assertEqual(parse_sidecar_name("a.00000000000000f"), 15)
        for text in ("a.", "a.1", "b.00000000000000f", "a.00000000000000g", "0-100"):
            self.assertIsNone(parse_sidecar_name(text))
