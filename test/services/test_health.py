"""What components say of themselves, and when."""

from test.support.gateway import GatewayHarness
from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import ComponentStatus
from s3proxy.services.health import (
    CapacityHealth,
    DnsHealth,
    LogHealth,
    UpstreamHealth,
    reactor_health,
    upstream_documents,
)
from s3proxy.telemetry.lag import LagSampler


@attrs.define
class _Traffic:
    answered: int = 0
    failed: int = 0


def host(addresses: str, excluded: str = "") -> dict[str, Any]:
    """A host as the upstream side describes it."""
    return {"addresses": addresses.split(), "excluded": excluded.split(), "idle": 1, "active": 2}


class HealthCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def assertSays(self, status: ComponentStatus, state: str, text: str = "") -> None:
        self.assertEqual((status.state.value, text in status.message), (state, True), status.message)
        self.assertEqual(bool(status.message), state != "healthy", status.message)


class UpstreamTests(HealthCase):
    def setUp(self) -> None:
        super().setUp()
        self.hosts = {"a.test": host("192.0.2.1 192.0.2.2"), "b.test": host("192.0.2.9")}
        self.traffic = _Traffic()
        self.component = UpstreamHealth(self.snapshot, self.traffic, self.clock.seconds)

    def snapshot(self) -> dict[str, Any]:
        excluded = [f"{ip}:443" for each in self.hosts.values() for ip in each["excluded"]]
        return {"hosts": self.hosts, "excluded": excluded, "recovery": {}}

    def test_addresses(self) -> None:
        """Some left out is degraded; no address at all of any host is unhealthy."""
        self.assertSays(self.component(), "healthy")
        self.hosts["a.test"]["excluded"] = ["192.0.2.2"]
        self.assertSays(self.component(), "degraded", "192.0.2.2:443")
        self.hosts["b.test"]["excluded"] = ["192.0.2.9"]
        self.assertSays(self.component(), "degraded", "No address answers for b.test")
        self.hosts["a.test"]["excluded"] = ["192.0.2.2", "192.0.2.1"]
        self.assertSays(self.component(), "unhealthy", "No address of S3 answers")

    def test_nothing_asked_yet(self) -> None:
        """Hosts that nobody has asked for are no fault."""
        self.hosts.clear()
        self.assertSays(self.component(), "healthy")

    def test_failures(self) -> None:
        """More than a tenth of the last minute's requests is degraded, more than half unhealthy; few tell nothing."""
        self.traffic.failed += 19
        self.assertSays(self.component(), "healthy")
        self.traffic.failed += 1
        self.assertSays(self.component(), "unhealthy", "20 of 20 requests")
        self.traffic.answered += 80
        self.assertSays(self.component(), "degraded", "20 of 100 requests")
        self.traffic.answered += 200
        self.assertSays(self.component(), "healthy")

    def test_the_last_minute(self) -> None:
        """What was before does not count."""
        self.traffic.failed += 40
        self.assertSays(self.component(), "unhealthy")
        for _ in range(14):
            self.clock.advance(5)
            self.component()
        self.assertSays(self.component(), "healthy")

    def test_documents(self) -> None:
        """Each host with its addresses, and when those that are left out are looked at again."""
        self.hosts["a.test"]["excluded"] = ["192.0.2.2"]
        found = upstream_documents(
            {**self.snapshot(), "recovery": {"192.0.2.2:443": {"seconds": 3.0, "next_probe_seconds": 1.5}}}
        )
        self.assertEqual(
            found[0],
            {
                "endpoint": "a.test",
                "active": 2,
                "idle": 1,
                "ips": [
                    {"ip": "192.0.2.1", "state": "active"},
                    {"ip": "192.0.2.2", "state": "excluded", "excluded_for_seconds": 3.0, "next_probe_seconds": 1.5},
                ],
            },
        )


class DnsTests(HealthCase):
    def setUp(self) -> None:
        super().setUp()
        self.old: tuple[str, ...] = ()
        self.none: tuple[str, ...] = ()
        self.counts = [0.0, 0.0]
        self.component = DnsHealth(
            lambda: (self.old, self.none),
            lambda: (self.counts[0], self.counts[1]),
            self.clock.seconds,
            lambda name: name != "garbage",
        )

    def ask(self, asked: int, failed: int) -> None:
        self.counts[0] += asked
        self.counts[1] += failed

    def test_states(self) -> None:
        """Former addresses in use is degraded; none at all, and nobody who answers, is unhealthy."""
        self.assertSays(self.component(), "healthy")
        self.ask(1, 1)
        self.old = ("a.test",)
        self.assertSays(self.component(), "degraded", "former addresses")
        self.none = ("b.test",)
        self.assertSays(self.component(), "unhealthy", "b.test")

    def test_made_up(self) -> None:
        """A name that some client made up can't make the proxy unhealthy."""
        self.ask(1, 1)
        self.none = ("garbage",)
        self.assertSays(self.component(), "degraded", "garbage")

    def test_one_name(self) -> None:
        """While others are answered about, a name that nobody can resolve is no fault of the name servers."""
        self.ask(5, 1)
        self.none = ("broken.test",)
        self.assertSays(self.component(), "degraded", "broken.test")


class CapacityTests(HealthCase):
    """A real gateway, and too many clients."""

    def setUp(self) -> None:
        super().setUp()
        self.harness = GatewayHarness(max_requests=20)
        self.addCleanup(self.harness.close)
        self.component = CapacityHealth(self.harness.gateway, lambda: (self.taken, 100), self.clock.seconds)
        self.taken = 0

    def test_permits(self) -> None:
        """Nine tenths in use is degraded, and so is a request that was turned away, for a minute."""
        for number in range(18):
            self.harness.get(b"/key-%d" % number)
        self.assertSays(self.component(), "healthy")
        self.harness.get(b"/another")
        self.assertSays(self.component(), "degraded", "19 of 20 permits")
        self.harness.get(b"/and-another")
        self.harness.get(b"/one-too-many")
        self.assertSays(self.component(), "degraded", "1 of 1 requests were turned away")

    def test_overload(self) -> None:
        """More than half turned away for a minute is unhealthy, until it is over."""
        for number in range(20):
            self.harness.get(b"/key-%d" % number)
        states = []
        for _ in range(14):
            for number in range(10):
                self.harness.get(b"/turned-away")
            self.clock.advance(5)
            states.append(self.component().state.value)
        self.assertEqual(states[0], "degraded")
        self.assertEqual(states[-1], "unhealthy")
        for client in self.harness.clients[:20]:
            client.leave()
        for _ in range(14):
            self.clock.advance(5)
            self.component()
        self.assertSays(self.component(), "healthy")

    def test_buffers(self) -> None:
        """Bodies in memory take nearly all that they may."""
        self.taken = 91
        self.assertSays(self.component(), "degraded", "91 of 100 bytes")


class ReactorTests(HealthCase):
    def test_lateness(self) -> None:
        """By how late timers are."""
        time = [0.0]
        sampler = LagSampler(self.clock, lambda lag: None, seconds=lambda: time[0], keep=10)
        sampler.start()
        self.addCleanup(sampler.stop)

        def late(seconds: float) -> None:
            for _ in range(10):
                time[0] += 0.25 + seconds
                self.clock.advance(0.25)

        late(0.0)
        self.assertSays(reactor_health(sampler), "healthy")
        late(0.2)
        self.assertSays(reactor_health(sampler), "degraded", "0.20 s late")
        late(1.5)
        self.assertSays(reactor_health(sampler), "unhealthy", "1.50 s late")
        late(0.01)
        self.assertSays(reactor_health(sampler), "healthy")


@attrs.define
class _Log:
    failure: str = ""


class LogTests(HealthCase):
    def test_states(self) -> None:
        """A log that can't be written, and lines that are lost."""
        log, lost = _Log(), [0]
        component = LogHealth(lambda: {"access": log}, lambda: lost[0], self.clock.seconds)
        self.assertSays(component(), "healthy")
        log.failure = "No space left on device"
        self.assertSays(component(), "degraded", "The access log can't be written: No space left")
        log.failure = ""
        self.assertSays(component(), "healthy")
        lost[0] += 3
        self.assertSays(component(), "degraded", "3 line(s) were lost")
        for _ in range(14):
            self.clock.advance(5)
            component()
        self.assertSays(component(), "healthy")
