"""The file of rules as a service."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.admin.board import HealthState
from s3proxy.config.model import Cache, Config
from s3proxy.policy.rules import Rules
from s3proxy.s3.address import ObjectAddress
from s3proxy.services.rules_source import FILE_NAME, RulesSource
from s3proxy.storage.diskio import DiskBusy

OBJECT = ObjectAddress(store="aws", bucket=b"b", key=b"k")
GOOD = '{"rules": [{"pattern": "b/**", "get_ttl": "5s"}]}'
OTHER = '{"rules": [{"pattern": "b/**", "get_ttl": "6s"}, {"pattern": "c/**", "head_ttl": "7s"}]}'
BAD = '{"rules": [{"pattern": "b/**", "get_ttl": "5x"}, {}]}'
FIRST_PROBLEM = 'rules[0].get_ttl: value "5x" has the unknown unit "x"; allowed a duration from 0s to 3650d'


class Threads:
    """Calls for threads, done when the test says so."""

    def __init__(self) -> None:
        self.held = False
        self.busy = False
        self.calls = 0
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def run(self, call: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        if self.busy:
            return fail(DiskBusy(errno.EAGAIN, "busy"))
        self.calls += 1
        done: Deferred[Any] = Deferred()
        self._waiting.append((lambda: call(*args), done))
        if not self.held:
            self.work()
        return done

    def work(self) -> None:
        while self._waiting:
            call, done = self._waiting.pop(0)
            done.callback(call())


class RulesSourceTestCase(SynchronousTestCase):
    """One source over a directory of its own."""

    config = Config()

    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder)
        self.path = os.path.join(self.folder, FILE_NAME)
        self.clock = Clock()
        self.threads = Threads()
        self.used: list[Rules] = []
        self.config = self.configured(60.0)
        self.source = self.make()

    def configured(self, threshold: float, get_ttl: float = 60.0) -> Config:
        return Config(
            cache=Cache(cache_dir=self.folder, get_ttl=get_ttl, bucket_settings_staleness_threshold=threshold)
        )

    def make(self) -> RulesSource:
        return RulesSource(self.clock, self.config, self.threads.run, self.used.append, lambda: 1000.0)

    def write(self, text: str) -> None:
        """Replace the file as one should."""
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(f"{self.path}.new", self.path)

    def start(self, text: str | None = GOOD) -> None:
        """Load a file, and start the service."""
        if text is not None:
            self.write(text)
        self.source.load()
        self.source.startService()
        self.addCleanup(self.source.stopService)

    def ttl(self) -> float:
        """What is in force."""
        return self.source.rules.resolve(OBJECT).get_ttl

    def lines(self, action: Callable[[], Any], *levels: LogLevel) -> list[str]:
        """What is logged at these levels, warnings by default, without the path of the file."""
        with capturedLogs() as events:
            action()
        found = [formatEvent(event) for event in events if event["log_level"] in (levels or (LogLevel.warn,))]
        return [line.replace(self.path, "FILE").replace(self.folder, "DIR") for line in found]

    def reading(self, name: str, *labels: str) -> float:
        """One metric."""
        (found,) = [r.value for r in self.source.readings() if r.name == f"s3proxy_{name}" and r.labels == labels]
        return found


class ReloadTests(RulesSourceTestCase):
    """A file that changes."""

    def test_loaded_before_anything_is_served(self) -> None:
        """The first request finds the rules; nobody need be told."""
        self.write(GOOD)
        self.assertEqual(self.source.load().resolve(OBJECT).get_ttl, 5.0)
        self.assertEqual((self.threads.calls, self.used), (0, []))

    def test_no_file(self) -> None:
        """Without the file there are no rules, and no word is lost about it."""
        self.assertEqual(self.lines(lambda: self.start(None), *LogLevel.iterconstants()), [])
        self.assertEqual(self.ttl(), 60.0)
        self.assertEqual(self.source.health().state, HealthState.HEALTHY)

    def test_changed_file(self) -> None:
        """It is seen when the time has come, and not before; who needs the rules gets them once."""
        self.start()
        self.write(OTHER)
        self.clock.advance(59)
        self.assertEqual((self.ttl(), self.used), (5.0, []))
        self.assertEqual(self.lines(lambda: self.clock.advance(1), LogLevel.info), ["FILE: 2 rule(s) in force"])
        self.assertEqual(self.ttl(), 6.0)
        self.assertEqual(self.used, [self.source.rules])
        self.clock.pump([60] * 3)
        self.assertEqual(len(self.used), 1)

    def test_unchanged_file(self) -> None:
        """It is looked at, and nothing happens."""
        self.start()
        before, rules = self.threads.calls, self.source.rules
        self.assertEqual(self.lines(lambda: self.clock.pump([60] * 5), *LogLevel.iterconstants()), [])
        self.assertEqual(self.threads.calls, before + 5)
        self.assertIs(self.source.rules, rules)

    def test_changed_in_place_with_the_same_size_and_time(self) -> None:
        """What counts are the bytes."""
        self.start()
        status = os.stat(self.path)
        with open(self.path, "r+", encoding="utf-8") as file:
            file.write(GOOD.replace("5s", "8s"))
        os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.clock.advance(60)
        self.assertEqual(self.ttl(), 8.0)

    def test_removed_file(self) -> None:
        """No file, no rules; that counts as a good load."""
        self.start()
        os.unlink(self.path)
        self.assertEqual(
            self.lines(lambda: self.clock.advance(60), *LogLevel.iterconstants()), ["FILE is not there: no rules"]
        )
        self.assertEqual(self.ttl(), 60.0)
        self.assertEqual(self.source.health().state, HealthState.HEALTHY)

    def test_never_more_than_once_a_second(self) -> None:
        """Also with 0s, which means as often as possible."""
        self.config = self.configured(0.0)
        self.source = self.make()
        self.start()
        self.write(OTHER)
        self.clock.advance(0.9)
        self.assertEqual(self.ttl(), 5.0)
        self.clock.advance(0.1)
        self.assertEqual(self.ttl(), 6.0)

    def test_a_directory_that_hangs(self) -> None:
        """One thread waits for it, and nothing else does; the rules stay. When it answers, life goes on."""
        self.start()
        self.threads.held = True
        before = self.threads.calls
        self.write(OTHER)
        self.clock.pump([60] * 5)
        self.assertEqual((self.threads.calls, self.ttl()), (before + 1, 5.0))
        self.threads.work()
        self.assertEqual(self.ttl(), 6.0)
        self.threads.held = False
        self.write(GOOD)
        self.clock.advance(60)
        self.assertEqual(self.ttl(), 5.0)

    def test_no_thread_to_be_had(self) -> None:
        """The next look comes soon."""
        self.start()
        self.write(OTHER)
        self.threads.busy = True
        self.clock.advance(60)
        self.assertEqual(self.ttl(), 5.0)
        self.threads.busy = False
        self.clock.advance(60)
        self.assertEqual(self.ttl(), 6.0)

    def test_end(self) -> None:
        """After the end of the service nobody looks any more, and a thread that comes back late changes nothing."""
        self.start()
        self.threads.held = True
        self.write(OTHER)
        self.clock.advance(60)
        self.source.stopService()
        self.threads.work()
        self.assertEqual(self.used, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.source.startService()

    def test_remarks(self) -> None:
        """What is worth a word is said once for each file."""
        text = '{"rules": [{"pattern": "b/**", "get_tll": "1s", "compression_enabled": true}]}'
        expected = ["FILE: rules[0].get_tll: unknown field, ignored; did you mean get_ttl?"]
        self.assertEqual(self.lines(lambda: self.start(text)), expected)
        self.assertEqual(self.lines(lambda: self.clock.advance(60)), [])

    def test_former_settings(self) -> None:
        """Files of settings of single buckets are ignored, which is said once, with one of them."""
        for bucket in ("one", "two"):
            os.makedirs(os.path.join(self.folder, "metadata", bucket))
            with open(os.path.join(self.folder, "metadata", bucket, "_settings.json"), "w", encoding="ascii"):
                pass
        os.mkdir(os.path.join(self.folder, "metadata", "three"))
        expected = ["2 file(s) like DIR/metadata/one/_settings.json are ignored; write rules into FILE instead"]
        self.assertEqual(self.lines(lambda: self.start(None)), expected)


class BadFileTests(RulesSourceTestCase):
    """A file that can't be used."""

    def make_bad(self) -> None:
        """A file that was good is replaced by a bad one, and looked at."""
        self.start()
        self.write(BAD)
        self.clock.advance(60)

    def test_the_last_good_one_stays(self) -> None:
        """Nothing changes, and the metric rises. (SH-08)"""
        self.start()
        self.assertEqual((self.reading("rules_on_fallback"), self.reading("rules_loaded")), (0, 1))
        self.assertEqual(self.reading("rules_reloads_total", "failure"), 0)
        self.write(BAD)
        self.clock.advance(60)
        self.assertEqual((self.ttl(), self.used), (5.0, []))
        self.assertEqual((self.reading("rules_on_fallback"), self.reading("rules_loaded")), (1, 1))
        self.assertEqual(self.reading("rules_reloads_total", "failure"), 1)
        self.assertEqual(self.reading("rules_reloads_total", "success"), 1)
        self.assertEqual(self.reading("rules_last_success_timestamp_seconds"), 1000.0)

    def test_said_once(self) -> None:
        """All problems are in the log, once for each change of the file."""
        self.start()
        self.write(BAD)
        expected = [
            f"FILE: {FIRST_PROBLEM}",
            "FILE: rules[1].pattern: the value is missing; "
            'allowed a glob over bucket/key, such as "my-bucket/logs/**"',
            "FILE can't be used; 1 rule(s) loaded before stay in force",
        ]
        self.assertEqual(self.lines(lambda: self.clock.advance(60)), expected)
        self.assertEqual(self.lines(lambda: self.clock.pump([60] * 5)), [])
        self.assertEqual(self.reading("rules_reloads_total", "failure"), 1)
        self.write("[")
        self.assertEqual(len(self.lines(lambda: self.clock.advance(60))), 2)
        self.assertEqual(self.reading("rules_reloads_total", "failure"), 2)

    def test_health(self) -> None:
        """It is degraded and says why, until the file is mended."""
        self.make_bad()
        status = self.source.health()
        self.assertEqual(status.state, HealthState.DEGRADED)
        self.assertEqual(
            status.message,
            "cache_rules.json can't be used, and 1 rule(s) loaded before stay in force: "
            f"{FIRST_PROBLEM} (and 1 more).",
        )
        self.assertEqual(status.data["problems"][0], FIRST_PROBLEM)  # type: ignore[index]
        self.write(GOOD)
        self.clock.advance(60)
        self.assertEqual(self.source.health().state, HealthState.HEALTHY)
        self.assertEqual(self.reading("rules_on_fallback"), 0)

    def test_bad_from_the_start(self) -> None:
        """The start does not fail; there are no rules until the file is mended."""
        self.start(BAD)
        self.assertEqual((self.ttl(), self.source.health().state), (60.0, HealthState.DEGRADED))
        self.write(GOOD)
        self.clock.advance(60)
        self.assertEqual((self.ttl(), self.source.health().state), (5.0, HealthState.HEALTHY))

    def test_bad_after_removed(self) -> None:
        """What stays in force is that there are no rules, and not rules that were removed before."""
        self.start()
        os.unlink(self.path)
        self.clock.advance(60)
        self.write(BAD)
        self.clock.advance(60)
        self.assertEqual(self.ttl(), 60.0)

    def unreadable(self, make: Callable[[str], None], problem: str) -> None:
        """Something else in the place of a good file: it is said what, and the rules stay."""
        self.start()
        os.unlink(self.path)
        make(self.path)
        self.assertEqual(self.lines(lambda: self.clock.advance(60))[0], f"FILE: {problem}")
        self.assertEqual((self.ttl(), self.source.health().state), (5.0, HealthState.DEGRADED))

    def test_directory(self) -> None:
        """A directory of that name can't be read."""
        allowed = "allowed a regular file that the proxy's user may read"
        self.unreadable(os.mkdir, f"can't be read: {os.strerror(errno.EISDIR)}; {allowed}")

    def test_pipe(self) -> None:
        """A pipe holds up nobody."""
        allowed = "allowed a regular file that the proxy's user may read"
        self.unreadable(os.mkfifo, f"can't be read: Is not a file; {allowed}")

    def test_broken_link(self) -> None:
        """A link that leads nowhere is no order to forget the rules."""
        self.unreadable(lambda path: os.symlink("nowhere", path), "is a link that leads nowhere; mend or remove it")

    def test_link(self) -> None:
        """A link to a file elsewhere is a file."""
        elsewhere = os.path.abspath(self.mktemp())
        with open(elsewhere, "w", encoding="ascii") as file:
            file.write(OTHER)
        os.symlink(elsewhere, self.path)
        self.start(None)
        self.assertEqual(self.ttl(), 6.0)

    def test_lost_directory(self) -> None:
        """While the directory is away the rules stay: a file system that is not mounted is no order to forget them."""
        self.start()
        away = f"{self.folder}-away"
        os.rename(self.folder, away)
        self.clock.advance(60)
        self.assertEqual((self.ttl(), self.source.health().state), (5.0, HealthState.DEGRADED))
        os.mkdir(self.folder)
        self.clock.advance(60)
        self.assertEqual((self.ttl(), self.source.health().state), (5.0, HealthState.DEGRADED))
        self.assertIn("mount", self.source.health().message)
        shutil.rmtree(self.folder)
        os.rename(away, self.folder)
        self.clock.advance(60)
        self.assertEqual((self.ttl(), self.source.health().state), (5.0, HealthState.HEALTHY))
        os.unlink(self.path)
        self.clock.advance(60)
        self.assertEqual(self.ttl(), 60.0)

    def test_other_directory(self) -> None:
        """A file in another directory of that name counts, and from then on that is the directory."""
        self.start()
        os.rename(self.folder, f"{self.folder}-away")
        os.mkdir(self.folder)
        self.source.reload(None)
        self.assertEqual(self.ttl(), 5.0)
        self.write(OTHER)
        self.clock.advance(60)
        self.assertEqual(self.ttl(), 6.0)
        os.unlink(self.path)
        self.clock.advance(60)
        self.assertEqual(self.ttl(), 60.0)


class HangupTests(RulesSourceTestCase):
    """SIGHUP."""

    def test_at_once(self) -> None:
        """The file is looked at, whatever became of the configuration."""
        self.start()
        self.write(OTHER)
        self.source.reload(None)
        self.assertEqual((self.ttl(), self.used), (6.0, [self.source.rules]))

    def test_says_what_there_is(self) -> None:
        """Also when that is nothing new: somebody asked."""
        self.start()
        self.assertEqual(self.lines(lambda: self.source.reload(None), LogLevel.info), ["FILE: 1 rule(s) in force"])
        self.write(BAD)
        self.assertEqual(len(self.lines(lambda: self.source.reload(None))), 3)
        self.assertEqual(len(self.lines(lambda: self.source.reload(None))), 3)
        os.unlink(self.path)
        for _ in range(2):
            said = self.lines(lambda: self.source.reload(None), LogLevel.info)
            self.assertEqual(said, ["FILE is not there: no rules"])

    def test_configuration(self) -> None:
        """Rules rest on the new configuration at once, before the file was read."""
        self.start(json.dumps({"rules": [{"pattern": "b/**", "head_ttl": "5s"}]}))
        self.threads.held = True
        self.source.reload(self.configured(60.0, get_ttl=9.0))
        settings = self.used[-1].resolve(OBJECT)
        self.assertEqual((settings.get_ttl, settings.head_ttl), (9.0, 5.0))
        self.threads.work()

    def test_another_interval(self) -> None:
        """It counts from then on."""
        self.start()
        self.source.reload(self.configured(10.0))
        self.write(OTHER)
        self.clock.advance(10)
        self.assertEqual(self.ttl(), 6.0)

    def test_during_a_look(self) -> None:
        """The look that is under way may have read the file before it changed; so there is another one."""
        self.start()
        self.threads.held = True
        self.source.reload(None)
        self.source.reload(None)
        self.source.reload(None)
        before = self.threads.calls
        self.threads.work()
        self.assertEqual(self.threads.calls, before + 1)
