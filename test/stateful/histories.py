"""What tests that tell one history have in common."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from test.support.model import Content
from test.support.model_harness import Limits
from test.support.model_oracle import Reader
from test.support.model_world import World

__all__ = ["KEY", "HistoryCase"]

KEY = b"a"


class HistoryCase(SynchronousTestCase):
    """Each begins with one object at S3."""

    def begin(self, size: int = 9000, limits: Limits = Limits(), **cache: Any) -> World:
        """A world whose promises are checked at the end of the test."""
        world = World(limits, **{"get_ttl": 60.0, "head_ttl": 60.0, **cache})
        self.addCleanup(world.close)
        self.addCleanup(self.check, world)
        world.overwrite(KEY, Content(KEY, 1, size))
        self.world = world
        return world

    def check(self, world: World) -> None:
        """Whatever was asked was answered rightly, and nothing is left over."""
        world.settle()
        world.check_idle()
        world.check_uploads()

    def get(self, always_ask: bool = False, settled: bool = True, **headers: bytes) -> Reader:
        """A GET; header names are given with underscores."""
        named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        reader = self.world.read(b"GET", KEY, named, always_ask=always_ask)
        if settled:
            self.world.settle()
        return reader
