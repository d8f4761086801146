"""Several processes on one directory, with pauses and crashes at every step."""

import json
import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

SECONDS = float(os.environ.get("S3PROXY_TORTURE_SECONDS", "4"))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class TortureTests(SynchronousTestCase):
    """``S3PROXY_TORTURE_SECONDS`` sets how long it takes (4)."""

    def torture(self, *options: str) -> dict[str, int]:
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        command = [sys.executable, "-m", "test.storage.torture", directory, *options]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS * 5 + 60)
        self.assertEqual(result.returncode, 0, result.stderr)
        counters: dict[str, int] = json.loads(result.stdout)
        self.diagnosis = f"{counters}\n{result.stderr}"
        return counters

    def test_nothing_wrong(self) -> None:
        """No read is answered with an older version than was acknowledged, or with bytes of two; nothing is left
        behind.
        """
        counters = self.torture("--seconds", str(SECONDS))
        for wrong in ("stale", "mixed", "wrong_at_rest", "errors", "failures", "left_behind", "miscounted"):
            self.assertEqual(counters[wrong], 0, f"{wrong}: {self.diagnosis}")
        for necessary in (
            "hits",
            "memory_hits",
            "published",
            "renewed",
            "writes",
            "through",
            "staged",
            "assembled",
            "range_fetches",
            "spoilt",
            "damaged",
            "packed",
            "crashes",
        ):
            self.assertGreater(counters[necessary], 0, f"{necessary}: {self.diagnosis}")

    def test_without_revocation(self) -> None:
        """The test sees it when writers remove the entry but not the flights under way."""
        counters = self.torture("--seconds", str(SECONDS), "--flaw", "no revocation")
        self.assertGreater(counters["stale"], 0, self.diagnosis)

    def test_without_shared_generations(self) -> None:
        """The test sees it when processes don't learn of each other's changes."""
        counters = self.torture("--seconds", str(min(SECONDS, 2.0)), "--flaw", "private memory")
        self.assertGreater(counters["stale"], 0, self.diagnosis)
