"""Bytes of one object version on their way from S3: to the disk, and from there to everybody who reads them.

A fill is the sink of one answer's body. It takes three forms:

* *file*: bytes are appended to a growing file and read from it; see :mod:`s3proxy.cache.bodywriter` for when that is
  done. S3 is paused when the disk falls behind, never because a reader is slow.
* *memory*: a small body stays in memory until it is committed behind the answer.
* *passing*: nothing is kept, from the start or because the disk failed half-way. Bytes stay in memory only until the
  slowest reader has them; S3 is paused meanwhile, and nobody can join.

Largest buffer: :data:`s3proxy.cache.backpressure.WINDOW` bytes plus what one read of the connection brings (memory
form: the size of a small object).
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.cache.background import Promptness, RunInThread
from s3proxy.cache.backpressure import BackPressure
from s3proxy.cache.bodychunks import BodyChunks
from s3proxy.cache.bodyfiles import BodyFiles, IWriter
from s3proxy.cache.bodywriter import BodyWriter
from s3proxy.cache.growing import FillBroken, GrowingBody
from s3proxy.cache.settlement import Fate, Settlement
from s3proxy.cache.spans import HOT, Span
from s3proxy.cache.verify import Verifier
from s3proxy.storage.errors import NotNow
from s3proxy.util.bodymemory import BodyMemory
from s3proxy.util.intervals import Interval
from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["WORTH_FINISHING", "Fill"]

WORTH_FINISHING = 8 * 1024 * 1024
"""A fetch that nobody reads any more goes on if at most this many bytes, or a quarter, are missing."""


@implementer(IByteSink)
class Fill(GrowingBody):
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
        with the results of the commits
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
        on_settled: Callable[["Fill", list[Any]], None],
        on_disk_error: Callable[[BaseException], None],
    ) -> None:
        super().__init__(start, stop)
        self.ended = False
        """S3 sends no more of it."""
        self.settled = False
        """It is over: what is kept of it is in the cache."""
        self.origin = "get"
        """What brought it about, as :meth:`s3proxy.telemetry.counts.CacheCounts.filled` names it."""
        self._run = run
        self._source = source
        self._pressure = BackPressure(source, BodyMemory() if memory is None else memory)
        self._files = None if writers is None else BodyFiles(start, writers)
        self._memory = BodyChunks()
        self._writer = BodyWriter(
            clock,
            run,
            append=self._append,
            finish=self._finish,
            promptness=promptness,
            # Not what must be hashed: an MD5 takes longer than all the rest.
            hurry=verify is None,
            on_written=self._wrote,
            on_refused=self._spill,
            on_finished=self._settled_with,
        )
        self._settlement = Settlement(
            self._files,
            self._memory,
            commit_small=commit_small,
            give_up=give_up,
            least=keep_ratio * (stop - start),
            failed=on_disk_error,
        )
        self._promptness = promptness
        self._verify = verify
        self._verified = start
        self._on_file = on_file
        self._on_settled = on_settled
        self._on_disk_error = on_disk_error

        self._received = start
        self._worth = WORTH_FINISHING
        self._broken: Failure | None = None
        self._passing = passing
        self._finishing = False
        self._reported = 0

    def begin(self) -> None:
        """Start the flow."""
        self._source.start(self)

    # What readers use.

    @property
    def joinable(self) -> bool:
        """Whether a reader who comes now will find every byte from ``start`` on."""
        return self._broken is None and not self._passing and not self.condemned and not self.settled

    @property
    def settling(self) -> bool:
        """The body broke off, and the disk has not decided yet what becomes of its beginning; :meth:`wait` tells."""
        return self._broken is not None and not self.settled

    @property
    def first(self) -> int:
        """Offset of the first byte that can still be read through the fill."""
        return self.start if self._files is None else self._files.first

    @property
    def published(self) -> tuple[Interval, ...]:
        """The bytes in each of its files that was published so far."""
        return () if self._files is None else tuple(self._files.published)

    def moved(self, reader: object, position: int) -> None:
        """See :meth:`GrowingBody.moved`."""
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
        if not self.ended:
            missing = self.stop - self._received
            if missing > (0 if self._passing else max(self._worth, (self.stop - self.start) // 4)):
                self._stop("nobody reads it any more")
            elif self._passing:
                # All of it has come but its end, for which S3 may have been paused.
                self._memory.clear()
                self._pressure.let_go_of_all()
                self._pressure.adapt(0)
        self._close_if_over()

    def finish_anyway(self) -> None:
        """It is worth finishing, whoever reads it."""
        self._worth = self.stop - self.start

    def break_off(self) -> None:
        """No more is taken from S3. What has come is kept or removed as after any other end."""
        if not self.ended:
            self._stop("the proxy stops")

    def span(self, position: int, stop: int) -> Span | None:
        """What can be sent now from ``position`` on, at most up to ``stop``; None if nothing is there yet."""
        limit = min(self.have, stop)
        if position >= limit:
            return None
        if self._files is not None:
            first = self._memory.first
            in_files = limit if first is None else min(limit, first)
            span = self._files.span(position, in_files, hot=position >= self.have - HOT)
            if span is not None:
                return span
        return self._memory.span(position, limit)

    # The sink of S3's body.

    def data_received(self, data: bytes) -> None:
        """See :class:`IByteSink`."""
        if self.ended:
            return
        room = self.stop - self._received
        if len(data) > room:
            data = data[:room]
        if not data:
            return
        offset = self._received
        self._received += len(data)
        self._pressure.hold(len(data))
        if self._files is None or self._passing:
            if not self._passing and not self._passes(data):
                self._stop("the body does not match S3's checksum")
                return
            self._memory.append(offset, data)
            self.have = self._received
            self._progress.wake()
            if self._passing:
                self._trim()
            return
        self._writer.add(data, first=offset == self.start)
        self._pressure.adapt(self._writer.waiting)

    def stream_ended(self) -> None:
        """See :class:`IByteSink`."""
        if self.ended:
            return
        if self._received < self.stop:
            self.stream_failed(Failure(FillBroken("the answer ended early")))
            return
        self.ended = True
        self._advance()

    def stream_failed(self, reason: Failure) -> None:
        """See :class:`IByteSink`."""
        if self.ended:
            return
        # What has come is still written, and readers get it. The failure shows when the fill has settled: who asks S3
        # again because of it finds a cache that can take the answer.
        self.ended = True
        self._broken = reason
        self._advance()

    def _stop(self, why: str) -> None:
        """No more is taken from S3."""
        self._source.abort()
        self.stream_failed(Failure(FillBroken(why)))

    # Writing.

    def _append(self, chunks: list[bytes], promptly: bool) -> None:
        """Append to the files; runs in the writer thread or in the reactor's, never in both at once.

        :raises NotNow: promptly, and something has to be evicted first
        """
        assert self._files is not None
        self._files.append(chunks, promptly)
        for chunk in chunks:
            if not self._passes(chunk):
                raise FillBroken("the body does not match S3's checksum")

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
        self._pressure.let_go(size)
        self._progress.wake()
        if self._files is not None:
            if len(self._settlement.results) > self._reported and self._on_file is not None:
                self._reported = len(self._settlement.results)
                self._on_file()
            self._files.drop_read(min(self._readers.values(), default=self.have))
        self._pressure.adapt(self._writer.waiting)
        self._advance()

    def _advance(self) -> None:
        """Whatever comes next: more to write, or the end."""
        if self._writer.busy or self._finishing:
            return
        if self._writer.go_on(ended=self.ended, complete=self.ended and self._broken is None):
            return
        if self.ended:
            self._progress.wake()
            self._settle()

    # When the disk fails.

    def _spill(self, chunks: list[bytes], error: BaseException) -> None:
        """The disk refused: keep serving from memory, at the pace of the slowest reader."""
        if isinstance(error, FillBroken):
            self._source.abort()
            self.ended = True
            self._broken = Failure(error)
            self._advance()
            return
        self._on_disk_error(error)
        self._passing = True
        offset = self.have
        for chunk in chunks + self._writer.take():
            self._memory.append(offset, chunk)
            offset += len(chunk)
        self.have = offset
        self._progress.wake()
        self._trim()
        if not self._readers and not self.ended:
            self._stop("nobody reads it any more")
        else:
            self._advance()

    def _trim(self) -> None:
        slowest = min(self._readers.values(), default=self.start)
        dropped = self._memory.drop_read(slowest)
        if dropped:
            self._pressure.let_go(dropped)
        first = self._memory.first
        self._pressure.adapt(0 if first is None else self.have - first)

    # The end.

    def _settle(self) -> None:
        if self.settled:
            return
        if self._files is None and self._fate is not Fate.WHOLE:
            self._settlement.abandon()
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
        self._finishing = True
        self._run(self._finish).addBoth(self._settled_with).addErrback(
            lambda reason: self.log.failure("finishing a fill", reason)
        )

    def _settled_with(self, result: Any) -> None:
        self._finishing = False
        self.settled = True
        if isinstance(result, Failure):
            # The thread may not even have begun.
            self._settlement.abandon()
            self._on_disk_error(result.value)
        self.failure = self._broken
        try:
            self._on_settled(self, self._settlement.results)
        finally:
            self._progress.wake()
            self._close_if_over()

    @property
    def _fate(self) -> Fate:
        if self._passing or self.condemned:
            return Fate.UNWANTED
        return Fate.WHOLE if self._broken is None else Fate.CUT

    def _finish(self, promptly: bool = False) -> None:
        """See :meth:`Settlement.publish`."""
        self._settlement.publish(self._fate, self.have - self.start, promptly)

    def _close_if_over(self) -> None:
        if self.settled and not self._readers:
            self._memory.clear()
            self._pressure.let_go_of_all()
            try:
                if self._files is not None:
                    self._files.close()
            except OSError as error:
                self._on_disk_error(error)
