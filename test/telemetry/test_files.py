"""Files that are appended to."""

import errno
import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.telemetry import files
from s3proxy.telemetry.files import AppendFile, PartlyWritten, make_directories


def _mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class AppendFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.base = self.mktemp()
        os.mkdir(self.base)
        self.path = os.path.join(self.base, "logs", "app", "x.log")
        self.file = AppendFile(self.path)
        self.addCleanup(self.file.close)

    def test_readable_by_everybody(self) -> None:
        """Directories are 0755 and files 0644 whatever the umask."""
        self.addCleanup(os.umask, os.umask(0o077))
        self.file.open()
        self.assertEqual(_mode(self.path), 0o644)
        self.assertEqual(_mode(os.path.dirname(self.path)), 0o755)
        self.assertEqual(_mode(os.path.join(self.base, "logs")), 0o755)

    def test_existing_directories_stay_as_they_are(self) -> None:
        """The mode of a directory that was there is its owner's business."""
        os.mkdir(os.path.join(self.base, "logs"), 0o700)
        self.file.open()
        self.assertEqual(_mode(os.path.join(self.base, "logs")), 0o700)

    def test_a_file_in_the_way_of_a_directory(self) -> None:
        """A path through a file can't be made."""
        with open(os.path.join(self.base, "logs"), "w"):
            self.assertRaises(OSError, make_directories, os.path.dirname(self.path))

    def test_appends(self) -> None:
        """Writing opens the file by itself and appends to what is there, also from two sides."""
        other = AppendFile(self.path)
        self.addCleanup(other.close)
        self.file.write(b"one\n")
        other.write(b"two\n")
        self.file.write(b"three\n")
        self.assertEqual(_content(self.path), b"one\ntwo\nthree\n")

    def test_replaced(self) -> None:
        """A path that leads elsewhere, or nowhere, is noticed."""
        self.assertFalse(self.file.replaced())
        self.file.open()
        self.assertFalse(self.file.replaced())
        os.rename(self.path, self.path + ".1")
        self.assertTrue(self.file.replaced())
        with open(self.path, "w"):
            self.assertTrue(self.file.replaced())

    def test_put_aside(self) -> None:
        """The file gets its new name, in a directory made for it, and the next write begins a new one."""
        self.file.write(b"old\n")
        target = os.path.join(self.base, "logs", "2026", "01", "x.log")
        self.assertEqual(self.file.put_aside(target), target)
        self.file.write(b"new\n")
        self.assertEqual((_content(target), _content(self.path)), (b"old\n", b"new\n"))

    def test_put_aside_overwrites_nothing(self) -> None:
        """A name that is taken gets a number, before the ending .log or at the end."""
        for number, text in enumerate((b"a", b"b", b"c")):
            self.file.write(text)
            name = self.file.put_aside(os.path.join(self.base, "y.log"))
            self.assertEqual(name, os.path.join(self.base, ("y.log", "y-1.log", "y-2.log")[number]))
        self.file.write(b"d")
        with open(self.path + ".2026-01-31", "w"):
            self.assertEqual(self.file.put_aside(self.path + ".2026-01-31"), self.path + ".2026-01-31-1")

    def test_put_aside_by_two(self) -> None:
        """When another process was faster, nothing is renamed a second time and no line is lost."""
        other = AppendFile(self.path)
        self.addCleanup(other.close)
        self.file.write(b"mine\n")
        other.write(b"theirs\n")
        target = os.path.join(self.base, "y.log")
        self.assertEqual(other.put_aside(target), target)
        other.write(b"next\n")
        self.assertIsNone(self.file.put_aside(target))
        self.file.write(b"mine too\n")
        self.assertEqual((_content(target), _content(self.path)), (b"mine\ntheirs\n", b"next\nmine too\n"))

    def test_put_aside_at_the_same_moment(self) -> None:
        """While one process renames the file another one leaves it: no file has two names, and none vanishes."""
        other = AppendFile(self.path)
        self.addCleanup(other.close)
        self.file.write(b"mine\n")
        other.write(b"theirs\n")
        target = os.path.join(self.base, "y.log")
        found = []
        real = os.link

        def link(path: str, name: str) -> None:
            real(path, name)
            self.patch(os, "link", real)
            found.append(other.put_aside(target))
            other.write(b"meanwhile\n")

        self.patch(os, "link", link)
        self.assertEqual((self.file.put_aside(target), found), (target, [None]))
        self.assertTrue(other.replaced())
        other.close()
        other.write(b"next\n")
        names = sorted(name for name in os.listdir(self.base) if name.endswith(".log"))
        self.assertEqual(names, ["y.log"])
        self.assertEqual((_content(target), _content(self.path)), (b"mine\ntheirs\nmeanwhile\n", b"next\n"))

    def test_put_aside_without_locks(self) -> None:
        """Where the file system has no locks, files are put aside all the same; what fails leaves no lock behind."""
        self.file.write(b"old\n")
        self.patch(files, "flock", self.no_locks)
        target = os.path.join(self.base, "y.log")
        self.assertEqual(self.file.put_aside(target), target)

    @staticmethod
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def test_put_aside_that_fails(self) -> None:
        """After a fault the file is as it was, and may be put aside by anybody."""
        self.file.write(b"old\n")
        with open(os.path.join(self.base, "file"), "w"):
            self.assertRaises(OSError, self.file.put_aside, os.path.join(self.base, "file", "y.log"))
        other = AppendFile(self.path)
        self.addCleanup(other.close)
        other.open()
        target = os.path.join(self.base, "y.log")
        self.assertEqual(other.put_aside(target), target)

    def test_no_ordinary_file(self) -> None:
        """A device is written to and never renamed."""
        device = AppendFile("/dev/null")
        self.addCleanup(device.close)
        device.write(b"x")
        self.assertIsNone(device.last_written())
        self.assertIsNone(device.put_aside(os.path.join(self.base, "y.log")))

    def test_fault(self) -> None:
        """A fault tells how much was written, and the next write tries to open the file again."""
        full = AppendFile("/dev/full")
        self.addCleanup(full.close)
        error = self.assertRaises(PartlyWritten, full.write, b"x")
        self.assertEqual(error.written, 0)
        self.assertFalse(full.is_open)

    def test_last_written(self) -> None:
        """An empty file was never written to."""
        self.assertIsNone(self.file.last_written())
        self.file.open()
        self.assertIsNone(self.file.last_written())
        self.file.write(b"x")
        os.utime(self.path, (5, 5))
        self.assertEqual(self.file.last_written(), 5)
