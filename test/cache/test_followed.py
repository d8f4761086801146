"""Reading what another process gets."""

from test.support.streams import ManualThread, run_at_once
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from s3proxy.cache.followed import ASK_AFTER, BUSY, ELSEWHERE, HERE, LOOSE, SILENCE, Followed
from s3proxy.cache.growing import FillBroken
from s3proxy.storage.diskio import DiskBusy
from s3proxy.storage.growth import Growth
from s3proxy.storage.handles import OpenFile, ReadHandle

SIZE = 10 * BUSY


class FakeFile(OpenFile):
    """Closes nothing."""

    def __init__(self) -> None:
        super().__init__(None, -1)  # type: ignore[arg-type]
        self.acquire()


class FakeGrowth(Growth):
    """Grows as the test says.

    :ivar size: bytes that the next look will find
    """

    def __init__(self, here: bool = True) -> None:
        super().__init__(None, 1, here, 0, SIZE)  # type: ignore[arg-type]
        self.size = 0
        self.touched = 0
        self.dead = False
        self.looks = 0
        self.is_open = False
        self.error: Exception | None = None
        self.dropped = 0

    def look(self) -> bool:
        self.looks += 1
        self.is_open = True
        if self.error is not None:
            raise self.error
        self.have = self.size
        return self._note((self.size, self.touched))

    def handle(self, position: int) -> ReadHandle | None:
        return ReadHandle(FakeFile(), 100, 0, SIZE) if self.is_open else None

    def stands(self) -> bool:
        return True

    def close(self) -> None:
        self.is_open = False
        self.have = 0

    def drop_read(self, slowest: int) -> None:
        self.dropped = slowest

    def is_abandoned(self) -> bool:
        return self.dead


class FollowedCase(SynchronousTestCase):
    """A body, and a reader of it."""

    here = True
    thread: Any = staticmethod(run_at_once)

    def setUp(self) -> None:
        self.clock = Clock()
        self.growth = FakeGrowth(self.here)
        self.over: list[Followed] = []
        version: Any = None
        self.body = Followed(self.clock, self.thread, self.growth, version, None, self.over.append)

    def pass_time(self, seconds: float, *, sign_every: float = 0.0) -> None:
        """In small steps."""
        steps = round(seconds / 0.005)
        for number in range(steps):
            if sign_every and number * 0.005 % sign_every < 0.005:
                self.growth.touched += 1
            self.clock.advance(0.005)

    def assert_failed(self, text: str) -> None:
        """Nothing more comes, for this reason."""
        assert self.body.failure is not None
        self.assertTrue(self.body.failure.check(FillBroken))
        self.assertIn(text, self.body.failure.getErrorMessage())
        self.assertTrue(self.body.ended and self.body.settled)
        self.assertFalse(self.body.joinable)
        self.assertEqual(self.over, [self.body])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class GrowingTests(FollowedCase):
    """While it grows."""

    def test_reader_waits(self) -> None:
        """A reader gets what is there at once, and the rest a few milliseconds after it was written."""
        self.growth.size = 1000
        self.body.attach("reader", 0)
        span = self.body.span(0, SIZE)
        assert span is not None
        self.assertEqual((span.count, span.offset, span.hot), (1000, 100, True))  # type: ignore[union-attr]
        self.assertIsNone(self.body.span(1000, SIZE))
        woken = self.body.wait()
        self.clock.advance(HERE[1])
        self.assertNoResult(woken)
        self.growth.size = 3000
        self.clock.advance(HERE[1])
        self.assertIsNone(self.successResultOf(woken))
        span = self.body.span(1000, 2500)
        self.assertEqual(None if span is None else span.count, 1500)
        self.growth.size = SIZE
        self.clock.advance(HERE[1])
        self.assertTrue(self.body.complete and self.body.ended)
        self.assertEqual(self.over, [self.body])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.growth.is_open, "the reader is not through with it")
        self.body.detach("reader")
        self.assertFalse(self.growth.is_open)

    def test_looks(self) -> None:
        """It is looked at often while much comes, less often while little does, and not at all without readers."""
        self.growth.size = BUSY
        self.body.attach("reader", 0)
        for _ in range(4):
            self.growth.size += BUSY
            self.clock.advance(HERE[0])
        self.assertEqual(self.growth.looks, 5)
        self.pass_time(1, sign_every=0.5)
        self.assertLess(self.growth.looks, 5 + 1 / HERE[1] + 10)
        self.body.detach("reader")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.growth.is_open)
        looks = self.growth.looks
        self.pass_time(10)
        self.body.attach("another", 0)
        self.assertEqual((self.growth.looks, self.body.have), (looks + 1, 5 * BUSY))
        self.assertIsNone(self.body.failure, "nobody looked for signs of life meanwhile")
        self.body.detach("another")

    def test_slowest(self) -> None:
        """Files are kept open for the reader who is farthest behind."""
        self.body.attach("slow", 0)
        self.body.attach("fast", 0)
        self.body.moved("fast", 5000)
        self.body.moved("slow", 100)
        self.clock.advance(HERE[1])
        self.assertEqual((self.growth.dropped, self.body.readers), (100, 2))
        for reader in ("slow", "fast"):
            self.body.detach(reader)

    def test_after_the_end(self) -> None:
        """Who comes when it is complete finds its files again, or learns that they are gone."""
        self.growth.size = SIZE
        self.body.attach("reader", 0)
        self.body.detach("reader")
        self.assertEqual(self.body.have, 0)
        self.body.attach("late", 0)
        self.assertTrue(self.body.complete)
        self.body.detach("late")
        self.growth.size, self.growth.over = 0, True
        self.body.attach("later", 0)
        self.assert_failed("given up")


class EndTests(FollowedCase):
    """When no more comes."""

    def setUp(self) -> None:
        super().setUp()
        self.growth.size = 1000
        self.body.attach("reader", 0)
        self.woken = self.body.wait()

    def test_given_up(self) -> None:
        """Its process says so."""
        self.growth.over = True
        self.pass_time(HERE[1])
        self.assert_failed("given up")
        self.successResultOf(self.woken)
        self.assertIsNotNone(self.body.span(0, SIZE), "what is there can be read")
        self.assertFalse(self.body.hung or self.body.died)

    def test_dead(self) -> None:
        """Its process has died: that shows at once, with all that it wrote."""
        self.pass_time(0.05)
        self.growth.dead = True
        self.growth.size = 2000
        self.pass_time(ASK_AFTER * 2)
        self.assertEqual(self.body.have, 2000)
        self.pass_time(ASK_AFTER * 2)
        self.assert_failed("died")
        self.assertTrue(self.body.died)

    def test_dead_when_all_is_there(self) -> None:
        """The last bytes were written just before: nothing is missing."""
        look = self.growth.look

        def last_words() -> bool:
            self.growth.size = SIZE
            return look()

        def is_abandoned() -> bool:
            self.growth.look = last_words  # type: ignore[method-assign]
            return True

        self.growth.is_abandoned = is_abandoned  # type: ignore[method-assign]
        self.pass_time(1)
        self.assertTrue(self.body.complete)
        self.assertIsNone(self.body.failure)

    def test_hung(self) -> None:
        """Neither more bytes nor a sign of life."""
        self.pass_time(SILENCE - 0.5)
        self.assertIsNone(self.body.failure)
        self.pass_time(1)
        self.assert_failed("no sign of life")
        self.assertTrue(self.body.hung)

    def test_slow(self) -> None:
        """S3 sends nothing for long, but its process lives."""
        self.pass_time(4 * SILENCE, sign_every=1.0)
        self.assertIsNone(self.body.failure)
        self.growth.size = 2000
        self.pass_time(HERE[1] * 2)
        self.assertEqual(self.body.have, 2000)
        self.body.detach("reader")

    def test_loose(self) -> None:
        """What it writes has no name any more: the end without another sign of life comes sooner."""
        self.growth.loose = True
        self.pass_time(2 * LOOSE, sign_every=1.0)
        self.assertIsNone(self.body.failure)
        self.pass_time(LOOSE + 0.5)
        self.assert_failed("no longer in the cache")

    def test_disk_fails(self) -> None:
        """An error may pass; one that stays is the end."""
        self.growth.error = OSError(5, "broken")
        self.pass_time(0.5)
        self.growth.error = None
        self.growth.size = 2000
        self.pass_time(HERE[1] * 2)
        self.assertEqual(self.body.have, 2000)
        self.growth.error = OSError(5, "broken")
        self.pass_time(SILENCE + 0.1)
        self.assert_failed("can't be read")


class ElsewhereTests(FollowedCase):
    """A process of another host."""

    here = False

    def setUp(self) -> None:
        self.thread = ManualThread()
        super().setUp()

    def test_in_threads(self) -> None:
        """A network file system is looked at in threads, and less often; nobody asks about processes of this host."""
        self.growth.dead = True
        self.growth.size = 1000
        self.body.attach("reader", 0)
        self.assertEqual((self.growth.looks, self.thread.waiting), (0, 1))
        self.thread.step()
        self.assertEqual(self.body.have, 1000)
        span = self.body.span(0, SIZE)
        self.assertFalse(span is None or span.hot)  # type: ignore[union-attr]
        self.clock.advance(ELSEWHERE[1])
        self.assertEqual(self.thread.waiting, 1)
        self.thread.step()
        for _ in range(20):
            self.clock.advance(ELSEWHERE[1])
            self.thread.finish()
        self.assertIsNone(self.body.failure)
        self.body.detach("reader")

    def test_leaves_meanwhile(self) -> None:
        """The last reader leaves while a thread looks: its files are closed afterwards."""
        self.body.attach("reader", 0)
        self.body.detach("reader")
        self.thread.step()
        self.assertFalse(self.growth.is_open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_thread(self) -> None:
        """The threads have too much to do: it is tried again."""
        self.growth.error = DiskBusy()
        self.body.attach("reader", 0)
        self.thread.finish()
        self.growth.error = None
        self.growth.size = 1000
        self.clock.advance(ELSEWHERE[1])
        self.thread.finish()
        self.assertEqual(self.body.have, 1000)
        self.body.detach("reader")
