"""Keeps what is said over and over from filling a log: an outage says the same of every request.

Events are the same when level, namespace and format are, whatever the values in them. The first ones of a minute are
written, the rest is counted; one more event, when the minute is over, tells how many were left out.
"""

from collections.abc import Iterator
from typing import Final

from twisted.logger import LogEvent, LogLevel

__all__ = ["PER_MINUTE", "Repetitions"]

PER_MINUTE: Final = 20
"""Events of one kind that are written within a minute."""

_SECONDS: Final = 60.0
_MOST_KINDS: Final = 1000
_LEVELS: Final = (LogLevel.warn, LogLevel.error, LogLevel.critical)
"""What is less grave tells of changes, each of which counts, or was asked for by whoever looks for a fault."""


class _Window:
    """The present minute of one kind of events."""

    def __init__(self, event: LogEvent, began: float) -> None:
        self.event = event
        self.began = began
        self.seen = 0


class Repetitions:
    """Not safe for several threads; events come in the order of their times, more or less."""

    def __init__(self) -> None:
        self._windows: dict[tuple[object, ...], _Window] = {}
        self._next = 0.0

    def admit(self, event: LogEvent, at: float) -> bool:
        """Whether this event is to be written.

        :param at: Unix time of the event
        """
        level = event.get("log_level")
        if level not in _LEVELS:
            return True
        text = event.get("log_format")
        kind = (level, event.get("log_namespace"), event.get("log_text") if text == "{log_text}" else text)
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= _MOST_KINDS:
                return True
            window = self._windows[kind] = _Window(event, at)
            self._next = min(self._next, at + _SECONDS) if len(self._windows) > 1 else at + _SECONDS
        window.seen += 1
        return window.seen <= PER_MINUTE

    def over(self, at: float) -> Iterator[LogEvent]:
        """Forget the minutes that are over; for each in which something was left out, an event that tells so."""
        if not self._windows or at < self._next:
            return
        for kind, window in list(self._windows.items()):
            if at >= window.began + _SECONDS:
                del self._windows[kind]
                if window.seen > PER_MINUTE:
                    yield _summary(window, at)
        self._next = min((window.began for window in self._windows.values()), default=at) + _SECONDS


def _summary(window: _Window, at: float) -> LogEvent:
    event = window.event
    return {
        "log_time": at,
        "log_level": event.get("log_level"),
        "log_namespace": event.get("log_namespace"),
        "log_format": "{times} more within a minute like: {like}",
        "times": window.seen - PER_MINUTE,
        "like": event.get("log_text") or event.get("log_format"),
    }
