"""What kind of file system a directory is on, and what that means for reading from it."""

import os

from s3proxy.storage.residency import resident

__all__ = ["file_system_of", "is_networked", "page_cache_suffices"]

MOUNTS = "/proc/self/mountinfo"
"""All mounts that this process sees; proc(5)."""

_IN_MEMORY = frozenset(("tmpfs", "ramfs"))
_REMOTE = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "lustre", "gpfs", "beegfs", "glusterfs", "orangefs",
     "virtiofs", "fuse", "fuseblk")
)  # fmt: skip


def file_system_of(path: str, mounts: str = MOUNTS) -> str | None:
    """The type of the file system that ``path`` is on, as the mount table names it; None: the table does not tell."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    path = os.path.realpath(path)
    found, longest = None, -1
    for line in lines:
        # 36 35 98:0 /root /mount/point rw,noatime shared:1 - type source options
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4])
        inside = path == point or path.startswith(point if point == "/" else point + "/")
        # Of several mounts on one point, the last one is what is seen.
        if inside and len(point) >= longest:
            found, longest = after.split(" ")[0], len(point)
    return found


def _unescaped(field: str) -> str:
    """The mount table writes blanks and backslashes as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _is_remote(kind: str | None) -> bool:
    return kind is not None and (kind in _REMOTE or kind.startswith("fuse."))


def is_networked(directory: str, mounts: str = MOUNTS) -> bool:
    """Whether other hosts may use the directory: then it takes a moment until they see what is written here, and not
    always in the order in which it was written.
    """
    return _is_remote(file_system_of(directory, mounts))


def page_cache_suffices(directory: str, file: str, mounts: str = MOUNTS) -> bool:
    """Whether bytes that were read a moment ago can be sent again without anything else: the kernel has them in memory,
    and says so.

    Not on network file systems and FUSE: there the kernel asks the server before it trusts what it has, and nowhere
    else where it can't tell what is in memory, because each read has to be made by a thread then.

    :param file: a file in the directory that is not empty
    """
    kind = file_system_of(directory, mounts)
    if kind in _IN_MEMORY:
        return True
    if _is_remote(kind):
        return False
    try:
        fd = os.open(os.path.join(directory, file), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return resident(fd, 0, 1) is not None
    except OSError:
        return True
    finally:
        os.close(fd)
