"""``cache_rules.json`` in the cache directory: read at the start, looked at again now and then, in a thread.

A file that can't be used changes nothing: what was loaded before stays in force, the log says what is wrong, once, and
the component ``rules`` of the health document says so until it is mended. No file is no rules; but while the directory
itself is away, or another one is in its place, the file is not gone, only out of reach.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.admin.board import ComponentStatus, HealthState
from s3proxy.cache.background import RunInThread
from s3proxy.config.features import rule_remarks
from s3proxy.config.model import Config
from s3proxy.policy.rules import Rules
from s3proxy.policy.rules_file import FILE_NAME, LONGEST_FILE, RulesError, RulesFile, read_rules
from s3proxy.storage.diskio import DiskBusy
from s3proxy.telemetry.instruments import Reading

__all__ = ["FILE_NAME", "RulesSource", "rules_problems"]

MOST_OFTEN = 1.0
"""Seconds between two looks at the file, at least."""

_FORMER_SETTINGS = "_settings.json"


@attrs.frozen
class _Seen:
    """What a look at the file found.

    :ivar data: its bytes; None: there is no file
    :ivar file: what they say; None: nothing that can be used
    :ivar problems: why
    :ivar directory: device and inode of the directory
    """

    data: bytes | None
    file: RulesFile | None
    problems: tuple[str, ...] = ()
    directory: tuple[int, int] | None = None


def _look_at(config: Config, last: _Seen | None) -> _Seen:
    """Read the file, and what it says, unless its bytes are those of the last look. Reads; touches nothing else."""
    directory = config.cache.cache_dir
    path = _path(config)
    home = None
    try:
        status = os.stat(directory)
        home = (status.st_dev, status.st_ino)
        data = _read(path)
    except FileNotFoundError:
        if home is None:
            return _Seen(None, None, (f"the directory {directory} is not there; mount it again",))
        if os.path.islink(path):
            return _Seen(None, None, ("is a link that leads nowhere; mend or remove it",), home)
        return _Seen(None, RulesFile(()), directory=home)
    except OSError as error:
        text = f"can't be read: {error.strerror or error}; allowed a regular file that the proxy's user may read"
        return _Seen(None, None, (text,), home)
    if last is not None and last.data == data:
        return attrs.evolve(last, directory=home)
    try:
        file = read_rules(data, config.connection_pool.upstream_first_byte_timeout)
    except RulesError as error:
        return _Seen(data, None, error.problems, home)
    return _Seen(data, file, directory=home)


def _path(config: Config) -> str:
    return os.path.join(config.cache.cache_dir, FILE_NAME)


def _read(path: str) -> bytes:
    """The whole file, or so much of it that it is too long.

    :raises OSError: it is no file, or can't be read
    """
    # Neither a pipe nor a device may hold up the thread.
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Is not a file")
        return file.read(LONGEST_FILE + 1)


def rules_problems(config: Config) -> tuple[str, ...]:
    """What is wrong with the file of rules, one line each. A cache directory that is still to be made is no fault."""
    if not os.path.lexists(config.cache.cache_dir):
        return ()
    return tuple(f"{_path(config)}: {problem}" for problem in _look_at(config, None).problems)


class RulesSource(Service):
    """Keeps the rules that are in force, and tells who needs them when they change.

    :param run: calls a function in a thread for disk work
    :param use: gets the new rules at every change, from the start of the service on
    :param now: unix seconds
    :ivar rules: what is in force
    """

    log = Logger()

    def __init__(
        self, reactor: Any, config: Config, run: RunInThread, use: Callable[[Rules], None], now: Callable[[], float]
    ) -> None:
        self._config = config
        self._run = run
        self._use = use
        self._now = now
        self._directory = config.cache.cache_dir
        self._path = _path(config)
        self._file = RulesFile(())
        self._home: tuple[int, int] | None = None
        self._last: _Seen | None = None
        self._looking = False
        self._look_again = False
        self._loaded_at = 0.0
        self._loads = {"success": 0, "failure": 0}
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self.rules = Rules(config)

    def load(self) -> Rules:
        """Read the file now. Before the first request: it must not be answered under other rules."""
        self._found(_look_at(self._config, None), asked=False)
        return self.rules

    def startService(self) -> None:
        """Begin to look at the file."""
        super().startService()
        self._start_loop()
        self._run(self._former_settings).addCallbacks(self._tell_of_former_settings, self._failed)

    def stopService(self) -> None:
        """Look no more. What a thread still reads has no consequence."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def reload(self, config: Config | None) -> None:
        """Look at the file now, and say what came of it also if that is nothing new.

        :param config: another configuration on which the rules rest from now on
        """
        if config is not None:
            interval = self._interval()
            self._config = config
            self._put_into_force()
            if self.running and self._interval() != interval:
                self._loop.stop()
                self._start_loop()
        self._look(asked=True)

    # Looking.

    def _interval(self) -> float:
        return max(MOST_OFTEN, self._config.cache.bucket_settings_staleness_threshold)

    def _start_loop(self) -> None:
        self._loop.start(self._interval(), now=False).addErrback(self._failed)

    def _look(self, asked: bool = False) -> None:
        """One look at a time: a directory that hangs holds up one thread, and no timer."""
        if self._looking:
            self._look_again = self._look_again or asked
            return
        self._looking = True
        looking = self._run(_look_at, self._config, self._last).addCallback(self._found, asked)
        looking.addErrback(self._failed).addCallback(self._looked)

    def _looked(self, _: object) -> None:
        self._looking = False
        if self._look_again:
            self._look_again = False
            self._look(asked=True)

    def _failed(self, reason: Failure) -> None:
        if not reason.check(DiskBusy):
            self.log.failure("looking at {path}", reason, path=self._path)

    def _found(self, seen: _Seen, asked: bool) -> None:
        moved = seen.directory != self._home
        if seen.file is not None and seen.data is None and self._file.rules and moved:
            text = (
                "is not there, but neither is the directory in which it was; "
                f"mount that at {self._directory} again, or write a file without rules"
            )
            seen = _Seen(None, None, (text,), seen.directory)
        last, self._last = self._last, seen
        news = last is None or (last.data, last.problems) != (seen.data, seen.problems)
        if seen.file is None:
            if news:
                self._loads["failure"] += 1
            if news or asked:
                self._tell_problems(seen.problems)
            return
        self._home = seen.directory
        if news:
            self._loads["success"] += 1
            self._loaded_at = self._now()
            self._file = seen.file
            self._put_into_force()
        if news or asked:
            self._tell_rules(seen, first=last is None)

    def _put_into_force(self) -> None:
        self.rules = Rules(self._config, self._file.rules)
        if self.running:
            self._use(self.rules)

    # Telling.

    def _tell_problems(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            self.log.warn("{path}: {problem}", path=self._path, problem=problem)
        self.log.warn(
            "{path} can't be used; {count} rule(s) loaded before stay in force",
            path=self._path,
            count=len(self._file.rules),
        )

    def _tell_rules(self, seen: _Seen, *, first: bool) -> None:
        if seen.data is None:
            if not first:
                self.log.info("{path} is not there: no rules", path=self._path)
            return
        fields = {field for rule in self._file.rules for field in rule.given()}
        for remark in (*self._file.remarks, *rule_remarks(fields)):
            self.log.warn("{path}: {remark}", path=self._path, remark=remark)
        self.log.info("{path}: {count} rule(s) in force", path=self._path, count=len(self._file.rules))

    def _former_settings(self) -> list[str]:
        """Settings of single buckets as they were kept before there was a file of rules."""
        metadata = os.path.join(self._directory, "metadata")
        try:
            names = sorted(os.listdir(metadata))
        except OSError:
            return []
        paths = (os.path.join(metadata, name, _FORMER_SETTINGS) for name in names)
        return [path for path in paths if os.path.isfile(path)]

    def _tell_of_former_settings(self, paths: list[str]) -> None:
        if paths:
            self.log.warn(
                "{count} file(s) like {example} are ignored; write rules into {path} instead",
                count=len(paths),
                example=paths[0],
                path=self._path,
            )

    # For operators.

    @property
    def _on_fallback(self) -> bool:
        return self._last is not None and self._last.file is None

    def health(self) -> ComponentStatus:
        """Whether the file can be used."""
        data: dict[str, object] = {"rules": len(self._file.rules), "file": self._path}
        if self._last is None or self._last.file is not None:
            return ComponentStatus("rules", HealthState.HEALTHY, data=data)
        more = len(self._last.problems) - 1
        return ComponentStatus(
            "rules",
            HealthState.DEGRADED,
            f"{FILE_NAME} can't be used, and {len(self._file.rules)} rule(s) loaded before stay in force: "
            f"{self._last.problems[0]}{f' (and {more} more)' if more else ''}.",
            data={**data, "problems": list(self._last.problems)},
        )

    def readings(self) -> Iterable[Reading]:
        """For :meth:`s3proxy.telemetry.metrics.Metrics.observe_source`."""
        yield Reading("s3proxy_rules_loaded", len(self._file.rules))
        yield Reading("s3proxy_rules_on_fallback", float(self._on_fallback))
        for result, count in self._loads.items():
            yield Reading("s3proxy_rules_reloads_total", count, (result,))
        yield Reading("s3proxy_rules_last_success_timestamp_seconds", self._loaded_at)
