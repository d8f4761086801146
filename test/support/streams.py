"""Sources, sinks and threads that a test drives by hand."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.util.streams import IByteSink, IByteSource

__all__ = ["ManualThread", "RecordingSink", "ScriptedSource", "run_at_once"]


@implementer(IByteSource)
class ScriptedSource:
    """A source whose bytes the test delivers.

    :ivar calls: start, pause, resume and abort in the order in which they came
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sink: Any = None
        self.paused = False

    def start(self, sink: IByteSink) -> None:
        """See :class:`IByteSource`."""
        self.calls.append("start")
        self.sink = sink

    def pause(self) -> None:
        """See :class:`IByteSource`."""
        self.calls.append("pause")
        self.paused = True

    def resume(self) -> None:
        """See :class:`IByteSource`."""
        self.calls.append("resume")
        self.paused = False

    def abort(self) -> None:
        """See :class:`IByteSource`."""
        self.calls.append("abort")

    @property
    def aborted(self) -> bool:
        """Whether nobody wanted the rest."""
        return "abort" in self.calls


@implementer(IByteSink)
class RecordingSink:
    """Keeps what it gets.

    :ivar ended: None while it is under way, then True or the failure
    """

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.ended: bool | Failure | None = None

    @property
    def data(self) -> bytes:
        """All bytes so far."""
        return b"".join(self.chunks)

    def data_received(self, data: bytes) -> None:
        """See :class:`IByteSink`."""
        self.chunks.append(data)

    def stream_ended(self) -> None:
        """See :class:`IByteSink`."""
        assert self.ended is None
        self.ended = True

    def stream_failed(self, reason: Failure) -> None:
        """See :class:`IByteSink`."""
        assert self.ended is None
        self.ended = reason


def run_at_once(function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
    """A thread pool without threads."""
    try:
        return succeed(function(*args))
    except Exception:
        return fail(Failure())


class ManualThread:
    """A thread that does one piece of work whenever the test says so."""

    def __init__(self) -> None:
        self._work: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        done: Deferred[Any] = Deferred()
        self._work.append((done, function, args))
        return done

    @property
    def waiting(self) -> int:
        """Pieces of work that have not been done."""
        return len(self._work)

    def step(self) -> None:
        """Do the oldest one."""
        done, function, args = self._work.pop(0)
        try:
            result = function(*args)
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)

    def finish(self) -> None:
        """Do all of them, and what they bring about."""
        while self._work:
            self.step()
