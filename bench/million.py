"""What a cache of a million entries costs that one of ten thousand does not.

    python bench/million.py [--entries N ...] [--folder DIR] [--store-only]

Fills one cache directory by the store's own code, and at each of the sizes measures every operation of the store that
lies on the way of a request or is done again and again: its time, and the system calls that it makes. Then the proxy is
started on the directory after a clean stop and after ``kill -9``: seconds to the first hit, the system calls in the
directory that this hit had to wait for, how long the walk through the directory takes, and what it does to hits
meanwhile. Prints tables in Markdown. A million entries take 5 GiB and a million inodes; everything is removed at the
end. strace is used where it is installed.
"""

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from test.support.proxy_process import ProxyProcess
from test.support.raw_client import RawClient, signed_request_bytes
from test.support.sigv4 import UNSIGNED, Credential
from test.support.wrapped_proxy import WrappedProxy

import attrs

from s3proxy.cache.entry import ObjectId, ObjectVersion, encode_version
from s3proxy.s3.headers import Headers
from s3proxy.storage.disk import DiskStore, open_store
from s3proxy.storage.files import SystemCalls
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.layout import EntryName, entry_name, footprint
from s3proxy.storage.record import HEADER_SIZE

SIZES = (10_000, 100_000, 1_000_000)
LIMIT = 64 << 30
BUCKET = b"million"
HOST = b"s3.us-east-1.amazonaws.com"
BODY = 200
REPEATS = 1000
BATCHES = 10
CALM = 1.0
"""Seconds without a step of the walk after which it is over."""
_CALLS = (
    "open", "close", "fstat", "stat", "pread", "pwrite", "pwritev", "ftruncate", "rename", "rename_new", "link",
    "unlink", "mkdir", "rmdir", "listdir", "utime", "chmod", "statvfs",
)  # fmt: skip


class Counted(SystemCalls):
    """System calls that are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        for name in _CALLS:
            setattr(self, name, self._counting(name, getattr(self, name)))

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        counts = self.counts

        def counted(*args: Any, **keywords: Any) -> Any:
            counts[name] += 1
            return call(*args, **keywords)

        return counted


@attrs.frozen
class Cost:
    """Of one operation.

    :ivar micros: the median of its times
    :ivar calls: how often it called what, on average
    """

    micros: float
    calls: dict[str, float]

    @property
    def total(self) -> float:
        """All system calls."""
        return sum(self.calls.values())


def key_of(number: int) -> bytes:
    """The key of an object."""
    return b"dataset/part-%07d" % number


def id_of(number: int) -> ObjectId:
    """Who it is."""
    return ObjectId("aws", BUCKET, key_of(number))


def name_of(number: int) -> EntryName:
    """Its name in the store."""
    return entry_name(id_of(number).parts)


def body_of(number: int) -> bytes:
    """Its bytes."""
    return (b"%07d " % number) * (BODY // 8)


def meta_of(number: int) -> bytes:
    """Its description, as S3 gives it."""
    etag, modified = b'"%032x"' % number, b"Mon, 02 Jan 2023 03:04:05 GMT"
    headers = Headers(
        (
            (b"x-amz-id-2", b"2yFh7d0XkN3kDGk4yjSfs7OZR6d4GQ5i2pRGNMFP4wPIKQdLpiM3m+Qq4VpeJIZ0jfQ0RVGUkN0="),
            (b"x-amz-request-id", b"TX2J8F6J2QYD8T0V"),
            (b"Last-Modified", modified),
            (b"ETag", etag),
            (b"x-amz-server-side-encryption", b"AES256"),
            (b"Accept-Ranges", b"bytes"),
            (b"Content-Type", b"application/octet-stream"),
            (b"Server", b"AmazonS3"),
        )
    )
    return encode_version(
        ObjectVersion(id=id_of(number), etag=etag, last_modified=modified, size=BODY, headers=headers)
    )  # fmt: skip


def publish(store: DiskStore, number: int) -> None:
    """Store an object.

    :raises RuntimeError: it could not be
    """
    lease = store.lease(name_of(number))
    now = time.time()
    if lease is None or not store.publish_inline(
        lease, meta=meta_of(number), object_size=BODY, validated_at=now, observed_at=now, body=[body_of(number)]
    ):
        raise RuntimeError(f"object {number} was not stored")


def open_counted(folder: Path, limit: int = LIMIT) -> tuple[DiskStore, Counted]:
    """The store, and what counts its system calls."""
    calls = Counted()
    return open_store(str(folder), max_size=limit, now=time.time, generations=GenerationTable(), calls=calls), calls


def walk(store: DiskStore, *, recount: bool = False) -> None:
    """Have the directory walked through, as after a start."""
    scan = store.scan(again=recount, recount=recount)
    while not scan.step():
        continue


def fill(folder: Path, count: int) -> None:
    """Store the objects up to this number, as far as they are not there."""
    store = open_store(str(folder), max_size=LIMIT, now=time.time, generations=GenerationTable())
    for number in range(count):
        if not store.has(name_of(number)):
            publish(store, number)
    walk(store)
    store.close()


def cost(calls: Counted, work: Sequence[Callable[[], object]]) -> Cost:
    """The cost of each of these."""
    seconds = []
    before = Counter(calls.counts)
    for each in work:
        began = time.perf_counter()
        each()
        seconds.append(time.perf_counter() - began)
    calls_made = calls.counts - before
    return Cost(
        statistics.median(seconds) * 1e6, {name: count / len(work) for name, count in sorted(calls_made.items())}
    )


def drop_caches() -> bool:
    """Make the kernel forget files and directories; False: it may not be told to."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def store_costs(folder: Path, entries: int, choice: random.Random) -> Iterator[tuple[str, Cost]]:
    """Operation by operation."""

    def some(count: int = REPEATS) -> list[int]:
        return [choice.randrange(entries) for _ in range(count)]

    began, calls = time.perf_counter(), Counted()
    store = open_store(str(folder), max_size=LIMIT, now=time.time, generations=GenerationTable(), calls=calls)
    yield "start (`open_store`)", Cost((time.perf_counter() - began) * 1e6, dict(sorted(calls.counts.items())))
    walk(store)
    names = [name_of(number) for number in some()]
    for name in names:
        store.load(name)
    yield "hit, in the page cache", cost(calls, [lambda n=n: store.load(n) for n in names])
    absent = [entry_name((b"nothing", b"%d" % number)) for number in range(REPEATS)]
    yield "miss (`load` finds nothing)", cost(calls, [lambda n=n: store.load(n) for n in absent])
    fresh = range(10_000_000, 10_000_000 + REPEATS)
    yield "publish (lease, 1 file, rename)", cost(calls, [lambda n=n: publish(store, n) for n in fresh])
    yield "write through the proxy (`arm`, `drop`)", cost(
        calls, [lambda n=n: store.arm(name_of(n)).invalidate() for n in fresh]
    )
    before = store.evictor.evicted_items
    # A little less than an eighth of a sample, so that one is enough.
    goal = 120 * footprint(HEADER_SIZE + len(meta_of(0)) + BODY)
    found = cost(calls, [lambda: store.evictor.shrink(store.usage() - goal) for _ in range(BATCHES)])
    evicted = (store.evictor.evicted_items - before) / BATCHES
    yield f"eviction, one step of {evicted:.0f} entries", found
    yield "the same for each entry", Cost(
        found.micros / evicted, {name: count / evicted for name, count in found.calls.items()}
    )
    for number in some():
        store.touched(name_of(number), 0)
    noted = cost(calls, [store.flush_recency])
    yield "note of a use (1 of 1000)", Cost(
        noted.micros / REPEATS, {name: count / REPEATS for name, count in noted.calls.items()}
    )
    yield "sign of life, every second", cost(calls, [store.pulse] * 20)
    yield "look whether to evict, every second", cost(calls, [lambda: store.sweeper.due()] * 100)
    began = time.perf_counter()
    before_calls = Counter(calls.counts)
    walk(store, recount=True)
    walked = (time.perf_counter() - began) * 1e6 / entries
    yield "walk with examination, each entry", Cost(
        walked, {name: count / entries for name, count in sorted((calls.counts - before_calls).items())}
    )
    if drop_caches():
        names = [name_of(number) for number in some(300)]
        yield "hit, nothing of it in memory", cost(calls, [lambda n=n: store.load(n) for n in names])
        fresh = range(11_000_000, 11_000_000 + 300)
        yield "publish, nothing of the directory in memory", cost(calls, [lambda n=n: publish(store, n) for n in fresh])
        for number in fresh:
            store.drop(name_of(number))
    yield "clean stop", cost(calls, [store.close])


def waiting_room(folder: Path, entries: int) -> list[tuple[str, float]]:
    """Seconds that publications wait for room in a full cache: alone, and while a sweep is under way."""
    found = []
    store, _ = open_counted(folder)
    walk(store)
    usage = store.usage()
    store.close()
    store, _ = open_counted(folder, usage + (1 << 20))
    walk(store)
    number = 20_000_000
    while store.volume.ledger.excess < -8192:
        publish(store, number)
        number += 1
    slowest = 0.0
    for _ in range(50):
        began = time.perf_counter()
        publish(store, number)
        number += 1
        slowest = max(slowest, time.perf_counter() - began)
    found.append(("slowest of 50 publications in a full cache", slowest))
    while store.volume.ledger.excess < -8192:
        publish(store, number)
        number += 1
    sweep = threading.Thread(target=store.evictor.shrink, args=(int(store.usage() * 0.9),))
    sweep_began = time.perf_counter()
    sweep.start()
    time.sleep(0.002)
    began = time.perf_counter()
    store.make_room(64 << 10)
    found.append(("room for 64 KiB while a sweep begins", time.perf_counter() - began))
    sweep.join()
    found.append(("that sweep, of a tenth of the entries", time.perf_counter() - sweep_began))
    for extra in range(20_000_000, number):
        store.drop(name_of(extra))
    store.close()
    return found


# The proxy.


def config_of(folder: Path) -> dict[str, Any]:
    """One worker on the directory, everything fresh."""
    return {
        "cache": {"cache_dir": str(folder), "max_cache_size": LIMIT, "get_ttl": "7d", "head_ttl": "7d"},
        "dashboard": {"enabled": False},
    }


def request_for(number: int) -> bytes:
    """A GET."""
    return signed_request_bytes(
        b"GET", b"/%b/%b" % (BUCKET, key_of(number)), HOST, Credential("AKIDBENCH", "secret"), payload=UNSIGNED
    )


def read(client: RawClient, request: bytes, number: int) -> bytes:
    """Its answer; where that came from.

    :raises RuntimeError: it is wrong
    """
    client.send(request)
    answer = client.read_response()
    if answer.status != 200 or answer.body != body_of(number):
        raise RuntimeError(f"object {number}: {answer.status} {answer.body[:200]!r}")
    return answer.header(b"x-cache") or b""


def first_hit(proxy: ProxyProcess, number: int) -> float:
    """Start the proxy; seconds to the end of the first answer, which must be a hit.

    :raises RuntimeError: it is none, or does not come
    """
    request = request_for(number)
    began = time.perf_counter()
    proxy.spawn()
    while time.perf_counter() - began < 120:
        try:
            with RawClient("127.0.0.1", proxy.port, timeout=60) as client:
                if read(client, request, number) != b"HIT":
                    raise RuntimeError("the first answer is no hit")
                return time.perf_counter() - began
        except ConnectionRefusedError:
            time.sleep(0.005)
    raise RuntimeError(f"the proxy does not answer: {proxy.output()}")


def steps_of(proxy: ProxyProcess) -> float:
    """Steps of the walk so far."""
    return proxy.metric("s3proxy_cache_operation_duration_seconds_count", op="scan")


def hit_times(proxy: ProxyProcess, present: Sequence[int], choice: random.Random, until: Callable[[], bool]) -> Any:
    """Milliseconds of hits on objects at random, one after the other, until it is over; and seconds."""
    found = []
    began = time.perf_counter()
    with RawClient("127.0.0.1", proxy.port, timeout=60) as client:
        while not until():
            for _ in range(50):
                number = choice.choice(present)
                request = request_for(number)
                asked = time.perf_counter()
                read(client, request, number)
                found.append((time.perf_counter() - asked) * 1e3)
    return sorted(found), time.perf_counter() - began


def describe(times: Sequence[float], seconds: float) -> str:
    """Of hits."""
    return (
        f"{len(times) / seconds:,.0f}/s | {times[len(times) // 2]:.2f} ms | {times[len(times) * 99 // 100]:.2f} ms | "
        f"{times[-1]:.1f} ms"
    )


def proxy_costs(folder: Path, present: Sequence[int], choice: random.Random) -> Iterator[str]:
    """Rows: what was started after what, seconds to the first hit, the walk, and hits during it and after it."""
    for before in ("clean stop", "`kill -9`"):
        proxy = ProxyProcess(config_of(folder))
        try:
            hit = first_hit(proxy, choice.choice(present))
            state = {"steps": -1.0, "changed": time.perf_counter(), "next": 0.0}
            began = time.perf_counter()

            def over() -> bool:
                now = time.perf_counter()
                if now >= state["next"]:
                    state["next"] = now + 0.2
                    steps = steps_of(proxy)
                    if steps != state["steps"]:
                        state["steps"], state["changed"] = steps, now
                return now - state["changed"] > CALM

            during, seconds = hit_times(proxy, present, choice, over)
            walk = state["changed"] - began
            until = time.perf_counter() + max(3.0, min(20.0, walk))
            after, calm_seconds = hit_times(proxy, present, choice, lambda: time.perf_counter() > until)
            start = f"| {len(present):,} | {before} | {hit:.2f} s | {walk:.1f} s"
            yield f"{start} | during it | {describe(during, seconds)} |"
            yield f"| | | | | after it | {describe(after, calm_seconds)} |"
            if before == "clean stop":
                # What the next start finds is the work of a process that died.
                proxy.kill9()
            else:
                proxy.terminate()
        finally:
            proxy.stop()


def traced_first_hit(folder: Path, number: int) -> str:
    """Which system calls in the cache directory the thread that serves makes before the end of the first hit, and how
    many the others.
    """
    with tempfile.TemporaryDirectory(prefix="s3proxy-trace-") as place:
        trace = Path(place, "trace")
        proxy = WrappedProxy(
            ("strace", "-f", "-y", "-qq", "-e", "trace=%file,%desc", "-o", str(trace)), config_of(folder)
        )
        try:
            first_hit(proxy, number)
            lines, main = trace.read_text(errors="replace").splitlines(), str(proxy.pid)
        finally:
            proxy.stop()
    mine: Counter[str] = Counter()
    others = 0
    for line in lines:
        found = re.match(r"(\d+) +(\w+)\(", line)
        if found is not None and str(folder) in line:
            if found[1] == main:
                mine[found[2]] += 1
            else:
                others += 1
    text = ", ".join(f"{count} {name}" for name, count in sorted(mine.items()))
    return f"{sum(mine.values())} ({text}); {others} by threads meanwhile"


def table(sizes: Sequence[int], rows: dict[str, dict[int, Cost]]) -> Iterator[str]:
    """The operations of the store."""
    columns = " | ".join(f"{size:,} entries" for size in sizes)
    yield f"| operation | {columns} | system calls of the last |"
    yield f"|---|{'---|' * (len(sizes) + 1)}"
    for name, found in rows.items():
        cells = " | ".join(
            f"{found[size].micros:,.0f} µs, {found[size].total:,.1f} calls" if size in found else "" for size in sizes
        )
        last = found[max(found)].calls
        calls = ", ".join(f"{count:,.1f} {call}" for call, count in last.items() if count >= 0.05)
        yield f"| {name} | {cells} | {calls} |"


def main() -> int:
    """Do it; the exit code."""
    parser = argparse.ArgumentParser(description="What depends on the number of entries in a cache directory.")
    parser.add_argument("--entries", type=int, nargs="+", default=list(SIZES), help="how many, in ascending order")
    parser.add_argument("--folder", type=Path, help="where the directory is made (directory for temporary files)")
    parser.add_argument("--store-only", action="store_true", help="don't start the proxy")
    options = parser.parse_args()
    # Whoever ends it wants it to clean up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    place = Path(tempfile.mkdtemp(prefix="s3proxy-million-", dir=options.folder))
    folder, choice = place / "cache", random.Random(1)
    rows: dict[str, dict[int, Cost]] = {}
    started: list[str] = []
    traced: list[str] = []
    waits: list[str] = []
    filled = 0
    try:
        for entries in options.entries:
            began = time.perf_counter()
            fill(folder, entries)
            seconds = time.perf_counter() - began
            print(f"{entries - filled:,} entries made in {seconds:.0f} s", file=sys.stderr, flush=True)
            filled = entries
            if not options.store_only:
                present = range(entries)
                started += proxy_costs(folder, present, choice)
                if shutil.which("strace"):
                    traced.append(f"| {entries:,} | {traced_first_hit(folder, 1)} |")
            for name, found in store_costs(folder, entries, choice):
                label = re.sub(r"of \d+ entries", "of about 120 entries", name)
                rows.setdefault(label, {})[entries] = found
            waits += [f"| {entries:,} | {what} | {took:.3f} s |" for what, took in waiting_room(folder, entries)]
    finally:
        shutil.rmtree(place)
    print("\n".join(table(options.entries, rows)))
    print("\n| entries | waiting for room | |\n|---|---|---|")
    print("\n".join(waits))
    if started:
        print("\n| entries | start after | first hit | walk | hits, one client | rate | median | 99 % | slowest |")
        print("|---|---|---|---|---|---|---|---|---|")
        print("\n".join(started))
    if traced:
        print(
            "\n| entries | system calls in the directory before the first hit, by the thread that serves |\n|---|---|"
        )
        print("\n".join(traced))
    return 0


if __name__ == "__main__":
    sys.exit(main())
