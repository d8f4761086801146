"""Opening cache directories."""

import errno
import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.disk import DiskStore, GenerationTable, open_store
from s3proxy.storage.errors import StoreError
from test.storage.support import MIB, FailingCalls, make_store, name_of, put_inline


class OpeningTests(SynchronousTestCase):
    """What is made, kept and refused."""

    def refuse(self, root: str) -> str:
        with self.assertRaises(StoreError) as caught:
            open_store(root, max_size=MIB, now=lambda: 0.0, generations=GenerationTable(slots=2))
        message = str(caught.exception)
        self.assertIn(root, message)
        return message

    def test_new(self) -> None:
        """A new directory is made with its parents; the top is listable, the rest is for the owner alone."""
        store = make_store(self, root=self.mktemp() + "/a/b", max_size=64 * MIB)
        self.assertEqual(sorted(os.listdir(store.root)), ["FORMAT", "ctl", "inst", "o", "trash", "up"])
        for name in ("ctl", "inst", "o", "trash", "up"):
            self.assertEqual(stat.S_IMODE(os.stat(f"{store.root}/{name}").st_mode), 0o700)
        self.assertEqual((store.cut, store.inline_max), (8 * MIB, 8 * MIB))
        self.assertEqual(store.volume.format.shard_bits, 8)

    def test_again(self) -> None:
        """What was stored is found again, with another limit too; the format stays what it was."""
        store = make_store(self, max_size=64 * MIB)
        entry = put_inline(store, name_of("x"), b"body")
        store.close()
        smaller = make_store(self, root=store.root, max_size=16 * MIB)
        found = smaller.load(name_of("x"))
        assert found is not None
        self.assertEqual((found.nonce, found.small_body), (entry.nonce, b"body"))
        self.assertEqual((smaller.cut, smaller.inline_max), (2 * MIB, 2 * MIB))
        smaller.close()
        larger = make_store(self, root=store.root, max_size=0)
        self.assertEqual((larger.cut, larger.volume.format.shard_bits), (8 * MIB, 8))

    def test_other_format(self) -> None:
        """A directory of another version is refused, and left alone."""
        root = self.mktemp()
        os.mkdir(root)
        with open(f"{root}/FORMAT", "w") as file:
            file.write("s3px 2\n")
        self.assertIn("another version", self.refuse(root))
        self.assertEqual(os.listdir(root), ["FORMAT"])

    def test_missing_format(self) -> None:
        """Cached data without FORMAT is refused; other files in the directory are not."""
        root = self.mktemp()
        os.makedirs(f"{root}/o")
        self.assertIn("FORMAT file is missing", self.refuse(root))
        os.rename(f"{root}/o", f"{root}/lost+found")
        self.assertTrue(os.path.isdir(make_store(self, root=root).root))

    def test_not_a_directory(self) -> None:
        """A file in the directory's place, or in its path, is refused with the remedy."""
        root = self.mktemp()
        with open(root, "w"):
            pass
        self.assertIn("part of the path is a file", self.refuse(root))
        self.assertIn("part of the path is a file", self.refuse(f"{root}/cache"))

    def refuse_with(self, code: int, *names: str) -> str:
        calls = FailingCalls()
        for name in names:
            calls.fail(name, code)
        with self.assertRaises(StoreError) as caught:
            open_store(self.mktemp(), max_size=MIB, now=lambda: 0.0, generations=GenerationTable(slots=2), calls=calls)
        return str(caught.exception)

    def test_no_permission(self) -> None:
        """A directory that may not be written to is refused with the remedy."""
        self.assertIn("let the user that runs the proxy write there", self.refuse_with(errno.EACCES, "open", "mkdir"))

    def test_read_only(self) -> None:
        """So is a read-only file system, a full one, and one that fails in another way."""
        self.assertIn("mount the file system writable", self.refuse_with(errno.EROFS, "open"))
        self.assertIn("free some space", self.refuse_with(errno.ENOSPC, "pwrite"))
        self.assertIn("make it usable", self.refuse_with(errno.EIO, "listdir"))

    def test_two_at_once(self) -> None:
        """Two processes that open a new directory at the same time agree on its format."""
        root = self.mktemp()
        one = make_store(self, root=root, max_size=64 * MIB)
        two = make_store(self, root=root, max_size=10 << 30)
        self.assertEqual(one.volume.format, two.volume.format)
        put_inline(one, name_of("x"), b"body")
        self.assertIsNotNone(two.load(name_of("x")))

    def test_overtaken(self) -> None:
        """A process that is overtaken while it opens a new directory takes what the other one made."""
        root = self.mktemp()
        calls = FailingCalls()
        opened: list[DiskStore] = []

        def overtake(*_: object) -> bool:
            if not opened:
                opened.append(make_store(self, root=root))
            return False

        calls.fail("listdir", errno.EIO, when=overtake)
        store = make_store(self, root=root, calls=calls, max_size=10 << 30)
        self.assertEqual(store.volume.format, opened[0].volume.format)

    def test_close(self) -> None:
        """A closed store leaves no heartbeat and keeps no descriptor."""
        before = len(os.listdir("/proc/self/fd"))
        store = make_store(self)
        put_inline(store, name_of("x"), b"body")
        store.close()
        self.assertEqual(os.listdir(f"{store.root}/inst"), [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
