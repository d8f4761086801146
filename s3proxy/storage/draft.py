"""A generation that is prepared where nobody looks, and becomes an entry's in one step."""

from s3proxy.storage.entry import EntryFacts, StoredEntry
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, SEGMENT, EntryName, new_generation, range_directory, range_name
from s3proxy.storage.lease import Lease
from s3proxy.storage.publish import Room, publish_ranges
from s3proxy.storage.share import Allowance
from s3proxy.storage.upload_names import draft_name
from s3proxy.storage.volume import Volume

__all__ = ["Draft", "directory_charges"]


def directory_charges(object_size: int) -> int:
    """What the directories of a complete object are charged with."""
    segments = -(-object_size // SEGMENT) if object_size > SEGMENT else 0
    return DIRECTORY_FOOTPRINT * (1 + segments)


class Draft:
    """A directory below ``up/`` with the ranges of one version of an object.

    :param allowance: has the room for its directories, see :func:`directory_charges`
    """

    def __init__(self, volume: Volume, room: Room, allowance: Allowance, name: EntryName, object_size: int) -> None:
        self._volume = volume
        self._room = room
        self._allowance = allowance
        self._name = name
        self._object_size = object_size
        self._generation = new_generation(volume.random)
        self._directories: set[str] = set()
        self.path = f"{volume.uploads}/{draft_name(name, self._generation, volume.instance.number)}"

    def place(self, start: int, stop: int) -> str:
        """The path for the bytes [start, stop) of the object; its directory exists then.

        :raises OSError: the directory could not be made
        """
        self._make(self.path)
        segment = range_directory(self._object_size, start)
        directory = f"{self.path}/{segment}" if segment else self.path
        self._make(directory)
        return f"{directory}/{range_name(start, stop)}"

    def _make(self, path: str) -> None:
        volume = self._volume
        if path not in self._directories:
            with volume.ledger.changing(volume.uploads_shard):
                volume.make_directory(path, volume.uploads_shard)
            self._directories.add(path)
            self._allowance.use(DIRECTORY_FOOTPRINT)

    def publish(self, lease: Lease, facts: EntryFacts, charge: int) -> StoredEntry | None:
        """Publish the entry with these ranges. None: the lease was revoked, or there is no room. Ends the lease; the
        draft is gone.

        :param charge: what its files are charged with
        :raises OSError: the disk failed
        """
        volume, name = self._volume, self._name
        entry = None
        try:
            self._make(self.path)
            if self._move(charge):
                entry = publish_ranges(volume, self._room, lease, facts, generation=self._generation)
        finally:
            if entry is None:
                self.discard()
                volume.discard_generation(name, self._generation)
            lease.release()
        return entry

    def _move(self, charge: int) -> bool:
        """Let it be an entry's generation, which no entry names yet; False when it is gone."""
        volume, shard = self._volume, self._volume.shard_of(self._name)
        total = charge + DIRECTORY_FOOTPRINT * len(self._directories)
        with volume.ledger.changing(volume.uploads_shard), volume.ledger.changing(shard):
            try:
                # A scan takes it for left behind if it is old.
                volume.calls.utime(self.path)
                volume.calls.rename(self.path, volume.generation_path(self._name, self._generation))
            except FileNotFoundError:
                return False
            volume.ledger.add(volume.uploads_shard, -total, unread=-charge)
            volume.ledger.add(shard, total, unread=charge)
        self._directories.clear()
        return True

    def discard(self) -> None:
        """Give it up. Idempotent; what can't be removed is found later."""
        if self._directories:
            self._directories.clear()
            self._volume.discard_directory(self.path, self._volume.uploads_shard)
