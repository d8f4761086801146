"""A server as a process, and what the kernel knows about it: processor time, resident memory, bytes read from disk."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ROOT", "Server", "ServerFailed", "free_port", "machine_times"]

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
START_SECONDS = 30
STOP_SECONDS = 15
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ServerFailed(Exception):
    """A server did not start, or gave a wrong answer."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def machine_times() -> tuple[float, float]:
    """Seconds that all processors were busy, and that the hypervisor kept them from running, since the start."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq) / _TICKS, steal / _TICKS


class Server:
    """A process that listens on ``port`` of the loopback interface, with its children and companions.

    :param command: ends with its children when it gets SIGTERM; its output goes to ``<name>.out`` in ``folder``
    :param companions: commands of processes that belong to it, for instance the one that writes its log; started once
        it listens, and counted with it
    :raises ServerFailed: it does not listen within 30 seconds
    """

    def __init__(
        self,
        name: str,
        port: int,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        companions: Sequence[Sequence[str]] = (),
    ) -> None:
        self.name = name
        self.port = port
        self.folder = folder
        self._environment = {**os.environ, **(environment or {})}
        self._log = open(folder / f"{name}.out", "ab")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start(command)
        self._wait()
        for companion in companions:
            self._start(companion)

    def _start(self, command: Sequence[str]) -> None:
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._processes.append(process)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._processes[0].poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise ServerFailed(f"{self.name} does not listen: {self.output()[-2000:]}")

    def output(self) -> str:
        """What it printed."""
        return Path(self._log.name).read_text(errors="backslashreplace")

    def pids(self) -> list[int]:
        """It, its companions and their children."""
        mine = {process.pid for process in self._processes}
        found = set(mine)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = _stat(int(entry.name))
                if fields is not None and int(fields[1]) in mine:
                    found.add(int(entry.name))
        return sorted(found)

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        ticks = 0
        for pid in self.pids():
            fields = _stat(pid)
            if fields is not None:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS

    def resident_bytes(self) -> int:
        """Resident memory now. Pages that its processes share count once for each."""
        return sum(int(text.split()[1]) for text in self._read("statm")) * _PAGE

    def peak_resident_bytes(self) -> int:
        """The sum of the most resident memory that each of its processes ever had."""
        lines = (line for text in self._read("status") for line in text.splitlines() if line.startswith("VmHWM:"))
        return sum(int(line.split()[1]) << 10 for line in lines)

    def disk_read_bytes(self) -> int:
        """What was read from the disk for it, and not from the page cache."""
        lines = (line for text in self._read("io") for line in text.splitlines() if line.startswith("read_bytes:"))
        return sum(int(line.split()[1]) for line in lines)

    def _read(self, name: str) -> list[str]:
        found = []
        for pid in self.pids():
            try:
                found.append(Path(f"/proc/{pid}/{name}").read_text())
            except OSError:
                continue
        return found

    def stop(self) -> None:
        """End it; does nothing the second time."""
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        self._log.close()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat behind the name: state, parent, …"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
