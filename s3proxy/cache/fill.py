"""Bytes of one object version on their way from S3: to the disk, and from there to everybody who reads them.

A fill is the sink of one answer's body. It takes three forms:

* *file*: bytes are appended to a growing file and read from it. The first block is written at once, so that the first
  byte never waits for a thread; later ones in batches, at once while the disk is prompt, else from a thread. S3 is
  paused when the disk falls behind, never because a reader is slow.
* *memory*: a small body stays in memory until it is committed behind the answer.
* *passing*: nothing is kept, from the start or because the disk failed half-way. Bytes stay in memory only until the
  slowest reader has them; S3 is paused meanwhile, and nobody can join.

Largest buffer: ``WINDOW`` bytes plus what one read of the connection brings (memory form: the size of a small object).
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.cache.background import Promptness
from s3proxy.cache.bodyfiles import BodyFiles, IWriter
from s3proxy.cache.spans import MemorySpan, Span
from s3proxy.cache.verify import Verifier
from s3proxy.storage.errors import NotNow
from s3proxy.util.bodymemory import BodyMemory
from s3proxy.util.deferreds import WakeUps
from s3proxy.util.intervals import Interval
from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["BATCH", "LINGER", "WINDOW", "WORTH_FINISHING", "Fill", "FillBroken", "RunInThread"]

BATCH = 1024 * 1024
"""Bytes that are worth a trip to the writer thread."""
PROMPT_BATCH = 256 * 1024
"""Bytes that are worth a write in the reactor's thread."""
WINDOW = 2 * 1024 * 1024
"""Bytes that may wait for the disk (or, passing, for the slowest reader) before S3 is paused."""
HOT = 32 * 1024 * 1024
"""Bytes that were written last and so are still in memory."""
SHORT_WINDOW = 64 * 1024
"""The same while all bodies together take as much memory as they may."""
LINGER = 0.005
"""Seconds that fewer than BATCH bytes may wait for company."""
WORTH_FINISHING = 8 * 1024 * 1024
"""A fetch that nobody reads any more goes on if at most this many bytes, or a quarter, are missing."""

RunInThread = Callable[..., Deferred[Any]]


class FillBroken(Exception):
    """The bytes from here on will not come through this fill."""


@implementer(IByteSink)
class Fill:
    """Bytes ``[start, stop)`` of one version.

    :param writers: gives the writer for the bytes from an offset on (it decides how many it takes); None: memory form
    :param commit_small: memory form: called with all chunks when the body is complete, and whether it has to be prompt;
        raises NotNow if it has to and can't
    :param promptness: whether the disk lets the reactor write; None: it shall not
    :param passing: keep nothing
    :param memory: where the bytes that wait here are accounted
    :param verify: checks the whole body; one that does not match is not kept, and if S3 stated the checksum itself, its
        last piece is not shown to anybody
    :param give_up: releases what ``writers`` and ``commit_small`` hold, when they were not used
    :param on_file: called when one of several files has been published
    :param on_settled: called once, when the body ended and all that was to be published or removed has been;
        with the results of the commits and whether the fill was complete and true
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        run: RunInThread,
        source: IByteSource,
        start: int,
        stop: int,
        *,
        writers: Callable[[int], IWriter] | None,
        commit_small: Callable[[list[bytes], bool], Any] | None = None,
        promptness: Promptness | None = None,
        passing: bool = False,
        memory: BodyMemory | None = None,
        verify: Verifier | None = None,
        keep_ratio: float = 0.5,
        give_up: Callable[[], None] | None = None,
        on_file: Callable[[], None] | None = None,
        on_settled: Callable[["Fill", list[Any], bool], None],
        on_disk_error: Callable[[BaseException], None],
    ) -> None:
        self.start = start
        self.stop = stop
        self.have = start
        """Readers can have the bytes before this offset."""
        self.condemned = False
        """The body does not match S3's own checksum: it is not kept."""
        self.failure: Failure | None = None
        """Why no byte after ``have`` will come."""
        self.origin = "get"
        """What brought it about, as :meth:`s3proxy.telemetry.counts.CacheCounts.filled` names it."""
        self._clock = clock
        self._run = run
        self._source = source
        self._files = None if writers is None else BodyFiles(start, writers)
        self._commit_small = commit_small
        self._promptness = promptness
        self._give_up = give_up
        self._on_file = on_file
        self._verify = verify
        self._verified = start
        self._keep_ratio = keep_ratio
        self._on_settled = on_settled
        self._on_disk_error = on_disk_error

        self._account = BodyMemory() if memory is None else memory
        self._held = 0
        self._received = start
        self._worth = WORTH_FINISHING
        self._ended = False
        self._broken: Failure | None = None
        self._passing = passing
        self._busy = False
        self._paused = False
        self._settled = False
        self._queue: list[bytes] = []
        self._queued = 0
        self._timer: IDelayedCall | None = None
        self._memory: deque[tuple[int, bytes]] = deque()
        self._results: list[Any] = [] if self._files is None else self._files.results
        self._reported = 0
        self._readers: dict[object, int] = {}
        self._progress = WakeUps()

    def begin(self) -> None:
        """Start the flow."""
        self._source.start(self)

    # What readers use.

    @property
    def complete(self) -> bool:
        """Every byte can be read."""
        return self.have >= self.stop

    @property
    def ended(self) -> bool:
        """S3 sends no more of it."""
        return self._ended

    @property
    def joinable(self) -> bool:
        """Whether a reader who comes now will find every byte from ``start`` on."""
        return self._broken is None and not self._passing and not self.condemned and not self._settled

    @property
    def readers(self) -> int:
        """How many follow it."""
        return len(self._readers)

    @property
    def settled(self) -> bool:
        """It is over: what is kept of it is in the cache."""
        return self._settled

    @property
    def settling(self) -> bool:
        """The body broke off, and the disk has not decided yet what becomes of its beginning; :meth:`wait` tells."""
        return self._broken is not None and not self._settled

    @property
    def first(self) -> int:
        """Offset of the first byte that can still be read through the fill."""
        return self.start if self._files is None else self._files.first

    @property
    def published(self) -> tuple[Interval, ...]:
        """The bytes in each of its files that was published so far."""
        return () if self._files is None else tuple(self._files.published)

    def attach(self, reader: object, position: int) -> None:
        """A reader's claim on the bytes from ``position`` on: they stay readable until it moves past them or leaves."""
        self._readers[reader] = position

    def moved(self, reader: object, position: int) -> None:
        """The reader has all bytes before ``position``."""
        self._readers[reader] = position
        if self._passing:
            self._trim()

    def detach(self, reader: object) -> None:
        """The reader leaves. The last one decides whether what is missing is worth fetching."""
        self._readers.pop(reader, None)
        if self._readers:
            if self._passing:
                self._trim()
            return
        if not self._ended:
            missing = self.stop - self._received
            if missing > (0 if self._passing else max(self._worth, (self.stop - self.start) // 4)):
                self._source.abort()
                self.stream_failed(Failure(FillBroken("nobody reads it any more")))
            elif self._passing:
                # All of it has come but its end, for which S3 may have been paused.
                self._memory.clear()
                self._let_go(self._held)
                self._throttle(0)
        self._close_if_over()

    def finish_anyway(self) -> None:
        """It is worth finishing, whoever reads it."""
        self._worth = self.stop - self.start

    def break_off(self) -> None:
        """No more is taken from S3. What has come is kept or removed as after any other end."""
        if not self._ended:
            self._source.abort()
            self.stream_failed(Failure(FillBroken("the proxy stops")))

    def span(self, position: int, stop: int) -> Span | None:
        """What can be sent now from ``position`` on, at most up to ``stop``; None if nothing is there yet."""
        limit = min(self.have, stop)
        if position >= limit:
            return None
        if self._files is not None:
            in_files = min(limit, self._memory[0][0]) if self._memory else limit
            span = self._files.span(position, in_files, hot=position >= self.have - HOT)
            if span is not None:
                return span
        for offset, chunk in self._memory:
            if offset <= position < offset + len(chunk):
                return MemorySpan(memoryview(chunk)[position - offset : limit - offset])
        return None

    def wait(self) -> Deferred[None]:
        """Fires when ``have`` has grown or the fill has ended."""
        return self._progress.wait()

    # The sink of S3's body.

    def data_received(self, data: bytes) -> None:
        """See :class:`IByteSink`."""
        if self._ended:
            return
        room = self.stop - self._received
        if len(data) > room:
            data = data[:room]
        if not data:
            return
        offset = self._received
        self._received += len(data)
        self._held += len(data)
        self._account.hold(len(data))
        if self._files is None or self._passing:
            if not self._passing and not self._passes(data):
                self._source.abort()
                self.stream_failed(Failure(FillBroken("the body does not match S3's checksum")))
                return
            self._memory.append((offset, data))
            self.have = self._received
            self._progress.wake()
            if self._passing:
                self._trim()
            return
        self._queue.append(data)
        self._queued += len(data)
        if offset == self.start:
            self._write_here(first=True)
        elif not self._busy:
            if self._queued >= PROMPT_BATCH and self._prompt:
                self._write_here()
            elif self._queued >= BATCH:
                self._write_in_thread()
            elif self._timer is None:
                self._timer = self._clock.callLater(LINGER, self._lingered)
        self._throttle(self._queued)

    def stream_ended(self) -> None:
        """See :class:`IByteSink`."""
        if self._ended:
            return
        if self._received < self.stop:
            self.stream_failed(Failure(FillBroken("the answer ended early")))
            return
        self._ended = True
        self._advance()

    def stream_failed(self, reason: Failure) -> None:
        """See :class:`IByteSink`."""
        if self._ended:
            return
        # What has come is still written, and readers get it. The failure shows when the fill has settled: who asks S3
        # again because of it finds a cache that can take the answer.
        self._ended = True
        self._broken = reason
        self._advance()

    # Writing.

    def _lingered(self) -> None:
        self._timer = None
        if not self._busy and self._queue:
            self._write()

    @property
    def _prompt(self) -> bool:
        """Whether to write in the reactor's thread. Not what must be hashed: an MD5 takes longer than all the rest."""
        return self._promptness is not None and self._verify is None and self._promptness.now

    def _write(self) -> None:
        if self._prompt:
            self._write_here()
        else:
            self._write_in_thread()

    def _take_queue(self) -> list[bytes]:
        chunks, self._queue, self._queued = self._queue, [], 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return chunks

    def _write_here(self, first: bool = False) -> None:
        """An immediate write into the page cache: it costs less than a trip to the thread.

        :param first: the first byte waits for no thread, whatever the disk
        """
        chunks = self._take_queue()
        promptness = self._promptness
        try:
            if promptness is None:
                self._append(chunks)
            elif first:
                promptness.watch(lambda: self._append(chunks, True))
            else:
                promptness.attempt(lambda: self._append(chunks, True))
        except NotNow:
            self._write_in_thread(chunks)
        except Exception as error:
            self._spill(chunks, error)
        else:
            self._wrote(sum(map(len, chunks)))

    def _write_in_thread(self, chunks: list[bytes] | None = None) -> None:
        if chunks is None:
            chunks = self._take_queue()
            if len(chunks) > 1:
                # Writing and each checksum give up the interpreter's lock for every chunk.
                chunks = [b"".join(chunks)]
        size = sum(map(len, chunks))
        last = self._ended and self._broken is None
        self._busy = True

        def written(unpublished: Exception | None) -> None:
            self._busy = last
            self._wrote(size)
            if last:
                self._settled_with(None if unpublished is None else Failure(unpublished))

        def failed(reason: Failure) -> None:
            self._busy = False
            self._spill(chunks, reason.value)

        self._run(self._append_last if last else self._append, chunks).addCallbacks(written, failed).addErrback(
            lambda reason: self.log.failure("writing into the cache", reason)
        )

    def _append(self, chunks: list[bytes], promptly: bool = False) -> None:
        """Append to the files; runs in the writer thread or in the reactor's, never in both at once.

        :raises NotNow: promptly, and something has to be evicted first
        """
        assert self._files is not None
        self._files.append(chunks, promptly)
        for chunk in chunks:
            if not self._passes(chunk):
                raise FillBroken("the body does not match S3's checksum")

    def _append_last(self, chunks: list[bytes]) -> Exception | None:
        """Append the end of the body and publish it, in one trip to the thread; returns why it could not be published.
        """
        self._append(chunks)
        try:
            self._finish()
        except Exception as error:
            return error
        return None

    def _passes(self, chunk: bytes) -> bool:
        """Feed the checksum; False: this is the last chunk, and the body is wrong."""
        if self._verify is None:
            return True
        self._verify.update(chunk)
        self._verified += len(chunk)
        if self._verified >= self.stop:
            self.condemned = not self._verify.holds()
        return not (self.condemned and self._verify.strict)

    def _wrote(self, size: int) -> None:
        self.have += size
        self._let_go(size)
        self._progress.wake()
        if self._files is not None:
            if len(self._results) > self._reported and self._on_file is not None:
                self._reported = len(self._results)
                self._on_file()
            self._files.drop_read(min(self._readers.values(), default=self.have))
        self._throttle(self._queued)
        self._advance()

    def _advance(self) -> None:
        """Whatever comes next: more to write, or the end."""
        if self._busy:
            return
        if self._queue and (self._ended or self._queued >= BATCH):
            self._write()
        elif self._queue and self._timer is None:
            self._timer = self._clock.callLater(LINGER, self._lingered)
        elif self._ended and not self._queue:
            self._progress.wake()
            self._settle()

    def _throttle(self, waiting: int) -> None:
        window = SHORT_WINDOW if self._account.full else WINDOW
        if not self._paused and waiting >= window:
            self._paused = True
            self._source.pause()
        elif self._paused and waiting < window // 2:
            self._paused = False
            self._source.resume()

    def _let_go(self, size: int) -> None:
        """So many bytes do not wait here any more."""
        self._held -= size
        self._account.let_go(size)

    # When the disk fails.

    def _spill(self, chunks: list[bytes], error: BaseException) -> None:
        """The disk refused: keep serving from memory, at the pace of the slowest reader."""
        if isinstance(error, FillBroken):
            self._source.abort()
            self._ended = True
            self._broken = Failure(error)
            self._advance()
            return
        self._on_disk_error(error)
        self._passing = True
        offset = self.have
        for chunk in chunks + self._take_queue():
            self._memory.append((offset, chunk))
            offset += len(chunk)
        self.have = offset
        self._progress.wake()
        self._trim()
        if not self._readers and not self._ended:
            self._source.abort()
            self.stream_failed(Failure(FillBroken("nobody reads it any more")))
        else:
            self._advance()

    def _trim(self) -> None:
        slowest = min(self._readers.values(), default=self.start)
        while self._memory and self._memory[0][0] + len(self._memory[0][1]) <= slowest:
            self._let_go(len(self._memory.popleft()[1]))
        self._throttle(self.have - self._memory[0][0] if self._memory else 0)

    # The end.

    def _settle(self) -> None:
        if self._busy or self._settled:
            return
        if self._files is None and not self._worth_committing:
            self._abandon()
            self._settled_with(None)
            return
        if self._promptness is not None:
            try:
                self._promptness.attempt(lambda: self._finish(promptly=True))
            except NotNow:
                pass
            except Exception:
                self._settled_with(Failure())
                return
            else:
                self._settled_with(None)
                return
        self._busy = True
        self._run(self._finish).addBoth(self._settled_with).addErrback(
            lambda reason: self.log.failure("finishing a fill", reason)
        )

    def _settled_with(self, result: Any) -> None:
        self._busy = False
        self._settled = True
        if isinstance(result, Failure):
            # The thread may not even have begun.
            self._abandon()
            self._on_disk_error(result.value)
        self.failure = self._broken
        try:
            self._on_settled(self, self._results, self._worth_committing)
        finally:
            self._progress.wake()
            self._close_if_over()

    @property
    def _worth_committing(self) -> bool:
        return self._broken is None and not self._passing and not self.condemned

    def _finish(self, promptly: bool = False) -> None:
        """Publish or remove. Runs in a thread, or, promptly, in the reactor's.

        :raises NotNow: promptly, and something has to be evicted first; nothing has happened
        """
        files = self._files
        if files is None:
            if self._commit_small is not None:
                self._results.append(self._commit_small([chunk for _, chunk in self._memory], promptly))
        elif not files.begun:
            if self._give_up is not None:
                self._give_up()
        elif self._passing or self.condemned:
            files.discard()
        elif self._broken is None:
            files.commit(promptly)
        elif promptly:
            raise NotNow
        elif self.have - self.start >= self._keep_ratio * (self.stop - self.start):
            files.commit_prefix()
        else:
            files.discard()

    def _abandon(self) -> None:
        """Nothing was written: let go of the right to."""
        if self._give_up is not None and (self._files is None or not self._files.begun):
            try:
                self._give_up()
            except OSError as error:
                self._on_disk_error(error)

    def _close_if_over(self) -> None:
        if self._settled and not self._readers:
            self._memory.clear()
            self._let_go(self._held)
            try:
                if self._files is not None:
                    self._files.close()
            except OSError as error:
                self._on_disk_error(error)
