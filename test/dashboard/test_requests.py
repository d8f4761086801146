"""Lines as documents."""

import threading
from test.telemetry.records import a_record

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.dashboard.requests import LogLines, matching, parse_line
from s3proxy.s3.signature import redact_target
from s3proxy.telemetry.accessline import LineFormatter

LINE = LineFormatter(redact_target)


class LineTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """Every field has its name."""
        record = a_record(
            outcome="PARTIAL", reason="incomplete", key=b"a b/\xc3\xa4", served_range="bytes=0-9", bytes_from_cache=4,
            upstream_address="192.0.2.1:443", upstream_seconds=0.25, wait_seconds=0.5, status=206, bytes_sent=10,
            user_agent=b'an "agent"', body_bytes_received=3,
        )  # fmt: skip
        found = parse_line(5.25, LINE(record))
        assert found is not None
        wanted = {
            "time": 5.25, "client": "192.0.2.7", "operation": "REST.GET.OBJECT", "bucket": "photos", "key": "a b/ä",
            "status": 206, "error": "", "sent": 10, "size": 1000.0, "total_ms": 20.0, "first_byte_ms": 1.5,
            "outcome": "PARTIAL", "range": "bytes=0-9", "cached": 4, "upstream": "192.0.2.1:443", "upstream_ms": 250.0,
            "wait_ms": 500.0, "ending": "ok", "id": "0A1B2C3D4E5F6071", "reason": "incomplete", "received": 3,
        }  # fmt: skip
        self.assertEqual({name: found[name] for name in wanted}, wanted)

    def test_no_secrets(self) -> None:
        """A presigned URL shows what it is for, and not its signature."""
        target = b"/photos/cat.jpg?X-Amz-Credential=AKIAEXAMPLE%2Fx&X-Amz-Signature=5ec2e7&X-Amz-Security-Token=t0k3n"
        found = parse_line(0.0, LINE(a_record(target=target, referer=b"http://x/?X-Amz-Signature=5ec2e7")))
        self.assertNotIn("5ec2e7", str(found))
        self.assertNotIn("t0k3n", str(found))

    def test_not_whole(self) -> None:
        """What is no line is nothing."""
        for line in (b"", b"\n", b"a b c\n"):
            self.assertIsNone(parse_line(0.0, line))


class MatchingTests(SynchronousTestCase):
    def setUp(self) -> None:
        records = [
            a_record(),
            a_record(outcome="MISS", reason="cold", key=b"Dog.jpg", target=b"/photos/Dog.jpg"),
            a_record(outcome="MISS", reason="expired", client_address="198.51.100.9"),
            a_record(outcome="BYPASS", reason="write", key=b"MISS", target=b"/photos/MISS"),
        ]
        self.lines = [(float(number), LINE(record)) for number, record in enumerate(records)]

    def found(self, text: str = "", outcome: str = "", reason: str = "", limit: int = 10) -> list[float]:
        rows = matching(self.lines, text=text, outcome=outcome, reason=reason, limit=limit)
        return [row["time"] for row in rows]

    def test_all(self) -> None:
        """Without a wish, all; of more than wanted, the first."""
        self.assertEqual(self.found(), [0, 1, 2, 3])
        self.assertEqual(self.found(limit=2), [0, 1])

    def test_by_outcome_and_reason(self) -> None:
        """A key of the same name is no outcome."""
        self.assertEqual(self.found(outcome="MISS"), [1, 2])
        self.assertEqual(self.found(reason="cold"), [1])
        self.assertEqual(self.found(outcome="MISS", reason="write"), [])

    def test_by_text(self) -> None:
        """Part of a name, whatever its case, or of the client."""
        self.assertEqual(self.found("dog"), [1])
        self.assertEqual(self.found("photos/cat"), [0, 2])
        self.assertEqual(self.found("198.51"), [2])


class LogLinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = LogLines(most=3)
        for number, level in enumerate(("info", "warn", "error", "debug")):
            self.lines.add(float(number), level, "s3proxy.x", f"text {number}")

    def found(self, **wanted: object) -> list[int]:
        return [line["number"] for line in self.lines.latest(**wanted)]  # type: ignore[arg-type]

    def test_bounded(self) -> None:
        """The last lines are kept, newest first."""
        self.assertEqual(self.found(), [4, 3, 2])
        self.assertEqual(self.lines.newest, 4)

    def test_filters(self) -> None:
        """From a level on, with a text, after a line, since a time, and not too many."""
        self.assertEqual(self.found(level="warn"), [3, 2])
        self.assertEqual(self.found(text="TEXT 2"), [3])
        self.assertEqual(self.found(after=3), [4])
        self.assertEqual(self.found(since=2.0), [4, 3])
        self.assertEqual(self.found(limit=1), [4])

    def test_no_secrets(self) -> None:
        """Whatever was logged, no signature is shown."""
        self.lines.add(9.0, "info", "x", "Authorization: AWS4-HMAC-SHA256 Credential=AKIAX/1, Signature=5ec2e7")
        self.assertNotIn("5ec2e7", str(self.lines.latest(limit=1)))

    def test_threads(self) -> None:
        """Lines of several threads are all kept while somebody reads."""
        lines = LogLines(most=10_000)

        def write() -> None:
            for number in range(500):
                lines.add(0.0, "info", "x", str(number))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            lines.latest(limit=10)
        for thread in threads:
            thread.join()
        numbers = [line["number"] for line in lines.latest(limit=10_000)]
        self.assertEqual(numbers, list(range(2000, 0, -1)))
