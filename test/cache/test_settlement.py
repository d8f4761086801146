"""What becomes of a body that has ended."""

import errno
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.bodychunks import BodyChunks
from s3proxy.cache.bodyfiles import BodyFiles
from s3proxy.cache.settlement import Fate, Settlement
from s3proxy.storage.errors import NotNow
from test.cache.test_fill import FakeWriter


class SettlementTests(SynchronousTestCase):
    """Bodies of ten bytes, of which four are worth keeping."""

    def setUp(self) -> None:
        self.writers: list[FakeWriter] = []
        self.given_up = 0
        self.errors: list[BaseException] = []

    def start_writer(self, position: int) -> FakeWriter:
        self.writers.append(FakeWriter(position, 10 - position))
        self.addCleanup(self.writers[-1].close)
        return self.writers[-1]

    def give_up(self) -> None:
        self.given_up += 1

    def settlement(self, written: bytes | None, chunks: BodyChunks | None = None, **options: Any) -> Settlement:
        """:param written: into files; None: the body is small"""
        files = None if written is None else BodyFiles(0, self.start_writer)
        if files is not None and written:
            files.append([written])
        options = {"commit_small": None, "give_up": self.give_up, **options}
        return Settlement(files, chunks or BodyChunks(), least=4, failed=self.errors.append, **options)

    def fate(self, fate: Fate, written: bytes) -> tuple[Any, list[Any]]:
        settlement = self.settlement(written)
        settlement.publish(fate, len(written))
        return self.writers[-1].fate, settlement.results

    def test_file(self) -> None:
        """It is published, or its beginning is if that is worth it, or it is removed."""
        self.assertEqual(self.fate(Fate.WHOLE, b"0123456789"), ("committed", ["entry"]))
        self.assertEqual(self.fate(Fate.CUT, b"0123"), (("prefix", 4), ["prefix"]))
        self.assertEqual(self.fate(Fate.CUT, b"012"), ("discarded", []))
        self.assertEqual(self.fate(Fate.UNWANTED, b"0123456789"), ("discarded", []))
        self.assertEqual(self.given_up, 0)

    def test_promptly(self) -> None:
        """A body that broke off is for a thread."""
        settlement = self.settlement(b"01234")
        self.assertRaises(NotNow, settlement.publish, Fate.CUT, 5, True)
        self.assertIsNone(self.writers[-1].fate)

    def test_small(self) -> None:
        """A small body is published out of memory."""
        chunks = BodyChunks()
        chunks.append(0, b"01234")
        chunks.append(5, b"56789")
        settlement = self.settlement(None, chunks, commit_small=lambda pieces, promptly: (b"".join(pieces), promptly))
        settlement.publish(Fate.WHOLE, 10, True)
        self.assertEqual(settlement.results, [(b"0123456789", True)])

    def test_nothing_was_written(self) -> None:
        """The right to write is given up, once, however it ends."""
        self.settlement(b"").publish(Fate.CUT, 0)
        self.settlement(b"").abandon()
        self.settlement(None).abandon()
        self.assertEqual(self.given_up, 3)
        self.settlement(b"01").abandon()
        self.assertEqual(self.given_up, 3)

    def test_disk_fails(self) -> None:
        """That the right can't be given up is told."""

        def refuse() -> None:
            raise OSError(errno.EIO, "no")

        self.settlement(b"", give_up=refuse).abandon()
        self.assertEqual(len(self.errors), 1)
