"""What happened between two looks."""

from test.control.fake_admin import SUMMARY

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.control.rates import rates


class RatesTests(SynchronousTestCase):
    def test_between(self) -> None:
        """What the totals grew by, for each second in between; the hit rate is that of these reads."""
        later = {**SUMMARY, "time": SUMMARY["time"] + 2, "requests_total": 1254, "sent": SUMMARY["sent"] + 4096,
                 "reads": 1010, "hits": 879}  # fmt: skip
        found = rates(SUMMARY, later)
        self.assertEqual((found["requests_total"], found["sent"], found["hit_rate"]), (10.0, 2048.0, 0.5))

    def test_unknown(self) -> None:
        """The first look tells no rates, nor does one after a restart of the proxy; without reads there is no rate."""
        self.assertEqual(set(rates(None, SUMMARY).values()), {None})
        again = {**SUMMARY, "time": SUMMARY["time"] + 2, "requests_total": 3}
        self.assertEqual(set(rates(SUMMARY, again).values()), {None})
        self.assertEqual(set(rates(SUMMARY, SUMMARY).values()), {None})
        self.assertIsNone(rates(SUMMARY, {**SUMMARY, "time": SUMMARY["time"] + 2})["hit_rate"])
