"""Downloads begin when there is memory for their bodies."""

from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from s3proxy.upstream.interfaces import IUpstream, IUpstreamResponse, UpstreamBusy, UpstreamRequest
from s3proxy.util.bodymemory import BodyMemory

__all__ = ["PATIENCE", "AdmittingUpstream"]

PATIENCE: Final = 10.0
"""Seconds that a download waits for memory; then it is refused, and the client shall try again later."""


@implementer(IUpstream)
class AdmittingUpstream:
    """Another :class:`IUpstream`, whose downloads wait while bodies take all the memory that they may.

    :ivar refused: downloads that waited in vain
    """

    def __init__(self, clock: IReactorTime, upstream: IUpstream, memory: BodyMemory) -> None:
        self._clock = clock
        self._upstream = upstream
        self._memory = memory
        self.refused = 0

    def request(self, request: UpstreamRequest) -> "Deferred[IUpstreamResponse]":
        """See :class:`IUpstream`. Fails with UpstreamBusy when no memory becomes free in time."""
        if request.method != b"GET" or not self._memory.full:
            return self._upstream.request(request)
        asking: Deferred[Any] = self._memory.wait()
        given_up: list[bool] = []

        def too_long() -> None:
            given_up.append(True)
            asking.cancel()

        limit = self._clock.callLater(PATIENCE, too_long)

        def admitted(_: None) -> "Deferred[IUpstreamResponse]":
            limit.cancel()
            return self._upstream.request(request)

        def refused(reason: Failure) -> Failure:
            if limit.active():
                limit.cancel()
            if given_up and reason.check(CancelledError):
                self.refused += 1
                return Failure(UpstreamBusy(f"no memory for another body within {PATIENCE:g} s"))
            return reason

        return asking.addCallbacks(admitted, refused)
