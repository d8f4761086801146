"""More than a minute of chaos; half an hour of it is ``python bench/chaos.py``."""

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from test.support.chaos import Chaos, Setting


class ChaosTests(SynchronousTestCase):
    """Two instances of two workers on one cache directory."""

    timeout = 600

    def test_chaos(self) -> None:
        """Reads and writes while processes are killed, files damaged, the disk is full, everything is evicted again and
        again, and the clocks differ: every byte is one that it may be, and nothing is left.

        ``S3PROXY_CHAOS_SEED`` repeats a run, ``S3PROXY_CHAOS_SECONDS`` makes it longer.
        """
        seed = int(os.environ.get("S3PROXY_CHAOS_SEED", random.SystemRandom().randrange(1 << 30)))
        seconds = float(os.environ.get("S3PROXY_CHAOS_SECONDS", 45))
        skew = random.Random(seed).choice((-30.0, -2.0, 0.0, 2.0, 30.0))
        chaos = Chaos(Setting(seconds=seconds, seed=seed, skew=skew))
        self.addCleanup(chaos.close)
        faults = chaos.run()
        if faults:
            self.fail("\n\n".join(faults[:3]))
        self.assertGreater(chaos.counts["read"], 50, chaos.counts)
        self.assertGreater(chaos.counts["bytes evicted"], 0, chaos.counts)
