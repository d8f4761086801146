"""Whatever a directory looks like, a start serves from it at once: what is sound is found, what is not is a miss and
can be stored again, and the accounts are right when everything has been walked through.
"""

import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from test.storage.support import (
    ABOUT,
    MIB,
    abandon,
    disk_usage,
    files_below,
    finish_scan,
    make_store,
    name_of,
    put_inline,
    put_ranges,
    recount,
    stage,
)
from test.storage.test_packing import TEXT, decoded, put_range
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore, EntryName, StoreError
from s3proxy.storage.files import SystemCalls
from s3proxy.storage.layout import shard_path

KEYS = ("small", "inline", "ranges", "packed")
SMALL, LARGE = b"small body", bytes(200_000)
Change = Callable[["Directory"], None]


class Directory:
    """What an earlier run has left, and ways to spoil it."""

    def __init__(self, store: DiskStore) -> None:
        self.root = store.root
        self.store = store
        put_inline(store, name_of("small"), SMALL)
        put_inline(store, name_of("inline"), LARGE)
        self.ranges = put_ranges(store, name_of("ranges"), 2 * MIB, (0, MIB), (MIB, 2 * MIB))
        self.packed = put_range(store, TEXT, name="packed")
        store.pack_range(self.packed, 0, len(TEXT), block=16)
        stage(store.staging(name_of("upload"), b"id"), 1, bytes(1000), b'"e"')

    def path(self, name: str) -> str:
        """Below the directory."""
        return f"{self.root}/{name}"

    def entry(self, key: str) -> str:
        """The entry file."""
        return self.store.volume.entry_path(name_of(key))

    def generation(self) -> str:
        """Of the entry with plain ranges."""
        return self.store.volume.generation_path(name_of("ranges"), self.ranges.generation)

    def range(self) -> str:
        """One of its files."""
        return f"{self.generation()}/0-100000"

    def encoded(self) -> str:
        """The encoded range."""
        return f"{self.store.volume.generation_path(name_of('packed'), self.packed.generation)}/0-{len(TEXT):x}.z"


def put(path: str, data: bytes = b"foreign") -> None:
    """Whatever was there: now it is this file."""
    remove(path)
    with open(path, "wb") as file:
        file.write(data)
    # Older than the next start.
    os.utime(path, (1000, 1000))


def remove(path: str) -> None:
    """A file or a tree."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def folder(path: str, *, full: bool = True) -> None:
    """A directory, with something in it."""
    remove(path)
    os.makedirs(path)
    if full:
        put(f"{path}/inside")
    os.utime(path, (1000, 1000))


def link(path: str) -> None:
    """A symbolic link that leads elsewhere."""
    remove(path)
    os.symlink("/etc/hostname", path)
    os.utime(path, (1000, 1000), follow_symlinks=False)


def pipe(path: str) -> None:
    """Something that is no file: to open it must not block."""
    remove(path)
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(os.path.dirname(path))
    try:
        listener.bind(os.path.basename(path))
    finally:
        os.chdir(here)
        listener.close()


def cut(path: str, size: int) -> None:
    """Only the beginning is left."""
    os.truncate(path, size)


def change(path: str, offset: int, data: bytes) -> None:
    """Other bytes at this place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def halved(d: Directory) -> None:
    """Somebody deleted files at random."""
    for number, (folder_, _, names) in enumerate(sorted(os.walk(d.path("o")))):
        for name in names[number % 2 :: 2]:
            os.unlink(f"{folder_}/{name}")


STATES: dict[str, tuple[Change, tuple[str, ...]]] = {
    # What is done to the directory, and which objects are lost by that.
    "nothing": (lambda d: None, ()),
    "no FORMAT, no objects": (lambda d: (remove(d.path("FORMAT")), remove(d.path("o")))[0], KEYS),
    "only FORMAT": (lambda d: [remove(d.path(name)) for name in ("o", "up", "trash", "inst", "ctl")][0], KEYS),
    "everything else is gone": (lambda d: [remove(d.path(name)) for name in ("up", "trash", "inst", "ctl")][0], ()),
    "balance is garbage": (lambda d: put(d.path("ctl/base.json")), ()),
    "scrub is garbage": (lambda d: put(d.path("ctl/scrub.json")), ()),
    "heartbeats are garbage": (lambda d: put(d.path("inst/000000000000001.hb")), ()),
    "foreign heartbeats": (lambda d: (put(d.path("inst/x.hb")), folder(d.path("inst/000000000000002.hb")))[0], ()),
    "drafts": (lambda d: (put(d.path("FORMAT.1.tmp")), put(d.path("ctl/base.000000000000001.tmp")))[0], ()),
    "foreign names": (
        lambda d: [
            (put(d.path(f"{at}/a file")), folder(d.path(f"{at}/a folder")), link(d.path(f"{at}/a link")))
            for at in (".", "o", "up", "trash", "inst", "ctl", "o/fff", "quarantine")
            if os.path.isdir(d.path(at)) or not os.makedirs(d.path(at))
        ][0],
        (),
    ),
    "half deleted": (halved, KEYS),
    "empty entry": (lambda d: put(d.entry("small"), b""), ("small",)),
    "foreign entry": (lambda d: put(d.entry("small"), bytes(range(256)) * 4), ("small",)),
    "zeros for an entry": (lambda d: put(d.entry("inline"), bytes(5000)), ("inline",)),
    "entry of a later version": (lambda d: change(d.entry("small"), 4, b"\x02"), ("small",)),
    "entry cut in its header": (lambda d: cut(d.entry("small"), 100), ("small",)),
    "entry cut in its body": (lambda d: cut(d.entry("inline"), 100_000), ("inline",)),
    "entry too long": (lambda d: change(d.entry("inline"), os.path.getsize(d.entry("inline")), b"x"), ("inline",)),
    "holes in a body": (lambda d: change(d.entry("inline"), 50_000, b"x"), ("inline",)),
    "entry without the stamp": (lambda d: change(d.entry("small"), 16, b"\0\0\0\0"), ()),
    "entry is a directory": (lambda d: folder(d.entry("small")), ("small",)),
    "entry is a link": (lambda d: link(d.entry("small")), ("small",)),
    "entry is a socket": (lambda d: pipe(d.entry("small")), ("small",)),
    "dead flight": (lambda d: put(d.entry("small") + ".f", b""), ()),
    "flight is garbage": (lambda d: put(d.entry("other") + ".f") if _shard(d, "other") else None, ()),
    "flight is a directory": (lambda d: folder(d.entry("small") + ".f"), ()),
    "flight is a link": (lambda d: link(d.entry("small") + ".f"), ()),
    "shard is a file": (lambda d: put(os.path.dirname(d.entry("small"))), ("small",)),
    "shard is a directory in a directory": (lambda d: folder(os.path.dirname(d.entry("small")) + "/deep/er"), ()),
    "shard is a link": (lambda d: link(os.path.dirname(d.entry("small"))), ("small",)),
    "generation without entry": (lambda d: remove(d.entry("ranges")), ("ranges",)),
    "entry without generation": (lambda d: remove(d.generation()), ("ranges",)),
    "generation is a file": (lambda d: put(d.generation()), ("ranges",)),
    "empty generation": (lambda d: folder(d.generation(), full=False), ("ranges",)),
    "foreign generation": (lambda d: folder(d.generation()), ("ranges",)),
    "empty range": (lambda d: put(d.range(), b""), ("ranges",)),
    "foreign range": (lambda d: put(d.range(), bytes(MIB + 44)), ("ranges",)),
    "cut range": (lambda d: cut(d.range(), 5000), ("ranges",)),
    "flipped range": (lambda d: change(d.range(), 5000, b"x"), ("ranges",)),
    "range is a directory": (lambda d: folder(d.range()), ("ranges",)),
    "range is a link": (lambda d: link(d.range()), ("ranges",)),
    "cut encoded range": (lambda d: cut(d.encoded(), 500), ("packed",)),
    "flipped encoded range": (lambda d: change(d.encoded(), 60, b"\xff\xff"), ("packed",)),
    "foreign encoded range": (lambda d: put(d.encoded()), ("packed",)),
    "unfinished ranges": (lambda d: put(d.generation() + "/t.0-100000.000000000000001.1"), ()),
    "foreign sidecar": (lambda d: (put(d.generation() + "/a.000000000000001"), folder(d.generation() + "/1"))[0], ()),
    "foreign uploads": (lambda d: [put(f"{path}/x") for path, _, _ in os.walk(d.path("up"))][0], ()),
}
REFUSED: dict[str, Change] = {
    "older format": lambda d: put(d.path("FORMAT"), b"s3px 0 shard_bits=12\n"),
    "format is garbage": lambda d: put(d.path("FORMAT")),
    "format is empty": lambda d: put(d.path("FORMAT"), b""),
    "format is a directory": lambda d: folder(d.path("FORMAT")),
    "format is gone": lambda d: remove(d.path("FORMAT")),
    "objects are a file": lambda d: put(d.path("o")),
    "uploads are a file": lambda d: put(d.path("up")),
    "heartbeats are a file": lambda d: put(d.path("inst")),
    "notes are a file": lambda d: put(d.path("ctl")),
}


def _shard(d: Directory, key: str) -> bool:
    os.makedirs(os.path.dirname(d.entry(key)), exist_ok=True)
    return True


class StateTests(SynchronousTestCase):
    """One test for each state, with and without a crash before."""

    def prepare(self, change_: Change, crash: bool) -> Directory:
        root = os.path.abspath(self.mktemp())
        store = make_store(self, root=root)
        directory = Directory(store)
        if crash:
            abandon(store)
        else:
            store.close()
        change_(directory)
        return directory

    def body_of(self, store: DiskStore, key: str) -> bytes | None:
        """What can be read of an object; every block of it is compared."""
        entry = store.load(name_of(key))
        if entry is None:
            return None
        if entry.small_body is not None:
            return entry.small_body
        if not entry.has_ranges:
            return decoded(store, entry, 0, entry.object_size)
        found = b""
        for start, stop in store.ranges(entry):
            found += decoded(store, entry, start, stop) or b""
        return found if len(found) == entry.object_size else None

    def check(self, change_: Change, lost: tuple[str, ...], crash: bool) -> None:
        directory = self.prepare(change_, crash)
        store = make_store(self, root=directory.root)
        bodies = {"small": SMALL, "inline": LARGE, "ranges": b"r" * (2 * MIB), "packed": TEXT}
        for key, body in bodies.items():
            try:
                found = self.body_of(store, key)
            except OSError as error:
                # Found while it was read: from now on it is a miss.
                self.assertIn(key, lost, error)
                found = self.body_of(store, key)
            if key not in lost:
                self.assertEqual(found, body, key)
            elif lost != KEYS:
                self.assertIsNone(found, key)
            elif found is not None:
                self.assertEqual(found, body)
        for key in (*KEYS, "other"):
            self.store_again(store, key)
        finish_scan(store)
        self.assertTrue(store.volume.ledger.complete)
        for key in (*KEYS, "other"):
            self.store_again(store, key)
            self.assertEqual(self.body_of(store, key), b"stored again", key)
        store.volume.empty_trash()
        used = store.usage()
        recount(store)
        self.assertEqual(store.usage(), used)
        self.assertGreaterEqual(used, disk_usage(f"{store.root}/o"))
        left = [name for name in files_below(f"{store.root}/o") if name.endswith(".f") or name.startswith("t.")]
        self.assertEqual(left, [])
        store.evictor.shrink(0)
        store.close()

    def store_again(self, store: DiskStore, key: str) -> None:
        lease = store.lease(name_of(key))
        if lease is None:
            # Somebody may be at work on it: a scan, or twenty seconds, tell.
            self.assertFalse(store.volume.ledger.complete, key)
            return
        entry = store.publish_inline(lease, object_size=12, body=[b"stored again"], **ABOUT)
        self.assertIsNotNone(entry, key)

    def refuse(self, change_: Change) -> None:
        """It is no cache directory of this version: the start fails, says what to do, and touches nothing."""
        directory = self.prepare(change_, False)
        before = files_below(f"{directory.root}/o") if os.path.isdir(f"{directory.root}/o") else []
        problem = self.assertRaises(StoreError, make_store, self, root=directory.root)
        self.assertIn("cache.cache_dir", str(problem))
        self.assertEqual(files_below(f"{directory.root}/o") if before else [], before)


def _named(text: str) -> str:
    return "test_" + text.replace(" ", "_").replace(",", "")


for _name, (_change, _lost) in STATES.items():
    for _crash in (False, True):

        def _test(self: Any, change_: Change = _change, lost: tuple[str, ...] = _lost, crash: bool = _crash) -> None:
            self.check(change_, lost, crash)

        _test.__doc__ = f"{_name}{', after a crash' if _crash else ''}."
        setattr(StateTests, _named(_name) + ("_crash" if _crash else ""), _test)

for _name, _change in REFUSED.items():

    def _refused(self: Any, change_: Change = _change) -> None:
        self.refuse(change_)

    _refused.__doc__ = f"Refused: {_name}."
    setattr(StateTests, _named(_name), _refused)


class CountingCalls(SystemCalls):
    """Counts what is asked of the system."""

    COUNTED = ("open", "stat", "fstat", "listdir", "pread", "mkdir", "rename", "link", "unlink", "utime", "statvfs")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.listed: Counter[str] = Counter()
        for name in self.COUNTED:
            setattr(self, name, self._counting(name, getattr(self, name)))

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.counts[name] += 1
            if name == "listdir":
                self.listed[os.path.basename(args[0])] += 1
            return call(*args)

        return counted


class StartTests(SynchronousTestCase):
    """What a start costs."""

    def directory(self, entries: int) -> str:
        """Many entries, all of them in few shards so that many of these need not be made."""
        store = make_store(self, root=os.path.abspath(self.mktemp()))
        put_inline(store, name_of("wanted"), SMALL)
        source = store.volume.entry_path(name_of("wanted"))
        bits = store.volume.format.shard_bits
        for number in range(entries):
            name = EntryName((number % 16).to_bytes(2, "big") + number.to_bytes(18, "big"))
            shard = f"{store.root}/o/{shard_path(name.shard_index(bits), bits)}"
            if number < 16:
                os.makedirs(shard, exist_ok=True)
            os.link(source, f"{shard}/{name.text}")
        abandon(store)
        return store.root

    def cost(self, entries: int) -> "tuple[Counter[str], Counter[str]]":
        """System calls from the start to the first hit."""
        calls = CountingCalls()
        store = make_store(self, root=self.directory(entries), calls=calls)
        entry = store.load(name_of("wanted"))
        assert entry is not None
        self.assertEqual(entry.small_body, SMALL)
        return calls.counts, calls.listed

    def test_first_hit(self) -> None:
        """Up to the first hit as many system calls are made whether there are twenty entries or three thousand; and no
        shard is looked through.
        """
        few, many = self.cost(20), self.cost(3000)
        self.assertEqual(few[0], many[0])
        self.assertLess(sum(many[0].values()), 60)
        self.assertLessEqual(set(many[1]), {"o", "up", "inst"})
