"""What is said over and over."""

from typing import Any

from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.repetition import PER_MINUTE, Repetitions


def an_event(text: str = "no answer from {host}", level: LogLevel = LogLevel.warn, **fields: Any) -> dict[str, Any]:
    """An event as twisted.logger makes it."""
    return {"log_format": text, "log_level": level, "log_namespace": "s3proxy.upstream", "log_time": 0.0, **fields}


class RepetitionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.repetitions = Repetitions()

    def admitted(self, count: int, at: float, **event: Any) -> int:
        """How many of so many events are to be written."""
        return sum(self.repetitions.admit(an_event(host=number, **event), at) for number in range(count))

    def summaries(self, at: float) -> list[str]:
        """What is told of those that were not."""
        return [formatEvent(event) for event in self.repetitions.over(at)]

    def test_outage(self) -> None:
        """Of ten thousand in a minute some are written, and then one that tells of the rest."""
        self.assertEqual(self.admitted(10_000, 100.0), PER_MINUTE)
        self.assertEqual(self.summaries(159.0), [])
        self.assertEqual(
            self.summaries(160.0), [f"{10_000 - PER_MINUTE} more within a minute like: no answer from {{host}}"]
        )
        self.assertEqual(self.summaries(500.0), [])

    def test_next_minute(self) -> None:
        """Each minute begins anew."""
        self.admitted(100, 100.0)
        self.summaries(160.0)
        self.assertEqual(self.admitted(100, 160.0), PER_MINUTE)

    def test_few(self) -> None:
        """Of what is rare nothing is left out, and nothing is told."""
        self.assertEqual(self.admitted(PER_MINUTE, 100.0), PER_MINUTE)
        self.assertEqual(self.summaries(200.0), [])

    def test_kinds(self) -> None:
        """Each level, namespace and format counts for itself; so does each text of the old logging system."""
        self.admitted(100, 100.0)
        for other in (
            {"level": LogLevel.error}, {"log_namespace": "s3proxy.cache"}, {"text": "other {host}"},
            {"text": "{log_text}", "log_text": "one"}, {"text": "{log_text}", "log_text": "two"},
        ):  # fmt: skip
            self.assertEqual(self.admitted(1, 100.0, **other), 1, other)

    def test_changes_of_state(self) -> None:
        """What is no warning is always written."""
        self.assertEqual(self.admitted(100, 100.0, level=LogLevel.info), 100)
        self.assertEqual(self.admitted(100, 100.0, level=LogLevel.debug), 100)

    def test_bounded(self) -> None:
        """Any number of different texts takes a bounded amount of memory."""
        for number in range(5000):
            self.assertTrue(self.repetitions.admit(an_event(f"text {number}"), 100.0))
        self.assertLessEqual(len(self.repetitions._windows), 1000)

    def test_several_windows(self) -> None:
        """A minute ends when its own time is over, whichever began last."""
        self.admitted(30, 100.0)
        self.admitted(31, 130.0, text="other {host}")
        self.assertEqual(self.summaries(165.0), ["10 more within a minute like: no answer from {host}"])
        self.assertEqual(self.summaries(195.0), ["11 more within a minute like: other {host}"])
