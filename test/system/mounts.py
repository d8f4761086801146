"""File systems of a test's own, where the machine lets us mount them."""

import subprocess
from pathlib import Path
from unittest import SkipTest

from test.support.waiting import poll

__all__ = ["Overlay", "SmallVolume"]


def _run(*command: str) -> str:
    """Run a command; returns what it complains about, empty when it succeeded."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except OSError as problem:
        return str(problem)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


class SmallVolume:
    """A file system in memory, mounted on a new folder. :meth:`unmount` in the clean-up.

    :raises SkipTest: it can't be mounted here
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._ballast: list[Path] = []
        folder.mkdir(parents=True)
        problem = _run("mount", "-t", "tmpfs", "-o", f"size={size}", "s3proxy-test", str(folder))
        if problem:
            raise SkipTest(f"needs the right to mount a file system: {problem}")

    def unmount(self) -> None:
        """Take it away, in whatever state it is."""
        _run("umount", "-l", str(self.folder))

    def set_writable(self, writable: bool) -> None:
        """Remount it. Waits until no file is open for writing.

        :raises TimeoutError: one stays open
        """
        mode = "rw" if writable else "ro"
        poll(lambda: not _run("mount", "-o", f"remount,{mode}", str(self.folder)), 10, f"a remount as {mode}", 0.1)

    def limit_files(self, count: int) -> None:
        """There may be no more files than that."""
        problem = _run("mount", "-o", f"remount,nr_inodes={count}", str(self.folder))
        if problem:
            raise OSError(problem)

    def fill(self) -> None:
        """Leave no room at all. May be called again when there is some."""
        with (self.folder / f"ballast-{len(self._ballast)}").open("wb", buffering=0) as file:
            self._ballast.append(Path(file.name))
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def empty(self) -> None:
        """Remove what :meth:`fill` left."""
        while self._ballast:
            self._ballast.pop().unlink()


class Overlay:
    """A file system that lies over folders of another one; of what is on it the kernel does not tell whether it is in
    memory. :meth:`unmount` in the clean-up.

    :param base: an empty folder on a file system that can carry one
    :raises SkipTest: it can't be mounted here
    """

    def __init__(self, base: Path) -> None:
        self.folder = base / "merged"
        for name in ("lower", "upper", "work", "merged"):
            (base / name).mkdir()
        options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
        problem = _run("mount", "-t", "overlay", "-o", options, "s3proxy-test", str(self.folder))
        if problem:
            raise SkipTest(f"needs the right to mount a file system: {problem}")

    def unmount(self) -> None:
        """Take it away, in whatever state it is."""
        _run("umount", "-l", str(self.folder))
