"""How much memory there is for this process: the machine's, or what its control groups allow."""

import os

__all__ = ["available_memory"]


def available_memory(groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int:
    """Bytes of memory of the machine, or of the smallest limit of the control groups that this process is in (a
    container's, or ``MemoryMax`` of a unit of systemd).

    :param groups: which groups those are; cgroups(7)
    :param root: where control groups are mounted
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((machine, *_limits(groups, root)))


def _limits(groups: str, root: str) -> list[int]:
    found = []
    for line in _read(groups).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            found += _limits_of(root, path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits_of(os.path.join(root, "memory"), path, "memory.limit_in_bytes")
    return found


def _limits_of(root: str, path: str, name: str) -> list[int]:
    """The limits of a group and of all those around it. Inside a container the group's own path may not exist."""
    found = []
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts) + 1):
        text = _read(os.path.join(root, *parts[:depth], name)).strip()
        if text.isdigit() and int(text) > 0:
            found.append(int(text))
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
