"""Opening a cache directory, and everything that is needed to use it."""

import errno
import os
import random as random_module
import stat
from collections.abc import Callable
from functools import partial

from s3proxy.storage.balance import Balance
from s3proxy.storage.counting import Corrections, Counting
from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.errors import StoreError
from s3proxy.storage.eviction import Evictor
from s3proxy.storage.evictlease import EvictionLease
from s3proxy.storage.files import SystemCalls, write_fully
from s3proxy.storage.generations import GenerationTable
from s3proxy.storage.handles import HandleCache, ReadHandle
from s3proxy.storage.hostledger import HostBalance, HostLedger
from s3proxy.storage.hostmemory import HostMemory
from s3proxy.storage.instance import Instance
from s3proxy.storage.invalidation import Arm, Renewal
from s3proxy.storage.layout import (
    DIRECTORY_FOOTPRINT,
    EntryName,
    Format,
    RandomBits,
    cut_for,
    entry_name,
    format_for,
    parse_format,
)
from s3proxy.storage.lease import Lease
from s3proxy.storage.ledger import Ledger
from s3proxy.storage.peers import Peers
from s3proxy.storage.reaper import Reaper
from s3proxy.storage.recency import RecencyLog
from s3proxy.storage.record import HEAD, INLINE, RANGES
from s3proxy.storage.scoring import SCORES
from s3proxy.storage.share import WriteShare
from s3proxy.storage.staging import PartWriter, PlacedPart, Plan, StagedPart, Staging
from s3proxy.storage.store import LEASE_SECONDS, DiskStore
from s3proxy.storage.sweeper import Sweeper
from s3proxy.storage.upload import Upload
from s3proxy.storage.volume import Volume
from s3proxy.storage.writer import Writer

__all__ = [
    "HEAD",
    "INLINE",
    "RANGES",
    "Arm",
    "DiskStore",
    "EntryFacts",
    "EntryName",
    "GenerationTable",
    "HostMemory",
    "Lease",
    "PartWriter",
    "PlacedPart",
    "Plan",
    "ReadHandle",
    "Renewal",
    "StagedPart",
    "Staging",
    "StoreError",
    "StoredEntry",
    "Upload",
    "Writer",
    "entry_name",
    "open_store",
]

_WRITE_BACK_SECONDS = 120.0
_GRANT = "let the user that runs the proxy write there, or set cache.cache_dir to another directory"


def open_store(
    root: str,
    *,
    max_size: int,
    now: Callable[[], float],
    generations: GenerationTable,
    random: RandomBits | None = None,
    eviction: str = "tinylfu",
    trigger_percent: float = 95,
    target_percent: float = 80,
    write_percent: float = 10,
    upload_expiry: float = 86400,
    calls: SystemCalls | None = None,
    lease_seconds: float = LEASE_SECONDS,
    handles: int = 512,
    memory: HostMemory | None = None,
    eviction_timeout: float = 60.0,
) -> DiskStore:
    """Open the cache directory ``root``, making it if need be.

    :param max_size: bytes that may be published; 0 for no limit
    :param now: seconds since 1970
    :param random: names and samples are drawn from it
    :param eviction: ``lru`` or ``tinylfu``
    :param write_percent: of ``max_size``: what was written through and nobody has read yet may take so much, uploads
        under way included
    :param upload_expiry: seconds without anything new after which an unfinished multipart upload is given up
    :param handles: how many range files are kept open
    :param memory: shared with the other processes of this host that use the directory; None: there are none
    :param eviction_timeout: seconds without a sign of life after which another instance's right to evict is void
    :raises StoreError: it can't be used; the message says why and what to do
    """
    system = SystemCalls() if calls is None else calls
    source = random_module.Random(os.urandom(32)) if random is None else random
    form, created = _prepare(system, root, max_size)
    founder = memory is None or memory.founder
    instance = Instance(system, f"{root}/inst", source, now, founder)
    balance = (
        Balance(system, f"{root}/ctl", instance.number, max_size)
        if memory is None
        else HostBalance(memory, system, f"{root}/ctl", instance.number, max_size)
    )
    try:
        instance.start()
        failed = instance.power_failed_at()
        declared, clean = balance.read()
        present = min(form.shards, len(system.listdir(f"{root}/o")))
        empty = present == 0 and not system.listdir(f"{root}/up")
        if declared is None:
            # Nobody knows: take it for full until it has been walked through.
            declared = max_size
        ledger = (Ledger if memory is None else partial(HostLedger, memory))(
            max_size,
            form.shards + 1,
            declared=0 if empty else declared,
            walked=empty,
            spare=(form.shards - present) * DIRECTORY_FOOTPRINT,
            unread_limit=int(max_size * write_percent / 100),
        )
        if memory is not None and founder:
            memory.group = instance.number
        peers = Peers(
            system,
            f"{root}/inst",
            instance,
            ledger,
            form.shards + 1,
            group=instance.number if memory is None else memory.group,
            listens=founder,
        )
        peers.start()
        if founder:
            balance.start(ledger.committed if empty or clean else declared)
    except OSError as problem:
        raise _refusal(root, problem) from problem
    volume = Volume(
        root,
        form,
        calls=system,
        now=now,
        random=source,
        generations=generations,
        ledger=ledger,
        instance=instance,
        handles=HandleCache(handles),
        memory=memory,
    )
    if failed is not None:
        volume.doubt_from = failed - _WRITE_BACK_SECONDS
    log = RecencyLog()
    lease = EvictionLease(system, f"{root}/ctl/evict.lease", instance, now, eviction_timeout)
    evictor = Evictor(volume, log, balance, SCORES[eviction], lease)
    reaper = Reaper(volume, upload_expiry)
    corrections = Corrections(volume, Counting(volume, peers))
    sweeper = Sweeper(
        volume, evictor, reaper, corrections, trigger_percent=trigger_percent, target_percent=target_percent
    )
    return DiskStore(
        volume,
        balance,
        evictor,
        log,
        sweeper,
        reaper,
        WriteShare(evictor, ledger),
        peers,
        cut=min(form.cut, cut_for(max_size)),
        lease_seconds=lease_seconds,
        was_clean=created or clean,
        founder=founder,
    )


def _refusal(root: str, problem: OSError) -> StoreError:
    remedies = {
        errno.EACCES: _GRANT,
        errno.EPERM: _GRANT,
        errno.EROFS: "mount the file system writable, or set cache.cache_dir to another directory",
        errno.ENOTDIR: "a part of the path is a file; remove it, or set cache.cache_dir to another directory",
        errno.ENOSPC: "free some space on the file system",
        errno.EDQUOT: "free some space, or raise the quota",
    }
    remedy = remedies.get(problem.errno or 0, "make it usable, or set cache.cache_dir to another directory")
    return StoreError(
        problem.errno or errno.EIO, f"the cache directory can't be used: {problem.strerror}; {remedy}", root
    )


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
        for name in ("o", "up", "trash", "inst", "ctl"):
            try:
                calls.mkdir(f"{root}/{name}", 0o700)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(f"{root}/{name}").st_mode):
                    raise
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
        # FORMAT comes before everything else: another process has made both meanwhile, or it was removed later.
        data = _read(calls, f"{root}/FORMAT")
        if data is None:
            raise StoreError(
                errno.EINVAL,
                "the directory holds cached data but its FORMAT file is missing; empty the directory, or set "
                "cache.cache_dir to another one",
                root,
            )
        return data
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
        try:
            calls.unlink(draft)
        except FileNotFoundError:
            pass
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
