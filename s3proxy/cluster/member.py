"""The worker's end of the channel to its supervisor."""

import json
import socket
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from s3proxy.cluster.channel import Channel
from s3proxy.cluster.commands import (
    Drain,
    Farewell,
    GiveBack,
    Leaving,
    Lines,
    Ready,
    Reload,
    Reopen,
    Report,
    TakeOver,
    Uses,
)
from s3proxy.cluster.handover import CHANNEL

__all__ = ["IMember", "Membership", "join"]


class IMember(Protocol):
    """What a worker does for its supervisor."""

    def report(self, wanted: str) -> dict[str, Any]:
        """What is known of these things, as a value for JSON."""

    def take_over(self, slot: int) -> None:
        """Accept what arrives for this slot, too."""

    def give_back(self, slot: int) -> None:
        """No longer accept what arrives for it."""

    def drain(self, limit: float, patience: float) -> None:
        """End: the requests first, for so many seconds; a connection without one may yet stay for ``patience``."""

    def reload(self, data: bytes) -> None:
        """Another configuration is in effect."""

    def reopen(self) -> None:
        """Open the log files anew."""

    def orphaned(self) -> None:
        """The supervisor is gone."""


class Membership(Channel):
    """See the module."""

    def __init__(self, member: IMember) -> None:
        super().__init__()
        self._member = member

    # What the supervisor says.

    @Report.responder
    def report(self, wanted: str) -> dict[str, Any]:
        """See :class:`IMember`."""
        try:
            found = json.dumps(self._member.report(wanted), separators=(",", ":"))
        except Exception:
            self._log.failure("telling the supervisor of {wanted}", wanted=wanted)
            found = "{}"
        return {"data": found.encode("ascii")}

    @TakeOver.responder
    def take_over(self, slot: int) -> dict[str, Any]:
        """See :class:`IMember`."""
        return self._do(self._member.take_over, slot)

    @GiveBack.responder
    def give_back(self, slot: int) -> dict[str, Any]:
        """See :class:`IMember`."""
        return self._do(self._member.give_back, slot)

    @Drain.responder
    def drain(self, limit: float, patience: float) -> dict[str, Any]:
        """See :class:`IMember`."""
        return self._do(self._member.drain, limit, patience)

    @Reload.responder
    def reload(self, data: bytes) -> dict[str, Any]:
        """See :class:`IMember`."""
        return self._do(self._member.reload, data)

    @Reopen.responder
    def reopen(self) -> dict[str, Any]:
        """See :class:`IMember`."""
        return self._do(self._member.reopen)

    def _do(self, order: Callable[..., None], *arguments: Any) -> dict[str, Any]:
        """What fails must not end the connection, and with it the worker."""
        try:
            order(*arguments)
        except Exception:
            self._log.failure("an order of the supervisor")
        return {}

    def lost(self) -> None:
        """The supervisor has closed its end, or died."""
        self._member.orphaned()

    # What it is told. Whatever becomes of that, the supervisor will notice by itself.

    def ready(self, pid: int) -> None:
        """The worker accepts connections."""
        self._tell(Ready, pid=pid)

    def leaving(self) -> None:
        """The worker accepts nothing more."""
        self._tell(Leaving)

    def uses(self, data: bytes) -> None:
        """What was used of late. A supervisor that does not listen does without."""
        if not self.congested:
            self._tell(Uses, data=data)

    def lines(self, lines: list[Any]) -> None:
        """What was logged. A supervisor that does not listen does without."""
        if not self.congested:
            self._tell(Lines, data=json.dumps(lines).encode("ascii"))

    def farewell(self, counted: dict[str, Any]) -> "Deferred[Any]":
        """What was counted. Fires when the supervisor knows it, or can't be told."""
        return self._tell(Farewell, data=json.dumps(counted, separators=(",", ":")).encode("ascii"))

    def _tell(self, command: Any, **arguments: Any) -> "Deferred[Any]":
        return self.tell(command, **arguments).addErrback(self._not_told)

    def _not_told(self, reason: Failure) -> None:
        self._log.debug("the supervisor could not be told: {error}", error=reason.getErrorMessage())


def join(reactor: Any, member: IMember, fd: int = CHANNEL) -> Membership:
    """Take up the connection to the supervisor that this process has inherited."""
    membership = Membership(member)
    sock = socket.socket(fileno=fd)
    try:
        membership.connect(reactor, sock)
    finally:
        sock.close()
    return membership
