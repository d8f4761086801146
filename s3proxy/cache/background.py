"""Work on the store that is done behind an answer: in a thread, or at once where that takes some microseconds."""

from collections.abc import Callable
from typing import Any

from s3proxy.storage.errors import NotNow

__all__ = ["Promptness", "write_small_range"]

SLOW = 0.002
"""Seconds that small writes may take on average; a single one may take longer, because of other programs, say."""
MEMORY = 16
"""About how many writes the average looks back on."""
PAUSE = 1.0
"""Seconds for which small writes go to the threads when they have become slow."""


class Promptness:
    """Whether the disk takes small writes so fast that the reactor may make them itself.

    A small body is a handful of system calls. In a thread each of them gives up the interpreter's lock and has to win it
    back from the reactor: measured with bodies of 1 KiB, that cost a third of all the CPU time of a miss. But a disk
    that is slow may take its time over any of them, and the reactor must not wait for it more often than now and then.

    :param seconds: a clock
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._average = 0.0
        self._not_before = 0.0

    def attempt(self, call: Callable[[], Any]) -> Any:
        """The call's result.

        :raises NotNow: the disk was slow a moment ago, or the call would have to evict something
        """
        began = self._seconds()
        if began < self._not_before:
            raise NotNow
        try:
            return call()
        finally:
            ended = self._seconds()
            self._average += (ended - began - self._average) / MEMORY
            if self._average > SLOW:
                self._average = 0.0
                self._not_before = ended + PAUSE


def write_small_range(open_writer: Callable[[int], Any], start: int, chunks: list[bytes]) -> Any:
    """Write and publish a range that was answered from memory.

    :param open_writer: gives the writer for the bytes from an offset on; it decides how many it takes
    :return: the last commit's result
    """
    result = None
    body = b"".join(chunks)
    position = 0
    while position < len(body):
        writer = open_writer(start + position)
        try:
            writer.append([body[position : position + writer.length]])
            result = writer.commit()
            position += writer.length
        finally:
            writer.close()
    return result
