"""Tests for :mod:`s3proxy.upstream.qos`: downloads without a network, in simulated time."""

import random

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.qos import BURST, MOST_WAIT, TICK, Flow, Scheduler

MIB = 1 << 20
READ = 65536


@attrs.define(eq=False)
class Download:
    """One that takes all that it may, as fast as its own connection is."""

    flow: Flow
    speed: float
    allowed: bool = False
    done: int = 0
    owed: float = 0.0


class Simulation:
    """Downloads under one scheduler, whose timer is sometimes late."""

    def __init__(self, rate: float, seed: int = 1, most_shares: int = 1024) -> None:
        self.now = 1000.0
        self.scheduler = Scheduler(rate, self.now, most_shares)
        self.downloads: list[Download] = []
        self.by_flow: dict[Flow, Download] = {}
        self._random = random.Random(seed)
        self._due: float | None = None

    def add(self, share: str, length: int | None = None, speed: float = 1e9) -> Download:
        download = Download(self.scheduler.open(share, length), speed)
        self.downloads.append(download)
        self.by_flow[download.flow] = download
        self._ask(download)
        return download

    def _ask(self, download: Download) -> None:
        download.allowed = self.scheduler.ask(download.flow, self.now)

    def _read(self, download: Download, size: int) -> None:
        left = download.flow.left
        size = size if left is None else min(size, left)
        self.scheduler.received(download.flow, size)
        download.done += size
        if download.flow.left == 0:
            self.scheduler.close(download.flow, self.now)
            self.downloads.remove(download)
        elif download.flow.credit <= 0:
            self._ask(download)

    def run(self, seconds: float, step: float = 0.005) -> None:
        """Let time pass."""
        until = self.now + seconds - step / 2
        while self.now < until:
            self.now += step
            if self._due is not None and self.now >= self._due:
                self._due = None
                for flow in self.scheduler.grant(self.now):
                    self.by_flow[flow].allowed = True
            for download in list(self.downloads):
                download.owed = min(download.owed + download.speed * step, max(2 * READ, download.speed * 0.05))
                while download.allowed and download.owed >= READ and download in self.downloads:
                    download.owed -= READ
                    self._read(download, READ)
            if self._due is None:
                due = self.scheduler.due(self.now)
                if due is not None:
                    self._due = self.now + due + self._random.choice((0, 0, 0.01, 0.03))


class SchedulerTests(SynchronousTestCase):
    """Scheduler."""

    def test_rate(self) -> None:
        """However many download, and however late the timer: the rate is what it should be within 2 %."""
        for rate in (64 << 10, 2 * MIB, 50 * MIB):
            for flows in (1, 3, 40 if rate > MIB else 5):
                simulation = Simulation(rate)
                downloads = [simulation.add(f"share-{number % 5}") for number in range(flows)]
                simulation.run(2)
                before = sum(download.done for download in downloads)
                simulation.run(10)
                got = (sum(download.done for download in downloads) - before) / 10
                self.assertLess(abs(got - rate), 0.02 * rate + READ / 10, (rate, flows, got))

    def test_no_limit(self) -> None:
        """Without a limit nobody waits, and nobody owes anything when there is one later."""
        simulation = Simulation(0)
        download = simulation.add("a")
        simulation.run(1)
        self.assertGreater(download.done, 100 * MIB)
        self.assertEqual((download.flow.credit, simulation.scheduler.due(simulation.now)), (0, None))

    def test_burst(self) -> None:
        """After a pause, what the limit gives in BURST seconds comes at once, and no more."""
        rate = 10 * MIB
        simulation = Simulation(rate)
        simulation.run(60)
        download = simulation.add("a")
        simulation.run(0.02)
        self.assertGreater(download.done, rate * BURST * 0.9)
        self.assertLess(download.done, rate * (BURST + TICK) + 2 * READ)

    def test_fair_between_shares(self) -> None:
        """A share with one download gets as much as one with ten, and as one with a stream of small ones."""
        for rate, at_once in ((2 * MIB, 12), (40 * MIB, 48)):
            simulation = Simulation(rate)
            alone = simulation.add("alone")
            many = [simulation.add("many") for _ in range(10)]
            small: list[Download] = []
            began = simulation.now
            for _ in range(500):
                simulation.run(0.01)
                running = [each for each in small if each in simulation.downloads]
                small += [simulation.add("small", 20_000 + 100 * number) for number in range(at_once - len(running))]
            third = rate * (simulation.now - began) / 3
            for name, group in (("alone", [alone]), ("many", many), ("small", small)):
                got = sum(each.done for each in group)
                self.assertLess(abs(got - third) / third, 0.25, (rate, name, got / third))

    def test_fair_within_a_share(self) -> None:
        """Downloads of one share get the same."""
        simulation = Simulation(4 * MIB)
        downloads = [simulation.add("a") for _ in range(8)]
        simulation.run(5)
        before = [download.done for download in downloads]
        simulation.run(20)
        got = [download.done - done for download, done in zip(downloads, before)]
        self.assertLess(max(got) - min(got), 0.2 * max(got))

    def test_what_one_does_not_use_the_others_get(self) -> None:
        """Work conserving: a slow download takes what it can, the others all of the rest."""
        simulation = Simulation(10 * MIB)
        slow, fast = simulation.add("slow", speed=MIB), simulation.add("fast")
        simulation.run(20)
        self.assertGreater(slow.done, 0.85 * 20 * MIB)
        self.assertGreater(slow.done + fast.done, 0.98 * 200 * MIB)

    def test_another_limit(self) -> None:
        """A limit that changes holds at once; none lets everybody go."""
        simulation = Simulation(MIB)
        downloads = [simulation.add(name) for name in "abc"]
        for rate in (8 * MIB, MIB // 2, 3 * MIB):
            simulation.scheduler.set_rate(rate, simulation.now)
            simulation.run(1)
            before = sum(download.done for download in downloads)
            simulation.run(10)
            got = (sum(download.done for download in downloads) - before) / 10
            self.assertLess(abs(got - rate), 0.02 * rate, (rate, got))
        simulation.scheduler.set_rate(0, simulation.now)
        self.assertEqual(simulation.scheduler.due(simulation.now), 0.0)
        self.assertEqual(len(simulation.scheduler.grant(simulation.now)), simulation.scheduler.waiting + 3)

    def test_refund(self) -> None:
        """What a download was given and did not take goes back; one that waits and ends is forgotten."""
        scheduler = Scheduler(MIB, 0.0)
        flow = scheduler.open("a", None)
        self.assertTrue(scheduler.ask(flow, 0.0))
        given = flow.credit
        other = scheduler.open("a", 2 * MIB)
        before = scheduler._tokens
        scheduler.received(flow, 1000)
        scheduler.close(flow, 0.0)
        scheduler.close(flow, 0.0)
        self.assertEqual(scheduler._tokens, before + given - 1000)
        while scheduler.ask(other, 0.0):
            scheduler.received(other, other.credit)
        scheduler.close(other, 0.0)
        self.assertEqual((scheduler.waiting, scheduler.due(0.0)), (0, None))

    def test_nobody_waits_for_ever(self) -> None:
        """Under a tiny limit, each gets something before clients give up; it is counted."""
        simulation = Simulation(100)
        downloads = [simulation.add("a") for _ in range(20)]
        simulation.run(2 * MOST_WAIT + 1)
        self.assertTrue(all(download.done for download in downloads))
        self.assertGreaterEqual(simulation.scheduler.failed_open, 19)

    def test_bytes_of_shares(self) -> None:
        """Bytes are counted by share; of those beyond the limit, together."""
        scheduler = Scheduler(MIB, 0.0, 2)
        for name, size in (("a", 1), ("b", 2), ("c", 4), ("a", 8), ("d", 16)):
            scheduler.received(scheduler.open(name, None), size)
        self.assertEqual((scheduler.bytes, scheduler.residual), ({"a": 9, "b": 2}, 20))

    def test_few_looks(self) -> None:
        """There is never more than one look in TICK seconds, however many wait."""
        scheduler = Scheduler(100 * MIB, 0.0)
        for number in range(1000):
            scheduler.ask(scheduler.open(f"s{number}", None), 0.0)
        due = scheduler.due(0.0)
        assert due is not None
        self.assertGreaterEqual(due, TICK)
