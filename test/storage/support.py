"""A store in a temporary directory, and system calls that fail on demand."""

import errno
import os
import time
from collections.abc import Callable
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import (
    INLINE,
    DiskStore,
    EntryFacts,
    EntryName,
    GenerationTable,
    Staging,
    StoredEntry,
    entry_name,
    open_store,
)
from s3proxy.storage.files import SystemCalls

MIB = 1 << 20
ABOUT: dict[str, Any] = {"meta": b'{"etag": "1"}', "validated_at": 1000.5, "observed_at": 1000.25}


def name_of(text: str) -> EntryName:
    """The entry of one key."""
    return entry_name((b"store", b"bucket", text.encode()))


@attrs.define
class _Fault:
    code: int
    after: int
    times: int
    when: Callable[..., bool]
    seen: int = 0


class FailingCalls(SystemCalls):
    """System calls of which some fail: ``fail`` sets which, :attr:`failures` counts how often it happened."""

    NAMES = (
        "open",
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

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self._faults: dict[str, _Fault] = {}
        for name in self.NAMES:
            setattr(self, name, self._wrap(name, getattr(self, name)))

    def fail(
        self,
        name: str,
        code: int,
        *,
        after: int = 0,
        times: int = 1_000_000,
        when: Callable[..., bool] = lambda *_: True,
    ) -> None:
        """Of the calls of ``name`` with arguments as ``when`` says, let ``after`` pass, then fail ``times``."""
        self._faults[name] = _Fault(code, after, times, when)

    def heal(self) -> None:
        """Nothing fails any more."""
        self._faults.clear()

    def read_only(self) -> None:
        """Behave as a file system that was remounted read-only."""
        for name in ("rename", "rename_new", "link", "unlink", "mkdir", "rmdir", "utime", "chmod", "pwrite", "pwritev"):
            self.fail(name, errno.EROFS)
        self.fail(
            "open", errno.EROFS, when=lambda path, flags, *_: bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        )

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            fault = self._faults.get(name)
            if fault is not None and fault.when(*args):
                fault.seen += 1
                if fault.after < fault.seen <= fault.after + fault.times:
                    self.failures += 1
                    raise OSError(fault.code, os.strerror(fault.code))
            return call(*args)

        return wrapped


def make_store(
    test: SynchronousTestCase, *, root: str | None = None, max_size: int = 64 * MIB, **options: Any
) -> DiskStore:
    """Open a store that is closed when the test ends."""
    options.setdefault("now", time.time)
    options.setdefault("generations", GenerationTable(slots=1 << 12))
    store = open_store(root or f"{test.mktemp()}/cache", max_size=max_size, **options)
    test.addCleanup(store.close)
    return store


def put_inline(store: DiskStore, name: EntryName, body: bytes, **about: Any) -> StoredEntry:
    """Publish a small body."""
    lease = store.lease(name)
    assert lease is not None
    entry = store.publish_inline(lease, object_size=len(body), body=[body], **{**ABOUT, **about})
    assert entry is not None
    return entry


def put_ranges(
    store: DiskStore, name: EntryName, size: int, *spans: tuple[int, int], fill: bytes = b"r"
) -> StoredEntry:
    """Publish an entry of ``size`` bytes with some ranges of it."""
    lease = store.lease(name)
    assert lease is not None
    entry = store.publish_ranges(lease, object_size=size, **ABOUT)
    assert entry is not None
    for start, stop in spans:
        add_range(store, entry, start, stop, fill)
    return entry


def facts_of(size: int, **about: Any) -> EntryFacts:
    """What is published with a body of ``size`` bytes that was written through."""
    return EntryFacts(object_size=size, unconfirmed=True, **{**ABOUT, **about})


def upload(store: DiskStore, name: EntryName, body: bytes, *, piece: int = 100_000) -> StoredEntry | None:
    """Write a whole object through."""
    kept = store.start_upload(name, len(body))
    if kept is None:
        return None
    for start in range(0, len(body), piece):
        kept.append([body[start : start + piece]])
    return kept.commit(store.arm(name), facts_of(len(body)))


def stage(staging: Staging, number: int, body: bytes, etag: bytes, note: bytes = b"") -> bool:
    """Stage one part; False when it can't be."""
    part = staging.start_part(number, len(body))
    if part is None:
        return False
    part.append([body])
    return part.commit(etag, note)


def read_body(store: DiskStore, entry: StoredEntry) -> bytes | None:
    """The whole body out of the files that hold it; None when some of it is missing."""
    if entry.kind == INLINE:
        handle = store.open_inline(entry)
        if handle is None:
            return None
        data = os.pread(handle.fd, entry.body_len, handle.base)
        handle.close()
        return data
    data = b""
    for start, stop in store.ranges(entry):
        handle = store.open_range(entry, start, stop)
        if handle is None or start > len(data):
            return None
        data += os.pread(handle.fd, stop - start, handle.base)[len(data) - start :]
        handle.close()
    return data if len(data) == entry.object_size else None


def recount(store: DiskStore) -> None:
    """Let the store forget what it holds, and walk through all of it."""
    store.volume.ledger.recount()
    finish_scan(store)


def add_range(store: DiskStore, entry: StoredEntry, start: int, stop: int, fill: bytes = b"r") -> int | None:
    """Publish one more range."""
    writer = store.start_range(entry, start, stop - start)
    try:
        writer.append([fill * (stop - start)])
        return writer.commit()
    finally:
        writer.close()


def finish_scan(store: DiskStore) -> Any:
    """Step through a whole scan and return it."""
    scan = store.scan(patience=0.0)
    while not scan.step():
        continue
    return scan


def abandon(store: DiskStore) -> None:
    """Leave everything on disk as kill -9 would: nothing is closed properly, and the process seems to be dead."""
    heartbeat = f"{store.root}/inst/{store.volume.instance.number:015x}.hb"
    with open(heartbeat, "r+b") as file:
        data = file.read()
        file.seek(0)
        file.truncate()
        # No process has this start time.
        file.write(data.replace(b'"start": "', b'"start": "x'))


def files_below(path: str) -> list[str]:
    """The names of all files below a directory."""
    return sorted(name for _, _, names in os.walk(path) for name in names)


def disk_usage(path: str) -> int:
    """What du says: the blocks of every file and directory."""
    total = os.lstat(path).st_blocks * 512
    for directory, directories, names in os.walk(path):
        total += sum(os.lstat(f"{directory}/{name}").st_blocks * 512 for name in directories + names)
    return total
