"""What the sites for operators have in common: no access log of their own, small requests only, no tracebacks."""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from s3proxy.admin.answers import json_body, prepare

__all__ = ["MAX_BODY", "PathResource", "admin_site"]

MAX_BODY: Final = 64 * 1024
"""Bytes of a request's body that are read before the connection is cut."""

_IDLE_SECONDS: Final = 30.0


class _SmallRequest(Request):
    """Reads at most MAX_BODY bytes of body; a longer one gets 413 and the end of its connection."""

    _body_bytes = 0
    _refused = False

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0 if length is not None and length > MAX_BODY else length)
        if length is not None and length > MAX_BODY:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY:
            self._refuse()
        if not self._refused:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if not self._refused:
            super().requestReceived(command, path, version)

    def _refuse(self) -> None:
        channel: Any = self.channel
        if self._refused or channel is None:
            return
        self._refused = True
        channel.transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        channel.loseConnection()


class _QuietSite(Site):
    """A site whose requests are not logged."""

    noisy = False

    def log(self, request: object) -> None:
        """Health checks and scrapes come every few seconds: no line for each."""


@implementer(IResource)
class PathResource(Resource):
    """Gives every request, whatever its path, to one function, if its method is ASCII and its path UTF-8.

    :param answer: writes and ends the answer itself or gives back the body, having set everything else
    """

    isLeaf = True

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        super().__init__()
        self._answer = answer

    def render(self, request: Any) -> Any:
        if not (request.uri.isascii() and request.method.isascii() and _is_text(request.path)):
            body: Any = prepare(request, 400, json_body({"error": "The request line is not text."}))
        else:
            body = self._answer(request)
        if body is not NOT_DONE_YET:
            request.write(body)
            request.finish()
        return NOT_DONE_YET


def _is_text(path: bytes) -> bool:
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def admin_site(resource: IResource, reactor: IReactorTime, timeout: float = _IDLE_SECONDS) -> Site:
    """A site for this resource, to be listened with.

    :param timeout: seconds after which an idle or unfinished request ends
    """
    site = _QuietSite(resource, requestFactory=_SmallRequest, timeout=timeout, reactor=reactor)
    site.displayTracebacks = False
    return site
