"""The record of a request."""

from twisted.trial.unittest import SynchronousTestCase

from test.telemetry.records import a_record


class CloseTests(SynchronousTestCase):
    def test_first_close_sets_the_duration(self) -> None:
        """Closing measures from the start of the request."""
        record = a_record(total_seconds=0.0)
        self.assertTrue(record.close(100.75))
        self.assertEqual(record.total_seconds, 0.75)

    def test_second_close_changes_nothing(self) -> None:
        """A request that is closed twice is only accounted for once."""
        record = a_record()
        record.close(101.0)
        self.assertFalse(record.close(105.0))
        self.assertEqual(record.total_seconds, 1.0)

    def test_clock_that_went_back(self) -> None:
        """A duration is never negative."""
        record = a_record()
        record.close(99.0)
        self.assertEqual(record.total_seconds, 0.0)


class EndingTests(SynchronousTestCase):
    def test_words(self) -> None:
        """How a request ended follows from what was noted; the client's leaving comes first."""
        self.assertEqual(a_record().ending, "ok")
        self.assertEqual(a_record(aborted=True, upstream_aborted=True).ending, "client_abort")
        self.assertEqual(a_record(upstream_aborted=True, reason="overload").ending, "upstream_abort")
        self.assertEqual(a_record(reason="overload").ending, "shed")
        self.assertEqual(a_record(reason="refused").ending, "denied")
        self.assertEqual(a_record(reason="expired").ending, "ok")
