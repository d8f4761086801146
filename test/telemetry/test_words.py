"""Counters for a closed set of words."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry.families import FAMILIES
from s3proxy.telemetry.instruments import Instruments
from s3proxy.telemetry.words import Words


class WordsTests(SynchronousTestCase):
    def test_words(self) -> None:
        """Each word has its counter from the beginning; all others share one, and are not remembered."""
        name = "s3proxy_upstream_errors_total"
        instruments = Instruments(FAMILIES)
        words = Words(instruments, name, ("dns", "tls"))
        words["tls"].inc()
        for number in range(100):
            words[f"word {number}"].inc()
        found = {labels: getattr(child, "value") for labels, child in instruments.children(name).items()}
        self.assertEqual(found, {("dns",): 0, ("tls",): 1, ("other",): 100})
        self.assertEqual(len(words), 3)
