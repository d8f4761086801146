"""Tests of s3proxy.upstream.prober."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.health import AddressHealth
from s3proxy.upstream.interfaces import UpstreamRefused, UpstreamUnreachable
from s3proxy.upstream.prober import Prober
from s3proxy.upstream.routing import Route, TLSPolicy

A = ("192.0.2.1", 443)
ROUTE = Route("s3.test", 443, TLSPolicy())


class ProberTests(SynchronousTestCase):
    """One address that was excluded."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.health = AddressHealth(1, 5.0, 60.0)
        self.dialled: list[tuple[Route, str, int]] = []
        self.dialling: list[Deferred[Any]] = []
        self.cancelled = 0
        self.reached: list[tuple[Route, tuple[str, int], Any]] = []
        self.known = {"192.0.2.1"}
        self.prober = Prober(
            self.clock, self.health, self.dial, self.known.__contains__, lambda *found: self.reached.append(found)
        )
        cooldown = self.health.failed(A, 0)
        assert cooldown is not None
        self.prober.watch(A, ROUTE, cooldown)

    def dial(self, route: Route, ip: str, port: int) -> "Deferred[Any]":
        self.dialled.append((route, ip, port))
        self.dialling.append(Deferred(lambda _: setattr(self, "cancelled", self.cancelled + 1)))
        return self.dialling[-1]

    def fail(self) -> None:
        self.dialling.pop().errback(UpstreamUnreachable("nobody there"))

    def test_first_probe(self) -> None:
        """After the cooldown the address is dialled as the host for which it failed; when it answers, that is told."""
        self.clock.advance(4.9)
        self.assertEqual(self.dialled, [])
        self.clock.advance(0.1)
        self.assertEqual(self.dialled, [(ROUTE, *A)])
        connection = object()
        self.dialling[0].callback(connection)
        self.assertEqual(self.reached, [(ROUTE, A, connection)])
        self.assertEqual((self.prober.succeeded, self.prober.failed), (1, 0))
        self.clock.advance(1000)
        self.assertEqual(len(self.dialled), 1)

    def test_doubling(self) -> None:
        """As long as it does not answer it is dialled at growing intervals, and never twice at once."""
        times = []
        for _ in range(6):
            before = len(self.dialled)
            while len(self.dialled) == before:
                self.clock.advance(1)
            times.append(self.clock.seconds())
            self.clock.advance(2)
            self.fail()
        gaps = [round(later - sooner - 2) for sooner, later in zip(times, times[1:])]
        self.assertEqual((times[0], gaps), (5, [10, 20, 40, 60, 60]))
        self.assertEqual((self.prober.failed, self.reached), (6, []))

    def test_watched_twice(self) -> None:
        """An address has one timer."""
        self.prober.watch(A, ROUTE, 1.0)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_answered_meanwhile(self) -> None:
        """When a request found the address back, nothing is probed, and a probe under way is given up."""
        self.prober.forget(A)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.prober.watch(A, ROUTE, 1.0)
        self.clock.advance(1)
        self.prober.forget(A)
        self.assertEqual((self.cancelled, self.clock.getDelayedCalls(), self.prober.failed), (1, [], 0))

    def test_gone_from_dns(self) -> None:
        """An address that no name has any more is forgotten instead of probed."""
        self.known.clear()
        self.clock.advance(5)
        self.assertEqual((self.dialled, self.health.excluded(A), self.clock.getDelayedCalls()), ([], False, []))

    def test_refused(self) -> None:
        """An address that may not be dialled any more counts as one that does not answer."""

        def dial(route: Route, ip: str, port: int) -> "Deferred[Any]":
            raise UpstreamRefused("a loop")

        self.prober = Prober(self.clock, self.health, dial, self.known.__contains__, lambda *found: None)
        self.prober.watch(A, ROUTE, 1.0)
        self.clock.advance(1)
        self.assertEqual(self.prober.failed, 1)

    def test_stopped(self) -> None:
        """At the end no timer and no connection is left, and none is begun."""
        self.clock.advance(5)
        self.prober.stop()
        self.prober.watch(A, ROUTE, 1.0)
        self.assertEqual((self.cancelled, self.clock.getDelayedCalls()), (1, []))
