"""Kinds of file systems."""

import os
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage import filesystem
from s3proxy.storage.filesystem import file_system_of, page_cache_suffices

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:40 / /srv rw shared:1 - xfs /dev/vdb rw
41 40 0:41 / /srv/cache rw shared:2 master:1 - nfs4 10.0.0.1:/export rw,vers=4.1
42 27 0:42 / /srv/with\\040blank rw - fuse.sshfs host: rw
43 27 0:43 / /twice rw - ext4 /dev/vdc rw
44 43 0:44 / /twice rw - tmpfs none rw
45 27 0:45 / /run rw - tmpfs none rw
46 27 0:46 / /over rw - overlay overlay rw
a line that means nothing
"""


class FileSystemTests(SynchronousTestCase):
    """By the mount table."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.mounts = os.path.join(self.folder, "mountinfo")
        with open(self.mounts, "w") as file:
            file.write(MOUNTS)

    def test_type(self) -> None:
        """The innermost mount counts, and the last one of several on one point."""
        for path, kind in (
            ("/nowhere/x", "ext4"),
            ("/", "ext4"),
            ("/srv", "xfs"),
            ("/srv/other", "xfs"),
            ("/srv/cache", "nfs4"),
            ("/srv/cache/o/a", "nfs4"),
            ("/srv/cache2", "xfs"),
            ("/srv/with blank/x", "fuse.sshfs"),
            ("/twice/x", "tmpfs"),
        ):
            self.assertEqual(file_system_of(path, self.mounts), kind, path)

    def test_links(self) -> None:
        """A link leads to where its target is."""
        link = os.path.join(self.folder, "link")
        os.symlink("/srv/cache", link)
        self.assertEqual(file_system_of(link, self.mounts), "nfs4")

    def test_no_table(self) -> None:
        """Without a mount table nothing is known."""
        self.assertIsNone(file_system_of("/", os.path.join(self.folder, "none")))

    def test_this_machine(self) -> None:
        """The real table tells something about every directory."""
        self.assertEqual(file_system_of("/proc/self"), "proc")
        self.assertIsNotNone(file_system_of(self.folder))

    def suffices(self, directory: str, resident: bool | None | OSError) -> bool:
        """With a kernel that says this about what is in memory."""

        def answer(fd: int, offset: int, count: int) -> bool | None:
            if isinstance(resident, OSError):
                raise resident
            return resident

        self.patch(filesystem, "resident", answer)
        return page_cache_suffices(directory, self.mounts, self.mounts)

    def test_network(self) -> None:
        """Not on a network, and not with FUSE, whatever the kernel says."""
        for directory in ("/srv/cache", "/srv/with blank"):
            self.assertFalse(self.suffices(directory, True))

    def test_in_memory(self) -> None:
        """A file system in memory needs no copies in memory."""
        self.assertTrue(self.suffices("/run/x", None))

    def test_local(self) -> None:
        """Elsewhere the kernel decides: it suffices where it can tell, be the bytes in memory now or not."""
        for directory in ("/home", "/over"):
            self.assertTrue(self.suffices(directory, True))
            self.assertTrue(self.suffices(directory, False))
            self.assertFalse(self.suffices(directory, None))

    def test_unreadable(self) -> None:
        """Who can't know does without."""
        self.assertTrue(page_cache_suffices("/home", os.path.join(self.folder, "none"), self.mounts))
        self.assertTrue(self.suffices("/home", OSError(5, "broken")))
