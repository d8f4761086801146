"""The client's body on its way to S3."""

from test.support.streams import RecordingSink, ScriptedSource

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.gateway.bodies import CopyBudget, HoldBack


class Reader:
    """Gets the beginning of a body."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.data = b""

    def feed(self, data: bytes) -> None:
        """See :class:`IReader`."""
        assert data
        self.data += data


class HoldBackTests(SynchronousTestCase):
    """With something to be done before the end."""

    def setUp(self) -> None:
        self.source = ScriptedSource()
        self.sink = RecordingSink()
        self.ends = 0
        self.done: Deferred[None] = Deferred()

    def body(self, reader: Reader | None = None, start: bool = True) -> HoldBack:
        def before_end() -> "Deferred[None]":
            self.ends += 1
            return self.done

        body = HoldBack(self.source, before_end, reader=reader)
        if start:
            body.start(self.sink)
        return body

    def test_one_piece_behind(self) -> None:
        """Each piece is let through by the next one; the last one waits."""
        self.body()
        self.source.sink.data_received(b"a")
        self.assertEqual(self.sink.data, b"")
        self.source.sink.data_received(b"b")
        self.assertEqual(self.sink.data, b"a")
        self.source.sink.stream_ended()
        self.assertEqual((self.sink.data, self.sink.ended), (b"a", None))
        self.assertEqual(self.ends, 1)
        self.done.callback(None)
        self.assertEqual((self.sink.data, self.sink.ended), (b"ab", True))

    def test_empty_body(self) -> None:
        """A body without bytes has an end, too."""
        self.body()
        self.source.sink.stream_ended()
        self.assertIsNone(self.sink.ended)
        self.done.callback(None)
        self.assertEqual((self.sink.chunks, self.sink.ended), ([], True))

    def test_refusal(self) -> None:
        """When what must be done fails, S3 never gets the end."""
        self.body()
        self.source.sink.data_received(b"a")
        self.source.sink.stream_ended()
        self.done.errback(ValueError("no"))
        assert isinstance(self.sink.ended, Failure)
        self.assertTrue(self.sink.ended.check(ValueError))
        self.assertEqual(self.sink.data, b"")

    def test_broken_body(self) -> None:
        """A body that breaks off is not ended, and nothing is done."""
        self.body()
        self.source.sink.data_received(b"a")
        self.source.sink.stream_failed(Failure(ValueError("gone")))
        self.assertIsInstance(self.sink.ended, Failure)
        self.assertEqual((self.sink.data, self.ends), (b"", 0))
        self.source.sink.stream_ended()
        self.assertEqual(self.ends, 0)

    def test_abort_while_it_waits(self) -> None:
        """A body that nobody wants any more is not let through afterwards."""
        for late in (True, False):
            self.setUp()
            body = self.body()
            self.source.sink.data_received(b"a")
            self.source.sink.stream_ended()
            body.abort()
            if late:
                self.done.callback(None)
            else:
                self.done.errback(ValueError("no"))
            self.assertEqual((self.sink.chunks, self.sink.ended), ([], None))
            self.assertEqual(self.source.calls, ["start", "abort"])

    def test_nothing_after_abort(self) -> None:
        """What still comes goes nowhere."""
        body = self.body()
        body.abort()
        self.source.sink.data_received(b"a")
        self.source.sink.stream_ended()
        self.source.sink.stream_failed(Failure(ValueError("gone")))
        self.assertEqual((self.sink.chunks, self.sink.ended, body.received, self.ends), ([], None, 0, 0))

    def test_reader(self) -> None:
        """It gets as many bytes as it takes, whatever the pieces, and each of them as it comes."""
        reader = Reader(5)
        body = self.body(reader)
        for piece, read in ((b"abc", b"abc"), (b"def", b"abcde"), (b"ghi", b"abcde")):
            self.source.sink.data_received(piece)
            self.assertEqual(reader.data, read)
        self.source.sink.stream_ended()
        self.assertFalse(body.unread)

    def test_pace(self) -> None:
        """Back-pressure passes through."""
        body = self.body(start=False)
        self.assertEqual(self.source.calls, [])
        body.start(self.sink)
        body.pause()
        body.resume()
        self.assertEqual(self.source.calls, ["start", "pause", "resume"])

    def test_done_at_once(self) -> None:
        """Nothing has to take time."""
        self.done = succeed(None)
        self.body()
        self.source.sink.data_received(b"a")
        self.source.sink.stream_ended()
        self.assertEqual((self.sink.data, self.sink.ended), (b"a", True))
        self.setUp()
        self.done = fail(ValueError("no"))
        self.body()
        self.source.sink.stream_ended()
        self.assertIsInstance(self.sink.ended, Failure)


class CountingTests(SynchronousTestCase):
    """With nothing to be done."""

    def test_nothing_is_held(self) -> None:
        """Every piece goes through at once, and is counted."""
        source, sink = ScriptedSource(), RecordingSink()
        body = HoldBack(source, None)
        body.start(sink)
        source.sink.data_received(b"abc")
        self.assertEqual((sink.data, body.received), (b"abc", 3))
        source.sink.data_received(b"d")
        source.sink.stream_ended()
        self.assertEqual((sink.chunks, sink.ended, body.received), ([b"abc", b"d"], True, 4))

    def test_failure(self) -> None:
        """A failure goes through as well."""
        source, sink = ScriptedSource(), RecordingSink()
        HoldBack(source, None).start(sink)
        source.sink.stream_failed(Failure(ValueError("gone")))
        self.assertIsInstance(sink.ended, Failure)


class BudgetTests(SynchronousTestCase):
    """Many bodies that are read at once."""

    def setUp(self) -> None:
        self.budget = CopyBudget(10)

    def body(self, needed: bool) -> tuple[ScriptedSource, RecordingSink, HoldBack]:
        """A body of which up to eight bytes are read."""
        source, sink = ScriptedSource(), RecordingSink()
        body = HoldBack(source, lambda: succeed(None), reader=Reader(8), budget=self.budget, must_be_read=needed)
        body.start(sink)
        return source, sink, body

    def test_no_room(self) -> None:
        """Without room for what must be read the body fails, and nothing of the end reaches S3."""
        first, _, _ = self.body(True)
        first.sink.data_received(b"12345678")
        source, sink, body = self.body(True)
        source.sink.data_received(b"abc")
        assert isinstance(sink.ended, Failure) and body.refusal is not None
        self.assertEqual((body.refusal.code, sink.data, source.aborted), ("SlowDown", b"", True))

    def test_not_needed(self) -> None:
        """What need not be read passes unread."""
        first, _, _ = self.body(True)
        first.sink.data_received(b"12345678")
        source, sink, body = self.body(False)
        for piece in (b"ab", b"cd"):
            source.sink.data_received(piece)
        source.sink.stream_ended()
        self.assertEqual((sink.data, sink.ended, body.unread), (b"abcd", True, True))
        self.assertTrue(self.budget.take(2))

    def test_given_back(self) -> None:
        """However a body ends, the room that it took is free again."""
        for end in range(4):
            source, _, body = self.body(True)
            source.sink.data_received(b"12345678")
            if end == 0:
                source.sink.stream_ended()
            elif end == 1:
                source.sink.stream_failed(Failure(ValueError("no")))
            else:
                body.abort()
                body.abort()
        self.assertTrue(self.budget.take(10))
        self.assertFalse(self.budget.take(1))


class Beside:
    """A copy that falls behind when the test says so."""

    def __init__(self) -> None:
        self.waiting: Deferred[None] | None = None

    def data_received(self, data: bytes) -> None:
        """See :class:`IBeside`."""

    def ended(self) -> None:
        """See :class:`IBeside`."""

    def behind(self) -> "Deferred[None] | None":
        """See :class:`IBeside`."""
        return self.waiting


class WaitingTests(SynchronousTestCase):
    """A body that waits for its copy."""

    def test_both_have_a_say(self) -> None:
        """The client is paused while S3 or the copy wants it to be."""
        source, sink, beside = ScriptedSource(), RecordingSink(), Beside()
        body = HoldBack(source, None, beside=beside)
        body.start(sink)
        beside.waiting = Deferred()
        source.sink.data_received(b"a")
        source.sink.data_received(b"b")
        self.assertTrue(source.paused)
        body.pause()
        body.resume()
        self.assertTrue(source.paused)
        body.pause()
        waiting, beside.waiting = beside.waiting, None
        waiting.callback(None)
        self.assertTrue(source.paused)
        body.resume()
        self.assertFalse(source.paused)
        self.assertEqual(sink.data, b"ab")
