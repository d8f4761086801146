"""The origin with a scripted pace, by the clock."""

import json

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from bench.paced_origin import CATCH_UP_SECONDS, TICK_SECONDS, Account, PacedOrigin, Script
from bench.requests import a_request

RATE = 1 << 20
SIZE = 2 << 20
DELAY = 0.1
BLOCK = bytes(range(256)) * 4096


class PacedOriginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.account = Account()
        self.transport = StringTransport()
        self.origin = PacedOrigin(self.clock, Script(SIZE, RATE, DELAY), self.account, BLOCK)
        self.origin.makeConnection(self.transport)

    def ask(self, path: str = "/bucket/key", *fields: str, method: str = "GET") -> None:
        self.origin.dataReceived(a_request(path, method=method, fields=fields))

    def run_clock(self, seconds: float, step: float = TICK_SECONDS) -> None:
        self.clock.pump([step] * round(seconds / step))

    def body(self) -> bytes:
        return self.transport.value().partition(b"\r\n\r\n")[2]

    def assert_sent(self, seconds: float) -> None:
        """As much as is due after so many seconds of sending, less what is due in one tick."""
        late = seconds * RATE - len(self.body())
        self.assertTrue(-1 <= late <= TICK_SECONDS * RATE + 1, f"{late} bytes late")

    def test_nothing_before_the_delay(self) -> None:
        """Not even the head."""
        self.ask()
        self.clock.advance(DELAY - 0.001)
        self.assertEqual(self.transport.value(), b"")
        self.clock.advance(0.001)
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertIn(b"\r\nContent-Length: %d\r\n" % SIZE, self.transport.value())

    def test_pace(self) -> None:
        """At every moment what is due is sent; then the connection takes the next request."""
        self.ask()
        self.clock.advance(DELAY)
        for number in range(1, 5):
            self.run_clock(0.25)
            self.assert_sent(number * 0.25)
        self.run_clock(1.01)
        self.assertEqual(self.body(), BLOCK * 2)
        self.assertEqual(self.account, Account(1, SIZE, 0.0))
        self.assertIsNone(self.transport.producer)
        self.transport.clear()
        self.ask("/bucket/other")
        self.run_clock(DELAY + 0.5)
        self.assert_sent(0.5)

    def test_late_calls(self) -> None:
        """A clock whose calls come late changes nothing: the pace is that of the time, not of the calls."""
        self.ask()
        self.clock.advance(DELAY)
        self.run_clock(1.0, step=CATCH_UP_SECONDS / 2)
        self.assert_sent(1.0)
        self.assertEqual(self.account.late_seconds, 0.0)

    def test_standstill(self) -> None:
        """A link that stood still for long has saved nothing; the account says how much is late."""
        self.ask()
        self.clock.advance(DELAY)
        self.clock.advance(0.5)
        self.assert_sent(CATCH_UP_SECONDS)
        self.assertAlmostEqual(self.account.late_seconds, 0.5 - CATCH_UP_SECONDS, places=3)
        self.run_clock(0.5)
        self.assert_sent(CATCH_UP_SECONDS + 0.5)

    def test_slow_receiver(self) -> None:
        """Nothing is written while the transport is full, and only a little at once afterwards."""
        self.ask()
        self.run_clock(DELAY + 0.5)
        self.origin.transport.producer.pauseProducing()  # type: ignore[attr-defined, union-attr]
        before = len(self.body())
        self.run_clock(1.0)
        self.assertEqual(len(self.body()), before)
        self.origin.transport.producer.resumeProducing()  # type: ignore[attr-defined, union-attr]
        self.clock.advance(0)
        at_once = len(self.body()) - before
        self.assertTrue(0 < at_once <= CATCH_UP_SECONDS * RATE, f"{at_once} bytes at once")
        self.run_clock(1.5)
        self.assertEqual(self.body(), BLOCK * 2)

    def test_range(self) -> None:
        """Its bytes are those of the whole object."""
        self.ask("/bucket/key", "Range: bytes=1000-99999")
        self.run_clock(DELAY + 0.2)
        head = self.transport.value().partition(b"\r\n\r\n")[0]
        self.assertTrue(head.startswith(b"HTTP/1.1 206 "))
        self.assertIn(b"\r\nContent-Range: bytes 1000-99999/%d\r\n" % SIZE, head)
        self.assertEqual(self.body(), BLOCK[1000:100_000])
        self.assertEqual(self.account.body_bytes, 99_000)

    def test_range_to_the_end(self) -> None:
        """An open range ends with the object."""
        self.ask("/bucket/key", f"Range: bytes={SIZE - 10}-")
        self.run_clock(DELAY + 0.05)
        self.assertEqual(self.body(), BLOCK[-10:])

    def test_head(self) -> None:
        """A head that promises the object, and no body."""
        self.ask(method="HEAD")
        self.run_clock(DELAY + 0.5)
        self.assertEqual(self.body(), b"")
        self.assertEqual(self.account.requests, 0)

    def test_account(self) -> None:
        """It is told at once, and is not a body that counts."""
        self.ask("/account")
        self.assertEqual(json.loads(self.body()), {"requests": 0, "body_bytes": 0, "late_seconds": 0.0})
        self.assertEqual(self.account, Account())

    def test_client_leaves(self) -> None:
        """Nothing more is sent or counted, and nothing stays in the clock."""
        self.ask()
        self.run_clock(DELAY + 0.5)
        before = self.account.body_bytes
        self.transport.producer.stopProducing()  # type: ignore[attr-defined, union-attr]
        self.origin.connectionLost()
        self.run_clock(0.5)
        self.assertEqual(self.account.body_bytes, before)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_client_leaves_before_the_first_byte(self) -> None:
        """The delayed answer is not sent."""
        self.ask()
        self.origin.connectionLost()
        self.run_clock(0.5)
        self.assertEqual(self.account, Account())
