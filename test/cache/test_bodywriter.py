"""When a body is written, and in which thread."""

import errno

from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.background import Promptness
from s3proxy.cache.bodywriter import BATCH, LINGER, PROMPT_BATCH, BodyWriter
from s3proxy.storage.errors import NotNow
from test.support.streams import ManualThread


class BodyWriterTests(SynchronousTestCase):
    """A body, and a disk that the test plays."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = ManualThread()
        self.appended: list[tuple[int, bool]] = []
        self.written: list[int] = []
        self.refused: list[tuple[list[bytes], BaseException]] = []
        self.finished: list[Failure | None] = []
        self.full = self.broken = self.unpublishable = False

    def writer(self, promptness: bool = True, hurry: bool = True) -> BodyWriter:
        return BodyWriter(
            self.clock,
            self.thread,
            append=self.append,
            finish=self.finish,
            promptness=Promptness(self.clock.seconds, lambda: 0) if promptness else None,
            hurry=hurry,
            on_written=self.written.append,
            on_refused=lambda chunks, error: self.refused.append((chunks, error)),
            on_finished=self.finished.append,
        )

    def append(self, chunks: list[bytes], promptly: bool) -> None:
        if promptly and self.full:
            raise NotNow
        if self.broken:
            raise OSError(errno.ENOSPC, "full")
        self.appended.append((sum(map(len, chunks)), promptly))

    def finish(self) -> None:
        if self.unpublishable:
            raise OSError(errno.EIO, "no")

    def test_first_piece(self) -> None:
        """It is written at once, whatever the disk."""
        for promptness in (True, False):
            self.writer(promptness, hurry=False).add(b"abc", first=True)
        self.assertEqual((self.appended, self.written), ([(3, True), (3, False)], [3, 3]))

    def test_prompt_disk(self) -> None:
        """Later ones when they are worth a write in the reactor's thread."""
        writer = self.writer()
        writer.add(b"a", first=True)
        writer.add(bytes(PROMPT_BATCH - 1), first=False)
        self.assertEqual((self.written, writer.waiting), ([1], PROMPT_BATCH - 1))
        writer.add(b"b", first=False)
        self.assertEqual((self.written, writer.waiting), ([1, PROMPT_BATCH], 0))
        self.assertEqual((self.thread.waiting, self.clock.getDelayedCalls()), (0, []))

    def test_slow_disk(self) -> None:
        """Or when they are worth a trip to the thread; what comes meanwhile waits for the next one."""
        for promptness, hurry in ((True, False), (False, True)):
            self.written.clear()
            writer = self.writer(promptness, hurry)
            writer.add(b"a", first=True)
            writer.add(bytes(BATCH), first=False)
            writer.add(bytes(BATCH), first=False)
            self.assertEqual((writer.busy, self.written, writer.waiting), (True, [1], BATCH))
            self.thread.finish()
            self.assertEqual((writer.busy, self.written), (False, [1, BATCH]))
            self.assertTrue(writer.go_on(ended=False, complete=False))
            self.thread.finish()
            self.assertEqual(self.written, [1, BATCH, BATCH])
            self.assertFalse(writer.go_on(ended=False, complete=False))

    def test_company(self) -> None:
        """Less is written when nothing else has come for a moment."""
        writer = self.writer()
        writer.add(b"a", first=True)
        writer.add(b"bc", first=False)
        self.clock.advance(LINGER / 2)
        writer.add(b"d", first=False)
        self.assertEqual(self.written, [1])
        self.clock.advance(LINGER / 2)
        self.assertEqual(self.written, [1, 3])

    def test_something_has_to_be_evicted(self) -> None:
        """What can't be written promptly is written in the thread."""
        self.full = True
        writer = self.writer()
        writer.add(b"abc", first=True)
        self.assertEqual((writer.busy, self.written), (True, []))
        self.thread.finish()
        self.assertEqual((self.appended, self.written), ([(3, False)], [3]))

    def test_end(self) -> None:
        """The end of a complete body is written and finished in one trip to the thread."""
        for self.unpublishable in (False, True):
            writer = self.writer(promptness=False)
            writer.add(b"a", first=True)
            writer.add(b"b", first=False)
            self.assertTrue(writer.go_on(ended=True, complete=True))
            self.assertEqual(self.thread.waiting, 1)
            self.thread.finish()
            self.assertFalse(writer.busy)
        self.assertIsNone(self.finished[0])
        assert self.finished[1] is not None
        self.assertTrue(self.finished[1].check(OSError))
        self.assertEqual((self.written, self.refused), ([1, 1, 1, 1], []))

    def test_refused(self) -> None:
        """What the disk does not take comes back, and so does what waits."""
        self.broken = True
        writer = self.writer(promptness=False)
        writer.add(b"abc", first=True)
        self.broken = False
        writer.add(b"d", first=True)
        self.broken = True
        writer.add(bytes(BATCH), first=False)
        writer.add(b"rest", first=False)
        self.thread.finish()
        self.assertEqual([sum(map(len, chunks)) for chunks, _ in self.refused], [3, BATCH])
        self.assertEqual((writer.take(), writer.waiting, writer.busy), ([b"rest"], 0, False))
