"""Values that stand in files."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.util.filevalue import absolute, file_of, resolved


class FileValueTests(SynchronousTestCase):
    def test_values(self) -> None:
        """What does not begin with file: is the value itself."""
        for value in ("", "Bearer x", " file:a", "File:a"):
            self.assertEqual((file_of(value), absolute(value), resolved(value)), (None, value, value))

    def test_files(self) -> None:
        """The others name a file, whose text counts; white space around it, such as an editor's newline, does not."""
        path = Path(self.mktemp())
        path.write_text(" hunter 2\n\n", "utf-8")
        self.assertEqual(file_of(f"file:{path}"), str(path))
        self.assertEqual(absolute(f"file:{path}"), f"file:{os.path.abspath(path)}")
        self.assertEqual(resolved(f"file:{path}"), "hunter 2")

    def test_files_that_cannot_be_read(self) -> None:
        """They are errors, and so is no name at all."""
        path = Path(self.mktemp())
        path.write_bytes(b"\xff")
        self.assertRaises(UnicodeDecodeError, resolved, f"file:{path}")
        self.assertRaises(OSError, resolved, "file:/nonexistent")
        self.assertEqual(absolute("file:"), "file:")
        self.assertRaises(OSError, resolved, "file:")
