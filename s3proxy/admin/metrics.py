"""The metrics site: Prometheus' text format, OpenMetrics, or JSON for people and scripts.

``?format=prometheus``, ``?format=openmetrics`` or ``?format=json`` decides; without it, an Accept header that prefers
``application/json`` or names ``application/openmetrics-text``; else the configured format. ``?name[]=`` (any number of
times) leaves all metrics out but those.
"""

import gzip
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET

from s3proxy.admin.answers import JSON, json_body, method_not_allowed, not_found, prepare, quality, wants
from s3proxy.admin.sites import PathResource
from s3proxy.telemetry import exposition
from s3proxy.telemetry.snapshot import Snapshot

__all__ = ["FORMATS", "metrics_resource"]

FORMATS: Final = ("prometheus", "json")
"""The values of ``metrics.format``."""

_RENDERERS: Final[dict[str, tuple[Callable[[Snapshot, set[str]], bytes], bytes]]] = {
    "prometheus": (exposition.text, exposition.TEXT_CONTENT_TYPE),
    "openmetrics": (exposition.openmetrics, exposition.OPENMETRICS_CONTENT_TYPE),
    "json": (exposition.json_document, JSON),
}

_WORTH_PACKING: Final = 1024

_log = Logger()


def metrics_resource(
    snapshot: "Callable[[], Snapshot | Deferred[Snapshot]]",
    endpoint: str = "/metrics",
    default_format: str = "prometheus",
) -> IResource:
    """The root of the metrics listener: answers GET and HEAD at *endpoint*, 404 elsewhere.

    :param snapshot: gives what is to be shown: of this process, or merged from several. Whoever asks others limits the
        time; when it fails the answer is 503.
    :raises ValueError: when the format is none of :data:`FORMATS`
    """
    if default_format not in FORMATS:
        raise ValueError(f"metrics format {default_format!r} is not one of {', '.join(FORMATS)}")
    path = endpoint.encode("utf-8")
    take: Callable[[], Any] = snapshot

    def answer(request: Any) -> Any:
        if request.path != path:
            return not_found(request, endpoint)
        if request.method not in (b"GET", b"HEAD"):
            return method_not_allowed(request)
        chosen = _format_of(request, default_format)
        if chosen not in _RENDERERS:
            return prepare(request, 400, json_body({"error": f"The format is one of {', '.join(_RENDERERS)}."}))
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def show(found: Snapshot) -> bytes:
            render, content_type = _RENDERERS[chosen]
            names = {name.decode("utf-8", "replace") for name in request.args.get(b"name[]", ())}
            return _packed(request, render(found, names), content_type)

        def failed(reason: Failure) -> bytes:
            _log.failure("metrics could not be shown", reason)
            return prepare(request, 503, json_body({"error": "The metrics could not be collected."}))

        def end(body: bytes) -> None:
            if not gone:
                request.write(body)
                request.finish()

        taking: Deferred[Any] = maybeDeferred(take)
        taking.addCallback(show).addErrback(failed).addCallback(end)
        return NOT_DONE_YET

    return PathResource(answer)


def _format_of(request: Any, default: str) -> str:
    named = request.args.get(b"format")
    if named:
        return str(named[-1].decode("ascii", "replace"))
    if default == "json":
        return "prometheus" if wants(request, "text/plain", "application/json") else "json"
    if wants(request, "application/json", "text/plain"):
        return "json"
    return "openmetrics" if wants(request, "application/openmetrics-text", "text/plain") else "prometheus"


def _packed(request: Any, body: bytes, content_type: bytes) -> bytes:
    """The answer, compressed if the client takes that (RFC 9110, section 12.5.3)."""
    request.setHeader(b"Vary", b"Accept, Accept-Encoding")
    if len(body) >= _WORTH_PACKING and quality(request, "accept-encoding", "gzip") > 0:
        request.setHeader(b"Content-Encoding", b"gzip")
        body = gzip.compress(body, compresslevel=1, mtime=0)
    return prepare(request, 200, body, content_type)
