"""May a failed request be sent again, and when (pure)."""

import enum

import attrs

__all__ = ["Stage", "Tries", "next_delay"]

#: Attempts in all for failures to connect and, when the request may be repeated, for lost connections.
MAX_ATTEMPTS = 3
#: Seconds before the second attempt; each further wait is twice as long.
FIRST_DELAY = 0.1


class Stage(enum.Enum):
    """How far an attempt had come when it failed."""

    CONNECTING = "connecting"
    STALE = "a kept connection was closed by the peer before any byte of an answer"
    BODY_HELD = "lost while the peer's 100 Continue was awaited; no byte of the body was sent"
    UNANSWERED = "sent, and lost before any byte of an answer"
    SILENT = "sent, and no answer in time"
    ANSWERING = "a part of the answer had come"
    FORBIDDEN = "a bad certificate, a loop, a request that can't be sent in full: nothing that another attempt changes"


@attrs.frozen
class Tries:
    """Attempts that have failed, by kind. Stale connections do not use up attempts: they say nothing about the peer."""

    attempts: int = 0
    silent: int = 0
    stale: int = 0

    def plus(self, stage: Stage) -> "Tries":
        """With one more failure."""
        if stage is Stage.STALE:
            return attrs.evolve(self, stale=self.stale + 1)
        silent = self.silent + (stage is Stage.SILENT)
        return attrs.evolve(self, attempts=self.attempts + 1, silent=silent)


def next_delay(stage: Stage, repeatable: bool, tries: Tries, idle_retries: int) -> float | None:
    """Seconds to wait before the next attempt, or None when the failure is final.

    :param stage: of the last failure
    :param tries: all failures, the last one included
    :param idle_retries: how often a silent peer may be replaced by another (``upstream_idle_retries``)
    """
    if stage in (Stage.ANSWERING, Stage.FORBIDDEN):
        return None
    if stage is Stage.STALE and repeatable:
        # The next attempt opens a connection, so this happens once per request.
        return 0.0 if tries.stale == 1 else None
    if stage in (Stage.STALE, Stage.UNANSWERED, Stage.SILENT) and not repeatable:
        return None
    if stage is Stage.SILENT:
        return 0.0 if tries.silent <= idle_retries else None
    if tries.attempts >= MAX_ATTEMPTS:
        return None
    return FIRST_DELAY * (1 << (tries.attempts - 1))
