"""What is done to two proxies on one cache directory while clients use them."""

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from test.support.chaos_history import Wrong
from test.support.chaos_stage import MIB, ChaosStage
from test.support.waiting import poll

__all__ = ["ChaosBlows"]

_ORPHANS = 20.0
"""Seconds in which workers end whose supervisor is dead."""


class ChaosBlows:
    """Deals them, one at a time.

    :param over: ends every wait
    """

    def __init__(self, stage: ChaosStage, choice: random.Random, over: threading.Event) -> None:
        self._stage = stage
        self._choice = choice
        self._over = over

    def deal(self) -> None:
        """One blow.

        :raises Wrong: something went wrong that must not
        """
        todo: list[tuple[Callable[[], None], int]] = [
            (self._kill_worker, 5), (self._kill_instance, 2), (self._restart, 2), (self._truncate, 4),
            (self._remove, 2), (self._damage, 2), (self._litter, 1),
        ]  # fmt: skip
        if self._stage.small_disk:
            todo.append((self._fill_disk, 2))
        acts, weights = zip(*todo)
        act = self._choice.choices(acts, weights)[0]
        name = act.__name__.lstrip("_")
        self._say(name)
        act()
        self._stage.counts[f"blow: {name}"] += 1

    def calm(self) -> None:
        """Both are restarted in good order, and nothing lies about that is not theirs."""
        for path in self._stage.files():
            if path.name.startswith("litter"):
                path.unlink()
        for number in range(2):
            self._stage.down(number)
            self._terminate(number)
            self._stage.start(number)
        self._say("calm")

    def _say(self, text: str) -> None:
        self._stage.log.add("chaos", text)

    # Processes.

    def _kill_worker(self) -> None:
        number = self._choice.randrange(2)
        workers = self._stage.pids(number)[1:]
        if workers:
            self._stage.trouble(number)
            victim = self._choice.choice(workers)
            self._say(f"kill -9 worker {victim} of {number}")
            _kill(victim)

    def _kill_instance(self) -> None:
        number = self._choice.randrange(2)
        self._stage.down(number)
        orphans = self._stage.pids(number)[1:]
        self._say(f"kill -9 instance {number}")
        self._stage.proxies[number].kill9()
        if self._choice.random() < 0.5:
            for pid in orphans:
                _kill(pid)
        self._over.wait(self._choice.uniform(0, 1.5))
        poll(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans), _ORPHANS, "orphaned workers to end")
        self._stage.start(number)
        self._say(f"instance {number} is back")

    def _restart(self) -> None:
        number = self._choice.randrange(2)
        self._stage.down(number)
        self._say(f"SIGTERM to {number}")
        self._terminate(number)
        self._stage.start(number)
        self._say(f"instance {number} is back")

    def _terminate(self, number: int) -> None:
        code = self._stage.proxies[number].terminate()
        if code != 0:
            raise Wrong(f"instance {number} ended with {code} after SIGTERM")

    # Files.

    def _some_files(self, most: int) -> list[Path]:
        files = self._stage.files()
        return self._choice.sample(files, min(len(files), self._choice.randint(1, most)))

    def _truncate(self) -> None:
        """Files that are too short, in the place of what was there. Not in the same file: what the kernel sends at this
        moment it would send with zeros, and nobody could notice.
        """
        for path in self._some_files(3):
            try:
                data, status = path.read_bytes(), path.stat()
                short = self._stage.cache / "short"
                short.write_bytes(data[: self._choice.randrange(len(data))] if data else b"")
                os.utime(short, ns=(status.st_atime_ns, status.st_mtime_ns))
                short.rename(path)
            except OSError:
                continue

    def _remove(self) -> None:
        for path in self._some_files(5):
            path.unlink(missing_ok=True)

    def _damage(self) -> None:
        """Flip bits while nobody runs: what is damaged after it was compared once is for the scrubber to find."""
        for number in range(2):
            self._stage.down(number)
            self._terminate(number)
        for path in self._some_files(6):
            self._flip(path)
        for number in range(2):
            self._stage.start(number)

    def _flip(self, path: Path) -> None:
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size:
                at = self._choice.randrange(size)
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([byte[0] ^ 1 << self._choice.randrange(8)]))

    def _litter(self) -> None:
        """Files that nobody knows."""
        shards = [Path(parent) for parent, _, _ in os.walk(self._stage.cache / "o")]
        folder = self._choice.choice(shards)
        try:
            (folder / f"litter-{self._choice.randrange(1000)}").write_bytes(b"x" * 100)
        except OSError:
            return

    def _fill_disk(self) -> None:
        filler = self._stage.cache / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(MIB))
        except OSError:
            pass
        self._over.wait(self._choice.uniform(0.5, 3))
        filler.unlink()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
