"""Buffering, writing and rotating the access log."""

import json
import os
import stat
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from s3proxy.s3.signature import redact_target
from s3proxy.telemetry.access import AccessLog
from s3proxy.telemetry.accessforms import as_json
from s3proxy.telemetry.accessline import LineFormatter
from s3proxy.telemetry.instruments import Reading
from test.telemetry.records import a_record

START = 1769903000.0  # 31 January 2026, 23:43:20 UTC


class ManualThread:
    """Does its work when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Callable[[], Any], "Deferred[Any]"]] = []
        self.stopped = False
        self.hangs = False
        self.fails: OSError | None = None

    def run(self, work: Callable[[], Any]) -> "Deferred[Any]":
        """Remember the work, or do it at once."""
        done: "Deferred[Any]" = Deferred(lambda _: None)
        self.work.append((work, done))
        if not self.hangs:
            self.proceed()
        return done

    def proceed(self) -> None:
        """Do what is waiting."""
        while self.work:
            work, done = self.work.pop(0)
            try:
                if self.fails is not None:
                    raise self.fails
                result: Any = work()
            except Exception:
                result = Failure()
            done.callback(result)

    def stop(self) -> None:
        """Note the end."""
        self.stopped = True


def _tree(directory: str) -> dict[str, str]:
    """Every file below, by its relative path, with its content."""
    found = {}
    for path, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(path, name), encoding="ascii") as file:
                found[os.path.relpath(os.path.join(path, name), directory)] = file.read()
    return found


class AccessLogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.path.join(self.mktemp(), "access")
        self.clock = Clock()
        self.clock.advance(START)
        self.thread = ManualThread()
        self.log = self.make()

    def make(self, **options: Any) -> AccessLog:
        """A log with short intervals, started."""
        settings: dict[str, Any] = {"flush_interval": 5.0, "buffer_size": 3, "rotation_interval": 300.0}
        settings.update(options)
        log = AccessLog(
            self.directory, "proxy-1", self.clock, redact=lambda target: target, thread=self.thread, **settings
        )
        log.start()
        return log

    def keys(self, name: str = "access-proxy-1.log") -> list[str]:
        """The keys in one of the files."""
        with open(os.path.join(self.directory, name), encoding="ascii") as file:
            return [line.split(" ")[8] for line in file]

    def request(self, key: str, **changes: Any) -> None:
        """One request for this key."""
        self.log.log(a_record(key=key.encode(), **changes))


class BufferTests(AccessLogCase):
    def test_file_is_there_from_the_beginning(self) -> None:
        """The file can be followed before the first request, by everybody."""
        path = os.path.join(self.directory, "access-proxy-1.log")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o644)
        self.assertEqual(stat.S_IMODE(os.stat(self.directory).st_mode), 0o755)

    def test_directory_that_cannot_be_made(self) -> None:
        """Starting fails when the file can't be opened."""
        with open(self.directory + "-file", "w"):
            pass
        self.directory += "-file"
        self.assertRaises(OSError, self.make)

    def test_timer(self) -> None:
        """The only request of a quiet hour is in the file after one interval."""
        self.request("a")
        self.assertEqual(self.keys(), [])
        self.clock.advance(5.0)
        self.assertEqual(self.keys(), ["a"])

    def test_full_buffer(self) -> None:
        """A full buffer is written at once."""
        for key in "abcd":
            self.request(key)
        self.assertEqual(self.keys(), ["a", "b", "c"])
        self.assertEqual(self.log.buffered, 1)

    def test_order_while_the_thread_is_busy(self) -> None:
        """Lines that come during a write wait for the next one, in order; one batch is under way at a time."""
        self.thread.hangs = True
        for key in "abcdefgh":
            self.request(key)
        self.assertEqual(len(self.thread.work), 1)
        self.thread.hangs = False
        self.thread.proceed()
        self.clock.advance(5.0)
        self.assertEqual(self.keys(), list("abcdefgh"))

    def test_cached_only(self) -> None:
        """In mode cached_only a request that S3 saw is not logged."""
        self.log = self.make(mode="cached_only")
        for outcome in ("HIT", "MISS", "COALESCED", "STALE", "REVALIDATED", "PARTIAL", "BYPASS", "ERROR"):
            self.request(outcome, outcome=outcome)
        self.clock.advance(5.0)
        self.assertEqual(self.keys(), ["HIT", "COALESCED", "STALE"])

    def test_unknown_mode(self) -> None:
        """A mode that does not exist is refused."""
        self.assertRaises(ValueError, self.make, mode="some")

    def test_record_that_makes_no_line(self) -> None:
        """A fault of the formatter costs one line and no request."""
        self.request("a", status="\N{SNOWMAN}", object_size=None, total_seconds="x")
        self.request("b")
        self.clock.advance(5.0)
        self.assertEqual(self.keys(), ["b"])
        self.assertEqual(self.log.dropped, 1)

    def test_readings(self) -> None:
        """Lines written, dropped and waiting are told."""
        for key in "abcd":
            self.request(key)
        self.assertEqual(
            list(self.log.readings()),
            [
                Reading("s3proxy_access_log_records_total", 3, ("written",)),
                Reading("s3proxy_access_log_records_total", 0, ("dropped",)),
                Reading("s3proxy_access_log_buffer_records", 1),
                Reading("s3proxy_log_write_errors_total", 0, ("access",)),
            ],
        )

    def test_json(self) -> None:
        """Lines are in the file in the form that is wanted; those for others of this process stay as they are."""
        self.log = self.make(form="json")
        for key in "abc":
            self.request(key)
        with open(os.path.join(self.directory, "access-proxy-1.log"), encoding="ascii") as file:
            self.assertEqual([json.loads(line)["key"] for line in file], list("abc"))
        self.assertTrue(self.log.format(a_record()).startswith(b"- photos ["))

    def test_strict(self) -> None:
        """In the form s3-strict a line has the 27 fields of S3."""
        self.log = self.make(form="s3-strict", buffer_size=1)
        self.request("a")
        with open(os.path.join(self.directory, "access-proxy-1.log"), encoding="ascii") as file:
            self.assertTrue(file.read().endswith(" s3.eu-west-1.amazonaws.com - - - -\n"))

    def test_unknown_form(self) -> None:
        """A form that does not exist is refused."""
        self.assertRaises(ValueError, self.make, form="xml")


class FaultTests(AccessLogCase):
    def test_retry(self) -> None:
        """What could not be written is written later, before what came after it, and nothing twice."""
        self.thread.fails = OSError(28, "No space left on device")
        for key in "abcde":
            self.request(key)
        self.clock.advance(5.0)
        self.assertEqual((self.keys(), self.log.buffered), ([], 5))
        self.assertEqual((self.log.errors, self.log.failure), (2, "[Errno 28] No space left on device"))
        self.thread.fails = None
        self.clock.advance(5.0)
        self.clock.advance(5.0)
        self.assertEqual((self.keys(), self.log.buffered, self.log.written), (list("abcde"), 0, 5))
        self.assertEqual((self.log.errors, self.log.failure), (2, ""))

    def test_partial_write(self) -> None:
        """After a write that broke off the rest follows, byte for byte."""
        self.break_off(lambda line: line)

    def test_partial_write_of_json(self) -> None:
        """The same for lines in another form, which are longer."""
        self.log = self.make(form="json")
        self.break_off(as_json)

    def break_off(self, form: Callable[[bytes], bytes]) -> None:
        """Write three lines of which the disk takes a part at first."""
        real = os.write
        room = [150]

        def short_write(fd: int, data: Any) -> int:
            if room[0] <= 0:
                raise OSError(28, "No space left on device")
            count = real(fd, bytes(data)[: room[0]])
            room[0] -= count
            return count

        self.patch(os, "write", short_write)
        for key in "abc":
            self.request(key)
        self.assertEqual(self.log.buffered, 3)
        room[0] = 10_000
        self.clock.advance(5.0)
        lines = [form(LineFormatter(redact_target)(a_record(key=key.encode()))).decode() for key in "abc"]
        self.assertEqual(_tree(self.directory), {"access-proxy-1.log": "".join(lines)})
        self.assertEqual((self.log.buffered, self.log.written), (0, 3))

    def test_hanging(self) -> None:
        """A directory that does not answer is told of, long before lines are lost; and when it answers again, that."""
        self.thread.hangs = True
        self.request("a")
        self.clock.advance(5.0)
        self.assertEqual(self.log.failure, "")
        self.clock.advance(11.0)
        self.assertEqual(self.log.failure, "no answer for 11 s")
        self.thread.hangs = False
        self.thread.proceed()
        self.assertEqual((self.log.failure, self.keys()), ("", ["a"]))

    def test_bounded(self) -> None:
        """While nothing can be written the oldest waiting lines are dropped and counted; a batch under way is kept."""
        self.log = self.make(buffer_size=1, max_bytes=2000)
        self.thread.hangs = True
        for number in range(100):
            self.request(f"k{number}")
        self.assertGreater(self.log.dropped, 80)
        self.assertEqual(self.log.buffered + self.log.dropped, 100)
        self.thread.hangs = False
        self.thread.proceed()
        self.clock.advance(5.0)
        keys = self.keys()
        self.assertEqual((keys[0], keys[-1]), ("k0", "k99"))
        self.assertEqual(len(keys), 100 - self.log.dropped)

    def test_file_removed_by_an_operator(self) -> None:
        """A file that vanished is made again with the next write."""
        self.request("a")
        self.clock.advance(5.0)
        os.unlink(os.path.join(self.directory, "access-proxy-1.log"))
        self.request("b")
        self.clock.advance(5.0)
        self.assertEqual(self.keys(), ["b"])


class RotationTests(AccessLogCase):
    def test_interval(self) -> None:
        """After the interval the file moves into the tree of dates, named by the time of its first line."""
        self.clock.advance(60)
        self.request("a")
        self.clock.advance(5)
        self.clock.advance(300)
        self.request("b")
        self.clock.advance(5)
        self.assertEqual(self.keys("2026/01/31/2026-01-31-23-44-25-proxy-1.log"), ["a"])
        self.assertEqual(self.keys(), ["b"])

    def test_new_day(self) -> None:
        """A file holds lines of one UTC day."""
        self.clock.advance(86400 - START % 86400 - 10)
        self.request("a")
        self.clock.advance(5)
        self.clock.advance(6)
        self.request("b")
        self.clock.advance(5)
        self.assertEqual(self.keys("2026/01/31/2026-01-31-23-59-55-proxy-1.log"), ["a"])
        self.assertEqual(self.keys(), ["b"])

    def test_idle_file_rotates(self) -> None:
        """The last lines before a quiet night are put aside in time; an empty file never is."""
        self.request("a")
        for _ in range(300):
            self.clock.advance(5)
        self.assertEqual(self.keys("2026/01/31/2026-01-31-23-43-25-proxy-1.log"), ["a"])
        self.assertEqual(len(_tree(self.directory)), 2)
        self.assertEqual(self.keys(), [])

    def test_leftovers_of_an_earlier_run(self) -> None:
        """Old lines found at the start are put aside under the time of the last of them; fresh ones are continued."""
        path = os.path.join(self.directory, "access-proxy-1.log")
        for age, expected in ((10, 1), (90000, 2)):
            with open(path, "w", encoding="ascii") as file:
                file.write("old\n")
            os.utime(path, (START - age, START - age))
            self.make()
            self.assertEqual(len(_tree(self.directory)), expected)
        self.assertIn("2026/01/30/2026-01-30-22-43-20-proxy-1.log", _tree(self.directory))

    def test_two_processes(self) -> None:
        """Two workers that share the file lose nothing when both rotate."""
        other = self.make()
        for turn in range(4):
            for log, name in ((self.log, "x"), (other, "y")):
                log.log(a_record(key=f"{name}{turn}".encode()))
            self.clock.advance(200)
        lines = "".join(_tree(self.directory).values()).splitlines()
        expected = {f"{name}{turn}" for name in "xy" for turn in range(4)}
        self.assertEqual((len(lines), {line.split(" ")[8] for line in lines}), (8, expected))

    def test_rotation_that_fails(self) -> None:
        """When the tree can't be made the file grows longer, and no line is lost."""
        with open(os.path.join(self.directory, "2026"), "w"):
            pass
        self.request("a")
        self.clock.advance(5)
        self.clock.advance(400)
        self.request("b")
        self.clock.advance(5)
        self.assertEqual(self.keys(), ["a", "b"])

    def test_reopen(self) -> None:
        """After a reopening there is a file at the path again; what was written stays in the renamed one."""
        path = os.path.join(self.directory, "access-proxy-1.log")
        self.request("a")
        self.clock.advance(5)
        os.rename(path, path + ".1")
        self.log.reopen()
        self.assertEqual(self.keys(), [])
        self.request("b")
        self.clock.advance(5)
        self.assertEqual((self.keys("access-proxy-1.log.1"), self.keys()), (["a"], ["b"]))

    def test_reopen_of_a_log_that_is_not_in_use(self) -> None:
        """A log that was not started, or has ended, makes no file."""
        self.successResultOf(self.log.close())
        os.unlink(os.path.join(self.directory, "access-proxy-1.log"))
        self.log.reopen()
        self.assertEqual(_tree(self.directory), {})


class CloseTests(AccessLogCase):
    def test_nothing_is_lost(self) -> None:
        """Closing writes what waits, ends the timer and the thread, and says that nothing was lost."""
        self.request("a")
        self.request("b")
        self.assertEqual(self.successResultOf(self.log.close()), 0)
        self.assertEqual(self.keys(), ["a", "b"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.thread.stopped)

    def test_waits_for_the_batch_under_way(self) -> None:
        """Lines behind a running write are written, too, before closing ends."""
        self.thread.hangs = True
        for key in "abcde":
            self.request(key)
        closed = self.log.close()
        self.assertNoResult(closed)
        self.thread.hangs = False
        self.thread.proceed()
        self.assertEqual(self.successResultOf(closed), 0)
        self.assertEqual(self.keys(), list("abcde"))

    def test_tries_again(self) -> None:
        """A fault that passes within the time limit costs no line."""
        self.request("a")
        self.thread.fails = OSError(116, "Stale file handle")
        closed = self.log.close(timeout=5.0)
        self.clock.advance(1.0)
        self.assertNoResult(closed)
        self.thread.fails = None
        self.clock.advance(1.0)
        self.assertEqual(self.successResultOf(closed), 0)
        self.assertEqual(self.keys(), ["a"])

    def test_time_limit(self) -> None:
        """A hung file system delays the end by the time limit only; what was lost is told and counted."""
        self.thread.hangs = True
        for key in "abcd":
            self.request(key)
        closed = self.log.close(timeout=5.0)
        self.clock.advance(5.0)
        self.assertEqual(self.successResultOf(closed), 4)
        self.assertEqual(self.log.dropped, 4)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.thread.hangs = False
        self.thread.proceed()

    def test_after_the_end(self) -> None:
        """A request that ends after the log is only counted."""
        self.successResultOf(self.log.close())
        self.request("late")
        self.assertEqual((self.log.dropped, self.log.buffered), (1, 0))


class RealThreadTests(TestCase):
    timeout = 20

    def test_a_thousand_requests(self) -> "Deferred[None]":
        """With the thread of its own, every one of many lines is in the file after closing."""
        directory = self.mktemp()
        log = AccessLog(directory, "proxy-1", reactor, buffer_size=100, redact=lambda target: target)
        log.start()
        for number in range(1000):
            log.log(a_record(key=b"k%d" % number))

        def check(lost: int) -> None:
            self.assertEqual(lost, 0)
            with open(os.path.join(directory, "access-proxy-1.log"), encoding="ascii") as file:
                self.assertEqual([line.split(" ")[8] for line in file], [f"k{n}" for n in range(1000)])

        return log.close().addCallback(check)
