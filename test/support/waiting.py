"""Waiting for a condition with a time limit, and looking at processes and folders."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from test.support.http_connection import sleep

__all__ = [
    "PATIENCE",
    "directory_files",
    "directory_size",
    "free_ports",
    "open_descriptors",
    "peak_resident_bytes",
    "poll",
    "resident_bytes",
    "wait_until",
]


PATIENCE = float(os.environ.get("S3PROXY_TEST_PATIENCE", 3))
"""Every time limit is multiplied by this: on a busy machine all takes longer, and who waits in vain fails anyway."""


def poll(condition: Callable[[], object], seconds: float, what: str, interval: float = 0.02) -> None:
    """Block until the condition holds. For tests that drive other processes; never on a reactor thread.

    :raises TimeoutError: if it does not within so many seconds, times :data:`PATIENCE`
    """
    limit = time.monotonic() + seconds * PATIENCE
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {seconds * PATIENCE:g} s for {what}")
        time.sleep(interval)


async def wait_until(reactor: Any, condition: Callable[[], object], seconds: float = 10, what: str = "") -> None:
    """Let the reactor run until the condition holds.

    :raises TimeoutError: if it does not within so many seconds, times :data:`PATIENCE`
    """
    limit = reactor.seconds() + seconds * PATIENCE
    while not condition():
        if reactor.seconds() > limit:
            raise TimeoutError(f"waited {seconds * PATIENCE:g} s for {what or condition}")
        await sleep(reactor, 0.01)


_given: set[int] = set()


def free_ports(count: int, also: int = 0) -> list[int]:
    """Port numbers that are free on loopback now, and so are the numbers ``also`` above them, if that is given.

    They come from below the range from which the kernel takes ports for outgoing connections; none is given twice.
    """
    found: list[int] = []
    start = 10000 + os.getpid() * 37 % 8000
    for port in (*range(start, 20000), *range(10000, start)):
        if port not in _given and all(_is_free(number) for number in {port, port + also}):
            _given.update({port, port + also})
            found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def resident_bytes(pid: int) -> int:
    """The resident set size of a process."""
    return _status_kib(pid, "VmRSS") << 10


def peak_resident_bytes(pid: int) -> int:
    """The largest resident set size that the process had."""
    return _status_kib(pid, "VmHWM") << 10


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise ValueError(f"no {name} of process {pid}")


def open_descriptors(pid: int | None = None) -> int:
    """How many descriptors a process has open (this one by default)."""
    return len(os.listdir(f"/proc/{pid if pid is not None else 'self'}/fd"))


def directory_files(folder: Path) -> list[Path]:
    """All regular files below the folder; files that vanish meanwhile may be missing."""
    found = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent, name) for name in names]
    return sorted(found)


def directory_size(folder: Path) -> int:
    """The sum of the sizes of all files below the folder, in bytes."""
    total = 0
    for path in directory_files(folder):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:
            continue
    return total
