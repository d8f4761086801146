"""Bodies that are being written, as other processes see them: how far they have come, and whether somebody is at work.

What another process needs to know is in the directory already, or is put there before it can be looked for:

==========================  =====================================================================================
flight file, no body yet    whose it is, and which bytes of the object he has asked S3 for
flight file with a body     the description of the version; the body behind it grows
claim in a generation       whose it is, and which bytes he is getting; they grow in a temporary file beside it, and
                            become ranges one after the other
==========================  =====================================================================================

The size of a file is how far it has come, less what a footer of the whole body takes: whether the body is complete or
breaks off, a footer is written behind it, and no byte of that may be taken for one of the body. Only a complete body,
which its writer has compared with S3's checksum, can be read to the end.

On a host this is true at any moment. Between hosts, what was written later may be seen earlier. There a claim says up
to which offset everything has reached the server, renewed with each sign of life (:class:`Claim`), and of a flight file
nothing is read before it has become the entry.
"""

import errno
import os
import struct
import zlib
from functools import lru_cache

import attrs

from s3proxy.storage.entry import StoredEntry, stored_entry
from s3proxy.storage.errors import RecordError
from s3proxy.storage.filesystem import is_networked
from s3proxy.storage.layout import EntryName, claim_name, parse_temp
from s3proxy.storage.lease import WHOLE
from s3proxy.storage.record import FLIGHT, HEADER_SIZE, INLINE, decode_header
from s3proxy.storage.volume import Volume
from s3proxy.storage.writer import Writer, next_serial
from s3proxy.util.intervals import Interval

__all__ = [
    "GONE",
    "PROGRESS_SIZE",
    "READ",
    "Claim",
    "ClaimedRange",
    "Flight",
    "decode_progress",
    "find_claims",
    "look_at_flight",
    "make_claim",
]

GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST_READ = 16 << 10
_PROGRESS = struct.Struct("<QI")
PROGRESS_SIZE = _PROGRESS.size

_networked = lru_cache(maxsize=16)(is_networked)


def _checksum(position: int) -> int:
    return zlib.crc32(position.to_bytes(8, "little"))


def decode_progress(data: bytes) -> int:
    """What a claim says of how far other hosts may read, as an offset in the object; 0: nothing yet."""
    if len(data) < PROGRESS_SIZE:
        return 0
    position, checksum = _PROGRESS.unpack_from(data)
    return int(position) if checksum == _checksum(position) else 0


class Claim:
    """This process is getting some bytes of an entry, or has asked S3 for them; thread-safe. It is touched every
    second, and ends by :meth:`release`.
    """

    def __init__(self, volume: Volume, path: str, generation: int, interval: Interval) -> None:
        self.generation = generation
        self.interval = interval
        self._volume = volume
        self._path = path
        self._writer: Writer | None = None
        self._networked = _networked(volume.root)
        volume.live.add(self)

    def writing(self, writer: Writer) -> None:
        """The bytes go into this file from now on; everything before has been published."""
        self._writer = writer

    def touch(self) -> None:
        """Say that the owner still works on it, and how far other hosts may read. A touch that fails is none."""
        try:
            if self._networked:
                self._sync()
            self._volume.calls.utime(self._path)
        except OSError:
            return

    def _sync(self) -> None:
        writer, calls = self._writer, self._volume.calls
        if writer is None:
            return
        position = writer.start + writer.written
        try:
            handle = writer.handle()
        except ValueError:
            return
        try:
            os.fdatasync(handle.fd)
        finally:
            handle.close()
        fd = calls.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            calls.pwrite(fd, _PROGRESS.pack(position, _checksum(position)), 0)
        finally:
            calls.close(fd)

    def release(self) -> None:
        """It is over: what was to be published is. Idempotent. Never raises; what can't be removed, a scan finds."""
        if self in self._volume.live:
            self._volume.live.discard(self)
            try:
                self._volume.unlink(self._path)
            except OSError:
                return


def make_claim(volume: Volume, name: EntryName, generation: int, interval: Interval) -> Claim | None:
    """See :meth:`DiskStore.claim`."""
    text = claim_name(*interval, volume.instance.number, next_serial())
    path = f"{volume.generation_path(name, generation)}/{text}"
    try:
        volume.calls.close(volume.calls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError:
        return None
    return Claim(volume, path, generation, interval)


@attrs.frozen(kw_only=True)
class Flight:
    """The flight file of another process, as it was at one moment.

    :ivar nonce: tells it from others; 0: it is just being made
    :ivar instance: whose it is
    :ivar here: whether that process runs on this host
    :ivar asks: the bytes of the object that S3 was asked for; None: nothing that others could use
    :ivar entry: the version whose body is growing in it; None: there is none yet
    :ivar sign: changes with each sign of life
    """

    name: EntryName
    nonce: int
    instance: int
    here: bool
    asks: Interval | None
    entry: StoredEntry | None
    sign: tuple[int, int]


def look_at_flight(volume: Volume, name: EntryName) -> Flight | None:
    """What another process is about to publish; None: nothing, as far as can be told.

    :raises OSError: the disk failed
    """
    try:
        fd = volume.calls.open(volume.flight_path(name), READ)
    except OSError as problem:
        if problem.errno in GONE or problem.errno == errno.ELOOP:
            return None
        raise
    try:
        status = volume.calls.fstat(fd)
        data = volume.calls.pread(fd, _FIRST_READ, 0)
        sign = (status.st_size, status.st_mtime_ns)
        try:
            header = decode_header(data)
        except RecordError:
            # Just made: its owner is going to say who he is.
            return Flight(name=name, nonce=0, instance=0, here=True, asks=None, entry=None, sign=sign)
        if header.instance == volume.instance.number:
            return None
        body_at = HEADER_SIZE + header.meta_length
        if header.kind == INLINE and len(data) < body_at:
            data += volume.calls.pread(fd, body_at - len(data), len(data))
    finally:
        volume.calls.close(fd)
    asks = (header.generation, header.object_size) if header.kind == FLIGHT and header.object_size else None
    meta = data[HEADER_SIZE:body_at]
    entry = None
    if header.kind == INLINE and zlib.crc32(meta) == header.meta_crc:
        entry = stored_entry(name, header, meta, inode=status.st_ino, epoch=0)
        asks = WHOLE
    return Flight(
        name=name,
        nonce=header.nonce,
        instance=header.instance,
        here=volume.instance.is_here(header.instance),
        asks=asks,
        entry=entry,
        sign=sign,
    )


@attrs.frozen(kw_only=True)
class ClaimedRange:
    """The claim of another process, as it was found.

    :ivar text: the claim's name, which no other one has
    :ivar here: whether that process runs, or ran, on this host
    :ivar alive: whether it may still run
    :ivar sign: changes with each sign of life
    """

    entry: StoredEntry
    text: str
    start: int
    stop: int
    instance: int
    here: bool
    alive: bool
    sign: int


def find_claims(volume: Volume, entry: StoredEntry) -> tuple[ClaimedRange, ...]:
    """See :meth:`DiskStore.claims`."""
    path = volume.generation_path(entry.name, entry.generation)
    found = []
    try:
        for text in volume.calls.listdir(path):
            temp = parse_temp(text) if text.startswith("f.") else None
            if temp is not None and temp.instance != volume.instance.number:
                found.append(
                    ClaimedRange(
                        entry=entry,
                        text=text,
                        start=temp.start,
                        stop=temp.stop,
                        instance=temp.instance,
                        here=volume.instance.is_here(temp.instance),
                        alive=volume.instance.is_alive(temp.instance),
                        sign=volume.calls.stat(f"{path}/{text}").st_mtime_ns,
                    )
                )
    except OSError as problem:
        if problem.errno not in GONE:
            raise
    return tuple(found)
