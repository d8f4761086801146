"""A body that another process is getting from S3, for readers of this one: they read it from the files it grows in."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.entry import ObjectVersion
from s3proxy.cache.growing import FillBroken, GrowingBody
from s3proxy.cache.spans import HOT, FileSpan, Span
from s3proxy.storage.growth import Growth
from s3proxy.util.intervals import Interval

__all__ = ["SILENCE", "Followed"]

SILENCE = 5.0
"""Seconds without more bytes and without a sign of life after which the process that gets them counts as dead."""
LOOSE = 2.5
"""The same when what it writes has lost its name: the object has been written meanwhile, or it has given up."""
ASK_AFTER = 0.1
"""Seconds without more bytes after which the system is asked whether that process still lives, and again."""
HERE = (0.005, 0.02)
"""Seconds between two looks while a process of this host writes: the least and the most."""
ELSEWHERE = (0.025, 0.1)
"""The same for one of another host."""
BUSY = 256 * 1024
"""With so many bytes between two looks, the next one comes as soon as may be."""


class Followed(GrowingBody):
    """Bytes ``[start, stop)`` of one version. To readers it is what a :class:`~s3proxy.cache.fill.Fill` is.

    It looks at the files as long as somebody reads, and holds none open otherwise.

    :param version: whose bytes they are
    :param brought_at: unix seconds at which S3 was asked for them; None: the entry that they belong to tells
    :param on_over: called once when no more is to be had from it: all is there, or its process has given up or died
    :ivar died: that process is dead
    :ivar hung: it may go on one day
    """

    log = Logger()
    settling = False

    def __init__(
        self,
        clock: IReactorTime,
        run: RunInThread,
        growth: Growth,
        version: ObjectVersion,
        brought_at: float | None,
        on_over: Callable[["Followed"], None],
    ) -> None:
        super().__init__(growth.start, growth.stop)
        self.growth = growth
        self.version = version
        self.brought_at = brought_at
        self.first = growth.start
        self.died = self.hung = False
        self._clock = clock
        self._run = run
        self._on_over = on_over
        self._least, self._most = HERE if growth.here else ELSEWHERE
        self._pause = self._least
        self._timer: IDelayedCall | None = None
        self._looking = False
        self._over = False
        self._lived_at = self._asked_at = clock.seconds()

    @property
    def ended(self) -> bool:
        """No more of it will come."""
        return self.complete or self.failure is not None

    @property
    def joinable(self) -> bool:
        """Whether it is worth while to read from it."""
        return self.failure is None

    @property
    def settled(self) -> bool:
        """It is over, and there is nothing to be read from it."""
        return self.failure is not None

    @property
    def published(self) -> tuple[Interval, ...]:
        """Those of its bytes that are known to be in the cache."""
        return tuple(self.growth.published)

    def attach(self, reader: object, position: int) -> None:
        """See :meth:`GrowingBody.attach`."""
        super().attach(reader, position)
        if len(self._readers) == 1:
            self._lived_at = self._asked_at = self._clock.seconds()
        if self._timer is None and not self._looking and not self.ended:
            self._look()

    def detach(self, reader: object) -> None:
        """The reader leaves. After the last one nothing is open."""
        self._readers.pop(reader, None)
        if not self._readers:
            self.close()

    def close(self) -> None:
        """Look no more, until somebody reads."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._looking:
            self.growth.close()
            self.have = self.growth.have

    def span(self, position: int, stop: int) -> Span | None:
        """What can be sent now from ``position`` on, at most up to ``stop``; None if nothing is there."""
        stop = min(self.have, stop)
        if position >= stop:
            return None
        handle = self.growth.handle(position)
        if handle is None:
            return None
        hot = self.growth.here and position >= self.have - HOT
        count = min(stop, handle.stop) - position
        return FileSpan(handle.fd, handle.base + position - handle.start, count, hot, handle.close)

    def give_up(self, reason: str) -> None:
        """Nothing more is expected of it."""
        if not self.ended:
            self._fail(reason)

    # Looking.

    def _look(self) -> None:
        self._timer = None
        if not self._readers:
            return
        self._looking = True
        if self.growth.here:
            try:
                lived = self.growth.look()
            except OSError as error:
                self._failed(Failure(error))
            else:
                self._looked(lived)
        else:
            self._run(self.growth.look).addCallbacks(self._looked, self._failed).addErrback(
                lambda reason: self.log.failure("following a body", reason)
            )

    def _looked(self, lived: bool) -> None:
        self._looking = False
        growth, now = self.growth, self._clock.seconds()
        if not self._readers:
            self.close()
            return
        grown = growth.have - self.have
        self.have = growth.have
        if lived or grown > 0:
            self._lived_at = now
        if grown > 0:
            self._asked_at = now
        self._pause = self._least if grown >= BUSY else min(self._most, 1.5 * self._pause)
        if self.complete:
            self._end()
        elif growth.over:
            self._fail("the process that fetched it has given up")
        elif growth.loose and now - self._lived_at >= LOOSE:
            self._fail("what was fetched is no longer in the cache")
        elif now - self._lived_at >= SILENCE:
            self.hung = True
            self._fail("the process that fetched it gives no sign of life")
        elif growth.here and now - self._asked_at >= ASK_AFTER and self._is_abandoned(now):
            self.died = True
            self._fail("the process that fetched it has died")
        else:
            self._timer = self._clock.callLater(self._pause, self._look)
        growth.drop_read(min(self._readers.values(), default=self.have))
        if grown > 0:
            self._progress.wake()

    def _is_abandoned(self, now: float) -> bool:
        self._asked_at = now
        try:
            if not self.growth.is_abandoned():
                return False
            # What it wrote last.
            self.growth.look()
        except OSError:
            return True
        self.have = self.growth.have
        return not self.complete

    def _failed(self, reason: Failure) -> None:
        self._looking = False
        if reason.check(OSError) and self._clock.seconds() - self._lived_at < SILENCE and self._readers:
            # Or there was no thread to be had.
            self._timer = self._clock.callLater(self._most, self._look)
        elif not self.ended:
            self._fail(f"the cache directory can't be read: {reason.getErrorMessage()}")

    def _fail(self, reason: str) -> None:
        self.failure = Failure(FillBroken(reason))
        self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._over:
            self._over = True
            self._on_over(self)
        self._progress.wake()
