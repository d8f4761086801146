"""Tests for :mod:`s3proxy.util.quantities`."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.util.quantities import LONGEST, format_bytes, format_duration, parse_duration

GOOD = {
    "0": 0.0, "90": 90.0, "30s": 30.0, " 30 s ": 30.0, "1.5h": 5400.0, ".5s": 0.5, "5.": 5.0, "250ms": 0.25,
    "1 millis": 0.001, "2 milliseconds": 0.002, "3millisecond": 0.003, "1sec": 1.0, "2secs": 2.0, "1 second": 1.0,
    "2 seconds": 2.0, "1m": 60.0, "1min": 60.0, "2mins": 120.0, "1minute": 60.0, "2minutes": 120.0, "1hr": 3600.0,
    "2hrs": 7200.0, "1hour": 3600.0, "2hours": 7200.0, "1d": 86400.0, "1day": 86400.0, "3650days": LONGEST, "007s": 7.0,
}
BAD = [
    "", " ", "s", ".", "-5s", "+5s", "1h30m", "1.2.3s", "5M", "5 S", "1e3", "inf", "nan", "1_000s", "5s5", "1,5s", "٣s",
]
UNKNOWN_UNITS = ["2weeks", "1w", "5us", "3x", "1y"]


class ParseDuration(SynchronousTestCase):
    """What people write."""

    def test_good(self) -> None:
        """Every unit, fractions, blanks, and no unit are understood."""
        self.assertEqual({text: parse_duration(text) for text in GOOD}, GOOD)

    def test_bad(self) -> None:
        """Signs, compounds, capitals and what is no number are refused."""
        for text in BAD:
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, parse_duration, text)
                self.assertEqual(str(error), "is not a duration")

    def test_unknown_units(self) -> None:
        """A unit that does not exist is named."""
        for text in UNKNOWN_UNITS:
            with self.subTest(text=text):
                error = self.assertRaises(ValueError, parse_duration, text)
                self.assertIn("unknown unit", str(error))

    def test_infinite(self) -> None:
        """A number that no float can hold is too large, and nothing overflows."""
        self.assertEqual(str(self.assertRaises(ValueError, parse_duration, "9" * 400 + "d")), "is too large")

    @given(st.text(max_size=20))
    def test_any_text(self, text: str) -> None:
        """No text raises anything but ValueError; what is accepted is not negative."""
        try:
            seconds = parse_duration(text)
        except ValueError:
            return
        self.assertGreaterEqual(seconds, 0)


class FormatDuration(SynchronousTestCase):
    """What we write."""

    def test_units(self) -> None:
        """The largest unit that divides the duration is used."""
        wanted = {
            0.0: "0s", 1.0: "1s", 90.0: "90s", 300.0: "5m", 3600.0: "1h", 82800.0: "23h", 86400.0: "1d", 0.25: "250ms",
        }
        self.assertEqual({seconds: format_duration(seconds) for seconds in wanted}, wanted)

    def test_no_duration(self) -> None:
        """What is no duration is refused."""
        for seconds in (-1.0, float("inf"), float("nan")):
            self.assertRaises(ValueError, format_duration, seconds)

    @given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
    def test_round_trip(self, seconds: float) -> None:
        """Reading what was written gives the same float, whatever its size."""
        self.assertEqual(parse_duration(format_duration(seconds)), seconds)


class FormatBytes(SynchronousTestCase):
    """Byte counts for people."""

    def test_units(self) -> None:
        """Binary units, two decimals at most."""
        wanted = {
            0: "0 bytes", 1: "1 byte", 1000: "1000 bytes", 1024: "1 KiB", 1536: "1.5 KiB", 1 << 30: "1 GiB",
            (1 << 30) + (1 << 29): "1.5 GiB", 500_000_000: "476.84 MiB", 1 << 41: "2 TiB",
        }
        self.assertEqual({count: format_bytes(count) for count in wanted}, wanted)
