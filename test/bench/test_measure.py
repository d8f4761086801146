"""Turns, and what becomes of counters."""

from pathlib import Path
from typing import cast

import attrs
from twisted.trial.unittest import SynchronousTestCase

from bench.clients import Load
from bench.hits import ranges
from bench.measure import Case, Counters, Stage, sample_of, take
from bench.process import Server

ZERO = Counters(wall=0, cpu=0, servers=0, clients=0, busy=0, stolen=0, disk=0)


class FakeServer:
    """What measuring needs of a server."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cpu_seconds(self) -> float:
        return 0.0

    def disk_read_bytes(self) -> int:
        return 0


class TakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.seen: list[str] = []
        names = ("s3proxy", "s3proxy@2", "nginx", "varnish")
        peers = {name: cast(Server, FakeServer(name)) for name in names}
        self.stage = Stage(Path("."), (), peers=peers)

    def load(self, server: Server) -> Load:
        self.seen.append(server.name)
        return Load(1, 1, 1.0)

    def test_turns(self) -> None:
        """Everybody once in each round, and each round begins with the next."""
        samples = take(self.stage, Case("a case", (), self.load), 3)
        self.assertEqual([len(rounds) for rounds in samples.values()], [3] * 4)
        self.assertEqual(self.seen[:4], ["s3proxy", "s3proxy@2", "nginx", "varnish"])
        self.assertEqual(self.seen[4:8], ["s3proxy@2", "nginx", "varnish", "s3proxy"])
        self.assertEqual(self.seen[8:], ["nginx", "varnish", "s3proxy", "s3proxy@2"])

    def test_prepared_once(self) -> None:
        """Before the first round, everybody is prepared."""
        prepared: list[str] = []
        case = Case("a case", (), self.load, lambda server: prepared.append(server.name))
        take(self.stage, case, 2)
        self.assertEqual(prepared, list(self.stage.peers))

    def test_some_peers(self) -> None:
        """A case for some peers; every interpreter runs the same one."""
        samples = take(self.stage, Case("a case", (), self.load, peers=("s3proxy", "nginx")), 1)
        self.assertEqual(list(samples), ["s3proxy", "s3proxy@2", "nginx"])


class SampleTests(SynchronousTestCase):
    def test_rates_and_costs(self) -> None:
        """Rates by the load's own time; processor time by request and by GiB."""
        after = attrs.evolve(ZERO, wall=2.1, cpu=1.0, disk=1 << 29)
        sample = sample_of(Load(1000, 1 << 30, 2.0), ZERO, after)
        self.assertEqual((sample["requests_per_s"], sample["mib_per_s"]), (500.0, 512.0))
        self.assertEqual((sample["cpu_us_per_request"], sample["cpu_s_per_gib"]), (1000.0, 1.0))
        self.assertEqual(sample["from_disk"], 0.5)

    def test_foreign_time(self) -> None:
        """What was neither servers nor clients was others, as is what the hypervisor took; never less than nothing."""
        after = attrs.evolve(ZERO, wall=1, servers=0.5, clients=0.25, busy=1.5, stolen=0.25)
        self.assertEqual(sample_of(Load(1, 0, 1.0), ZERO, after)["foreign_s"], 1.0)
        after = attrs.evolve(after, busy=0.5, stolen=0)
        self.assertEqual(sample_of(Load(1, 0, 1.0), ZERO, after)["foreign_s"], 0.0)

    def test_the_load_knows_better(self) -> None:
        """A load that measured only a part of itself says what that part cost."""
        sample = sample_of(Load(1, 1, 1.0, {"cpu_s": 0.25}), ZERO, attrs.evolve(ZERO, cpu=1.0))
        self.assertEqual(sample["cpu_s"], 0.25)


class LoadTests(SynchronousTestCase):
    def test_ranges(self) -> None:
        """All ranges of 8 MiB of all objects, each once."""
        asked = ranges(["/bucket/a/m64", "/bucket/b/m64"])
        self.assertEqual(len(set(asked)), 16)
        self.assertIn(b"\r\nRange: bytes=8388608-16777215\r\n", asked[2])
        self.assertTrue(asked[2].startswith(b"GET /bucket/a/m64 HTTP/1.1\r\n"))
