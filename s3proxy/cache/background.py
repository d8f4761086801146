"""Work on the store that is done behind an answer: in a thread, or at once where that takes some microseconds."""

import resource
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from s3proxy.storage.errors import NotNow
from s3proxy.util.intervals import Interval

__all__ = ["Promptness", "RunInThread", "write_small_range"]

T = TypeVar("T")

RunInThread = Callable[..., Deferred[Any]]
"""Calls a function with the arguments that follow in a thread for disk work; the Deferred fires with its result."""

SLOW = 0.0005
"""Seconds that writes may wait on average: about what a trip to the thread costs."""
MEMORY = 16
"""About how many writes the average looks back on."""
PAUSE = 1.0
"""Seconds for which writes go to the threads when they have become slow; twice as many each time that happens again."""
LONGEST_PAUSE = 64.0


def thread_waits() -> int:
    """How often the calling thread gave up the processor because it had to wait (getrusage(2), ``ru_nvcsw``)."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Promptness:
    """Whether the disk takes writes so fast that the reactor may make them itself.

    In a thread each system call gives up the interpreter's lock and has to win it back from the reactor, which gives it
    up, too, for every record that it decrypts: measured with bodies of 1 KiB, that cost a third of all the CPU time of
    a miss, and with bodies of 1 MiB there were 165 futex calls for each. But a disk that is slow may take its time over
    any write, and the reactor must not wait for it more often than now and then.

    Only what made the thread wait counts: a processor that was taken away for another program says nothing about the
    disk.

    :param seconds: a clock
    :param waits: how often the calling thread has had to wait for something so far
    """

    def __init__(self, seconds: Callable[[], float], waits: Callable[[], int] = thread_waits) -> None:
        self._seconds = seconds
        self._waits = waits
        self._average = 0.0
        self._not_before = 0.0
        self._pause = PAUSE

    @property
    def now(self) -> bool:
        """Whether it is worth an attempt."""
        return self._seconds() >= self._not_before

    def attempt(self, call: Callable[[], T]) -> T:
        """The call's result.

        :raises NotNow: the disk was slow a moment ago, or the call says so
        """
        if not self.now:
            raise NotNow
        return self.watch(call)

    def watch(self, call: Callable[[], T]) -> T:
        """The call's result; it is made in any case."""
        began, waits = self._seconds(), self._waits()
        try:
            return call()
        finally:
            ended = self._seconds()
            waited = ended - began if self._waits() != waits else 0.0
            self._average += (waited - self._average) / MEMORY
            if self._average > SLOW:
                # Soon after the last time it is twice as long, long after it as short as at first.
                again = ended - self._not_before < self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE) if again and self._not_before else PAUSE
                self._average = 0.0
                self._not_before = ended + self._pause


def write_small_range(
    open_writer: Callable[[int], Any], start: int, chunks: list[bytes], promptly: bool, published: list[Interval]
) -> Any:
    """Write and publish a range that was answered from memory.

    :param open_writer: gives the writer for the bytes from an offset on; it decides how many it takes
    :param published: which files were
    :return: the last commit's result
    :raises NotNow: promptly, which is for whole bodies only
    """
    if promptly:
        raise NotNow
    result = None
    body = b"".join(chunks)
    position = 0
    while position < len(body):
        writer = open_writer(start + position)
        try:
            writer.append([body[position : position + writer.length]])
            result = writer.commit()
            if result is not None:
                published.append((writer.start, writer.start + writer.length))
            position += writer.length
        finally:
            writer.close()
    return result
