"""The resource behind every target of a data listener."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from s3proxy.gateway.interfaces import ClientGone, IClientRequest

__all__ = ["CachingResource"]


class CachingResource(Resource):
    """A leaf that gives every request to the gateway.

    :param handler: deals with a request; the Deferred it returns fires when the answer has ended. What it fails with
        has cost the client its answer: it is logged, and the connection is cut
    """

    isLeaf = True
    log = Logger()

    def __init__(self, handler: "Callable[[IClientRequest], Deferred[Any]]") -> None:
        super().__init__()
        self._handler = handler

    def render(self, request: Any) -> int:
        """Called at the end of a request's head."""
        try:
            handled = self._handler(request)
        except Exception:
            self._escaped(Failure(), request)
        else:
            handled.addErrback(self._escaped, request)
        return NOT_DONE_YET

    def _escaped(self, reason: Failure, request: IClientRequest) -> None:
        request.abort()
        if reason.check(ClientGone):
            # Clients may leave whenever they like; the pipeline need not catch that everywhere.
            return
        self.log.failure(
            "A request was not answered: {method} {path}",
            reason,
            method=request.method.decode("ascii"),
            path=request.target.split(b"?", 1)[0].decode("ascii"),
        )
