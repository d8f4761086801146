"""Directories that must be usable before anything starts."""

import os
import stat
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.services.directories import NeededDirectory, prepare, try_to_write
from s3proxy.services.errors import StartError


class PrepareTests(SynchronousTestCase):
    """prepare."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        old = os.umask(0o077)
        self.addCleanup(os.umask, old)

    def needed(self, *parts: str) -> NeededDirectory:
        return NeededDirectory("cache.cache_dir", os.path.join(self.root, *parts), 0o755)

    def test_makes_parents_readable(self) -> None:
        """Missing directories are made, and can be listed by others whatever the umask."""
        directory = self.needed("a", "b")
        prepare(directory, None)
        for path in (directory.path, os.path.dirname(directory.path)):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o755)
        self.assertEqual(os.listdir(directory.path), [])

    def test_present_directory_keeps_its_mode(self) -> None:
        """What is there is not changed."""
        os.chmod(self.root, 0o700)
        prepare(NeededDirectory("cache.cache_dir", self.root, 0o755), None)
        self.assertEqual(stat.S_IMODE(os.stat(self.root).st_mode), 0o700)

    def test_left_over_probe(self) -> None:
        """A probe that an earlier start left behind, or a link of that name, is no obstacle and is not followed."""
        target = os.path.join(self.root, "precious")
        with open(target, "w") as file:
            file.write("kept")
        directory = self.needed("c")
        os.mkdir(directory.path)
        os.symlink(target, os.path.join(directory.path, ".permission_test"))
        prepare(directory, None)
        self.assertEqual(os.listdir(directory.path), [])
        with open(target) as file:
            self.assertEqual(file.read(), "kept")

    def test_not_a_directory(self) -> None:
        """A file in the way is told with key, path and remedy."""
        with open(os.path.join(self.root, "file"), "w"):
            pass
        error = self.assertRaises(StartError, prepare, self.needed("file", "x"), None)
        text = str(error)
        self.assertEqual(
            text,
            f"cache.cache_dir: {self.root}/file/x can't be used: {self.root}/file is a file; remove it, or name "
            "another directory",
        )

    def test_try_to_write(self) -> None:
        """A directory that takes bytes is left as it was; one that is gone does not take any."""
        try_to_write(self.root)
        self.assertEqual(os.listdir(self.root), [])
        self.assertRaises(FileNotFoundError, try_to_write, os.path.join(self.root, "gone"))

    def test_given_to_the_owner(self) -> None:
        """What is made belongs to the user who will use it."""
        if os.geteuid() != 0:
            self.skipTest("only root can give directories away")
        directory = self.needed("d", "e")
        prepare(directory, (65534, 65534))
        self.assertEqual(os.stat(directory.path).st_uid, 65534)
        self.assertEqual(os.stat(os.path.dirname(directory.path)).st_gid, 65534)
