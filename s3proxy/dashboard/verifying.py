"""Reading what is cached again, object by object, to see whether it is what S3 has."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from s3proxy.cache.entry import ObjectId
from s3proxy.cache.examine import Examination, Finding, Verdict
from s3proxy.dashboard.browse import name_of, reference
from s3proxy.storage.volume import Volume

__all__ = ["Tally", "Verification"]

AT_ONCE: Final = 4
"""Objects that are read at the same time; each has a thread for one step, then others get their turn."""
_BAD: Final = (Verdict.CORRUPT, Verdict.DOUBTFUL, Verdict.UNREADABLE)
_REPAIRED: Final = (Verdict.CORRUPT, Verdict.DOUBTFUL)


@attrs.define
class Tally:
    """What has come out so far.

    :ivar read: bytes
    :ivar compared: objects of which every byte, or a whole part, was compared with what S3 says
    """

    objects: int = 0
    read: int = 0
    sound: int = 0
    compared: int = 0
    doubtful: int = 0
    corrupt: int = 0
    unreadable: int = 0
    gone: int = 0
    removed: int = 0

    @property
    def bad(self) -> int:
        """Objects that are not sound."""
        return self.corrupt + self.doubtful + self.unreadable

    def add(self, finding: Finding) -> None:
        """One object more."""
        self.objects += 1
        self.read += finding.read
        self.compared += bool(finding.compared)
        name = finding.verdict.value
        setattr(self, name, getattr(self, name) + 1)


class Verification:
    """Of many objects.

    :param run: calls a function in a thread for disk work
    :param remove: takes an object out of the cache; None: nothing is removed
    :param found: told of every object that is not sound
    :param told: called after every step
    """

    log = Logger()

    def __init__(
        self,
        volume: Volume,
        run: Callable[..., "Deferred[Any]"],
        remove: Callable[[ObjectId], Awaitable[object]] | None,
        found: Callable[[dict[str, Any]], None],
        told: Callable[[Tally], None],
    ) -> None:
        self._volume = volume
        self._run = run
        self._remove = remove
        self._found = found
        self._told = told
        self.tally = Tally()

    async def check(self, ids: Iterable[ObjectId]) -> None:
        """Read these objects."""
        waiting = iter(tuple(ids))

        async def work() -> None:
            for id in waiting:
                await self._object(id)

        await gatherResults([Deferred.fromCoroutine(work()) for _ in range(AT_ONCE)], consumeErrors=True)

    async def _object(self, id: ObjectId) -> None:
        examination = Examination(self._volume, id)
        try:
            finding = None
            while finding is None:
                finding = await self._run(examination.step)
                self._told(self.tally)
        finally:
            self._run(examination.close).addErrback(lambda reason: self.log.failure("closing an entry", reason))
        self.tally.add(finding)
        if finding.verdict in _BAD:
            removed = False
            if self._remove is not None and finding.verdict in _REPAIRED:
                await self._remove(id)
                self.tally.removed += 1
                removed = True
            self._note(finding, removed)
        self._told(self.tally)

    def _note(self, finding: Finding, removed: bool) -> None:
        self.log.warn(
            "{name} is {verdict} in the cache: {reason}{removed}",
            name=name_of(finding.id),
            verdict=finding.verdict.value,
            reason=finding.reason,
            removed="; it is removed" if removed else "",
        )
        self._found(
            {
                "name": name_of(finding.id),
                "store": finding.id.store,
                "ref": reference(finding.id),
                "verdict": finding.verdict.value,
                "reason": finding.reason,
                "removed": removed,
            }
        )
