"""Which of a sample of stored things should go first. Pure."""

import heapq
from collections.abc import Callable, Sequence

import attrs

from s3proxy.storage.layout import EntryName

__all__ = ["SCORES", "Candidate", "Score", "choose_victims", "lru", "tinylfu"]

_NEVER_REUSED = 8.0


@attrs.frozen(kw_only=True)
class Candidate:
    """Something that can be evicted by itself: a whole entry, or one range of one.

    ``generation`` is None for an entry. ``last_use`` is in seconds; ``reused`` says whether it was used again since it
    was stored;
    ``frequency`` how often of late, 0 to 15; ``siblings`` how many ranges are beside it; ``unread``: written through,
    and not read by anybody yet.
    """

    name: EntryName
    generation: int | None
    start: int
    stop: int
    path: str
    size: int
    inode: int
    last_use: float
    reused: bool
    frequency: int
    siblings: int = 0
    unread: bool = False


Score = Callable[[Candidate, float], float]


def lru(candidate: Candidate, now: float) -> float:
    """The longer unused, the sooner it goes."""
    return now - candidate.last_use


def tinylfu(candidate: Candidate, now: float) -> float:
    """Like :func:`lru`, but what was never used again goes as if it had been unused eight times as long, and what is
    used often stays.
    """
    age = now - candidate.last_use
    if not candidate.reused and candidate.frequency == 0:
        return age * _NEVER_REUSED
    return age / max(1, candidate.frequency) ** 2


SCORES: dict[str, Score] = {"lru": lru, "tinylfu": tinylfu}


def choose_victims(candidates: Sequence[Candidate], now: float, score: Score, share: float = 0.125) -> list[Candidate]:
    """The worst share of a sample (at least one), the worst first."""
    if not candidates:
        return []
    count = max(1, int(len(candidates) * share))
    return heapq.nlargest(count, candidates, key=lambda candidate: score(candidate, now))
