"""Taking entries back: before, during and after the object is changed; and confirming that they still hold.

The order of the steps is what makes these safe between processes. Every publication renames a flight file that existed
before the request was sent whose answer it publishes. An invalidation removes the flight file first and the entry
second: an attempt that began earlier has either published before, and its entry is removed, or finds no flight file.
"""

import errno
import os

import attrs

from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.errors import StoreError
from s3proxy.storage.files import is_unread, write_fully
from s3proxy.storage.layout import EntryName
from s3proxy.storage.lease import Lease, revoke, take_lease
from s3proxy.storage.loading import CorruptEntry, read_entry
from s3proxy.storage.reading import remove_damaged
from s3proxy.storage.record import HEADER_SIZE, STAMP_OFFSET, decode_header, encode_stamp, nanoseconds, seconds
from s3proxy.storage.volume import Volume
from s3proxy.util.intervals import Interval

__all__ = ["Arm", "Renewal", "arm", "drop", "prepare_renewal"]

_ATTEMPTS = 5


class Arm:
    """An entry that must be confirmed before it is used, and that nobody can confirm or replace, while its object is
    being changed.

    ``lease`` is None when another process was quicker to take it, or when no file could be created: the entry is still
    safe, only a crash between the change and :meth:`invalidate` is not covered.
    """

    def __init__(self, volume: Volume, name: EntryName, lease: Lease | None) -> None:
        self.name = name
        self.lease = lease
        self._volume = volume

    def invalidate(self) -> None:
        """The object changed, or may have: remove the entry.

        :raises StoreError: it could not be removed
        """
        try:
            drop(self._volume, self.name)
        finally:
            if self.lease is not None:
                self.lease.consume()

    def disarm(self) -> None:
        """The object did not change: let others confirm the entry again. Never raises; a lease that can't be removed
        expires.
        """
        if self.lease is not None:
            try:
                self.lease.release()
            except OSError:
                return


def arm(volume: Volume, name: EntryName, timeout: float) -> Arm:
    """Revoke whoever may publish the entry, take the lease, and mark the entry as never validated.

    :raises StoreError: the entry may still look fresh to others
    """
    with volume.lock(name):
        lease = None
        try:
            for _ in range(_ATTEMPTS):
                revoke(volume, name)
                lease = take_lease(volume, name, timeout)
                if lease is not None:
                    break
            _stamp_never(volume, name)
            return Arm(volume, name, lease)
        except StoreError:
            raise
        except OSError as problem:
            # A full disk has no room for a flight file, but names can still be removed.
            if lease is not None:
                lease.consume()
            _remove_both(volume, name, problem)
            return Arm(volume, name, None)
        finally:
            volume.void(name)


def drop(volume: Volume, name: EntryName) -> None:
    """Remove an entry and revoke whoever may publish it.

    :raises StoreError: it could not be removed
    """
    with volume.lock(name):
        try:
            revoke(volume, name)
            if not volume.remove_entry(name):
                volume.check()
        except StoreError:
            raise
        except OSError as problem:
            _remove_both(volume, name, problem)
        finally:
            volume.void(name)


def _stamp_never(volume: Volume, name: EntryName) -> None:
    try:
        fd = volume.calls.open(volume.entry_path(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        header = decode_header(volume.calls.pread(fd, HEADER_SIZE, 0))
        stamp = encode_stamp(complete=header.complete, unconfirmed=header.unconfirmed, validated_at=0)
        write_fully(volume.calls, fd, [stamp], STAMP_OFFSET)
    except ValueError:
        volume.remove_entry(name)
    finally:
        volume.calls.close(fd)


def _remove_both(volume: Volume, name: EntryName, problem: OSError) -> None:
    """The orderly way failed: be content if neither name exists any more."""
    path = volume.flight_path(name)
    try:
        if volume.inode(path) is not None:
            volume.unlink(path)
        path = volume.entry_path(name)
        if volume.inode(path) is not None:
            status = volume.calls.stat(path)
            volume.remove_counted(path, volume.shard_of(name), status.st_size, unread=is_unread(status))
    except OSError as second:
        raise StoreError(
            second.errno or errno.EIO,
            f"an entry could not be taken back ({problem.strerror}); nothing may be served from the cache "
            "directory until it can be written again",
            path,
        ) from second
    volume.check()


class Renewal:
    """An attempt to confirm an entry, begun before the question is asked.

    ``entry`` is what will be confirmed; ``lease`` may be used to publish the new version instead, if that is the
    answer.
    """

    def __init__(self, volume: Volume, entry: StoredEntry, fd: int, lease: Lease) -> None:
        self.entry = entry
        self.lease = lease
        self._volume = volume
        self._fd = fd

    def confirm(self, validated_at: float) -> StoredEntry | None:
        """The object was still the same at ``validated_at``. None: somebody changed the object meanwhile; the entry
        stays unconfirmed.

        :raises OSError: the confirmation could not be written
        """
        volume, name = self._volume, self.entry.name
        if self._fd < 0 or not self.lease.held:
            return None
        try:
            with volume.lock(name):
                moment = nanoseconds(validated_at)
                write_fully(
                    volume.calls,
                    self._fd,
                    [encode_stamp(complete=True, unconfirmed=False, validated_at=moment)],
                    STAMP_OFFSET,
                )
                epoch = volume.bump(name)
                if volume.calls.fstat(self._fd).st_nlink > 0 and self.lease.remove():
                    self.lease.consume()
                    return _renewed(self.entry, moment, epoch)
                self._withdraw()
                return None
        finally:
            self.cancel()

    def _withdraw(self) -> None:
        """A writer revoked the lease: whatever was confirmed may be the old version."""
        volume, entry = self._volume, self.entry
        stamp = encode_stamp(complete=True, unconfirmed=entry.unconfirmed, validated_at=0)
        try:
            write_fully(volume.calls, self._fd, [stamp], STAMP_OFFSET)
        except OSError:
            drop(volume, entry.name)
        finally:
            volume.bump(entry.name)

    def hand_over(self) -> Lease:
        """Give up confirming: the lease is the caller's, to publish another version with."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._volume.calls.close(fd)
        return self.lease

    def cancel(self) -> None:
        """Leave the entry as it is. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._volume.calls.close(fd)
        try:
            self.lease.release()
        except OSError:
            return


def _renewed(entry: StoredEntry, moment: int, epoch: int) -> StoredEntry:
    return attrs.evolve(entry, validated_at=seconds(moment), unconfirmed=False, epoch=epoch)


def prepare_renewal(
    volume: Volume,
    name: EntryName,
    timeout: float,
    *,
    asks: Interval | None = None,
    instead_of: int | None = None,
) -> Renewal | None:
    """Open the entry, then take the lease: in this order, so that an entry that is replaced in between is not confirmed
    by mistake.

    None: there is no entry, or somebody else holds the lease. The other arguments are those of :func:`take_lease`.
    """
    epoch = volume.generations.get(name.slot)
    try:
        fd = volume.calls.open(volume.entry_path(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.ESTALE, errno.ELOOP):
            return None
        raise
    lease = None
    try:
        entry = read_entry(volume, fd, name, epoch)
        if entry is not None:
            lease = take_lease(volume, name, timeout, asks=asks, instead_of=instead_of)
        if entry is None or lease is None:
            return None
        renewal = Renewal(volume, entry, fd, lease)
        fd = -1
        return renewal
    except CorruptEntry as problem:
        remove_damaged(volume, name, problem)
        return None
    finally:
        if fd >= 0:
            volume.calls.close(fd)
