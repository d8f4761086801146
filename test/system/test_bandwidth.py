"""A real proxy with a limit on downloads from S3: misses keep to it, hits do not know it."""

import signal
import time

import yaml
from twisted.trial.unittest import SynchronousTestCase

from test.support.waiting import poll
from test.system.stage import MIB, Stage, at_once

LIMIT = 2 * MIB


class BandwidthTests(SynchronousTestCase):
    """download_bandwidth."""

    def test_limit(self) -> None:
        """Two MiB per second, over two downloads at once; what is cached comes as fast as ever; a new limit holds."""
        stage = Stage({"download_bandwidth": {"max_bytes_per_sec": LIMIT}})
        self.addCleanup(stage.stop)
        size = 5 * MIB
        stage.put(b"a", 1, size)
        stage.put(b"b", 2, size)
        began = time.monotonic()
        found = at_once([lambda: stage.read(b"a", 1, size), lambda: stage.read(b"b", 2, size)])
        seconds = time.monotonic() - began
        self.assertTrue(all(each.exact for each in found))
        # The bucket was full.
        self.assertLess(abs(seconds - (2 * size / LIMIT - 0.2)) * LIMIT / (2 * size), 0.1, seconds)
        began = time.monotonic()
        hit = stage.read(b"a", 1, size)
        self.assertTrue(hit.exact and hit.x_cache == b"HIT")
        self.assertLess(time.monotonic() - began, 0.7)
        answer = stage.ask(b"PUT", b"c", body=b"x" * size)
        self.assertEqual(answer.status, 200)
        self.assertLess(time.monotonic() - began, 1.5)
        metrics = stage.proxy.metrics()
        self.assertEqual(metrics["s3proxy_qos_limit_bytes_per_second"], LIMIT)
        self.assertEqual(metrics[f's3proxy_qos_class_bytes_total{{class="bkt:{stage.bucket}"}}'], 2 * size)
        stage.proxy.configure({"download_bandwidth": {"max_bytes_per_sec": 100 * LIMIT}})
        stage.proxy.config_file.write_text(yaml.safe_dump(stage.proxy.config))
        stage.proxy.signal(signal.SIGHUP)
        poll(lambda: stage.proxy.metrics()["s3proxy_qos_limit_bytes_per_second"] > LIMIT, 10, "the new limit")
        stage.put(b"d", 4, size)
        began = time.monotonic()
        self.assertTrue(stage.read(b"d", 4, size).exact)
        self.assertLess(time.monotonic() - began, 1.0)
        self.assertEqual(stage.tracebacks(), [])
