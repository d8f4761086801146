"""Requests by the rule that decided."""

from test.telemetry.records import a_record

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.rulecounts import RuleCounts


class RuleCountsTests(SynchronousTestCase):
    def test_counts(self) -> None:
        """By number, group of operations and result; the first hundred rules only, and nothing without one."""
        counts = RuleCounts()
        for rule, outcome in ((0, "HIT"), (0, "COALESCED"), (0, "MISS"), (7, "BYPASS"), (-1, "HIT"), (100, "HIT")):
            counts.of(a_record(rule=rule, outcome=outcome)).requests += 1
        self.assertEqual(
            {reading.labels: reading.value for reading in counts.readings()},
            {("0", "get", "hit"): 2, ("0", "get", "miss"): 1, ("7", "get", "other"): 1},
        )
