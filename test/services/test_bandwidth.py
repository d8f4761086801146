"""Tests for :mod:`s3proxy.services.bandwidth`."""

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import DownloadBandwidth, Fleet
from s3proxy.services.bandwidth import BandwidthService, part_of
from s3proxy.upstream.pacing import Pacer
from test.support.streams import run_at_once

LIMIT = 1_000_000


class BandwidthTests(SynchronousTestCase):
    """BandwidthService."""

    def setUp(self) -> None:
        """One instance, and a service that does not run yet."""
        self.clock = Clock()
        self.pacer = Pacer(self.clock)
        self.instances: int | None = 1
        self.asked: list[float] = []

    def count(self, silence: float) -> int:
        self.asked.append(silence)
        if self.instances is None:
            raise OSError("gone")
        return self.instances

    def serve(self, config: DownloadBandwidth) -> BandwidthService:
        service = BandwidthService(self.clock, config, self.pacer, self.count, run_at_once)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def test_parts(self) -> None:
        """The limit is divided by the instances, or by the least number of them; at least one byte is left."""
        self.assertEqual(part_of(0, 5, 5), 0)
        self.assertEqual(part_of(100, 4, 1), 25)
        self.assertEqual(part_of(100, 2, 5), 20)
        self.assertEqual(part_of(3, 8, 1), 1)

    def test_recount(self) -> None:
        """Instances that come and go change the part; what can't be counted does not."""
        self.serve(DownloadBandwidth(max_bytes_per_sec=LIMIT, fleet=Fleet(instance_staleness=7.0)))
        self.assertEqual((self.pacer.rate, self.asked), (LIMIT, [7.0]))
        for instances, rate in ((4, LIMIT // 4), (None, LIMIT // 4), (2, LIMIT // 2)):
            self.instances = instances
            self.clock.advance(30.0)
            self.assertEqual(self.pacer.rate, rate)

    def test_reconfigure(self) -> None:
        """Another limit holds at once; without one nothing is counted."""
        config = DownloadBandwidth()
        service = self.serve(config)
        self.assertEqual((self.pacer.rate, self.asked), (0, []))
        service.reconfigure(attrs.evolve(config, max_bytes_per_sec=LIMIT))
        self.assertEqual((self.pacer.rate, len(self.asked)), (LIMIT, 1))
        service.reconfigure(config)
        self.clock.advance(30.0)
        self.assertEqual((self.pacer.rate, len(self.asked)), (0, 1))
