"""What goes wrong: S3 and its network, the disk, and the proxy itself."""

import os
import shutil

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import rule

from test.stateful.machine import Foundation, keys, sizes
from test.stateful.reading import Reading, Style, plain_styles, ranges
from test.stateful.writing import Racing
from test.support.model_orders import Delete, Put
from test.support.model_s3 import FAULTS, WRITE_FAULTS, Fault, WriteFault

__all__ = ["Crashing", "Evicting", "Failing", "FailingWrites", "Restarting"]


faults = st.builds(Fault, kind=st.sampled_from(FAULTS), place=st.sampled_from((500, 0, 1, 100, 400, 600, 999)))
cuts = st.builds(Fault, kind=st.sampled_from(("cut", "stall")), place=st.sampled_from((500, 0, 100, 400, 600, 999)))


write_faults = st.builds(
    WriteFault,
    kind=st.sampled_from(WRITE_FAULTS),
    place=st.sampled_from((500, 0, 1, 300, 900, 999)),
    acts=st.sampled_from(("before", "never", "after")),
    status=st.sampled_from((500, 503)),
) | st.builds(
    WriteFault,
    kind=st.sampled_from(("early", "status")),
    place=st.sampled_from((500, 0, 1, 300, 900, 999)),
    status=st.sampled_from((307, 400, 403, 404, 409, 412)),
)


class Failing(Reading):
    """S3 fails."""

    @rule(key=keys, fault=faults)
    def fail(self, key: bytes, fault: Fault) -> None:
        """The next request for a key is answered wrongly, not at all, or not to the end."""
        assert self.world is not None
        self.world.s3.plan(key, fault)

    @rule(key=keys, planned=st.lists(faults, min_size=1, max_size=3), wanted=st.one_of(st.none(), ranges))
    def fail_to_get(self, key: bytes, planned: list[Fault], wanted: bytes | None) -> None:
        """The same happens to this request, perhaps to all that follow from it."""
        assert self.world is not None
        for fault in planned:
            self.world.s3.plan(key, fault)
        self.send(b"GET", key, Style(), {} if wanted is None else {b"Range": wanted})

    @rule(
        key=keys, fault=cuts, wanted=st.lists(st.one_of(st.none(), ranges), min_size=2, max_size=4), style=plain_styles
    )
    def break_off(self, key: bytes, fault: Fault, wanted: list[bytes | None], style: Style) -> None:
        """The body that several clients wait for breaks off."""
        assert self.world is not None
        self.world.s3.plan(key, fault)
        for each in wanted:
            self.send(b"GET", key, attrs.evolve(style, then="nothing"), {} if each is None else {b"Range": each})
        self.settle()

    @rule(count=st.integers(1, 3))
    def refuse_work(self, count: int) -> None:
        """The disk's threads have too much to do."""
        assert self.world is not None
        self.world.threads.refusals = count


class FailingWrites(Racing):
    """S3 fails while it is written to, at every point."""

    @rule(key=keys, fault=write_faults)
    def fail_write(self, key: bytes, fault: WriteFault) -> None:
        """The next write of a key gets stuck, is refused, cut off, or not acknowledged."""
        assert self.world is not None
        self.world.s3.plan_write(key, fault)

    @rule(key=keys, fault=write_faults, size=sizes, coding=st.sampled_from(("plain", "trailer")))
    def fail_to_put(self, key: bytes, fault: WriteFault, size: int, coding: str) -> None:
        """The same happens to this upload."""
        assert self.world is not None
        self.world.s3.plan_write(key, fault)
        content = self.content(key, size)
        self.request(Put(key=key, label=self.world.label(), bytes_of=content, coding=coding), "everything")

    @rule(
        key=keys,
        kind=st.sampled_from(("silent", "lost", "status", "left")),
        removes=st.booleans(),
        size=sizes,
        seconds=st.sampled_from((0.01, 4.0)),
        later=st.sampled_from((11.0, 29.0)),
        acts=st.sampled_from((True, True, False)),
    )
    def act_soon(
        self, key: bytes, kind: str, removes: bool, size: int, seconds: float, later: float, acts: bool
    ) -> None:
        """S3 acts a moment after the proxy has given up, and in between somebody reads what was there before."""
        assert self.world is not None
        world = self.world
        world.settle()
        world.s3.plan_write(key, WriteFault("silent" if kind == "left" else kind, acts="after"))
        order = Put(key=key, label=world.label(), bytes_of=self.content(key, size))
        writer = world.order(Delete(key=key) if removes else order)
        if kind == "left":
            while writer.exchange is not None and not world.uplink.may_process(writer.exchange) and world.move(0):
                continue
            writer.client.leave()
        self.world.settle()
        self.world.read(b"GET", key, {b"x-caller": b"ann"})
        self.world.settle()
        self.world.harness.clock.advance(seconds)
        if world.uplink.late:
            world.uplink.act_late(len(world.uplink.late) - 1, acts)
        self.world.harness.clock.advance(later)
        self.world.read(b"GET", key, {b"x-caller": b"ann"})
        self.world.settle()


class Evicting(Foundation):
    """The cache loses what it holds."""

    @rule(share=st.sampled_from((0.0, 0.5, 0.9)))
    def evict(self, share: float) -> None:
        """Room is needed for something else."""
        assert self.world is not None
        store = self.world.harness.store
        store.evictor.shrink(int(store.usage() * share))

    @rule(which=st.integers(0, 15), whole=st.booleans())
    def remove_file(self, which: int, whole: bool) -> None:
        """Somebody deletes a file of the cache directory, or a directory."""
        assert self.world is not None
        found = []
        for folder, folders, files in sorted(os.walk(self.world.harness.store.volume.objects)):
            found += sorted(f"{folder}/{name}" for name in (folders if whole else files))
        if found:
            path = found[which % len(found)]
            self.world.damaged = True
            shutil.rmtree(path) if whole else os.unlink(path)

    @rule()
    def look_after(self) -> None:
        """The periodic duties."""
        assert self.world is not None
        harness = self.world.harness
        harness.cache.pulse()
        harness.store.flush_recency()
        harness.store.sweeper.run()
        harness.scan()


class Restarting(Foundation):
    """The proxy ends."""

    @rule(crash=st.booleans(), scan=st.sampled_from((True, True, False)))
    def restart(self, crash: bool, scan: bool) -> None:
        """It is stopped, or killed, and started again."""
        assert self.world is not None
        self.world.restart(crash, scan)


class Crashing(Restarting, Racing):
    """The proxy is killed amid a write."""

    @rule(
        key=keys,
        size=sizes,
        removes=st.booleans(),
        further=st.integers(0, 3),
        crash=st.sampled_from((True, True, False)),
        scan=st.booleans(),
    )
    def crash_amid_a_write(self, key: bytes, size: int, removes: bool, further: int, crash: bool, scan: bool) -> None:
        """S3 has acted, and the proxy, which holds what was there before, does not come to know it.

        :param further: how many steps it still takes
        """
        assert self.world is not None
        world = self.world
        world.settle()
        world.read(b"GET", key, {b"x-caller": b"ann"})
        world.settle()
        order = Put(key=key, label=world.label(), bytes_of=self.content(key, size))
        writer = world.order(Delete(key=key) if removes else order)
        while not writer.versions and writer.client.ended is None and world.move_writes():
            continue
        for _ in range(further):
            world.move_writes()
        world.restart(crash, scan)
        world.read(b"GET", key, {b"x-caller": b"bob"})
        world.settle()
