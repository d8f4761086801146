"""What all rules stand on: a world whose settings are drawn first, and whose promises are checked after every step.

Rules come in mix-ins, a module for each subject; a machine is :class:`Foundation` with those it needs.
"""

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from test.support.model import Content
from test.support.model_harness import Limits
from test.support.model_world import KEYS, World

__all__ = ["STEPS", "Foundation", "keys", "profile", "sizes"]

STEPS = int(os.environ.get("S3PROXY_TEST_STEPS") or "0")
"""How many steps to take, with another seed every time; 0: the few that belong to every test run, always the same."""
STEPS_OF_A_HISTORY = 60

# What is named more than once comes more often.
keys = st.sampled_from((*KEYS[:1] * 4, *KEYS))
sizes = st.sampled_from((20_000, 33_000, 9000, 4097, 4096, 33_000, 20_000, 9000, 1001, 1000, 500, 1, 0))
lifetimes = st.sampled_from((60.0, 0.0, 5.0, 100_000.0, 60.0))


def profile(histories: int, share: float = 1.0, **others: Any) -> settings:
    """How to run a machine.

    :param histories: how many, where the environment does not ask for a number of steps
    :param share: of these steps, this machine's
    """
    # Some histories end early.
    asked_for = int(STEPS * share * 1.2) // STEPS_OF_A_HISTORY + 1
    chosen: dict[str, Any] = dict(
        max_examples=asked_for if STEPS else histories,
        stateful_step_count=STEPS_OF_A_HISTORY,
        deadline=None,
        derandomize=not STEPS,
        database=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    return settings(**{**chosen, **others})


class Foundation(RuleBasedStateMachine):
    """The world, and what moves it."""

    #: Steps taken by all histories of this process.
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None
        self.contents = 0

    @initialize(
        get_ttl=lifetimes,
        head_ttl=lifetimes,
        small=st.sampled_from((1000, 0, 65536)),
        merge=st.sampled_from((1 << 20, 0, 200, 5000)),
        evaluate=st.sampled_from((True, True, False)),
        stale=st.sampled_from((0.0, 0.0, 100.0)),
        limits=st.builds(
            Limits,
            cut=st.sampled_from((4096, 10_000)),
            inline_max=st.sampled_from((4096, 0, 10_000)),
            page=st.sampled_from((None, None, None, 5000, 1024)),
            memory=st.sampled_from((0, 0, 20_000, 1_000_000)),
            room=st.sampled_from((1 << 30, 1 << 30, 1_000_000)),
            largest=st.sampled_from((1 << 20, 1 << 20, 10_000)),
        ),
        writes=st.sampled_from((True, True, True, True, False)),
        size=sizes,
    )
    def begin(
        self,
        get_ttl: float,
        head_ttl: float,
        small: int,
        merge: int,
        evaluate: bool,
        stale: float,
        limits: Limits,
        writes: bool,
        size: int,
    ) -> None:
        """The proxy starts on an empty directory, and S3 has some objects."""
        self.world = World(
            limits,
            get_ttl=get_ttl,
            head_ttl=head_ttl,
            small_object_bytes=small,
            range_merge_gap_threshold=merge,
            evaluate_conditions_from_cache=evaluate,
            stale_if_error=stale,
            write_cache_enabled=writes,
        )
        for key, length, parts in zip(KEYS, (size, 9000, 3000), (0, 3, 0)):
            self.world.overwrite(key, self.content(key, length, parts))

    def content(self, key: bytes, size: int, parts: int = 0) -> Content:
        """Bytes that were never there before."""
        self.contents += 1
        if not parts or size < parts:
            return Content(key, self.contents, size)
        each = size // parts + 1
        sizes = [each] * (size // each)
        return Content(key, self.contents, size, (*sizes, size - sum(sizes)) if size > sum(sizes) else tuple(sizes))

    @rule(choices=st.lists(st.integers(0, 255), min_size=1, max_size=12))
    def proceed(self, choices: list[int]) -> None:
        """Some of what can happen happens: S3 takes requests and answers, threads work, clients read."""
        assert self.world is not None
        for choice in choices:
            if not self.world.move(choice):
                break

    @rule()
    def settle(self) -> None:
        """Everything that is under way comes to its end."""
        assert self.world is not None
        self.world.settle()

    @rule(seconds=st.sampled_from((0.01, 1.0, 4.0, 29.0, 59.0, 61.0, 4000.0)))
    def advance(self, seconds: float) -> None:
        """Time passes."""
        assert self.world is not None
        self.world.harness.clock.advance(seconds)
        self.world.collect()

    @invariant()
    def promises(self) -> None:
        """Nobody has got anything wrong."""
        Foundation.steps += 1
        if self.world is not None:
            self.world.verify()

    def teardown(self) -> None:
        """Everything ends, and nothing is left over."""
        world = self.world
        if world is None:
            return
        try:
            if not world.oracle.problems:
                world.s3.forget_plans()
                world.settle()
                world.check_idle()
                world.check_uploads()
        finally:
            world.close()
