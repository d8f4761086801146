"""The right to publish an entry: the flight file ``K.f``."""

import errno
import os

from s3proxy.storage.handles import OpenFile
from s3proxy.storage.layout import EntryName, footprint
from s3proxy.storage.record import FLIGHT, HEADER_SIZE, Header, encode_header
from s3proxy.storage.volume import Volume
from s3proxy.util.intervals import Interval

__all__ = ["WHOLE", "Lease", "revoke", "take_lease"]

WHOLE: Interval = (0, (1 << 64) - 1)
"""The bytes that are asked for with the whole object, whose size is not known yet."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_CHARGE = footprint(HEADER_SIZE)


class Lease:
    """One flight file that this process created and may turn into the entry.

    Whoever changes the object revokes it by removing the file; publication, which renames that very file, then can't
    succeed. A lease must be taken before the request is sent whose answer is to be published, touched every few
    seconds, and ends by publication or by :meth:`release`.
    """

    def __init__(
        self, volume: Volume, name: EntryName, file: OpenFile, nonce: int, inode: int, asks: Interval | None = None
    ) -> None:
        self.name = name
        self.nonce = nonce
        self.inode = inode
        self.file = file
        self.held = True
        self._volume = volume
        self._asks = asks

    def announce(self, asks: Interval) -> None:
        """Show other processes that these bytes are being asked for, too. Until something is published; one that fails
        is none.
        """
        known = self._asks
        if known is None or asks == WHOLE or (asks[0] <= known[1] and known[0] <= asks[1]):
            united = asks if known is None else (min(known[0], asks[0]), max(known[1], asks[1]))
            if self.held and united != known:
                self._asks = united
                try:
                    self._volume.calls.pwrite(self.file.fd, _flight_header(self._volume, self.nonce, united), 0)
                except OSError:
                    return

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


def take_lease(
    volume: Volume,
    name: EntryName,
    timeout: float,
    *,
    asks: Interval | None = None,
    instead_of: int | None = None,
) -> Lease | None:
    """Create the flight file; None when somebody holds it who lives, and touched it less than ``timeout`` seconds ago.

    :param asks: the bytes of the object that are going to be asked for; None: others have nothing to wait for
    :param instead_of: the nonce of a flight file whose owner has been waited for long enough
    """
    path = volume.flight_path(name)
    for _ in range(3):
        try:
            fd = volume.calls.open(path, _FLAGS, 0o600)
        except FileExistsError:
            try:
                age = volume.now() - volume.calls.stat(path).st_mtime
            except FileNotFoundError:
                continue
            if age <= timeout and not _is_abandoned(volume, path, instead_of):
                return None
            volume.counts.lease_broken()
            volume.remove_flight(name)
            continue
        except FileNotFoundError:
            volume.make_shard(name)
            continue
        except NotADirectoryError:
            volume.heal_shard(os.path.dirname(path))
            volume.make_shard(name)
            continue
        return _new_lease(volume, name, fd, asks)
    return None


def _is_abandoned(volume: Volume, path: str, instead_of: int | None) -> bool:
    """Whether the owner of a flight file is known to be dead, or has been waited for."""
    found = volume.peek(path)
    if found is None or found.header is None:
        return False
    return found.header.nonce == instead_of or not volume.instance.is_alive(found.header.instance)


def revoke(volume: Volume, name: EntryName) -> None:
    """Take the right to publish away from whoever has it."""
    volume.remove_flight(name)


def _flight_header(volume: Volume, nonce: int, asks: Interval | None) -> bytes:
    """What a flight file says until it is published: who is at work, and which bytes of the object he asks for."""
    start, stop = asks or (0, 0)
    return encode_header(
        Header(
            kind=FLIGHT,
            complete=False,
            unconfirmed=False,
            validated_at=0,
            meta_length=0,
            body_length=0,
            object_size=stop,
            generation=start,
            observed_at=0,
            meta_crc=0,
            footer_length=0,
            nonce=nonce,
            instance=volume.instance.number,
        )
    )


def _new_lease(volume: Volume, name: EntryName, fd: int, asks: Interval | None) -> Lease:
    nonce = volume.random.getrandbits(64)
    lease = Lease(volume, name, OpenFile(volume.calls, fd), nonce, volume.calls.fstat(fd).st_ino, asks)
    volume.live.add(lease)
    volume.ledger.grow(_CHARGE)
    try:
        if volume.calls.pwrite(fd, _flight_header(volume, nonce, asks), 0) != HEADER_SIZE:
            raise OSError(errno.EIO, "short write", volume.flight_path(name))
    except OSError:
        lease.release()
        raise
    return lease
