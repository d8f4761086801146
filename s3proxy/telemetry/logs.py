"""The application log: ``<directory>/<hostname>/s3proxy.log``, put aside once a day, and the console.

One line per event::

    2026-01-31T23:59:59.123Z WARN  s3proxy.cache.guard: text of the event

or one JSON object per event. The file of a past day is ``s3proxy.log.YYYY-MM-DD`` (UTC). Line ends within a text are
escaped and tracebacks are indented, so that a line that begins with a time was written by the proxy. Secrets are
removed from everything (:mod:`.redaction`). Events that come before the file may be opened are kept and written then.
Nothing that goes wrong here reaches whoever logs.

A thread of its own may do the writing: then a file system that hangs, or a console that nobody reads, stops nothing
else. Whatever is repeated is written some times a minute, and then counted only (:mod:`.repetition`).
"""

import atexit
import io
import json
import os
import queue
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, TextIO

from twisted.logger import ILogObserver, LogEvent, LoggingFile, LogLevel, formatEvent, globalLogPublisher
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.telemetry.files import AppendFile
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.redaction import redact_text
from s3proxy.telemetry.repetition import Repetitions
from s3proxy.telemetry.thread import PATIENCE

__all__ = ["ApplicationLog", "FORMATS", "LEVELS", "format_json", "format_line"]

LEVELS: Final = ("error", "warn", "info", "debug", "trace")
"""The values of ``logging.log_level``, from the fewest lines to the most."""

_RANKS: Final = {
    LogLevel.critical: 0,
    LogLevel.error: 0,
    LogLevel.warn: 1,
    LogLevel.info: 2,
    LogLevel.debug: 3,
}
_TRACE: Final = LEVELS.index("trace")
_MOST_EARLY: Final = 1000
_MOST_WAITING: Final = 10000
_FLUSH_SECONDS: Final = 2.0
_MOST_TEXT: Final = 16 * 1024
_CHECK_SECONDS: Final = 5.0
_COMPLAIN_SECONDS: Final = 60.0
#: What Twisted says of every port, including those that single DNS queries use.
_ports: Final = re.compile(r"\S+(?: \(TLS\))? starting on \S+|\(\w+ Port \S+ Closed\)").fullmatch
#: Line ends, what controls terminals, and what changes the order in which text is shown.
_ESCAPES: Final = (
    {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
    | {code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
    | {9: "\t", 10: "\\n", 13: "\\r"}
)


def format_line(event: LogEvent) -> str:
    """The event as one line, a traceback as indented lines after it, without secrets; with a line feed at the end."""
    text, trace = _texts(event)
    line = f"{_moment(event)} {_level(event).upper():<5} {_namespace(event)}: {text.translate(_ESCAPES)}\n"
    return line + "".join(f"    {part.translate(_ESCAPES)}\n" for part in trace.split("\n") if part.strip())


def format_json(event: LogEvent) -> str:
    """The event as one JSON object, without secrets: time, level, logger, message and, if there is one, traceback."""
    text, trace = _texts(event)
    found = {"time": _moment(event), "level": _level(event), "logger": _namespace(event), "message": text}
    if trace:
        found["traceback"] = trace
    return json.dumps(found) + "\n"


FORMATS: Final = {"text": format_line, "json": format_json}
"""The values of ``logging.app_log_format``."""


def _texts(event: LogEvent) -> tuple[str, str]:
    """What the event says, and its traceback."""
    text = formatEvent(event)
    # What comes by twisted.python.log has its traceback here, and in the text once more.
    failure = event.get("log_failure") or event.get("failure")
    trace = ""
    if isinstance(failure, Failure):
        text = text.partition("\n")[0]
        trace = redact_text(failure.getTraceback()[-_MOST_TEXT:])
    return redact_text(text[:_MOST_TEXT]).strip(), trace


def _level(event: LogEvent) -> str:
    name: str = (event.get("log_level") or LogLevel.info).name
    return name


def _namespace(event: LogEvent) -> str:
    return str(event.get("log_namespace") or "-").translate(_ESCAPES)


def _moment(event: LogEvent) -> str:
    at = float(event.get("log_time") or 0.0)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d}Z"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))


@implementer(ILogObserver)
class ApplicationLog:
    """Observes the events of :mod:`twisted.logger` and writes those that matter. Safe for several threads.

    :param directory: ``logging.app_log_dir``
    :param hostname: names the directory below it
    :param level: one of :data:`LEVELS`
    :param console: also gets every line, from the first event on; pass the real standard output, for ``twistd -n``
    :param now: tells Unix time
    :param style: one of :data:`FORMATS`
    :param background: from the start on, a thread writes file and console
    :ivar lost: lines that are not in the file: it could not be written, or too many waited for it
    """

    def __init__(
        self,
        directory: str,
        hostname: str,
        level: str = "info",
        console: TextIO | None = None,
        now: Callable[[], float] = time.time,
        *,
        style: str = "text",
        background: bool = False,
    ) -> None:
        if style not in FORMATS:
            raise ValueError(f"log format {style!r} is not one of {', '.join(FORMATS)}")
        self.path = os.path.join(directory, hostname, "s3proxy.log")
        self._file = AppendFile(self.path)
        self._lock = threading.RLock()
        self._console = sys.__stdout__ if isinstance(console, LoggingFile) else console
        self._now = now
        self._early: deque[str] | None = deque(maxlen=_MOST_EARLY)
        self._file_day = ""
        self._next_check = 0.0
        self._next_complaint = 0.0
        self._reopen = False
        self._format = FORMATS[style]
        self._repetitions = Repetitions()
        self._background = background
        self._queue: "queue.SimpleQueue[tuple[str, float] | threading.Event] | None" = None
        self._failure = ""
        self._writing_since: float | None = None
        self._errors = 0
        self._counts: Counter[str] = Counter()
        self._rank = 0
        self.lost = 0
        self.set_level(level)

    def attach(self, parent: object) -> None:
        """Become the observer of the process.

        A service calls this from ``setServiceParent``: when twistd hands its application over, it asks the
        application for an observer next, and replays to it what was logged so far. Below any other parent the
        observer is added to the global publisher.
        """
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self)
        else:
            globalLogPublisher.addObserver(self)

    def start(self) -> None:
        """Open the file and write the events kept so far; not before the process is where its paths lead and who it
        will be.

        :raises OSError: when the file can't be opened
        """
        with self._lock:
            self._open()
            early, self._early = self._early, None
            for line in early or ():
                self._file.write(line.encode("utf-8", "backslashreplace"))
            if self._background and self._queue is None:
                self._queue = queue.SimpleQueue()
                threading.Thread(target=self._work, args=(self._queue,), name="app-log", daemon=True).start()
                atexit.register(self.flush)

    def set_level(self, level: str) -> None:
        """Change what is written from now on.

        :raises ValueError: when the level is none of :data:`LEVELS`
        """
        if level not in LEVELS:
            raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
        self._rank = LEVELS.index(level)

    def reopen(self) -> None:
        """Open the path anew with the next event, for whoever renamed the file."""
        self._reopen = True

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Wait until the thread has written what was logged so far, for at most *timeout* seconds.

        :returns: whether it has. A process that ends calls this by itself.
        """
        waiting = self._queue
        if waiting is None:
            return True
        done = threading.Event()
        waiting.put(done)
        return done.wait(timeout)

    @property
    def failure(self) -> str:
        """Why the newest attempt to write failed, or does not end; empty when lines are written."""
        since = self._writing_since
        if since is not None:
            waited = time.monotonic() - since
            if waited > PATIENCE:
                return f"no answer for {waited:.0f} s"
        return self._failure

    def close(self) -> None:
        """Close the file; what is logged afterwards goes to the console only. A process may end with it open."""
        self.flush()
        with self._lock:
            self._file.close()
            self._early = deque(maxlen=_MOST_EARLY)

    def readings(self) -> Iterable[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        for level in ("critical", *LEVELS[:-1]):
            yield Reading("s3proxy_log_messages_total", self._counts[level], (level,))
        yield Reading("s3proxy_log_messages_lost_total", self.lost)
        yield Reading("s3proxy_log_write_errors_total", self._errors, ("app",))

    def wants(self, event: LogEvent) -> bool:
        """Whether the event is written at the present level."""
        level = event.get("log_level") or LogLevel.info
        if self._rank == _TRACE:
            return True
        return max(_RANKS.get(level, 2), _noise(event, level)) <= self._rank

    def __call__(self, event: LogEvent) -> None:
        """Write the event, if it is wanted. Never raises."""
        try:
            if not self.wants(event):
                return
            self._counts[_level(event)] += 1
            at = float(event.get("log_time") or 0.0)
            with self._lock:
                for summary in self._repetitions.over(at):
                    self._put(self._format(summary), at)
                if self._repetitions.admit(event, at):
                    self._put(self._format(event), at)
        except Exception as error:
            self.lost += 1
            self._complain(error)

    def _put(self, line: str, at: float) -> None:
        """Write this line, or have it written. To be called with the lock held."""
        if self._early is not None:
            self._write_console(line)
            self._early.append(line)
        elif self._queue is None:
            self._write_console(line)
            self._try_write(line, at)
        elif self._queue.qsize() < _MOST_WAITING:
            self._queue.put((line, at))
        else:
            self.lost += 1

    def _work(self, waiting: "queue.SimpleQueue[tuple[str, float] | threading.Event]") -> None:
        """The thread: one line after the other."""
        while True:
            item = waiting.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._writing_since = time.monotonic()
            try:
                self._write_console(item[0])
                if self._early is None:
                    self._try_write(*item)
            except Exception as error:
                self.lost += 1
                self._complain(error)
            self._writing_since = None

    def _try_write(self, line: str, at: float) -> None:
        try:
            self._write(line, at)
            self._failure = ""
        except OSError as error:
            self._errors += 1
            self._failure = str(error)
            raise

    def _write(self, line: str, at: float) -> None:
        if self._reopen:
            self._reopen = False
            self._file.close()
        elif at >= self._next_check:
            self._next_check = at + _CHECK_SECONDS
            if self._file.replaced():
                self._file.close()
        if not self._file.is_open:
            self._open()
        day = _day(at)
        if day > self._file_day:
            self._put_aside(day)
        self._file.write(line.encode("utf-8", "backslashreplace"))

    def _open(self) -> None:
        """Open the file; what it holds from an earlier day is put aside."""
        self._file.open()
        today = _day(self._now())
        last = self._file.last_written()
        self._file_day = today if last is None else _day(last)
        if self._file_day < today:
            self._put_aside(today)

    def _put_aside(self, day: str) -> None:
        try:
            if self._file.last_written() is not None and self._file.put_aside(f"{self.path}.{self._file_day}") is None:
                # Another process is at it: see at the next line whether it is done.
                self._next_check = 0.0
            self._file.open()
        except OSError as error:
            self._complain(error)
        self._file_day = day

    def _write_console(self, line: str) -> None:
        if self._console is None:
            return
        try:
            self._console.write(line)
            self._console.flush()
        except UnicodeEncodeError:
            self._console.write(line.encode("ascii", "backslashreplace").decode("ascii"))
        except (OSError, ValueError, io.UnsupportedOperation):
            self.lost += 1

    def _complain(self, error: Exception) -> None:
        """Say on the console, at most once a minute, that the log has a problem: there is no other place left."""
        now = time.monotonic()
        if now < self._next_complaint:
            return
        self._next_complaint = now + _COMPLAIN_SECONDS
        stream = self._console or sys.__stderr__
        try:
            if stream is not None:
                stream.write(f"The application log {self.path} can't be written: {error}.\n")
                stream.flush()
        except Exception:
            self.lost += 1


def _noise(event: LogEvent, level: object) -> int:
    """The least rank of levels at which this event of a library is worth a line."""
    if level in (LogLevel.error, LogLevel.critical):
        return 0
    if str(event.get("log_namespace", "")).startswith("twisted.names"):
        return _TRACE
    if str(event.get("log_format") or "").startswith(("Starting factory", "Stopping factory")):
        return LEVELS.index("debug")
    if event.get("log_namespace") == "log_legacy" and _ports(str(event.get("log_text") or "")):
        return LEVELS.index("debug")
    return 0
