"""Copies of bodies on their way to S3."""

import hashlib
from collections.abc import Sequence
from test.support.streams import ManualThread, run_at_once
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.bodycopy import MOST_BEHIND, MOST_HELD_UP, PATIENCE, Backlog, BodyCopy, CopiedBody
from s3proxy.cache.bodywriter import BATCH
from s3proxy.storage.diskio import DiskBusy


class FakeKept:
    """Where copies go.

    :ivar fails_at: number of the append that fails, counted from 1
    """

    def __init__(self, fails_at: int = 0, discard_fails: bool = False) -> None:
        self.data = b""
        self.discarded = 0
        self._appends = 0
        self._fails_at = fails_at
        self._discard_fails = discard_fails

    def append(self, chunks: Sequence[bytes]) -> None:
        """See :class:`IKept`."""
        assert not self.discarded and chunks and all(chunks)
        self._appends += 1
        if self._appends == self._fails_at:
            raise OSError(28, "No space left on device")
        self.data += b"".join(chunks)

    def discard(self) -> None:
        """See :class:`IKept`."""
        self.discarded += 1
        if self._discard_fails:
            raise OSError(5, "Input/output error")


class CopyCase(SynchronousTestCase):
    """A copy, and what became of it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = ManualThread()
        self.kept: FakeKept | None = FakeKept()
        self.errors: list[BaseException] = []
        self.started = 0
        self.refuses = False
        self.results: list[CopiedBody | None] = []

    def start(self) -> FakeKept | None:
        """Make the place."""
        self.started += 1
        if self.refuses:
            raise OSError(30, "Read-only file system")
        return self.kept

    def copy(
        self,
        size: int,
        *,
        run: Any = None,
        chunked: bool = False,
        here: bool = False,
        checksums: tuple[bytes, ...] = (),
    ) -> BodyCopy:
        """A copy of a body of this size."""
        return BodyCopy(
            self.clock,
            run or self.thread,
            size=size,
            chunked=chunked,
            checksums=checksums,
            here=here,
            start=self.start,
            failed=self.errors.append,
        )

    def take(self, copy: BodyCopy) -> None:
        """Somebody waits for the copy."""
        Deferred.fromCoroutine(copy.copied()).addCallback(self.results.append)

    def given_up(self, copy: BodyCopy) -> None:
        """There is no copy, and nothing is left of it."""
        copy.ended()
        self.take(copy)
        self.thread.finish()
        self.assertEqual(self.results, [None])
        if self.started and self.kept is not None:
            self.assertEqual(self.kept.discarded, 1)
        copy.abandon()
        copy.data_received(b"more")
        copy.ended()
        self.thread.finish()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CompleteTests(CopyCase):
    """Copies that come about."""

    def test_in_a_thread(self) -> None:
        """Bytes go to the disk in batches; the copy is there when all of them are."""
        body = bytes(range(256)) * (BATCH // 100)
        copy = self.copy(len(body), checksums=(b"md5", b"sha256", b"md5"))
        for start in range(0, len(body), 50_000):
            copy.data_received(body[start : start + 50_000])
        self.assertEqual(self.thread.waiting, 1)
        copy.ended()
        self.take(copy)
        self.assertEqual(self.results, [])
        self.thread.finish()
        (found,) = self.results
        assert found is not None and self.kept is not None
        self.assertIs(found.kept, self.kept)
        self.assertTrue(self.kept.data == body)
        self.assertEqual(found.digests, {b"md5": hashlib.md5(body).digest(), b"sha256": hashlib.sha256(body).digest()})
        self.assertEqual((self.started, self.kept.discarded, self.errors), (1, 0, []))
        copy.abandon()
        self.thread.finish()
        self.assertEqual(self.kept.discarded, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_begins_early(self) -> None:
        """A body smaller than a batch is not left for the end; tiny ones are not worth more than one."""
        for size, first in ((1024 * 1024, 256 * 1024), (256 * 1024, 128 * 1024), (100_000, 100_000)):
            copy = self.copy(size)
            copy.data_received(b"x" * (first - 1))
            self.assertEqual(self.thread.waiting, 0)
            copy.data_received(b"x")
            self.assertEqual(self.thread.waiting, int(first < size))
            copy.abandon()
            self.thread.finish()

    def test_here(self) -> None:
        """A small one needs no thread."""
        copy = self.copy(4, here=True)
        copy.data_received(b"ab")
        copy.data_received(b"cd")
        copy.ended()
        self.take(copy)
        assert self.results[0] is not None and self.kept is not None
        self.assertEqual((self.kept.data, self.thread.waiting), (b"abcd", 0))

    def test_empty(self) -> None:
        """So does an empty one, which has a place, too."""
        for here in (True, False):
            copy = self.copy(0, here=here, run=run_at_once)
            copy.ended()
            self.take(copy)
        self.assertEqual((self.started, len([body for body in self.results if body is not None])), (2, 2))

    def test_trailers(self) -> None:
        """What came behind the chunks is there in the end."""
        copy = self.copy(5, chunked=True, here=True)
        for byte in b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32: AAAAAA==\r\n\r\n":
            copy.data_received(bytes([byte]))
        copy.ended()
        self.take(copy)
        assert self.results[0] is not None and self.kept is not None
        self.assertEqual(self.kept.data, b"hello")
        self.assertEqual(self.results[0].trailers, [(b"x-amz-checksum-crc32", b"AAAAAA==")])

    def test_handed_over_once(self) -> None:
        """Who comes second gets nothing, and takes nothing away."""
        copy = self.copy(1, here=True)
        copy.data_received(b"a")
        copy.ended()
        self.take(copy)
        self.take(copy)
        self.assertIsNotNone(self.results[0])
        self.assertIsNone(self.results[1])


class GivenUpTests(CopyCase):
    """Copies that do not come about."""

    def test_lengths(self) -> None:
        """More or fewer bytes than were announced."""
        for size in (3, 5):
            for here in (True, False):
                self.setUp()
                copy = self.copy(size, here=here)
                copy.data_received(b"ab")
                copy.data_received(b"cd")
                self.given_up(copy)

    def test_encoding(self) -> None:
        """Chunks that are none, and chunks without an end."""
        for body in (b"zz\r\nhello", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n\r\nmore"):
            self.setUp()
            copy = self.copy(5, chunked=True)
            copy.data_received(body)
            self.given_up(copy)

    def test_slow_disk(self) -> None:
        """What the disk has not taken is bounded: with more the copy is given up, and its bytes are let go."""
        copy = self.copy(1 << 40)
        piece = bytes(1 << 20)
        for _ in range(MOST_BEHIND // len(piece)):
            copy.data_received(piece)
        self.assertFalse(copy._over)
        copy.data_received(piece)
        self.assertTrue(copy._over)
        self.assertEqual((copy._queue, self.thread.waiting), ([], 1))
        self.given_up(copy)

    def test_patience(self) -> None:
        """S3's answer waits a few seconds, not longer; what the disk does later is undone."""
        copy = self.copy(4)
        copy.data_received(b"abcd")
        copy.ended()
        self.take(copy)
        self.clock.advance(PATIENCE - 0.1)
        self.assertEqual(self.results, [])
        self.clock.advance(0.2)
        self.assertEqual(self.results, [None])
        assert self.kept is not None
        self.assertEqual(self.kept.discarded, 0)
        self.thread.finish()
        self.assertEqual(self.kept.discarded, 1)

    def test_no_room(self) -> None:
        """The place can't be had."""
        self.kept = None
        for here in (True, False):
            self.results = []
            copy = self.copy(4, here=here)
            copy.data_received(b"abcd")
            self.given_up(copy)
        self.assertEqual(self.errors, [])

    def test_disk_errors(self) -> None:
        """An error of the disk at any point is told, once, and what was written goes."""
        for here in (True, False):
            for fails_at in range(5):
                self.setUp()
                self.kept = FakeKept(fails_at)
                self.refuses = not fails_at
                copy = self.copy(4 * BATCH, here=here)
                for _ in range(4):
                    copy.data_received(bytes(BATCH))
                    self.thread.finish()
                copy.ended()
                self.take(copy)
                self.thread.finish()
                self.assertEqual(self.results, [None])
                self.assertEqual([type(error) for error in self.errors], [OSError])
                self.assertEqual(self.kept.discarded, 1 if fails_at else 0)

    def test_disk_error_while_discarding(self) -> None:
        """Nor does it matter to anybody that what was written can't be removed."""
        for here in (True, False):
            self.setUp()
            self.kept = FakeKept(discard_fails=True)
            copy = self.copy(2 * BATCH, here=here)
            copy.data_received(bytes(BATCH))
            self.given_up(copy)
            self.assertEqual([type(error) for error in self.errors], [OSError])

    def test_busy(self) -> None:
        """If no thread takes the work the copy is given up; what it holds is given back all the same."""
        calls = 0

        def busy_after(count: int) -> Any:
            def run(function: Any, *args: Any) -> Any:
                nonlocal calls
                calls += 1
                return fail(DiskBusy(11, "busy")) if calls > count else run_at_once(function, *args)

            return run

        for count in range(3):
            self.setUp()
            calls = 0
            copy = self.copy(4 * BATCH, run=busy_after(count))
            for _ in range(4):
                copy.data_received(bytes(BATCH))
            self.given_up(copy)
            self.assertTrue(self.errors and all(isinstance(error, DiskBusy) for error in self.errors))

    def test_client_leaves(self) -> None:
        """A client may leave at any point: nothing is left, whatever the disk does afterwards."""
        for steps in range(9):
            self.setUp()
            copy = self.copy(2 * BATCH)
            actions = [
                lambda: copy.data_received(bytes(BATCH)),
                self.thread.finish,
                lambda: copy.data_received(bytes(BATCH - 5)),
                lambda: copy.data_received(bytes(5)),
                copy.ended,
                self.thread.finish,
            ]
            for action in actions[:steps]:
                action()
            copy.abandon()
            self.thread.finish()
            assert self.kept is not None
            self.assertEqual(self.kept.discarded, min(self.started, 1))
            self.take(copy)
            self.assertEqual(self.results, [None])
            copy.abandon()
            self.thread.finish()
            self.assertLessEqual(self.kept.discarded, 1)

    def test_answer_before_the_end(self) -> None:
        """S3 answers a body that it has not got: there is no copy of it."""
        copy = self.copy(4)
        copy.data_received(b"ab")
        self.take(copy)
        self.thread.finish()
        self.assertEqual(self.results, [None])


class TogetherTests(SynchronousTestCase):
    """Many copies at once."""

    def setUp(self) -> None:
        self.thread = ManualThread()
        self.backlog = Backlog(40 * BATCH)

    def copy(self) -> BodyCopy:
        """One of them, which has a long way to go."""
        return BodyCopy(
            Clock(),
            self.thread,
            size=1 << 40,
            chunked=False,
            checksums=(),
            here=False,
            start=FakeKept,
            failed=lambda error: None,
            backlog=self.backlog,
        )

    def test_bounded(self) -> None:
        """What all of them together keep in memory is bounded: whoever would have more is given up, and the others go
        on. In the end nothing is counted.
        """
        copies = [self.copy() for _ in range(5)]
        for copy in copies[:4]:
            for _ in range(10):
                copy.data_received(bytes(BATCH))
        self.assertEqual((self.backlog.bytes, self.backlog.full), (40 * BATCH, False))
        copies[4].data_received(b"x")
        self.assertEqual([copy._over for copy in copies], [False] * 4 + [True])
        self.assertEqual(self.backlog.bytes, 40 * BATCH)
        self.thread.finish()
        self.assertEqual(self.backlog.bytes, 0)
        for number, copy in enumerate(copies[:4]):
            copy.data_received(bytes(BATCH))
            copy.data_received(b"x")
            if number % 2:
                self.thread.finish()
            copy.abandon()
        self.thread.finish()
        self.assertEqual(self.backlog.bytes, 0)

    def test_crowded(self) -> None:
        """Where many wait, small batches are written and bodies are held up earlier."""
        copies = [self.copy() for _ in range(2)]
        copies[0].data_received(bytes(10 * BATCH))
        copies[1].data_received(bytes(BATCH // 2))
        self.assertIsNone(copies[1].behind())
        self.assertEqual(self.thread.waiting, 1)
        self.backlog.bytes += 15 * BATCH
        copies[1].data_received(b"x")
        self.assertEqual(self.thread.waiting, 2)
        waiting = copies[1].behind()
        assert waiting is not None
        self.thread.finish()
        self.successResultOf(waiting)
        for copy in copies:
            copy.abandon()

    def test_failed(self) -> None:
        """Nor is anything counted after a failure of the disk."""
        copy = BodyCopy(
            Clock(),
            self.thread,
            size=1 << 40,
            chunked=False,
            checksums=(),
            here=False,
            start=lambda: FakeKept(fails_at=1),
            failed=lambda error: None,
            backlog=self.backlog,
        )
        copy.data_received(bytes(BATCH))
        copy.data_received(b"x")
        self.thread.finish()
        self.assertEqual(self.backlog.bytes, 0)


class HoldingUpTests(SynchronousTestCase):
    """A body that is faster than the disk."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = ManualThread()
        self.kept = FakeKept()
        self.copy = BodyCopy(
            self.clock,
            self.thread,
            size=1 << 30,
            chunked=False,
            checksums=(),
            here=False,
            start=lambda: self.kept,
            failed=self.fail,
        )
        self.piece = bytes(1 << 20)

    def send(self, count: int) -> None:
        """So many MiB of the body."""
        for _ in range(count):
            self.copy.data_received(self.piece)

    def test_waits_until_the_disk_has_caught_up(self) -> None:
        """The body waits when too much is left to do, and goes on when the disk has taken it."""
        self.send(8)
        self.assertIsNone(self.copy.behind())
        self.send(3)
        waiting = self.copy.behind()
        assert waiting is not None
        self.assertIs(self.copy.behind(), waiting)
        self.assertNoResult(waiting)
        self.thread.finish()
        self.successResultOf(waiting)
        self.assertIsNone(self.copy.behind())
        self.copy.abandon()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_only_for_so_long(self) -> None:
        """A disk that stands still holds the body up once; then the copy is given up."""
        self.send(12)
        waiting = self.copy.behind()
        assert waiting is not None
        self.clock.advance(MOST_HELD_UP)
        self.successResultOf(waiting)
        self.assertIsNone(self.copy.behind())
        self.send(8)
        self.assertIsNone(self.copy.behind())
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(self.copy.copied())))

    def test_given_up(self) -> None:
        """Nobody waits for a copy that is given up."""
        self.send(12)
        waiting = self.copy.behind()
        assert waiting is not None
        self.copy.abandon()
        self.successResultOf(waiting)
