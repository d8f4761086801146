"""Values as people read them."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control.words import age, count, moment, percent, printable, rate, size


class WordsTests(SynchronousTestCase):
    def test_ages(self) -> None:
        """About two digits, whatever the length."""
        found = [age(each) for each in (0.0, 0.44, 3.0, 12.7, 61, 3600, 3725, 90_000, 86400 * 400, -5.0, None)]
        self.assertEqual(
            found, ["0 s", "0.4 s", "3 s", "12 s", "1 min 1 s", "1 h", "1 h 2 min", "1 d 1 h", "400 d", "-5 s", "-"]
        )

    def test_sizes(self) -> None:
        """Bytes in binary units, and nothing where nothing is known."""
        self.assertEqual((size(1536), size(0), size(None)), ("1.5 KiB", "0 bytes", "-"))
        self.assertEqual((rate(2 << 20), rate(None)), ("2 MiB/s", "-"))

    def test_numbers(self) -> None:
        """Counts have separators, shares one decimal."""
        self.assertEqual((count(1234567.0), percent(0.8744), percent(None)), ("1,234,567", "87.4 %", "-"))

    def test_moments(self) -> None:
        """UTC; 0 is never."""
        self.assertEqual((moment(0), moment(1_800_000_000.0)), ("-", "2027-01-15 08:00:00"))

    def test_names_with_commands_for_terminals(self) -> None:
        """A key can't paint the screen or move the cursor."""
        self.assertEqual(printable("a\x1b[2Jb\r\n\u202ec"), "a\\x1b[2Jb\\r\\n\\u202ec")
        self.assertEqual(printable("München/ß"), "München/ß")
