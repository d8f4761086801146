"""A copy of an upload's body on its way to the disk, beside the body's way to S3.

The copy never fails the upload, and holds it up for a moment at most: what the disk has not taken waits here, the body
waits for ``MOST_HELD_UP`` seconds in all, and when that is not enough, or the disk or the encoding fails, the copy is
given up and the upload goes on alone.

Largest buffer: ``MOST_BEHIND`` bytes plus what one read of the client's connection brings, and ``MOST_TOGETHER`` bytes
of all copies.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from s3proxy.cache.background import RunInThread
from s3proxy.cache.bodywriter import BATCH
from s3proxy.s3.aws_chunked import AwsChunkedDecoder, AwsChunkedError
from s3proxy.s3.checksums import Checksum, new_checksum
from s3proxy.storage.diskio import DiskBusy
from s3proxy.util.bodymemory import BodyMemory
from s3proxy.util.deferreds import SharedResult

__all__ = [
    "FAR_BEHIND",
    "MOST_BEHIND",
    "MOST_HELD_UP",
    "MOST_TOGETHER",
    "PATIENCE",
    "Backlog",
    "BodyCopy",
    "CopiedBody",
    "IKept",
]

FAR_BEHIND = 8 * 1024 * 1024
"""Bytes that may wait for the disk before the body is held up."""
MOST_HELD_UP = 2.0
"""Seconds that one body is held up in all."""
MOST_BEHIND = 16 * 1024 * 1024
"""Bytes that may wait for the disk before the copy is given up."""
MOST_TOGETHER = 128 * 1024 * 1024
"""The same for all copies together. From half of it on each of them writes smaller batches, and waits earlier."""
SHARE = 4
"""A body is taken in no fewer batches than this, so that not all of it is left to do when S3 has answered."""
SMALL_BATCH = 128 * 1024
"""Bytes that are worth a thread's time."""
PATIENCE = 5.0
"""Seconds that S3's answer waits for the rest of the copy."""


class IKept(Protocol):
    """Where the copy goes; see :mod:`s3proxy.storage.upload`."""

    def append(self, chunks: Sequence[bytes]) -> None:
        """Take these bytes behind the last ones, or raise OSError."""

    def discard(self) -> None:
        """Give it up."""


class Backlog:
    """What all copies together have not written yet.

    :param memory: where it is accounted together with all other bodies
    :ivar bytes: so many
    """

    def __init__(self, size: int = MOST_TOGETHER, memory: BodyMemory | None = None) -> None:
        self._memory = BodyMemory() if memory is None else memory
        self._size = min(size, self._memory.limit or size)
        self.bytes = 0

    def add(self, size: int) -> None:
        """So many more."""
        self.bytes += size
        self._memory.hold(size)

    def remove(self, size: int) -> None:
        """So many fewer."""
        self.bytes -= size
        self._memory.let_go(size)

    @property
    def crowded(self) -> bool:
        """Whether each copy should be content with less."""
        return self.bytes > self._size // 2 or self._memory.full

    @property
    def full(self) -> bool:
        """Whether a copy that needs more must be given up."""
        return self.bytes > self._size


class CopiedBody:
    """A complete copy.

    :ivar kept: where it is
    :ivar digests: its checksums, by name
    :ivar trailers: the fields that came behind an aws-chunked body
    """

    def __init__(self, kept: Any, digests: dict[bytes, bytes], trailers: list[tuple[bytes, bytes]]) -> None:
        self.kept = kept
        self.digests = digests
        self.trailers = trailers


class BodyCopy:
    """One copy.

    :param size: of the decoded body, in bytes
    :param chunked: the body is aws-chunked
    :param checksums: names of those to compute
    :param here: the copy is small and stays in memory: no thread is needed for it
    :param start: makes the place where it goes; None: there is no room. Called in a thread, unless it is ``here``
    :param failed: told of an error of the disk
    :param backlog: of all copies
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        run: RunInThread,
        *,
        size: int,
        chunked: bool,
        checksums: Iterable[bytes],
        here: bool,
        start: Callable[[], IKept | None],
        failed: Callable[[BaseException], None],
        backlog: Backlog | None = None,
    ) -> None:
        self._clock = clock
        self._run = run
        self._size = size
        self._batch = min(BATCH, max(SMALL_BATCH, size // SHARE))
        self._decoder = AwsChunkedDecoder() if chunked else None
        self._checksums: dict[bytes, Checksum] = {name: new_checksum(name) for name in dict.fromkeys(checksums)}
        self._here = here
        self._start = start
        self._report = failed
        self._kept: IKept | None = None
        self._started = False
        self._received = 0
        self._queue: list[bytes] = []
        self._queued = 0
        self._writing = 0
        self._backlog = Backlog() if backlog is None else backlog
        self._held_up = 0.0
        self._held_since = 0.0
        self._held_limit: IDelayedCall | None = None
        self._caught_up: Deferred[None] | None = None
        self._busy = False
        self._ended = False
        self._over = False
        self._body: CopiedBody | None = None
        self._done: SharedResult[None] = SharedResult()

    def data_received(self, data: bytes) -> None:
        """A piece of the body as it is on the wire."""
        if self._over or self._ended:
            return
        try:
            pieces = [data] if self._decoder is None else self._decoder.feed(data)
        except AwsChunkedError as error:
            self._give_up("its encoding is not understood: {reason}", str(error))
            return
        size = sum(map(len, pieces))
        self._received += size
        if self._received > self._size:
            self._give_up("it is longer than announced")
            return
        self._queue += pieces
        self._queued += size
        self._backlog.add(size)
        batch = SMALL_BATCH if self._backlog.crowded else self._batch
        if self._queued + self._writing > MOST_BEHIND or self._backlog.full:
            self._give_up("the disk is too slow for it")
        elif self._here or self._queued >= batch:
            self._advance()

    def behind(self) -> "Deferred[None] | None":
        """Fires when the body need not wait for the copy any more; None: it need not wait now."""
        if self._caught_up is None and not self._over and self._is_far_behind:
            left = MOST_HELD_UP - self._held_up
            if left > 0:
                self._caught_up = Deferred()
                self._held_since = self._clock.seconds()
                self._held_limit = self._clock.callLater(left, self._catch_up)
        return self._caught_up

    @property
    def _is_far_behind(self) -> bool:
        return self._queued + self._writing > (SHARE * SMALL_BATCH if self._backlog.crowded else FAR_BEHIND)

    def _catch_up(self) -> None:
        waiting, self._caught_up = self._caught_up, None
        if waiting is None:
            return
        self._held_up += self._clock.seconds() - self._held_since
        if self._held_limit is not None and self._held_limit.active():
            self._held_limit.cancel()
        waiting.callback(None)

    def ended(self) -> None:
        """The body is complete."""
        if self._over or self._ended:
            return
        self._ended = True
        try:
            if self._decoder is not None:
                self._decoder.finish()
        except AwsChunkedError as error:
            self._give_up("its encoding is not understood: {reason}", str(error))
            return
        if self._received != self._size:
            self._give_up("it is shorter than announced")
            return
        self._advance()

    async def copied(self) -> CopiedBody | None:
        """The complete copy, which is the caller's to publish or discard from now on; None: there is none. Takes at
        most ``PATIENCE`` seconds.
        """
        if not self._ended:
            self.abandon()
        late: IDelayedCall = self._clock.callLater(PATIENCE, self._give_up, "the disk is too slow for it")
        try:
            await self._done.wait()
        finally:
            if late.active():
                late.cancel()
        body, self._body = self._body, None
        if body is not None:
            self._kept = None
        return body

    def abandon(self) -> None:
        """Nobody needs it. Idempotent; does nothing to a copy that was handed over."""
        self._body = None
        if not self._over:
            self._end()
        if not self._busy:
            self._discard()

    # Writing.

    def _advance(self) -> None:
        if self._busy or self._over:
            return
        if not self._queue and not (self._ended and not self._started):
            if self._ended:
                self._complete()
            return
        chunks, self._queue = self._queue, []
        self._writing, self._queued = self._queued, 0
        if self._here:
            try:
                taken = self._take(chunks)
            except Exception as error:
                self._failed(Failure(error))
            else:
                self._took(taken)
            return
        self._busy = True
        self._run(self._take, chunks).addCallbacks(self._took, self._failed).addErrback(
            lambda reason: self.log.failure("copying an upload into the cache", reason)
        )

    def _take(self, chunks: list[bytes]) -> bool:
        """In a thread, unless it is ``here``: never in two at once."""
        if not self._started:
            self._started = True
            self._kept = self._start()
        if self._kept is None:
            return False
        for checksum in self._checksums.values():
            for chunk in chunks:
                checksum.update(chunk)
        if chunks:
            self._kept.append(chunks)
        return True

    def _written(self) -> None:
        self._busy = False
        self._backlog.remove(self._writing)
        self._writing = 0

    def _took(self, taken: bool) -> None:
        self._written()
        if not self._is_far_behind:
            self._catch_up()
        if self._over:
            self._discard()
        elif not taken:
            self._give_up("there is no room for it")
        else:
            self._advance()

    def _failed(self, reason: Failure) -> None:
        self._written()
        self._report(reason.value)
        self.abandon()

    # The end.

    def _complete(self) -> None:
        digests = {name: checksum.digest() for name, checksum in self._checksums.items()}
        trailers = [] if self._decoder is None else self._decoder.trailers
        self._body = CopiedBody(self._kept, digests, trailers)
        self._end()

    def _give_up(self, why: str, reason: str = "") -> None:
        if not self._over:
            self.log.debug("an upload is not kept: " + why, reason=reason)
        self.abandon()

    def _end(self) -> None:
        self._over = True
        self._queue.clear()
        self._backlog.remove(self._queued)
        self._queued = 0
        self._catch_up()
        self._done.fire(None)

    def _discard(self) -> None:
        """The disk may take a moment: in a thread, but for what is in memory."""
        kept, self._kept = self._kept, None
        if kept is None:
            return

        def busy(reason: Failure) -> None:
            # No thread has the time. What is not discarded would stay, so rather here.
            reason.trap(DiskBusy)
            kept.discard()

        def failed(reason: Failure) -> None:
            self._report(reason.value)

        discarded = execute(kept.discard) if self._here else self._run(kept.discard)
        discarded.addErrback(busy).addErrback(failed)
