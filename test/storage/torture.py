"""Several processes read, insert, revalidate, write and die on one cache directory, against an origin that knows the
truth. Meanwhile bits of their files change, and files lose their ends.

Run as a program: ``python -m test.storage.torture DIRECTORY --seconds 5`` prints one line of counters as JSON. A read
is *stale* when it is answered from the cache with a version older than one whose write had been acknowledged before the
read began, *mixed* when bytes of another version (or another object) are in the answer, and *old* when the version was
replaced more than a second before by a writer that died before it could acknowledge.
"""

import argparse
import collections
import fcntl
import json
import mmap
import os
import random
import shutil
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from s3proxy.storage.disk import (
    HEAD,
    RANGES,
    Arm,
    DiskStore,
    EntryFacts,
    EntryName,
    GenerationTable,
    ReadHandle,
    StoredEntry,
    Upload,
    entry_name,
    open_store,
)
from s3proxy.storage.errors import Damaged, NotNow
from s3proxy.storage.files import SystemCalls
from s3proxy.storage.layout import parse_range, parse_temp
from s3proxy.storage.packing import Packed

COUNTERS = (
    "reads",
    "not_now",
    "hits",
    "memory_hits",
    "misses",
    "published",
    "not_published",
    "renewed",
    "not_renewed",
    "writes",
    "refused",
    "through",
    "assembled",
    "staged",
    "abandoned",
    "range_fetches",
    "evictions",
    "scans",
    "spoilt",
    "damaged",
    "packed",
    "stale",
    "mixed",
    "old",
    "errors",
)
CRASHED = 9
LEASE_SECONDS = 0.3
PART = 16 * 1024
SIZES = (20_000, 150_000, 3 * PART)
META = struct.Struct("<QQ")
PAUSED = (
    "open",
    "close",
    "fstat",
    "stat",
    "pread",
    "pwrite",
    "pwritev",
    "rename",
    "rename_new",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
    "listdir",
    "utime",
    "chmod",
    "ftruncate",
)


class ChaoticCalls(SystemCalls):
    """Pauses or kills the process before any system call."""

    def __init__(self, source: random.Random, crash: float) -> None:
        super().__init__()
        for name in PAUSED:
            setattr(self, name, self._disturbed(getattr(self, name), source, crash))

    def _disturbed(self, call: Callable[..., Any], source: random.Random, crash: float) -> Callable[..., Any]:
        def disturbed(*args: Any) -> Any:
            chance = source.random()
            if chance < crash:
                os._exit(CRASHED)
            if chance > 0.95:
                time.sleep(source.random() * 0.0015)
            return call(*args)

        return disturbed


class Origin:
    """The truth about each key: its current version, the last acknowledged one, and when each version came to be."""

    HISTORY = 4096

    def __init__(self, path: str, keys: int, workers: int) -> None:
        size = 8 * (keys * (2 + self.HISTORY) + workers * len(COUNTERS))
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._fd, size)
        self._words = memoryview(mmap.mmap(self._fd, size)).cast("Q")
        self._keys = keys
        self._counters_at = keys * (2 + self.HISTORY)

    def pause(self, source: random.Random) -> None:
        if source.random() < 0.7:
            time.sleep(source.random() * 0.004)

    def read(self, key: int, source: random.Random) -> int:
        self.pause(source)
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, key)
        version = self._words[2 * key]
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, key)
        self.pause(source)
        return version

    def write(self, key: int, source: random.Random) -> int:
        self.pause(source)
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, key)
        version = self._words[2 * key] + 1
        self._words[self._moment(key, version)] = time.time_ns()
        self._words[2 * key] = version
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, key)
        return version

    def acknowledge(self, key: int, version: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, key)
        self._words[2 * key + 1] = max(self._words[2 * key + 1], version)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, key)

    def current(self, key: int) -> int:
        return self._words[2 * key]

    def acknowledged(self, key: int) -> int:
        return self._words[2 * key + 1]

    def replaced_at(self, key: int, version: int) -> int:
        return self._words[self._moment(key, version + 1)]

    def count(self, worker: int, counter: str) -> None:
        self._words[self._counters_at + worker * len(COUNTERS) + COUNTERS.index(counter)] += 1

    def totals(self, workers: int) -> dict[str, int]:
        total: dict[str, int] = collections.Counter()
        for worker in range(workers):
            for index, name in enumerate(COUNTERS):
                total[name] += self._words[self._counters_at + worker * len(COUNTERS) + index]
        return total

    def _moment(self, key: int, version: int) -> int:
        return 2 * self._keys + key * self.HISTORY + version % self.HISTORY


def content(key: int, version: int, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a version; start and stop are multiples of 16 or the end."""
    return (META.pack(version, key) * (stop // 16 + 1))[start:stop]


class Worker:
    """One process. ``flaw`` leaves a step out, to show that the test sees it."""

    def __init__(
        self, number: int, store: DiskStore, origin: Origin, keys: int, source: random.Random, flaw: str
    ) -> None:
        self._number = number
        self._store = store
        self._origin = origin
        self._keys = keys
        self._random = source
        self._flaw = flaw
        self._memory: dict[int, StoredEntry] = {}

    def count(self, counter: str) -> None:
        self._origin.count(self._number, counter)

    def step(self) -> None:
        key = self._random.randrange(self._keys)
        choice = self._random.random()
        if choice < 0.14:
            self.write(key)
        elif choice < 0.143:
            self.count("evictions")
            self._store.evictor.shrink(0)
        elif choice < 0.144:
            self.scan()
        elif choice < 0.147 and self._flaw != "private memory":
            self.spoil(key)
        elif choice < 0.152:
            self.pack(key)
        elif choice < 0.158:
            self._store.pulse()
            self._store.flush_recency()
            self._store.sweeper.run()
        else:
            self.read(key)

    def spoil(self, key: int) -> None:
        """Change a bit of a stored file, or cut it, under everybody who has it open."""
        path = self._store.volume.entry_path(self.name(key))
        entry = self._store.load(self.name(key))
        if entry is not None and entry.has_ranges and self._random.random() < 0.8:
            directory = self._store.volume.generation_path(entry.name, entry.generation)
            names = [text for text in os.listdir(directory) if parse_range(text) is not None]
            path = f"{directory}/{self._random.choice(names)}" if names else path
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            size = os.fstat(fd).st_size
            at = self._random.randrange(max(1, size))
            if self._random.random() < 0.3:
                os.ftruncate(fd, at)
            elif at not in (6, 7):
                # State and flags have no checksum: what they say is taken for a hint.
                byte = os.pread(fd, 1, at)
                os.pwrite(fd, bytes([byte[0] ^ 1 << self._random.randrange(8)]) if byte else b"x", at)
        finally:
            os.close(fd)
        self.count("spoilt")

    def pack(self, key: int) -> None:
        """Store what there is of an object smaller."""
        entry = self._store.load(self.name(key))
        if entry is None or entry.kind == HEAD:
            return
        try:
            if entry.kind != RANGES:
                outcomes = [self._store.pack_entry(entry, block=12).outcome]
            else:
                spans = self._store.ranges(entry)
                outcomes = [self._store.pack_range(entry, *span, block=12).outcome for span in spans]
        except Damaged:
            self.count("damaged")
            return
        if Packed.SMALLER in outcomes:
            self.count("packed")

    def bytes_of(self, handle: ReadHandle, count: int) -> bytes | None:
        """All that a file has, as it is given to a reader; None: it is damaged."""
        try:
            assert handle.seal is not None
            return b"".join(handle.seal.read(handle.fd, 0, count))
        except Damaged:
            self.count("damaged")
            return None
        finally:
            handle.close()

    def scan(self) -> None:
        self.count("scans")
        scan = self._store.scan(patience=0.0)
        while not scan.step():
            continue

    # Reading

    def name(self, key: int) -> EntryName:
        return entry_name((b"torture", b"%d" % key))

    def read(self, key: int) -> None:
        self.count("reads")
        began = time.time_ns()
        acknowledged, current = self._origin.acknowledged(key), self._origin.current(key)
        name = self.name(key)
        entry = self._memory.get(key)
        if entry is not None and entry.epoch == self._store.volume.generations.get(name.slot):
            self.count("memory_hits")
        else:
            entry = self._store.load(name)
            if entry is not None:
                self._memory[key] = entry
        if entry is None:
            self.miss(key)
        elif entry.validated_at == 0 or self._random.random() < 0.15:
            self.revalidate(key)
        else:
            version = META.unpack(entry.meta)[0]
            if self.body(key, entry):
                self.count("hits")
                self._store.touched(name, 0)
                self._store.read_first(entry)
                if version < acknowledged:
                    self.count("stale")
                if version < current and began - self._origin.replaced_at(key, version) > 1_000_000_000:
                    self.count("old")

    def body(self, key: int, entry: StoredEntry) -> bool:
        """Read the whole body; False when it is not all there, in which case nothing was answered from the cache."""
        version, owner = META.unpack(entry.meta)
        if owner != key:
            self.count("mixed")
        if entry.kind == HEAD:
            return True
        if entry.kind != RANGES:
            data = entry.small_body
            if data is None:
                handle = self._store.open_inline(entry, sealed=True)
                data = None if handle is None else self.bytes_of(handle, entry.body_len)
                if data is None:
                    return False
            if data != content(key, version, 0, entry.object_size):
                self.count("mixed")
            return True
        whole = True
        for start in range(0, entry.object_size, PART):
            handle = self._store.open_range(entry, start, start + PART, encoded=self._random.random() < 0.5)
            data = None if handle is None else self.bytes_of(handle, PART)
            if data is None:
                whole = self.fill(key, entry, version, start) and whole
            elif data != content(key, version, start, start + PART):
                self.count("mixed")
        return whole

    def fill(self, key: int, entry: StoredEntry, version: int, start: int) -> bool:
        """Fetch one range if the object still is this version, otherwise drop the entry."""
        self.count("range_fetches")
        if self._origin.read(key, self._random) != version:
            self._store.drop(entry.name)
            return False
        try:
            writer = self._store.start_range(entry, start, PART)
        except FileNotFoundError:
            return False
        try:
            data = content(key, version, start, start + PART)
            writer.append([data[:5000]])
            writer.append([data[5000:]])
            self.promptly(writer.commit)
        finally:
            writer.close()
        return False

    def miss(self, key: int) -> None:
        self.count("misses")
        lease = self._store.lease(self.name(key))
        version = self._origin.read(key, self._random)
        if lease is not None:
            self.publish(key, version, lease)

    def publish(self, key: int, version: int, lease: Any) -> None:
        size = SIZES[key % 3]
        about: dict[str, Any] = {
            "meta": META.pack(version, key),
            "object_size": size,
            "validated_at": 1.0,
            "observed_at": 1.0,
        }
        data = content(key, version, 0, size)
        entry: StoredEntry | None
        if self._random.random() < 0.05:
            entry = self._store.publish_head(lease, **about)
        elif key % 3 == 0:
            body = [data[:7000], data[7000:]]
            entry = self.promptly(
                lambda promptly: self._store.publish_inline(lease, body=body, promptly=promptly, **about)
            )
        elif key % 3 == 1:
            writer = self._store.start_inline(lease, **about)
            try:
                for start in range(0, size, 64_000):
                    writer.append([data[start : start + 64_000]])
                entry = self.promptly(writer.commit)
            finally:
                writer.close()
        else:
            entry = self._store.publish_ranges(lease, **about)
        self.count("not_published" if entry is None else "published")
        if entry is not None:
            self._memory[key] = entry

    def promptly(self, call: Callable[[bool], Any]) -> Any:
        """Half of the times as the reactor does it: only if nothing has to be evicted, and otherwise again."""
        if self._random.random() < 0.5:
            try:
                return call(True)
            except NotNow:
                self.count("not_now")
        return call(False)

    def revalidate(self, key: int) -> None:
        renewal = self._store.prepare_renewal(self.name(key))
        version = self._origin.read(key, self._random)
        if renewal is None:
            return
        try:
            if META.unpack(renewal.entry.meta)[0] != version:
                self.publish(key, version, renewal.lease)
                return
            entry = renewal.confirm(2.0)
            self.count("not_renewed" if entry is None else "renewed")
            if entry is not None:
                self._memory[key] = entry
        finally:
            renewal.cancel()

    # Writing

    def write(self, key: int) -> None:
        name = self.name(key)
        if self._flaw == "no revocation":
            version = self._origin.write(key, self._random)
            self._store.volume.remove_entry(name)
        elif self._flaw == "no armament":
            version = self._origin.write(key, self._random)
            if self._random.random() < 0.3:
                os._exit(CRASHED)
            self._store.drop(name)
        else:
            # As with S3, the version gets its number when the write takes effect; its bytes are known before.
            version = self._origin.current(key) + 1
            through = self.begin(key, version)
            arm = self._store.arm(name)
            if self._random.random() < 0.1:
                self.count("refused")
                self.give_up(through)
                arm.disarm()
                return
            written = self._origin.write(key, self._random)
            if self._random.random() < 0.02:
                os._exit(CRASHED)
            self._origin.pause(self._random)
            if written != version:
                # Somebody else was quicker: what was kept is another version than S3 has.
                self.give_up(through)
                through = None
            version = written
            published = None if through is None else through(arm, version)
            if published is None:
                arm.invalidate()
        self._origin.acknowledge(key, version)
        self.count("writes")

    def begin(self, key: int, version: int) -> Any:
        """Keep the body of a write before it takes effect; returns what publishes it, or None."""
        choice = self._random.random()
        if choice < 0.4:
            return self.upload(key, version)
        if choice < 0.7 and key % 3 == 2:
            return self.stage(key, version)
        return None

    def give_up(self, through: Any) -> None:
        if through is not None:
            through(None, 0)

    def facts(self, key: int, version: int) -> EntryFacts:
        return EntryFacts(
            meta=META.pack(version, key),
            object_size=SIZES[key % 3],
            validated_at=1.0,
            observed_at=1.0,
            unconfirmed=True,
        )

    def upload(self, key: int, version: int) -> Any:
        size = SIZES[key % 3]
        # One of each form: in memory, in a file, in ranges.
        self._store.inline_max = 0 if key % 3 == 2 else SIZES[1]
        kept = self._store.start_upload(self.name(key), size)
        if kept is None:
            return None
        data = content(key, version, 0, size)
        for start in range(0, size, 7001):
            kept.append([data[start : start + 7001]])

        def finish(arm: Arm | None, version: int, kept: Upload = kept) -> StoredEntry | None:
            if arm is None:
                kept.discard()
                return None
            entry = kept.commit(arm, self.facts(key, version))
            self.count("not_published" if entry is None else "through")
            return entry

        return finish

    def stage(self, key: int, version: int) -> Any:
        """Parts in any order, some of them twice, some by way of another store on the same directory; one upload in
        some is left to itself.
        """
        upload_id = b"%d" % self._random.getrandbits(64)
        staging = self._store.staging(self.name(key), upload_id)
        for start in self._random.sample((0, PART, 2 * PART, PART), 4):
            number = start // PART + 1
            part = staging.start_part(number, PART)
            if part is None:
                return None
            data = content(key, version, start, start + PART)
            part.append([data[:9000], data[9000:]])
            if self._random.random() < 0.05:
                part.discard()
            elif not part.commit(b"%d-%d" % (version, number), b"%d" % start):
                return None
            self.count("staged")
        if self._random.random() < 0.1:
            self.count("abandoned")
            return None
        plan = staging.plan([(number, b"%d-%d" % (version, number)) for number in (1, 2, 3)])

        def finish(arm: Arm | None, version: int) -> StoredEntry | None:
            if arm is None or plan is None:
                staging.discard() if self._random.random() < 0.5 else staging.poison()
                return None
            entry = staging.assemble(arm, plan, self.facts(key, version))
            self.count("not_published" if entry is None else "assembled")
            return entry

        return finish


def work(number: int, options: argparse.Namespace, deadline: float) -> None:
    """The life of one process."""
    source = random.Random(os.urandom(16))
    crash = options.crash if options.flaw == "" else 0.0
    path = None if options.flaw == "private memory" else f"{options.directory}/generations"
    store = open_store(
        f"{options.directory}/cache",
        max_size=64 << 20,
        now=time.time,
        generations=GenerationTable(path=path),
        calls=ChaoticCalls(source, crash),
        lease_seconds=LEASE_SECONDS,
        write_percent=5,
    )
    store.cut = PART
    origin = Origin(f"{options.directory}/origin", options.keys, options.workers)
    worker = Worker(number, store, origin, options.keys, source, options.flaw)
    worker.scan()
    while time.time() < deadline:
        try:
            worker.step()
        except OSError:
            worker.count("errors")
            traceback.print_exc()


def fork(number: int, options: argparse.Namespace, deadline: float) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(number, options, deadline)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def run(options: argparse.Namespace) -> dict[str, int]:
    """Keep ``workers`` processes running until the time is over; returns the counters."""
    GenerationTable(path=f"{options.directory}/generations").close()
    origin = Origin(f"{options.directory}/origin", options.keys, options.workers)
    deadline = time.time() + options.seconds
    running = {fork(number, options, deadline): number for number in range(options.workers)}
    crashes = failures = 0
    while running:
        pid, status = os.wait()
        number = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        crashes += code == CRASHED
        failures += code not in (0, CRASHED)
        if code == CRASHED and time.time() < deadline:
            running[fork(number, options, deadline)] = number
    totals = dict(origin.totals(options.workers))
    totals.update(crashes=crashes, failures=failures)
    totals.update(inspect(options, origin))
    return totals


def inspect(options: argparse.Namespace, origin: Origin) -> dict[str, int]:
    """Open what is left as the only instance, scan it, and look at every entry and every file."""
    root = f"{options.directory}/cache"
    for name in os.listdir(f"{root}/up"):
        os.utime(f"{root}/up/{name}", (0, 0))
    store = open_store(root, max_size=64 << 20, now=time.time, generations=GenerationTable())
    scan = store.scan(patience=0.0)
    while not scan.step():
        continue
    found = {"left_behind": 0, "wrong_at_rest": 0, "entries_at_rest": 0}
    for key in range(options.keys):
        entry = store.load(entry_name((b"torture", b"%d" % key)))
        if entry is not None:
            found["entries_at_rest"] += 1
            version = META.unpack(entry.meta)[0]
            if entry.validated_at and version < origin.acknowledged(key):
                found["wrong_at_rest"] += 1
    for _, directories, names in os.walk(f"{root}/o"):
        left = [name for name in names if name.endswith(".f") or parse_temp(name) is not None]
        found["left_behind"] += len(left)
        if left:
            print("left behind:", *left, file=sys.stderr)
    found["left_behind"] += len(os.listdir(f"{root}/trash")) + len(os.listdir(f"{root}/up"))
    before = store.usage(), store.unread()
    again = store.scan(patience=0.0)
    while not again.step():
        continue
    found["miscounted"] = abs(store.usage() - before[0]) + abs(store.unread() - before[1]) + store.staged()
    store.close()
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--keys", type=int, default=6)
    parser.add_argument("--crash", type=float, default=0.0003)
    parser.add_argument("--flaw", default="", choices=("", "no revocation", "no armament", "private memory"))
    options = parser.parse_args(arguments)
    shutil.rmtree(f"{options.directory}/cache", ignore_errors=True)
    print(json.dumps(run(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
