"""The files that one body is written into, one after another, and read from meanwhile."""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from s3proxy.cache.spans import FileSpan
from s3proxy.storage.errors import NotNow
from s3proxy.storage.handles import ReadHandle
from s3proxy.util.intervals import Interval

__all__ = ["MAX_OPEN_FILES", "BodyFiles", "HeldRange", "IWriter"]

MAX_OPEN_FILES = 16
"""Files of one body that are kept open for readers who are behind; those find the older ones by their names."""


class IWriter(Protocol):
    """What is asked of a file that is being written; see :mod:`s3proxy.storage`."""

    start: int
    length: int
    written: int

    def handle(self) -> ReadHandle:
        """A reader's own hold of the file."""

    def append(self, chunks: list[bytes], promptly: bool = False) -> None:
        """Write all of it, or raise OSError; promptly: or NotNow, when something has to be evicted for it."""

    def commit(self, promptly: bool = False) -> Any:
        """Publish; None when the store no longer wants it. Promptly: see :meth:`append`."""

    def commit_prefix(self, min_bytes: int) -> Any:
        """Publish what was written if it is at least so much, else discard it."""

    def discard(self) -> None:
        """Remove it. The descriptor stays readable."""

    def close(self) -> None:
        """Discard what was not committed, and close the descriptor."""


class HeldRange:
    """In the place of a file: bytes that the cache has already. They are not written again, and readers get them out of
    the file that has them, which stays open for them if it is evicted.
    """

    def __init__(self, handle: ReadHandle, start: int, length: int) -> None:
        self.start = start
        self.length = length
        self.written = 0
        self._handle = handle

    def handle(self) -> ReadHandle:
        """See :class:`IWriter`."""
        return self._handle.share()

    def append(self, chunks: list[bytes], promptly: bool = False) -> None:
        """See :class:`IWriter`."""
        self.written += sum(map(len, chunks))

    def commit(self, promptly: bool = False) -> None:
        """See :class:`IWriter`."""

    def commit_prefix(self, min_bytes: int) -> None:
        """See :class:`IWriter`."""

    def discard(self) -> None:
        """See :class:`IWriter`."""

    def close(self) -> None:
        """See :class:`IWriter`."""
        self._handle.close()


class BodyFiles:
    """Consecutive files. Written by one thread at a time; everything else belongs to the reactor's thread.

    :param start: the offset of the body's first byte
    :param writers: gives the writer for the bytes from an offset on; it decides how many it takes
    :ivar results: what the commits returned
    :ivar published: the bytes in each of the files that were
    :ivar first: offset of the first byte that can still be read through here
    """

    def __init__(self, start: int, writers: Callable[[int], IWriter]) -> None:
        self.first = start
        self.results: list[Any] = []
        self.published: list[Interval] = []
        self._writers = writers
        self._files: list[IWriter] = []

    @property
    def begun(self) -> bool:
        """Whether there is any file."""
        return bool(self._files)

    def append(self, chunks: list[bytes], promptly: bool = False) -> None:
        """Write behind what was written before; complete files are committed on the way.

        :param promptly: only if it all goes into the present file, and nothing has to be evicted for it
        :raises OSError: not everything was written
        :raises NotNow: promptly, and that can't be; nothing has happened
        """
        if promptly and self._files:
            last = self._files[-1]
            if sum(map(len, chunks)) > last.length - last.written:
                raise NotNow
            last.append(chunks, True)
            return
        pending = deque(chunks)
        while pending:
            writer = self._files[-1] if self._files else None
            if writer is None or writer.written >= writer.length:
                if writer is not None:
                    self._finished(writer, writer.commit())
                position = self.first if writer is None else writer.start + writer.length
                writer = self._writers(position)
                self._files.append(writer)
            room = writer.length - writer.written
            batch: list[bytes] = []
            while pending and room > 0:
                chunk = pending.popleft()
                if len(chunk) > room:
                    pending.appendleft(chunk[room:])
                    chunk = chunk[:room]
                batch.append(chunk)
                room -= len(chunk)
            writer.append(batch)

    def commit(self, promptly: bool = False) -> None:
        """Publish the last file, which is complete.

        :raises NotNow: promptly, and something has to be evicted for it; nothing has happened
        """
        if self._files:
            self._finished(self._files[-1], self._files[-1].commit(promptly))

    def commit_prefix(self) -> None:
        """Publish what there is of the last file."""
        if self._files:
            self._finished(self._files[-1], self._files[-1].commit_prefix(1))

    def _finished(self, writer: IWriter, result: Any) -> None:
        self.results.append(result)
        if result is not None:
            self.published.append((writer.start, writer.start + writer.written))

    def discard(self) -> None:
        """Remove the last file."""
        if self._files:
            self._files[-1].discard()

    def span(self, position: int, stop: int, *, hot: bool) -> FileSpan | None:
        """The bytes from ``position`` on that are in one file, at most up to ``stop``, which must have been written.

        :param hot: whether they are in memory for sure if they were written just now
        """
        for writer in self._files:
            if writer.start <= position < min(writer.start + writer.length, stop):
                handle = writer.handle()
                count = min(stop, writer.start + writer.length) - position
                # What was not written again may have to be read from the disk.
                hot = hot and not isinstance(writer, HeldRange)
                return FileSpan(handle.fd, handle.base + position - handle.start, count, hot, handle.close)
        return None

    def drop_read(self, slowest: int) -> bool:
        """Close files that nobody needs open: a body of 5 TiB must not hold 80,000 descriptors. Whether any was closed.

        :param slowest: every reader has all bytes before this offset
        """
        dropped = False
        while len(self._files) > 3 and (
            len(self._files) > MAX_OPEN_FILES or self._files[0].start + self._files[0].length <= slowest
        ):
            writer = self._files.pop(0)
            self.first = writer.start + writer.length
            writer.close()
            dropped = True
        return dropped

    def close(self) -> None:
        """Close all files.

        :raises OSError: one that was not committed could not be removed
        """
        files, self._files = self._files, []
        for writer in files:
            writer.close()
