"""Which running process a file belongs to, and whether that process still lives."""

import json
import os
from collections.abc import Callable
from typing import Any

from s3proxy.storage.files import SystemCalls
from s3proxy.storage.layout import RandomBits, instance_text, new_generation

__all__ = ["Instance"]

_SILENCE = 30.0


class Instance:
    """This process's name in the cache directory: ``inst/<I>.hb``, written again every few seconds.

    Whether another instance lives is decided by its process, when it runs on the same host and in the same process
    namespace, and by the age of its heartbeat otherwise. ``started_at`` is when this instance started, by the file
    system's clock.

    :param leads: it stands for itself; False: it belongs to another one, which has a heartbeat of its own
    """

    def __init__(
        self, calls: SystemCalls, directory: str, random: RandomBits, now: Callable[[], float], leads: bool = True
    ) -> None:
        self._leads = leads
        self._calls = calls
        self._directory = directory
        self._now = now
        self._host = _host()
        self.number = new_generation(random)
        self.started_at = 0.0
        self._path = self._heartbeat_path(self.number)
        self._neighbours: dict[int, bool] = {}

    def start(self) -> None:
        """Write the first heartbeat.

        :raises OSError: the directory can't be written to
        """
        record = {
            "host": self._host, "pid": os.getpid(), "start": _start_time(os.getpid()), "lead": self._leads,
        }  # fmt: skip
        fd = self._calls.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._calls.pwrite(fd, json.dumps(record).encode("ascii"), 0)
            self.started_at = self._calls.fstat(fd).st_mtime
        finally:
            self._calls.close(fd)

    def beat(self) -> None:
        """Say that this instance still lives.

        :raises OSError: it could not be said
        """
        self._calls.utime(self._path)

    def stop(self) -> None:
        """Take the heartbeat away. Never raises."""
        try:
            self._calls.unlink(self._path)
        except OSError:
            return

    def is_alive(self, number: int) -> bool:
        """Whether the process that calls itself ``number`` may still be running."""
        if number == self.number:
            return True
        try:
            found = self._read(number)
        except OSError:
            return True
        if found is None:
            return False
        record, beat = found
        return self._lives(record, beat, _SILENCE)

    def _lives(self, record: dict[str, Any], beat: float, silence: float) -> bool:
        if record.get("host") == self._host and isinstance(record.get("pid"), int):
            return _start_time(record["pid"]) == record.get("start")
        return self._now() - beat < silence

    def leaders(self, silence: float) -> int:
        """How many instances live and stand for themselves: those of other hosts that beat within so many seconds.

        :raises OSError: that can't be told
        """
        count = int(self._leads)
        for number in self.others():
            found = self._read(number)
            if found is not None and found[0].get("lead", True) and self._lives(*found, silence):
                count += 1
        return count

    def is_here(self, number: int) -> bool:
        """Whether the process that calls itself ``number`` runs, or ran, on this host, and in the same process
        namespace.

        :raises OSError: that can't be told
        """
        known = self._neighbours.get(number)
        if known is None:
            found = self._read(number)
            if found is None:
                return False
            known = self._neighbours[number] = found[0].get("host") == self._host
        return known

    def _read(self, number: int) -> tuple[dict[str, Any], float] | None:
        """What the heartbeat says (nothing, if it is damaged) and when it last beat; None when there is none."""
        try:
            fd = self._calls.open(self._heartbeat_path(number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            beat = self._calls.fstat(fd).st_mtime
            record = json.loads(self._calls.pread(fd, 4096, 0))
        except (ValueError, IsADirectoryError):
            record = None
        finally:
            self._calls.close(fd)
        return (record if isinstance(record, dict) else {}), beat

    def power_failed_at(self) -> float | None:
        """About when an instance died with its whole host, if one did: what was written then may not have reached the
        disk.
        """
        moments = []
        boot = self._host.split()[0]
        for number in self.others():
            found = self._read(number)
            if found is not None and not self.is_alive(number) and not str(found[0].get("host")).startswith(boot):
                moments.append(found[1])
        return min(moments, default=None)

    def others(self) -> list[int]:
        """Every other instance that left a heartbeat, living or not."""
        found = []
        for name in self._calls.listdir(self._directory):
            if name.endswith(".hb") and name != os.path.basename(self._path):
                try:
                    found.append(int(name[:-3], 16))
                except ValueError:
                    continue
        return found

    def bury(self, number: int) -> None:
        """Remove the heartbeat of an instance that is dead."""
        try:
            self._calls.unlink(self._heartbeat_path(number))
        except (FileNotFoundError, IsADirectoryError):
            return

    def _heartbeat_path(self, number: int) -> str:
        return f"{self._directory}/{instance_text(number)}.hb"


def _host() -> str:
    """Names this boot of this host and the process namespace; differs wherever process numbers mean something else."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return os.urandom(8).hex()


def _start_time(pid: int) -> str:
    """When the process started, in the kernel's own terms; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")
