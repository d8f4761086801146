"""The page cache as the listener sees it."""

import errno
import os

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.storage.diskio import DiskBusy
from s3proxy.wire.pages import MOST_WINDOWS, RECENT, SAMPLE, PageCache


class PageCacheTests(SynchronousTestCase):
    """PageCache"""

    def setUp(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"0123456789")
        self.fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)

    def test_samples(self) -> None:
        """A large window is looked at in several places; one that is missing is enough."""
        asked: list[tuple[int, int]] = []

        def resident(fd: int, offset: int, count: int) -> bool:
            asked.append((offset, count))
            return offset != 7 + 2 * SAMPLE

        pages = PageCache(lambda *call: succeed(None), resident)
        self.assertTrue(pages.holds(3, 7, 2 * SAMPLE))
        self.assertEqual(asked, [(7, 2 * SAMPLE), (7 + SAMPLE, 1)])
        self.assertFalse(pages.holds(3, 7, 2 * SAMPLE + 1))

    def test_seen_a_moment_ago(self) -> None:
        """What was found in memory is not looked for again for a moment: neither other bytes nor another file."""
        asked: list[tuple[int, int]] = []
        clock = Clock()

        def resident(fd: int, offset: int, count: int) -> bool:
            asked.append((offset, count))
            return offset != 5

        pages = PageCache(lambda *call: succeed(None), resident, now=clock.seconds)
        file = pages.file(self.fd)
        self.assertEqual(file, pages.file(self.fd))
        for _ in range(3):
            self.assertTrue(pages.finds(file, self.fd, 0, 4))
            self.assertFalse(pages.finds(file, self.fd, 5, 4))
        self.assertEqual(asked, [(0, 4), (5, 4), (5, 4), (5, 4)])
        self.assertFalse(pages.seen(file, 0, 5))
        self.assertFalse(pages.seen((file[0], file[1] + 1), 0, 4))
        clock.advance(RECENT / 2)
        self.assertTrue(pages.seen(file, 0, 4))
        clock.advance(RECENT / 2)
        self.assertFalse(pages.seen(file, 0, 4))
        self.assertTrue(pages.finds(file, self.fd, 0, 4))
        self.assertEqual(asked[4:], [(0, 4)])

    def test_memory_is_bounded(self) -> None:
        """Of all the windows of all files a few are remembered."""
        pages = PageCache(lambda *call: succeed(None), lambda *window: True)
        for offset in range(MOST_WINDOWS + 10):
            pages.finds((1, 2), self.fd, offset, 1)
        self.assertLessEqual(len(pages._seen), MOST_WINDOWS)

    def test_unknown_is_not_resident(self) -> None:
        """Where the file system can't tell, bytes count as missing."""
        self.assertFalse(PageCache(lambda *call: succeed(None), lambda *window: None).holds(3, 0, 10))

    def test_load_has_its_own_descriptor(self) -> None:
        """The thread works on a copy of the descriptor and closes it, also when reading fails."""
        for outcome in (None, OSError(5, "Input/output error")):
            used: list[int] = []

            def read_ahead(fd: int, offset: int, count: int) -> None:
                used.append(fd)
                os.fstat(fd)
                if outcome is not None:
                    raise outcome

            def run(call: object, *arguments: object) -> "Deferred[None]":
                try:
                    return succeed(call(*arguments))
                except OSError as error:
                    return fail(error)

            loaded = PageCache(run, read_ahead=read_ahead).load(self.fd, 0, 10)
            if outcome is None:
                self.successResultOf(loaded)
            else:
                self.failureResultOf(loaded, OSError)
            self.assertNotEqual(used, [self.fd])
            self.assertRaises(OSError, os.fstat, used[0])

    def test_pool_is_stopped(self) -> None:
        """No descriptor is left when there is no thread to use it."""

        def refuse(*call: object) -> "Deferred[None]":
            raise RuntimeError("stopped")

        before = os.listdir("/proc/self/fd")
        self.assertRaises(RuntimeError, PageCache(refuse).load, self.fd, 0, 10)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_read(self) -> None:
        """What is in memory is read at once, the rest in a thread."""
        calls: list[tuple[object, ...]] = []

        def run(*call: object) -> "Deferred[bytes]":
            calls.append(call)
            return succeed(b"from a thread")

        self.assertEqual(PageCache(run, lambda *window: True).read(self.fd, 2, 3), b"234")
        self.assertEqual(calls, [])
        self.successResultOf(PageCache(run, lambda *window: False).read(self.fd, 2, 3))
        self.assertEqual(calls, [(os.pread, self.fd, 3, 2)])

    def test_no_thread_is_free(self) -> None:
        """When too many calls wait for the disk, what is asked for is read here and now: an answer that has begun must
        not break, and the copy of the descriptor is closed.
        """
        ahead: list[tuple[int, int]] = []

        def read_ahead(fd: int, offset: int, count: int) -> None:
            os.fstat(fd)
            ahead.append((offset, count))

        def busy(*call: object) -> "Deferred[bytes]":
            return fail(DiskBusy(errno.EAGAIN, "1032 calls wait for the disk"))

        pages = PageCache(busy, lambda *window: False, read_ahead)
        before = os.listdir("/proc/self/fd")
        self.successResultOf(pages.load(self.fd, 2, 3))
        self.assertEqual(ahead, [(2, 3)])
        self.assertEqual(os.listdir("/proc/self/fd"), before)
        read = pages.read(self.fd, 2, 3)
        assert isinstance(read, Deferred)
        self.assertEqual(self.successResultOf(read), b"234")
