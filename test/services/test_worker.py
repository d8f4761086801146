"""What a worker does for itself."""

import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parents[2]
HANGS = """\
import threading
from s3proxy.services.worker import end_at_last
end_at_last(0.2)
# The interpreter waits for this thread, for ever.
threading.Thread(target=lambda: threading.Event().wait()).start()
"""


class EndTests(SynchronousTestCase):
    """end_at_last."""

    def test_hangs(self) -> None:
        """A process that would never end is ended by the kernel."""
        done = subprocess.run([sys.executable, "-c", HANGS], cwd=CHECKOUT, timeout=60, capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (-signal.SIGALRM, b""))
