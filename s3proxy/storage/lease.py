"""The right to publish an entry: the flight file ``K.f``."""

import errno
import os

from s3proxy.storage.handles import OpenFile
from s3proxy.storage.layout import EntryName, footprint
from s3proxy.storage.record import FLIGHT, HEADER_SIZE, Header, encode_header
from s3proxy.storage.volume import Volume

__all__ = ["Lease", "revoke", "take_lease"]

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_CHARGE = footprint(HEADER_SIZE)


class Lease:
    """One flight file that this process created and may turn into the entry.

    Whoever changes the object revokes it by removing the file; publication, which renames that very file, then can't
    succeed. A lease must be taken before the request is sent whose answer is to be published, touched every few
    seconds, and ends by publication or by :meth:`release`.
    """

    def __init__(self, volume: Volume, name: EntryName, file: OpenFile, nonce: int, inode: int) -> None:
        self.name = name
        self.nonce = nonce
        self.inode = inode
        self.file = file
        self.held = True
        self._volume = volume

    def touch(self) -> None:
        """Say that the owner still works on it. A touch that fails is none: others then break the lease in time."""
        if self.held:
            try:
                self._volume.calls.utime(self.file.fd)
            except OSError:
                return

    def revoked(self) -> bool:
        """Whether publication would fail now."""
        return not self.held or self._volume.inode(self._volume.flight_path(self.name)) != self.inode

    def release(self) -> None:
        """Give the lease up. Idempotent.

        :raises OSError: the flight file could not be removed; it expires by its age
        """
        if not self.held:
            return
        try:
            self.remove()
        finally:
            self.consume()

    def remove(self) -> bool:
        """Remove the flight file if it is still this one, under whichever of the two names; whether the lease still
        stood.
        """
        volume = self._volume
        with volume.lock(self.name):
            path = volume.flight_path(self.name)
            if volume.inode(path) == self.inode:
                return volume.unlink(path)
            # The publication of an older attempt may have moved this file onto the entry's name; unfinished, it is
            # nobody's.
            entry = volume.entry_path(self.name)
            if volume.inode(entry) == self.inode:
                volume.unlink(entry)
            return False

    def consume(self) -> None:
        """The flight file is the entry now, or is gone: let go of it."""
        if self.held:
            self.held = False
            self._volume.live.discard(self)
            self._volume.ledger.grow(-_CHARGE)
            self.file.release()


def take_lease(volume: Volume, name: EntryName, timeout: float) -> Lease | None:
    """Create the flight file; None when somebody holds it who touched it less than ``timeout`` seconds ago."""
    path = volume.flight_path(name)
    for _ in range(3):
        try:
            fd = volume.calls.open(path, _FLAGS, 0o600)
        except FileExistsError:
            try:
                age = volume.now() - volume.calls.stat(path).st_mtime
            except FileNotFoundError:
                continue
            if age <= timeout:
                return None
            volume.counts.lease_broken()
            volume.unlink(path)
            continue
        except FileNotFoundError:
            volume.make_shard(name)
            continue
        except NotADirectoryError:
            volume.heal_shard(os.path.dirname(path))
            volume.make_shard(name)
            continue
        return _new_lease(volume, name, fd)
    return None


def revoke(volume: Volume, name: EntryName) -> None:
    """Take the right to publish away from whoever has it."""
    volume.unlink(volume.flight_path(name))


def _new_lease(volume: Volume, name: EntryName, fd: int) -> Lease:
    nonce = volume.random.getrandbits(64)
    header = Header(
        kind=FLIGHT,
        complete=False,
        unconfirmed=False,
        validated_at=0,
        meta_length=0,
        body_length=0,
        object_size=0,
        generation=0,
        observed_at=0,
        meta_crc=0,
        footer_length=0,
        nonce=nonce,
        instance=volume.instance.number,
    )
    lease = Lease(volume, name, OpenFile(volume.calls, fd), nonce, volume.calls.fstat(fd).st_ino)
    volume.live.add(lease)
    volume.ledger.grow(_CHARGE)
    try:
        if volume.calls.pwrite(fd, encode_header(header), 0) != HEADER_SIZE:
            raise OSError(errno.EIO, "short write", volume.flight_path(name))
    except OSError:
        lease.release()
        raise
    return lease
