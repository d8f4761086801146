"""Tests of s3proxy.upstream.health."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.health import AddressHealth

A, B, C = ("192.0.2.1", 443), ("192.0.2.2", 443), ("192.0.2.3", 443)


class HealthTests(SynchronousTestCase):
    """The order in which addresses are offered."""

    def setUp(self) -> None:
        self.health = AddressHealth(3, 5.0, 300.0)

    def first(self) -> set[tuple[str, int]]:
        """The addresses that come first in three turns."""
        return {self.health.in_order("h", [A, B, C])[0] for _ in range(3)}

    def trouble(self, address: tuple[str, int], now: float, times: int = 3) -> float | None:
        return [self.health.failed(address, now) for _ in range(times)][-1]

    def test_in_turn(self) -> None:
        """Every address comes first in its turn, and the others follow."""
        orders = [self.health.in_order("h", [A, B, C]) for _ in range(4)]
        self.assertEqual(orders, [[A, B, C], [B, C, A], [C, A, B], [A, B, C]])

    def test_many_hosts_begin_differently(self) -> None:
        """Hosts that are asked for once each spread over the addresses, too."""
        firsts = [self.health.in_order(f"bucket{number}.s3.test", [A, B, C])[0] for number in range(30)]
        self.assertEqual([firsts.count(address) for address in (A, B, C)], [10, 10, 10])

    def test_again(self) -> None:
        """A request that is sent once more does not take the turn of the next one."""
        firsts = []
        for _ in range(4):
            firsts.append(self.health.in_order("h", [A, B])[0])
            self.health.in_order("h", [A, B], again=True)
        self.assertEqual(firsts, [A, B, A, B])

    def test_as_listed(self) -> None:
        """Without rotation the order is that of the list."""
        orders = [self.health.in_order("h", [A, B], rotate=False) for _ in range(2)]
        self.assertEqual(orders, [[A, B], [A, B]])

    def test_exclusion(self) -> None:
        """The third failure in a row takes an address out, to be probed in five seconds. It does not return by itself.
        """
        self.assertIsNone(self.trouble(A, 0, 2))
        self.assertEqual(self.first(), {A, B, C})
        self.assertEqual(self.health.failed(A, 2), 5.0)
        self.assertEqual(self.first(), {B, C})
        self.assertEqual(self.health.all_excluded(), {A: (2, 7.0)})
        self.health.forget_settled(10000)
        self.assertTrue(self.health.excluded(A))
        self.assertTrue(self.health.succeeded(A))
        self.assertEqual(self.first(), {A, B, C})

    def test_success_forgives(self) -> None:
        """A success starts the count, and the cooldown, afresh."""
        self.trouble(A, 0, 2)
        self.assertFalse(self.health.succeeded(A))
        self.assertIsNone(self.trouble(A, 0, 2))
        self.trouble(A, 0)
        self.health.probe_failed(A, 5)
        self.assertTrue(self.health.succeeded(A))
        self.assertFalse(self.health.excluded(A))
        self.assertEqual(self.trouble(A, 10), 5.0)

    def test_doubling(self) -> None:
        """Each probe that fails doubles the time to the next, up to a limit."""
        self.assertEqual(self.trouble(A, 0), 5.0)
        self.assertEqual([self.health.probe_failed(A, 0) for _ in range(8)], [10, 20, 40, 80, 160, 300, 300, 300])
        self.assertIsNone(self.health.probe_failed(B, 0))

    def test_failures_while_out(self) -> None:
        """Failures of requests that were under way do not lengthen an exclusion."""
        self.trouble(A, 0)
        self.assertIsNone(self.trouble(A, 1, 10))
        self.assertEqual(self.health.all_excluded(), {A: (0, 5.0)})

    def test_all_excluded(self) -> None:
        """When all are excluded they are offered all the same, soonest probed first."""
        self.trouble(B, 0)
        self.trouble(C, 1)
        self.trouble(A, 2)
        self.assertEqual(self.health.in_order("h", [A, B, C]), [B, C, A])

    def test_forgetting(self) -> None:
        """Old troubles are dropped, recent ones are not; an address that nobody uses is forgotten on request."""
        self.trouble(A, 0, 2)
        self.trouble(B, 300, 2)
        self.health.forget_settled(310)
        self.assertIsNone(self.trouble(A, 310, 2))
        self.assertEqual(self.health.failed(B, 310), 5.0)
        self.health.forget(B)
        self.assertFalse(self.health.excluded(B))

    def test_many_hosts(self) -> None:
        """What is kept per host is bounded."""
        health = AddressHealth(3, 5.0, 300.0, max_hosts=10)
        for number in range(100):
            health.in_order(f"h{number}", [A, B])
        self.assertLessEqual(len(health._turns), 10)
