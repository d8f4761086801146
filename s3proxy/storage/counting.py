"""What one shard holds, found out while this host and others change it."""

import stat
import time
from typing import Final

import attrs

from s3proxy.storage.files import is_unread
from s3proxy.storage.layout import DIRECTORY_FOOTPRINT, footprint, parse_temp, shard_path
from s3proxy.storage.peers import PATIENCE, Mark, Peers
from s3proxy.storage.volume import Volume

__all__ = ["Corrections", "Counting", "Sum"]

_LOOKS: Final = 4
"""At one shard, when directories went into the trash meanwhile."""
_AT_ONCE: Final = 16
_SECONDS: Final = 0.2


@attrs.frozen
class Sum:
    """What a shard was seen to hold.

    :ivar token: the ledger's; None: this host was changing the shard, and the sum is not right
    :ivar mark: what the others had told before
    """

    shard: int
    total: int
    unread: int
    token: int | None
    mark: Mark


class Counting:
    """Looks at shards, one at a time. Every call blocks.

    :param patience: seconds for which other instances are waited for, to tell what they did meanwhile
    """

    def __init__(self, volume: Volume, peers: Peers, patience: float = PATIENCE) -> None:
        self._volume = volume
        self._peers = peers
        self._patience = patience

    def path(self, shard: int) -> str:
        """The directory of a shard."""
        volume = self._volume
        if shard == volume.uploads_shard:
            return volume.uploads
        return f"{volume.objects}/{shard_path(shard, volume.format.shard_bits)}"

    def look(self, shard: int) -> Sum:
        """Add up what is there now.

        :raises OSError: it can't be read
        """
        volume = self._volume
        token = volume.ledger.begin_walk(shard)
        mark = self._peers.mark(shard)
        for _ in range(_LOOKS):
            # What another instance renames from the shard into the trash, it does not tell: it would be found twice, or
            # not at all.
            discarded = volume.trash.of(shard)
            # The directory of uploads is always there, and is not counted.
            total, unread = 0 if shard != volume.uploads_shard else -DIRECTORY_FOOTPRINT, 0
            for path in (self.path(shard), *discarded):
                inner = self._sum(path)
                total, unread = total + inner[0], unread + inner[1]
            if volume.trash.of(shard) == discarded:
                break
        else:
            token = None
        self._peers.looked(mark)
        return Sum(shard, total, unread, token, mark)

    def settle(self, found: Sum) -> bool | None:
        """Take a sum, if it holds. None: that is not known yet, ask again after :meth:`Peers.listen`. False: the shard
        has to be looked at again.
        """
        if found.token is None:
            return False
        if not found.mark.alone:
            unchanged = self._peers.unchanged_since(found.mark, found.shard, self._patience)
            if not unchanged:
                return unchanged
        return self._volume.ledger.end_walk(found.shard, found.token, found.total, found.unread)

    def _sum(self, path: str) -> tuple[int, int]:
        """What the published files and directories at and below ``path`` are charged with, and the unread ones of
        them.
        """
        calls = self._volume.calls
        try:
            status = calls.stat(path)
            if not stat.S_ISDIR(status.st_mode):
                charge = footprint(status.st_size)
                return charge, charge if is_unread(status) else 0
            names = calls.listdir(path)
        except FileNotFoundError:
            return 0, 0
        total, unread = DIRECTORY_FOOTPRINT, 0
        for text in names:
            if not text.endswith(".f") and parse_temp(text) is None:
                inner = self._sum(f"{path}/{text}")
                total, unread = total + inner[0], unread + inner[1]
        return total, unread


class Corrections:
    """Looks again at the shards whose sums are only assumed, until it finds each at rest. Called by one thread at a
    time; somebody else listens to the others meanwhile.
    """

    def __init__(self, volume: Volume, counting: Counting) -> None:
        self._volume = volume
        self._counting = counting
        self._found: dict[int, Sum] = {}
        self._last = -1

    def due(self) -> bool:
        """Whether there are any."""
        ledger = self._volume.ledger
        return ledger.complete and bool(ledger.assumed)

    def step(self) -> None:
        """Take what has turned out to be right, and look at some others.

        :raises OSError: the directory can't be read
        """
        if not self._volume.ledger.complete:
            self._found.clear()
            return
        self._found = {shard: found for shard, found in self._found.items() if self._counting.settle(found) is None}
        assumed = [shard for shard in self._volume.ledger.assumed if shard not in self._found]
        until = time.monotonic() + _SECONDS
        # Each in its turn.
        for shard in sorted(assumed, key=lambda shard: (shard <= self._last, shard))[: _AT_ONCE - len(self._found)]:
            found = self._counting.look(shard)
            if self._counting.settle(found) is None:
                self._found[shard] = found
            self._last = shard
            if time.monotonic() > until:
                return
