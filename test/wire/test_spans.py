"""Pieces of files for transports that can't have the kernel send them."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.gateway.interfaces import ClientGone
from s3proxy.wire.pages import PageCache
from s3proxy.wire.spans import BLOCK, send_span
from s3proxy.wire.transport import FileTruncated

DATA = os.urandom(BLOCK * 3 + 100)


class Threads:
    """Reads that end when the test says so."""

    def __init__(self) -> None:
        self.pending: list[tuple["Deferred[object]", object, tuple[object, ...]]] = []
        self.cache = PageCache(self.run, lambda *window: False)

    def run(self, call: object, *arguments: object) -> "Deferred[object]":
        done: Deferred[object] = Deferred()
        self.pending.append((done, call, arguments))
        return done

    def work(self) -> None:
        done, call, arguments = self.pending.pop(0)
        done.callback(call(*arguments))


class SendSpanTests(SynchronousTestCase):
    """send_span()"""

    def setUp(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(DATA)
        self.fd = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)
        self.written: list[bytes] = []
        self.rooms: list[Deferred[None]] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def write_and_wait(self, data: bytes) -> "Deferred[None]":
        self.written.append(data)
        self.rooms.append(Deferred())
        return self.rooms[-1]

    @settings(deadline=None, max_examples=30, derandomize=True)
    @given(st.integers(0, len(DATA)), st.integers(0, len(DATA)))
    def test_bytes(self, one: int, other: int) -> None:
        """Exactly the bytes asked for, in blocks."""
        start, stop = sorted((one, other))
        self.written = []
        self.successResultOf(send_span(self.write, self.fd, start, stop - start, None))
        self.assertEqual(b"".join(self.written), DATA[start:stop])
        self.assertTrue(all(0 < len(block) <= BLOCK for block in self.written))

    def test_at_most_two_blocks(self) -> None:
        """One block is read ahead while another waits for room, and no more."""
        threads = Threads()
        sent = send_span(self.write_and_wait, self.fd, 0, len(DATA), threads.cache)
        threads.work()
        self.assertEqual((len(self.written), len(threads.pending)), (1, 1))
        threads.work()
        self.assertEqual((len(self.written), len(threads.pending)), (1, 0))
        for _ in range(2):
            self.rooms[-1].callback(None)
            threads.work()
        self.rooms[-1].callback(None)
        self.assertNoResult(sent)
        self.rooms[-1].callback(None)
        self.successResultOf(sent)
        self.assertEqual(b"".join(self.written), DATA)

    def test_receiver_goes(self) -> None:
        """A receiver that goes ends it, but not before the thread has returned: it uses the descriptor."""
        threads = Threads()
        sent = send_span(self.write_and_wait, self.fd, 0, len(DATA), threads.cache)
        threads.work()
        self.rooms[0].errback(ClientGone("gone"))
        self.assertNoResult(sent)
        threads.work()
        self.failureResultOf(sent, ClientGone)

    def test_receiver_is_gone(self) -> None:
        """A receiver that was gone before is noticed at the first block."""
        sent = send_span(lambda data: fail(ClientGone("gone")), self.fd, 0, len(DATA), None)
        self.failureResultOf(sent, ClientGone)

    def test_short_file(self) -> None:
        """A file that ends too early is an error."""
        sent = send_span(self.write, self.fd, 100, len(DATA), None)
        self.failureResultOf(sent, FileTruncated)
        self.assertEqual(b"".join(self.written), DATA[100:])

    def test_read_error(self) -> None:
        """So is one that can't be read."""
        self.failureResultOf(send_span(self.write, 1 << 20, 0, 10, None), OSError)
        threads = Threads()
        sent = send_span(self.write, self.fd, 0, 10, threads.cache)
        threads.pending[0][0].errback(OSError(5, "Input/output error"))
        self.failureResultOf(sent, OSError)
