"""Shared descriptors."""

import os

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.files import SystemCalls
from s3proxy.storage.handles import HandleCache, OpenFile, RangeKey, ReadHandle


class HandleTests(SynchronousTestCase):
    """A descriptor is closed when, and only when, nobody uses it."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        with open(self.path, "wb") as file:
            file.write(b"0123456789")

    def file(self) -> OpenFile:
        return OpenFile(SystemCalls(), os.open(self.path, os.O_RDONLY))

    def assert_closed(self, file: OpenFile) -> None:
        self.assertRaises(OSError, os.fstat, file.fd)

    def test_last_user_closes(self) -> None:
        """The last of several users closes it, and then nobody can join any more."""
        file = self.file()
        self.assertTrue(file.acquire())
        handle = ReadHandle(file, 0, 0, 10)
        file.release()
        self.assertEqual(os.pread(handle.fd, 3, 0), b"012")
        handle.close()
        handle.close()
        self.assert_closed(file)
        self.assertFalse(file.acquire())

    def test_cache(self) -> None:
        """The cache hands out the same file, and lets go of the least recently used one when it is full."""
        cache = HandleCache(limit=2)
        files = {index: self.file() for index in range(3)}
        keys = {index: RangeKey(b"entry", 1, index, index + 1) for index in range(3)}
        for index in (0, 1):
            cache.put(keys[index], files[index], 0.0)
            files[index].release()
        self.assertIs(cache.get(keys[0], 1.0), files[0])
        cache.put(keys[2], files[2], 2.0)
        files[2].release()
        self.assert_closed(files[1])
        self.assertIsNone(cache.get(keys[1], 3.0))
        files[0].release()
        cache.close()
        self.assert_closed(files[0])
        self.assert_closed(files[2])
        self.assertEqual(len(cache), 0)

    def test_first_stays(self) -> None:
        """A range that is kept already stays as it is."""
        cache = HandleCache()
        one, two = self.file(), self.file()
        key = RangeKey(b"entry", 1, 0, 1)
        cache.put(key, one, 0.0)
        cache.put(key, two, 0.0)
        two.release()
        self.assert_closed(two)
        self.assertIs(cache.get(key, 0.0), one)
        one.release()
        one.release()
        cache.close()
        self.assert_closed(one)

    def test_forget(self) -> None:
        """What belongs to an entry, or is one range, can be let go; its readers go on."""
        cache = HandleCache()
        files = [self.file() for _ in range(3)]
        keys = [RangeKey(b"a", 1, 0, 1), RangeKey(b"a", 2, 0, 1), RangeKey(b"b", 1, 0, 1)]
        for key, file in zip(keys, files):
            cache.put(key, file, 0.0)
        files[0].release()
        cache.forget(b"a")
        cache.forget(b"a")
        self.assert_closed(files[0])
        self.assertEqual(os.pread(files[1].fd, 1, 0), b"0")
        files[1].release()
        cache.forget_range(keys[2])
        cache.forget_range(keys[2])
        self.assertEqual(len(cache), 0)
        files[2].release()
        self.assert_closed(files[2])

    def test_expire(self) -> None:
        """What was not asked for lately is let go."""
        cache = HandleCache()
        file = self.file()
        cache.put(RangeKey(b"a", 1, 0, 1), file, 10.0)
        file.release()
        cache.expire(10.0)
        self.assertEqual(len(cache), 1)
        cache.expire(10.1)
        self.assert_closed(file)

    def test_unlinked(self) -> None:
        """What another process has removed is let go, unless somebody reads it."""
        cache = HandleCache()
        kept, gone, read = self.file(), self.file(), self.file()
        for number, file in enumerate((gone, read)):
            cache.put(RangeKey(b"a", number, 0, 1), file, 10.0)
        self.assertEqual(cache.forget_unlinked(SystemCalls()), 0)
        gone.release()
        os.unlink(self.path)
        self.path = self.mktemp()
        with open(self.path, "wb"):
            pass
        cache.put(RangeKey(b"b", 1, 0, 1), new := self.file(), 10.0)
        new.release()
        kept.release()
        self.assertEqual(cache.forget_unlinked(SystemCalls()), 2)
        self.assertEqual(len(cache), 1)
        self.assert_closed(gone)
        os.fstat(read.fd)
        read.release()
        cache.close()
