"""The access log: one line per request, in batches, written by a thread of its own.

The active file is ``<directory>/access-<hostname>.log``. After the rotation interval, or when the UTC day changes, it
is put aside as ``<directory>/YYYY/MM/DD/YYYY-MM-DD-HH-MM-SS-<hostname>.log``, named by the time of its first line.
Several processes of a host may share the file.

Logging a record formats it and appends it to a list, no more; a timer, or a full buffer, hands the batch to the thread,
which turns its lines into the form that is wanted (:mod:`.accessforms`). What can't be written is kept and tried again;
when the memory for waiting lines is used up, the oldest are dropped and counted.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.telemetry.accessforms import FORMS
from s3proxy.telemetry.accessline import LineFormatter
from s3proxy.telemetry.files import AppendFile, PartlyWritten
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.record import RequestRecord
from s3proxy.telemetry.thread import PATIENCE, SerialThread

__all__ = ["AccessLog", "MODES"]

MODES: Final = ("all", "cached_only")
"""What is logged: every request, or only those that S3 never saw."""

_CACHED: Final = frozenset({"HIT", "COALESCED", "STALE"})
_MOST_BYTES: Final = 32 * 1024 * 1024
_CLOSE_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.5
_WARN_SECONDS: Final = 60.0

_T = TypeVar("_T")


class IWriterThread(Protocol):
    """What the log needs of :class:`s3proxy.telemetry.thread.SerialThread`."""

    def run(self, work: Callable[[], _T]) -> "Deferred[_T]":
        """See :meth:`SerialThread.run`."""

    def stop(self) -> None:
        """See :meth:`SerialThread.stop`."""


class _Batch:
    """Lines that are written together. Between being handed to the thread and coming back they are the thread's."""

    def __init__(self, lines: Iterable[bytes] = (), form: Callable[[bytes], bytes] | None = None) -> None:
        self._waiting = list(lines)
        self._form = form
        self.lines = len(self._waiting)
        self.size = sum(map(len, self._waiting))
        self._data = b""

    def data(self) -> bytes:
        """What is to be written, in the form that is wanted."""
        if self._waiting:
            form = self._form
            self._data = b"".join(self._waiting if form is None else map(form, self._waiting))
            self._waiting = []
            self.size = len(self._data)
        return self._data

    def cut(self, written: int) -> int:
        """Leave off so many bytes that were written. :returns: how many lines ended among them"""
        whole = self._data.count(b"\n", 0, written)
        self._data = self._data[written:]
        self.lines -= whole
        self.size = len(self._data)
        return whole


class _Segments:
    """The active file and the ones put aside. Used by the writer's thread only."""

    def __init__(self, directory: str, hostname: str, interval: float) -> None:
        self._directory = directory
        self._hostname = hostname
        self._interval = interval
        self._file = AppendFile(os.path.join(directory, f"access-{hostname}.log"))
        self._began: float | None = None

    def open(self, now: float) -> None:
        """Make sure of the active file; what an earlier run left in it is put aside when its time is over."""
        self._file.open()
        last = self._file.last_written()
        self._began = last
        if last is not None:
            self.rotate(now)

    def write(self, data: bytes, now: float) -> None:
        """Append lines, rotating first if that is due. :raises PartlyWritten: as :meth:`AppendFile.write`."""
        try:
            self.reopen()
        except OSError as error:
            raise PartlyWritten(error, 0) from error
        self.rotate(now)
        self._file.write(data)
        if self._began is None:
            self._began = now

    def rotate(self, now: float) -> None:
        """Put the active file aside if it is old enough. A fault here only means that the file grows longer."""
        began = self._began
        if began is None or (now - began < self._interval and _day(now) == _day(began)):
            return
        self._began = None
        stamp = time.gmtime(began)
        name = f"{time.strftime('%Y-%m-%d-%H-%M-%S', stamp)}-{self._hostname}.log"
        try:
            self._file.put_aside(os.path.join(self._directory, time.strftime("%Y/%m/%d", stamp), name))
            self._file.open()
        except OSError:
            self._began = now

    def reopen(self) -> None:
        """Go on at the path, if the active file is no longer there."""
        if self._file.replaced():
            self._file.close()
            self._began = None
        self._file.open()

    def close(self) -> None:
        """Close the active file."""
        self._file.close()


def _day(at: float) -> int:
    return int(at // 86400)


class AccessLog:
    """Takes the records of finished requests. All methods belong to the reactor's thread.

    :param reactor: tells Unix time, runs the timer and takes results from the thread
    :param mode: one of :data:`MODES`
    :param flush_interval: seconds between two flushes
    :param buffer_size: lines that make a flush happen earlier
    :param rotation_interval: seconds after which a new file begins
    :param redact: removes signatures, credentials and tokens from a request target
    :param form: one of :data:`s3proxy.telemetry.accessforms.FORMS`
    :param log_requester: show a masked access key id in the requester's field
    :param max_bytes: of lines that wait in memory, a failed batch included
    :param thread: does the writing; by default one of our own
    :ivar format: makes a line of a record, always in the first of the forms
    :ivar written: lines that are in the file
    :ivar dropped: lines that never will be
    :ivar errors: attempts to write that failed; what they were to write is tried again
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        hostname: str,
        reactor: Any,
        mode: str = "all",
        flush_interval: float = 5.0,
        buffer_size: int = 1000,
        rotation_interval: float = 300.0,
        *,
        redact: Callable[[bytes], bytes],
        form: str = "s3",
        log_requester: bool = False,
        max_bytes: int = _MOST_BYTES,
        thread: IWriterThread | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"access log mode {mode!r} is not one of {', '.join(MODES)}")
        if form not in FORMS:
            raise ValueError(f"access log format {form!r} is not one of {', '.join(FORMS)}")
        self._clock: IReactorTime = reactor
        self._cached_only = mode == "cached_only"
        self._flush_interval = flush_interval
        self._buffer_size = buffer_size
        self._max_bytes = max_bytes
        self._form = FORMS[form]
        self.format = LineFormatter(redact, log_requester)
        self._thread: IWriterThread = thread or SerialThread(reactor, "access-log")
        self._segments = _Segments(directory, hostname, rotation_interval)
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._batch = _Batch()
        self._writing: Deferred[None] | None = None
        self._writing_since = 0.0
        self._timer: IDelayedCall | None = None
        self._closing = False
        self._next_warning = 0.0
        self.written = 0
        self.dropped = 0
        self.errors = 0
        self._failure = ""

    def start(self) -> None:
        """Make the file, so that it can be followed from the beginning, and start the timer.

        :raises OSError: when the file can't be opened
        """
        self._segments.open(self._clock.seconds())
        self._schedule()

    def log(self, record: RequestRecord) -> None:
        """Add the line of one finished request. Never raises and never waits."""
        if self._cached_only and record.outcome not in _CACHED:
            return
        try:
            line = self.format(record)
        except Exception:
            self.dropped += 1
            self._warn("A line of the access log could not be made", Failure())
            return
        self.append(line)

    def append(self, line: bytes) -> None:
        """Add a line that :attr:`format` made, of a request that the mode lets in. Never raises and never waits."""
        if self._closing:
            self.dropped += 1
            return
        self._pending.append(line)
        self._pending_bytes += len(line)
        if len(self._pending) >= self._buffer_size and not self._batch.lines:
            self._flush()
        while self._pending_bytes + self._batch.size > self._max_bytes and self._pending:
            self._pending_bytes -= len(self._pending.popleft())
            self.dropped += 1

    @property
    def buffered(self) -> int:
        """Lines that wait to be written."""
        return len(self._pending) + self._batch.lines

    @property
    def failure(self) -> str:
        """Why the newest attempt to write failed, or does not end; empty when lines are written."""
        if self._writing is not None:
            waited = self._clock.seconds() - self._writing_since
            if waited > PATIENCE:
                return f"no answer for {waited:.0f} s"
        return self._failure

    def readings(self) -> Iterable[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        yield Reading("s3proxy_access_log_records_total", self.written, ("written",))
        yield Reading("s3proxy_access_log_records_total", self.dropped, ("dropped",))
        yield Reading("s3proxy_access_log_buffer_records", self.buffered)
        yield Reading("s3proxy_log_write_errors_total", self.errors, ("access",))

    def flush(self) -> Deferred[None]:
        """Write what waits. Fires when it was tried, also when that failed."""
        if self._writing is None and self.buffered:
            self._flush()
        return self._after_writing()

    def reopen(self) -> None:
        """Make the file at the path anew if somebody renamed or removed it. Every write does so, this does so now."""
        if self._timer is None:
            return
        self._ignore(self._thread.run(self._segments.reopen))

    def close(self, timeout: float = _CLOSE_SECONDS) -> Deferred[int]:
        """Write what waits, for at most *timeout* seconds, and close the file.

        :returns: fires with the number of lines that were lost; never fails
        """
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        done: Deferred[int] = Deferred()
        self._drain(done, self._clock.seconds() + timeout, self._clock.callLater(timeout, self._finish, done))
        return done

    def _drain(self, done: Deferred[int], end: float, expiry: IDelayedCall) -> None:
        """Flush until nothing waits. *expiry* ends the attempts and everything else at *end*."""

        def tried(_: None) -> None:
            if done.called:
                return
            if not self.buffered:
                expiry.cancel()
                self._finish(done)
            elif self.buffered < before:
                self._drain(done, end, expiry)
            elif self._clock.seconds() + _RETRY_SECONDS < end:
                self._clock.callLater(_RETRY_SECONDS, self._drain, done, end, expiry)

        before = self.buffered
        self.flush().addCallback(tried)

    def _finish(self, done: Deferred[int]) -> None:
        lost = self.buffered
        self.dropped += lost
        if lost:
            self._log.error("{lost} lines of the access log could not be written before the end.", lost=lost)
        self._pending.clear()
        self._pending_bytes = 0
        self._batch = _Batch()
        self._ignore(self._thread.run(self._segments.close))
        self._thread.stop()
        done.callback(lost)

    def _schedule(self) -> None:
        self._timer = self._clock.callLater(self._flush_interval, self._tick)

    def _tick(self) -> None:
        self._schedule()
        if self._writing is not None:
            return
        if self.buffered:
            self._flush()
        else:
            now = self._clock.seconds()
            self._ignore(self._thread.run(lambda: self._segments.rotate(now)))

    def _flush(self) -> None:
        """Give the thread a batch: the failed one first, else everything that waits."""
        if not self._batch.lines:
            self._batch = _Batch(self._pending, self._form)
            self._pending.clear()
            self._pending_bytes = 0
        batch, now = self._batch, self._clock.seconds()
        self._writing_since = now
        self._writing = self._thread.run(lambda: self._segments.write(batch.data(), now))
        self._writing.addCallbacks(self._wrote, self._failed)

    def _wrote(self, _: None) -> None:
        self._writing = None
        self._failure = ""
        self.written += self._batch.lines
        self._batch = _Batch()
        if len(self._pending) >= self._buffer_size:
            self._flush()

    def _failed(self, failure: Failure) -> None:
        self._writing = None
        self.errors += 1
        self._failure = failure.getErrorMessage()
        if isinstance(failure.value, PartlyWritten):
            self.written += self._batch.cut(failure.value.written)
        self._warn("The access log can't be written; lines wait in memory", failure)

    def _after_writing(self) -> Deferred[None]:
        """Fires when the batch that is under way now was written or failed."""
        if self._writing is None:
            return succeed(None)
        waiter: Deferred[None] = Deferred()

        def passed(result: Any) -> Any:
            waiter.callback(None)
            return result

        self._writing.addBoth(passed)
        return waiter

    def _warn(self, text: str, failure: Failure) -> None:
        now = self._clock.seconds()
        if now >= self._next_warning:
            self._next_warning = now + _WARN_SECONDS
            self._log.warn("{text}: {error}.", text=text, error=failure.getErrorMessage())

    def _ignore(self, work: Deferred[Any]) -> None:
        work.addErrback(lambda failure: self._warn("The access log's file could not be changed", failure))
