"""Sites whose answers are made of what other processes know, which is asked for first."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

__all__ = ["RefreshingResource"]


@implementer(IResource)
class RefreshingResource(Resource):
    """Lets another resource answer when something is up to date.

    :param resource: the root of the site
    :param refresh: gets the request, and fires, without an error, when it may be answered
    """

    isLeaf = True

    def __init__(self, resource: IResource, refresh: "Callable[[Any], Deferred[None]]") -> None:
        super().__init__()
        self._resource = resource
        self._refresh = refresh

    def render(self, request: Any) -> Any:
        """Ask, then answer, unless the client has gone meanwhile."""
        gone = False

        def note(_: Any) -> None:
            nonlocal gone
            gone = True

        def answer(_: None) -> None:
            if gone:
                return
            try:
                request.render(getChildForRequest(self._resource, request))
            except Exception:
                request.processingFailed(Failure())

        request.notifyFinish().addErrback(note)
        self._refresh(request).addCallback(answer)
        return NOT_DONE_YET
