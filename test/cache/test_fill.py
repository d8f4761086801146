"""Bodies on their way into the cache, and their readers."""

import errno
import os
import tempfile
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache import bodyfiles
from s3proxy.cache import fill as fill_module
from s3proxy.cache.background import Promptness
from s3proxy.cache.backpressure import WINDOW
from s3proxy.cache.bodywriter import BATCH, LINGER, PROMPT_BATCH
from s3proxy.cache.fill import WORTH_FINISHING, Fill
from s3proxy.cache.growing import FillBroken
from s3proxy.cache.spans import FileSpan, MemorySpan
from s3proxy.cache.verify import Verifier
from s3proxy.storage.errors import NotNow
from s3proxy.storage.files import SystemCalls
from s3proxy.storage.handles import OpenFile, ReadHandle
from test.support.streams import ManualThread, ScriptedSource, run_at_once


class FakeWriter:
    """A growing file, and what became of it."""

    def __init__(self, start: int, length: int) -> None:
        self._file = tempfile.TemporaryFile()
        self.fd = self._file.fileno()
        self.base = 100
        self.start = start
        self.length = length
        self.written = 0
        self.fate: Any = None
        self.closed = False
        self.broken: OSError | None = None
        self.full = False

    def append(self, chunks: list[bytes], promptly: bool = False) -> None:
        if promptly and self.full:
            raise NotNow
        if self.broken is not None:
            raise self.broken
        for chunk in chunks:
            os.pwrite(self.fd, chunk, self.base + self.written)
            self.written += len(chunk)

    def handle(self) -> ReadHandle:
        assert not self.closed
        return ReadHandle(OpenFile(SystemCalls(), os.dup(self.fd)), self.base, self.start, self.start + self.length)

    def commit(self, promptly: bool = False) -> str:
        if promptly and self.full:
            raise NotNow
        assert self.written == self.length
        self.fate = "committed"
        return "entry"

    def commit_prefix(self, min_bytes: int) -> str:
        self.fate = ("prefix", self.written)
        return "prefix"

    def discard(self) -> None:
        self.fate = "discarded"

    def close(self) -> None:
        self.closed = True
        self._file.close()


class Reader:
    """Reads a fill to its end, span by span."""

    def __init__(self, fill: Fill, start: int, stop: int) -> None:
        self.fill = fill
        self.position = start
        self.stop = stop
        self.data = b""
        fill.attach(self, start)

    def read(self, limit: int | None = None) -> bytes:
        """Everything that is there, at most up to ``limit`` in all."""
        stop = self.stop if limit is None else limit
        while True:
            span = self.fill.span(self.position, stop)
            if span is None:
                return self.data
            if isinstance(span, FileSpan):
                piece = os.pread(span.fd, span.count, span.offset)
                span.release()
            else:
                assert isinstance(span, MemorySpan)
                piece = bytes(span.data)
            assert len(piece) == span.count > 0
            self.data += piece
            self.position += len(piece)
            self.fill.moved(self, self.position)

    def leave(self) -> None:
        self.fill.detach(self)


class FillTests(SynchronousTestCase):
    """A fill of one object."""

    def setUp(self) -> None:
        # The readers of these tests know no other way to a byte than the fill.
        self.patch(bodyfiles, "MAX_OPEN_FILES", 1000)
        self.clock = Clock()
        self.source = ScriptedSource()
        self.writers: list[FakeWriter] = []
        self.settled: list[list[Any]] = []
        self.errors: list[BaseException] = []
        self.cut = 1 << 40

    def writer(self, position: int) -> FakeWriter:
        stop = min(self.stop, (position // self.cut + 1) * self.cut)
        self.writers.append(FakeWriter(position, stop - position))
        return self.writers[-1]

    def fill(self, start: int, stop: int, run: Any = run_at_once, **options: Any) -> Fill:
        self.stop = stop
        options.setdefault("writers", self.writer)
        fill = Fill(
            self.clock,
            run,
            self.source,
            start,
            stop,
            on_settled=lambda fill, results: self.settled.append(results),
            on_disk_error=self.errors.append,
            **options,
        )
        fill.begin()
        return fill

    def test_first_block_is_readable_at_once(self) -> None:
        """The first block can be read in the same turn, whatever the thread is doing."""
        thread = ManualThread()
        fill = self.fill(0, 1000, thread)
        reader = Reader(fill, 0, 1000)
        fill.data_received(b"a" * 10)
        self.assertEqual(reader.read(), b"a" * 10)
        self.assertEqual(thread.waiting, 0)

    def test_old_bytes_may_have_left_memory(self) -> None:
        """Only what was written lately is sent without asking whether it is in memory."""
        self.patch(fill_module, "HOT", 10)
        fill = self.fill(0, 1000)
        Reader(fill, 0, 1000)
        fill.data_received(b"a" * 100)
        for position, hot in ((0, False), (89, False), (90, True), (99, True)):
            span = fill.span(position, 1000)
            assert isinstance(span, FileSpan)
            self.assertEqual(span.hot, hot, position)
            span.release()

    def test_later_blocks_wait_for_company(self) -> None:
        """Small pieces are written together, at the latest after the linger time."""
        thread = ManualThread()
        fill = self.fill(0, 1000, thread)
        reader = Reader(fill, 0, 1000)
        fill.data_received(b"a")
        fill.data_received(b"b")
        fill.data_received(b"c")
        self.assertEqual(thread.waiting, 0)
        self.clock.advance(LINGER)
        self.assertEqual(thread.waiting, 1)
        thread.finish()
        self.assertEqual(reader.read(), b"abc")

    def test_waiters_are_woken(self) -> None:
        """A reader that waits learns of every growth."""
        fill = self.fill(0, 4)
        Reader(fill, 0, 4)
        waiting = fill.wait()
        self.assertNoResult(waiting)
        fill.data_received(b"abcd")
        self.successResultOf(waiting)

    def test_slow_disk_pauses_the_source(self) -> None:
        """A disk that falls behind pauses S3 before more than a window is queued, and resumes it later."""
        thread = ManualThread()
        fill = self.fill(0, 10 * WINDOW, thread)
        Reader(fill, 0, 10 * WINDOW)
        fill.data_received(b"x")
        taken = 0
        while not self.source.paused:
            fill.data_received(b"y" * 65536)
            taken += 65536
            self.assertLessEqual(taken, WINDOW + BATCH + 65536)
        thread.finish()
        self.assertFalse(self.source.paused)

    def test_slow_reader_does_not_pause_the_source(self) -> None:
        """Readers read from the file at their own pace."""
        fill = self.fill(0, 4 * WINDOW)
        Reader(fill, 0, 4 * WINDOW)
        for _ in range(4):
            fill.data_received(b"z" * WINDOW)
        self.assertNotIn("pause", self.source.calls[:-1])
        self.assertFalse(self.source.paused)

    def test_complete_body_is_committed(self) -> None:
        """The last byte commits the file, and the results are reported."""
        fill = self.fill(0, 6)
        reader = Reader(fill, 0, 6)
        fill.data_received(b"abc")
        fill.data_received(b"def")
        fill.stream_ended()
        self.assertEqual(reader.read(), b"abcdef")
        self.assertEqual(self.writers[0].fate, "committed")
        self.assertEqual(self.settled, [["entry"]])
        self.assertFalse(self.writers[0].closed)
        reader.leave()
        self.assertTrue(self.writers[0].closed)

    def test_cut_boundaries_begin_new_files(self) -> None:
        """Each cut of the body is a file of its own, committed when it is full."""
        self.cut = 4
        fill = self.fill(2, 11)
        reader = Reader(fill, 2, 11)
        fill.data_received(b"23456789")
        fill.data_received(b"X")
        fill.stream_ended()
        self.assertEqual(
            [(w.start, w.length, w.fate) for w in self.writers],
            [(2, 2, "committed"), (4, 4, "committed"), (8, 3, "committed")],
        )
        self.assertEqual(reader.read(), b"23456789X")

    def test_early_end_is_a_failure(self) -> None:
        """An answer that ends before its last byte fails the fill; what is there can be read."""
        fill = self.fill(0, 10)
        reader = Reader(fill, 0, 10)
        fill.data_received(b"abc")
        fill.stream_ended()
        assert fill.failure is not None
        self.assertTrue(fill.failure.check(FillBroken))
        self.assertEqual(reader.read(), b"abc")
        self.assertEqual(self.writers[0].fate, "discarded")
        self.assertEqual(self.settled, [[]])

    def test_half_a_body_is_kept(self) -> None:
        """A body that broke off after the configured share is kept as a shorter range."""
        fill = self.fill(0, 10, keep_ratio=0.5)
        fill.data_received(b"abcde")
        fill.stream_failed(Failure(OSError("reset")))
        self.assertEqual(self.writers[0].fate, ("prefix", 5))

    def test_last_reader_ends_a_long_fetch(self) -> None:
        """A fetch that nobody reads stops unless nearly all of it is there."""
        fill = self.fill(0, 100 * WORTH_FINISHING)
        reader = Reader(fill, 0, 100)
        fill.data_received(b"abc")
        reader.leave()
        self.assertTrue(self.source.aborted)

    def test_nearly_finished_fetch_goes_on(self) -> None:
        """A fetch with little missing goes on without readers, and is kept."""
        fill = self.fill(0, 6)
        reader = Reader(fill, 0, 6)
        fill.data_received(b"abc")
        reader.leave()
        self.assertFalse(self.source.aborted)
        fill.data_received(b"def")
        fill.stream_ended()
        self.assertEqual(self.settled, [["entry"]])
        self.assertTrue(self.writers[0].closed)

    def test_full_disk_goes_on_from_memory(self) -> None:
        """When the disk refuses, every reader still gets every byte, and nothing is published."""
        fill = self.fill(0, 3 * BATCH)
        reader = Reader(fill, 0, 3 * BATCH)
        fill.data_received(b"a" * BATCH)
        self.writers[0].broken = OSError(errno.ENOSPC, "full")
        fill.data_received(b"b" * BATCH)
        fill.data_received(b"c" * BATCH)
        fill.stream_ended()
        self.assertEqual(reader.read(), b"a" * BATCH + b"b" * BATCH + b"c" * BATCH)
        self.assertEqual(len(self.errors), 1)
        self.assertEqual(self.writers[0].fate, "discarded")
        self.assertEqual(self.settled, [[]])
        self.assertFalse(fill.joinable)

    def test_full_disk_is_paced_by_the_slowest_reader(self) -> None:
        """Without a disk, S3 is paused until the slowest reader has the window, so memory stays bounded."""
        fill = self.fill(0, 100 * WINDOW)
        quick = Reader(fill, 0, 100 * WINDOW)
        slow = Reader(fill, 0, 100 * WINDOW)
        fill.data_received(b"a")
        self.writers[0].broken = OSError(errno.ENOSPC, "full")
        sent = 1
        while not self.source.paused:
            fill.data_received(b"b" * 65536)
            sent += 65536
            quick.read()
            self.assertLess(sent, 4 * WINDOW)
        slow.read()
        self.assertFalse(self.source.paused)

    def test_passing_fill_keeps_nothing(self) -> None:
        """A passing fill needs no disk, skips to where its reader is, and can't be joined."""
        fill = self.fill(0, 10, writers=None, passing=True)
        reader = Reader(fill, 4, 10)
        fill.data_received(b"0123456")
        fill.data_received(b"789")
        fill.stream_ended()
        self.assertFalse(fill.joinable)
        self.assertEqual(reader.read(), b"456789")

    def test_passing_fill_that_was_read_to_its_end(self) -> None:
        """The reader has every byte before the end is told, and leaves: the connection to S3 can be used again."""
        fill = self.fill(0, 10, writers=None, passing=True)
        reader = Reader(fill, 0, 10)
        fill.data_received(b"0123456789")
        self.assertEqual(reader.read(), b"0123456789")
        fill.detach(reader)
        fill.stream_ended()
        self.assertFalse(self.source.aborted)
        self.assertEqual(self.settled, [[]])

    def test_bytes_that_were_not_written_again(self) -> None:
        """They may have to be read from the disk, and are sent accordingly."""
        disk = FakeWriter(0, 4)
        disk.append([b"abcd"])
        held = bodyfiles.HeldRange(disk.handle(), 0, 4)
        files = bodyfiles.BodyFiles(0, lambda position: FakeWriter(4, 4) if position else held)
        files.append([b"abcdefgh"])
        for position, hot in ((0, False), (4, True)):
            span = files.span(position, 8, hot=True)
            assert isinstance(span, FileSpan)
            self.assertEqual((span.hot, span.count), (hot, 4))
            span.release()
        files.close()

    def test_small_body_is_committed_behind_the_answer(self) -> None:
        """The memory form answers before the commit, and stays joinable until it is done."""
        thread = ManualThread()
        committed: list[list[bytes]] = []
        fill = self.fill(0, 3, thread, writers=None, commit_small=lambda chunks, _: committed.append(chunks) or "entry")
        reader = Reader(fill, 0, 3)
        fill.data_received(b"abc")
        fill.stream_ended()
        self.assertEqual(reader.read(), b"abc")
        self.assertEqual(committed, [])
        self.assertTrue(fill.joinable)
        thread.finish()
        self.assertEqual(committed, [[b"abc"]])
        self.assertEqual(self.settled, [["entry"]])
        self.assertFalse(fill.joinable)

    def prompt_fill(self, size: int, run: Any, **options: Any) -> tuple[Fill, Reader, Promptness]:
        """A fill that may write in the reactor's thread, whose first block, of one byte, has come."""
        promptness = Promptness(self.clock.seconds, lambda: 0)
        fill = self.fill(0, size, run, promptness=promptness, **options)
        reader = Reader(fill, 0, size)
        fill.data_received(b"a")
        return fill, reader, promptness

    def test_prompt_disk(self) -> None:
        """While the disk is prompt, no thread is needed: neither for the blocks nor to publish."""
        fill, reader, _ = self.prompt_fill(PROMPT_BATCH + 3, self.fail)
        fill.data_received(b"b" * PROMPT_BATCH)
        self.assertEqual(len(reader.read()), PROMPT_BATCH + 1)
        fill.data_received(b"cd")
        fill.stream_ended()
        self.assertEqual(reader.read(), b"a" + b"b" * PROMPT_BATCH + b"cd")
        self.assertEqual(self.settled, [["entry"]])

    def test_prompt_disk_and_small_pieces(self) -> None:
        """They wait for company there, too, but not for long."""
        fill, reader, _ = self.prompt_fill(10, self.fail)
        fill.data_received(b"b")
        self.assertEqual(reader.read(), b"a")
        self.clock.advance(LINGER)
        self.assertEqual(reader.read(), b"ab")

    def test_disk_becomes_slow(self) -> None:
        """From then on it is the thread that writes, in larger batches."""
        thread = ManualThread()
        fill, reader, promptness = self.prompt_fill(BATCH + 1, thread)
        self.patch(Promptness, "now", False)
        fill.data_received(b"b" * (BATCH - 1))
        self.assertEqual(thread.waiting, 0)
        fill.data_received(b"c")
        self.assertEqual((thread.waiting, reader.read()), (1, b"a"))
        thread.finish()
        self.assertEqual(reader.read(), b"a" + b"b" * (BATCH - 1) + b"c")

    def test_what_is_hashed_goes_to_the_thread(self) -> None:
        """A checksum takes longer than the reactor should be held up."""
        thread = ManualThread()
        fill, reader, _ = self.prompt_fill(BATCH + 1, thread, verify=self.wrong(False))
        fill.data_received(b"b" * BATCH)
        self.assertEqual((thread.waiting, reader.read()), (1, b"a"))

    def test_no_room(self) -> None:
        """Where something must be evicted first, the thread does it: every byte is written once, and hashed once."""
        thread = ManualThread()
        fill, reader, _ = self.prompt_fill(PROMPT_BATCH + 1, thread)
        self.writers[0].full = True
        fill.data_received(b"b" * PROMPT_BATCH)
        self.assertEqual((thread.waiting, reader.read()), (1, b"a"))
        fill.stream_ended()
        thread.finish()
        self.assertEqual(reader.read(), b"a" + b"b" * PROMPT_BATCH)
        self.assertEqual(self.settled, [["entry"]])

    def test_last_trip_to_the_thread(self) -> None:
        """The end of a body is written and published in one go."""
        thread = ManualThread()
        fill = self.fill(0, 3, thread)
        reader = Reader(fill, 0, 3)
        fill.data_received(b"a")
        fill.data_received(b"bc")
        fill.stream_ended()
        self.assertEqual(thread.waiting, 1)
        thread.finish()
        self.assertEqual((thread.waiting, reader.read()), (0, b"abc"))
        self.assertEqual(self.settled, [["entry"]])

    def test_end_that_can_not_be_published(self) -> None:
        """Readers have it all the same."""
        thread = ManualThread()
        fill = self.fill(0, 3, thread)
        reader = Reader(fill, 0, 3)
        fill.data_received(b"a")
        fill.data_received(b"bc")
        fill.stream_ended()
        self.patch(FakeWriter, "commit", self.refuse)
        thread.finish()
        self.assertEqual(reader.read(), b"abc")
        self.assertEqual((self.settled, len(self.errors)), ([[]], 1))

    @staticmethod
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "no")

    def test_empty_body(self) -> None:
        """An object without bytes is committed, too."""
        fill = self.fill(0, 0, writers=None, commit_small=lambda chunks, _: ("entry", chunks))
        fill.stream_ended()
        self.assertEqual(self.settled, [[("entry", [])]])

    def test_what_came_before_a_failure_is_read_first(self) -> None:
        """When the answer breaks off, readers still get what waits for the disk; only then is the fill over."""
        thread = ManualThread()
        fill = self.fill(0, 10, thread)
        reader = Reader(fill, 0, 10)
        fill.data_received(b"abc")
        fill.data_received(b"defg")
        fill.stream_failed(Failure(FillBroken("reset")))
        self.assertFalse(fill.joinable)
        self.assertIsNone(fill.failure)
        woken = fill.wait()
        while thread.waiting:
            thread.step()
        self.successResultOf(woken)
        self.assertEqual(reader.read(), b"abcdefg")
        self.assertIsNotNone(fill.failure)

    def wrong(self, strict: bool) -> Verifier:
        return Verifier(lambda chunk: None, lambda: b"computed", b"stated", strict=strict)

    def test_wrong_checksum_is_not_shown(self) -> None:
        """Nobody gets the last piece of a body that does not match the checksum which S3 stated, and nothing is
        kept.
        """
        fill = self.fill(0, 6, verify=self.wrong(True))
        reader = Reader(fill, 0, 6)
        fill.data_received(b"abc")
        fill.data_received(b"def")
        fill.stream_ended()
        self.assertTrue(fill.condemned)
        self.assertEqual(reader.read(), b"abc")
        self.assertIsNotNone(fill.failure)
        self.assertEqual(self.writers[0].fate, "discarded")
        self.assertEqual(self.errors, [])

    def test_wrong_checksum_of_a_small_body(self) -> None:
        """The same in the memory form."""
        fill = self.fill(0, 6, verify=self.wrong(True), writers=None, commit_small=lambda chunks, _: self.fail("kept"))
        reader = Reader(fill, 0, 6)
        fill.data_received(b"abc")
        fill.data_received(b"def")
        fill.stream_ended()
        self.assertEqual(reader.read(), b"abc")
        self.assertIsNotNone(fill.failure)

    def test_doubtful_checksum_is_only_not_kept(self) -> None:
        """An ETag that looks like an MD5 and is none costs the entry, not the answer."""
        fill = self.fill(0, 3, verify=self.wrong(False))
        reader = Reader(fill, 0, 3)
        fill.data_received(b"abc")
        fill.stream_ended()
        self.assertEqual(reader.read(), b"abc")
        self.assertIsNone(fill.failure)
        self.assertTrue(fill.condemned)
        self.assertEqual(self.writers[0].fate, "discarded")

    def test_descriptors_of_read_files_are_closed(self) -> None:
        """A long body does not hold a descriptor for every file that everybody has read."""
        self.cut = 10
        fill = self.fill(0, 1000)
        reader = Reader(fill, 0, 1000)
        for _ in range(100):
            fill.data_received(b"0123456789")
            reader.read()
        self.assertLess(sum(not writer.closed for writer in self.writers), 6)
        fill.stream_ended()
        self.assertEqual(reader.read(), b"0123456789" * 100)

    def test_descriptors_of_unread_files_are_few(self) -> None:
        """Nor for every file that a slow reader has still to read: it finds them by their names."""
        self.patch(bodyfiles, "MAX_OPEN_FILES", 16)
        self.cut = 10
        files: list[None] = []
        fill = self.fill(0, 1000, on_file=lambda: files.append(None))
        reader = Reader(fill, 0, 1000)
        for _ in range(100):
            fill.data_received(b"0123456789")
            self.clock.advance(LINGER)
        self.assertEqual(sum(not writer.closed for writer in self.writers), 16)
        self.assertEqual((fill.first, len(files)), (840, 99))
        self.assertEqual(reader.read(), b"")
        late = Reader(fill, 840, 1000)
        self.assertEqual(late.read(), b"0123456789" * 16)

    @given(
        st.integers(0, 50),
        st.binary(min_size=1, max_size=300),
        st.lists(st.integers(1, 40), max_size=30),
        st.integers(1, 60),
        st.integers(-1, 5),
        st.lists(st.booleans(), max_size=60),
    )
    def test_readers_get_exact_bytes(
        self, start: int, body: bytes, sizes: list[int], cut: int, breaks_at: int, steps: list[bool]
    ) -> None:
        """However the body is split, cut and interrupted by a failing disk, readers get its bytes in order."""
        self.setUp()
        self.cut = cut
        thread = ManualThread()
        fill = self.fill(start, start + len(body), thread)
        first = Reader(fill, start, start + len(body))
        second = Reader(fill, start + len(body) // 2, start + len(body))
        position = 0
        queue = iter(steps)
        while position < len(body):
            size = sizes[position % len(sizes)] if sizes else 7
            fill.data_received(body[position : position + size])
            position += size
            if len(self.writers) == breaks_at:
                self.writers[-1].broken = OSError(errno.EIO, "broken")
            if next(queue, True):
                self.clock.advance(LINGER)
                if thread.waiting:
                    thread.step()
            first.read()
        fill.stream_ended()
        thread.finish()
        self.assertEqual(first.read(), body)
        self.assertEqual(second.read(), body[len(body) // 2 :])
        self.assertEqual(len(self.settled), 1)
        first.leave()
        second.leave()
        self.assertTrue(all(writer.closed for writer in self.writers))
