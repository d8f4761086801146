"""How many objects and files with bodies there are: counted shard by shard, a few at a time, by names alone."""

import time

from s3proxy.storage.eviction import shard_paths
from s3proxy.storage.layout import EntryName, parse_generation, parse_range
from s3proxy.storage.volume import Volume

__all__ = ["Census"]


class Census:
    """Walks round and round. Every call blocks: it belongs into a thread.

    What is there is the sum of what was found in each shard the last time, so that it is out of date by one round at
    most. Until the first round is over it is too little.

    :ivar rounds: that are over
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._left: list[tuple[int, str]] = []
        self._counts: dict[int, tuple[int, int]] = {}
        self._seen: set[int] = set()
        self.rounds = 0

    @property
    def objects(self) -> int:
        """Objects that have an entry."""
        return sum(objects for objects, _ in self._counts.values())

    @property
    def ranges(self) -> int:
        """Files with parts of bodies beside these."""
        return sum(ranges for _, ranges in self._counts.values())

    def step(self, seconds: float) -> None:
        """Go on for about so long.

        :raises OSError: the directory can't be read
        """
        until = time.monotonic() + seconds
        if not self._left:
            self._left = shard_paths(self._volume)
            self._seen = set()
        while self._left and time.monotonic() < until:
            index, path = self._left.pop()
            self._counts[index] = self._count(path)
            self._seen.add(index)
        if not self._left:
            self._counts = {index: found for index, found in self._counts.items() if index in self._seen}
            self.rounds += 1

    def _count(self, path: str) -> tuple[int, int]:
        calls = self._volume.calls
        objects = ranges = 0
        try:
            for text in calls.listdir(path):
                if EntryName.from_text(text) is not None:
                    objects += 1
                elif parse_generation(text) is not None:
                    ranges += self._ranges(f"{path}/{text}")
        except FileNotFoundError:
            # A shard that went meanwhile.
            return 0, 0
        return objects, ranges

    def _ranges(self, path: str) -> int:
        calls = self._volume.calls
        try:
            names = calls.listdir(path)
            found = sum(parse_range(text) is not None for text in names)
            for text in names:
                if text.isalnum():
                    found += sum(parse_range(inner) is not None for inner in calls.listdir(f"{path}/{text}"))
            return found
        except (FileNotFoundError, NotADirectoryError):
            return 0
