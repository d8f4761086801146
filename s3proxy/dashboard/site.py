"""The dashboard's site: the page and its files, the API below ``/api/v1/``, and the stream of events.

GET and HEAD read, POST changes; :mod:`s3proxy.dashboard.guard` decides who may. Answers are ``{"data": …}``, refusals
``{"error": …}``. What is asked for again within a second is not made anew: many browsers cost what one does.

Importing klein installs the reactor; it is imported when the site is built, as in :mod:`s3proxy.admin.health`.
"""

import json
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import IResource

from s3proxy.admin.answers import JSON, TEXT, Refused, json_body, method_not_allowed, not_found, prepare
from s3proxy.admin.sites import PathResource
from s3proxy.dashboard.assets import Asset, load_assets
from s3proxy.dashboard.guard import HEADERS, may_change, names_us
from s3proxy.dashboard.kept import KeptAnswers

if TYPE_CHECKING:
    from klein import Klein

__all__ = ["Answer", "Api", "Refused", "dashboard_resource"]

PREFIX: Final = b"/api/v1/"
_KEEP_SECONDS: Final = 1.0


@attrs.frozen
class Answer:
    """What a document's function gives.

    :ivar value: for JSON; bytes are JSON already, and text is text
    :ivar keep: seconds for which it is given again
    """

    value: Any
    keep: float = _KEEP_SECONDS


Query = Mapping[str, str]
Document = Callable[[Query], "Answer | Coroutine[Any, Any, Answer]"]
Change = Callable[[dict[str, Any], str], Coroutine[Any, Any, Any]]


@attrs.frozen(kw_only=True)
class Api:
    """What the site serves.

    :ivar documents: by their names below the prefix; each takes the parameters of the query
    :ivar changes: what POST does, by name; each takes the body's object and who asks
    :ivar stream: opens the stream of events
    :ivar names: of this host
    :ivar seconds: a clock that is never set
    """

    documents: Mapping[str, Document]
    changes: Mapping[str, Change]
    stream: Callable[[Any], "Deferred[bytes]"]
    full: Callable[[], bool]
    names: Collection[str]
    seconds: Callable[[], float]


def dashboard_resource(api: Api) -> IResource:
    """The root of the dashboard's listener. To be called once the reactor is installed: it imports klein."""
    return PathResource(_Site(api, load_assets()).routes().resource().render)


class _Site:
    log = Logger()

    def __init__(self, api: Api, assets: Mapping[bytes, Asset]) -> None:
        self._api = api
        self._assets = assets
        self._kept = KeptAnswers(api.seconds)

    def routes(self) -> "Klein":
        """One route for every path, so that each has one spelling."""
        from klein import Klein

        app = Klein()
        app.route("/", branch=True)(self._answer)
        return app

    def _answer(self, request: Any) -> Any:
        for name, value in HEADERS:
            request.setHeader(name, value)
        hosts = request.requestHeaders.getRawHeaders("host")
        if not names_us(hosts[-1] if hosts else None, self._api.names):
            return _error(
                request, 421, "This host is not known by that name. Use its host name, or its IP address."
            )  # fmt: skip
        path = request.path
        if path.startswith(PREFIX):
            return self._api_answer(request, path[len(PREFIX) :].decode("utf-8"))
        asset = self._assets.get(path)
        if asset is None:
            return not_found(request, "/", PREFIX.decode("ascii"))
        if request.method not in (b"GET", b"HEAD"):
            return method_not_allowed(request)
        return _file(request, asset)

    def _api_answer(self, request: Any, name: str) -> Any:
        change = self._api.changes.get(name)
        if change is not None:
            return self._change(request, change)
        if request.method not in (b"GET", b"HEAD"):
            return method_not_allowed(request)
        if name == "events" and request.method == b"HEAD":
            return prepare(request, 200, b"", b"text/event-stream")
        if name == "events":
            if self._api.full():
                request.setHeader(b"Retry-After", b"30")
                return _error(request, 503, "As many pages as may be are listening already.")
            return self._api.stream(request)
        document = self._api.documents.get(name)
        if document is None:
            return not_found(request, *(f"{PREFIX.decode('ascii')}{each}" for each in self._api.documents))
        kept = self._kept.get(request.uri)
        if kept is not None:
            return prepare(request, 200, kept.body, kept.content_type)
        return Deferred.fromCoroutine(self._document(request, document))

    async def _document(self, request: Any, document: Document) -> bytes:
        query = {
            name.decode("latin-1"): values[-1].decode("utf-8", "replace") for name, values in request.args.items()
        }  # fmt: skip
        query["?"] = request.uri.partition(b"?")[2].decode("ascii", "replace")
        try:
            answer = document(query)
            if not isinstance(answer, Answer):
                answer = await answer
            body, content_type = _rendered(answer.value)
        except Refused as refusal:
            return _error(request, refusal.status, str(refusal))
        except CancelledError:
            raise
        except Exception:
            self.log.failure("making {path}", path=request.path)
            return _error(request, 500, "The document could not be made; the application log says why.")
        if answer.keep > 0:
            self._kept.put(request.uri, answer.keep, body, content_type)
        return prepare(request, 200, body, content_type)

    def _change(self, request: Any, change: Change) -> Any:
        if request.method != b"POST":
            request.setHeader(b"Allow", b"POST")
            return prepare(request, 405, json_body({"error": "Only POST changes anything."}))
        refusal = may_change(request)
        if refusal is not None:
            return _error(request, 403, refusal)
        try:
            order = json.loads(request.content.read())
        except (ValueError, RecursionError):
            order = None
        if not isinstance(order, dict):
            return _error(request, 400, "The body must be a JSON object.")
        return Deferred.fromCoroutine(self._changed(request, change, order))

    async def _changed(self, request: Any, change: Change, order: dict[str, Any]) -> bytes:
        try:
            done = await change(order, request.getClientAddress().host)
        except Refused as refusal:
            return _error(request, refusal.status, str(refusal))
        except CancelledError:
            raise
        except Exception:
            self.log.failure("doing {path}", path=request.path)
            return _error(request, 500, "That failed; the application log says why.")
        finally:
            self._kept.clear()
        return prepare(request, 200, json_body({"data": done}))


def _rendered(value: Any) -> tuple[bytes, bytes]:
    if isinstance(value, str):
        return value.encode("utf-8"), TEXT
    if not isinstance(value, bytes):
        value = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b'{"data":%b}\n' % value, JSON


def _error(request: Any, status: int, text: str) -> bytes:
    return prepare(request, status, json_body({"error": text}))


def _file(request: Any, asset: Asset) -> bytes:
    """A file of the page; a browser that has it already is told so."""
    request.setHeader(b"Vary", b"Accept-Encoding")
    if asset.etag in b",".join(request.requestHeaders.getRawHeaders(b"if-none-match", [])):
        body = prepare(request, 304, b"", asset.content_type)
        request.responseHeaders.removeHeader(b"content-length")
    else:
        accepted = b",".join(request.requestHeaders.getRawHeaders(b"accept-encoding", []))
        packed = b"gzip" in accepted
        if packed:
            request.setHeader(b"Content-Encoding", b"gzip")
        body = prepare(request, 200, asset.packed if packed else asset.plain, asset.content_type)
    request.setHeader(b"Cache-Control", b"no-cache")
    request.setHeader(b"ETag", asset.etag)
    return body
