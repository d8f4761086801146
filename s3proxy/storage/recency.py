"""When entries and ranges were last used, and how often: in memory exactly, on disk roughly."""

import os
import stat
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

import attrs

from s3proxy.storage.layout import EntryName, footprint, instance_text
from s3proxy.storage.record import RANGES
from s3proxy.storage.unread import mark_read
from s3proxy.storage.volume import Volume

__all__ = [
    "FrequencySketch",
    "RecencyLog",
    "Use",
    "decode_sidecar",
    "encode_sidecar",
    "is_sidecar",
    "parse_sidecar_name",
    "read_sidecars",
    "write_uses",
]

_RECORD = struct.Struct("<QIH")
_SIDECAR_MAX = 65536
_HALF = bytes(value >> 1 for value in range(256))


class FrequencySketch:
    """About how often each of very many keys was used of late, in little memory (count-min, 4 rows of 8-bit counters up
    to 15).

    All counters are halved after every ``10 * width`` uses, so that what was popular once is forgotten. Estimates are
    never too low except by that.
    """

    def __init__(self, width: int = 1 << 16) -> None:
        self._mask = width - 1
        self._rows = [bytearray(width) for _ in range(4)]
        self._period = 10 * width
        self._uses = 0

    def add(self, key: int, count: int = 1) -> None:
        """Count uses of ``key``, an evenly distributed number of at least 80 bits."""
        for shift, row in enumerate(self._rows):
            index = (key >> (20 * shift)) & self._mask
            row[index] = min(15, row[index] + count)
        self._uses += count
        if self._uses >= self._period:
            self._uses //= 2
            self._rows = [bytearray(row.translate(_HALF)) for row in self._rows]

    def estimate(self, key: int) -> int:
        """0 to 15."""
        return min(row[(key >> (20 * shift)) & self._mask] for shift, row in enumerate(self._rows))


@attrs.frozen
class Use:
    """Uses of one range (or of an inline entry: ``start`` 0) since they were last taken."""

    digest: bytes
    start: int
    count: int
    last: float


class RecencyLog:
    """Uses since the process started. Thread-safe; recording one costs about a microsecond.

    :param remembered: how many ranges' last uses are kept in memory
    :ivar told: gets what :meth:`take` gives, too, in the same thread
    """

    def __init__(self, remembered: int = 100_000) -> None:
        self._lock = threading.Lock()
        self._remembered = remembered
        self._pending: dict[tuple[bytes, int], list[float]] = {}
        self._last: OrderedDict[tuple[bytes, int], float] = OrderedDict()
        self._sketch = FrequencySketch()
        self._written: OrderedDict[tuple[bytes, int], float] = OrderedDict()
        self.told: Callable[[list[Use]], None] | None = None

    def touched(self, digest: bytes, start: int, now: float) -> None:
        """A stored range was used again. Its first insertion is no use."""
        key = (digest, start)
        with self._lock:
            use = self._pending.get(key)
            if use is None:
                self._pending[key] = [1, now]
            else:
                use[0] += 1
                use[1] = now

    def take(self) -> list[Use]:
        """Every use since the last call, remembered for :meth:`last_use` and :meth:`frequency`."""
        with self._lock:
            pending, self._pending = self._pending, {}
            uses = []
            for (digest, start), (count, last) in pending.items():
                self._last[digest, start] = last
                self._last.move_to_end((digest, start))
                self._sketch.add(_sketch_key(digest, start), int(count))
                uses.append(Use(digest, start, int(count), last))
            while len(self._last) > self._remembered:
                self._last.popitem(last=False)
        if self.told is not None:
            self.told(uses)
        return uses

    def absorb(self, uses: Iterable[Use]) -> None:
        """Uses in another process, which puts them on disk itself."""
        with self._lock:
            for use in uses:
                key = (use.digest, use.start)
                self._last[key] = max(use.last, self._last.get(key, 0.0))
                self._last.move_to_end(key)
                self._sketch.add(_sketch_key(use.digest, use.start), use.count)
            while len(self._last) > self._remembered:
                self._last.popitem(last=False)

    def last_use(self, digest: bytes, start: int) -> float:
        """When it was last used, as far as is remembered; 0 when that is not known."""
        key = (digest, start)
        with self._lock:
            use = self._pending.get(key)
            return use[1] if use is not None else self._last.get(key, 0.0)

    def frequency(self, digest: bytes, start: int) -> int:
        """How often it was used of late, up to 15."""
        with self._lock:
            use = self._pending.get((digest, start))
            waiting = int(use[0]) if use is not None else 0
            return min(15, waiting + self._sketch.estimate(_sketch_key(digest, start)))

    def due_on_disk(self, digest: bytes, start: int, now: float, interval: float) -> bool:
        """Whether a use is worth a write: the first one known of, then one per ``interval`` seconds. Notes that it is
        written.
        """
        key = (digest, start)
        with self._lock:
            if now - self._written.get(key, float("-inf")) < interval:
                return False
            self._written[key] = now
            self._written.move_to_end(key)
            while len(self._written) > self._remembered:
                self._written.popitem(last=False)
            return True


def _sketch_key(digest: bytes, start: int) -> int:
    return int.from_bytes(digest[-12:], "big") ^ (start * 0x9E3779B97F4A7C15F39CC060 >> 16)


def encode_sidecar(uses: dict[int, tuple[int, int]]) -> bytes:
    """Records of start (u64), minute of the last use (u32), uses (u16)."""
    return b"".join(_RECORD.pack(start, minute, min(count, 0xFFFF)) for start, (minute, count) in uses.items())


def decode_sidecar(data: bytes) -> dict[int, tuple[int, int]]:
    """What a sidecar says: start to (minute, uses). Half a record at the end, which a crash may leave, is ignored."""
    whole = len(data) // _RECORD.size * _RECORD.size
    return {start: (minute, count) for start, minute, count in _RECORD.iter_unpack(data[:whole])}


def is_sidecar(name: str) -> bool:
    """Whether this is the name of a sidecar."""
    return parse_sidecar_name(name) is not None


def parse_sidecar_name(name: str) -> int | None:
    """The instance that a sidecar belongs to."""
    if not name.startswith("a.") or len(name) != 17:
        return None
    try:
        return int(name[2:], 16)
    except ValueError:
        return None


def read_sidecars(volume: Volume, directory: str, names: list[str]) -> dict[int, tuple[int, int]]:
    """The latest use of each range that a sidecar among ``names`` knows of. One that can't be read is skipped."""
    merged: dict[int, tuple[int, int]] = {}
    for name in names:
        try:
            fd = volume.calls.open(f"{directory}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found = decode_sidecar(volume.calls.pread(fd, _SIDECAR_MAX * _RECORD.size, 0))
        except OSError:
            continue
        finally:
            volume.calls.close(fd)
        for start, (minute, count) in found.items():
            known = merged.get(start, (0, 0))
            merged[start] = (max(minute, known[0]), known[1] + count)
    return merged


def write_uses(volume: Volume, log: RecencyLog, interval: float) -> int:
    """Put the uses since the last call on disk, those that are due; returns how many entries were written.

    An inline entry's file gets the time of the use as its modification time, and the sticky bit as the mark that it was
    used at all since it was stored. The uses of ranges go to this instance's sidecar in the generation directory. What
    can't be written is forgotten: it is only a hint.
    """
    now = volume.now()
    by_entry: dict[bytes, list[Use]] = {}
    for use in log.take():
        if log.due_on_disk(use.digest, use.start, now, interval):
            by_entry.setdefault(use.digest, []).append(use)
    written = 0
    for digest, uses in by_entry.items():
        name = EntryName(digest)
        with volume.lock(name):
            try:
                written += _write_entry(volume, name, uses)
            except OSError:
                continue
    return written


def _write_entry(volume: Volume, name: EntryName, uses: list[Use]) -> int:
    path = volume.entry_path(name)
    found = volume.peek(path)
    if found is None or found.header is None or not found.header.complete:
        return 0
    if found.unread:
        mark_read(volume, name)
    if found.header.kind != RANGES:
        last = max(use.last for use in uses)
        volume.calls.utime(path, (last, last))
        volume.calls.chmod(path, 0o600 | stat.S_ISVTX)
        return 1
    directory = volume.generation_path(name, found.header.generation)
    shard = volume.shard_of(name)
    mine = f"a.{instance_text(volume.instance.number)}"
    names = [item for item in volume.calls.listdir(directory) if is_sidecar(item)]
    heirs = [item for item in names if item == mine or not volume.instance.is_alive(parse_sidecar_name(item) or 0)]
    merged = read_sidecars(volume, directory, heirs)
    for use in uses:
        known = merged.get(use.start, (0, 0))
        merged[use.start] = (int(use.last // 60), known[1] + use.count)
    kept = dict(sorted(merged.items(), key=lambda item: item[1][0])[-_SIDECAR_MAX:])
    with volume.ledger.changing(shard):
        _write_sidecar(volume, f"{directory}/{mine}", encode_sidecar(kept), shard)
        for item in heirs:
            if item != mine:
                old = f"{directory}/{item}"
                volume.remove_counted(old, shard, volume.calls.stat(old).st_size)
    return 1


def _write_sidecar(volume: Volume, path: str, data: bytes, shard: int) -> None:
    fd = volume.calls.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        before = volume.calls.fstat(fd).st_size
        charge = footprint(len(data)) - (footprint(before) if before else 0)
        if charge > 0 and not volume.ledger.reserve(charge):
            if not before:
                volume.calls.unlink(path)
            return
        if charge > 0:
            volume.ledger.release(charge)
        volume.ledger.add(shard, charge)
        volume.calls.pwrite(fd, data, 0)
        volume.calls.ftruncate(fd, len(data))
    finally:
        volume.calls.close(fd)
