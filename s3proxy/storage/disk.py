"""The store on one local file system: entries and ranges of bytes, by name."""

import errno
import os
import random as random_module
import stat
from collections.abc import Callable

from s3proxy.storage.balance import Balance
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.errors import StoreError
from s3proxy.storage.eviction import Evictor, Sweeper
from s3proxy.storage.files import SystemCalls, write_fully
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.handles import HandleCache, OpenFile, RangeKey, ReadHandle
from s3proxy.storage.instance import Instance
from s3proxy.storage.invalidation import Arm, Renewal, arm, drop, prepare_renewal
from s3proxy.storage.layout import (
    DIRECTORY_FOOTPRINT, SEGMENT, EntryName, Format, RandomBits, cut_for, format_for, parse_format, parse_range,
)
from s3proxy.storage.lease import Lease, take_lease
from s3proxy.storage.ledger import Ledger
from s3proxy.storage.publish import make_header, publish_head, publish_inline, publish_ranges
from s3proxy.storage.recency import RecencyLog, write_uses
from s3proxy.storage.record import HEAD, HEADER_SIZE, INLINE, RANGES, decode_header, footer_size
from s3proxy.storage.scan import Scan
from s3proxy.storage.scoring import SCORES
from s3proxy.storage.volume import CorruptEntry, Volume
from s3proxy.storage.writer import InlineWriter, RangeWriter

__all__ = ["HEAD", "INLINE", "RANGES", "DiskStore", "open_store"]

LEASE_SECONDS = 20.0
_HANDLE_SECONDS = 60.0
_TOUCH_SECONDS = 600.0
_COPY_BYTES = 1 << 20
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


class DiskStore:
    """Entries on disk. Every call is blocking and thread-safe.

    :meth:`load`, :meth:`lease`, :meth:`arm`, :meth:`drop`, :meth:`prepare_renewal`, :meth:`ranges`, :meth:`open_range` and
    :meth:`open_inline` take some microseconds on a local file system. What writes bodies or may have to evict belongs in a thread.
    Any call may raise :class:`OSError` when the disk does not do what it should; nothing wrong is ever published or returned then.

    Periodic duties of the owner, all in a thread: :meth:`pulse` every second, :meth:`flush_recency` about every ten seconds,
    ``sweeper.run()`` whenever ``sweeper.due()`` says so, and the steps of :meth:`scan` after a start.
    """

    def __init__(
        self, volume: Volume, balance: Balance, evictor: Evictor, log: RecencyLog, sweeper: Sweeper, *, cut: int, lease_seconds: float,
        was_clean: bool,
    ) -> None:
        self.volume = volume
        self.sweeper = sweeper
        self.evictor = evictor
        self.cut = cut
        self.inline_max = min(volume.format.inline_max, cut)
        self._balance = balance
        self._log = log
        self._lease_seconds = lease_seconds
        self._was_clean = was_clean
        self._beat_at = volume.now()

    @property
    def root(self) -> str:
        """The cache directory."""
        return self.volume.root

    # Reading

    def load(self, name: EntryName) -> StoredEntry | None:
        """The entry that is published under ``name`` now. A damaged one is removed.

        :raises OSError: the disk failed
        """
        volume = self.volume
        epoch = volume.generations.get(name.slot)
        path = volume.entry_path(name)
        for _ in range(2):
            try:
                fd = volume.calls.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            except OSError as problem:
                if problem.errno in (errno.ESTALE, errno.ETXTBSY):
                    continue
                if problem.errno != errno.ELOOP:
                    raise
                volume.remove_entry(name)
                return None
            try:
                return volume.read_entry(fd, name, epoch)
            except CorruptEntry as problem:
                volume.remove_entry(name, inode=problem.inode)
                return None
            except OSError as problem:
                if problem.errno != errno.ESTALE:
                    raise
            finally:
                volume.calls.close(fd)
        return None

    def ranges(self, entry: StoredEntry) -> tuple[tuple[int, int], ...]:
        """The published ranges [start, stop) of an entry, sorted. They may overlap."""
        path = self.volume.generation_path(entry.name, entry.generation)
        if entry.kind != RANGES:
            return ((0, entry.body_len),) if entry.kind == INLINE else ()
        try:
            names = self.volume.calls.listdir(path)
            if entry.object_size > SEGMENT:
                for segment in [text for text in names if text.isalnum()]:
                    names += self.volume.calls.listdir(f"{path}/{segment}")
        except OSError as problem:
            if problem.errno in _GONE:
                return ()
            raise
        return tuple(sorted(span for text in names if (span := parse_range(text)) is not None))

    def open_range(self, entry: StoredEntry, start: int, stop: int) -> ReadHandle | None:
        """Open the range file of exactly these bytes; None when there is none. A damaged one is removed."""
        volume = self.volume
        key = RangeKey(entry.name.digest, entry.generation, start, stop)
        file = volume.handles.get(key, volume.now())
        if file is not None:
            return ReadHandle(file, 0, start, stop)
        path = f"{volume.range_path(entry, start)}/{start:x}-{stop - start:x}"
        try:
            fd = volume.calls.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as problem:
            if problem.errno in _GONE:
                return None
            raise
        file = OpenFile(volume.calls, fd)
        try:
            size = volume.calls.fstat(fd).st_size
            length = stop - start
            if size == length + footer_size(length) and volume.trailer_fits(fd, size, length=length, start=start):
                volume.handles.put(key, file, volume.now())
                return ReadHandle(file, 0, start, stop)
        except OSError:
            file.release()
            raise
        file.release()
        with volume.lock(entry.name):
            volume.remove_counted(path, volume.shard_of(entry.name), size)
            volume.bump(entry.name)
        return None

    def open_inline(self, entry: StoredEntry) -> ReadHandle | None:
        """Open the body of an inline entry; None when the entry is no longer this one. A damaged one is removed."""
        volume = self.volume
        try:
            fd = volume.calls.open(volume.entry_path(entry.name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as problem:
            if problem.errno in _GONE:
                return None
            raise
        file = OpenFile(volume.calls, fd)
        try:
            status = volume.calls.fstat(fd)
            # The inode alone doesn't tell: the number may have been given to another file.
            header = decode_header(volume.calls.pread(fd, HEADER_SIZE, 0))
            current = status.st_ino == entry.inode and header.nonce == entry.nonce and header.complete and header.kind == INLINE
        except ValueError:
            current = False
        except OSError:
            file.release()
            raise
        if not current:
            file.release()
            return None
        if status.st_size != header.file_size or not volume.trailer_fits(fd, status.st_size, length=entry.body_len, start=0):
            file.release()
            volume.remove_entry(entry.name, inode=entry.inode)
            return None
        return ReadHandle(file, entry.body_offset, 0, entry.body_len)

    # Publishing

    def lease(self, name: EntryName) -> Lease | None:
        """Take the right to publish under ``name``: before the request is sent whose answer may be published.

        None: somebody holds it, and showed life within the last 20 seconds.
        """
        with self.volume.lock(name):
            return take_lease(self.volume, name, self._lease_seconds)

    def publish_inline(
        self, lease: Lease, *, meta: bytes, object_size: int, validated_at: float, observed_at: float, unconfirmed: bool = False,
        body: list[bytes],
    ) -> StoredEntry | None:
        """Publish an entry with its whole body at once. None: the lease was revoked, or there is no room. Ends the lease."""
        return publish_inline(
            self.volume, self.evictor, lease, body, meta=meta, object_size=object_size, validated_at=validated_at,
            observed_at=observed_at, unconfirmed=unconfirmed,
        )

    def publish_head(
        self, lease: Lease, *, meta: bytes, object_size: int, validated_at: float, observed_at: float, unconfirmed: bool = False
    ) -> StoredEntry | None:
        """Publish metadata alone. None: the lease was revoked, or there is no room. Ends the lease."""
        return publish_head(
            self.volume, self.evictor, lease, meta=meta, object_size=object_size, validated_at=validated_at, observed_at=observed_at,
            unconfirmed=unconfirmed,
        )

    def publish_ranges(
        self, lease: Lease, *, meta: bytes, object_size: int, validated_at: float, observed_at: float, unconfirmed: bool = False,
        generation: int | None = None,
    ) -> StoredEntry | None:
        """Publish an entry whose body will come as ranges. None: the lease was revoked, or there is no room. Ends the lease.

        :param generation: keep the ranges of this generation, of the same version of the object; None: begin without any
        """
        return publish_ranges(
            self.volume, self.evictor, lease, meta=meta, object_size=object_size, validated_at=validated_at, observed_at=observed_at,
            unconfirmed=unconfirmed, generation=generation,
        )

    def start_inline(
        self, lease: Lease, *, meta: bytes, object_size: int, validated_at: float, observed_at: float, unconfirmed: bool = False
    ) -> InlineWriter:
        """Begin an entry whose body, of ``object_size`` bytes, grows in the flight file. The writer owns the lease from now on.

        :raises OSError: the file could not be written; the lease is over
        """
        header = make_header(
            lease, INLINE, meta, object_size=object_size, validated_at=validated_at, observed_at=observed_at, unconfirmed=unconfirmed,
            complete=True, instance=self.volume.instance.number, body_length=object_size,
        )
        try:
            return InlineWriter(self.volume, self.evictor, lease, header, meta)
        except OSError:
            lease.release()
            raise

    def start_range(self, entry: StoredEntry, start: int, length: int) -> RangeWriter:
        """Begin a range of an entry of kind RANGES. It must not cross a multiple of :attr:`cut`.

        :raises FileNotFoundError: the entry was replaced or evicted
        :raises OSError: the file could not be made
        """
        if length <= 0 or start < 0 or start // self.cut != (start + length - 1) // self.cut or start + length > entry.object_size:
            raise ValueError(f"no range of {length} bytes can start at {start}")
        return RangeWriter.start_range(self.volume, self.evictor, entry, start, length)

    def replace_meta(
        self, entry: StoredEntry, lease: Lease, *, meta: bytes, validated_at: float, observed_at: float, unconfirmed: bool = False
    ) -> StoredEntry | None:
        """Publish ``entry`` again with other metadata and the body that it has. None: it can't be. Ends the lease."""
        if entry.kind == HEAD:
            return self.publish_head(
                lease, meta=meta, object_size=entry.object_size, validated_at=validated_at, observed_at=observed_at, unconfirmed=unconfirmed
            )
        if entry.kind == RANGES:
            return self.publish_ranges(
                lease, meta=meta, object_size=entry.object_size, validated_at=validated_at, observed_at=observed_at,
                unconfirmed=unconfirmed, generation=entry.generation,
            )
        try:
            body = self.open_inline(entry)
        except OSError:
            lease.release()
            raise
        if body is None:
            lease.release()
            return None
        try:
            writer = self.start_inline(
                lease, meta=meta, object_size=entry.object_size, validated_at=validated_at, observed_at=observed_at, unconfirmed=unconfirmed
            )
            try:
                while writer.written < writer.length:
                    wanted = min(_COPY_BYTES, writer.length - writer.written)
                    data = self.volume.calls.pread(body.fd, wanted, body.base + writer.written)
                    if not data:
                        return None
                    writer.append([data])
                return writer.commit()
            finally:
                writer.close()
        finally:
            body.close()

    # Confirming and invalidating

    def prepare_renewal(self, name: EntryName) -> Renewal | None:
        """Begin to confirm an entry: before the question is asked. None: there is no entry, or somebody else holds the lease."""
        return prepare_renewal(self.volume, name, self._lease_seconds)

    def arm(self, name: EntryName) -> Arm:
        """An object is about to be changed: until the :class:`Arm` ends, its entry is unconfirmed and can't be confirmed or replaced.

        :raises StoreError: the entry may still look fresh; nothing may be served from the directory
        """
        return arm(self.volume, name, self._lease_seconds)

    def drop(self, name: EntryName) -> None:
        """An object changed, or may have: remove its entry, and let nobody publish what was asked for before.

        :raises StoreError: the entry may still be there; nothing may be served from the directory
        """
        drop(self.volume, name)

    # Room

    def usage(self) -> int:
        """Published bytes, counted as :func:`s3proxy.storage.layout.footprint` says. An upper bound until the scan is over."""
        return max(0, self.volume.ledger.used)

    def in_flight(self) -> int:
        """Bytes in files that are being written."""
        return self.volume.ledger.in_flight

    def make_room(self, size: int) -> bool:
        """Evict until ``size`` bytes could be published; False when they can't. May take long."""
        return self.evictor.make_room(size)

    def touched(self, name: EntryName, start: int) -> None:
        """A hit: the stored range that begins at ``start`` (0 for an inline entry) was used again."""
        self._log.touched(name.digest, start, self.volume.now())

    def flush_recency(self) -> int:
        """Put the uses since the last call on disk, and close files that nobody asked for lately. Returns how many entries were written."""
        self.volume.handles.expire(self.volume.now() - _HANDLE_SECONDS)
        interval = max(_TOUCH_SECONDS, self.evictor.oldest_age / 16)
        return write_uses(self.volume, self._log, interval)

    # Duties

    def pulse(self) -> None:
        """Show that this process, and each file that it is writing, is alive.

        :raises StoreError: the directory is gone
        :raises OSError: the directory can't be written to
        """
        self.volume.check()
        for item in list(self.volume.live):
            item.touch()
        now = self.volume.now()
        if now - self._beat_at >= LEASE_SECONDS / 4:
            self._beat_at = now
            self.volume.instance.beat()

    def scan(self) -> Scan:
        """A pass over the directory, to be stepped through after a start. Entries are examined unless the last stop was a clean one."""
        return Scan(self.volume, verify=not self._was_clean)

    def close(self) -> None:
        """Close what is kept open and note how full the directory is. Nothing may be used afterwards. Never raises."""
        self.volume.handles.close()
        self.volume.empty_trash()
        if self.volume.ledger.complete:
            self._balance.close(self.usage())
        self.volume.instance.stop()


def open_store(
    root: str, *, max_size: int, now: Callable[[], float], generations: GenerationTable, random: RandomBits | None = None,
    eviction: str = "tinylfu", trigger_percent: float = 95, target_percent: float = 80, calls: SystemCalls | None = None,
    lease_seconds: float = LEASE_SECONDS, handles: int = 512,
) -> DiskStore:
    """Open the cache directory ``root``, making it if need be.

    :param max_size: bytes that may be published; 0 for no limit
    :param now: seconds since 1970
    :param random: names and samples are drawn from it
    :param eviction: ``lru`` or ``tinylfu``
    :param handles: how many range files are kept open
    :raises StoreError: it can't be used; the message says why and what to do
    """
    system = SystemCalls() if calls is None else calls
    source = random_module.Random(os.urandom(32)) if random is None else random
    form, created = _prepare(system, root, max_size)
    instance = Instance(system, f"{root}/inst", source, now)
    balance = Balance(system, f"{root}/ctl", instance.number, max_size)
    try:
        instance.start()
        declared, clean = balance.read()
        present = min(form.shards, len(system.listdir(f"{root}/o")))
        empty = present == 0
        if declared is None:
            # Nobody knows: take it for full until it has been walked through.
            declared = max_size
        ledger = Ledger(
            max_size, form.shards, declared=0 if empty else declared, walked=empty, spare=(form.shards - present) * DIRECTORY_FOOTPRINT
        )
        balance.ensure(ledger.used)
    except OSError as problem:
        raise _refusal(root, problem) from problem
    volume = Volume(
        root, form, calls=system, now=now, random=source, generations=generations, ledger=ledger, instance=instance,
        handles=HandleCache(handles),
    )
    log = RecencyLog()
    evictor = Evictor(volume, log, balance, SCORES[eviction])
    sweeper = Sweeper(volume, evictor, trigger_percent=trigger_percent, target_percent=target_percent)
    return DiskStore(
        volume, balance, evictor, log, sweeper, cut=min(form.cut, cut_for(max_size)), lease_seconds=lease_seconds,
        was_clean=created or clean,
    )


def _refusal(root: str, problem: OSError) -> StoreError:
    remedies = {
        errno.EACCES: "give the user that runs the proxy the right to write there, or set cache.cache_dir to another directory",
        errno.EPERM: "give the user that runs the proxy the right to write there, or set cache.cache_dir to another directory",
        errno.EROFS: "mount the file system writable, or set cache.cache_dir to another directory",
        errno.ENOTDIR: "a part of the path is a file; remove it, or set cache.cache_dir to another directory",
        errno.ENOSPC: "free some space on the file system",
        errno.EDQUOT: "free some space, or raise the quota",
    }
    remedy = remedies.get(problem.errno or 0, "make it usable, or set cache.cache_dir to another directory")
    return StoreError(problem.errno or errno.EIO, f"the cache directory can't be used: {problem.strerror}; {remedy}", root)


def _prepare(calls: SystemCalls, root: str, max_size: int) -> tuple[Format, bool]:
    """Make what is missing in the directory; returns its format and whether it is new."""
    try:
        os.makedirs(root, mode=0o755, exist_ok=True)
        if not stat.S_ISDIR(os.stat(root).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        data = _read(calls, f"{root}/FORMAT")
        created = data is None
        if data is None:
            data = _create_format(calls, root, max_size)
        form = parse_format(data, f"{root}/FORMAT")
        for name in ("o", "trash", "inst", "ctl"):
            try:
                calls.mkdir(f"{root}/{name}", 0o700)
            except FileExistsError:
                continue
    except StoreError:
        raise
    except FileExistsError as problem:
        raise _refusal(root, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))) from problem
    except OSError as problem:
        raise _refusal(root, problem) from problem
    return form, created


def _create_format(calls: SystemCalls, root: str, max_size: int) -> bytes:
    """Write FORMAT, once: who comes second reads what the first one wrote."""
    if "o" in calls.listdir(root):
        raise StoreError(
            errno.EINVAL, "the directory holds cached data but its FORMAT file is missing; empty the directory, or set cache.cache_dir to "
            "another one", root
        )
    data = format_for(max_size).encode()
    draft = f"{root}/FORMAT.{os.getpid()}.tmp"
    fd = calls.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_fully(calls, fd, [data], 0)
    finally:
        calls.close(fd)
    try:
        calls.link(draft, f"{root}/FORMAT")
    except FileExistsError:
        data = _read(calls, f"{root}/FORMAT") or b""
    finally:
        calls.unlink(draft)
    return data


def _read(calls: SystemCalls, path: str) -> bytes | None:
    try:
        fd = calls.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return calls.pread(fd, 4096, 0)
    finally:
        calls.close(fd)
