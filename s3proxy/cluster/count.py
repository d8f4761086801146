"""How many processes there should be."""

import math
import os

__all__ = ["available_processors", "worker_count"]


def available_processors(groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int:
    """Processors that this process may use: those it may run on, or as many as its control groups allow it the time of.

    :param groups: which groups those are; cgroups(7)
    :param root: where control groups are mounted
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(groups, root))]))


def worker_count(setting: "int | str") -> int:
    """What ``server.workers`` asks for: a number, or ``auto``."""
    return available_processors() if setting == "auto" else int(setting)


def _quotas(groups: str, root: str) -> list[float]:
    found = []
    for line in _read(groups).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            found += [_of_time(text.split()) for text in _files(root, path, "cpu.max")]
        elif "cpu" in controllers.split(","):
            for base in ("cpu", "cpu,cpuacct"):
                pairs = zip(
                    _files(os.path.join(root, base), path, "cpu.cfs_quota_us"),
                    _files(os.path.join(root, base), path, "cpu.cfs_period_us"),
                )
                found += [_of_time([quota.strip(), period.strip()]) for quota, period in pairs]
    return [quota for quota in found if quota > 0]


def _of_time(words: list[str]) -> float:
    """Processors, of a quota and its period in microseconds; 0: no limit."""
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return 0.0
    return int(words[0]) / int(words[1])


def _files(root: str, path: str, name: str) -> list[str]:
    """This file of a group and of all those around it. Inside a container the group's own path may not exist."""
    parts = [part for part in path.split("/") if part]
    found = [_read(os.path.join(root, *parts[:depth], name)) for depth in range(len(parts) + 1)]
    return [text for text in found if text]


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
