"""The replacement of all workers, ordered by somebody who wants to see how far it is."""

from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall

from s3proxy.admin.answers import Refused
from s3proxy.admin.api import Tell
from s3proxy.cluster.workers import Rolling, WorkerFailed

__all__ = ["ICrew", "roll_workers"]

TELL: Final = 0.5
"""Seconds between two lines of progress: whoever waits must not think that nobody is there."""


class ICrew(Protocol):
    """The workers. A :class:`~s3proxy.services.crew.Crew` is one."""

    @property
    def size(self) -> int:
        """How many there should be."""

    def roll(self, rolling: Rolling) -> "Deferred[None]":
        """Replace all of them; cancel it to replace no more of them."""

    def leaving(self) -> int:
        """How many let their last requests end."""


async def roll_workers(clock: Any, crew: ICrew, limit: float, tell: Tell) -> dict[str, Any]:
    """Replace all workers, and say how far that is.

    :param limit: seconds that it may take
    :return: which workers are new
    :raises Refused: not all of them are, and why
    """
    rolling = Rolling(crew.size)
    began = clock.seconds()
    late: list[bool] = []
    replacing = crew.roll(rolling)

    def too_late() -> None:
        late.append(True)
        replacing.cancel()

    telling = LoopingCall(lambda: tell("progress", _progress(rolling)))
    telling.clock = clock
    telling.start(TELL, now=False).addErrback(lambda _: None)
    limited = clock.callLater(limit, too_late)
    try:
        await replacing
    except WorkerFailed as error:
        text = f"Not all workers are replaced: {error}. {_so_far(rolling)} The application log says more."
        raise Refused(409, text) from None
    except CancelledError:
        if not late:
            raise
        text = f"Not all workers are replaced after {limit:g} s. {_so_far(rolling)}"
        text += " A successor that is starting still takes its place."
        raise Refused(504, text) from None
    finally:
        if telling.running:
            telling.stop()
        if limited.active():
            limited.cancel()
    return {
        **_progress(rolling),
        "skipped": rolling.skipped,
        "leaving": crew.leaving(),
        "seconds": round(max(0.0, clock.seconds() - began), 3),
    }


def _progress(rolling: Rolling) -> dict[str, Any]:
    return {
        "what": "replacing",
        "done": len(rolling.replaced) + len(rolling.skipped),
        "total": rolling.total,
        "worker": rolling.current or None,
        "workers": [
            {"number": each.number, "before": each.before, "pid": each.pid, "seconds": round(each.seconds, 3)}
            for each in rolling.replaced
        ],
    }


def _so_far(rolling: Rolling) -> str:
    new = [str(each.number) for each in rolling.replaced]
    old = [
        str(number)
        for number in range(1, rolling.total + 1)
        if str(number) not in new and number not in rolling.skipped
    ]
    return f"New: {', '.join(new) or 'none'}; as before: {', '.join(old) or 'none'}."
