"""Has bodies stored smaller, after they were stored as they came: in threads, one at a time, behind all answers."""

from collections import deque
from collections.abc import Callable, Iterable

import attrs
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.entry import ObjectVersion
from s3proxy.storage.disk import DiskStore
from s3proxy.storage.entry import StoredEntry
from s3proxy.storage.packing import Packed, Packing
from s3proxy.storage.record import INLINE, RANGES
from s3proxy.util.intervals import Interval

__all__ = ["PackingRules", "Packer"]

SMALLEST = 4096
"""Bytes of the largest body that can't become smaller: a file takes whole blocks of the disk."""
MOST_WAITING = 1024
"""Bodies and ranges that wait; more are left as they are."""


@attrs.frozen
class PackingRules:
    """:ivar wants: whether the bodies of this version are worth an attempt
    :ivar threshold: smaller bodies are not
    :ivar block: logarithm of the bytes that are encoded as one
    """

    wants: Callable[[ObjectVersion], bool]
    threshold: int
    block: int


class Packer:
    """See the module. Everything here belongs to the reactor's thread but the work itself.

    :param store: None: there is nothing to pack
    :ivar rules: which bodies are offered in earnest; None: none, at no cost
    :ivar outcomes: how often what became of it
    :ivar before: bytes on disk of what was made smaller,
    :ivar after: and of what took its place
    :ivar left: offers for which there was no room in the queue
    """

    log = Logger()

    def __init__(self, store: DiskStore | None, run: RunInThread) -> None:
        self.rules: PackingRules | None = None
        self.outcomes = dict.fromkeys(Packed, 0)
        self.before = self.after = self.left = 0
        self._store = store
        self._run = run
        self._waiting: deque[tuple[StoredEntry, Interval | None]] = deque()
        self._known: set[tuple[bytes, int, Interval | None]] = set()
        self._busy = False

    def __len__(self) -> int:
        return len(self._waiting) + self._busy

    def offer(self, version: ObjectVersion, stored: StoredEntry, ranges: Iterable[Interval]) -> None:
        """A body was stored: have it made smaller when it is its turn, if it is worth it.

        :param ranges: its range files, if it has any
        """
        rules = self.rules
        if rules is None or self._store is None:
            return
        least = max(SMALLEST, rules.threshold - 1)
        places: list[Interval | None] = []
        if stored.kind == INLINE:
            places += [None] if stored.body_len > least and not stored.encoded else []
        elif stored.kind == RANGES:
            places += [each for each in ranges if each[1] - each[0] > least]
        if not places or not rules.wants(version):
            return
        for place in places:
            if len(self._waiting) >= MOST_WAITING:
                self.left += 1
            elif self._name(stored, place) not in self._known:
                self._known.add(self._name(stored, place))
                self._waiting.append((stored, place))
        self._next()

    @staticmethod
    def _name(stored: StoredEntry, place: Interval | None) -> tuple[bytes, int, Interval | None]:
        return stored.name.digest, stored.generation or stored.nonce, place

    def close(self) -> None:
        """Begin nothing any more."""
        self.rules = None
        self._waiting.clear()
        self._known.clear()

    def _next(self) -> None:
        if self._busy or not self._waiting or self.rules is None or self._store is None:
            return
        stored, place = self._waiting.popleft()
        store, block = self._store, self.rules.block
        self._busy = True

        def work() -> Packing:
            if place is None:
                return store.pack_entry(stored, block=block)
            return store.pack_range(stored, *place, block=block)

        def over(result: "Packing | Failure") -> None:
            self._busy = False
            self._known.discard(self._name(stored, place))
            if isinstance(result, Packing):
                self.outcomes[result.outcome] += 1
                self.before += result.before
                self.after += result.after
            elif not result.check(OSError):
                self.log.failure("making a stored body smaller", result)
            else:
                # A full disk, a damaged file: it stays what it is, and others notice.
                self.outcomes[Packed.NOT_NOW] += 1
            self._next()

        self._run(work).addBoth(over)
