"""The walk through the cache directory after a start: what is there is counted, what a crash left behind is deleted."""

import stat
import time
from collections import deque

from s3proxy.storage.balance import parse_draft
from s3proxy.storage.counting import Counting, Sum
from s3proxy.storage.eviction import Evictor, shard_paths
from s3proxy.storage.files import is_unread
from s3proxy.storage.layout import EntryName, is_encoded, parse_generation, parse_range, parse_temp
from s3proxy.storage.peers import Peers
from s3proxy.storage.reading import is_sound
from s3proxy.storage.reaper import Reaper
from s3proxy.storage.recency import is_sidecar, parse_sidecar_name
from s3proxy.storage.record import FLIGHT, HEADER_SIZE, INLINE, RANGES, body_length, footer_size
from s3proxy.storage.upload_names import is_data, parse_staging
from s3proxy.storage.volume import Volume

__all__ = ["Scan"]

_GRACE = 60.0
_WALK_ATTEMPTS = 20
_PEER_ATTEMPTS = 5
"""The same where other instances may be changing it, too."""
_NAP = 0.05


class Scan:
    """One pass over every shard and all uploads, in slices. Never resurrects anything: what no entry points to is
    garbage.

    Deletes: ranges and flight files that no living instance is writing, generation directories that no entry names,
    damaged and unfinished entries, truncated ranges, ranges that lie wholly within another one, heartbeats of the dead,
    the trash of earlier runs, what :class:`~s3proxy.storage.reaper.Reaper` finds; after a failure of the host, what was
    written before it and is not what its checksums say. What may belong to an instance that still lives is left alone
    and counted in :attr:`postponed`.

    When the pass is over, the ledger knows exactly what the directory holds, but for shards that never rested.

    :param recount: the ledger is to forget what it knows before
    """

    def __init__(
        self,
        volume: Volume,
        reaper: Reaper,
        peers: Peers,
        evictor: Evictor,
        counting: Counting,
        *,
        verify: bool,
        recount: bool = False,
    ) -> None:
        self._peers = peers
        self._evictor = evictor
        self._counting = counting
        self._doubtful: list[Sum] = []
        self._volume = volume
        self._recount = recount
        self._reaper = reaper
        self._verify = verify
        self._shards: deque[tuple[int, str]] | None = None
        self._attempts: dict[int, int] = {}
        self._others_alive = False
        self._alive: dict[int, bool] = {}
        self.removed = 0
        self.postponed = 0
        self.done = False

    def step(self, items: int = 500) -> bool:
        """Walk on, for about ``items`` names; True when the pass is over. Blocks: call it in a thread.

        :raises OSError: the directory can't be read or changed; the step may be repeated
        """
        if self.done:
            return True
        if self._shards is None:
            self._begin()
        assert self._shards is not None
        self._peers.listen()
        self._settle_doubtful()
        if not self._shards and self._doubtful:
            # Others will have told in a moment what they were doing.
            time.sleep(_NAP)
            return False
        seen = 0
        while seen < items:
            if not self._shards and not self._doubtful:
                self._more_shards()
                if not self._shards:
                    self._end()
                    return True
            if not self._shards:
                return False
            seen += 1 + self._shard(*self._shards[0])
        return False

    def _begin(self) -> None:
        volume = self._volume
        self._others_alive = any(self._is_alive(number) for number in volume.instance.others())
        self.removed += volume.trash.clear(self._is_alive)
        if self._recount:
            volume.ledger.recount()
        # What others tell between the look at which shards there are and the conclusion would be lost.
        with self._peers.deaf():
            shards = self._all_shards()
            volume.ledger.finish_untouched({index for index, _ in shards})
        self._shards = deque(shards)

    def _all_shards(self) -> list[tuple[int, str]]:
        return [*shard_paths(self._volume), (self._volume.uploads_shard, self._volume.uploads)]

    def _more_shards(self) -> None:
        """Shards that were made, or were busy, while the pass went on."""
        assert self._shards is not None
        ledger = self._volume.ledger
        if not ledger.complete:
            shards = range(self._volume.uploads_shard + 1)
            self._shards.extend((shard, self._counting.path(shard)) for shard in shards if not ledger.is_walked(shard))

    def _end(self) -> None:
        volume = self._volume
        for number in volume.instance.others():
            if not self._is_alive(number):
                volume.instance.bury(number)
        self._evictor.clear_up()
        for name in volume.calls.listdir(f"{volume.root}/ctl"):
            owner = parse_draft(name)
            if owner is not None and not self._is_alive(owner):
                volume.unlink(f"{volume.root}/ctl/{name}")
        for name in volume.calls.listdir(volume.root):
            path = f"{volume.root}/{name}"
            if name.startswith("FORMAT.") and name.endswith(".tmp") and self._is_left_over(path, None):
                self.removed += volume.unlink(path)
        volume.empty_trash()
        volume.doubt_from = None
        self.done = True

    def _is_alive(self, number: int) -> bool:
        if number not in self._alive:
            self._alive[number] = self._volume.instance.is_alive(number)
        return self._alive[number]

    # One shard

    def _shard(self, index: int, path: str) -> int:
        """Clean and sum up the first shard of the queue; returns how many names it has."""
        assert self._shards is not None
        ledger = self._volume.ledger
        try:
            names = self._volume.calls.listdir(path)
        except NotADirectoryError:
            self._volume.heal_shard(path)
            self._volume.make_directory(path, index)
            names = []
        except FileNotFoundError:
            names = []
        if index == self._volume.uploads_shard:
            self._clean_uploads(path, names)
        else:
            self._clean(path, names)
        found = self._counting.look(index)
        attempts = self._attempts[index] = self._attempts.get(index, 0) + 1
        self._shards.popleft()
        settled = self._counting.settle(found)
        if settled:
            pass
        elif attempts >= (_WALK_ATTEMPTS if found.mark.alone else _PEER_ATTEMPTS):
            # What is always being changed is summed up as well as can be.
            ledger.assume(index, found.total, found.unread)
        elif settled is None:
            self._doubtful.append(found)
        else:
            self._shards.append((index, path))
        return len(names)

    def _settle_doubtful(self) -> None:
        """Take the sums that turned out to be right, and look again at the shards of those that did not."""
        assert self._shards is not None
        waiting = []
        for found in self._doubtful:
            settled = self._counting.settle(found)
            if settled is None:
                waiting.append(found)
            elif not settled:
                self._shards.append((found.shard, self._counting.path(found.shard)))
        self._doubtful = waiting

    def _clean_uploads(self, path: str, names: list[str]) -> None:
        self.removed += self._reaper.run()
        if self._volume.doubt_from is None:
            return
        for text in names:
            if parse_staging(text) is not None:
                self._clean_staged(f"{path}/{text}")

    def _clean_staged(self, path: str) -> None:
        """Remove bytes of parts that did not survive a failure of the host; the upload can't be assembled then."""
        volume = self._volume
        try:
            names = volume.calls.listdir(path)
        except FileNotFoundError:
            return
        for text in names:
            child = f"{path}/{text}"
            try:
                status = volume.calls.stat(child)
                if is_data(text) and not (body_length(status.st_size) and self._survived(child, 0)):
                    self.removed += volume.remove_counted(
                        child, volume.uploads_shard, status.st_size, unread=is_unread(status)
                    )
            except FileNotFoundError:
                continue

    def _clean(self, path: str, names: list[str]) -> None:
        for text in names:
            generation = parse_generation(text)
            if generation is not None:
                self._clean_generation(f"{path}/{text}", path, *generation)
            elif text.endswith(".f") and EntryName.from_text(text[:-2]) is not None:
                self._clean_flight(f"{path}/{text}")
            else:
                name = EntryName.from_text(text)
                if name is not None and self._verify:
                    self._clean_entry(f"{path}/{text}", name)

    def _clean_flight(self, path: str) -> None:
        found = self._volume.peek(path)
        if found is not None and self._is_left_over(path, None if found.header is None else found.header.instance):
            self.removed += self._volume.unlink(path)

    def _clean_entry(self, path: str, name: EntryName) -> None:
        """Remove an entry that no reader would accept."""
        volume = self._volume
        found = volume.peek(path)
        if found is None:
            return
        header = found.header
        if header is not None and not header.complete:
            if self._is_left_over(path, header.instance):
                self.removed += volume.remove_entry(name, inode=found.inode)
        elif header is None or header.kind == FLIGHT or header.file_size != found.size:
            if found.size or self._is_left_over(path, None):
                self.removed += volume.remove_entry(name, inode=found.inode)
        elif header.kind == INLINE and not self._survived(path, HEADER_SIZE + header.meta_length):
            self.removed += volume.remove_entry(name, inode=found.inode)

    def _survived(self, path: str, base: int) -> bool:
        """Whether the bytes are sound, in case the host failed when they were written."""
        volume = self._volume
        if volume.doubt_from is None:
            return True
        try:
            return not volume.is_doubtful(volume.calls.stat(path).st_mtime) or is_sound(volume, path, base=base)
        except FileNotFoundError:
            return True

    def _is_left_over(self, path: str, instance: int | None) -> bool:
        """Whether nobody who lives can be at work on the file. ``instance`` is None when it doesn't say whose it is."""
        if instance is not None:
            if self._is_alive(instance):
                self.postponed += instance != self._volume.instance.number
                return False
            return True
        try:
            changed = self._volume.calls.stat(path).st_mtime
        except FileNotFoundError:
            return False
        if self._others_alive:
            old = self._volume.now() - changed > _GRACE
        else:
            old = changed < self._volume.instance.started_at
        self.postponed += not old
        return old

    # One generation

    def _clean_generation(self, path: str, shard_path: str, name: EntryName, generation: int) -> None:
        volume = self._volume
        with volume.lock(name):
            found = volume.peek(f"{shard_path}/{name.text}")
            header = None if found is None else found.header
            if header is None or header.kind != RANGES or header.generation != generation:
                if self._is_left_over(path, None):
                    volume.discard_generation(name, generation)
                    self.removed += 1
                return
        spans = self._clean_directory(path, name)
        covered: tuple[int, int] | None = None
        # Of a range that is there twice, the encoded one stays.
        for start, stop, file in sorted(spans, key=lambda span: (span[0], -span[1], not is_encoded(span[2]))):
            if covered is not None and stop <= covered[1]:
                self._remove_range(file, name)
            elif covered is None or stop > covered[1]:
                covered = (start, stop)

    def _clean_directory(self, path: str, name: EntryName) -> list[tuple[int, int, str]]:
        """Remove what is unfinished or truncated; returns start, stop and path of every range that stays."""
        volume = self._volume
        spans = []
        try:
            names = volume.calls.listdir(path)
        except FileNotFoundError:
            return []
        for text in names:
            child = f"{path}/{text}"
            temp = parse_temp(text)
            if temp is not None:
                if self._is_left_over(child, temp.instance):
                    self.removed += volume.unlink(child)
                continue
            span = parse_range(text)
            try:
                if span is not None:
                    size, whole = volume.calls.stat(child).st_size, span[1] - span[0] + footer_size(span[1] - span[0])
                    # Of an encoded one it is known only that it is smaller; its first reader looks at it.
                    if (size == whole or (size < whole and is_encoded(text))) and self._survived(child, 0):
                        spans.append((*span, child))
                    else:
                        self._remove_range(child, name)
                elif not is_sidecar(text) and stat.S_ISDIR(volume.calls.stat(child).st_mode):
                    spans.extend(self._clean_directory(child, name))
                elif (
                    is_sidecar(text)
                    and volume.calls.stat(child).st_size == 0
                    and not self._is_alive(parse_sidecar_name(text) or 0)
                ):
                    self.removed += volume.unlink(child)
            except FileNotFoundError:
                continue
        return spans

    def _remove_range(self, path: str, name: EntryName) -> None:
        volume = self._volume
        with volume.lock(name):
            try:
                status = volume.calls.stat(path)
            except FileNotFoundError:
                return
            if volume.remove_counted(path, volume.shard_of(name), status.st_size, unread=is_unread(status)):
                self.removed += 1
                volume.bump(name)
                volume.handles.forget(name.digest)
