"""Random operations on a store, compared with a dictionary."""

import os
import shutil
import tempfile
import time
from test.storage.support import MIB, abandon, finish_scan, name_of
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import INLINE, RANGES, EntryFacts, GenerationTable, StoredEntry, open_store

KEYS = st.sampled_from(["a", "b", "c"])
SIZES = st.sampled_from([0, 1, 5000, 70_000])
LIMIT = 8 * MIB
RANGE = 10_000


class Model:
    """What one key is expected to hold."""

    def __init__(self, version: int, kind: int, size: int, validated_at: float, unconfirmed: bool) -> None:
        self.version = version
        self.kind = kind
        self.size = size
        self.validated_at = validated_at
        self.unconfirmed = unconfirmed
        self.ranges: set[tuple[int, int]] = set()


class StoreMachine(RuleBasedStateMachine):
    """The store may forget what it holds (eviction), but what it shows must be what was published last."""

    leases = Bundle("leases")
    renewals = Bundle("renewals")
    arms = Bundle("arms")
    records = Bundle("records")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.table = GenerationTable(slots=16)
        self.model: dict[str, Model] = {}
        self.holder: dict[str, object] = {}
        self.version = 0
        self.open()

    def open(self) -> None:
        self.store = open_store(f"{self.directory}/cache", max_size=LIMIT, now=time.time, generations=self.table)

    def teardown(self) -> None:
        self.store.close()
        self.table.close()
        shutil.rmtree(self.directory)

    def content(self, version: int, size: int) -> bytes:
        return (b"%07d " % version * (size // 8 + 1))[:size]

    def about(self, version: int, at: float, unconfirmed: bool = False) -> dict[str, Any]:
        return {"meta": b"%d" % version, "validated_at": at, "observed_at": at, "unconfirmed": unconfirmed}

    # Publishing

    @rule(target=leases, key=KEYS)
    def lease(self, key: str) -> tuple[str, Any]:
        lease = self.store.lease(name_of(key))
        assert (lease is None) == (key in self.holder)
        if lease is not None:
            self.holder[key] = lease
        return key, lease

    @rule(item=consumes(leases), size=SIZES, how=st.sampled_from(["at once", "growing", "ranges"]), flag=st.booleans())
    def publish(self, item: tuple[str, Any], size: int, how: str, flag: bool) -> None:
        key, lease = item
        if lease is None:
            return
        self.version += 1
        about = self.about(self.version, float(self.version), flag)
        entry: StoredEntry | None
        if how == "at once":
            entry = self.store.publish_inline(lease, object_size=size, body=[self.content(self.version, size)], **about)
        elif how == "ranges":
            entry = self.store.publish_ranges(lease, object_size=RANGE * 4, **about)
        elif not lease.held:
            return
        else:
            writer = self.store.start_inline(lease, object_size=size, **about)
            writer.append([self.content(self.version, size)])
            entry = writer.commit()
            writer.close()
        assert (entry is not None) == (self.holder.get(key) is lease)
        if entry is not None:
            del self.holder[key]
            self.model[key] = Model(
                self.version, RANGES if how == "ranges" else INLINE, entry.object_size, entry.validated_at, flag
            )

    @rule(item=consumes(leases))
    def release(self, item: tuple[str, Any]) -> None:
        key, lease = item
        if lease is not None:
            lease.release()
            if self.holder.get(key) is lease:
                del self.holder[key]

    @rule(key=KEYS, index=st.integers(0, 3), whole=st.booleans())
    def add_range(self, key: str, index: int, whole: bool) -> None:
        entry = self.store.load(name_of(key))
        if entry is None or entry.kind != RANGES:
            return
        model = self.model[key]
        start = index * RANGE
        writer = self.store.start_range(entry, start, RANGE)
        data = self.content(model.version, 4 * RANGE)[start : start + RANGE]
        if whole:
            writer.append([data[:10], data[10:]])
            assert writer.commit() == RANGE
            model.ranges.add((start, start + RANGE))
        else:
            writer.append([data[:5000]])
            assert writer.commit_prefix(1) == 5000
            model.ranges.add((start, start + 5000))
        writer.close()

    # Confirming

    @rule(target=renewals, key=KEYS)
    def prepare(self, key: str) -> tuple[str, Any, int]:
        renewal = self.store.prepare_renewal(name_of(key))
        if renewal is not None:
            assert key not in self.holder
            self.holder[key] = renewal
            return key, renewal, self.model[key].version
        return key, None, 0

    @rule(item=consumes(renewals), confirm=st.booleans())
    def end_renewal(self, item: tuple[str, Any, int], confirm: bool) -> None:
        key, renewal, version = item
        if renewal is None:
            return
        stands = self.holder.get(key) is renewal
        if confirm:
            entry = renewal.confirm(1_000_000.0 + version)
            if entry is not None:
                assert stands and self.model[key].version == version
                self.model[key].validated_at = entry.validated_at
                self.model[key].unconfirmed = False
            elif not stands and key in self.model and self.model[key].version == version:
                self.model[key].validated_at = 0.0
        else:
            renewal.cancel()
        if stands:
            del self.holder[key]

    # Changing the object

    @rule(target=arms, key=KEYS)
    def arm(self, key: str) -> tuple[str, Any]:
        arm = self.store.arm(name_of(key))
        assert arm.lease is not None
        self.holder[key] = arm
        if key in self.model:
            self.model[key].validated_at = 0.0
        return key, arm

    @rule(item=consumes(arms), changed=st.booleans())
    def end_arm(self, item: tuple[str, Any], changed: bool) -> None:
        key, arm = item
        if changed:
            arm.invalidate()
            self.model.pop(key, None)
            self.holder.pop(key, None)
            assert self.store.load(name_of(key)) is None
        else:
            arm.disarm()
            if self.holder.get(key) is arm:
                del self.holder[key]

    @rule(key=KEYS, size=SIZES, disturbed=st.sampled_from(["not", "not", "dropped", "refused"]))
    def upload(self, key: str, size: int, disturbed: str) -> None:
        """A whole write through the proxy, during which somebody else may drop the entry."""
        self.version += 1
        facts = EntryFacts(object_size=size, **self.about(self.version, float(self.version), True))
        kept = self.store.start_upload(name_of(key), size)
        assert kept is not None
        kept.append([self.content(self.version, size)])
        entry = self.finish_write(key, disturbed, lambda arm: kept.commit(arm, facts), kept.discard)
        if entry is not None:
            self.model[key] = Model(self.version, INLINE, size, float(self.version), True)
            assert entry.unread

    @rule(key=KEYS, order=st.permutations([1, 2, 3]), disturbed=st.sampled_from(["not", "not", "dropped", "refused"]))
    def upload_parts(self, key: str, order: list[int], disturbed: str) -> None:
        """The same in parts."""
        self.version += 1
        staging = self.store.staging(name_of(key), b"%d" % self.version)
        body = self.content(self.version, RANGE * 4)
        spans = {1: (0, RANGE), 2: (RANGE, 3 * RANGE + 1), 3: (3 * RANGE + 1, 4 * RANGE)}
        for number in order:
            start, stop = spans[number]
            part = staging.start_part(number, stop - start)
            assert part is not None
            part.append([body[start:stop]])
            assert part.commit(b"%d" % number)
        plan = staging.plan([(number, b"%d" % number) for number in (1, 2, 3)])
        assert plan is not None
        facts = EntryFacts(object_size=plan.size, **self.about(self.version, float(self.version), True))
        entry = self.finish_write(key, disturbed, lambda arm: staging.assemble(arm, plan, facts), staging.discard)
        if entry is not None:
            self.model[key] = Model(self.version, RANGES, 4 * RANGE, float(self.version), True)
            self.model[key].ranges = set(spans.values())

    def finish_write(self, key: str, disturbed: str, publish: Any, give_up: Any) -> StoredEntry | None:
        arm = self.store.arm(name_of(key))
        if disturbed == "refused":
            give_up()
            arm.disarm()
            self.holder.pop(key, None)
            if key in self.model:
                self.model[key].validated_at = 0.0
            return None
        if disturbed == "dropped":
            self.store.drop(name_of(key))
        entry: StoredEntry | None = publish(arm)
        assert (entry is None) == (disturbed == "dropped")
        if entry is None:
            arm.invalidate()
            self.model.pop(key, None)
        self.holder.pop(key, None)
        return entry

    @rule(key=KEYS)
    def read_first(self, key: str) -> None:
        """The share of what was written gets it back."""
        entry = self.store.load(name_of(key))
        if entry is not None:
            self.store.read_first(entry)
            self.store.flush_recency()
            found = self.store.load(name_of(key))
            assert found is not None and not found.unread

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.store.drop(name_of(key))
        self.model.pop(key, None)
        self.holder.pop(key, None)
        assert self.store.load(name_of(key)) is None

    # Housekeeping

    @rule(share=st.sampled_from([0.0, 0.5, 0.9]))
    def evict(self, share: float) -> None:
        self.store.evictor.shrink(int(self.store.usage() * share))

    @rule(key=KEYS)
    def use(self, key: str) -> None:
        self.store.touched(name_of(key), 0)
        self.store.flush_recency()
        self.store.pulse()

    @rule()
    def scan(self) -> None:
        used = self.store.usage()
        scan = finish_scan(self.store)
        assert scan.removed == 0 or any(self.overlapping(model) for model in self.model.values())
        assert self.store.usage() <= used

    @precondition(lambda self: not self.holder)
    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        self.store.sweeper.run()
        used = self.store.usage()
        if crash:
            abandon(self.store)
            self.store.volume.handles.close()
        else:
            self.store.close()
        self.open()
        assert self.store.usage() >= used
        finish_scan(self.store)
        assert self.store.usage() <= used

    def overlapping(self, model: Model) -> bool:
        return any(start == other and stop < end for start, stop in model.ranges for other, end in model.ranges)

    # What is remembered

    @rule(target=records, key=KEYS)
    def remember(self, key: str) -> tuple[str, StoredEntry | None]:
        return key, self.store.load(name_of(key))

    @rule(item=records)
    def use_record(self, item: tuple[str, StoredEntry | None]) -> None:
        """A record whose epoch still stands describes what is there now."""
        key, record = item
        if record is not None and record.epoch == self.table.get(name_of(key).slot):
            assert self.store.load(name_of(key)) == record
            assert record.meta == b"%d" % self.model[key].version

    @invariant()
    def check(self) -> None:
        for key in ("a", "b", "c"):
            self.check_key(key)
        assert 0 <= self.store.usage() <= LIMIT
        ledger = self.store.volume.ledger
        assert (ledger.reserved, ledger._unread_reserved) == (0, 0)
        assert 0 <= ledger._unread <= self.store.usage()
        assert self.store.staged() == 0 or self.store.volume.has_trash

    def check_key(self, key: str) -> None:
        entry = self.store.load(name_of(key))
        if entry is None:
            self.model.pop(key, None)
            return
        model = self.model[key]
        assert entry.meta == b"%d" % model.version
        assert (entry.kind, entry.object_size) == (model.kind, model.size)
        assert entry.validated_at == model.validated_at
        assert entry.unconfirmed == model.unconfirmed
        body = self.content(model.version, entry.object_size)
        if entry.kind == RANGES:
            model.ranges &= set(self.store.ranges(entry))
            assert set(self.store.ranges(entry)) == model.ranges
            for start, stop in model.ranges:
                handle = self.store.open_range(entry, start, stop)
                assert handle is not None
                assert os.pread(handle.fd, stop - start, handle.base) == body[start:stop]
                handle.close()
        else:
            assert entry.small_body in (None, body)
            handle = self.store.open_inline(entry)
            assert handle is not None
            assert os.pread(handle.fd, entry.body_len, handle.base) == body
            handle.close()


class StateMachineTests(SynchronousTestCase):
    """The machine above."""

    def test_machine(self) -> None:
        """Whatever the order of operations, the store shows what was published last, or nothing."""
        case = StoreMachine.TestCase("runTest")
        StoreMachine.TestCase.settings = settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
        )
        case.runTest()
