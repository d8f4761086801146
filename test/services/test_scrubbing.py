"""Upkeep that takes its time: what is stored is compared, and counted anew."""

from collections.abc import Callable
from test.cache.test_packer import VERSION
from test.storage.support import MIB, make_store, name_of, put_inline
from test.storage.test_seal import flip
from test.support.streams import run_at_once
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.config.model import Cache, Compression, Config
from s3proxy.policy.globs import Glob
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import Rule
from s3proxy.services import packing
from s3proxy.services.packing import packing_rules
from s3proxy.services.scrubbing import BATCH, FAILED, FASTEST, LONGEST_WAIT, SLOWEST, Scrubbing, Validation

HOUR = 3600.0


class UpkeepTestCase(SynchronousTestCase):
    """A store whose clock is that of the test."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = make_store(self, now=lambda: 1e6 + self.clock.seconds(), max_size=1 << 30)
        self.failures: list[Failure] = []
        self.run: Callable[..., "Deferred[Any]"] = run_at_once

    def upkeep(self) -> "tuple[Any, Any, Any, Any]":
        def run(*args: Any) -> "Deferred[Any]":
            return self.run(*args)

        return self.clock, run, self.failures.append, self.store

    def advance(self, seconds: float) -> None:
        """Second by second, or in longer steps."""
        for _ in range(100):
            self.clock.advance(seconds / 100)


class ScrubbingTests(UpkeepTestCase):
    """Comparing with checksums."""

    def start(self, interval: float = HOUR) -> Scrubbing:
        scrubbing = Scrubbing(*self.upkeep(), Cache(scrub_interval=interval))
        scrubbing.start()
        self.addCleanup(scrubbing.stop)
        return scrubbing

    def test_passes(self) -> None:
        """One pass after each interval; what is damaged goes."""
        put_inline(self.store, name_of("x"), bytes(100_000))
        scrubbing = self.start()
        self.advance(HOUR - LONGEST_WAIT)
        self.assertEqual(scrubbing.scrub.files, 0)
        with capturedLogs() as events:
            self.advance(2 * LONGEST_WAIT)
        self.assertEqual((scrubbing.scrub.files, scrubbing.scrub.damaged), (1, 0))
        self.assertIn("1 stored files", formatEvent(events[-1]))
        flip(self.store.volume.entry_path(name_of("x")), 50_000)
        self.advance(HOUR)
        self.assertEqual((scrubbing.scrub.files, scrubbing.scrub.damaged), (2, 1))

    def test_pace(self) -> None:
        """It is read as slowly as the interval allows, within limits."""
        scrubbing = Scrubbing(*self.upkeep(), Cache(scrub_interval=HOUR))
        for used, rate in ((0, SLOWEST), (36 * SLOWEST * 100, 2 * SLOWEST), (1 << 50, FASTEST)):
            self.patch(self.store, "usage", lambda used=used: used)
            self.assertEqual(scrubbing.rate, rate)

    def test_pauses(self) -> None:
        """Between two steps it waits as long as the pace demands."""
        put_inline(self.store, name_of("x"), bytes(7 * MIB))
        put_inline(self.store, name_of("y"), bytes(7 * MIB))
        scrubbing = self.start()
        self.advance(HOUR)
        self.assertEqual(scrubbing.scrub.read // MIB, BATCH // MIB)
        self.clock.advance(0.49)
        self.assertEqual(scrubbing.scrub.read // MIB, BATCH // MIB)
        self.clock.advance(0.02)
        self.assertGreater(scrubbing.scrub.read // MIB, BATCH // MIB)

    def test_switched_off_and_on(self) -> None:
        """0 is never; another interval counts from then on."""
        put_inline(self.store, name_of("x"), b"x")
        scrubbing = self.start(0.0)
        self.advance(100 * HOUR)
        self.assertEqual(scrubbing.scrub.files, 0)
        scrubbing.reconfigure(Cache(scrub_interval=HOUR))
        self.advance(2 * HOUR)
        self.assertGreater(scrubbing.scrub.files, 0)

    def test_failing_disk(self) -> None:
        """A failure is told, and it is tried again later."""
        put_inline(self.store, name_of("x"), b"x")
        scrubbing = self.start()
        self.run = lambda *args: fail(OSError(5, "broken"))
        self.advance(HOUR)
        self.assertGreater(len(self.failures), 0)
        self.run = run_at_once
        self.clock.advance(FAILED)
        self.advance(HOUR)
        self.assertGreater(scrubbing.scrub.files, 0)

    def test_stop(self) -> None:
        """After the end nothing happens any more, and nobody waits."""
        scrubbing = self.start()
        scrubbing.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ValidationTests(UpkeepTestCase):
    """Comparing the accounts with the directory."""

    def start(self, **settings: Any) -> Validation:
        config = Cache()
        shared = attrs.evolve(config.shared_storage, validation_frequency=2 * HOUR, **settings)
        self.validation = Validation(*self.upkeep(), attrs.evolve(config, shared_storage=shared))
        self.validation.start()
        self.addCleanup(self.validation.stop)
        return self.validation

    def spoil(self, amount: int) -> None:
        """The accounts are wrong by so much."""
        for number in range(10):
            put_inline(self.store, name_of(str(number)), bytes(100_000))
        self.store.volume.ledger.add(0, amount)

    def validated(self, amount: int, **settings: Any) -> list[str]:
        """What is logged about it."""
        self.spoil(amount)
        used = self.store.usage()
        self.start(**settings)
        with capturedLogs() as events:
            self.advance(2 * HOUR + 300)
        self.assertEqual(self.validation.drift, amount)
        self.assertEqual(self.store.usage(), used - amount)
        return [event["log_level"].name for event in events if "accounts" in formatEvent(event)]

    def test_right(self) -> None:
        """Nothing is said when they agree."""
        self.assertEqual(self.validated(0), ["debug"])

    def test_drift(self) -> None:
        """A drift is corrected, and told the louder the larger it is."""
        self.assertEqual(self.validated(100_000), ["warn"])

    def test_large_drift(self) -> None:
        """As an error from a threshold on."""
        self.assertEqual(self.validated(300_000), ["error"])

    def test_thresholds(self) -> None:
        """Which are configured."""
        self.assertEqual(self.validated(300_000, validation_threshold_error=90.0), ["warn"])

    def test_too_little(self) -> None:
        """They may also be too low."""
        self.assertEqual(self.validated(-100_000), ["warn"])

    def test_while_it_goes_on(self) -> None:
        """What is stored and removed meanwhile is counted."""
        self.spoil(100_000)
        scan = self.store.scan(again=True, recount=True)
        while not scan.step(50):
            put_inline(self.store, name_of("new"), bytes(10_000))
            self.store.drop(name_of("3"))
        self.assertEqual(self.store.volume.ledger.drift, 100_000)
        used = self.store.usage()
        scan = self.store.scan(again=True, recount=True)
        while not scan.step():
            continue
        self.assertEqual((self.store.usage(), self.store.volume.ledger.drift), (used, 0))

    def test_long_one(self) -> None:
        """What does not end in time goes on the next time."""
        validation = self.start(validation_max_duration=600.0)
        steps: list[int] = []

        class Endless:
            def step(self) -> bool:
                steps.append(1)
                return False

        self.patch(self.store, "scan", lambda **options: Endless())
        self.advance(2 * HOUR + 700)
        made = len(steps)
        self.assertGreater(made, 0)
        self.advance(HOUR)
        self.assertEqual(len(steps), made)
        self.advance(HOUR)
        self.assertGreater(len(steps), made)
        self.assertIsNone(validation.drift)


class PackingRulesTests(SynchronousTestCase):
    """What configuration and rules say of compression."""

    def rules(self, compression: Compression, *said: "tuple[str, bool]", batch: int = MIB) -> Any:
        config = Config(compression=compression, cache=Cache(compression_batch_size=batch))
        rules = tuple(Rule(glob=Glob(pattern), compression_enabled=value) for pattern, value in said)
        return packing_rules(config, Rules(config, rules))

    def test_default(self) -> None:
        """It is on, with blocks of 1 MiB."""
        rules = self.rules(Compression())
        self.assertEqual((rules.threshold, rules.block, rules.wants(VERSION)), (1024, 20, True))

    def test_off(self) -> None:
        """Switched off it costs nothing."""
        self.assertIsNone(self.rules(Compression(enabled=False)))
        self.assertIsNone(self.rules(Compression(enabled=False), ("bucket/**", False)))
        self.assertIsNone(self.rules(Compression(preferred_algorithm="none"), ("bucket/**", True)))

    def test_rules(self) -> None:
        """A rule switches it on or off for its objects."""
        self.assertTrue(self.rules(Compression(enabled=False), ("bucket/**", True)).wants(VERSION))
        self.assertFalse(self.rules(Compression(enabled=False), ("other/**", True)).wants(VERSION))
        self.assertFalse(self.rules(Compression(), ("bucket/**", False)).wants(VERSION))

    def test_block(self) -> None:
        """The block is a power of two."""
        for size, block in ((65536, 16), (100_000, 16), (16 * MIB, 24)):
            self.assertEqual(self.rules(Compression(), batch=size).block, block)

    def test_without_the_package(self) -> None:
        """When the package is missing, that is said, with the remedy."""
        self.patch(packing, "can_decode", lambda: False)
        with capturedLogs() as events:
            self.assertIsNone(self.rules(Compression()))
        self.assertIn("pip install lz4", formatEvent(events[-1]))
