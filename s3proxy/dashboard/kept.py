"""Answers that are given again for a moment: many browsers that ask for the same cost what one does."""

from collections.abc import Callable
from typing import Final

import attrs

__all__ = ["Kept", "KeptAnswers"]

MOST: Final = 128
MOST_BYTES: Final = 4 * 1024 * 1024


@attrs.frozen
class Kept:
    """An answer, and when it is no longer given."""

    until: float
    body: bytes
    content_type: bytes


class KeptAnswers:
    """By what was asked for; only so many, and so large together.

    :param seconds: a clock that is never set
    :ivar size: bytes of all bodies
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._answers: dict[bytes, Kept] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, question: bytes) -> Kept | None:
        """The answer, if it may still be given."""
        found = self._answers.get(question)
        return found if found is not None and self._seconds() < found.until else None

    def put(self, question: bytes, seconds: float, body: bytes, content_type: bytes) -> None:
        """Give this answer again for so many seconds, unless there is no room for it."""
        self._remove(question)
        if self._is_full(body):
            now = self._seconds()
            for each in [each for each, kept in self._answers.items() if kept.until <= now]:
                self._remove(each)
        if not self._is_full(body):
            self._answers[question] = Kept(self._seconds() + seconds, body, content_type)
            self.size += len(body)

    def clear(self) -> None:
        """Everything may have changed."""
        self._answers.clear()
        self.size = 0

    def _is_full(self, body: bytes) -> bool:
        return len(self._answers) >= MOST or self.size + len(body) > MOST_BYTES

    def _remove(self, question: bytes) -> None:
        kept = self._answers.pop(question, None)
        if kept is not None:
            self.size -= len(kept.body)
