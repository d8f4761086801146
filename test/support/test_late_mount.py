"""The file system that shows changes late."""

import errno
import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from test.support.late_mount import LateMount
from test.support.waiting import poll

BELIEVED = 1.0


class LateMountTests(SynchronousTestCase):
    """A folder that is changed by others."""

    def mount(self, **like: bool) -> None:
        """Mount it."""
        folder = tempfile.TemporaryDirectory(prefix="s3proxy-late-")
        self.addCleanup(folder.cleanup)
        self.source, self.point = Path(folder.name, "source"), Path(folder.name, "point")
        self.source.mkdir()
        mount = LateMount(self.source, self.point, BELIEVED, **like)
        self.addCleanup(mount.unmount)

    def replace(self, name: str, data: bytes) -> None:
        """Another file gets the name, as when others publish."""
        draft = self.source / "draft"
        draft.write_bytes(data)
        draft.rename(self.source / name)

    def test_own_changes(self) -> None:
        """What is done through the mount is seen in it, and in the folder, at once."""
        self.mount()
        (self.point / "inner").mkdir()
        path = self.point / "inner" / "file"
        path.write_bytes(b"12345")
        os.utime(path, (5, 6))
        os.truncate(path, 3)
        path.chmod(0o640)
        os.link(path, self.point / "inner" / "other")
        path.rename(self.point / "inner" / "name")
        self.assertEqual(sorted(os.listdir(self.point / "inner")), ["name", "other"])
        for found in (self.source, self.point):
            status = (found / "inner" / "name").stat()
            self.assertEqual((status.st_size, status.st_nlink, status.st_mode & 0o777), (3, 2, 0o640))
            self.assertEqual((found / "inner" / "other").read_bytes(), b"123")
        for name in ("name", "other"):
            (self.point / "inner" / name).unlink()
        (self.point / "inner").rmdir()
        self.assertEqual(os.listdir(self.source), [])
        with self.assertRaises(FileExistsError):
            self.source.joinpath("there").touch()
            os.open(self.point / "there", os.O_CREAT | os.O_EXCL)

    def test_attributes_are_late(self) -> None:
        """Size and time of a file are believed for a while; opening it asks for them."""
        self.mount()
        (self.source / "file").write_bytes(b"1")
        path = self.point / "file"
        self.assertEqual(path.stat().st_size, 1)
        (self.source / "file").write_bytes(b"12")
        self.assertEqual(path.stat().st_size, 1)
        with path.open("rb") as file:
            self.assertEqual((os.fstat(file.fileno()).st_size, file.read()), (2, b"12"))
        (self.source / "file").write_bytes(b"123")
        poll(lambda: path.stat().st_size == 3, 5, "the size to be seen")

    def test_loose(self) -> None:
        """Where opening does not ask, what is beyond the size that is believed can't be read."""
        self.mount(loose=True)
        (self.source / "file").write_bytes(b"1")
        path = self.point / "file"
        self.assertEqual(path.stat().st_size, 1)
        (self.source / "file").write_bytes(b"12")
        self.assertEqual(path.read_bytes(), b"1")
        poll(lambda: path.read_bytes() == b"12", 5, "all of it to be seen")

    def test_names_are_late(self) -> None:
        """A name is believed to mean the same file for a while; that there is none is not believed."""
        self.mount()
        self.assertFalse((self.point / "name").exists())
        self.replace("name", b"old")
        self.assertEqual((self.point / "name").read_bytes(), b"old")
        self.replace("name", b"newer")
        self.assertEqual((self.point / "name").read_bytes(), b"old")
        poll(lambda: (self.point / "name").read_bytes() == b"newer", 5, "the new file to be seen")

    def test_lists_are_late(self) -> None:
        """A folder is believed to have the same names for a while, unless something is looked up in it."""
        self.mount()
        self.assertEqual(os.listdir(self.point), [])
        (self.source / "name").touch()
        self.assertEqual(os.listdir(self.point), [])
        (self.point / "name").stat()
        self.assertEqual(os.listdir(self.point), ["name"])
        (self.source / "other").touch()
        poll(lambda: len(os.listdir(self.point)) == 2, 5, "the list to be seen")

    def test_strict(self) -> None:
        """What others have removed can't be read on; what was removed here can."""
        self.mount(strict=True)
        for name in ("theirs", "mine"):
            (self.source / name).write_bytes(bytes(1 << 20))
        with (self.point / "theirs").open("rb") as theirs, (self.point / "mine").open("rb") as mine:
            (self.source / "theirs").unlink()
            (self.point / "mine").unlink()
            with self.assertRaises(OSError) as caught:
                os.pread(theirs.fileno(), 10, 0)
            self.assertEqual(caught.exception.errno, errno.ESTALE)
            self.assertEqual(os.pread(mine.fileno(), 10, 0), bytes(10))
        with self.assertRaises(FileNotFoundError):
            (self.point / "theirs").open()
