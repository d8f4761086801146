"""The application log."""

import atexit
import io
import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any

from twisted.application.service import Application
from twisted.logger import ILogObserver, Logger, LoggingFile, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from s3proxy.telemetry import logs
from s3proxy.telemetry.files import AppendFile
from s3proxy.telemetry.instruments import Reading
from s3proxy.telemetry.logs import LEVELS, ApplicationLog, format_json, format_line

NOON = 1769860800.5  # 31 January 2026, 12:00:00.500 UTC
DAY = 86400.0


def an_event(
    text: str = "hello {name}", level: LogLevel = LogLevel.info, at: float = NOON, **fields: Any
) -> dict[str, Any]:
    """An event as twisted.logger makes it."""
    event: dict[str, Any] = {
        "log_format": text, "log_level": level, "log_time": at, "log_namespace": "s3proxy.cache", "name": "world",
    }  # fmt: skip
    event.update(fields)
    return event


def a_failure(text: str) -> Failure:
    """A failure with a traceback."""
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return Failure()


class FormatTests(SynchronousTestCase):
    def test_line(self) -> None:
        """Time in UTC, level, namespace and text."""
        self.assertEqual(
            format_line(an_event(level=LogLevel.warn)), "2026-01-31T12:00:00.500Z WARN  s3proxy.cache: hello world\n"
        )

    def test_forged_line(self) -> None:
        """Line ends and escape sequences in data can't make a line that looks like one of ours."""
        line = format_line(an_event(name="x\r\n2026-01-31T12:00:00.000Z INFO  s3proxy: fine\x1b[2J\u2028\x85."))
        self.assertEqual(len(line.splitlines()), 1)
        self.assertIn("x\\r\\n2026", line)
        self.assertIn("\\x1b[2J\\u2028\\x85.", line)

    def test_reversed_text(self) -> None:
        """Data can't have the rest of the line shown in another order."""
        line = format_line(an_event(name="a\u202eb\u2066c\u200f"))
        self.assertIn("a\\u202eb\\u2066c\\u200f", line)

    def test_traceback(self) -> None:
        """A traceback follows indented; no line of it begins at the margin."""
        line = format_line(an_event("it broke", LogLevel.critical, log_failure=a_failure("a\nb")))
        first, *rest = line.splitlines()
        self.assertEqual(first, "2026-01-31T12:00:00.500Z CRITICAL s3proxy.cache: it broke")
        self.assertIn("RuntimeError: a", line)
        for part in rest:
            self.assertTrue(part.startswith("    "), part)

    def test_legacy_traceback(self) -> None:
        """The same for what reaches twisted.python.log, whose text has the traceback in it."""
        text = "Unhandled Error\nTraceback (most recent call last):\n  File"
        line = format_line(an_event("{log_text}", LogLevel.critical, log_text=text, failure=a_failure("broken")))
        first, *rest = line.splitlines()
        self.assertTrue(first.endswith(": Unhandled Error"), first)
        self.assertTrue(all(part.startswith("    ") for part in rest))
        self.assertIn("broken", rest[-1])

    def test_secrets(self) -> None:
        """Neither text nor traceback shows a signature."""
        line = format_line(
            an_event("sent {name}", name={b"Authorization": b"AWS4-HMAC-SHA256 Signature=SECRET"},
                     log_failure=a_failure("/k?X-Amz-Signature=SECRET&x=1"))
        )
        self.assertNotIn("SECRET", line)
        self.assertIn("X-Amz-Signature=REDACTED&x=1", line)

    def test_event_that_cannot_be_formatted(self) -> None:
        """An event with a broken format still makes a line."""
        self.assertIn("2026-01-31T12:00:00.500Z INFO ", format_line(an_event("{missing.attribute} {")))

    def test_bare_event(self) -> None:
        """An event of the old logging system without level or namespace makes a line."""
        self.assertEqual(format_line({"log_format": "x", "log_time": 0.0}), "1970-01-01T00:00:00.000Z INFO  -: x\n")

    def test_endless_text(self) -> None:
        """A text of any length makes a line of bounded length."""
        self.assertLess(len(format_line(an_event(name="x" * 1_000_000))), 20_000)


class JsonTests(SynchronousTestCase):
    def test_event(self) -> None:
        """One object on one line, with the same time, level, namespace and text as a line for people."""
        line = format_json(an_event(level=LogLevel.warn, name="x\r\n\u2028y"))
        self.assertEqual(len(line.splitlines()), 1)
        self.assertEqual(
            json.loads(line),
            {
                "time": "2026-01-31T12:00:00.500Z", "level": "warn", "logger": "s3proxy.cache",
                "message": "hello x\r\n\u2028y",
            },
        )  # fmt: skip

    def test_traceback(self) -> None:
        """A traceback has a field of its own."""
        line = format_json(an_event("it broke", LogLevel.critical, log_failure=a_failure("a\nb")))
        self.assertEqual(len(line.splitlines()), 1)
        found = json.loads(line)
        self.assertEqual((found["level"], found["message"]), ("critical", "it broke"))
        self.assertIn("RuntimeError: a\nb", found["traceback"])

    def test_secrets(self) -> None:
        """Neither text nor traceback shows a signature."""
        line = format_json(an_event(
            "/k?X-Amz-Signature=SECRET&x=1", log_failure=a_failure("{b'authorization': [b'AWS4 Signature=SECRET']}")
        ))  # fmt: skip
        self.assertNotIn("SECRET", line)


class ApplicationLogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.join(self.mktemp(), "app")
        self.console = io.StringIO()
        self.now = NOON
        self.log = self.make()

    def make(self, **options: Any) -> ApplicationLog:
        """A log that is not yet started."""
        log = ApplicationLog(
            self.directory, "proxy-1", **{"console": self.console, "now": lambda: self.now, **options}
        )
        self.addCleanup(log.close)
        return log

    def text(self, name: str = "s3proxy.log") -> str:
        """What one of the files holds."""
        with open(os.path.join(self.directory, "proxy-1", name), encoding="utf-8") as file:
            return file.read()


class FileTests(ApplicationLogCase):
    def test_early_events(self) -> None:
        """Events before the start are shown on the console at once and are in the file after the start, in order."""
        self.log(an_event(name="one"))
        self.assertFalse(os.path.exists(self.directory))
        self.assertIn("hello one", self.console.getvalue())
        self.log.start()
        self.log(an_event(name="two"))
        self.assertEqual(re.findall(r"hello (\w+)", self.text()), ["one", "two"])

    def test_written_at_once(self) -> None:
        """A line is in the file when the call returns, and both directory and file can be read by everybody."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.log.start()
        self.log(an_event(name="caf\u00e9"))
        self.assertIn("hello caf\u00e9\n", self.text())
        self.assertEqual(stat.S_IMODE(os.stat(self.log.path).st_mode), 0o644)
        self.assertEqual(stat.S_IMODE(os.stat(os.path.dirname(self.log.path)).st_mode), 0o755)

    def test_directory_that_cannot_be_made(self) -> None:
        """Starting fails when the file can't be opened."""
        log = ApplicationLog("/dev/null/logs", "proxy-1")
        self.assertRaises(OSError, log.start)

    def test_new_day(self) -> None:
        """With the first event of a day the file of the day before is put aside under its date."""
        self.log.start()
        self.log(an_event(name="one"))
        self.now += DAY
        self.log(an_event(name="two", at=NOON + DAY))
        self.log(an_event(name="late", at=NOON))
        self.assertEqual(re.findall(r"hello (\w+)", self.text("s3proxy.log.2026-01-31")), ["one"])
        self.assertEqual(re.findall(r"hello (\w+)", self.text()), ["two", "late"])

    def test_leftover_of_another_day(self) -> None:
        """A file that an earlier run left on another day is put aside at the start."""
        self.log.start()
        self.log(an_event(name="one"))
        self.log.close()
        os.utime(self.log.path, (NOON - 3 * DAY, NOON - 3 * DAY))
        self.make().start()
        self.assertIn("hello one", self.text("s3proxy.log.2026-01-28"))
        self.assertEqual(self.text(), "")

    def test_two_processes(self) -> None:
        """Two workers that share the file lose nothing at midnight."""
        other = self.make(console=None)
        self.log.start()
        other.start()
        for log, name, at in (
            (self.log, "old", NOON), (other, "old", NOON), (other, "new", NOON + DAY), (self.log, "new", NOON + DAY),
        ):  # fmt: skip
            self.now = at
            log(an_event(name=name, at=at))
            os.utime(self.log.path, (at, at))
        self.assertEqual(self.text("s3proxy.log.2026-01-31").count("hello old"), 2)
        self.assertEqual(self.text().count("hello new"), 2)

    def test_renamed_by_somebody(self) -> None:
        """After a reopening, or after some seconds without, lines go to a new file at the path."""
        self.log.start()
        self.log(an_event(name="one"))
        os.rename(self.log.path, self.log.path + ".a")
        self.log.reopen()
        self.log(an_event(name="two", at=NOON + 1))
        self.assertIn("hello two", self.text())
        os.rename(self.log.path, self.log.path + ".b")
        self.log(an_event(name="three", at=NOON + 10))
        self.assertIn("hello three", self.text())

    def test_fault(self) -> None:
        """When the file can't be written nobody who logs notices; the console is told once; later lines are written."""
        self.log.start()
        os.unlink(self.log.path)
        os.rmdir(os.path.dirname(self.log.path))
        os.rmdir(self.directory)
        with open(self.directory, "w"):
            pass
        self.log.reopen()
        for name in ("one", "two"):
            self.log(an_event(name=name))
        self.assertEqual(self.log.lost, 2)
        self.assertEqual(self.console.getvalue().count("can't be written"), 1)
        os.unlink(self.directory)
        self.log(an_event(name="three"))
        self.assertIn("hello three", self.text())

    def test_console_that_breaks(self) -> None:
        """A closed console does no harm to the file."""
        self.log.start()
        self.console.close()
        self.log(an_event(name="one"))
        self.assertIn("hello one", self.text())

    def test_redirected_standard_output_is_refused(self) -> None:
        """A console that leads back into the log is replaced by the real one: no line goes in circles."""
        looping = LoggingFile(logger=Logger(observer=self.log))
        self.assertIs(self.make(console=looping)._console, sys.__stdout__)

    def test_json(self) -> None:
        """In the style json file and console get objects."""
        log = self.make(style="json")
        log.start()
        log(an_event())
        for text in (self.text(), self.console.getvalue()):
            self.assertEqual(json.loads(text)["message"], "hello world")

    def test_unknown_style(self) -> None:
        """A style that does not exist is refused."""
        self.assertRaises(ValueError, self.make, style="xml")

    def test_outage(self) -> None:
        """What every request says is written some times, then counted, and told when the minute is over."""
        self.log.start()
        for number in range(10_000):
            self.log(an_event("no answer: {name}", LogLevel.error, name=number))
        self.log(an_event(at=NOON + 61))
        lines = self.text().splitlines()
        self.assertLess(len(lines), 100)
        self.assertIn("9980 more within a minute like: no answer: {name}", lines[-2])
        self.assertIn(Reading("s3proxy_log_messages_total", 10_000, ("error",)), list(self.log.readings()))

    def test_failure(self) -> None:
        """A fault is known as long as it lasts, and counted."""
        self.log.start()
        self.patch(AppendFile, "write", _no_space)
        self.log(an_event(name="one"))
        self.assertIn("No space left", self.log.failure)
        readings = list(self.log.readings())
        self.assertIn(Reading("s3proxy_log_write_errors_total", 1, ("app",)), readings)
        self.assertIn(Reading("s3proxy_log_messages_lost_total", 1), readings)


class BackgroundTests(ApplicationLogCase):
    """The thread writes."""

    def setUp(self) -> None:
        super().setUp()
        self.log = self.make(background=True)
        self.addCleanup(lambda: atexit.unregister(self.log.flush))

    def test_in_order(self) -> None:
        """After a flush everything is in the file, in order, early events first."""
        self.log(an_event(name="w0"))
        self.log.start()
        for number in range(1, 500):
            self.log(an_event(name=f"w{number}"))
        self.assertTrue(self.log.flush(10))
        self.assertEqual(re.findall(r"hello (\w+)", self.text()), [f"w{number}" for number in range(500)])
        self.assertEqual(self.console.getvalue(), self.text())

    def test_hanging_directory(self) -> None:
        """While a write hangs nobody who logs waits; what does not fit is counted; then everything else is written."""
        go, writing = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        real = AppendFile.write

        def write(file: AppendFile, data: bytes) -> None:
            writing.set()
            go.wait(20)
            real(file, data)

        self.log.start()
        self.patch(AppendFile, "write", write)
        self.log(an_event(name="first"))
        self.assertTrue(writing.wait(10))
        for number in range(10_050):
            self.log(an_event(name=f"w{number}"))
        self.assertFalse(self.log.flush(0.01))
        self.assertEqual(self.log.lost, 50)
        self.assertEqual(self.log.failure, "", "it has not lasted long enough")
        self.patch(logs, "PATIENCE", 0.0)
        self.assertRegex(self.log.failure, r"no answer for \d+ s")
        go.set()
        self.assertTrue(self.log.flush(20))
        self.assertEqual(self.text().count("hello w"), 10_000)
        self.assertEqual(self.log.failure, "")

    def test_fault(self) -> None:
        """After a line that could not be written the thread goes on."""
        self.log.start()
        with self.subTest("a fault"):
            broken = self.patch(AppendFile, "write", _no_space)
            self.log(an_event(name="one"))
            self.log.flush(10)
            broken.restore()
        self.log(an_event(name="two"))
        self.log.flush(10)
        self.assertEqual(re.findall(r"hello (\w+)", self.text()), ["two"])
        self.assertEqual(self.log.lost, 1)
        self.assertEqual(self.console.getvalue().count("can't be written"), 1)


def _no_space(file: AppendFile, data: bytes) -> None:
    raise OSError(28, "No space left on device")


class LevelTests(ApplicationLogCase):
    def seen(self, level: str) -> list[str]:
        """The levels of events that are written at this log level."""
        self.log.set_level(level)
        names = ("critical", "error", "warn", "info", "debug")
        return [name for name in names if self.log.wants(an_event(level=LogLevel.lookupByName(name)))]

    def test_levels(self) -> None:
        """Each level shows what is as grave or graver."""
        self.assertEqual(self.seen("error"), ["critical", "error"])
        self.assertEqual(self.seen("warn"), ["critical", "error", "warn"])
        self.assertEqual(self.seen("info"), ["critical", "error", "warn", "info"])
        self.assertEqual(self.seen("debug"), ["critical", "error", "warn", "info", "debug"])
        self.assertEqual(self.seen("trace"), self.seen("debug"))

    def test_change_while_running(self) -> None:
        """A new level holds from the next event on."""
        self.log.start()
        self.log(an_event(level=LogLevel.debug, name="no"))
        self.log.set_level("debug")
        self.log(an_event(level=LogLevel.debug, name="yes"))
        self.assertEqual(re.findall(r"hello (\w+)", self.text()), ["yes"])

    def test_unknown_level(self) -> None:
        """A level that does not exist is refused."""
        self.assertRaises(ValueError, self.log.set_level, "verbose")
        self.assertRaises(ValueError, self.make, level="verbose")

    def test_noise_of_libraries(self) -> None:
        """Only errors of the DNS library are shown, starting factories when debugging, and everything by trace."""
        dns = an_event(log_namespace="twisted.names.client", level=LogLevel.warn)
        factory = an_event("Starting factory {factory!r}", log_namespace="twisted.internet.protocol", factory=1)
        shown = []
        for level in LEVELS:
            self.log.set_level(level)
            shown.append((level, self.log.wants(dns), self.log.wants(factory)))
        self.assertEqual(shown[2:], [("info", False, False), ("debug", False, True), ("trace", True, True)])
        self.log.set_level("error")
        self.assertTrue(self.log.wants(an_event(log_namespace="twisted.names.client", level=LogLevel.error)))

    def test_ports(self) -> None:
        """What Twisted says of its ports is for debugging; the start tells where the proxy listens."""
        for text in ("CachingSite starting on 3128", "(TCP Port 3128 Closed)", "(UDP Port 60211 Closed)"):
            event = an_event("{log_text}", log_namespace="log_legacy", log_text=text)
            self.log.set_level("info")
            self.assertFalse(self.log.wants(event), text)
            self.log.set_level("debug")
            self.assertTrue(self.log.wants(event), text)
        self.log.set_level("info")
        for namespace, text in (("log_legacy", "the world is starting on Monday"), ("s3proxy", "x starting on 1")):
            self.assertTrue(self.log.wants(an_event("{log_text}", log_namespace=namespace, log_text=text)), text)

    def test_readings(self) -> None:
        """Lines are counted by level."""
        self.log(an_event(level=LogLevel.warn))
        self.log(an_event(level=LogLevel.debug))
        readings = list(self.log.readings())
        self.assertIn(Reading("s3proxy_log_messages_total", 1, ("warn",)), readings)
        self.assertIn(Reading("s3proxy_log_messages_total", 0, ("debug",)), readings)


class AttachTests(ApplicationLogCase):
    def test_interface(self) -> None:
        """It is an observer in the sense of twisted.logger."""
        verifyObject(ILogObserver, self.log)

    def test_application(self) -> None:
        """twistd asks the application for its observer and finds this one."""
        application = Application("x")
        self.log.attach(application)
        self.assertIs(application.getComponent(ILogObserver), self.log)

    def test_elsewhere(self) -> None:
        """Without an application the observer is added to the publisher of the process."""
        self.log.attach(object())
        self.addCleanup(globalLogPublisher.removeObserver, self.log)
        Logger("s3proxy.test").info("hello {name}", name="publisher")
        self.assertIn("hello publisher", self.console.getvalue())


def _unformattable(event: dict[str, Any]) -> Callable[[ApplicationLogCase], None]:
    def test(self: ApplicationLogCase) -> None:
        self.log.start()
        self.log(event)
        self.log(an_event(name="next"))
        self.assertIn("hello next", self.text())

    test.__doc__ = "The event raises nothing and the next one is written."
    return test


class _Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class HostileEventTests(ApplicationLogCase):
    """Whatever is logged, logging does not raise."""


_HOSTILE_EVENTS: tuple[dict[str, Any], ...] = (
    {},
    {"log_time": "x"},
    {"log_level": 5, "log_format": "x"},
    {"log_format": "{x}", "x": _Hostile(), "log_time": 1.0},
    {"log_format": 7, "log_time": 1.0},
    {"log_format": "\ud800", "log_time": 1.0, "log_namespace": None},
)
for _number, _event in enumerate(_HOSTILE_EVENTS):
    setattr(HostileEventTests, f"test_event_{_number}", _unformattable(_event))
