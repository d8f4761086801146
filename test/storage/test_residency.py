"""What is in the page cache."""

import ctypes
import errno
import mmap
import os
import time

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from s3proxy.storage import residency

MIB = 1 << 20


def _pages(fd: int, size: int) -> bytes:
    """For each page of a file 1 if it is in memory, else 0: mincore(2)."""
    found = ctypes.create_string_buffer(size // mmap.PAGESIZE)
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        first = ctypes.c_char.from_buffer(memory)
        code = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(first), ctypes.c_size_t(size), found)
        del first
    if code:
        raise SkipTest("this system does not tell which pages are in memory")
    return bytes(page & 1 for page in found.raw)


class ResidencyTests(SynchronousTestCase):
    """The probe and the read-ahead."""

    def setUp(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(os.urandom(4 * MIB))
            file.flush()
            os.fsync(file.fileno())
        self.fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)

    def drop(self) -> None:
        """Nothing is in memory. Pages that some processor is about to put on a list stay for a moment. Is not found out
        by the probe, which lets the kernel begin to read.
        """
        for _ in range(100):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if not any(_pages(self.fd, 4 * MIB)):
                return
            time.sleep(0.01)
        raise SkipTest("this file system keeps its pages")

    def test_written(self) -> None:
        """What was just written is in memory (or the file system can't tell)."""
        self.assertIn(residency.resident(self.fd, MIB, MIB), (True, None))

    def test_read_ahead(self) -> None:
        """What was dropped is not in memory until it is read ahead."""
        self.drop()
        residency.read_ahead(self.fd, MIB, MIB)
        self.assertEqual(residency.resident(self.fd, MIB, MIB), True)
        self.assertEqual(residency.resident(self.fd, MIB, 1), True)

    def test_half(self) -> None:
        """A window of which only the first part is in memory is not in memory."""
        self.drop()
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(self.fd, 4096, 0)
        self.assertEqual(residency.resident(self.fd, 0, 4096), True)
        self.assertEqual(residency.resident(self.fd, 0, 4 * MIB), False)

    def test_beyond_the_end(self) -> None:
        """Beyond the end there is nothing to wait for."""
        residency.read_ahead(self.fd, 3 * MIB, 10 * MIB)
        self.assertIn(residency.resident(self.fd, 8 * MIB, 10), (True, None))

    def test_closed(self) -> None:
        """A descriptor that is none is an error, not an answer."""
        spare = os.dup(self.fd)
        os.close(spare)
        with self.assertRaises(OSError) as caught:
            residency.resident(spare, 0, 1)
        self.assertEqual(caught.exception.errno, errno.EBADF)

    def test_unsupported(self) -> None:
        """Where the kernel can't tell, the answer is None."""
        with open("/proc/self/status", "rb") as file:
            self.assertIsNone(residency.resident(file.fileno(), 0, 1))
