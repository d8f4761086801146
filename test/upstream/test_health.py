"""Tests of s3proxy.upstream.health."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.upstream.health import AddressHealth

A, B, C = ("192.0.2.1", 443), ("192.0.2.2", 443), ("192.0.2.3", 443)


class HealthTests(SynchronousTestCase):
    """The order in which addresses are offered."""

    def setUp(self) -> None:
        self.health = AddressHealth(3, 5.0, 300.0)

    def first(self, now: float) -> set[tuple[str, int]]:
        """The addresses that come first in three turns."""
        return {self.health.in_order("h", [A, B, C], now)[0] for _ in range(3)}

    def trouble(self, address: tuple[str, int], now: float, times: int = 3) -> bool:
        return [self.health.failed(address, now) for _ in range(times)][-1]

    def test_in_turn(self) -> None:
        """Every address comes first in its turn, and the others follow."""
        orders = [self.health.in_order("h", [A, B, C], 0) for _ in range(4)]
        self.assertEqual(orders, [[A, B, C], [B, C, A], [C, A, B], [A, B, C]])

    def test_as_listed(self) -> None:
        """Without rotation the order is that of the list."""
        orders = [self.health.in_order("h", [A, B], 0, rotate=False) for _ in range(2)]
        self.assertEqual(orders, [[A, B], [A, B]])

    def test_exclusion(self) -> None:
        """The third failure in a row takes an address out for five seconds."""
        self.assertFalse(self.trouble(A, 0, 2))
        self.assertEqual(self.first(0), {A, B, C})
        self.assertTrue(self.health.failed(A, 0))
        self.assertEqual(self.first(4.9), {B, C})
        self.assertEqual(self.health.all_excluded(4.9), [A])
        self.assertEqual(self.first(5), {A, B, C})

    def test_success_forgives(self) -> None:
        """A success starts the count, and the cooldown, afresh."""
        self.trouble(A, 0, 2)
        self.assertFalse(self.health.succeeded(A))
        self.assertFalse(self.trouble(A, 0, 2))
        self.trouble(A, 0)
        self.assertTrue(self.health.succeeded(A))
        self.assertFalse(self.health.excluded(A, 0))
        self.trouble(A, 10)
        self.assertFalse(self.health.excluded(A, 15))

    def test_doubling(self) -> None:
        """After its return one failure is enough, and the cooldown doubles up to its limit."""
        self.trouble(A, 0)
        now = 0.0
        for cooldown in (5, 10, 20, 40, 80, 160, 300, 300):
            self.assertTrue(self.health.excluded(A, now + cooldown - 0.1))
            now += cooldown
            self.assertFalse(self.health.excluded(A, now))
            self.assertTrue(self.health.failed(A, now))

    def test_failures_while_out(self) -> None:
        """Failures of requests that were under way do not lengthen an exclusion."""
        self.trouble(A, 0)
        self.assertFalse(self.trouble(A, 1, 10))
        self.assertFalse(self.health.excluded(A, 5))

    def test_all_excluded(self) -> None:
        """When all are excluded they are offered all the same, soonest back first."""
        self.trouble(B, 0)
        self.trouble(C, 1)
        self.trouble(A, 2)
        self.assertEqual(self.health.in_order("h", [A, B, C], 3), [B, C, A])

    def test_forgetting(self) -> None:
        """Old troubles are dropped, recent ones are not."""
        self.trouble(A, 0)
        self.trouble(B, 300, 2)
        self.health.forget_settled(310)
        self.assertFalse(self.trouble(A, 310, 2))
        self.assertTrue(self.health.failed(B, 310))

    def test_many_hosts(self) -> None:
        """What is kept per host is bounded."""
        health = AddressHealth(3, 5.0, 300.0, max_hosts=10)
        for number in range(100):
            health.in_order(f"h{number}", [A, B], 0)
        self.assertLessEqual(len(health._turns), 10)
