"""Rings of rows, and their saved form."""

import json
import zlib

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard.history import RINGS, History, HistoryError, encode
from s3proxy.dashboard.samples import COLUMNS, SUMS

SENT = 2 + COLUMNS.index("sent")
IN_FLIGHT = 2 + COLUMNS.index("in_flight")
BEGAN = 1_800_000_000.0


class HistoryCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.history = History(((5.0, 4), (20.0, 3)))
        self.total = 0.0

    def sample(self, at: float, sent: float = 10.0, in_flight: float = 1.0, elapsed: float = 1.0) -> object:
        self.total += sent
        row = dict.fromkeys(COLUMNS, 0.0) | {"sent": self.total, "in_flight": in_flight}
        return self.history.take(BEGAN + at, elapsed, row)

    def rows(self, ring: int = 0) -> list[tuple[float, float, float, float]]:
        return [(row[0] - BEGAN, row[1], row[SENT], row[IN_FLIGHT]) for row in self.history.rings[ring].since(0.0)]


class RingTests(HistoryCase):
    def test_sums_and_gauges(self) -> None:
        """A row has by how much sums grew in its interval, the last value of gauges, and the seconds measured."""
        for at in range(8):
            self.sample(at, in_flight=at)
        self.assertEqual(self.rows(), [(0, 4.0, 40.0, 4.0), (5, 3.0, 30.0, 7.0)])

    def test_completed(self) -> None:
        """The sample that begins the next interval gives the row before it."""
        given = [self.sample(at) for at in (0, 1, 4, 5)]
        self.assertEqual(given[:3], [None] * 3)
        self.assertEqual(given[3][SENT], 20.0)  # type: ignore[index]

    def test_the_first_sample_counts_nothing(self) -> None:
        """What was counted before is not traffic of its interval."""
        self.sample(0, sent=1e9)
        self.assertEqual(self.rows(), [])

    def test_bounded(self) -> None:
        """The oldest rows go; the coarse ring remembers longer."""
        for at in range(0, 100):
            self.sample(at)
        self.assertEqual([at for at, *_ in self.rows()], [75, 80, 85, 90, 95])
        self.assertEqual([at for at, *_ in self.rows(1)], [20, 40, 60, 80])
        self.assertEqual(self.rows(1)[0][2], 200.0)

    def test_gap(self) -> None:
        """Nothing stands for an interval in which nothing was measured."""
        for at in (0, 1, 40, 41):
            self.sample(at)
        self.assertEqual([at for at, *_ in self.rows()], [0, 40])

    def test_sums_never_fall(self) -> None:
        """A counter that was set back gives 0, not less."""
        self.sample(0)
        self.sample(1, sent=-5.0)
        self.assertEqual(self.rows()[0][2], 0.0)

    def test_ranges(self) -> None:
        """The real rings hold an hour, a day and thirty days."""
        history = History()
        for span, step in ((900, 5), (3600, 5), (21600, 60), (86400, 60), (604800, 600), (2592000, 600)):
            self.assertEqual(history.finest(span).step, step)
        self.assertEqual([step * rows for step, rows in RINGS], [3600, 86400, 2592000])


class SavedTests(HistoryCase):
    def test_again(self) -> None:
        """A restart goes on with the rows there were, and leaves what is too old, or in the future, out."""
        for at in range(20):
            self.sample(at)
        data = encode(self.history.snapshot())
        later = History(((5.0, 4), (20.0, 3)))
        later.restore(data, BEGAN + 22)
        self.assertEqual([row[0] - BEGAN for row in later.rings[0].rows], [5, 10, 15])
        self.assertEqual(later.rings[0].rows[0][SENT], 50.0)
        earlier = History(((5.0, 4), (20.0, 3)))
        earlier.restore(data, BEGAN + 8)
        self.assertEqual([row[0] - BEGAN for row in earlier.rings[0].rows], [0, 5])

    def test_other_columns(self) -> None:
        """A version with other columns takes what it knows."""
        self.sample(0)
        self.sample(1)
        data = encode(self.history.snapshot())
        first, _, rest = data.partition(b"\n")
        head = json.loads(first)
        head["columns"] = ["former" if name == "received" else name for name in head["columns"]]
        later = History(((5.0, 4), (20.0, 3)))
        later.restore(json.dumps(head).encode() + b"\n" + rest, BEGAN + 4)
        row = later.rings[0].rows[0]
        self.assertEqual((row[SENT], row[2 + SUMS.index("received")], len(row)), (10.0, 0.0, 2 + len(COLUMNS)))

    def test_damage(self) -> None:
        """What is cut off, is something else, or lies about itself is refused and changes nothing."""
        self.sample(0)
        self.sample(1)
        whole = encode(self.history.snapshot())
        first, _, rest = whole.partition(b"\n")
        head = json.loads(first)
        head["rings"][0]["rows"] += 1
        longer = json.dumps(head).encode() + b"\n" + rest
        bomb = first + b"\n" + zlib.compress(bytes(65 << 20), 1)
        for data in (b"", b"x", b"{}\n", b"[]\n", first, whole[:-3], longer, first + b"\nabc", bomb):
            with self.subTest(data[:20]):
                later = History(((5.0, 4), (20.0, 3)))
                self.assertRaises(HistoryError, later.restore, data, BEGAN + 10)
                self.assertEqual(later.rings[0].since(0.0), [])
