"""Two hosts: two proxies with nothing but a cache directory in common, which each sees through a mount of its own."""

import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from test.support.chaos_history import History, Log, Wrong
from test.support.content import content
from test.support.raw_client import ConnectionEnded
from test.support.waiting import poll
from test.support.wrapped_proxy import HostProxy
from test.system.stage import MIB, Stage, at_once
from typing import Any

import attrs

__all__ = ["SIZES", "HostStage", "Late", "Mixture", "Version", "measure_lag", "measure_lags"]

SIZES = (0, 1000, 70_000, 300_000, 2 * MIB, 10 * MIB)
"""Nothing, what is kept in memory with its description, what is kept in one file, and what is kept in ranges."""
_CLIENTS = 8
_WRITES = 0.1
_RANGES = 0.4


class HostStage(Stage):
    """A stage whose proxy is alone on its host.

    :param cache: the cache directory, as that host sees it
    """

    def __init__(self, cache: Path, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, start=False)
        self._plain = self.proxy
        self.proxy = HostProxy(self.proxy.config, folder=self.proxy.folder)
        self.proxy.configure({"cache": {"cache_dir": str(cache)}})

    def stop(self) -> None:
        """End the proxy; the fake goes on."""
        super().stop()
        self._plain.stop()


@attrs.frozen
class Version:
    """What an object is from some moment on: bytes that no other version has, and their number."""

    seed: int
    size: int


@attrs.frozen(kw_only=True)
class Late:
    """How late one host saw a write through the other.

    :ivar seconds: from the answer to the write to the last request that was answered with the version before
    :ivar reads: requests until the new one came
    """

    seconds: float
    reads: int


def measure_lag(writer: Stage, reader: Stage, key: bytes, old: Version, new: Version, limit: float) -> Late:
    """Have a host read an object again and again while another version is written through the other one, until that
    comes.

    :param old: what S3 has now
    :param limit: seconds until then at most
    :raises AssertionError: an answer is neither the one version nor the other, an older one comes after the newer one,
        or it takes longer
    """
    bodies = {content(old.seed, 0, old.size): False, content(new.seed, 0, new.size): True}
    answers: list[tuple[float, bool]] = []
    over = threading.Event()

    def poll_reader() -> None:
        while not over.is_set():
            asked = time.monotonic()
            found = reader.ask(b"GET", key)
            seen = bodies.get(found.body) if found.status == 200 else None
            if seen is None:
                raise AssertionError(f"{key!r}: {found.status} with {len(found.body)} bytes, which are of no version")
            if not seen and answers and answers[-1][1]:
                raise AssertionError(f"{key!r}: the version before came after the new one")
            answers.append((asked, seen))
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(poll_reader)
        try:
            poll(lambda: len(answers) > 1 or reading.done(), 30, "the first answers")
            answer = writer.upload(key, new.seed, new.size)
            written = time.monotonic()
            if answer.status != 200:
                raise AssertionError(f"{key!r}: the write got {answer.status}")
            # An answer may take long on a slow machine: what counts is when it was asked for.
            while not reading.done() and not answers[-1][1]:
                if answers[-1][0] - written > limit:
                    raise AssertionError(f"{key!r}: still the version before after {limit:.2f} s")
                time.sleep(0.01)
        finally:
            over.set()
        reading.result(60)
    late = [asked - written for asked, seen in answers if not seen and asked > written]
    for stage in (reader, writer, reader):
        if not bodies.get(stage.ask(b"GET", key).body):
            raise AssertionError(f"{key!r}: the version before came after the new one")
    return Late(seconds=max(late, default=0.0), reads=len(answers))


def measure_lags(both: tuple[Stage, Stage], name: str, limit: float, sizes: Sequence[int] = SIZES) -> list[Late]:
    """The same for objects of several sizes at once, in both directions.

    :param name: new keys begin with it
    """
    work = []
    for number, size in enumerate(sizes):
        for direction, (writer, reader) in enumerate((both, both[::-1])):
            key = f"{name}-{size}-{direction}".encode()
            both[0].put(key, number, size)
            old, new = Version(number, size), Version(number + 20, max(1, size - direction))
            work.append(partial(measure_lag, writer, reader, key, old, new, limit))
    return at_once(work, limit + 60)


class Mixture:
    """Readers and writers at random on two hosts; every byte is compared.

    :param late: seconds for which a host may show what was overwritten through the other one
    :ivar faults: what went wrong
    :ivar reads: answers that were right
    :ivar broken: answers that broke off, as they may when a host removes what the other one is sending
    """

    def __init__(self, both: tuple[Stage, Stage], late: float, slack: float, *, objects: int = 10) -> None:
        self._both = both
        self._history = History([1e9, 1e9], late, slack)
        self._log = Log()
        self._over = threading.Event()
        self._keys = [f"mixed-{number}" for number in range(objects)]
        self.faults: list[str] = []
        self.reads = self.writes = self.broken = 0

    def run(self, seconds: float, seed: int = 1) -> None:
        """All of it."""
        choice = random.Random(seed)
        for key in self._keys:
            self._history.add_key(key)
            self._write(key, choice, 0)
        timer = threading.Timer(seconds, self._over.set)
        timer.start()
        try:
            at_once([partial(self._client, random.Random(seed + number)) for number in range(_CLIENTS)], seconds + 60)
        finally:
            timer.cancel()

    def _client(self, choice: random.Random) -> None:
        """Until the time is over, or something is wrong."""
        while not self._over.is_set():
            key, number = choice.choice(self._keys), choice.randrange(2)
            try:
                if choice.random() < _WRITES:
                    self._write(key, choice, number)
                else:
                    self._read(key, choice, number)
            except Exception as problem:
                self.faults.append(f"{problem!r}\n{self._log.about(key)}")
                self._over.set()

    def _write(self, key: str, choice: random.Random, number: int) -> None:
        """A new version through one of the hosts."""
        with self._history.writing[key]:
            version = self._history.draft(choice.choice(SIZES[1:]), number)
            self._log.add(key, f"version {version.number} ({version.size} bytes) through {number}")
            self._history.begin(key, version)
            answer = self._both[number].ask(b"PUT", key.encode(), body=version.body(0, version.size))
            if (answer.status, answer.header(b"etag")) != (200, version.etag):
                raise Wrong(f"{key}: PUT through {number} got {answer.status}")
            self._history.confirm(key, version)
        self.writes += 1

    def _read(self, key: str, choice: random.Random, number: int) -> None:
        """The whole object or the end of it, fast or slowly."""
        size = self._history.size(key)
        start = choice.randrange(size) if choice.random() < _RANGES else 0
        headers = [(b"Range", b"bytes=%d-" % start)] if start else []
        asked = time.monotonic()
        with self._both[number].connect(timeout=25) as client:
            client.send(self._both[number].request(b"GET", key.encode(), headers=headers))
            try:
                answer = client.read_response(b"GET", choice.choice((0, 0, 0, 0, 4e6)))
            except (ConnectionEnded, ConnectionResetError) as problem:
                self._log.add(key, f"from {number}: broken off, {problem!r}")
                self.broken += 1
                return
        if answer.status == 416:
            # The object has become shorter.
            return
        if answer.status not in (200, 206):
            raise Wrong(f"{key}: host {number} answers {answer.status} {answer.body[:200]!r}")
        version = self._history.check(key, answer.header(b"etag") or b"?", number, asked)
        self._log.add(key, f"{answer.status} from {number}: version {version.number} {answer.header(b'x-cache')!r}")
        if answer.body != version.body(start, version.size):
            raise Wrong(f"{key}: host {number} sent bytes that are not those of version {version.number}")
        self.reads += 1
