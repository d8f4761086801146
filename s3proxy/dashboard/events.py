"""Server-sent events: one message, written once, to every browser that listens.

A browser that does not read is not written to; it misses messages, each of which stands for itself, and is let go when
that lasts. (https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

import json
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

__all__ = ["Hub", "MOST_LISTENERS", "message"]

MOST_LISTENERS: Final = 50
PATIENCE: Final = 30.0
"""Seconds for which a browser may not read."""
_RETRY: Final = b"retry: 3000\n\n"


def message(event: str, data: object) -> bytes:
    """An event with a JSON document."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return f"event: {event}\ndata: {text}\n\n".encode("ascii")


@implementer(IPushProducer)
class _Listener:
    """One browser."""

    def __init__(self, request: Any, seconds: Callable[[], float]) -> None:
        self.request = request
        self.done: Deferred[bytes] = Deferred(lambda _: None)
        self._seconds = seconds
        self._paused_at: float | None = None

    @property
    def waited(self) -> float | None:
        """Seconds since it stopped reading; None while it reads."""
        return None if self._paused_at is None else self._seconds() - self._paused_at

    def pauseProducing(self) -> None:
        if self._paused_at is None:
            self._paused_at = self._seconds()

    def resumeProducing(self) -> None:
        self._paused_at = None

    def stopProducing(self) -> None:
        """The connection is lost; ``notifyFinish`` tells, too."""


class Hub:
    """All browsers that listen.

    :param seconds: a clock that is never set
    :ivar skipped: messages that browsers did not get because they were not reading
    """

    def __init__(self, seconds: Callable[[], float], most: int = MOST_LISTENERS) -> None:
        self._seconds = seconds
        self._most = most
        self._listeners: dict[_Listener, None] = {}
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._listeners)

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return len(self._listeners) >= self._most

    def open(self, request: Any, greeting: bytes) -> "Deferred[bytes]":
        """Begin to send events as the answer to this request; fires when no more are to come."""
        request.setHeader(b"Content-Type", b"text/event-stream")
        request.setHeader(b"Cache-Control", b"no-store")
        request.setHeader(b"X-Accel-Buffering", b"no")
        listener = _Listener(request, self._seconds)
        self._listeners[listener] = None
        request.notifyFinish().addBoth(lambda _: self._listeners.pop(listener, None))
        request.write(_RETRY + greeting)
        request.registerProducer(listener, True)
        return listener.done

    def send(self, data: bytes) -> None:
        """Write to all who read; let those go that have not for long."""
        for listener in tuple(self._listeners):
            waited = listener.waited
            if waited is None:
                listener.request.write(data)
                continue
            self.skipped += 1
            if waited > PATIENCE:
                del self._listeners[listener]
                listener.request.channel.transport.abortConnection()

    def close(self) -> None:
        """End all streams."""
        listeners, self._listeners = self._listeners, {}
        for listener in listeners:
            listener.request.unregisterProducer()
            listener.done.callback(b"")
