"""Settings of the C library."""

import ctypes
import platform

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.util.malloc import keep_freed_memory


class MallocTests(SynchronousTestCase):
    """keep_freed_memory()"""

    def test_glibc(self) -> None:
        """glibc knows the settings."""
        self.assertEqual(keep_freed_memory(), platform.libc_ver()[0] == "glibc")

    def test_other_library(self) -> None:
        """Where there are no such settings, that is no error."""
        self.patch(ctypes, "CDLL", lambda name: object())
        self.assertFalse(keep_freed_memory())
