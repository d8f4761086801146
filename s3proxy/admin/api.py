"""The API that s3proxyctl speaks to, below ``/api/v1/``.

GET and HEAD read: the answer is ``{"data": …}``. POST with a JSON object does something: the answer is one JSON object
per line, sent as things happen, so that who waits sees how far it is::

    {"progress": {…}}      any number of times
    {"found": {…}}         any number of times
    {"data": {…}}          the end
    {"error": "…", "status": 503}     another end

What can't be answered as it is gets a status from 400 on, and ``{"error": …}``. A client that leaves ends what it asked
for.

There is no password: who can connect to the socket may do all of this.

Importing klein installs the reactor; it is imported when the site is built, as in :mod:`s3proxy.admin.health`.
"""

import json
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import IResource

from s3proxy.admin.answers import JSON, Refused, json_body, method_not_allowed, not_found, prepare
from s3proxy.admin.sites import PathResource

if TYPE_CHECKING:
    from klein import Klein

__all__ = ["IDENTITY", "LINES", "PREFIX", "Operations", "Order", "Query", "Tell", "control_resource"]

PREFIX: Final = b"/api/v1/"
LINES: Final = b"application/x-ndjson"
IDENTITY: Final = "raw"
"""The parameter under which a document finds the whole query, undecoded: keys are bytes."""

Query = Mapping[str, str]
Order = Mapping[str, Any]
Tell = Callable[[str, Mapping[str, Any]], None]
"""Says ``progress`` or ``found``."""


class Operations(Protocol):
    """What an operator may ask of a proxy, and have it do: of one process, or of several that are asked as one.

    Documents are values for JSON. :class:`~s3proxy.admin.answers.Refused` is raised for what can't be done.
    """

    async def status(self, query: Query) -> Any:
        """How the proxy is: health with components, totals, listeners, what needs attention."""

    async def top(self, query: Query) -> Any:
        """What it does now: totals for rates, requests in flight, bodies on their way, buckets, addresses of S3."""

    async def stats(self, query: Query) -> Any:
        """Every metric, as ``/metrics`` has it in JSON."""

    async def objects(self, query: Query) -> Any:
        """A page of what is cached: prefix, q, sort, folders, offset, limit."""

    async def inspect(self, query: Query) -> Any:
        """All that is known of one cached object: store, bucket, key; or name."""

    async def rules(self, query: Query) -> Any:
        """The rules in force."""

    async def explain(self, query: Query) -> Any:
        """Which rules hold for an object, and what comes of them: store, bucket, key."""

    async def refresh(self, order: Order, who: str, tell: Tell) -> Any:
        """Look through the cache directory."""

    async def purge(self, order: Order, who: str, tell: Tell) -> Any:
        """Remove from the cache: one of ref, name, prefix, glob; dry_run only counts."""

    async def verify(self, order: Order, who: str, tell: Tell) -> Any:
        """Read again what is cached: one of ref, name, prefix, glob, or everything; repair removes what is bad."""

    async def drain(self, order: Order, who: str, tell: Tell) -> Any:
        """Want no more traffic, and end after ``delay`` seconds."""

    async def roll(self, order: Order, who: str, tell: Tell) -> Any:
        """Replace the workers one after the other, which may take ``limit`` seconds."""


def control_resource(operations: Operations) -> IResource:
    """The root of the socket's site. To be called once the reactor is installed: it imports klein."""
    return PathResource(_Site(operations).routes().resource().render)


class _Site:
    log = Logger()

    def __init__(self, operations: Operations) -> None:
        self._documents: dict[str, Callable[[Query], Awaitable[Any]]] = {
            "status": operations.status,
            "top": operations.top,
            "stats": operations.stats,
            "cache/objects": operations.objects,
            "cache/object": operations.inspect,
            "rules": operations.rules,
            "rules/match": operations.explain,
        }
        self._orders: dict[str, Callable[[Order, str, Tell], Awaitable[Any]]] = {
            "cache/refresh": operations.refresh,
            "cache/purge": operations.purge,
            "cache/verify": operations.verify,
            "drain": operations.drain,
            "roll": operations.roll,
        }

    def routes(self) -> "Klein":
        """One route for every path, so that each has one spelling."""
        from klein import Klein

        app = Klein()
        app.route("/", branch=True)(self._answer)
        return app

    def _answer(self, request: Any) -> Any:
        name = request.path.decode("utf-8")[len(PREFIX) :] if request.path.startswith(PREFIX) else ""
        order = self._orders.get(name)
        if order is not None:
            return self._take_order(request, order)
        document = self._documents.get(name)
        if document is None:
            known = (*self._documents, *self._orders)
            return not_found(request, *(f"{PREFIX.decode('ascii')}{each}" for each in known))
        if request.method not in (b"GET", b"HEAD"):
            return method_not_allowed(request)
        return Deferred.fromCoroutine(self._document(request, document))

    async def _document(self, request: Any, document: Callable[[Query], Awaitable[Any]]) -> bytes:
        query = {name.decode("latin-1"): values[-1].decode("utf-8", "replace") for name, values in request.args.items()}
        query[IDENTITY] = request.uri.partition(b"?")[2].decode("ascii", "replace")
        try:
            body = _line({"data": await document(query)})
        except Refused as refusal:
            return _error(request, refusal.status, str(refusal))
        except CancelledError:
            raise
        except Exception:
            self.log.failure("making {path}", path=request.path)
            return _error(request, 500, _BROKEN)
        return prepare(request, 200, body, JSON)

    def _take_order(self, request: Any, work: Callable[[Order, str, Tell], Awaitable[Any]]) -> Any:
        if request.method != b"POST":
            request.setHeader(b"Allow", b"POST")
            return prepare(request, 405, json_body({"error": "Only POST changes anything."}))
        try:
            order = json.loads(request.content.read())
        except (ValueError, RecursionError):
            order = None
        if not isinstance(order, dict):
            return _error(request, 400, "The body must be a JSON object.")
        return Deferred.fromCoroutine(self._do(request, work, order))

    async def _do(self, request: Any, work: Callable[[Order, str, Tell], Awaitable[Any]], order: Order) -> bytes:
        begun = False

        def tell(kind: str, value: Mapping[str, Any]) -> None:
            nonlocal begun
            if not begun:
                begun = True
                request.setResponseCode(200)
                request.setHeader(b"Content-Type", LINES)
                request.setHeader(b"Cache-Control", b"no-store")
            request.write(_line({kind: value}))

        status = 500
        try:
            done = await work(order, _peer(request), tell)
        except CancelledError:
            raise
        except Refused as refusal:
            status, text = refusal.status, str(refusal)
        except Exception:
            self.log.failure("doing {path}", path=request.path)
            text = _BROKEN
        else:
            tell("data", done)
            return b""
        return _line({"error": text, "status": status}) if begun else _error(request, status, text)


_BROKEN: Final = "That failed; the application log says why."


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _error(request: Any, status: int, text: str) -> bytes:
    return prepare(request, status, json_body({"error": text}))


def _peer(request: Any) -> str:
    """Who is at the other end of the socket, for the log."""
    handle = getattr(getattr(request.channel, "transport", None), "socket", None)
    if handle is None:
        return "s3proxyctl"
    try:
        data = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, _ = struct.unpack("3i", data)
    except OSError:
        return "s3proxyctl"
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    return f"s3proxyctl ({name})"
