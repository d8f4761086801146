"""How much of a body may wait."""

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.backpressure import SHORT_WINDOW, WINDOW, BackPressure
from s3proxy.util.bodymemory import BodyMemory
from test.support.streams import ScriptedSource


class BackPressureTests(SynchronousTestCase):
    """A body that comes faster than it goes."""

    def setUp(self) -> None:
        self.source = ScriptedSource()
        self.account = BodyMemory(limit=1000)
        self.pressure = BackPressure(self.source, self.account)

    def paused(self, *waiting: int) -> list[bool]:
        found = []
        for size in waiting:
            self.pressure.adapt(size)
            found.append(self.source.paused)
        return found

    def test_window(self) -> None:
        """S3 is paused when the window is full, and goes on when it is half empty."""
        self.assertEqual(self.paused(WINDOW - 1, WINDOW, WINDOW // 2, WINDOW // 2 - 1), [False, True, True, False])

    def test_little_memory(self) -> None:
        """The window is a short one while all bodies together take as much as they may."""
        self.pressure.hold(1000)
        self.assertEqual(self.paused(SHORT_WINDOW, SHORT_WINDOW // 2 - 1), [True, False])
        self.pressure.let_go(1)
        self.assertEqual(self.paused(SHORT_WINDOW), [False])

    def test_account(self) -> None:
        """What it holds is accounted, until it lets go of it."""
        self.pressure.hold(600)
        self.pressure.let_go(100)
        self.assertEqual(self.account.held, 500)
        self.pressure.let_go_of_all()
        self.assertEqual(self.account.held, 0)
