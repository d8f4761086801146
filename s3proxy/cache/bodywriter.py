"""When the bytes of a body are written to its files, and in which thread.

The first piece is written at once, so that the first byte never waits for a thread; later ones in batches, at once
while the disk is prompt, else from a thread.
"""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import Promptness, RunInThread
from s3proxy.storage.errors import NotNow

__all__ = ["BATCH", "LINGER", "PROMPT_BATCH", "BodyWriter"]

BATCH = 1024 * 1024
"""Bytes that are worth a trip to the writer thread."""
PROMPT_BATCH = 256 * 1024
"""Bytes that are worth a write in the reactor's thread."""
LINGER = 0.005
"""Seconds that fewer than BATCH bytes may wait for company."""


class BodyWriter:
    """The bytes of one body that wait for the disk, in their order.

    :param append: writes all of them, in the reactor's thread or in another, but never in both at once; promptly, or
        not at all (NotNow), when its second argument says so
    :param finish: publishes what was written; called in a thread
    :param promptness: whether the disk lets the reactor write; None: it shall not, but for the first piece
    :param hurry: whether the reactor may write later pieces, too
    :param on_written: called when so many bytes more are written
    :param on_refused: called with pieces that are not, as far as is known, and why
    :param on_finished: called with what ``finish`` came to: None, or the failure
    :ivar busy: a thread is at it
    :ivar waiting: bytes that wait
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        run: RunInThread,
        *,
        append: Callable[[list[bytes], bool], None],
        finish: Callable[[], None],
        promptness: Promptness | None,
        hurry: bool,
        on_written: Callable[[int], None],
        on_refused: Callable[[list[bytes], BaseException], None],
        on_finished: Callable[[Failure | None], None],
    ) -> None:
        self.busy = False
        self.waiting = 0
        self._clock = clock
        self._run = run
        self._append = append
        self._finish = finish
        self._on_written = on_written
        self._on_refused = on_refused
        self._on_finished = on_finished
        self._promptness = promptness
        self._hurry = hurry
        self._queue: list[bytes] = []
        self._timer: IDelayedCall | None = None

    def add(self, data: bytes, *, first: bool) -> None:
        """The next piece.

        :param first: the first one
        """
        self._queue.append(data)
        self.waiting += len(data)
        if first:
            self._write_here(first=True)
        elif not self.busy:
            if self.waiting >= PROMPT_BATCH and self._prompt:
                self._write_here()
            elif self.waiting >= BATCH:
                self._write_in_thread()
            elif self._timer is None:
                self._timer = self._clock.callLater(LINGER, self._lingered)

    def go_on(self, *, ended: bool, complete: bool) -> bool:
        """Write what waits, if it is worth it and no thread is at it; whether anything waited.

        :param ended: no more will come
        :param complete: and all has come: what is written last is finished in the same trip to the thread
        """
        if not self._queue:
            return False
        if ended or self.waiting >= BATCH:
            self._write(complete)
        elif self._timer is None:
            self._timer = self._clock.callLater(LINGER, self._lingered)
        return True

    def take(self) -> list[bytes]:
        """What waits, which is not written then."""
        chunks, self._queue, self.waiting = self._queue, [], 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return chunks

    def _lingered(self) -> None:
        self._timer = None
        if not self.busy and self._queue:
            self._write()

    @property
    def _prompt(self) -> bool:
        return self._hurry and self._promptness is not None and self._promptness.now

    def _write(self, last: bool = False) -> None:
        if self._prompt:
            self._write_here(last=last)
        else:
            self._write_in_thread(last=last)

    def _write_here(self, *, first: bool = False, last: bool = False) -> None:
        """An immediate write into the page cache: it costs less than a trip to the thread.

        :param first: the first byte waits for no thread, whatever the disk
        """
        chunks = self.take()
        promptness = self._promptness
        try:
            if promptness is None:
                self._append(chunks, False)
            elif first:
                promptness.watch(lambda: self._append(chunks, True))
            else:
                promptness.attempt(lambda: self._append(chunks, True))
        except NotNow:
            self._write_in_thread(chunks, last=last)
        except Exception as error:
            self._on_refused(chunks, error)
        else:
            self._on_written(sum(map(len, chunks)))

    def _write_in_thread(self, chunks: list[bytes] | None = None, *, last: bool = False) -> None:
        """:param last: and finish it"""
        if chunks is None:
            chunks = self.take()
            if len(chunks) > 1:
                # Writing and each checksum give up the interpreter's lock for every chunk.
                chunks = [b"".join(chunks)]
        size = sum(map(len, chunks))
        self.busy = True

        def done(unpublished: Exception | None) -> None:
            self.busy = last
            self._on_written(size)
            if last:
                self.busy = False
                self._on_finished(None if unpublished is None else Failure(unpublished))

        def failed(reason: Failure) -> None:
            self.busy = False
            self._on_refused(chunks, reason.value)

        work = self._run(self._append_last, chunks) if last else self._run(self._append, chunks, False)
        work.addCallbacks(done, failed).addErrback(lambda reason: self.log.failure("writing into the cache", reason))

    def _append_last(self, chunks: list[bytes]) -> Exception | None:
        """Append the end of the body and finish it; returns why it could not be finished."""
        self._append(chunks, False)
        try:
            self._finish()
        except Exception as error:
            return error
        return None
