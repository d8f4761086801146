"""A piece of a file on its way to a client, and whether its next bytes are in memory."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s3proxy.wire.pages import FileId, PageCache

__all__ = ["FRESH", "OutgoingSpan"]

FRESH = 5.0
"""Seconds after which pages that were seen in memory, but not sent yet, are looked up again."""


class OutgoingSpan:
    """``[position, stop)`` of a file, of which all up to ``ready`` was in memory when that was looked up.

    :ivar done: fires when the kernel has taken the last byte
    :ivar loading: a thread is reading the bytes from ``ready`` on
    """

    __slots__ = (
        "fd", "position", "stop", "ready", "done", "loading", "_seen", "_cold", "_file", "_pages", "_window", "_most",
    )

    def __init__(
        self, fd: int, start: int, stop: int, done: "Deferred[None]", pages: PageCache | None, window: int, most: int
    ) -> None:
        """:param pages: None: the bytes are in memory, there is nothing to look up

        :param window: bytes that are looked up, or read, at a time
        :param most: bytes beyond which it is of no use to know more
        """
        self.fd = fd
        self.position = start
        self.stop = stop
        self.done = done
        self.loading = False
        self.ready = stop if pages is None else start
        self._seen = float("inf") if pages is None else 0.0
        self._cold = False
        self._file: FileId | None = None
        self._pages = pages
        self._window = window
        self._most = most

    def is_ready(self, now: float, loaded: Callable[["OutgoingSpan", Failure | None], None]) -> bool:
        """Whether there are bytes to send; if not, they are being read.

        :param loaded: called when that is done, or has failed
        :raises OSError: the file can't be looked at
        """
        pages = self._pages
        if self.position < self.ready and now - self._seen <= FRESH:
            if self._cold and not self.loading and pages is not None:
                self._prefetch(pages, loaded)
            return True
        self.ready = self.position
        if self.loading:
            return False
        stop = self._window_end(self.position)
        if pages is None or self._finds(pages, stop):
            self._seen = now
            return True
        self._cold = True
        self._load(pages, stop, loaded)
        return self.position < self.ready

    def seen_at(self, now: float) -> None:
        """What is ready was in memory at this time."""
        self._seen = now

    def _window_end(self, start: int) -> int:
        # Windows begin at multiples of their size, wherever a socket was full: what one reader looked up serves all.
        return min(start - start % self._window + self._window, self.stop)

    def _finds(self, pages: PageCache, stop: int) -> bool:
        """Whether all up to ``stop`` is in memory; if so that is ready, and beyond it, as far as is known."""
        file = self._file
        if file is None:
            file = self._file = pages.file(self.fd)
        if not pages.finds(file, self.fd, self.position, stop - self.position):
            return False
        self.ready = stop
        while stop < self.stop and stop - self.position < self._most:
            stop = self._window_end(stop)
            if not pages.seen(file, self.ready, stop - self.ready):
                break
            self.ready = stop
        return True

    def _prefetch(self, pages: PageCache, loaded: Callable[["OutgoingSpan", Failure | None], None]) -> None:
        """Let the disk work on the next window while the socket takes this one."""
        stop = self._window_end(self.ready)
        if stop > self.ready and self.ready - self.position <= self._window:
            if pages.holds(self.fd, self.ready, stop - self.ready):
                self.ready = stop
            else:
                self._load(pages, stop, loaded)

    def _load(self, pages: PageCache, stop: int, loaded: Callable[["OutgoingSpan", Failure | None], None]) -> None:
        self.loading = True

        def done(_: object) -> None:
            self.loading = False
            self.ready = stop
            loaded(self, None)

        def failed(reason: Failure) -> None:
            self.loading = False
            loaded(self, reason)

        pages.load(self.fd, self.ready, stop - self.ready).addCallbacks(done, failed)
