"""The directories that must be usable before anything starts."""

import os

import attrs

from s3proxy.services.errors import StartError

__all__ = ["NeededDirectory", "prepare", "try_to_write"]

_PROBE = ".permission_test"
_PROBE_BYTES = 64 * 1024


@attrs.frozen
class NeededDirectory:
    """:ivar key: the configuration key that names it
    :ivar mode: permissions of a directory that is made
    """

    key: str
    path: str
    mode: int


def prepare(directory: NeededDirectory, owner: tuple[int, int] | None) -> None:
    """Make the directory if need be, and see that it can be listed and written.

    :param owner: user and group that will use it after privileges are given up; what is made here is given to them
    :raises StartError: with the remedy
    """
    path = directory.path
    try:
        made = _make(path, directory.mode)
        os.listdir(path)
        _probe(os.path.join(path, _PROBE))
        if owner is not None:
            for new in made:
                os.chown(new, *owner)
    except OSError as error:
        file = _file_in(path)
        if file is not None:
            raise StartError(
                f"{directory.key}: {path} can't be used: {file} is a file; remove it, or name another directory"
            ) from None
        user = owner[0] if owner is not None else os.geteuid()
        raise StartError(
            f"{directory.key}: {path} can't be used: {error.strerror or error}; "
            f"make it with: mkdir -p {path} && chown {user} {path} && chmod u+rwx {path}, or name another directory"
        ) from None


def _file_in(path: str) -> str | None:
    """The part of the path that is something else than a directory, if there is one."""
    while not os.path.lexists(path):
        parent = os.path.dirname(path)
        if parent == path:
            return None
        path = parent
    return None if os.path.isdir(path) else path


def _make(path: str, mode: int) -> list[str]:
    """Make the directory and its parents; what was made."""
    missing = []
    current = path
    while current and not os.path.isdir(current):
        missing.append(current)
        parent = os.path.dirname(current)
        if parent == current:
            break
        current = parent
    for each in reversed(missing):
        os.mkdir(each)
        # The umask hides what is needed to reach directories that others may read.
        os.chmod(each, mode)
    return missing


def try_to_write(path: str) -> None:
    """Make a file in the directory, write some bytes, and remove it.

    :raises OSError: the directory does not take them
    """
    _probe(os.path.join(path, _PROBE), bytes(_PROBE_BYTES))


def _probe(path: str, data: bytes = b"") -> None:
    """A file can be made, written and removed. A link of that name, or a file left behind, is removed first."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
        os.unlink(path)
